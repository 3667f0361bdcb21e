//! A shard's part of the subscription table: for each interest its members, together in memory.

use std::sync::Arc;

use clarion_bus::InterestId;
use clarion_protocol::dialect::Dialect;
use hashbrown::HashTable;
use slab::Slab;

use super::batch::{Masks, Shards};

/// All dialects, in the order of their numbers.
pub(super) const DIALECTS: [Dialect; 3] = [Dialect::Plain, Dialect::Event, Dialect::EventOfMany];

/// One connection's part in an audience.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Member {
    /// Where its record is.
    pub index: u32,
    /// Which of its subscriptions this is.
    pub subscription: u16,
    pub dialect: Dialect,
    /// Another of its subscriptions may be the one that brings a message.
    pub overlaps: bool,
}

/// The connections that share an interest.
pub(super) struct Audience {
    interest: InterestId,
    members: Members,
    /// Some members are event streams. Most audiences have none, and are not searched for them.
    streams: bool,
}

/// Many interests are one user's and have one member, so an audience is kept small for those.
enum Members {
    One(Member),
    #[expect(clippy::box_collection, reason = "a list is three words, and every audience would have the room for them")]
    Many(Box<Vec<Member>>),
}

impl Members {
    fn push(&mut self, member: Member) {
        match self {
            Self::One(first) => *self = Self::Many(Box::new(vec![*first, member])),
            Self::Many(all) => all.push(member),
        }
    }

    /// Takes one out, whose place the last one gets; whether anybody is left.
    fn remove(&mut self, position: usize) -> bool {
        match self {
            Self::One(_) => false,
            Self::Many(all) => {
                all.swap_remove(position);
                !all.is_empty()
            }
        }
    }
}

impl Audience {
    /// Who is here.
    pub(super) fn members(&self) -> &[Member] {
        match &self.members {
            Members::One(member) => std::slice::from_ref(member),
            Members::Many(all) => all,
        }
    }

    /// Whether somebody here may speak a dialect.
    pub(super) fn speaks(&self, dialect: Dialect) -> bool {
        let found = || self.members().iter().any(|member| member.dialect == dialect);
        if self.streams { found() } else { dialect == Dialect::Plain }
    }
}

pub(super) struct Table {
    audiences: Slab<Audience>,
    /// The places of the audiences, found by their interests.
    of: HashTable<u32>,
    masks: Arc<Masks>,
    shard: Shards,
}

impl Table {
    pub(super) fn new(masks: Arc<Masks>, shard: Shards) -> Self {
        Self { audiences: Slab::new(), of: HashTable::new(), masks, shard }
    }

    pub(super) fn find(&self, interest: InterestId) -> Option<u32> {
        self.of.find(hash(interest), |index| self.audiences[*index as usize].interest == interest).copied()
    }

    pub(super) fn audience(&self, index: u32) -> Option<&Audience> {
        self.audiences.get(index as usize)
    }

    /// Adds a member; returns its audience and its place there.
    pub(super) fn join(&mut self, interest: InterestId, member: Member) -> (u32, u32) {
        let Some(index) = self.find(interest) else { return (self.begin(interest, member), 0) };
        let audience = &mut self.audiences[index as usize];
        audience.members.push(member);
        audience.streams |= member.dialect != Dialect::Plain;
        (index, audience.members().len() as u32 - 1)
    }

    /// Begins an interest that nobody here had.
    fn begin(&mut self, interest: InterestId, first: Member) -> u32 {
        self.masks.set(interest, self.shard);
        let audience = Audience { interest, members: Members::One(first), streams: first.dialect != Dialect::Plain };
        let index = self.audiences.insert(audience) as u32;
        self.of.insert_unique(hash(interest), index, |index| hash(self.audiences[*index as usize].interest));
        index
    }

    /// Takes a member out; returns what it heard there, and the one that has its place now, if another has.
    pub(super) fn leave(&mut self, audience_index: u32, position: u32) -> (InterestId, Option<Member>) {
        let audience = &mut self.audiences[audience_index as usize];
        let interest = audience.interest;
        if !audience.members.remove(position as usize) {
            self.masks.clear(audience.interest, self.shard);
            if let Ok(entry) = self.of.find_entry(hash(audience.interest), |index| *index == audience_index) {
                entry.remove();
            }
            self.audiences.remove(audience_index as usize);
            return (interest, None);
        }
        (interest, audience.members().get(position as usize).copied())
    }
}

/// Spreads ids, which count up and are nobody's to choose. The multiplication leaves the mixed bits at the top.
fn hash(InterestId(id): InterestId) -> u64 {
    let mixed = id.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    mixed ^ (mixed >> 32)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(index: u32) -> Member {
        Member { index, subscription: 0, dialect: Dialect::Plain, overlaps: false }
    }

    #[test]
    fn members_come_and_go() {
        let mut table = Table::new(Arc::new(Masks::new(2)), 1);
        let interest = InterestId(7);
        assert_eq!(table.join(interest, member(0)), (0, 0));
        assert_eq!(table.join(interest, member(1)), (0, 1));
        assert_eq!(table.join(interest, member(2)), (0, 2));
        assert_eq!(table.leave(0, 0), (interest, Some(member(2))));
        assert_eq!(table.leave(0, 1), (interest, None));
        assert!(table.audience(0).unwrap().speaks(Dialect::Plain));
        assert!(!table.audience(0).unwrap().speaks(Dialect::Event));
        assert_eq!(table.leave(0, 0), (interest, None));
        assert_eq!(table.find(interest), None);
    }

    #[test]
    fn members_and_audiences_are_small() {
        assert_eq!(size_of::<Member>(), 8);
        assert!(size_of::<Option<Audience>>() <= 32);
    }
}
