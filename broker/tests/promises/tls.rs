//! TLS in the node: the same promises over it, and what becomes of certificates, of clients that break it, and of those
//! that speak none.

use std::{net::SocketAddr, os::unix::fs::symlink, path::Path, sync::Arc};

use clarion_testkit::{
    BrokerBuilder, BrokerProcess, Certificates, Reply, WsClient, WsItem, WsRefused, eventually, https, tls, trusting,
    within,
};
use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion, pki_types::pem::PemObject as _, version};
use serde_json::json;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::{ConfigFile, development};

/// A node with TLS in development mode.
struct Secure {
    node: BrokerProcess,
    certificates: Certificates,
}

fn secured(certificates: &Certificates) -> BrokerBuilder {
    development()
        .env("CLARION_TLS_CERTIFICATE", path(&certificates.server_cert()))
        .env("CLARION_TLS_KEY", path(&certificates.server_key()))
}

fn path(path: &Path) -> &str {
    path.to_str().expect("temporary files have plain names")
}

impl Secure {
    async fn start(toml: &str) -> Self {
        let (certificates, file) = (Certificates::generate(), ConfigFile::new(toml));
        let node = secured(&certificates).args(["--config", file.path()]).start_ready().await;
        Self { node, certificates }
    }

    fn url(&self, scheme: &str, path: &str) -> String {
        format!("{scheme}://{}/{path}", self.node.addr())
    }

    async fn socket(&self, channel: &str) -> WsClient {
        let request = WsClient::request(&self.url("wss", channel)).trust(&self.certificates.ca());
        request.connect().await.unwrap_or_else(|refused| panic!("{refused:?}"))
    }

    async fn say(&self, channel: &str, body: impl Into<Vec<u8>>) {
        let client = https(&self.certificates.ca());
        let request = client.post(self.url("https", channel)).header("content-type", "application/octet-stream");
        let reply = Reply::of(request.body(body.into())).await;
        assert_eq!(reply.code(), 200, "{}", reply.text());
    }

    async fn handshakes(&self, outcome: &str) -> f64 {
        self.node.metrics().await.sum_where("clarion_tls_handshakes_total", &format!("outcome=\"{outcome}\""))
    }

    async fn until_handshakes(&self, outcome: &str, count: f64) {
        eventually(&format!("{outcome} handshakes are counted"), async || {
            let counted = self.handshakes(outcome).await;
            if (counted - count).abs() < f64::EPSILON { Ok(()) } else { Err(counted) }
        })
        .await;
    }
}

fn speaking(ca: &Path, version: &'static SupportedProtocolVersion) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(rustls::pki_types::CertificateDer::from_pem_file(ca).expect("a certificate")).expect("it can be trusted");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_protocol_versions(&[version]);
    Arc::new(builder.expect("aws-lc-rs has it").with_root_certificates(roots).with_no_client_auth())
}

async fn read_until(stream: &mut (impl AsyncRead + Unpin), end: &[u8]) -> Vec<u8> {
    let mut all = Vec::new();
    let mut searched = 0;
    let read = async {
        while !all[searched..].windows(end.len()).any(|window| window == end) {
            searched = all.len().saturating_sub(end.len());
            let read = stream.read_buf(&mut all).await.expect("it reads on");
            assert_ne!(read, 0, "{} bytes: …{}", all.len(), all[all.len().saturating_sub(200)..].escape_ascii());
        }
    };
    within("what is waited for", read).await;
    all
}

/// A WebSocket handshake by hand, to be followed by whatever a test wants.
fn upgrade(address: SocketAddr, channel: &str) -> Vec<u8> {
    let lines = [
        format!("GET /{channel} HTTP/1.1\r\nhost: {address}\r\nconnection: upgrade\r\nupgrade: websocket"),
        "sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n".to_owned(),
    ];
    lines.join("\r\n").into_bytes()
}

/// A client's frame with a mask of zeros.
fn masked(first: u8, payload: &[u8]) -> Vec<u8> {
    let length = 0x80 | u8::try_from(payload.len()).expect("a short payload");
    [&[first, length, 0, 0, 0, 0][..], payload].concat()
}

