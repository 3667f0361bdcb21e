//! Publishing over HTTP, against a server that keeps what it was asked.

mod support;

use clarion_ring::{Member, Ring};
use clarion_testkit::eventually;
use serde_json::{Value, json};
use support::{Request, Running, Server, clarion, run, run_with_input};
use tokio::io::AsyncWriteExt;

/// What a broker answers to whatever is published.
fn taken(request: &Request) -> (u16, &'static str, String) {
    if request.line != "POST /api/batch" {
        return (200, "", r#"{"id":"m-1"}"#.to_owned());
    }
    let count = request.json().as_array().expect("a batch is an array").len();
    let results: Vec<Value> = (0..count).map(|n| json!({ "id": format!("m-{n}") })).collect();
    (200, "", json!({ "results": results }).to_string())
}

fn problem(status: u16, code: &str) -> (u16, &'static str, String) {
    (status, "", json!({ "error": { "code": code, "message": "words for people" } }).to_string())
}

#[tokio::test]
async fn a_message_is_the_body_of_a_post() {
    let server = Server::start(taken).await;
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), b"\x00\xff\n").unwrap();
    let from_file = format!("@{}", file.path().display());
    for (args, line, body) in [
        (&["publish", "orders/e u", "{\"x\": 1}"][..], "POST /orders/e%20u", &b"{\"x\": 1}"[..]),
        (&["publish", "a", ""], "POST /a", b""),
        (&["publish", "a", "@@home"], "POST /a", b"@home"),
        (&["publish", "a", &from_file], "POST /a", b"\x00\xff\n"),
        (&["push", "42", "hi"], "POST /users/42", b"hi"),
        (&["broadcast", "hi"], "POST /broadcast", b"hi"),
    ] {
        let ran = run(clarion(args.iter().chain(&["--via", &server.url]))).await.expect(0);
        assert!(ran.stdout.contains("m-1"), "{ran:?}");
        let request = server.requests().pop().unwrap();
        assert_eq!((request.line.as_str(), request.body.as_slice()), (line, body));
        assert_eq!(request.header("content-type"), Some("application/octet-stream"));
        assert_eq!(request.header("x-api-key"), None);
    }
}

#[tokio::test]
async fn standard_input_can_be_one_message() {
    let server = Server::start(taken).await;
    let ran =
        run_with_input(clarion(["publish", "a", "@-", "--json", "--via", &server.url]), b"x\ny\n").await.expect(0);
    assert_eq!(ran.json(), json!({ "channel": "a", "id": "m-1" }));
    assert_eq!(server.requests()[0].body, b"x\ny\n");
}

#[tokio::test]
async fn secrets_of_the_environment_go_along() {
    let server = Server::start(taken).await;
    let mut command = clarion(["publish", "a", "x"]);
    command.env("CLARION_VIA", &server.url).env("CLARION_API_KEY", "k1").env("CLARION_TOKEN", "t.t.t");
    run(command).await.expect(0);
    let request = server.requests().pop().unwrap();
    assert_eq!(request.header("x-api-key"), Some("k1"));
    assert_eq!(request.header("authorization"), Some("Bearer t.t.t"));
}

#[tokio::test]
async fn a_refusal_has_its_exit_code_and_its_words() {
    for (status, code, exit) in [
        (400, "bad_channel", 64),
        (401, "unauthorized", 77),
        (403, "forbidden", 77),
        (413, "too_large", 64),
        (503, "unavailable", 69),
        (504, "unknown", 69),
        (500, "internal", 70),
    ] {
        let server = Server::start(move |_| problem(status, code)).await;
        let ran = run(clarion(["publish", "a", "x", "--via", &server.url])).await.expect(exit);
        assert!(ran.stderr.contains("words for people") && ran.stderr.contains(code), "{ran:?}");
    }
}

#[tokio::test]
async fn a_key_does_not_follow_a_redirect() {
    let elsewhere = Server::start(taken).await;
    let location: &'static str = format!("location: {}/a\r\n", elsewhere.url).leak();
    let server = Server::start(move |_| (307, location, String::new())).await;
    let mut command = clarion(["publish", "a", "x", "--via", &server.url]);
    command.env("CLARION_API_KEY", "k1");
    run(command).await.expect(64);
    assert!(elsewhere.requests().is_empty());
}

#[tokio::test]
async fn nobody_there_is_unavailable() {
    let ran = run(clarion(["publish", "a", "x", "--via", "http://127.0.0.1:1"])).await.expect(69);
    assert!(ran.stderr.contains("http://127.0.0.1:1") && ran.stderr.contains("--via"), "{ran:?}");
    let stranger = Server::start(|_| (200, "", "<html>".to_owned())).await;
    let ran = run(clarion(["publish", "a", "x", "--via", &stranger.url])).await.expect(69);
    assert!(ran.stderr.contains("Clarion"), "{ran:?}");
}

