//! What HTTP promises below all routes: its times, its refusals, its bounds.

mod nodes;

use std::{net::SocketAddr, time::Duration};

use clarion_testkit::{Reply, eventually, http, within};
use nodes::TestNode;
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

/// The time for a head where a test waits for its end.
const SHORT: Duration = Duration::from_millis(300);

/// A connection on which bytes are written and answers read.
struct Raw {
    stream: TcpStream,
    read: Vec<u8>,
}

/// An answer's head and body.
struct Answer {
    head: String,
    body: String,
}

impl Answer {
    fn status(&self) -> u16 {
        self.head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status")
    }

    fn code(&self) -> String {
        let body: Value = serde_json::from_str(&self.body).unwrap_or_else(|_| panic!("no JSON: {}", self.head));
        assert!(self.head.contains("content-type: application/json"), "{}", self.head);
        assert!(body["error"]["message"].is_string(), "{body}");
        body["error"]["code"].as_str().expect("a code").to_owned()
    }
}

impl Raw {
    async fn open(address: SocketAddr) -> Self {
        Self { stream: TcpStream::connect(address).await.expect("it listens"), read: Vec::new() }
    }

    async fn asked(address: SocketAddr, request: &str) -> Self {
        let mut raw = Self::open(address).await;
        raw.say(request).await;
        raw
    }

    async fn say(&mut self, bytes: &str) {
        self.stream.write_all(bytes.as_bytes()).await.expect("it is sent");
    }

    async fn answer(&mut self) -> Answer {
        loop {
            if let Some(answer) = self.whole() {
                return answer;
            }
            let read = within("an answer", self.stream.read_buf(&mut self.read)).await.expect("no reset");
            assert_ne!(read, 0, "hung up after {:?}", String::from_utf8_lossy(&self.read));
        }
    }

    fn whole(&mut self) -> Option<Answer> {
        let text = std::str::from_utf8(&self.read).ok()?;
        let (head, rest) = text.split_once("\r\n\r\n")?;
        let length = head
            .lines()
            .find_map(|line| line.strip_prefix("content-length: "))
            .map_or(0, |length| length.parse().expect("a length"));
        let answer = Answer { head: head.to_owned(), body: rest.get(..length)?.to_owned() };
        self.read.drain(..head.len() + 4 + length);
        Some(answer)
    }

    /// Waits until the node has closed, without another word.
    async fn closed(&mut self) {
        let read = within("the node closes", self.stream.read_buf(&mut self.read)).await;
        assert!(matches!(read, Ok(0) | Err(_)), "{:?}", String::from_utf8_lossy(&self.read));
    }
}

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n")
}

fn post(path: &str, length: usize) -> String {
    format!("POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: text/plain\r\ncontent-length: {length}\r\n\r\n")
}

