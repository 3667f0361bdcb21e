//! Who is in the cluster: heartbeats out and in, the ring that follows from them, and what nodes ask of each other.
//!
//! A node is in its own ring at once, so it serves whoever lands on it from the first moment. It listens before it speaks:
//! when the others hear of it, it knows them, and a name that is taken is found before its holder is disturbed.
//! The ring only makes routing cheap: whatever is decided here may be late or wrong, and every message still arrives.

mod disconnect;
mod listen;
mod metrics;
mod online;
mod roll;
mod speak;
mod view;

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use bytes::Bytes;
use clarion_bus::{Answers, BusHandle, PublishError, Reply};
use clarion_hub::{Hub, Notice};
use clarion_protocol::{
    CloseCode, InternalName, NodeName, Uid,
    control::{self, Answer, Control},
    limits,
};
use clarion_ring::MAX_WEIGHT;
use serde_json::Value;
use tokio::{
    sync::{Semaphore, watch},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

use crate::ingress::Internals;

pub use metrics::Metrics;
pub use online::Online;
pub use view::{Home, Peer, View};

/// How long leaving waits for its goodbye to be taken. Without it the others miss this node some seconds later.
const GOODBYE_TIMEOUT: Duration = Duration::from_secs(1);

/// Answers that may be on their way to the bus at once. Who gets none counts this node as silent.
const ANSWERS: usize = 256;

/// The `[members]` table. The times must be the same on all nodes.
#[derive(Debug, Clone, serde::Deserialize, serde::Serialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// How often a node says that it lives: cheap for a hundred nodes, and a death is noticed within seconds.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "Duration")]
    pub interval: Duration,
    /// How many heartbeats may be missed: one can be lost, and two be late.
    pub missed: u32,
    /// How long nobody is given up after this node could not hear: other nodes' links come back later than its own, by up
    /// to the bus's longest pause between two attempts and the time of one, 5 s each.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "Duration")]
    pub grace: Duration,
    /// How long `online` waits for answers: they take milliseconds, and somebody is waiting.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "Duration")]
    pub online_timeout: Duration,
    /// This node's share of the ring, 1 to 100, relative to the others'.
    pub weight: u16,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            interval: limits::HEARTBEAT_INTERVAL,
            missed: limits::HEARTBEATS_MISSED,
            grace: Duration::from_secs(10),
            online_timeout: limits::ONLINE_TIMEOUT,
            weight: 1,
        }
    }
}

impl Config {
    /// What is wrong with it: the key within the table and what is expected.
    #[must_use]
    pub fn problems(&self) -> Vec<(&'static str, String)> {
        let mut problems = Vec::new();
        if self.interval < Duration::from_millis(100) {
            problems.push(("interval", "must be at least 100ms; 1s is usual".to_owned()));
        }
        if self.missed < 2 {
            problems.push(("missed", "must be at least 2: one heartbeat can always be late".to_owned()));
        }
        if self.online_timeout.is_zero() {
            problems.push(("online_timeout", "must be longer than nothing".to_owned()));
        }
        if !(1..=MAX_WEIGHT).contains(&self.weight) {
            problems.push(("weight", format!("must be 1 to {MAX_WEIGHT}")));
        }
        problems
    }
}

/// Who this node is to the others.
#[derive(Debug, Clone)]
pub struct Me {
    /// Its name.
    pub node: NodeName,
    /// `host:port` at which other nodes reach it.
    pub advertise: Option<String>,
    /// The URL at which clients reach it.
    pub public_url: Option<String>,
    /// What the others judge its words about clients by.
    pub key: Option<String>,
}

/// What the others may ask about this node's own connections.
pub trait Here: Send + Sync + 'static {
    /// How many there are.
    fn connections(&self) -> usize;
    /// How many a user has.
    fn connections_of(&self, user: &str) -> usize;
    /// Closes those of a user.
    fn close_user(&self, user: &str);
    /// Tells those of a user what was read of the inbox.
    fn tell_read(&self, user: &str, read: &Value);
}

impl Here for Hub {
    fn connections(&self) -> usize {
        Hub::connections(self)
    }

    fn connections_of(&self, user: &str) -> usize {
        Hub::connections_of(self, user)
    }

    fn close_user(&self, user: &str) {
        Hub::close_user(self, user, CloseCode::Disconnected);
    }

    fn tell_read(&self, user: &str, read: &Value) {
        self.notify_user(user, &Notice { name: "read", data: read.to_string().into(), cursor: None });
    }
}

/// This node's membership. Dropping it ends it without a goodbye, as a crash would.
pub struct Members {
    shared: Arc<Shared>,
    _tasks: JoinSet<()>,
}

