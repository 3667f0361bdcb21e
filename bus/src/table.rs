//! The node's interests, how many references each has, and the subscriptions at the server ("parts") that carry them.
//!
//! A pure state machine: it knows what must be asked of the server and what the server has acknowledged, and leaves
//! talking to the links. An exact channel is one part; `a/**` is the exact part and one for what lies below. Redis has
//! no pattern for one level, so `a/*` and `a/**` share the part below, and copies from deeper levels are not for `a/*`.
//!
//! Hundreds of thousands of exact interests are normal, so an interest has no record of its own: it lives in its first part.
//! Measured with 100,000 of them: 110 to 125 bytes each, the channel's name included, and 217 at a Redis server.

mod link;
mod lookup;
mod shared;
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

use lookup::{hash, hash_of};
pub(crate) use shared::Interests;

use crate::{InterestId, SubscribeError, Topic};

/// The interests that one copy is for.
pub(crate) type Ids = SmallVec<[InterestId; 2]>;

/// Bits of an [`InterestId`] that say which part it lives in; the rest counts up, so that no id comes twice.
const SLOT_BITS: u32 = 24;
/// The most parts there can be.
const MAX_PARTS: usize = 1 << SLOT_BITS;
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
}

/// What one subscription at the server covers of its base.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Reach {
    /// The channel itself.
    Exact,
    /// One level below it, where the server can tell levels apart.
    Children,
    /// All below it, without itself.
    Below,
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

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// To be asked for.
    Wanted,
    /// Asked for.
    Asked,
    /// Acknowledged.
    Standing,
    /// The server said no.
    Refused,
}

/// One subscription at the server, 64 bytes.
#[derive(Debug)]
struct Part {
    base: Address,
    /// The interests it serves, 0 for none: the narrow one (`a` or `a/*`) and the wide one (`a/**`).
    ids: [u64; 2],
    refs: [u32; 2],
    attempt: u32,
    lane: u16,
    reach: Reach,
    state: State,
    /// Stood on the link before, so that the link is not up until it stands again.
    resuming: bool,
    /// Stood before and was interrupted: what was published meanwhile is missing, which was not told yet.
    missed: bool,
}

const NARROW: usize = 0;
const WIDE: usize = 1;

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
    parts: Vec<Option<Part>>,
    free: Vec<u32>,
    index: HashTable<u32>,
    hasher: DefaultHashBuilder,
    waiting: HashMap<u64, SmallVec<[Waiter; 1]>>,
    lanes: Vec<Lane>,
    /// In which lane the channels of each slot of the cluster go. Empty: all in the first.
    routes: Vec<u16>,
    interests: u64,
    patterns: usize,
    standing: u64,
    refused: u64,
    last_id: u64,
    last_attempt: u32,
    closed: bool,
}

