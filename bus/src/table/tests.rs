//! What the table asks of a server, step by step.

use clarion_protocol::{Interest, InternalName, Prefix};

use super::{lookup::key, *};

fn table(layout: Layout) -> Table {
    Table::new(layout, Prefix::default())
}

fn refused(why: &str) -> SubscribeError {
    SubscribeError::Refused(why.to_owned())
}

fn topic(text: &str) -> Topic {
    Interest::parse(text).unwrap().into()
}

/// Takes an interest and lets the server acknowledge all that it needs.
fn hold(table: &mut Table, text: &str) -> InterestId {
    let (id, _) = table.acquire(&topic(text)).unwrap();
    serve(table);
    assert!(table.stands(slot_of(id.0)), "{text}");
    id
}

/// Acknowledges all that is asked for; returns it as text, what is left with a minus.
fn serve(table: &mut Table) -> Vec<String> {
    let work = table.take(0, usize::MAX);
    let text = |sign: &str, order: &Order| format!("{sign}{}:{:?}", key(&order.base).1, order.reach);
    let mut all: Vec<_> = work.leave.iter().map(|order| text("-", order)).collect();
    all.extend(work.join.iter().map(|order| text("", order)));
    for order in work.join {
        table.stood(order.ticket);
    }
    all
}

#[test]
fn interests_become_the_parts_of_their_bus() {
    for (layout, interest, parts) in [
        (Layout::Redis, "a", vec!["a:Exact"]),
        (Layout::Redis, "a/*", vec!["a:Below"]),
        (Layout::Redis, "a/**", vec!["a:Exact", "a:Below"]),
        (Layout::Nats, "a", vec!["a:Exact"]),
        (Layout::Nats, "a/*", vec!["a:Children"]),
        (Layout::Nats, "a/**", vec!["a:Exact", "a:Below"]),
    ] {
        let mut table = table(layout);
        table.acquire(&topic(interest)).unwrap();
        assert_eq!(serve(&mut table), parts, "{layout:?} {interest}");
    }
}

#[test]
fn a_part_serves_all_interests_that_need_it() {
    let mut table = table(Layout::Redis);
    let [exact, children, subtree] = ["a", "a/*", "a/**"].map(|text| hold(&mut table, text));
    assert_eq!((table.interests(), table.standing()), (3, 2));
    assert_eq!(table.exact(b"a").unwrap().1.as_slice(), [exact, subtree]);
    assert_eq!(table.below(b"a", "a/b").unwrap().as_slice(), [children, subtree]);
    assert_eq!(table.below(b"a", "a/b/c").unwrap().as_slice(), [subtree]);
    table.release(subtree);
    assert_eq!(serve(&mut table), Vec::<String>::new(), "both parts have another interest");
    table.release(exact);
    table.release(children);
    assert_eq!(serve(&mut table), ["-a:Exact", "-a:Below"]);
    assert_eq!((table.interests(), table.standing(), table.has_patterns()), (0, 0, false));
}

#[test]
fn references_are_counted_and_ids_never_come_twice() {
    let mut table = table(Layout::Redis);
    let first = hold(&mut table, "a");
    assert_eq!(hold(&mut table, "a"), first);
    table.release(first);
    assert!(table.exact(b"a").is_some());
    table.release(first);
    assert!(table.exact(b"a").is_none());
    table.release(first);
    let second = hold(&mut table, "a");
    assert!(second > first);
    table.release(first);
    assert!(table.exact(b"a").is_some(), "an old id releases nothing");
}

#[test]
fn a_late_acknowledgement_is_not_taken_for_a_new_one() {
    let mut table = table(Layout::Redis);
    let (id, _) = table.acquire(&topic("a")).unwrap();
    let old = table.take(0, 10).join[0].ticket;
    table.release(id);
    let (again, mut wait) = table.acquire(&topic("a")).unwrap();
    table.stood(old);
    assert!(!table.stands(slot_of(again.0)), "the acknowledgement was for the attempt before");
    let work = table.take(0, 10);
    assert_eq!((work.leave.len(), work.join.len()), (1, 1), "leave first, then join");
    assert_eq!(work.leave[0].ticket, old);
    table.stood(work.join[0].ticket);
    assert_eq!(wait.as_mut().unwrap().try_recv(), Ok(Ok(())));
}

