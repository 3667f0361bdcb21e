//! Every scenario, short, against real servers. Nothing here asserts how fast anything is: only that nothing is lost, doubled
//! or out of order, and that the report is complete.

mod support;

use std::path::PathBuf;

use clarion_testkit::{BrokerProcess, Certificates, RedisServer};
use support::{
    Ran,
    faulty::{Fault, server},
    loadtest,
};

/// Figures of every scenario that publishes.
const PUBLISHING: [&str; 9] = [
    "published",
    "delivered",
    "published_per_second",
    "deliveries_per_second",
    "cpu_us_per_delivery",
    "cpu_us_per_message",
    "server_cores",
    "generator_cores",
    "server_pss_mib",
];

#[test]
fn fanout_saturated_reaches_everybody() {
    let report = loadtest("fanout -c 60 -d 500ms --json").succeeds().report();
    report.is_clean().has(&PUBLISHING).has_latency();
    assert_eq!(report.number("audit.delivered"), report.number("figures.published") * 60.0);
    assert!(report.number("parameters.window") > 0.0);
}

#[test]
fn fanout_calm_to_event_streams_behind_redis() {
    let line = "fanout --server clarion:redis --door sse -c 30 -d 1s --rate 40 --workers 2 --json";
    let report = loadtest(line).succeeds().report();
    report.is_clean().has(&PUBLISHING).has(&["bus_cpu_us_per_message"]).has_latency();
    assert_eq!(report.number("figures.published"), 40.0);
    assert_eq!(report.number("audit.delivered"), 1200.0);
}

#[test]
fn push_reaches_the_one_user() {
    let report = loadtest("push -c 40 -d 500ms --token --json").succeeds().report();
    report.is_clean().has(&PUBLISHING).has_latency();
    assert_eq!(report.number("audit.delivered"), report.number("figures.published"));
}

#[test]
fn a_window_is_kept_full() {
    for server in ["clarion", "clarion:redis", "clarion:nats"] {
        let line = format!("push --server {server} -c 200 -d 500ms --window 64 --depth 64 --json");
        let report = loadtest(&line).succeeds().report();
        // What is under way is the rate times how long each takes, however fast the machine is.
        let under_way = report.number("figures.published_per_second") * report.number("latency.mean_ms") / 1000.0;
        assert!(under_way > 20.0, "{server}: {under_way} of 64 were under way");
    }
}

#[test]
fn push_in_batches_and_behind_nats() {
    for line in ["push -c 40 -d 500ms --batch 10 --json", "push --server clarion:nats -c 40 -d 500ms --rate 200 --json"]
    {
        let report = loadtest(line).succeeds().report();
        report.is_clean().has(&PUBLISHING).has_latency();
        assert_eq!(report.number("audit.delivered"), report.number("figures.published"), "{line}");
    }
}

#[test]
fn idle_tells_what_connections_cost() {
    let report = loadtest("idle -c 50 --rest 300ms --token --workers 2 --json").succeeds().report();
    report.is_clean().has(&[
        "pss_bytes_per_connection",
        "rss_bytes_per_connection",
        "kernel_bytes_per_socket",
        "generator_bytes_per_connection",
        "cpu_us_per_connection",
        "server_cores_at_rest",
    ]);
    assert_eq!((report.number("figures.open"), report.number("figures.still_open")), (50.0, 50.0));
}

#[test]
fn a_cluster_of_idle_connections_hears_one_broadcast_and_one_push() {
    for server in ["clarion:redis", "clarion:nats"] {
        let line = format!("idle --server {server} --nodes 3 -c 600 --workers 2 --audience me --rest 300ms --json");
        let report = loadtest(&line).succeeds().report();
        report.is_clean().has(&["pss_bytes_per_connection", "bus_pss_bytes_per_connection", "memory_used_percent"]);
        report.has(&["file_max_used_percent", "broadcast_max_ms", "push_max_ms", "kernel_bytes_per_socket"]);
        assert_eq!(report.number("figures.broadcast_reached"), 600.0, "{server}");
        assert_eq!(report.number("figures.push_reached"), 1.0, "{server}");
        assert_eq!(report.number("parameters.nodes"), 3.0);
    }
}

#[test]
fn idle_connections_on_one_channel_hear_a_broadcast() {
    let report = loadtest("idle --server floor -c 30 --audience shared --rest 100ms --json").succeeds().report();
    assert_eq!(report.number("figures.broadcast_reached"), 30.0);
}

