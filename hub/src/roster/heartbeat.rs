//! How connections are watched: their signs of life, the end of their tokens, and messages that do not end.

use clarion_protocol::CloseCode;

use super::{
    Roster,
    record::{Key, Transport},
};
use crate::{
    connection::{Beat, NEVER, Tick},
    metrics::End,
};

impl Roster {
    /// Looks at all whose time has come.
    pub(crate) fn watch(&mut self) {
        while let Some((tick, mut due)) = self.wheel.advance(self.now) {
            for index in due.drain(..) {
                self.watch_on(index);
                let Some(record) = self.records.get(index as usize) else { continue };
                let next = record.due();
                if next <= tick {
                    self.look_at(Key { index, serial: record.serial });
                } else if crate::wheel::same_slot(next, tick) {
                    self.wheel.schedule(index, next);
                }
            }
            self.wheel.give_back(tick, due);
        }
    }

    /// The wheel's entry for a message of a connection may be this one: another message of its may have begun since.
    fn watch_on(&mut self, index: u32) {
        if self.unfinished.is_empty() || !self.unfinished.remove(&index) {
            return;
        }
        let Some(record) = self.records.get(index as usize) else { return };
        let incoming = record.cold.connection.incoming.as_ref();
        if let Some(whole_by) = incoming.map(|incoming| incoming.whole_by).filter(|by| *by > self.now && *by != NEVER) {
            self.watch_message(index, whole_by);
        }
    }

    /// Does what is due for one connection.
    fn look_at(&mut self, key: Key) {
        let now = self.now;
        let Some(record) = self.record(key) else { return };
        if !record.is_open() {
            return self.look_at_parted(key);
        }
        let connection = &record.cold.connection;
        if connection.expires <= now {
            return self.close(key, CloseCode::Expired);
        }
        if connection.incoming.as_ref().is_some_and(|incoming| incoming.whole_by <= now) {
            tracing::debug!(connection = connection.id.0, "a client did not end a message in time");
            return self.close(key, CloseCode::Slow);
        }
        if record.pulse.next <= now {
            self.beat(key);
        }
        if let Some(record) = self.record(key).filter(|record| record.is_open()) {
            let due = record.due();
            self.wheel.schedule(key.index, due);
        }
    }

    /// A connection whose time to end has come. It gets more while it still takes what was pending when it was to go.
    fn look_at_parted(&mut self, key: Key) {
        let (now, close) = (self.now, self.common.settings.close);
        let Some(record) = self.record(key) else { return };
        let patience: Tick = record.pulse.heard.saturating_add(close);
        if record.outbox.is_some() && patience > now {
            record.pulse.next = patience;
            self.wheel.schedule(key.index, patience);
        } else {
            record.end();
            self.remove(key, None);
        }
    }

    /// A sign of life is due, in one direction or the other.
    fn beat(&mut self, key: Key) {
        let (now, settings) = (self.now, self.common.settings);
        let Some(record) = self.record(key) else { return };
        let framing = record.framing;
        if matches!(record.transport, Transport::Waiting) {
            self.remove(key, Some(End::Handshake));
        } else if framing.only_listens() {
            record.pulse.next = now + settings.comments;
            // What waits says as well that the stream lives, once it gets through.
            if record.outbox.is_none() {
                self.say(key, framing.sign_of_life());
            }
        } else {
            if record.is_paused() {
                // It cannot be heard while nothing is read from it.
                record.pulse.heard = now;
            }
            match record.pulse.beat(now, settings.heartbeats) {
                Beat::Rest => {}
                Beat::Ping => self.say(key, framing.sign_of_life()),
                Beat::Silent if self.has_answered(key) => {}
                Beat::Silent => self.close(key, CloseCode::NoPong),
            }
        }
    }

    /// Whether a client that seems silent has said something that is not read yet: after a turn that took long, the pongs of
    /// many wait in their sockets. One that turns out to be gone has nothing to answer for any more.
    fn has_answered(&mut self, key: Key) -> bool {
        self.read(key, true);
        let (now, heartbeats) = (self.now, self.common.settings.heartbeats);
        let Some(record) = self.record(key).filter(|record| record.is_open()) else { return true };
        record.pulse.beat(now, heartbeats) == Beat::Rest
    }
}