#[test]
fn what_was_never_asked_for_is_not_given_up() {
    let mut table = table(Layout::Redis);
    let (id, _) = table.acquire(&topic("a/**")).unwrap();
    table.release(id);
    assert!(table.take(0, 10).is_empty());
}

#[test]
fn a_subtree_stands_when_both_parts_do() {
    let mut table = table(Layout::Nats);
    let (_, wait) = table.acquire(&topic("a/**")).unwrap();
    let mut wait = wait.unwrap();
    let work = table.take(0, 10);
    table.stood(work.join[0].ticket);
    assert!(wait.try_recv().is_err());
    table.stood(work.join[1].ticket);
    assert_eq!(wait.try_recv(), Ok(Ok(())));
}

#[test]
fn a_refusal_reaches_those_who_wait_and_is_tried_again_for_those_who_hold() {
    let mut table = table(Layout::Redis);
    let (id, wait) = table.acquire(&topic("a/**")).unwrap();
    let work = table.take(0, 10);
    assert!(!table.refuse(work.join[1].ticket, &refused("no")));
    assert_eq!(wait.unwrap().try_recv(), Ok(Err(refused("no"))));
    table.release(id);
    assert_eq!((table.refused(), table.interests()), (0, 0));
    serve(&mut table);

    hold(&mut table, "b");
    table.lost(0);
    let ticket = table.take(0, 10).join[0].ticket;
    assert!(table.refuse(ticket, &refused("no longer")));
    assert_eq!((table.resuming(0), table.refused()), (0, 1));
    assert_eq!(table.retry_refused(), 1);
    let again = table.take(0, 10).join[0].ticket;
    assert!(table.stood(again), "what was published meanwhile is missing");
    assert_eq!(table.refused(), 0);
}

#[test]
fn everything_is_asked_for_anew_after_a_loss_in_bounded_portions() {
    let mut table = table(Layout::Redis);
    for n in 0..25 {
        hold(&mut table, &format!("c/{n}"));
    }
    let (_, wait) = table.acquire(&topic("new")).unwrap();
    table.take(0, 10);
    table.lost(0);
    assert_eq!((table.resuming(0), table.standing()), (25, 0));
    let mut sizes = Vec::new();
    loop {
        let work = table.take(0, 10);
        if work.is_empty() {
            break;
        }
        sizes.push(work.join.len());
        for order in work.join {
            table.stood(order.ticket);
        }
    }
    assert_eq!(sizes, [10, 10, 6]);
    assert_eq!((table.resuming(0), table.standing()), (0, 26));
    assert_eq!(wait.unwrap().try_recv(), Ok(Ok(())));
}

#[test]
fn coming_and_going_while_the_link_is_down_costs_no_memory() {
    let mut table = table(Layout::Redis);
    for _ in 0..10_000 {
        let (id, _) = table.acquire(&topic("a")).unwrap();
        table.release(id);
    }
    assert!(table.lanes[0].wanted.len() < 2_000 && table.waiting.is_empty() && table.parts.all.len() == 1);
}

#[test]
fn a_shards_channels_move_with_their_slot() {
    let mut table = table(Layout::Sharded);
    let slot = |name: &str| usize::from(redis_protocol::redis_keyslot(format!("clarion:{name}").as_bytes()));
    assert!(matches!(table.acquire(&topic("a/*")), Err(SubscribeError::Refused(_))));
    let (_, wait) = table.acquire(&topic("a")).unwrap();
    assert!(table.take(0, 10).is_empty(), "no shard is known yet");
    let mut routes = vec![0; 16_384];
    table.reroute(1, routes.clone());
    assert_eq!(serve(&mut table), ["a:Exact"]);
    assert_eq!(wait.unwrap().try_recv(), Ok(Ok(())));
    routes[slot("a")] = 1;
    table.reroute(2, routes);
    assert_eq!((table.resuming(0), table.resuming(1)), (0, 1));
    let work = table.take(1, 10);
    table.stood(work.join[0].ticket);
    assert_eq!((table.resuming(1), table.standing()), (0, 1));
    assert_eq!(table.take(0, 10).leave.len(), 1);
}

