//! A rate with a burst of one second's worth, as the generic cell rate algorithm: one number, no timer.

use std::{num::NonZeroU32, time::Duration};

use parking_lot::Mutex;
use tokio::time::Instant;

/// Lets through so many a second.
pub(super) struct Rate {
    interval: Duration,
    burst: Duration,
    /// When everything taken so far would have been taken at an even pace.
    paid_until: Mutex<Instant>,
}

impl Rate {
    pub(super) fn new(per_second: NonZeroU32) -> Self {
        let interval = Duration::from_secs(1) / per_second.get();
        Self { interval, burst: interval * (per_second.get() - 1), paid_until: Mutex::new(Instant::now()) }
    }

    /// Takes one, or says how long it is until one can be taken.
    pub(super) fn take(&self) -> Result<(), Duration> {
        let now = Instant::now();
        let mut paid_until = self.paid_until.lock();
        let ahead = paid_until.saturating_duration_since(now);
        if ahead > self.burst {
            return Err(ahead - self.burst);
        }
        *paid_until = now.max(*paid_until) + self.interval;
        Ok(())
    }
}