#[tokio::test]
async fn messages_of_all_kinds_go_both_ways_in_both_versions() {
    let secure = Secure::start("").await;
    for version in [&version::TLS13, &version::TLS12] {
        let config = speaking(&secure.certificates.ca(), version);
        let request = WsClient::request(&secure.url("wss", "news")).tls(config);
        let mut socket = request.connect().await.expect("it is let in");
        secure.say("news", "text").await;
        assert_eq!(socket.text().await, "text");
        secure.say("news", [0xff, 0, 1]).await;
        assert_eq!(socket.binary().await.as_ref(), [0xff, 0, 1]);
        let large = "x".repeat(64 * 1024);
        secure.say("news", large.clone()).await;
        assert_eq!(socket.text().await, large);
        socket.send_text(&large).await;
        assert_eq!(socket.text().await, large, "what a client sends is published in development mode");
        socket.send_text("ping").await;
        assert_eq!(socket.text().await, "pong");
        socket.send_ping(b"are you there").await;
        assert_eq!(socket.next().await, WsItem::Pong("are you there".into()));
        socket.send_close(1000, "").await;
        assert_eq!(socket.closed().await.0, 1000);
    }
}

#[tokio::test]
async fn many_messages_at_once_keep_their_order() {
    let secure = Secure::start("").await;
    let mut sockets = Vec::new();
    for _ in 0..20 {
        sockets.push(secure.socket("news").await);
    }
    let client = https(&secure.certificates.ca());
    for batch in 0..4 {
        let messages: Vec<_> =
            (0..1000).map(|number| json!({ "channel": "news", "text": (batch * 1000 + number).to_string() })).collect();
        let reply = Reply::of(client.post(secure.url("https", "api/batch")).json(&messages)).await;
        assert_eq!(reply.code(), 200, "{}", reply.text());
    }
    for socket in &mut sockets {
        for number in 0..4000 {
            assert_eq!(socket.text().await, number.to_string());
        }
    }
}

#[tokio::test]
async fn event_streams_and_the_page_come_over_tls() {
    let secure = Secure::start("").await;
    let mut stream = tls(secure.node.addr(), trusting(&secure.certificates.ca())).await.expect("it shakes hands");
    let request = format!("GET /news HTTP/1.1\r\nhost: {}\r\naccept: text/event-stream\r\n\r\n", secure.node.addr());
    stream.write_all(request.as_bytes()).await.expect("it is sent");
    read_until(&mut stream, b"\r\n\r\n").await;
    secure.say("news", "hello").await;
    read_until(&mut stream, b"data: hello").await;
    let page = Reply::of(https(&secure.certificates.ca()).get(secure.url("https", ""))).await;
    assert_eq!(page.code(), 200);
}

#[tokio::test]
async fn what_is_said_in_one_breath_with_the_handshake_is_heard() {
    let secure = Secure::start("").await;
    for version in [&version::TLS13, &version::TLS12] {
        let config = speaking(&secure.certificates.ca(), version);
        let mut stream = tls(secure.node.addr(), config).await.expect("it shakes hands");
        // All of it in one record: hyper reads the frames together with the request, and hands them on.
        let mut breath = upgrade(secure.node.addr(), "news");
        breath.extend(masked(0x81, b"ping"));
        breath.extend(masked(0x89, b"there?"));
        stream.write_all(&breath).await.expect("it is sent");
        stream.flush().await.expect("all of it is sent");
        let mut answer = read_until(&mut stream, b"\r\n\r\n").await;
        let end = b"\x81\x04pong\x8a\x06there?";
        if !answer.ends_with(end) {
            answer.extend(read_until(&mut stream, b"there?").await);
        }
        assert!(answer.ends_with(end), "{}", String::from_utf8_lossy(&answer));
    }
}

