//! "Is 42 online?", asked of all members, and the answers to those who ask this node.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use clarion_protocol::{
    NodeName, Uid,
    control::{self, Answer, Control},
};
use parking_lot::Mutex;
use serde::Serialize;
use tokio::sync::{Semaphore, mpsc};

use super::Shared;

/// Answers that may be on their way to the bus at once. Who gets none counts this node as silent.
const ANSWERS: usize = 256;

/// A user's connections, in the whole cluster.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Online {
    /// How many there are.
    pub connections: u64,
    /// Where they are: only nodes that have some, by name.
    pub nodes: Vec<(NodeName, u64)>,
    /// Some member did not answer in time, or this node is too new to know them all: there may be more.
    pub partial: bool,
}

/// The questions of this node that are open.
pub(super) struct Questions {
    next: AtomicU64,
    open: Mutex<HashMap<u64, mpsc::Sender<(NodeName, u64)>>>,
    answering: Arc<Semaphore>,
}

impl Default for Questions {
    fn default() -> Self {
        Self { next: AtomicU64::new(1), open: Mutex::default(), answering: Arc::new(Semaphore::new(ANSWERS)) }
    }
}

impl Questions {
    fn open(&self, members: usize) -> Question<'_> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let (sender, answers) = mpsc::channel(members.max(1));
        self.open.lock().insert(number, sender);
        Question { questions: self, number, answers }
    }

    /// Hands an answer to whoever asked. A late one, or more than there are members, is passed over.
    pub(super) fn answered(&self, answer: Answer) {
        let Answer::Online { request, node, connections } = answer;
        if let Some(asker) = self.open.lock().get(&request) {
            let _ = asker.try_send((node, connections));
        }
    }
}

#[cfg(test)]
impl Questions {
    pub(super) fn is_empty(&self) -> bool {
        self.open.lock().is_empty()
    }
}

/// Closed when dropped, answered or not.
struct Question<'a> {
    questions: &'a Questions,
    number: u64,
    answers: mpsc::Receiver<(NodeName, u64)>,
}

impl Drop for Question<'_> {
    fn drop(&mut self) {
        self.questions.open.lock().remove(&self.number);
    }
}

impl Shared {
    pub(super) async fn online(&self, user: &Uid) -> Online {
        let view = self.view.borrow().clone();
        let mut silent: BTreeSet<_> = view.peers.keys().filter(|name| **name != view.me).collect();
        let mut found = BTreeMap::from([(view.me.clone(), self.here.connections_of(user.as_str()) as u64)]);
        if !silent.is_empty() {
            let mut question = self.questions.open(silent.len() * 2);
            let asking = async {
                if let Err(error) = self.ask(user, question.number).await {
                    tracing::debug!(%error, "nobody can be asked who is online");
                    return;
                }
                while !silent.is_empty() {
                    let Some((node, connections)) = question.answers.recv().await else { return };
                    silent.remove(&node);
                    found.insert(node, connections);
                }
            };
            // What has been answered until then counts.
            let _ = tokio::time::timeout(self.config.online_timeout, asking).await;
        }
        let partial = !silent.is_empty() || !view.settled;
        let nodes: Vec<_> = found.into_iter().filter(|(_, connections)| *connections > 0).collect();
        Online { connections: nodes.iter().map(|(_, connections)| connections).sum(), nodes, partial }
    }

    async fn ask(&self, user: &Uid, request: u64) -> Result<(), clarion_bus::PublishError> {
        let (user, reply_to) = (user.as_str().to_owned(), self.instance.clone());
        self.say(control::subject(control::CONTROL), &Control::Online { user, reply_to, request }).await
    }

    /// Answers another node's question without holding up what else is heard.
    pub(super) fn answer(self: &Arc<Self>, user: &str, reply_to: &str, request: u64) {
        if reply_to == self.instance {
            return;
        }
        let Some(subject) = control::subject_of(reply_to) else {
            self.metrics.unreadable.inc();
            return;
        };
        let Ok(permit) = self.questions.answering.clone().try_acquire_owned() else {
            self.metrics.unanswered.inc();
            return;
        };
        let connections = self.here.connections_of(user) as u64;
        let (shared, node) = (self.clone(), self.me.node.clone());
        tokio::spawn(async move {
            let answer = Answer::Online { request, node, connections };
            if let Err(error) = shared.say(subject, &answer).await {
                tracing::debug!(%error, "an answer was not taken");
            }
            drop(permit);
        });
    }
}
