//! Heartbeats, tokens, tickets, goodbyes, and the end of the hub itself.

use std::{net::Shutdown, time::Duration};

use bytes::Bytes;
use clarion_protocol::{CloseCode, Door, Uid};

use super::support::*;
use crate::{Arrival, Config, Leaving, SlowPolicy};

const SHORT: Duration = Duration::from_millis(300);

fn heartbeats() -> Config {
    Config { ping_interval: SHORT, pong_timeout: SHORT, ..config(1) }
}

#[tokio::test]
async fn a_silent_client_is_pinged_and_closed() {
    let it = Fixture::new(heartbeats());
    let mut client = it.client(&["a"]).await;
    assert_eq!(client.frame(), Some(Frame(0x89, vec![])));
    assert_eq!(client.frame(), Some(close(CloseCode::NoPong)));
    assert_eq!(it.metric("clarion_closes_total{code=\"3012\"}"), 1.0);
    it.stop().await;
}

#[tokio::test]
async fn any_bytes_are_a_sign_of_life() {
    let it = Fixture::new(heartbeats());
    let (mut by_pong, mut by_half_a_frame) = (it.client(&["a"]).await, it.client(&["a"]).await);
    let endless = masked(0x82, &[0; 200]);
    for round in 0..4 {
        assert_eq!(by_pong.frame(), Some(Frame(0x89, vec![])));
        by_pong.send(0x8a, b"");
        assert_eq!(by_half_a_frame.frame(), Some(Frame(0x89, vec![])));
        std::io::Write::write_all(&mut by_half_a_frame.socket, &endless[round..=round]).unwrap();
    }
    assert_eq!(it.hub.connections(), 2);
    it.stop().await;
}

#[tokio::test]
async fn a_token_ends() {
    let it = Fixture::new(config(1));
    let mut open = it.wish(Door::WebSocket, &["a"], SlowPolicy::Disconnect);
    open.open.expires = Some(SHORT);
    let mut client = it.connect(open).await;
    it.say("a", "before").await;
    assert_eq!(client.text(), "before");
    assert_eq!(client.frame(), Some(close(CloseCode::Expired)));
    client.send(0x88, &CloseCode::Expired.body());
    assert_eq!(client.frame(), None);
    it.stop().await;
}

#[tokio::test]
async fn a_ticket_expires() {
    let it = Fixture::new(Config { handshake_timeout: SHORT, ..config(1) });
    let ticket = it.ticket(&["a"]).await;
    eventually("it expired", || it.hub.connections() == 0 && it.leases() == 0).await;
    assert_eq!(it.metric("clarion_closes_total{code=\"handshake\"}"), 1.0);
    let (mut client, server) = it.pair(None);
    ticket.attach(server, None, Bytes::new());
    assert_eq!(client.frame(), None);
    it.stop().await;
}

#[tokio::test]
async fn every_reference_is_given_back_once() {
    let it = Fixture::new(config(1));
    let wish = |channels: &[&str]| it.wish(Door::Events, channels, SlowPolicy::Disconnect);
    let released = || it.received.released.lock().clone();
    let [a, b] = ["a", "b"].map(|channel| it.interest(channel).0);
    let first = it.open(wish(&["a", "b", "a"])).await;
    assert_eq!(released(), [a], "what is asked for twice is heard once");
    assert_eq!(first.seats[0], first.seats[2]);
    let _second = it.open(wish(&["b"])).await;
    drop(first);
    eventually("the first is gone", || it.hub.connections() == 1).await;
    let mut gone = released();
    gone.sort_unstable();
    assert_eq!((gone, it.leases()), (vec![a, a, b], 1));
    it.hub.clone().stop(tokio::time::Instant::now() + SHORT).await;
    assert_eq!((released().len(), it.leases()), (4, 0), "the deadline leaves nothing behind");
}

