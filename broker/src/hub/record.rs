//! What a shard knows of a connection: a small record that fan-out touches, and the rest beside it.

use std::io::{self, Read, Write};

use bytes::Bytes;
use clarion_protocol::Interest;
use mio::{Token, net::TcpStream};
use smallvec::SmallVec;

use super::Subscription;
use crate::{
    connection::{Connection, Phase, Pulse},
    outbox::{Outbox, SlowPolicy},
};

/// Names a record. Its place is used again, its serial number is not, so a key outlives its record safely.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Key {
    pub index: u32,
    pub serial: u32,
}

impl From<Key> for Token {
    fn from(key: Key) -> Self {
        Token((u64::from(key.serial) << 32 | u64::from(key.index)) as usize)
    }
}

impl From<Token> for Key {
    fn from(token: Token) -> Self {
        let bits = token.0 as u64;
        Self { index: bits as u32, serial: (bits >> 32) as u32 }
    }
}

/// The hot part of a connection. It is small on purpose: tens of thousands of them are passed over for one message.
pub(super) struct Record {
    pub transport: Transport,
    /// What waits, if anything does. While it is there nothing is written past it.
    pub outbox: Option<Box<Outbox>>,
    pub cold: Box<Cold>,
    pub serial: u32,
    pub pulse: Pulse,
    pub phase: Phase,
    /// Nothing is read: the client's last message is being dealt with.
    pub paused: bool,
}

/// What fan-out does not touch as long as the client keeps up.
pub(super) struct Cold {
    pub connection: Connection,
    /// Its places in the table, one for each subscription.
    pub seats: SmallVec<[Seat; 1]>,
    /// For each subscription its more specific neighbours; only where some overlap.
    pub rivals: Option<Box<Rivals>>,
}

/// For each of a connection's subscriptions those that bring a message in its stead.
pub(super) struct Rivals(Box<[Box<[Interest]>]>);

impl Rivals {
    /// `None` when there are none at all.
    ///
    /// Interests that match one channel have bases that begin alike, so others need not be compared for each message.
    pub(super) fn find(subscriptions: &[Subscription]) -> Option<Box<Self>> {
        let interests = || subscriptions.iter().map(|subscription| &subscription.interest);
        let more_specific = |one: &Interest| -> Box<[Interest]> {
            let rivals = |other: &&Interest| other.base().starts_with(one.base()) && other.specificity(one).is_gt();
            interests().filter(rivals).cloned().collect()
        };
        let all: Box<[Box<[Interest]>]> = interests().map(more_specific).collect();
        all.iter().any(|rivals| !rivals.is_empty()).then(|| Box::new(Self(all)))
    }

    /// Those of one subscription.
    pub(super) fn of(&self, subscription: u16) -> &[Interest] {
        &self.0[usize::from(subscription)]
    }
}

/// One subscription's place in the table.
#[derive(Debug, Clone, Copy)]
pub(super) struct Seat {
    pub audience: u32,
    pub position: u32,
    pub slow: SlowPolicy,
}

/// What carries the bytes.
pub(super) enum Transport {
    /// Nothing yet: the handshake is being confirmed.
    Waiting,
    /// A socket of ours. A TLS session over one will stand beside it.
    Tcp(TcpStream),
}

impl Transport {
    /// Writes until all is written or the client takes no more; how much it took.
    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Self::Tcp(socket) = self else { return Ok(0) };
        let mut written = 0;
        // After a short write once more, so that the kernel knows that we wait and tells when there is room.
        while written < bytes.len() {
            match socket.write(&bytes[written..]) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(taken) => written += taken,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(written)
    }

    /// Reads once, if there is something to read from.
    pub(super) fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(socket) => socket.read(buffer),
            Self::Waiting => Err(io::ErrorKind::WouldBlock.into()),
        }
    }
}

impl Record {
    pub(super) fn is_open(&self) -> bool {
        self.phase == Phase::Open
    }

    /// Writes a frame of its own after what waits. It must go out whatever waits.
    pub(super) fn send(&mut self, frame: Bytes) -> io::Result<()> {
        if let Some(outbox) = &mut self.outbox {
            outbox.keep(frame);
            return Ok(());
        }
        match self.transport.write(&frame)? {
            all if all == frame.len() => {}
            0 => self.outbox.get_or_insert_default().keep(frame),
            written => self.outbox.get_or_insert_default().begin(frame.slice(written..)),
        }
        Ok(())
    }

    /// Writes what waits, as far as the client takes it; how much it took.
    pub(super) fn flush(&mut self) -> io::Result<usize> {
        let (Some(outbox), Transport::Tcp(socket)) = (&mut self.outbox, &mut self.transport) else { return Ok(0) };
        let written = outbox.flush(socket)?;
        if outbox.is_empty() {
            self.outbox = None;
        }
        Ok(written)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fan_out_touches_is_small() {
        // A mio socket remembers its poll in debug builds.
        let most = if cfg!(debug_assertions) { 64 } else { 48 };
        assert!(size_of::<Record>() <= most, "{}", size_of::<Record>());
        assert!(size_of::<Cold>() <= 104, "{}", size_of::<Cold>());
    }

    #[test]
    fn a_key_is_a_token() {
        let key = Key { index: 7, serial: u32::MAX - 1 };
        assert_eq!(Key::from(Token::from(key)), key);
    }
}
