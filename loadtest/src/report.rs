//! What comes of a run: for people as a table, for machines as JSON, for decision papers as a page.

pub(crate) mod compare;
pub(crate) mod expect;
pub(crate) mod html;
pub(crate) mod plot;
pub(crate) mod table;

use std::{collections::BTreeMap, fmt::Display};

use serde::{Deserialize, Serialize};

use crate::{
    audit::Audit,
    latency::{Sparse, Summary},
    procfs::Machine,
    setback::Setback,
    watch::Sample,
};

/// What came of one run of a scenario.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Report {
    pub(crate) scenario: String,
    pub(crate) server: String,
    /// When it began.
    pub(crate) at: String,
    pub(crate) machine: Machine,
    /// What was asked for.
    pub(crate) parameters: BTreeMap<String, String>,
    /// What was measured, by names that end in their unit.
    pub(crate) figures: BTreeMap<String, f64>,
    /// From when a message should have been published until a subscriber had it.
    pub(crate) latency: Option<Summary>,
    /// From when a connection should have begun until its subscription stood.
    pub(crate) connect: Option<Summary>,
    /// From when a message should have been published until the way in had acknowledged it.
    pub(crate) acknowledged: Option<Summary>,
    pub(crate) audit: Audit,
    /// Connections that did not come to stand, by reason.
    pub(crate) failed: BTreeMap<Setback, u64>,
    /// Connections that the server ended, by reason.
    pub(crate) closed: BTreeMap<String, u64>,
    pub(crate) publish_errors: BTreeMap<String, u64>,
    /// What makes the figures doubtful.
    pub(crate) warnings: Vec<String>,
    pub(crate) series: Vec<Sample>,
    pub(crate) histogram: Sparse,
}

impl Report {
    pub(crate) fn figure(&mut self, name: &str, value: f64) {
        self.figures.insert(name.to_owned(), value);
    }

    pub(crate) fn parameter(&mut self, name: &str, value: impl Display) {
        self.parameters.insert(name.to_owned(), value.to_string());
    }

    /// Any figure by its name, those of latencies and of the audit too: `p99_ms`, `lost`.
    pub(crate) fn lookup(&self, name: &str) -> Option<f64> {
        let audit = &self.audit;
        let summary = |summary: &Option<Summary>, name: &str| {
            let summary = summary.as_ref()?;
            match name {
                "p50_ms" => Some(summary.p50_ms),
                "p90_ms" => Some(summary.p90_ms),
                "p99_ms" => Some(summary.p99_ms),
                "p999_ms" => Some(summary.p999_ms),
                "max_ms" => Some(summary.max_ms),
                "mean_ms" => Some(summary.mean_ms),
                _ => None,
            }
        };
        self.figures.get(name).copied().or_else(|| match name {
            "delivered" => Some(audit.delivered as f64),
            "lost" => Some(audit.lost as f64),
            "missed_away" => Some(audit.missed_away as f64),
            "duplicates" => Some(audit.duplicates as f64),
            "out_of_order" => Some(audit.out_of_order as f64),
            "strays" => Some(audit.strays as f64),
            "failed" => Some(self.failed.values().sum::<u64>() as f64),
            "closed" => Some(self.closed.values().sum::<u64>() as f64),
            "publish_errors" => Some(self.publish_errors.values().sum::<u64>() as f64),
            "warnings" => Some(self.warnings.len() as f64),
            _ => match name.split_once('.') {
                Some(("connect", name)) => summary(&self.connect, name),
                Some(("acknowledged", name)) => summary(&self.acknowledged, name),
                _ => summary(&self.latency, name),
            },
        })
    }
}
