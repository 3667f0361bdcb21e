//! What membership counts.

use prometheus::{IntCounter, IntGauge, Registry};

/// Handles to the counters of membership. Cheap to clone.
#[derive(Clone)]
pub struct Metrics {
    pub(super) ring_members: IntGauge,
    pub(super) ring_changes: IntCounter,
    pub(super) disagreements: IntCounter,
    pub(super) disagreeing: IntGauge,
    pub(super) unreadable: IntCounter,
    pub(super) unanswered: IntCounter,
    pub(super) at_home: IntCounter,
    pub(super) strays: IntCounter,
}

impl Metrics {
    /// Registers them.
    ///
    /// # Errors
    /// When the registry knows one of these names already.
    pub fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let counter = |name: &str, help: &str| {
            let counter = IntCounter::new(format!("clarion_{name}_total"), help)?;
            registry.register(Box::new(counter.clone())).map(|()| counter)
        };
        let gauge = |name: &str, help: &str| {
            let gauge = IntGauge::new(format!("clarion_{name}"), help)?;
            registry.register(Box::new(gauge.clone())).map(|()| gauge)
        };
        Ok(Self {
            ring_members: gauge("ring_members", "Nodes in the ring as this one sees it.")?,
            ring_changes: counter("ring_changes", "Rings made anew since a member came, went or changed its weight.")?,
            disagreements: counter("ring_disagreements", "Times that members were seen to keep to another ring.")?,
            disagreeing: gauge("ring_disagreeing_members", "Members that have been seeing another ring for seconds.")?,
            unreadable: counter("internal_unreadable", "Messages between nodes that could not be read.")?,
            unanswered: counter("online_unanswered", "Questions of other nodes dropped since too many came at once.")?,
            at_home: counter("at_home", "Connections of users that landed on their home.")?,
            strays: counter("strays", "Connections of users that landed on another node than their home.")?,
        })
    }
}
