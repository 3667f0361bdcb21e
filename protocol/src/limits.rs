//! Limits and intervals that hold unless they are configured otherwise, each with its reason.

use std::time::Duration;

/// Bytes of a channel name.
pub const CHANNEL_BYTES: usize = 255;
/// Segments of a channel name.
pub const CHANNEL_SEGMENTS: usize = 16;
/// Bytes of a payload: what a page can sensibly show, and far below what Redis and NATS (1 MiB) take.
pub const PAYLOAD_BYTES: usize = 64 * 1024;
/// Bytes that may wait for one connection: some seconds of a busy channel.
pub const OUTBOX_BYTES: usize = 1024 * 1024;
/// Channels of one connection.
pub const CHANNELS_PER_CONNECTION: usize = 128;
/// Messages in one batch.
pub const BATCH_MESSAGES: usize = 1_000;
/// Bytes of one batch.
pub const BATCH_BYTES: usize = 1024 * 1024;
/// How often a WebSocket is pinged: below the usual 30 to 60 s idle limits of proxies.
pub const PING_INTERVAL: Duration = Duration::from_secs(25);
/// How long a pinged peer may stay silent.
pub const PONG_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a client may take to send its request head.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// How often an event stream carries a comment: below the shortest usual proxy time-outs.
pub const SSE_COMMENT_INTERVAL: Duration = Duration::from_secs(15);
/// From the signal to the exit: Kubernetes' default grace period.
pub const DRAIN_TIMEOUT: Duration = Duration::from_secs(30);
/// How often a member says that it lives.
pub const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(1);
/// Heartbeats that may be missed before a member counts as gone.
pub const HEARTBEATS_MISSED: u32 = 3;
/// How often a node probes its bus.
pub const PROBE_INTERVAL: Duration = Duration::from_secs(1);
/// After how long a probe counts as late.
pub const PROBE_TIMEOUT: Duration = Duration::from_secs(3);
/// How long `online` waits for the members' answers.
pub const ONLINE_TIMEOUT: Duration = Duration::from_millis(500);
/// Bytes of all tags of a message together: they travel in a header.
pub const TAG_BYTES: usize = 1024;

/// How long a client may take over one message that it sends, from its first byte to its last: 64 KiB over a mobile network
/// at its worst.
pub const MESSAGE_TIMEOUT: Duration = Duration::from_secs(30);
/// Bytes of a cursor as text: some hundred partitions, and what proxies let pass in a header.
pub const CURSOR_BYTES: usize = 3 * 1024;
/// How long a logged namespace remembers a message's id, so that a repeat of it is dropped: JetStream's default.
pub const REPEAT_WINDOW: Duration = Duration::from_secs(120);
