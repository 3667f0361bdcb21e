//! How far each logged interest of the node is whole.

use std::{collections::HashMap, sync::Arc};

use clarion_bus::{InterestId, LogError, log::Top};
use clarion_protocol::{Channel, Depth, Epoch, Interest, Partition, Position};

use super::{Part, Recovery, State, heal::Hole};

/// How many channels of a pattern are remembered one by one in each partition. Behind those stands one mark.
const REMEMBERED: usize = 4_096;

/// An interest that stands on the bus.
pub(super) struct Followed {
    pub(super) interest: Interest,
    references: usize,
    /// For each partition that it touches.
    pub(super) reaches: Vec<Reach>,
}

/// How far one interest is whole in one partition.
pub(super) struct Reach {
    pub(super) partition: Partition,
    /// Everything up to here was heard: the top when the interest first stood, or later. An exact interest's last message.
    pub(super) mark: u64,
    /// The last offsets of a pattern's channels beyond the mark.
    channels: HashMap<Channel, u64>,
}

/// What is to become of a delivery.
pub(super) enum Verdict {
    Pass,
    Repeat,
    Hole(Hole),
    NewEpoch(Epoch),
}

impl Followed {
    fn new(interest: Interest, tops: impl Iterator<Item = (Partition, u64)>) -> Self {
        let reaches = tops.map(|(partition, mark)| Reach { partition, mark, channels: HashMap::new() }).collect();
        Self { interest, references: 1, reaches }
    }

    fn reach_mut(&mut self, partition: &Partition) -> Option<&mut Reach> {
        self.reaches.iter_mut().find(|reach| reach.partition == *partition)
    }

    /// How far it is whole in a partition, if it touches that.
    pub(super) fn reach(&self, partition: &Partition) -> Option<&Reach> {
        self.reaches.iter().find(|reach| reach.partition == *partition)
    }

    /// What is missing before this message, if something is.
    pub(super) fn hole(
        &self,
        id: InterestId,
        channel: &Channel,
        partition: &Partition,
        position: &Position,
    ) -> Option<Hole> {
        let last = self.reach(partition)?.last(channel);
        let missed = position.offset > last && position.previous.is_some_and(|previous| previous > last);
        missed.then(|| Hole { id, channel: channel.clone(), after: last, before: position.offset })
    }

    /// Notes a message; `false` if it was heard before.
    pub(super) fn advance(&mut self, channel: &Channel, partition: &Partition, offset: u64) -> bool {
        let exact = self.interest.depth() == Depth::Exact;
        let Some(reach) = self.reach_mut(partition) else { return true };
        if offset <= reach.last(channel) {
            return false;
        }
        if exact {
            reach.mark = offset;
        } else {
            reach.remember(channel, offset);
        }
        true
    }

    /// Nothing of this partition is known any more; `false` if it was never touched.
    pub(super) fn forget(&mut self, partition: &Partition) -> bool {
        let Some(reach) = self.reach_mut(partition) else { return false };
        (reach.mark, reach.channels) = (0, HashMap::new());
        true
    }

    /// What is missing of a channel up to here never comes.
    pub(super) fn pass_over(&mut self, partition: &Partition, channel: &Channel, offset: u64) {
        self.advance(channel, partition, offset);
    }

    /// Everything of a partition up to here was heard, or nobody can read it any more.
    pub(super) fn whole_to(&mut self, partition: &Partition, offset: u64) {
        if let Some(reach) = self.reach_mut(partition) {
            reach.mark = reach.mark.max(offset);
            reach.channels.retain(|_, last| *last > offset);
        }
    }
}

impl Reach {
    /// Up to where everything of a channel was heard.
    fn last(&self, channel: &Channel) -> u64 {
        self.channels.get(channel).copied().unwrap_or_default().max(self.mark)
    }

    fn remember(&mut self, channel: &Channel, offset: u64) {
        if let Some(last) = self.channels.get_mut(channel) {
            *last = offset;
            return;
        }
        if self.channels.len() >= REMEMBERED {
            // The half that was quiet for longest goes behind the mark, behind which no hole is seen.
            let mut offsets: Vec<_> = self.channels.values().copied().collect();
            let (_, mark, _) = offsets.select_nth_unstable(REMEMBERED / 2);
            self.mark = self.mark.max(*mark);
            self.channels.retain(|_, last| *last > self.mark);
        }
        self.channels.insert(channel.clone(), offset);
    }
}

