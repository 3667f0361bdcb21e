//! Three nodes as real processes on each bus: every message arrives at every right socket once and at no wrong one,
//! whoever publishes it and whichever node is killed; a push crosses to exactly the nodes that hold its user.

mod publishers;
mod sockets;

use std::{collections::BTreeMap, io::Write as _};

use clarion_testkit::{BrokerProcess, JwtKey, NatsServer, RedisServer, WsClient, eventually};
use tempfile::NamedTempFile;

use publishers::{Publisher, Target};
use sockets::{Audience, CHANNELS, END, USERS};

const SECRET: &str = "the secret of this test, long enough for HS256";
const API_KEY: &str = "the-api-key-of-this-test";

/// Messages to each channel from each publisher, in each of the two rounds.
const PER_CHANNEL: usize = 3;

#[tokio::test(flavor = "multi_thread")]
async fn every_message_arrives_once_on_redis() {
    let redis = RedisServer::start().await;
    everything_arrives(&redis.url()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_message_arrives_once_on_nats() {
    let nats = NatsServer::start().await;
    everything_arrives(&nats.url()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_crosses_to_the_users_nodes_only_on_redis() {
    let redis = RedisServer::start().await;
    for count in [3, 8] {
        a_push_crosses_to_the_users_nodes_only(&redis.url(), count).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_crosses_to_the_users_nodes_only_on_nats() {
    let nats = NatsServer::start().await;
    for count in [3, 8] {
        a_push_crosses_to_the_users_nodes_only(&nats.url(), count).await;
    }
}

/// First with all three nodes; then, on the sockets of the same run, one node is killed amid the publishing.
async fn everything_arrives(bus: &str) {
    let mut nodes = start(bus, 3).await;
    let audience = Audience::open(&nodes).await;
    let messages = plan("calm", bus);
    for publisher in Publisher::on(bus) {
        publisher.publish(&Target { bus, node: &nodes[1] }, &messages[&publisher_name(*publisher)]).await;
    }
    end(&nodes[2]).await;
    assert_eq!(audience.check(None, &by_channel(&messages)).await, 3 * USERS);

    let audience = Audience::open(&nodes).await;
    let messages = plan("killed", bus);
    let killed = nodes.remove(0);
    let (target, rest) = (Target { bus, node: &nodes[0] }, &messages);
    let publishing = async {
        for publisher in Publisher::on(bus) {
            publisher.publish(&target, &rest[&publisher_name(*publisher)]).await;
        }
    };
    // The node dies when the first publisher is at work: its heartbeats stop and its sockets are gone without a word.
    let killing = async {
        let seen = |metrics: clarion_testkit::Metrics| metrics.sum("clarion_ingress_messages_total") > 0.0;
        eventually("a message passes the node", async || seen(killed.metrics().await)).await;
        let mut killed = killed;
        killed.kill();
    };
    tokio::join!(publishing, killing);
    end(&nodes[1]).await;
    let left = audience.check(Some(0), &by_channel(&messages)).await;
    assert_eq!(left, 3 * USERS - 100, "each node held a third of the sockets");
}

/// Every node counts what it hears: a push to a user must be heard by the nodes that hold one of his sockets, once each.
async fn a_push_crosses_to_the_users_nodes_only(bus: &str, count: usize) {
    let nodes = start(bus, count).await;
    let mut holders = Vec::new();
    for node in [0, count - 1] {
        for _ in 0..2 {
            let token = format!("Bearer {}", JwtKey::hs256(SECRET).token("42"));
            let request = WsClient::request(&nodes[node].url("users/42")).header("authorization", &token);
            holders.push(request.connect().await.expect("user 42 may hear users/42"));
        }
    }
    let before = heard(&nodes).await;
    for number in 0..10 {
        let message = [("users/42".to_owned(), format!("push {number}"))];
        Publisher::Http.publish(&Target { bus, node: &nodes[1] }, &message).await;
    }
    for holder in &mut holders {
        for number in 0..10 {
            assert_eq!(holder.text().await, format!("push {number}"));
        }
    }
    let crossed: Vec<f64> = heard(&nodes).await.iter().zip(before).map(|(after, before)| after - before).collect();
    let expected: Vec<f64> = (0..count).map(|node| if node == 0 || node == count - 1 { 10.0 } else { 0.0 }).collect();
    assert_eq!(crossed, expected, "messages heard by each of {count} nodes");
}

async fn heard(nodes: &[BrokerProcess]) -> Vec<f64> {
    let mut heard = Vec::with_capacity(nodes.len());
    for node in nodes {
        heard.push(node.metrics().await.sum("clarion_ingress_messages_total"));
    }
    heard
}

/// Nodes that know each other, with keys and a namespace that anybody may hear.
async fn start(bus: &str, count: usize) -> Vec<BrokerProcess> {
    let mut file = NamedTempFile::new().expect("a temporary file");
    file.write_all(
        b"[[namespaces]]\nprefix = \"ch\"\nsubscribe = \"anyone\"\npublish = \"backend\"\npatterns = \"anyone\"\n",
    )
    .expect("it is written");
    let config = file.path().to_str().expect("a plain path");
    let mut nodes = Vec::with_capacity(count);
    for number in 0..count {
        let builder = BrokerProcess::builder(env!("CARGO_BIN_EXE_clarion-broker"));
        let builder = builder.args(["--config", config, "--bus", bus, "--node", &format!("node-{number}")]);
        let builder = builder.env("CLARION_JWT_SECRET", SECRET).env("CLARION_API_KEYS", API_KEY);
        nodes.push(builder.start_ready().await);
    }
    for node in &nodes {
        #[allow(clippy::cast_precision_loss, reason = "a handful of nodes")]
        let all = count as f64;
        eventually("all nodes are members", async || node.metrics().await.sum("clarion_ring_members") == all).await;
    }
    nodes
}

/// What each publisher says, by its name.
fn plan(round: &str, bus: &str) -> BTreeMap<String, Vec<(String, String)>> {
    let mut plan = BTreeMap::new();
    for publisher in Publisher::on(bus) {
        let name = publisher_name(*publisher);
        let users = (0..USERS).map(|user| (format!("users/{user}"), 1));
        let channels = (0..CHANNELS).map(|channel| (format!("ch/{channel}"), PER_CHANNEL));
        let mut messages = Vec::new();
        for (channel, count) in users.chain(channels) {
            messages.extend((0..count).map(|n| (channel.clone(), format!("{name} {round}|{channel}|{n}"))));
        }
        plan.insert(name, messages);
    }
    plan
}

fn publisher_name(publisher: Publisher) -> String {
    format!("{publisher:?}")
}

fn by_channel(plan: &BTreeMap<String, Vec<(String, String)>>) -> BTreeMap<String, Vec<String>> {
    let mut by_channel: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (channel, payload) in plan.values().flatten() {
        by_channel.entry(channel.clone()).or_default().push(payload.clone());
    }
    by_channel
}

/// Tells every socket that this was all.
async fn end(node: &BrokerProcess) {
    let users = (0..USERS).map(|user| format!("users/{user}"));
    let channels = (0..CHANNELS).map(|channel| format!("ch/{channel}"));
    let messages: Vec<_> = users.chain(channels).map(|channel| (channel, END.to_owned())).collect();
    let target = Target { bus: "", node };
    Publisher::JsonRpc.publish(&target, &messages).await;
}