#[test]
fn tickets_survive_as_numbers() {
    let ticket = Ticket { slot: 0x00ab_cdef, attempt: u32::MAX };
    assert_eq!(Ticket::of_number(ticket.number()), ticket);
}

#[test]
fn internal_subjects_are_apart_from_channels() {
    let mut table = table(Layout::Redis);
    table.acquire(&InternalName::parse("members").unwrap().into()).unwrap();
    serve(&mut table);
    assert!(table.exact(b"members").is_none() && table.internal(b"members").is_some());
}

#[test]
fn an_exact_interest_is_small() {
    assert_eq!((size_of::<Option<Record>>(), size_of::<Option<Part>>()), (40, 20));
}

/// What [`Layout::Crowds`] carries by one pattern.
pub(super) fn crowd_of(base: &Address) -> Option<Address> {
    let below = matches!(base, Address::Channel(channel) if channel.as_str().starts_with("crowd/"));
    below.then(|| clarion_protocol::Channel::parse("crowd").unwrap().into())
}

#[test]
fn one_wildcard_carries_thousands_of_interests() {
    let mut table = table(Layout::Crowds);
    let mut waits = Vec::new();
    for n in 0..10_000 {
        waits.push(table.acquire(&topic(&format!("crowd/{n}"))).unwrap());
    }
    let (alone, _) = table.acquire(&topic("alone")).unwrap();
    assert_eq!(serve(&mut table), ["crowd:Below", "alone:Exact"], "one subscription for all of them");
    assert!(waits.iter_mut().all(|(_, wait)| wait.as_mut().unwrap().try_recv() == Ok(Ok(()))));
    assert_eq!((table.interests(), table.standing()), (10_001, 2));
    // Each gets its own, and a name that nobody asked for is for nobody.
    assert_eq!(table.below(b"crowd", "crowd/77").unwrap().as_slice(), [waits[77].0]);
    assert_eq!(table.below(b"crowd", "crowd/x"), None);
    assert!(table.exact(b"crowd/77").is_none(), "no subscription of its own brings anything");
    // Who asks for the same pattern as such has another part.
    let pattern = hold(&mut table, "crowd/*");
    assert_eq!(table.below(b"crowd", "crowd/77").unwrap().as_slice(), [waits[77].0, pattern]);
    table.release(pattern);
    serve(&mut table);

    table.lost(0);
    assert_eq!((table.resuming(0), table.standing()), (2, 0));
    serve(&mut table);
    let missed = table.missed(0);
    assert!(missed.len() == 10_001 && missed.contains(&waits[9_999].0) && missed.contains(&alone));
    for (id, _) in &waits[1..] {
        table.release(*id);
    }
    assert_eq!(serve(&mut table), Vec::<String>::new(), "it stays for the last one");
    table.release(waits[0].0);
    assert_eq!(serve(&mut table), ["-crowd:Below"]);
    assert!(table.below(b"crowd", "crowd/77").is_none() && table.crowds.is_empty() && table.crowd_parts.is_empty());
}

#[tokio::test]
async fn a_dropped_call_leaves_no_reference() {
    let interests = Interests::new(Layout::Redis, Prefix::default());
    let topic = topic("a");
    let call = interests.subscribe(&topic);
    assert!(tokio::time::timeout(std::time::Duration::from_millis(1), call).await.is_err());
    assert_eq!(interests.lock().interests(), 0);
    let answered = async {
        let work = interests.lock().take(0, 10);
        for order in work.join {
            interests.lock().stood(order.ticket);
        }
    };
    let (id, ()) = tokio::join!(interests.subscribe(&topic), answered);
    interests.unsubscribe(id.unwrap());
    assert_eq!(interests.lock().interests(), 0);
    interests.lock().close();
    assert_eq!(interests.subscribe(&topic).await, Err(SubscribeError::Closed));
}
