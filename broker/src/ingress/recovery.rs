//! Keeps what this node hears of logged namespaces whole, and reads the log for clients that were away.
//!
//! Each message names its predecessor in its channel, so a hole is seen when the next one comes. Then the partition is
//! *parked*: what comes of it waits, in its order, while the missing part is read from the log. Everything that goes on to
//! the hub is in the order of offsets in each partition, which is what lets one cursor stand for many channels.

mod catch_up;
mod follow;
mod heal;
mod history;
mod metrics;
mod recent;
mod sweep;
mod tops;

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, OnceLock, Weak},
};

use clarion_bus::{Bus, BusHandle, Delivery, InterestId, LogError, LogHandle};
use clarion_hub::Hub;
use clarion_protocol::{Address, Channel, Cursor, CursorKey, Epoch, Logs, Message, Partition, Place, Position, cursor};
use parking_lot::{Mutex, RwLock};
use tokio::runtime::Handle;

pub use self::{
    catch_up::{Joined, Start},
    history::{History, Wanted},
    metrics::Metrics,
};
use self::{
    follow::{Followed, Verdict},
    heal::Work,
    recent::Recent,
    tops::Tops,
};

/// What may wait of one partition while a hole in it is healed; beyond it the log is read instead.
const PARKED_MESSAGES: usize = 10_000;
const PARKED_BYTES: usize = 16 * 1024 * 1024;

/// The node's side of the logs.
pub struct Recovery {
    logs: Logs,
    /// Weak, since the bus holds what delivers to it.
    bus: OnceLock<Weak<dyn Bus>>,
    hub: Hub,
    /// Found on the bus, before the first seat in a logged namespace joins.
    key: RwLock<Option<CursorKey>>,
    state: Mutex<State>,
    tops: Tops,
    metrics: Metrics,
    runtime: Handle,
}

#[derive(Default)]
struct State {
    interests: HashMap<InterestId, Followed>,
    /// Exact interests by their channel, and patterns.
    exact: HashMap<Channel, InterestId>,
    patterns: Vec<InterestId>,
    partitions: HashMap<Partition, Part>,
    recent: Recent,
}

/// What is known of a partition that somebody here follows.
struct Part {
    epoch: Epoch,
    /// All that the node's interests got up to here has gone on to the hub.
    heard: u64,
    /// The same as of the last probe that came back. What lies between the two may have holes that nothing has told of yet: when
    /// a link comes back, channels hear again one after the other.
    sure: u64,
    parked: Option<Parked>,
    /// How many interests touch it.
    followers: usize,
}

/// What waits for a hole to be healed.
#[derive(Default)]
struct Parked {
    queue: VecDeque<Delivery>,
    bytes: usize,
    /// More came than may wait: it is in the log, and will be read from there.
    overflow: bool,
}

impl Parked {
    /// Copies what waits: the payload of a delivery shares the link's read buffer.
    fn push(&mut self, delivery: &Delivery) {
        self.bytes += delivery.message.payload.len();
        if self.queue.len() >= PARKED_MESSAGES || self.bytes > PARKED_BYTES {
            (self.queue, self.bytes, self.overflow) = (VecDeque::new(), 0, true);
        } else if !self.overflow {
            self.queue.push_back(owned(delivery));
        }
    }
}

impl Recovery {
    /// For a node with logged namespaces; `None` where nothing is logged.
    #[must_use]
    pub fn new(logs: Logs, hub: Hub, metrics: Metrics) -> Option<Arc<Self>> {
        (!logs.is_empty()).then(|| {
            let mut state = State::default();
            state.recent.show(metrics.recent_bytes.clone());
            Arc::new(Self {
                logs,
                bus: OnceLock::new(),
                hub,
                key: RwLock::new(None),
                state: Mutex::new(state),
                tops: Tops::default(),
                metrics,
                runtime: Handle::current(),
            })
        })
    }

    /// Names the bus, which is started later than what it delivers to.
    pub fn wire(&self, bus: &BusHandle) {
        let _ = self.bus.set(Arc::downgrade(bus));
    }

    /// What is logged.
    #[must_use]
    pub fn logs(&self) -> &Logs {
        &self.logs
    }

    fn log(&self) -> Result<LogHandle, LogError> {
        let log = self.bus.get().and_then(Weak::upgrade).and_then(|bus| bus.log());
        log.ok_or_else(|| LogError::NotNow("the bus is closed".to_owned()))
    }

    /// The deployment's key for cursors.
    ///
    /// # Errors
    /// [`LogError`] while the bus has not told it.
    pub async fn key(&self) -> Result<CursorKey, LogError> {
        let known = *self.key.read();
        if let Some(key) = known {
            return Ok(key);
        }
        let key = self.log()?.cursor_key().await?;
        Ok(*self.key.write().get_or_insert(key))
    }

    /// A cursor as text. Only asked when something was followed, so the key is there.
    #[must_use]
    pub fn text(&self, cursor: &Cursor) -> Option<Arc<str>> {
        let key = (*self.key.read())?;
        Some(cursor.encode(&key).into())
    }

    /// Leaves in a batch what goes on to the hub now: takes out what was not numbered, what came before, and what has to
    /// wait for a hole. Stamps the cursor of each message that has a place.
    pub fn sift(self: &Arc<Self>, batch: &mut Vec<Delivery>) {
        let key = *self.key.read();
        let mut state = self.state.lock();
        batch.retain_mut(|delivery| {
            let Address::Channel(channel) = &delivery.address else { return true };
            let Some(partition) = self.logs.partition(channel.as_str()) else { return true };
            if position(&delivery.message).is_none() {
                self.metrics.raw.inc();
                return false;
            }
            self.pass(&mut state, &partition, delivery, key.as_ref())
        });
    }

