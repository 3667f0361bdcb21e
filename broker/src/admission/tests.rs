//! The ledger's promises: no limit is passed, a refusal leaves no trace, and what is taken comes back.

use proptest::prelude::*;

use super::*;

fn admission(config: &Config) -> Arc<Admission> {
    Admission::new(config, &Registry::new()).unwrap()
}

fn limit(limit: u32) -> Option<NonZeroU32> {
    NonZeroU32::new(limit)
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn interests(texts: &[&str]) -> Vec<Interest> {
    texts.iter().map(|text| Interest::parse(text).unwrap()).collect()
}

const NOTHING: [usize; 7] = [0; 7];

#[test]
fn nothing_is_limited_unless_it_is_set() {
    let admission = admission(&Config::default());
    let (user, news) = (Uid::parse("42").unwrap(), interests(&["news"]));
    let enter = |_| admission.enter(Some(&user), ip("10.0.0.1"), &news).unwrap();
    let permits: Vec<Permit> = (0..1000).map(enter).collect();
    assert_eq!(admission.ledger.sums(), [1000, 0, 0, 0, 0, 0, 0], "only how many there are is known");
    drop(permits);
    assert!((0..1000).all(|_| admission.accept().is_ok()));
    assert!((0..1000).all(|_| admission.handshake(ip("10.0.0.1")).is_ok()));
    assert!((0..1000).all(|_| admission.publish_up(&mut Pace::default(), Some(&user)).is_zero()));
    assert_eq!(admission.ledger.sums(), NOTHING);
}

#[test]
fn a_permit_gives_its_place_back() {
    let config = Config { connections: limit(3), per_user: limit(2), per_address: limit(2), ..Config::default() };
    let admission = admission(&config);
    let (a, b) = (Uid::parse("a").unwrap(), Uid::parse("b").unwrap());
    let enter = |user, address| admission.enter(user, ip(address), &[]);
    let first = enter(Some(&a), "10.0.0.1").unwrap();
    let second = enter(Some(&a), "10.0.0.2").unwrap();
    assert_eq!(enter(Some(&a), "10.0.0.3").err(), Some(TooMany::User));
    let third = enter(None, "::ffff:10.0.0.1").unwrap();
    assert_eq!(enter(Some(&b), "10.0.0.4").err(), Some(TooMany::Node));
    drop(second);
    assert_eq!(enter(Some(&b), "10.0.0.1").err(), Some(TooMany::Address));
    let fourth = enter(Some(&b), "10.0.0.2").unwrap();
    let place = third.into_place();
    assert_eq!(admission.ledger.sums()[0], 3, "the place is given back by whoever has it now");
    drop((place, first, fourth));
    assert_eq!(admission.ledger.sums(), NOTHING);
}

/// A hub lets the place go with its goodbye, while the client is still waited for.
#[test]
fn a_user_may_come_again_while_his_last_goodbye_is_on_its_way() {
    let admission = admission(&Config { per_user: limit(1), ..Config::default() });
    let user = Uid::parse("42").unwrap();
    let place = admission.enter(Some(&user), ip("10.0.0.1"), &interests(&["a/**"])).unwrap().into_place();
    assert_eq!(admission.enter(Some(&user), ip("10.0.0.1"), &[]).err(), Some(TooMany::User));
    drop(place);
    assert_eq!(admission.ledger.sums(), NOTHING);
    let _again = admission.enter(Some(&user), ip("10.0.0.1"), &[]).expect("the place was given back");
}

#[test]
fn a_connection_that_is_carried_is_one_here() {
    let config = Config { connections: limit(2), per_address: limit(2), ..Config::default() };
    let admission = admission(&config);
    let carried = admission.carry(None, ip("10.0.0.1")).unwrap();
    let _own = admission.enter(None, ip("10.0.0.2"), &[]).unwrap();
    assert_eq!(admission.ledger.sums()[..2], [2, 1]);
    assert_eq!(admission.carry(None, ip("10.0.0.3")).err(), Some(TooMany::Node));
    assert_eq!(admission.enter(None, ip("10.0.0.3"), &[]).err(), Some(TooMany::Node));
    drop(carried);
    assert_eq!(admission.ledger.sums()[..2], [1, 0]);
    assert!(admission.enter(None, ip("10.0.0.3"), &[]).is_ok());
}

#[test]
fn ipv6_counts_by_what_one_customer_has() {
    let admission = admission(&Config { per_address: limit(1), handshakes_per_address: limit(1), ..Config::default() });
    let _held = admission.enter(None, ip("2001:db8:1:2::1"), &[]).unwrap();
    assert_eq!(admission.enter(None, ip("2001:db8:1:2:ffff::2"), &[]).err(), Some(TooMany::Address));
    assert!(admission.enter(None, ip("2001:db8:1:3::1"), &[]).is_ok());
    assert!(admission.handshake(ip("2001:db8:1:2::1")).is_ok());
    assert!(admission.handshake(ip("2001:db8:1:2::2")).is_err());
}

#[test]
fn clients_that_hear_the_same_weigh_no_more_than_one() {
    let config = Config { patterns: limit(2), patterns_per_address: limit(1), ..Config::default() };
    let admission = admission(&config);
    let enter = |address, texts: &[&str]| admission.enter(None, ip(address), &interests(texts));
    let same: Vec<_> = (0..50).map(|_| enter("10.0.0.1", &["orders/**", "news"]).unwrap()).collect();
    assert_eq!(admission.ledger.heard_by(ip("10.0.0.1")), (0, 1), "a channel has no limit here");
    assert_eq!(enter("10.0.0.1", &["ops/*"]).err(), Some(TooMany::PatternsOfAddress));
    let other = enter("10.0.0.2", &["ops/*"]).unwrap();
    assert_eq!(enter("10.0.0.3", &["a/*"]).err(), Some(TooMany::PatternsOfNode));
    let late = enter("10.0.0.3", &["orders/**"]).expect("the node hears that one anyhow");
    drop((same, other));
    assert_eq!(admission.ledger.sums()[5..], [1, 1]);
    drop(late);
    assert_eq!(admission.ledger.sums(), NOTHING);
}

#[test]
fn a_connection_has_bounds_of_its_own() {
    let config = Config { channels_per_connection: limit(3), patterns_per_connection: limit(1), ..Config::default() };
    let admission = admission(&config);
    let join = |channels, patterns, texts: &[&str]| {
        admission.join(ip("10.0.0.1"), Tally { channels, patterns }, &interests(texts)).map(|_| ())
    };
    assert_eq!(join(0, 0, &["a", "b", "c/*"]), Ok(()));
    assert_eq!(join(0, 0, &["a", "b", "c", "d"]), Err(TooMany::ChannelsOfConnection));
    assert_eq!(join(2, 0, &["a", "b"]), Err(TooMany::ChannelsOfConnection));
    assert_eq!(join(0, 0, &["a/*", "b/*"]), Err(TooMany::PatternsOfConnection));
    assert_eq!(join(1, 1, &["b/*"]), Err(TooMany::PatternsOfConnection));
    assert_eq!(join(2, 1, &["b"]), Ok(()));
}

#[test]
fn every_refusal_says_where_its_limit_is_set() {
    let retry_after = SECOND;
    for error in [
        TooMany::Rate { retry_after },
        TooMany::Handshakes { retry_after },
        TooMany::Failures { retry_after },
        TooMany::PublishesOfConnection { retry_after },
        TooMany::PublishesOfUser { retry_after },
        TooMany::Node,
        TooMany::User,
        TooMany::Address,
        TooMany::ChannelsOfConnection,
        TooMany::ChannelsOfAddress,
        TooMany::ChannelsOfNode,
        TooMany::PatternsOfConnection,
        TooMany::PatternsOfAddress,
        TooMany::PatternsOfNode,
    ] {
        assert!(error.to_string().contains(&format!("`limits.{}`", error.limit())), "{error}");
        assert_eq!(error.retry_after().is_some(), matches!(error.code(), "too_fast" | "rate_limit"), "{error}");
    }
}

#[tokio::test(start_paused = true)]
async fn accepts_come_at_their_rate() {
    let admission = admission(&Config { accepts_per_second: limit(10), ..Config::default() });
    assert!((0..10).all(|_| admission.accept().is_ok()));
    let Err(TooMany::Rate { retry_after }) = admission.accept() else { panic!("one too many was taken") };
    assert!(retry_after > Duration::ZERO && retry_after <= Duration::from_millis(100), "{retry_after:?}");
    tokio::time::advance(retry_after).await;
    assert!(admission.accept().is_ok());
    assert!(admission.accept().is_err());
    tokio::time::advance(Duration::from_secs(3600)).await;
    assert!((0..10).all(|_| admission.accept().is_ok()), "a quiet hour gives one second's worth");
    assert!(admission.accept().is_err());
}

#[tokio::test(start_paused = true)]
async fn bad_tokens_are_counted_for_each_address() {
    let admission = admission(&Config { failures_per_address: limit(3), ..Config::default() });
    let (guesser, other) = (ip("10.0.0.1"), ip("10.0.0.2"));
    for _ in 0..3 {
        assert_eq!(admission.may_try(guesser), Ok(()), "whoever asks has failed at nothing yet");
        admission.failed(guesser);
    }
    let Err(TooMany::Failures { retry_after }) = admission.may_try(guesser) else { panic!("it may still try") };
    assert!(retry_after <= Duration::from_secs(20), "{retry_after:?}");
    assert_eq!(admission.may_try(other), Ok(()));
    tokio::time::advance(retry_after).await;
    assert_eq!(admission.may_try(guesser), Ok(()));
}

#[tokio::test(start_paused = true)]
async fn publishing_has_a_pace_for_each_connection_and_for_each_user() {
    let config = Config { publishes_per_connection: limit(2), publishes_per_user: limit(3), ..Config::default() };
    let admission = admission(&config);
    let user = Uid::parse("42").unwrap();
    let (mut phone, mut desk, mut stranger) = (Pace::default(), Pace::default(), Pace::default());
    assert!((0..2).all(|_| admission.publish_up(&mut phone, Some(&user)).is_zero()));
    let wait = admission.publish_up(&mut phone, Some(&user));
    assert!(!wait.is_zero(), "the connection has to wait");
    let longer = admission.publish_up(&mut phone, Some(&user));
    assert!(longer > wait, "what waits is taken all the same, so the next one waits longer");
    assert!(!admission.publish_up(&mut desk, Some(&user)).is_zero(), "the user has to wait on another connection too");
    assert!(matches!(admission.publish(Some(&user)), Err(TooMany::PublishesOfUser { .. })));
    assert!((0..2).all(|_| admission.publish_up(&mut stranger, None).is_zero()));
    tokio::time::advance(Duration::from_secs(60)).await;
    assert!(admission.publish_up(&mut phone, Some(&user)).is_zero());
}

/// What clients do to the ledger.
#[derive(Debug, Clone)]
enum Act {
    /// A connection comes, to be carried or not, and hears these.
    Enter { user: Option<u8>, address: u8, carried: bool, hears: Vec<u8> },
    /// One that is there hears one more.
    Join { which: usize, hears: u8 },
    /// One goes: its permit is dropped, or was handed over before.
    Leave { which: usize, handed_over: bool },
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let enter = (proptest::option::of(0..3_u8), 0..3_u8, any::<bool>(), proptest::collection::vec(0..8_u8, 0..4))
        .prop_map(|(user, address, carried, hears)| Act::Enter { user, address, carried, hears });
    let join = (any::<usize>(), 0..8_u8).prop_map(|(which, hears)| Act::Join { which, hears });
    let leave = (any::<usize>(), any::<bool>()).prop_map(|(which, handed_over)| Act::Leave { which, handed_over });
    proptest::collection::vec(prop_oneof![3 => enter, 2 => join, 2 => leave], 0..80)
}

/// Half of the names are patterns.
fn interest(number: u8) -> Interest {
    let text = if number.is_multiple_of(2) { format!("c/{number}") } else { format!("p/{number}/**") };
    Interest::parse(&text).unwrap()
}

/// A connection as a test keeps it, with what the ledger ought to know of it.
struct Held {
    permit: Permit,
    carried: bool,
    more: Vec<Seats>,
    tally: Tally,
}

fn config_of(limits: [u32; 10]) -> Config {
    let [connections, per_user, per_address, a, b, c, d, e, f, _] = limits.map(limit);
    Config {
        connections,
        per_user,
        per_address,
        channels_per_connection: a,
        channels_per_address: b,
        channels: c,
        patterns_per_connection: d,
        patterns_per_address: e,
        patterns: f,
        ..Config::default()
    }
}

/// Does one thing, if it is not refused.
fn act(admission: &Admission, held: &mut Vec<Held>, act: Act) {
    match act {
        Act::Enter { user, address, carried, hears } => {
            let user = user.map(|user| Uid::parse(&user.to_string()).unwrap());
            let address = IpAddr::from([10, 0, 0, address]);
            let hears: Vec<Interest> = hears.into_iter().map(interest).collect();
            let before = admission.ledger.sums();
            let permit = if carried {
                admission.carry(user.as_ref(), address)
            } else {
                admission.enter(user.as_ref(), address, &hears)
            };
            match permit {
                Ok(permit) => {
                    let patterns = hears.iter().filter(|interest| interest.as_channel().is_none()).count();
                    let tally = if carried { Tally::default() } else { Tally { channels: hears.len(), patterns } };
                    held.push(Held { permit, carried, more: Vec::new(), tally });
                }
                Err(_) => assert_eq!(admission.ledger.sums(), before, "a refusal leaves no trace"),
            }
        }
        Act::Join { which, hears } if !held.is_empty() => {
            let which = which % held.len();
            let (held, hears) = (&mut held[which], [interest(hears)]);
            let before = admission.ledger.sums();
            match admission.join(ip("10.0.0.1"), held.tally, &hears) {
                Ok(seats) => {
                    held.tally.channels += 1;
                    held.tally.patterns += usize::from(hears[0].as_channel().is_none());
                    held.more.extend(seats);
                }
                Err(_) => assert_eq!(admission.ledger.sums(), before, "a refusal leaves no trace"),
            }
        }
        Act::Leave { which, handed_over } if !held.is_empty() => {
            let gone = held.swap_remove(which % held.len());
            if handed_over && !gone.carried {
                drop(gone.permit.into_place());
            }
        }
        Act::Join { .. } | Act::Leave { .. } => {}
    }
}

proptest! {
    #[test]
    fn the_ledger_holds_its_limits_and_returns_to_zero(
        limits in prop::array::uniform10(0..5_u32),
        all in acts(),
    ) {
        let admission = admission(&config_of(limits));
        let mut held = Vec::new();
        for one in all {
            act(&admission, &mut held, one);
            let [connections, carried, .., channels, patterns, _] = admission.ledger.sums();
            prop_assert_eq!(connections, held.len());
            prop_assert_eq!(carried, held.iter().filter(|held| held.carried).count());
            for (used, limit) in [(connections, limits[0]), (channels, limits[5]), (patterns, limits[8])] {
                prop_assert!(limit == 0 || used <= limit as usize, "{} of {}", used, limit);
            }
            for address in 0..3 {
                let (channels, patterns) = admission.ledger.heard_by(IpAddr::from([10, 0, 0, address]));
                prop_assert!(limits[4] == 0 || channels <= limits[4] as usize);
                prop_assert!(limits[7] == 0 || patterns <= limits[7] as usize);
            }
            let most = |counts: Vec<u32>, limit: u32| limit == 0 || counts.iter().all(|count| *count <= limit);
            let (users, addresses) = admission.ledger.counts();
            prop_assert!(most(users, limits[1]) && most(addresses, limits[2]));
            prop_assert!(held.iter().all(|held| limits[3] == 0 || held.tally.channels <= limits[3] as usize));
            prop_assert!(held.iter().all(|held| limits[6] == 0 || held.tally.patterns <= limits[6] as usize));
        }
        drop(held);
        prop_assert_eq!(admission.ledger.sums(), NOTHING);
    }
}
