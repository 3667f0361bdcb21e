//! The ring itself: a table of slots and who owns each.

use std::{fmt, sync::Arc};

use crate::{Identity, MAX_WEIGHT, Member, SLOTS, Slot, points, slot_of};

/// Who owns which slot. Immutable and made whole from a set of members; share it in an [`Arc`].
#[derive(Clone)]
pub struct Ring {
    members: Box<[Member]>,
    /// For each slot its owner's place in `members`; empty when there is nobody.
    owners: Box<[u16]>,
    identity: Identity,
}

impl Ring {
    /// Makes the table for these members, in whatever order they come. None at all is allowed: then nobody owns anything.
    ///
    /// # Errors
    /// [`RingError`] when a name comes twice, a weight is out of range, or there are more members than slots.
    pub fn new(members: impl IntoIterator<Item = Member>) -> Result<Self, RingError> {
        let mut members: Vec<Member> = members.into_iter().collect();
        members.sort_by(|a, b| a.name.cmp(&b.name));
        check(&members)?;
        let owners = if members.is_empty() { Box::default() } else { points::owners(&members) };
        Ok(Self { identity: Identity::of(&members), owners, members: members.into() })
    }

    /// The ring of nobody.
    #[must_use]
    pub fn empty() -> Self {
        Self { members: Box::default(), owners: Box::default(), identity: Identity::of(&[]) }
    }

    /// The name of the member that this key is pinned to; `None` when there are no members.
    #[must_use]
    pub fn home(&self, key: &str) -> Option<&str> {
        self.owner(slot_of(key))
    }

    /// The name of the member that owns this slot; `None` when there are no members.
    #[must_use]
    pub fn owner(&self, slot: Slot) -> Option<&str> {
        let place = self.owners.get(slot.index())?;
        Some(&self.members[usize::from(*place)].name)
    }

    /// The members, sorted by name.
    #[must_use]
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// The slots that this member owns, in the order of their numbers; none for a stranger.
    pub fn slots(&self, name: &str) -> impl Iterator<Item = Slot> + use<'_> {
        let place = self.members.binary_search_by(|member| (*member.name).cmp(name)).ok();
        let owned = move |owner: u16| Some(usize::from(owner)) == place;
        Slot::all().zip(&self.owners).filter(move |(_, owner)| owned(**owner)).map(|(slot, _)| slot)
    }

    /// How many slots this member owns.
    #[must_use]
    pub fn slots_of(&self, name: &str) -> usize {
        self.slots(name).count()
    }

    /// What two nodes compare to see whether they agree.
    #[must_use]
    pub fn identity(&self) -> Identity {
        self.identity
    }
}

impl Default for Ring {
    fn default() -> Self {
        Self::empty()
    }
}

impl fmt::Debug for Ring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ring").field("identity", &self.identity).field("members", &self.members).finish_non_exhaustive()
    }
}

/// Judges members that are sorted by name.
fn check(members: &[Member]) -> Result<(), RingError> {
    if members.len() > SLOTS {
        return Err(RingError::TooManyMembers { members: members.len() });
    }
    if let Some(pair) = members.windows(2).find(|pair| pair[0].name == pair[1].name) {
        return Err(RingError::Duplicate { name: pair[0].name.clone() });
    }
    match members.iter().find(|member| !(1..=MAX_WEIGHT).contains(&member.weight)) {
        Some(member) => Err(RingError::Weight { name: member.name.clone(), weight: member.weight }),
        None => Ok(()),
    }
}

/// Why these members make no ring.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RingError {
    /// A name comes twice.
    #[error("two members are called `{name}`")]
    Duplicate {
        /// The name.
        name: Arc<str>,
    },
    /// A weight that is none.
    #[error("the weight of `{name}` is {weight}; a weight is 1 to {MAX_WEIGHT}")]
    Weight {
        /// Whose.
        name: Arc<str>,
        /// The weight given.
        weight: u16,
    },
    /// More members than slots: some would own nothing.
    #[error("a ring has at most {SLOTS} members, not {members}")]
    TooManyMembers {
        /// How many were given.
        members: usize,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_is_home_in_an_empty_ring() {
        let ring = Ring::new([]).unwrap();
        assert_eq!(ring.home("42"), None);
        assert_eq!(ring.members(), []);
        assert_eq!(ring.slots("a").count(), 0);
        assert_eq!(ring.identity(), Ring::empty().identity());
    }

    #[test]
    fn one_member_owns_everything() {
        let ring = Ring::new([Member::new("a", 7)]).unwrap();
        assert_eq!(ring.slots_of("a"), SLOTS);
        assert_eq!(ring.slots_of("b"), 0);
        assert_eq!(ring.home(""), Some("a"));
    }

    #[test]
    fn what_is_no_ring() {
        let twice = Ring::new(["b", "a", "b"].map(|name| Member::new(name, 1)));
        assert_eq!(twice.unwrap_err(), RingError::Duplicate { name: "b".into() });
        for weight in [0, 101] {
            let error = Ring::new([Member::new("a", weight)]).unwrap_err();
            assert_eq!(error, RingError::Weight { name: "a".into(), weight });
        }
        let many = (0..=SLOTS).map(|n| Member::new(n.to_string(), 1));
        assert_eq!(Ring::new(many).unwrap_err(), RingError::TooManyMembers { members: SLOTS + 1 });
    }

    #[test]
    fn slots_are_those_that_the_table_gives() {
        let ring = Ring::new(["a", "b", "c"].map(|name| Member::new(name, 1))).unwrap();
        assert!(ring.slots("b").all(|slot| ring.owner(slot) == Some("b")));
        assert_eq!(["a", "b", "c"].map(|name| ring.slots_of(name)).iter().sum::<usize>(), SLOTS);
    }

    #[test]
    fn the_identity_tells_sets_and_weights_apart() {
        let identity = |members: &[(&str, u16)]| {
            Ring::new(members.iter().map(|(name, weight)| Member::new(*name, *weight))).unwrap().identity()
        };
        let ring = identity(&[("a", 1), ("b", 1)]);
        assert_eq!(ring, identity(&[("b", 1), ("a", 1)]));
        for other in [&[("a", 1)][..], &[("a", 1), ("b", 2)], &[("ab", 1)], &[("a", 1), ("b", 1), ("c", 1)]] {
            assert_ne!(ring, identity(other), "{other:?}");
        }
    }
}
