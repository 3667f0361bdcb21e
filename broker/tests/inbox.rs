//! The inbox: what a user has not read comes again, on every device, until one of them has read it.

#![allow(clippy::unwrap_used, reason = "a test that fails may say so anywhere")]

mod nodes;

use clarion_broker::config::Config;
use clarion_testkit::{Reply, SseClient, SseEvent, SseItem, http};
use nodes::{TestNode, cluster, token};
use serde_json::{Value, json};

fn inbox(config: &mut Config) {
    config.namespaces = serde_json::from_value(json!([
        { "prefix": "users", "inbox": true },
        { "prefix": "broadcast", "subscribe": "anyone" },
    ]))
    .expect("namespaces");
}

async fn push(node: &TestNode, text: &str) -> Value {
    Reply::of(http().post(node.url("/users/42")).body(text.to_owned())).await.json()
}

async fn device(node: &TestNode) -> SseClient {
    SseClient::connect(&node.url(&format!("/me?token={}", token("42")))).await.unwrap()
}

/// The next messages and what is told of reads, until so many have come.
async fn events(stream: &mut SseClient, count: usize) -> Vec<SseEvent> {
    let mut all = Vec::new();
    while all.len() < count {
        match stream.next().await {
            SseItem::Event(event) if event.event.as_deref() != Some("cursor") => all.push(event),
            SseItem::End => panic!("it ended after {all:?}"),
            _ => {}
        }
    }
    all
}

fn data(events: &[SseEvent]) -> Vec<&str> {
    events.iter().map(|event| event.data.as_str()).collect()
}

async fn unread(node: &TestNode) -> Value {
    Reply::of(http().get(node.url("/me/unread")).bearer_auth(token("42"))).await.json()
}

async fn read(node: &TestNode, body: &Value) -> Reply {
    Reply::of(http().post(node.url("/me/read")).bearer_auth(token("42")).body(body.to_string())).await
}

#[tokio::test]
async fn what_was_pushed_while_a_user_was_away_waits_until_it_is_read() {
    let nodes = cluster(2, inbox).await;
    let [one, two] = &nodes[..] else { panic!("there are two") };
    let mut ids = Vec::new();
    for text in ["a", "b", "c", "d"] {
        ids.push(push(one, text).await["id"].clone());
    }
    assert_eq!(unread(two).await["count"], 4);
    let mut laptop = device(one).await;
    let waiting = events(&mut laptop, 4).await;
    assert_eq!(data(&waiting), ["a", "b", "c", "d"]);
    let mut phone = device(two).await;
    assert_eq!(data(&events(&mut phone, 4).await), ["a", "b", "c", "d"], "on every device, as long as it is unread");
    let marked = read(one, &json!({ "up_to": waiting[1].id })).await;
    assert_eq!((marked.code(), marked.json()["unread"]["count"].as_u64()), (200, Some(2)));
    for stream in [&mut laptop, &mut phone] {
        let told = events(stream, 1).await.remove(0);
        assert_eq!(told.event.as_deref(), Some("read"));
        let told: Value = serde_json::from_str(&told.data).unwrap();
        assert_eq!((told["up_to"].as_str(), told["unread"].as_u64()), (waiting[1].id.as_deref(), Some(2)));
    }
    assert_eq!(data(&events(&mut device(two).await, 2).await), ["c", "d"]);
    read(two, &json!({ "ids": [ids[3]] })).await;
    assert_eq!(data(&events(&mut device(one).await, 1).await), ["c"], "one that was read is passed over");
    push(two, "e").await;
    assert_eq!(data(&events(&mut device(one).await, 2).await), ["c", "e"]);
    let all = unread(one).await;
    assert_eq!(all["count"], 2);
    assert_eq!(read(one, &json!({ "up_to": all["newest"] })).await.json()["unread"]["count"], 0);
    push(two, "f").await;
    assert_eq!(data(&events(&mut device(two).await, 1).await), ["f"]);
}

#[tokio::test]
async fn a_device_that_comes_back_with_its_cursor_is_not_shown_what_was_read_elsewhere() {
    let node = TestNode::with(inbox).await;
    let mut phone = device(&node).await;
    push(&node, "a").await;
    let cursor = events(&mut phone, 1).await.remove(0).id.expect("a cursor");
    drop(phone);
    let read_id = push(&node, "b").await["id"].clone();
    push(&node, "c").await;
    read(&node, &json!({ "ids": [read_id] })).await;
    let request = http().get(node.url("/me")).bearer_auth(token("42")).header("last-event-id", &cursor);
    let mut phone = SseClient::request(request).await.unwrap();
    assert_eq!(data(&events(&mut phone, 1).await), ["c"]);
    let rpc = node.rpc("unread", json!({ "user": 42 })).await;
    assert_eq!(rpc["result"]["count"], 2, "{rpc}");
    let rpc = node.rpc("read", json!({ "user": "42", "up_to": cursor })).await;
    assert_eq!(rpc["result"]["unread"]["count"], 1, "{rpc}");
}

#[tokio::test]
async fn what_cannot_be_marked_is_said() {
    let node = TestNode::with(inbox).await;
    push(&node, "a").await;
    for (body, code, word) in [
        (json!({}), 400, "bad_read"),
        (json!({ "up_to": "x", "ids": ["1"] }), 400, "bad_read"),
        (json!({ "ids": [] }), 400, "bad_read"),
        (json!({ "ids": vec!["x"; 301] }), 400, "bad_read"),
        (json!({ "ids": ["x".repeat(1_000_000)] }), 400, "bad_json"),
        (json!({ "up_to": "forged" }), 400, "bad_cursor"),
        (json!([]), 400, "bad_json"),
    ] {
        let reply = read(&node, &body).await;
        assert_eq!((reply.code(), reply.json()["error"]["code"].as_str()), (code, Some(word)), "{word}");
    }
    assert_eq!(read(&node, &json!({ "ids": ["unknown"] })).await.json()["unread"]["count"], 1);
    assert_eq!(Reply::get(&node.url("/me/unread")).await.code(), 401);
    let plain = TestNode::start().await;
    assert_eq!(unread(&plain).await["error"]["code"], "no_inbox");
}

#[tokio::test]
async fn a_repeated_push_is_shown_once() {
    let node = TestNode::with(inbox).await;
    let push = async || {
        let request = http().post(node.url("/users/42")).header("idempotency-key", "order-7").body("paid");
        Reply::of(request).await.json()
    };
    let first = push().await;
    assert_eq!(push().await, first);
    assert_eq!(first["id"], "order-7");
    assert_eq!(unread(&node).await["count"], 1);
    let bad = http().post(node.url("/users/42")).header("idempotency-key", "a b").body("paid");
    assert_eq!(Reply::of(bad).await.json()["error"]["code"], "bad_id");
}
