//! Every limit, with what passing it gets.

use std::time::Duration;

use clarion_testkit::{BrokerProcess, RedisServer, Reply, SseClient, SseItem, WsClient, eventually, http, within};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::{API_KEY, ConfigFile, code, development, guarded, publish, say, socket_of, token};

#[tokio::test]
async fn payloads_have_a_limit_on_every_way() {
    let file = ConfigFile::new(
        "[limits]\npayload = \"1KiB\"\n[[namespaces]]\nprefix = \"up\"\nsubscribe = \"anyone\"\npublish = \"anyone\"\n",
    );
    let node = guarded().args(["--config", file.path()]).start_ready().await;
    let mut socket = WsClient::connect(&node.url("up")).await;
    socket.send_text(&"x".repeat(1024)).await;
    assert_eq!(socket.text().await.len(), 1024);
    assert_eq!(publish(&node, "up", &"x".repeat(1025)).await.code(), 413);
    socket.send_text(&"x".repeat(1025)).await;
    assert_eq!(socket.closed().await.0, 1009);
}

#[tokio::test]
async fn a_user_and_an_address_have_so_many_connections() {
    let file = ConfigFile::new("[limits]\nper_user = 2\nper_address = 3\n");
    let node = guarded().args(["--config", file.path()]).start_ready().await;
    let first = socket_of("42", &node.url("me")).connect().await.expect("the first");
    let _second = socket_of("42", &node.url("me")).connect().await.expect("the second");
    let third = socket_of("42", &node.url("me")).connect().await.unwrap_err();
    assert_eq!(third.status, 429, "{}", third.body);
    let _other = socket_of("43", &node.url("me")).connect().await.expect("another user");
    let fourth = socket_of("44", &node.url("me")).connect().await.unwrap_err();
    assert_eq!(fourth.status, 429, "the address is full: {}", fourth.body);
    drop(first);
    eventually("room again", async || socket_of("42", &node.url("me")).connect().await.is_ok()).await;
}

#[tokio::test]
async fn a_named_proxy_tells_the_address() {
    let file = ConfigFile::new("trusted_proxies = [\"127.0.0.0/8\"]\n[limits]\nper_address = 1\n");
    let node = guarded().args(["--config", file.path()]).start_ready().await;
    let from = |address: &str| WsClient::request(&node.url("news")).header("x-forwarded-for", address);
    let _first = from("203.0.113.1").connect().await.expect("the first");
    let _other = from("203.0.113.2").connect().await.expect("another address");
    assert_eq!(from("203.0.113.1").connect().await.unwrap_err().status, 429);
    let spoofed = from("203.0.113.9, 203.0.113.2").connect().await.unwrap_err();
    assert_eq!(spoofed.status, 429, "only the last address was written by the proxy");
}

#[tokio::test]
async fn patterns_on_redis_are_for_those_who_are_known_and_few() {
    let redis = RedisServer::start().await;
    let file = ConfigFile::new(
        "[limits]\npatterns = 2\npatterns_per_connection = 2\n\
         [[namespaces]]\nprefix = \"open\"\nsubscribe = \"anyone\"\npatterns = \"anyone\"\n\
         [[namespaces]]\nprefix = \"usual\"\nsubscribe = \"anyone\"\n",
    );
    let node = guarded().args(["--config", file.path(), "--bus", &redis.url()]).start_ready().await;
    let anonymous = WsClient::request(&node.url("usual/**")).connect().await.unwrap_err();
    assert_eq!(anonymous.status, 401);
    assert!(anonymous.body.contains("`patterns` of the namespace"), "{}", anonymous.body);
    let _channel = WsClient::connect(&node.url("usual/news")).await;
    let mut signed_in = socket_of("42", &node.url("usual/**")).connect().await.expect("whoever is signed in may");
    let same = WsClient::request(&node.url("usual/**")).header("x-api-key", API_KEY).connect().await;
    same.expect("a backend may, and the pattern is there already");
    let second = WsClient::connect(&node.url("open/**")).await;
    let third = WsClient::request(&node.url("open/*")).connect().await.unwrap_err();
    assert_eq!((third.status, third.headers.contains_key("retry-after")), (503, true));
    assert!(third.body.contains("`limits.patterns`"), "{}", third.body);
    let mut stream = SseClient::connect(&node.url("open/*")).await.expect("200 whatever happens");
    assert!(matches!(stream.next().await, SseItem::Retry(_)));
    assert!(matches!(stream.next().await, SseItem::End));
    let many = node.url("events?channel=open/*&channel=open/a/*&channel=open/b/*");
    let many = SseClient::connect(&many).await.unwrap_err();
    assert_eq!((many.code(), code(&many).as_str()), (400, "too_many_patterns"));
    let metrics = node.metrics().await;
    assert_eq!(metrics.sum_where("clarion_admission_used", "patterns"), 2.0);
    assert_eq!(metrics.sum_where("clarion_admission_limit", "patterns"), 2.0);
    say(&node, "usual/a", "hello").await;
    assert_eq!(signed_in.text().await, "hello");
    drop(second);
    eventually("room again", async || WsClient::request(&node.url("open/*")).connect().await.is_ok()).await;
}

