//! Finding interests by what they are called, as every message does that arrives.

use std::hash::{BuildHasher as _, Hasher as _};

use clarion_protocol::{Address, Depth};
use hashbrown::DefaultHashBuilder;

use super::{Ids, Need, Reach, Table, Ticket};

impl Table {
    /// Where a copy on an exact subscription goes.
    pub(crate) fn exact(&self, channel: &[u8]) -> Option<(&Address, Ids)> {
        self.copy(false, channel)
    }

    /// Where a copy on an internal subject goes.
    pub(crate) fn internal(&self, name: &[u8]) -> Option<(&Address, Ids)> {
        self.copy(true, name)
    }

    fn copy(&self, internal: bool, name: &[u8]) -> Option<(&Address, Ids)> {
        let (mut base, mut ids) = (None, Ids::new());
        for slot in self.named(internal, name) {
            let record = self.records.get(slot);
            // What lies below comes by a pattern, and what a crowd hears by its wildcard.
            let by_name = self.crowds.is_empty() || self.parts.get(record.part).reach == Reach::Exact;
            if record.depth != Depth::Children && by_name {
                base = Some(&record.base);
                self.push(&mut ids, slot);
            }
        }
        base.map(|base| (base, ids))
    }

    /// The interests of a copy that came for the pattern below `base`; `None` when there is no such pattern any more.
    pub(crate) fn below(&self, base: &[u8], channel: &str) -> Option<Ids> {
        let child = channel.get(base.len() + 1..).is_some_and(|rest| !rest.contains('/'));
        let (mut found, mut ids) = (false, Ids::new());
        for slot in self.named(false, base) {
            let depth = self.records.get(slot).depth;
            found |= depth != Depth::Exact;
            if depth == Depth::Subtree || (depth == Depth::Children && child) {
                self.push(&mut ids, slot);
            }
        }
        if !self.crowds.is_empty() {
            for slot in self.named(false, channel.as_bytes()) {
                let carrier = self.crowds.get(&self.records.get(slot).part);
                if carrier.is_some_and(|crowd| key(&crowd.base).1.as_bytes() == base) {
                    found = true;
                    self.push(&mut ids, slot);
                }
            }
        }
        found.then_some(ids)
    }

    /// What a ticket stands for, and the interests of a copy that came for it.
    pub(crate) fn ticketed(&self, ticket: Ticket) -> Option<(&Address, Reach, Ids)> {
        let part = self.at(ticket)?;
        let mut ids = Ids::new();
        if let Some(interest) = part.only() {
            let record = self.records.get(interest);
            ids.push(record.id(interest));
            return Some((&record.base, part.reach, ids));
        }
        part.carried().for_each(|interest| self.push(&mut ids, interest));
        Some((self.base_of(ticket.slot), part.reach, ids))
    }

    /// Whether there is any pattern at all.
    pub(crate) fn has_patterns(&self) -> bool {
        self.patterns > 0
    }

    /// The interest of this name and depth.
    pub(super) fn record(&self, base: &Address, depth: Depth) -> Option<u32> {
        let (internal, name) = key(base);
        self.named(internal, name.as_bytes()).find(|slot| self.records.get(*slot).depth == depth)
    }

    /// A part that serves a need, if there is one: another interest of the same name has it, or it carries the crowd.
    pub(super) fn part(&self, need: &Need, base: &Address) -> Option<u32> {
        match &need.crowd {
            Some(crowd) => self.crowd_parts.get(crowd).copied(),
            None => {
                let (internal, name) = key(base);
                let parts = self.named(internal, name.as_bytes()).flat_map(|slot| self.parts_of(slot));
                parts
                    .into_iter()
                    .find(|part| self.parts.get(*part).reach == need.reach && !self.crowds.contains_key(part))
            }
        }
    }

    /// The interests of a name.
    fn named(&self, internal: bool, name: &[u8]) -> impl Iterator<Item = u32> {
        let candidates = self.index.iter_hash(hash(&self.hasher, internal, name));
        candidates.copied().filter(move |slot| {
            let (is_internal, its_name) = key(&self.records.get(*slot).base);
            is_internal == internal && its_name.as_bytes() == name
        })
    }

    /// Adds an interest, the narrow one before the wide one.
    fn push(&self, ids: &mut Ids, slot: u32) {
        let record = self.records.get(slot);
        ids.push(record.id(slot));
        if record.depth != Depth::Subtree && ids.len() > 1 {
            ids.rotate_right(1);
        }
    }
}

/// Whether a base is internal, and its name.
pub(super) fn key(base: &Address) -> (bool, &str) {
    match base {
        Address::Channel(channel) => (false, channel.as_str()),
        Address::Internal(name) => (true, name.as_str()),
    }
}

pub(super) fn hash_of(hasher: &DefaultHashBuilder, base: &Address) -> u64 {
    let (internal, name) = key(base);
    hash(hasher, internal, name.as_bytes())
}

fn hash(hasher: &DefaultHashBuilder, internal: bool, name: &[u8]) -> u64 {
    let mut state = hasher.build_hasher();
    state.write_u8(u8::from(internal));
    state.write(name);
    state.finish()
}
