//! Healing: while a partition is parked, what is missing is read from the log and goes on before anything later.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use clarion_bus::{
    Delivery, InterestId, LogError,
    log::{Chunk, From, Read},
};
use clarion_hub::Notice;
use clarion_protocol::{Address, Channel, CursorKey, Depth, Epoch, Interest, Message, Partition};
use tokio::time::{Instant, sleep};

use super::{Parked, Recovery, State, follow::Verdict, stamp};

/// How long what comes of a partition waits for a hole in it. Past that its seats are told.
const HEAL_TIME: Duration = Duration::from_secs(10);
/// How much later than its successor a message may come without being read from the log.
const REORDERED: Duration = Duration::from_millis(2);
/// The pause before a log that could not be read is read again.
const RETRY: Duration = Duration::from_millis(200);
/// How much is read for one healing. Past that its seats are told.
const HEAL_MESSAGES: usize = 10_000;
const HEAL_BYTES: usize = 32 * 1024 * 1024;
/// How much one read brings.
pub(super) const READ_MESSAGES: usize = 200;
pub(super) const READ_BYTES: usize = 1024 * 1024;
/// Up to so many interests of a partition are each read; for more of them the namespace is read as a whole.
const SINGLE_READS: usize = 64;

/// What is missing between two messages of one channel.
#[derive(Debug, Clone)]
pub(super) struct Hole {
    pub(super) id: InterestId,
    pub(super) channel: Channel,
    /// The last offset that was heard.
    pub(super) after: u64,
    /// The offset of the message that told of the hole.
    pub(super) before: u64,
}

/// What is to be healed.
#[derive(Debug, Clone)]
pub(super) enum Work {
    Hole(Hole),
    /// All interests of the partition, from where it was last whole.
    All,
}

/// What one healing may still read.
struct Budget {
    messages: usize,
    bytes: usize,
    until: Instant,
}

/// What was read of the log, of all interests together.
#[derive(Default)]
struct Found {
    epoch: Option<Epoch>,
    messages: Vec<(Channel, Message)>,
}

/// Why healing gave up, as gaps are told.
type GaveUp = &'static str;

impl Recovery {
    /// These interests may have missed something, since what carried them was interrupted.
    pub fn interrupted(self: &Arc<Self>, interests: &[InterestId]) {
        let mut state = self.state.lock();
        let reaches = |id| state.interests.get(id).map(|followed| &followed.reaches);
        let mut partitions: Vec<_> =
            interests.iter().filter_map(reaches).flatten().map(|reach| reach.partition.clone()).collect();
        partitions.sort();
        partitions.dedup();
        for partition in partitions {
            match state.partitions.get_mut(&partition).and_then(|part| part.parked.as_mut()) {
                // It is being healed, by what it knew before the interruption.
                Some(parked) => parked.overflow = true,
                None => self.park(&mut state, &partition, Work::All, None),
            }
        }
    }

    /// Heals a parked partition and lets go what waited. Afterwards it is parked no more, whatever came of it.
    pub(super) async fn heal(self: Arc<Self>, partition: Partition, mut work: Work) {
        // A hole that a sweep has found has nothing waiting behind it.
        if matches!(work, Work::Hole(_)) && self.waits(&partition) {
            // Some servers relay what several publishers send in another order than they have numbered it: what seems to be missing
            // may be here in a moment, and then nothing is read.
            sleep(REORDERED).await;
            match self.let_go(&partition).await {
                Some(next) => work = next,
                None => return,
            }
        }
        let mut budget = Budget { messages: HEAL_MESSAGES, bytes: HEAL_BYTES, until: Instant::now() + HEAL_TIME };
        loop {
            if let Err(why) = self.heal_once(&partition, &work, &mut budget).await {
                self.give_up(&partition, &work, why);
            }
            match self.let_go(&partition).await {
                Some(next) => work = next,
                None => return,
            }
        }
    }

    /// Whether something waits for the healing.
    fn waits(&self, partition: &Partition) -> bool {
        self.state.lock().parked_mut(partition).is_some_and(|parked| !parked.queue.is_empty())
    }

