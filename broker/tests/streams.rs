//! Event streams as bytes: however a request comes, over a connection that is new or one that was used before, the same
//! is answered, and the client's socket is the same kind of socket afterwards.

#![allow(clippy::unwrap_used, reason = "a test that fails may say so anywhere")]

mod nodes;

use std::time::Duration;

use clarion_testkit::{JwtKey, Reply, WsClient, eventually, in_seconds, within};
use nodes::{TestNode, keyed, token};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

/// How a request for a stream comes to the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// First on its connection, in one piece.
    Fresh,
    /// First on its connection, a byte at a time.
    Dripping,
    /// With something behind it.
    Trailed,
    /// After another request on the same connection was answered.
    Reused,
    /// Behind another request that was not answered yet.
    Pipelined,
}

const WAYS: [Way; 5] = [Way::Fresh, Way::Dripping, Way::Trailed, Way::Reused, Way::Pipelined];

/// A connection as its client sees it.
struct Raw {
    socket: TcpStream,
    read: Vec<u8>,
}

impl Raw {
    async fn connect(node: &TestNode) -> Self {
        let socket = TcpStream::connect(node.running.listen).await.unwrap();
        socket.set_nodelay(true).unwrap();
        Self { socket, read: Vec::new() }
    }

    async fn send(&mut self, bytes: &[u8]) {
        self.socket.write_all(bytes).await.unwrap();
    }

    /// All up to and with `end`.
    async fn until(&mut self, end: &str) -> String {
        loop {
            if let Some(place) = self.read.windows(end.len()).position(|window| window == end.as_bytes()) {
                let taken: Vec<u8> = self.read.drain(..place + end.len()).collect();
                return String::from_utf8_lossy(&taken).into_owned();
            }
            let read = within(end, self.socket.read_buf(&mut self.read)).await.unwrap();
            assert_ne!(read, 0, "ended before {end:?}: {:?}", String::from_utf8_lossy(&self.read));
        }
    }

    /// All up to the end, which must come in order.
    async fn rest(&mut self) -> String {
        within("the end", self.socket.read_to_end(&mut self.read)).await.expect("no reset");
        String::from_utf8(std::mem::take(&mut self.read)).unwrap()
    }

    /// The head of an answer in the order of its lines, without the one that tells the time.
    async fn head(&mut self) -> Vec<String> {
        let head = self.until("\r\n\r\n").await;
        let (date, rest) =
            head.lines().filter(|line| !line.is_empty()).partition::<Vec<_>, _>(|l| l.starts_with("date: "));
        assert_eq!(date.len(), 1, "{head}");
        rest.into_iter().map(str::to_owned).collect()
    }
}

/// Sends a request by a way and reads what comes before the answer to it.
async fn request(node: &TestNode, way: Way, request: &str) -> Raw {
    let mut raw = Raw::connect(node).await;
    let before = format!("GET /missing HTTP/1.1\r\nhost: {}\r\n\r\n", node.running.listen);
    match way {
        Way::Fresh => raw.send(request.as_bytes()).await,
        Way::Dripping => {
            for byte in request.as_bytes() {
                raw.send(&[*byte]).await;
                tokio::task::yield_now().await;
            }
        }
        Way::Trailed => raw.send(format!("{request}GET /never HTTP/1.1\r\nrubbish\0\r\n\r\n").as_bytes()).await,
        Way::Reused => raw.send(before.as_bytes()).await,
        Way::Pipelined => raw.send(format!("{before}{request}").as_bytes()).await,
    }
    if matches!(way, Way::Reused | Way::Pipelined) {
        let head = raw.head().await;
        assert_eq!(head[0], "HTTP/1.1 406 Not Acceptable");
        raw.until("}}").await;
    }
    if way == Way::Reused {
        raw.send(request.as_bytes()).await;
    }
    raw
}

fn get(node: &TestNode, path: &str) -> String {
    let host = node.running.listen;
    format!("GET {path} HTTP/1.1\r\nhost: {host}\r\norigin: http://{host}\r\naccept: text/event-stream\r\n\r\n")
}

async fn publish(node: &TestNode, channel: &str, payload: &str) {
    let reply = Reply::post(&node.url(&format!("/{channel}")), "text/plain", payload.to_owned()).await;
    assert_eq!(reply.code(), 200, "{}", reply.text());
}

/// Waits until this many event streams are open.
async fn open_streams(node: &TestNode, count: f64) {
    eventually("the streams are counted", async || {
        let metrics = node.metrics().await;
        let open = ["sse", "events"].map(|door| metrics.sum_where("clarion_connections", &format!("door=\"{door}\"")));
        if open.iter().sum::<f64>() == count { Ok(()) } else { Err(open) }
    })
    .await;
}

