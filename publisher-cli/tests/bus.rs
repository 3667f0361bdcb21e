//! Publishing, following and looking over the bus itself, on real servers of both kinds.

mod support;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use clarion_bus::{BusConfig, BusHandle, Delivery, InterestId, Sink};
use clarion_protocol::{
    Publication,
    control::{self, Heartbeat},
};
use clarion_ring::{Member, Ring};
use clarion_testkit::{NatsServer, RedisServer, eventually};
use support::{Running, clarion, run, run_with_input};

/// A server, and how to name it.
enum Server {
    Redis(RedisServer),
    Nats(NatsServer),
}

impl Server {
    async fn both() -> [Self; 2] {
        [Self::Redis(RedisServer::start().await), Self::Nats(NatsServer::start().await)]
    }

    fn url(&self) -> String {
        match self {
            Self::Redis(server) => server.url(),
            Self::Nats(server) => server.url(),
        }
    }
}

#[tokio::test]
async fn what_is_published_is_followed() {
    for server in Server::both().await {
        let url = server.url();
        let mut tail = Running::listening(clarion(["tail", "orders/eu", "users/42", "--via", &url])).await;
        let ran = run(clarion(["publish", "orders/eu", "paid", "--via", &url])).await.expect(0);
        let id = ran.stdout.strip_prefix("published to orders/eu, id ").expect("the id is told").trim();
        assert_eq!(id.len(), 36, "{id}");
        run(clarion(["publish", "orders/us", "not asked for", "--via", &url])).await.expect(0);
        run(clarion(["push", "42", "hi", "--json", "--via", &url])).await.expect(0);
        assert_eq!([tail.line().await, tail.line().await], ["orders/eu\tpaid", "users/42\thi"]);
    }
}

#[tokio::test]
async fn overlapping_interests_show_a_message_once() {
    for server in Server::both().await {
        let url = server.url();
        let args = ["tail", "a/b", "a/*", "a/**", "a/b/**", "--json", "--via", &url];
        let mut tail = Running::listening(clarion(args)).await;
        for (channel, text) in [("a/b", "1"), ("a/c", "2"), ("a", "3"), ("a/b/c", "x"), ("a/b", "last")] {
            run(clarion(["publish", channel, text, "--via", &url])).await.expect(0);
        }
        let mut lines = Vec::new();
        for _ in 0..5 {
            lines.push(tail.line().await);
        }
        let expected = [
            r#"{"channel":"a/b","data":1}"#,
            r#"{"channel":"a/c","data":2}"#,
            r#"{"channel":"a","data":3}"#,
            r#"{"channel":"a/b/c","text":"x"}"#,
            r#"{"channel":"a/b","text":"last"}"#,
        ];
        assert_eq!(lines, expected, "{url}");
    }
}

#[tokio::test]
async fn lines_arrive_in_order() {
    const LINES: usize = 5_000;
    for server in Server::both().await {
        let url = server.url();
        let count = LINES.to_string();
        let mut tail = Running::listening(clarion(["tail", "log", "--count", &count, "--via", &url])).await;
        let input: String = (0..LINES).map(|n| format!("line {n}\n")).collect();
        let publish = clarion(["publish", "log", "-", "--json", "--via", &url]);
        let (ran, ()) = tokio::join!(run_with_input(publish, input.as_bytes()), async {
            for n in 0..LINES {
                assert_eq!(tail.line().await, format!("line {n}"));
            }
        });
        assert_eq!(ran.expect(0).json()["published"], LINES);
        assert_eq!(tail.ended().await, 0);
    }
}

