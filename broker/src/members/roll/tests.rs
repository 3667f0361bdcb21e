//! Who is here after which heartbeats and silences.

use super::*;

const GONE: Duration = Duration::from_millis(3_500);

fn at(start: Instant, millis: u64) -> Instant {
    start + Duration::from_millis(millis)
}

fn roll(start: Instant) -> Roll {
    let patience = Patience {
        gone: GONE,
        deaf: Duration::from_millis(2_500),
        grace: Duration::from_secs(10),
        disagree: Duration::from_secs(5),
    };
    Roll::new(NodeName::parse("me").unwrap(), "my-instance".to_owned(), patience, start)
}

fn heartbeat(node: &str, instance: &str) -> Heartbeat {
    let json = format!(r#"{{"node":"{node}","instance":"{instance}","weight":1,"ring":"r"}}"#);
    serde_json::from_str(&json).unwrap()
}

fn goodbye(node: &str, instance: &str) -> Heartbeat {
    Heartbeat { leaving: true, ..heartbeat(node, instance) }
}

fn names(roll: &Roll) -> Vec<&str> {
    roll.others().map(|peer| peer.node.as_str()).collect()
}

/// This node and those named are heard once a second from `from` to `to`, and silence is judged twice a second.
fn live(roll: &mut Roll, start: Instant, seconds: std::ops::Range<u64>, who: &[&str]) -> Vec<NodeName> {
    let mut gone = Vec::new();
    for second in seconds {
        roll.hear(heartbeat("me", "my-instance"), at(start, second * 1_000));
        for node in who {
            roll.hear(heartbeat(node, node), at(start, second * 1_000));
        }
        gone.extend(roll.sweep(true, at(start, second * 1_000 + 250)));
        gone.extend(roll.sweep(true, at(start, second * 1_000 + 750)));
    }
    gone
}

#[test]
fn three_missed_heartbeats_are_a_death() {
    let start = Instant::now();
    let mut roll = roll(start);
    assert_eq!(live(&mut roll, start, 0..3, &["a", "b"]), []);
    assert_eq!(live(&mut roll, start, 3..5, &["a"]), [], "b was heard at 2 and may be heard until 5.5");
    assert_eq!(live(&mut roll, start, 5..6, &["a"]), [NodeName::parse("b").unwrap()]);
    assert_eq!(names(&roll), ["a"]);
}

#[test]
fn goodbye_holds_for_the_process_that_said_it() {
    let now = Instant::now();
    let mut roll = roll(now);
    assert_eq!(roll.hear(heartbeat("a", "1"), now), Heard::Joined);
    assert_eq!(roll.hear(heartbeat("a", "1"), now), Heard::Known);
    assert_eq!(roll.hear(heartbeat("a", "2"), now), Heard::Joined);
    assert_eq!(roll.hear(goodbye("a", "1"), now), Heard::Known);
    assert_eq!(names(&roll), ["a"]);
    assert_eq!(roll.hear(goodbye("a", "2"), now), Heard::Left);
    assert_eq!(names(&roll), [] as [&str; 0]);
    assert_eq!(roll.hear(goodbye("me", "before"), now), Heard::Known, "whoever leaves takes no name");
}

#[test]
fn another_process_with_my_name_is_a_clash() {
    let now = Instant::now();
    let mut roll = roll(now);
    assert_eq!(roll.hear(heartbeat("me", "my-instance"), now), Heard::Known);
    assert_eq!(roll.hear(heartbeat("me", "other"), now), Heard::Clash { instance: "other".to_owned() });
}

#[test]
fn a_weight_that_makes_no_ring_makes_no_member() {
    let now = Instant::now();
    let mut roll = roll(now);
    for weight in [0, 101, u16::MAX] {
        assert_eq!(roll.hear(Heartbeat { weight, ..heartbeat("a", "1") }, now), Heard::Unreadable);
    }
    assert_eq!(names(&roll), [] as [&str; 0]);
}

#[test]
fn who_is_deaf_throws_nobody_out() {
    let start = Instant::now();
    for linked in [true, false] {
        let mut roll = roll(start);
        live(&mut roll, start, 0..3, &["a", "b"]);
        // A minute without a word, whether the link says that it is down or pretends that it is up.
        for second in 5..60 {
            assert_eq!(roll.sweep(linked, at(start, second * 1_000)), []);
            assert!(roll.deaf());
        }
        // Heartbeats flow again, first one's own: the others have their time to come back, and no more than that.
        assert_eq!(live(&mut roll, start, 60..69, &[]), []);
        let gone = live(&mut roll, start, 69..72, &["a"]);
        assert_eq!(gone, [NodeName::parse("b").unwrap()]);
    }
}

#[test]
fn after_a_pause_of_this_process_nobody_is_missed() {
    let start = Instant::now();
    let mut roll = roll(start);
    live(&mut roll, start, 0..3, &["a", "b"]);
    // Stopped for a minute and continued; what was said meanwhile is still on its way.
    assert_eq!(roll.sweep(true, at(start, 63_000)), []);
    assert_eq!(live(&mut roll, start, 63..80, &["a", "b"]), []);
}

#[test]
fn disagreement_is_what_lasts() {
    let start = Instant::now();
    let mut roll = roll(start);
    let seen = |roll: &mut Roll, mine: &str, second: u64| roll.disagreeing(mine, at(start, second * 1_000)).len();
    roll.hear(heartbeat("a", "1"), start);
    assert_eq!(seen(&mut roll, "r", 0), 0);
    assert_eq!(seen(&mut roll, "mine", 1), 0);
    assert_eq!(seen(&mut roll, "mine", 6), 0);
    assert_eq!(seen(&mut roll, "mine", 7), 1);
    roll.hear(heartbeat("a", "1"), at(start, 7_000));
    assert_eq!(seen(&mut roll, "mine", 8), 1, "another heartbeat of the same does not begin anew");
    assert_eq!(seen(&mut roll, "r", 9), 0);
    assert_eq!(seen(&mut roll, "mine", 14), 0, "agreeing in between does");
}
