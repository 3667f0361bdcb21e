//! What joins the nodes: Redis, NATS or, within one process, memory, all behind the trait [`Bus`].
//!
//! A bus carries opaque messages and knows nothing of sockets. It takes publications, and hands what its server
//! sends for the node's interests to the [`Sink`] it was started with, in the order of the bus.

mod apart;
mod ask;
mod backoff;
mod bus_url;
mod config;
pub mod log;
pub mod memory;
mod nats;
mod race;
mod refusal;
mod redis;
mod table;
mod tls;

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use clarion_protocol::{Interest, InternalName, MessageId, NodeName, Position, Publication};
use tokio::sync::watch;

/// The decoders of what servers send, as the crate `clarion-fuzz` drives them.
#[doc(hidden)]
pub mod fuzz {
    pub use crate::{nats::fuzz as nats, redis::fuzz as redis};
}

pub use ask::{Answers, Question, Reply};
pub use bus_url::{BusUrl, BusUrlError, HostPort, NatsAuth, NatsUrl, RedisMode, RedisUrl, Secret};
pub use clarion_protocol::{Delivery, InterestId};
pub use config::{BusConfig, ConfigError, PubSub, check, connect};
pub use log::{Log, LogError, LogHandle, Numbering, NumberingHandle, Store, StoreHandle};

/// What can be subscribed to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Topic {
    /// A channel, its children, or all below it.
    Channels(Interest),
    /// One of the broker's own subjects.
    Internal(InternalName),
}

impl From<Interest> for Topic {
    fn from(interest: Interest) -> Self {
        Self::Channels(interest)
    }
}

impl From<InternalName> for Topic {
    fn from(name: InternalName) -> Self {
        Self::Internal(name)
    }
}

/// Takes what a bus receives. Given to a bus when it is started; a value of this type is the bus's only way up.
#[async_trait]
pub trait Sink: Send + Sync + 'static {
    /// Takes all deliveries that one read of the link brought, leaving `batch` empty with its room for the next read.
    ///
    /// May wait, and while it does the link reads nothing more: this is the back-pressure towards the bus.
    /// Not cancel safe: the link awaits it to the end.
    async fn deliver(&self, batch: &mut Vec<Delivery>);

    /// These interests may have missed something, and hear again: what carried them was interrupted, or the server
    /// dropped messages for them.
    ///
    /// It names each of them, also where it was all that the node has, and is never called with none. An interest that
    /// first stood after the interruption has missed nothing and is not among them; one that was given back meanwhile may be.
    fn gap(&self, interests: &[InterestId]);
}

/// What is known of a message that the bus has taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receipt {
    /// Its id, which travels with it: the publisher's own, or the one that it was given on its way out.
    pub id: MessageId,
    /// Its place in the channel's log, where there is one.
    pub position: Option<Position>,
}

impl Receipt {
    /// For a message that is kept nowhere.
    #[must_use]
    pub fn unlogged(id: MessageId) -> Self {
        Self { id, position: None }
    }
}

/// Whether a node can hear its bus. What is published while the way out is broken is refused, never queued.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Link {
    /// The subscriber link is not connected: first attempt, or between attempts, after which a gap is told. Says why the last
    /// attempt failed; never holds a secret.
    Down(Option<String>),
    /// Connected, and every interest that was standing before stands again.
    Up,
}

