//! Readiness: can this node deliver, and if not, why not.

use std::collections::BTreeMap;

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
}

impl Ready {
    /// Not ready until a first probe has come back: nobody knows yet whether the bus delivers.
    #[must_use]
    pub fn new() -> Self {
        Self { reasons: watch::Sender::new(Reasons::from([(BUS, "the bus has not answered yet".to_owned())])) }
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
            true
        });
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
