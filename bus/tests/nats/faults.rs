//! Servers that restart, cut, stop answering and forbid; and a sink that takes nothing.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use clarion_bus::{BusConfig, Link, PublishError, SubscribeError};
use clarion_testkit::{NatsServer, SilentServer, TcpProxy, eventually, patience, within};

use crate::kit::{Node, Scripted, config, publication};

#[tokio::test]
async fn interests_stand_again_after_a_restart() {
    let mut server = NatsServer::start().await;
    let (node, other) = (Node::up(&config(&server.url())).await, Node::up(&config(&server.url())).await);
    node.subscribe("a/**").await;
    for n in 0..2_500 {
        node.bus.subscribe(&crate::kit::topic(&format!("b/{n}"))).await.unwrap();
    }
    server.kill();
    node.wait_down().await;
    // Asked for while there is no link: it waits.
    let later = node.bus.clone();
    let later = tokio::spawn(async move { later.subscribe(&crate::kit::topic("c")).await });
    server.restart().await;
    node.wait_up().await;
    other.wait_up().await;
    assert_eq!((node.gaps(), node.bus.stats().reconnects), (1, 1));
    within("subscribing", later).await.unwrap().unwrap();
    for channel in ["a/x", "b/0", "b/2499", "c"] {
        other.publish(channel, channel).await;
    }
    assert_eq!(node.payloads(4).await.len(), 4);
    assert_eq!(node.bus.stats().subscriptions, 2_503);
}

#[tokio::test]
async fn a_killed_connection_is_a_gap() {
    let server = NatsServer::start().await;
    let proxy = TcpProxy::start(server.addr()).await;
    let node = Node::up(&config(&format!("nats://{}", proxy.addr()))).await;
    let other = Node::up(&config(&server.url())).await;
    node.subscribe("a").await;
    for round in 1..=3 {
        proxy.drop_connections();
        eventually("the gap is told of", async || node.gaps() == round).await;
        node.wait_up().await;
        other.publish("a", "x").await;
        node.take(1).await;
    }
}

#[tokio::test]
async fn building_anew_is_a_gap_once() {
    let server = NatsServer::start().await;
    let node = Node::up(&config(&server.url())).await;
    node.subscribe("a").await;
    node.bus.rebuild();
    eventually("the gap is told of", async || node.gaps() == 1).await;
    node.wait_up().await;
    node.publish("a", "x").await;
    node.take(1).await;
    assert_eq!((node.gaps(), node.bus.stats().reconnects), (1, 1));
}

#[tokio::test]
async fn a_server_that_never_answers_is_no_server() {
    let server = SilentServer::start().await;
    let url = format!("nats://{}", server.addr());
    let node = Node::start(&BusConfig { connect_timeout: Duration::from_millis(100), ..config(&url) });
    let reason = node.wait_down().await;
    assert!(reason.contains("no answer"), "{reason}");
    eventually("it tries again", async || server.accepted() > 4).await;
    let outcome = within("publishing", node.bus.publish(publication("a", "x"))).await;
    assert!(matches!(outcome, Err(PublishError::NotTaken(_))), "{outcome:?}");
}

#[tokio::test]
async fn a_server_that_freezes_is_noticed_on_both_connections() {
    let server = NatsServer::start().await;
    let proxy = TcpProxy::start(server.addr()).await;
    let config = BusConfig {
        command_timeout: Duration::from_millis(500),
        connect_timeout: patience() * 2,
        ..config(&format!("nats://{}", proxy.addr()))
    };
    let node = Node::up(&config).await;
    node.subscribe("a").await;
    assert_eq!(proxy.accepted(), 2);
    proxy.stall();
    // Each of them waits for an answer to its second attempt for longer than this test.
    eventually("both connect anew", async || proxy.accepted() == 4).await;
    proxy.resume();
    eventually("the gap is told of", async || node.gaps() == 1).await;
    node.wait_up().await;
    node.publish("a", "x").await;
    node.take(1).await;
}

#[tokio::test]
async fn what_speaks_something_else_is_no_server() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("nats://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = tokio::io::AsyncWriteExt::write_all(&mut stream, b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
        }
    });
    let reason = Node::start(&config(&url)).wait_down().await;
    assert!(reason.contains("not the NATS protocol"), "{reason}");
}

#[tokio::test]
async fn a_forbidden_subject_is_refused_and_the_others_stand() {
    let permissions = r#"subscribe: { allow: ["clarion.>", "_clarion.>"], deny: ["clarion.secret.>", "clarion.no"] }"#;
    let server = NatsServer::builder().user_with("u", "p", permissions).start().await;
    let node = Node::up(&config(&server.url())).await;
    let names = ["a", "secret/x", "b/*", "no", "c/**", "secret/**"];
    let all = names.map(|name| node.try_subscribe(name));
    let outcomes = futures_util::future::join_all(all).await;
    for (name, outcome) in names.iter().zip(&outcomes) {
        match *name {
            "secret/x" | "no" | "secret/**" => {
                assert!(matches!(outcome, Err(SubscribeError::Refused(_))), "{name}: {outcome:?}");
            }
            _ => assert!(outcome.is_ok(), "{name}: {outcome:?}"),
        }
    }
    assert_eq!(node.bus.stats().reconnects, 0);
    assert_eq!(node.bus.stats().interests, 3);
    node.publish("a", "x").await;
    node.take(1).await;
    assert!(node.try_subscribe("no").await.is_err());
}