#[test]
fn who_is_told_to_come_back_does() {
    // The bucket holds a second's worth, and the rest is answered 503. What is in the shell is not for the server.
    let line = "idle --server clarion:redis -c 60 --rate 600 --rest 100ms --json";
    let run = loadtest(line).with(&["--server-env", "CLARION_LIMITS_ACCEPTS_PER_SECOND=20"]);
    let report = run.variable("CLARION_LIMITS_ACCEPTS_PER_SECOND", "nonsense").succeeds().report();
    assert_eq!(report.number("figures.open"), 60.0, "{}", report.whole());
    assert!(report.number("failed.status 503") > 0.0, "{}", report.whole());
    assert!(!report.whole().to_string().contains("did not come to stand"), "{}", report.whole());
}

#[test]
fn a_storm_is_felt_by_bystanders() {
    let line = "connect --server clarion:redis --nodes 2 -c 100 --rate 200 --bystanders 10 -d 500ms --token --json";
    let report = loadtest(line).succeeds().report();
    report.is_clean().has(&["connections_per_second", "calm_p99_ms", "storm_p99_ms", "storm_over_calm_p99"]);
    report.has(&["cpu_us_per_connection", "connections_per_second_and_core"]);
    assert_eq!(report.number("figures.open"), 100.0);
    assert_eq!(report.number("connect.count"), 100.0);
}

#[test]
fn those_who_were_there_come_again_all_at_once() {
    let line = "connect --server clarion:nats --nodes 2 -c 100 --again --bystanders 10 -d 500ms --token --json";
    let report = loadtest(line).succeeds().report();
    report.is_clean().has(&["storm_over_calm_p99"]);
    let counts = ["figures.open", "figures.broken", "connect.count"].map(|name| report.number(name));
    assert_eq!(counts, [100.0; 3], "{}", report.whole());
}

#[test]
fn a_mixture_loses_nothing_but_what_nobody_was_there_for() {
    let line = "mixed --server clarion:redis -c 80 -d 2s --channels 8 --leave 20 --lose 20 --stalled 10 --json";
    let report = loadtest(line).succeeds().report();
    report.is_clean().has(&PUBLISHING).has(&["left", "broken"]).has_latency();
    report.has(&["reading_p99_ms", "stalled_p99_ms", "stalled_over_reading_p99", "stalled_peak_pss_mib"]);
}

#[test]
fn who_does_not_read_is_measured_beside_who_does() {
    // What stalls is more than the kernel takes for a connection, so that the broker has to do something about it.
    let line = "fanout -c 20 --stalled 50 --rate 200 --payload 60000 -d 1s --json";
    let report = loadtest(line).succeeds().report();
    report.is_clean().has(&PUBLISHING).has_latency();
    report.has(&["reading_p99_ms", "stalled_p99_ms", "stalled_over_reading_p99", "pss_kib_per_stalled_reader"]);
    // Half of them are not observed, whether they read or not.
    assert_eq!(report.number("audit.delivered"), 2.0 * 200.0 * 10.0);
    assert_eq!(report.number("figures.published"), 200.0);
}

#[test]
fn a_fanout_goes_on_beside_many_other_channels() {
    let line = "fanout -c 40 --channels 4 --other-channels 250 -d 300ms --json";
    let report = loadtest(line).succeeds().report();
    report.is_clean().has(&PUBLISHING).has_latency();
    assert_eq!(report.number("parameters.other_channels"), 300.0);
    assert_eq!(report.number("audit.delivered"), report.number("figures.published") * 10.0);
}

#[test]
fn a_soak_tells_of_growth() {
    let report = loadtest("soak -c 30 -d 4s --leave 0 --lose 0 --json").succeeds().report();
    report.is_clean().has(&PUBLISHING).has(&["pss_growth_mib_per_hour"]).has_latency();
    assert_eq!(report.number("audit.missed_away"), 0.0);
}

#[test]
fn a_rolling_restart_is_audited() {
    // A pause in which all that were sent away have come back: a node is ready within some tenths of a second.
    let report = loadtest("rolling -c 40 --rate 50 --nodes 2 --pause 2s --json")
        .server_of("clarion", "[limits]", "[drain]\nwait = \"100ms\"\ndeadline = \"5s\"\n[limits]", ":redis")
        .succeeds()
        .report();
    report.is_clean().has(&["restarts", "slowest_restart_seconds", "delivered"]).has_latency();
    // Those of the first node are sent away once, and then everybody of the second.
    assert_eq!(report.sum("closed"), 60.0);
}

#[test]
fn the_floors_deliver_too() {
    for server in ["floor", "floor-plain", "floor:redis", "floor:nats", "nats", "mosquitto"] {
        let report = loadtest(&format!("fanout --server {server} -c 20 -d 300ms --json")).succeeds().report();
        report.is_clean().has(&PUBLISHING).has_latency();
        assert_eq!(report.number("audit.delivered"), report.number("figures.published") * 20.0, "{server}");
    }
}

