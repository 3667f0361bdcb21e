//! Seats that come and go on open connections, and what lies between the log and what comes now.

use bytes::Bytes;
use clarion_protocol::{Channel, Door, Epoch, Message, Meta, Position};

use super::support::*;
use crate::{Config, ConnectionKey, Fed, Page, Reached, SeatId, SlowPolicy, Subscription};

const EPOCH: &str = "e1";

/// A message of a log.
fn logged(offset: u64) -> Message {
    let position = Position { offset, epoch: Epoch::parse(EPOCH).unwrap(), previous: None };
    let meta = Meta { position: Some(position), ..Meta::default() };
    Message { payload: Bytes::from(offset.to_string()), meta: Some(meta.into()), id: None }
}

fn page(offsets: std::ops::RangeInclusive<u64>, last: bool) -> Page {
    let up_to = vec![Reached { epoch: Epoch::parse(EPOCH).unwrap(), offset: *offsets.end() }];
    let channel = Channel::parse("log").unwrap();
    Page { messages: offsets.map(|offset| (channel.clone(), logged(offset))).collect(), up_to, last }
}

fn joining(it: &Fixture, text: &str) -> Subscription {
    Subscription { joining: true, ..it.subscription(Door::WebSocket, text, SlowPolicy::Disconnect) }
}

/// A client with one seat that is joining `log`.
async fn joiner(it: &Fixture) -> (ConnectionKey, SeatId, Client) {
    let mut wish = it.wish(Door::WebSocket, &[], SlowPolicy::Disconnect);
    wish.subscriptions.push(joining(it, "log"));
    let opened = it.open(wish).await;
    let key = opened.ticket.key();
    let (client, server) = it.pair(None);
    opened.ticket.attach(server, None, Bytes::new());
    (key, opened.seats[0], client)
}

async fn live(it: &Fixture, offsets: std::ops::RangeInclusive<u64>) {
    it.publish(offsets.map(|offset| ("log", logged(offset)))).await;
}

#[tokio::test]
async fn seats_are_joined_and_left_while_messages_flow() {
    let it = Fixture::new(config(2));
    let ticket = it.ticket(&["a"]).await;
    let key = ticket.key();
    let (mut client, server) = it.pair(None);
    ticket.attach(server, None, Bytes::new());
    for round in 0..50 {
        let wanted = ["b/*", "c"].map(|text| it.subscription(Door::WebSocket, text, SlowPolicy::Disconnect));
        let seats = it.hub.join(key, wanted.into()).await;
        it.dispatch(["a", "b/x", "c"].map(|channel| (channel, Bytes::from(format!("{channel} {round}"))))).await;
        let mut heard: Vec<_> = (0..3).map(|_| client.text()).collect();
        heard.sort_unstable();
        assert_eq!(heard, ["a", "b/x", "c"].map(|channel| format!("{channel} {round}")));
        for seat in &seats {
            it.hub.leave(key, *seat);
            // The name of a seat that was left is good for nothing.
            it.hub.leave(key, *seat);
        }
        it.dispatch([("b/x", "not heard".into()), ("c", "not heard".into()), ("a", "heard".into())]).await;
        assert_eq!(client.text(), "heard");
    }
    let mut released = it.received.released.lock().clone();
    released.sort_unstable();
    assert_eq!(released.len(), 100, "one reference for each seat that was left");
    drop(client);
    eventually("all are given back", || it.received.released.lock().len() == 101 && it.leases() == 0).await;
    assert!(it.hub.join(key, vec![it.subscription(Door::WebSocket, "a", SlowPolicy::Disconnect)]).await.is_empty());
    assert_eq!(it.received.released.lock().len(), 102, "what nobody sits on is given back");
    it.stop().await;
}

#[tokio::test]
async fn the_most_specific_seat_brings_a_message_as_long_as_it_is_there() {
    let it = Fixture::new(config(1));
    let ticket = it.ticket(&["a/**"]).await;
    let key = ticket.key();
    let (mut client, server) = it.pair(None);
    ticket.attach(server, None, Bytes::new());
    let join = async |text: &str| {
        it.hub.join(key, vec![it.subscription(Door::WebSocket, text, SlowPolicy::Disconnect)]).await[0]
    };
    let mut once = async |what: &str| {
        it.dispatch([("a/b", Bytes::copy_from_slice(what.as_bytes())), ("a/c/d", Bytes::from("other"))]).await;
        let mut heard = [client.text(), client.text()];
        heard.sort_unstable();
        assert_eq!(heard, [what, "other"]);
        assert!(client.is_quiet());
    };
    once("all").await;
    let exact = join("a/b").await;
    once("all and exact").await;
    let level = join("a/*").await;
    once("all, level and exact").await;
    it.hub.leave(key, exact);
    once("all and level").await;
    let exact = join("a/b").await;
    it.hub.leave(key, level);
    once("all and exact again").await;
    it.hub.leave(key, exact);
    once("all again").await;
    it.stop().await;
}