#[tokio::test]
async fn one_that_comes_with_its_socket_is_told_first() {
    let it = Fixture::new(config(2));
    for door in [Door::WebSocket, Door::Sse] {
        let Wish { open, subscriptions } = it.wish(door, &["a"], SlowPolicy::Disconnect);
        let (mut client, socket) = it.pair(None);
        let (opening, read_ahead) = (Bytes::from_static(b"welcome\n"), masked(0x81, b"ping").into());
        it.hub.enter(Arrival {
            open,
            subscriptions,
            socket,
            tls: None,
            opening,
            read_ahead,
            entered: None,
            bookmark: None,
        });
        let mut told = [0; 8];
        std::io::Read::read_exact(&mut &client.socket, &mut told).unwrap();
        assert_eq!(told, *b"welcome\n");
        // Once it was told, it misses nothing.
        it.say("a", "news").await;
        match door {
            Door::WebSocket => assert_eq!((client.text(), client.text()), ("pong".to_owned(), "news".to_owned())),
            Door::Sse | Door::Events | Door::Poll => {
                let mut heard = [0; 12];
                std::io::Read::read_exact(&mut &client.socket, &mut heard).unwrap();
                assert_eq!(heard, *b"data: news\n\n");
            }
        }
    }
    it.hub.refuse();
    assert!(it.hub.is_leaving());
    eventually("both are gone", || it.hub.connections() == 0 && it.leases() == 0).await;
    it.stop().await;
}

#[tokio::test]
async fn one_that_comes_too_late_is_hung_up_on() {
    let it = Fixture::new(config(1));
    let Wish { open, subscriptions } = it.wish(Door::WebSocket, &["a"], SlowPolicy::Disconnect);
    let (mut client, socket) = it.pair(None);
    let hub = it.hub.clone();
    hub.clone().stop(tokio::time::Instant::now()).await;
    hub.enter(Arrival {
        open,
        subscriptions,
        socket,
        tls: None,
        opening: "x".into(),
        read_ahead: Bytes::new(),
        entered: None,
        bookmark: None,
    });
    assert_eq!(client.frame(), None);
    assert_eq!((it.leases(), it.received.released.lock().len()), (0, 1));
}

#[tokio::test]
async fn a_goodbye_frees_the_place() {
    let it = Fixture::new(config(1));
    let mut client = it.client(&["a"]).await;
    it.hub.close_some(1, CloseCode::Restart);
    assert_eq!(client.frame(), Some(close(CloseCode::Restart)));
    // It does not answer, and others may come in its stead all the same.
    assert_eq!((it.leases(), it.hub.connections()), (0, 1));
    it.stop().await;
}

#[tokio::test]
async fn a_dropped_ticket_or_call_takes_its_connection_along() {
    let it = Fixture::new(config(1));
    drop(it.ticket(&["a"]).await);
    for _ in 0..50 {
        let mut call = Box::pin(it.ticket(&["a"]));
        // One poll hands the wish over; then whoever asked goes away.
        drop(futures_util::FutureExt::now_or_never(call.as_mut()));
    }
    eventually("all are gone", || it.hub.connections() == 0 && it.leases() == 0).await;
    it.stop().await;
}

#[tokio::test]
async fn goodbyes_are_answered() {
    let it = Fixture::new(config(1));
    for (body, answer) in [(&b"\x03\xe8bye"[..], &b"\x03\xe8"[..]), (b"\x0f\xa0", b"\x0f\xa0"), (b"", b"")] {
        let mut client = it.client(&["a"]).await;
        client.send(0x88, body);
        assert_eq!(client.frame(), Some(Frame(0x88, answer.to_vec())));
        assert_eq!(client.frame(), None);
    }
    eventually("all are gone", || it.hub.connections() == 0 && it.leases() == 0).await;
    assert_eq!(it.metric("clarion_closes_total{code=\"client\"}"), 3.0);
    it.stop().await;
}

#[tokio::test]
async fn sockets_that_break_are_forgotten() {
    let it = Fixture::new(config(1));
    let half_closed = it.client(&["a"]).await;
    half_closed.socket.shutdown(Shutdown::Write).unwrap();
    let reset = it.client(&["a"]).await;
    socket2::SockRef::from(&reset.socket).set_linger(Some(Duration::ZERO)).unwrap();
    drop(reset);
    eventually("both are gone", || it.hub.connections() == 0 && it.leases() == 0).await;
    assert_eq!(it.metric("clarion_closes_total{code=\"lost\"}"), 2.0);
    assert_eq!(it.metric("clarion_connections{door=\"websocket\"}"), 0.0);
    it.stop().await;
}

