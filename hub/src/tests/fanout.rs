//! Every socket of an interest gets each message once, in order, and no other socket gets any.

use super::support::*;
use crate::SlowPolicy;
use bytes::Bytes;
use clarion_protocol::Door;

#[tokio::test]
async fn each_message_reaches_each_socket_once_and_in_order() {
    let it = Fixture::new(config(3));
    let mut news = Vec::new();
    for _ in 0..20 {
        news.push(it.client(&["news"]).await);
    }
    let mut sport = it.client(&["sport"]).await;
    for number in 0..200 {
        it.say("news", &format!("n{number}")).await;
    }
    it.say("sport", "s").await;
    for client in &mut news {
        for number in 0..200 {
            assert_eq!(client.text(), format!("n{number}"));
        }
        assert!(client.is_quiet());
    }
    assert_eq!(sport.text(), "s");
    assert!(sport.is_quiet());
    eventually("all are counted", || it.metric("clarion_delivered_messages_total") == 20.0 * 200.0 + 1.0).await;
    it.stop().await;
}

#[tokio::test]
async fn a_batch_is_joined_and_keeps_its_order() {
    let it = Fixture::new(config(2));
    let mut one = it.client(&["a"]).await;
    let mut many = it.client(&["a", "b", "c/*"]).await;
    let messages: Vec<(&str, Bytes)> =
        (0..300).map(|number| (["a", "b", "c/x"][number % 3], Bytes::from(number.to_string()))).collect();
    it.dispatch(messages).await;
    for number in (0..300).step_by(3) {
        assert_eq!(one.text(), number.to_string());
    }
    // Channels among themselves have no order, each in itself has.
    let mut heard: Vec<u32> = (0..300).map(|_| many.text().parse().unwrap()).collect();
    for channel in 0..3 {
        assert!(heard.iter().filter(|number| *number % 3 == channel).is_sorted());
    }
    heard.sort_unstable();
    assert!(heard.into_iter().eq(0..300));
    it.stop().await;
}

#[tokio::test]
async fn text_is_text_and_the_rest_is_binary() {
    let it = Fixture::new(config(1));
    let mut client = it.client(&["a"]).await;
    let long = "ä".repeat(40_000);
    for payload in [&b""[..], b"hi", b"\xff\0", long.as_bytes()] {
        it.dispatch([("a", Bytes::copy_from_slice(payload))]).await;
        let first = if payload == b"\xff\0" { 0x82 } else { 0x81 };
        assert_eq!(client.frame(), Some(Frame(first, payload.to_vec())));
    }
    it.stop().await;
}

#[tokio::test]
async fn overlapping_subscriptions_bring_a_message_once() {
    let it = Fixture::new(config(2));
    let mut all = it.client(&["a/**", "a/*", "a/b", "a"]).await;
    let mut wide = it.client(&["a/**"]).await;
    let mut same = it.client(&["a/b", "a/b"]).await;
    let channels = ["a", "a/b", "a/c", "a/b/c", "a/b"];
    for round in 0..10 {
        it.dispatch(channels.map(|channel| (channel, Bytes::from(format!("{channel} {round}"))))).await;
    }
    it.say("a/b", "end").await;
    for client in [&mut all, &mut wide] {
        let heard: Vec<String> = (0..51).map(|_| client.text()).collect();
        for channel in ["a", "a/b", "a/c", "a/b/c"] {
            let rounds: Vec<_> =
                heard.iter().filter_map(|text| text.strip_prefix(channel)?.strip_prefix(' ')).collect();
            assert_eq!(rounds.len(), if channel == "a/b" { 20 } else { 10 }, "{channel}");
            assert!(rounds.is_sorted(), "{rounds:?}");
        }
        assert!(heard.iter().any(|text| text == "end"));
        assert!(client.is_quiet());
    }
    for _ in 0..20 {
        assert!(same.text().starts_with("a/b "));
    }
    assert_eq!(same.text(), "end");
    assert!(same.is_quiet());
    it.stop().await;
}