/// The README's tour: no keys, a Redis, and whoever is curious.
#[tokio::test]
async fn in_development_mode_a_pattern_is_for_everybody() {
    let redis = RedisServer::start().await;
    let node = development().args(["--bus", &redis.url()]).start_ready().await;
    let mut socket = WsClient::connect(&node.url("orders/**")).await;
    let mut stream = SseClient::connect(&node.url("events?channel=orders/**&channel=ops/*")).await.expect("let in");
    say(&node, "orders/eu/1", "paid").await;
    assert_eq!(socket.text().await, "paid");
    assert!(stream.data().await.contains("paid"));
    let metrics = node.metrics().await;
    assert_eq!(metrics.sum_where("clarion_admission_limit", "patterns"), 100.0);
}

#[tokio::test]
async fn an_address_asks_and_guesses_at_a_rate() {
    let file = ConfigFile::new("[limits]\nhandshakes_per_address = 100\nfailures_per_address = 3\n");
    let node = guarded().args(["--config", file.path()]).start_ready().await;
    let guess = async || Reply::of(http().get(node.url("connection/locate")).bearer_auth("rubbish")).await;
    for _ in 0..3 {
        assert_eq!(guess().await.code(), 401);
    }
    let fourth = guess().await;
    assert_eq!((fourth.code(), code(&fourth).as_str()), (429, "rate_limit"));
    assert!(fourth.text().contains("`limits.failures_per_address`") && fourth.header("retry-after").is_some());
    assert_eq!(publish(&node, "news", "x").await.code(), 429, "a good key is not looked at either");
    assert_eq!(Reply::get(&node.url("connection/locate")).await.code(), 200, "whoever shows nothing is served");

    let file = ConfigFile::new("[limits]\nhandshakes_per_address = 2\n");
    let node = guarded().args(["--config", file.path()]).start_ready().await;
    let mut refused = None;
    for _ in 0..50 {
        refused = WsClient::request(&node.url("news")).connect().await.err();
        if refused.is_some() {
            break;
        }
    }
    let refused = refused.expect("50 at once are too many");
    assert_eq!((refused.status, refused.headers.contains_key("retry-after")), (429, true), "{}", refused.body);
    assert!(refused.body.contains("`limits.handshakes_per_address`"), "{}", refused.body);
}

#[tokio::test]
async fn a_user_publishes_at_a_rate() {
    let file = ConfigFile::new(
        "[limits]\npublishes_per_user = 3\n[[namespaces]]\nprefix = \"up\"\nsubscribe = \"anyone\"\npublish = \"signed_in\"\n",
    );
    let node = guarded().args(["--config", file.path()]).start_ready().await;
    let post = async |user: &str| {
        Reply::of(http().post(node.url("up")).bearer_auth(token(user)).header("content-type", "text/plain").body("x"))
            .await
    };
    let mut last = post("42").await;
    for _ in 0..50 {
        if last.code() != 200 {
            break;
        }
        last = post("42").await;
    }
    assert_eq!((last.code(), code(&last).as_str()), (429, "rate_limit"), "{}", last.text());
    assert!(last.text().contains("`limits.publishes_per_user`"), "{}", last.text());
    assert_eq!(post("43").await.code(), 200);
    for _ in 0..10 {
        say(&node, "up", "a backend has no rate").await;
    }
}

#[tokio::test]
async fn newcomers_queue_outside() {
    let file = ConfigFile::new("[limits]\naccepts_per_second = 2\n");
    let node = development().args(["--config", file.path()]).start_ready().await;
    let mut let_in = Vec::new();
    let mut refused = None;
    for _ in 0..50 {
        match WsClient::request(&node.url("news")).connect().await {
            Ok(socket) => let_in.push(socket),
            Err(answer) => {
                refused = Some(answer);
                break;
            }
        }
    }
    let refused = refused.expect("50 at once are too many");
    assert_eq!(refused.status, 503);
    let seconds: u32 = refused.headers["retry-after"].to_str().unwrap().parse().expect("seconds");
    assert!((1..=60).contains(&seconds));
    // An EventSource would give up on anything but 200: it is told to come back.
    let mut told = None;
    for _ in 0..50 {
        let mut stream = SseClient::connect(&node.url("news")).await.expect("200 whatever happens");
        let first = stream.next().await;
        if matches!(stream.next_within(Duration::from_millis(200)).await, Some(SseItem::End)) {
            told = Some(first);
            break;
        }
    }
    assert!(matches!(told, Some(SseItem::Retry(pause)) if pause >= Duration::from_millis(500)), "{told:?}");
    let_in[0].send_text("ping").await;
    assert_eq!(let_in[0].text().await, "pong", "those who are here do not notice");
}