#[tokio::test]
async fn a_payload_that_nodes_would_drop_is_refused() {
    for server in Server::both().await {
        let url = server.url();
        let mut input = vec![b'x'; 70_000];
        let ran = run_with_input(clarion(["publish", "a", "@-", "--via", &url]), &input).await.expect(64);
        assert!(ran.stderr.contains("--max-payload"), "{ran:?}");
        run_with_input(clarion(["publish", "a", "@-", "--max-payload", "100000", "--via", &url]), &input)
            .await
            .expect(0);
        input.extend_from_slice(b"\nshort\n");
        let ran = run_with_input(clarion(["publish", "a", "-", "--json", "--via", &url]), &input).await.expect(64);
        assert_eq!((&ran.json()["published"], &ran.json()["failed"]), (&1.into(), &1.into()));
        assert!(ran.stderr.contains("line 1"), "{ran:?}");
    }
}

/// Hears nothing, since it asks for nothing.
struct Deaf;

#[async_trait]
impl Sink for Deaf {
    async fn deliver(&self, batch: &mut Vec<Delivery>) {
        batch.clear();
    }

    fn gap(&self, _: &[InterestId]) {}
}

async fn connect(url: &str) -> BusHandle {
    let config = BusConfig { url: url.parse().expect("a URL of a server"), ..BusConfig::default() };
    let bus = clarion_bus::connect(&config, Arc::new(Deaf)).expect("the URL is all there is");
    let mut link = bus.link();
    eventually("the bus is connected", || {
        let up = *link.borrow_and_update() == clarion_bus::Link::Up;
        async move { up }
    })
    .await;
    bus
}

fn ring() -> Ring {
    Ring::new([Member::new("a", 1), Member::new("b", 2)]).expect("they make a ring")
}

