//! Logged namespaces: what is lost on the way to a node is read from the log before anything later goes on.

#![allow(clippy::unwrap_used, reason = "a test that fails may say so anywhere")]

mod nodes;

use clarion_broker::config::Config;
use clarion_testkit::{Reply, SseClient, SseEvent, SseItem, WsClient, eventually, http};
use nodes::{TestNode, cluster};
use serde_json::json;

fn logged(config: &mut Config) {
    config.namespaces = serde_json::from_value(json!([
        { "prefix": "orders", "subscribe": "anyone", "publish": "anyone", "log": { "size": 1000 } },
        { "prefix": "orders/plain", "subscribe": "anyone", "publish": "anyone" },
        { "prefix": "news", "subscribe": "anyone", "publish": "anyone" },
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

/// The next event that tells a cursor: a message's, or the stream's own.
async fn cursor(stream: &mut SseClient) -> String {
    loop {
        match stream.next().await {
            SseItem::Event(SseEvent { id: Some(id), .. }) => return id,
            SseItem::End => panic!("the stream ended"),
            _ => {}
        }
    }
}

async fn stream_from(node: &TestNode, path: &str, id: &str) -> SseClient {
    SseClient::request(http().get(node.url(path)).header("last-event-id", id)).await.unwrap()
}

async fn get(node: &TestNode, path: &str) -> Reply {
    Reply::get(&node.url(path)).await
}

fn texts(page: &serde_json::Value) -> Vec<String> {
    let all = page["messages"].as_array().expect("messages");
    let text = |message: &serde_json::Value| message.get("text").or(message.get("data")).expect("a payload").clone();
    all.iter().map(|one| text(one).as_str().map_or_else(|| text(one).to_string(), str::to_owned)).collect()
}

#[tokio::test]
async fn a_client_hops_from_door_to_door_with_its_cursor() {
    let nodes = cluster(2, logged).await;
    let [node, other] = &nodes[..] else { panic!("there are two") };
    let mut stream = SseClient::connect(&node.url("/orders/1")).await.unwrap();
    let first = cursor(&mut stream).await;
    drop(stream);
    for number in 0..3 {
        publish(other, "orders/1", number).await;
    }
    let mut stream = stream_from(other, "/orders/1", &first).await;
    let mut seen = Vec::new();
    let mut at = first.clone();
    while seen.len() < 2 {
        if let SseItem::Event(SseEvent { id: Some(id), event: None, data }) = stream.next().await {
            seen.push(data);
            at = id;
        }
    }
    drop(stream);
    let request = WsClient::request(&node.url(&format!("/orders/1?since={at}")).replace("http", "ws"));
    let mut socket = request.subprotocols(&["clarion.resume.v1"]).connect().await.unwrap();
    let message: serde_json::Value = serde_json::from_str(&socket.text().await).unwrap();
    assert_eq!((message["channel"].as_str(), message["data"].as_u64()), (Some("orders/1"), Some(2)));
    at = message["cursor"].as_str().expect("a cursor").to_owned();
    let told: serde_json::Value = serde_json::from_str(&socket.text().await).unwrap();
    assert!(told["cursor"].is_string() && told.get("channel").is_none(), "{told}");
    publish(other, "orders/1", 3).await;
    let page = get(other, &format!("/orders/1?since={at}&wait=30")).await.json();
    assert_eq!(texts(&page), ["3"]);
    let at = page["cursor"].as_str().unwrap().to_owned();
    let waiting = tokio::spawn(http().get(node.url(&format!("/orders/1?since={at}&wait=30"))).send());
    eventually("it waits", async || {
        let here = node.metrics().await.sum_where("clarion_connections", r#"door="poll""#);
        if here == 1.0 { Ok(()) } else { Err(here) }
    })
    .await;
    publish(other, "orders/1", 4).await;
    let page: serde_json::Value = waiting.await.unwrap().unwrap().json().await.unwrap();
    assert_eq!(texts(&page), ["4"]);
    let at = page["cursor"].as_str().unwrap();
    let nothing = get(node, &format!("/orders/1?since={at}&wait=1")).await;
    assert_eq!((nothing.code(), nothing.header("clarion-cursor")), (204, Some(at)));
    let mut plain = WsClient::connect(&node.url(&format!("/orders/1?since={first}")).replace("http", "ws")).await;
    for number in 0..5 {
        assert_eq!(plain.text().await, number.to_string());
    }
    assert_eq!(texts(&get(node, "/orders/1?last=2").await.json()), ["3", "4"]);
    assert_eq!(texts(&get(other, "/orders/**?last=100").await.json()), numbers(0..5));
}

#[tokio::test]
async fn what_cannot_be_honoured_is_told() {
    let node = TestNode::with(logged).await;
    let mut stream = SseClient::connect(&node.url("/chat/1")).await.unwrap();
    let first = cursor(&mut stream).await;
    drop(stream);
    for number in 0..30 {
        publish(&node, "chat/1", number).await;
    }
    let mut stream = stream_from(&node, "/chat/1", &first).await;
    let gap = loop {
        match stream.next().await {
            SseItem::Event(event) if event.event.as_deref() == Some("gap") => break event,
            SseItem::Event(event) => panic!("{event:?} before the gap"),
            _ => {}
        }
    };
    assert_eq!(gap.data, r#"{"reason":"too_old"}"#);
    assert_eq!(messages(&mut stream, 10).await, numbers(20..30));
    let poll = get(&node, &format!("/chat/1?since={first}&wait=5")).await;
    assert_eq!(poll.code(), 410);
    let oldest = poll.json()["cursor"].as_str().expect("where to go on").to_owned();
    assert_eq!(texts(&get(&node, &format!("/chat/1?since={oldest}&wait=5")).await.json()), numbers(20..30));
    let url = node.url(&format!("/chat/1?since={first}")).replace("http", "ws");
    assert_eq!(WsClient::connect(&url).await.closed().await.0, 3010);
    let mut forged = stream_from(&node, "/chat/1", "forged").await;
    loop {
        if let SseItem::Event(event) = forged.next().await {
            assert_eq!((event.event.as_deref(), event.data.as_str()), (Some("gap"), r#"{"reason":"log_lost"}"#));
            break;
        }
    }
    for (path, code, word) in [
        ("/chat/1?since=forged", 400, "bad_cursor"),
        ("/chat/1?last=-1", 400, "bad_query"),
        ("/chat/1?wait=1h", 400, "bad_query"),
        ("/news?last=5", 400, "not_logged"),
        ("/chat/1", 406, "not_acceptable"),
    ] {
        let reply = get(&node, path).await;
        assert_eq!((reply.code(), reply.json()["error"]["code"].as_str()), (code, Some(word)), "{path}");
    }
}

#[tokio::test]
async fn one_cursor_stands_for_many_channels_and_partitions() {
    let nodes = cluster(2, logged).await;
    let [node, other] = &nodes[..] else { panic!("there are two") };
    let path = "/events?channel=orders/**&channel=chat/1&channel=chat/2&channel=news";
    let mut stream = SseClient::connect(&node.url(path)).await.unwrap();
    let mut at = cursor(&mut stream).await;
    let mut expected = 0;
    for round in 0..10 {
        drop(stream);
        for channel in ["orders/a", "chat/1", "orders/b/c", "chat/2", "news"] {
            publish(other, channel, format!("{channel} {round}")).await;
        }
        stream = stream_from(if round % 2 == 0 { other } else { node }, path, &at).await;
        let mut heard = Vec::new();
        // All of it, and then the cursor that comes at the end.
        loop {
            match stream.next().await {
                SseItem::Event(event) if event.event.as_deref() == Some("cursor") => {
                    at = event.id.expect("a cursor");
                    if heard.len() == 4 {
                        break;
                    }
                }
                SseItem::Event(event) => heard.push(event.data),
                SseItem::End => panic!("it ended after {heard:?}"),
                _ => {}
            }
        }
        heard.sort();
        assert_eq!(heard.len(), 4, "{heard:?}");
        assert!(heard.iter().all(|one| one.contains(&round.to_string())), "{heard:?}");
        expected += 4;
    }
    assert_eq!(expected, 40);
}

#[tokio::test]
async fn nobody_misses_or_repeats_anything_while_messages_flow() {
    let nodes = cluster(2, logged).await;
    let [node, other] = &nodes[..] else { panic!("there are two") };
    const MESSAGES: usize = 400;
    let publisher = async {
        for number in 0..MESSAGES {
            publish(other, &format!("orders/{}", number % 3), number).await;
        }
    };
    let client = async |start: usize| {
        let (mut heard, mut at) = (Vec::new(), None::<String>);
        let mut visits = start;
        while heard.len() < MESSAGES {
            let node = if visits.is_multiple_of(2) { node } else { other };
            let mut stream = match &at {
                Some(at) => stream_from(node, "/orders/**", at).await,
                None => SseClient::connect(&node.url("/orders/**?last=1000")).await.unwrap(),
            };
            visits += 1;
            let mut left = 1 + (visits * 7) % 40;
            while left > 0 && heard.len() < MESSAGES {
                if let SseItem::Event(SseEvent { id, event, data }) = stream.next().await {
                    at = id.or(at);
                    match event.as_deref() {
                        None => {
                            heard.push(data.parse::<usize>().unwrap());
                            left -= 1;
                        }
                        Some("cursor") => {}
                        Some(other) => panic!("{other} {data}"),
                    }
                }
            }
        }
        heard
    };
    let clients = futures_util::future::join_all((0..20).map(client));
    let (_, all) = tokio::join!(publisher, clients);
    for heard in all {
        assert_eq!(heard, (0..MESSAGES).collect::<Vec<_>>());
    }
}
