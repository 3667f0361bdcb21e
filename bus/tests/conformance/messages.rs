//! What goes in comes out: at the right interests, in order, untouched, once.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use clarion_bus::{Answers, Question};
use clarion_protocol::{Channel, InternalName, Message, MessageId, Meta, NodeName};

use super::*;

pub(crate) async fn exact_and_pattern_interests(rig: &mut impl Rig) -> Ran {
    let node = Node::up(rig).await;
    let publisher = Node::up(rig).await;
    let mut expected = vec![];
    let exact = node.subscribe("orders/eu").await;
    expected.push(("orders/eu", exact));
    if rig.patterns() {
        expected.push(("news/a", node.subscribe("news/*").await));
        let subtree = node.subscribe("deep/**").await;
        expected.extend(["deep", "deep/a", "deep/a/b"].map(|channel| (channel, subtree)));
    }
    for (channel, _) in &expected {
        rig.backend(channel, b"from a backend").await;
        publisher.publish(channel, "from a node").await;
    }
    // None of these is asked for.
    for channel in ["orders", "orders/eu/x", "news", "news/a/b", "deeper"] {
        rig.backend(channel, b"wrong").await;
    }
    rig.backend("orders/eu", b"last").await;
    node.heard.wait(|all| all.iter().any(|one| one.payload == b"last")).await;
    node.heard.wait_count(2 * expected.len() + 1).await;
    let all = node.heard.all();
    assert_eq!(all.len(), 2 * expected.len() + 1, "{all:?}");
    for (channel, interest) in expected {
        for payload in ["from a backend", "from a node"] {
            let found = all.iter().filter(|one| one.address == channel && one.payload == payload.as_bytes());
            assert_eq!(
                found.map(|one| one.interests.clone()).collect::<Vec<_>>(),
                [vec![interest]],
                "{channel} {payload}"
            );
        }
    }
    Ok(())
}

pub(crate) async fn internal_subjects_are_apart(rig: &mut impl Rig) -> Ran {
    let node = Node::up(rig).await;
    let other = Node::up(rig).await;
    let name = InternalName::parse("members").unwrap();
    within("members", node.bus.subscribe(&name.clone().into())).await.unwrap();
    node.subscribe("members").await;
    rig.backend("members", b"channel").await;
    other.bus.publish(Publication::raw(name, "internal")).await.unwrap();
    node.heard.wait_count(2).await;
    let mut all: Vec<_> = node.heard.all().into_iter().map(|one| (one.address, one.payload)).collect();
    all.sort();
    let expected = [("internal members", "internal"), ("members", "channel")];
    assert_eq!(all, expected.map(|(address, payload)| (address.to_owned(), payload.as_bytes().to_vec())));
    Ok(())
}

pub(crate) async fn references_are_counted(rig: &mut impl Rig) -> Ran {
    let node = Node::up(rig).await;
    let first = node.subscribe("a").await;
    let second = node.subscribe("a").await;
    assert_eq!(first, second);
    node.bus.unsubscribe(first);
    rig.backend("a", b"still").await;
    node.heard.wait_count(1).await;
    assert_eq!(node.bus.stats().interests, 1);
    node.bus.unsubscribe(second);
    assert_eq!(node.bus.stats().interests, 0);
    let third = node.subscribe("a").await;
    assert!(third > second, "an id is never used twice");
    Ok(())
}

pub(crate) async fn what_left_is_not_heard(rig: &mut impl Rig) -> Ran {
    let node = Node::up(rig).await;
    let gone = node.subscribe("gone").await;
    node.subscribe("stays").await;
    node.bus.unsubscribe(gone);
    rig.backend("gone", b"wrong").await;
    rig.backend("stays", b"right").await;
    node.heard.wait_count(1).await;
    assert_eq!(node.heard.texts(), ["right"]);
    eventually("the server has forgotten it", async || node.bus.stats().subscriptions == 1).await;
    Ok(())
}

