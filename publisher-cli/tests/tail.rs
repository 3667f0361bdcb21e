//! Following a broker's doors, against servers that do what brokers do on their bad days.

mod support;

use std::sync::Arc;

use clarion_testkit::{Certificates, within};
use futures_util::{SinkExt, StreamExt};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use serde_json::json;
use support::{Running, clarion, run};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::TlsAcceptor;
use tokio_tungstenite::{
    WebSocketStream, accept_hdr_async,
    tungstenite::{
        Message,
        handshake::server::{Request, Response},
        protocol::CloseFrame,
    },
};

/// A door that a test opens and closes by hand.
struct Door {
    listener: TcpListener,
    url: String,
}

impl Door {
    async fn open() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a loopback port can be had");
        let url = format!("http://{}", listener.local_addr().expect("a bound socket has an address"));
        Self { listener, url }
    }

    async fn accept(&self) -> TcpStream {
        within("a connection", self.listener.accept()).await.expect("it can be accepted").0
    }

    /// Takes a WebSocket, and passes on its path and its token.
    #[allow(clippy::result_large_err)]
    async fn websocket(&self) -> (WebSocketStream<TcpStream>, String, Option<String>) {
        let stream = self.accept().await;
        let (mut path, mut token) = (String::new(), None);
        let look = |request: &Request, response: Response| {
            path = request.uri().to_string();
            token = request.headers().get("authorization").map(|value| value.to_str().expect("it is text").to_owned());
            Ok(response)
        };
        let socket = within("a handshake", accept_hdr_async(stream, look)).await.expect("it is a WebSocket");
        (socket, path, token)
    }

    /// Takes a request, answers it with this head and body, and passes on what was asked.
    async fn answer(&self, answer: &str) -> (TcpStream, String) {
        let mut stream = self.accept().await;
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(within("a request", stream.read_u8()).await.expect("the request is whole"));
        }
        stream.write_all(answer.as_bytes()).await.expect("it still listens");
        (stream, String::from_utf8(head).expect("a head is text"))
    }
}

const STREAM: &str = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n";

fn close(code: u16, reason: &str) -> Message {
    Message::Close(Some(CloseFrame { code: code.into(), reason: reason.into() }))
}

#[tokio::test]
async fn a_websocket_frame_is_a_line() {
    let door = Door::open().await;
    let mut command = clarion(["tail", "orders/e u", "--count", "3", "--via", &door.url]);
    command.env("CLARION_TOKEN", "t.t.t");
    let mut tail = Running::start(command);
    let (mut socket, path, token) = door.websocket().await;
    assert_eq!((path.as_str(), token.as_deref()), ("/orders/e%20u", Some("Bearer t.t.t")));
    assert!(tail.note("listening to").await.contains("orders/e u"));
    for message in
        [Message::text("one"), Message::Ping(vec![1].into()), Message::binary(&b"two"[..]), Message::text("")]
    {
        socket.send(message).await.unwrap();
    }
    assert_eq!([tail.line().await, tail.line().await, tail.line().await], ["one", "two", ""]);
    assert_eq!(tail.ended().await, 0);
    let mut said = Vec::new();
    while let Some(Ok(message)) = within("what the client says", socket.next()).await {
        said.push(message);
    }
    assert!(said.iter().any(Message::is_pong) && said.iter().any(Message::is_close), "{said:?}");
}

