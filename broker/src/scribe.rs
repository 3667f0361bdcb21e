//! The scribe: plain publications into logged namespaces are numbered once, also while nodes come, go and die.
//!
//! A Redis server cannot number a `PUBLISH`. Two nodes of the ring hear each logged namespace: the *scribe*, its home, and
//! the *understudy*, the next one. Redis sends both the same sequence, with markers in it, so each raw message has a name that
//! both agree on: the last marker, and how many of its partition came since. Both have the bus number what they heard, the
//! understudy a moment later; the bus takes each name once, so that no lease decides what is right, and nobody's clock.

mod metrics;
mod sequence;

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use clarion_bus::{BusHandle, InterestId, LogError, NumberingHandle, Topic, log::RawName};
use clarion_protocol::{Depth, Interest, InternalName, Logs, NodeName, Partition};
use tokio::time::{Instant, MissedTickBehavior, interval};

pub use metrics::Metrics;
use sequence::{Call, Place, Sequence};

use crate::{
    ingress::{Heard, RawQueue},
    members::Members,
};

/// How often the scribe says where it is. What lies between two markers is what an understudy whose link was cut does not hear.
const MARKER: Duration = Duration::from_secs(1);
/// How long nobody may have said a marker before the understudy does.
const SILENCE: Duration = Duration::from_secs(3);
/// How much later the understudy calls: by then the scribe has numbered it, and the call does nothing.
const LATER: Duration = Duration::from_millis(300);
/// How often it is looked what there is to do.
const TICK: Duration = Duration::from_millis(50);
/// How long a partition may stand at a place that this node knows nothing of, before it is moved on.
const PATIENCE: Duration = Duration::from_secs(2);
/// Messages in one call: Redis is busy for less than a millisecond.
const CALL_MESSAGES: usize = 50;

/// The subject of markers.
#[must_use]
pub fn subject() -> InternalName {
    InternalName::parse(crate::ingress::MARKERS).expect("the name is valid")
}

/// What this node is to a namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Scribe,
    Understudy,
}

/// Numbers what this node is to number, for ever.
pub async fn run(bus: BusHandle, logs: Logs, members: Arc<Members>, queue: RawQueue, metrics: Metrics) {
    let Some(numbering) = bus.numbering() else { return std::future::pending().await };
    let mut scribe = Scribe {
        bus,
        numbering,
        logs,
        members,
        queue,
        metrics,
        roles: BTreeMap::new(),
        interests: HashMap::new(),
        marker_interest: None,
        sequences: HashMap::new(),
        last_marker: Instant::now(),
        connections: 0,
    };
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = scribe.queue.wait() => {}
        }
        scribe.turn().await;
    }
}

struct Scribe {
    bus: BusHandle,
    numbering: NumberingHandle,
    logs: Logs,
    members: Arc<Members>,
    queue: RawQueue,
    metrics: Metrics,
    /// What this node is to each namespace, by the namespace's name.
    roles: BTreeMap<String, Role>,
    /// The interests by which it hears them.
    interests: HashMap<String, InterestId>,
    marker_interest: Option<InterestId>,
    sequences: HashMap<Partition, Sequence>,
    last_marker: Instant,
    /// Connections of the links when the sequences began. Whatever comes of a new one does not follow what came of the last.
    connections: u64,
}

impl Scribe {
    async fn turn(&mut self) {
        self.take_roles().await;
        self.say_marker().await;
        self.hear();
        let now = Instant::now();
        let later = |role: &Role| if *role == Role::Understudy { LATER } else { Duration::ZERO };
        let due: Vec<Partition> = self
            .sequences
            .iter()
            .filter(|(partition, sequence)| {
                let role = self.roles.get(partition.namespace.as_str());
                role.is_some_and(|role| sequence.waits_since().is_some_and(|since| now - since >= later(role)))
            })
            .map(|(partition, _)| partition.clone())
            .collect();
        for partition in due {
            if let Err(error) = self.number(&partition).await {
                tracing::debug!(%error, %partition, "what was published plainly is not numbered yet");
            }
        }
    }

    /// Hears the namespaces whose scribe or understudy this node is by the ring, and no others.
    async fn take_roles(&mut self) {
        let view = self.members.view();
        let mut roles = BTreeMap::new();
        for (namespace, _) in self.logs.logged() {
            if let Some(role) = role_of(namespace.as_str(), &view.me, view.peers.keys()) {
                roles.insert(namespace.as_str().to_owned(), role);
            }
        }
        if roles == self.roles {
            return;
        }
        let gone: Vec<String> =
            self.roles.keys().filter(|namespace| !roles.contains_key(*namespace)).cloned().collect();
        for namespace in gone {
            if let Some(id) = self.interests.remove(&namespace) {
                self.queue.unwanted(id);
                self.bus.unsubscribe(id);
            }
            self.sequences.retain(|partition, _| partition.namespace.as_str() != namespace);
        }
        if self.marker_interest.is_none() && !roles.is_empty() {
            self.marker_interest = self.bus.subscribe(&Topic::Internal(subject())).await.ok();
        }
        let mut taken = BTreeMap::new();
        for (namespace, role) in roles {
            if !self.interests.contains_key(&namespace) {
                let Some(id) = self.listen(&namespace).await else { continue };
                self.interests.insert(namespace.clone(), id);
            }
            taken.insert(namespace, role);
        }
        self.metrics.roles(taken.values().filter(|role| **role == Role::Scribe).count());
        self.roles = taken;
        // Where the sequence begins that this node knows.
        self.last_marker = Instant::now() - SILENCE;
    }

