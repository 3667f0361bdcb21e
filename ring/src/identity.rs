//! The identity of a ring: what nodes exchange to see that they disagree.

use std::{fmt, hash::Hasher};

use siphasher::sip::SipHasher13;

use crate::{KEYS, Member, POINTS_PER_WEIGHT, VERSION};

/// Two rings with the same identity give every key the same home. Shown as 16 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Identity(u64);

impl Identity {
    /// Hashes all that a table is made from. The members are sorted by name.
    pub(crate) fn of(members: &[Member]) -> Self {
        let mut hasher = SipHasher13::new_with_keys(KEYS.0, KEYS.1);
        hasher.write(&VERSION.to_le_bytes());
        hasher.write(&POINTS_PER_WEIGHT.to_le_bytes());
        for member in members {
            hasher.write(member.name.as_bytes());
            // No name holds this byte, since names are UTF-8: where one ends is never in doubt.
            hasher.write(&[0xff]);
            hasher.write(&member.weight.to_le_bytes());
        }
        Self(hasher.finish())
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}
