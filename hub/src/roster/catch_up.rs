//! Seats between the log and what comes now. This is the only place where the two meet, for every door.
//!
//! While a seat is joining, live messages wait for it, within the bound of its connection; pages of the log are written as
//! they come, and what they had is dropped from those that wait. After the last page the seat goes live. A copy of
//! something that a page had may still be on its way from the bus then, so a place is remembered until it is passed.

use bytes::Bytes;
use clarion_protocol::Position;
use smallvec::SmallVec;
use tokio::sync::oneshot;

use super::{
    Roster,
    record::Key,
    seats::State,
    writing::{Given, Lost},
};
use crate::{
    audiences::Spot,
    batch::Delivered,
    framing::Format,
    outbox::SlowPolicy,
    run::{Piece, Run},
    seat::{Fed, Page, Reached, SeatId},
};

/// What a message that waits costs beside its bytes.
const HELD_BYTES: usize = size_of::<Held>();

/// How far a seat has come between the log and what comes now.
#[derive(Debug, Default)]
pub(super) struct CatchUp {
    /// Live messages that came while the log was read.
    held: Vec<Held>,
    /// What they cost.
    bytes: usize,
    /// There were more than the connection may hold, so the log must be read on.
    behind: bool,
    /// How far the pages came, for each partition whose next message was not seen yet.
    up_to: Vec<Reached>,
}

#[derive(Debug)]
struct Held {
    piece: Piece,
    bytes: Bytes,
}

impl CatchUp {
    /// Whether a page had this one.
    fn had(&self, position: Option<&Position>) -> bool {
        let Some(position) = position else { return false };
        self.up_to.iter().any(|reached| reached.epoch == position.epoch && position.offset <= reached.offset)
    }

    /// Keeps one that came too early, as long as there is room.
    fn hold(&mut self, piece: &Piece, bytes: &[u8], room: usize) {
        if self.behind || self.had(position(piece)) {
            return;
        }
        self.bytes += bytes.len() + HELD_BYTES;
        if self.bytes > room {
            // All of it is in the log, and will be read from there.
            (self.held, self.bytes, self.behind) = (Vec::new(), 0, true);
            return;
        }
        let piece = Piece { end: 0, channel: piece.channel.clone(), meta: piece.meta.clone() };
        self.held.push(Held { piece, bytes: Bytes::copy_from_slice(bytes) });
    }

    /// Notes how far the pages came, and drops what they had.
    fn reach(&mut self, up_to: Vec<Reached>) {
        for reached in up_to {
            match self.up_to.iter_mut().find(|known| known.epoch == reached.epoch) {
                Some(known) => known.offset = known.offset.max(reached.offset),
                None => self.up_to.push(reached),
            }
        }
        let mut held = std::mem::take(&mut self.held);
        held.retain(|held| !self.had(position(&held.piece)));
        self.bytes = held.iter().map(|held| held.bytes.len() + HELD_BYTES).sum();
        self.held = held;
    }

    /// Whether a live seat is written this one. A message beyond the place in its partition ends the watch for it.
    fn passes(&mut self, piece: &Piece) -> bool {
        let position = position(piece);
        if self.had(position) {
            return false;
        }
        if let Some(position) = position {
            self.up_to.retain(|reached| reached.epoch != position.epoch);
        }
        true
    }
}

fn position(piece: &Piece) -> Option<&Position> {
    piece.meta.as_ref()?.position.as_ref()
}

impl Roster {
    /// Puts into `own` what one seat is written of a run: what no more specific seat of its connection brings, and no page
    /// had. `false` when that is the whole run. What is to wait is kept.
    pub(crate) fn select(&mut self, index: u32, seat: u16, run: &Run, own: &mut Run) -> bool {
        let Some(record) = self.records.get(index as usize) else { return false };
        let rivals = record.cold.seats.rivals(seat);
        let state = record.cold.seats.at(seat).map_or(State::Vacant, |seat| seat.state);
        let waiting = record.outbox.as_ref().map_or(0, |outbox| outbox.bytes());
        let room = self.common.settings.outbox_bytes.saturating_sub(waiting);
        let marked = self.is_marked(index);
        let mut passed = SmallVec::<[Position; 4]>::new();
        let mut catch_up = self.catching_up.get_mut(&(index, seat));
        own.clear();
        for (piece, bytes) in run.iter() {
            if rivals.iter().any(|(_, rival)| rival.matches(piece.channel.as_str())) {
                continue;
            }
            let passes = match &mut catch_up {
                None => true,
                Some(catch_up) if state == State::Joining => {
                    catch_up.hold(piece, bytes, room);
                    false
                }
                Some(catch_up) => catch_up.passes(piece),
            };
            if passes {
                passed.extend(position(piece).filter(|_| marked).cloned());
                own.push(&piece.channel, piece.meta.as_ref(), |out| out.extend_from_slice(bytes));
            }
        }
        let caught_up = state == State::Live && catch_up.is_some_and(|catch_up| catch_up.up_to.is_empty());
        passed.iter().for_each(|position| self.note_passed(index, Some(position)));
        if caught_up {
            self.catching_up.remove(&(index, seat));
            self.note_caught_up(index, seat);
        }
        own.messages() < run.messages()
    }

    /// A seat that nothing holds back any more is written to directly.
    fn note_caught_up(&mut self, index: u32, seat: u16) {
        let Some(record) = self.records.get(index as usize).filter(|_| !self.is_marked(index)) else { return };
        if record.cold.seats.rivals(seat).is_empty()
            && let Some(seat) = record.cold.seats.at(seat)
        {
            self.caught_up.push(seat.spot);
        }
    }

