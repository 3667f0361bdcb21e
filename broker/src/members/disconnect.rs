//! Closing a user's connections on all nodes, also on one that cannot hear of it at that moment.
//!
//! A node numbers what it asks everybody for, and says the last number in its heartbeats. Whoever has been deaf, or lost a
//! single message, knows of fewer than it hears of, and asks that node for the rest. Nobody's clock matters for that.

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use clarion_bus::PublishError;
use clarion_protocol::{
    NodeName, Uid,
    control::{self, Answer, Control, Heartbeat},
};
use parking_lot::Mutex;
use tokio::time::Instant;

use super::{Disconnected, Shared};

/// How long a node remembers whom it had disconnected: whoever is cut off for longer is an operator's business.
const KEPT: Duration = Duration::from_secs(60 * 60);
/// How many it remembers.
const MOST: usize = 1_000;
/// How much of them goes into one answer, which must fit into a message of any bus; the next heartbeat fetches more.
const ANSWER_BYTES: usize = 16 * 1024;
/// Of how many processes it is known how far they were heard.
const INSTANCES: usize = 1_000;

/// What this node has asked for, and what it has heard of the others.
#[derive(Default)]
pub(super) struct Disconnects {
    own: Mutex<Own>,
    others: Mutex<HashMap<String, Heard>>,
}

#[derive(Default)]
struct Own {
    count: u64,
    kept: VecDeque<(String, Instant)>,
}

impl Own {
    /// Takes one; returns its number.
    fn add(&mut self, user: &str, now: Instant) -> u64 {
        self.count += 1;
        self.kept.push_back((user.to_owned(), now));
        while self.kept.len() > MOST || self.kept.front().is_some_and(|(_, at)| now - *at > KEPT) {
            self.kept.pop_front();
        }
        self.count
    }

    /// Those after a number, as many as go into an answer, and the first one's number.
    fn after(&self, number: u64) -> (u64, Vec<String>) {
        let oldest = self.count + 1 - self.kept.len() as u64;
        let first = oldest.max(number.saturating_add(1)).min(self.count + 1);
        let skip = usize::try_from(first - oldest).unwrap_or(usize::MAX);
        let mut bytes = 0;
        let fits = |user: &&String| {
            bytes += user.len() + 3;
            bytes <= ANSWER_BYTES
        };
        (first, self.kept.iter().skip(skip).map(|(user, _)| user).take_while(fits).cloned().collect())
    }
}

/// How far another process was heard.
#[derive(Debug)]
struct Heard {
    /// Nothing is missing up to here.
    upto: u64,
    /// What came before its predecessors did.
    beyond: BTreeSet<u64>,
    /// It is being asked for what is missing.
    asking: bool,
    last: Instant,
}

impl Heard {
    fn new(upto: u64, last: Instant) -> Self {
        Self { upto, beyond: BTreeSet::new(), asking: false, last }
    }

    /// Whether this is heard for the first time.
    fn take(&mut self, number: u64) -> bool {
        if number <= self.upto || !self.beyond.insert(number) {
            return false;
        }
        while self.beyond.remove(&(self.upto + 1)) {
            self.upto += 1;
        }
        true
    }
}

impl Shared {
    /// Closes a user's connections here and asks all others to.
    pub(super) async fn disconnect(&self, user: &Uid) -> Result<Disconnected, PublishError> {
        let number = self.disconnects.own.lock().add(user.as_str(), Instant::now());
        let view = self.view.borrow().clone();
        let (user, instance) = (user.as_str().to_owned(), self.instance.clone());
        let question = Control::Disconnect { user, instance, number };
        let answers = self.ask(&control::subject(control::CONTROL), &question, &view.others()).await?;
        Ok(Disconnected { partial: !answers.silent.is_empty() || !view.settled })
    }

    /// What another node asks everybody for. Whoever was never heard of before is believed: nothing is known to be missing.
    pub(super) fn told_to_disconnect(&self, user: &str, instance: &str, number: u64) {
        let mut others = self.disconnects.others.lock();
        let fresh = others.get_mut(instance).is_none_or(|heard| heard.take(number));
        drop(others);
        if fresh {
            self.here.close_user(user);
        }
    }

