//! A shard's part of the subscription table: for each interest its members, together in memory.

use std::sync::Arc;

use clarion_protocol::{Channel, Depth, Interest, InterestId};
use hashbrown::HashTable;
use slab::Slab;

use crate::{
    batch::{Masks, Shards},
    framing::{Format, Formats},
};

/// One connection's part in an audience.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Member {
    /// Where its record is.
    pub index: u32,
    /// Which of its seats this is.
    pub seat: u16,
    pub format: Format,
    /// Not all is written to it as it comes: another seat of its connection may be the one that brings a message, or it
    /// is catching up.
    pub aside: bool,
}

/// Where a seat is heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Spot {
    pub audience: u32,
    pub position: u32,
}

/// The connections that share an interest.
pub(crate) struct Audience {
    id: InterestId,
    members: Members,
    /// What was asked for, in its parts, which leave room for the rest.
    base: Channel,
    depth: Depth,
    /// All formats that its members have had. Most audiences have one, and are not searched for others.
    formats: Formats,
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
    pub(crate) fn members(&self) -> &[Member] {
        match &self.members {
            Members::One(member) => std::slice::from_ref(member),
            Members::Many(all) => all,
        }
    }

    /// The formats in which somebody here hears, and whether all hear in the same.
    pub(crate) fn formats(&self) -> (Formats, bool) {
        (self.formats, self.formats.is_power_of_two())
    }

    /// Whether somebody here hears in a format.
    pub(crate) fn hears(&self, format: Format) -> bool {
        match self.formats() {
            (formats, true) => formats == format.bit(),
            (_, false) => self.members().iter().any(|member| member.format == format),
        }
    }

    /// What the bus calls it.
    pub(crate) fn id(&self) -> InterestId {
        self.id
    }

    /// What was asked for.
    pub(crate) fn interest(&self) -> Interest {
        Interest::new(&self.base, self.depth)
    }

    fn member_mut(&mut self, position: u32) -> Option<&mut Member> {
        match &mut self.members {
            Members::One(member) => (position == 0).then_some(member),
            Members::Many(all) => all.get_mut(position as usize),
        }
    }
}

pub(crate) struct Table {
    audiences: Slab<Audience>,
    /// The places of the audiences, found by their interests.
    of: HashTable<u32>,
    masks: Arc<Masks>,
    shard: Shards,
}

impl Table {
    pub(crate) fn new(masks: Arc<Masks>, shard: Shards) -> Self {
        Self { audiences: Slab::new(), of: HashTable::new(), masks, shard }
    }

    pub(crate) fn find(&self, id: InterestId) -> Option<u32> {
        self.of.find(hash(id), |index| self.audiences[*index as usize].id == id).copied()
    }

    pub(crate) fn audience(&self, index: u32) -> Option<&Audience> {
        self.audiences.get(index as usize)
    }

    /// The member at a spot, to be changed.
    pub(crate) fn member_mut(&mut self, spot: Spot) -> Option<&mut Member> {
        self.audiences.get_mut(spot.audience as usize)?.member_mut(spot.position)
    }

    /// Adds a member; returns where it sits.
    pub(crate) fn join(&mut self, id: InterestId, interest: &Interest, member: Member) -> Spot {
        let Some(index) = self.find(id) else { return self.begin(id, interest, member) };
        let audience = &mut self.audiences[index as usize];
        audience.members.push(member);
        audience.formats |= member.format.bit();
        Spot { audience: index, position: audience.members().len() as u32 - 1 }
    }

    /// Begins an interest that nobody here had.
    fn begin(&mut self, id: InterestId, interest: &Interest, first: Member) -> Spot {
        // From here on batches come to this shard, so the mask is set before anybody is told that it is joined.
        self.masks.set(id, self.shard);
        let audience = Audience {
            id,
            members: Members::One(first),
            base: interest.base_channel(),
            depth: interest.depth(),
            formats: first.format.bit(),
        };
        let index = self.audiences.insert(audience) as u32;
        self.of.insert_unique(hash(id), index, |index| hash(self.audiences[*index as usize].id));
        Spot { audience: index, position: 0 }
    }

    /// Takes a member out; returns what it heard there, and the one that has its place now, if another has.
    pub(crate) fn leave(&mut self, spot: Spot) -> (InterestId, Option<Member>) {
        let audience = &mut self.audiences[spot.audience as usize];
        let id = audience.id;
        if !audience.members.remove(spot.position as usize) {
            self.masks.clear(id, self.shard);
            if let Ok(entry) = self.of.find_entry(hash(id), |index| *index == spot.audience) {
                entry.remove();
            }
            self.audiences.remove(spot.audience as usize);
            return (id, None);
        }
        (id, audience.members().get(spot.position as usize).copied())
    }
}

/// Spreads ids, which count up and are nobody's to choose. The multiplication leaves the mixed bits at the top.
fn hash(InterestId(id): InterestId) -> u64 {
    let mixed = id.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    mixed ^ (mixed >> 32)
}

#[cfg(test)]
mod tests {
    use clarion_protocol::Wording;

    use super::*;
    use crate::framing::Framing;

    const FRAME: (Framing, Wording) = (Framing::WebSocket, Wording::Payload);
    const EVENT: (Framing, Wording) = (Framing::EventStream, Wording::Event);

    fn member(index: u32, (framing, wording): (Framing, Wording)) -> Member {
        Member { index, seat: 0, format: Format::new(framing, wording), aside: false }
    }

    #[test]
    fn members_come_and_go() {
        let mut table = Table::new(Arc::new(Masks::new(2)), 1);
        let (id, interest) = (InterestId(7), Interest::parse("a/*").unwrap());
        let spot = |position| Spot { audience: 0, position };
        for index in 0..3 {
            assert_eq!(table.join(id, &interest, member(index, FRAME)), spot(index));
        }
        assert_eq!(table.audience(0).unwrap().interest(), interest);
        assert_eq!(table.leave(spot(0)), (id, Some(member(2, FRAME))));
        assert_eq!(table.leave(spot(1)), (id, None));
        assert_eq!(table.leave(spot(0)), (id, None));
        assert_eq!(table.find(id), None);
    }

    #[test]
    fn an_audience_knows_in_which_formats_it_hears() {
        let mut table = Table::new(Arc::new(Masks::new(1)), 1);
        let (id, interest) = (InterestId(7), Interest::parse("a").unwrap());
        let [frame, event] = [FRAME, EVENT].map(|(framing, wording)| Format::new(framing, wording));
        table.join(id, &interest, member(0, FRAME));
        let alone = table.audience(0).unwrap();
        assert!(alone.hears(frame) && !alone.hears(event) && alone.formats().1);
        let spot = table.join(id, &interest, member(1, EVENT));
        assert!(table.audience(0).unwrap().hears(event) && !table.audience(0).unwrap().formats().1);
        table.leave(spot);
        assert!(!table.audience(0).unwrap().hears(event), "the last one of its kind is gone");
    }

    #[test]
    fn members_and_audiences_are_small() {
        assert_eq!(size_of::<Member>(), 8);
        assert!(size_of::<Option<Audience>>() <= 48, "{}", size_of::<Option<Audience>>());
    }
}
