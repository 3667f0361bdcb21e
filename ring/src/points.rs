//! The circle of points behind the table: `consistent_hash` with hashes and keys of our own, so that no release of
//! Rust or of that crate moves a slot.

use std::hash::{Hash, Hasher};

use consistent_hash::{Node, RingHash, StaticHashRing};
use siphasher::sip::SipHasher13;

use crate::{KEYS, Member, POINTS_PER_WEIGHT, SLOTS, Slot};

/// The room of a member over its fair share, in hundredths.
const BOUND_PERCENT: usize = 105;

/// Gives each slot, in the order of their numbers, to the first member clockwise that still has room
/// (consistent hashing with bounded loads). The owners are places in `members`, which is sorted, free of
/// duplicates and not empty.
pub(crate) fn owners(members: &[Member]) -> Box<[u16]> {
    let nodes = members.iter().zip(0_u16..).map(|(member, place)| {
        let points = usize::from(member.weight) * POINTS_PER_WEIGHT as usize;
        Node::new(MemberKey(&member.name)).value(place).quantity(points)
    });
    let circle = StaticHashRing::new(OurHash, nodes);
    let mut room = bounds(members);
    let mut first_with_room = |slot: Slot| {
        let place = circle
            .calc_candidates(&SlotKey(slot))
            .map(|node| node.value)
            .find(|place| room[usize::from(*place)] > 0)
            .expect("all members' room together is more than all slots");
        room[usize::from(place)] -= 1;
        place
    };
    Slot::all().map(&mut first_with_room).collect()
}

/// The most slots that each member may own: ⌈1.05 × its fair share by weight⌉.
pub(crate) fn bounds(members: &[Member]) -> Vec<usize> {
    let total: usize = members.iter().map(|member| usize::from(member.weight)).sum();
    members.iter().map(|member| (SLOTS * usize::from(member.weight) * BOUND_PERCENT).div_ceil(total * 100)).collect()
}

/// A member's name. Hashes its bytes and nothing else: what std's `Hash for str` writes is not promised.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct MemberKey<'a>(&'a str);

impl Hash for MemberKey<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write(self.0.as_bytes());
    }
}

/// A slot's number as bytes, little-endian on every machine.
struct SlotKey(Slot);

impl Hash for SlotKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write(&self.0.number().to_le_bytes());
    }
}

/// SipHash-1-3 with our keys.
struct OurHash;

impl OurHash {
    fn hasher() -> SipHasher13 {
        SipHasher13::new_with_keys(KEYS.0, KEYS.1)
    }
}

impl RingHash for OurHash {
    fn hash_item<T: Hash>(&self, item: &T) -> u64 {
        let mut hasher = Self::hasher();
        item.hash(&mut hasher);
        hasher.finish()
    }

    fn hash_vnode<K: Hash>(&self, node_key: &K, vnode_seq: usize) -> u64 {
        let mut hasher = Self::hasher();
        node_key.hash(&mut hasher);
        // Ends the name, as no UTF-8 text holds this byte.
        hasher.write(&[0xff]);
        hasher.write(&(vnode_seq as u64).to_le_bytes());
        hasher.finish()
    }
}
