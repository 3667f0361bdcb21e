//! Who holds what: connections, those that are carried to other nodes, and the channels and patterns that they hear.
//!
//! Everything is looked at before anything is written down, under one lock, so that a refusal leaves no trace and no limit
//! is ever passed. What has no limit is not written down, except patterns: they are few, and what a bus suffers from most.

use std::{
    collections::{HashMap, hash_map::Entry},
    hash::Hash,
    net::{IpAddr, Ipv6Addr},
    num::NonZeroU32,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use clarion_hub::Place;
use clarion_protocol::{Depth, Interest, Uid};
use parking_lot::Mutex;
use prometheus::Registry;

use super::{Config, TooMany, metrics::Gauges};

/// The books of a node.
pub(super) struct Ledger {
    limits: Limits,
    books: Mutex<Books>,
    connections: Arc<Connections>,
    gauges: Gauges,
}

/// How many connections there are. They come under the lock of the books, so that no limit is passed; they may go at any time.
pub(super) struct Connections {
    /// What all share who take nothing but a place among all: a million of them keep no memory for it.
    plain: Place,
    /// Those for whom more is written down.
    written: AtomicU32,
}

impl Connections {
    /// All of them.
    pub(super) fn all(&self) -> u32 {
        let plain = u32::try_from(self.plain.holders() - 1).unwrap_or(u32::MAX);
        plain.saturating_add(self.written.load(Ordering::Relaxed))
    }
}

/// The limits of what is held.
struct Limits {
    connections: Option<NonZeroU32>,
    per_user: Option<NonZeroU32>,
    per_address: Option<NonZeroU32>,
    channels: Bounds,
    patterns: Bounds,
}

/// The limits of channels, or of patterns.
struct Bounds {
    of_connection: Option<NonZeroU32>,
    of_address: Option<NonZeroU32>,
    of_node: Option<NonZeroU32>,
    /// Written down although there is no limit.
    always: bool,
}

impl Bounds {
    fn is_written_down(&self) -> bool {
        self.always || self.of_node.is_some() || self.of_address.is_some()
    }
}

/// What is written down, and only while it is not zero.
#[derive(Default)]
struct Books {
    carried: u32,
    users: HashMap<Uid, u32>,
    addresses: HashMap<IpAddr, u32>,
    /// Distinct ones of this node, each with how many connections hear it.
    heard: Heard,
    /// Distinct ones of each address. Clients that hear the same weigh no more than one.
    heard_by: HashMap<IpAddr, Heard>,
}

#[derive(Default)]
struct Heard {
    channels: HashMap<Interest, u32>,
    patterns: HashMap<Interest, u32>,
}

impl Heard {
    fn of_kind(&mut self, is_pattern: bool) -> &mut HashMap<Interest, u32> {
        if is_pattern { &mut self.patterns } else { &mut self.channels }
    }

    fn is_empty(&self) -> bool {
        self.channels.is_empty() && self.patterns.is_empty()
    }
}

/// How many channels and patterns a connection hears already.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// All of them, patterns included.
    pub channels: usize,
    /// The patterns among them.
    pub patterns: usize,
}

impl Ledger {
    pub(super) fn new(config: &Config, registry: &Registry) -> Result<Arc<Self>, prometheus::Error> {
        let connections = Arc::new(Connections { plain: Place::new(()), written: AtomicU32::new(0) });
        let gauges = Gauges::new(config, Arc::clone(&connections), registry)?;
        let limits = Limits {
            connections: config.connections,
            per_user: config.per_user,
            per_address: config.per_address,
            channels: Bounds {
                of_connection: config.channels_per_connection,
                of_address: config.channels_per_address,
                of_node: config.channels,
                always: false,
            },
            patterns: Bounds {
                of_connection: config.patterns_per_connection,
                of_address: config.patterns_per_address,
                of_node: config.patterns,
                always: true,
            },
        };
        Ok(Arc::new(Self { limits, books: Mutex::default(), connections, gauges }))
    }

    /// Writes one connection down.
    pub(super) fn enter(
        self: &Arc<Self>,
        user: Option<&Uid>,
        address: IpAddr,
        carried: bool,
    ) -> Result<Permit, TooMany> {
        let limits = &self.limits;
        let user = user.filter(|_| limits.per_user.is_some()).cloned();
        let address = limits.per_address.map(|_| network(address));
        let mut books = self.books.lock();
        if full(self.connections.all(), limits.connections) {
            return Err(TooMany::Node);
        }
        if user.as_ref().is_some_and(|user| full(count(&books.users, user), limits.per_user)) {
            return Err(TooMany::User);
        }
        if address.is_some_and(|address| full(count(&books.addresses, &address), limits.per_address)) {
            return Err(TooMany::Address);
        }
        if user.is_none() && address.is_none() && !carried {
            return Ok(Permit::Plain(self.connections.plain.clone()));
        }
        self.connections.written.fetch_add(1, Ordering::Relaxed);
        books.carried += u32::from(carried);
        if let Some(user) = &user {
            *books.users.entry(user.clone()).or_default() += 1;
        }
        if let Some(address) = address {
            *books.addresses.entry(address).or_default() += 1;
        }
        self.show(&books);
        drop(books);
        Ok(Permit::Written(Written { ledger: Arc::clone(self), carried, user, address, seats: None }))
    }