#[tokio::test]
async fn what_follows_in_records_of_its_own_is_heard() {
    let secure = Secure::start("").await;
    let mut stream = tls(secure.node.addr(), trusting(&secure.certificates.ca())).await.expect("it shakes hands");
    stream.write_all(&upgrade(secure.node.addr(), "news")).await.expect("it is sent");
    // Far more than hyper reads ahead: some of it is in hyper, some in the session, some in the socket.
    let frame = masked(0x81, &[b'x'; 100]);
    for number in 0..2000 {
        let first = if number % 2 == 0 { masked(0x89, number.to_string().as_bytes()) } else { frame.clone() };
        stream.write_all(&first).await.expect("it is sent");
    }
    stream.write_all(&masked(0x81, b"ping")).await.expect("it is sent");
    stream.flush().await.expect("all of it is sent");
    let heard = read_until(&mut stream, b"\x81\x04pong").await;
    let pongs = (0..2000).step_by(2).map(|number| {
        let text: String = i32::to_string(&number);
        [&[0x8a, text.len() as u8][..], text.as_bytes()].concat()
    });
    let mut rest = heard.as_slice();
    for pong in pongs {
        let at = rest.windows(pong.len()).position(|window| window == pong);
        rest = &rest[at.unwrap_or_else(|| panic!("{} is missing", String::from_utf8_lossy(&pong))) + pong.len()..];
    }
}

#[tokio::test]
async fn a_slow_reader_is_parted_with_and_costs_no_memory() {
    let secure = Secure::start("[limits]\noutbox = \"256KiB\"\n").await;
    let (mut reader, mut slow) = (secure.socket("news").await, secure.socket("news").await);
    let before = secure.node.memory_used();
    let client = https(&secure.certificates.ca());
    let text = "x".repeat(16 * 1024);
    for _ in 0..200 {
        let messages = vec![json!({ "channel": "news", "text": text }); 8];
        let reply = Reply::of(client.post(secure.url("https", "api/batch")).json(&messages)).await;
        assert_eq!(reply.code(), 200, "{}", reply.text());
        for _ in 0..8 {
            assert_eq!(reader.text().await.len(), text.len());
        }
    }
    assert_eq!(slow.closed().await.0, 3008);
    let grown = secure.node.memory_used().saturating_sub(before);
    assert!(grown < 16 << 20, "{grown} bytes of 25 MiB are still there");
    assert_eq!(secure.node.metrics().await.sum("clarion_outbox_overflows_total"), 1.0);
}

#[tokio::test]
async fn heartbeats_find_those_who_are_gone() {
    let secure = Secure::start("[limits]\nping = \"300ms\"\npong = \"2s\"\n").await;
    let mut alive = secure.socket("news").await;
    let mut silent = tls(secure.node.addr(), trusting(&secure.certificates.ca())).await.expect("it shakes hands");
    silent.write_all(&upgrade(secure.node.addr(), "news")).await.expect("it is sent");
    let mut heard = Vec::new();
    let mut pings = 0;
    tokio::select! {
        // Told so, and hung up on with the goodbye of TLS: without it this would be an error.
        end = within("the silent one is closed", silent.read_to_end(&mut heard)) => drop(end.expect("a goodbye")),
        () = async { loop { pings += usize::from(matches!(alive.next().await, WsItem::Ping(_))) } } => {}
    }
    assert!(heard.windows(2).any(|window| window == b"\x89\0"), "it was pinged");
    assert!(pings >= 2, "{pings}");
    secure.say("news", "still here").await;
    assert_eq!(alive.text().await, "still here");
}

#[tokio::test]
async fn everybody_is_told_when_the_node_leaves() {
    let mut secure = Secure::start("[drain]\nwait = \"100ms\"\nclose_over = \"500ms\"\ndeadline = \"20s\"\n").await;
    let mut sockets = Vec::new();
    for _ in 0..20 {
        sockets.push(secure.socket("news").await);
    }
    // Whoever is still shaking hands holds nobody up.
    let _stalled = TcpStream::connect(secure.node.addr()).await.expect("it is taken");
    secure.say("news", "before").await;
    secure.node.sigterm();
    for socket in &mut sockets {
        assert_eq!(socket.text().await, "before");
        assert_eq!(socket.closed().await, (1012, "restart".to_owned()));
    }
    assert_eq!(secure.node.ended().await, Some(0));
}

