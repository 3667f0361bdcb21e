//! What a shard knows of a connection: a small record that fan-out touches, and the rest beside it.

use std::io::{self, IoSlice, Read, Write};

use bytes::Bytes;
use clarion_protocol::Door;
use mio::{Token, net::TcpStream};

use super::seats::Seats;
use crate::{
    connection::{Connection, Phase, Pulse, Tick},
    framing::Framing,
    outbox::{Flushed, Outbox},
    tls::{TlsState, write_some},
};

/// What one connection is written in a turn, so that a client that takes as fast as it is written does not keep the others
/// waiting: a run, and what waited of those before it.
const TURN_BYTES: usize = 256 * 1024;

/// Names a record. Its place is used again, its serial number is not, so a key outlives its record safely.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Key {
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
pub(crate) struct Record {
    pub transport: Transport,
    /// What waits, if anything does. While it is there nothing is written past it. It can be empty: then the rest of a TLS
    /// record waits.
    pub outbox: Option<Box<Outbox>>,
    pub cold: Box<Cold>,
    pub serial: u32,
    pub pulse: Pulse,
    pub phase: Phase,
    pub reading: Reading,
    /// Which way it came in.
    pub door: Door,
    /// What is around its messages.
    pub framing: Framing,
}

/// When a connection is read next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Reading {
    /// When its socket has something to tell.
    OnEvent,
    /// In the next turn: its share of this one ended before its bytes did.
    NextTurn,
    /// When its last message was dealt with.
    Paused,
}

/// What fan-out does not touch as long as the client keeps up.
pub(crate) struct Cold {
    pub connection: Connection,
    /// Its places in the table.
    pub seats: Seats,
}

/// What carries the bytes.
pub(crate) enum Transport {
    /// Nothing yet: the handshake is being confirmed.
    Waiting,
    /// A socket of ours.
    Tcp(TcpStream),
    /// The same with TLS on it.
    Tls(Box<Tls>),
}

/// A socket and the TLS state of it. Plaintext is encrypted only while no ciphertext waits, so that what is bounded
/// in the outbox stays in the outbox: at most one record is beyond it.
pub(crate) struct Tls {
    pub socket: TcpStream,
    pub state: TlsState,
}

impl Write for Tls {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_vectored(&[IoSlice::new(bytes)])
    }

    fn write_vectored(&mut self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        match self.state.write_vectored(&mut self.socket, pieces)? {
            0 => Err(io::ErrorKind::WouldBlock.into()),
            taken => Ok(taken),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Transport {
    /// A socket, with its TLS state if it speaks that.
    pub(crate) fn of(socket: TcpStream, state: Option<Box<TlsState>>) -> Self {
        match state {
            None => Self::Tcp(socket),
            Some(state) => Self::Tls(Box::new(Tls { socket, state: *state })),
        }
    }

    pub(crate) fn is_socket(&self) -> bool {
        matches!(self, Self::Tcp(_) | Self::Tls(_))
    }

    /// Whether a short read tells nothing, since what is read is not what the socket held.
    pub(crate) fn is_tls(&self) -> bool {
        matches!(self, Self::Tls(_))
    }

    /// Whether ciphertext waits for the socket.
    fn is_behind(&self) -> bool {
        matches!(self, Self::Tls(tls) if tls.state.is_behind())
    }

    /// Writes until all is written or the client takes no more; how much it took.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(socket) => write_some(socket, bytes),
            Self::Tls(tls) => tls.state.write(&mut tls.socket, bytes),
            Self::Waiting => Ok(0),
        }
    }
}

impl Record {
    pub(crate) fn is_open(&self) -> bool {
        self.phase == Phase::Open
    }

    pub(crate) fn is_paused(&self) -> bool {
        self.reading == Reading::Paused
    }

    /// Nothing that its client said is waited for any more.
    pub(crate) fn resume_reading(&mut self) {
        if self.is_paused() {
            self.reading = Reading::OnEvent;
        }
    }

    /// Writes until all is written or the client takes no more; how much it took.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.transport.write(bytes)?;
        self.mind();
        Ok(written)
    }

    /// Reads once, if there is something to read from.
    pub(crate) fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match &mut self.transport {
            Transport::Tcp(socket) => socket.read(buffer),
            Transport::Tls(tls) => {
                let result = tls.state.read(&mut tls.socket, buffer);
                // What TLS answers by itself may wait now.
                self.mind();
                result
            }
            Transport::Waiting => Err(io::ErrorKind::WouldBlock.into()),
        }
    }

    /// Sees to it that ciphertext that waits is written before anything else.
    pub(crate) fn mind(&mut self) {
        if self.transport.is_behind() {
            self.outbox.get_or_insert_default();
        }
    }

    /// Drops an outbox in which nothing waits.
    pub(crate) fn tidy(&mut self) {
        if self.outbox.as_ref().is_some_and(|outbox| outbox.is_empty()) && !self.transport.is_behind() {
            self.outbox = None;
        }
    }

    /// Says the last word of TLS, where it is spoken; whether nothing waits any more.
    pub(crate) fn end(&mut self) -> bool {
        if let Transport::Tls(tls) = &mut self.transport
            && tls.state.end(&mut tls.socket).is_ok()
        {
            self.mind();
        }
        self.outbox.is_none()
    }

    /// Writes a frame of its own after what waits. It must go out whatever waits.
    pub(crate) fn send(&mut self, frame: Bytes) -> io::Result<()> {
        if let Some(outbox) = &mut self.outbox {
            outbox.keep(frame);
            return Ok(());
        }
        match self.write(&frame)? {
            all if all == frame.len() => {}
            0 => self.outbox.get_or_insert_default().keep(frame),
            written => self.outbox.get_or_insert_default().begin(frame.slice(written..)),
        }
        Ok(())
    }

    /// Writes what waits, as far as the client takes it and its share of a turn goes.
    pub(crate) fn flush(&mut self) -> io::Result<Flushed> {
        let Some(outbox) = &mut self.outbox else { return Ok(Flushed::default()) };
        let mut flushed = match &mut self.transport {
            Transport::Tcp(socket) => outbox.flush(socket, TURN_BYTES)?,
            Transport::Tls(tls) => {
                let rest = tls.state.flush(&mut tls.socket)?;
                let flushed = outbox.flush(&mut **tls, TURN_BYTES)?;
                Flushed { written: rest + flushed.written, ..flushed }
            }
            Transport::Waiting => return Ok(Flushed::default()),
        };
        self.tidy();
        flushed.more &= self.outbox.is_some();
        Ok(flushed)
    }

    /// When somebody is to look at it: for its heartbeat, at its token's end, or since a message of its has been on its way
    /// for too long.
    pub(crate) fn due(&self) -> Tick {
        let connection = &self.cold.connection;
        let whole_by = connection.incoming.as_ref().map_or(Tick::MAX, |incoming| incoming.whole_by);
        if self.is_open() { self.pulse.next.min(connection.expires).min(whole_by) } else { self.pulse.next }
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
        assert!(size_of::<Cold>() <= 72, "{}", size_of::<Cold>());
    }

    #[test]
    fn a_key_is_a_token() {
        let key = Key { index: 7, serial: u32::MAX - 1 };
        assert_eq!(Key::from(Token::from(key)), key);
    }
}
