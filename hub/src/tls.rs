//! The TLS of one connection, without a socket and without a runtime: plaintext on one side, ciphertext on the other.
//!
//! It is bytes in, bytes out, over whatever socket it is given: tokio's while HTTP is spoken, a shard's from then on.
//!
//! rustls's unbuffered connection keeps keys and no bytes. What is read is decrypted in room that all connections of a thread
//! share, and so is encrypted what is written. It holds bytes only while it must: the beginning of a record whose
//! end has not come, the rest of a record that the socket did not take, plaintext that nobody has fetched yet.

#[cfg(test)]
mod tests;

use std::{
    cell::RefCell,
    io::{self, IoSlice, Read, Write},
    sync::Arc,
};

use rustls::{
    Error, HandshakeKind, ServerConfig,
    server::UnbufferedServerConnection,
    unbuffered::{ConnectionState, EncodeError, EncryptError, InsufficientSizeError, UnbufferedStatus},
};

/// The most plaintext that goes into one record (RFC 8446, 5.1), and so what is encrypted at a time.
const RECORD_BYTES: usize = 16 * 1024;
/// What is read at a time, the beginning of a record included that came before.
const READ_BYTES: usize = 64 * 1024;
/// A record of the largest size with all that encryption adds, and an answer of the protocol's own before it.
const SEALED_BYTES: usize = RECORD_BYTES + 1024;
/// What the first record of a handshake begins with (RFC 8446, 5.1).
const HANDSHAKE: u8 = 22;

thread_local! {
    /// Every connection of this thread reads into this.
    static OPENING: RefCell<Vec<u8>> = RefCell::new(vec![0; READ_BYTES]);
    /// Every connection of this thread writes from this.
    static SEALING: RefCell<Vec<u8>> = RefCell::new(vec![0; SEALED_BYTES]);
    /// What is to be in one record is joined in this.
    static JOINING: RefCell<Vec<u8>> = RefCell::new(Vec::with_capacity(RECORD_BYTES));
}

/// The server's end of TLS on one connection.
pub struct TlsState {
    tls: UnbufferedServerConnection,
    /// Ciphertext that was read and is not a whole record, or not a whole handshake message.
    pub(crate) incoming: Vec<u8>,
    /// Ciphertext that the socket did not take, and how much of it it took since.
    pub(crate) outgoing: Vec<u8>,
    sent: usize,
    /// Plaintext that did not fit where it was wanted, and how much of it was fetched since.
    pub(crate) plain: Vec<u8>,
    fetched: usize,
    /// The client said that it is done.
    client_done: bool,
    /// We said so.
    done: bool,
    /// The client broke the protocol: nothing more goes in or out but the alert.
    failed: bool,
}

/// A client that does not speak TLS at all.
#[derive(Debug, thiserror::Error)]
#[error("this is not TLS")]
pub struct NotTls {
    /// It speaks HTTP.
    pub http: bool,
}

/// What a step of the protocol leads to.
enum Step {
    On,
    Rest,
}

impl TlsState {
    /// One whose client is still to say hello.
    ///
    /// # Errors
    /// When the configuration is none for a server.
    pub fn new(config: Arc<ServerConfig>) -> Result<Self, Error> {
        Ok(Self {
            tls: UnbufferedServerConnection::new(config)?,
            incoming: Vec::new(),
            outgoing: Vec::new(),
            sent: 0,
            plain: Vec::new(),
            fetched: 0,
            client_done: false,
            done: false,
            failed: false,
        })
    }

    /// Whether ciphertext waits for the socket. While it does, nothing more is encrypted.
    #[must_use]
    pub fn is_behind(&self) -> bool {
        self.sent < self.outgoing.len()
    }

    /// Whether plaintext waits to be fetched, of which no socket will tell.
    #[must_use]
    pub fn has_plaintext(&self) -> bool {
        self.fetched < self.plain.len()
    }

    /// How the handshake went, once it is through.
    pub fn handshake(&self) -> Option<HandshakeKind> {
        self.tls.handshake_kind()
    }