    /// Writes down what a connection is to hear: all of it or nothing. `None` when there is nothing to write down.
    pub(super) fn join(
        self: &Arc<Self>,
        address: IpAddr,
        already: Tally,
        interests: &[Interest],
    ) -> Result<Option<Seats>, TooMany> {
        self.check_connection(already, interests)?;
        let mut seats = Seats { ledger: Arc::clone(self), address: network(address), taken: Vec::new() };
        let mut books = self.books.lock();
        let mut refusal = None;
        for interest in interests {
            match self.take(&mut books, seats.address, interest) {
                Ok(true) => seats.taken.push(interest.clone()),
                Ok(false) => {}
                Err(error) => {
                    refusal = Some(error);
                    break;
                }
            }
        }
        if refusal.is_some() {
            // Within the same lock: nobody else is refused for the sake of what is not taken after all.
            seats.taken.drain(..).for_each(|interest| self.give_back(&mut books, seats.address, &interest));
        }
        self.show(&books);
        drop(books);
        match refusal {
            Some(error) => Err(error),
            None => Ok(Some(seats).filter(|seats| !seats.taken.is_empty())),
        }
    }

    fn check_connection(&self, already: Tally, interests: &[Interest]) -> Result<(), TooMany> {
        let patterns = interests.iter().filter(|interest| is_pattern(interest)).count();
        let over = |held: usize, more: usize, limit: Option<NonZeroU32>| {
            limit.is_some_and(|limit| held + more > limit.get() as usize)
        };
        if over(already.channels, interests.len(), self.limits.channels.of_connection) {
            return Err(TooMany::ChannelsOfConnection);
        }
        if over(already.patterns, patterns, self.limits.patterns.of_connection) {
            return Err(TooMany::PatternsOfConnection);
        }
        Ok(())
    }

    /// Takes one, and says whether it was written down.
    fn take(&self, books: &mut Books, address: IpAddr, interest: &Interest) -> Result<bool, TooMany> {
        let is_pattern = is_pattern(interest);
        let (bounds, of_address, of_node) = if is_pattern {
            (&self.limits.patterns, TooMany::PatternsOfAddress, TooMany::PatternsOfNode)
        } else {
            (&self.limits.channels, TooMany::ChannelsOfAddress, TooMany::ChannelsOfNode)
        };
        if !bounds.is_written_down() {
            return Ok(false);
        }
        // Another one who hears the same costs the bus nothing, so what is full is full for new ones only.
        if is_new_and_full(books.heard.of_kind(is_pattern), interest, bounds.of_node) {
            return Err(of_node);
        }
        if bounds.of_address.is_some() {
            // A refusal must not leave an address without anything behind.
            let empty = &mut Heard::default();
            let heard = books.heard_by.get_mut(&address).unwrap_or(empty);
            if is_new_and_full(heard.of_kind(is_pattern), interest, bounds.of_address) {
                return Err(of_address);
            }
            let heard = books.heard_by.entry(address).or_default();
            *heard.of_kind(is_pattern).entry(interest.clone()).or_default() += 1;
        }
        *books.heard.of_kind(is_pattern).entry(interest.clone()).or_default() += 1;
        Ok(true)
    }

    fn give_back(&self, books: &mut Books, address: IpAddr, interest: &Interest) {
        let is_pattern = is_pattern(interest);
        let bounds = if is_pattern { &self.limits.patterns } else { &self.limits.channels };
        give_back(books.heard.of_kind(is_pattern), interest.clone());
        if bounds.of_address.is_some()
            && let Entry::Occupied(mut heard) = books.heard_by.entry(address)
        {
            give_back(heard.get_mut().of_kind(is_pattern), interest.clone());
            if heard.get().is_empty() {
                heard.remove();
            }
        }
    }

    fn show(&self, books: &Books) {
        self.gauges.show(
            books.carried,
            self.limits.channels.is_written_down().then_some(books.heard.channels.len()),
            books.heard.patterns.len(),
        );
    }

