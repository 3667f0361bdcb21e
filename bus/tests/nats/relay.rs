//! What arrives, from whom, and in what form.

use std::{sync::Arc, time::Duration};

use clarion_bus::{BusConfig, ProbeError, SubscribeError};
use clarion_protocol::{Address, Channel, InternalName, Message, MessageId, Meta, Publication};
use clarion_testkit::{NatsServer, eventually, within};
use tokio::{io::AsyncWriteExt as _, net::TcpStream};

use crate::kit::{Node, config, publication, topic};

#[tokio::test]
async fn exact_and_pattern_interests_each_get_their_copy() {
    let server = NatsServer::start().await;
    let (node, other) = (Node::up(&config(&server.url())).await, Node::up(&config(&server.url())).await);
    let exact = node.subscribe("a b/c.d").await;
    let children = node.subscribe("a b/*").await;
    let below = node.subscribe("a b/**").await;
    assert_eq!(node.bus.stats().interests, 3);
    assert_eq!(node.bus.stats().subscriptions, 4);
    other.publish("a b/c.d", "1").await;
    other.publish("a b/c.d/e", "2").await;
    other.publish("a b", "3").await;
    other.publish("a", "4").await;
    let mut got: Vec<_> = node
        .take(5)
        .await
        .into_iter()
        .flat_map(|delivery| {
            let Address::Channel(channel) = delivery.address else { panic!("internal") };
            let text = (channel.to_string(), delivery.message.payload.clone());
            delivery.interests.into_iter().map(move |id| (text.clone(), id))
        })
        .collect();
    got.sort();
    let mut expected: Vec<_> = [
        ("a b/c.d", "1", exact),
        ("a b/c.d", "1", children),
        ("a b/c.d", "1", below),
        ("a b/c.d/e", "2", below),
        ("a b", "3", below),
    ]
    .map(|(channel, payload, id)| ((channel.to_owned(), payload.into()), id))
    .into();
    expected.sort();
    assert_eq!(got, expected);
    node.bus.unsubscribe(exact);
    node.bus.unsubscribe(children);
    node.bus.unsubscribe(below);
    let only_the_probe = async || server.monitor("subsz").await["num_subscriptions"].as_u64() <= Some(2 + SYSTEM);
    eventually("the subscriptions are gone", only_the_probe).await;
}

/// What the server itself subscribes to counts as well.
const SYSTEM: u64 = 60;

#[tokio::test]
async fn metadata_travel_as_headers_and_only_when_there_are_any() {
    let server = NatsServer::start().await;
    let node = Node::up(&config(&server.url())).await;
    node.subscribe("a").await;
    let meta = Meta { time: Some(5), tags: [("kind".to_owned(), "ü\r\nX: y".to_owned())].into(), ..Meta::default() };
    let id = Some(MessageId::parse("7").unwrap());
    let message = Message { payload: "\0payload\r\n".into(), id, meta: Some(Arc::new(meta)) };
    let address = Address::from(Channel::parse("a").unwrap());
    within("publishing", node.bus.publish(Publication { address, message: message.clone() })).await.unwrap();
    raw(&server, b"PUB clarion.a 0\r\n\r\n").await;
    let got: Vec<_> = node.take(2).await.into_iter().map(|delivery| delivery.message).collect();
    assert_eq!(got, [message, Message::raw("")]);
    // Headers of others do not make metadata.
    raw(&server, b"HPUB clarion.a 22 27\r\nNATS/1.0\r\nX-Y: z:z\r\n\r\nhello\r\n").await;
    assert_eq!(node.take(1).await[0].message, Message::raw("hello"));
}

#[tokio::test]
async fn order_is_kept_and_payloads_are_whole() {
    let server = NatsServer::start().await;
    let (node, other) = (Node::up(&config(&server.url())).await, Node::up(&config(&server.url())).await);
    node.subscribe("a/**").await;
    let all: Vec<_> = (0..2_000_usize).map(|n| vec![u8::try_from(n % 251).unwrap(); n * 31 % 65_537]).collect();
    for chunk in all.chunks(100) {
        let publications = chunk.iter().map(|payload| publication("a/b", payload.clone())).collect();
        assert!(within("publishing", other.bus.publish_all(publications)).await.iter().all(Result::is_ok));
    }
    let got = node.take(all.len()).await;
    assert!(got.iter().map(|delivery| &delivery.message.payload[..]).eq(all.iter().map(Vec::as_slice)));
    let stats = node.bus.stats();
    assert_eq!(stats.messages, 2_000);
    assert_eq!(stats.bytes, all.iter().map(|payload| payload.len() as u64).sum::<u64>());
}

