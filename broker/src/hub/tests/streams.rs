//! Event streams: the same messages, bounds and goodbyes, fetched by an HTTP response.

use std::time::Duration;

use bytes::Bytes;
use clarion_protocol::{CloseCode, dialect::Dialect};
use futures_util::StreamExt;

use super::support::*;
use crate::hub::{Config, EventStream, SlowPolicy};

async fn stream(it: &Fixture, dialect: Dialect, interests: &[&str], slow: SlowPolicy) -> EventStream {
    let mut open = it.wish(dialect, interests, slow);
    open.greeting = Bytes::from_static(b": hello\n\n");
    it.hub.open(open).await.unwrap().into_stream()
}

/// Reads until what came ends with `end`.
async fn until(stream: &mut EventStream, end: &str) -> String {
    let mut all = Vec::new();
    while !all.ends_with(end.as_bytes()) {
        let next = tokio::time::timeout(PATIENCE, stream.next()).await;
        let next = next.unwrap_or_else(|_| panic!("waited for {end:?}, got {:?}", String::from_utf8_lossy(&all)));
        all.extend_from_slice(&next.unwrap_or_else(|| panic!("ended before {end:?}")));
    }
    String::from_utf8(all).unwrap()
}

#[tokio::test]
async fn events_come_in_their_dialects() {
    let it = Fixture::new(config(2));
    let mut one = stream(&it, Dialect::Event, &["a"], SlowPolicy::Disconnect).await;
    let mut many = stream(&it, Dialect::EventOfMany, &["a", "b/**"], SlowPolicy::Disconnect).await;
    let mut socket = it.client(&["a"]).await;
    it.dispatch([("a", Bytes::from("x\ny")), ("b/c", Bytes::from("{\"z\":1}"))]).await;
    assert_eq!(until(&mut one, "y\n\n").await, ": hello\n\ndata: x\ndata: y\n\n");
    let both = until(&mut many, "}}\n\n").await;
    assert!(both.contains("data: {\"channel\":\"a\",\"text\":\"x\\ny\"}\n\n"), "{both}");
    assert!(both.contains("data: {\"channel\":\"b/c\",\"data\":{\"z\":1}}\n\n"), "{both}");
    assert_eq!(socket.text(), "x\ny");
    assert_eq!(it.metric("clarion_connections{door=\"sse\"}"), 1.0);
    drop(one);
    eventually("its end is noticed", || it.hub.connections() == 2 && it.leases() == 2).await;
    assert_eq!(it.metric("clarion_closes_total{code=\"client\"}"), 1.0);
    it.stop().await;
}

#[tokio::test]
async fn comments_keep_a_stream_alive() {
    let short = Duration::from_millis(200);
    let it = Fixture::new(Config { comment_interval: short, handshake_timeout: short, ..config(1) });
    let mut one = stream(&it, Dialect::Event, &["a"], SlowPolicy::Disconnect).await;
    assert_eq!(until(&mut one, ": \n\n: \n\n").await, ": hello\n\n: \n\n: \n\n");
    it.stop().await;
}

#[tokio::test]
async fn a_stream_that_is_sent_elsewhere_is_told_when_to_come_back() {
    let it = Fixture::new(config(1));
    let mut one = stream(&it, Dialect::Event, &["a"], SlowPolicy::Disconnect).await;
    it.say("a", "last").await;
    it.hub.close_some(1, CloseCode::Restart);
    let all: Vec<Bytes> = tokio::time::timeout(PATIENCE, one.by_ref().collect()).await.unwrap();
    let all = String::from_utf8(all.concat()).unwrap();
    let retry = all.strip_prefix(": hello\n\ndata: last\n\nretry: ").and_then(|rest| rest.strip_suffix("\n\n"));
    assert!(retry.is_some_and(|retry| retry.parse::<u64>().is_ok_and(|retry| retry <= 5000)), "{all:?}");
    assert_eq!(it.hub.connections(), 1);
    drop(one);
    eventually("it is gone", || it.hub.connections() == 0).await;
    assert_eq!(it.metric("clarion_closes_total{code=\"1012\"}"), 1.0);
    it.stop().await;
}

#[tokio::test]
async fn slow_streams_have_the_same_policies() {
    let it = Fixture::new(Config { outbox_bytes: 10_000, ..config(1) });
    let mut ended = stream(&it, Dialect::Event, &["a"], SlowPolicy::Disconnect).await;
    let mut newest = stream(&it, Dialect::Event, &["a"], SlowPolicy::Latest).await;
    for number in 0..100 {
        it.say("a", &format!("{number:0500}")).await;
    }
    let dropped = || it.metric("clarion_outbox_overflows_total{policy=\"latest\"}");
    eventually("all came", || dropped() == 99.0).await;
    assert_eq!(until(&mut newest, &format!("{:0500}\n\n", 99)).await, format!(": hello\n\ndata: {:0500}\n\n", 99));
    while let Some(bytes) = tokio::time::timeout(PATIENCE, ended.next()).await.unwrap() {
        assert!(!bytes.starts_with(b"data"), "what waited is dropped");
    }
    assert_eq!(it.metric("clarion_outbox_overflows_total{policy=\"disconnect\"}"), 1.0);
    it.stop().await;
}

#[tokio::test]
async fn an_untaken_stream_expires_and_a_token_ends() {
    let it = Fixture::new(Config { handshake_timeout: Duration::from_millis(200), ..config(1) });
    let mut wish = it.wish(Dialect::Event, &["a"], SlowPolicy::Disconnect);
    let _untaken = it.hub.open(wish).await.unwrap();
    wish = it.wish(Dialect::Event, &["a"], SlowPolicy::Disconnect);
    wish.expires = Some(Duration::from_millis(500));
    let expiring = it.hub.open(wish).await.unwrap().into_stream();
    eventually("the first is gone", || it.hub.connections() == 1).await;
    let waits_already = tokio::spawn(expiring.collect::<Vec<Bytes>>());
    let all = tokio::time::timeout(PATIENCE, waits_already).await.unwrap().unwrap();
    assert!(String::from_utf8(all.concat()).unwrap().contains("retry: "));
    assert_eq!(it.metric("clarion_closes_total{code=\"3005\"}"), 1.0);
    it.stop().await;
}

#[tokio::test]
async fn a_token_that_ends_soon_ends_its_stream_soon() {
    let it = Fixture::new(Config { handshake_timeout: Duration::from_secs(600), ..config(1) });
    let mut wish = it.wish(Dialect::Event, &["a"], SlowPolicy::Disconnect);
    wish.expires = Some(Duration::from_millis(300));
    let expiring = it.hub.open(wish).await.unwrap().into_stream();
    let all = tokio::time::timeout(PATIENCE, expiring.collect::<Vec<Bytes>>()).await.unwrap();
    assert!(String::from_utf8(all.concat()).unwrap().contains("retry: "));
    it.stop().await;
}
