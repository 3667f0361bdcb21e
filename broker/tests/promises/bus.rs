//! What a bus's server refuses, or is, as clients, publishers and people see it.

use std::process::Command;

use clarion_testkit::{
    BrokerProcess, NatsServer, Process, RedisServer, SseClient, SseItem, WsClient, eventually, http, within,
};

use crate::{development, publish, say};

/// What `/health/ready` says.
async fn readiness(node: &BrokerProcess) -> String {
    let reply = http().get(node.admin_url("health/ready")).send().await.expect("it answers");
    reply.text().await.expect("it answers in words")
}

/// The server has no more room: that passes, so nobody is sent away for ever.
#[tokio::test]
async fn a_subscription_too_many_is_answered_so_that_clients_come_back() {
    // A node takes four for itself.
    let nats = NatsServer::builder().config("max_subscriptions: 6").start().await;
    let node = development().args(["--bus", &nats.url()]).start_ready().await;
    let mut first = WsClient::connect(&node.url("a")).await;
    let _second = WsClient::connect(&node.url("b")).await;
    let refused = WsClient::request(&node.url("c")).connect().await.expect_err("there is no room");
    assert_eq!(refused.status, 503);
    assert!(refused.headers.contains_key("retry-after"));
    let mut stream = SseClient::connect(&node.url("c")).await.expect("an event stream gets 200 whatever happens");
    assert!(matches!(stream.next().await, SseItem::Retry(_)));
    assert_eq!(stream.next().await, SseItem::End);
    assert!(node.is_ready().await);
    say(&node, "a", "goes on").await;
    assert_eq!(first.text().await, "goes on");
    drop(first);
    eventually("there is room again", async || WsClient::request(&node.url("c")).connect().await.is_ok()).await;
}

#[tokio::test]
async fn what_the_bus_forbids_is_answered_for_good() {
    let nats = NatsServer::builder()
        .user_with("u", "p", r#"subscribe: { allow: ["clarion.>", "_clarion.>"], deny: "clarion.secret" }"#)
        .start()
        .await;
    let node = development().env("CLARION_BUS_URL", &nats.url()).start_ready().await;
    let refused = WsClient::request(&node.url("secret")).connect().await.expect_err("it is forbidden");
    assert_eq!(refused.status, 403);
}

#[tokio::test]
async fn a_redis_that_becomes_a_replica_is_told_of_and_left() {
    let (redis, master) = (RedisServer::start().await, RedisServer::start().await);
    let node = development().args(["--bus", &redis.url()]).start_ready().await;
    let mut socket = WsClient::connect(&node.url("news")).await;
    redis.cli(&["REPLICAOF", "127.0.0.1", &master.port().to_string()]).await;
    eventually("readiness names the reason", async || readiness(&node).await.contains("is a replica")).await;
    assert_eq!(publish(&node, "news", "into the void").await.code(), 503);
    redis.cli(&["REPLICAOF", "NO", "ONE"]).await;
    eventually("it is ready again", async || node.is_ready().await).await;
    say(&node, "news", "relayed").await;
    assert_eq!(socket.text().await, "relayed");
}

/// A log that warns of what is well teaches people not to read it.
#[tokio::test]
async fn a_good_start_warns_of_nothing() {
    let (redis, nats) = (RedisServer::start().await, NatsServer::start().await);
    for bus in [redis.url(), nats.url()] {
        let node = development().args(["--bus", &bus]).start_ready().await;
        let log = node.log();
        let warned: Vec<_> =
            log.iter().filter(|line| line.contains("WARN") && !line.contains("development mode")).collect();
        assert!(warned.is_empty(), "{bus}: {warned:?}");
    }
}

/// A node for a person, who reads what it writes.
fn for_people(bus: &str) -> Process {
    let mut command = Command::new(env!("CARGO_BIN_EXE_clarion-broker"));
    command.args(["--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--bus", bus]);
    Process::spawn(command).expect("the binary can be started")
}

async fn says(node: &mut Process, words: &str) {
    let said = node.wait_for_line(words, |line| line.contains(words).then_some(()));
    within(words, said).await.expect("the process goes on");
}

#[tokio::test]
async fn the_greeting_says_whether_there_is_a_bus() {
    let mut redis = RedisServer::start().await;
    let url = redis.url();
    let mut node = for_people(&url);
    says(&mut node, "Try, in two terminals").await;
    assert!(!node.output().iter().any(|line| line.contains("NO BUS")), "{:?}", node.output());

    redis.kill();
    let mut node = for_people(&url);
    says(&mut node, &format!("NO BUS: {url} is not reachable: ")).await;
    says(&mut node, "says when it is connected").await;
    assert!(!node.output().iter().any(|line| line.contains("Try, in")), "{:?}", node.output());
    redis.restart().await;
    says(&mut node, &format!("The bus {url} is connected")).await;
    says(&mut node, "Try, in two terminals").await;
}
