//! The doors: what comes in by each of them, and what those get who are not let in.

mod nodes;

use std::time::Duration;

use clarion_broker::{
    config::Config,
    server::{self, CannotListen, Shutdown},
};
use clarion_protocol::limits;
use clarion_testkit::{JwtKey, Reply, SseClient, SseItem, WsClient, WsItem, eventually, http, in_seconds, within};
use nodes::{KEY, TestNode, keyed, token};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

async fn publish(node: &TestNode, channel: &str, payload: &str) {
    let reply = Reply::post(&node.url(&format!("/{channel}")), "text/plain", payload.to_owned()).await;
    assert_eq!(reply.code(), 200, "{}", reply.text());
}

async fn ws_refused(url: &str) -> (u16, String) {
    let refused = WsClient::request(url).connect().await.expect_err("it is refused");
    let body: serde_json::Value = serde_json::from_str(&refused.body).expect("the body is JSON");
    (refused.status, body["error"]["code"].as_str().expect("it names the error").to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn every_door_hears_what_is_published() {
    let node = TestNode::start().await;
    let mut plain = WsClient::connect(&node.url("/orders/eu")).await;
    let mut children = WsClient::connect(&node.url("/orders/*")).await;
    let mut below = WsClient::connect(&node.url("/orders/**")).await;
    let mut events = SseClient::connect(&node.url("/orders/eu")).await.unwrap();
    let mut many = SseClient::connect(&node.url("/events?channel=orders/**&channel=news")).await.unwrap();
    publish(&node, "orders/eu", "one\ntwo").await;
    publish(&node, "orders/eu/west", "three").await;
    publish(&node, "news", r#"{"n":1}"#).await;
    publish(&node, "orders/us", "four").await;
    publish(&node, "orders/eu", "last").await;
    assert_eq!([plain.text().await, plain.text().await], ["one\ntwo", "last"]);
    assert_eq!([children.text().await, children.text().await, children.text().await], ["one\ntwo", "four", "last"]);
    for expected in ["one\ntwo", "three", "four", "last"] {
        assert_eq!(below.text().await, expected);
    }
    assert_eq!([events.data().await, events.data().await], ["one\ntwo", "last"]);
    for expected in [
        json!({ "channel": "orders/eu", "text": "one\ntwo" }),
        json!({ "channel": "orders/eu/west", "text": "three" }),
        json!({ "channel": "news", "data": { "n": 1 } }),
        json!({ "channel": "orders/us", "text": "four" }),
    ] {
        assert_eq!(serde_json::from_str::<serde_json::Value>(&many.data().await).unwrap(), expected);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_that_are_no_text_arrive_unchanged() {
    let node = TestNode::start().await;
    let mut socket = WsClient::connect(&node.url("/raw")).await;
    let mut many = SseClient::connect(&node.url("/events?channel=raw")).await.unwrap();
    let bytes = b"\xff\0\x80";
    Reply::post(&node.url("/raw"), "application/octet-stream", bytes.to_vec()).await;
    assert_eq!(&socket.binary().await[..], bytes);
    assert_eq!(many.data().await, r#"{"channel":"raw","base64":"/wCA"}"#);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_stream_is_neither_kept_nor_held_back() {
    let node = TestNode::start().await;
    let mut events = SseClient::connect(&node.url("/news")).await.unwrap();
    let header = |name: &str| events.headers().get(name).map(|value| value.to_str().unwrap().to_owned());
    assert_eq!(header("content-type").as_deref(), Some("text/event-stream"));
    assert_eq!(header("cache-control").as_deref(), Some("no-store"));
    assert_eq!(header("x-accel-buffering").as_deref(), Some("no"));
    assert!(matches!(events.next().await, SseItem::Retry(pause) if pause < Duration::from_secs(10)));
    let head = http().head(node.url("/news")).header("accept", "text/event-stream");
    assert_eq!(Reply::of(head).await.header("content-type"), Some("text/event-stream"));
}

#[tokio::test(flavor = "multi_thread")]
async fn me_is_the_signed_in_user_and_broadcast() {
    let node = TestNode::start().await;
    let mine = node.url(&format!("/me?token={}", token("42")));
    let mut socket = WsClient::connect(&mine).await;
    let mut events = SseClient::connect(&mine).await.unwrap();
    publish(&node, "users/7", "not for 42").await;
    publish(&node, "users/42", "for you").await;
    publish(&node, "broadcast", "for all").await;
    assert_eq!([socket.text().await, socket.text().await], ["for you", "for all"]);
    assert_eq!([events.data().await, events.data().await], ["for you", "for all"]);
    assert_eq!(ws_refused(&node.url("/me")).await, (401, "token_required".to_owned()));
    let stranger = SseClient::connect(&node.url("/me")).await.unwrap_err();
    assert_eq!(stranger.code(), 401);
    assert!(stranger.header("www-authenticate").unwrap().starts_with("Bearer"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_users_channels_are_his_alone() {
    let node = TestNode::start().await;
    let query = format!("?token={}", token("7"));
    for path in ["/users/42", "/users/42/**", "/users/42/orders", "/users/*", "/users/**"] {
        assert_eq!(ws_refused(&node.url(&format!("{path}{query}"))).await.0, 403, "{path}");
        assert_eq!(SseClient::connect(&node.url(&format!("{path}{query}"))).await.unwrap_err().code(), 403, "{path}");
    }
    assert_eq!(ws_refused(&node.url("/users/42")).await.0, 401);
    let mut own = WsClient::connect(&node.url(&format!("/users/7/**{query}"))).await;
    publish(&node, "users/7/orders", "yours").await;
    assert_eq!(own.text().await, "yours");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_token_is_refused_even_where_none_is_needed() {
    let node = TestNode::start().await;
    let expired = JwtKey::hs256("development").sign(&json!({ "sub": "42", "exp": in_seconds(-3600) }));
    let forged = JwtKey::hs256("guessed").token("42");
    for bad in [expired.as_str(), forged.as_str(), "rubbish"] {
        assert_eq!(ws_refused(&node.url(&format!("/news?token={bad}"))).await.0, 401);
        let header = http().post(node.url("/news")).bearer_auth(bad).body("x");
        assert_eq!(Reply::of(header).await.code(), 401);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_may_come_as_a_sub_protocol() {
    let node = TestNode::start().await;
    let bearer = format!("bearer.{}", token("42"));
    let request = WsClient::request(&node.url("/users/42")).subprotocols(&["clarion.v1", &bearer]);
    let mut socket = request.connect().await.unwrap();
    assert_eq!(socket.subprotocol(), Some("clarion.v1"));
    publish(&node, "users/42", "hello").await;
    assert_eq!(socket.text().await, "hello");
    let extended = WsClient::request(&node.url("/news")).header("sec-websocket-extensions", "permessage-deflate");
    assert!(extended.connect().await.unwrap().headers().get("sec-websocket-extensions").is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_door_and_no_channel() {
    let node = TestNode::start().await;
    for (path, status, code, says) in [
        ("/news", 406, "not_acceptable", "text/event-stream"),
        ("/orders/*", 406, "not_acceptable", "WebSocket"),
        ("/a//b", 400, "bad_channel", "at byte 2"),
        ("/a/%00b", 400, "bad_channel", "at byte 2"),
        ("/a%2Fb", 400, "bad_channel", "%2F is refused"),
        ("/a/%zz", 400, "bad_channel", "hexadecimal"),
        ("/a/%ff", 400, "bad_channel", "UTF-8"),
        ("/**", 400, "bad_channel", "at least one segment"),
        ("/a/*/b", 400, "bad_channel", "'*'"),
        ("/sockjs/news", 404, "reserved", "robots.txt"),
        ("/_clarion_x", 404, "reserved", "_clarion"),
        ("/metrics", 404, "reserved", "metrics"),
        ("/events", 400, "no_channel", "channel=news"),
    ] {
        let accept = if status == 406 { "*/*" } else { "text/event-stream" };
        let reply = Reply::of(http().get(node.url(path)).header("accept", accept)).await;
        assert_eq!(reply.code(), status, "{path}");
        let error = &reply.json()["error"];
        assert_eq!(error["code"], code, "{path}");
        assert!(error["message"].as_str().unwrap().contains(says), "{path}: {error}");
    }
    let many: String = (0..=limits::CHANNELS_PER_CONNECTION).map(|n| format!("&channel=c{n}")).collect();
    let reply = SseClient::connect(&node.url(&format!("/events?{many}"))).await.unwrap_err();
    assert_eq!((reply.code(), &reply.json()["error"]["code"]), (400, &json!("too_many_channels")));
    let most: String = (0..limits::CHANNELS_PER_CONNECTION).map(|n| format!("&channel=c{n}")).collect();
    SseClient::connect(&node.url(&format!("/events?{most}"))).await.unwrap();
    assert_eq!(ws_refused(&node.url("/events?channel=a")).await, (400, "event_stream_only".to_owned()));
    let put = Reply::of(http().put(node.url("/news"))).await;
    assert_eq!(put.code(), 405);
    assert!(put.header("allow").unwrap().contains("POST"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handshake_is_checked() {
    let node = TestNode::start().await;
    let handshake = |version: &str, key: &str| {
        let request = http().get(node.url("/news")).header("connection", "upgrade").header("upgrade", "websocket");
        request.header("sec-websocket-version", version).header("sec-websocket-key", key)
    };
    let old = Reply::of(handshake("8", "dGhlIHNhbXBsZSBub25jZQ==")).await;
    assert_eq!((old.code(), old.header("sec-websocket-version")), (426, Some("13")));
    assert_eq!(Reply::of(handshake("13", "short")).await.code(), 400);
}

/// A handshake for `/news` as bytes.
fn handshake(node: &TestNode) -> String {
    format!(
        "GET /news HTTP/1.1\r\nhost: {}\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
         sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        node.running.listen
    )
}

async fn read_until(socket: &mut TcpStream, end: &[u8]) -> Vec<u8> {
    let mut read = Vec::new();
    within("bytes", async {
        while !read.ends_with(end) {
            assert_ne!(socket.read_buf(&mut read).await.expect("no error"), 0, "{}", String::from_utf8_lossy(&read));
        }
    })
    .await;
    read
}

/// What a client sends in one packet with its handshake is not lost on the way from hyper to the shard.
#[tokio::test(flavor = "multi_thread")]
async fn frames_right_behind_the_handshake_are_read() {
    let node = TestNode::start().await;
    let mut socket = TcpStream::connect(node.running.listen).await.unwrap();
    let ping = [0x81, 0x84, 0, 0, 0, 0, b'p', b'i', b'n', b'g'];
    socket.write_all(&[handshake(&node).as_bytes(), &ping].concat()).await.unwrap();
    let answer = read_until(&mut socket, b"\x81\x04pong").await;
    assert!(answer.starts_with(b"HTTP/1.1 101 "));
    assert!(String::from_utf8_lossy(&answer).to_lowercase().contains("s3pplmbitxaq9kygzzhzrbk+xoo="));
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_publish_where_they_may() {
    let node = TestNode::start().await;
    let mut speaker = WsClient::connect(&node.url("/room")).await;
    let mut listener = SseClient::connect(&node.url("/room")).await.unwrap();
    for n in 0..100 {
        speaker.send_text(&format!("say {n}")).await;
    }
    for n in 0..100 {
        assert_eq!(listener.data().await, format!("say {n}"));
        assert_eq!(speaker.text().await, format!("say {n}"));
    }
    speaker.send_text("ping").await;
    assert_eq!(speaker.text().await, "pong");
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_are_not_heard_where_only_backends_publish() {
    let node = TestNode::with(keyed).await;
    let mut speaker = WsClient::connect(&node.url("/room")).await;
    speaker.send_text("nobody hears this").await;
    speaker.send_text("ping").await;
    assert_eq!(speaker.text().await, "pong");
    let send = http().post(node.url("/room")).header("x-api-key", KEY).body("from the backend");
    assert_eq!(Reply::of(send).await.code(), 200);
    assert_eq!(speaker.text().await, "from the backend");
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_of_other_origins_need_to_be_on_the_list() {
    let node = TestNode::with(|config| config.auth.origins = vec!["https://app.example.org".parse().unwrap()]).await;
    let preflight = |origin: &str| {
        let request = http().request(reqwest::Method::OPTIONS, node.url("/news")).header("origin", origin);
        request.header("access-control-request-method", "POST").header("access-control-request-headers", "x-api-key")
    };
    let allowed = Reply::of(preflight("https://app.example.org")).await;
    assert_eq!(allowed.code(), 204);
    assert_eq!(allowed.header("access-control-allow-origin"), Some("https://app.example.org"));
    assert_eq!(allowed.header("access-control-allow-credentials"), Some("true"));
    assert!(allowed.header("access-control-allow-headers").unwrap().contains("x-api-key"));
    assert!(allowed.header("access-control-allow-methods").unwrap().contains("POST"));
    let refused = Reply::of(preflight("https://evil.example.org")).await;
    assert_eq!((refused.code(), refused.header("access-control-allow-origin")), (403, None));

    let with = |origin| WsClient::request(&node.url("/news")).header("origin", origin).connect();
    assert!(with("https://app.example.org").await.is_ok());
    assert_eq!(with("https://evil.example.org").await.unwrap_err().status, 403);
    let post = http().post(node.url("/news")).header("origin", "https://app.example.org").body("x");
    let answer = Reply::of(post).await;
    assert_eq!(answer.code(), 200);
    assert_eq!(answer.header("access-control-allow-origin"), Some("https://app.example.org"));
    assert_eq!(answer.header("vary"), Some("origin"));
    let stray = Reply::of(http().post(node.url("/news")).header("origin", "https://evil.example.org").body("x")).await;
    assert_eq!(stray.code(), 403);
}

#[tokio::test(flavor = "multi_thread")]
async fn development_mode_is_for_this_machine() {
    let node = TestNode::start().await;
    let foreign = http().post(node.url("/news")).header("host", "evil.example.org").body("x");
    assert_eq!(Reply::of(foreign).await.code(), 403);
    let page = http().post(node.url("/news")).header("origin", "https://evil.example.org").body("x");
    assert_eq!(Reply::of(page).await.code(), 403);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_is_there_in_development_mode_only() {
    let node = TestNode::start().await;
    let page = Reply::get(&node.url("/")).await;
    assert_eq!(page.code(), 200);
    assert!(page.header("content-security-policy").unwrap().starts_with("default-src 'none'"));
    assert!(page.text().contains(r#"data-prefix="clarion""#) && !page.text().contains("{{"));
    assert!(!page.text().contains("https://"), "nothing is fetched from elsewhere");
    for (file, kind) in [("page.js", "text/javascript"), ("page.css", "text/css")] {
        let asset = Reply::get(&node.url(&format!("/assets/{file}"))).await;
        assert_eq!(asset.code(), 200);
        assert!(asset.header("content-type").unwrap().starts_with(kind));
    }
    for absent in ["none.js", "..%2f..%2fCargo.toml", "index.html"] {
        assert_eq!(Reply::get(&node.url(&format!("/assets/{absent}"))).await.code(), 404, "{absent}");
    }
    let node = TestNode::with(keyed).await;
    assert_eq!(Reply::get(&node.url("/")).await.json()["name"], "clarion");
    assert_eq!(Reply::get(&node.url("/assets/page.js")).await.code(), 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_bus_sockets_stay_and_newcomers_are_told_to_come_back() {
    let node = TestNode::start().await;
    let mut socket = WsClient::connect(&node.url("/news")).await;
    let mut events = SseClient::connect(&node.url("/news")).await.unwrap();
    node.bus.cut();
    let refused = WsClient::request(&node.url("/news")).connect().await.unwrap_err();
    assert_eq!(refused.status, 503);
    assert!(refused.headers["retry-after"].to_str().unwrap().parse::<u32>().unwrap() >= 1);
    let mut stream = SseClient::connect(&node.url("/news")).await.unwrap();
    assert!(matches!(stream.next().await, SseItem::Retry(_)));
    assert_eq!(stream.next().await, SseItem::End);
    let publication = Reply::post_data(&node.url("/news"), "lost").await;
    assert_eq!((publication.code(), &publication.json()["error"]["code"]), (503, &json!("bus_unavailable")));
    assert!(publication.header("retry-after").is_some());
    node.bus.heal();
    eventually("the bus takes messages again", async || {
        Reply::post_data(&node.url("/news"), "back").await.code() == 200
    })
    .await;
    assert_eq!(socket.text().await, "back");
    assert!(matches!(events.next().await, SseItem::Retry(_)));
    assert_eq!(events.data().await, "back");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leaving_node_says_goodbye() {
    let node = TestNode::start().await;
    let mut socket = WsClient::connect(&node.url("/news")).await;
    let mut events = SseClient::connect(&node.url("/news")).await.unwrap();
    publish(&node, "news", "before").await;
    node.shutdown.cancel();
    assert_eq!(socket.text().await, "before");
    assert_eq!(socket.closed().await, (1012, "restart".to_owned()));
    assert!(matches!(events.next().await, SseItem::Retry(_)));
    assert_eq!(events.data().await, "before");
    assert!(matches!(events.next().await, SseItem::Retry(_)));
    assert_eq!(events.next().await, SseItem::End);
    let address = node.running.listen;
    within("the end", node.running.wait()).await.unwrap();
    assert!(TcpStream::connect(address).await.is_err());
}

/// A client that never answers the goodbye keeps the node waiting, and whoever asks how it is gets an answer meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn a_leaving_node_still_answers_operators() {
    let node = TestNode::start().await;
    let mut socket = TcpStream::connect(node.running.listen).await.unwrap();
    socket.write_all(handshake(&node).as_bytes()).await.unwrap();
    read_until(&mut socket, b"\r\n\r\n").await;
    node.shutdown.cancel();
    assert_eq!(read_until(&mut socket, b"restart").await, b"\x88\x09\x03\xf4restart");
    let health = async |what| Reply::get(&format!("http://{}/health/{what}", node.running.admin)).await.code();
    assert_eq!((health("live").await, health("ready").await), (200, 503));
}

#[tokio::test(flavor = "multi_thread")]
async fn too_many_at_once_are_told_to_come_back() {
    let node = TestNode::with(|config| config.limits.accepts_per_second = 3).await;
    let mut told = false;
    for _ in 0..50 {
        match WsClient::request(&node.url("/news")).connect().await {
            Ok(_) => {}
            Err(refused) => {
                assert_eq!(refused.status, 503);
                assert!(refused.headers.contains_key("retry-after"));
                let mut stream = SseClient::connect(&node.url("/news")).await.unwrap();
                told |= matches!(stream.next().await, SseItem::Retry(_)) && stream.next().await == SseItem::End;
            }
        }
    }
    assert!(told, "a rate of three a second stops 50 that come at once");
    let limited = node.metrics().await.sum_where("clarion_accepts_total", "outcome=\"limited\"");
    assert!(limited >= 1.0, "{limited}");
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_of_one_user_are_limited() {
    let node = TestNode::with(|config| config.limits.per_user = 1).await;
    let mine = node.url(&format!("/me?token={}", token("42")));
    let first = WsClient::connect(&mine).await;
    assert_eq!(ws_refused(&mine).await, (429, "connection_limit".to_owned()));
    drop(first);
    eventually("there is room again", async || WsClient::request(&mine).connect().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn half_a_request_is_not_waited_for() {
    let node = TestNode::with(|config| config.limits.handshake = Duration::from_millis(200)).await;
    let mut socket = TcpStream::connect(node.running.listen).await.unwrap();
    socket.write_all(b"GET /news HTTP/1.1\r\nhost: ").await.unwrap();
    let mut answer = Vec::new();
    within("the end", socket.read_to_end(&mut answer)).await.unwrap();
    assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 408"), "{}", String::from_utf8_lossy(&answer));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_head_has_a_limit() {
    let node = TestNode::start().await;
    let large = http().get(node.url("/")).header("x-large", "x".repeat(70_000));
    assert_eq!(Reply::of(large).await.code(), 431);
    let usual = http().get(node.url("/")).header("x-cookies", "x".repeat(30_000));
    assert_eq!(Reply::of(usual).await.code(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_in_use_is_named() {
    let node = TestNode::start().await;
    let config = Config { listen: node.running.listen, ..Config::default() };
    let error = server::start(config, Shutdown::new()).await.err().unwrap();
    assert!(error.downcast_ref::<CannotListen>().is_some());
    assert!(error.to_string().contains(&node.running.listen.to_string()), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn open_connections_are_counted_by_door() {
    let node = TestNode::start().await;
    let socket = WsClient::connect(&node.url("/news")).await;
    let events = SseClient::connect(&node.url("/news")).await.unwrap();
    let doors = async || {
        let metrics = node.metrics().await;
        ["websocket", "sse"].map(|door| metrics.sum_where("clarion_connections", &format!("door=\"{door}\"")))
    };
    assert_eq!(doors().await, [1.0, 1.0]);
    drop((socket, events));
    eventually("both are gone", async || if doors().await == [0.0, 0.0] { Ok(()) } else { Err(doors().await) }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_closed_socket_is_told_why() {
    let node = TestNode::start().await;
    let mut socket = WsClient::connect(&node.url(&format!("/me?token={}", token("42")))).await;
    // A node that has just begun does not know yet whether it is alone, and says so.
    let answer = node.rpc("disconnect", json!({ "user": "42" })).await;
    assert!(answer["result"].is_object(), "{answer}");
    assert_eq!(socket.next().await, WsItem::Close(3503, "disconnected".to_owned()));
}
