//! The shards' clock: read once per turn, and in ticks for everything that is not measured.

use std::time::Duration;

use crate::connection::Tick;

/// A moment.
#[expect(clippy::disallowed_types, reason = "this is the clock that the others are told to use")]
pub(crate) type Time = std::time::Instant;

/// How fine heartbeats and deadlines are. They are seconds long; finer ticks would wake idle shards more often.
const TICK: Duration = Duration::from_millis(100);

/// Counts ticks since it was made.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clock {
    start: Time,
}

impl Clock {
    pub(crate) fn new() -> Self {
        Self { start: Time::now() }
    }

    /// The tick that `time` lies in.
    pub(crate) fn tick(self, time: Time) -> Tick {
        ticks(time.saturating_duration_since(self.start))
    }

    /// When a tick begins.
    pub(crate) fn begin(self, tick: Tick) -> Time {
        self.start + TICK * tick
    }
}

/// A duration in whole ticks.
pub(crate) fn ticks(duration: Duration) -> Tick {
    // Half the range is 6.8 years: nothing here lasts longer, and sums do not overflow.
    Tick::try_from(duration.as_millis() / TICK.as_millis()).unwrap_or(Tick::MAX).min(Tick::MAX / 2)
}

/// An interval in ticks, at least one.
pub(crate) fn interval(duration: Duration) -> Tick {
    ticks(duration).max(1)
}
