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

#[cfg(test)]
mod tests {
    use clarion_protocol::{Epoch, Meta, Position};

    use super::*;

    const ID: InterestId = InterestId(1);

    fn partition() -> Partition {
        Partition { namespace: Channel::parse("orders").unwrap(), number: 0 }
    }

    fn message(offset: u64, bytes: usize) -> (Channel, Message) {
        let position = Position { offset, epoch: Epoch::parse("e").unwrap(), previous: None };
        let meta = Meta { position: Some(position), ..Meta::default() };
        let message = Message { meta: Some(meta.into()), ..Message::raw(vec![b'x'; bytes]) };
        (Channel::parse("orders/1").unwrap(), message)
    }

    fn push(recent: &mut Recent, offset: u64, bytes: usize) {
        let (channel, message) = message(offset, bytes);
        let delivery = Delivery { interests: [ID].into_iter().collect(), address: channel.into(), message };
        recent.push(&partition(), &delivery);
    }

    fn offsets(recent: &Recent, after: u64, up_to: u64) -> Option<Vec<u64>> {
        let found = recent.read(ID, &partition(), after, up_to)?;
        Some(found.iter().map(|(_, message)| position(message).unwrap().offset).collect())
    }

    #[test]
    fn only_what_lies_here_as_a_whole_is_served() {
        let mut recent = Recent::default();
        recent.begin(ID, &partition(), 10);
        for offset in [12, 15, 17] {
            push(&mut recent, offset, 1);
        }
        assert_eq!(offsets(&recent, 10, 15), Some(vec![12, 15]));
        assert_eq!(offsets(&recent, 17, 17), Some(vec![]));
        assert_eq!(offsets(&recent, 9, 17), None, "what came before 10 is not known");
        recent.extend(ID, &partition(), 3, &[message(5, 1), message(9, 1), message(12, 1)]);
        assert_eq!(offsets(&recent, 3, 17), Some(vec![5, 9, 12, 15, 17]), "nothing twice where the parts meet");
        assert_eq!(offsets(&recent, 2, 17), None);
        recent.end(ID);
        assert_eq!((offsets(&recent, 17, 17), recent.bytes), (None, 0));
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut recent = Recent::default();
        recent.begin(ID, &partition(), 0);
        for offset in 1..=2 * MESSAGES as u64 {
            push(&mut recent, offset, 1);
        }
        let (first, last) = (MESSAGES as u64, 2 * MESSAGES as u64);
        assert_eq!(offsets(&recent, first, last).map(|all| all.len()), Some(MESSAGES));
        assert_eq!(offsets(&recent, first - 1, last), None);
        push(&mut recent, last + 1, BYTES);
        assert_eq!(offsets(&recent, last + 1, last + 1), Some(vec![]), "one that is too large is not kept");
        assert_eq!((offsets(&recent, last, last + 1), recent.bytes), (None, 0));
    }
}