    async fn heal_once(&self, partition: &Partition, work: &Work, budget: &mut Budget) -> Result<(), GaveUp> {
        match work {
            Work::Hole(hole) => {
                let within = Interest::new(&hole.channel, Depth::Exact);
                let mut found = Found::default();
                let outcome =
                    self.fill(partition, &within, hole.after, Some(hole.before - 1), budget, &mut found).await;
                self.send_on(partition, found).await;
                outcome
            }
            Work::All => {
                let (sure, interests) = self.state.lock().to_heal(partition);
                let (mut outcome, mut found) = (Ok(()), Found::default());
                for (within, mark) in interests {
                    let filled = self.fill(partition, &within, mark.max(sure), None, budget, &mut found).await;
                    outcome = outcome.and(filled);
                }
                // In the partition's order over all interests: a cursor may stand for several of them.
                found.messages.sort_by_key(|(_, message)| super::position(message).map_or(0, |at| at.offset));
                self.send_on(partition, found).await;
                outcome
            }
        }
    }

    /// Reads what an interest matches of a partition.
    async fn fill(
        &self,
        partition: &Partition,
        within: &Interest,
        mut after: u64,
        up_to: Option<u64>,
        budget: &mut Budget,
        found: &mut Found,
    ) -> Result<(), GaveUp> {
        let mut outcome = Ok(());
        loop {
            if budget.messages == 0 || budget.bytes == 0 {
                return Err("too_many");
            }
            let read = Read {
                partition: partition.clone(),
                within: within.clone(),
                from: From::After(after),
                up_to,
                messages: READ_MESSAGES.min(budget.messages),
                bytes: READ_BYTES.min(budget.bytes),
            };
            let chunk = self.read_until(&read, budget.until).await.map_err(|_| "unreadable")?;
            budget.messages -= chunk.messages.len().min(budget.messages);
            let bytes: usize = chunk.messages.iter().map(|(_, message)| message.payload.len()).sum();
            budget.bytes = budget.bytes.saturating_sub(bytes);
            if chunk.lost {
                outcome = Err("too_old");
            }
            after = chunk.reached;
            found.epoch = Some(chunk.epoch);
            found.messages.extend(chunk.messages);
            if chunk.end {
                return outcome;
            }
        }
    }

    /// Reads, and tries again while the log is away.
    async fn read_until(&self, read: &Read, until: Instant) -> Result<Chunk, LogError> {
        loop {
            self.metrics.reads.inc();
            let result = async { self.log()?.read(read).await }.await;
            match result {
                Err(LogError::NotNow(_)) if Instant::now() + RETRY < until => sleep(RETRY).await,
                result => return result,
            }
        }
    }

    /// Sends messages of the log on to the interests that have not had them.
    async fn send_on(&self, partition: &Partition, found: Found) {
        let key = *self.key.read();
        let mut batch = Vec::with_capacity(found.messages.len());
        {
            let mut state = self.state.lock();
            // The log was lost meanwhile: the next message tells.
            if state.partitions.get(partition).is_none_or(|part| found.epoch.as_ref() != Some(&part.epoch)) {
                return;
            }
            for (channel, mut message) in found.messages {
                stamp(&mut message, key.as_ref());
                batch.extend(state.newly(partition, channel, message));
            }
        }
        self.metrics.healed.inc_by(batch.len() as u64);
        if !batch.is_empty() {
            self.hub.dispatch(&mut batch).await;
        }
    }

    /// Lets go what waited, in its order. Returns what must be healed before the rest, if something must; otherwise the
    /// partition is parked no more.
    async fn let_go(self: &Arc<Self>, partition: &Partition) -> Option<Work> {
        loop {
            let key = *self.key.read();
            let mut batch = Vec::new();
            let next = {
                let mut state = self.state.lock();
                let part = state.partitions.get_mut(partition)?;
                let parked = part.parked.as_mut()?;
                if std::mem::take(&mut parked.overflow) {
                    parked.queue.clear();
                    parked.bytes = 0;
                    return Some(Work::All);
                }
                if parked.queue.is_empty() {
                    // Nothing comes in between: whoever delivers takes the same lock, and goes to the hub behind us.
                    part.parked = None;
                    if part.followers == 0 {
                        state.partitions.remove(partition);
                    }
                    return None;
                }
                self.take_parked(&mut state, partition, &mut batch, key.as_ref())
            };
            if !batch.is_empty() {
                self.hub.dispatch(&mut batch).await;
            }
            if next.is_some() {
                return next;
            }
        }
    }

