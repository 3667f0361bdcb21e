//! Several nodes on one bus: who they think is here, and what they ask of each other. The clock moves when all wait.

use std::{
    collections::HashMap,
    sync::atomic::{AtomicU64, Ordering::SeqCst},
};

use async_trait::async_trait;
use clarion_bus::{BusConfig, Delivery, InterestId, Sink, memory::Memory, memory::Server};
use clarion_protocol::{
    Address, Publication,
    control::{self, Heartbeat},
};
use parking_lot::Mutex;
use prometheus::Registry;
use tokio::{
    sync::mpsc,
    time::{self, Instant},
};

use super::*;
use crate::ingress::{Internal, fake_bus::FakeBus};

/// Hands internal messages on as the broker's sink does.
struct Ear(mpsc::Sender<Internal>);

#[async_trait]
impl Sink for Ear {
    async fn deliver(&self, batch: &mut Vec<Delivery>) {
        for delivery in batch.drain(..) {
            if let Address::Internal(name) = delivery.address {
                let _ = self.0.try_send(Internal { name, payload: delivery.message.payload });
            }
        }
    }

    fn gap(&self, _: &[InterestId]) {}
}

/// The connections of a node, by user.
#[derive(Default)]
struct Connections {
    users: Mutex<HashMap<String, usize>>,
    closed: AtomicU64,
}

impl Here for Connections {
    fn connections(&self) -> usize {
        self.users.lock().values().sum()
    }

    fn connections_of(&self, user: &str) -> usize {
        self.users.lock().get(user).copied().unwrap_or_default()
    }

    fn tell_read(&self, _: &str, _: &serde_json::Value) {}

    fn close_user(&self, user: &str) {
        self.users.lock().remove(user);
        self.closed.fetch_add(1, SeqCst);
    }
}

struct Node {
    members: Arc<Members>,
    bus: Arc<Memory>,
    here: Arc<Connections>,
    metrics: Metrics,
}

fn uid(uid: &str) -> Uid {
    Uid::parse(uid).unwrap()
}

fn me(name: &str) -> Me {
    let advertise = Some(format!("{name}:8000"));
    Me { node: NodeName::parse(name).unwrap(), advertise, public_url: None, key: None }
}

fn start(server: &Server, name: &str) -> Node {
    let (sender, internals) = mpsc::channel(1_000);
    let bus = Arc::new(server.attach(&BusConfig::default(), Arc::new(Ear(sender))));
    let (here, metrics) = (Arc::new(Connections::default()), Metrics::new(&Registry::new()).unwrap());
    let members = Members::start(Config::default(), me(name), bus.clone(), internals, here.clone(), metrics.clone());
    Node { members, bus, here, metrics }
}

/// Nodes that know each other.
async fn cluster<const N: usize>(server: &Server, names: [&str; N]) -> [Node; N] {
    let nodes = names.map(|name| start(server, name));
    for node in &nodes {
        node.sees(&names).await;
        node.until(|view| view.settled).await;
    }
    nodes
}

impl Node {
    /// Waits until the view is as it should be; returns how long that took.
    async fn until(&self, fits: impl Fn(&View) -> bool) -> Duration {
        let (began, mut views) = (Instant::now(), self.members.watch());
        let waited = time::timeout(Duration::from_secs(100), views.wait_for(|view| fits(view))).await;
        waited.unwrap_or_else(|_| panic!("{:?}", self.members.view())).unwrap();
        began.elapsed()
    }

    /// Waits until exactly these are in its ring.
    async fn sees(&self, names: &[&str]) -> Duration {
        self.until(|view| view.ring.members().iter().map(|member| &*member.name).eq(names.iter().copied())).await
    }

    fn rings_made(&self) -> u64 {
        self.metrics.ring_changes.get()
    }

    async fn failure(&self) -> Option<MembersError> {
        time::timeout(Duration::from_millis(1), self.members.failed()).await.ok()
    }
}

async fn seconds(seconds: u64) {
    time::sleep(Duration::from_secs(seconds)).await;
}

