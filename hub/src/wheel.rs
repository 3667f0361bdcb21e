//! One timing wheel per shard: who is to be looked at, and when.
//!
//! The wheel holds places of records, never times: when a connection is due stands in its own record. An entry whose record
//! says something else, or is another connection's by now, is stale and falls out when its slot comes round, so nothing is
//! ever searched for.

use crate::connection::Tick;

/// 51 seconds of ticks: more than a ping interval, so nearly every entry is looked at once.
const SLOTS: usize = 512;

#[derive(Debug)]
pub(crate) struct Wheel {
    slots: Vec<Vec<u32>>,
    /// The last tick that was looked at.
    now: Tick,
}

impl Wheel {
    pub(crate) fn new(now: Tick) -> Self {
        Self { slots: vec![Vec::new(); SLOTS], now }
    }

    /// Enters a record for a tick, or for the next one if that is over.
    pub(crate) fn schedule(&mut self, index: u32, at: Tick) {
        self.slots[slot(at.max(self.now + 1))].push(index);
    }

    /// Takes the records of the next slot that `until` lets come due. One whose time is a later round is to be entered again.
    pub(crate) fn advance(&mut self, until: Tick) -> Option<(Tick, Vec<u32>)> {
        while self.now < until {
            self.now += 1;
            let due = &mut self.slots[slot(self.now)];
            if !due.is_empty() {
                return Some((self.now, std::mem::take(due)));
            }
        }
        None
    }

    /// Gives an emptied list back, so that its room serves again.
    pub(crate) fn give_back(&mut self, tick: Tick, mut emptied: Vec<u32>) {
        let slot = &mut self.slots[slot(tick)];
        // A record can be entered into the slot just looked at, for the next round.
        if slot.is_empty() && emptied.capacity() <= 1024 {
            emptied.clear();
            *slot = emptied;
        }
    }

    /// The next tick with an entry, valid or stale.
    pub(crate) fn next(&self) -> Option<Tick> {
        (self.now + 1..=self.now + SLOTS as Tick).find(|tick| !self.slots[slot(*tick)].is_empty())
    }
}

/// Whether an entry for one tick comes round with those for another.
pub(crate) fn same_slot(one: Tick, other: Tick) -> bool {
    slot(one) == slot(other)
}

fn slot(tick: Tick) -> usize {
    tick as usize % SLOTS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_come_when_they_are_due() {
        let mut wheel = Wheel::new(10);
        wheel.schedule(1, 15);
        wheel.schedule(2, 15);
        wheel.schedule(3, 12);
        wheel.schedule(4, 3);
        assert_eq!(wheel.next(), Some(11));
        assert_eq!(wheel.advance(14), Some((11, vec![4])));
        assert_eq!(wheel.advance(14), Some((12, vec![3])));
        assert_eq!(wheel.advance(14), None);
        assert_eq!(wheel.next(), Some(15));
        assert_eq!(wheel.advance(15), Some((15, vec![1, 2])));
        assert_eq!((wheel.advance(1000), wheel.next()), (None, None));
    }
}
