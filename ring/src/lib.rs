//! The consistent-hash ring: members in, homes out.
//!
//! A key hashes to one of [`SLOTS`] slots, and a [`Ring`] says which member owns each slot. The table is made whole
//! from the set of members, the same in every process and release, whatever order they come in. Pure: no I/O, no async.

mod identity;
mod member;
mod points;
mod ring;
mod slot;

pub use identity::Identity;
pub use member::{MAX_WEIGHT, Member};
pub use ring::{Ring, RingError};
pub use slot::{SLOTS, Slot, slot_of};

/// The version of everything that decides who owns a slot. Raised with any change of it, so that nodes of two
/// releases see by the ring's identity that they disagree.
const VERSION: u32 = 1;

/// Points on the circle for each unit of weight: fewer are uneven, more cost time to build and win little.
const POINTS_PER_WEIGHT: u32 = 1_000;

/// The keys of all SipHash in this crate. Any would do, but they are fixed for ever by [`VERSION`].
const KEYS: (u64, u64) = (u64::from_le_bytes(*b"clarion-"), u64::from_le_bytes(*b"ring-v01"));
