//! Readiness: can this node deliver, and if not, why not.

use std::collections::BTreeMap;

use prometheus::{IntGauge, IntGaugeVec, Opts, Registry};
use tokio::sync::watch;

use super::BUS;

/// What keeps a node from being ready: who says so, and the reason to show.
pub type Reasons = BTreeMap<&'static str, String>;

/// The name under which a node objects that is about to go.
pub(crate) const LEAVING: &str = "leaving";

/// Whether this node is ready. Many may object, each under a name of its own; it is ready when nobody does. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Ready {
    reasons: watch::Sender<Reasons>,
    gauges: Gauges,
}

/// The same for Prometheus, which cannot read the reasons: whether all is well, and who objects.
#[derive(Debug, Clone)]
struct Gauges {
    ready: IntGauge,
    objections: IntGaugeVec,
}

impl Gauges {
    fn new() -> Self {
        let about = Opts::new("clarion_not_ready", "1 for each reason for which this node is not ready.");
        Self {
            ready: IntGauge::new("clarion_ready", "1 while this node can deliver, as /health/ready says.")
                .expect("the name is valid"),
            objections: IntGaugeVec::new(about, &["reason"]).expect("the names are valid"),
        }
    }

    fn show(&self, name: &str, reasons: &Reasons) {
        self.objections.with_label_values(&[name]).set(reasons.contains_key(name).into());
        self.ready.set(reasons.is_empty().into());
    }
}

impl Ready {
    /// Not ready until a first probe has come back: nobody knows yet whether the bus delivers.
    #[must_use]
    pub fn new() -> Self {
        let reasons = Reasons::from([(BUS, "the bus has not answered yet".to_owned())]);
        let gauges = Gauges::new();
        gauges.show(BUS, &reasons);
        Self { reasons: watch::Sender::new(reasons), gauges }
    }

    /// Shows it among the metrics.
    ///
    /// # Errors
    /// When the registry knows one of the names already.
    pub fn register(&self, registry: &Registry) -> Result<(), prometheus::Error> {
        registry.register(Box::new(self.gauges.ready.clone()))?;
        registry.register(Box::new(self.gauges.objections.clone()))
    }

    /// Objects under a name, or withdraws with `None`. Each change is logged once.
    pub fn set(&self, name: &'static str, reason: Option<String>) {
        self.reasons.send_if_modified(|reasons| {
            if reasons.get(name) == reason.as_ref() {
                return false;
            }
            match reason {
                Some(reason) => {
                    // A node that leaves closes its own bus, which is nothing to be woken for.
                    if reasons.contains_key(LEAVING) {
                        tracing::info!(name, reason, "not ready");
                    } else {
                        tracing::warn!(name, reason, "not ready");
                    }
                    reasons.insert(name, reason);
                }
                None => {
                    reasons.remove(name);
                    tracing::info!(name, ready = reasons.is_empty(), "a reason not to be ready is gone");
                }
            }
            // Under the lock, so that the last change shown is the last one there was.
            self.gauges.show(name, reasons);
            true
        });
    }

    /// Whether this name objects.
    pub(super) fn objects(&self, name: &str) -> bool {
        self.reasons.borrow().contains_key(name)
    }

    /// Whether all is well.
    ///
    /// # Errors
    /// All reasons why not.
    pub fn ready(&self) -> Result<(), Vec<String>> {
        let reasons = self.reasons.borrow();
        if reasons.is_empty() { Ok(()) } else { Err(reasons.values().cloned().collect()) }
    }

    /// The reasons, and each change of them.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<Reasons> {
        self.reasons.subscribe()
    }
}

impl Default for Ready {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_is_when_nobody_objects() {
        let ready = Ready::new();
        assert_eq!(ready.ready(), Err(vec!["the bus has not answered yet".to_owned()]));
        ready.set(BUS, None);
        assert_eq!(ready.ready(), Ok(()));
        ready.set(BUS, Some("down".into()));
        ready.clone().set("leaving", Some("leaving".into()));
        assert_eq!(ready.ready(), Err(vec!["down".to_owned(), "leaving".to_owned()]));
        ready.set("bus", None);
        assert_eq!(ready.ready(), Err(vec!["leaving".to_owned()]));
        ready.set("leaving", None);
        assert_eq!(ready.ready(), Ok(()));
    }

    #[test]
    fn the_gauges_tell_who_objects() {
        let (ready, registry) = (Ready::new(), Registry::new());
        ready.register(&registry).unwrap();
        let shown = || {
            let text = prometheus::TextEncoder::new().encode_to_string(&registry.gather()).unwrap();
            text.lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(shown(), [r#"clarion_not_ready{reason="bus"} 1"#, "clarion_ready 0"]);
        ready.set(BUS, None);
        assert_eq!(shown(), [r#"clarion_not_ready{reason="bus"} 0"#, "clarion_ready 1"]);
        ready.set(LEAVING, Some("leaving".into()));
        assert_eq!(
            shown(),
            [r#"clarion_not_ready{reason="bus"} 0"#, r#"clarion_not_ready{reason="leaving"} 1"#, "clarion_ready 0"]
        );
    }

    #[test]
    fn only_changes_wake_those_who_wait() {
        let ready = Ready::new();
        let mut watch = ready.watch();
        ready.set(BUS, Some("down".into()));
        assert!(watch.has_changed().unwrap());
        watch.mark_unchanged();
        ready.set(BUS, Some("down".into()));
        ready.set("other", None);
        assert!(!watch.has_changed().unwrap());
    }
}