#[tokio::test]
async fn a_new_certificate_is_taken_while_connections_stand() {
    // As Kubernetes does it: the paths lead through a link to a directory, which is replaced.
    let certificates = Certificates::generate();
    let at = |name: &str| certificates.path(name);
    let put = |directory: &str, from: &str| {
        std::fs::create_dir(at(directory)).expect("a directory can be made");
        for (name, file) in [("tls.crt", format!("{from}.pem")), ("tls.key", format!("{from}.key"))] {
            std::fs::copy(at(&file), at(directory).join(name)).expect("a file can be copied");
        }
    };
    let link = |directory: &str| {
        symlink(directory, at("next")).expect("a link can be made");
        std::fs::rename(at("next"), at("data")).expect("a link can be replaced");
    };
    certificates.issue_server("second", 2020..=3000);
    certificates.issue_server("third", 2020..=3500);
    put("a", "server");
    link("a");
    let file = ConfigFile::new(&format!(
        "[tls]\ncertificate = {:?}\nkey = {:?}\nreload = \"200ms\"\n",
        at("data/tls.crt"),
        at("data/tls.key")
    ));
    let node = development().args(["--config", file.path()]).start_ready().await;
    let secure = Secure { node, certificates: Certificates::generate() };
    let trusting = || trusting(&at("ca.pem"));
    let url = secure.url("wss", "news");
    let connect = async || WsClient::request(&url).tls(trusting()).connect().await.expect("it is let in");
    let served = async || {
        let stream = tls(secure.node.addr(), trusting()).await.expect("it shakes hands");
        stream.get_ref().1.peer_certificates().expect("a server shows one")[0].to_vec()
    };
    let of = |who: &str| rustls::pki_types::CertificateDer::from_pem_file(at(who)).expect("a certificate").to_vec();
    let mut standing = connect().await;
    assert_eq!(served().await, of("server.pem"));

    put("b", "second");
    link("b");
    eventually("the new one is served", async || served().await == of("second.pem")).await;
    let metrics = secure.node.metrics().await;
    assert_eq!(metrics.sum("clarion_tls_certificate_expiry_timestamp_seconds"), 32_535_129_600.0);
    assert_eq!(metrics.sum_where("clarion_tls_reloads_total", "outcome=\"loaded\""), 1.0);

    // A key that belongs to another certificate: told, counted once, and the pair before stays.
    put("c", "third");
    std::fs::copy(at("server.key"), at("c/tls.key")).expect("a file can be copied");
    link("c");
    eventually("the bad pair is counted", async || {
        secure.node.metrics().await.sum_where("clarion_tls_reloads_total", "outcome=\"failed\"") == 1.0
    })
    .await;
    assert!(secure.node.log().iter().any(|line| line.contains("cannot be used") && line.contains("tls.key")));
    assert_eq!(served().await, of("second.pem"));

    let mut late = connect().await;
    late.send_text("to all").await;
    assert_eq!((standing.text().await, late.text().await), ("to all".to_owned(), "to all".to_owned()));
    put("d", "third");
    link("d");
    eventually("the third one is served", async || served().await == of("third.pem")).await;
    let failed = secure.node.metrics().await.sum_where("clarion_tls_reloads_total", "outcome=\"failed\"");
    assert_eq!(failed, 1.0, "a mistake is told once");
}