/// Beats as nodes `a` and `b` do, and as one that leaves, only faster: nobody has to wait for them.
async fn beat(bus: BusHandle) {
    let members = [("a", 1, false), ("b", 2, false), ("c", 9, true)].map(|(node, weight, leaving)| Heartbeat {
        node: node.parse().expect("a name"),
        instance: node.to_owned(),
        advertise: None,
        public_url: Some(format!("http://{node}")),
        key: None,
        weight,
        ring: ring().identity().to_string(),
        leaving,
        connections: 3,
        disconnects: 0,
        version: "0.1.0".to_owned(),
    });
    loop {
        for member in &members {
            let payload = serde_json::to_vec(member).expect("a heartbeat is JSON");
            bus.publish(Publication::raw(control::subject(control::MEMBERS), payload)).await.expect("the bus is up");
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn nodes_are_heard_by_their_heartbeats() {
    let [redis, nats] = Server::both().await;
    tokio::join!(heartbeats_are_heard(&redis), heartbeats_are_heard(&nats));
}

async fn heartbeats_are_heard(server: &Server) {
    let url = server.url();
    let ran = run(clarion(["home", "42", "--listen", "300ms", "--via", &url])).await.expect(69);
    assert!(ran.stderr.contains("--listen"), "{ran:?}");
    let heart = tokio::spawn(beat(connect(&url).await));
    let nodes = run(clarion(["nodes", "--json", "--via", &url])).await.expect(0).json();
    let names: Vec<&str> =
        nodes["members"].as_array().expect("there are members").iter().filter_map(|n| n["node"].as_str()).collect();
    assert_eq!(names, ["a", "b", "c"]);
    assert_eq!(nodes["ring"], ring().identity().to_string());
    assert_eq!(nodes["agreed"], true);
    assert_eq!(
        (&nodes["members"][1]["slots"], &nodes["members"][2]["slots"]),
        (&ring().slots_of("b").into(), &0.into())
    );
    let home = run(clarion(["home", "42", "--via", &url])).await.expect(0);
    assert!(home.stdout.starts_with(&format!("{}  ", ring().home("42").expect("somebody is"))), "{home:?}");
    assert_eq!(home.stderr, "");
    let doctor = run(clarion(["doctor", "--json", "--via", &url])).await.json();
    let status = |name: &str| {
        let checks = doctor["checks"].as_array().expect("there are checks");
        checks.iter().find(|check| check["check"] == name).map(|check| check["status"].clone())
    };
    assert_eq!((status("bus"), status("cluster")), (Some("ok".into()), Some("ok".into())), "{doctor}");
    heart.abort();
}

#[tokio::test]
async fn a_bus_that_is_not_there_is_unavailable() {
    for url in ["redis://127.0.0.1:1", "nats://127.0.0.1:1"] {
        for command in [&["publish", "a", "x"][..], &["tail", "a"], &["nodes"]] {
            let ran = run(clarion(command.iter().chain(&["--timeout", "300ms", "--via", url]))).await.expect(69);
            assert!(ran.stderr.contains(url), "{ran:?}");
        }
        let ran = run(clarion(["doctor", "--timeout", "300ms", "--via", url])).await;
        assert!(ran.stdout.contains("FAIL  bus"), "{ran:?}");
    }
}

/// What is published there would be heard by nobody, so nothing is, and the doctor says where to go.
#[tokio::test]
async fn a_replica_is_not_the_bus() {
    let master = RedisServer::start().await;
    let replica = RedisServer::builder().config("replicaof", &format!("127.0.0.1 {}", master.port())).start().await;
    let ran = run(clarion(["publish", "a", "x", "--timeout", "1s", "--via", &replica.url()])).await.expect(69);
    assert!(ran.stderr.contains("is a replica"), "{ran:?}");
    let ran = run(clarion(["doctor", "--timeout", "1s", "--via", &replica.url()])).await;
    assert!(ran.stdout.contains("FAIL  bus") && ran.stdout.contains("the address of its master"), "{ran:?}");
}

#[tokio::test]
async fn a_password_of_the_environment_opens_the_bus() {
    let server = RedisServer::builder().password("hidden").start().await;
    let url = format!("redis://{}", server.addr());
    let mut command = clarion(["publish", "a", "x", "--via", &url]);
    command.env("CLARION_BUS_PASSWORD", "hidden");
    run(command).await.expect(0);
    let mut command = clarion(["publish", "a", "x"]);
    command.env("CLARION_VIA", server.url());
    run(command).await.expect(0);
    let mut command = clarion(["publish", "a", "x", "--timeout", "1s", "--via", &url]);
    command.env("CLARION_BUS_PASSWORD", "concealed");
    let ran = run(command).await.expect(69);
    assert!(ran.stderr.contains("WRONGPASS") && !ran.stderr.contains("concealed"), "{ran:?}");
}

#[tokio::test]
async fn tls_reaches_the_bus() {
    let redis = RedisServer::builder().tls().start().await;
    let nats = NatsServer::builder().tls().start().await;
    for (url, ca) in [(redis.url(), redis.ca()), (nats.url(), nats.ca())] {
        let ca = ca.display().to_string();
        run(clarion(["publish", "a", "x", "--via", &url, "--ca-file", &ca])).await.expect(0);
        run(clarion(["publish", "a", "x", "--via", &url, "--timeout", "1s"])).await.expect(69);
    }
}

#[tokio::test]
async fn following_goes_on_when_the_server_comes_back() {
    let mut server = RedisServer::start().await;
    let url = server.url();
    let mut tail = Running::listening(clarion(["tail", "news", "--via", &url])).await;
    let mut once = Running::listening(clarion(["tail", "news", "--once", "--via", &url])).await;
    server.kill();
    once.note("--once").await;
    assert_eq!(once.ended().await, 69);
    tail.note("trying again").await;
    server.restart().await;
    tail.note("connected again").await;
    run(clarion(["publish", "news", "after", "--via", &url])).await.expect(0);
    assert_eq!(tail.line().await, "after");
}

#[tokio::test]
async fn who_may_not_publish_is_refused() {
    let rule = "bob on >pw ~* resetchannels &clarion:open &_clarion:* +@all";
    let server = RedisServer::builder().acl(rule).start().await;
    for (channel, exit) in [("open", 0), ("closed", 77)] {
        let mut command = clarion(["publish", channel, "x"]);
        command.env("CLARION_VIA", server.url_as("bob", "pw"));
        let ran = run(command).await.expect(exit);
        assert!(!ran.stderr.contains("pw@"), "{ran:?}");
    }
}
