//! Where interests and parts are kept, by numbers that are short.

use super::MAX_SLOTS;

/// Values that stay where they are while others come and go.
#[derive(Debug)]
pub(super) struct Slots<T> {
    pub(super) all: Vec<Option<T>>,
    free: Vec<u32>,
}

impl<T> Default for Slots<T> {
    fn default() -> Self {
        Self { all: Vec::new(), free: Vec::new() }
    }
}

impl<T> Slots<T> {
    /// Whether there is no room for two more.
    pub(super) fn are_full(&self) -> bool {
        self.all.len() >= MAX_SLOTS - 2 && self.free.len() < 2
    }

    pub(super) fn put(&mut self, value: T) -> u32 {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.all.push(None);
            u32::try_from(self.all.len() - 1).expect("acquire keeps their number below 2^24")
        });
        self.all[slot as usize] = Some(value);
        slot
    }

    pub(super) fn take(&mut self, slot: u32) -> T {
        self.free.push(slot);
        self.all[slot as usize].take().expect("only what is there is taken")
    }

    pub(super) fn get(&self, slot: u32) -> &T {
        self.try_get(slot).expect("slots are passed around only while something is there")
    }

    pub(super) fn get_mut(&mut self, slot: u32) -> &mut T {
        self.try_get_mut(slot).expect("slots are passed around only while something is there")
    }

    pub(super) fn try_get(&self, slot: u32) -> Option<&T> {
        self.all.get(slot as usize)?.as_ref()
    }

    pub(super) fn try_get_mut(&mut self, slot: u32) -> Option<&mut T> {
        self.all.get_mut(slot as usize)?.as_mut()
    }

    pub(super) fn all(&self) -> impl Iterator<Item = (u32, &T)> {
        (0..).zip(&self.all).filter_map(|(slot, value)| Some((slot, value.as_ref()?)))
    }
}