#[tokio::test]
async fn a_lost_connection_is_made_again() {
    let door = Door::open().await;
    let mut tail = Running::start(clarion(["tail", "news", "--json", "--via", &door.url]));
    let (mut socket, ..) = door.websocket().await;
    socket.send(Message::text("before")).await.unwrap();
    assert_eq!(tail.line().await, r#"{"channel":"news","text":"before"}"#);
    socket.send(close(1012, "restart")).await.unwrap();
    tail.note("1012 restart").await;
    let (mut socket, ..) = door.websocket().await;
    socket.send(Message::text("{\"after\":\n1}")).await.unwrap();
    assert_eq!(tail.line().await, r#"{"channel":"news","data":{"after": 1}}"#);
    drop(socket);
    let (_socket, ..) = door.websocket().await;
}

#[tokio::test]
async fn a_close_for_good_ends_it() {
    for (code, exit) in [(1000, 0), (3500, 77), (3505, 69)] {
        let door = Door::open().await;
        let tail = Running::start(clarion(["tail", "news", "--via", &door.url]));
        let (mut socket, ..) = door.websocket().await;
        socket.send(close(code, "words")).await.unwrap();
        assert_eq!(tail.ended().await, exit, "{code}");
    }
}

#[tokio::test]
async fn once_is_once() {
    let door = Door::open().await;
    let mut tail = Running::start(clarion(["tail", "news", "--once", "--via", &door.url]));
    let (socket, ..) = door.websocket().await;
    tail.note("listening to").await;
    drop(socket);
    assert_eq!(tail.ended().await, 69);
    for door in ["ws", "sse"] {
        run(clarion(["tail", "news", "--once", "--door", door, "--via", "http://127.0.0.1:1"])).await.expect(69);
    }
}

#[tokio::test]
async fn a_refusal_is_told_and_not_tried_again() {
    let body = r#"{"error":{"code":"unauthorized","message":"the token has expired"}}"#;
    let answer = format!("HTTP/1.1 401 X\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    for way in ["ws", "sse"] {
        let door = Door::open().await;
        let mut tail = Running::start(clarion(["tail", "users/42", "--door", way, "--via", &door.url]));
        let _stream = door.answer(&answer).await;
        tail.note("the token has expired").await;
        assert_eq!(tail.ended().await, 77, "{way}");
    }
}

#[tokio::test]
async fn an_overloaded_broker_is_given_time() {
    for way in ["ws", "sse"] {
        let door = Door::open().await;
        let mut tail = Running::start(clarion(["tail", "news", "--door", way, "--via", &door.url]));
        let _stream =
            door.answer("HTTP/1.1 503 X\r\nretry-after: 1\r\nconnection: close\r\ncontent-length: 0\r\n\r\n").await;
        let note = tail.note("trying again in").await;
        assert!(note.contains("trying again in 1."), "{note}");
        door.accept().await;
    }
}

#[tokio::test]
async fn a_redirect_leads_home() {
    let (stray, home) = (Door::open().await, Door::open().await);
    let mut command = clarion(["tail", "users/42", "--count", "1", "--via", &stray.url]);
    command.env("CLARION_TOKEN", "t.t.t");
    let mut tail = Running::start(command);
    let location = home.url.replace("http", "ws");
    let answer = format!("HTTP/1.1 307 X\r\nlocation: {location}/users/42\r\ncontent-length: 0\r\n\r\n");
    let _stream = stray.answer(&answer).await;
    let (mut socket, path, token) = home.websocket().await;
    assert_eq!((path.as_str(), token.as_deref()), ("/users/42", Some("Bearer t.t.t")));
    socket.send(Message::text("home")).await.unwrap();
    assert_eq!(tail.line().await, "home");
    assert_eq!(tail.ended().await, 0);
}

#[tokio::test]
async fn an_event_is_a_message_and_its_id_is_where_to_go_on() {
    let door = Door::open().await;
    let mut tail = Running::start(clarion(["tail", "news", "--door", "sse", "--via", &door.url]));
    let (mut stream, head) = door.answer(STREAM).await;
    assert!(head.starts_with("GET /news ") && head.contains("accept: text/event-stream"), "{head}");
    tail.note("listening to").await;
    stream.write_all(b": hello\n\nid: e:7\ndata: one\ndata: two\n\nretry: 10\n\n").await.unwrap();
    assert_eq!([tail.line().await, tail.line().await], ["one", "two"]);
    drop(stream);
    let (_stream, head) = door.answer(STREAM).await;
    assert!(head.contains("last-event-id: e:7"), "{head}");
}

#[tokio::test]
async fn many_channels_come_with_their_names() {
    let door = Door::open().await;
    let mut tail = Running::start(clarion(["tail", "a", "b/**", "--count", "3", "--via", &door.url]));
    let (mut stream, head) = door.answer(STREAM).await;
    assert!(head.starts_with("GET /events?channel=a&channel=b%2F** "), "{head}");
    for event in [
        json!({"channel": "a", "text": "x"}),
        json!({"channel": "b/c", "data": [1]}),
        json!({"channel": "b", "base64": "aGk="}),
    ] {
        stream.write_all(format!("data: {event}\n\n").as_bytes()).await.unwrap();
    }
    assert_eq!([tail.line().await, tail.line().await, tail.line().await], ["a\tx", "b/c\t[1]", "b\thi"]);
    assert_eq!(tail.ended().await, 0);
}

#[tokio::test]
async fn me_is_a_door() {
    let door = Door::open().await;
    let _tail = Running::start(clarion(["tail", "--me", "--via", &door.url]));
    let (_socket, path, _) = door.websocket().await;
    assert_eq!(path, "/me");
}

#[tokio::test]
async fn tls_reaches_the_broker() {
    let certificates = Certificates::generate();
    let door = Door::open().await;
    let acceptor = acceptor(&certificates);
    let url = door.url.replace("http://127.0.0.1", "https://localhost");
    let ca = certificates.ca().display().to_string();
    let mut tail = Running::start(clarion(["tail", "news", "--count", "1", "--via", &url, "--ca-file", &ca]));
    let stream = within("TLS", acceptor.accept(door.accept().await)).await.unwrap();
    let mut socket = within("a handshake", tokio_tungstenite::accept_async(stream)).await.unwrap();
    socket.send(Message::text("secret")).await.unwrap();
    assert_eq!(tail.line().await, "secret");
    let publish = Running::start(clarion(["publish", "news", "x", "--via", &url, "--ca-file", &ca]));
    let mut stream = within("TLS", acceptor.accept(door.accept().await)).await.unwrap();
    let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n{\"id\":\"1\"}";
    stream.write_all(answer).await.unwrap();
    assert_eq!(publish.ended().await, 0);
    let stranger = Running::start(clarion(["publish", "news", "x", "--via", &url]));
    assert!(within("TLS", acceptor.accept(door.accept().await)).await.is_err());
    assert_eq!(stranger.ended().await, 69);
}

fn acceptor(certificates: &Certificates) -> TlsAcceptor {
    // The only failure is that another test of this process was faster.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let chain = CertificateDer::pem_file_iter(certificates.server_cert()).expect("the file is there");
    let key = PrivateKeyDer::from_pem_file(certificates.server_key()).expect("the file holds a key");
    let config = rustls::ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(chain.map(|der| der.expect("the file holds certificates")).collect(), key)
        .expect("they go together");
    TlsAcceptor::from(Arc::new(config))
}

#[tokio::test]
async fn it_ends_quietly_when_nobody_reads() {
    let door = Door::open().await;
    let mut tail = Running::start(clarion(["tail", "news", "--via", &door.url]));
    let (mut socket, ..) = door.websocket().await;
    tail.note("listening to").await;
    tail.close_output();
    while socket.send(Message::text("x")).await.is_ok() {
        tokio::task::yield_now().await;
    }
    assert_eq!(tail.ended().await, 0);
}
