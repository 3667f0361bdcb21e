//! How many may come: new connections per second, and connections per node, user and address.
//!
//! Knows nothing of sockets. What is counted here is given back when its [`Permit`] is dropped, however that comes about.

pub mod bodies;
mod forwarded;
mod rate;
pub mod sockets;

use std::{
    collections::{HashMap, hash_map::Entry},
    hash::Hash,
    net::{IpAddr, Ipv6Addr},
    num::NonZeroU32,
    sync::Arc,
    time::Duration,
};

use clarion_protocol::Uid;
use http::StatusCode;
use ipnet::IpNet;
use parking_lot::Mutex;
use prometheus::{IntCounterVec, Opts, Registry};

pub use forwarded::ProxyHeader;

use rate::Rate;

/// The limits. `None` is no limit.
#[derive(Debug, Clone, Default)]
pub struct Config {
    /// New connections a second; as many may come at once after a quiet second.
    pub accepts_per_second: Option<NonZeroU32>,
    /// Connections of this node.
    pub connections: Option<NonZeroU32>,
    /// Connections of one user at this node.
    pub per_user: Option<NonZeroU32>,
    /// Connections of one address at this node. IPv6 counts by /64, which is what one customer is given.
    pub per_address: Option<NonZeroU32>,
    /// Networks of proxies whose word about their client's address is taken.
    pub trusted_proxies: Vec<IpNet>,
    /// The header in which they give it.
    pub proxy_header: ProxyHeader,
}

/// Counts those who are here and says no to those who are too many.
pub struct Admission {
    rate: Option<Rate>,
    held: Arc<Held>,
    trusted: Vec<IpNet>,
    header: ProxyHeader,
    refused: IntCounterVec,
}

struct Held {
    connections: Option<NonZeroU32>,
    per_user: Option<NonZeroU32>,
    per_address: Option<NonZeroU32>,
    counts: Mutex<Counts>,
}

/// Only what has a limit is counted, and only while it is not zero.
#[derive(Default)]
struct Counts {
    connections: u32,
    users: HashMap<Uid, u32>,
    addresses: HashMap<IpAddr, u32>,
}

impl Admission {
    /// Begins with nobody here.
    ///
    /// # Errors
    /// When the registry knows the counter already.
    pub fn new(config: &Config, registry: &Registry) -> Result<Arc<Self>, prometheus::Error> {
        let opts = Opts::new("clarion_admission_refused_total", "Connections refused for being too many, by limit.");
        let refused = IntCounterVec::new(opts, &["limit"])?;
        registry.register(Box::new(refused.clone()))?;
        Ok(Arc::new(Self {
            rate: config.accepts_per_second.map(Rate::new),
            held: Arc::new(Held {
                connections: config.connections,
                per_user: config.per_user,
                per_address: config.per_address,
                counts: Mutex::default(),
            }),
            trusted: config.trusted_proxies.clone(),
            header: config.proxy_header,
            refused,
        }))
    }

    /// Takes one new connection at the rate that this node can greet them.
    ///
    /// # Errors
    /// [`TooMany::Rate`] with the time until there is room for one more.
    pub fn accept(&self) -> Result<(), TooMany> {
        let answer = self.rate.as_ref().map_or(Ok(()), Rate::take);
        answer.map_err(|retry_after| self.refuse(TooMany::Rate { retry_after }))
    }

    /// Takes one connection of this user and address in, until its permit is dropped.
    ///
    /// # Errors
    /// [`TooMany`], naming the first limit that is reached.
    pub fn enter(&self, user: Option<&Uid>, address: IpAddr) -> Result<Permit, TooMany> {
        self.held.enter(user, address).map_err(|error| self.refuse(error))
    }

    /// Gives a place back that was [handed over](Permit::hand_over).
    pub fn leave(&self) {
        self.held.counts.lock().connections -= 1;
    }

    /// The address of the client: the peer's, or what trusted proxies say of theirs.
    pub fn client_address(&self, head: &http::request::Parts, peer: std::net::SocketAddr) -> IpAddr {
        forwarded::client_address(&self.trusted, self.header, &head.headers, peer.ip())
    }

    fn refuse(&self, error: TooMany) -> TooMany {
        self.refused.with_label_values(&[error.limit()]).inc();
        error
    }
}

impl Held {
    fn enter(self: &Arc<Self>, user: Option<&Uid>, address: IpAddr) -> Result<Permit, TooMany> {
        let user = user.filter(|_| self.per_user.is_some()).cloned();
        let address = self.per_address.map(|_| network(address));
        let mut counts = self.counts.lock();
        // Everything is looked at before anything is counted, so that a refusal leaves no trace.
        let full = |count: u32, limit: Option<NonZeroU32>| limit.is_some_and(|limit| count >= limit.get());
        if full(counts.connections, self.connections) {
            return Err(TooMany::Node);
        }
        if user.as_ref().is_some_and(|user| full(count(&counts.users, user), self.per_user)) {
            return Err(TooMany::User);
        }
        if address.is_some_and(|address| full(count(&counts.addresses, &address), self.per_address)) {
            return Err(TooMany::Address);
        }
        counts.connections += 1;
        if let Some(user) = &user {
            *counts.users.entry(user.clone()).or_default() += 1;
        }
        if let Some(address) = address {
            *counts.addresses.entry(address).or_default() += 1;
        }
        drop(counts);
        let counted = (user.is_some() || address.is_some()).then(|| Counted { held: Arc::clone(self), user, address });
        Ok(Permit { held: Some(Arc::clone(self)), counted })
    }
}

