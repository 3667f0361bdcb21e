//! What ingress counts, and the bus's own counters as the registry shows them.

use std::sync::Arc;

use clarion_bus::{BusHandle, PublishError, Receipt, Stats};
use clarion_hub::InterestLease;
use parking_lot::Mutex;
use prometheus::{
    IntCounter, IntCounterVec, IntGauge, Opts, Registry,
    core::{Collector, Desc},
    proto::MetricFamily,
};

use super::AcquireError;

/// The ways in which a message is published through a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Via {
    /// `POST /<channel>`.
    Http,
    /// `POST /api/batch`.
    Batch,
    /// `POST /rpc`.
    Rpc,
    /// A frame of a client.
    WebSocket,
}

impl Via {
    const ALL: [Self; 4] = [Self::Http, Self::Batch, Self::Rpc, Self::WebSocket];

    fn label(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Batch => "batch",
            Self::Rpc => "rpc",
            Self::WebSocket => "websocket",
        }
    }
}

/// What can become of a message, in the order of its counters.
const RESULTS: [&str; 5] = ["taken", "not_taken", "unknown", "refused", "too_large"];

/// Handles to ingress's counters. Cheap to clone.
#[derive(Clone)]
pub struct Metrics {
    /// For each way the counter of each result: looking one up costs five times what counting does.
    published: Arc<[[IntCounter; RESULTS.len()]; Via::ALL.len()]>,
    acquired: IntCounter,
    acquire_refused: IntCounter,
    acquire_unavailable: IntCounter,
    pub(super) gaps: IntCounter,
    pub(super) internal_dropped: IntCounter,
    pub(super) messages: IntCounter,
    pub(super) bytes: IntCounter,
}

impl Metrics {
    /// Registers them.
    ///
    /// # Errors
    /// When the registry knows one of these names already.
    pub fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let published = counters(
            registry,
            "clarion_publishes_total",
            "Messages that this node was asked to publish, by way and result.",
            &["via", "result"],
        )?;
        let acquired =
            counters(registry, "clarion_acquires_total", "Requests for a connection's interests.", &["result"])?;
        let gaps = IntCounter::new("clarion_bus_gaps_total", "Interruptions after which messages may be missing.")?;
        let internal_dropped =
            IntCounter::new("clarion_internal_dropped_total", "Messages between nodes dropped since too many waited.")?;
        let messages = IntCounter::new(
            "clarion_ingress_messages_total",
            "Channels' messages received from the bus, copies for several interests each counted.",
        )?;
        let bytes = IntCounter::new("clarion_ingress_bytes_total", "Bytes of their payloads.")?;
        for counter in [&gaps, &internal_dropped, &messages, &bytes] {
            registry.register(Box::new(counter.clone()))?;
        }
        let by_way = |via: Via| RESULTS.map(|result| published.with_label_values(&[via.label(), result]));
        let acquire = |result| acquired.with_label_values(&[result]);
        Ok(Self {
            published: Arc::new(Via::ALL.map(by_way)),
            acquired: acquire("held"),
            acquire_refused: acquire("refused"),
            acquire_unavailable: acquire("unavailable"),
            gaps,
            internal_dropped,
            messages,
            bytes,
        })
    }

    pub(super) fn published(&self, via: Via, result: &Result<Receipt, PublishError>) {
        let at = match result {
            Ok(_) => 0,
            Err(PublishError::NotTaken(_)) => 1,
            Err(PublishError::Unknown(_)) => 2,
            Err(PublishError::Refused(_)) => 3,
            Err(PublishError::TooLarge { .. }) => 4,
        };
        self.published[via as usize][at].inc();
    }

    pub(super) fn acquired(&self, result: &Result<Vec<InterestLease>, AcquireError>) {
        match result {
            Ok(_) => self.acquired.inc(),
            Err(AcquireError::Refused(_)) => self.acquire_refused.inc(),
            Err(AcquireError::NotNow(_) | AcquireError::Unavailable) => self.acquire_unavailable.inc(),
        }
    }
}

fn counters(registry: &Registry, name: &str, help: &str, labels: &[&str]) -> Result<IntCounterVec, prometheus::Error> {
    let counter = IntCounterVec::new(Opts::new(name, help), labels)?;
    registry.register(Box::new(counter.clone()))?;
    Ok(counter)
}

/// Shows the counters of a bus in a registry. They are read once per scrape, so that counting costs the bus nothing more.
pub(super) fn show_bus(bus: &BusHandle, registry: &Registry) -> Result<(), prometheus::Error> {
    registry.register(Box::new(BusStats::new(bus.clone())?))
}

/// Which of the bus's counters.
type Read = fn(&Stats) -> u64;

struct BusStats {
    bus: BusHandle,
    /// What was shown last: a Prometheus counter can only be added to.
    shown: Mutex<Stats>,
    interests: IntGauge,
    subscriptions: IntGauge,
    refused: IntGauge,
    counters: [(IntCounter, Read); 6],
}

impl BusStats {
    fn new(bus: BusHandle) -> Result<Self, prometheus::Error> {
        let counter = |name: &str, help: &str| IntCounter::new(format!("clarion_bus_{name}_total"), help);
        Ok(Self {
            bus,
            shown: Mutex::default(),
            interests: IntGauge::new("clarion_bus_interests", "Distinct interests of this node's connections.")?,
            subscriptions: IntGauge::new("clarion_bus_subscriptions", "Subscriptions at the bus's server.")?,
            refused: IntGauge::new("clarion_bus_refused", "Subscriptions that the bus's server refuses for now.")?,
            counters: [
                (counter("reconnects", "Connections of the subscriber link after the first.")?, |s| s.reconnects),
                (counter("messages", "Messages received from the bus.")?, |s| s.messages),
                (counter("bytes", "Bytes of the payloads received from the bus.")?, |s| s.bytes),
                (counter("foreign", "Messages on subjects that are in no form of ours.")?, |s| s.foreign),
                (counter("bad_envelopes", "Payloads like an envelope that are none.")?, |s| s.bad_envelopes),
                (counter("oversize", "Messages dropped since their payload was too large.")?, |s| s.oversize),
            ],
        })
    }
}

impl Collector for BusStats {
    fn desc(&self) -> Vec<&Desc> {
        let gauges = [&self.interests, &self.subscriptions, &self.refused].into_iter().flat_map(Collector::desc);
        gauges.chain(self.counters.iter().flat_map(|(counter, _)| counter.desc())).collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let mut shown = self.shown.lock();
        let now = self.bus.stats();
        let gauge = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        self.interests.set(gauge(now.interests));
        self.subscriptions.set(gauge(now.subscriptions));
        self.refused.set(gauge(now.refused));
        for (counter, read) in &self.counters {
            counter.inc_by(read(&now).saturating_sub(read(&shown)));
        }
        *shown = now;
        let gauges = [&self.interests, &self.subscriptions, &self.refused].into_iter().flat_map(Collector::collect);
        gauges.chain(self.counters.iter().flat_map(|(counter, _)| counter.collect())).collect()
    }
}