/// Who stood and is forbidden later is asked for again, and hears of the gap when it stands.
#[tokio::test]
async fn a_right_that_is_taken_away_and_given_back() {
    let (allowed, cut) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicBool::new(false)));
    let (right, cuts) = (allowed.clone(), cut.clone());
    let url = Scripted::start(move |line| match line {
        "PING" if cuts.load(Relaxed) => Some(String::new()),
        _ if line.starts_with("SUB clarion.a ") && !right.load(Relaxed) => {
            Some("-ERR 'Permissions Violation for Subscription to \"clarion.a\"'\r\n".to_owned())
        }
        _ => None,
    })
    .await;
    let node = Node::up(&config(&url)).await;
    node.subscribe("a").await;
    node.subscribe("b").await;
    allowed.store(false, Relaxed);
    cut.store(true, Relaxed);
    node.wait_down().await;
    cut.store(false, Relaxed);
    eventually("it is refused", async || node.bus.stats().refused == 1).await;
    node.wait_up().await;
    assert_eq!((node.gaps(), node.bus.stats().subscriptions), (1, 1));
    allowed.store(true, Relaxed);
    eventually("the gap is told of", async || node.gaps() == 2).await;
    assert_eq!((node.bus.stats().refused, node.bus.stats().subscriptions), (0, 2));
}

#[tokio::test]
async fn a_bus_without_rights_to_its_own_subjects_says_so() {
    let server = NatsServer::builder().user_with("u", "p", r#"subscribe: "clarion.>""#).start().await;
    let node = Node::start(&config(&server.url()));
    let reason = node.wait_down().await;
    assert!(reason.contains("allow `_clarion.clarion.>`"), "{reason}");
}

/// They pass by themselves: somebody leaves. Those who fit stand, also when more are asked for at once.
#[tokio::test]
async fn one_subscription_too_many_is_refused_for_now() {
    let server = NatsServer::builder().config("max_subscriptions: 10").start().await;
    let node = Node::up(&config(&server.url())).await;
    let mut outcomes = Vec::new();
    for n in 0..12 {
        outcomes.push(node.try_subscribe(&format!("a/{n}")).await);
    }
    assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 9);
    assert!(matches!(outcomes[11], Err(SubscribeError::NotNow(_))), "{:?}", outcomes[11]);
    assert_eq!(*node.bus.link().borrow(), Link::Up);
    node.publish("a/0", "x").await;
    node.take(1).await;
    node.bus.unsubscribe(outcomes[0].clone().unwrap());
    node.bus.unsubscribe(outcomes[1].clone().unwrap());
    let all = futures_util::future::join_all((20..40).map(|n| node.try_subscribe_owned(format!("a/{n}")))).await;
    assert_eq!(all.iter().filter(|outcome| outcome.is_ok()).count(), 2, "{all:?}");
    assert!(all.iter().all(|outcome| matches!(outcome, Ok(_) | Err(SubscribeError::NotNow(_)))), "{all:?}");
    let page = server.monitor("connz").await;
    let most = page["connections"].as_array().unwrap().iter().map(|one| one["subscriptions"].as_u64().unwrap()).max();
    assert_eq!((most, node.bus.stats().subscriptions), (Some(10), 9));
}

/// A channel that is too deep for the server is its client's business and nobody else's.
#[tokio::test]
async fn a_subject_too_deep_is_refused_alone() {
    let server = NatsServer::builder().config("max_subscription_tokens: 4").start().await;
    let node = Node::up(&config(&server.url())).await;
    let (deep, good) = futures_util::future::join(node.try_subscribe("a/b/c/d/e"), node.try_subscribe("a/b")).await;
    assert!(matches!(deep, Err(SubscribeError::Refused(_))), "{deep:?}");
    good.unwrap();
    node.publish("a/b", "x").await;
    node.take(1).await;
    assert_eq!((node.gaps(), node.bus.stats().reconnects), (0, 0));
}

#[tokio::test]
async fn a_sink_that_takes_nothing_costs_a_gap_and_nothing_else() {
    let limits = "max_pending: 1048576\nwrite_deadline: \"500ms\"";
    let server = NatsServer::builder().config(limits).start().await;
    let (node, other) = (Node::up(&config(&server.url())).await, Node::up(&config(&server.url())).await);
    node.subscribe("a").await;
    node.open(false);
    // The network's own buffers take some megabytes before the server sees anything.
    eventually("the server cuts the slow reader", async || {
        let publications = (0..100).map(|_| publication("a", vec![0; 60_000])).collect();
        assert!(other.bus.publish_all(publications).await.iter().all(Result::is_ok));
        server.monitor("varz").await["slow_consumers"].as_u64() > Some(0)
    })
    .await;
    // Publishing goes another way and is not kept waiting.
    node.publish("b", "x").await;
    assert_eq!(node.gaps(), 0);
    node.open(true);
    eventually("the gap is told of", async || node.gaps() == 1).await;
    node.wait_up().await;
    node.publish("a", "after").await;
    eventually("the link brings messages again", async || {
        node.take(1).await.iter().any(|delivery| delivery.message.payload == "after")
    })
    .await;
}