/// One connection's place. Dropping it gives the place back.
#[must_use = "the place is given back when this is dropped"]
pub struct Permit {
    /// Gone when the place was handed over.
    held: Option<Arc<Held>>,
    /// Only where there is such a limit.
    counted: Option<Counted>,
}

/// What else than a connection was counted. Dropping it takes it off.
pub struct Counted {
    held: Arc<Held>,
    user: Option<Uid>,
    address: Option<IpAddr>,
}

impl Permit {
    /// Leaves it to whoever knows when the connection ends to say so, by [`Admission::leave`]. What is returned is to be
    /// dropped then.
    pub fn hand_over(mut self) -> Option<Counted> {
        self.held = None;
        self.counted.take()
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if let Some(held) = &self.held {
            held.counts.lock().connections -= 1;
        }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let mut counts = self.held.counts.lock();
        if let Some(user) = self.user.take() {
            give_back(&mut counts.users, user);
        }
        if let Some(address) = self.address {
            give_back(&mut counts.addresses, address);
        }
    }
}

fn count<K: Eq + Hash>(counts: &HashMap<K, u32>, key: &K) -> u32 {
    counts.get(key).copied().unwrap_or_default()
}

fn give_back<K: Eq + Hash>(counts: &mut HashMap<K, u32>, key: K) {
    if let Entry::Occupied(mut entry) = counts.entry(key) {
        *entry.get_mut() -= 1;
        if *entry.get() == 0 {
            entry.remove();
        }
    }
}

/// What addresses are counted by.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(v4) => v4.into(),
        IpAddr::V6(v6) => {
            let [a, b, c, d, ..] = v6.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
    }
}

/// Which limit is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TooMany {
    /// New connections come faster than this node takes them.
    #[error("too many new connections at once")]
    Rate {
        /// When there is room for one more.
        retry_after: Duration,
    },
    /// This node has all the connections that it may.
    #[error("this node takes no more connections")]
    Node,
    /// The user has.
    #[error("this user has too many connections")]
    User,
    /// The address has.
    #[error("this address has too many connections")]
    Address,
}

impl TooMany {
    /// The HTTP status: 503 where another node may help, 429 where the client has to let go of something.
    pub fn status(self) -> StatusCode {
        match self {
            Self::Rate { .. } | Self::Node => StatusCode::SERVICE_UNAVAILABLE,
            Self::User | Self::Address => StatusCode::TOO_MANY_REQUESTS,
        }
    }

    /// The name of the error in answers.
    pub fn code(self) -> &'static str {
        match self {
            Self::Rate { .. } => "too_fast",
            Self::Node => "full",
            Self::User | Self::Address => "connection_limit",
        }
    }

    /// When there is surely room for one more, where that is known.
    pub fn retry_after(self) -> Option<Duration> {
        match self {
            Self::Rate { retry_after } => Some(retry_after),
            Self::Node | Self::User | Self::Address => None,
        }
    }

    fn limit(self) -> &'static str {
        match self {
            Self::Rate { .. } => "rate",
            Self::Node => "node",
            Self::User => "user",
            Self::Address => "address",
        }
    }
}

#[cfg(test)]
mod tests {
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

    #[test]
    fn nothing_is_limited_unless_it_is_set() {
        let admission = admission(&Config::default());
        let user = Uid::parse("42").unwrap();
        let permits: Vec<Permit> = (0..1000).map(|_| admission.enter(Some(&user), ip("10.0.0.1")).unwrap()).collect();
        let counts = admission.held.counts.lock();
        assert_eq!((counts.connections, counts.users.len(), counts.addresses.len()), (1000, 0, 0));
        drop(counts);
        drop(permits);
        assert!((0..1000).all(|_| admission.accept().is_ok()));
    }

    #[test]
    fn a_permit_gives_its_place_back() {
        let config = Config { connections: limit(3), per_user: limit(2), per_address: limit(2), ..Config::default() };
        let admission = admission(&config);
        let (a, b) = (Uid::parse("a").unwrap(), Uid::parse("b").unwrap());
        let first = admission.enter(Some(&a), ip("10.0.0.1")).unwrap();
        let second = admission.enter(Some(&a), ip("10.0.0.2")).unwrap();
        assert_eq!(admission.enter(Some(&a), ip("10.0.0.3")).err(), Some(TooMany::User));
        let third = admission.enter(None, ip("::ffff:10.0.0.1")).unwrap();
        assert_eq!(admission.enter(Some(&b), ip("10.0.0.4")).err(), Some(TooMany::Node));
        drop(second);
        assert_eq!(admission.enter(Some(&b), ip("10.0.0.1")).err(), Some(TooMany::Address));
        let fourth = admission.enter(Some(&b), ip("10.0.0.2")).unwrap();
        assert!(third.hand_over().is_some_and(|rest| rest.user.is_none() && rest.address.is_some()));
        assert_eq!(admission.held.counts.lock().connections, 3, "the place itself is given back by whoever has it now");
        admission.leave();
        drop((first, fourth));
        let counts = admission.held.counts.lock();
        assert_eq!((counts.connections, counts.users.len(), counts.addresses.len()), (0, 0, 0));
    }

    #[test]
    fn ipv6_counts_by_what_one_customer_has() {
        let admission = admission(&Config { per_address: limit(1), ..Config::default() });
        let _held = admission.enter(None, ip("2001:db8:1:2::1")).unwrap();
        assert_eq!(admission.enter(None, ip("2001:db8:1:2:ffff::2")).err(), Some(TooMany::Address));
        assert!(admission.enter(None, ip("2001:db8:1:3::1")).is_ok());
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
}
