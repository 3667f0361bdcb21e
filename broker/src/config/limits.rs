//! The `[limits]` table: bounds, and the times of a connection's life.

use std::time::Duration;

use clarion_protocol::limits;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{ByteSize, check::Judge};
use crate::admission::bodies;

/// The `[limits]` table. Reasons for the defaults that are not given here stand in `clarion_protocol::limits`.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Bytes of a payload.
    pub payload: ByteSize,
    /// Bytes that may wait for one connection.
    pub outbox: ByteSize,
    /// Bytes of messages that may wait for one shard before the bus has to: a few milliseconds of a shard's work.
    pub queue: ByteSize,
    /// Threads that own sockets; 0 is one per core: more would only take turns, fewer leave cores idle.
    pub shards: usize,
    /// Channels of one connection, patterns included.
    pub channels_per_connection: usize,
    /// Distinct channels that one address hears at this node; 0 is no limit.
    pub channels_per_address: u32,
    /// Distinct channels that this node hears; 0 is no limit. Each is a subscription at the bus's server (0.2 KB at a Redis).
    pub channels: u32,
    /// Patterns of one connection, such as `orders/**`; 0 is no limit. A page has a handful.
    pub patterns_per_connection: u32,
    /// Distinct patterns that one address hears at this node; 0 is no limit.
    pub patterns_per_address: u32,
    /// Distinct patterns that this node hears; 0 is no limit. Left out, it is 100 on Redis, which compares every message that
    /// anybody publishes with every pattern of every node, and no limit on NATS and in memory.
    pub patterns: Option<u32>,
    /// Connections of this node, those included that it carries to others; 0 is no limit.
    pub connections: u32,
    /// Connections of one user at this node; 0 is no limit.
    pub per_user: u32,
    /// Connections of one address at this node; 0 is no limit. IPv6 addresses count by /64, which is what one customer gets:
    /// all in `2001:db8:1:2::/64` are one.
    pub per_address: u32,
    /// New connections a second, and as many at once after a quiet second; 0 is no limit. A core greets some thousands
    /// a second with their tokens checked, and those who are already here must not wait for it.
    pub accepts_per_second: u32,
    /// Requests for a connection that one address may make in a second, and as many at once; 0 is no limit.
    pub handshakes_per_address: u32,
    /// Tokens and API keys that are not good, of one address in a minute; 0 is no limit. Then all that it shows are refused
    /// unseen for a while, also good ones of others behind the same address.
    pub failures_per_address: u32,
    /// Messages that one connection may publish in a second, and as many at once; 0 is no limit. What comes faster waits.
    pub publishes_per_connection: u32,
    /// Messages that one user may publish at this node in a second, by connections and requests; 0 is no limit. Backends
    /// are not counted.
    pub publishes_per_user: u32,
    /// Connections that speak HTTP at once: waiting for a request, in one, or kept after one. WebSockets and event streams that
    /// were let in are not among them. 0 is no limit. Ten thousand that say nothing take some 100 MB.
    pub http_connections: u32,
    /// The same of one address. 0 is `per_address` and 16 more where that is set, and no limit elsewhere. Connections from
    /// `trusted_proxies` are not counted by it.
    pub http_per_address: u32,
    /// Bytes of requests' bodies that this node holds at once: 32 full batches.
    pub bodies: ByteSize,
    /// How long a client may take to send its request head, from its first byte on, and a new connection to send that byte.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "Duration")]
    pub handshake: Duration,
    /// How long a connection may rest between two requests: longer than proxies and clients keep theirs (60 s in most),
    /// since a request that is sent while this side closes is lost.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "Duration")]
    pub keep_alive: Duration,
    /// How often a WebSocket is pinged.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "Duration")]
    pub ping: Duration,
    /// How long a pinged peer may stay silent.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "Duration")]
    pub pong: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            payload: ByteSize(limits::PAYLOAD_BYTES),
            outbox: ByteSize(limits::OUTBOX_BYTES),
            queue: ByteSize(4 << 20),
            shards: 0,
            channels_per_connection: limits::CHANNELS_PER_CONNECTION,
            channels_per_address: 0,
            channels: 0,
            patterns_per_connection: 16,
            patterns_per_address: 0,
            patterns: None,
            connections: 0,
            per_user: 0,
            per_address: 0,
            accepts_per_second: 5_000,
            handshakes_per_address: 0,
            failures_per_address: 0,
            publishes_per_connection: 0,
            publishes_per_user: 0,
            http_connections: 10_000,
            http_per_address: 0,
            bodies: ByteSize(32 << 20),
            handshake: limits::HANDSHAKE_TIMEOUT,
            keep_alive: Duration::from_secs(75),
            ping: limits::PING_INTERVAL,
            pong: limits::PONG_TIMEOUT,
        }
    }
}

/// What a hub takes at most.
const MOST_SHARDS: usize = clarion_hub::MAX_SHARDS;
/// Larger payloads are files, and no bus takes them.
const LARGEST_PAYLOAD: ByteSize = ByteSize(16 << 20);
/// What a frame or an event adds to a payload, generously.
const OVERHEAD: usize = 4096;

impl Limits {
    pub(super) fn check(&self, judge: &mut Judge<'_>) {
        if self.payload.bytes() == 0 || self.payload > LARGEST_PAYLOAD {
            judge.found("limits.payload", self.payload, "1B to 16MiB", "send what is larger as a link to it");
        }
        if self.outbox.bytes() < self.payload.bytes() + OVERHEAD {
            let expected = format!("at least limits.payload ({}) and 4KiB", self.payload);
            judge.found("limits.outbox", self.outbox, &expected, "raise it, or lower limits.payload");
        }
        if self.queue < self.outbox {
            let expected = format!("at least limits.outbox ({})", self.outbox);
            judge.found("limits.queue", self.queue, &expected, "leave it out for 4MiB, or lower limits.outbox");
        }
        if self.shards > MOST_SHARDS {
            judge.found("limits.shards", self.shards, "0 to 64", "leave it out for one per core");
        }
        if self.channels_per_connection == 0 {
            judge.found("limits.channels_per_connection", 0, "at least 1", "leave it out for 128");
        }
        let least = bodies::largest(self.payload.bytes()).max(limits::BATCH_BYTES);
        if self.bodies.bytes() < least {
            let expected = format!("at least {least} bytes: the largest batch, and the largest form with a payload");
            judge.found("limits.bodies", self.bodies, &expected, "raise it, or lower limits.payload");
        }
        let times = [
            ("limits.handshake", self.handshake),
            ("limits.keep_alive", self.keep_alive),
            ("limits.ping", self.ping),
            ("limits.pong", self.pong),
        ];
        for (key, time) in times {
            if time < Duration::from_millis(100) || time > Duration::from_secs(3600) {
                let value = humantime::format_duration(time);
                judge.found(key, value, "100ms to 1h", "leave it out for the default");
            }
        }
    }
}
