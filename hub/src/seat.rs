//! Subscriptions as those see them who ask for them: what is joined, what is fed, and what came of it.

use std::sync::Arc;

use bytes::Bytes;
use clarion_protocol::{Channel, Epoch, Interest, InterestId, Message, Position, Wording};

use crate::{outbox::SlowPolicy, ticket::ConnectionKey};

/// One subscription of a connection. Its interest stands on the bus already.
pub struct Subscription {
    /// What the bus calls it; given back when the seat is left.
    pub lease: InterestLease,
    /// What was asked for; decides which of a connection's overlapping subscriptions brings a message.
    pub interest: Interest,
    /// What happens when the client is slow.
    pub slow: SlowPolicy,
    /// How its messages read.
    pub wording: Wording,
    /// Whether it has to catch up before it hears what comes now: until it is [fed](crate::Hub::feed) the last page, live
    /// messages wait.
    pub joining: bool,
}

/// Gives interests back to whoever holds them on the bus. Called on a shard's thread: must not block.
pub trait Release: Send + Sync + 'static {
    /// Nobody behind these needs them any more. Each id stands for one reference.
    fn release(&self, interests: &[InterestId]);

    /// A seat with the policy `catch_up` had more waiting than may wait. What waited was dropped, and the seat is joining: it is
    /// to be [fed](crate::Hub::feed) the log from behind these places. Called on a shard's thread: must not block.
    fn fell_behind(&self, behind: Behind) {
        let _ = behind;
    }
}

/// A seat that is to go on from the log.
#[derive(Debug)]
pub struct Behind {
    /// Whose it is.
    pub connection: ConnectionKey,
    /// Which it is.
    pub seat: SeatId,
    /// What it hears.
    pub interest: InterestId,
    /// What was asked for.
    pub asked: Interest,
    /// For each partition of which something was dropped: everything up to here was written.
    pub from: Vec<Reached>,
}

/// One reference to an interest that stands on the bus. Dropping it gives the reference back.
#[must_use = "dropping it gives the interest back"]
pub struct InterestLease {
    id: InterestId,
    release: Option<Arc<dyn Release>>,
}

impl InterestLease {
    /// For one reference that `release` takes back.
    pub fn new(id: InterestId, release: Arc<dyn Release>) -> Self {
        Self { id, release: Some(release) }
    }

    /// What the bus calls it.
    #[must_use]
    pub fn id(&self) -> InterestId {
        self.id
    }

    /// The same reference, taken back by somebody else.
    #[must_use = "dropping it gives the interest back"]
    pub fn returned_to(mut self, release: Arc<dyn Release>) -> Self {
        self.release = Some(release);
        self
    }

    /// Takes the reference over. The hub keeps ids only, and gives them back itself: a lease for each seat would cost a
    /// million sockets 16 MB.
    pub(crate) fn into_id(mut self) -> InterestId {
        self.release = None;
        self.id
    }
}

impl Drop for InterestLease {
    fn drop(&mut self) {
        if let Some(release) = self.release.take() {
            release.release(&[self.id]);
        }
    }
}

impl std::fmt::Debug for InterestLease {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("InterestLease").field(&self.id).finish()
    }
}

/// Names one of a connection's seats. Its number is used again, its serial is not for a long time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SeatId {
    pub(crate) index: u16,
    pub(crate) serial: u16,
}

/// A part of the log for a seat that is joining.
#[derive(Debug, Default)]
pub struct Page {
    /// The messages, oldest first.
    pub messages: Vec<(Channel, Message)>,
    /// How far the pages have come, for each partition that the seat can touch: live messages up to here are dropped.
    pub up_to: Vec<Reached>,
    /// Whether the log had no more.
    pub last: bool,
    /// What is said before the messages.
    pub notices: Vec<Notice>,
}

/// Something that a client is told and that is no message. A client that hears bare payloads cannot be told: of a `gap` it
/// learns by the close code 3010, of others not at all.
#[derive(Debug, Clone)]
pub struct Notice {
    /// What it is: `gap`, `cursor`, `read`.
    pub name: &'static str,
    /// A JSON object, or nothing.
    pub data: Bytes,
    /// How far the client has come with it.
    pub cursor: Option<Arc<str>>,
}

impl Notice {
    /// The name of the notice that messages are missing.
    pub const GAP: &'static str = "gap";
    /// The name of the notice that only tells how far a client has come.
    pub const CURSOR: &'static str = "cursor";
}

/// How far a connection has come whose cursor has several places, or one for several seats. Kept by whoever knows how cursors
/// are written. Called on a shard's thread: must not block.
pub trait Bookmark: Send {
    /// A message of this place was written, and everything before it in its partition.
    fn pass(&mut self, position: &Position);
    /// A partition was read up to here, or the connection fell behind and goes on from here.
    fn set(&mut self, place: &Reached);
    /// The cursor, as text for the client.
    fn text(&self) -> String;
}

/// A place in one partition. An epoch names its partition: each has its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reached {
    /// The partition's epoch.
    pub epoch: Epoch,
    /// The last offset that was read.
    pub offset: u64,
}

/// What came of a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fed {
    /// The client has taken it; the next one may come.
    Next,
    /// The seat is live: it has all of the log and hears what comes now.
    Live,
    /// More came meanwhile than the connection may hold. Read on from where this page ended: live messages wait anew.
    Behind,
    /// The seat or its connection is gone, or the seat was live already.
    Gone,
}
