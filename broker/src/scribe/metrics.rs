//! What the scribe counts.

use prometheus::{IntCounter, IntGauge, Registry};

/// Handles to the counters.
#[derive(Clone)]
pub struct Metrics {
    numbered: IntCounter,
    cuts: IntCounter,
    behind: IntCounter,
    skipped: IntCounter,
    namespaces: IntGauge,
}

impl Metrics {
    /// Registers them.
    ///
    /// # Errors
    /// When the registry knows one of these names already.
    pub fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let counter = |name: &str, help: &str| -> Result<IntCounter, prometheus::Error> {
            let counter = IntCounter::new(format!("clarion_scribe_{name}_total"), help)?;
            registry.register(Box::new(counter.clone()))?;
            Ok(counter)
        };
        let namespaces = IntGauge::new("clarion_scribe_namespaces", "Logged namespaces whose scribe this node is.")?;
        registry.register(Box::new(namespaces.clone()))?;
        Ok(Self {
            numbered: counter("numbered", "Plain publications that this node had numbered.")?,
            cuts: counter("cuts", "Times that this node heard a part of the plain publications only, and began anew.")?,
            behind: counter("dropped", "Plain publications dropped since too many waited to be numbered.")?,
            skipped: counter("skipped", "Times that plain publications were passed over which no node had heard.")?,
            namespaces,
        })
    }

    pub(super) fn numbered(&self, count: u64) {
        self.numbered.inc_by(count);
    }

    pub(super) fn cut(&self) {
        self.cuts.inc();
    }

    pub(super) fn behind(&self, count: usize) {
        self.behind.inc_by(count as u64);
    }

    pub(super) fn skipped(&self) {
        self.skipped.inc();
    }

    pub(super) fn roles(&self, scribes: usize) {
        self.namespaces.set(scribes as i64);
    }
}