    /// Goes on with the handshake until it is through and all of it is sent.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`] while the socket has no more to read or, if [`TlsState::is_behind`], takes no more;
    /// [`NotTls`] within an error of kind `Other`; what the socket says; `InvalidData` for a client that broke a rule.
    pub fn shake_hands<S: Read + Write>(&mut self, socket: &mut S) -> io::Result<()> {
        loop {
            self.flush(socket)?;
            if self.is_behind() {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            if !self.tls.is_handshaking() {
                return Ok(());
            }
            if self.take_in(socket, &mut [])?.is_none() {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    /// Plaintext from the client, as much as there is and fits; 0 when it is done. Until [`io::ErrorKind::WouldBlock`]
    /// comes there may be more.
    ///
    /// # Errors
    /// What the socket says, and `InvalidData` for a client that broke a rule of TLS; the alert was sent if the socket took it.
    pub fn read<S: Read + Write>(&mut self, socket: &mut S, into: &mut [u8]) -> io::Result<usize> {
        if self.has_plaintext() {
            let length = into.len().min(self.plain.len() - self.fetched);
            into[..length].copy_from_slice(&self.plain[self.fetched..self.fetched + length]);
            self.fetched += length;
            release_when_used_up(&mut self.plain, &mut self.fetched);
            return Ok(length);
        }
        loop {
            if self.client_done {
                return Ok(0);
            }
            match self.take_in(socket, into)? {
                None => return Ok(0),
                // A whole record that was no message, or a part of one.
                Some(0) => {}
                Some(length) => return Ok(length),
            }
        }
    }

    /// Encrypts and writes what the socket takes; how much of the plaintext is on its way. What the socket did not take
    /// of the last record stays here, so that at most one record has left its owner and not arrived.
    ///
    /// # Errors
    /// What the socket says, [`io::ErrorKind::WouldBlock`] excepted, and `InvalidData` when no more can be encrypted.
    pub fn write(&mut self, socket: &mut impl Write, plain: &[u8]) -> io::Result<usize> {
        self.flush(socket)?;
        let mut taken = 0;
        for piece in plain.chunks(RECORD_BYTES) {
            if self.is_behind() {
                break;
            }
            SEALING.with_borrow_mut(|room| {
                let length = self.seal(piece, room)?;
                self.send(socket, &room[..length])
            })?;
            taken += piece.len();
        }
        Ok(taken)
    }

    /// The same for several pieces. Small ones share a record: they are joined in room that all sessions share.
    ///
    /// # Errors
    /// As [`TlsState::write`].
    pub fn write_vectored(&mut self, socket: &mut impl Write, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        let mut pieces = pieces.iter().map(|piece| &**piece).skip_while(|piece| piece.is_empty());
        let Some(first) = pieces.next() else { return Ok(0) };
        if first.len() >= RECORD_BYTES {
            return self.write(socket, first);
        }
        JOINING.with_borrow_mut(|room| {
            room.clear();
            for piece in std::iter::once(first).chain(pieces) {
                room.extend_from_slice(&piece[..piece.len().min(RECORD_BYTES - room.len())]);
            }
            self.write(socket, room)
        })
    }

    /// Writes ciphertext that waits, as far as the socket takes it; how much that was. [`TlsState::is_behind`] tells
    /// whether that is all.
    ///
    /// # Errors
    /// What the socket says, [`io::ErrorKind::WouldBlock`] excepted.
    pub fn flush(&mut self, socket: &mut impl Write) -> io::Result<usize> {
        if !self.is_behind() {
            return Ok(0);
        }
        let written = write_some(socket, &self.outgoing[self.sent..])?;
        self.sent += written;
        release_when_used_up(&mut self.outgoing, &mut self.sent);
        Ok(written)
    }

    /// Says that nothing more will come, after what waits. Once is enough; [`TlsState::flush`] sees to the rest.
    ///
    /// # Errors
    /// As [`TlsState::write`].
    pub fn end(&mut self, socket: &mut impl Write) -> io::Result<()> {
        if !std::mem::replace(&mut self.done, true) && !self.failed {
            // Short, and the last: it may stand behind a record that waits.
            let mut goodbye = [0; 128];
            let length = self.seal_with(&mut goodbye, |traffic, room| traffic.queue_close_notify(room))?;
            self.outgoing.extend_from_slice(&goodbye[..length]);
        }
        self.flush(socket).map(drop)
    }

    /// Reads once and decrypts; the plaintext that fitted, and `None` at the end of the stream.
    fn take_in<S: Read + Write>(&mut self, socket: &mut S, into: &mut [u8]) -> io::Result<Option<usize>> {
        if self.failed {
            // rustls would judge the same bytes again.
            return Err(broken("the session was broken off"));
        }
        let length = OPENING.with_borrow_mut(|room| {
            let kept = self.incoming.len();
            // What does not fit where it is wanted is kept, so no more is read than one record beyond that.
            let most = (kept + into.len().max(RECORD_BYTES)).min(room.len());
            if kept >= most {
                return Err(broken("a handshake message is longer than any that is needed"));
            }
            let read = read_some(socket, &mut room[kept..most])?;
            if read == 0 {
                return Ok(None);
            }
            if self.done {
                // Nobody will hear it, and nothing could be said to it any more.
                return Ok(Some(0));
            }
            if self.handshake().is_none() && kept == 0 && room[0] != HANDSHAKE && self.tls.is_handshaking() {
                return Err(io::Error::other(NotTls { http: room[0].is_ascii_uppercase() }));
            }
            room[..kept].copy_from_slice(&self.incoming);
            self.open(&mut room[..kept + read], into).map(Some)
        });
        // An answer of the protocol's own, or the alert that says why it ends. Whoever writes next tries again.
        let _ = self.flush(socket);
        length
    }

    /// Decrypts what is whole and keeps the rest; how much plaintext there is.
    fn open(&mut self, mut incoming: &mut [u8], into: &mut [u8]) -> io::Result<usize> {
        let mut filled = 0;
        let result = loop {
            let UnbufferedStatus { mut discard, state } = self.tls.process_tls_records(incoming);
            let step = match state {
                Ok(ConnectionState::ReadTraffic(mut traffic)) => loop {
                    match traffic.next_record() {
                        Some(Ok(record)) => {
                            discard += record.discard;
                            let fits = record.payload.len().min(into.len() - filled);
                            into[filled..filled + fits].copy_from_slice(&record.payload[..fits]);
                            filled += fits;
                            self.plain.extend_from_slice(&record.payload[fits..]);
                        }
                        Some(Err(error)) => break Err(error),
                        None => break Ok(Step::On),
                    }
                },
                Ok(ConnectionState::EncodeTlsData(mut data)) => {
                    append(&mut self.outgoing, |room| data.encode(room)).map(|()| Step::On)
                }
                Ok(ConnectionState::TransmitTlsData(data)) => {
                    data.done();
                    Ok(Step::On)
                }
                Ok(ConnectionState::PeerClosed) => {
                    self.client_done = true;
                    Ok(Step::On)
                }
                Ok(ConnectionState::BlockedHandshake | ConnectionState::WriteTraffic(_) | ConnectionState::Closed) => {
                    Ok(Step::Rest)
                }
                // Early data is off, and there are no other states.
                Ok(_) => Err(Error::General("a state that this server does not know".to_owned())),
                Err(error) => Err(error),
            };
            incoming = &mut std::mem::take(&mut incoming)[discard..];
            match step {
                Ok(Step::On) => {}
                Ok(Step::Rest) => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        if let Err(error) = result {
            return self.fail(incoming, filled, &error);
        }
        keep(&mut self.incoming, incoming);
        Ok(filled)
    }

    /// Notes that the client broke a rule, and keeps the alert that tells it so. What it said before still counts.
    fn fail(&mut self, incoming: &mut [u8], filled: usize, error: &Error) -> io::Result<usize> {
        tracing::debug!(%error, "a client broke the rules of TLS");
        self.failed = true;
        if self.tls.wants_write()
            && let Ok(ConnectionState::EncodeTlsData(mut alert)) = self.tls.process_tls_records(incoming).state
        {
            let _ = append(&mut self.outgoing, |room| alert.encode(room));
        }
        self.incoming = Vec::new();
        if filled > 0 { Ok(filled) } else { Err(io::Error::new(io::ErrorKind::InvalidData, error.clone())) }
    }

    /// Encrypts one record's worth; how long it became.
    fn seal(&mut self, plain: &[u8], room: &mut [u8]) -> io::Result<usize> {
        self.seal_with(room, |traffic, room| traffic.encrypt(plain, room))
    }

    /// Has something encrypted, after what the protocol has to say itself.
    fn seal_with(
        &mut self,
        room: &mut [u8],
        encrypt: impl FnOnce(&mut WriteTraffic<'_>, &mut [u8]) -> Result<usize, EncryptError>,
    ) -> io::Result<usize> {
        if self.failed {
            return Err(broken("the session was broken off"));
        }
        let mut used = 0;
        loop {
            // What is kept is never a whole message, but a beginning of one must be shown again.
            let UnbufferedStatus { discard, state } = self.tls.process_tls_records(&mut self.incoming);
            match state {
                Ok(ConnectionState::WriteTraffic(mut traffic)) => {
                    let sealed = encrypt(&mut traffic, &mut room[used..]);
                    return sealed.map(|length| used + length).map_err(io::Error::other);
                }
                Ok(ConnectionState::EncodeTlsData(mut data)) => {
                    used += data.encode(&mut room[used..]).map_err(io::Error::other)?;
                }
                Ok(ConnectionState::TransmitTlsData(data)) => data.done(),
                Ok(ConnectionState::PeerClosed) => self.client_done = true,
                Ok(_) => return Err(broken("the session takes nothing more")),
                Err(error) => return Err(io::Error::new(io::ErrorKind::InvalidData, error)),
            }
            self.incoming.drain(..discard);
        }
    }

    /// Writes a record, and keeps what the socket does not take of it.
    fn send(&mut self, socket: &mut impl Write, sealed: &[u8]) -> io::Result<()> {
        let written = write_some(socket, sealed)?;
        self.outgoing.extend_from_slice(&sealed[written..]);
        Ok(())
    }
}

type WriteTraffic<'a> = rustls::unbuffered::WriteTraffic<'a, rustls::server::ServerConnectionData>;

fn broken(why: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

/// Gives the room back when nothing is left in it.
fn release_when_used_up(bytes: &mut Vec<u8>, used: &mut usize) {
    if *used == bytes.len() {
        (*bytes, *used) = (Vec::new(), 0);
    }
}

/// Keeps exactly these bytes, and no room beyond them.
fn keep(kept: &mut Vec<u8>, bytes: &[u8]) {
    if bytes.is_empty() {
        *kept = Vec::new();
    } else {
        kept.clear();
        kept.reserve_exact(bytes.len());
        kept.extend_from_slice(bytes);
    }
}

/// Appends what `encode` writes, with as much room as it asks for.
fn append(to: &mut Vec<u8>, mut encode: impl FnMut(&mut [u8]) -> Result<usize, EncodeError>) -> Result<(), Error> {
    let start = to.len();
    let mut room = 512;
    loop {
        to.resize(start + room, 0);
        match encode(&mut to[start..]) {
            Ok(length) => {
                to.truncate(start + length);
                return Ok(());
            }
            Err(EncodeError::InsufficientSize(InsufficientSizeError { required_size })) if required_size > room => {
                room = required_size;
            }
            Err(error) => {
                to.truncate(start);
                return Err(Error::General(error.to_string()));
            }
        }
    }
}

fn read_some(socket: &mut impl Read, into: &mut [u8]) -> io::Result<usize> {
    loop {
        match socket.read(into) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

/// Writes until all is written or the socket takes no more. After a short write once more, so that the kernel knows that
/// we wait and tells when there is room.
pub(crate) fn write_some(socket: &mut impl Write, bytes: &[u8]) -> io::Result<usize> {
    let mut written = 0;
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
