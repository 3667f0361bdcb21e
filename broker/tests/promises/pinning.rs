//! Users and their homes: served where they are, relayed or redirected, and found wherever they are.

use std::collections::BTreeSet;

use clarion_testkit::{BrokerProcess, RedisServer, Reply, SseClient, WsClient, eventually, free_port, http};
use serde_json::{Value, json};

use crate::{call, guarded, say, socket_of, token};

/// Nodes on one bus that know each other and each other's addresses.
async fn cluster(redis: &RedisServer, count: usize, pin: &str) -> Vec<BrokerProcess> {
    let mut nodes = Vec::new();
    for number in 0..count {
        let listen = format!("127.0.0.1:{}", free_port());
        let (name, public) = (format!("n{number}"), format!("http://{listen}"));
        let builder = guarded().args(["--bus", &redis.url(), "--listen", &listen, "--node", &name, "--pin", pin]);
        nodes.push(builder.args(["--advertise", &listen, "--public-url", &public]).start_ready().await);
    }
    for node in &nodes {
        let all = async || call(node, "info", json!({})).await["members"].as_array().map(Vec::len) == Some(count);
        eventually("all are members", all).await;
    }
    nodes
}

/// Where a node says that a user's home is.
async fn home(node: &BrokerProcess, user: &str) -> Value {
    let request = http().get(node.url("connection/locate")).header("authorization", format!("Bearer {}", token(user)));
    let reply = Reply::of(request).await;
    assert_eq!(reply.code(), 200, "{}", reply.text());
    reply.json()
}

/// A user whose home is not this node.
async fn stray(node: &BrokerProcess) -> (String, Value) {
    for number in 0..1000 {
        let user = number.to_string();
        let home = home(node, &user).await;
        if home["node"] != node.node() {
            return (user, home);
        }
    }
    panic!("every user is at home at {}", node.node());
}

#[tokio::test]
async fn all_nodes_name_the_same_home() {
    let redis = RedisServer::start().await;
    let nodes = cluster(&redis, 3, "serve").await;
    let mut homes = BTreeSet::new();
    for number in 0..60 {
        let user = number.to_string();
        let first = home(&nodes[0], &user).await;
        for node in &nodes[1..] {
            assert_eq!(home(node, &user).await, first);
        }
        homes.insert(first["node"].as_str().expect("a name").to_owned());
    }
    assert_eq!(homes.len(), 3, "every node is somebody's home");
    let anonymous = Reply::get(&nodes[0].url("connection/locate")).await;
    assert!(matches!(anonymous.code(), 200 | 401), "{}", anonymous.text());
}

#[tokio::test]
async fn online_and_disconnect_are_for_the_whole_cluster() {
    let redis = RedisServer::start().await;
    let mut nodes = cluster(&redis, 3, "serve").await;
    let mut sockets = Vec::new();
    for node in [0, 0, 2] {
        sockets.push(socket_of("42", &nodes[node].url("me")).connect().await.expect("it is let in"));
    }
    let online = call(&nodes[1], "online", json!({ "user": "42" })).await;
    assert_eq!((&online["connections"], &online["partial"]), (&json!(3), &json!(false)), "{online}");
    assert_eq!(call(&nodes[1], "online", json!({ "user": "43" })).await["connections"], 0);
    nodes[2].pause();
    let online = call(&nodes[1], "online", json!({ "user": "42" })).await;
    assert_eq!((&online["connections"], &online["partial"]), (&json!(2), &json!(true)), "{online}");
    nodes[2].resume();
    call(&nodes[1], "disconnect", json!({ "user": "42" })).await;
    for socket in &mut sockets {
        assert_eq!(socket.closed().await.0, 3503);
    }
    nodes[2].kill();
}

#[tokio::test]
async fn relay_carries_the_connection_to_its_home() {
    let redis = RedisServer::start().await;
    let nodes = cluster(&redis, 2, "relay").await;
    let (user, home) = stray(&nodes[0]).await;
    assert_eq!(home["node"], nodes[1].node());
    let mut socket = socket_of(&user, &nodes[0].url("me")).connect().await.expect("it is let in");
    let request = http().get(nodes[0].url("me")).header("authorization", format!("Bearer {}", token(&user)));
    let mut stream = SseClient::request(request).await.expect("it is let in");
    say(&nodes[0], &format!("users/{user}"), "through the home").await;
    assert_eq!(socket.text().await, "through the home");
    assert_eq!(stream.data().await, "through the home");
    socket.send_text("ping").await;
    assert_eq!(socket.text().await, "pong");
    let at = async |node: &BrokerProcess| node.metrics().await.sum("clarion_bus_interests");
    let online = call(&nodes[0], "online", json!({ "user": user })).await;
    assert_eq!(online["nodes"][0]["node"], nodes[1].node(), "both are held by the home: {online}");
    assert!(at(&nodes[1]).await > at(&nodes[0]).await);
    let bad = WsClient::request(&nodes[0].url("me")).header("authorization", "Bearer x").connect().await;
    assert_eq!(bad.unwrap_err().status, 401);
}

#[tokio::test]
async fn an_unreachable_home_means_being_served_here() {
    let redis = RedisServer::start().await;
    let nodes = cluster(&redis, 2, "relay").await;
    let (user, _) = stray(&nodes[0]).await;
    nodes[1].pause();
    // For some seconds the frozen node is still a member: the connection is served, if not by it then here.
    let mut socket = socket_of(&user, &nodes[0].url("me")).connect().await.expect("it is let in");
    say(&nodes[0], &format!("users/{user}"), "all the same").await;
    assert_eq!(socket.text().await, "all the same");
    nodes[1].resume();
}

#[tokio::test]
async fn redirect_is_for_programs_only() {
    let redis = RedisServer::start().await;
    let nodes = cluster(&redis, 2, "redirect").await;
    let (user, home) = stray(&nodes[0]).await;
    let path = format!("users/{user}?x=y");
    let redirected = socket_of(&user, &nodes[0].url(&path)).connect().await.unwrap_err();
    assert_eq!(redirected.status, 307, "{}", redirected.body);
    let location = redirected.headers["location"].to_str().expect("text");
    assert_eq!(location, format!("{}/{path}", home["url"].as_str().expect("a URL").replacen("http", "ws", 1)));
    let mut there = socket_of(&user, location).connect().await.expect("the home lets it in");
    let request = http().get(nodes[0].url(&path)).header("authorization", format!("Bearer {}", token(&user)));
    let mut stream = SseClient::request(request).await.expect("an event stream is served where it is");
    let browser = socket_of(&user, &nodes[0].url(&path)).header("origin", nodes[0].url("").trim_end_matches('/'));
    let mut browser = browser.connect().await.expect("a browser is served where it is");
    say(&nodes[0], &format!("users/{user}"), "everywhere").await;
    assert_eq!(there.text().await, "everywhere");
    assert_eq!(stream.data().await, "everywhere");
    assert_eq!(browser.text().await, "everywhere");
}

#[tokio::test]
async fn two_nodes_of_one_name_do_not_stay() {
    let redis = RedisServer::start().await;
    let start = || guarded().args(["--bus", &redis.url(), "--node", "the-same"]);
    let _first = start().start_ready().await;
    let mut second = start().start().await;
    let code = second.ended().await;
    assert!(code.is_some_and(|code| code != 0));
    assert!(second.log().iter().any(|line| line.contains("the-same")), "the reason is named: {:?}", second.log());
}
