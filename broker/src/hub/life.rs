//! How connections begin, how they are watched, and how they end.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use bytes::Bytes;
use clarion_protocol::{CloseCode, dialect::Dialect};
use mio::{Interest as Readiness, net::TcpStream};
use smallvec::SmallVec;
use tokio::sync::oneshot;

use super::{
    Open, Subscription, Ticket,
    clock::ticks,
    handler::Handler,
    metrics::End,
    record::{Cold, Key, Record, Rivals, Seat, Transport},
    shard::Shard,
    table::Member,
    users::Place,
};
use crate::{
    connection::{Beat, Connection, NEVER, Phase, Pulse, Tick},
    frame::{Opcode, encode},
    tls::Session,
};

/// What an event stream carries when nothing else goes by.
const COMMENT: &[u8] = b": \n\n";

impl<H: Handler> Shard<H> {
    /// Registers a connection; messages are kept for it from here on.
    pub(super) fn open(&mut self, open: Open, reply: oneshot::Sender<Ticket>) {
        if self.is_stopping() {
            self.inbox.connections.fetch_sub(1, Ordering::Relaxed);
            return;
        }
        let Open { id, dialect, mut subscriptions, user, upstream, expires, lease } = open;
        deduplicate(&mut subscriptions);
        self.serial = self.serial.wrapping_add(1);
        let serial = self.serial;
        let expires = expires.map_or(NEVER, |after| self.now + ticks(after));
        let connection = Connection { id, dialect, user, upstream, expires, incoming: None, lease };
        let rivals = Rivals::find(&subscriptions);
        let pulse = Pulse::new(self.now, (self.now + self.common.settings.handshake).min(expires));
        let cold = Box::new(Cold { connection, seats: SmallVec::new(), rivals });
        let transport = Transport::Waiting;
        let record = Record { transport, outbox: None, cold, serial, pulse, phase: Phase::Open, paused: false };
        let index = u32::try_from(self.records.insert(record)).expect("descriptors end before");
        let key = Key { index, serial };
        self.sit(key, dialect, &subscriptions);
        self.wheel.schedule(key.index, pulse.next);
        self.common.metrics.connections(dialect).inc();
        // Whoever asked may have gone away: then the ticket is dropped, and takes this back.
        drop(reply.send(Ticket { inbox: Arc::clone(&self.inbox), key, used: false }));
    }

    /// Takes the places of a new connection.
    fn sit(&mut self, key: Key, dialect: Dialect, subscriptions: &[Subscription]) {
        let cold = &mut self.records[key.index as usize].cold;
        for (number, subscription) in (0..).zip(subscriptions) {
            let overlaps = cold.rivals.as_ref().is_some_and(|rivals| !rivals.of(number).is_empty());
            let member = Member { index: key.index, subscription: number, dialect, overlaps };
            let (audience, position) = self.table.join(subscription.id, member);
            cold.seats.push(Seat { audience, position, slow: subscription.slow });
        }
        if let Some(user) = &cold.connection.user {
            self.common.users.enter(user, Place { shard: self.number, key });
        }
    }

    /// Gives a registered connection its socket.
    pub(super) fn attach(
        &mut self,
        key: Key,
        socket: std::net::TcpStream,
        session: Option<Box<Session>>,
        read_ahead: &[u8],
    ) {
        let mut socket = TcpStream::from_std(socket);
        // Registered once for both directions: the edge of writability only comes after a write that would have blocked,
        // so a client that keeps up causes none, and no call is made when one falls behind or catches up.
        let both = Readiness::READABLE | Readiness::WRITABLE;
        let registered = self.poll.registry().register(&mut socket, key.into(), both);
        let now = self.now;
        let settings = self.common.settings;
        let Some(record) = self.record(key).filter(|record| matches!(record.transport, Transport::Waiting)) else {
            return;
        };
        record.transport = Transport::of(socket, session);
        record.mind();
        record.pulse.heard = now;
        if record.is_open() {
            let connection = &record.cold.connection;
            let interval = if connection.is_stream() { settings.comments } else { settings.heartbeats.ping };
            let next = (now + spread(interval)).min(connection.expires);
            record.pulse.next = next;
            self.wheel.schedule(key.index, next);
        }
        if let Err(error) = registered {
            tracing::warn!(%error, "a socket cannot be watched");
            self.lose(key);
            return;
        }
        self.flush(key);
        if !read_ahead.is_empty() {
            self.take_in(key, &mut read_ahead.to_vec());
        }
        if self.record(key).is_some_and(|record| record.transport.is_tls()) {
            // What the session decrypted before it came here is in no socket, so no event would tell of it.
            self.read(key, true);
        }
    }

    /// Looks at all whose time has come.
    pub(super) fn watch(&mut self) {
        while let Some((tick, mut due)) = self.wheel.advance(self.now) {
            for index in due.drain(..) {
                let Some(record) = self.records.get(index as usize) else { continue };
                let next = record.pulse.next;
                if next <= tick {
                    self.look_at(Key { index, serial: record.serial });
                } else if super::wheel::same_slot(next, tick) {
                    self.wheel.schedule(index, next);
                }
            }
            self.wheel.give_back(tick, due);
        }
    }

