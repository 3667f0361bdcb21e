//! The `[hub]` table of the configuration.

use std::{num::NonZeroUsize, time::Duration};

use clarion_protocol::limits;
use serde::{Deserialize, Serialize};

/// The most shards there can be: a set of them is one machine word.
pub const MAX_SHARDS: usize = 64;

/// On which thread the only shard is. Whoever wakes it from the same one saves a switch of threads for every message.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Thread {
    /// One to itself.
    #[default]
    Alone,
    /// One of its own that takes other tasks in, such as links of the bus.
    Hosting,
    /// That of the runtime which starts the hub, and which has no other.
    Shared,
}

/// How connections are held.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Threads that own sockets. One per core unless it is set: more would only take turns, fewer leave cores idle.
    pub shards: Option<NonZeroUsize>,
    /// What else the thread of the shard does, if there is only one. Several shards have threads of their own, since none
    /// must wait for another.
    #[serde(skip)]
    pub thread: Thread,
    /// Bytes that may wait for one connection, what keeping them costs included: some seconds of a busy channel.
    pub outbox_bytes: usize,
    /// Bytes of messages that may wait for one shard before the bus has to: a few milliseconds of a shard's work.
    pub queue_bytes: usize,
    /// The longest message that a client may send: as long as any payload.
    pub message_bytes: usize,
    /// How long a client may take over one message, from its first byte to its last: what has begun to come is kept.
    #[serde(with = "humantime_serde")]
    pub message_timeout: Duration,
    /// How often a WebSocket is pinged: below the usual 30 to 60 s idle limits of proxies.
    #[serde(with = "humantime_serde")]
    pub ping_interval: Duration,
    /// How long a pinged client may stay silent: some seconds of a bad mobile network.
    #[serde(with = "humantime_serde")]
    pub pong_timeout: Duration,
    /// How often an event stream carries a comment: below the shortest usual time-outs of proxies.
    #[serde(with = "humantime_serde")]
    pub comment_interval: Duration,
    /// How long a registered connection may wait for its transport: as long as a handshake may take.
    #[serde(with = "humantime_serde")]
    pub handshake_timeout: Duration,
    /// How long a client may take to answer a goodbye: a few round trips, and no reason to hold a restart up.
    #[serde(with = "humantime_serde")]
    pub close_timeout: Duration,
    /// Event streams that are sent elsewhere come back at a random moment within this time, or all would at once.
    #[serde(with = "humantime_serde")]
    pub retry_within: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            shards: None,
            thread: Thread::default(),
            outbox_bytes: limits::OUTBOX_BYTES,
            queue_bytes: 4 * 1024 * 1024,
            message_bytes: limits::PAYLOAD_BYTES,
            message_timeout: limits::MESSAGE_TIMEOUT,
            ping_interval: limits::PING_INTERVAL,
            pong_timeout: limits::PONG_TIMEOUT,
            comment_interval: limits::SSE_COMMENT_INTERVAL,
            handshake_timeout: limits::HANDSHAKE_TIMEOUT,
            close_timeout: Duration::from_secs(5),
            retry_within: Duration::from_secs(5),
        }
    }
}

impl Config {
    /// How many shards there are to be.
    pub(crate) fn shard_count(&self) -> usize {
        let cores = || std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
        self.shards.unwrap_or_else(cores).get().min(MAX_SHARDS)
    }
}
