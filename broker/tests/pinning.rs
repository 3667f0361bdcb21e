//! Users' connections that do not come to their home: served, relayed or redirected, and every push arrives once.

mod nodes;

use std::{net::SocketAddr, time::Duration};

use clarion_broker::config::{Config, Pin};
use clarion_testkit::{Reply, SseClient, SseItem, WsClient, eventually, free_port, http, within};
use nodes::{TestNode, cluster, token};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream},
};

/// Three nodes that know each other's addresses, which must therefore be chosen before they listen.
async fn pinned(pin: Pin) -> Vec<TestNode> {
    cluster(3, |config| advertise(config, pin)).await
}

fn advertise(config: &mut Config, pin: Pin) {
    config.listen = SocketAddr::from(([127, 0, 0, 1], free_port()));
    config.advertise = Some(config.listen.to_string());
    config.public_url = serde_json::from_value(json!(format!("http://{}", config.listen))).expect("a URL");
    config.pin = pin;
}

/// The number of the node where a user is at home, as all nodes say.
async fn home(nodes: &[TestNode], user: &str) -> usize {
    let path = format!("/connection/locate?token={}", token(user));
    let mut homes = Vec::new();
    for node in nodes {
        homes.push(Reply::get(&node.url(&path)).await.json()["node"].as_str().expect("a name").to_owned());
    }
    assert!(homes.iter().all(|home| *home == homes[0]), "{homes:?}");
    nodes.iter().position(|node| node.name() == homes[0]).expect("one of them")
}

/// A user, his home and a node that is not it.
async fn stray(nodes: &[TestNode]) -> (&'static str, usize, usize) {
    let home = home(nodes, "42").await;
    ("42", home, (home + 1) % nodes.len())
}

async fn push(node: &TestNode, user: &str, text: &str) {
    assert_eq!(node.rpc("push", json!({ "user": user, "text": text })).await["error"], json!(null));
}

async fn strays(node: &TestNode, outcome: &str) -> f64 {
    node.metrics().await.sum_where("clarion_strays_handled_total", &format!("outcome=\"{outcome}\""))
}

/// What the node itself holds, relayed connections apart.
async fn held(node: &TestNode) -> f64 {
    node.metrics().await.sum("clarion_connections")
}

#[tokio::test(flavor = "multi_thread")]
async fn serve_takes_everybody_where_he_lands() {
    let nodes = pinned(Pin::Serve).await;
    let (user, home, away) = stray(&nodes).await;
    let path = format!("/me?token={}", token(user));
    let mut sockets = Vec::new();
    for node in &nodes {
        sockets.push(WsClient::connect(&node.url(&path)).await);
    }
    for (number, node) in nodes.iter().enumerate() {
        push(node, user, &format!("push {number}")).await;
    }
    for socket in &mut sockets {
        for number in 0..nodes.len() {
            assert_eq!(socket.text().await, format!("push {number}"));
        }
    }
    assert!((strays(&nodes[away], "served").await - 1.0).abs() < f64::EPSILON);
    assert!(strays(&nodes[home], "served").await.abs() < f64::EPSILON);
}

