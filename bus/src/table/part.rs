//! One subscription at the server, and what it carries.

use std::collections::HashSet;

use clarion_protocol::Address;

/// What one subscription at the server covers of its base.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Reach {
    /// The channel itself.
    Exact,
    /// One level below it, where the server can tell levels apart.
    Children,
    /// All below it, without itself.
    Below,
}

/// How far a subscription has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// To be asked for.
    Wanted,
    /// Asked for.
    Asked,
    /// Acknowledged.
    Standing,
    /// The server said no.
    Refused,
}

/// What became of it since it last stood.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Past {
    /// Nothing that anybody must be told of.
    Calm,
    /// It was interrupted, and what was published meanwhile is missing.
    Missed,
    /// The same, and the link is not up until it stands again.
    Resuming,
}

/// No interest.
const NONE: u32 = u32::MAX;

/// One subscription at the server, 20 bytes.
#[derive(Debug)]
pub(super) struct Part {
    /// The interests of one name that it carries; none when it carries a crowd.
    few: [u32; 2],
    pub(super) attempt: u32,
    pub(super) lane: u16,
    pub(super) reach: Reach,
    pub(super) state: State,
    pub(super) past: Past,
}

impl Part {
    /// A part that was not asked for yet, of an interest or of a crowd.
    pub(super) fn new(reach: Reach, lane: u16, interest: Option<u32>) -> Self {
        let few = [interest.unwrap_or(NONE), NONE];
        Self { few, attempt: 0, lane, reach, state: State::Wanted, past: Past::Calm }
    }

    /// An interest that lends it its name; `None` when it carries a crowd.
    pub(super) fn first(&self) -> Option<u32> {
        self.carried().next()
    }

    /// The interest that it carries, where it is one, as nearly always.
    pub(super) fn only(&self) -> Option<u32> {
        match self.few {
            [NONE, NONE] => None,
            [one, NONE] | [NONE, one] => Some(one),
            [_, _] => None,
        }
    }

    pub(super) fn carried(&self) -> impl Iterator<Item = u32> {
        self.few.into_iter().filter(|interest| *interest != NONE)
    }

    pub(super) fn add(&mut self, interest: u32) {
        let room = self.few.iter_mut().find(|place| **place == NONE);
        *room.expect("no more than two depths share a part") = interest;
    }

    /// Takes one off; whether it was the last.
    pub(super) fn drop(&mut self, interest: u32) -> bool {
        for place in self.few.iter_mut().filter(|place| **place == interest) {
            *place = NONE;
        }
        self.few == [NONE; 2]
    }
}

/// Interests of many names that one wildcard carries.
#[derive(Debug)]
pub(super) struct Crowd {
    /// What all of them lie below.
    pub(super) base: Address,
    interests: HashSet<u32>,
}

impl Crowd {
    pub(super) fn new(base: Address, interest: u32) -> Self {
        Self { base, interests: [interest].into() }
    }

    pub(super) fn add(&mut self, interest: u32) {
        self.interests.insert(interest);
    }

    /// Takes one off; whether it was the last.
    pub(super) fn drop(&mut self, interest: u32) -> bool {
        self.interests.remove(&interest);
        self.interests.is_empty()
    }

    pub(super) fn all(&self) -> impl Iterator<Item = u32> {
        self.interests.iter().copied()
    }
}
