//! `--rate`: how many messages may go now.

use std::time::Duration;

use tokio::time::{Instant, sleep};

/// How much of a second's messages may go together. Timers have a grain of a millisecond, so that thousands a second
/// can only go some at a time.
const TOGETHER_SECONDS: f64 = 0.02;

/// Lets messages go at a rate, or at once where there is none.
///
/// What could not be sent in time is not made up for: the rate is what the bus is spared.
#[derive(Debug)]
pub(crate) struct Pace {
    per_second: Option<f64>,
    credit: f64,
    counted: Instant,
}

impl Pace {
    /// The first message may go at once.
    pub(crate) fn new(per_second: Option<f64>) -> Self {
        Self { per_second, credit: 1.0, counted: Instant::now() }
    }

    /// Waits until at least one message may go, and returns how many of those that are wanted. Cancel safe.
    pub(crate) async fn take(&mut self, wanted: usize) -> usize {
        let Some(rate) = self.per_second else { return wanted };
        loop {
            let now = Instant::now();
            let most = (rate * TOGETHER_SECONDS).max(1.0);
            self.credit = (self.credit + (now - self.counted).as_secs_f64() * rate).min(most);
            self.counted = now;
            // A timer may end a rounding error before the message is due.
            let due = (self.credit + 1e-6).floor();
            if due >= 1.0 {
                let taken = wanted.min(due as usize);
                self.credit -= taken as f64;
                return taken;
            }
            // A rate of one in a million years must not overflow; it is asked again after a day.
            sleep(Duration::from_secs_f64(((1.0 - self.credit) / rate).clamp(0.0, 86_400.0))).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn seconds_for(rate: f64, messages: usize) -> f64 {
        let (mut pace, begin, mut sent) = (Pace::new(Some(rate)), Instant::now(), 0);
        while sent < messages {
            sent += pace.take(messages - sent).await;
        }
        begin.elapsed().as_secs_f64()
    }

    #[tokio::test(start_paused = true)]
    async fn messages_go_at_the_rate() {
        assert!((seconds_for(10.0, 101).await - 10.0).abs() < 0.2);
        assert!((seconds_for(0.5, 3).await - 4.0).abs() < 0.1);
        let fast = seconds_for(50_000.0, 100_000).await;
        assert!((1.9..2.4).contains(&fast), "{fast}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_pause_is_not_made_up_for() {
        let mut pace = Pace::new(Some(10.0));
        sleep(Duration::from_secs(60)).await;
        assert_eq!(pace.take(1_000).await, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_rate_all_go_at_once() {
        assert_eq!(Pace::new(None).take(7).await, 7);
    }
}
