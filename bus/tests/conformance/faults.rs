//! What happens to servers and connections, and that nothing hangs, is kept for later, or goes quiet because of it.

use std::time::Duration;

use clarion_bus::{ProbeError, SubscribeError};
use clarion_testkit::SilentServer;

use super::*;

/// Hands a channel over between interests that stand, again and again; returns how many of 2,000 messages came.
async fn hand_over(rig: &impl Rig) -> usize {
    let node = Node::up(rig).await;
    let publisher = Node::up(rig).await;
    let mut held = node.subscribe("a/b").await;
    let publishing = tokio::spawn(async move {
        for n in 0..2_000 {
            publisher.bus.publish(message("a/b", &n.to_string())).await.unwrap();
        }
    });
    // From the one to the other and back, the new one standing before the old one goes.
    for interest in ["a/*", "a/b", "a/**", "a/b"].into_iter().cycle().take(40) {
        let next = node.subscribe(interest).await;
        tokio::time::sleep(Duration::from_millis(1)).await;
        node.bus.unsubscribe(held);
        held = next;
    }
    publishing.await.unwrap();
    node.publish("a/b", "end").await;
    node.heard.wait(|all| all.iter().any(|one| one.payload == b"end")).await;
    let mut numbers: Vec<_> = node.heard.texts().iter().filter_map(|text| text.parse::<u32>().ok()).collect();
    numbers.sort_unstable();
    numbers.dedup();
    numbers.len()
}

pub(crate) async fn make_before_break_loses_nothing(rig: &mut impl Rig) -> Ran {
    if !rig.patterns() || !rig.copies_are_in_order() {
        return Err(Cannot);
    }
    assert_eq!(hand_over(rig).await, 2_000);
    Ok(())
}

/// Where copies of different subscriptions have no order between them, a few may fall between two interests.
pub(crate) async fn make_before_break_loses_next_to_nothing(rig: &mut impl Rig) -> Ran {
    if !rig.patterns() {
        return Err(Cannot);
    }
    let came = hand_over(rig).await;
    assert!(came >= 1_990, "{came} of 2000 came");
    Ok(())
}

pub(crate) async fn coming_and_going_ends_right(rig: &mut impl Rig) -> Ran {
    let node = Node::up(rig).await;
    // Re-subscribed while the unsubscription is still on its way, again and again.
    for _ in 0..300 {
        let id = node.subscribe("a").await;
        node.bus.unsubscribe(id);
    }
    let kept = node.subscribe("a").await;
    for _ in 0..300 {
        let topic = topic("b");
        // Dropped at any moment.
        let _ = tokio::time::timeout(Duration::from_micros(50), node.bus.subscribe(&topic)).await.map(|id| {
            node.bus.unsubscribe(id.unwrap());
        });
    }
    rig.backend("a", b"heard").await;
    node.heard.wait_count(1).await;
    assert_eq!(node.heard.all()[0].interests, [kept]);
    eventually("one subscription is left", async || {
        let stats = node.bus.stats();
        (stats.interests, stats.subscriptions) == (1, 1)
    })
    .await;
    Ok(())
}

pub(crate) async fn a_dropped_subscribe_leaves_nothing(rig: &mut impl Rig) -> Ran {
    let node = Node::up(rig).await;
    for n in 0..50 {
        let topic = topic(&format!("dropped/{n}"));
        let mut call = Box::pin(node.bus.subscribe(&topic));
        // Polled once, so that it has asked, and then dropped.
        let answered = futures_util::poll!(&mut call);
        drop(call);
        if let std::task::Poll::Ready(id) = answered {
            node.bus.unsubscribe(id.unwrap());
        }
    }
    assert_eq!(node.bus.stats().interests, 0);
    Ok(())
}

pub(crate) async fn comes_back_after_a_restart(rig: &mut impl Rig) -> Ran {
    let node = Node::up(rig).await;
    let id = node.subscribe("a").await;
    let pattern = if rig.patterns() { Some(node.subscribe("p/*").await) } else { None };
    if !rig.restart().await {
        return Err(Cannot);
    }
    node.heard.wait_gaps(1).await;
    node.link_up().await;
    node.until_heard("a", "after").await;
    assert_eq!(node.heard.all()[0].interests, [id]);
    if let Some(pattern) = pattern {
        node.until_heard("p/x", "below").await;
        assert!(node.heard.all().iter().any(|one| one.interests == [pattern]));
    }
    assert!(node.bus.stats().reconnects >= 1);
    // What is new goes on as well.
    node.subscribe("new").await;
    node.until_heard("new", "new").await;
    Ok(())
}