/// Both listeners, each with a path that answers 200.
fn listeners(node: &TestNode) -> [(SocketAddr, &'static str); 2] {
    [(node.running.listen, "/docs/openrpc.json"), (node.running.admin, "/health/live")]
}

#[tokio::test]
async fn a_kept_connection_rests_longer_than_a_head_may_take() {
    let node = TestNode::with(|config| config.limits.handshake = SHORT).await;
    for (address, path) in listeners(&node) {
        let mut kept = Raw::asked(address, &get(path)).await;
        assert_eq!(kept.answer().await.status(), 200);
        // Two that say nothing are closed one after the other: twice the time has passed.
        for _ in 0..2 {
            Raw::open(address).await.closed().await;
        }
        kept.say(&get(path)).await;
        assert_eq!(kept.answer().await.status(), 200, "{path}");
        if address == node.running.admin {
            continue;
        }
        // With a body in pieces, whose bytes are not those of a head.
        kept.say(&post("/news", 4)).await;
        kept.say("body").await;
        kept.answer().await;
        Raw::open(address).await.closed().await;
        Raw::open(address).await.closed().await;
        kept.say(&get(path)).await;
        assert_eq!(kept.answer().await.status(), 200, "{path}");
    }
}

#[tokio::test]
async fn a_kept_connection_rests_as_long_as_is_set() {
    let node = TestNode::with(|config| config.limits.keep_alive = SHORT).await;
    for (address, path) in listeners(&node) {
        let mut kept = Raw::asked(address, &get(path)).await;
        assert_eq!(kept.answer().await.status(), 200);
        kept.closed().await;
    }
}

#[tokio::test]
async fn a_head_has_its_time_from_its_first_byte() {
    let node = TestNode::with(|config| config.limits.handshake = SHORT).await;
    for (address, path) in listeners(&node) {
        let mut slow = Raw::asked(address, &get(path)).await;
        assert_eq!(slow.answer().await.status(), 200);
        slow.say("GET / HTTP/1.1\r\nhost: loc").await;
        let answer = slow.answer().await;
        assert_eq!((answer.status(), answer.code().as_str()), (408, "slow_head"));
        slow.closed().await;
    }
}

#[tokio::test]
async fn what_is_no_request_is_told_so_in_json() {
    let node = TestNode::start().await;
    let lines: String = (0..101).map(|number| format!("x-{number}: y\r\n")).collect();
    let (many, large) = (get("/").replace("\r\n\r\n", &format!("\r\n{lines}\r\n")), "x".repeat(70_000));
    for (address, path) in listeners(&node) {
        for (bad, status, code) in [
            (&*many, 431, "head_too_large"),
            (&get("/").replace("localhost", &large), 431, "head_too_large"),
            (&get(&format!("/{large}")), 431, "head_too_large"),
            ("rubbish\0\r\n\r\n", 400, "bad_request"),
            ("GET / HTTP/1.1\r\nhost: a\r\nx y: z\r\n\r\n", 400, "bad_request"),
            ("POST /news HTTP/1.1\r\nhost: a\r\ncontent-length: x\r\n\r\n", 400, "bad_request"),
            ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400, "bad_request"),
        ] {
            // Also behind a good one.
            for before in ["", &get(path)] {
                let mut raw = Raw::asked(address, &format!("{before}{bad}")).await;
                if !before.is_empty() {
                    assert_eq!(raw.answer().await.status(), 200);
                }
                let answer = raw.answer().await;
                assert_eq!((answer.status(), answer.code().as_str()), (status, code), "{:.60}", bad);
                raw.closed().await;
            }
        }
    }
}

#[tokio::test]
async fn a_request_names_one_host() {
    let node = TestNode::start().await;
    for (address, path) in listeners(&node) {
        for (version, hosts, status) in [
            ("1.1", "host: localhost\r\n", 200),
            ("1.1", "Host: 127.0.0.1:80\r\n", 200),
            ("1.0", "", 200),
            ("1.1", "", 400),
            ("1.1", "host:\r\n", 400),
            ("1.1", "host: localhost\r\nhost: localhost\r\n", 400),
            ("1.0", "host: localhost\r\nhost: localhost\r\n", 400),
            ("1.1", "host: local host\r\n", 400),
            ("1.1", "host: user@localhost\r\n", 400),
            ("1.1", "host: localhost:http\r\n", 400),
            ("1.1", "host: localhost/\r\n", 400),
        ] {
            let mut raw = Raw::asked(address, &format!("GET {path} HTTP/{version}\r\n{hosts}\r\n")).await;
            let answer = raw.answer().await;
            assert_eq!(answer.status(), status, "{version} {hosts:?}");
            if status == 400 {
                assert_eq!(answer.code(), "bad_host");
            }
        }
    }
}

