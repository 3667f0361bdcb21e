//! How connections begin: registered first, so that nothing is missed, and given their sockets when clients were told.

use std::sync::{Arc, atomic::Ordering};

use bytes::Bytes;
use mio::{Interest as Readiness, net::TcpStream};

use super::{
    Roster,
    record::{Cold, Key, Reading, Record, Transport},
    seats::Seats,
};
use crate::{
    clock::ticks,
    connection::{Connection, NEVER, Phase, Pulse, Tick},
    ticket::{ConnectionKey, Open, Ticket},
    tls::TlsState,
    users::Place,
};

/// Bytes that the kernel takes for a client beyond what it has on its way to it. What the kernel keeps no policy can drop
/// and no bound counts: without this a client that stalls has up to four MiB there. Two full runs would be a turn behind.
const UNSENT_BYTES: u32 = 64 * 1024;

impl Roster {
    /// Registers a connection; messages are kept for it from here on.
    pub(crate) fn open(&mut self, open: Open) -> Ticket {
        let key = self.register(open);
        Ticket::new(Arc::clone(&self.inbox), ConnectionKey { shard: self.shard, key })
    }

    /// The same without a ticket, for one whose socket is there.
    pub(crate) fn register(&mut self, open: Open) -> Key {
        let Open { id, door, framing, user, expires, voice, lease } = open;
        self.serial = self.serial.wrapping_add(1);
        let serial = self.serial;
        let expires = expires.map_or(NEVER, |after| self.now + ticks(after));
        let pulse = Pulse::new(self.now, self.now + self.common.settings.handshake);
        let connection = Connection { id, user, expires, voice, incoming: None, lease: Some(lease) };
        let cold = Box::new(Cold { connection, seats: Seats::None });
        let (transport, reading) = (Transport::Waiting, Reading::OnEvent);
        let (outbox, phase) = (None, Phase::Open);
        let record = Record { transport, outbox, cold, serial, pulse, phase, reading, door, framing };
        let due = record.due();
        let index = u32::try_from(self.records.insert(record)).expect("descriptors end before");
        let key = Key { index, serial };
        if let Some(user) = &self.records[index as usize].cold.connection.user {
            self.common.users.enter(user, Place { shard: self.shard, key });
        }
        self.wheel.schedule(index, due);
        self.common.metrics.connections(door).inc();
        key
    }

    /// Keeps what a client is told before anything else.
    pub(crate) fn greet(&mut self, key: Key, opening: Bytes) {
        if let Some(record) = self.record(key) {
            record.outbox.get_or_insert_default().keep(opening);
        }
    }

    /// One that came too late was announced and is not taken.
    pub(crate) fn turn_away(&self) {
        self.inbox.connections.fetch_sub(1, Ordering::Relaxed);
    }

    /// Gives a registered connection its socket.
    pub(crate) fn attach(
        &mut self,
        key: Key,
        socket: std::net::TcpStream,
        tls: Option<Box<TlsState>>,
        read_ahead: &[u8],
    ) {
        bound_unsent(&socket);
        let mut socket = TcpStream::from_std(socket);
        // Registered once for both directions: the edge of writability only comes after a write that would have blocked,
        // so a client that keeps up causes none, and no call is made when one falls behind or catches up.
        let both = Readiness::READABLE | Readiness::WRITABLE;
        let registered = self.registry.register(&mut socket, key.into(), both);
        let now = self.now;
        let settings = self.common.settings;
        let Some(record) = self.record(key).filter(|record| matches!(record.transport, Transport::Waiting)) else {
            return;
        };
        record.transport = Transport::of(socket, tls);
        record.mind();
        record.pulse.heard = now;
        if record.is_open() {
            let only_listens = record.framing.only_listens();
            let interval = if only_listens { settings.comments } else { settings.heartbeats.ping };
            record.pulse.next = now + spread(interval);
            let due = record.due();
            self.wheel.schedule(key.index, due);
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
            // What was decrypted before it came here is in no socket, so no event would tell of it.
            self.read(key, true);
        }
    }
}

/// Has the kernel keep little for a client that takes nothing. Failing costs memory and nothing else.
fn bound_unsent(socket: &std::net::TcpStream) {
    #[cfg(target_os = "linux")]
    if let Err(error) = socket2::SockRef::from(socket).set_tcp_notsent_lowat(UNSENT_BYTES) {
        tracing::debug!(%error, "the kernel keeps as much as it likes for a client that stalls");
    }
    #[cfg(not(target_os = "linux"))]
    let _ = (socket, UNSENT_BYTES);
}

/// A first interval, so that connections that came together are not looked at together for ever.
fn spread(interval: Tick) -> Tick {
    rand::random_range(interval.div_ceil(2)..=interval)
}
