//! Who is connected: a shard's records, and what is read from, written to and done about each of them.
//!
//! The roster knows of audiences only where a seat sits in them. Whoever leaves is noted as vacated, and taken out of the
//! audiences before the next message is written.

mod catch_up;
mod closing;
mod heartbeat;
mod notices;
mod opening;
mod reading;
mod record;
mod seats;
mod writing;

#[cfg(test)]
mod tests;

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, atomic::Ordering},
};

use mio::Registry;
use slab::Slab;
use smallvec::SmallVec;
use tokio::sync::oneshot;

use self::{
    catch_up::CatchUp,
    notices::Marked,
    reading::Replies,
    record::Record,
    seats::{Seat, Seats, State},
};
pub(crate) use self::{
    record::Key,
    seats::outranks,
    writing::{Given, Lost},
};
use crate::{
    audiences::Spot,
    clock::{Clock, Time},
    connection::{Phase, Tick},
    framing::Framing,
    metrics::End,
    outbox::SlowPolicy,
    seat::{Fed, SeatId},
    shard::{Common, Inbox},
    ticket::ConnectionKey,
    users::Place,
    wheel::Wheel,
};

/// What one read can bring: a few of the largest frames, or many small ones.
const READ_BYTES: usize = 64 * 1024;

/// A shard's connections.
pub(crate) struct Roster {
    shard: u16,
    registry: Registry,
    inbox: Arc<Inbox>,
    common: Arc<Common>,
    records: Slab<Record>,
    /// The serial number of the last record.
    serial: u32,
    wheel: Wheel,
    clock: Clock,
    /// The tick in which this turn began.
    now: Tick,
    /// Every socket is read into this.
    buffer: Vec<u8>,
    /// What the client that is being read from is answered.
    replies: Replies,
    /// Sockets that may have more to say than their share of a turn.
    unread: Vec<Key>,
    /// Sockets that may take more than their share of a turn.
    unwritten: Vec<Key>,
    /// Connections that the wheel has an entry for since they were in the middle of a message.
    unfinished: HashSet<u32>,
    /// Where the search for connections to close goes on.
    close_cursor: usize,
    /// Seats that were left and still have their places in the audiences.
    vacated: Vec<Vacated>,
    /// Seats that do not hear all that comes: they were not fed the whole log yet, or may have had what comes from it.
    catching_up: HashMap<(u32, u16), CatchUp>,
    /// Where those sit who hear all again.
    caught_up: Vec<Spot>,
    /// Who waits until a client has taken the page that it was fed.
    feeding: HashMap<u32, SmallVec<[Feeder; 1]>>,
    /// Connections whose cursors no single message can name.
    marked: HashMap<u32, Marked>,
    /// Those of them that are to be told something at the end of this turn.
    moved_marks: Vec<u32>,
}

/// Who fed a seat, and what it is told when its page was taken.
type Feeder = (oneshot::Sender<Fed>, Fed);

/// A seat that was left.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Vacated {
    pub spot: Spot,
    index: u32,
    seat: u16,
}

impl Roster {
    pub(crate) fn new(shard: u16, registry: Registry, inbox: Arc<Inbox>, common: Arc<Common>) -> Self {
        let clock = Clock::new();
        let now = clock.tick(Time::now());
        Self {
            shard,
            registry,
            inbox,
            common,
            records: Slab::new(),
            serial: 0,
            wheel: Wheel::new(now),
            clock,
            now,
            buffer: vec![0; READ_BYTES],
            replies: Replies::default(),
            unread: Vec::new(),
            unwritten: Vec::new(),
            unfinished: HashSet::new(),
            close_cursor: 0,
            vacated: Vec::new(),
            catching_up: HashMap::new(),
            caught_up: Vec::new(),
            feeding: HashMap::new(),
            marked: HashMap::new(),
            moved_marks: Vec::new(),
        }
    }

    /// Looks at the clock: what is done from here on is of this turn.
    pub(crate) fn begin_turn(&mut self) {
        self.now = self.clock.tick(Time::now());
    }

