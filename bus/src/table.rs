//! The node's interests, how many references each has, and the subscriptions at the server ("parts") that carry them.
//!
//! A pure state machine: it knows what must be asked of the server and what the server has acknowledged, and leaves
//! talking to the links. An exact channel is one part; `a/**` is the exact part and one for what lies below. Redis has
//! no pattern for one level, so `a/*` and `a/**` share the part below, and copies from deeper levels are not for `a/*`.
//!
//! Interests and parts have lives of their own: an interest names its parts, and a part what it carries. That is one
//! interest or two of one name, which lend it their name, or a *crowd*: any number of interests below one wildcard.
//!
//! Hundreds of thousands of exact interests are normal, so a record is 40 bytes and a part 20. Measured with 100,000 of
//! them: 120 bytes each, the channel's name included, and 217 at a Redis server.

mod link;
mod lookup;
mod part;
mod shared;
mod slots;
#[cfg(test)]
mod tests;

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use clarion_protocol::{Address, Depth, Prefix};
use hashbrown::{DefaultHashBuilder, HashTable};
use smallvec::SmallVec;
use tokio::sync::{Notify, oneshot};

use lookup::hash_of;
use part::{Crowd, Part};
pub(crate) use part::{Reach, State};
pub(crate) use shared::Interests;
use slots::Slots;

use crate::{InterestId, SubscribeError, Topic};

/// The interests that one copy is for.
pub(crate) type Ids = SmallVec<[InterestId; 2]>;

/// Bits of an [`InterestId`] and of a [`Ticket`]'s number that say where it is; the rest counts up, so that none comes twice.
const SLOT_BITS: u32 = 24;
/// The most interests, and the most parts, there can be.
const MAX_SLOTS: usize = 1 << SLOT_BITS;
/// No lane: where a part goes whose shard is not known yet.
const NOWHERE: u16 = u16::MAX;

/// How a bus writes interests as subscriptions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Layout {
    /// `SUBSCRIBE` and `PSUBSCRIBE`, whose patterns reach any depth.
    Redis,
    /// `SSUBSCRIBE`, which has no patterns.
    Sharded,
    /// `SUB a.b`, `SUB a.*` and `SUB a.>`.
    Nats,
    /// For tests: as for Redis, but one pattern carries all that lies one level below `crowd`.
    #[cfg(test)]
    Crowds,
}

/// Names one attempt to subscribe one part, so that a late acknowledgement is not taken for a newer one's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Ticket {
    slot: u32,
    attempt: u32,
}

impl Ticket {
    /// One number for both, never the same for two attempts that are alive; NATS takes it as subscription id.
    pub(crate) fn number(self) -> u64 {
        (u64::from(self.attempt) << SLOT_BITS) | u64::from(self.slot)
    }

    /// The ticket of a number.
    pub(crate) fn of_number(number: u64) -> Self {
        Self { slot: slot_of(number), attempt: u32::try_from(number >> SLOT_BITS).unwrap_or(u32::MAX) }
    }
}

/// A subscription to ask for or to give up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Order {
    pub(crate) ticket: Ticket,
    /// The channel, or the base of the pattern.
    pub(crate) base: Address,
    pub(crate) reach: Reach,
}

/// What a link is to ask of its server next: first to leave, then to join.
///
/// A part that is asked for anew while it is being given up stands in both, so the order between them matters.
#[derive(Debug, Default)]
pub(crate) struct Work {
    pub(crate) leave: Vec<Order>,
    pub(crate) join: Vec<Order>,
}

impl Work {
    pub(crate) fn is_empty(&self) -> bool {
        self.leave.is_empty() && self.join.is_empty()
    }
}

/// An interest, 40 bytes.
#[derive(Debug)]
struct Record {
    base: Address,
    /// What of its id is above the slot, which has 40 bits: the low ones here, the high ones below.
    serial: u32,
    refs: u32,
    /// Its first part. The second one of a subtree is in [`Table::seconds`], since few are.
    part: u32,
    depth: Depth,
    serial_high: u8,
}

impl Record {
    fn id(&self, slot: u32) -> InterestId {
        let serial = (u64::from(self.serial_high) << 32) | u64::from(self.serial);
        InterestId((serial << SLOT_BITS) | u64::from(slot))
    }
}

/// A part that an interest needs.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Need {
    reach: Reach,
    /// The wildcard's base, when the part carries a crowd.
    crowd: Option<Address>,
}

