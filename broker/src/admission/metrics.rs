//! What admission shows: how much of each limit of the node is used, and who was refused.

use std::{num::NonZeroU32, sync::Arc};

use prometheus::{
    IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    core::{Collector, Desc},
    proto::MetricFamily,
};

use super::{Config, TooMany, ledger::Connections};

/// Counts refusals, by the setting that they are due to.
pub(super) struct Refusals(IntCounterVec);

impl Refusals {
    pub(super) fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let opts = Opts::new("clarion_admission_refused_total", "Clients refused for being too many, by limit.");
        let refused = IntCounterVec::new(opts, &["limit"])?;
        registry.register(Box::new(refused.clone()))?;
        Ok(Self(refused))
    }

    pub(super) fn count(&self, error: TooMany) -> TooMany {
        self.0.with_label_values(&[error.limit()]).inc();
        error
    }
}

/// How much of the node's limits is used. A limit that is not set has no value in `clarion_admission_limit`.
pub(super) struct Gauges {
    carried: IntGauge,
    channels: IntGauge,
    patterns: IntGauge,
}

impl Gauges {
    pub(super) fn new(
        config: &Config,
        count: Arc<Connections>,
        registry: &Registry,
    ) -> Result<Self, prometheus::Error> {
        let used = IntGaugeVec::new(
            Opts::new("clarion_admission_used", "What is held of what has a limit at this node, by limit."),
            &["limit"],
        )?;
        let limits = IntGaugeVec::new(Opts::new("clarion_admission_limit", "The limit itself, if set."), &["limit"])?;
        let carried =
            IntGauge::new("clarion_carried_connections", "Connections that this node carries to their users' homes.")?;
        registry.register(Box::new(limits.clone()))?;
        registry.register(Box::new(carried.clone()))?;
        let set = [("connections", config.connections), ("channels", config.channels), ("patterns", config.patterns)];
        for (name, limit) in set {
            if let Some(limit) = limit {
                limits.with_label_values(&[name]).set(limit.get().into());
            }
        }
        let [connections, patterns] = ["connections", "patterns"].map(|name| used.with_label_values(&[name]));
        // Channels are counted here only where there is a limit; `clarion_bus_interests` is there always.
        let counted = config.channels.or(config.channels_per_address).map(NonZeroU32::get).is_some();
        let channels =
            if counted { used.with_label_values(&["channels"]) } else { IntGauge::new("unseen", "not registered")? };
        registry.register(Box::new(Used { used, connections, count }))?;
        Ok(Self { carried, channels, patterns })
    }

    pub(super) fn show(&self, carried: u32, channels: Option<usize>, patterns: usize) {
        let number = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        self.carried.set(carried.into());
        self.patterns.set(number(patterns));
        if let Some(channels) = channels {
            self.channels.set(number(channels));
        }
    }
}

/// What is held, counted when somebody looks: connections go without a word.
struct Used {
    used: IntGaugeVec,
    connections: IntGauge,
    count: Arc<Connections>,
}

impl Collector for Used {
    fn desc(&self) -> Vec<&Desc> {
        self.used.desc()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        self.connections.set(self.count.all().into());
        self.used.collect()
    }
}
