//! Seats that come and go on open connections, and what lies between the log and what comes now.

use bytes::Bytes;
use clarion_protocol::{Channel, Door, Epoch, Message, Meta, Position, Wording};

use super::support::*;
use crate::{
    Arrival, Bookmark, Config, ConnectionKey, Entered, Fed, Framing, Notice, Page, Reached, SeatId, SlowPolicy,
    Subscription,
};

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
    Page { messages: offsets.map(|offset| (channel.clone(), logged(offset))).collect(), up_to, last, ..Page::default() }
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

/// Keeps the last offset, and writes it as the cursor.
struct Counting(u64);

impl Bookmark for Counting {
    fn pass(&mut self, position: &Position) {
        self.0 = self.0.max(position.offset);
    }

    fn set(&mut self, place: &Reached) {
        self.0 = place.offset;
    }

    fn text(&self) -> String {
        format!("c{}", self.0)
    }
}

fn reached(offset: u64) -> Vec<Reached> {
    vec![Reached { epoch: Epoch::parse(EPOCH).unwrap(), offset }]
}

fn notice(name: &'static str) -> Notice {
    Notice { name, data: Bytes::from_static(b"{}"), cursor: Some("c".into()) }
}

/// A client that enters with a bookmark, and what its shard tells of it.
async fn enter(it: &Fixture, door: Door, framing: Framing, wording: Wording, seats: &[&str]) -> (Entered, Client) {
    let mut wish = it.wish(door, &[], SlowPolicy::Disconnect);
    wish.open.framing = framing;
    wish.subscriptions = seats
        .iter()
        .map(|text| Subscription { joining: true, wording, ..it.subscription(door, text, SlowPolicy::Disconnect) })
        .collect();
    let (client, socket) = it.pair(None);
    let (entered, told) = tokio::sync::oneshot::channel();
    let Wish { open, subscriptions } = wish;
    let opening = if framing == Framing::Poll { "HTTP/1.1 200 OK\r\nx: y\r\n\r\n" } else { "" };
    it.hub.enter(Arrival {
        open,
        subscriptions,
        socket,
        tls: None,
        opening: opening.into(),
        read_ahead: Bytes::new(),
        entered: Some(entered),
        bookmark: Some(Box::new(Counting(3))),
    });
    (told.await.unwrap(), client)
}

#[tokio::test]
async fn a_bookmark_is_told_at_the_end_of_a_turn_over_all_seats() {
    let it = Fixture::new(config(1));
    let (entered, mut client) = enter(&it, Door::Sse, Framing::EventStream, Wording::BareEvent, &["log", "b"]).await;
    let [log, b] = entered.seats[..] else { panic!("there are two") };
    assert_eq!(it.hub.feed(entered.key, log, page(4..=5, true)).await, Fed::Live);
    it.publish([("log", logged(7)), ("b", logged(8))]).await;
    let last = Page { up_to: reached(6), last: true, ..Page::default() };
    assert_eq!(it.hub.feed(entered.key, b, last).await, Fed::Live);
    it.hub.release_bookmark(entered.key, reached(6));
    it.publish([("b", logged(9)), ("log", logged(10)), ("b", logged(11))]).await;
    let text = client.until("id: c11\ndata: \n\n");
    let ids: Vec<_> = text.lines().filter(|line| line.starts_with("id: ")).collect();
    assert_eq!(ids, ["id: c8", "id: c11"], "{text}");
    let datas: Vec<_> = text.lines().filter_map(|line| line.strip_prefix("data: ")).filter(|d| !d.is_empty()).collect();
    assert_eq!(datas[..4], ["4", "5", "7", "8"], "{text}");
    assert_eq!(datas.len(), 7);
    it.stop().await;
}

