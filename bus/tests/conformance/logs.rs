//! What every bus promises of logged namespaces.

use std::time::Duration;

use clarion_bus::log::{Chunk, From, LogHandle, Marks, Read, StoreHandle, Top};
use clarion_protocol::{Interest, LogPolicy, Logs, Message, MessageId, Partition, Position, Publication, Uid};

use super::*;

/// A namespace with everything in it, one with plain channels inside, and a short one.
fn logged(rig: &impl Rig, size: u32, age: Duration) -> BusConfig {
    let policy = LogPolicy { size, age, partitions: 1 };
    let channel = |name| Channel::parse(name).unwrap();
    let logs = Logs::new([
        (channel("orders"), Some(policy)),
        (channel("orders/plain"), None),
        (channel("other"), Some(policy)),
    ]);
    BusConfig { logs, ..rig.config() }
}

async fn node(rig: &mut impl Rig) -> (Node, LogHandle) {
    sized(rig, 100, Duration::from_secs(3600)).await
}

async fn sized(rig: &mut impl Rig, size: u32, age: Duration) -> (Node, LogHandle) {
    let node = Node::with(rig, logged(rig, size, age)).await;
    let log = node.bus.log().expect("something is logged");
    let both = [partition("orders"), partition("other")];
    eventually("the log is there", || log.tops(&both)).await;
    (node, log)
}

fn partition(namespace: &str) -> Partition {
    Partition { namespace: Channel::parse(namespace).unwrap(), number: 0 }
}

fn read(within: &str, from: From) -> Read {
    let namespace = within.split('/').next().unwrap();
    let within = Interest::parse(within).unwrap();
    Read { partition: partition(namespace), within, from, up_to: None, messages: 200, bytes: 1 << 20 }
}

async fn top(log: &LogHandle, namespace: &str) -> Top {
    log.tops(&[partition(namespace)]).await.unwrap().pop().unwrap()
}

async fn chunk(log: &LogHandle, within: &str, from: From) -> Chunk {
    log.read(&read(within, from)).await.unwrap()
}

fn texts(chunk: &Chunk) -> Vec<String> {
    chunk.messages.iter().map(|(_, message)| String::from_utf8_lossy(&message.payload).into_owned()).collect()
}

fn offset(message: &Message) -> u64 {
    message.meta.as_ref().unwrap().position.as_ref().unwrap().offset
}

async fn publish(node: &Node, channel: &str, text: &str) -> Position {
    node.bus.publish(message(channel, text)).await.unwrap().position.expect("it is logged")
}

fn with_id(channel: &str, text: &str, id: &str) -> Publication {
    let mut publication = message(channel, text);
    publication.message.id = Some(MessageId::parse(id).unwrap());
    publication
}

pub(crate) async fn a_logged_message_is_numbered_and_relayed(rig: &mut impl Rig) -> Ran {
    let (publisher, log) = node(rig).await;
    let (listener, _) = node(rig).await;
    listener.subscribe("orders/a").await;
    let begin = top(&log, "orders").await;
    let mut last = begin.offset;
    for n in 0..20 {
        let position = publish(&publisher, "orders/a", &n.to_string()).await;
        assert!(position.offset > last && position.epoch == begin.epoch, "{position:?} after {last}");
        last = position.offset;
        publish(&publisher, "orders/b", "between").await;
    }
    listener.heard.wait_count(20).await;
    let heard = listener.heard.positions();
    let mut previous = heard[0].previous;
    for position in &heard {
        assert_eq!((&position.epoch, position.previous), (&begin.epoch, previous));
        previous = Some(position.offset);
    }
    assert_eq!(heard[0].previous, Some(0), "the first of its channel");
    assert_eq!(previous, Some(last));
    let kept = chunk(&log, "orders/a", From::After(begin.offset)).await;
    assert_eq!(texts(&kept), (0..20).map(|n| n.to_string()).collect::<Vec<_>>());
    assert_eq!(
        kept.messages.iter().map(|(_, m)| offset(m)).collect::<Vec<_>>(),
        heard.iter().map(|p| p.offset).collect::<Vec<_>>()
    );
    assert!(kept.end && !kept.lost && kept.epoch == begin.epoch && kept.reached >= last);
    Ok(())
}

