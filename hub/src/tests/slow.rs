//! Clients that read slowly or not at all: what each policy keeps, and that nobody else notices.

use bytes::Bytes;
use clarion_protocol::{CloseCode, Door};

use super::support::*;
use crate::{Config, SlowPolicy};

fn small() -> Config {
    Config { outbox_bytes: 32 * 1024, close_timeout: std::time::Duration::from_millis(300), ..config(1) }
}

/// Sends numbered messages of 1 KiB; the fast client must get each.
async fn flood(it: &Fixture, fast: &mut Client, numbers: std::ops::Range<usize>) {
    for number in numbers {
        it.dispatch([("a", numbered(number))]).await;
        assert_eq!(fast.frame(), Some(Frame(0x81, numbered(number).to_vec())));
    }
}

fn numbered(number: usize) -> Bytes {
    Bytes::from(format!("{number:01024}"))
}

fn number(frame: &Frame) -> usize {
    String::from_utf8(frame.1.clone()).unwrap().parse().unwrap()
}

/// All frames up to the end of the connection.
fn rest(client: &mut Client) -> Vec<Frame> {
    std::iter::from_fn(|| client.frame()).collect()
}

#[tokio::test]
async fn disconnect_says_so_and_cuts_no_frame() {
    let it = Fixture::new(small());
    let mut fast = it.client(&["a"]).await;
    let mut slow = it.narrow(&["a"], SlowPolicy::Disconnect).await;
    flood(&it, &mut fast, 0..2000).await;
    let frames = rest(&mut slow);
    let (last, messages) = frames.split_last().unwrap();
    assert_eq!(*last, close(CloseCode::Slow));
    assert!(messages.len() < 2000);
    assert!(messages.iter().map(number).eq(0..messages.len()), "what came before came in order and whole");
    assert_eq!(it.metric("clarion_outbox_overflows_total{policy=\"disconnect\"}"), 1.0);
    assert_eq!(it.metric("clarion_closes_total{code=\"3008\"}"), 1.0);
    drop(slow);
    eventually("it is gone", || it.hub.connections() == 1).await;
    it.stop().await;
}

#[tokio::test]
async fn a_client_that_never_reads_is_gone_after_the_goodbye() {
    let it = Fixture::new(small());
    let mut fast = it.client(&["a"]).await;
    let _slow = it.narrow(&["a"], SlowPolicy::Disconnect).await;
    flood(&it, &mut fast, 0..500).await;
    eventually("it is gone", || it.hub.connections() == 1 && it.leases() == 1).await;
    it.stop().await;
}

#[tokio::test]
async fn drop_oldest_keeps_the_newest() {
    let it = Fixture::new(small());
    let mut fast = it.client(&["a"]).await;
    let mut slow = it.narrow(&["a"], SlowPolicy::DropOldest).await;
    flood(&it, &mut fast, 0..2000).await;
    let mut numbers = Vec::new();
    while numbers.last() != Some(&1999) {
        numbers.push(number(&slow.frame().unwrap()));
    }
    assert!(numbers.is_sorted() && numbers.len() < 2000);
    let newest = numbers.windows(2).rev().take_while(|pair| pair[0] + 1 == pair[1]).count();
    assert!(newest >= 20, "the outbox holds about thirty, in a row: {newest}");
    let dropped = it.metric("clarion_outbox_overflows_total{policy=\"drop_oldest\"}");
    assert_eq!(dropped as usize, 2000 - numbers.len());
    // It caught up, so nothing stands between it and the next message.
    it.say("a", "next").await;
    assert_eq!(slow.text(), "next");
    it.stop().await;
}

#[tokio::test]
async fn latest_keeps_the_newest_of_each_channel() {
    let it = Fixture::new(small());
    let mut fast = it.client(&["b/*"]).await;
    let mut slow = it.narrow(&["b/*"], SlowPolicy::Latest).await;
    for round in 0..1000 {
        let messages = ["b/x", "b/y"].map(|channel| (channel, Bytes::from(format!("{channel} {round:01000}"))));
        it.dispatch(messages).await;
        for channel in ["b/x", "b/y"] {
            assert_eq!(fast.text(), format!("{channel} {round:01000}"));
        }
    }
    let mut heard = Vec::new();
    while heard.last().map(String::as_str) != Some(&format!("b/y {:01000}", 999)) {
        heard.push(slow.text());
    }
    assert_eq!(heard[heard.len() - 2], format!("b/x {:01000}", 999));
    for channel in ["b/x", "b/y"] {
        assert!(heard.iter().filter(|text| text.starts_with(channel)).is_sorted());
    }
    let dropped = it.metric("clarion_outbox_overflows_total{policy=\"latest\"}");
    assert_eq!(dropped as usize, 2000 - heard.len());
    it.stop().await;
}

#[tokio::test]
async fn a_slow_client_that_catches_up_misses_nothing() {
    let it = Fixture::new(Config { outbox_bytes: 8 << 20, ..config(1) });
    let mut slow = it.narrow(&["a"], SlowPolicy::Disconnect).await;
    for start in (0..3000).step_by(10) {
        it.dispatch((start..start + 10).map(|number| ("a", numbered(number)))).await;
    }
    for expected in 0..3000 {
        assert_eq!(number(&slow.frame().unwrap()), expected);
    }
    it.stop().await;
}

