//! Leaving in order and losing nobody: what happens between the signal and the exit.
//!
//! Readiness red, out of the ring, wait for the load balancer, stop accepting, close connections in paced batches while
//! messages still flow, flush what is pending, give the interest up, close the bus. Each step is bounded, so that the whole ends
//! before its deadline even if the bus is dead and every client is slow.

mod node;

use std::time::Duration;

use async_trait::async_trait;
use clarion_protocol::limits;
use prometheus::{IntGauge, Registry};
use tokio::time::{self, Instant};

pub use node::Node;

/// What load balancers get to notice, unless it is set.
const WAIT: Duration = Duration::from_secs(5);
/// The pause between two batches: short enough that a batch is a small part of all, long enough to be no busy loop.
const BATCH_PAUSE: Duration = Duration::from_millis(100);
/// The smallest batch: 200 reconnects a second disturb nobody, and a node with few connections need not linger.
const BATCH_MIN: usize = 20;
/// What the bus may take to be told goodbye, at the beginning for the ring and at the end for good.
const BUS_TIME: Duration = Duration::from_secs(1);
/// When no connection went for so long although many were asked to, those left are dead or hopelessly slow: the exit does
/// not wait for them to the last second, since every node has a few. Longer than the hub's own wait for a client's goodbye.
const STALLED: Duration = Duration::from_secs(6);
/// What the last clients get to take what is pending for them after the last batch.
const FLUSH_TIME: Duration = Duration::from_secs(2);

/// The `[drain]` table.
#[derive(Debug, Clone, serde::Deserialize, serde::Serialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// From readiness red to the last accept: load balancers look every few seconds and then need a moment to be told. 5
    /// seconds unless it is set, and nothing in development mode on loopback, where nobody balances.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "Option<Duration>")]
    pub wait: Option<Duration>,
    /// Over how long connections are closed, so that the other nodes take them in one by one. As long as the deadline
    /// leaves, unless it is set; a node with few connections takes less.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "Option<Duration>")]
    pub close_over: Option<Duration>,
    /// From the signal to the exit: what Kubernetes grants before it kills.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "Duration")]
    pub deadline: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self { wait: None, close_over: None, deadline: limits::DRAIN_TIMEOUT }
    }
}

impl Config {
    /// What is wrong with it: the key within the table and what is expected.
    #[must_use]
    pub fn problems(&self) -> Vec<(&'static str, String)> {
        let (wait, deadline) = (humantime::format_duration(self.waiting()), humantime::format_duration(self.deadline));
        let fixed = humantime::format_duration(ends());
        match (self.deadline.checked_sub(self.waiting() + ends()), self.close_over) {
            (None, _) => {
                vec![("wait", format!("{wait} and {fixed} for goodbyes do not fit the deadline of {deadline}"))]
            }
            (Some(rest), Some(close_over)) if close_over > rest => {
                let rest = humantime::format_duration(rest);
                vec![("close_over", format!("must be at most {rest}, what wait and goodbyes leave of {deadline}"))]
            }
            (Some(_), _) => Vec::new(),
        }
    }

    /// How long load balancers are waited for.
    fn waiting(&self) -> Duration {
        self.wait.unwrap_or(WAIT)
    }

    /// Over how long connections are closed.
    fn closing(&self) -> Duration {
        let rest = self.deadline.saturating_sub(self.waiting() + ends());
        self.close_over.map_or(rest, |close_over| close_over.min(rest))
    }
}

/// What is kept of the deadline for the steps that have no time of their own.
fn ends() -> Duration {
    BUS_TIME + FLUSH_TIME + BUS_TIME
}

