//! Who is here: owns all long-lived connections, and writes to them what the bus delivers.
//!
//! The hub is a handle to its shards. Each shard is one thread that owns its sockets and its part of the subscription
//! table; nothing in here ever awaits a client.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use clarion_bus::{Delivery, InterestId};
use clarion_protocol::{Channel, CloseCode, Interest, Uid, dialect::Dialect};

/// Names one connection for the life of this process, in logs too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ConnectionId(pub u64);

/// What happens to a message that finds a connection's outbox full.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, serde::Deserialize, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum SlowPolicy {
    /// The connection is closed with [`CloseCode::Slow`].
    #[default]
    Disconnect,
    /// The messages that have waited longest are dropped.
    DropOldest,
    /// Only the newest message of each channel is kept while the client is behind.
    Latest,
}

/// One of a connection's subscriptions. Its interest stands on the bus already.
#[derive(Debug, Clone)]
pub struct Subscription {
    /// What the bus calls it.
    pub id: InterestId,
    /// What was asked for; decides which of a connection's overlapping subscriptions brings a message.
    pub interest: Interest,
    /// What happens when the client is slow.
    pub slow: SlowPolicy,
}

/// Everything the hub is told of a new connection.
pub struct Open {
    /// The connection's name in logs.
    pub id: ConnectionId,
    /// How messages are written for it. `Plain` is a WebSocket, the others are event streams.
    pub dialect: Dialect,
    /// What it hears.
    pub subscriptions: Vec<Subscription>,
    /// Whose it is.
    pub user: Option<Uid>,
    /// Where to its client may publish by sending frames.
    pub upstream: Option<Channel>,
    /// When its token ends, from now.
    pub expires: Option<Duration>,
    /// What an event stream begins with.
    pub greeting: Bytes,
    /// Dropped when the connection is gone: gives back interests and permits. Dropping must not block.
    pub lease: Box<dyn Send>,
}

/// What clients send, on its way up. Given to the hub at wiring, called on a shard's thread: must not block.
pub trait Upstream: Send + Sync + 'static {
    /// A client sent a message that is to be published. Nothing more is read from it until [`Hub::resume`].
    fn received(&self, from: Sender, channel: Channel, payload: Bytes);
}

/// Names the connection that is to be resumed.
#[derive(Debug, Clone, Copy)]
pub struct Sender {
    // shard, key and generation
}

/// The handle to all shards. Cheap to clone.
#[derive(Clone)]
pub struct Hub {}

impl Hub {
    /// Registers a connection whose transport comes later, and returns when its shard has taken it.
    ///
    /// From then on messages are kept for it, within its bound, so that none is lost between the hub's word and the client's
    /// first read: call this *before* the handshake is confirmed. Cancel safe.
    ///
    /// # Errors
    /// When this node takes no more connections.
    pub async fn open(&self, open: Open) -> Result<Ticket, Refused>;

    /// Hands on what the bus delivered, leaving the batch empty. Waits only while a shard's queue is full, which is counted.
    pub async fn dispatch(&self, batch: &mut Vec<Delivery>);

    /// Reads on from a connection whose message was dealt with.
    pub fn resume(&self, sender: Sender);

    /// Closes all connections of a user; returns how many there were.
    pub fn close_user(&self, user: &str, code: CloseCode) -> usize;

    /// How many connections of a user are here.
    pub fn connections_of(&self, user: &str) -> usize;

    /// How many connections there are.
    pub fn connections(&self) -> usize;

    /// Closes about `count` connections with `code`, each after what is pending for it (event streams get `retry:` and end).
    pub fn close_some(&self, count: usize, code: CloseCode);

    /// Takes no more connections.
    pub fn refuse(&self);

    /// Ends the shards: flushes what can be written until `deadline`, then closes what is left.
    pub async fn stop(self, deadline: tokio::time::Instant);
}

/// A registered connection that waits for its transport. Dropping it closes the connection.
pub struct Ticket {}

impl Ticket {
    /// Gives a WebSocket its socket, after the handshake, with what was read from it beyond the request.
    pub fn attach(self, socket: std::net::TcpStream, read_ahead: Bytes);

    /// Takes the connection's bytes as a stream for an HTTP response. Dropping the stream closes the connection.
    pub fn into_stream(self) -> EventStream;
}
