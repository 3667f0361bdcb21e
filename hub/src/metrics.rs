//! What the hub counts. Handles are kept, so that counting costs an addition; nothing is counted per recipient.

use clarion_protocol::{CloseCode, Door};
use prometheus::{
    Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, core::Collector,
};

use crate::outbox::SlowPolicy;

/// Why a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// We said goodbye first.
    Said(CloseCode),
    /// The client said goodbye first.
    Client,
    /// The client was gone.
    Lost,
    /// Its transport never came.
    Handshake,
}

/// The hub's counters.
#[derive(Clone)]
pub(crate) struct Metrics {
    connections: [IntGauge; Door::ALL.len()],
    pub messages_out: IntCounter,
    pub bytes_out: IntCounter,
    pub messages_in: IntCounter,
    pub bytes_in: IntCounter,
    pub ignored: IntCounter,
    pub batches: Histogram,
    pub latency: Histogram,
    pub queue_full: IntCounter,
    slow: [IntCounter; 4],
    closes: Vec<IntCounter>,
    client: IntCounter,
    lost: IntCounter,
    handshake: IntCounter,
}

impl Metrics {
    /// Registers all of them.
    pub(crate) fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let doors = gauges(registry, "clarion_connections", "Connections by door.", "door")?;
        let overflows = counters(
            registry,
            "clarion_outbox_overflows_total",
            "Messages dropped, or with `disconnect` connections closed, or with `catch_up` subscriptions sent back to the log, since a client was slow.",
            "policy",
        )?;
        let closes = counters(
            registry,
            "clarion_closes_total",
            "Connections that ended, by close code; `client` said goodbye itself, `lost` was gone, `handshake` never came.",
            "code",
        )?;
        let one = |name: &str, help: &str| register(registry, IntCounter::new(name, help)?);
        Ok(Self {
            connections: Door::ALL.map(|door| doors.with_label_values(&[door.label()])),
            messages_out: one("clarion_delivered_messages_total", "Messages handed to connections.")?,
            bytes_out: one("clarion_delivered_bytes_total", "Bytes of the messages handed to connections.")?,
            messages_in: one("clarion_client_messages_total", "Messages that clients sent.")?,
            bytes_in: one("clarion_client_bytes_total", "Bytes of the messages that clients sent.")?,
            ignored: one("clarion_client_messages_ignored_total", "Messages of clients that may not publish.")?,
            batches: histogram(
                registry,
                "clarion_fanout_batch_messages",
                "Messages joined into one write.",
                prometheus::exponential_buckets(1.0, 2.0, 11)?,
            )?,
            latency: histogram(
                registry,
                "clarion_delivery_seconds",
                "From a message's arrival from the bus until it was handed to all its connections.",
                prometheus::exponential_buckets(0.000_05, 2.0, 18)?,
            )?,
            queue_full: one("clarion_shard_queue_full_waits_total", "Times that the bus had to wait for a shard.")?,
            slow: ["disconnect", "drop_oldest", "latest", "catch_up"]
                .map(|policy| overflows.with_label_values(&[policy])),
            closes: CloseCode::ALL.iter().map(|code| closes.with_label_values(&[&code.code().to_string()])).collect(),
            client: closes.with_label_values(&["client"]),
            lost: closes.with_label_values(&["lost"]),
            handshake: closes.with_label_values(&["handshake"]),
        })
    }

    pub(crate) fn connections(&self, door: Door) -> &IntGauge {
        &self.connections[door as usize]
    }

    pub(crate) fn slow(&self, policy: SlowPolicy) -> &IntCounter {
        &self.slow[policy as usize]
    }

    pub(crate) fn ended(&self, end: End) {
        match end {
            End::Said(code) => {
                let place = CloseCode::ALL.iter().position(|other| *other == code);
                self.closes[place.expect("ALL holds every code")].inc();
            }
            End::Client => self.client.inc(),
            End::Lost => self.lost.inc(),
            End::Handshake => self.handshake.inc(),
        }
    }
}

fn register<C: Collector + Clone + 'static>(registry: &Registry, collector: C) -> Result<C, prometheus::Error> {
    registry.register(Box::new(collector.clone()))?;
    Ok(collector)
}

fn counters(registry: &Registry, name: &str, help: &str, label: &str) -> Result<IntCounterVec, prometheus::Error> {
    register(registry, IntCounterVec::new(Opts::new(name, help), &[label])?)
}

fn gauges(registry: &Registry, name: &str, help: &str, label: &str) -> Result<IntGaugeVec, prometheus::Error> {
    register(registry, IntGaugeVec::new(Opts::new(name, help), &[label])?)
}

fn histogram(registry: &Registry, name: &str, help: &str, buckets: Vec<f64>) -> Result<Histogram, prometheus::Error> {
    register(registry, Histogram::with_opts(HistogramOpts::new(name, help).buckets(buckets))?)
}