#[tokio::test]
async fn lines_go_in_batches_and_in_order() {
    let server = Server::start(taken).await;
    let mut input: Vec<u8> = (0..2_500).flat_map(|n| format!("{n}\n").into_bytes()).collect();
    input.extend_from_slice(b"\xff\n");
    let command = clarion(["publish", "a/b", "-", "--json", "--via", &server.url]);
    let summary = run_with_input(command, &input).await.expect(0).json();
    assert_eq!((&summary["published"], &summary["failed"]), (&json!(2_501), &json!(0)));
    let mut messages = Vec::new();
    for request in server.requests() {
        match &*request.line {
            "POST /api/batch" => {
                let batch = request.json().as_array().unwrap().clone();
                assert!(batch.len() <= 1_000 && batch.iter().all(|message| message["channel"] == "a/b"));
                messages.extend(batch.iter().map(|message| match &message["text"] {
                    Value::String(text) => text.clone(),
                    _ => message["base64"].as_str().unwrap().to_owned(),
                }));
            }
            // A line that came alone, as a pipe may bring it, or the last one, which is no text.
            _ => messages.push(String::from_utf8(request.body).unwrap_or_else(|_| "/w==".to_owned())),
        }
    }
    let expected: Vec<String> = (0..2_500).map(|n| n.to_string()).chain(["/w==".to_owned()]).collect();
    assert_eq!(messages, expected);
    assert!(server.requests().len() < 50, "{} requests", server.requests().len());
}

#[tokio::test]
async fn a_rate_is_kept() {
    let server = Server::start(taken).await;
    let command = clarion(["publish", "a", "-", "--rate", "20", "--json", "--via", &server.url]);
    let begin = tokio::time::Instant::now();
    let summary = run_with_input(command, "x\n".repeat(11).as_bytes()).await.expect(0).json();
    assert_eq!(summary["published"], 11);
    assert!(begin.elapsed().as_millis() >= 480, "ten pauses of 50 ms took {:?}", begin.elapsed());
}

#[tokio::test]
async fn an_interrupt_ends_the_input_and_not_the_summary() {
    let server = Server::start(taken).await;
    let mut command = clarion(["publish", "a", "-", "--via", &server.url]);
    command.stdin(std::process::Stdio::piped());
    let mut running = Running::start(command);
    let mut stdin = running.child.stdin.take().unwrap();
    stdin.write_all(b"x\n").await.unwrap();
    eventually("the line was published", || async { server.requests().len() == 1 }).await;
    let id = running.child.id().unwrap().to_string();
    assert!(std::process::Command::new("kill").args(["-s", "INT", &id]).status().unwrap().success());
    assert!(running.line().await.starts_with("1 published"));
    assert_eq!(running.ended().await, 0);
}

#[tokio::test]
async fn a_bad_line_is_told_and_the_others_go() {
    let server = Server::start(|request| match request.line.as_str() {
        "POST /api/batch" => {
            let results: Vec<Value> = request.json().as_array().unwrap().iter().map(judge).collect();
            (200, "", json!({ "results": results }).to_string())
        }
        _ => taken(request),
    })
    .await;
    fn judge(message: &Value) -> Value {
        match message["text"].as_str() {
            Some("bad") => json!({ "error": { "code": "too_large", "message": "words" } }),
            _ => json!({ "id": "m" }),
        }
    }
    let command = clarion(["publish", "a", "-", "--via", &server.url]);
    let ran = run_with_input(command, b"good\nbad\ngood\n").await.expect(64);
    assert!(ran.stderr.contains("line 2: words (too_large)"), "{ran:?}");
    assert!(ran.stdout.starts_with("2 published, 1 failed"), "{ran:?}");
}

#[tokio::test]
async fn a_broker_that_goes_away_stops_the_stream_at_its_line() {
    let server = Server::start(|_| problem(503, "unavailable")).await;
    let command = clarion(["publish", "a", "-", "--via", &server.url]);
    let ran = run_with_input(command, &b"x\n".repeat(50_000)).await.expect(69);
    assert!(ran.stderr.contains("stopped at line 1"), "{ran:?}");
    assert_eq!(ran.stderr.matches("words for people").count(), 1, "{ran:?}");
}

