//! Leaving in order, losing nobody.

use std::time::Duration;

use clarion_testkit::{BrokerProcess, RedisServer, SseClient, SseItem, WsClient, WsItem, eventually, http};
use tokio::time::Instant;

use crate::{ConfigFile, call, development, say};

fn quick() -> ConfigFile {
    ConfigFile::new("[drain]\nwait = \"500ms\"\nclose_over = \"1s\"\ndeadline = \"20s\"\n")
}

#[tokio::test]
async fn everybody_is_told_and_the_process_ends_in_order() {
    let file = quick();
    let mut node = development().args(["--config", file.path()]).start_ready().await;
    let mut sockets = Vec::new();
    for _ in 0..50 {
        sockets.push(WsClient::connect(&node.url("news")).await);
    }
    let mut stream = SseClient::connect(&node.url("news")).await.expect("it is let in");
    say(&node, "news", "before").await;
    node.sigterm();
    eventually("it is not ready", async || !node.is_ready().await).await;
    // Still serving until the load balancer has noticed.
    say(&node, "news", "while it waits").await;
    for socket in &mut sockets {
        assert_eq!(socket.text().await, "before");
        assert_eq!(socket.text().await, "while it waits");
        assert_eq!(socket.closed().await, (1012, "restart".to_owned()));
    }
    let mut heard = Vec::new();
    let mut pause = None;
    loop {
        match stream.next().await {
            SseItem::Event(event) => heard.push(event.data),
            SseItem::Retry(time) => pause = Some(time),
            SseItem::Comment(_) => {}
            SseItem::End => break,
        }
    }
    assert_eq!(heard, ["before", "while it waits"]);
    assert!(pause.is_some(), "an event stream is told when to come back");
    assert_eq!(node.ended().await, Some(0));
}

#[tokio::test]
async fn connections_are_closed_over_a_time_and_hear_on_meanwhile() {
    let file = ConfigFile::new("[drain]\nwait = \"100ms\"\nclose_over = \"3s\"\ndeadline = \"60s\"\n");
    let node = development().args(["--config", file.path()]).start_ready().await;
    let mut tasks = Vec::new();
    for _ in 0..300 {
        let mut socket = WsClient::connect(&node.url("news")).await;
        tasks.push(tokio::spawn(async move {
            let mut heard = 0;
            loop {
                match socket.next().await {
                    WsItem::Text(_) => heard += 1,
                    WsItem::Close(code, _) => return (Instant::now(), code, heard),
                    WsItem::Binary(_) | WsItem::Ping(_) | WsItem::Pong(_) => {}
                    WsItem::Gone => panic!("gone without a close frame"),
                }
            }
        }));
    }
    node.sigterm();
    let mut ends = Vec::new();
    for task in tasks {
        ends.push(task.await.expect("it ends"));
    }
    assert!(ends.iter().all(|(_, code, _)| *code == 1012));
    let first = ends.iter().map(|end| end.0).min().expect("there are some");
    let last = ends.iter().map(|end| end.0).max().expect("there are some");
    assert!(last - first > Duration::from_secs(1), "300 connections were closed within {:?}", last - first);
}

#[tokio::test]
async fn a_second_signal_ends_it_at_once() {
    let file = ConfigFile::new("[drain]\nwait = \"5m\"\ndeadline = \"10m\"\n");
    let mut node = development().args(["--config", file.path()]).start_ready().await;
    node.sigterm();
    eventually("it is not ready", async || !node.is_ready().await).await;
    // One that follows within half a second is the same request, so they go on until one is not.
    eventually("it is gone", async || {
        node.sigterm();
        http().get(node.admin_url("/health/live")).send().await.is_err()
    })
    .await;
    let code = node.ended().await;
    assert_ne!(code, Some(0), "it did not leave in order and says so");
}

#[tokio::test]
async fn the_deadline_holds_for_clients_that_do_not_read() {
    let file = ConfigFile::new("[drain]\nwait = \"100ms\"\nclose_over = \"100ms\"\ndeadline = \"6s\"\n");
    let mut node = development().args(["--config", file.path()]).start_ready().await;
    let _stuck = WsClient::connect(&node.url("news")).await;
    for _ in 0..20 {
        say(&node, "news", &"x".repeat(60_000)).await;
    }
    node.sigterm();
    assert!(node.ended().await.is_some(), "it ends although nobody reads");
}

#[tokio::test]
async fn a_leaving_node_is_no_home_any_more() {
    let redis = RedisServer::start().await;
    let file = ConfigFile::new("[drain]\nwait = \"2s\"\nclose_over = \"100ms\"\ndeadline = \"20s\"\n");
    let start = async |name: &str, shards: &str| -> BrokerProcess {
        let node = development().args(["--bus", &redis.url(), "--node", name, "--config", file.path()]);
        node.env("CLARION_LIMITS_SHARDS", shards).start_ready().await
    };
    // The link of the one that leaves is on its shard's thread, and has to say goodbye after the shard's end.
    let (leaving, stays) = (start("leaving", "1").await, start("stays", "2").await);
    let members = async |node: &BrokerProcess| {
        let info = call(node, "info", serde_json::json!({})).await;
        info["members"].as_array().map(Vec::len)
    };
    for node in [&leaving, &stays] {
        eventually("they know each other", async || members(node).await == Some(2)).await;
    }
    let mut leaving = leaving;
    leaving.sigterm();
    eventually("the other one sees it go at once", async || members(&stays).await == Some(1)).await;
    assert_eq!(leaving.ended().await, Some(0));
}