    /// Whether nobody is here.
    pub(crate) fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Whether somebody's share of a turn ended before there was nothing to do.
    pub(crate) fn has_more(&self) -> bool {
        !self.unread.is_empty() || !self.unwritten.is_empty()
    }

    /// When somebody is to be looked at next.
    pub(crate) fn next_due(&self) -> Option<Time> {
        self.wheel.next().map(|tick| self.clock.begin(tick))
    }

    /// The record that a key names, if it still does.
    fn record(&mut self, key: Key) -> Option<&mut Record> {
        self.records.get_mut(key.index as usize).filter(|record| record.serial == key.serial)
    }

    /// What a connection is called outside of its shard.
    pub(crate) fn name_of(&self, key: Key) -> ConnectionKey {
        ConnectionKey { shard: self.shard, key }
    }

    /// The connection at a place.
    pub(crate) fn key_at(&self, index: u32) -> Option<Key> {
        self.records.get(index as usize).map(|record| Key { index, serial: record.serial })
    }

    // ---- seats ----

    /// What is around the messages of a connection that is open.
    pub(crate) fn framing(&mut self, key: Key) -> Option<Framing> {
        self.record(key).filter(|record| record.is_open()).map(|record| record.framing)
    }

    /// The seats of the connection at a place.
    pub(crate) fn seats_mut(&mut self, index: u32) -> Option<&mut Seats> {
        self.records.get_mut(index as usize).map(|record| &mut record.cold.seats)
    }

    /// The seat that a connection has in an audience already.
    pub(crate) fn seat_in(&self, index: u32, audience: u32) -> Option<SeatId> {
        let seats = &self.records.get(index as usize)?.cold.seats;
        let (index, seat) = seats.iter().find(|(_, seat)| seat.spot.audience == audience)?;
        Some(SeatId { index, serial: seat.serial })
    }

    /// Gives a connection a seat, whose spot is told by [`Roster::settle_in`] once it is known.
    pub(crate) fn add_seat(&mut self, index: u32, slow: SlowPolicy, joining: bool) -> Option<SeatId> {
        let state = if joining { State::Joining } else { State::Live };
        let spot = Spot { audience: u32::MAX, position: 0 };
        let id = self.seats_mut(index)?.add(Seat { spot, serial: 0, slow, state });
        if joining {
            self.catching_up.insert((index, id.index), CatchUp::default());
        }
        Some(id)
    }

    /// Tells where a seat sits.
    pub(crate) fn settle_in(&mut self, index: u32, seat: SeatId, spot: Spot) {
        if let Some(seat) = self.seats_mut(index).and_then(|seats| seats.at_mut(seat.index)) {
            seat.spot = spot;
        }
    }

    /// Where a seat sits, if its name is still good.
    pub(crate) fn spot_of(&mut self, key: Key, id: SeatId) -> Option<Spot> {
        let seats = &self.record(key)?.cold.seats;
        seats.at(id.index).filter(|seat| seat.serial == id.serial).map(|seat| seat.spot)
    }

    /// Gives a seat up; where the seats sit that have no rival any more and are not catching up.
    pub(crate) fn leave_seat(&mut self, key: Key, id: SeatId) -> SmallVec<[Spot; 4]> {
        let Some(record) = self.record(key).filter(|record| record.cold.seats.holds(id)) else {
            return SmallVec::new();
        };
        let seats = &mut record.cold.seats;
        let Some(spot) = seats.at(id.index).map(|seat| seat.spot) else { return SmallVec::new() };
        let freed = seats.remove_rival(id.index);
        let freed: SmallVec<[(u16, Spot); 4]> =
            freed.into_iter().filter_map(|seat| seats.at(seat).map(|it| (seat, it.spot))).collect();
        seats.remove(id.index);
        self.vacated.push(Vacated { spot, index: key.index, seat: id.index });
        self.stop_catching_up(key.index, id.index);
        freed
            .into_iter()
            .filter(|(seat, _)| !self.is_marked(key.index) && !self.catching_up.contains_key(&(key.index, *seat)))
            .map(|(_, spot)| spot)
            .collect()
    }