    /// Does what is due for one connection.
    fn look_at(&mut self, key: Key) {
        let (now, settings) = (self.now, self.common.settings);
        let Some(record) = self.record(key) else { return };
        if !record.is_open() {
            let patience = record.pulse.heard.saturating_add(settings.close);
            if record.outbox.is_some() && patience > now {
                // It still takes what was pending for it when it was to go.
                record.pulse.next = patience;
                self.wheel.schedule(key.index, patience);
            } else {
                record.end();
                self.remove(key, None);
            }
            return;
        }
        let expires = record.cold.connection.expires;
        if expires <= now {
            self.close(key, CloseCode::Expired);
            return;
        }
        match &record.transport {
            Transport::Waiting => return self.remove(key, Some(End::Handshake)),
            Transport::Tcp(_) | Transport::Tls(_) if record.cold.connection.is_stream() => {
                record.pulse.next = now + settings.comments;
                // What waits says as well that the stream lives, once it gets through.
                if record.outbox.is_none() {
                    self.say(key, Bytes::from_static(COMMENT));
                }
            }
            Transport::Tcp(_) | Transport::Tls(_) => {
                if record.paused {
                    // It cannot be heard while nothing is read from it.
                    record.pulse.heard = now;
                }
                match record.pulse.beat(now, settings.heartbeats) {
                    Beat::Rest => {}
                    Beat::Ping => self.say(key, encode(Opcode::Ping, b"")),
                    Beat::Silent if self.has_answered(key) => {}
                    Beat::Silent => return self.close(key, CloseCode::NoPong),
                }
            }
        }
        if let Some(record) = self.record(key).filter(|record| record.is_open()) {
            record.pulse.next = record.pulse.next.min(expires);
            let next = record.pulse.next;
            self.wheel.schedule(key.index, next);
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

    /// Says goodbye: after what is pending, or instead of it where too much is.
    pub(super) fn close(&mut self, key: Key, code: CloseCode) {
        let Some(record) = self.record(key).filter(|record| record.is_open()) else { return };
        if code == CloseCode::Slow
            && let Some(outbox) = &mut record.outbox
        {
            outbox.shed();
            record.tidy();
        }
        let (paused, retry_within) = (record.paused, self.common.settings.retry_within);
        self.part(key, Phase::Closing, End::Said(code));
        let Some(record) = self.record(key) else { return };
        let last_words = last_words(&record.cold.connection, code, retry_within);
        match &record.transport {
            Transport::Tcp(_) | Transport::Tls(_) => {
                self.say(key, last_words);
                if paused {
                    self.unread.push(key);
                }
            }
            Transport::Waiting => record.outbox.get_or_insert_default().keep(last_words),
        }
    }

    /// Closes some connections that are open, whichever come first.
    pub(super) fn close_some(&mut self, count: usize, code: CloseCode) {
        let places = self.records.capacity();
        let mut left = count;
        for _ in 0..places {
            if left == 0 {
                break;
            }
            let index = self.close_cursor % places;
            self.close_cursor = index + 1;
            let Some(record) = self.records.get(index).filter(|record| record.is_open()) else { continue };
            let key = Key { index: index as u32, serial: record.serial };
            self.close(key, code);
            left -= 1;
        }
    }

    /// Takes a connection out of all audiences and gives it some time to end.
    pub(super) fn part(&mut self, key: Key, phase: Phase, end: End) {
        let deadline = self.now + self.common.settings.close;
        let Some(record) = self.record(key) else { return };
        let was_open = record.is_open();
        record.phase = phase;
        record.paused = false;
        record.cold.connection.incoming = None;
        if !was_open {
            return;
        }
        record.pulse.next = deadline;
        self.wheel.schedule(key.index, deadline);
        self.inbox.closing.fetch_add(1, Ordering::Relaxed);
        self.common.metrics.ended(end);
        self.leave(key);
    }

    /// Gives a connection's places in the table and among the users up.
    fn leave(&mut self, key: Key) {
        let Some(record) = self.record(key) else { return };
        let seats = std::mem::take(&mut record.cold.seats);
        let user = record.cold.connection.user.take();
        for seat in seats {
            if let Some(moved) = self.table.leave(seat.audience, seat.position) {
                let seats = &mut self.records[moved.index as usize].cold.seats;
                seats[usize::from(moved.subscription)].position = seat.position;
            }
        }
        if let Some(user) = user {
            self.common.users.leave(&user, Place { shard: self.number, key });
        }
    }

    /// A connection is gone, wherever it was.
    pub(super) fn lose(&mut self, key: Key) {
        self.remove(key, Some(End::Lost));
    }

    /// Forgets a connection. Its end is counted unless it was when the goodbyes began.
    pub(super) fn remove(&mut self, key: Key, end: Option<End>) {
        let Some(record) = self.record(key) else { return };
        let was_open = record.is_open();
        self.leave(key);
        let record = self.records.remove(key.index as usize);
        self.common.metrics.connections(record.cold.connection.dialect).dec();
        self.inbox.connections.fetch_sub(1, Ordering::Relaxed);
        if !was_open {
            self.inbox.closing.fetch_sub(1, Ordering::Relaxed);
        } else if let Some(end) = end {
            self.common.metrics.ended(end);
        }
    }
}

/// What a client hears last: a close frame, or when to come back. A stream that should stay away just ends.
fn last_words(connection: &Connection, code: CloseCode, retry_within: Duration) -> Bytes {
    if !connection.is_stream() {
        return encode(Opcode::Close, &code.body());
    }
    if !code.reconnect() {
        return Bytes::new();
    }
    let longest = u64::try_from(retry_within.as_millis()).unwrap_or(u64::MAX);
    format!("retry: {}\n\n", rand::random_range(0..=longest)).into()
}

/// A first interval, so that connections that came together are not looked at together for ever.
fn spread(interval: Tick) -> Tick {
    rand::random_range(interval.div_ceil(2)..=interval)
}

/// One subscription per interest: the bus delivers for an interest once, however often a client asks.
fn deduplicate(subscriptions: &mut Vec<Subscription>) {
    let mut seen = std::collections::HashSet::new();
    subscriptions.retain(|subscription| seen.insert(subscription.id));
}