    /// Takes what waited up to the next hole.
    fn take_parked(
        self: &Arc<Self>,
        state: &mut State,
        partition: &Partition,
        batch: &mut Vec<Delivery>,
        key: Option<&CursorKey>,
    ) -> Option<Work> {
        let parked = state.partitions.get_mut(partition)?.parked.as_mut()?;
        let mut queue = std::mem::take(&mut parked.queue);
        let offset = |delivery: &Delivery| super::position(&delivery.message).map_or(0, |at| at.offset);
        // Stable: copies of one message keep their order.
        queue.make_contiguous().sort_by_key(offset);
        parked.bytes = 0;
        while let Some(mut delivery) = queue.pop_front() {
            match self.judge(state, partition, &mut delivery) {
                Verdict::Pass => {
                    stamp(&mut delivery.message, key);
                    state.note(partition, &delivery);
                    batch.push(delivery);
                }
                Verdict::Repeat => self.metrics.repeats.inc(),
                Verdict::NewEpoch(epoch) => {
                    self.begin_anew(state, partition, epoch);
                    queue.push_front(delivery);
                }
                Verdict::Hole(hole) => {
                    self.metrics.holes.inc();
                    queue.push_front(delivery);
                    if let Some(parked) = state.parked_mut(partition) {
                        parked.bytes = queue.iter().map(|delivery| delivery.message.payload.len()).sum();
                        parked.queue = queue;
                    }
                    return Some(Work::Hole(hole));
                }
            }
        }
        None
    }

    /// What could not be healed is passed over, and everybody concerned is told.
    fn give_up(&self, partition: &Partition, work: &Work, why: GaveUp) {
        let mut state = self.state.lock();
        let mut told = Vec::new();
        match work {
            Work::Hole(hole) => {
                if let Some(followed) = state.interests.get_mut(&hole.id) {
                    // The message behind the hole names its predecessor, which nobody will ever have.
                    followed.pass_over(partition, &hole.channel, hole.before - 1);
                    told.push(hole.id);
                }
            }
            Work::All => {
                let heard = state.partitions.get(partition).map_or(0, |part| part.heard);
                for (id, followed) in &mut state.interests {
                    if followed.reach(partition).is_some() {
                        followed.whole_to(partition, heard);
                        told.push(*id);
                    }
                }
            }
        }
        tracing::warn!(%partition, why, subscriptions = told.len(), "messages are missing; their subscribers are told");
        self.tell_gap(&told, why);
    }

    /// Tells all who share these interests that messages are missing.
    pub(super) fn tell_gap(&self, interests: &[InterestId], reason: &'static str) {
        self.metrics.gaps.with_label_values(&[reason]).inc_by(interests.len() as u64);
        for id in interests {
            self.hub.notify_interest(*id, &gap(reason));
        }
    }
}

/// What a client is told when messages are missing.
pub(super) fn gap(reason: &'static str) -> Notice {
    Notice { name: Notice::GAP, data: Bytes::from(format!(r#"{{"reason":"{reason}"}}"#)), cursor: None }
}

impl State {
    /// Where healing begins, and what it reads.
    fn to_heal(&self, partition: &Partition) -> (u64, Vec<(Interest, u64)>) {
        let sure = self.partitions.get(partition).map_or(0, |part| part.sure);
        let mut interests: Vec<_> = self
            .interests
            .values()
            .filter_map(|followed| Some((followed.interest.clone(), followed.reach(partition)?.mark)))
            .collect();
        if interests.len() > SINGLE_READS {
            // Interests with marks beyond it are given nothing older.
            interests = vec![(Interest::new(&partition.namespace, Depth::Subtree), 0)];
        }
        (sure, interests)
    }

    fn parked_mut(&mut self, partition: &Partition) -> Option<&mut Parked> {
        self.partitions.get_mut(partition)?.parked.as_mut()
    }

    /// A message of the log as a delivery for those who have not had it; `None` if all have.
    fn newly(&mut self, partition: &Partition, channel: Channel, message: Message) -> Option<Delivery> {
        let offset = super::position(&message)?.offset;
        let ids: Vec<_> = self.matching(&channel).collect();
        let new = |id: &InterestId| {
            self.interests.get_mut(id).is_some_and(|followed| followed.advance(&channel, partition, offset))
        };
        let interests: smallvec::SmallVec<[InterestId; 2]> = ids.into_iter().filter(new).collect();
        if interests.is_empty() {
            return None;
        }
        let delivery = Delivery { interests, address: Address::Channel(channel), message };
        self.note(partition, &delivery);
        Some(delivery)
    }
}
