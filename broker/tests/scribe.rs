//! Plain publications into logged namespaces on Redis: numbered once, also while nodes die, freeze and come.

#![allow(clippy::unwrap_used, reason = "a test that fails may say so anywhere")]

use std::time::Duration;

use clarion_testkit::{BrokerProcess, RedisServer, Reply, SseClient, SseEvent, SseItem, TcpProxy, eventually};

const BROKER: &str = env!("CARGO_BIN_EXE_clarion-broker");

/// A configuration with a logged namespace. It must live as long as nodes start with it.
fn configuration() -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::with_suffix(".toml").unwrap();
    let text = "[[namespaces]]\nprefix = 'orders'\nsubscribe = 'anyone'\npublish = 'anyone'\nlog = { size = 10000 }\n";
    std::fs::write(file.path(), text).unwrap();
    file
}

async fn start(redis: &str, name: &str, file: &tempfile::NamedTempFile) -> BrokerProcess {
    let path = file.path().to_str().unwrap();
    BrokerProcess::builder(BROKER).args(["--bus", redis, "--node", name, "--config", path]).start_ready().await
}

/// Publishes numbers plainly, some of them with equal payloads beside them.
async fn publish(redis: &RedisServer, numbers: std::ops::Range<usize>) {
    for number in numbers {
        redis.cli(&["PUBLISH", "clarion:orders/7", &number.to_string()]).await;
        redis.cli(&["PUBLISH", "clarion:orders/same", "same"]).await;
    }
}

/// The whole log of a channel.
async fn log(node: &BrokerProcess, channel: &str) -> Vec<String> {
    let page = Reply::get(&node.url(&format!("{channel}?last=1000"))).await.json();
    let text = |one: &serde_json::Value| {
        one.get("text").map_or_else(|| one["data"].to_string(), |text| text.as_str().unwrap().to_owned())
    };
    page["messages"].as_array().map(|all| all.iter().map(text).collect()).unwrap_or_default()
}

async fn holds(node: &BrokerProcess, count: usize) {
    eventually("all are numbered", async || {
        let (numbers, same) = (log(node, "orders/7").await, log(node, "orders/same").await.len());
        let expected: Vec<_> = (0..count).map(|number| number.to_string()).collect();
        if numbers == expected && same == count { Ok(()) } else { Err((numbers, same)) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plain_publication_is_numbered_and_heard_once() {
    let (redis, file) = (RedisServer::start().await, configuration());
    let node = start(&redis.url(), "one", &file).await;
    let mut stream = SseClient::connect(&node.url("orders/7")).await.unwrap();
    eventually("it is the scribe", async || node.metrics().await.sum("clarion_scribe_namespaces") == 1.0).await;
    publish(&redis, 0..30).await;
    holds(&node, 30).await;
    let mut heard = Vec::new();
    while heard.len() < 30 {
        if let SseItem::Event(SseEvent { id: Some(_), event: None, data }) = stream.next().await {
            heard.push(data);
        }
    }
    assert_eq!(heard, (0..30).map(|n| n.to_string()).collect::<Vec<_>>());
    let offset = redis.cli(&["FCALL", "clarion_publish", "1", "clarion:orders/7", "30", "once"]).await;
    assert_eq!(redis.cli(&["FCALL", "clarion_publish", "1", "clarion:orders/7", "30", "once"]).await, offset);
    assert!(offset.trim().parse::<u64>().is_ok(), "{offset}");
    assert_eq!(log(&node, "orders/7").await.len(), 31);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_that_die_and_freeze_lose_and_repeat_nothing() {
    let (redis, file) = (RedisServer::start().await, configuration());
    let mut nodes = Vec::new();
    for name in ["one", "two", "three"] {
        nodes.push(start(&redis.url(), name, &file).await);
    }
    let all_know = async |nodes: &[BrokerProcess], count: usize| {
        for node in nodes {
            eventually("the nodes know each other", async || {
                node.metrics().await.sum("clarion_ring_members") == count as f64
            })
            .await;
        }
    };
    all_know(&nodes, 3).await;
    eventually("there is one scribe", async || {
        let mut scribes = 0.0;
        for node in &nodes {
            scribes += node.metrics().await.sum("clarion_scribe_namespaces");
        }
        scribes == 1.0
    })
    .await;
    publish(&redis, 0..20).await;
    holds(&nodes[0], 20).await;
    // Whoever it is dies while messages flow.
    let mut scribe = 0;
    for (at, node) in nodes.iter().enumerate() {
        if node.metrics().await.sum("clarion_scribe_namespaces") == 1.0 {
            scribe = at;
        }
    }
    let mut dead = nodes.remove(scribe);
    let killing = async {
        eventually("some are numbered", async || log(&nodes[0], "orders/7").await.len() > 40).await;
        dead.kill();
    };
    tokio::join!(publish(&redis, 20..150), killing);
    holds(&nodes[0], 150).await;
    all_know(&nodes, 2).await;
    // And whoever is now is frozen for a while, and goes on.
    let mut scribe = 0;
    for (at, node) in nodes.iter().enumerate() {
        if node.metrics().await.sum("clarion_scribe_namespaces") == 1.0 {
            scribe = at;
        }
    }
    let freezing = async {
        nodes[scribe].pause();
        tokio::time::sleep(Duration::from_millis(700)).await;
        nodes[scribe].resume();
    };
    tokio::join!(publish(&redis, 150..250), freezing);
    holds(&nodes[1 - scribe], 250).await;
    // A node that comes may take over; nothing is lost or repeated by that.
    let url = redis.url();
    let joining = start(&url, "four", &file);
    let (four, ()) = tokio::join!(joining, publish(&redis, 250..350));
    holds(&four, 350).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_link_that_was_cut_begins_again_and_numbers_nothing_twice() {
    let (redis, file) = (RedisServer::start().await, configuration());
    let proxy = TcpProxy::start(redis.addr()).await;
    let one = start(&format!("redis://{}", proxy.addr()), "one", &file).await;
    let two = start(&redis.url(), "two", &file).await;
    eventually("the nodes know each other", async || {
        two.metrics().await.sum("clarion_ring_members") == 2.0 && one.metrics().await.sum("clarion_ring_members") == 2.0
    })
    .await;
    publish(&redis, 0..20).await;
    holds(&two, 20).await;
    let cutting = async {
        for _ in 0..3 {
            tokio::time::sleep(Duration::from_millis(200)).await;
            proxy.drop_connections();
        }
    };
    tokio::join!(publish(&redis, 20..200), cutting);
    holds(&two, 200).await;
    eventually("it was noticed", async || one.metrics().await.sum("clarion_scribe_cuts_total") >= 1.0).await;
}
