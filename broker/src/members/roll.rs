//! The roll: who was heard when, and therefore who is here. Pure: the time is an argument, nothing is sent or logged.
//!
//! Silence means that a member is gone only while this node can hear at all. When nobody is heard, not even this node
//! itself, it is this node that is deaf, and the roll stays as it was until heartbeats have been flowing again for a while.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use clarion_protocol::{NodeName, control::Heartbeat};
use tokio::time::Instant;

use super::view::Peer;

/// When silence means something.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    /// A member silent for longer is gone.
    pub(super) gone: Duration,
    /// When nobody is heard for longer, this node is deaf. Shorter than `gone`, or deafness would be noticed too late.
    pub(super) deaf: Duration,
    /// How long nobody is gone after this node was deaf: the others' links come back one by one.
    pub(super) grace: Duration,
    /// How long members may see different rings, since each hears of a change in its own time.
    pub(super) disagree: Duration,
}

/// What became of a heartbeat.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Heard {
    /// Nothing that matters to the ring or to where anybody is.
    Known,
    /// A new member, or one that came back as another process or to another place.
    Joined,
    /// A member said goodbye.
    Left,
    /// Another process has this node's name.
    Clash {
        /// The other process.
        instance: String,
    },
    /// It makes no member.
    Unreadable,
}

/// All members but this node itself.
#[derive(Debug)]
pub(super) struct Roll {
    node: NodeName,
    instance: String,
    patience: Patience,
    others: BTreeMap<NodeName, Entry>,
    /// When anybody was heard last, this node included.
    heard: Instant,
    deaf: bool,
    /// Until then nobody is gone.
    grace: Instant,
}

#[derive(Debug)]
struct Entry {
    peer: Arc<Peer>,
    heard: Instant,
    /// Since when it has been seeing another ring than this node.
    differs: Option<Instant>,
}

impl Roll {
    pub(super) fn new(node: NodeName, instance: String, patience: Patience, now: Instant) -> Self {
        Self { node, instance, patience, others: BTreeMap::new(), heard: now, deaf: false, grace: now }
    }

    /// Takes a heartbeat.
    pub(super) fn hear(&mut self, heartbeat: Heartbeat, now: Instant) -> Heard {
        self.heard = now;
        if heartbeat.instance == self.instance {
            return Heard::Known;
        }
        if heartbeat.leaving {
            return self.goodbye(&heartbeat);
        }
        if heartbeat.node == self.node {
            return Heard::Clash { instance: heartbeat.instance };
        }
        let Some(peer) = Peer::of(heartbeat) else { return Heard::Unreadable };
        let differs = self.others.get(&peer.node).and_then(|entry| entry.differs);
        let entry = Entry { peer: Arc::new(peer), heard: now, differs };
        let place = entry.peer.clone();
        match self.others.insert(place.node.clone(), entry) {
            Some(before) if before.peer.place() == place.place() => Heard::Known,
            Some(_) | None => Heard::Joined,
        }
    }

    /// A process that was replaced under its name may say goodbye after its successor has come: that one stays.
    fn goodbye(&mut self, heartbeat: &Heartbeat) -> Heard {
        match self.others.get(&heartbeat.node) {
            Some(entry) if entry.peer.instance == heartbeat.instance => {
                self.others.remove(&heartbeat.node);
                Heard::Left
            }
            Some(_) | None => Heard::Known,
        }
    }

    /// Strikes out those who have been silent for too long, and names them. `linked` is what the bus says of its link.
    pub(super) fn sweep(&mut self, linked: bool, now: Instant) -> Vec<NodeName> {
        if !linked || now - self.heard > self.patience.deaf {
            self.deaf = true;
            return Vec::new();
        }
        if std::mem::take(&mut self.deaf) {
            self.grace = now + self.patience.grace;
        }
        if now < self.grace {
            return Vec::new();
        }
        let silent = |entry: &Entry| now - entry.heard > self.patience.gone;
        let gone: Vec<_> = self.others.iter().filter(|(_, e)| silent(e)).map(|(name, _)| name.clone()).collect();
        for name in &gone {
            self.others.remove(name);
        }
        gone
    }

    /// Those who have been seeing another ring than `mine` for too long, and which. Call it about as often as heartbeats come.
    pub(super) fn disagreeing(&mut self, mine: &str, now: Instant) -> BTreeMap<NodeName, String> {
        let mut long = BTreeMap::new();
        for (name, entry) in &mut self.others {
            if entry.peer.ring == mine {
                entry.differs = None;
            } else if now - *entry.differs.get_or_insert(now) > self.patience.disagree {
                long.insert(name.clone(), entry.peer.ring.clone());
            }
        }
        long
    }

    /// All members but this node.
    pub(super) fn others(&self) -> impl Iterator<Item = &Arc<Peer>> {
        self.others.values().map(|entry| &entry.peer)
    }

    /// Whether this node cannot hear, as far as the last sweep knew.
    pub(super) fn deaf(&self) -> bool {
        self.deaf
    }
}

#[cfg(test)]
mod tests;