pub(crate) async fn a_repeated_id_is_dropped(rig: &mut impl Rig) -> Ran {
    let (publisher, log) = node(rig).await;
    let (listener, _) = node(rig).await;
    listener.subscribe("orders/a").await;
    let begin = top(&log, "orders").await;
    let first = publisher.bus.publish(with_id("orders/a", "once", "i-1")).await.unwrap();
    let again = listener.bus.publish(with_id("orders/a", "once", "i-1")).await.unwrap();
    assert_eq!(
        (&first.id, first.position.as_ref().unwrap().offset),
        (&again.id, again.position.as_ref().unwrap().offset)
    );
    let both = vec![
        with_id("orders/a", "twice", "i-2"),
        with_id("orders/a", "twice", "i-2"),
        with_id("orders/a", "end", "i-3"),
    ];
    let results = publisher.bus.publish_all(both).await;
    let offsets: Vec<_> = results.iter().map(|r| r.as_ref().unwrap().position.as_ref().unwrap().offset).collect();
    assert!(offsets[0] == offsets[1] && offsets[1] < offsets[2], "{offsets:?}");
    listener.heard.wait(|all| all.iter().any(|one| one.payload == b"end")).await;
    assert_eq!(listener.heard.texts(), ["once", "twice", "end"]);
    assert_eq!(listener.heard.all()[0].id, MessageId::parse("i-1").ok());
    let kept = chunk(&log, "orders/a", From::After(begin.offset)).await;
    assert_eq!(texts(&kept), ["once", "twice", "end"]);
    assert_eq!(kept.messages[2].1.id, MessageId::parse("i-3").ok(), "the log keeps ids");
    Ok(())
}

pub(crate) async fn a_log_is_read_in_parts(rig: &mut impl Rig) -> Ran {
    let (publisher, log) = node(rig).await;
    let begin = top(&log, "orders").await.offset;
    let nothing = chunk(&log, "orders/**", From::Newest(5)).await;
    assert!(nothing.messages.is_empty() && nothing.end && !nothing.lost, "{nothing:?}");
    let batch = (0..60).map(|n| message(["orders/a", "orders/a/b", "orders/c"][n % 3], &n.to_string())).collect();
    let results = publisher.bus.publish_all(batch).await;
    let offsets: Vec<u64> = results.iter().map(|r| r.as_ref().unwrap().position.as_ref().unwrap().offset).collect();
    assert!(offsets.is_sorted(), "{offsets:?}");
    for (within, expected) in [
        ("orders/a", (0..60).step_by(3).collect::<Vec<usize>>()),
        ("orders/*", (0..60).filter(|n| n % 3 != 1).collect()),
        ("orders/a/**", (0..60).filter(|n| n % 3 != 2).collect()),
        ("orders/**", (0..60).collect()),
    ] {
        let expected: Vec<_> = expected.iter().map(ToString::to_string).collect();
        let (mut after, mut found) = (begin, Vec::new());
        loop {
            let part = Read { messages: 7, ..read(within, From::After(after)) };
            let part = log.read(&part).await.unwrap();
            assert!(part.messages.len() <= 7 && !part.lost, "{within}");
            found.extend(texts(&part));
            assert!(part.end || part.reached > after, "{within} does not come forward");
            after = part.reached;
            if part.end {
                break;
            }
        }
        assert_eq!(found, expected, "{within}");
        let newest = chunk(&log, within, From::Newest(5)).await;
        assert_eq!(texts(&newest), expected[expected.len() - 5..], "{within}");
        let before = Read { up_to: Some(offsets[30]), ..read(within, From::Newest(3)) };
        let upper: Vec<_> = expected.iter().filter(|n| n.parse::<usize>().unwrap() <= 30).collect();
        assert_eq!(
            texts(&log.read(&before).await.unwrap()),
            upper[upper.len() - 3..].iter().map(|t| t.as_str()).collect::<Vec<_>>()
        );
        let bound = Read { up_to: Some(offsets[30]), ..read(within, From::After(begin)) };
        assert_eq!(texts(&log.read(&bound).await.unwrap()).len(), upper.len(), "{within}");
    }
    let large = "x".repeat(40_000);
    for n in 0..5 {
        publish(&publisher, "orders/large", &format!("{n}{large}")).await;
    }
    let part = Read { bytes: 90_000, ..read("orders/large", From::After(begin)) };
    let part = log.read(&part).await.unwrap();
    assert!((1..=2).contains(&part.messages.len()) && !part.end, "{}", part.messages.len());
    let one = Read { bytes: 1, ..read("orders/large", From::After(part.reached)) };
    assert_eq!(log.read(&one).await.unwrap().messages.len(), 1, "the first is read whatever its size");
    let after_all = chunk(&log, "orders/**", From::After(top(&log, "orders").await.offset)).await;
    assert!(after_all.messages.is_empty() && after_all.end && !after_all.lost);
    Ok(())
}

