//! How many connections may speak HTTP at once: counted when they are accepted, before they have said or proved anything.
//!
//! What doors count is let in, and has left HTTP. Without these bounds one address could hold every descriptor of the process
//! with connections that ask for nothing, and nobody else would come as far as a door.

use std::{
    collections::HashMap,
    net::IpAddr,
    num::NonZeroU32,
    os::fd::RawFd,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use ipnet::IpNet;
use parking_lot::Mutex;
use prometheus::{IntCounterVec, IntGauge, Opts, Registry};

use super::ledger::{give_back, network};

/// The share of the process's descriptors that clients do not get, within these bounds: the admin listener, the bus, the
/// issuer's keys and the certificate's files go on when clients have taken all others.
const RESERVED_SHARE: i32 = 8;
const RESERVED: (i32, i32) = (16, 128);

/// The limits. `None` is no limit.
#[derive(Debug, Clone, Default)]
pub struct Config {
    /// Connections that speak HTTP.
    pub http: Option<NonZeroU32>,
    /// Those of one address. IPv6 counts by /64, as everywhere.
    pub http_per_address: Option<NonZeroU32>,
    /// Networks of proxies: behind one of them are many addresses, which are not known yet.
    pub trusted_proxies: Vec<IpNet>,
}

/// Counts the connections that speak HTTP.
pub struct Sockets {
    config: Config,
    /// Descriptors from this number on are not for clients.
    reserved_from: RawFd,
    open: AtomicU32,
    addresses: Mutex<HashMap<IpAddr, u32>>,
    gauge: IntGauge,
    refused: IntCounterVec,
}

/// Why a new connection is hung up on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The process has hardly any descriptors left.
    #[error("descriptors run out")]
    Descriptors,
    /// This node has all the HTTP connections that it may.
    #[error("this node has too many HTTP connections")]
    Node,
    /// The address has.
    #[error("this address has too many HTTP connections")]
    Address,
}

impl Refused {
    const ALL: [Self; 3] = [Self::Descriptors, Self::Node, Self::Address];

    fn limit(self) -> &'static str {
        match self {
            Self::Descriptors => "descriptors",
            Self::Node => "http_connections",
            Self::Address => "http_per_address",
        }
    }
}

impl Sockets {
    /// None yet. `descriptors` is how many this process may have.
    ///
    /// # Errors
    /// When the registry knows one of the names already.
    pub fn new(config: Config, descriptors: Option<u64>, registry: &Registry) -> Result<Arc<Self>, prometheus::Error> {
        let gauge = IntGauge::new("clarion_http_connections", "Connections at the clients' listener that speak HTTP.")?;
        registry.register(Box::new(gauge.clone()))?;
        let opts = Opts::new("clarion_accepts_refused_total", "New connections that were hung up on, by limit.");
        let refused = IntCounterVec::new(opts, &["limit"])?;
        registry.register(Box::new(refused.clone()))?;
        for reason in Refused::ALL {
            refused.with_label_values(&[reason.limit()]);
        }
        let descriptors = descriptors.and_then(|all| RawFd::try_from(all).ok());
        let kept = |all: RawFd| all - (all / RESERVED_SHARE).clamp(RESERVED.0, RESERVED.1);
        Ok(Arc::new(Self {
            config,
            reserved_from: descriptors.map_or(RawFd::MAX, kept),
            open: AtomicU32::new(0),
            addresses: Mutex::default(),
            gauge,
            refused,
        }))
    }

    /// Takes a new connection in, until what is returned is dropped.
    ///
    /// # Errors
    /// [`Refused`]: the first limit that is reached.
    pub fn open(self: &Arc<Self>, descriptor: RawFd, peer: IpAddr) -> Result<Counted, Refused> {
        self.count(descriptor, peer).inspect_err(|reason| {
            self.refused.with_label_values(&[reason.limit()]).inc();
        })
    }

    fn count(self: &Arc<Self>, descriptor: RawFd, peer: IpAddr) -> Result<Counted, Refused> {
        // The kernel gives the lowest number that is free, so one from the reserve means that all below are taken.
        if descriptor >= self.reserved_from {
            return Err(Refused::Descriptors);
        }
        let full = |count: u32, limit: Option<NonZeroU32>| limit.is_some_and(|limit| count >= limit.get());
        // Only the accept loop adds, so nobody comes between looking and counting.
        if full(self.open.load(Ordering::Relaxed), self.config.http) {
            return Err(Refused::Node);
        }
        let is_proxy = self.config.trusted_proxies.iter().any(|network| network.contains(&peer.to_canonical()));
        let address = self.config.http_per_address.filter(|_| !is_proxy).map(|_| network(peer));
        if let Some(address) = address {
            let mut addresses = self.addresses.lock();
            let count = addresses.entry(address).or_default();
            if full(*count, self.config.http_per_address) {
                return Err(Refused::Address);
            }
            *count += 1;
        }
        self.open.fetch_add(1, Ordering::Relaxed);
        self.gauge.inc();
        Ok(Counted { sockets: Arc::clone(self), address })
    }

    /// How many there are.
    pub fn open_now(&self) -> u32 {
        self.open.load(Ordering::Relaxed)
    }
}

/// One connection that speaks HTTP.
#[must_use = "it is not counted any more when this is dropped"]
pub struct Counted {
    sockets: Arc<Sockets>,
    address: Option<IpAddr>,
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.sockets.open.fetch_sub(1, Ordering::Relaxed);
        self.sockets.gauge.dec();
        if let Some(address) = self.address {
            give_back(&mut self.sockets.addresses.lock(), address);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn sockets(http: u32, per_address: u32, descriptors: Option<u64>) -> Arc<Sockets> {
        let config = Config {
            http: NonZeroU32::new(http),
            http_per_address: NonZeroU32::new(per_address),
            trusted_proxies: vec!["10.0.0.0/8".parse().unwrap()],
        };
        Sockets::new(config, descriptors, &Registry::new()).unwrap()
    }

    #[test]
    fn a_node_and_an_address_have_so_many() {
        let sockets = sockets(4, 2, None);
        let open = |address| sockets.open(3, ip(address));
        let first = open("192.0.2.1").unwrap();
        let _second = open("::ffff:192.0.2.1").unwrap();
        assert_eq!(open("192.0.2.1").err(), Some(Refused::Address));
        let _third = open("2001:db8:1:2::1").unwrap();
        let _fourth = open("2001:db8:1:2:ffff::2").unwrap();
        assert_eq!(open("192.0.2.2").err(), Some(Refused::Node));
        drop(first);
        assert_eq!(open("2001:db8:1:2::3").err(), Some(Refused::Address), "one /64");
        assert!(open("192.0.2.1").is_ok());
        assert_eq!((sockets.open_now(), sockets.gauge.get()), (3, 3));
    }

    #[test]
    fn behind_a_proxy_are_many() {
        let sockets = sockets(0, 1, None);
        let all: Vec<_> = (0..10).map(|_| sockets.open(3, ip("10.0.0.1")).unwrap()).collect();
        drop(all);
        assert!(sockets.addresses.lock().is_empty());
    }

    #[test]
    fn the_last_descriptors_are_not_for_clients() {
        for (limit, last) in [(64, 47), (1024, 895), (1_000_000, 999_871)] {
            let sockets = sockets(0, 0, Some(limit));
            assert!(sockets.open(last, ip("192.0.2.1")).is_ok());
            assert_eq!(sockets.open(last + 1, ip("192.0.2.1")).err(), Some(Refused::Descriptors));
        }
        assert!(sockets(0, 0, None).open(RawFd::MAX - 1, ip("192.0.2.1")).is_ok());
    }
}
