//! Event streams: the same messages, bounds and goodbyes over the same sockets, with no frames around them.

use std::{
    io::{Read as _, Write as _},
    net::{Shutdown, TcpStream},
    time::Duration,
};

use bytes::Bytes;
use clarion_protocol::{CloseCode, Door};

use super::support::*;
use crate::{Config, SlowPolicy};

/// The client of an event stream, after the head of its response.
struct Stream(TcpStream);

async fn stream(it: &Fixture, door: Door, interests: &[&str], slow: SlowPolicy) -> Stream {
    Stream(it.connect(it.wish(door, interests, slow)).await.socket)
}

/// One with small buffers at both ends, so that it is soon behind.
async fn narrow(it: &Fixture, slow: SlowPolicy) -> Stream {
    let ticket = it.open(it.wish(Door::Sse, &["a"], slow)).await.ticket;
    let (client, server) = it.pair(Some(4096));
    ticket.attach(server, None, Bytes::new());
    Stream(client.socket)
}

impl Stream {
    /// Reads until what came ends with `end`.
    fn until(&mut self, end: &str) -> String {
        let (mut all, mut piece) = (Vec::new(), [0; 4096]);
        while !all.ends_with(end.as_bytes()) {
            let read = self.0.read(&mut piece).unwrap_or_else(|error| {
                panic!("waited for {end:?}, got {:?}: {error}", String::from_utf8_lossy(&all));
            });
            assert_ne!(read, 0, "ended before {end:?}, after {:?}", String::from_utf8_lossy(&all));
            all.extend_from_slice(&piece[..read]);
        }
        String::from_utf8(all).unwrap()
    }

    /// Reads to the end.
    fn rest(&mut self) -> String {
        let mut all = String::new();
        self.0.read_to_string(&mut all).expect("an end in order, no reset");
        all
    }
}

/// Whether these are the last words of a stream that is to come back.
fn is_retry(text: &str) -> bool {
    let pause = text.strip_prefix("retry: ").and_then(|rest| rest.strip_suffix("\n\n"));
    pause.is_some_and(|pause| pause.parse::<u64>().is_ok_and(|pause| pause <= 5000))
}

