//! What a shard knows of a connection: a small record that fan-out touches, and the rest beside it.

use std::io::{self, IoSlice, Read, Write};

use bytes::Bytes;
use mio::{Token, net::TcpStream};

use super::seats::Seats;
use crate::{
    connection::{Connection, Phase, Pulse},
    outbox::Outbox,
    tls::{Session, write_some},
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
    /// What waits, if anything does. While it is there nothing is written past it. It can be empty: then the rest of a TLS
    /// record waits.
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
    /// Its places in the table.
    pub seats: Seats,
}

/// What carries the bytes.
pub(super) enum Transport {
    /// Nothing yet: the handshake is being confirmed.
    Waiting,
    /// A socket of ours.
    Tcp(TcpStream),
    /// The same with TLS on it.
    Tls(Box<Tls>),
}

/// A socket and the session on it. Plaintext goes into the session only while no ciphertext waits, so that what is bounded
/// in the outbox stays in the outbox: at most one record is beyond it.
pub(super) struct Tls {
    pub socket: TcpStream,
    pub session: Session,
}

impl Write for Tls {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_vectored(&[IoSlice::new(bytes)])
    }

    fn write_vectored(&mut self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        match self.session.write_vectored(&mut self.socket, pieces)? {
            0 => Err(io::ErrorKind::WouldBlock.into()),
            taken => Ok(taken),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Transport {
    /// A socket, with the session on it if there is one.
    pub(super) fn of(socket: TcpStream, session: Option<Box<Session>>) -> Self {
        match session {
            None => Self::Tcp(socket),
            Some(session) => Self::Tls(Box::new(Tls { socket, session: *session })),
        }
    }

    pub(super) fn is_socket(&self) -> bool {
        matches!(self, Self::Tcp(_) | Self::Tls(_))
    }

    /// Whether a short read tells nothing, since what is read is not what the socket held.
    pub(super) fn is_tls(&self) -> bool {
        matches!(self, Self::Tls(_))
    }

    /// Whether ciphertext waits for the socket.
    fn is_behind(&self) -> bool {
        matches!(self, Self::Tls(tls) if tls.session.is_behind())
    }

    /// Writes until all is written or the client takes no more; how much it took.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(socket) => write_some(socket, bytes),
            Self::Tls(tls) => tls.session.write(&mut tls.socket, bytes),
            Self::Waiting => Ok(0),
        }
    }
}

impl Record {
    pub(super) fn is_open(&self) -> bool {
        self.phase == Phase::Open
    }

    /// Writes until all is written or the client takes no more; how much it took.
    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.transport.write(bytes)?;
        self.mind();
        Ok(written)
    }

    /// Reads once, if there is something to read from.
    pub(super) fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match &mut self.transport {
            Transport::Tcp(socket) => socket.read(buffer),
            Transport::Tls(tls) => {
                let result = tls.session.read(&mut tls.socket, buffer);
                // What TLS answers by itself may wait now.
                self.mind();
                result
            }
            Transport::Waiting => Err(io::ErrorKind::WouldBlock.into()),
        }
    }

    /// Sees to it that ciphertext that waits is written before anything else.
    pub(super) fn mind(&mut self) {
        if self.transport.is_behind() {
            self.outbox.get_or_insert_default();
        }
    }

    /// Drops an outbox in which nothing waits.
    pub(super) fn tidy(&mut self) {
        if self.outbox.as_ref().is_some_and(|outbox| outbox.is_empty()) && !self.transport.is_behind() {
            self.outbox = None;
        }
    }

    /// Says the last word of TLS, where it is spoken; whether nothing waits any more.
    pub(super) fn end(&mut self) -> bool {
        if let Transport::Tls(tls) = &mut self.transport
            && tls.session.end(&mut tls.socket).is_ok()
        {
            self.mind();
        }
        self.outbox.is_none()
    }

    /// Writes a frame of its own after what waits. It must go out whatever waits.
    pub(super) fn send(&mut self, frame: Bytes) -> io::Result<()> {
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

    /// Writes what waits, as far as the client takes it; how much it took.
    pub(super) fn flush(&mut self) -> io::Result<usize> {
        let Some(outbox) = &mut self.outbox else { return Ok(0) };
        let written = match &mut self.transport {
            Transport::Tcp(socket) => outbox.flush(socket)?,
            Transport::Tls(tls) => tls.session.flush(&mut tls.socket)? + outbox.flush(&mut **tls)?,
            Transport::Waiting => return Ok(0),
        };
        self.tidy();
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
        assert!(size_of::<Cold>() <= 88, "{}", size_of::<Cold>());
    }

    #[test]
    fn a_key_is_a_token() {
        let key = Key { index: 7, serial: u32::MAX - 1 };
        assert_eq!(Key::from(Token::from(key)), key);
    }
}