#[test]
fn small_peers_are_installed_and_deliver() {
    for server in ["tornado", "tornado:redis", "ws", "ws:redis", "socketio", "socketio:redis", "bun"] {
        let report = loadtest(&format!("fanout --server {server} -c 20 -d 300ms --json")).succeeds().report();
        report.is_clean().has(&PUBLISHING).has_latency();
    }
}

#[test]
#[ignore = "builds Centrifugo, which takes minutes and needs Go"]
fn centrifugo_is_built_and_delivers() {
    for server in ["centrifugo", "centrifugo:redis"] {
        let report = loadtest(&format!("fanout --server {server} -c 20 -d 300ms --json")).succeeds().report();
        report.is_clean().has(&PUBLISHING).has_latency();
    }
}

#[test]
fn nchan_delivers_or_says_what_to_install() {
    let run = loadtest("fanout --server nchan -c 20 -d 300ms --json");
    if std::path::Path::new("/usr/lib/nginx/modules/ngx_nchan_module.so").exists() {
        run.succeeds().report().is_clean().has(&PUBLISHING).has_latency();
    } else {
        let ran = run.ends(69);
        assert!(ran.stderr.contains("apt-get install nginx libnginx-mod-nchan"), "{ran:?}");
    }
}

#[test]
fn a_comparison_has_ratios_and_a_page() {
    let run = loadtest("compare --servers floor,clarion --rounds 2 fanout -c 20 -d 300ms --json");
    let (html, saved) = (run.file("page.html"), run.file("saved.json"));
    let ran = run.with(&["--html", &html, "--save", &saved]).succeeds();
    let report = ran.report();
    assert_eq!(report.value("comparison.rounds").as_array().map(Vec::len), Some(2));
    assert!(report.number("figures.cpu_us_per_delivery.clarion.ratio.median") > 0.0);
    let page = std::fs::read_to_string(html).unwrap();
    assert!(page.matches("<svg").count() >= 8 && page.contains("floor") && !page.contains("could not be drawn"));
    let saved: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(saved).unwrap()).unwrap();
    assert_eq!(&saved, report.whole());
}

#[test]
fn one_server_is_compared_with_itself_in_other_ways() {
    let run = loadtest("compare --rounds 1")
        .with(&["--vary", "-c 10 --shards 1", "--vary", "-c 30 --shards 2"])
        .with(&["fanout", "-c", "5", "-d", "200ms", "--json"]);
    let report = run.succeeds().report();
    let columns = report.value("comparison.servers");
    assert_eq!(columns, &serde_json::json!(["-c 10 --shards 1", "-c 30 --shards 2"]));
    let ratio = &report.value("figures.cpu_us_per_delivery")["-c 30 --shards 2"]["ratio"]["median"];
    assert!(ratio.as_f64().is_some_and(|ratio| ratio > 0.0), "{}", report.whole());
}

#[test]
fn workers_are_hired_over_http() {
    let agent = support::Started::agent("s3cret");
    let line = format!(
        "fanout --server floor --worker-at {} --worker-secret-from SECRET -c 20 -d 300ms --workers 2 --json",
        agent.address
    );
    let report = loadtest(&line).variable("SECRET", "s3cret").succeeds().report();
    report.is_clean().has(&["clock_error_ms"]).has_latency();
    assert_eq!(report.number("audit.delivered"), report.number("figures.published") * 20.0);
    let ran = loadtest(&line).variable("SECRET", "guess").ends(69);
    assert!(ran.stderr.contains("401"), "{ran:?}");
}

#[test]
fn workers_are_started_by_commands() {
    let worker = format!("{} worker", env!("CARGO_BIN_EXE_clarion-loadtest"));
    let run = loadtest("fanout --server floor -c 20 -d 300ms --workers 2 --json").with(&["--worker-command", &worker]);
    run.succeeds().report().is_clean().has(&["clock_error_ms"]).has_latency();
}

#[test]
fn a_server_that_is_there_is_measured_by_its_process() {
    let floor = support::Started::floor();
    let line = format!("push --target {} --profile floor --pid {} -c 10 -d 300ms --json", floor.address, floor.pid());
    loadtest(&line).succeeds().report().is_clean().has(&PUBLISHING).has_latency();
}

