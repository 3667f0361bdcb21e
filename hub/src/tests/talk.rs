//! What clients say: pings, broken rules, and messages on their way up.

use bytes::Bytes;
use clarion_protocol::CloseCode;

use super::support::*;
use crate::Config;

#[tokio::test]
async fn pings_of_both_kinds_are_answered() {
    let it = Fixture::new(config(1));
    let mut client = it.client(&["a"]).await;
    client.send(0x89, b"payload");
    assert_eq!(client.frame(), Some(Frame(0x8a, b"payload".to_vec())));
    client.send_text("ping");
    assert_eq!(client.frame(), Some(text("pong")));
    client.send(0x82, b"ping");
    client.send_text("something");
    client.send(0x8a, b"unasked");
    client.send_text("ping");
    assert_eq!(client.frame(), Some(text("pong")));
    assert_eq!(it.metric("clarion_client_messages_ignored_total"), 2.0);
    assert_eq!(it.metric("clarion_client_messages_total"), 4.0);
    it.stop().await;
}

#[tokio::test]
async fn broken_rules_have_their_codes() {
    let it = Fixture::new(Config { message_bytes: 1000, ..config(1) });
    for (bytes, code) in [
        (masked(0xc1, b"x"), CloseCode::Protocol),
        (masked(0x83, b"x"), CloseCode::Protocol),
        (b"\x81\x01x".to_vec(), CloseCode::Protocol),
        (masked(0x09, b""), CloseCode::Protocol),
        (masked(0x81, b"\xff"), CloseCode::InvalidUtf8),
        (masked(0x82, &[0; 1001]), CloseCode::TooLarge),
    ] {
        let mut client = it.client(&["a"]).await;
        std::io::Write::write_all(&mut client.socket, &bytes).unwrap();
        // It goes on sending: the goodbye arrives all the same.
        drop(std::io::Write::write_all(&mut client.socket, &[0; 50_000]));
        assert_eq!(client.frame(), Some(close(code)));
        assert_eq!(client.frame(), None);
    }
    eventually("all are gone", || it.hub.connections() == 0 && it.leases() == 0).await;
    assert_eq!(it.metric("clarion_closes_total{code=\"1002\"}"), 4.0);
    it.stop().await;
}

#[tokio::test]
async fn messages_go_up_one_at_a_time() {
    let it = Fixture::new(config(1));
    let mut client = it.connect(it.speaker("a")).await;
    // All in one write, the last one cut.
    let mut stream: Vec<u8> = (0..50_u8).flat_map(|number| masked(0x82, &[number; 3000])).collect();
    stream.extend(masked(0x81, b"ping"));
    let (front, back) = stream.split_at(stream.len() - 3);
    std::io::Write::write_all(&mut client.socket, front).unwrap();
    for number in 0..50_u8 {
        eventually("the next one came", || !it.received.messages.lock().is_empty()).await;
        let (sender, channel, payload) = it.received.messages.lock().pop_front().unwrap();
        assert_eq!((channel.as_str(), payload), ("a", Bytes::from(vec![number; 3000])));
        // Messages go down meanwhile.
        it.say("a", "down").await;
        assert_eq!(client.text(), "down");
        assert!(it.received.messages.lock().is_empty());
        it.hub.resume(sender);
    }
    std::io::Write::write_all(&mut client.socket, back).unwrap();
    assert_eq!(client.text(), "pong");
    it.stop().await;
}

#[tokio::test]
async fn a_client_that_waits_can_be_closed_or_lost() {
    let it = Fixture::new(config(1));
    let connect = async || {
        let mut client = it.connect(it.speaker("a")).await;
        client.send_text("up");
        eventually("it came", || it.received.messages.lock().pop_front().is_some()).await;
        client
    };
    let mut closed = connect().await;
    closed.send_text("waits");
    it.hub.close_some(1, CloseCode::Restart);
    assert_eq!(closed.frame(), Some(close(CloseCode::Restart)));
    closed.send(0x88, &CloseCode::Restart.body());
    assert_eq!(closed.frame(), None);
    let lost = connect().await;
    socket2::SockRef::from(&lost.socket).set_linger(Some(std::time::Duration::ZERO)).unwrap();
    drop(lost);
    eventually("both are gone", || it.hub.connections() == 0).await;
    it.stop().await;
}

#[tokio::test]
async fn a_goodbye_is_found_behind_the_rest_of_a_message() {
    // One that is not understood would be waited for as long.
    let it = Fixture::new(Config { close_timeout: std::time::Duration::from_secs(3600), ..config(1) });
    let mut client = it.client(&["a"]).await;
    let message = masked(0x82, &[0xff; 5000]);
    let (front, back) = message.split_at(2000);
    std::io::Write::write_all(&mut client.socket, front).unwrap();
    it.hub.close_some(1, CloseCode::Restart);
    assert_eq!(client.frame(), Some(close(CloseCode::Restart)));
    let mut rest = back.to_vec();
    rest.extend(masked(0x88, &CloseCode::Restart.body()));
    let (early, late) = rest.split_at(rest.len() - 3);
    std::io::Write::write_all(&mut client.socket, early).unwrap();
    std::io::Write::write_all(&mut client.socket, late).unwrap();
    assert_eq!(client.frame(), None);
    eventually("it is gone", || it.hub.connections() == 0).await;
    it.stop().await;
}