pub(crate) async fn order_is_kept(rig: &mut impl Rig) -> Ran {
    let node = Node::up(rig).await;
    let publisher = Node::up(rig).await;
    node.subscribe("a").await;
    for n in 0..500 {
        publisher.bus.publish(message("a", &n.to_string())).await.unwrap();
    }
    node.heard.wait_count(500).await;
    assert_eq!(node.heard.texts(), (0..500).map(|n| n.to_string()).collect::<Vec<_>>());
    Ok(())
}

pub(crate) async fn order_is_kept_in_batches(rig: &mut impl Rig) -> Ran {
    let node = Node::up(rig).await;
    let publisher = Node::up(rig).await;
    for channel in ["a", "b", "c"] {
        node.subscribe(channel).await;
    }
    let mut batch: Vec<_> = (0..3_000).map(|n| message(["a", "b", "c"][n % 3], &n.to_string())).collect();
    batch.insert(1_000, Publication::raw(Channel::parse("a").unwrap(), vec![0; 64 * 1024 + 1]));
    let results = publisher.bus.publish_all(batch).await;
    assert_eq!(results.len(), 3_001);
    for (at, result) in results.iter().enumerate() {
        if at == 1_000 {
            assert!(matches!(result, Err(PublishError::TooLarge { bytes: 65_537, limit: 65_536 })), "{result:?}");
        } else {
            assert!(result.is_ok(), "{at}: {result:?}");
        }
    }
    node.heard.wait_count(3_000).await;
    for (at, channel) in ["a", "b", "c"].iter().enumerate() {
        let heard: Vec<_> = node.heard.all().into_iter().filter(|one| one.address == *channel).collect();
        let numbers: Vec<usize> =
            heard.iter().map(|one| String::from_utf8_lossy(&one.payload).parse().unwrap()).collect();
        assert_eq!(numbers, (at..3_000).step_by(3).collect::<Vec<_>>(), "{channel}");
    }
    Ok(())
}

pub(crate) async fn payloads_are_opaque(rig: &mut impl Rig) -> Ran {
    let node = Node::up(rig).await;
    node.subscribe("a").await;
    let payloads: [&[u8]; 7] = [
        b"",
        b"\0",
        b"\0{\"id\":\"forged\"}\nx",
        b"\r\n$5\r\n",
        &[0xff, 0xfe, 0, 1],
        b"+OK\r\n",
        "größe 🦀".as_bytes(),
    ];
    for payload in payloads {
        node.bus.publish(Publication::raw(Channel::parse("a").unwrap(), payload.to_vec())).await.unwrap();
    }
    for payload in [&b""[..], &[0xff, b'\r', b'\n', 0]] {
        rig.backend("a", payload).await;
    }
    node.heard.wait_count(9).await;
    let heard: Vec<_> = node.heard.all().into_iter().map(|one| one.payload).collect();
    assert_eq!(heard[..7], payloads.map(<[u8]>::to_vec));
    assert_eq!(heard[7..], [b"".to_vec(), vec![0xff, b'\r', b'\n', 0]]);
    Ok(())
}

pub(crate) async fn large_payloads_pass_and_larger_do_not(rig: &mut impl Rig) -> Ran {
    let node = Node::up(rig).await;
    node.subscribe("a").await;
    let payload = |bytes: usize| (0..bytes).map(|at| (at % 251) as u8).collect::<Vec<_>>();
    let publish = |bytes| node.bus.publish(Publication::raw(Channel::parse("a").unwrap(), payload(bytes)));
    publish(64 * 1024).await.unwrap();
    let refused = publish(64 * 1024 + 1).await;
    assert_eq!(refused, Err(PublishError::TooLarge { bytes: 64 * 1024 + 1, limit: 64 * 1024 }));
    for _ in 0..20 {
        publish(64 * 1024).await.unwrap();
    }
    node.heard.wait_count(21).await;
    assert!(node.heard.all().iter().all(|one| one.payload == payload(64 * 1024)));
    Ok(())
}