    /// The next seat that was left, to be taken out of its audience.
    pub(crate) fn next_vacated(&mut self) -> Option<Vacated> {
        self.vacated.pop()
    }

    /// A member got another place in its audience.
    pub(crate) fn moved(&mut self, index: u32, seat: u16, position: u32) {
        // One that is about to be taken out as well has no record to be noted in.
        let left = self.vacated.iter_mut().find(|left| (left.index, left.seat) == (index, seat));
        if let Some(left) = left {
            left.spot.position = position;
        } else if let Some(its) = self.seats_mut(index).and_then(|seats| seats.at_mut(seat)) {
            its.spot.position = position;
        }
    }

    /// The next seat that hears all again.
    pub(crate) fn next_caught_up(&mut self) -> Option<Spot> {
        self.caught_up.pop()
    }

    /// Ends what the thread's end left behind, so that leases are given back and the counters are right before it is joined.
    pub(crate) fn end_all(&mut self) {
        let left: Vec<Key> =
            self.records.iter().map(|(index, record)| Key { index: index as u32, serial: record.serial }).collect();
        for key in left {
            self.remove(key, None);
        }
    }

    /// Takes a connection's seats, place and name among the users from it, and gives it some time to end.
    fn part(&mut self, key: Key, phase: Phase, end: End) {
        let deadline = self.now + self.common.settings.close;
        let Some(record) = self.record(key) else { return };
        let was_open = record.is_open();
        record.phase = phase;
        record.resume_reading();
        if phase != Phase::Closing {
            // While our goodbye is on its way the client's is awaited, which may follow the rest of a message.
            record.cold.connection.incoming = None;
        }
        if !was_open {
            return;
        }
        record.pulse.next = deadline;
        self.wheel.schedule(key.index, deadline);
        self.inbox.closing.fetch_add(1, Ordering::Relaxed);
        self.common.metrics.ended(end);
        self.give_back(key);
    }

    /// Gives back what a connection has taken: its seats, its place among all, its name among the users.
    fn give_back(&mut self, key: Key) {
        let Some(record) = self.record(key) else { return };
        let seats = std::mem::take(&mut record.cold.seats);
        let user = record.cold.connection.user.take();
        // Others may have the place from now on: a client that does not answer its goodbye keeps nobody out.
        drop(record.cold.connection.lease.take());
        for (seat, its) in seats.iter() {
            self.vacated.push(Vacated { spot: its.spot, index: key.index, seat });
            self.stop_catching_up(key.index, seat);
        }
        if !self.feeding.is_empty()
            && let Some(waiting) = self.feeding.remove(&key.index)
        {
            for (feeder, _) in waiting {
                let _ = feeder.send(Fed::Gone);
            }
        }
        if !self.marked.is_empty() {
            self.marked.remove(&key.index);
        }
        if let Some(user) = user {
            self.common.users.leave(&user, Place { shard: self.shard, key });
        }
    }

    /// A connection is gone, wherever it was.
    pub(crate) fn lose(&mut self, key: Key) {
        self.remove(key, Some(End::Lost));
    }

    /// Forgets a connection. Its end is counted unless it was when the goodbyes began.
    pub(crate) fn remove(&mut self, key: Key, end: Option<End>) {
        let Some(record) = self.record(key) else { return };
        let was_open = record.is_open();
        self.give_back(key);
        let record = self.records.remove(key.index as usize);
        self.common.metrics.connections(record.door).dec();
        drop(record);
        self.inbox.connections.fetch_sub(1, Ordering::Relaxed);
        if !was_open {
            self.inbox.closing.fetch_sub(1, Ordering::Relaxed);
        } else if let Some(end) = end {
            self.common.metrics.ended(end);
        }
    }
}
