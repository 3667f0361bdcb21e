//! Drives the bus: interest on the way down, publications on the way up, and what the bus delivers into the hub.
//!
//! Knows nothing of doors or of who may do what; whoever calls has asked already. It never keeps a message: what the bus
//! does not take now is refused now.

mod deliverer;
#[cfg(test)]
pub(crate) mod fake_bus;
mod metrics;
mod raw;
pub mod recovery;
mod returns;

use std::{sync::Arc, time::Duration};

use clarion_bus::{BusHandle, Link, LogError, PublishError, Receipt, StoreHandle, SubscribeError, Topic};
use clarion_hub::InterestLease;
use clarion_protocol::{Address, Interest, Publication, limits};
use futures_util::future;
use tokio::sync::watch;
use tokio_util::task::TaskTracker;

pub use deliverer::{Deliverer, Internal, Internals};
pub use metrics::{Metrics, Via};
pub use raw::{Heard, MARKERS, RawQueue};
pub use recovery::Recovery;
pub use returns::Returns;

/// The `[ingress]` table.
#[derive(Debug, Clone, serde::Deserialize, serde::Serialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// How long a new connection waits for its interests to stand: a bus answers within milliseconds, so this is what
    /// a reconnecting one may take before the client is better off being told to come back; half of the handshake's time.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "Duration")]
    pub subscribe_timeout: Duration,
    /// The largest payload that may be published, set from the broker's own limit.
    #[serde(skip)]
    pub max_payload: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self { subscribe_timeout: limits::HANDSHAKE_TIMEOUT / 2, max_payload: limits::PAYLOAD_BYTES }
    }
}

impl Config {
    /// What is wrong with it: the key within the table and what is expected.
    #[must_use]
    pub fn problems(&self) -> Vec<(&'static str, String)> {
        let zero = self.subscribe_timeout.is_zero();
        zero.then(|| ("subscribe_timeout", "must be longer than nothing; 5s is usual".to_owned())).into_iter().collect()
    }
}

/// The broker's side of the bus. Shared by the doors, which ask for interest, and by all ways in, which publish.
pub struct Ingress {
    bus: BusHandle,
    config: Config,
    metrics: Metrics,
    /// Where interests go back to that are not needed.
    returns: Arc<Returns>,
    /// The same for what is not followed yet.
    bus_only: Arc<Returns>,
    /// Follows logged interests, where something is logged.
    recovery: Option<Arc<Recovery>>,
    /// Publications on their way. Closing waits for them.
    publishing: TaskTracker,
}

impl Ingress {
    /// Wraps a bus that was started with a [`Deliverer`], and shows the bus's own counters in `registry`.
    ///
    /// # Errors
    /// When the registry knows a metric of one of these names already.
    pub fn new(
        bus: BusHandle,
        config: Config,
        recovery: Option<Arc<Recovery>>,
        metrics: &Metrics,
        registry: &prometheus::Registry,
    ) -> Result<Arc<Self>, prometheus::Error> {
        metrics::show_bus(&bus, registry)?;
        let returns = Arc::<Returns>::default();
        returns.wire(&bus);
        if let Some(recovery) = &recovery {
            recovery.wire(&bus);
            returns.wire_recovery(recovery);
        }
        let bus_only = Arc::<Returns>::default();
        bus_only.wire(&bus);
        let (metrics, publishing) = (metrics.clone(), TaskTracker::new());
        Ok(Arc::new(Self { bus, config, metrics, returns, bus_only, recovery, publishing }))
    }

    /// The logs, where something is logged.
    #[must_use]
    pub fn recovery(&self) -> Option<&Arc<Recovery>> {
        self.recovery.as_ref()
    }

    /// The records beside the logs, where something is logged.
    #[must_use]
    pub fn store(&self) -> Option<StoreHandle> {
        self.bus.store()
    }

    /// Asks the bus for interests and returns when all of them stand, or gives back those that do and says why not.
    ///
    /// Waits at most [`Config::subscribe_timeout`]. Cancel safe: a dropped call leaves no reference.
    ///
    /// # Errors
    /// [`AcquireError`].
    pub async fn acquire(&self, interests: &[Interest]) -> Result<Vec<InterestLease>, AcquireError> {
        let all = future::try_join_all(interests.iter().map(|interest| self.hold(interest)));
        let result = tokio::time::timeout(self.config.subscribe_timeout, all).await;
        let result = result.unwrap_or(Err(AcquireError::Unavailable));
        self.metrics.acquired(&result);
        result
    }

    /// Publishes one message and returns when the bus has taken it, counted by the way it came.
    ///
    /// Cancel safe in that the message is published whole or refused even if nobody waits for the result any more.
    ///
    /// # Errors
    /// [`PublishError`] tells whether the bus may have taken it.
    pub async fn publish(&self, via: Via, publication: Publication) -> Result<Receipt, PublishError> {
        if let Err(refused) = self.check(&publication) {
            let result = Err(refused);
            self.metrics.published(via, &result);
            return result;
        }
        let (bus, metrics) = (self.bus.clone(), self.metrics.clone());
        let publishing = self.see_through(async move {
            let address = said(&publication);
            let result = bus.publish(publication).await;
            metrics.published(via, &result);
            note(address.as_ref(), &result);
            result
        });
        publishing.await.unwrap_or_else(|| Err(lost()))
    }