impl From<Reach> for Need {
    fn from(reach: Reach) -> Self {
        Self { reach, crowd: None }
    }
}

/// What one link has to do.
#[derive(Debug, Default)]
struct Lane {
    /// May hold tickets that are no longer good; they are passed over.
    wanted: VecDeque<Ticket>,
    leaving: Vec<Order>,
    resuming: usize,
    work: Arc<Notify>,
}

type Waiter = oneshot::Sender<Result<(), SubscribeError>>;
/// Says when an interest stands, or why it never will.
pub(crate) type Wait = oneshot::Receiver<Result<(), SubscribeError>>;

/// See the module.
#[derive(Debug)]
pub(crate) struct Table {
    layout: Layout,
    prefix: Prefix,
    records: Slots<Record>,
    /// Interests by their names, whatever their depth.
    index: HashTable<u32>,
    hasher: DefaultHashBuilder,
    parts: Slots<Part>,
    seconds: HashMap<u32, u32>,
    crowds: HashMap<u32, Crowd>,
    crowd_parts: HashMap<Address, u32>,
    waiting: HashMap<u32, SmallVec<[Waiter; 1]>>,
    lanes: Vec<Lane>,
    /// In which lane the channels of each slot of the cluster go. Empty: all in the first.
    routes: Vec<u16>,
    patterns: usize,
    standing: u64,
    refused: u64,
    last_serial: u64,
    last_attempt: u32,
    closed: bool,
}

impl Table {
    /// An empty table with one lane, none when the layout is sharded.
    pub(crate) fn new(layout: Layout, prefix: Prefix) -> Self {
        Self {
            layout,
            prefix,
            records: Slots::default(),
            index: HashTable::new(),
            hasher: DefaultHashBuilder::default(),
            parts: Slots::default(),
            seconds: HashMap::new(),
            crowds: HashMap::new(),
            crowd_parts: HashMap::new(),
            waiting: HashMap::new(),
            lanes: if layout == Layout::Sharded { Vec::new() } else { vec![Lane::default()] },
            routes: Vec::new(),
            patterns: 0,
            standing: 0,
            refused: 0,
            last_serial: 0,
            last_attempt: 0,
            closed: false,
        }
    }

    // ---- what the node wants ----

    /// Adds a reference. The receiver, where there is one, says when the interest stands.
    pub(crate) fn acquire(&mut self, topic: &Topic) -> Result<(InterestId, Option<Wait>), SubscribeError> {
        if self.closed {
            return Err(SubscribeError::Closed);
        }
        let (base, depth) = match topic {
            Topic::Channels(interest) => (interest.base_channel().into(), interest.depth()),
            Topic::Internal(name) => (name.clone().into(), Depth::Exact),
        };
        let needs = self.needs(&base, depth)?;
        if self.parts.are_full() || self.records.are_full() {
            return Err(SubscribeError::NotNow(format!("this node has {MAX_SLOTS} subscriptions already")));
        }
        let slot = match self.record(&base, depth) {
            Some(slot) => slot,
            None => self.add(base, depth, &needs),
        };
        let record = self.records.get_mut(slot);
        record.refs += 1;
        let id = record.id(slot);
        if self.stands(slot) {
            return Ok((id, None));
        }
        self.ask_again_where_refused(slot);
        let (waiter, wait) = oneshot::channel();
        self.waiting.entry(slot).or_default().push(waiter);
        Ok((id, Some(wait)))
    }

    /// Gives a reference back; an id that is no longer good is passed over.
    pub(crate) fn release(&mut self, id: InterestId) {
        let slot = slot_of(id.0);
        let Some(record) = self.records.try_get_mut(slot).filter(|record| record.id(slot) == id) else { return };
        record.refs -= 1;
        if record.refs > 0 {
            // Those whose call was dropped need not be told.
            if let Some(waiters) = self.waiting.get_mut(&slot) {
                waiters.retain(|waiter| !waiter.is_closed());
            }
            return;
        }
        self.waiting.remove(&slot);
        for part in self.parts_of(slot) {
            self.let_go(part, slot);
        }
        self.seconds.remove(&slot);
        let hash = hash_of(&self.hasher, &self.records.get(slot).base);
        if let Ok(entry) = self.index.find_entry(hash, |found| *found == slot) {
            entry.remove();
        }
        self.records.take(slot);
    }