#[tokio::test]
async fn half_a_request_is_not_waited_for() {
    let file = ConfigFile::new("[limits]\nhandshake = \"300ms\"\n");
    let node = development().args(["--config", file.path()]).start_ready().await;
    for sent in ["", "GET /news HTTP/1.1\r\nHost: localh"] {
        let mut stream = TcpStream::connect(node.addr()).await.expect("the node listens");
        stream.write_all(sent.as_bytes()).await.expect("it is sent");
        let mut rest = Vec::new();
        let end = within("the node closes", stream.read_to_end(&mut rest)).await;
        assert!(end.is_err() || rest.is_empty() || rest.starts_with(b"HTTP/1.1 408"), "{sent:?}");
    }
}

#[tokio::test]
async fn a_silent_peer_is_closed() {
    let file = ConfigFile::new("[limits]\nping = \"200ms\"\npong = \"300ms\"\n");
    let node = development().args(["--config", file.path()]).start_ready().await;
    let mut answers = WsClient::connect(&node.url("news")).await;
    let silent = WsClient::connect(&node.url("news")).await;
    // Reading answers the pings; who does not read is silent.
    let reads = async {
        loop {
            answers.next().await;
        }
    };
    let closed = async {
        let closes = async || node.metrics().await.sum_where("clarion_closes_total", "3012") >= 1.0;
        eventually("the silent one is closed", closes).await;
    };
    tokio::select! {
        () = reads => {}
        () = closed => {}
    }
    let mut silent = silent;
    assert_eq!(silent.closed().await.0, 3012);
    say(&node, "news", "still here").await;
    assert_eq!(answers.text().await, "still here");
}

#[tokio::test]
async fn a_flood_of_heads_is_answered() {
    let node = development().start_ready().await;
    let large = http().get(node.url("news")).header("x-large", "x".repeat(1_000_000));
    let long = http().get(node.url(&"x".repeat(70_000)));
    for request in [large, long] {
        // The node may close before it has read everything; then there is no answer.
        if let Ok(response) = request.send().await {
            assert!(matches!(response.status().as_u16(), 400 | 413 | 414 | 431), "{}", response.status());
        }
    }
    assert_eq!(Reply::get(&node.admin_url("/health/live")).await.code(), 200);
}

/// An event stream that is asked for and never read, with more on its way to it than the kernel holds.
async fn unread_stream(node: &BrokerProcess) -> TcpStream {
    let mut stream = TcpStream::connect(node.addr()).await.expect("the node listens");
    let request = format!("GET /news HTTP/1.1\r\nHost: {}\r\nAccept: text/event-stream\r\n\r\n", node.addr());
    stream.write_all(request.as_bytes()).await.expect("the request is sent");
    eventually("it is let in", async || node.metrics().await.sum("clarion_connections") == 1.0).await;
    while node.metrics().await.sum("clarion_connections") == 1.0 {
        for _ in 0..20 {
            say(node, "news", &"x".repeat(60_000)).await;
        }
    }
    stream
}

/// Whether the node's end of a connection is still there, by the kernel's own list.
#[cfg(target_os = "linux")]
fn is_held(node: &BrokerProcess, stream: &TcpStream) -> bool {
    let ours = stream.local_addr().expect("it is connected").port();
    let ends = format!(":{:04X} 0100007F:{ours:04X} 01", node.addr().port());
    std::fs::read_to_string("/proc/net/tcp").expect("Linux has this list").contains(&ends)
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_stream_that_is_not_read_is_cut() {
    let file = ConfigFile::new("[limits]\noutbox = \"256KiB\"\nping = \"3s\"\npong = \"2s\"\n");
    let node = development().args(["--config", file.path()]).start_ready().await;
    let stream = unread_stream(&node).await;
    eventually("its socket is closed", async || !is_held(&node, &stream)).await;
}

#[tokio::test]
async fn a_stream_that_is_not_read_does_not_hold_a_leaving_node() {
    let file = ConfigFile::new("[limits]\noutbox = \"256KiB\"\n[drain]\nwait = \"100ms\"\ndeadline = \"5m\"\n");
    let mut node = development().args(["--config", file.path()]).start_ready().await;
    let _stream = unread_stream(&node).await;
    node.sigterm();
    assert_eq!(node.ended().await, Some(0));
}
