//! Slots: the fixed number of parts into which all keys fall.

use std::fmt;

/// How many slots there are.
pub const SLOTS: usize = 16_384;

/// One of the [`SLOTS`] parts into which keys fall.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Slot(u16);

impl Slot {
    /// The slot of this number; `None` from [`SLOTS`] on.
    #[must_use]
    pub fn new(number: u16) -> Option<Self> {
        (usize::from(number) < SLOTS).then_some(Self(number))
    }

    /// Its number, below [`SLOTS`].
    #[must_use]
    pub fn number(self) -> u16 {
        self.0
    }

    /// All slots in the order of their numbers.
    pub fn all() -> impl ExactSizeIterator<Item = Self> + Clone {
        (0..SLOTS as u16).map(Self)
    }

    /// Its place in a table of all slots.
    pub(crate) fn index(self) -> usize {
        usize::from(self.0)
    }
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The slot of a user's id or any other key: FNV-1a (32 bit) of its bytes modulo [`SLOTS`].
///
/// This is the NATS server's `partition(16384, …)`, which hashes the token as it stands in the subject. Where the
/// server is to choose the slot, hash the encoded token.
#[must_use]
pub fn slot_of(uid: &str) -> Slot {
    // The published constants of FNV-1a; the crate `fnv` has the 64-bit function only.
    let hash = uid.bytes().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    Slot((hash as usize % SLOTS) as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_end_with_the_slots() {
        assert_eq!(Slot::new(16_383).map(Slot::number), Some(16_383));
        assert_eq!(Slot::new(16_384), None);
        assert_eq!(Slot::all().len(), SLOTS);
        assert_eq!(Slot::all().last(), Slot::new(16_383));
    }

    #[test]
    fn the_hash_is_fnv_1a() {
        // Vectors of the function's authors: "" is 811c9dc5, "a" is e40c292c, "foobar" is bf9cf968.
        for (key, hash) in [("", 0x811c_9dc5_usize), ("a", 0xe40c_292c), ("foobar", 0xbf9c_f968)] {
            assert_eq!(slot_of(key).index(), hash % SLOTS, "{key:?}");
        }
    }
}