    /// Whether one numbered delivery goes on now. If not it came before, or waits.
    fn pass(
        self: &Arc<Self>,
        state: &mut State,
        partition: &Partition,
        delivery: &mut Delivery,
        key: Option<&CursorKey>,
    ) -> bool {
        // What nobody follows any more is on its way to nobody.
        let Some(part) = state.partitions.get_mut(partition) else { return true };
        if let Some(parked) = &mut part.parked {
            parked.push(delivery);
            return false;
        }
        match self.judge(state, partition, delivery) {
            Verdict::Pass => {}
            Verdict::Repeat => {
                self.metrics.repeats.inc();
                return false;
            }
            Verdict::Hole(hole) => {
                self.metrics.holes.inc();
                self.park(state, partition, Work::Hole(hole), Some(delivery));
                return false;
            }
            Verdict::NewEpoch(epoch) => {
                self.begin_anew(state, partition, epoch);
                return self.pass(state, partition, delivery, key);
            }
        }
        stamp(&mut delivery.message, key);
        state.note(partition, delivery);
        true
    }

    /// What is to become of a delivery, and which of its interests it is new to; those that had it already are taken out.
    fn judge(&self, state: &mut State, partition: &Partition, delivery: &mut Delivery) -> Verdict {
        let Address::Channel(channel) = &delivery.address else { return Verdict::Pass };
        let Some(position) = position(&delivery.message) else { return Verdict::Pass };
        let Some(part) = state.partitions.get(partition) else { return Verdict::Pass };
        if part.epoch != position.epoch {
            return Verdict::NewEpoch(position.epoch.clone());
        }
        // First all are looked at, then all are changed: one that had a hole must find the others as they were.
        for id in &delivery.interests {
            let Some(followed) = state.interests.get(id) else { continue };
            if let Some(hole) = followed.hole(*id, channel, partition, position) {
                return Verdict::Hole(hole);
            }
        }
        let interests = &mut state.interests;
        delivery.interests.retain(|id| {
            interests.get_mut(id).is_none_or(|followed| followed.advance(channel, partition, position.offset))
        });
        if delivery.interests.is_empty() { Verdict::Repeat } else { Verdict::Pass }
    }

    /// Lets a partition wait, and begins to heal it. Nothing if it waits already.
    fn park(self: &Arc<Self>, state: &mut State, partition: &Partition, work: Work, first: Option<&Delivery>) {
        let Some(part) = state.partitions.get_mut(partition) else { return };
        if part.parked.is_some() {
            return;
        }
        let mut parked = Parked::default();
        if let Some(first) = first {
            parked.push(first);
        }
        part.parked = Some(parked);
        let (recovery, partition) = (self.clone(), partition.clone());
        self.runtime.spawn(async move { recovery.heal(partition, work).await });
    }

    /// Another epoch: the log was lost. Everybody concerned is told, and what comes counts from its beginning.
    fn begin_anew(self: &Arc<Self>, state: &mut State, partition: &Partition, epoch: Epoch) {
        tracing::warn!(%partition, %epoch, "the log was lost and begins anew; its subscribers are told of a gap");
        if let Some(part) = state.partitions.get_mut(partition) {
            (part.epoch, part.heard, part.sure) = (epoch, 0, 0);
        }
        let mut told = Vec::new();
        for (id, followed) in &mut state.interests {
            if followed.forget(partition) {
                told.push(*id);
            }
        }
        state.recent.forget(partition);
        self.tell_gap(&told, "log_lost");
        // With its log the bus may have lost the key.
        let recovery = self.clone();
        self.runtime.spawn(async move {
            if let Ok(key) = async { recovery.log()?.cursor_key().await }.await {
                *recovery.key.write() = Some(key);
            }
        });
    }
}

impl State {
    /// Notes that a delivery has gone on.
    fn note(&mut self, partition: &Partition, delivery: &Delivery) {
        let Some(position) = position(&delivery.message) else { return };
        if let Some(part) = self.partitions.get_mut(partition) {
            part.heard = part.heard.max(position.offset);
        }
        self.recent.push(partition, delivery);
    }

    /// The interests that match a channel.
    fn matching(&self, channel: &Channel) -> impl Iterator<Item = InterestId> {
        let matches = |id: &&InterestId| {
            self.interests.get(id).is_some_and(|followed| followed.interest.matches(channel.as_str()))
        };
        self.exact.get(channel).into_iter().chain(self.patterns.iter().filter(matches)).copied()
    }
}

/// Whether a message has a place in a log.
pub(super) fn is_numbered(message: &Message) -> bool {
    position(message).is_some()
}

fn position(message: &Message) -> Option<&Position> {
    message.meta.as_ref()?.position.as_ref()
}

/// Gives a message the text of its own place.
fn stamp(message: &mut Message, key: Option<&CursorKey>) {
    let (Some(meta), Some(key)) = (&mut message.meta, key) else { return };
    if meta.cursor.is_some() {
        return;
    }
    let text = meta.position.as_ref().map(|position| cursor::encode_one(&position.epoch, position.offset, key).into());
    Arc::make_mut(meta).cursor = text;
}

/// A copy that keeps no read buffer.
fn owned(delivery: &Delivery) -> Delivery {
    let mut copy = delivery.clone();
    copy.message.payload = bytes::Bytes::copy_from_slice(&delivery.message.payload);
    copy
}

/// The place of the last message that was read of a partition.
fn place(epoch: &Epoch, offset: u64) -> Place {
    Place { epoch: epoch.clone(), offset }
}
