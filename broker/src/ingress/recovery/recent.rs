//! The last messages that this node heard of each logged interest: a client that was away for a moment is served from here.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use bytes::Bytes;
use clarion_bus::{Delivery, InterestId};
use clarion_protocol::{Address, Channel, Message, Partition};
use prometheus::IntGauge;

use super::position;

/// Of one interest in one partition.
const MESSAGES: usize = 300;
const BYTES: usize = 256 * 1024;
/// Of the whole node. Past it the interest that is served next forgets first.
const ALL_BYTES: usize = 64 * 1024 * 1024;
/// What a message costs beside its payload.
const MESSAGE_BYTES: usize = 200;

/// What is remembered.
#[derive(Default)]
pub(super) struct Recent {
    lines: HashMap<InterestId, Lines>,
    bytes: usize,
    gauge: Option<IntGauge>,
}

/// What one interest matches.
#[derive(Default)]
struct Lines {
    /// Whose turn it is to read the log for all who share the interest.
    turn: Arc<tokio::sync::Mutex<()>>,
    parts: Vec<Line>,
}

/// An unbroken part of what one interest matches of one partition.
struct Line {
    partition: Partition,
    /// Everything after this offset is here.
    after: u64,
    messages: VecDeque<(Channel, Message)>,
    bytes: usize,
}

impl Recent {
    pub(super) fn show(&mut self, gauge: IntGauge) {
        self.gauge = Some(gauge);
    }

    /// An interest stands; what it matches is heard from this offset on.
    pub(super) fn begin(&mut self, id: InterestId, partition: &Partition, after: u64) {
        let line = Line { partition: partition.clone(), after, messages: VecDeque::new(), bytes: 0 };
        self.lines.entry(id).or_default().parts.push(line);
    }

    pub(super) fn end(&mut self, id: InterestId) {
        let lines = self.lines.remove(&id).unwrap_or_default();
        self.bytes -= lines.parts.iter().map(|line| line.bytes).sum::<usize>();
        self.tell();
    }

    /// Notes what goes on to the hub.
    pub(super) fn push(&mut self, partition: &Partition, delivery: &Delivery) {
        let Address::Channel(channel) = &delivery.address else { return };
        for id in &delivery.interests {
            let Some(line) = self.lines.get_mut(id).and_then(|lines| lines.part(partition)) else {
                continue;
            };
            // The payload shares a read buffer of many messages.
            let payload = Bytes::copy_from_slice(&delivery.message.payload);
            let message = Message { payload, ..delivery.message.clone() };
            let before = line.bytes;
            line.push(channel.clone(), message);
            self.bytes = self.bytes - before + line.bytes;
            if self.bytes > ALL_BYTES {
                self.bytes -= line.clear();
            }
        }
        self.tell();
    }

    /// Whoever holds this reads the log for an interest.
    pub(super) fn turn(&self, id: InterestId) -> Option<Arc<tokio::sync::Mutex<()>>> {
        Some(self.lines.get(&id)?.turn.clone())
    }

    /// What an interest matches of a partition between two offsets; `None` if that does not lie here as a whole.
    pub(super) fn read(
        &self,
        id: InterestId,
        partition: &Partition,
        after: u64,
        up_to: u64,
    ) -> Option<Vec<(Channel, Message)>> {
        let line = self.lines.get(&id)?.parts.iter().find(|line| line.partition == *partition)?;
        if after < line.after {
            return None;
        }
        let within = |message: &Message| position(message).is_some_and(|at| (after + 1..=up_to).contains(&at.offset));
        Some(line.messages.iter().filter(|(_, message)| within(message)).cloned().collect())
    }

    /// Puts a part of the log before what is here, so that whoever comes next finds it. It must end where this begins.
    pub(super) fn extend(&mut self, id: InterestId, partition: &Partition, after: u64, older: &[(Channel, Message)]) {
        let Some(line) = self.lines.get_mut(&id).and_then(|lines| lines.part(partition)) else {
            return;
        };
        if after >= line.after {
            return;
        }
        let upper = line.after;
        let older = older.iter().filter(|(_, message)| position(message).is_some_and(|at| at.offset <= upper));
        let (count, bytes) = older.clone().fold((0, 0), |(n, b), (_, m)| (n + 1, b + cost(m)));
        if line.messages.len() + count > MESSAGES || line.bytes + bytes > BYTES || self.bytes + bytes > ALL_BYTES {
            return;
        }
        for (channel, message) in older.rev() {
            line.messages.push_front((channel.clone(), message.clone()));
        }
        line.after = after;
        line.bytes += bytes;
        self.bytes += bytes;
        self.tell();
    }

    /// The partition began anew.
    pub(super) fn forget(&mut self, partition: &Partition) {
        for line in self.lines.values_mut().filter_map(|lines| lines.part(partition)) {
            self.bytes -= line.clear();
            line.after = 0;
        }
        self.tell();
    }

    fn tell(&self) {
        if let Some(gauge) = &self.gauge {
            gauge.set(self.bytes as i64);
        }
    }
}

impl Lines {
    fn part(&mut self, partition: &Partition) -> Option<&mut Line> {
        self.parts.iter_mut().find(|line| line.partition == *partition)
    }
}

impl Line {
    fn push(&mut self, channel: Channel, message: Message) {
        self.bytes += cost(&message);
        self.messages.push_back((channel, message));
        while self.messages.len() > MESSAGES || self.bytes > BYTES {
            self.pop();
        }
    }

    fn pop(&mut self) {
        if let Some((_, message)) = self.messages.pop_front() {
            self.bytes -= cost(&message);
            self.after = position(&message).map_or(self.after, |at| at.offset);
        }
    }

    /// Forgets all of it; returns how many bytes that were.
    fn clear(&mut self) -> usize {
        let bytes = self.bytes;
        while !self.messages.is_empty() {
            self.pop();
        }
        bytes
    }
}

fn cost(message: &Message) -> usize {
    message.payload.len() + MESSAGE_BYTES
}
