//! Finding a part by what it is called, as every message does that arrives.

use std::hash::{BuildHasher as _, Hasher as _};

use clarion_protocol::Address;
use hashbrown::DefaultHashBuilder;

use super::{Ids, NARROW, Part, Reach, Table, Ticket, WIDE};
use crate::InterestId;

impl Table {
    /// Where a copy on an exact subscription goes.
    pub(crate) fn exact(&self, channel: &[u8]) -> Option<(&Address, Ids)> {
        self.lookup(Reach::Exact, false, channel).map(|part| (&part.base, ids(part, true)))
    }

    /// Where a copy on an internal subject goes.
    pub(crate) fn internal(&self, name: &[u8]) -> Option<(&Address, Ids)> {
        self.lookup(Reach::Exact, true, name).map(|part| (&part.base, ids(part, true)))
    }

    /// The interests of a copy that came for the pattern below `base`; `None` when there is no such pattern any more.
    pub(crate) fn below(&self, base: &[u8], channel: &str) -> Option<Ids> {
        let part = self.lookup(Reach::Below, false, base)?;
        let child = channel.get(base.len() + 1..).is_some_and(|rest| !rest.contains('/'));
        Some(ids(part, child))
    }

    /// What a ticket stands for, and the interests of a copy that came for it.
    pub(crate) fn ticketed(&self, ticket: Ticket) -> Option<(&Address, Reach, Ids)> {
        self.at(ticket).map(|part| (&part.base, part.reach, ids(part, true)))
    }

    /// Whether there is any pattern at all.
    pub(crate) fn has_patterns(&self) -> bool {
        self.patterns > 0
    }

    pub(super) fn find(&self, reach: Reach, base: &Address) -> Option<u32> {
        let (internal, name) = key(base);
        self.find_bytes(reach, internal, name.as_bytes())
    }

    fn find_bytes(&self, reach: Reach, internal: bool, name: &[u8]) -> Option<u32> {
        let hash = hash_bytes(&self.hasher, reach, internal, name);
        let found = self.index.find(hash, |slot| {
            let part = self.get(*slot);
            let (is_internal, part_name) = key(&part.base);
            part.reach == reach && is_internal == internal && part_name.as_bytes() == name
        });
        found.copied()
    }

    fn lookup(&self, reach: Reach, internal: bool, name: &[u8]) -> Option<&Part> {
        self.find_bytes(reach, internal, name).map(|slot| self.get(slot))
    }
}

/// Whether a base is internal, and its name.
pub(super) fn key(base: &Address) -> (bool, &str) {
    match base {
        Address::Channel(channel) => (false, channel.as_str()),
        Address::Internal(name) => (true, name.as_str()),
    }
}

pub(super) fn hash(hasher: &DefaultHashBuilder, reach: Reach, base: &Address) -> u64 {
    let (internal, name) = key(base);
    hash_bytes(hasher, reach, internal, name.as_bytes())
}

pub(super) fn hash_of(hasher: &DefaultHashBuilder, part: &Part) -> u64 {
    hash(hasher, part.reach, &part.base)
}

pub(super) fn hash_bytes(hasher: &DefaultHashBuilder, reach: Reach, internal: bool, name: &[u8]) -> u64 {
    let mut state = hasher.build_hasher();
    state.write_u8(reach as u8 * 2 + u8::from(internal));
    state.write(name);
    state.finish()
}

/// The interests of a part, without the narrow one when the copy is not for it.
pub(super) fn ids(part: &Part, narrow: bool) -> Ids {
    let mut ids = Ids::new();
    if narrow && part.ids[NARROW] != 0 {
        ids.push(InterestId(part.ids[NARROW]));
    }
    if part.ids[WIDE] != 0 {
        ids.push(InterestId(part.ids[WIDE]));
    }
    ids
}
