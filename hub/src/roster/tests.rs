//! Connections on a clock that is the test's.

use std::{sync::Arc, time::Duration};

use clarion_protocol::{CloseCode, Door};
use mio::Poll;
use prometheus::Registry;
use tokio::sync::Notify;

use super::*;
use crate::{
    Config, SlowPolicy,
    batch::Masks,
    metrics::Metrics,
    shard::{Bell, Settings},
    tests::support::*,
};

/// Both intervals, in ticks and as configured.
const INTERVAL: Tick = 3;
const SHORT: Duration = Duration::from_millis(300);

/// A roster whose sockets nobody waits for.
struct Watched {
    _poll: Poll,
    roster: Roster,
}

impl Watched {
    fn new(config: &Config) -> Self {
        let common = Arc::new(Common {
            masks: Arc::new(Masks::new(1)),
            users: Arc::default(),
            metrics: Metrics::new(&Registry::new()).unwrap(),
            settings: Settings::from(config),
            release: Arc::<Received>::default(),
        });
        let poll = Poll::new().unwrap();
        let inbox = Arc::new(Inbox::new(Bell::Task(Notify::new()), 1 << 20));
        let roster = Roster::new(0, poll.registry().try_clone().unwrap(), inbox, common);
        Self { _poll: poll, roster }
    }

    /// A client, and the other end of its socket.
    fn attach(&mut self, it: &Fixture) -> (Key, Client, std::net::TcpStream) {
        let ticket = self.roster.open(it.wish(Door::WebSocket, &[], SlowPolicy::Disconnect).open);
        let (client, server) = it.pair(None);
        server.set_nonblocking(true).unwrap();
        let arrived = server.try_clone().unwrap();
        let key = ticket.key().key;
        self.roster.attach(key, server, None, b"");
        std::mem::forget(ticket);
        (key, client, arrived)
    }

    fn pass(&mut self, ticks: Tick) {
        self.roster.now += ticks;
        self.roster.watch();
    }
}

/// When a shard comes to look at the time, the answers of many clients may stand in their sockets, more than it has been told of.
#[tokio::test]
async fn an_answer_that_is_not_read_yet_is_one() {
    let it = Fixture::new(config(1));
    let mut watched = Watched::new(&Config { ping_interval: SHORT, pong_timeout: SHORT, ..config(1) });
    let (key, mut client, arrived) = watched.attach(&it);

    watched.pass(INTERVAL);
    assert_eq!(client.frame(), Some(Frame(0x89, vec![])));
    client.send(0x8a, b"");
    eventually("the pong has arrived", || arrived.peek(&mut [0; 6]).is_ok_and(|length| length == 6)).await;
    watched.pass(INTERVAL);
    assert!(watched.roster.record(key).unwrap().is_open());

    watched.pass(INTERVAL);
    assert_eq!(client.frame(), Some(Frame(0x89, vec![])));
    watched.pass(INTERVAL);
    assert_eq!(client.frame(), Some(close(CloseCode::NoPong)));
    it.stop().await;
}

#[tokio::test]
async fn a_message_that_has_begun_must_end() {
    let it = Fixture::new(config(1));
    let mut watched = Watched::new(&config(1));
    let (slow, mut slow_client, _) = watched.attach(&it);
    let (busy, ..) = watched.attach(&it);
    let whole = watched.roster.common.settings.message;
    let message = masked(0x82, &[7; 100]);
    let (front, back) = message.split_at(40);
    watched.roster.take_in(slow, &mut front.to_vec());
    watched.roster.take_in(busy, &mut front.to_vec());
    watched.pass(whole - 1);
    // This one ends its message and begins another, which has its own time.
    watched.roster.take_in(busy, &mut [back, front].concat());
    watched.pass(1);
    assert_eq!(slow_client.frame(), Some(close(CloseCode::Slow)));
    assert!(!watched.roster.record(slow).unwrap().is_open() && watched.roster.record(busy).unwrap().is_open());
    watched.pass(whole - 2);
    assert!(watched.roster.record(busy).unwrap().is_open());
    watched.pass(1);
    assert!(!watched.roster.record(busy).unwrap().is_open());
    it.stop().await;
}

#[tokio::test]
async fn what_one_says_has_its_share_of_a_turn() {
    let it = Fixture::new(config(1));
    let mut watched = Watched::new(&config(1));
    let (key, mut client, _) = watched.attach(&it);
    let pings: Vec<u8> = std::iter::repeat_n(masked(0x81, b"ping"), 1000).flatten().collect();
    watched.roster.take_in(key, &mut pings.clone());
    let waiting = |watched: &mut Watched| {
        let incoming = watched.roster.record(key).unwrap().cold.connection.incoming.as_ref();
        incoming.map_or(0, |incoming| incoming.rest.len())
    };
    let mut turns = 1;
    let mut left = waiting(&mut watched);
    assert!(left > 0 && left < pings.len() && watched.roster.has_more());
    while watched.roster.has_more() {
        watched.roster.read_on();
        turns += 1;
        assert!(waiting(&mut watched) < left || left == 0);
        left = waiting(&mut watched);
    }
    assert!(turns > 5, "{turns}");
    for _ in 0..1000 {
        assert_eq!(client.text(), "pong");
    }
    it.stop().await;
}