#[tokio::test(flavor = "multi_thread")]
async fn relay_carries_to_the_home_and_back() {
    let nodes = pinned(Pin::Relay).await;
    let (user, home, away) = stray(&nodes).await;
    let mut socket = WsClient::connect(&nodes[away].url(&format!("/users/{user}?token={}", token(user)))).await;
    let mut events = SseClient::connect(&nodes[away].url(&format!("/me?token={}", token(user)))).await.unwrap();
    assert!((held(&nodes[home]).await - 2.0).abs() < f64::EPSILON, "the home holds both");
    assert!(held(&nodes[away]).await.abs() < f64::EPSILON, "the stray node holds none");
    assert!((strays(&nodes[away], "relayed").await - 2.0).abs() < f64::EPSILON);
    let large = "x".repeat(60_000);
    for text in ["down", large.as_str()] {
        push(&nodes[away], user, text).await;
        assert_eq!(socket.text().await, text);
        assert_eq!(events.data().await, text);
    }
    socket.send_text("up").await;
    assert_eq!([socket.text().await, events.data().await], ["up", "up"]);
    socket.send_text("ping").await;
    assert_eq!(socket.text().await, "pong");
    drop((socket, events));
    eventually("the home is told that they left", async || held(&nodes[home]).await.abs() < f64::EPSILON).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn relay_passes_refusals_on() {
    let nodes = pinned(Pin::Relay).await;
    let (user, _, away) = stray(&nodes).await;
    let url = nodes[away].url(&format!("/users/7?token={}", token(user)));
    assert_eq!(WsClient::request(&url).connect().await.unwrap_err().status, 403);
    assert_eq!(SseClient::connect(&url).await.unwrap_err().code(), 403);
}

#[tokio::test(flavor = "multi_thread")]
async fn relay_ends_with_either_node() {
    let mut nodes = pinned(Pin::Relay).await;
    let (user, home, away) = stray(&nodes).await;
    let path = format!("/me?token={}", token(user));
    let mut socket = WsClient::connect(&nodes[away].url(&path)).await;
    let mut events = SseClient::connect(&nodes[away].url(&path)).await.unwrap();
    nodes[away].shutdown.cancel();
    assert_eq!(socket.closed().await, (1012, "restart".to_owned()));
    while events.next().await != SseItem::End {}
    let third = nodes.iter().position(|node| node.name() != nodes[home].name() && node.name() != nodes[away].name());
    let mut socket = WsClient::connect(&nodes[third.unwrap()].url(&path)).await;
    nodes[home].shutdown.cancel();
    assert_eq!(socket.closed().await, (1012, "restart".to_owned()));
    within("both end", async {
        for node in nodes.drain(..).filter(|node| node.shutdown.is_cancelled()) {
            node.running.wait().await.unwrap();
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unreachable_home_does_not_matter() {
    let nodes = cluster(3, |config| {
        advertise(config, Pin::Relay);
        // Nobody listens there.
        config.advertise = Some(SocketAddr::from(([127, 0, 0, 1], free_port())).to_string());
    })
    .await;
    let (user, _, away) = stray(&nodes).await;
    let mut socket = WsClient::connect(&nodes[away].url(&format!("/me?token={}", token(user)))).await;
    push(&nodes[0], user, "hello").await;
    assert_eq!(socket.text().await, "hello");
    assert!((strays(&nodes[away], "unreachable").await - 1.0).abs() < f64::EPSILON);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_goes_one_hop_at_most() {
    let nodes = pinned(Pin::Relay).await;
    let (user, _, away) = stray(&nodes).await;
    let url = nodes[away].url(&format!("/me?token={}", token(user)));
    let _socket = WsClient::request(&url).header("x-clarion-hop", "node-x").connect().await.unwrap();
    assert!((held(&nodes[away]).await - 1.0).abs() < f64::EPSILON);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_node_carries_is_within_its_limit() {
    let nodes = cluster(3, |config| {
        advertise(config, Pin::Relay);
        config.limits.connections = 2;
    })
    .await;
    let (user, home, away) = stray(&nodes).await;
    let url = nodes[away].url(&format!("/me?token={}", token(user)));
    let first = WsClient::connect(&url).await;
    let _second = SseClient::connect(&url).await.unwrap();
    let used = async |node: &TestNode| node.metrics().await.sum("clarion_admission_used");
    assert_eq!((used(&nodes[away]).await, used(&nodes[home]).await), (2.0, 2.0));
    assert_eq!(nodes[away].metrics().await.sum("clarion_carried_connections"), 2.0);
    let third = WsClient::request(&url).connect().await.unwrap_err();
    assert_eq!((third.status, third.headers.contains_key("retry-after")), (503, true), "{}", third.body);
    assert!(third.body.contains("limits.connections"), "{}", third.body);
    drop(first);
    eventually("its place is free", async || WsClient::request(&url).connect().await.is_ok()).await;
}

/// An event stream of a client at this address of the machine, and the status of its answer.
async fn stream_from(last: u8, node: &TestNode, path: &str, headers: &str) -> (TcpStream, u16) {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind(SocketAddr::from(([127, 0, 0, last], 0))).expect("loopback has many addresses");
    let mut stream = socket.connect(node.running.listen).await.expect("the node listens");
    let (host, accept) = (node.running.listen, "text/event-stream");
    let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nAccept: {accept}\r\n{headers}\r\n");
    stream.write_all(request.as_bytes()).await.expect("it is sent");
    let mut line = [0; 12];
    within("there is an answer", stream.read_exact(&mut line)).await.expect("and a whole line of it");
    let line = String::from_utf8_lossy(&line);
    let status = line.strip_prefix("HTTP/1.1 ").and_then(|status| status.parse().ok()).expect("a status");
    (stream, status)
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(target_os = "linux"), ignore = "only Linux has all of 127.0.0.0/8")]
async fn a_home_counts_the_address_that_the_first_node_saw() {
    let nodes = cluster(3, |config| {
        advertise(config, Pin::Relay);
        config.limits.per_address = 1;
    })
    .await;
    let (user, home, away) = stray(&nodes).await;
    let path = format!("/me?token={}", token(user));
    let mut held = Vec::new();
    for last in 2..12 {
        let (stream, status) = stream_from(last, &nodes[away], &path, "").await;
        assert_eq!(status, 200, "127.0.0.{last} is the first from there");
        held.push(stream);
        let (_, status) = stream_from(last, &nodes[home], &path, "").await;
        assert_eq!(status, 429, "the home knows that 127.0.0.{last} is here");
    }
    let hops = nodes[home].metrics().await;
    assert_eq!(hops.sum_where("clarion_hops_total", "outcome=\"believed\""), 10.0);
    // Who is no member is not believed, whatever he writes.
    let claims = format!("x-clarion-hop: {}\r\nx-clarion-client: 1 198.51.100.7 AAAA\r\n", nodes[away].name());
    for claims in [claims.as_str(), "x-forwarded-for: 198.51.100.7\r\n", "x-clarion-hop: x\r\n"] {
        assert_eq!(stream_from(2, &nodes[home], &path, claims).await.1, 429, "{claims}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn redirect_sends_programs_home_and_serves_browsers() {
    let nodes = pinned(Pin::Redirect).await;
    let (user, home, away) = stray(&nodes).await;
    let path = format!("/orders/**?x=%20&token={}", token(user));
    let refused = WsClient::request(&nodes[away].url(&path)).connect().await.unwrap_err();
    let target = format!("ws://{}{path}", nodes[home].running.listen);
    assert_eq!((refused.status, refused.headers["location"].to_str().unwrap()), (307, target.as_str()));
    WsClient::connect(&target).await;
    let browser = WsClient::request(&nodes[away].url(&path)).header("origin", "http://localhost:3000");
    assert!(browser.connect().await.is_ok());
    let mut events = SseClient::connect(&nodes[away].url(&path)).await.unwrap();
    assert!(matches!(events.next_within(Duration::from_secs(30)).await, Some(SseItem::Retry(_))));
    assert!((strays(&nodes[away], "redirected").await - 1.0).abs() < f64::EPSILON);
}

#[tokio::test(flavor = "multi_thread")]
async fn locate_tells_where_home_is() {
    let nodes = pinned(Pin::Serve).await;
    let (user, home, away) = stray(&nodes).await;
    let locate = |token: &str| http().get(nodes[away].url("/connection/locate")).bearer_auth(token.to_owned());
    let answer = Reply::of(locate(&token(user))).await.json();
    let url = answer["url"].as_str().unwrap().trim_end_matches('/').to_owned();
    assert_eq!((&answer["user"], &answer["node"]), (&json!(user), &json!(nodes[home].name())));
    assert_eq!(url, format!("http://{}", nodes[home].running.listen));
    assert_eq!(Reply::of(locate("rubbish")).await.code(), 401);
    let anybody = Reply::get(&nodes[away].url("/connection/locate")).await.json();
    assert_eq!((&anybody["user"], &anybody["node"]), (&json!(null), &json!(nodes[away].name())));
}
