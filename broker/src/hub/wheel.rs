//! One timing wheel per shard: who is to be looked at, and when.
//!
//! The wheel holds keys, never times: when a connection is due stands in its own record. An entry whose record says
//! something else is stale and falls out when its slot comes round, so nothing is ever searched for.

use super::record::Key;
use crate::connection::Tick;

/// 51 seconds of ticks: more than a ping interval, so nearly every entry is looked at once.
const SLOTS: usize = 512;

#[derive(Debug)]
pub(super) struct Wheel {
    slots: Vec<Vec<Key>>,
    /// The last tick that was looked at.
    now: Tick,
}

impl Wheel {
    pub(super) fn new(now: Tick) -> Self {
        Self { slots: vec![Vec::new(); SLOTS], now }
    }

    /// Enters a key for a tick, or for the next one if that is over.
    pub(super) fn schedule(&mut self, key: Key, at: Tick) {
        self.slots[slot(at.max(self.now + 1))].push(key);
    }

    /// Takes the keys of the next slot that `until` lets come due. A key whose time is a later round is to be entered again.
    pub(super) fn advance(&mut self, until: Tick) -> Option<(Tick, Vec<Key>)> {
        while self.now < until {
            self.now += 1;
            let keys = &mut self.slots[slot(self.now)];
            if !keys.is_empty() {
                return Some((self.now, std::mem::take(keys)));
            }
        }
        None
    }

    /// Gives an emptied list back, so that its room serves again.
    pub(super) fn give_back(&mut self, tick: Tick, mut keys: Vec<Key>) {
        let keys_of_slot = &mut self.slots[slot(tick)];
        // A key can be entered into the slot just looked at, for the next round.
        if keys_of_slot.is_empty() && keys.capacity() <= 1024 {
            keys.clear();
            *keys_of_slot = keys;
        }
    }

    /// The next tick with an entry, valid or stale.
    pub(super) fn next(&self) -> Option<Tick> {
        (self.now + 1..=self.now + SLOTS as Tick).find(|tick| !self.slots[slot(*tick)].is_empty())
    }
}

/// Whether an entry for one tick comes round with those for another.
pub(super) fn same_slot(one: Tick, other: Tick) -> bool {
    slot(one) == slot(other)
}

fn slot(tick: Tick) -> usize {
    tick as usize % SLOTS
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(serial: u32) -> Key {
        Key { index: 0, serial }
    }

    #[test]
    fn keys_come_when_they_are_due() {
        let mut wheel = Wheel::new(10);
        wheel.schedule(key(1), 15);
        wheel.schedule(key(2), 15);
        wheel.schedule(key(3), 12);
        wheel.schedule(key(4), 3);
        assert_eq!(wheel.next(), Some(11));
        assert_eq!(wheel.advance(14), Some((11, vec![key(4)])));
        assert_eq!(wheel.advance(14), Some((12, vec![key(3)])));
        assert_eq!(wheel.advance(14), None);
        assert_eq!(wheel.next(), Some(15));
        assert_eq!(wheel.advance(15), Some((15, vec![key(1), key(2)])));
        assert_eq!((wheel.advance(1000), wheel.next()), (None, None));
    }
}