#[tokio::test]
async fn events_come_in_their_wordings() {
    let it = Fixture::new(config(2));
    let mut one = stream(&it, Door::Sse, &["a"], SlowPolicy::Disconnect).await;
    let mut many = stream(&it, Door::Events, &["a", "b/**"], SlowPolicy::Disconnect).await;
    let mut socket = it.client(&["a"]).await;
    it.dispatch([("a", Bytes::from("x\ny")), ("b/c", Bytes::from("{\"z\":1}"))]).await;
    assert_eq!(one.until("y\n\n"), "data: x\ndata: y\n\n");
    let both = many.until("}}\n\n");
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
async fn what_comes_before_the_socket_is_kept() {
    let it = Fixture::new(config(1));
    let ticket = it.open(it.wish(Door::Sse, &["a"], SlowPolicy::Disconnect)).await.ticket;
    it.say("a", "early").await;
    let (client, server) = it.pair(None);
    ticket.attach(server, None, Bytes::from_static(b"GET /next HTTP/1.1\r\n\r\n"));
    it.say("a", "late").await;
    assert_eq!(Stream(client.socket).until("late\n\n"), "data: early\n\ndata: late\n\n");
    it.stop().await;
}

#[tokio::test]
async fn what_a_client_sends_is_read_and_passed_over() {
    let it = Fixture::new(config(1));
    let mut one = stream(&it, Door::Sse, &["a"], SlowPolicy::Disconnect).await;
    // As frames these would be a message, a ping and a mistake.
    for bytes in [masked(0x81, b"ping"), masked(0x89, b""), vec![0xff; 1 << 20]] {
        one.0.write_all(&bytes).unwrap();
    }
    it.say("a", "x").await;
    assert_eq!(one.until("\n\n"), "data: x\n\n");
    assert!(it.received.messages.lock().is_empty());
    assert_eq!(it.metric("clarion_client_messages_ignored_total"), 0.0);
    one.0.shutdown(Shutdown::Write).unwrap();
    eventually("it hung up", || it.hub.connections() == 0).await;
    assert_eq!(it.metric("clarion_closes_total{code=\"client\"}"), 1.0);
    it.stop().await;
}

#[tokio::test]
async fn comments_keep_a_stream_alive() {
    let short = Duration::from_millis(200);
    let it = Fixture::new(Config { comment_interval: short, ping_interval: short, pong_timeout: short, ..config(1) });
    let mut one = stream(&it, Door::Sse, &["a"], SlowPolicy::Disconnect).await;
    assert_eq!(one.until(": \n\n: \n\n: \n\n: \n\n"), ": \n\n".repeat(4));
    it.stop().await;
}

#[tokio::test]
async fn a_stream_that_is_sent_elsewhere_is_told_when_to_come_back() {
    let it = Fixture::new(config(1));
    let mut one = stream(&it, Door::Sse, &["a"], SlowPolicy::Disconnect).await;
    it.say("a", "last").await;
    // Unread bytes would turn the end into a reset, which takes what was said before along.
    one.0.write_all(b"something").unwrap();
    it.hub.close_some(1, CloseCode::Restart);
    let all = one.rest();
    assert!(all.strip_prefix("data: last\n\n").is_some_and(is_retry), "{all:?}");
    assert_eq!(it.hub.connections(), 1);
    drop(one);
    eventually("it is gone", || it.hub.connections() == 0).await;
    assert_eq!(it.metric("clarion_closes_total{code=\"1012\"}"), 1.0);
    it.stop().await;
}

#[tokio::test]
async fn a_stream_that_is_to_stay_away_just_ends() {
    let it = Fixture::new(Config { close_timeout: Duration::from_millis(300), ..config(1) });
    let mut open = it.wish(Door::Sse, &["a"], SlowPolicy::Disconnect);
    open.open.user = Some(clarion_protocol::Uid::parse("42").unwrap());
    let mut one = Stream(it.connect(open).await.socket);
    it.say("a", "last").await;
    assert_eq!(it.hub.close_user("42", CloseCode::Disconnected), 1);
    assert_eq!(one.rest(), "data: last\n\n");
    // It does not hang up, and is not waited for.
    eventually("it is gone", || it.hub.connections() == 0 && it.leases() == 0).await;
    it.stop().await;
}

#[tokio::test]
async fn slow_streams_have_the_same_policies() {
    let it = Fixture::new(Config { outbox_bytes: 32 * 1024, ..config(1) });
    let mut ended = narrow(&it, SlowPolicy::Disconnect).await;
    let mut newest = narrow(&it, SlowPolicy::Latest).await;
    let mut fast = it.client(&["a"]).await;
    for number in 0..2000 {
        let text = format!("{number:01024}");
        it.say("a", &text).await;
        assert_eq!(fast.text(), text);
    }
    let numbers = |text: &str| -> Vec<usize> {
        let data = text.split("\n\n").filter_map(|event| event.strip_prefix("data: "));
        data.map(|number| number.parse().expect("events are whole")).collect()
    };
    let heard = numbers(&newest.until(&format!("{:01024}\n\n", 1999)));
    assert!(heard.is_sorted() && heard.len() < 2000);
    let dropped = it.metric("clarion_outbox_overflows_total{policy=\"latest\"}");
    assert_eq!(dropped as usize, 2000 - heard.len());
    let all = ended.rest();
    let (events, last) = all.split_at(all.rfind("retry").unwrap());
    assert!(is_retry(last), "{last:?}");
    let heard = numbers(events);
    assert!(heard.len() < 2000 && heard.iter().copied().eq(0..heard.len()), "what came before came in order and whole");
    assert_eq!(it.metric("clarion_outbox_overflows_total{policy=\"disconnect\"}"), 1.0);
    assert_eq!(it.metric("clarion_closes_total{code=\"3008\"}"), 1.0);
    it.stop().await;
}

#[tokio::test]
async fn an_untaken_stream_expires_and_a_token_ends() {
    let it = Fixture::new(Config { handshake_timeout: Duration::from_millis(200), ..config(1) });
    let _untaken = it.open(it.wish(Door::Sse, &["a"], SlowPolicy::Disconnect)).await.ticket;
    let mut wish = it.wish(Door::Sse, &["a"], SlowPolicy::Disconnect);
    wish.open.expires = Some(Duration::from_millis(500));
    let mut expiring = Stream(it.connect(wish).await.socket);
    eventually("the first is gone", || it.hub.connections() == 1).await;
    assert!(is_retry(&expiring.rest()));
    assert_eq!(it.metric("clarion_closes_total{code=\"handshake\"}"), 1.0);
    assert_eq!(it.metric("clarion_closes_total{code=\"3005\"}"), 1.0);
    it.stop().await;
}

#[tokio::test]
async fn one_that_ends_before_it_has_its_socket_is_told_all_the_same() {
    let it = Fixture::new(config(1));
    let ticket = it.open(it.wish(Door::Sse, &["a"], SlowPolicy::Disconnect)).await.ticket;
    it.say("a", "early").await;
    it.hub.close_some(1, CloseCode::Restart);
    let (client, server) = it.pair(None);
    ticket.attach(server, None, Bytes::new());
    let all = Stream(client.socket).rest();
    assert!(all.strip_prefix("data: early\n\n").is_some_and(is_retry), "{all:?}");
    it.stop().await;
}
