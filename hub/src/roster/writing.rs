//! What connections are written: runs of messages, words of ours, and what waited.

use std::net::Shutdown;

use bytes::Bytes;
use clarion_protocol::CloseCode;

use super::{
    Roster,
    record::{Key, Record, Transport},
};
use crate::{
    connection::Phase,
    framing::Framing,
    outbox::{Dropped, Pushed, SlowPolicy},
    run::Run,
    seat::Reached,
};

/// What a run did to one connection.
pub(crate) enum Given {
    /// It is written or waits.
    All,
    /// The same, and these, new or old, were dropped.
    AllBut(Dropped),
    /// More waited than may wait, and was dropped: the seat is to read the log from behind these places.
    Behind(Key, Vec<Reached>),
    /// The connection is to end: [`Roster::part_with`].
    Lost(Key, Lost),
    /// There is no such seat any more.
    Nobody,
}

/// Why a connection is not written to any more.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Lost {
    /// Its socket broke.
    Broken,
    /// More waits for it than may.
    Slow,
}

impl Roster {
    /// Gives one connection a run: straight to its socket, and to its outbox what the socket does not take.
    pub(crate) fn give(&mut self, index: u32, seat: u16, run: &mut Run) -> Given {
        let Some(record) = self.records.get_mut(index as usize) else { return Given::Nobody };
        let mut written = 0;
        if record.framing == Framing::Poll {
            let key = key_of(index, record);
            return self.post(key, run);
        }
        if record.outbox.is_none() && record.transport.is_socket() {
            match record.write(run.bytes()) {
                Ok(taken) if taken == run.bytes().len() => return Given::All,
                Ok(taken) => written = taken,
                Err(_) => return Given::Lost(key_of(index, record), Lost::Broken),
            }
        }
        let Some(slow) = record.cold.seats.at(seat).map(|seat| seat.slow) else { return Given::Nobody };
        let bound = self.common.settings.outbox_bytes;
        match record.outbox.get_or_insert_default().push_run(run, written, seat, slow, bound) {
            Pushed::Waits(dropped) if dropped == Dropped::default() => Given::All,
            Pushed::Waits(dropped) => Given::AllBut(dropped),
            Pushed::Behind(from) => Given::Behind(key_of(index, record), from),
            Pushed::Full => Given::Lost(key_of(index, record), Lost::Slow),
        }
    }

    /// Parts with a connection that a run could not reach.
    pub(crate) fn part_with(&mut self, key: Key, how: Lost) {
        match how {
            Lost::Broken => self.lose(key),
            Lost::Slow => {
                self.common.metrics.slow(SlowPolicy::Disconnect).inc();
                self.close(key, CloseCode::Slow);
            }
        }
    }

    /// Sends words of ours, whatever waits; they may be the last ones.
    pub(super) fn say(&mut self, key: Key, words: Bytes) {
        let Some(record) = self.record(key) else { return };
        match record.send(words) {
            Ok(()) => self.settle(key),
            Err(_) => self.lose(key),
        }
    }

    /// Writes what waits, up to a connection's share of a turn.
    pub(crate) fn flush(&mut self, key: Key) {
        let now = self.now;
        let Some(record) = self.record(key).filter(|record| record.outbox.is_some()) else { return };
        match record.flush() {
            Ok(flushed) => {
                if flushed.written > 0 {
                    // Only a client that took something makes room, so this is a sign of life: its pong may stand in a queue.
                    record.pulse.heard = now;
                }
                if flushed.more {
                    self.unwritten.push(key);
                }
                self.settle(key);
            }
            Err(_) => self.lose(key),
        }
    }

    /// Goes on with the sockets that would take more than their share of the last turn.
    pub(crate) fn write_on(&mut self) {
        for key in std::mem::take(&mut self.unwritten) {
            self.flush(key);
        }
    }

    /// Goes on where all that waited was written: with whoever feeds the connection, or with its end. A stream's client
    /// sees the end, and hangs up.
    pub(super) fn settle(&mut self, key: Key) {
        let Some(record) = self.record(key).filter(|record| record.outbox.is_none()) else { return };
        let is_last = match record.phase {
            Phase::Open => {
                self.tell_feeders(key.index);
                return;
            }
            Phase::Closing => record.framing.only_listens(),
            Phase::Leaving | Phase::Failed => true,
        };
        if !is_last || !record.end() {
            return;
        }
        // Whoever broke a rule may still be sending: closing now would answer that with a reset, and the goodbye would be lost.
        let close_at_once = record.phase == Phase::Leaving;
        match &record.transport {
            Transport::Waiting => {}
            Transport::Tcp(_) | Transport::Tls(_) if close_at_once => self.remove(key, None),
            Transport::Tcp(socket) => drop(socket.shutdown(Shutdown::Write)),
            Transport::Tls(tls) => drop(tls.socket.shutdown(Shutdown::Write)),
        }
    }
}

fn key_of(index: u32, record: &Record) -> Key {
    Key { index, serial: record.serial }
}