#[tokio::test]
async fn a_user_is_disconnected_everywhere() {
    let it = Fixture::new(config(3));
    let user = Uid::parse("42").unwrap();
    let mut his = Vec::new();
    for _ in 0..5 {
        let mut open = it.wish(Door::WebSocket, &["users/42"], SlowPolicy::Disconnect);
        open.open.user = Some(user.clone());
        his.push(it.connect(open).await);
    }
    let mut other = it.client(&["users/42"]).await;
    assert_eq!((it.hub.connections_of("42"), it.hub.connections_of("43")), (5, 0));
    it.say("users/42", "last").await;
    assert_eq!(it.hub.close_user("42", CloseCode::Disconnected), 5);
    for client in &mut his {
        assert_eq!(client.text(), "last");
        assert_eq!(client.frame(), Some(close(CloseCode::Disconnected)));
    }
    assert_eq!(it.hub.connections_of("42"), 0);
    it.say("users/42", "after").await;
    assert_eq!((other.text(), other.text()), ("last".to_owned(), "after".to_owned()));
    it.stop().await;
}

#[tokio::test]
async fn some_are_closed_and_never_the_same_twice() {
    let it = Fixture::new(config(3));
    let mut clients = Vec::new();
    for _ in 0..50 {
        clients.push(it.client(&["a"]).await);
    }
    for round in 1..=5 {
        it.hub.close_some(10, CloseCode::Restart);
        let closed = || it.metric("clarion_closes_total{code=\"1012\"}");
        eventually("they are closed", || closed() == 10.0 * f64::from(round)).await;
    }
    for client in &mut clients {
        assert_eq!(client.frame(), Some(close(CloseCode::Restart)));
        client.send(0x88, &CloseCode::Restart.body());
    }
    eventually("all are gone", || it.hub.connections() == 0).await;
    it.stop().await;
}

#[tokio::test]
async fn a_leaving_hub_says_so() {
    let it = Fixture::new(config(1));
    it.hub.refuse();
    let wish = it.wish(Door::WebSocket, &["a"], SlowPolicy::Disconnect);
    assert_eq!(it.hub.open(wish.open, wish.subscriptions).await.map(drop), Err(Leaving));
    assert_eq!((it.leases(), it.received.released.lock().len()), (0, 1));
    it.stop().await;
}

#[tokio::test]
async fn stop_flushes_and_joins() {
    let it = Fixture::new(Config { outbox_bytes: 8 << 20, ..config(2) });
    let mut clients = Vec::new();
    for _ in 0..10 {
        clients.push(it.narrow(&["a"], SlowPolicy::Disconnect).await);
    }
    it.dispatch((0..100).map(|number| ("a", Bytes::from(format!("{number:02000}"))))).await;
    let readers: Vec<_> = clients
        .into_iter()
        .map(|mut client| {
            std::thread::spawn(move || {
                for number in 0..100 {
                    assert_eq!(client.text(), format!("{number:02000}"));
                }
                assert_eq!(client.frame(), Some(close(CloseCode::Restart)));
                client.send(0x88, &CloseCode::Restart.body());
                assert_eq!(client.frame(), None);
            })
        })
        .collect();
    let hub = it.hub.clone();
    it.hub.clone().stop(tokio::time::Instant::now() + PATIENCE).await;
    readers.into_iter().for_each(|reader| reader.join().unwrap());
    assert_eq!(hub.connections(), 0);
}

#[tokio::test]
async fn stop_keeps_its_deadline() {
    let it = Fixture::new(config(2));
    let mut stuck = it.client(&["a"]).await;
    let (leases, hub) = (it.leases(), it.hub.clone());
    assert_eq!(leases, 1);
    it.hub.clone().stop(tokio::time::Instant::now() + SHORT).await;
    assert_eq!((it.leases(), hub.connections()), (0, 0));
    assert_eq!(stuck.frame(), Some(close(CloseCode::Restart)));
    assert_eq!(stuck.frame(), None);
    // Nothing waits for a hub that has ended.
    it.say("a", "x").await;
    assert_eq!(it.hub.close_user("42", CloseCode::Normal), 0);
}
