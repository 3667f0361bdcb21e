//! Logged namespaces: what is lost on the way to a node is read from the log before anything later goes on.

mod nodes;

use clarion_broker::config::Config;
use clarion_testkit::{Reply, SseClient, SseItem, eventually, http};
use nodes::{TestNode, cluster};
use serde_json::json;

fn logged(config: &mut Config) {
    config.namespaces = serde_json::from_value(json!([
        { "prefix": "orders", "subscribe": "anyone", "publish": "anyone", "log": { "size": 1000 } },
        { "prefix": "orders/plain", "subscribe": "anyone", "publish": "anyone" },
        { "prefix": "chat", "subscribe": "anyone", "publish": "anyone", "log": { "size": 10, "partitions": 4 } },
    ]))
    .expect("namespaces");
}

async fn publish(node: &TestNode, channel: &str, text: impl ToString) {
    let reply = Reply::of(http().post(node.url(&format!("/{channel}"))).body(text.to_string())).await;
    assert_eq!(reply.code(), 200, "{}", reply.text());
}

/// The data of the next so many messages.
async fn messages(stream: &mut SseClient, count: usize) -> Vec<String> {
    let mut all = Vec::new();
    while all.len() < count {
        match stream.next().await {
            SseItem::Event(event) if event.event.is_none() => all.push(event.data),
            SseItem::End => panic!("the stream ended after {all:?}"),
            _ => {}
        }
    }
    all
}

fn numbers(range: std::ops::Range<usize>) -> Vec<String> {
    range.map(|number| number.to_string()).collect()
}

#[tokio::test]
async fn what_a_cut_link_missed_is_read_from_the_log() {
    let nodes = cluster(2, logged).await;
    let [node, other] = &nodes[..] else { panic!("there are two") };
    let mut one = SseClient::connect(&node.url("/orders/1")).await.unwrap();
    let mut all = SseClient::connect(&node.url("/orders/**")).await.unwrap();
    let mut plain = SseClient::connect(&node.url("/orders/plain")).await.unwrap();
    for number in 0..5 {
        publish(other, "orders/1", number).await;
    }
    assert_eq!(messages(&mut one, 5).await, numbers(0..5));
    node.bus.cut();
    for number in 5..500 {
        publish(other, "orders/1", number).await;
        publish(other, "orders/plain", number).await;
    }
    node.bus.heal();
    publish(other, "orders/1", 500).await;
    publish(other, "orders/plain", "after").await;
    assert_eq!(messages(&mut one, 496).await, numbers(5..501));
    let everything = messages(&mut all, 502).await;
    assert_eq!(everything[..501], numbers(0..501));
    assert_eq!(everything[501], "after", "what is plain below a logged namespace stays plain");
    assert_eq!(messages(&mut plain, 1).await, ["after"]);
}

#[tokio::test]
async fn a_lost_message_that_nothing_follows_is_found_as_well() {
    let nodes = cluster(2, logged).await;
    let [node, other] = &nodes[..] else { panic!("there are two") };
    let mut one = SseClient::connect(&node.url("/orders/1")).await.unwrap();
    for round in 0..20 {
        node.bus.cut();
        publish(other, "orders/1", round).await;
        node.bus.heal();
        assert_eq!(messages(&mut one, 1).await, [round.to_string()]);
    }
    let metrics = node.metrics().await;
    assert_eq!(metrics.sum("clarion_log_healed_total"), 20.0);
}

#[tokio::test]
async fn more_than_the_log_keeps_is_told() {
    let nodes = cluster(2, logged).await;
    let [node, other] = &nodes[..] else { panic!("there are two") };
    let mut one = SseClient::connect(&node.url("/chat/1")).await.unwrap();
    publish(other, "chat/1", "first").await;
    assert_eq!(messages(&mut one, 1).await, ["first"]);
    node.bus.cut();
    for number in 0..30 {
        publish(other, "chat/1", number).await;
    }
    node.bus.heal();
    assert_eq!(messages(&mut one, 10).await, numbers(20..30));
    eventually("the gap is counted", async || {
        let gaps = node.metrics().await.sum("clarion_log_gaps_total");
        if gaps >= 1.0 { Ok(()) } else { Err(gaps) }
    })
    .await;
}
