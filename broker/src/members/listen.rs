//! A member's ears: heartbeats into the roll, the roll into a ring, the ring into the view; and what is to be done or answered.

use std::{collections::BTreeMap, sync::Arc};

use clarion_bus::{Link, Question, SubscribeError, Topic};
use clarion_protocol::{
    InternalName, NodeName,
    control::{self, Answer, Control, Heartbeat},
};
use clarion_ring::{Member, Ring};
use serde::de::DeserializeOwned;
use tokio::time::{self, Instant, MissedTickBehavior};

use super::{
    Config, Me, MembersError, Shared,
    roll::{Heard, Patience, Roll},
    view::{Peer, View},
};
use crate::ingress::{Internal, Internals};

/// How many messages are taken at once before the ring is judged anew: a cluster that starts makes one ring, not a hundred.
const BATCH: usize = 256;

/// The view of a node that knows nobody yet.
pub(super) fn alone(me: &Me, instance: &str, config: &Config) -> View {
    let mut peer = peer_of(me, instance, config);
    let ring = make([peer.member()]).expect("a ring of one member with a checked weight");
    peer.ring = ring.identity().to_string();
    View {
        me: me.node.clone(),
        ring: Arc::new(ring),
        peers: BTreeMap::from([(me.node.clone(), Arc::new(peer))]),
        settled: false,
        leaving: false,
    }
}

/// Waits until this node hears what nodes say. `Err(None)` is a bus that was closed.
pub(super) async fn subscribe(shared: &Shared) -> Result<(), Option<MembersError>> {
    let own = control::subject_of(&shared.instance).expect("a UUID is a valid token");
    for subject in [control::subject(control::MEMBERS), control::subject(control::CONTROL), own] {
        loop {
            match shared.bus.subscribe(&Topic::Internal(subject.clone())).await {
                Ok(_) => break,
                Err(SubscribeError::Refused(reason)) => return Err(Some(MembersError::Refused { subject, reason })),
                Err(SubscribeError::NotNow(reason)) => {
                    tracing::warn!(%subject, reason, "the bus does not take what nodes hear each other by; trying again");
                    time::sleep(shared.config.interval).await;
                }
                Err(SubscribeError::Closed) => return Err(None),
            }
        }
    }
    Ok(())
}

/// Listens until the bus is gone.
pub(super) async fn run(shared: &Arc<Shared>, mut internals: Internals) {
    let mut ears = Ears::new(shared.clone());
    let mut batch = Vec::new();
    let mut ticks = time::interval(shared.config.interval / 2);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            count = internals.recv_many(&mut batch, BATCH) => {
                if count == 0 {
                    return;
                }
                // What members count waits for the next tick: a view is of all of them, and a hundred speak every second.
                let mut told = false;
                batch.drain(..).for_each(|message| told |= ears.hear(&message));
                if !told {
                    continue;
                }
            }
            () = shared.leaving.cancelled(), if !ears.leaving => ears.leaving = true,
            _ = ticks.tick() => {
                // After a pause of this process what was said meanwhile is heard before anybody is missed.
                while let Ok(message) = internals.try_recv() {
                    ears.hear(&message);
                }
                ears.sweep();
            }
        }
        ears.show().await;
    }
}

struct Ears {
    shared: Arc<Shared>,
    roll: Roll,
    listening_since: Instant,
    settled: bool,
    leaving: bool,
    ring: Arc<Ring>,
    /// Those who were last said to see another ring.
    disagreeing: BTreeMap<NodeName, String>,
}

impl Ears {
    fn new(shared: Arc<Shared>) -> Self {
        let (interval, now) = (shared.config.interval, Instant::now());
        let patience = Patience {
            // Half an interval on top: the last of those that may be missed can itself be a little late.
            gone: interval * shared.config.missed + interval / 2,
            deaf: interval * shared.config.missed - interval / 2,
            grace: shared.config.grace,
            disagree: interval * 5,
        };
        let roll = Roll::new(shared.me.node.clone(), shared.instance.clone(), patience, now);
        let ring = shared.view.borrow().ring.clone();
        let disagreeing = BTreeMap::new();
        Self { shared, roll, listening_since: now, settled: false, leaving: false, ring, disagreeing }
    }

    /// Takes a message; whether it changes who is here, or where.
    fn hear(&mut self, message: &Internal) -> bool {
        match message.name.as_str() {
            control::MEMBERS => {
                let heartbeat = self.read::<Heartbeat>(&message.name, &message.payload);
                return heartbeat.is_some_and(|heartbeat| self.heartbeat(heartbeat));
            }
            // What all are asked, or this node alone.
            _ => match Question::read(&message.payload) {
                Some(question) => self.asked(&message.name, question),
                None => self.unreadable(&message.name, &"it is no question"),
            },
        }
        false
    }

    /// Does and answers what another node asks. What this node asks itself it has done already.
    fn asked(&self, subject: &InternalName, question: Question) {
        let shared = &self.shared;
        let answer = match self.read(subject, &question.payload) {
            Some(
                Control::Disconnect { instance, .. }
                | Control::Online { instance, .. }
                | Control::Read { instance, .. },
            ) if instance == shared.instance => {
                return;
            }
            Some(Control::Disconnect { user, instance, number }) => {
                shared.told_to_disconnect(&user, &instance, number);
                Answer::Done
            }
            Some(Control::Disconnected { after }) => shared.disconnected_after(after),
            Some(Control::Online { users, .. }) => {
                Answer::Online { connections: shared.connections_of(users.iter().map(String::as_str)) }
            }
            Some(Control::Read { user, read, .. }) => {
                shared.here.tell_read(&user, &read);
                Answer::Done
            }
            None => return,
        };
        shared.answer(question.reply, answer);
    }