/// What the tasks share with the handle.
struct Shared {
    config: Config,
    me: Me,
    instance: String,
    bus: BusHandle,
    here: Arc<dyn Here>,
    metrics: Metrics,
    view: watch::Sender<Arc<View>>,
    failed: watch::Sender<Option<MembersError>>,
    disconnects: disconnect::Disconnects,
    answering: Arc<Semaphore>,
    /// Cancelled when this node wants to leave.
    leaving: CancellationToken,
    /// Cancelled when it has said so.
    said_goodbye: CancellationToken,
}

impl Members {
    /// Becomes a member as soon as the bus is connected. Returns at once, with a view of this node alone.
    ///
    /// `internals` is where the bus's sink puts the broker's own messages.
    #[must_use]
    pub fn start(
        config: Config,
        me: Me,
        bus: BusHandle,
        internals: Internals,
        here: Arc<dyn Here>,
        metrics: Metrics,
    ) -> Arc<Self> {
        let instance = uuid::Uuid::now_v7().to_string();
        let view = listen::alone(&me, &instance, &config);
        metrics.ring_members.set(1);
        let shared = Arc::new(Shared {
            config,
            me,
            instance,
            bus,
            here,
            metrics,
            view: watch::Sender::new(Arc::new(view)),
            failed: watch::Sender::new(None),
            disconnects: disconnect::Disconnects::default(),
            answering: Arc::new(Semaphore::new(ANSWERS)),
            leaving: CancellationToken::new(),
            said_goodbye: CancellationToken::new(),
        });
        let mut tasks = JoinSet::new();
        let ended = Ended(shared.clone());
        let life = run(shared.clone(), internals);
        tasks.spawn(async move {
            let _ended = ended;
            life.await;
        });
        Arc::new(Self { shared, _tasks: tasks })
    }

    /// The cluster as it is known now, the counts of connections included.
    #[must_use]
    pub fn view(&self) -> Arc<View> {
        self.shared.view.borrow().clone()
    }

    /// Each change of who is here, where, and in which ring. Counts alone wake nobody.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<Arc<View>> {
        self.shared.view.subscribe()
    }

    /// Names this process among all there ever were.
    #[must_use]
    pub fn instance(&self) -> &str {
        &self.shared.instance
    }

    /// Where a user or channel is at home; here when the ring is empty.
    #[must_use]
    pub fn home(&self, key: &str) -> Home {
        self.shared.view.borrow().home(key)
    }

    /// Counts a user's connection that landed here, as one at home or as a stray.
    pub fn arrived(&self, home: &Home) {
        match home {
            Home::Here => self.shared.metrics.at_home.inc(),
            Home::At(_) => self.shared.metrics.strays.inc(),
        }
    }

    /// How many connections a user has, asked of all members. Waits at most [`Config::online_timeout`]. Cancel safe.
    pub async fn online(&self, user: &Uid) -> Online {
        self.online_all(std::slice::from_ref(user), &mut BTreeSet::new()).await.pop().unwrap_or_default()
    }

    /// The same for many users, who are asked about together; an answer for each, in their order.
    ///
    /// Members among `silent` are not waited for, so their answers are partial; those that do not answer now are added to
    /// it. Whoever asks again and again waits for a silent member once.
    pub async fn online_all(&self, users: &[Uid], silent: &mut BTreeSet<NodeName>) -> Vec<Online> {
        self.shared.online(users, silent).await
    }

    /// Closes all connections of a user, on all nodes; those here are closed whatever the bus says. A node that does not
    /// hear of it now does so as soon as it hears this node's heartbeats again.
    ///
    /// Waits at most [`Config::online_timeout`]. Cancel safe: once called, the others are told even if nobody waits.
    ///
    /// # Errors
    /// When the others may not have heard of it.
    pub async fn disconnect(&self, user: &Uid) -> Result<Disconnected, PublishError> {
        self.shared.here.close_user(user.as_str());
        let (shared, user) = (self.shared.clone(), user.clone());
        let telling = tokio::spawn(async move { shared.disconnect(&user).await });
        telling.await.unwrap_or_else(|_| Err(PublishError::Unknown("telling the others was interrupted".to_owned())))
    }

    /// Tells all connections of a user what was read of the inbox, here and on the other nodes. Whoever does not hear of it
    /// now learns it from the mark when they come back, so nobody waits for answers. Cancel safe.
    pub async fn tell_read(&self, user: &Uid, read: Value) {
        let shared = &self.shared;
        shared.here.tell_read(user.as_str(), &read);
        let (user, instance) = (user.as_str().to_owned(), shared.instance.clone());
        let question = Control::Read { user, instance, read };
        if let Err(error) = shared.ask(&control::subject(control::CONTROL), &question, &BTreeSet::new()).await {
            tracing::debug!(%error, "the other nodes were not told what was read");
        }
    }

    /// Leaves the ring: says goodbye and no heartbeat after it. Questions are still answered. Returns when the bus has
    /// taken the goodbye, or after a second. Cancel safe.
    pub async fn leave(&self) {
        self.shared.leaving.cancel();
        let mut view = self.watch();
        let left = async {
            self.shared.said_goodbye.cancelled().await;
            // The sender lives as long as this handle, so waiting cannot fail.
            let _ = view.wait_for(|view| view.leaving).await;
        };
        if tokio::time::timeout(GOODBYE_TIMEOUT, left).await.is_err() {
            tracing::warn!("nobody took the goodbye; the other nodes will miss this one in a few seconds");
        }
    }

    /// Waits until this node cannot go on as a member, and says why. Never, if all is well. Cancel safe.
    pub async fn failed(&self) -> MembersError {
        let mut failed = self.shared.failed.subscribe();
        let error = failed.wait_for(Option::is_some).await.expect("the sender lives as long as this handle").clone();
        error.expect("waited for it")
    }
}