/// What joins the nodes. All three implementations pass `tests/conformance`.
///
/// Every bus keeps connecting by itself, backing off with full jitter, and subscribes anew to all interests after each reconnect.
#[async_trait]
pub trait Bus: Send + Sync + 'static {
    /// `memory`, `redis` or `nats`, for logs and metrics.
    fn kind(&self) -> &'static str;

    /// Adds one reference to an interest, and returns when the bus's server has acknowledged that it stands.
    ///
    /// While the link is down this waits for it, so callers bound the time. Cancel safe: a dropped call leaves no reference.
    ///
    /// # Errors
    /// [`SubscribeError::Refused`] when this bus or its server never will, [`SubscribeError::NotNow`] when that passes.
    async fn subscribe(&self, topic: &Topic) -> Result<InterestId, SubscribeError>;

    /// Gives one reference back. With the last one the interest goes, at once; what is in flight for it is dropped.
    fn unsubscribe(&self, id: InterestId);

    /// Publishes one message and returns when the bus's server has taken it. One that has no id is given one, which it
    /// carries from then on: in an envelope, or as a header.
    ///
    /// In a logged namespace the message is stored and numbered before it is relayed, in one step. One whose id the log has
    /// seen within its window is not published again: the receipt tells the position of the first.
    ///
    /// Not cancel safe: spawn it where the caller may go away, or nobody knows whether it was published.
    ///
    /// # Errors
    /// [`PublishError`] tells whether the server may have taken it.
    async fn publish(&self, publication: Publication) -> Result<Receipt, PublishError>;

    /// Publishes many, in order per subject, pipelined; a result for each, in their order.
    async fn publish_all(&self, publications: Vec<Publication>) -> Vec<Result<Receipt, PublishError>>;

    /// Says something on one of the broker's own subjects, as it is: nobody is told an id, so it carries none.
    ///
    /// Cancel safe where it makes no difference whether it was said.
    ///
    /// # Errors
    /// [`PublishError`], as for [`Bus::publish`].
    async fn tell(&self, subject: &InternalName, payload: Bytes) -> Result<(), PublishError>;

    /// Asks those who hear one of the broker's own subjects, and gathers their answers until all that are `expected` have
    /// answered or the time is over. They find a [`Question`] in what they hear, and [`Bus::answer`] it.
    ///
    /// Cancel safe: a dropped call leaves nothing behind but the question.
    ///
    /// # Errors
    /// [`PublishError`] when nobody may have heard the question.
    async fn ask(
        &self,
        subject: &InternalName,
        payload: Bytes,
        timeout: Duration,
        expected: &BTreeSet<NodeName>,
    ) -> Result<Answers, PublishError>;

    /// Answers a question, as the node `from`.
    ///
    /// # Errors
    /// [`PublishError`], as for [`Bus::publish`].
    async fn answer(&self, reply: &Reply, from: &NodeName, payload: &[u8]) -> Result<(), PublishError> {
        self.tell(reply.subject(), reply.frame(from, payload)).await
    }

    /// Sends itself a message over every subscriber link and waits until it came back; returns the slowest round trip.
    ///
    /// # Errors
    /// [`ProbeError::Late`] when it did not come within `timeout`, [`ProbeError::Down`] when there is no link to send over.
    async fn probe(&self, timeout: Duration) -> Result<Duration, ProbeError>;

    /// Drops the subscriber links and builds them anew, as after a lost connection. For links that are silent but not closed.
    fn rebuild(&self);

    /// The state of the link, and each change of it.
    fn link(&self) -> watch::Receiver<Link>;

    /// The logs, where [`BusConfig::logs`] names logged namespaces.
    fn log(&self) -> Option<LogHandle> {
        None
    }

    /// What numbers plain publications into logged namespaces, where the bus cannot do so itself.
    fn numbering(&self) -> Option<NumberingHandle> {
        None
    }

    /// The records beside the logs, where there are logs.
    fn store(&self) -> Option<StoreHandle> {
        None
    }

    /// Counters since the start.
    fn stats(&self) -> Stats;

    /// Unsubscribes, says goodbye and ends its tasks. Later calls answer `Closed` or [`PublishError::NotTaken`].
    async fn close(&self);
}

/// A shared handle to whichever bus was configured.
pub type BusHandle = Arc<dyn Bus>;

/// Counters of a bus since its start, gauges where it says so.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stats {
    /// Gauge: distinct interests with at least one reference.
    pub interests: u64,
    /// Gauge: subscriptions at the server that carry them.
    pub subscriptions: u64,
    /// Gauge: subscriptions that the server refuses although somebody holds them; they are asked for again and again.
    pub refused: u64,
    /// Connections of the subscriber link after the first.
    pub reconnects: u64,
    /// Messages received for an interest.
    pub messages: u64,
    /// Their payloads' bytes.
    pub bytes: u64,
    /// Messages on subjects that are in no form of ours.
    pub foreign: u64,
    /// Payloads that begin like an envelope and are none; delivered as raw.
    pub bad_envelopes: u64,
    /// Messages dropped since they were larger than the configured payload limit.
    pub oversize: u64,
}

/// Why an interest does not stand.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SubscribeError {
    /// It never will as things are: the server forbids it, or this kind of bus has no such thing.
    #[error("the bus refuses this subscription: {0}")]
    Refused(String),
    /// Not now, and without anybody's doing later: the server has too much, or is not ready. Trying again makes sense.
    #[error("the bus does not take this subscription now: {0}")]
    NotNow(String),
    /// The bus was closed.
    #[error("the bus is closed")]
    Closed,
}

/// Why a message was not published.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PublishError {
    /// The server surely did not take it. Trying again is safe.
    #[error("the bus did not take the message: {0}")]
    NotTaken(String),
    /// Nobody can know whether the server took it.
    #[error("the bus did not answer; the message may have been published: {0}")]
    Unknown(String),
    /// The server never will: its rules forbid it.
    #[error("the bus refuses this message: {0}")]
    Refused(String),
    /// Larger than this bus's server or the configuration allows.
    #[error("the message has {bytes} bytes and the bus takes {limit}")]
    TooLarge {
        /// What was asked.
        bytes: usize,
        /// What is allowed.
        limit: usize,
    },
}

/// Why a probe failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ProbeError {
    /// It did not come back in time: the subscription may be dead although its connection is not.
    #[error("the probe did not come back in time")]
    Late,
    /// There is no link to send it over.
    #[error("the bus is not connected")]
    Down,
}
