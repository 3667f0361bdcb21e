//! Who is in the cluster, at one moment.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use clarion_protocol::{NodeName, control::Heartbeat};
use clarion_ring::{MAX_WEIGHT, Member, Ring};
use serde::Serialize;

/// The cluster as this node sees it. Immutable: each change makes a new one.
#[derive(Debug, Clone)]
pub struct View {
    /// This node's name.
    pub me: NodeName,
    /// Who is whose home.
    pub ring: Arc<Ring>,
    /// All members by name, this node included.
    pub peers: BTreeMap<NodeName, Arc<Peer>>,
    /// Whether this node has listened long enough to know them all.
    pub settled: bool,
    /// Whether this node has left: then it is in `peers` and not in the ring.
    pub leaving: bool,
}

impl View {
    /// Where a user or a channel is at home. Here, if nobody can be: a node alone, or the last one while it leaves.
    #[must_use]
    pub fn home(&self, key: &str) -> Home {
        match self.ring.home(key).filter(|name| *name != self.me.as_str()) {
            Some(name) => self.peer(name).map_or(Home::Here, |peer| Home::At(peer.clone())),
            None => Home::Here,
        }
    }

    /// The member of this name.
    #[must_use]
    pub fn peer(&self, name: &str) -> Option<&Arc<Peer>> {
        NodeName::parse(name).ok().and_then(|name| self.peers.get(&name))
    }

    /// The members but this node.
    #[must_use]
    pub(super) fn others(&self) -> BTreeSet<NodeName> {
        self.peers.keys().filter(|name| **name != self.me).cloned().collect()
    }

    /// Whether another view differs in more than what members count: then somebody may want to act.
    pub(super) fn differs(&self, other: &Self) -> bool {
        self.ring.identity() != other.ring.identity()
            || (self.settled, self.leaving) != (other.settled, other.leaving)
            || self.peers.len() != other.peers.len()
            || self.peers.values().zip(other.peers.values()).any(|(one, two)| one.place() != two.place())
    }
}

/// Where a key is at home.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Home {
    /// At this node.
    Here,
    /// At another.
    At(Arc<Peer>),
}

/// One member, as its last heartbeat told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Peer {
    /// Its name.
    pub node: NodeName,
    /// Names its process.
    pub instance: String,
    /// `host:port` at which other nodes reach it.
    pub advertise: Option<String>,
    /// The URL at which clients reach it.
    pub public_url: Option<String>,
    /// What its words about clients are judged by.
    #[serde(skip)]
    pub key: Option<String>,
    /// Its share of the ring.
    pub weight: u16,
    /// The identity of the ring that it sees.
    pub ring: String,
    /// The connections it holds.
    pub connections: u64,
    /// Its release.
    pub version: String,
}

impl Peer {
    /// Takes what a heartbeat tells; `None` when its weight is none, which would make no ring.
    pub(super) fn of(heartbeat: Heartbeat) -> Option<Self> {
        let Heartbeat { node, instance, advertise, public_url, key, weight, ring, connections, version, .. } =
            heartbeat;
        let peer = Self { node, instance, advertise, public_url, key, weight, ring, connections, version };
        (1..=MAX_WEIGHT).contains(&weight).then_some(peer)
    }

    /// How it says this itself.
    pub(super) fn heartbeat(&self, leaving: bool, disconnects: u64) -> Heartbeat {
        let Self { node, instance, advertise, public_url, key, weight, ring, connections, version } = self.clone();
        Heartbeat {
            node,
            instance,
            advertise,
            public_url,
            key,
            weight,
            ring,
            leaving,
            connections,
            disconnects,
            version,
        }
    }

    pub(super) fn member(&self) -> Member {
        Member::new(self.node.as_str(), self.weight)
    }

    /// What decides where it is and how much is its own.
    pub(super) fn place(&self) -> (&NodeName, &str, Option<&str>, Option<&str>, u16) {
        (&self.node, &self.instance, self.advertise.as_deref(), self.public_url.as_deref(), self.weight)
    }
}