    /// Publishes many, in order per channel; a result for each, in their order. Those that break a rule do not stop the others.
    ///
    /// Cancel safe as [`Ingress::publish`] is.
    pub async fn publish_all(&self, via: Via, publications: Vec<Publication>) -> Vec<Result<Receipt, PublishError>> {
        let (mut refused, mut good) = (Vec::with_capacity(publications.len()), Vec::with_capacity(publications.len()));
        for publication in publications {
            match self.check(&publication) {
                Ok(()) => {
                    good.push(publication);
                    refused.push(None);
                }
                Err(error) => {
                    let result = Err(error);
                    self.metrics.published(via, &result);
                    refused.push(Some(result));
                }
            }
        }
        let mut answers = self.publish_good(via, good).await.into_iter();
        let fill = |refused: Option<_>| refused.or_else(|| answers.next()).unwrap_or_else(|| Err(lost()));
        refused.into_iter().map(fill).collect()
    }

    async fn publish_good(&self, via: Via, good: Vec<Publication>) -> Vec<Result<Receipt, PublishError>> {
        if good.is_empty() {
            return Vec::new();
        }
        let (bus, metrics) = (self.bus.clone(), self.metrics.clone());
        let publishing = self.see_through(async move {
            let addresses: Vec<_> = good.iter().map(said).collect();
            let answers = bus.publish_all(good).await;
            for (address, answer) in addresses.iter().zip(&answers) {
                metrics.published(via, answer);
                note(address.as_ref(), answer);
            }
            answers
        });
        publishing.await.unwrap_or_default()
    }

    /// Does what must be done to its end, even if whoever asked goes away; closing waits for it. `None` when it broke off.
    ///
    /// It gets a task of its own only where it has to wait: a bus in memory has taken a message at once.
    async fn see_through<T: Send + 'static>(&self, work: impl Future<Output = T> + Send + 'static) -> Option<T> {
        let mut work = Box::pin(self.publishing.track_future(work));
        match future::poll_immediate(&mut work).await {
            Some(done) => Some(done),
            None => tokio::spawn(work).await.ok(),
        }
    }

    /// Whether the bus is connected, and each change of it.
    #[must_use]
    pub fn link(&self) -> watch::Receiver<Link> {
        self.bus.link()
    }

    /// `memory`, `redis` or `nats`.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        self.bus.kind()
    }

    /// Waits for the publications on their way and closes the bus; what is published later is refused.
    pub async fn close(&self) {
        self.publishing.close();
        self.publishing.wait().await;
        self.bus.close().await;
    }

    /// What must hold before the bus is asked. Channels are never reserved ones, by their type.
    fn check(&self, publication: &Publication) -> Result<(), PublishError> {
        let (bytes, limit) = (publication.message.payload.len(), self.config.max_payload);
        match &publication.address {
            Address::Internal(name) => Err(PublishError::Refused(format!("`{name}` is the broker's own"))),
            Address::Channel(_) if bytes > limit => Err(PublishError::TooLarge { bytes, limit }),
            Address::Channel(_) => Ok(()),
        }
    }

    async fn hold(&self, interest: &Interest) -> Result<InterestLease, AcquireError> {
        let id = self.bus.subscribe(&Topic::Channels(interest.clone())).await?;
        let Some(recovery) = &self.recovery else { return Ok(InterestLease::new(id, self.returns.clone())) };
        // Until it is followed, the reference goes back to the bus alone.
        let unfollowed = InterestLease::new(id, self.bus_only.clone());
        recovery.follow(id, interest).await?;
        Ok(unfollowed.returned_to(self.returns.clone()))
    }
}

/// What nobody can know when a publishing task ended without a word.
fn lost() -> PublishError {
    PublishError::Unknown("publishing was interrupted".to_owned())
}

/// Where a message goes, when that is to be logged.
fn said(publication: &Publication) -> Option<Address> {
    tracing::enabled!(tracing::Level::DEBUG).then(|| publication.address.clone())
}

/// Logs the id that a publisher is told: the nodes that get the message log the same.
fn note(address: Option<&Address>, result: &Result<Receipt, PublishError>) {
    if let (Some(Address::Channel(channel)), Ok(receipt)) = (address, result) {
        tracing::debug!(id = %receipt.id, %channel, "a message was published");
    }
}

/// Why interests do not stand.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AcquireError {
    /// The bus never will, and why: this kind of bus has no such thing, or its server forbids it.
    #[error("{0}")]
    Refused(String),
    /// Not now, and why: the bus's server has too much, or is not ready.
    #[error("{0}")]
    NotNow(String),
    /// Not now: the bus is not connected or did not answer in time.
    #[error("the bus is not available")]
    Unavailable,
}

impl From<LogError> for AcquireError {
    fn from(error: LogError) -> Self {
        match error {
            LogError::Refused(reason) => Self::Refused(reason),
            LogError::NotNow(reason) => Self::NotNow(reason),
        }
    }
}

impl From<SubscribeError> for AcquireError {
    fn from(error: SubscribeError) -> Self {
        match error {
            SubscribeError::Refused(reason) => Self::Refused(reason),
            SubscribeError::NotNow(reason) => Self::NotNow(reason),
            SubscribeError::Closed => Self::Unavailable,
        }
    }
}

#[cfg(test)]
mod tests;
