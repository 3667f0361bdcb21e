//! Is the bus really delivering? A message to oneself every second, and the readiness that hangs on it.
//!
//! A subscription can be dead while its connection and all sockets look healthy; only a message that came back shows otherwise.

mod ready;

use std::{sync::Arc, time::Duration};

use clarion_bus::{BusHandle, Link, ProbeError};
use clarion_protocol::limits;
use prometheus::{Histogram, HistogramOpts, IntCounter, Registry};
use tokio::{
    sync::watch,
    time::{self, Instant},
};

use crate::ingress::Recovery;

pub(crate) use ready::LEAVING;
pub use ready::{Ready, Reasons};

/// The shortest time between two rebuilds: a link with many interests takes a while to come back, and each rebuild is a gap.
const REBUILD_PAUSE: Duration = Duration::from_secs(10);
/// The longest: while probes stay late each pause is twice the one before. Where the machine or the server has more to do
/// than it can, thousands of subscriptions made anew every ten seconds would keep it there.
const LONGEST_REBUILD_PAUSE: Duration = Duration::from_secs(60);
/// How many probes in a row may be late on links that deliver other messages: those are busy rather than dead.
const LATE_ON_BUSY_LINKS: u32 = 5;

/// The readiness reason that belongs to the bus.
pub const BUS: &str = "bus";

/// The `[probe]` table.
#[derive(Debug, Clone, serde::Deserialize, serde::Serialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The pause between two probes: a dead subscription should be seen within seconds, and one message a second is nothing.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "Duration")]
    pub interval: Duration,
    /// After how long a probe counts as late: longer than a busy bus takes, shorter than people's patience.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "Duration")]
    pub timeout: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self { interval: limits::PROBE_INTERVAL, timeout: limits::PROBE_TIMEOUT }
    }
}

impl Config {
    /// What is wrong with it: the key within the table and what is expected.
    #[must_use]
    pub fn problems(&self) -> Vec<(&'static str, String)> {
        let fields = [("interval", self.interval), ("timeout", self.timeout)];
        let zero = fields.into_iter().filter(|(_, duration)| duration.is_zero());
        zero.map(|(key, _)| (key, "must be longer than nothing".to_owned())).collect()
    }
}

/// What the probe measures.
#[derive(Clone)]
pub struct Metrics {
    round_trip: Histogram,
    late: IntCounter,
    down: IntCounter,
}

impl Metrics {
    /// Registers them.
    ///
    /// # Errors
    /// When the registry knows one of these names already.
    pub fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        // From a bus on the same machine to one that is nearly late.
        let buckets =
            vec![0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 3.0];
        let help = "From sending a probe over the bus to having it back, over the slowest link.";
        let round_trip =
            Histogram::with_opts(HistogramOpts::new("clarion_probe_round_trip_seconds", help).buckets(buckets))?;
        let late = IntCounter::new("clarion_probes_late_total", "Probes that did not come back in time.")?;
        let down = IntCounter::new("clarion_probes_down_total", "Probes not sent since the bus was not connected.")?;
        registry.register(Box::new(round_trip.clone()))?;
        registry.register(Box::new(late.clone()))?;
        registry.register(Box::new(down.clone()))?;
        Ok(Self { round_trip, late, down })
    }
}

/// Probes the bus for ever, and keeps its reason in `ready`.
///
/// Cancel safe: dropping the future ends it and leaves readiness as it was.
pub async fn run(bus: BusHandle, config: Config, ready: Ready, recovery: Option<Arc<Recovery>>, metrics: Metrics) {
    let mut link = bus.link();
    let mut rebuilds = Rebuilds::default();
    loop {
        let messages = bus.stats().messages;
        let heard = recovery.as_ref().map(|recovery| recovery.heard());
        let result = bus.probe(config.timeout).await;
        if let (Ok(_), Some(recovery), Some(heard)) = (result, &recovery, heard) {
            recovery.assure(heard);
        }
        judge(result, &bus, &ready, &metrics);
        if rebuilds.are_due(result, bus.stats().messages > messages) {
            tracing::warn!("a probe over the bus is late; its subscriptions are made anew");
            bus.rebuild();
        }
        pause(&mut link, config.interval, &ready).await;
    }
}

/// When silent links are built anew.
#[derive(Default)]
struct Rebuilds {
    /// Probes that were late, since one came back.
    late: u32,
    /// The last one, and how long none is to follow.
    last: Option<(Instant, Duration)>,
}

impl Rebuilds {
    /// Whether it is time, after a probe during which other messages came or did not.
    fn are_due(&mut self, result: Result<Duration, ProbeError>, heard: bool) -> bool {
        match result {
            Ok(_) => *self = Self::default(),
            Err(ProbeError::Down) => {}
            Err(ProbeError::Late) => self.late += 1,
        }
        let wanted = result == Err(ProbeError::Late) && (!heard || self.late >= LATE_ON_BUSY_LINKS);
        if !wanted || self.last.is_some_and(|(at, pause)| at.elapsed() < pause) {
            return false;
        }
        let pause = self.last.map_or(REBUILD_PAUSE, |(_, pause)| (pause * 2).min(LONGEST_REBUILD_PAUSE));
        self.last = Some((Instant::now(), pause));
        true
    }
}

/// Shows what came of a probe.
fn judge(result: Result<Duration, ProbeError>, bus: &BusHandle, ready: &Ready, metrics: &Metrics) {
    match result {
        Ok(round_trip) => {
            metrics.round_trip.observe(round_trip.as_secs_f64());
            ready.set(BUS, None);
        }
        Err(error @ ProbeError::Late) => {
            metrics.late.inc();
            ready.set(BUS, Some(format!("the bus does not deliver: {error}")));
        }
        // It connects by itself; a rebuild would only disturb the attempt.
        Err(ProbeError::Down) => {
            metrics.down.inc();
            object(ready, &bus.link().borrow());
        }
    }
}

/// Waits for the next probe's time, and turns readiness red at once when the link is lost before.
async fn pause(link: &mut watch::Receiver<Link>, interval: Duration, ready: &Ready) {
    let watching = async {
        loop {
            let state = link.borrow_and_update().clone();
            if state != Link::Up {
                object(ready, &state);
            }
            // A bus that is gone tells of no more changes: then the probes do.
            if link.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    };
    // Only the time ends it.
    let _ = time::timeout(interval, watching).await;
}

/// Objects since the link is down. An attempt to connect that has neither succeeded nor failed says nothing new: each node
/// begins with one, which is nothing to warn of.
fn object(ready: &Ready, link: &Link) {
    match link {
        Link::Down(Some(why)) => ready.set(BUS, Some(format!("the bus is not connected: {why}"))),
        Link::Down(None) | Link::Up if ready.objects(BUS) => {}
        Link::Down(None) | Link::Up => ready.set(BUS, Some("the bus is not connected".to_owned())),
    }
}

#[cfg(test)]
mod tests;