#[tokio::test(start_paused = true)]
async fn a_node_alone_is_at_home_in_its_own_ring_at_once() {
    let node = start(&Server::new(), "a");
    assert_eq!(node.members.home("42"), Home::Here);
    assert!(!node.members.view().settled);
    assert_eq!(node.members.view().ring.members().len(), 1);
    let took = node.until(|view| view.settled).await;
    assert!(took >= Duration::from_millis(1_500), "it listens for a heartbeat of everybody: {took:?}");
    assert_eq!(node.rings_made(), 0);
}

#[tokio::test(start_paused = true)]
async fn views_are_not_made_for_each_heartbeat() {
    let server = Server::new();
    let mut nodes = Vec::new();
    for name in ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j"] {
        nodes.push(start(&server, name));
        time::sleep(Duration::from_millis(37)).await;
    }
    nodes[0].until(|view| view.settled && view.peers.len() == 10).await;
    seconds(5).await;
    nodes[9].here.users.lock().insert("42".to_owned(), 3);
    let mut views = vec![nodes[0].members.view()];
    for _ in 0..1_000 {
        time::sleep(Duration::from_millis(10)).await;
        let view = nodes[0].members.view();
        if !Arc::ptr_eq(&view, &views[views.len() - 1]) {
            views.push(view);
        }
    }
    assert!(views.len() <= 25, "{} views in ten seconds of ten heartbeats each", views.len());
    assert_eq!(views[views.len() - 1].peers[&NodeName::parse("j").unwrap()].connections, 3);
}