pub(crate) async fn comes_back_after_its_connection_was_killed(rig: &mut impl Rig) -> Ran {
    let node = Node::up(rig).await;
    let id = node.subscribe("a").await;
    for round in 1..=3 {
        if !rig.kill_connections().await {
            return Err(Cannot);
        }
        links_are_back(rig, &node, round).await;
        rig.backend("a", format!("{round}").as_bytes()).await;
        node.heard.wait_count(usize::try_from(round).unwrap()).await;
    }
    assert!(node.heard.all().iter().all(|one| one.interests == [id]));
    assert!(node.heard.gaps() >= 3);
    Ok(())
}

/// Waits until all links have been built anew so many times and stand.
pub(crate) async fn links_are_back(rig: &impl Rig, node: &Node, times: u64) {
    eventually("the links are built anew", async || node.bus.stats().reconnects >= times * rig.links()).await;
    node.link_up().await;
    assert_eq!(node.bus.stats().reconnects, times * rig.links());
}

pub(crate) async fn starts_without_a_server(rig: &mut impl Rig) -> Ran {
    let config = rig.config();
    if !rig.stop().await {
        return Err(Cannot);
    }
    let node = Node::started(rig, config);
    let topic = topic("a");
    let waiting = tokio::spawn({
        let bus = node.bus.clone();
        async move { bus.subscribe(&topic).await }
    });
    assert!(is_lost(&node.bus.publish(message("a", "lost")).await));
    assert_eq!(node.bus.probe(Duration::from_secs(1)).await, Err(ProbeError::Down));
    assert!(!waiting.is_finished());
    rig.restart().await;
    within("the subscription", waiting).await.unwrap().unwrap();
    node.until_heard("a", "found").await;
    assert_eq!(node.heard.texts()[0], "found", "nothing was kept for later");
    Ok(())
}

pub(crate) async fn a_mute_server_hangs_nothing(rig: &mut impl Rig) -> Ran {
    let mute = SilentServer::start().await;
    let Some(url) = rig.url_of(mute.addr()) else { return Err(Cannot) };
    let timeout = Duration::from_millis(300);
    let config =
        BusConfig { url: url.parse().unwrap(), connect_timeout: timeout, command_timeout: timeout, ..rig.config() };
    let node = Node::started(rig, config);
    let published = within("a publish", node.bus.publish(message("a", "x"))).await;
    assert!(is_lost(&published), "{published:?}");
    let all = within("a batch", node.bus.publish_all(vec![message("a", "x"); 10])).await;
    assert!(all.iter().all(is_lost), "{all:?}");
    assert_eq!(within("a probe", node.bus.probe(timeout)).await, Err(ProbeError::Down));
    eventually("it tries again", async || mute.accepted() >= 3).await;
    assert!(matches!(&*node.bus.link().borrow(), Link::Down(_)));
    within("closing", node.bus.close()).await;
    Ok(())
}

pub(crate) async fn a_frozen_server_is_noticed(rig: &mut impl Rig) -> Ran {
    let timeout = Duration::from_millis(500);
    let node = Node::with(rig, BusConfig { command_timeout: timeout, ..rig.config() }).await;
    node.subscribe("a").await;
    if !rig.freeze(true).await {
        return Err(Cannot);
    }
    let published = within("a publish", node.bus.publish(message("a", "nobody knows"))).await;
    assert!(is_lost(&published), "{published:?}");
    assert!(within("a probe", node.bus.probe(timeout)).await.is_err());
    node.link_down().await;
    rig.freeze(false).await;
    node.link_up().await;
    node.until_heard("a", "after").await;
    Ok(())
}

/// A message that was refused, or of which nobody knew, must not appear after the server is back.
pub(crate) async fn nothing_is_kept_for_later(rig: &mut impl Rig) -> Ran {
    let node = Node::up(rig).await;
    node.subscribe("a").await;
    let publisher = Node::up(rig).await;
    publisher.publish("a", "before").await;
    node.heard.wait_count(1).await;
    if !rig.stop().await {
        return Err(Cannot);
    }
    let mut taken = 0;
    for n in 0..50 {
        match publisher.bus.publish(message("a", &format!("lost {n}"))).await {
            Ok(_) => taken += 1,
            Err(PublishError::NotTaken(_) | PublishError::Unknown(_)) => {}
            Err(other) => panic!("{other:?}"),
        }
    }
    assert_eq!(taken, 0, "a dead server takes nothing");
    rig.restart().await;
    node.heard.wait_gaps(1).await;
    node.until_heard("a", "after").await;
    assert!(!node.heard.texts().iter().any(|text| text.starts_with("lost")), "{:?}", node.heard.texts());
    Ok(())
}

