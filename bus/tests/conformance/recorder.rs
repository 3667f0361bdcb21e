//! A sink that remembers what it was given.

use std::collections::BTreeMap;

use async_trait::async_trait;
use clarion_bus::{Delivery, InterestId, Sink};
use clarion_protocol::{Address, MessageId, Position};
use parking_lot::Mutex;
use tokio::sync::watch;

use super::within;

/// One delivery, as tests look at it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Heard {
    pub(crate) interests: Vec<InterestId>,
    pub(crate) address: String,
    pub(crate) payload: Vec<u8>,
    pub(crate) id: Option<MessageId>,
    pub(crate) tags: BTreeMap<String, String>,
    /// Its place in the log, if it has one.
    pub(crate) position: Option<Position>,
    /// How many gaps there had been.
    pub(crate) after_gaps: usize,
}

#[derive(Debug)]
pub(crate) struct Recorder {
    all: Mutex<Vec<Heard>>,
    count: watch::Sender<usize>,
    gaps: watch::Sender<usize>,
    /// The interests of each gap.
    gap_of: Mutex<Vec<Vec<InterestId>>>,
    /// While this is false, nothing is taken.
    open: watch::Sender<bool>,
}

impl Default for Recorder {
    fn default() -> Self {
        Self {
            all: Mutex::default(),
            count: watch::Sender::new(0),
            gaps: watch::Sender::new(0),
            gap_of: Mutex::default(),
            open: watch::Sender::new(true),
        }
    }
}

impl Recorder {
    pub(crate) fn all(&self) -> Vec<Heard> {
        self.all.lock().clone()
    }

    pub(crate) fn texts(&self) -> Vec<String> {
        self.all.lock().iter().map(|one| String::from_utf8_lossy(&one.payload).into_owned()).collect()
    }

    /// The places of what was heard.
    pub(crate) fn positions(&self) -> Vec<Position> {
        self.all.lock().iter().map(|one| one.position.clone().expect("it is logged")).collect()
    }

    /// How many deliveries there are in `all`; what the watch says comes a moment later.
    pub(crate) fn count(&self) -> usize {
        self.all.lock().len()
    }

    pub(crate) fn gaps(&self) -> usize {
        *self.gaps.borrow()
    }

    /// The interests that each gap was of.
    pub(crate) fn gap_of(&self) -> Vec<Vec<InterestId>> {
        self.gap_of.lock().clone()
    }

    /// Waits until what was heard satisfies `check`.
    pub(crate) async fn wait(&self, check: impl Fn(&[Heard]) -> bool) {
        let mut count = self.count.subscribe();
        within("what was heard is as expected", count.wait_for(|_| check(&self.all.lock()))).await.unwrap();
    }

    /// Waits for so many deliveries in all.
    pub(crate) async fn wait_count(&self, expected: usize) {
        let mut count = self.count.subscribe();
        let what = format!("{expected} deliveries");
        within(&what, count.wait_for(|count| *count >= expected)).await.unwrap();
    }

    pub(crate) async fn wait_gaps(&self, expected: usize) {
        let mut gaps = self.gaps.subscribe();
        within("a gap", gaps.wait_for(|gaps| *gaps >= expected)).await.unwrap();
    }

    /// Takes nothing from now on, or goes on.
    pub(crate) fn open(&self, open: bool) {
        self.open.send_replace(open);
    }
}

#[async_trait]
impl Sink for Recorder {
    async fn deliver(&self, batch: &mut Vec<Delivery>) {
        let mut open = self.open.subscribe();
        open.wait_for(|open| *open).await.unwrap();
        let mut all = self.all.lock();
        let after_gaps = self.gaps();
        all.extend(batch.drain(..).map(|delivery| Heard {
            interests: delivery.interests.to_vec(),
            address: match &delivery.address {
                Address::Channel(channel) => channel.to_string(),
                Address::Internal(name) => format!("internal {name}"),
            },
            payload: delivery.message.payload.to_vec(),
            id: delivery.message.id.clone(),
            tags: delivery.message.meta.as_ref().map(|meta| meta.tags.clone()).unwrap_or_default(),
            position: delivery.message.meta.as_ref().and_then(|meta| meta.position.clone()),
            after_gaps,
        }));
        let heard = all.len();
        // Whoever waits looks at `all` from within the watch, so the one must be let go before the other is taken.
        drop(all);
        self.count.send_modify(|count| *count = heard.max(*count));
    }

    fn gap(&self, interests: &[InterestId]) {
        assert!(!interests.is_empty(), "a gap is of something");
        self.gap_of.lock().push(interests.to_vec());
        self.gaps.send_modify(|gaps| *gaps += 1);
    }
}