    /// No interest is taken any more, and nobody waits any longer.
    pub(crate) fn close(&mut self) {
        self.closed = true;
        for waiter in self.waiting.drain().flat_map(|(_, waiters)| waiters) {
            let _ = waiter.send(Err(SubscribeError::Closed));
        }
    }

    /// The parts that an interest needs: the server has no others for it.
    fn needs(&self, base: &Address, depth: Depth) -> Result<SmallVec<[Need; 2]>, SubscribeError> {
        if let Some(crowd) = self.crowd(base).filter(|_| depth == Depth::Exact) {
            return Ok([Need { reach: Reach::Below, crowd: Some(crowd) }].into_iter().collect());
        }
        let reaches: &[Reach] = match (depth, self.layout) {
            (Depth::Exact, _) => &[Reach::Exact],
            (_, Layout::Sharded) => {
                return Err(SubscribeError::Refused(
                    "sharded pub/sub has no patterns; subscribe to the channels themselves, or set bus.pubsub to classic"
                        .to_owned(),
                ));
            }
            (Depth::Subtree, _) => &[Reach::Exact, Reach::Below],
            (Depth::Children, Layout::Nats) => &[Reach::Children],
            (Depth::Children, _) => &[Reach::Below],
        };
        Ok(reaches.iter().copied().map(Need::from).collect())
    }

    /// The wildcard that carries a channel together with others: none on the buses there are.
    #[cfg_attr(not(test), expect(unused_variables, reason = "only the layout for tests looks at it"))]
    fn crowd(&self, base: &Address) -> Option<Address> {
        match self.layout {
            Layout::Redis | Layout::Sharded | Layout::Nats => None,
            #[cfg(test)]
            Layout::Crowds => tests::crowd_of(base),
        }
    }

    /// Takes a new interest in, with its parts, and asks for those that are not there.
    fn add(&mut self, base: Address, depth: Depth, needs: &[Need]) -> u32 {
        self.last_serial += 1;
        let (serial, serial_high) = split(self.last_serial);
        let hash = hash_of(&self.hasher, &base);
        let parts: SmallVec<[_; 2]> = needs.iter().map(|need| self.part(need, &base)).collect();
        let part = parts.iter().flatten().next().copied().unwrap_or(NO_SLOT);
        let slot = self.records.put(Record { base, serial, refs: 0, part, depth, serial_high });
        let (records, hasher) = (&self.records, &self.hasher);
        self.index.insert_unique(hash, slot, |slot| hash_of(hasher, &records.get(*slot).base));
        for (at, (need, found)) in needs.iter().zip(parts).enumerate() {
            let part = match found {
                Some(part) => {
                    self.carry(part, slot);
                    part
                }
                None => self.make(need, slot),
            };
            if at == 0 {
                self.records.get_mut(slot).part = part;
            } else {
                self.seconds.insert(slot, part);
            }
        }
        slot
    }

    /// Makes a part for an interest and asks for it.
    fn make(&mut self, need: &Need, interest: u32) -> u32 {
        let base = need.crowd.as_ref().unwrap_or(&self.records.get(interest).base);
        let lane = self.lane_of(base);
        let slot = self.parts.put(Part::new(need.reach, lane, need.crowd.is_none().then_some(interest)));
        if let Some(base) = &need.crowd {
            self.crowd_parts.insert(base.clone(), slot);
            self.crowds.insert(slot, Crowd::new(base.clone(), interest));
        }
        self.patterns += usize::from(need.reach != Reach::Exact);
        self.want(slot);
        slot
    }

    /// Takes an interest off a part; the part goes with its last one.
    fn let_go(&mut self, slot: u32, interest: u32) {
        let last = match self.crowds.get_mut(&slot) {
            Some(crowd) => crowd.drop(interest),
            None => self.parts.get_mut(slot).drop(interest),
        };
        if !last {
            return;
        }
        let base = match self.crowds.remove(&slot) {
            Some(crowd) => {
                self.crowd_parts.remove(&crowd.base);
                crowd.base
            }
            None => self.records.get(interest).base.clone(),
        };
        if matches!(self.parts.get(slot).state, State::Asked | State::Standing) {
            self.leave(slot, base);
        }
        self.unmark(slot);
        self.count(self.parts.get(slot).state, None);
        let part = self.parts.take(slot);
        self.patterns -= usize::from(part.reach != Reach::Exact);
    }

