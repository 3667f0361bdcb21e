//! A bus for tests that does what it is told, for what neither the bus in memory nor a real server does on request.

use std::{
    collections::{BTreeSet, VecDeque},
    sync::atomic::{AtomicU64, Ordering::SeqCst},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use clarion_bus::{Answers, Bus, InterestId, Link, ProbeError, PublishError, Receipt, Stats, SubscribeError, Topic};
use clarion_protocol::{InternalName, NodeName, Publication};
use parking_lot::Mutex;
use tokio::sync::{Semaphore, watch};

/// Takes everything at once unless it was told otherwise.
pub(crate) struct FakeBus {
    /// How many publishes go through; one that finds none waits.
    pub(crate) gate: Semaphore,
    pub(crate) published: Mutex<Vec<Publication>>,
    /// What to answer to probes, in order; then all are good.
    pub(crate) probes: Mutex<VecDeque<Result<Duration, ProbeError>>>,
    pub(crate) rebuilt: AtomicU64,
    pub(crate) refuses: Mutex<Option<String>>,
    /// Interests that never stand, by how they are written.
    pub(crate) never: Mutex<Option<String>>,
    pub(crate) given_back: Mutex<Vec<InterestId>>,
    pub(crate) closed: AtomicU64,
    pub(crate) link: watch::Sender<Link>,
    next: AtomicU64,
}

impl FakeBus {
    pub(crate) fn new() -> Self {
        Self {
            gate: Semaphore::new(1_000_000),
            published: Mutex::default(),
            probes: Mutex::default(),
            rebuilt: AtomicU64::new(0),
            refuses: Mutex::default(),
            never: Mutex::default(),
            given_back: Mutex::default(),
            closed: AtomicU64::new(0),
            link: watch::Sender::new(Link::Up),
            next: AtomicU64::new(0),
        }
    }
}

#[async_trait]
impl Bus for FakeBus {
    fn kind(&self) -> &'static str {
        "fake"
    }

    async fn subscribe(&self, topic: &Topic) -> Result<InterestId, SubscribeError> {
        let name = match topic {
            Topic::Channels(interest) => interest.to_string(),
            Topic::Internal(name) => name.to_string(),
        };
        if self.refuses.lock().as_deref() == Some(&*name) {
            return Err(SubscribeError::Refused(format!("no permission for {name}")));
        }
        let never = self.never.lock().as_deref() == Some(&*name);
        if never {
            std::future::pending::<()>().await;
        }
        Ok(InterestId(self.next.fetch_add(1, SeqCst)))
    }

    fn unsubscribe(&self, id: InterestId) {
        self.given_back.lock().push(id);
    }

    async fn publish(&self, mut publication: Publication) -> Result<Receipt, PublishError> {
        self.gate.acquire().await.unwrap().forget();
        if *self.link.borrow() != Link::Up {
            return Err(PublishError::NotTaken("the link is down".to_owned()));
        }
        let id = publication.identify();
        self.published.lock().push(publication);
        Ok(Receipt::unlogged(id))
    }

    async fn publish_all(&self, publications: Vec<Publication>) -> Vec<Result<Receipt, PublishError>> {
        let mut results = Vec::new();
        for publication in publications {
            results.push(self.publish(publication).await);
        }
        results
    }

    async fn tell(&self, subject: &InternalName, payload: Bytes) -> Result<(), PublishError> {
        self.publish(Publication::raw(subject.clone(), payload)).await.map(drop)
    }

    /// Nobody ever answers.
    async fn ask(
        &self,
        subject: &InternalName,
        payload: Bytes,
        timeout: Duration,
        expected: &BTreeSet<NodeName>,
    ) -> Result<Answers, PublishError> {
        self.tell(subject, payload).await?;
        tokio::time::sleep(timeout).await;
        Ok(Answers { silent: expected.clone(), ..Answers::default() })
    }

    async fn probe(&self, timeout: Duration) -> Result<Duration, ProbeError> {
        let result = self.probes.lock().pop_front().unwrap_or(Ok(Duration::from_millis(1)));
        let takes = result.unwrap_or(if result == Err(ProbeError::Late) { timeout } else { Duration::ZERO });
        tokio::time::sleep(takes).await;
        result
    }

    fn rebuild(&self) {
        self.rebuilt.fetch_add(1, SeqCst);
    }

    fn link(&self) -> watch::Receiver<Link> {
        self.link.subscribe()
    }

    fn stats(&self) -> Stats {
        let messages = self.published.lock().len() as u64;
        Stats { messages, interests: 7, ..Stats::default() }
    }

    async fn close(&self) {
        self.closed.fetch_add(1, SeqCst);
    }
}
