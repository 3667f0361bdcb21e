//! Gives memory back to the system that a storm of connections has left free, once it is over.
//!
//! Sixty-four handshakes at once need some two MiB, and what stays of each connection lies between what was theirs; ten
//! thousand connections that end leave free what they were made of, whether they came as far as a door or asked for nothing.
//! The C library keeps all that for the next storm.

use std::time::Duration;

use prometheus::IntCounter;
use tokio::time::{self, Instant, MissedTickBehavior};

/// How often is looked: a node that rests does nothing else in a second than its probe.
const LOOK: Duration = Duration::from_secs(1);

/// Comings and goings in one look that make a storm, and how many fewer there must be than there were to make an end of a slow
/// one. Fewer find room where others were before.
const STORM: u64 = 500;

/// Trims the heap after each storm, as long as it is polled. `open` counts all sockets of clients, whatever is spoken on them.
pub(super) async fn run(accepted: IntCounter, open: impl Fn() -> u64) {
    let mut storms = Storms::default();
    let mut looks = time::interval(LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        looks.tick().await;
        if storms.is_over(accepted.get(), open()) {
            let since = Instant::now();
            // It can take milliseconds, so no task may be behind it.
            let given = tokio::task::spawn_blocking(clarion_heap::trim).await.unwrap_or_default();
            tracing::debug!(given, took = ?since.elapsed(), "gave memory back after many connections came or went");
        }
    }
}

/// Tells when a storm is over.
#[derive(Debug, Default)]
struct Storms {
    accepted: u64,
    open: u64,
    /// The most that came and went in one look since the last storm.
    peak: u64,
    /// The most that were open since then.
    most: u64,
}

impl Storms {
    /// Looks at how many have come in all and how many are here; whether there was a storm and hardly anything is left of it.
    fn is_over(&mut self, accepted: u64, open: u64) -> bool {
        let came = accepted.saturating_sub(self.accepted);
        let went = (self.open + came).saturating_sub(open);
        (self.accepted, self.open) = (accepted, open);
        let moved = came + went;
        (self.peak, self.most) = (self.peak.max(moved), self.most.max(open));
        let was_storm = self.peak >= STORM || self.most - open >= STORM;
        let over = was_storm && moved <= self.peak / 10;
        if over {
            (self.peak, self.most) = (0, open);
        }
        over
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_storm_is_over_once() {
        let mut storms = Storms::default();
        assert!(!storms.is_over(0, 0));
        assert!(!storms.is_over(8_000, 7_990), "they come");
        assert!(!storms.is_over(15_000, 15_000));
        assert!(storms.is_over(15_003, 15_002), "no more of them");
        assert!(!storms.is_over(15_003, 15_002));
        assert!(!storms.is_over(15_003, 2_000), "they go");
        assert!(storms.is_over(15_003, 1_990));
    }

    #[test]
    fn a_trickle_is_no_storm() {
        let mut storms = Storms::default();
        assert!((1..100).all(|look| !storms.is_over(look * 200, look * 100)));
        assert!(!storms.is_over(99 * 200, 99 * 100));
    }

    #[test]
    fn many_who_came_slowly_and_are_gone_were_a_storm() {
        let mut storms = Storms::default();
        // Each stays for ten looks.
        assert!((1..=50).all(|look| !storms.is_over(look * 200, look.min(10) * 200)));
        assert!((1..=10).all(|look| !storms.is_over(50 * 200, (10 - look) * 200)), "they are going");
        assert!(storms.is_over(50 * 200, 0));
        assert!(!storms.is_over(50 * 200, 0));
    }

    #[test]
    fn those_who_stay_are_waited_for() {
        let mut storms = Storms::default();
        assert!(!storms.is_over(9_000, 9_000), "they come and say nothing");
        assert!(storms.is_over(9_000, 9_000));
        assert!(!storms.is_over(9_000, 2_000), "they are closed");
        assert!(storms.is_over(9_000, 0) || storms.is_over(9_000, 0));
    }
}
