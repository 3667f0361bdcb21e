//! What recovery counts.

use prometheus::{IntCounter, IntCounterVec, IntGauge, Opts, Registry};

/// Handles to the counters. Cheap to clone.
#[derive(Clone)]
pub struct Metrics {
    /// Messages in logged namespaces that came without a number.
    pub(super) raw: IntCounter,
    pub(super) repeats: IntCounter,
    pub(super) holes: IntCounter,
    pub(super) healed: IntCounter,
    /// Subscriptions that were told of a gap, by its reason.
    pub(super) gaps: IntCounterVec,
    /// Clients that came back, by what came of it.
    pub(super) resumes: IntCounterVec,
    /// Reads of the log, and those that memory served.
    pub(super) reads: IntCounter,
    pub(super) remembered: IntCounter,
    pub(super) asked: IntCounter,
    /// Users who came back to an inbox that had kept less than they had not read.
    pub(super) inbox_overflows: IntCounter,
    /// What is remembered now.
    pub(super) recent_bytes: IntGauge,
}

impl Metrics {
    /// Registers them.
    ///
    /// # Errors
    /// When the registry knows one of these names already.
    pub fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let counter = |name: &str, help: &str| -> Result<IntCounter, prometheus::Error> {
            let counter = IntCounter::new(format!("clarion_log_{name}_total"), help)?;
            registry.register(Box::new(counter.clone()))?;
            Ok(counter)
        };
        let counters =
            |name: &str, help: &str, label: &str, values: &[&str]| -> Result<IntCounterVec, prometheus::Error> {
                let counters = IntCounterVec::new(Opts::new(format!("clarion_log_{name}_total"), help), &[label])?;
                registry.register(Box::new(counters.clone()))?;
                // There from the start: an alert or a dashboard on one that never came would say nothing.
                values.iter().for_each(|value| drop(counters.with_label_values(&[value])));
                Ok(counters)
            };
        let recent_bytes = IntGauge::new(
            "clarion_log_recent_bytes",
            "Bytes of logged messages kept in memory for clients that come back.",
        )?;
        registry.register(Box::new(recent_bytes.clone()))?;
        Ok(Self {
            raw: counter("raw", "Messages in logged namespaces that came from the bus without a number.")?,
            repeats: counter("repeats", "Messages of logged namespaces that came again and were dropped.")?,
            holes: counter("holes", "Holes found in what the bus delivered of logged channels.")?,
            healed: counter("healed", "Messages that were missing and were read from the log.")?,
            gaps: counters("gaps", "Subscriptions told that messages are missing, by the reason.", "reason", GAPS)?,
            resumes: counters("resumes", "Subscriptions that began in a log, by what came of it.", "outcome", RESUMES)?,
            reads: counter("reads", "Reads of the log at the bus.")?,
            remembered: counter("remembered", "Parts of the log served from this node's memory.")?,
            asked: counter("tops", "Questions to the bus how far partitions go.")?,
            inbox_overflows: counter("inbox_overflows", "Users whose inbox had kept less than they had not read.")?,
            recent_bytes,
        })
    }
}

/// Why messages are missing: the log was lost, keeps less than was missed, could not be read in time, or more was missing
/// than a node reads at once.
pub(super) const GAPS: &[&str] = &["log_lost", "too_old", "unreadable", "too_many"];

/// What comes of a subscription that begins in a log: it has all, was told of a gap, its client left, or the log was away.
pub(super) const RESUMES: &[&str] = &["whole", "gap", "left", "unreadable"];