#[tokio::test]
async fn who_closes_its_side_behind_a_request_is_answered() {
    let node = TestNode::start().await;
    let large = format!("{}{}", get("/docs/openapi.json").repeat(100), get("/docs"));
    for (request, answers) in [(format!("{}body", post("/news", 4)), 1), (large, 101)] {
        let mut raw = Raw::asked(node.running.listen, &request).await;
        raw.stream.shutdown().await.expect("it is open");
        for number in 0..answers {
            assert_eq!(raw.answer().await.status(), 200, "{number}");
        }
        raw.closed().await;
    }
    // A body that was cut is none.
    let mut cut = Raw::asked(node.running.listen, &format!("{}bo", post("/news", 4))).await;
    cut.stream.shutdown().await.expect("it is open");
    let mut rest = Vec::new();
    let _ = within("the end", cut.stream.read_to_end(&mut rest)).await;
    assert!(!rest.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&rest));
}

#[tokio::test]
async fn an_event_stream_whose_client_closed_its_side_is_let_in_and_ends() {
    let node = TestNode::start().await;
    for path in ["/news", "/events?channel=news"] {
        let request = get(path).replace("\r\n\r\n", "\r\naccept: text/event-stream\r\n\r\n");
        let mut raw = Raw::asked(node.running.listen, &request).await;
        raw.stream.shutdown().await.expect("it is open");
        // Its shard takes the end for a goodbye: the client is told to come back.
        let mut rest = String::new();
        within("the end", raw.stream.read_to_string(&mut rest)).await.expect("no reset");
        assert!(rest.starts_with("HTTP/1.1 200") && rest.contains("retry: "), "{rest}");
    }
}

#[tokio::test]
async fn the_id_of_a_call_goes_back_as_it_came() {
    let node = TestNode::start().await;
    let ids = ["18446744073709551616", "1e2", "1.0", "-0", "0.1000", "\"\\u0041\"", "null", "1e400", "[]"];
    let call = |id: &str| format!(r#"{{"jsonrpc":"2.0","method":"info","id":{id}}}"#);
    let ask = async |body: String| Reply::of(http().post(node.url("/rpc")).body(body)).await.text().to_owned();
    for id in ids {
        let answer = ask(call(id)).await;
        let expected = if id == "[]" { "\"id\":null" } else { &*format!("\"id\":{id},") };
        assert!(answer.contains(expected), "{id}: {answer}");
    }
    let answer = ask(format!("[{},{}]", call("1e2"), call("18446744073709551616").replace("info", "no"))).await;
    assert!(
        answer.starts_with('[') && answer.contains("\"id\":1e2,") && answer.contains("\"id\":18446744073709551616,")
    );
}

#[tokio::test]
async fn strangers_are_refused_before_their_body() {
    let node = TestNode::with(nodes::keyed).await;
    for path in ["/news", "/users/42", "/broadcast", "/api/batch", "/rpc"] {
        let mut raw = Raw::asked(node.running.listen, &post(path, 1_000_000)).await;
        let answer = raw.answer().await;
        assert_eq!((answer.status(), answer.code().as_str()), (401, "api_key_required"), "{path}");
    }
}

#[tokio::test]
async fn all_bodies_have_one_bound() {
    let node = TestNode::with(|config| config.limits.bodies = "1MiB".parse().expect("a size")).await;
    let held = async || node.metrics().await.sum("clarion_bodies_held_bytes");
    let mut slow = Raw::asked(node.running.listen, &post("/api/batch", 1_048_576)).await;
    slow.say(&" ".repeat(1_000_000)).await;
    eventually("it has come", async || held().await == 1_000_000.0).await;
    let publish = async || Reply::of(http().post(node.url("/news")).body("x".repeat(60_000))).await;
    let refused = publish().await;
    assert_eq!(refused.code(), 503);
    assert_eq!(refused.json()["error"]["code"], "bodies_full");
    assert!(refused.header("retry-after").is_some());
    assert_eq!(node.metrics().await.sum("clarion_bodies_refused_total"), 1.0);
    drop(slow);
    eventually("there is room", async || held().await == 0.0).await;
    assert_eq!(publish().await.code(), 200);
}
