//! Logs: what the bus's engine keeps of logged namespaces, and how it is read.
//!
//! Appending has no call of its own: [`Bus::publish`](crate::Bus::publish) on a channel of a logged namespace stores and
//! numbers the message before it is relayed, and its receipt tells the position.

use std::{collections::BTreeSet, sync::Arc};

use async_trait::async_trait;
use clarion_protocol::{Channel, CursorKey, Epoch, Interest, Message, Partition, Uid};

/// The logs of a bus. All implementations pass the conformance suite `tests/log_conformance`.
///
/// Every call is cancel safe and bounded in time by the bus's `command_timeout`. What one call reads is bounded by its
/// caller and by the engine, whichever is less, and the answer tells where to go on.
#[async_trait]
pub trait Log: Send + Sync + 'static {
    /// How far these partitions go, in their order. A partition of which nothing is known yet gets its epoch now.
    ///
    /// # Errors
    /// [`LogError`].
    async fn tops(&self, partitions: &[Partition]) -> Result<Vec<Top>, LogError>;

    /// Reads a part of one partition: what an interest matches of it, oldest first.
    ///
    /// # Errors
    /// [`LogError`].
    async fn read(&self, read: &Read) -> Result<Chunk, LogError>;

    /// The key for this deployment's cursors. The first node that asks makes it, and the bus keeps it.
    ///
    /// # Errors
    /// [`LogError`].
    async fn cursor_key(&self) -> Result<CursorKey, LogError>;
}

/// Small records beside the logs: which messages a user has read.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// What this user has read; nothing of one who never read.
    ///
    /// # Errors
    /// [`LogError`].
    async fn marks(&self, user: &Uid) -> Result<Marks, LogError>;

    /// Adds what this user has read now, in one atomic step, and returns all that is marked.
    ///
    /// # Errors
    /// [`LogError`].
    async fn mark(&self, user: &Uid, read: &Marks) -> Result<Marks, LogError>;
}

/// Numbers what backends publish plainly into logged namespaces, on a bus that cannot do so itself.
///
/// Several nodes hear the same messages in the same order, with markers among them, so each message has a name that all of
/// them agree on: the marker before it, and how many of its partition came since. Whoever calls says from which name it goes
/// on; the bus does nothing unless it has come just there. So each message is numbered once, whoever calls and however often.
#[async_trait]
pub trait Numbering: Send + Sync + 'static {
    /// Numbers messages that follow `from`, and then goes on to the marker that follows them, if one does. Returns where the
    /// partition is then: somewhere else than expected where `from` was not where it was, and nothing was done.
    ///
    /// # Errors
    /// [`LogError`]. After one nobody knows whether it was done; the next call tells.
    async fn number(
        &self,
        partition: &Partition,
        from: &RawName,
        messages: &[(Channel, Message)],
        marker: Option<&str>,
    ) -> Result<RawName, LogError>;
}

/// The name of a plainly published message: the marker before it and how many of its partition came since.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RawName {
    /// Empty where nothing was ever numbered.
    pub marker: String,
    /// How many.
    pub count: u64,
}

/// A shared handle to what numbers.
pub type NumberingHandle = Arc<dyn Numbering>;

/// A shared handle to a bus's logs.
pub type LogHandle = Arc<dyn Log>;
/// A shared handle to a bus's records.
pub type StoreHandle = Arc<dyn Store>;

/// How far a partition goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Top {
    /// Names this life of the partition: at most 12 bytes, random, so that no two partitions share one.
    pub epoch: Epoch,
    /// The last offset that was given; 0 where there was none.
    pub offset: u64,
}

/// What is to be read of a partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Read {
    /// Of which.
    pub partition: Partition,
    /// Only what this matches. It may reach beyond the partition.
    pub within: Interest,
    /// Where to begin.
    pub from: From,
    /// The last offset that is wanted; nothing beyond it is read.
    pub up_to: Option<u64>,
    /// At most so many messages.
    pub messages: usize,
    /// No more once their payloads have so many bytes; the first message is read whatever its size.
    pub bytes: usize,
}

/// Where a read begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum From {
    /// Behind this offset, oldest first.
    After(u64),
    /// As many messages before the end, or before `up_to`. Never more than [`Read::messages`].
    Newest(usize),
}

/// A part of a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chunk {
    /// The partition's epoch. Another one than the cursor's: its log was lost, and what was read is of the new one.
    pub epoch: Epoch,
    /// Oldest first, each with its position, whose `previous` may be left out.
    pub messages: Vec<(Channel, Message)>,
    /// All that was asked for up to this offset is in here, or is kept no more. The next read begins after it.
    pub reached: u64,
    /// Whether there is nothing more behind `reached`, or nothing more that was asked for.
    pub end: bool,
    /// Something behind the read's beginning is kept no more, or may have been there: the size or the age of the log was
    /// passed, or its end was lost with a server. Never set by [`From::Newest`].
    pub lost: bool,
}

/// What a user has read of their inbox: all up to an offset, and some beyond it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Marks {
    /// The epoch of the inbox's partition that the offsets are of. Marks of another one count for nothing.
    pub epoch: Option<Epoch>,
    /// Everything up to here.
    pub up_to: u64,
    /// Single messages beyond it, at most [`Marks::MOST`].
    pub also: BTreeSet<u64>,
}

impl Marks {
    /// How many single messages are marked at most: an inbox's default size. When there are more, the oldest of them becomes
    /// what everything is read up to.
    pub const MOST: usize = 300;

    /// Whether this message was read.
    #[must_use]
    pub fn has(&self, epoch: &Epoch, offset: u64) -> bool {
        self.epoch.as_ref() == Some(epoch) && (offset <= self.up_to || self.also.contains(&offset))
    }

    /// Adds others, and leaves out what `up_to` covers. In whatever order marks come, the same comes out.
    pub fn merge(&mut self, other: &Self) {
        if other.epoch.is_some() && self.epoch != other.epoch {
            *self = other.clone();
        } else {
            self.up_to = self.up_to.max(other.up_to);
            self.also.extend(&other.also);
        }
        self.also = self.also.split_off(&(self.up_to + 1));
        while self.also.len() > Self::MOST {
            self.up_to = self.also.pop_first().expect("it holds many");
        }
    }
}

/// Why a log was not read, or a record not kept.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LogError {
    /// Not now: no connection, no answer in time, a server that is loading. Trying again makes sense.
    #[error("the bus's log is not available now: {0}")]
    NotNow(String),
    /// Never as things are: the server forbids it or has no such thing. Says the remedy.
    #[error("the bus's log cannot be used: {0}")]
    Refused(String),
}