pub(crate) async fn too_large_from_a_backend_is_dropped(rig: &mut impl Rig) -> Ran {
    if rig.config().url.kind() == "memory" {
        return Err(Cannot);
    }
    let node = Node::up(rig).await;
    node.subscribe("a").await;
    rig.backend("a", &vec![b'x'; 64 * 1024 + 1]).await;
    rig.backend("a", &vec![b'x'; 600_000]).await;
    rig.backend("a", b"after").await;
    node.heard.wait_count(1).await;
    assert_eq!(node.heard.texts(), ["after"]);
    assert_eq!((node.bus.stats().oversize, node.bus.stats().reconnects), (2, 0));
    Ok(())
}

pub(crate) async fn overlaps_name_their_interests(rig: &mut impl Rig) -> Ran {
    if !rig.patterns() {
        return Err(Cannot);
    }
    let node = Node::up(rig).await;
    let mut interests = BTreeMap::new();
    for interest in ["a/b", "a/*", "a/**", "a/b/**", "a/b/*"] {
        interests.insert(interest, node.subscribe(interest).await);
    }
    for (channel, expected) in [
        ("a", vec!["a/**"]),
        ("a/b", vec!["a/b", "a/b/**", "a/*", "a/**"]),
        ("a/b/c", vec!["a/b/*", "a/b/**", "a/**"]),
        ("a/b/c/d", vec!["a/b/**", "a/**"]),
    ] {
        let before = node.heard.count();
        rig.backend(channel, channel.as_bytes()).await;
        rig.backend("a/b", b"end").await;
        let ends = |all: &[Heard]| {
            all[before..].iter().filter(|one| one.payload == b"end").flat_map(|one| &one.interests).count()
        };
        node.heard.wait(|all| ends(all) == 4).await;
        let all = node.heard.all();
        let copies = all[before..].iter().filter(|one| one.payload == channel.as_bytes());
        let mut named: Vec<_> = copies.flat_map(|one| one.interests.clone()).collect();
        named.sort();
        let mut expected: Vec<_> = expected.iter().map(|interest| interests[interest]).collect();
        expected.sort();
        assert_eq!(named, expected, "each interest is named by one copy of {channel}");
    }
    Ok(())
}

pub(crate) async fn names_full_of_glob_characters(rig: &mut impl Rig) -> Ran {
    let node = Node::up(rig).await;
    let names = ["a?b", "a[bc]", "a\\b", "^x$", "a.b", "a b", "größe/🦀", "%41", "x[^y]/?", "$SYS", "a:b"];
    for name in names {
        node.subscribe(name).await;
        if rig.patterns() {
            node.subscribe(&format!("{name}/*")).await;
        }
    }
    let below = if rig.patterns() { 2 } else { 1 };
    for name in names {
        node.publish(name, name).await;
        node.publish(&format!("{name}/c"), &format!("{name}/c")).await;
    }
    // What a glob would match and these names do not.
    for wrong in ["axb", "ab", "ac", "AB", "xz/q", "A"] {
        node.publish(wrong, "wrong").await;
        node.publish(&format!("{wrong}/c"), "wrong").await;
    }
    node.publish(names[0], "end").await;
    node.heard.wait(|all| all.iter().any(|one| one.payload == b"end")).await;
    node.heard.wait_count(names.len() * below + 1).await;
    let all = node.heard.all();
    assert_eq!(all.len(), names.len() * below + 1, "{all:?}");
    assert!(all.iter().all(|one| one.payload == b"end" || one.payload == one.address.as_bytes()), "{all:?}");
    Ok(())
}

pub(crate) async fn envelopes_carry_tags(rig: &mut impl Rig) -> Ran {
    let node = Node::up(rig).await;
    node.subscribe("a").await;
    let tags: BTreeMap<_, _> = [("kind".to_owned(), "paid \"ä\"\n".to_owned())].into();
    let meta = Meta { tags: tags.clone(), time: Some(5), ..Meta::default() };
    let message = Message { meta: Some(Arc::new(meta)), ..Message::raw("x\ny") };
    let address = Channel::parse("a").unwrap().into();
    node.bus.publish(Publication { address, message }).await.unwrap();
    rig.backend("a", b"raw").await;
    node.heard.wait_count(2).await;
    let all = node.heard.all();
    assert_eq!((&all[0].payload[..], &all[0].tags), (&b"x\ny"[..], &tags));
    assert!(all[1].tags.is_empty());
    Ok(())
}