/// What a node does at each step. [`Node`] is the real one.
#[async_trait]
pub trait Steps: Send + Sync {
    /// Tells load balancers to send nobody any more.
    fn unready(&self);
    /// Says goodbye to the other nodes: nobody is at home here any more.
    async fn leave_ring(&self);
    /// Takes no new connection.
    async fn stop_accepting(&self);
    /// How many connections are still here.
    fn connections(&self) -> usize;
    /// Begins to close about so many, each after what is pending for it.
    fn close_some(&self, count: usize);
    /// Writes what can be written until `until`, and closes what is left.
    async fn flush(&self, until: Instant);
    /// Gives up all interest and closes the bus.
    async fn close_bus(&self);
}

/// What leaving shows of itself. The hub counts the closes by their code.
#[derive(Clone)]
pub struct Metrics {
    draining: IntGauge,
}

impl Metrics {
    /// Registers them.
    ///
    /// # Errors
    /// When the registry knows this name already.
    pub fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let draining = IntGauge::new("clarion_draining", "1 while this node is leaving.")?;
        registry.register(Box::new(draining.clone()))?;
        Ok(Self { draining })
    }
}

/// What came of leaving.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Left {
    /// How long it took.
    pub took: Duration,
    /// Connections that had not taken all that was pending for them when their time was over.
    pub cut: usize,
}

/// Leaves. `since` is when the signal came; it ends before `since` + [`Config::deadline`] whatever the steps do.
///
/// Not cancel safe: a node that has begun to leave is good for nothing else.
pub async fn run(config: &Config, steps: &impl Steps, metrics: &Metrics, since: Instant) -> Left {
    let deadline = since + config.deadline;
    metrics.draining.set(1);
    steps.unready();
    bounded("leave the ring", BUS_TIME, steps.leave_ring()).await;
    tracing::info!(wait = ?config.waiting(), connections = steps.connections(), "left the ring; waiting for the load balancer");
    time::sleep(config.waiting()).await;
    bounded("stop accepting", BUS_TIME, steps.stop_accepting()).await;
    // Reckoned back from the deadline, whatever the steps before it took.
    let until = (Instant::now() + config.closing()).min(deadline - BUS_TIME - FLUSH_TIME);
    close(steps, until).await;
    let cut = flush(steps, deadline - BUS_TIME).await;
    bounded("close the bus", deadline.saturating_duration_since(Instant::now()), steps.close_bus()).await;
    let left = Left { took: since.elapsed(), cut };
    tracing::info!(took = ?left.took, cut, "left");
    left
}

/// Closes connections evenly until `until`. Returns when none is left, or when those left do not move.
async fn close(steps: &impl Steps, until: Instant) {
    let mut fewest = (usize::MAX, Instant::now());
    loop {
        // One that was asked to go is still here until it has taken what was pending for it.
        let here = steps.connections();
        if here < fewest.0 {
            fewest = (here, Instant::now());
        }
        let rest = until.saturating_duration_since(Instant::now());
        if here == 0 || rest.is_zero() || fewest.1.elapsed() >= STALLED {
            return;
        }
        let turns = usize::try_from(rest.as_millis() / BATCH_PAUSE.as_millis()).unwrap_or(usize::MAX).max(1);
        steps.close_some(here.div_ceil(turns).max(BATCH_MIN).min(here));
        time::sleep(BATCH_PAUSE.min(rest)).await;
    }
}

/// Asks all that are left, and gives them a last moment. Returns how many were cut off.
async fn flush(steps: &impl Steps, until: Instant) -> usize {
    steps.close_some(steps.connections());
    let moment = until.min(Instant::now() + FLUSH_TIME);
    while steps.connections() > 0 && Instant::now() < moment {
        time::sleep(BATCH_PAUSE.min(moment - Instant::now())).await;
    }
    let cut = steps.connections();
    bounded("flush", until.saturating_duration_since(Instant::now()), steps.flush(moment)).await;
    cut
}

/// Goes on after `limit` even if a step does not end.
async fn bounded(step: &'static str, limit: Duration, future: impl Future<Output = ()>) {
    if time::timeout(limit, future).await.is_err() {
        tracing::warn!(step, ?limit, "a step of leaving did not end in time; going on");
    }
}

#[cfg(test)]
mod tests;