    fn read<T: DeserializeOwned>(&self, subject: &InternalName, json: &[u8]) -> Option<T> {
        serde_json::from_slice(json).inspect_err(|error| self.unreadable(subject, error)).ok()
    }

    fn unreadable(&self, subject: &InternalName, why: &dyn std::fmt::Display) {
        self.shared.metrics.unreadable.inc();
        tracing::debug!(why = %why, %subject, "a message of another node cannot be read");
    }

    /// Whether a member came, moved or left.
    fn heartbeat(&mut self, heartbeat: Heartbeat) -> bool {
        let node = heartbeat.node.clone();
        if heartbeat.instance != self.shared.instance {
            self.shared.compare_disconnects(&heartbeat);
        }
        let heard = self.roll.hear(heartbeat, Instant::now());
        let told = matches!(heard, Heard::Joined | Heard::Left);
        match heard {
            Heard::Known => {}
            Heard::Joined => tracing::info!(%node, "a node is here"),
            Heard::Left => tracing::info!(%node, "a node left"),
            Heard::Unreadable => self.shared.metrics.unreadable.inc(),
            // Whoever takes the name of a node that is leaving disturbs nobody.
            Heard::Clash { .. } if self.leaving => {}
            Heard::Clash { instance } => self.shared.fail(MembersError::NameTaken { node, instance }),
        }
        told
    }

    fn sweep(&mut self) {
        let now = Instant::now();
        let linked = *self.shared.bus.link().borrow() == Link::Up;
        for node in self.roll.sweep(linked, now) {
            tracing::warn!(%node, "a node is silent and counts as gone");
        }
        // Whether anybody was heard says nothing here: a node alone hears nobody before it speaks itself.
        if !linked {
            self.listening_since = now;
        }
        // One heartbeat of everybody who lives, and half an interval for it to be late.
        self.settled |= now - self.listening_since >= self.shared.config.interval * 3 / 2;
        if !self.roll.deaf() && !self.leaving {
            self.compare(now);
        }
    }

    /// Sees whether the others see the same ring.
    fn compare(&mut self, now: Instant) {
        let mine = self.ring.identity().to_string();
        let disagreeing = self.roll.disagreeing(&mine, now);
        if disagreeing == self.disagreeing {
            return;
        }
        let metrics = &self.shared.metrics;
        metrics.disagreeing.set(i64::try_from(disagreeing.len()).unwrap_or(i64::MAX));
        if disagreeing.is_empty() {
            tracing::info!(ring = mine, "all members see the same ring again");
        } else {
            metrics.disagreements.inc();
            tracing::warn!(ring = mine, others = ?disagreeing, "some members have been seeing another ring for seconds");
        }
        self.disagreeing = disagreeing;
    }

    /// Makes the view of what was heard. Who watches it is woken only by what matters to him.
    async fn show(&mut self) {
        let mut me = peer_of(&self.shared.me, &self.shared.instance, &self.shared.config);
        me.connections = self.shared.here.connections() as u64;
        let others = self.roll.others();
        self.follow(others.map(|peer| peer.member()).chain((!self.leaving).then(|| me.member())).collect()).await;
        me.ring = self.ring.identity().to_string();
        let all = self.roll.others().cloned().chain([Arc::new(me)]);
        let view = Arc::new(View {
            me: self.shared.me.node.clone(),
            ring: self.ring.clone(),
            peers: all.map(|peer| (peer.node.clone(), peer)).collect(),
            settled: self.settled,
            leaving: self.leaving,
        });
        self.shared.view.send_if_modified(|shown| {
            let differs = view.differs(shown);
            *shown = view;
            differs
        });
    }

    /// Makes a new ring when the set of members is another one, away from the async threads: it takes milliseconds.
    async fn follow(&mut self, mut members: Vec<Member>) {
        members.sort_by(|one, two| one.name.cmp(&two.name));
        if self.ring.members() == members {
            return;
        }
        let made = tokio::task::spawn_blocking(move || make(members)).await.unwrap_or(None);
        let Some(ring) = made else { return };
        tracing::info!(members = ring.members().len(), ring = %ring.identity(), "the ring changed");
        self.shared.metrics.ring_changes.inc();
        self.shared.metrics.ring_members.set(i64::try_from(ring.members().len()).unwrap_or(i64::MAX));
        self.ring = Arc::new(ring);
    }
}

/// A ring, or the reason in the log why these make none; then the one before stays.
fn make(members: impl IntoIterator<Item = Member>) -> Option<Ring> {
    Ring::new(members).inspect_err(|error| tracing::error!(%error, "these members make no ring")).ok()
}

fn peer_of(me: &Me, instance: &str, config: &Config) -> Peer {
    Peer {
        node: me.node.clone(),
        instance: instance.to_owned(),
        advertise: me.advertise.clone(),
        public_url: me.public_url.clone(),
        key: me.key.clone(),
        weight: config.weight,
        ring: String::new(),
        connections: 0,
        version: env!("CARGO_PKG_VERSION").to_owned(),
    }
}