    fn carry(&mut self, slot: u32, interest: u32) {
        match self.crowds.get_mut(&slot) {
            Some(crowd) => crowd.add(interest),
            None => self.parts.get_mut(slot).add(interest),
        }
    }

    fn ask_again_where_refused(&mut self, interest: u32) {
        for slot in self.parts_of(interest) {
            if self.parts.get(slot).state == State::Refused {
                self.want(slot);
            }
        }
    }

    // ---- counted ----

    /// Distinct interests.
    pub(crate) fn interests(&self) -> u64 {
        self.index.len() as u64
    }

    /// Parts that stand.
    pub(crate) fn standing(&self) -> u64 {
        self.standing
    }

    /// Parts that the server refuses although somebody holds them.
    pub(crate) fn refused(&self) -> u64 {
        self.refused
    }

    /// The parts that stand, for tests.
    #[cfg(test)]
    pub(crate) fn standing_orders(&self) -> Vec<Order> {
        let standing = self.parts.all().filter(|(_, part)| part.state == State::Standing);
        standing.map(|(slot, _)| self.order(slot)).collect()
    }

    /// Whether anything is to be asked for or waits for its answer, for tests.
    #[cfg(test)]
    pub(crate) fn asks(&self) -> bool {
        let asks = |part: &Part| matches!(part.state, State::Wanted | State::Asked);
        self.parts.all().any(|(_, part)| asks(part)) || self.lanes.iter().any(|lane| !lane.leaving.is_empty())
    }

    // ---- inside ----

    fn at(&self, ticket: Ticket) -> Option<&Part> {
        self.parts.try_get(ticket.slot).filter(|part| part.attempt == ticket.attempt)
    }

    /// The channel of a part, or the base of its pattern.
    fn base_of(&self, part: u32) -> &Address {
        match self.parts.get(part).first() {
            Some(interest) => &self.records.get(interest).base,
            None => &self.crowds[&part].base,
        }
    }

    /// The interests that a part carries.
    fn carried(&self, part: u32) -> SmallVec<[u32; 2]> {
        match self.crowds.get(&part) {
            Some(crowd) => crowd.all().collect(),
            None => self.parts.get(part).carried().collect(),
        }
    }

    /// A part as it is asked for.
    fn order(&self, slot: u32) -> Order {
        let part = self.parts.get(slot);
        let ticket = Ticket { slot, attempt: part.attempt };
        Order { ticket, base: self.base_of(slot).clone(), reach: part.reach }
    }

    /// The lane that a subject belongs to.
    pub(crate) fn lane_of(&self, base: &Address) -> u16 {
        match self.layout {
            Layout::Redis | Layout::Nats => 0,
            #[cfg(test)]
            Layout::Crowds => 0,
            Layout::Sharded => {
                let slot = redis_protocol::redis_keyslot(self.prefix.redis(base).as_bytes());
                self.routes.get(usize::from(slot)).copied().unwrap_or(NOWHERE)
            }
        }
    }

    /// The parts of an interest.
    fn parts_of(&self, interest: u32) -> SmallVec<[u32; 2]> {
        let record = self.records.get(interest);
        let second = if record.depth == Depth::Subtree { self.seconds.get(&interest).copied() } else { None };
        std::iter::once(record.part).chain(second).collect()
    }

    fn stands(&self, interest: u32) -> bool {
        self.parts_of(interest).iter().all(|part| self.parts.get(*part).state == State::Standing)
    }

    /// Keeps the counts when a part changes its state or, with `None`, goes.
    fn count(&mut self, old: State, new: Option<State>) {
        for (gauge, state) in [(&mut self.standing, State::Standing), (&mut self.refused, State::Refused)] {
            *gauge += u64::from(new == Some(state));
            *gauge -= u64::from(old == state);
        }
    }
}

/// No slot: what a record names for the moment until its part is made.
const NO_SLOT: u32 = u32::MAX;

#[expect(clippy::cast_possible_truncation, reason = "these are the parts of a number")]
fn split(serial: u64) -> (u32, u8) {
    (serial as u32, (serial >> 32) as u8)
}

#[expect(clippy::cast_possible_truncation, reason = "the mask leaves 24 bits")]
fn slot_of(id: u64) -> u32 {
    (id & (MAX_SLOTS as u64 - 1)) as u32
}