#[tokio::test(start_paused = true)]
async fn a_bus_that_goes_while_a_node_listens_makes_it_listen_again() {
    let node = start(&Server::new(), "a");
    time::sleep(Duration::from_millis(500)).await;
    node.bus.cut();
    seconds(10).await;
    assert!(!node.members.view().settled, "nobody could be heard");
    node.bus.heal();
    let took = node.until(|view| view.settled).await;
    assert!(took >= Duration::from_secs(1), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn all_agree_on_who_is_at_home_where() {
    let nodes = cluster(&Server::new(), ["a", "b", "c"]).await;
    let rings = nodes.each_ref().map(|node| node.members.view().ring.identity());
    assert!(rings.iter().all(|ring| *ring == rings[0]));
    for key in (0..100).map(|n| n.to_string()) {
        let homes = nodes.each_ref().map(|node| node.members.home(&key));
        assert_eq!(homes.iter().filter(|home| **home == Home::Here).count(), 1, "{key}");
        let elsewhere = |home: &Home| match home {
            Home::Here => None,
            Home::At(peer) => peer.advertise.clone(),
        };
        let away: Vec<_> = homes.iter().filter_map(elsewhere).collect();
        assert!(away.len() == 2 && away[0] == away[1], "{away:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_newcomer_knows_the_others_before_they_hear_of_it() {
    let server = Server::new();
    let [a, _b] = cluster(&server, ["a", "b"]).await;
    let c = start(&server, "c");
    c.sees(&["a", "b", "c"]).await;
    assert_eq!(a.members.view().peers.len(), 2);
    a.sees(&["a", "b", "c"]).await;
    let told = a.members.view().peers[&NodeName::parse("c").unwrap()].ring.clone();
    assert_eq!(told, a.members.view().ring.identity().to_string(), "its first heartbeat names the ring of all three");
}

#[tokio::test(start_paused = true)]
async fn who_dies_without_a_word_is_missed_after_three_heartbeats() {
    let [a, b, c] = cluster(&Server::new(), ["a", "b", "c"]).await;
    drop(c);
    let took = a.sees(&["a", "b"]).await;
    assert!((Duration::from_millis(2_500)..=Duration::from_millis(4_100)).contains(&took), "{took:?}");
    b.sees(&["a", "b"]).await;
    assert_eq!(a.members.view().peers.len(), 2);
}

#[tokio::test(start_paused = true)]
async fn who_says_goodbye_is_gone_at_once_and_stays_away() {
    let [a, b] = cluster(&Server::new(), ["a", "b"]).await;
    b.members.leave().await;
    let took = a.sees(&["a"]).await;
    assert!(took < Duration::from_millis(100), "{took:?}");
    // Whoever lands on it while it drains is at home elsewhere.
    assert!((0..100).all(|n| matches!(b.members.home(&n.to_string()), Home::At(_))));
    assert!(b.members.view().peers.len() == 2 && b.members.view().leaving);
    seconds(20).await;
    assert_eq!(a.members.view().peers.len(), 1, "it says nothing after its goodbye");
    a.members.leave().await;
    assert_eq!(a.members.home("42"), Home::Here, "the last one is at home until it exits");
}

#[tokio::test(start_paused = true)]
async fn leaving_does_not_wait_for_a_bus_that_is_gone() {
    let [a, b] = cluster(&Server::new(), ["a", "b"]).await;
    b.bus.cut();
    let began = Instant::now();
    b.members.leave().await;
    assert!(began.elapsed() <= GOODBYE_TIMEOUT);
    assert!(a.sees(&["a"]).await > Duration::from_secs(2));
}

#[tokio::test(start_paused = true)]
async fn whoever_is_cut_off_keeps_its_view_and_is_taken_back() {
    let [a, b, c] = cluster(&Server::new(), ["a", "b", "c"]).await;
    let before = (a.rings_made(), c.rings_made());
    c.bus.cut();
    a.sees(&["a", "b"]).await;
    seconds(60).await;
    assert_eq!(c.members.view().peers.len(), 3, "it is c that is deaf");
    c.bus.heal();
    a.sees(&["a", "b", "c"]).await;
    b.sees(&["a", "b", "c"]).await;
    seconds(20).await;
    assert_eq!((a.rings_made(), c.rings_made()), (before.0 + 2, before.1));
}

#[tokio::test(start_paused = true)]
async fn a_bus_that_was_away_takes_nobody_with_it() {
    let [a, b, c] = cluster(&Server::new(), ["a", "b", "c"]).await;
    let before = a.rings_made();
    [&a, &b, &c].iter().for_each(|node| node.bus.cut());
    seconds(60).await;
    // One after the other, as links come back that draw their pauses at random; one never does.
    a.bus.heal();
    seconds(9).await;
    b.bus.heal();
    assert_eq!(a.members.view().peers.len(), 3);
    a.sees(&["a", "b"]).await;
    seconds(20).await;
    assert_eq!(a.rings_made(), before + 1, "only the one that did not come back was taken out");
    assert_eq!(b.members.view().peers.len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_name_that_is_taken_is_not_disturbed() {
    let server = Server::new();
    let [a, b] = cluster(&server, ["a", "b"]).await;
    let second = start(&server, "a");
    let error = second.members.failed().await;
    let instance = a.members.instance().to_owned();
    assert_eq!(error, MembersError::NameTaken { node: NodeName::parse("a").unwrap(), instance });
    assert!(error.to_string().contains("--node"), "{error}");
    drop(second);
    seconds(10).await;
    assert_eq!((a.failure().await, b.failure().await), (None, None));
}

#[tokio::test(start_paused = true)]
async fn two_that_start_at_once_with_one_name_both_say_so() {
    let server = Server::new();
    let (one, two) = (start(&server, "a"), start(&server, "a"));
    let error = one.members.failed().await;
    assert!(matches!(error, MembersError::NameTaken { instance, .. } if instance == two.members.instance()));
    two.members.failed().await;
}

#[tokio::test(start_paused = true)]
async fn a_restart_under_the_same_name_changes_no_ring() {
    let server = Server::new();
    let [a, b] = cluster(&server, ["a", "b"]).await;
    let before = a.rings_made();
    let old = b.members.instance().to_owned();
    drop(b);
    let b = start(&server, "b");
    let name = NodeName::parse("b").unwrap();
    a.until(|view| view.peers.get(&name).is_some_and(|peer| peer.instance != old)).await;
    seconds(10).await;
    assert_eq!(a.rings_made(), before);
    assert_eq!((a.failure().await, b.failure().await), (None, None));
}

#[tokio::test(start_paused = true)]
async fn a_leaving_node_gives_its_name_up() {
    let server = Server::new();
    let [a, b] = cluster(&server, ["a", "b"]).await;
    b.members.leave().await;
    let successor = start(&server, "b");
    successor.sees(&["a", "b"]).await;
    a.sees(&["a", "b"]).await;
    assert_eq!((b.failure().await, successor.failure().await), (None, None));
}

/// A member that is not one of ours: it says what it is told.
struct Stranger {
    bus: Arc<Memory>,
    ring: Arc<Mutex<String>>,
    _task: JoinSet<()>,
}

fn stranger(server: &Server, ring: &str) -> Stranger {
    let (sender, _) = mpsc::channel(1);
    let bus = Arc::new(server.attach(&BusConfig::default(), Arc::new(Ear(sender))));
    let ring = Arc::new(Mutex::new(ring.to_owned()));
    let (says, mouth) = (ring.clone(), bus.clone());
    let mut task = JoinSet::new();
    task.spawn(async move {
        loop {
            let json = format!(r#"{{"node":"z","instance":"stranger","weight":1,"ring":"{}","later":1}}"#, says.lock());
            let heartbeat: Heartbeat = serde_json::from_str(&json).unwrap();
            let json = serde_json::to_vec(&heartbeat).unwrap();
            let subject = control::subject(control::MEMBERS);
            clarion_bus::Bus::publish(&*mouth, Publication::raw(subject, json)).await.unwrap();
            seconds(1).await;
        }
    });
    Stranger { bus, ring, _task: task }
}

#[tokio::test(start_paused = true)]
async fn a_ring_that_differs_for_long_is_counted_once() {
    let server = Server::new();
    let [a, b] = cluster(&server, ["a", "b"]).await;
    assert_eq!(a.metrics.disagreements.get(), 0, "joining is no disagreement");
    let z = stranger(&server, "another");
    a.sees(&["a", "b", "z"]).await;
    seconds(4).await;
    assert_eq!(a.metrics.disagreements.get(), 0, "it may not have heard of the change yet");
    seconds(30).await;
    assert_eq!((a.metrics.disagreements.get(), a.metrics.disagreeing.get()), (1, 1));
    assert_eq!(b.metrics.disagreements.get(), 1);
    let agreed = a.members.view().ring.identity().to_string();
    *z.ring.lock() = agreed;
    seconds(2).await;
    assert_eq!((a.metrics.disagreements.get(), a.metrics.disagreeing.get()), (1, 0));
    "a third".clone_into(&mut z.ring.lock());
    seconds(30).await;
    assert_eq!((a.metrics.disagreements.get(), a.metrics.disagreeing.get()), (2, 1));
}

#[tokio::test(start_paused = true)]
async fn online_asks_everybody() {
    let server = Server::new();
    let nodes = cluster(&server, ["a", "b", "c"]).await;
    nodes[0].here.users.lock().insert("42".to_owned(), 2);
    nodes[2].here.users.lock().insert("42".to_owned(), 1);
    let name = |name| NodeName::parse(name).unwrap();
    let began = Instant::now();
    for asked in &nodes {
        let online = asked.members.online(&uid("42")).await;
        let expected = Online { connections: 3, nodes: vec![(name("a"), 2), (name("c"), 1)], partial: false };
        assert_eq!(online, expected);
    }
    let nobody = nodes[1].members.online(&uid("43")).await;
    assert_eq!(nobody, Online::default());
    assert!(began.elapsed() < Duration::from_millis(100), "nobody waited for a time-out: {:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn online_says_when_somebody_was_silent() {
    let server = Server::new();
    let [a, b, c] = cluster(&server, ["a", "b", "c"]).await;
    b.here.users.lock().insert("42".to_owned(), 1);
    c.here.users.lock().insert("42".to_owned(), 1);
    c.bus.cut();
    let began = Instant::now();
    let online = a.members.online(&uid("42")).await;
    assert!(online.partial && online.connections == 1, "{online:?}");
    assert_eq!(began.elapsed(), limits::ONLINE_TIMEOUT);
    assert!(c.members.online(&uid("42")).await.partial, "it cannot even ask");
    let fresh = start(&server, "d");
    assert!(fresh.members.online(&uid("42")).await.partial, "it does not know whom to ask");
}

#[tokio::test(start_paused = true)]
async fn disconnect_reaches_every_node() {
    let nodes = cluster(&Server::new(), ["a", "b", "c"]).await;
    for node in &nodes {
        node.here.users.lock().extend([("42".to_owned(), 1), ("43".to_owned(), 1)]);
    }
    assert_eq!(nodes[1].members.disconnect(&uid("42")).await, Ok(Disconnected { partial: false }));
    assert!(nodes.iter().all(|node| node.here.connections_of("42") == 0), "it is done when it is said to be");
    assert_eq!(nodes[0].members.online(&uid("43")).await.connections, 3);

    nodes[2].bus.cut();
    nodes[2].here.users.lock().insert("42".to_owned(), 1);
    assert!(nodes[2].members.disconnect(&uid("42")).await.is_err(), "the others did not hear of it");
    assert_eq!(nodes[2].here.connections_of("42"), 0, "but here he is gone");
}

#[tokio::test(start_paused = true)]
async fn disconnect_reaches_a_node_that_was_deaf_once_it_hears_again() {
    let server = Server::new();
    let [a, b, c] = cluster(&server, ["a", "b", "c"]).await;
    let lives = |node: &Node, user: &str| node.here.users.lock().insert(user.to_owned(), 1);
    // Before and after the others miss it.
    for (deaf, user, partial) in [(1, "42", true), (60, "43", false)] {
        c.bus.cut();
        seconds(deaf).await;
        lives(&c, user);
        lives(&c, "44");
        assert_eq!(a.members.disconnect(&uid(user)).await, Ok(Disconnected { partial }));
        assert_eq!(c.here.connections_of(user), 1);
        c.bus.heal();
        c.until(|view| view.peers.len() == 3).await;
        seconds(2).await;
        assert_eq!((c.here.connections_of(user), c.here.connections_of("44")), (0, 1));
    }
    // Whoever comes back is not closed for what was heard long ago, nor on a node that starts later.
    let closed = c.here.closed.load(SeqCst);
    let d = start(&server, "d");
    for node in [&a, &b, &c, &d] {
        lives(node, "42");
    }
    seconds(30).await;
    assert!([&a, &b, &c, &d].iter().all(|node| node.here.connections_of("42") == 1));
    assert_eq!(c.here.closed.load(SeqCst), closed);
}

#[tokio::test(start_paused = true)]
async fn what_the_others_did_not_hear_they_hear_later() {
    let [a, b] = cluster(&Server::new(), ["a", "b"]).await;
    a.bus.cut();
    b.here.users.lock().insert("42".to_owned(), 1);
    assert!(a.members.disconnect(&uid("42")).await.is_err(), "the others did not hear of it");
    a.bus.heal();
    seconds(2).await;
    assert_eq!(b.here.connections_of("42"), 0);
}

#[tokio::test(start_paused = true)]
async fn a_thousand_are_asked_about_together_and_a_silent_member_is_waited_for_once() {
    let [a, b, c] = cluster(&Server::new(), ["a", "b", "c"]).await;
    let users: Vec<_> = (0..1_000).map(|n| uid(&n.to_string())).collect();
    b.here.users.lock().extend((0..1_000).map(|n| (n.to_string(), n)));
    let (began, messages) = (Instant::now(), clarion_bus::Bus::stats(&*c.bus).messages);
    let mut silent = BTreeSet::new();
    let all = a.members.online_all(&users, &mut silent).await;
    assert!(all.iter().enumerate().all(|(n, online)| online.connections == n as u64 && !online.partial));
    assert!(silent.is_empty() && began.elapsed() < Duration::from_millis(100), "{silent:?} {:?}", began.elapsed());
    let heard = clarion_bus::Bus::stats(&*c.bus).messages - messages;
    assert!(heard <= 5, "{heard} messages for a thousand users");

    c.bus.cut();
    for waited in [limits::ONLINE_TIMEOUT, Duration::ZERO] {
        let began = Instant::now();
        let all = a.members.online_all(&users, &mut silent).await;
        assert!(all.iter().all(|online| online.partial) && all[7].connections == 7);
        assert_eq!(began.elapsed().as_millis(), waited.as_millis());
    }
    assert_eq!(silent, [NodeName::parse("c").unwrap()].into());
}

#[tokio::test(start_paused = true)]
async fn counts_are_fresh_and_wake_nobody() {
    let [a, b] = cluster(&Server::new(), ["a", "b"]).await;
    seconds(2).await;
    let mut views = a.members.watch();
    views.mark_unchanged();
    b.here.users.lock().insert("42".to_owned(), 5);
    seconds(2).await;
    assert_eq!(a.members.view().peers[&NodeName::parse("b").unwrap()].connections, 5);
    assert!(!views.has_changed().unwrap());
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_read_is_counted_and_does_no_harm() {
    let server = Server::new();
    let [a, _b] = cluster(&server, ["a", "b"]).await;
    let z = stranger(&server, "x");
    let own = control::subject_of(a.members.instance()).unwrap();
    for subject in [control::subject(control::MEMBERS), control::subject(control::CONTROL), own] {
        for payload in ["", "{", "\0\u{1}", r#"{"type":"later"}"#, r#"{"node":"?"}"#] {
            clarion_bus::Bus::publish(&*z.bus, Publication::raw(subject.clone(), payload)).await.unwrap();
        }
    }
    seconds(5).await;
    assert_eq!(a.metrics.unreadable.get(), 15);
    a.sees(&["a", "b", "z"]).await;
}

#[tokio::test(start_paused = true)]
async fn a_bus_that_forbids_the_internal_subjects_is_no_cluster() {
    let bus = Arc::new(FakeBus::new());
    *bus.refuses.lock() = Some("control".to_owned());
    let (_sender, internals) = mpsc::channel(1);
    let metrics = Metrics::new(&Registry::new()).unwrap();
    let here = Arc::new(Connections::default());
    let members = Members::start(Config::default(), me("a"), bus, internals, here, metrics);
    let error = members.failed().await.to_string();
    assert!(error.contains("`control`") && error.contains("no permission"), "{error}");
}

/// The same roll over real connections: one that says nothing for longer than a member may.
#[tokio::test]
async fn a_redis_that_stands_still_throws_nobody_out() {
    let redis = clarion_testkit::RedisServer::start().await;
    let bus_config = BusConfig { url: redis.url().parse().unwrap(), ..BusConfig::default() };
    let config = Config { interval: Duration::from_millis(400), grace: Duration::from_secs(3), ..Config::default() };
    let nodes = ["a", "b"].map(|name| {
        let (sender, internals) = mpsc::channel(1_000);
        let bus = clarion_bus::connect(&bus_config, Arc::new(Ear(sender))).unwrap();
        let metrics = Metrics::new(&Registry::new()).unwrap();
        let here = Arc::new(Connections::default());
        let members = Members::start(config.clone(), me(name), bus, internals, here, metrics.clone());
        (members, metrics)
    });
    let sees = async |members: &Members, count: usize| {
        let (mut views, fits) =
            (members.watch(), |view: &Arc<View>| view.settled && view.ring.members().len() == count);
        time::timeout(Duration::from_secs(60), views.wait_for(fits)).await.expect("in time").unwrap();
    };
    for (members, _) in &nodes {
        sees(members, 2).await;
    }
    let rings = || nodes.each_ref().map(|(_, metrics)| metrics.ring_changes.get());
    let before = rings();
    redis.pause();
    seconds(4).await;
    redis.resume();
    seconds(5).await;
    assert_eq!(rings(), before, "both kept their view while nobody could be heard, and after it");
    let [(a, _), b] = nodes;
    drop(b);
    sees(&a, 1).await;
}

#[test]
fn what_is_wrong_with_a_table() {
    assert_eq!(Config::default().problems(), []);
    let bad =
        Config { interval: Duration::ZERO, missed: 1, online_timeout: Duration::ZERO, weight: 0, ..Config::default() };
    let keys: Vec<_> = bad.problems().into_iter().map(|(key, _)| key).collect();
    assert_eq!(keys, ["interval", "missed", "online_timeout", "weight"]);
}