pub(crate) async fn what_was_cut_is_told(rig: &mut impl Rig) -> Ran {
    let (publisher, log) = sized(rig, 10, Duration::from_secs(3600)).await;
    let begin = top(&log, "orders").await.offset;
    for n in 0..10 {
        publish(&publisher, "orders/a", &n.to_string()).await;
    }
    let quiet = publish(&publisher, "orders/quiet", "quiet").await;
    assert!(!chunk(&log, "orders/a", From::After(begin)).await.lost, "all of them are kept");
    let mut offsets = Vec::new();
    for n in 10..30 {
        offsets.push(publish(&publisher, "orders/a", &n.to_string()).await.offset);
    }
    let cut = chunk(&log, "orders/a", From::After(begin)).await;
    assert!(cut.lost && texts(&cut).ends_with(&["29".to_owned()]), "{cut:?}");
    let rest = chunk(&log, "orders/a", From::After(offsets[9])).await;
    assert_eq!((rest.lost, texts(&rest)), (false, (20..30).map(|n| n.to_string()).collect::<Vec<_>>()));
    let other = chunk(&log, "orders/quiet", From::After(begin)).await;
    assert_eq!((other.lost, texts(&other)), (false, vec!["quiet".to_owned()]), "a busy channel pushes no other out");
    assert_eq!(offset(&other.messages[0].1), quiet.offset);
    assert!(chunk(&log, "orders/**", From::After(begin)).await.lost);
    Ok(())
}

pub(crate) async fn what_is_too_old_is_told(rig: &mut impl Rig) -> Ran {
    let (publisher, log) = sized(rig, 100, Duration::from_secs(1)).await;
    let first = publish(&publisher, "orders/a", "old").await;
    publish(&publisher, "orders/a", "older than a second soon").await;
    eventually("it is too old", async || {
        let kept = chunk(&log, "orders/a", From::After(first.offset)).await;
        // Something else goes on, so that time passes for the partition as well.
        publish(&publisher, "orders/b", "now").await;
        if kept.messages.is_empty() && kept.lost { Ok(()) } else { Err(kept) }
    })
    .await;
    Ok(())
}

pub(crate) async fn what_is_not_logged_is_as_it_was(rig: &mut impl Rig) -> Ran {
    let (publisher, log) = node(rig).await;
    publisher.subscribe("orders/plain/x").await;
    publisher.subscribe("news").await;
    for channel in ["orders/plain/x", "news"] {
        assert_eq!(publisher.bus.publish(message(channel, channel)).await.unwrap().position, None);
    }
    publisher.heard.wait_count(2).await;
    publish(&publisher, "orders/a", "logged").await;
    let kept = chunk(&log, "orders/**", From::Newest(10)).await;
    assert_eq!(texts(&kept), ["logged"]);
    assert!(Node::up(rig).await.bus.log().is_none(), "nothing is logged there");
    Ok(())
}

pub(crate) async fn many_publishers_leave_no_hole_and_no_repeat(rig: &mut impl Rig) -> Ran {
    const EACH: usize = 100;
    let (listener, log) = sized(rig, 1_000, Duration::from_secs(3600)).await;
    let begin = top(&log, "orders").await.offset;
    listener.subscribe("orders/a").await;
    let mut publishers = Vec::new();
    for _ in 0..3 {
        publishers.push(sized(rig, 1_000, Duration::from_secs(3600)).await.0);
    }
    let publishing = publishers.iter().enumerate().map(|(number, publisher)| async move {
        for n in 0..EACH {
            publisher.bus.publish(message("orders/a", &format!("{number}-{n}"))).await.unwrap();
        }
    });
    futures_util::future::join_all(publishing).await;
    listener.heard.wait_count(3 * EACH).await;
    let mut heard: Vec<_> = listener.heard.positions().into_iter().zip(listener.heard.texts()).collect();
    let in_order = heard.is_sorted_by_key(|(position, _)| position.offset);
    // nats-server 2.9.10 relays messages of several publishers in another order than it has numbered them now and then.
    assert!(in_order || listener.bus.kind() == "nats", "they come in the order of their offsets");
    heard.sort_by_key(|(position, _)| position.offset);
    let follows = |two: &&[(Position, String)]| two[1].0.previous != Some(two[0].0.offset);
    assert_eq!(heard.windows(2).find(follows), None, "each names the one before it");
    let mut kept = Vec::new();
    let mut after = begin;
    loop {
        let part = chunk(&log, "orders/a", From::After(after)).await;
        kept.extend(texts(&part));
        after = part.reached;
        if part.end {
            break;
        }
    }
    assert_eq!(kept, heard.into_iter().map(|(_, text)| text).collect::<Vec<_>>());
    Ok(())
}

