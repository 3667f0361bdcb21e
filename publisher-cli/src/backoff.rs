//! How long to wait before the next attempt: full jitter, so that many clients do not come back at once.

use std::time::Duration;

/// The bound of the first pause.
const FIRST: Duration = Duration::from_millis(250);
/// The bound of all later ones: a person who watches should not wait longer.
const LONGEST: Duration = Duration::from_secs(10);

/// Pauses that grow with each failed attempt, each drawn from zero to its bound.
#[derive(Debug, Default)]
pub(crate) struct Backoff {
    failures: u32,
}

impl Backoff {
    /// An attempt succeeded: the next pause is a short one again.
    pub(crate) fn reset(&mut self) {
        self.failures = 0;
    }

    /// The pause before the next attempt, after what the other side asked for, if it did.
    pub(crate) fn next(&mut self, asked: Option<Duration>) -> Duration {
        let bound = self.bound();
        self.failures = self.failures.saturating_add(1);
        asked.unwrap_or_default() + bound.mul_f64(rand::random::<f64>())
    }

    fn bound(&self) -> Duration {
        FIRST.saturating_mul(2_u32.saturating_pow(self.failures)).min(LONGEST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_bound_and_start_again() {
        let mut backoff = Backoff::default();
        let mut bounds = Vec::new();
        for _ in 0..100 {
            let bound = backoff.bound();
            assert!(backoff.next(None) <= bound);
            bounds.push(bound);
        }
        assert_eq!(bounds[..3], [FIRST, FIRST * 2, FIRST * 4]);
        assert_eq!(bounds[99], LONGEST);
        backoff.reset();
        assert_eq!(backoff.bound(), FIRST);
    }

    #[test]
    fn what_was_asked_for_is_waited_for() {
        assert!(Backoff::default().next(Some(Duration::from_secs(7))) >= Duration::from_secs(7));
    }
}
