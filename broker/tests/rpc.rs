//! JSON-RPC 2.0 on `POST /rpc`, as its specification and the table in the docs say.

mod nodes;

use clarion_bus::Bus as _;
use clarion_testkit::{Reply, WsClient, http, within};
use nodes::{KEY, TestNode, cluster, keyed, token};
use serde_json::{Value, json};

async fn post(node: &TestNode, body: &str) -> Reply {
    Reply::of(http().post(node.url("/rpc")).header("content-type", "application/json").body(body.to_owned())).await
}

async fn call(node: &TestNode, body: &Value) -> Value {
    let reply = post(node, &body.to_string()).await;
    assert_eq!(reply.code(), 200, "{}", reply.text());
    reply.json()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_way_to_publish() {
    let node = TestNode::start().await;
    let mut news = WsClient::connect(&node.url("/news")).await;
    let mut me = WsClient::connect(&node.url(&format!("/me?token={}", token("42")))).await;
    let id = |answer: &Value| assert!(answer["result"]["id"].is_string(), "{answer}");
    id(&node.rpc("publish", json!({ "channel": "news", "data": { "n": 1 } })).await);
    id(&node.rpc("push", json!({ "user": "42", "text": "by name" })).await);
    id(&node.rpc("push", json!({ "user": 42, "data": null })).await);
    id(&node.rpc("broadcast", json!({ "base64": "YWxs" })).await);
    let batch = json!({ "messages": [{ "channel": "news", "text": "two" }, { "channel": "a//b", "text": "x" }] });
    let batch = node.rpc("batch", batch).await;
    assert!(batch["result"]["results"][0]["id"].is_string());
    assert_eq!(batch["result"]["results"][1]["error"]["code"], "bad_channel");
    assert_eq!([news.text().await, news.text().await], [r#"{"n":1}"#, "two"]);
    assert_eq!([me.text().await, me.text().await, me.text().await], ["by name", "null", "all"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_specification_by_its_examples() {
    let node = TestNode::start().await;
    let error = |answer: &Value| (answer["error"]["code"].as_i64().unwrap_or_default(), answer["id"].clone());
    let publish = json!({ "channel": "news", "text": "x" });

    let broken = post(&node, "{\"jsonrpc\": \"2.0\",\n \"method\": \"foobar, }").await.json();
    assert_eq!(error(&broken), (-32700, Value::Null));
    assert_eq!(broken["error"]["data"]["line"], 2);
    for (request, code, id) in [
        (json!([]), -32600, Value::Null),
        (json!(1), -32600, Value::Null),
        (json!({ "jsonrpc": "2.0", "method": 1, "params": "bar" }), -32600, Value::Null),
        (json!({ "jsonrpc": "1.0", "method": "info", "id": 1 }), -32600, Value::Null),
        (json!({ "jsonrpc": "2.0", "method": "info", "id": {} }), -32600, Value::Null),
        (json!({ "jsonrpc": "2.0", "method": "foobar", "id": "1" }), -32601, json!("1")),
        (json!({ "jsonrpc": "2.0", "method": "publish", "id": 1 }), -32602, json!(1)),
        (json!({ "jsonrpc": "2.0", "method": "publish", "params": ["news", "x"], "id": 1 }), -32602, json!(1)),
        (
            json!({ "jsonrpc": "2.0", "method": "push", "params": { "user": "a/b", "text": "" }, "id": null }),
            -32602,
            Value::Null,
        ),
        (
            json!({ "jsonrpc": "2.0", "method": "publish", "params": { "channel": "rpc", "text": "" }, "id": 1.5 }),
            -32602,
            json!(1.5),
        ),
        (json!({ "jsonrpc": "2.0", "method": "broadcast", "params": publish, "id": 1 }), -32602, json!(1)),
    ] {
        let answer = call(&node, &request).await;
        assert_eq!(error(&answer), (code, id), "{request} {answer}");
        assert_eq!(answer["jsonrpc"], "2.0");
    }
    let each = call(&node, &json!([1, ["2.0", "info", {}, 1]])).await;
    assert_eq!(each.as_array().unwrap().iter().map(|answer| error(answer).0).collect::<Vec<_>>(), [-32600, -32600]);
}

#[tokio::test(flavor = "multi_thread")]
async fn notifications_are_done_and_not_answered() {
    let node = TestNode::start().await;
    let mut news = WsClient::connect(&node.url("/news")).await;
    let notification =
        |text: &str| json!({ "jsonrpc": "2.0", "method": "publish", "params": { "channel": "news", "text": text } });
    let single = post(&node, &notification("one").to_string()).await;
    assert_eq!((single.code(), single.text()), (204, String::new()));
    let unknown = json!({ "jsonrpc": "2.0", "method": "foobar" });
    let none = post(&node, &json!([notification("two"), unknown]).to_string()).await;
    assert_eq!((none.code(), none.text()), (204, String::new()));
    let mixed = json!([notification("three"), { "jsonrpc": "2.0", "method": "info", "id": "i" }, notification("four")]);
    let mixed = call(&node, &mixed).await;
    assert_eq!((mixed.as_array().unwrap().len(), &mixed[0]["id"]), (1, &json!("i")));
    for expected in ["one", "two", "three", "four"] {
        assert_eq!(news.text().await, expected);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_backends_call() {
    let node = TestNode::with(keyed).await;
    let info = json!({ "jsonrpc": "2.0", "method": "info", "id": 1 }).to_string();
    let stranger = post(&node, &info).await;
    assert_eq!(stranger.code(), 401);
    assert!(stranger.header("www-authenticate").is_some());
    let wrong = http().post(node.url("/rpc")).header("x-api-key", "wrong").body(info.clone());
    assert_eq!(Reply::of(wrong).await.code(), 401);
    let right = http().post(node.url("/rpc")).header("x-api-key", KEY).body(info);
    assert_eq!(Reply::of(right).await.json()["result"]["bus"], "memory");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_bus_and_the_limits_say() {
    let node = TestNode::start().await;
    let large = node.rpc("publish", json!({ "channel": "a", "text": "x".repeat(70_000) })).await;
    assert_eq!((&large["error"]["code"], &large["error"]["data"]["code"]), (&json!(-32003), &json!("too_large")));
    node.bus.cut();
    let down = node.rpc("publish", json!({ "channel": "a", "text": "x" })).await;
    assert_eq!((&down["error"]["code"], &down["error"]["data"]["code"]), (&json!(-32000), &json!("bus_unavailable")));
    assert_eq!(Reply::post(&node.url("/rpc"), "application/json", "x".repeat(2 << 20)).await.code(), 413);
}

#[tokio::test(flavor = "multi_thread")]
async fn online_and_disconnect_concern_the_whole_cluster() {
    let nodes = cluster(3, |_| {}).await;
    let path = format!("/me?token={}", token("42"));
    let mut sockets = Vec::new();
    for node in nodes.iter().take(2) {
        sockets.push(WsClient::connect(&node.url(&path)).await);
    }
    let other = WsClient::connect(&nodes[2].url(&format!("/me?token={}", token("7")))).await;
    let online = nodes[2].rpc("online", json!({ "user": "42" })).await["result"].clone();
    assert_eq!((&online["connections"], &online["partial"]), (&json!(2), &json!(false)), "{online}");
    let connections: u64 =
        online["nodes"].as_array().unwrap().iter().map(|node| node["connections"].as_u64().unwrap()).sum();
    assert_eq!(connections, 2);
    assert_eq!(nodes[2].rpc("disconnect", json!({ "user": 42 })).await["result"], json!({ "partial": false }));
    for socket in &mut sockets {
        assert_eq!(socket.closed().await.0, 3503);
    }
    assert_eq!(nodes[0].rpc("online", json!({ "user": "7" })).await["result"]["connections"], 1);
    drop(other);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_asks_the_members_together_and_waits_for_a_silent_one_once() {
    let nodes = cluster(3, |_| {}).await;
    let _socket = WsClient::connect(&nodes[1].url(&format!("/me?token={}", token("42")))).await;
    nodes[2].bus.cut();
    let calls: Vec<_> = (0..1_000)
        .map(|n| match n {
            500 => json!({ "jsonrpc": "2.0", "id": n, "method": "publish", "params": { "channel": "a", "text": "x" } }),
            700 => json!({ "jsonrpc": "2.0", "id": n, "method": "online", "params": { "user": "a/b" } }),
            800 => json!({ "jsonrpc": "2.0", "method": "online", "params": { "user": "42" } }),
            _ => json!({ "jsonrpc": "2.0", "id": n, "method": "online", "params": { "user": n } }),
        })
        .collect();
    let heard = nodes[1].bus.stats().messages;
    let answers = within("a thousand answers", call(&nodes[0], &calls.into())).await;
    let heard = nodes[1].bus.stats().messages - heard;
    // Besides the questions there are the heartbeats of the half second in which the silent one is waited for.
    assert!(heard < 50, "{heard} messages for a thousand calls");
    let answers = answers.as_array().unwrap();
    let ids: Vec<_> = answers.iter().map(|answer| answer["id"].as_u64().unwrap()).collect();
    assert_eq!(ids, (0..1_000).filter(|n| *n != 800).collect::<Vec<_>>());
    for (id, answer) in ids.iter().zip(answers) {
        match id {
            500 => assert!(answer["result"]["id"].is_string(), "{answer}"),
            700 => assert_eq!(answer["error"]["code"], -32602, "{answer}"),
            _ => {
                let (connections, partial) = (&answer["result"]["connections"], &answer["result"]["partial"]);
                assert_eq!((connections, partial), (&json!(u64::from(*id == 42)), &json!(true)), "{answer}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn info_tells_of_the_cluster() {
    let nodes = cluster(2, |_| {}).await;
    let info = nodes[0].rpc("info", json!({})).await["result"].clone();
    assert_eq!((&info["node"], &info["bus"]), (&json!("node-0"), &json!("memory")));
    let names: Vec<_> = info["members"].as_array().unwrap().iter().map(|member| &member["node"]).collect();
    assert_eq!(names, ["node-0", "node-1"]);
    for key in ["instance", "weight", "ring", "connections", "version", "advertise", "public_url"] {
        assert!(info["members"][0].get(key).is_some(), "{key} in {info}");
    }
    assert!(info["ring"].is_string() && info["version"].is_string() && info["connections"].is_number());
}