impl Table {
    /// An empty table with one lane, none when the layout is sharded.
    pub(crate) fn new(layout: Layout, prefix: Prefix) -> Self {
        Self {
            layout,
            prefix,
            parts: Vec::new(),
            free: Vec::new(),
            index: HashTable::new(),
            hasher: DefaultHashBuilder::default(),
            waiting: HashMap::new(),
            lanes: if layout == Layout::Sharded { Vec::new() } else { vec![Lane::default()] },
            routes: Vec::new(),
            interests: 0,
            patterns: 0,
            standing: 0,
            refused: 0,
            last_id: 0,
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
        let (reach, side) = self.first(depth)?;
        if self.parts.len() >= MAX_PARTS - 2 && self.free.len() < 2 {
            return Err(SubscribeError::NotNow(format!("this node has {MAX_PARTS} subscriptions already")));
        }
        let slot = self.part(&base, reach);
        let part = self.get_mut(slot);
        part.refs[side] += 1;
        if part.ids[side] == 0 {
            self.last_id += 1;
            let id = (self.last_id << SLOT_BITS) | u64::from(slot);
            self.get_mut(slot).ids[side] = id;
            self.interests += 1;
            if depth == Depth::Subtree {
                let below = self.part(&base, Reach::Below);
                let below = self.get_mut(below);
                (below.ids[WIDE], below.refs[WIDE]) = (id, 1);
            }
        }
        let id = self.get(slot).ids[side];
        if self.stands(id) {
            return Ok((InterestId(id), None));
        }
        self.ask_again_where_refused(id);
        let (waiter, wait) = oneshot::channel();
        self.waiting.entry(id).or_default().push(waiter);
        Ok((InterestId(id), Some(wait)))
    }

    /// Gives a reference back; an id that is no longer good is passed over.
    pub(crate) fn release(&mut self, InterestId(id): InterestId) {
        let slot = slot_of(id);
        let Some(Some(part)) = self.parts.get_mut(slot as usize) else { return };
        let Some(side) = part.ids.iter().position(|i| *i == id) else { return };
        part.refs[side] -= 1;
        if part.refs[side] > 0 {
            // Those whose call was dropped need not be told.
            if let Some(waiters) = self.waiting.get_mut(&id) {
                waiters.retain(|waiter| !waiter.is_closed());
            }
            return;
        }
        self.interests -= 1;
        self.waiting.remove(&id);
        let below = (part.reach == Reach::Exact && side == WIDE).then(|| part.base.clone());
        self.let_go(slot, side);
        if let Some(below) = below.and_then(|base| self.find(Reach::Below, &base)) {
            self.let_go(below, WIDE);
        }
    }

    /// No interest is taken any more, and nobody waits any longer.
    pub(crate) fn close(&mut self) {
        self.closed = true;
        for waiter in self.waiting.drain().flat_map(|(_, waiters)| waiters) {
            let _ = waiter.send(Err(SubscribeError::Closed));
        }
    }

    /// The part and side in which an interest of this depth lives.
    fn first(&self, depth: Depth) -> Result<(Reach, usize), SubscribeError> {
        match (depth, self.layout) {
            (Depth::Exact, _) => Ok((Reach::Exact, NARROW)),
            (_, Layout::Sharded) => Err(SubscribeError::Refused(
                "sharded pub/sub has no patterns; subscribe to the channels themselves, or set bus.pubsub to classic"
                    .to_owned(),
            )),
            (Depth::Subtree, _) => Ok((Reach::Exact, WIDE)),
            (Depth::Children, Layout::Redis) => Ok((Reach::Below, NARROW)),
            (Depth::Children, Layout::Nats) => Ok((Reach::Children, NARROW)),
        }
    }

    /// The slot of a part, which is made and asked for when it is not there.
    fn part(&mut self, base: &Address, reach: Reach) -> u32 {
        if let Some(slot) = self.find(reach, base) {
            return slot;
        }
        let lane = self.lane_of(base);
        let part = Part {
            base: base.clone(),
            ids: [0; 2],
            refs: [0; 2],
            attempt: 0,
            lane,
            reach,
            state: State::Wanted,
            resuming: false,
            missed: false,
        };
        let slot = self.free.pop().unwrap_or_else(|| {
            self.parts.push(None);
            u32::try_from(self.parts.len() - 1).expect("acquire keeps the number of parts below 2^24")
        });
        self.parts[slot as usize] = Some(part);
        self.patterns += usize::from(reach != Reach::Exact);
        let (hash, parts, hasher) = (hash(&self.hasher, reach, base), &self.parts, &self.hasher);
        self.index.insert_unique(hash, slot, |slot| {
            let part = parts[*slot as usize].as_ref().expect("the index names parts that are there");
            hash_of(hasher, part)
        });
        self.want(slot);
        slot
    }

    /// Takes one side off a part; the part goes with its last side.
    fn let_go(&mut self, slot: u32, side: usize) {
        let part = self.get_mut(slot);
        (part.ids[side], part.refs[side]) = (0, 0);
        if part.ids != [0; 2] {
            return;
        }
        let key = hash_of(&self.hasher, self.get(slot));
        if let Ok(entry) = self.index.find_entry(key, |found| *found == slot) {
            entry.remove();
        }
        if matches!(self.get(slot).state, State::Asked | State::Standing) {
            self.leave(slot);
        }
        self.unmark(slot);
        self.count(self.get(slot).state, None);
        let part = self.parts[slot as usize].take().expect("it was there above");
        self.free.push(slot);
        self.patterns -= usize::from(part.reach != Reach::Exact);
    }

    fn ask_again_where_refused(&mut self, id: u64) {
        for slot in self.slots(id) {
            if self.get(slot).state == State::Refused {
                self.want(slot);
            }
        }
    }

    // ---- counted ----

    /// Distinct interests.
    pub(crate) fn interests(&self) -> u64 {
        self.interests
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
        let order = |(slot, part): (usize, &Option<Part>)| {
            let part = part.as_ref().filter(|part| part.state == State::Standing)?;
            let slot = u32::try_from(slot).expect("acquire keeps the number of parts below 2^24");
            Some(Order { ticket: Ticket { slot, attempt: part.attempt }, base: part.base.clone(), reach: part.reach })
        };
        self.parts.iter().enumerate().filter_map(order).collect()
    }

    /// Whether anything is to be asked for or waits for its answer, for tests.
    #[cfg(test)]
    pub(crate) fn asks(&self) -> bool {
        let asks = |part: &Part| matches!(part.state, State::Wanted | State::Asked);
        self.parts.iter().flatten().any(asks) || self.lanes.iter().any(|lane| !lane.leaving.is_empty())
    }

    // ---- inside ----

    fn get(&self, slot: u32) -> &Part {
        self.parts[slot as usize].as_ref().expect("slots are passed around only while their part is there")
    }

    fn get_mut(&mut self, slot: u32) -> &mut Part {
        self.parts[slot as usize].as_mut().expect("slots are passed around only while their part is there")
    }

    fn at(&self, ticket: Ticket) -> Option<&Part> {
        self.parts.get(ticket.slot as usize)?.as_ref().filter(|part| part.attempt == ticket.attempt)
    }

    /// The lane that a subject belongs to.
    pub(crate) fn lane_of(&self, base: &Address) -> u16 {
        match self.layout {
            Layout::Redis | Layout::Nats => 0,
            Layout::Sharded => {
                let slot = redis_protocol::redis_keyslot(self.prefix.redis(base).as_bytes());
                self.routes.get(usize::from(slot)).copied().unwrap_or(NOWHERE)
            }
        }
    }

    /// The parts that an interest needs.
    fn slots(&self, id: u64) -> SmallVec<[u32; 2]> {
        let first = slot_of(id);
        let mut slots = SmallVec::new();
        slots.push(first);
        let part = self.get(first);
        if part.reach == Reach::Exact && part.ids[WIDE] == id {
            slots.extend(self.find(Reach::Below, &part.base));
        }
        slots
    }

    fn stands(&self, id: u64) -> bool {
        self.slots(id).iter().all(|slot| self.get(*slot).state == State::Standing)
    }

    /// Keeps the counts when a part changes its state or, with `None`, goes.
    fn count(&mut self, old: State, new: Option<State>) {
        for (gauge, state) in [(&mut self.standing, State::Standing), (&mut self.refused, State::Refused)] {
            *gauge += u64::from(new == Some(state));
            *gauge -= u64::from(old == state);
        }
    }
}

#[expect(clippy::cast_possible_truncation, reason = "the mask leaves 24 bits")]
fn slot_of(id: u64) -> u32 {
    (id & (MAX_PARTS as u64 - 1)) as u32
}