fn is_retry(text: &str) -> bool {
    let pause = text.strip_prefix("retry: ").and_then(|rest| rest.strip_suffix("\n\n"));
    pause.is_some_and(|pause| pause.parse::<u64>().is_ok())
}

#[tokio::test(flavor = "multi_thread")]
async fn every_way_to_a_stream_is_answered_alike() {
    let node = TestNode::start().await;
    let origin = node.running.listen;
    for way in WAYS {
        for path in ["/news", "/events?channel=news&channel=other/**", &format!("/me?token={}", token("42"))] {
            let mut raw = request(&node, way, &get(&node, path)).await;
            let mut head = raw.head().await;
            assert_eq!(head.remove(0), "HTTP/1.1 200 OK", "{way:?} {path}");
            head.sort();
            assert_eq!(
                head,
                [
                    "access-control-allow-credentials: true",
                    &format!("access-control-allow-origin: http://{origin}"),
                    "access-control-expose-headers: retry-after, www-authenticate",
                    "cache-control: no-store",
                    "connection: close",
                    "content-type: text/event-stream",
                    "vary: origin",
                    "x-accel-buffering: no",
                ],
                "{way:?} {path}"
            );
            assert!(is_retry(&raw.until("\n\n").await), "{way:?} {path}");
            publish(&node, if path.starts_with("/me") { "broadcast" } else { "news" }, "hello").await;
            let event = raw.until("\n\n").await;
            let many = "data: {\"channel\":\"news\",\"text\":\"hello\"}\n\n";
            assert_eq!(event, if path.starts_with("/events") { many } else { "data: hello\n\n" }, "{way:?} {path}");
        }
    }
    open_streams(&node, 0.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_way_is_refused_alike() {
    let node = TestNode::with(keyed).await;
    for way in WAYS {
        for (path, status, code) in [
            ("/users/42", "401 Unauthorized", "token_required"),
            ("/a//b", "400 Bad Request", "bad_channel"),
            ("/metrics", "404 Not Found", "reserved"),
        ] {
            let mut raw = request(&node, way, &get(&node, path)).await;
            assert_eq!(raw.head().await[0], format!("HTTP/1.1 {status}"), "{way:?}");
            assert!(raw.until("}}").await.contains(code), "{way:?}");
            if way != Way::Trailed {
                // A refusal does not cost the connection.
                raw.send(get(&node, "/metrics").as_bytes()).await;
                assert_eq!(raw.head().await[0], "HTTP/1.1 404 Not Found", "{way:?}");
            }
        }
    }
    node.bus.cut();
    for way in WAYS {
        let mut raw = request(&node, way, &get(&node, "/news")).await;
        assert_eq!(raw.head().await[0], "HTTP/1.1 200 OK", "{way:?}");
        assert!(is_retry(&raw.until("\n\n").await), "{way:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_asks_for_a_head() {
    let node = TestNode::start().await;
    let head = get(&node, "/news").replacen("GET", "HEAD", 1);
    let mut raw = Raw::connect(&node).await;
    for _ in 0..2 {
        raw.send(head.as_bytes()).await;
        let lines = raw.head().await;
        assert_eq!(lines[0], "HTTP/1.1 200 OK");
        assert!(lines.contains(&"content-type: text/event-stream".to_owned()), "{lines:?}");
    }
    raw.send(get(&node, "/news").as_bytes()).await;
    raw.head().await;
    assert!(is_retry(&raw.until("\n\n").await));
    open_streams(&node, 1.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_of_an_old_client() {
    let node = TestNode::start().await;
    let mut raw = request(&node, Way::Fresh, &get(&node, "/news").replacen("HTTP/1.1", "HTTP/1.0", 1)).await;
    assert_eq!(raw.head().await[0], "HTTP/1.0 200 OK");
    raw.until("\n\n").await;
    publish(&node, "news", "hello").await;
    assert_eq!(raw.until("\n\n").await, "data: hello\n\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_client_says_to_a_stream_is_passed_over() {
    let node = TestNode::start().await;
    for way in WAYS {
        let mut raw = request(&node, way, &get(&node, "/news")).await;
        raw.until("\n\n").await;
        raw.send(&vec![b'x'; 1 << 20]).await;
        raw.send(get(&node, "/other").as_bytes()).await;
        publish(&node, "news", "hello").await;
        assert_eq!(raw.until("\n\n").await, "data: hello\n\n", "{way:?}");
    }
    // The body of a request that has one is no request either.
    let body = get(&node, "/news").replacen("accept:", "content-length: 4\r\naccept:", 1);
    let mut raw = request(&node, Way::Fresh, &format!("{body}body")).await;
    raw.until("\n\n").await;
    publish(&node, "news", "hello").await;
    assert_eq!(raw.until("\n\n").await, "data: hello\n\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_go_early_leave_nothing_behind() {
    let node = TestNode::start().await;
    let interests = async || node.metrics().await.sum("clarion_bus_interests");
    let before = interests().await;
    for way in WAYS {
        for path in ["/news", "/events?channel=a&channel=b"] {
            let raw = request(&node, way, &get(&node, path)).await;
            drop(raw);
            let mut hung_up = request(&node, way, &get(&node, path)).await;
            hung_up.head().await;
            hung_up.socket.shutdown().await.unwrap();
            hung_up.rest().await;
        }
    }
    let mut half = Raw::connect(&node).await;
    half.send(b"GET /news HTTP/1.1\r\naccept: text/event-st").await;
    drop(half);
    open_streams(&node, 0.0).await;
    eventually("nothing is listened to for them", async || {
        let now = interests().await;
        if now == before { Ok(()) } else { Err(now) }
    })
    .await;
}

/// What was answered before a stream was asked for comes before the stream, though they were asked for at once.
#[tokio::test(flavor = "multi_thread")]
async fn answers_to_earlier_requests_come_first() {
    const EARLIER: usize = 100;
    let node = TestNode::start().await;
    let mut raw = Raw::connect(&node).await;
    let page = format!("GET / HTTP/1.1\r\nhost: {}\r\n\r\n", node.running.listen);
    raw.send((page.repeat(EARLIER) + &get(&node, "/news")).as_bytes()).await;
    let earlier = raw.until("content-type: text/event-stream\r\n").await;
    assert_eq!(earlier.matches("HTTP/1.1 200 OK\r\n").count(), EARLIER + 1);
    assert_eq!(earlier.matches("</html>").count(), EARLIER);
    raw.until("retry: ").await;
    publish(&node, "news", "hello").await;
    raw.until("data: hello\n\n").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_end_with_their_token_and_with_their_node() {
    let node = TestNode::start().await;
    let soon = JwtKey::hs256("development").sign(&json!({ "sub": "42", "exp": in_seconds(2) }));
    for way in WAYS {
        let mut raw = request(&node, way, &get(&node, &format!("/me?token={soon}"))).await;
        raw.head().await;
        let all = raw.rest().await;
        let (first, last) = all.split_at(all.rfind("retry").unwrap());
        assert!(is_retry(first) && is_retry(last), "{way:?}: {all:?}");
    }
    let mut raws = Vec::new();
    for way in WAYS {
        raws.push(request(&node, way, &get(&node, "/news")).await);
    }
    open_streams(&node, WAYS.len() as f64).await;
    node.shutdown.cancel();
    for mut raw in raws {
        raw.head().await;
        let all = raw.rest().await;
        let (first, last) = all.split_at(all.rfind("retry").unwrap());
        assert!(is_retry(first) && is_retry(last), "{all:?}");
    }
    within("the end", node.running.wait()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_client_does_not_hold_a_leaving_node() {
    let node = TestNode::with(|config| config.limits.ping = Duration::from_secs(3600)).await;
    let mut raw = request(&node, Way::Fresh, &get(&node, "/news")).await;
    raw.until("\n\n").await;
    open_streams(&node, 1.0).await;
    node.shutdown.cancel();
    // It is told, and neither reads it nor hangs up.
    within("the end", node.running.wait()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_used_connection_may_become_a_websocket() {
    let node = TestNode::start().await;
    let mut listener = WsClient::connect(&node.url("/room")).await;
    let handshake = format!(
        "GET /room HTTP/1.1\r\nhost: {}\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
         sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        node.running.listen
    );
    for way in [Way::Fresh, Way::Dripping, Way::Reused, Way::Pipelined] {
        let mut raw = request(&node, way, &handshake).await;
        let mut head = raw.head().await;
        assert_eq!(head.remove(0), "HTTP/1.1 101 Switching Protocols", "{way:?}");
        head.sort();
        let expected =
            ["connection: Upgrade", "sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=", "upgrade: websocket"];
        assert_eq!(head, expected, "{way:?}");
        // A frame of two characters, and what comes back of it: final, text, two bytes.
        raw.send(&[0x81, 0x82, 0, 0, 0, 0, b'h', b'i']).await;
        assert_eq!(listener.text().await, "hi", "{way:?}");
        assert_eq!(raw.until("hi").await, "\u{fffd}\u{2}hi");
    }
}