    /// Writes a page of the log to a seat that is joining. `reply` is told when its client has taken the page.
    pub(crate) fn feed(&mut self, key: Key, id: SeatId, format: Format, page: Page, reply: oneshot::Sender<Fed>) {
        let joining = |record: &mut super::Record| {
            record.cold.seats.holds(id) && record.cold.seats.at(id.index).is_some_and(|s| s.state == State::Joining)
        };
        if !self.record(key).is_some_and(joining) {
            let _ = reply.send(Fed::Gone);
            return;
        }
        for notice in &page.notices {
            self.notify(key, format.wording(), notice);
        }
        // A client that cannot be told is let go.
        if !self.record(key).is_some_and(joining) {
            let _ = reply.send(Fed::Gone);
            return;
        }
        let mut run = Run::default();
        let rivals = self.records[key.index as usize].cold.seats.rivals(id.index);
        for (channel, message) in page.messages {
            if rivals.iter().any(|(_, rival)| rival.matches(channel.as_str())) {
                continue;
            }
            let meta = message.meta.clone();
            let message = Delivered::alone(channel, message);
            run.push(&message.channel, meta.as_ref(), |out| message.encode(format, out));
        }
        let place = (key.index, id.index);
        // What the pages had is told when all seats are released; what waited came live.
        let mut live = Vec::new();
        let fed = match self.catching_up.get_mut(&place) {
            None => Fed::Gone,
            Some(catch_up) => {
                catch_up.reach(page.up_to);
                match (page.last, std::mem::take(&mut catch_up.behind)) {
                    (false, behind) => {
                        catch_up.behind = behind;
                        Fed::Next
                    }
                    (true, true) => Fed::Behind,
                    (true, false) => {
                        let held = std::mem::take(&mut catch_up.held);
                        catch_up.bytes = 0;
                        for Held { piece, bytes } in held {
                            live.extend(position(&piece).cloned());
                            run.push(&piece.channel, piece.meta.as_ref(), |out| out.extend_from_slice(&bytes));
                        }
                        Fed::Live
                    }
                }
            }
        };
        if fed == Fed::Live {
            self.go_live(place);
        }
        live.iter().for_each(|position| self.note_passed(key.index, Some(position)));
        if !run.is_empty() {
            self.write_page(key, id.index, &mut run);
        }
        self.tell_when_taken(key, reply, fed);
    }

    /// The pages ended: from here on the seat is written what comes.
    fn go_live(&mut self, (index, seat): (u32, u16)) {
        if let Some(its) = self.seats_mut(index).and_then(|seats| seats.at_mut(seat)) {
            its.state = State::Live;
        }
        if self.catching_up.get(&(index, seat)).is_some_and(|catch_up| catch_up.up_to.is_empty()) {
            self.catching_up.remove(&(index, seat));
            self.note_caught_up(index, seat);
        }
    }

    fn write_page(&mut self, key: Key, seat: u16, run: &mut Run) {
        let (messages, bytes) = (run.messages(), run.bytes().len());
        match self.give(key.index, seat, run) {
            Given::All => {}
            Given::AllBut(dropped) => {
                self.common.metrics.slow(SlowPolicy::DropOldest).inc_by(dropped.oldest as u64);
                self.common.metrics.slow(SlowPolicy::Latest).inc_by(dropped.latest as u64);
            }
            Given::Lost(key, how) => return self.part_with(key, how),
            // One page is more than may wait.
            Given::Behind(key, _) => return self.part_with(key, Lost::Slow),
            Given::Nobody => return,
        }
        self.common.metrics.messages_out.inc_by(messages as u64);
        self.common.metrics.bytes_out.inc_by(bytes as u64);
    }

    /// Tells a feeder what came of its page, once nothing waits for the client any more: this is the back-pressure of a
    /// client that reads slowly on whoever reads the log for it.
    fn tell_when_taken(&mut self, key: Key, reply: oneshot::Sender<Fed>, fed: Fed) {
        match self.record(key) {
            Some(record) if record.is_open() && record.outbox.is_some() => {
                self.feeding.entry(key.index).or_default().push((reply, fed));
            }
            Some(record) if record.is_open() => drop(reply.send(fed)),
            _ => drop(reply.send(Fed::Gone)),
        }
    }

    /// A seat had more waiting than may wait: it is joining again. Where it sits, if it is still here.
    pub(crate) fn fall_behind(&mut self, key: Key, seat: u16, from: &[Reached]) -> Option<(SeatId, Spot)> {
        let record = self.record(key).filter(|record| record.is_open())?;
        let its = record.cold.seats.at_mut(seat).filter(|its| its.state == State::Live)?;
        its.state = State::Joining;
        let (id, spot) = (SeatId { index: seat, serial: its.serial }, its.spot);
        record.tidy();
        self.catching_up.insert((key.index, seat), CatchUp::default());
        self.note_behind(key.index, from);
        self.common.metrics.slow(SlowPolicy::CatchUp).inc();
        Some((id, spot))
    }

    /// A client has taken all that waited.
    pub(super) fn tell_feeders(&mut self, index: u32) {
        if self.feeding.is_empty() {
            return;
        }
        for (feeder, fed) in self.feeding.remove(&index).unwrap_or_default() {
            // Whoever fed may have gone away.
            let _ = feeder.send(fed);
        }
    }

    /// A seat that was left holds nothing.
    pub(super) fn stop_catching_up(&mut self, index: u32, seat: u16) {
        if !self.catching_up.is_empty() {
            self.catching_up.remove(&(index, seat));
        }
    }
}