#[tokio::test]
async fn a_poll_is_answered_once_and_as_a_whole() {
    let it = Fixture::new(config(1));
    let (entered, mut client) = enter(&it, Door::Sse, Framing::Poll, Wording::BareRecord, &["log"]).await;
    assert_eq!(it.hub.feed(entered.key, entered.seats[0], page(4..=4, true)).await, Fed::Live);
    it.hub.release_bookmark(entered.key, reached(4));
    let text = client.rest();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    assert_eq!(body, "{\"messages\":[{\"channel\":\"log\",\"data\":4}],\"cursor\":\"c4\"}\n");
    assert_eq!(head, format!("HTTP/1.1 200 OK\r\nx: y\r\ncontent-length: {}", body.len()));
    let (entered, mut client) = enter(&it, Door::Sse, Framing::Poll, Wording::BareRecord, &["log"]).await;
    let last = Page { up_to: reached(4), last: true, ..Page::default() };
    assert_eq!(it.hub.feed(entered.key, entered.seats[0], last).await, Fed::Live);
    it.hub.release_bookmark(entered.key, reached(4));
    live(&it, 5..=6).await;
    let text = client.rest();
    assert!(
        text.ends_with("[{\"channel\":\"log\",\"data\":5},{\"channel\":\"log\",\"data\":6}],\"cursor\":\"c6\"}\n"),
        "{text}"
    );
    let (_, mut client) = enter(&it, Door::Sse, Framing::Poll, Wording::BareRecord, &["log"]).await;
    it.hub.close_some(1, clarion_protocol::CloseCode::Restart);
    assert_eq!(client.rest(), "HTTP/1.1 204 No Content\r\nx: y\r\nclarion-cursor: c3\r\n\r\n");
    it.stop().await;
}

#[tokio::test]
async fn a_gap_is_told_in_each_framing_or_closes() {
    let it = Fixture::new(config(2));
    let (_, mut stream) = enter(&it, Door::Sse, Framing::EventStream, Wording::Event, &["log"]).await;
    let (_, mut record) = enter(&it, Door::WebSocket, Framing::WebSocket, Wording::Record, &["log"]).await;
    let (_, mut plain) = enter(&it, Door::WebSocket, Framing::WebSocket, Wording::Payload, &["log"]).await;
    it.hub.notify_interest(it.interest("log").0, &notice("read"));
    it.hub.notify_interest(it.interest("log").0, &notice(Notice::GAP));
    let text = stream.until("event: gap\nid: c\ndata: {}\n\n");
    assert!(text.starts_with("event: read\nid: c\ndata: {}\n\n"), "{text}");
    assert_eq!(
        (record.text(), record.text()),
        (r#"{"read":{},"cursor":"c"}"#.into(), r#"{"gap":{},"cursor":"c"}"#.into())
    );
    assert_eq!(plain.close_code(), Some(3010));
    it.stop().await;
}

#[tokio::test]
async fn a_slow_client_goes_on_from_the_log() {
    let it = Fixture::new(Config { outbox_bytes: 64 * 1024, ..config(1) });
    let mut wish = it.wish(Door::WebSocket, &[], SlowPolicy::CatchUp);
    wish.subscriptions.push(it.subscription(Door::WebSocket, "log", SlowPolicy::CatchUp));
    let opened = it.open(wish).await;
    let (mut client, server) = it.pair(Some(4096));
    let key = opened.ticket.key();
    opened.ticket.attach(server, None, Bytes::new());
    let long = |offset| Message { payload: Bytes::from(format!("{offset:>2000}")), ..logged(offset) };
    for offset in 1..=600 {
        it.publish([("log", long(offset))]).await;
    }
    eventually("it falls behind", || !it.received.behind.lock().is_empty()).await;
    let behind = it.received.behind.lock().pop().unwrap();
    assert_eq!((behind.connection, behind.asked.to_string().as_str()), (key, "log"));
    let from = behind.from[0].offset;
    assert!((1..600).contains(&from), "{from}");
    let messages = (from + 1..=600).map(|offset| (Channel::parse("log").unwrap(), long(offset)));
    let mut left: Vec<_> = messages.collect();
    let reading = std::thread::spawn(move || (1..=601).map(|_| client.text()).collect::<Vec<_>>());
    while !left.is_empty() {
        let rest = left.split_off(left.len().min(10));
        let offset = left.last().unwrap().1.meta.as_ref().unwrap().position.as_ref().unwrap().offset;
        let page = Page { messages: left, up_to: reached(offset), last: rest.is_empty(), notices: Vec::new() };
        // What came while the rest was read may be more than may wait.
        let fed = it.hub.feed(behind.connection, behind.seat, page).await;
        assert!(if rest.is_empty() { matches!(fed, Fed::Live | Fed::Behind) } else { fed == Fed::Next }, "{fed:?}");
        left = rest;
    }
    let end = Page { up_to: reached(600), last: true, ..Page::default() };
    assert!(matches!(it.hub.feed(behind.connection, behind.seat, end).await, Fed::Live | Fed::Gone));
    live(&it, 601..=601).await;
    let heard: Vec<u64> = reading.join().unwrap().iter().map(|text| text.trim().parse().unwrap()).collect();
    assert_eq!(heard, (1..=601).collect::<Vec<_>>());
    it.stop().await;
}