pub(crate) async fn a_forbidden_channel_is_refused_alone(rig: &mut impl Rig) -> Ran {
    let Some(config) = rig.restricted().await else { return Err(Cannot) };
    let node = Node::with(rig, config).await;
    let bus = &node.bus;
    // All in flight together, so that some share a command with the forbidden one.
    let names: Vec<_> = (0..100).map(|n| if n == 42 { "forbidden".to_owned() } else { format!("free/{n}") }).collect();
    let all = names.iter().map(|name| async move { bus.subscribe(&topic(name)).await });
    let results = within("all subscriptions", futures_util::future::join_all(all)).await;
    for (name, result) in names.iter().zip(&results) {
        if name == "forbidden" {
            assert!(matches!(result, Err(SubscribeError::Refused(_))), "{result:?}");
        } else {
            assert!(result.is_ok(), "{name} {result:?}");
        }
    }
    let refused = bus.publish(message("forbidden", "x")).await;
    assert!(matches!(refused, Err(PublishError::Refused(_))), "{refused:?}");
    for n in [0, 41, 43, 99] {
        node.until_heard(&format!("free/{n}"), &format!("free {n}")).await;
    }
    assert_eq!(bus.stats().interests, 99);
    assert_eq!((node.heard.gaps(), &*bus.link().borrow()), (0, &Link::Up));
    if rig.patterns() {
        let below = within("a pattern", bus.subscribe(&topic("forbidden/**"))).await;
        assert!(matches!(below, Err(SubscribeError::Refused(_))), "{below:?}");
    }
    Ok(())
}

/// Whoever asks for what is forbidden, together with others, and hangs up at any moment.
pub(crate) async fn aborted_calls_leave_nothing_at_the_server(rig: &mut impl Rig) -> Ran {
    let Some(config) = rig.restricted().await else { return Err(Cannot) };
    let node = Node::with(rig, config).await;
    let Some(before) = rig.subscriptions().await else { return Err(Cannot) };
    node.subscribe("free/kept").await;
    for round in 0..300 {
        // Names of its own, or the next round would clear up behind this one.
        let name = |n| if n == 7 { "forbidden".to_owned() } else { format!("free/{round}/{n}") };
        let names: Vec<_> = (0..20).map(name).collect();
        let topics: Vec<_> = names.iter().map(|name| topic(name)).collect();
        let calls = topics.iter().map(|topic| async {
            if let Ok(id) = node.bus.subscribe(topic).await {
                node.bus.unsubscribe(id);
            }
        });
        let mut all = Box::pin(futures_util::future::join_all(calls));
        for _ in 0..round * 3 {
            if futures_util::poll!(&mut all).is_ready() {
                break;
            }
            tokio::task::yield_now().await;
        }
    }
    eventually("one subscription is left", async || {
        let (stats, there) = (node.bus.stats(), rig.subscriptions().await);
        let left = (stats.interests, stats.subscriptions, there) == (1, 1, Some(before + 1));
        if left { Ok(()) } else { Err(format!("{stats:?}, {there:?} at the server and {before} before")) }
    })
    .await;
    Ok(())
}

pub(crate) async fn a_slow_reader_is_told_of_its_gap(rig: &mut impl Rig) -> Ran {
    if !rig.slow_reader_is_cut() {
        return Err(Cannot);
    }
    let node = Node::up(rig).await;
    let other = Node::up(rig).await;
    node.subscribe("a").await;
    other.subscribe("a").await;
    node.heard.open(false);
    let payload = "x".repeat(60_000);
    // Far more than the server and the sockets between can hold for one reader.
    let mut sent = 0;
    while sent < 1_000 {
        for _ in 0..20 {
            other.publish("a", &payload).await;
            sent += 1;
        }
        other.heard.wait_count(sent).await;
    }
    node.heard.open(true);
    node.heard.wait_gaps(1).await;
    node.link_up().await;
    node.until_heard("a", "after").await;
    assert!(node.heard.count() < sent, "what was dropped is gone");
    other.heard.wait_count(sent + 1).await;
    assert_eq!((other.heard.gaps(), other.heard.count()), (0, sent + 1), "nobody else is concerned");
    Ok(())
}

pub(crate) async fn the_probe_goes_round(rig: &mut impl Rig) -> Ran {
    let node = Node::up(rig).await;
    for _ in 0..5 {
        let round = node.bus.probe(Duration::from_secs(20)).await.unwrap();
        assert!(round > Duration::ZERO);
    }
    assert_eq!(node.heard.count(), 0, "nobody above hears of it");
    node.subscribe("a").await;
    node.heard.open(false);
    node.publish("a", "x").await;
    // The link is not read while its sink does not take anything, and the probe says so.
    eventually("it is late", async || node.bus.probe(Duration::from_millis(50)).await == Err(ProbeError::Late)).await;
    node.heard.open(true);
    eventually("it is back", async || node.bus.probe(Duration::from_secs(20)).await.is_ok()).await;
    Ok(())
}