#[test]
fn a_server_that_makes_mistakes_is_found_out() {
    // 5 subscribers of one channel, or of 5; nobody has a warm-up, so that the fifth message is the fifth that counts.
    for (fault, scenario, name, count) in [
        (Fault::Lose, "fanout", "audit.lost", 5.0),
        (Fault::Double, "fanout", "audit.duplicates", 5.0),
        (Fault::Swap, "fanout", "audit.out_of_order", 5.0),
        (Fault::Misdirect, "push", "audit.strays", 4.0),
        (Fault::HangUp, "fanout", "closed.ended without a goodbye", 5.0),
    ] {
        let target = server(fault);
        let line = format!("{scenario} --target {target} --profile floor -c 5 -d 200ms --warm-up 0s --rate 100 --json");
        let report = loadtest(&line).succeeds().report();
        assert_eq!(report.number(name), count, "{fault:?}: {}", report.whole());
        let others = ["audit.lost", "audit.duplicates", "audit.out_of_order", "audit.strays"];
        for other in others.into_iter().filter(|other| *other != name) {
            assert_eq!(report.number(other), 0.0, "{fault:?}: {other}");
        }
        assert!(!report.value("warnings").as_array().unwrap().is_empty());
    }
}

#[test]
fn a_table_is_for_people() {
    let ran = loadtest("fanout --server floor -c 5 -d 200ms --rate 50").succeeds();
    for part in ["fanout · floor", "CPU µs per delivery", "0 lost", "p99"] {
        assert!(ran.stdout.contains(part), "{ran:?}");
    }
}

#[test]
fn what_is_expected_is_judged() {
    let line = "fanout --server floor -c 5 -d 200ms --rate 50 --json --expect lost==0";
    loadtest(line).succeeds();
    let ran = loadtest(&format!("{line} --expect delivered<1")).ends(1);
    assert!(ran.stderr.contains("expected delivered<1"), "{ran:?}");
    ran.report().is_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn subscribers_speak_tls_with_a_node_that_runs() {
    let (certificates, redis) = (Certificates::generate(), RedisServer::start().await);
    let text = |path: PathBuf| path.into_os_string().into_string().expect("temporary files have plain names");
    let (url, [certificate, key, authority]) =
        (redis.url(), [certificates.server_cert(), certificates.server_key(), certificates.ca()].map(text));
    let node = BrokerProcess::builder(support::broker()).args(["--bus", &url]);
    let node = node.env("CLARION_TLS_CERTIFICATE", &certificate).env("CLARION_TLS_KEY", &key).start_ready().await;
    let line = format!(
        "fanout --target {} --pid {} --publish-by redis --publish-to {} -c 20 -d 300ms --json --tls-ca {authority}",
        node.addr(),
        node.pid(),
        redis.addr(),
    );
    let report = loadtest(&line).succeeds().report();
    report.is_clean().has(&PUBLISHING).has_latency();
    assert_eq!(report.number("audit.delivered"), report.number("figures.published") * 20.0);
    // Who does not know the authority connects to nobody.
    let strangers = Certificates::generate();
    let ran = loadtest(&line.replace(&authority, &text(strangers.ca()))).ends(69);
    assert!(ran.stderr.contains("certificate"), "{ran:?}");
}

#[test]
fn usage_errors_exit_64_and_start_nothing() {
    for line in [
        "",
        "fanout --no-such-flag",
        "fanout --rate -1",
        "fanout --payload 5",
        "fanout --server no-such",
        "fanout --server clarion:kafka",
        "fanout --target 192.0.2.1:80",
        "fanout --target nowhere",
        "compare --servers clarion,no-such fanout",
        "rolling --nodes 1",
        "idle -c 2000000",
        "idle --nodes 2 -c 10",
        "idle --server floor --audience me -c 10",
        "fanout -c 10 --channels 3",
        "fanout --server ws --shards 2 -c 10",
        "compare --servers clarion floor",
        "fanout --expect nonsense",
    ] {
        let ran = loadtest(line).ends(64);
        assert!(ran.stdout.is_empty() && !ran.stderr.is_empty(), "{line}: {ran:?}");
    }
    // A rolling restart cannot publish through the nodes that it restarts.
    let ran: Ran = loadtest("rolling --server clarion -c 5").ends(64);
    assert!(ran.stderr.contains("bus"), "{ran:?}");
}

#[test]
fn a_server_that_is_not_there_is_unavailable() {
    let ran = loadtest("fanout --target 127.0.0.1:1 -c 5").ends(69);
    assert!(ran.stderr.contains("refused"), "{ran:?}");
    let ran = loadtest("fanout --broker /no/such/broker -c 5").ends(69);
    assert!(ran.stderr.contains("/no/such/broker"), "{ran:?}");
}
