//! How long to wait before the next attempt to connect.

use std::time::Duration;

use rand::Rng as _;

/// The first bound: a server that merely restarts is back by then.
const FIRST: Duration = Duration::from_millis(100);

/// Pauses drawn from zero to a bound that doubles with each attempt ("full jitter"), so that nodes that
/// lost the same server do not come back to it all at once.
#[derive(Debug)]
pub(crate) struct Backoff {
    bound: Duration,
    max: Duration,
}

impl Backoff {
    /// Begins at 100 ms and grows to `max`.
    pub(crate) fn new(max: Duration) -> Self {
        Self { bound: FIRST.min(max), max }
    }

    /// The next pause.
    pub(crate) fn pause(&mut self) -> Duration {
        let pause = self.bound.mul_f64(rand::rng().random::<f64>());
        self.bound = (self.bound * 2).min(self.max);
        pause
    }

    /// To be called when the connection has shown that it works, not when it was merely accepted.
    pub(crate) fn reset(&mut self) {
        self.bound = FIRST.min(self.max);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_their_bound_and_are_spread() {
        let mut backoff = Backoff::new(Duration::from_secs(1));
        assert!(backoff.pause() <= FIRST);
        let pauses: Vec<_> = (0..200).map(|_| backoff.pause()).collect();
        assert!(pauses.iter().all(|pause| *pause <= Duration::from_secs(1)));
        assert!(pauses.iter().any(|pause| *pause < Duration::from_millis(300)));
        assert!(pauses.iter().any(|pause| *pause > Duration::from_millis(700)));
        backoff.reset();
        assert!(backoff.pause() <= FIRST);
    }
}
