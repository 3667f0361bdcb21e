//! A connection from its registration to its socket.

use std::{any::Any, sync::Arc, time::Duration};

use bytes::Bytes;
use clarion_protocol::{Door, Uid};
use tokio::sync::oneshot;

use crate::{
    connection::ConnectionId,
    framing::Framing,
    roster::Key,
    seat::{Bookmark, SeatId, Subscription},
    shard::{Command, Inbox},
    tls::TlsState,
    voice::Voice,
};

/// Everything the hub is told of a new connection. It hears nothing until it joins something.
pub struct Open {
    /// The connection's name in logs.
    pub id: ConnectionId,
    /// Which way it came in, for metrics.
    pub door: Door,
    /// What is around its messages.
    pub framing: Framing,
    /// Whose it is.
    pub user: Option<Uid>,
    /// When its token ends, from now.
    pub expires: Option<Duration>,
    /// What becomes of what its client says.
    pub voice: Box<dyn Voice>,
    /// Its place among all. Dropped when the goodbye begins or the connection is lost; dropping must not block.
    pub lease: Place,
}

/// A connection whose client is told by the shard itself that it is let in.
pub struct Arrival {
    /// What the hub is told of it.
    pub open: Open,
    /// What it hears from its first moment.
    pub subscriptions: Vec<Subscription>,
    /// Its socket.
    pub socket: std::net::TcpStream,
    /// The TLS state of it, if there is one.
    pub tls: Option<Box<TlsState>>,
    /// What its client is told first, such as the head of a response, as plaintext. A poll's is kept for the response that it
    /// will be: a head with the status 200 and without a length.
    pub opening: Bytes,
    /// What was read beyond the request, as plaintext.
    pub read_ahead: Bytes,
    /// Told when the connection has joined what it hears, before anything else can reach it.
    pub entered: Option<oneshot::Sender<Entered>>,
    /// Keeps how far it has come, where single messages cannot tell. Says nothing until it is
    /// [released](crate::Hub::release_bookmark). A poll has one always.
    pub bookmark: Option<Box<dyn Bookmark>>,
}

/// A connection that was let in by its shard.
#[derive(Debug)]
pub struct Entered {
    /// What it is called in the hub.
    pub key: ConnectionKey,
    /// The seats of what it joined, in that order.
    pub seats: Vec<SeatId>,
}

/// What was taken for a connection, given back when the last connection that holds it lets it go.
///
/// Connections that take nothing but a number among all share one, which costs none of them anything; who it is that counts
/// them knows it by [`Place::holders`]. A pointer for each, since there may be a million.
#[derive(Clone)]
pub struct Place(Arc<Box<dyn Any + Send + Sync>>);

impl Place {
    /// One that holds this.
    pub fn new(held: impl Any + Send + Sync) -> Self {
        Self(Arc::new(Box::new(held)))
    }

    /// How many hold it, this one included.
    #[must_use]
    pub fn holders(&self) -> usize {
        Arc::strong_count(&self.0)
    }
}

/// Names a registered connection for as long as it is here, and nobody afterwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConnectionKey {
    pub(crate) shard: u16,
    pub(crate) key: Key,
}

/// A connection that was registered.
#[derive(Debug)]
pub struct Opened {
    /// What gives it its socket.
    pub ticket: Ticket,
    /// The seats of what it joined at once, in that order.
    pub seats: Vec<SeatId>,
}

/// A registered connection that waits for its transport. Dropping it closes the connection.
pub struct Ticket {
    inbox: Arc<Inbox>,
    key: ConnectionKey,
    used: bool,
}

impl Ticket {
    pub(crate) fn new(inbox: Arc<Inbox>, key: ConnectionKey) -> Self {
        Self { inbox, key, used: false }
    }

    /// What it is called in the hub.
    #[must_use]
    pub fn key(&self) -> ConnectionKey {
        self.key
    }

    /// Gives the connection its socket, once its client was told that it is let in, with the TLS state of it, if there is
    /// one, and with what was read beyond the request, as plaintext.
    pub fn attach(mut self, socket: std::net::TcpStream, tls: Option<Box<TlsState>>, read_ahead: Bytes) {
        // A socket that cannot be set is broken: the ticket is dropped unused, which closes the connection.
        if !prepare(&socket) {
            return;
        }
        self.used = true;
        self.inbox.command(Command::Attach(self.key.key, socket, tls, read_ahead));
    }
}

/// Makes a socket one for a shard; `false` when it is broken.
pub(crate) fn prepare(socket: &std::net::TcpStream) -> bool {
    let done = socket.set_nonblocking(true).and_then(|()| socket.set_nodelay(true));
    if let Err(error) = &done {
        tracing::debug!(%error, "a socket was gone before it was attached");
    }
    done.is_ok()
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if !self.used {
            self.inbox.command(Command::Gone(self.key.key));
        }
    }
}

impl std::fmt::Debug for Ticket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ticket").field("key", &self.key).finish_non_exhaustive()
    }
}