#[tokio::test]
async fn what_is_not_ours_is_counted_and_dropped() {
    let server = NatsServer::start().await;
    let small = BusConfig { max_payload: 10, ..config(&server.url()) };
    let node = Node::up(&small).await;
    node.subscribe("a/**").await;
    raw(&server, b"PUB clarion.a.%41 1\r\nx\r\nPUB clarion.a.b.c%2 1\r\nx\r\nPUB clarion.a 11\r\n12345678901\r\nPUB clarion.a 10\r\n1234567890\r\n").await;
    assert_eq!(node.payloads(1).await, ["1234567890"]);
    let stats = node.bus.stats();
    assert_eq!((stats.foreign, stats.oversize, stats.messages), (2, 1, 1));
}

#[tokio::test]
async fn internal_subjects_are_subscribed_and_published() {
    let server = NatsServer::start().await;
    let node = Node::up(&config(&server.url())).await;
    let name = InternalName::parse("members").unwrap();
    let id = within("subscribing", node.bus.subscribe(&name.clone().into())).await.unwrap();
    within("publishing", node.bus.publish(Publication::raw(name.clone(), "here"))).await.unwrap();
    let got = node.take(1).await.remove(0);
    assert_eq!((&got.interests[..], got.address), (&[id][..], name.into()));
}

#[tokio::test]
async fn a_probe_goes_round_and_a_frozen_server_is_late() {
    let server = NatsServer::start().await;
    let node = Node::up(&config(&server.url())).await;
    let patience = clarion_testkit::patience();
    assert!(node.bus.probe(patience).await.unwrap() < patience);
    server.pause();
    // The server may answer for a moment after it was told to freeze.
    let late = Duration::from_millis(200);
    eventually("it is late", async || node.bus.probe(late).await == Err(ProbeError::Late)).await;
    server.resume();
    node.wait_up().await;
    node.bus.probe(patience).await.unwrap();
    assert_eq!(node.bus.stats().messages, 0);
}

#[tokio::test]
async fn after_close_everything_is_answered() {
    let server = NatsServer::start().await;
    let node = Node::up(&config(&server.url())).await;
    within("closing", node.bus.close()).await;
    assert_eq!(node.bus.subscribe(&topic("a")).await, Err(SubscribeError::Closed));
    let refused = node.bus.publish(publication("a", "x")).await.unwrap_err();
    assert!(matches!(refused, clarion_bus::PublishError::NotTaken(_)), "{refused:?}");
    assert_eq!(node.bus.probe(Duration::from_secs(1)).await, Err(ProbeError::Down));
    let none = async || server.monitor("varz").await["connections"] == 0;
    eventually("the connections are closed", none).await;
}

#[tokio::test]
async fn dropping_the_bus_closes_its_connections() {
    let server = NatsServer::start().await;
    drop(Node::up(&config(&server.url())).await);
    let none = async || server.monitor("varz").await["connections"] == 0;
    eventually("the connections are closed", none).await;
}

/// Says this to the server as any other client would.
async fn raw(server: &NatsServer, bytes: &[u8]) {
    let mut stream = TcpStream::connect(server.addr()).await.unwrap();
    stream.write_all(b"CONNECT {\"verbose\":false,\"headers\":true}\r\n").await.unwrap();
    stream.write_all(bytes).await.unwrap();
    // Closing before the server has read would lose it.
    stream.write_all(b"PING\r\n").await.unwrap();
    let mut seen = Vec::new();
    while !seen.windows(4).any(|window| window == b"PONG") {
        within("the answer", tokio::io::AsyncReadExt::read_buf(&mut stream, &mut seen)).await.unwrap();
    }
}