    async fn listen(&mut self, namespace: &str) -> Option<InterestId> {
        let base = Interest::parse(namespace).ok()?.base_channel();
        let interest = Interest::new(&base, Depth::Subtree);
        match self.bus.subscribe(&Topic::Channels(interest)).await {
            Ok(id) => {
                self.queue.wanted(id);
                Some(id)
            }
            Err(error) => {
                tracing::warn!(%error, namespace, "plain publications are not heard, and therefore not numbered");
                None
            }
        }
    }

    /// Says where the sequence is, as the scribe of something, or when the scribe is silent.
    async fn say_marker(&mut self) {
        let scribe = self.roles.values().any(|role| *role == Role::Scribe);
        let pause = if scribe { MARKER } else { SILENCE };
        if self.roles.is_empty() || self.last_marker.elapsed() < pause {
            return;
        }
        let marker = uuid::Uuid::now_v7().simple().to_string();
        self.last_marker = Instant::now();
        if let Err(error) = self.bus.tell(&subject(), marker.into()).await {
            tracing::debug!(%error, "a marker was not said");
        }
    }

    /// Takes what was heard since, in its order.
    fn hear(&mut self) {
        let all = self.queue.take();
        // Asked after they were taken: none of them can be of a connection that is newer than this number.
        let connections = self.bus.stats().reconnects;
        if connections != self.connections {
            self.connections = connections;
            self.metrics.cut();
            self.sequences.clear();
            return;
        }
        for heard in all {
            match heard {
                Heard::Raw(channel, message) => {
                    let Some(partition) = self.logs.partition(channel.as_str()) else { continue };
                    if let Some(sequence) = self.sequences.get_mut(&partition) {
                        sequence.raw(channel, message);
                    }
                }
                Heard::Marker(marker) => {
                    self.last_marker = Instant::now();
                    let partitions = self.logs.partitions();
                    for partition in partitions.filter(|part| self.roles.contains_key(part.namespace.as_str())) {
                        self.sequences.entry(partition).or_default().marker(&marker);
                    }
                }
                // What was lost in between nobody here can name: the next marker begins a sequence that is whole.
                Heard::Cut => {
                    self.metrics.cut();
                    self.sequences.clear();
                }
            }
        }
        for sequence in self.sequences.values_mut() {
            self.metrics.behind(sequence.shed());
        }
    }

    /// Has the bus number what this node heard of a partition, until there is nothing more or the bus is elsewhere.
    async fn number(&mut self, partition: &Partition) -> Result<(), LogError> {
        loop {
            let Some(sequence) = self.sequences.get_mut(partition) else { return Ok(()) };
            let Some(Call { from, messages, marker }) = sequence.next(CALL_MESSAGES) else { return Ok(()) };
            let count = messages.len() as u64;
            let at = self.numbering.number(partition, &from, &messages, marker.as_deref()).await?;
            let Some(sequence) = self.sequences.get_mut(partition) else { return Ok(()) };
            let expected = match &marker {
                Some(marker) => RawName { marker: marker.clone(), count: 0 },
                None => RawName { marker: from.marker.clone(), count: from.count + count },
            };
            if at == expected {
                self.metrics.numbered(count);
            }
            if sequence.move_to(&at) == Place::Known {
                continue;
            }
            // The bus is at a place that this node has not heard of. Whoever has comes past it; if nobody does, what lies there
            // is lost, and everything goes on with the first marker that is known here.
            if !at.marker.is_empty() && !sequence.stuck(&at, PATIENCE) {
                return Ok(());
            }
            let Some(first) = sequence.first_marker() else { return Ok(()) };
            if !at.marker.is_empty() {
                tracing::warn!(%partition, "plain publications may be lost: nobody heard what came before this node did");
                self.metrics.skipped();
            }
            let moved = self.numbering.number(partition, &at, &[], Some(&first)).await?;
            sequence.move_to(&moved);
        }
    }
}

/// What a node is to a namespace: the nodes are ordered by a hash of their names and the namespace's, and the first two hear it.
fn role_of<'a>(namespace: &str, me: &NodeName, nodes: impl Iterator<Item = &'a NodeName>) -> Option<Role> {
    // Rendezvous hashing: when a node goes, only its own namespaces get another scribe, which was the understudy.
    let score = |node: &NodeName| {
        use std::hash::Hasher as _;
        let mut hasher = siphasher::sip::SipHasher13::new();
        hasher.write(node.as_str().as_bytes());
        hasher.write_u8(0);
        hasher.write(namespace.as_bytes());
        hasher.finish()
    };
    let own = score(me);
    let before = nodes.filter(|node| *node != me && (score(node), node.as_str()) > (own, me.as_str())).count();
    match before {
        0 => Some(Role::Scribe),
        1 => Some(Role::Understudy),
        _ => None,
    }
}