#[tokio::test]
async fn a_copy_for_several_interests_comes_once() {
    let it = Fixture::new(config(1));
    let mut both = it.client(&["a", "a/**"]).await;
    let mut exact = it.client(&["a"]).await;
    let mut wide = it.client(&["a/**"]).await;
    let interests = ["a", "a/**"].map(|text| it.interest(text).0).into_iter().collect();
    let address = clarion_protocol::Address::Channel(clarion_protocol::Channel::parse("a").unwrap());
    let message = clarion_protocol::Message::raw("once");
    it.hub.dispatch(&mut vec![clarion_protocol::Delivery { interests, address, message }]).await;
    it.hub.close_some(3, clarion_protocol::CloseCode::Restart);
    for client in [&mut both, &mut exact, &mut wide] {
        assert_eq!(client.text(), "once");
        assert_eq!(client.frame(), Some(close(clarion_protocol::CloseCode::Restart)));
    }
    it.stop().await;
}

#[tokio::test]
async fn what_comes_between_open_and_attach_arrives() {
    let it = Fixture::new(config(2));
    let ticket = it.ticket(&["a"]).await;
    it.say("a", "one").await;
    let (mut client, server) = it.pair(None);
    it.say("a", "two").await;
    ticket.attach(server, None, masked(0x81, b"ping").into());
    it.say("a", "three").await;
    let mut heard: Vec<_> = (0..4).map(|_| client.text()).collect();
    let pong = heard.iter().position(|text| text == "pong").expect("what was read ahead is answered");
    heard.remove(pong);
    assert_eq!(heard, ["one", "two", "three"]);
    it.stop().await;
}

#[tokio::test]
async fn two_thousand_sockets() {
    let it = Fixture::new(config(2));
    let mut clients = Vec::new();
    for number in 0..2000 {
        clients.push(it.client(&["all", &format!("users/{number}")]).await);
    }
    for number in 0..10 {
        it.say("all", &number.to_string()).await;
        it.say("users/77", "you").await;
    }
    for (place, client) in clients.iter_mut().enumerate() {
        let mut heard: Vec<_> = (0..if place == 77 { 20 } else { 10 }).map(|_| client.text()).collect();
        heard.retain(|text| text != "you");
        assert!(heard.into_iter().eq((0..10).map(|number| number.to_string())), "{place}");
        assert!(client.is_quiet());
    }
    assert_eq!(it.hub.connections(), 2000);
    drop(clients);
    eventually("all are gone", || it.hub.connections() == 0 && it.leases() == 0).await;
    it.stop().await;
}

#[tokio::test]
async fn members_that_leave_make_no_gap() {
    let it = Fixture::new(config(1));
    let mut clients = Vec::new();
    for _ in 0..30 {
        clients.push(it.client(&["a", "b", "a/**"]).await);
    }
    for round in 0..6 {
        for _ in 0..4 {
            clients.swap_remove(round % clients.len());
        }
        eventually("they are gone", || it.hub.connections() == clients.len()).await;
        it.say("a", "a").await;
        it.say("b", "b").await;
        for client in &mut clients {
            let mut heard = [client.text(), client.text()];
            heard.sort();
            assert_eq!(heard, ["a", "b"]);
        }
    }
    it.stop().await;
}

#[tokio::test]
async fn a_full_queue_makes_the_bus_wait_and_loses_nothing() {
    let it = Fixture::new(crate::Config { queue_bytes: 1000, outbox_bytes: 64 << 20, ..config(1) });
    let mut client = it.client(&["a"]).await;
    let reader = std::thread::spawn(move || {
        for number in 0..5000 {
            assert_eq!(client.text(), number.to_string());
        }
    });
    for number in 0..5000 {
        it.say("a", &number.to_string()).await;
    }
    reader.join().unwrap();
    assert!(it.metric("clarion_shard_queue_full_waits_total") > 0.0);
    it.stop().await;
}

#[tokio::test]
async fn a_message_nobody_hears_is_nobodys() {
    let it = Fixture::new(config(1));
    it.interest("a");
    it.say("a", "x").await;
    let open = it.wish(Door::WebSocket, &["b"], SlowPolicy::Disconnect);
    let mut client = it.connect(open).await;
    it.say("b", "y").await;
    assert_eq!(client.text(), "y");
    it.stop().await;
}