/// What a broker says of itself and its cluster.
fn info() -> Value {
    let ring = Ring::new([Member::new("a", 1), Member::new("b", 3)]).expect("they make a ring").identity().to_string();
    let member = |node: &str, weight: u16| {
        json!({
            "node": node, "instance": node, "advertise": null, "public_url": format!("http://{node}"),
            "weight": weight, "ring": ring, "connections": 7, "version": "0.1.0",
        })
    };
    json!({
        "node": "a", "version": "0.1.0", "bus": "redis", "ring": ring, "connections": 7,
        "members": [member("b", 3), member("a", 1)],
    })
}

fn broker(request: &Request) -> (u16, &'static str, String) {
    match request.line.as_str() {
        "POST /rpc" => {
            let call = request.json();
            assert_eq!((&call["jsonrpc"], &call["method"]), (&json!("2.0"), &json!("info")));
            (200, "", json!({ "jsonrpc": "2.0", "id": call["id"], "result": info() }).to_string())
        }
        "GET /health/ready" => (200, "", json!({ "status": "ready", "node": "a" }).to_string()),
        _ => (404, "date: Sun, 06 Nov 1994 08:49:37 GMT\r\n", String::new()),
    }
}

#[tokio::test]
async fn nodes_and_homes_are_what_the_broker_says() {
    let server = Server::start(broker).await;
    let ran = run(clarion(["nodes", "--via", &server.url])).await.expect(0);
    let lines: Vec<&str> = ran.stdout.lines().collect();
    assert!(lines[0].starts_with("NODE") && lines[1].starts_with("a ") && lines[2].starts_with("b "), "{ran:?}");
    assert_eq!(ran.stderr, "");
    let nodes = run(clarion(["nodes", "--json", "--via", &server.url])).await.expect(0).json();
    assert_eq!(nodes["agreed"], true);
    let ring = Ring::new([Member::new("b", 3), Member::new("a", 1)]).unwrap();
    assert_eq!(nodes["members"][1]["slots"], ring.slots_of("b"));
    for user in ["42", "alice", "größe"] {
        let home = run(clarion(["home", user, "--json", "--via", &server.url])).await.expect(0).json();
        assert_eq!(home["node"].as_str(), ring.home(user));
        assert_eq!(home["public_url"], format!("http://{}", ring.home(user).unwrap()));
    }
}

#[tokio::test]
async fn the_doctor_says_what_is_wrong_and_what_to_do() {
    let server = Server::start(broker).await;
    let mut command = clarion(["doctor", "--json", "--via", &server.url, "--admin", &server.url]);
    // Without a broker's binary in it, and without the one that may lie beside ours, nothing is said of a configuration.
    command.env("PATH", "").env("CLARION_TOKEN", "h.eyJleHAiOjF9.s");
    let ran = run(command).await;
    let report = ran.json();
    let check = |name: &str| report["checks"].as_array().unwrap().iter().find(|check| check["check"] == name).cloned();
    let status = |name: &str| check(name).map(|check| check["status"].clone());
    assert_eq!(status("broker"), Some(json!("ok")), "{report}");
    assert_eq!(status("cluster"), Some(json!("ok")), "{report}");
    assert_eq!(status("ready"), Some(json!("ok")), "{report}");
    assert_eq!(status("bus"), Some(json!("skip")), "{report}");
    assert_eq!(status("token"), Some(json!("fail")), "{report}");
    // The server's clock stands still since 1994.
    assert_eq!(status("clock"), Some(json!("fail")), "{report}");
    assert!(check("clock").unwrap()["remedy"].as_str().unwrap().contains("NTP"));
    assert!(check("token").unwrap()["remedy"].as_str().unwrap().contains("clarion token"));
    assert_eq!(report["ok"], false);
    assert_ne!(ran.code, 0);
}

#[tokio::test]
async fn the_doctor_takes_no_nodes_word_for_anothers() {
    let server = Server::start(broker).await;
    let another = Server::start(|_| (200, "", json!({ "status": "ready", "node": "somebody else" }).to_string())).await;
    let ran = run(clarion(["doctor", "--via", &server.url, "--admin", &another.url])).await;
    assert!(ran.stdout.contains("warn  ready"), "{ran:?}");
    assert!(ran.stdout.contains("is of node somebody else, not of a"), "{ran:?}");
}

#[tokio::test]
async fn the_doctor_finds_nobody() {
    let ran = run(clarion(["doctor", "--via", "http://127.0.0.1:1"])).await;
    assert!(ran.stdout.contains("FAIL  broker") && ran.stdout.contains("clarion-broker"), "{ran:?}");
    // Whoever listens on the usual admin port of this machine says nothing of a node that is not there.
    assert!(ran.stdout.contains("skip  ready") && !ran.stdout.contains("127.0.0.1:8001"), "{ran:?}");
    assert_ne!(ran.code, 0);
}