impl Recovery {
    /// Begins to follow an interest that stands on the bus, or adds a reference. When this returns, all that was published
    /// before can be read from the log, and all that comes later is heard.
    ///
    /// Nothing for one that touches no log. Cancel safe: a dropped call leaves no reference.
    ///
    /// # Errors
    /// [`LogError`] when the log did not tell how far it goes.
    pub async fn follow(self: &Arc<Self>, id: InterestId, interest: &Interest) -> Result<(), LogError> {
        let partitions = self.logs.touched(interest);
        if partitions.is_empty() {
            return Ok(());
        }
        if let Some(followed) = self.state.lock().interests.get_mut(&id) {
            followed.references += 1;
            return Ok(());
        }
        self.key().await?;
        // Asked only now that the interest stands: what is published after the answer is heard.
        let tops = self.tops.ask(self, &partitions).await?;
        let mut state = self.state.lock();
        if let Some(followed) = state.interests.get_mut(&id) {
            followed.references += 1;
            return Ok(());
        }
        for (partition, top) in partitions.iter().zip(&tops) {
            self.meet(&mut state, partition, top);
        }
        let tops = partitions.into_iter().zip(tops).map(|(partition, top)| (partition, top.offset));
        state.add(id, Followed::new(interest.clone(), tops));
        Ok(())
    }

    /// Notes that an interest follows a partition.
    fn meet(self: &Arc<Self>, state: &mut State, partition: &Partition, top: &Top) {
        if state.partitions.get(partition).is_some_and(|part| part.epoch != top.epoch) {
            self.begin_anew(state, partition, top.epoch.clone());
        }
        let new = || Part { epoch: top.epoch.clone(), heard: top.offset, sure: top.offset, parked: None, followers: 0 };
        state.partitions.entry(partition.clone()).or_insert_with(new).followers += 1;
    }

    /// References that went back to the bus.
    pub fn release(&self, interests: &[InterestId]) {
        let mut state = self.state.lock();
        for id in interests {
            state.release(*id);
        }
    }
}

impl State {
    fn add(&mut self, id: InterestId, followed: Followed) {
        match followed.interest.as_channel() {
            // A former interest of this name may not have been given back yet; the one that stands is this one.
            Some(channel) => drop(self.exact.insert(channel, id)),
            None => self.patterns.push(id),
        }
        for reach in &followed.reaches {
            self.recent.begin(id, &reach.partition, reach.mark);
        }
        self.interests.insert(id, followed);
    }

    fn release(&mut self, id: InterestId) {
        let Some(followed) = self.interests.get_mut(&id) else { return };
        followed.references -= 1;
        if followed.references > 0 {
            return;
        }
        let Some(followed) = self.interests.remove(&id) else { return };
        match followed.interest.as_channel() {
            Some(channel) => {
                if self.exact.get(&channel) == Some(&id) {
                    self.exact.remove(&channel);
                }
            }
            None => self.patterns.retain(|pattern| *pattern != id),
        }
        self.recent.end(id);
        for Reach { partition, .. } in &followed.reaches {
            let Some(part) = self.partitions.get_mut(partition) else { continue };
            part.followers -= 1;
            // One that is parked is let go by whoever heals it.
            if part.followers == 0 && part.parked.is_none() {
                self.partitions.remove(partition);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn followed(interest: &str, mark: u64) -> (Followed, Partition) {
        let partition = Partition { namespace: Channel::parse("orders").unwrap(), number: 0 };
        let interest = Interest::parse(interest).unwrap();
        (Followed::new(interest, std::iter::once((partition.clone(), mark))), partition)
    }

    fn at(offset: u64, previous: u64) -> Position {
        Position { offset, epoch: Epoch::parse("e").unwrap(), previous: Some(previous) }
    }

    #[test]
    fn a_hole_is_a_predecessor_that_was_not_heard() {
        for interest in ["orders/1", "orders/**"] {
            let (mut followed, partition) = followed(interest, 10);
            let channel = Channel::parse("orders/1").unwrap();
            let mut hear = |offset, previous| {
                let hole = followed.hole(InterestId(1), &channel, &partition, &at(offset, previous));
                (hole.map(|hole| (hole.after, hole.before)), followed.advance(&channel, &partition, offset))
            };
            assert_eq!(hear(9, 0), (None, false), "before the interest stood");
            assert_eq!(hear(12, 7), (None, true), "its predecessor came before the interest stood");
            assert_eq!(hear(12, 7), (None, false), "again");
            assert_eq!(hear(20, 12), (None, true));
            assert_eq!(hear(30, 25), (Some((20, 30)), true));
        }
    }

    #[test]
    fn a_pattern_remembers_a_bounded_number_of_channels() {
        let (mut followed, partition) = followed("orders/**", 0);
        let channel = |number: u64| Channel::parse(&format!("orders/{number}")).unwrap();
        for number in 1..=10 * REMEMBERED as u64 {
            assert!(followed.advance(&channel(number), &partition, number));
        }
        let reach = followed.reach(&partition).unwrap();
        assert!(reach.channels.len() <= REMEMBERED && reach.mark > 8 * REMEMBERED as u64);
        let last = 10 * REMEMBERED as u64;
        assert!(followed.hole(InterestId(1), &channel(1), &partition, &at(last + 2, last + 1)).is_some());
        assert!(followed.hole(InterestId(1), &channel(1), &partition, &at(last + 2, 1)).is_none());
    }
}