/// What became of closing a user's connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Disconnected {
    /// Some member did not say in time that it has done so, or this node is too new to know them all.
    pub partial: bool,
}

/// Says so when a member's task ends, by a panic as well, although the node has not left: it would be a member no more, and
/// the node would go on as if it were.
struct Ended(Arc<Shared>);

impl Drop for Ended {
    fn drop(&mut self) {
        if !self.0.leaving.is_cancelled() {
            self.0.failed.send_if_modified(|failed| {
                let first = failed.is_none();
                failed.get_or_insert(MembersError::Ended);
                first
            });
        }
    }
}

/// Why a node cannot be a member. It should exit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MembersError {
    /// Its own task has ended.
    #[error("the task that speaks with the other nodes ended")]
    Ended,
    /// Another process has the same name.
    #[error(
        "another node (process {instance}) is called `{node}` as well: give each a name of its own with --node or CLARION_NODE"
    )]
    NameTaken {
        /// The name.
        node: NodeName,
        /// The other process.
        instance: String,
    },
    /// The bus's server forbids the subjects on which nodes talk.
    #[error("the bus refuses the internal subject `{subject}`, which every node needs: {reason}")]
    Refused {
        /// Which one.
        subject: InternalName,
        /// What the server says.
        reason: String,
    },
}

impl Shared {
    /// Says something on an internal subject.
    async fn say(&self, subject: InternalName, what: &impl serde::Serialize) -> Result<(), PublishError> {
        let json = serde_json::to_vec(what).expect("control messages are plain data");
        self.bus.tell(&subject, json.into()).await
    }

    /// Asks nodes something, and waits as long as somebody who asked this one likes to wait.
    async fn ask(
        &self,
        subject: &InternalName,
        what: &Control,
        expected: &BTreeSet<NodeName>,
    ) -> Result<Answers, PublishError> {
        let json = serde_json::to_vec(what).expect("control messages are plain data");
        self.bus.ask(subject, json.into(), self.config.online_timeout, expected).await
    }

    fn read_answer(&self, answer: &Bytes) -> Option<Answer> {
        let read = serde_json::from_slice(answer);
        if read.is_err() {
            self.metrics.unreadable.inc();
        }
        read.ok()
    }

    /// Answers another node's question without holding up what else is heard.
    fn answer(self: &Arc<Self>, reply: Reply, answer: Answer) {
        let Ok(permit) = self.answering.clone().try_acquire_owned() else {
            self.metrics.unanswered.inc();
            return;
        };
        let shared = self.clone();
        tokio::spawn(async move {
            let json = serde_json::to_vec(&answer).expect("answers are plain data");
            if let Err(error) = shared.bus.answer(&reply, &shared.me.node, &json).await {
                tracing::debug!(%error, "an answer was not taken");
            }
            drop(permit);
        });
    }

    fn fail(&self, error: MembersError) {
        // The first reason is the one to show.
        self.failed.send_if_modified(|failed| {
            let first = failed.is_none();
            failed.get_or_insert(error);
            first
        });
    }
}

/// A member's life: first the ears, then the mouth.
async fn run(shared: Arc<Shared>, internals: Internals) {
    if let Err(error) = listen::subscribe(&shared).await {
        if let Some(error) = error {
            shared.fail(error);
        }
        return;
    }
    tokio::join!(listen::run(&shared, internals), speak::run(&shared));
}

#[cfg(test)]
mod tests;
