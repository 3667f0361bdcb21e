//! Reading a log as it is now, without a subscription.

use std::{collections::VecDeque, sync::Arc};

use clarion_bus::{
    LogError,
    log::{From, Read, Top},
};
use clarion_protocol::{Channel, Cursor, Interest, Message, Partition};

use super::{
    Recovery,
    heal::{READ_BYTES, READ_MESSAGES},
    place, position, stamp,
};

/// What is wanted of a log.
#[derive(Debug, Clone)]
pub enum Wanted {
    /// As many of the newest messages, by time over all channels.
    Last(usize),
    /// What came after a cursor, at most so many.
    Since(Cursor, usize),
}

/// A part of a log, over all partitions that some interests touch.
#[derive(Debug, Clone, Default)]
pub struct History {
    /// Oldest first in each partition; over several of them by time.
    pub messages: Vec<(Channel, Message)>,
    /// Where to go on.
    pub cursor: Cursor,
    /// Why messages are missing between the cursor and the first of these, if some are.
    pub gap: Option<&'static str>,
    /// Where what is there begins. Only known where there is a gap.
    pub oldest: Cursor,
    /// Whether there is more behind these.
    pub more: bool,
}

impl Recovery {
    /// Reads what some interests match.
    ///
    /// # Errors
    /// [`LogError`].
    pub async fn history(self: &Arc<Self>, interests: &[Interest], wanted: &Wanted) -> Result<History, LogError> {
        let key = self.key().await?;
        let mut partitions: Vec<_> = interests.iter().flat_map(|interest| self.logs.touched(interest)).collect();
        partitions.sort();
        partitions.dedup();
        let tops = self.tops.ask(self, &partitions).await?;
        let mut history = History::default();
        let (mut places, mut oldest) = (Vec::new(), Vec::new());
        for (partition, top) in partitions.iter().zip(&tops) {
            let within = interests.iter().filter(|interest| self.logs.touched(interest).contains(partition));
            let before = history.messages.len();
            let reached = self.of_partition(partition, top, within, wanted, &mut history).await?;
            let first = history.messages.get(before).and_then(|(_, message)| position(message));
            oldest.push(place(&top.epoch, first.map_or(reached, |at| at.offset - 1)));
            places.push(place(&top.epoch, reached));
        }
        if matches!(wanted, Wanted::Since(cursor, _) if cursor.places().len() > partitions.len()) {
            history.gap = Some("log_lost");
        }
        let time = |message: &Message| message.meta.as_ref().and_then(|meta| meta.time);
        if partitions.len() > 1 {
            // Stable, so each partition keeps its order where times are equal.
            history.messages.sort_by_key(|(_, message)| time(message));
        }
        if let Wanted::Last(count) = wanted {
            let surplus = history.messages.len().saturating_sub(*count);
            history.messages.drain(..surplus);
        }
        for (_, message) in &mut history.messages {
            stamp(message, Some(&key));
        }
        (history.cursor, history.oldest) = (Cursor::new(places), Cursor::new(oldest));
        Ok(history)
    }

    /// Reads of one partition what several interests match, each message once; returns how far all of it was read.
    async fn of_partition(
        &self,
        partition: &Partition,
        top: &Top,
        within: impl Iterator<Item = &Interest>,
        wanted: &Wanted,
        history: &mut History,
    ) -> Result<u64, LogError> {
        let (mut found, mut reached) = (Vec::new(), top.offset);
        for interest in within {
            match wanted {
                Wanted::Last(count) => found.extend(self.newest_of(interest, partition, top.offset, *count).await?),
                Wanted::Since(cursor, count) => {
                    let after = history.begin(cursor, top);
                    let end = self.part(interest, (partition, top), after, *count, history, &mut found).await?;
                    reached = reached.min(end);
                }
            }
        }
        let offset = |message: &Message| position(message).map_or(0, |at| at.offset);
        found.sort_by_key(|(_, message)| offset(message));
        found.dedup_by_key(|(_, message)| offset(message));
        // What one interest has beyond the end of another comes with the next part.
        found.retain(|(_, message)| offset(message) <= reached);
        history.messages.extend(found);
        Ok(reached)
    }

    /// The newest messages of one partition up to an offset, oldest first.
    pub(super) async fn newest_of(
        &self,
        interest: &Interest,
        partition: &Partition,
        mut up_to: u64,
        count: usize,
    ) -> Result<Vec<(Channel, Message)>, LogError> {
        let mut found: VecDeque<(Channel, Message)> = VecDeque::new();
        while found.len() < count {
            let messages = (count - found.len()).min(READ_MESSAGES);
            let read = Read {
                partition: partition.clone(),
                within: interest.clone(),
                from: From::Newest(messages),
                up_to: Some(up_to),
                messages,
                bytes: READ_BYTES,
            };
            self.metrics.reads.inc();
            let chunk = self.log()?.read(&read).await?;
            let Some(first) = chunk.messages.first().and_then(|(_, message)| position(message)) else { break };
            up_to = first.offset - 1;
            chunk.messages.into_iter().rev().for_each(|message| found.push_front(message));
        }
        Ok(found.into())
    }

    /// Reads of one partition what comes after an offset; returns how far.
    async fn part(
        &self,
        interest: &Interest,
        (partition, top): (&Partition, &Top),
        mut after: u64,
        limit: usize,
        history: &mut History,
        found: &mut Vec<(Channel, Message)>,
    ) -> Result<u64, LogError> {
        let before = found.len();
        loop {
            let left = limit.saturating_sub(found.len() - before);
            if left == 0 {
                history.more |= after < top.offset;
                return Ok(after);
            }
            let read = Read {
                partition: partition.clone(),
                within: interest.clone(),
                from: From::After(after),
                up_to: Some(top.offset),
                messages: left.min(READ_MESSAGES),
                bytes: READ_BYTES,
            };
            self.metrics.reads.inc();
            let chunk = self.log()?.read(&read).await?;
            if chunk.lost {
                history.gap = Some("too_old");
            }
            found.extend(chunk.messages);
            if chunk.end {
                return Ok(top.offset.max(chunk.reached));
            }
            after = chunk.reached;
        }
    }
}

impl History {
    /// Where a cursor begins in a partition, and whether it can.
    fn begin(&mut self, cursor: &Cursor, top: &Top) -> u64 {
        let (after, gap) = begin(cursor, top);
        self.gap = self.gap.or(gap);
        after
    }
}

/// Where a cursor begins in a partition that goes that far. One that names another life of it, or a place that was never
/// reached, begins at the log's own beginning, and its client is told.
pub(super) fn begin(cursor: &Cursor, top: &Top) -> (u64, Option<&'static str>) {
    match cursor.offset(&top.epoch) {
        Some(offset) if offset <= top.offset => (offset, None),
        Some(_) | None => (0, Some("log_lost")),
    }
}