pub(crate) async fn rebuilding_is_a_gap(rig: &mut impl Rig) -> Ran {
    let node = Node::up(rig).await;
    // Nothing was held, so nobody can have missed anything.
    node.bus.rebuild();
    links_are_back(rig, &node, 1).await;
    assert_eq!(node.heard.gap_of(), Vec::<Vec<InterestId>>::new());
    let mut held = vec![node.subscribe("a").await, node.subscribe("b").await];
    if rig.patterns() {
        held.extend([node.subscribe("a/**").await, node.subscribe("c/*").await]);
    }
    let gone = node.subscribe("gone").await;
    node.bus.unsubscribe(gone);
    node.bus.rebuild();
    links_are_back(rig, &node, 2).await;
    // A sharded bus tells of each link's interests apart.
    let told = async || {
        let mut told: Vec<_> = node.heard.gap_of().into_iter().flatten().collect();
        told.sort_unstable();
        if told == held { Ok(()) } else { Err(format!("{told:?}, and {held:?} are held")) }
    };
    eventually("the gap is of all that is held", told).await;
    node.subscribe("later").await;
    assert_eq!(told().await, Ok(()), "what came later has missed nothing");
    rig.backend("a", b"x").await;
    node.heard.wait_count(1).await;
    Ok(())
}

pub(crate) async fn closing_ends_everything(rig: &mut impl Rig) -> Ran {
    let node = Node::up(rig).await;
    node.subscribe("a").await;
    within("closing", node.bus.close()).await;
    assert_eq!(node.bus.subscribe(&topic("b")).await, Err(SubscribeError::Closed));
    assert!(matches!(node.bus.publish(message("a", "x")).await, Err(PublishError::NotTaken(_))));
    assert!(matches!(&*node.bus.link().borrow(), Link::Down(_)));
    rig.backend("a", b"x").await;
    within("closing again", node.bus.close()).await;
    assert_eq!(node.heard.count(), 0);
    Ok(())
}

/// Several publishers go on while the server dies and comes back: nothing that was said not to be taken is ever heard.
pub(crate) async fn what_was_not_taken_is_never_heard(rig: &mut impl Rig) -> Ran {
    let node = Node::up(rig).await;
    let publisher = Node::up(rig).await;
    node.subscribe("a").await;
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let tasks: Vec<_> = (0..8)
        .map(|task| {
            let (bus, stopped) = (publisher.bus.clone(), stopped.clone());
            tokio::spawn(async move {
                let (mut taken, mut not_taken) = (vec![], vec![]);
                for n in 0.. {
                    if *stopped.borrow() {
                        break;
                    }
                    let payload = format!("{task} {n}");
                    match bus.publish(message("a", &payload)).await {
                        Ok(_) => taken.push(payload),
                        Err(PublishError::NotTaken(_)) => {
                            not_taken.push(payload);
                            tokio::time::sleep(Duration::from_millis(1)).await;
                        }
                        Err(_) => {}
                    }
                }
                (taken, not_taken)
            })
        })
        .collect();
    node.heard.wait_count(100).await;
    for _ in 0..3 {
        let before = node.heard.gaps();
        if !rig.restart().await {
            return Err(Cannot);
        }
        node.heard.wait_gaps(before + 1).await;
        node.link_up().await;
        publisher.link_up().await;
        node.heard.wait_count(node.heard.count() + 100).await;
    }
    stop.send_replace(true);
    let (mut taken, mut not_taken) = (vec![], vec![]);
    for task in tasks {
        let (more_taken, more_not_taken) = within("a publisher", task).await.unwrap();
        taken.extend(more_taken);
        not_taken.extend(more_not_taken);
    }
    node.until_heard("a", "end").await;
    let texts = node.heard.texts();
    let heard: std::collections::HashSet<_> = texts.iter().collect();
    let wrong: Vec<_> = not_taken.iter().filter(|payload| heard.contains(*payload)).collect();
    assert!(wrong.is_empty(), "said not to be taken and heard all the same: {wrong:?}");
    // `until_heard` may have to publish more than once.
    let ends = texts.iter().filter(|text| *text == "end").count();
    assert_eq!(heard.len(), texts.len() - (ends - 1), "nothing is heard twice");
    assert!(taken.len() > 100);
    Ok(())
}
