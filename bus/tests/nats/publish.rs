//! What an answer to a publication means.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use crate::kit::{Node, Scripted, config, publication};
use clarion_bus::{BusConfig, Link, PublishError};
use clarion_testkit::{NatsServer, TcpProxy, eventually, within};

#[tokio::test]
async fn callers_share_round_trips() {
    let pings = Arc::new(AtomicUsize::new(0));
    let count = pings.clone();
    let server = Scripted::start(move |line| {
        count.fetch_add(usize::from(line == "PING"), Relaxed);
        None
    })
    .await;
    let node = Node::up(&config(&server)).await;
    let before = pings.load(Relaxed);
    let all = (0..2_000).map(|n| node.bus.publish(publication("a", format!("{n}"))));
    let outcomes = within("publishing", futures_util::future::join_all(all)).await;
    assert!(outcomes.iter().all(Result::is_ok));
    let round_trips = pings.load(Relaxed) - before;
    assert!((1..200).contains(&round_trips), "{round_trips}");
}

#[tokio::test]
async fn what_the_server_forbids_is_refused_and_nothing_else() {
    let permissions = r#"publish: { deny: ["clarion.secret.>", "clarion.s\"x"] }"#;
    let server = NatsServer::builder().user_with("u", "p", permissions).start().await;
    let node = Node::up(&config(&server.url())).await;
    node.subscribe("open").await;
    let batch = ["open", "secret/a", "open", "secret/b", "s\"x"].map(|channel| publication(channel, "x")).into();
    let outcomes = within("publishing", node.bus.publish_all(batch)).await;
    for (at, outcome) in outcomes.iter().enumerate() {
        match at {
            0 | 2 => assert!(outcome.is_ok(), "{at}: {outcome:?}"),
            _ => assert!(matches!(outcome, Err(PublishError::Refused(_))), "{at}: {outcome:?}"),
        }
    }
    assert_eq!(node.take(2).await.len(), 2);
    assert_eq!(node.bus.stats().reconnects, 0);
    assert_eq!(*node.bus.link().borrow(), Link::Up);
}

#[tokio::test]
async fn what_is_too_large_says_what_is_allowed() {
    let server = NatsServer::builder().max_payload(1_000).start().await;
    let node = Node::up(&config(&server.url())).await;
    // The header with the id is part of what the server counts.
    let batch = [938, 937, 70_000].map(|bytes| publication("a", vec![0; bytes])).into();
    let outcomes = within("publishing", node.bus.publish_all(batch)).await;
    assert_eq!(outcomes[0], Err(PublishError::TooLarge { bytes: 1_001, limit: 1_000 }));
    assert!(outcomes[1].is_ok(), "{outcomes:?}");
    assert_eq!(outcomes[2], Err(PublishError::TooLarge { bytes: 70_000, limit: 65_536 }));
}

#[tokio::test]
async fn nothing_is_kept_across_an_outage() {
    let mut server = NatsServer::start().await;
    let node = Node::up(&config(&server.url())).await;
    node.subscribe("a").await;
    server.kill();
    node.wait_down().await;
    for n in 0..100 {
        let outcome = within("publishing", node.bus.publish(publication("a", format!("lost {n}")))).await;
        assert!(matches!(outcome, Err(PublishError::NotTaken(_) | PublishError::Unknown(_))), "{outcome:?}");
    }
    server.restart().await;
    node.wait_up().await;
    node.publish("a", "later").await;
    assert_eq!(node.payloads(1).await, ["later"]);
}

#[tokio::test]
async fn an_answer_that_does_not_come_leaves_it_unknown() {
    let server = NatsServer::start().await;
    let proxy = TcpProxy::start(server.addr()).await;
    let config =
        BusConfig { command_timeout: Duration::from_millis(500), ..config(&format!("nats://{}", proxy.addr())) };
    let node = Node::up(&config).await;
    proxy.stall();
    let (small, large) = (publication("a", "x"), (0..400).map(|_| publication("a", vec![0; 60_000])).collect());
    let small = within("publishing", node.bus.publish(small)).await;
    assert!(matches!(small, Err(PublishError::Unknown(_))), "{small:?}");
    proxy.resume();
    eventually("publishing works again", async || node.bus.publish(publication("a", "x")).await).await;
    // What does not fit into the network's own buffers was surely not taken.
    proxy.stall();
    let outcomes = within("publishing", node.bus.publish_all(large)).await;
    assert!(matches!(outcomes[0], Err(PublishError::Unknown(_))), "{:?}", outcomes[0]);
    assert!(matches!(outcomes[399], Err(PublishError::NotTaken(_))), "{:?}", outcomes[399]);
    let first = outcomes.iter().position(|outcome| matches!(outcome, Err(PublishError::NotTaken(_)))).unwrap();
    assert!(outcomes[first..].iter().all(|outcome| matches!(outcome, Err(PublishError::NotTaken(_)))));
}