    /// What this node has asked for since.
    pub(super) fn disconnected_after(&self, number: u64) -> Answer {
        let (first, users) = self.disconnects.own.lock().after(number);
        Answer::Disconnected { first, users }
    }

    /// How many users this node has asked everybody to disconnect.
    pub(super) fn disconnects(&self) -> u64 {
        self.disconnects.own.lock().count
    }

    /// Sees by a heartbeat whether this node has missed any, and fetches them.
    ///
    /// The first heartbeat of a process says where to begin: what it had asked for before concerned connections
    /// that were there before this node heard anything, and this node had none.
    pub(super) fn compare_disconnects(self: &Arc<Self>, heartbeat: &Heartbeat) {
        let (instance, told, now) = (&heartbeat.instance, heartbeat.disconnects, Instant::now());
        let mut others = self.disconnects.others.lock();
        if let Some(heard) = others.get_mut(instance) {
            heard.last = now;
            let (missing, upto) = (told > heard.upto && !heard.asking, heard.upto);
            heard.asking |= missing;
            drop(others);
            if missing {
                let (shared, instance, node) = (self.clone(), instance.clone(), heartbeat.node.clone());
                tokio::spawn(async move { shared.fetch(instance, node, upto).await });
            }
            return;
        }
        if others.len() >= INSTANCES {
            let oldest = others.iter().min_by_key(|(_, heard)| heard.last).map(|(instance, _)| instance.clone());
            oldest.and_then(|oldest| others.remove(&oldest));
        }
        others.insert(instance.clone(), Heard::new(told, now));
    }

    async fn fetch(&self, instance: String, node: NodeName, after: u64) {
        let answer = self.missed_of(&instance, node.clone(), after).await;
        let mut others = self.disconnects.others.lock();
        let Some(heard) = others.get_mut(&instance) else { return };
        heard.asking = false;
        // Without an answer the next heartbeat asks again.
        let Some(Answer::Disconnected { first, users }) = answer else { return };
        // What was forgotten cannot be had any more.
        heard.upto = heard.upto.max(first.saturating_sub(1));
        let fresh: Vec<_> =
            (first..).zip(users).filter(|(number, _)| heard.take(*number)).map(|(_, user)| user).collect();
        drop(others);
        if !fresh.is_empty() {
            tracing::info!(%node, users = fresh.len(), "another node had disconnected users while this one could not hear it");
        }
        fresh.iter().for_each(|user| self.here.close_user(user));
    }

    async fn missed_of(&self, instance: &str, node: NodeName, after: u64) -> Option<Answer> {
        let subject = control::subject_of(instance)?;
        let answers = self.ask(&subject, &Control::Disconnected { after }, &[node.clone()].into()).await.ok()?;
        self.read_answer(answers.given.get(&node)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_taken_once_in_any_order() {
        let mut heard = Heard::new(4, Instant::now());
        assert_eq!([4, 6, 5, 6, 5, 8].map(|number| heard.take(number)), [false, true, true, false, false, true]);
        assert_eq!((heard.upto, heard.beyond.len()), (6, 1));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_remembered_is_bounded() {
        let mut own = Own::default();
        assert_eq!(own.after(0), (1, vec![]));
        for number in 1..=MOST as u64 + 5 {
            assert_eq!(own.add(&format!("{number}"), Instant::now()), number);
        }
        assert_eq!(own.after(1_003), (1_004, vec!["1004".to_owned(), "1005".to_owned()]));
        assert_eq!(own.after(0).0, 6, "the first five are forgotten");
        for nothing in [1_005, 9_999, u64::MAX] {
            assert_eq!(own.after(nothing), (1_006, vec![]));
        }
        tokio::time::advance(KEPT * 2).await;
        own.add(&"x".repeat(ANSWER_BYTES / 2), Instant::now());
        own.add(&"y".repeat(ANSWER_BYTES / 2), Instant::now());
        let (first, users) = own.after(0);
        assert_eq!((first, users.len()), (1_006, 1), "more does not go into one answer");
    }
}