pub(crate) async fn names_of_others_are_not_heard(rig: &mut impl Rig) -> Ran {
    let node = Node::up(rig).await;
    let other = BusConfig { prefix: clarion_protocol::Prefix::parse("other").unwrap(), ..rig.config() };
    let other = Node::with(rig, other).await;
    node.subscribe("a").await;
    other.subscribe("a").await;
    if rig.config().url.kind() == "memory" {
        return Err(Cannot);
    }
    other.publish("a", "theirs").await;
    other.heard.wait_count(1).await;
    node.publish("a", "ours").await;
    node.heard.wait_count(1).await;
    assert_eq!(node.heard.texts(), ["ours"]);
    Ok(())
}

pub(crate) async fn an_id_travels_with_each_message(rig: &mut impl Rig) -> Ran {
    let node = Node::up(rig).await;
    let publisher = Node::up(rig).await;
    node.subscribe("a").await;
    let one = publisher.bus.publish(message("a", "one")).await.unwrap();
    let own = MessageId::parse("own:7").unwrap();
    let mut named = message("a", "named");
    named.message.id = Some(own.clone());
    let many = publisher.bus.publish_all(vec![named, message("a", "many")]).await;
    let many: Vec<_> = many.into_iter().map(|receipt| receipt.unwrap()).collect();
    assert_eq!(many[0].id, own);
    assert!(many.iter().chain([&one]).all(|receipt| receipt.position.is_none()), "nothing is kept");
    rig.backend("a", b"raw").await;
    node.heard.wait_count(4).await;
    let heard: Vec<_> = node.heard.all().into_iter().map(|one| one.id).collect();
    assert_eq!(heard[..3], [Some(one.id), Some(own), Some(many[1].id.clone())]);
    // Within a process a backend is a node.
    assert_eq!(heard[3].is_some(), rig.config().url.kind() == "memory");
    Ok(())
}

pub(crate) async fn questions_are_answered(rig: &mut impl Rig) -> Ran {
    let subject = InternalName::parse("control").unwrap();
    let name = |name: &str| NodeName::parse(name).unwrap();
    let asker = Node::up(rig).await;
    let mut answering = Vec::new();
    for answerer in ["b", "c"] {
        let node = Node::up(rig).await;
        within("control", node.bus.subscribe(&subject.clone().into())).await.unwrap();
        answering.push(tokio::spawn(async move {
            for asked in 1.. {
                node.heard.wait_count(asked).await;
                let question = Question::read(&node.heard.all()[asked - 1].payload.clone().into()).unwrap();
                let answer = [answerer.as_bytes(), b" \n\xff ", &question.payload].concat();
                node.bus.answer(&question.reply, &name(answerer), &answer).await.unwrap();
            }
        }));
    }
    let expected: BTreeSet<_> = ["b", "c"].map(name).into();
    let (bus, patience) = (asker.bus.clone(), Duration::from_secs(20));
    // Many at once, and none gets another's answers.
    let ask = |n: usize| bus.ask(&subject, format!("question {n}").into(), patience, &expected);
    let all = within("answers", futures_util::future::join_all((0..50).map(ask))).await;
    for (n, answers) in all.into_iter().enumerate() {
        let answer = |from: &str| [from.as_bytes(), b" \n\xff ", format!("question {n}").as_bytes()].concat().into();
        let given = ["b", "c"].map(|from| (name(from), answer(from))).into();
        assert_eq!(answers, Ok(Answers { given, silent: BTreeSet::new() }));
    }
    // Whoever is silent is waited for as long as was said, and named.
    let more: BTreeSet<_> = ["b", "c", "nobody"].map(name).into();
    let answers = asker.bus.ask(&subject, "?".into(), Duration::from_millis(300), &more).await.unwrap();
    assert!(answers.silent.contains(&name("nobody")), "{answers:?}");
    assert_eq!(asker.heard.count(), 0, "answers are for whoever asked alone");
    answering.iter().for_each(tokio::task::JoinHandle::abort);
    Ok(())
}
