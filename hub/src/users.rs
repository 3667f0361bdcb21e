//! Which connections are whose. Asked when somebody is disconnected or looked for, never while messages fan out.

use std::collections::{HashMap, hash_map::Entry};

use clarion_protocol::Uid;
use parking_lot::Mutex;
use smallvec::SmallVec;

use crate::roster::Key;

/// Where a connection is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    pub shard: u16,
    pub key: Key,
}

#[derive(Debug, Default)]
pub(crate) struct Users {
    places: Mutex<HashMap<Uid, SmallVec<[Place; 1]>>>,
}

impl Users {
    pub(crate) fn enter(&self, user: &Uid, place: Place) {
        self.places.lock().entry(user.clone()).or_default().push(place);
    }

    pub(crate) fn leave(&self, user: &Uid, place: Place) {
        if let Entry::Occupied(mut entry) = self.places.lock().entry(user.clone()) {
            entry.get_mut().retain(|other| *other != place);
            if entry.get().is_empty() {
                entry.remove();
            }
        }
    }

    pub(crate) fn places(&self, user: &str) -> SmallVec<[Place; 1]> {
        self.places.lock().get(user).cloned().unwrap_or_default()
    }

    pub(crate) fn count(&self, user: &str) -> usize {
        self.places.lock().get(user).map_or(0, SmallVec::len)
    }
}