#[tokio::test]
async fn goodbye_comes_after_what_was_pending() {
    let it = Fixture::new(Config { outbox_bytes: 8 << 20, ..config(1) });
    let mut slow = it.narrow(&["a"], SlowPolicy::Disconnect).await;
    it.dispatch((0..1000).map(|number| ("a", numbered(number)))).await;
    it.hub.close_some(1, CloseCode::Restart);
    // This one comes too late.
    it.say("a", "late").await;
    for expected in 0..1000 {
        assert_eq!(number(&slow.frame().unwrap()), expected);
    }
    assert_eq!(slow.frame(), Some(close(CloseCode::Restart)));
    assert_eq!(it.hub.connections(), 1);
    slow.send(0x88, &CloseCode::Restart.body());
    assert_eq!(slow.frame(), None);
    eventually("it is gone", || it.hub.connections() == 0 && it.leases() == 0).await;
    assert_eq!(it.metric("clarion_closes_total{code=\"1012\"}"), 1.0);
    it.stop().await;
}

#[tokio::test]
async fn a_goodbye_has_patience_with_those_who_still_read() {
    let patience = std::time::Duration::from_secs(4);
    let it = Fixture::new(Config { outbox_bytes: 8 << 20, close_timeout: patience, ..config(1) });
    let mut slow = it.narrow(&["a"], SlowPolicy::Disconnect).await;
    it.dispatch((0..400).map(|number| ("a", numbered(number)))).await;
    it.hub.close_some(1, CloseCode::Restart);
    for expected in 0..400 {
        // Longer in all than a client has that does not read, and each time much less.
        if expected % 40 == 0 {
            tokio::time::sleep(patience / 8).await;
        }
        assert_eq!(number(&slow.frame().unwrap()), expected);
    }
    assert_eq!(slow.frame(), Some(close(CloseCode::Restart)));
    it.stop().await;
}

#[tokio::test]
async fn one_that_asks_and_never_listens_is_slow_too() {
    let it = Fixture::new(small());
    let mut client = it.narrow(&["a"], SlowPolicy::DropOldest).await;
    client.socket.set_nonblocking(true).unwrap();
    let pings: Vec<u8> = std::iter::repeat_n(masked(0x81, b"ping"), 1000).flatten().collect();
    eventually("it was told", || {
        drop(std::io::Write::write(&mut client.socket, &pings));
        it.metric("clarion_closes_total{code=\"3008\"}") == 1.0
    })
    .await;
    it.stop().await;
}

#[tokio::test]
async fn pings_that_are_not_listened_to_keep_one_pong() {
    let it = Fixture::new(small());
    let mut client = it.narrow(&["a"], SlowPolicy::Disconnect).await;
    let mut fast = it.client(&["a"]).await;
    // Far more than a pong each could wait, and other clients are served meanwhile.
    for round in 0..200 {
        let pings: Vec<u8> = (0..100).flat_map(|ping| masked(0x89, format!("{round} {ping}").as_bytes())).collect();
        std::io::Write::write_all(&mut client.socket, &pings).unwrap();
        it.say("b", "others").await;
    }
    client.send_text("ping");
    it.say("a", "end").await;
    assert_eq!(fast.text(), "end");
    let mut last = None;
    let end = loop {
        match client.frame().unwrap() {
            Frame(0x8a, payload) => last = Some(payload),
            Frame(0x81, payload) if payload == b"pong" => break payload,
            Frame(0x81, payload) => assert_eq!(payload, b"end"),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!((end.as_slice(), last.as_deref()), (&b"pong"[..], Some(&b"199 99"[..])));
    assert_eq!(it.metric("clarion_closes_total{code=\"3008\"}"), 0.0);
    it.stop().await;
}

#[tokio::test]
async fn what_may_be_dropped_goes_before_anybody_is_closed() {
    let it = Fixture::new(small());
    let mut fast = it.client(&["a", "b"]).await;
    let mut wish = it.wish(Door::WebSocket, &["a"], SlowPolicy::DropOldest);
    wish.subscriptions.push(it.subscription(Door::WebSocket, "b", SlowPolicy::Disconnect));
    let opened = it.open(wish).await;
    let (mut slow, server) = it.pair(Some(4096));
    opened.ticket.attach(server, None, Bytes::new());
    flood(&it, &mut fast, 0..2000).await;
    for number in 0..10 {
        it.dispatch([("b", Bytes::from(format!("b{number}")))]).await;
        assert_eq!(fast.text(), format!("b{number}"));
    }
    let mut heard = Vec::new();
    while heard.last().map(String::as_str) != Some("b9") {
        heard.push(slow.text());
    }
    let kept: Vec<_> = heard.iter().filter(|text| text.starts_with('b')).collect();
    assert!(kept.iter().map(|text| text.as_str()).eq((0..10).map(|n| format!("b{n}")).collect::<Vec<_>>()));
    let dropped = it.metric("clarion_outbox_overflows_total{policy=\"drop_oldest\"}");
    assert_eq!(dropped as usize, 2000 + 10 - heard.len());
    it.stop().await;
}