#[tokio::test]
async fn mistakes_are_told_at_start() {
    let certificates = Certificates::generate();
    let wrong = [
        ("CLARION_TLS_KEY", path(&certificates.client_key()).to_owned(), "it is that of another"),
        ("CLARION_TLS_KEY", path(&certificates.path("nowhere")).to_owned(), "No such file"),
        ("CLARION_TLS_CERTIFICATE", path(&certificates.server_key()).to_owned(), "there is none in it"),
        ("CLARION_PIN", "relay".to_owned(), "serve or redirect"),
    ];
    for (variable, value, told) in wrong {
        let (code, said) = secured(&certificates).env(variable, &value).start_and_end().await;
        assert_eq!(code, Some(64), "{said}");
        assert!(said.contains(told) && said.contains("remedy: "), "{told}: {said}");
    }
}

#[tokio::test]
async fn whoever_speaks_plain_http_is_told_to_speak_tls() {
    let secure = Secure::start("").await;
    for request in
        ["GET /news HTTP/1.1\r\nhost: x\r\n\r\n", "POST /news HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n"]
    {
        let mut stream = TcpStream::connect(secure.node.addr()).await.expect("it is taken");
        stream.write_all(request.as_bytes()).await.expect("it is sent");
        let mut answer = String::new();
        within("an answer", stream.read_to_string(&mut answer)).await.expect("it can be read");
        assert!(answer.starts_with("HTTP/1.1 400 ") && answer.contains("tls_required"), "{answer}");
    }
    secure.until_handshakes("plain_http", 2.0).await;
}

#[tokio::test]
async fn handshakes_that_fail_are_counted_and_harm_nobody() {
    let secure = Secure::start("[limits]\nhandshake = \"500ms\"\n").await;
    // Certificates of an authority that this client does not know.
    let stranger = Certificates::generate();
    let refused: Result<_, WsRefused> =
        WsClient::request(&secure.url("wss", "news")).trust(&stranger.ca()).connect().await;
    let refused = refused.expect_err("it does not trust").body;
    assert!(refused.contains("InvalidCertificate"), "{refused}");
    let mut noise = TcpStream::connect(secure.node.addr()).await.expect("it is taken");
    noise.write_all(&[0x16, 3, 1, 0, 5, 1, 2, 3, 4, 5]).await.expect("it is sent");
    within("it is hung up on", noise.read_to_end(&mut Vec::new())).await.expect("it is closed");
    secure.until_handshakes("failed", 2.0).await;
    // One says nothing at all, the other stops in the middle of its hello.
    let mut silent = TcpStream::connect(secure.node.addr()).await.expect("it is taken");
    let mut halting = TcpStream::connect(secure.node.addr()).await.expect("it is taken");
    halting.write_all(&[0x16, 3, 1, 2, 0, 1]).await.expect("it is sent");
    for stalled in [&mut silent, &mut halting] {
        within("it is hung up on", stalled.read_to_end(&mut Vec::new())).await.expect("it is closed");
    }
    secure.until_handshakes("timeout", 2.0).await;
    assert_eq!(secure.socket("news").await.subprotocol(), None);
}

#[tokio::test]
async fn one_too_many_is_hung_up_on_before_its_handshake() {
    let secure = Secure::start("[limits]\naccepts_per_second = 1\n").await;
    let config = trusting(&secure.certificates.ca());
    let mut refused = 0;
    for _ in 0..5 {
        refused += usize::from(tls(secure.node.addr(), config.clone()).await.is_err());
    }
    assert!(refused > 0);
    let metrics = secure.node.metrics().await;
    assert!(metrics.sum_where("clarion_accepts_total", "outcome=\"limited\"") >= 1.0);
    assert!(metrics.sum("clarion_tls_handshakes_total") <= (5 - refused) as f64);
}

#[tokio::test]
async fn who_comes_back_resumes_his_session() {
    let secure = Secure::start("").await;
    for (round, version) in [&version::TLS13, &version::TLS12].into_iter().enumerate() {
        let config = speaking(&secure.certificates.ca(), version);
        for _ in 0..2 {
            let request = WsClient::request(&secure.url("wss", "news")).tls(config.clone());
            let mut socket = request.connect().await.expect("it is let in");
            socket.send_text("ping").await;
            assert_eq!(socket.text().await, "pong");
        }
        secure.until_handshakes("resumed", (round + 1) as f64).await;
    }
}