pub(crate) async fn partitions_have_epochs_and_nodes_share_a_key(rig: &mut impl Rig) -> Ran {
    let (one, log) = node(rig).await;
    let (_two, other) = node(rig).await;
    let both = [partition("orders"), partition("other")];
    let tops = log.tops(&both).await.unwrap();
    assert_ne!(tops[0].epoch, tops[1].epoch);
    assert!(tops[0].epoch.as_str().len() <= 12);
    publish(&one, "orders/a", "x").await;
    let later = other.tops(&both).await.unwrap();
    assert_eq!((&later[0].epoch, &later[1]), (&tops[0].epoch, &tops[1]));
    assert!(later[0].offset > tops[0].offset);
    assert_eq!(log.cursor_key().await.unwrap(), other.cursor_key().await.unwrap());
    Ok(())
}

pub(crate) async fn marks_are_merged(rig: &mut impl Rig) -> Ran {
    let (one, log) = node(rig).await;
    let (two, _) = node(rig).await;
    let (first, second): (StoreHandle, StoreHandle) = (one.bus.store().unwrap(), two.bus.store().unwrap());
    let user = Uid::parse("42").unwrap();
    assert_eq!(first.marks(&user).await.unwrap(), Marks::default());
    let epoch = Some(top(&log, "orders").await.epoch);
    let also = |offsets: &[u64]| offsets.iter().copied().collect();
    first.mark(&user, &Marks { epoch: epoch.clone(), up_to: 10, also: also(&[12, 15]) }).await.unwrap();
    let all = second.mark(&user, &Marks { epoch: epoch.clone(), up_to: 0, also: also(&[5, 20]) }).await.unwrap();
    assert_eq!(all, Marks { epoch: epoch.clone(), up_to: 10, also: also(&[12, 15, 20]) });
    second.mark(&user, &Marks { epoch: epoch.clone(), up_to: 15, also: also(&[]) }).await.unwrap();
    let left = Marks { epoch: epoch.clone(), up_to: 15, also: also(&[20]) };
    assert_eq!(first.marks(&user).await.unwrap(), left);
    let marking = (0..20).map(|n| {
        let (store, user, epoch) = (if n % 2 == 0 { &first } else { &second }, &user, epoch.clone());
        async move { store.mark(user, &Marks { epoch, up_to: 0, also: [30 + n].into() }).await.unwrap() }
    });
    futures_util::future::join_all(marking).await;
    assert_eq!(first.marks(&user).await.unwrap().also.len(), 21, "two devices at once lose no mark");
    let anew = Marks { epoch: top(&log, "other").await.epoch.into(), up_to: 3, also: also(&[]) };
    assert_eq!(first.mark(&user, &anew).await.unwrap(), anew, "of a log that was lost nothing counts");
    assert_eq!(first.marks(&Uid::parse("43").unwrap()).await.unwrap(), Marks::default());
    Ok(())
}

pub(crate) async fn a_log_outlives_a_restart_of_its_server(rig: &mut impl Rig) -> Ran {
    let (publisher, log) = node(rig).await;
    let begin = top(&log, "orders").await;
    for n in 0..5 {
        publish(&publisher, "orders/a", &n.to_string()).await;
    }
    if !rig.restart_with_data().await {
        return Err(Cannot);
    }
    publisher.link_up().await;
    let after = eventually("the log is back", || publisher.bus.publish(message("orders/a", "5"))).await;
    let rest = read("orders/a", From::After(begin.offset));
    let kept = eventually("it is read", || log.read(&rest)).await;
    assert_eq!((texts(&kept), kept.lost, &kept.epoch), ((0..6).map(|n| n.to_string()).collect(), false, &begin.epoch));
    assert_eq!(after.position.unwrap().epoch, begin.epoch);
    Ok(())
}