#[tokio::test]
async fn what_comes_while_a_seat_joins_follows_the_log_once() {
    let it = Fixture::new(config(1));
    let (key, seat, mut client) = joiner(&it).await;
    live(&it, 5..=7).await;
    assert_eq!(it.hub.feed(key, seat, page(1..=3, false)).await, Fed::Next);
    live(&it, 8..=8).await;
    assert_eq!(it.hub.feed(key, seat, page(4..=6, true)).await, Fed::Live);
    live(&it, 9..=10).await;
    for offset in 1..=10 {
        assert_eq!(client.text(), offset.to_string());
    }
    assert!(client.is_quiet());
    assert_eq!(it.hub.feed(key, seat, page(1..=3, true)).await, Fed::Gone, "it is live");
    it.stop().await;
}

#[tokio::test]
async fn a_copy_that_is_later_than_the_log_is_dropped() {
    let it = Fixture::new(config(1));
    let (key, seat, mut client) = joiner(&it).await;
    assert_eq!(it.hub.feed(key, seat, page(1..=9, true)).await, Fed::Live);
    // The bus is slower than the log was.
    live(&it, 8..=11).await;
    live(&it, 12..=12).await;
    for offset in 1..=12 {
        assert_eq!(client.text(), offset.to_string());
    }
    it.say("log", "raw").await;
    assert_eq!(client.text(), "raw");
    it.stop().await;
}

#[tokio::test]
async fn one_that_falls_behind_while_it_joins_reads_on() {
    let it = Fixture::new(Config { outbox_bytes: 4096, ..config(1) });
    let (key, seat, mut client) = joiner(&it).await;
    live(&it, 4..=500).await;
    assert_eq!(it.hub.feed(key, seat, page(1..=5, true)).await, Fed::Behind);
    live(&it, 501..=502).await;
    assert_eq!(it.hub.feed(key, seat, page(6..=400, false)).await, Fed::Next);
    assert_eq!(it.hub.feed(key, seat, page(401..=501, true)).await, Fed::Live);
    for offset in 1..=502 {
        assert_eq!(client.text(), offset.to_string());
    }
    assert!(client.is_quiet());
    it.stop().await;
}

#[tokio::test]
async fn a_page_is_taken_when_its_client_has_read_it() {
    let it = Fixture::new(Config { outbox_bytes: 1 << 20, ..config(1) });
    let mut wish = it.wish(Door::WebSocket, &[], SlowPolicy::Disconnect);
    wish.subscriptions.push(joining(&it, "log"));
    let opened = it.open(wish).await;
    let (key, seat) = (opened.ticket.key(), opened.seats[0]);
    let (mut client, server) = it.pair(Some(4096));
    opened.ticket.attach(server, None, Bytes::new());
    let mut long = page(1..=1, false);
    long.messages[0].1.payload = Bytes::from(vec![b'x'; 512 * 1024]);
    let mut feeding = Box::pin(it.hub.feed(key, seat, long));
    let early = tokio::time::timeout(std::time::Duration::from_millis(50), &mut feeding).await;
    assert!(early.is_err(), "its client has read nothing");
    let reading = std::thread::spawn(move || client.text().len());
    assert_eq!(feeding.await, Fed::Next);
    assert_eq!(reading.join().unwrap(), 512 * 1024);
    eventually("its client is gone", || it.hub.connections() == 0).await;
    assert_eq!(it.hub.feed(key, seat, page(2..=2, true)).await, Fed::Gone);
    it.stop().await;
}

#[tokio::test]
async fn other_seats_are_live_while_one_joins() {
    let it = Fixture::new(config(1));
    let (key, seat, mut client) = joiner(&it).await;
    it.hub.join(key, vec![it.subscription(Door::WebSocket, "news", SlowPolicy::Disconnect)]).await;
    live(&it, 1..=1).await;
    it.say("news", "now").await;
    assert_eq!(client.text(), "now");
    it.hub.leave(key, seat);
    let again = it.hub.join(key, vec![joining(&it, "log")]).await[0];
    assert_eq!(it.hub.feed(key, seat, page(1..=1, true)).await, Fed::Gone, "of the seat that was left");
    assert_eq!(it.hub.feed(key, again, Page { last: true, ..Page::default() }).await, Fed::Live);
    live(&it, 2..=2).await;
    assert_eq!(client.text(), "2");
    it.stop().await;
}