    /// Everything that is written down, added up: connections, carried ones, users, addresses, channels and patterns of
    /// the node, and addresses that hear something.
    #[cfg(test)]
    pub(super) fn sums(&self) -> [usize; 7] {
        let books = self.books.lock();
        let (heard, by) = (&books.heard, books.heard_by.len());
        let (users, addresses) = (books.users.len(), books.addresses.len());
        let (connections, carried) = (self.connections.all() as usize, books.carried as usize);
        [connections, carried, users, addresses, heard.channels.len(), heard.patterns.len(), by]
    }

    /// How many connections each user and each address has.
    #[cfg(test)]
    pub(super) fn counts(&self) -> (Vec<u32>, Vec<u32>) {
        let books = self.books.lock();
        (books.users.values().copied().collect(), books.addresses.values().copied().collect())
    }

    /// How many channels and patterns an address hears.
    #[cfg(test)]
    pub(super) fn heard_by(&self, address: IpAddr) -> (usize, usize) {
        let books = self.books.lock();
        books.heard_by.get(&network(address)).map_or((0, 0), |heard| (heard.channels.len(), heard.patterns.len()))
    }
}

/// One connection's place. Dropping it gives the place back.
#[must_use = "the place is given back when this is dropped"]
pub enum Permit {
    /// A place among all.
    Plain(Place),
    /// More is written down for it.
    Written(Written),
}

/// What is written down for one connection. Dropping it takes it off.
pub struct Written {
    ledger: Arc<Ledger>,
    carried: bool,
    user: Option<Uid>,
    address: Option<IpAddr>,
    /// Few connections have any.
    seats: Option<Box<Seats>>,
}

/// Channels and patterns that a connection hears, as far as they are written down. Dropping it takes them off.
#[must_use = "they are given back when this is dropped"]
pub struct Seats {
    ledger: Arc<Ledger>,
    address: IpAddr,
    taken: Vec<Interest>,
}

impl Permit {
    /// Keeps what the connection hears together with its place.
    pub(super) fn keep(&mut self, seats: Option<Seats>) {
        let Some(seats) = seats.map(Box::new) else { return };
        match self {
            Self::Written(written) => written.seats = Some(seats),
            Self::Plain(_) => {
                let ledger = Arc::clone(&seats.ledger);
                ledger.connections.written.fetch_add(1, Ordering::Relaxed);
                let seats = Some(seats);
                *self = Self::Written(Written { ledger, carried: false, user: None, address: None, seats });
            }
        }
    }

    /// The place as a connection holds it, which lets it go when its goodbye begins: whoever is only waited for keeps
    /// nobody out.
    pub fn into_place(self) -> Place {
        match self {
            Self::Plain(place) => place,
            Self::Written(written) => Place::new(written),
        }
    }
}

impl Drop for Written {
    fn drop(&mut self) {
        let mut books = self.ledger.books.lock();
        self.ledger.connections.written.fetch_sub(1, Ordering::Relaxed);
        books.carried -= u32::from(self.carried);
        if let Some(user) = self.user.take() {
            give_back(&mut books.users, user);
        }
        if let Some(address) = self.address {
            give_back(&mut books.addresses, address);
        }
        self.ledger.show(&books);
    }
}

impl Drop for Seats {
    fn drop(&mut self) {
        if self.taken.is_empty() {
            return;
        }
        let mut books = self.ledger.books.lock();
        self.taken.iter().for_each(|interest| self.ledger.give_back(&mut books, self.address, interest));
        self.ledger.show(&books);
    }
}

fn is_pattern(interest: &Interest) -> bool {
    interest.depth() != Depth::Exact
}

fn is_new_and_full(heard: &HashMap<Interest, u32>, interest: &Interest, limit: Option<NonZeroU32>) -> bool {
    limit.is_some_and(|limit| heard.len() >= limit.get() as usize && !heard.contains_key(interest))
}

fn full(count: u32, limit: Option<NonZeroU32>) -> bool {
    limit.is_some_and(|limit| count >= limit.get())
}

fn count<K: Eq + Hash>(counts: &HashMap<K, u32>, key: &K) -> u32 {
    counts.get(key).copied().unwrap_or_default()
}

pub(super) fn give_back<K: Eq + Hash>(counts: &mut HashMap<K, u32>, key: K) {
    if let Entry::Occupied(mut entry) = counts.entry(key) {
        *entry.get_mut() -= 1;
        if *entry.get() == 0 {
            entry.remove();
        }
    }
}

/// What addresses are counted by.
pub(super) fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(v4) => v4.into(),
        IpAddr::V6(v6) => {
            let [a, b, c, d, ..] = v6.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
    }
}
