//! Rates with a burst of one period's worth, as the generic cell rate algorithm: one number for each, no timer.

use std::{collections::HashMap, hash::Hash, num::NonZeroU32, time::Duration};

use parking_lot::Mutex;
use tokio::time::Instant;

/// So many in a period, and as many at once after a quiet one.
#[derive(Debug, Clone, Copy)]
struct Gcra {
    interval: Duration,
    burst: Duration,
}

impl Gcra {
    fn new(count: NonZeroU32, period: Duration) -> Self {
        let interval = period / count.get();
        Self { interval, burst: interval * (count.get() - 1) }
    }

    /// How long it is until one can be taken, where everything taken so far would have been taken at an even pace at
    /// `paid_until`.
    fn wait(self, paid_until: Instant, now: Instant) -> Option<Duration> {
        let ahead = paid_until.saturating_duration_since(now);
        (ahead > self.burst).then(|| ahead - self.burst)
    }

    fn pay(self, paid_until: Instant, now: Instant) -> Instant {
        now.max(paid_until) + self.interval
    }
}

/// Lets through so many in a period, whoever they are.
pub(super) struct Rate {
    gcra: Gcra,
    paid_until: Mutex<Instant>,
}

impl Rate {
    pub(super) fn new(count: NonZeroU32, period: Duration) -> Self {
        Self { gcra: Gcra::new(count, period), paid_until: Mutex::new(Instant::now()) }
    }

    /// Takes one, or says how long it is until one can be taken.
    pub(super) fn take(&self) -> Result<(), Duration> {
        let now = Instant::now();
        let mut paid_until = self.paid_until.lock();
        match self.gcra.wait(*paid_until, now) {
            Some(wait) => Err(wait),
            None => {
                *paid_until = self.gcra.pay(*paid_until, now);
                Ok(())
            }
        }
    }
}

/// When keys are looked through for the first time for those that need not be remembered.
const FIRST_SWEEP: usize = 1024;

/// Lets through so many in a period for each key. A key whose last burst is paid is as good as one that never came and is
/// forgotten, so what is remembered is bounded by how many can come in a period.
pub(super) struct Rates<K> {
    gcra: Gcra,
    paid: Mutex<Paid<K>>,
}

struct Paid<K> {
    until: HashMap<K, Instant>,
    /// At this size the next sweep is due. Twice what the last one left, so that each entry is looked at about once.
    sweep_at: usize,
}

impl<K: Eq + Hash + Clone> Rates<K> {
    pub(super) fn new(count: NonZeroU32, period: Duration) -> Self {
        let paid = Paid { until: HashMap::new(), sweep_at: FIRST_SWEEP };
        Self { gcra: Gcra::new(count, period), paid: Mutex::new(paid) }
    }

    /// Takes one for this key, or says how long it is until one can be taken.
    pub(super) fn take(&self, key: &K) -> Result<(), Duration> {
        self.ask(key)?;
        self.charge(key);
        Ok(())
    }

    /// Whether one could be taken, without taking it.
    pub(super) fn ask(&self, key: &K) -> Result<(), Duration> {
        let paid = self.paid.lock();
        let wait = paid.until.get(key).and_then(|until| self.gcra.wait(*until, Instant::now()));
        wait.map_or(Ok(()), Err)
    }

    /// Takes one, whether there is room or not: what happened already is counted.
    pub(super) fn charge(&self, key: &K) {
        let now = Instant::now();
        let mut paid = self.paid.lock();
        if paid.until.len() >= paid.sweep_at {
            paid.until.retain(|_, until| *until > now);
            paid.sweep_at = (paid.until.len() * 2).max(FIRST_SWEEP);
        }
        let until = paid.until.entry(key.clone()).or_insert(now);
        *until = self.gcra.pay(*until, now);
    }

    #[cfg(test)]
    pub(super) fn remembered(&self) -> usize {
        self.paid.lock().until.len()
    }
}

/// How far one connection has paid for what it sent: a word that whoever owns the connection keeps for it. It begins with
/// nothing sent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pace {
    /// Microseconds on the clock of its [`Paces`].
    paid_until: u64,
}

/// So many in a period for each of many whose [`Pace`] is kept elsewhere: nothing is shared, nothing is locked.
pub(super) struct Paces {
    gcra: Gcra,
    since: Instant,
}

impl Paces {
    pub(super) fn new(count: NonZeroU32, period: Duration) -> Self {
        Self { gcra: Gcra::new(count, period), since: Instant::now() }
    }

    /// How long it is until this connection may send one.
    pub(super) fn ask(&self, pace: Pace) -> Result<(), Duration> {
        self.gcra.wait(self.paid(pace), Instant::now()).map_or(Ok(()), Err)
    }

    pub(super) fn charge(&self, pace: &mut Pace) {
        let paid = self.gcra.pay(self.paid(*pace), Instant::now());
        pace.paid_until = u64::try_from((paid - self.since).as_micros()).unwrap_or(u64::MAX);
    }

    fn paid(&self, pace: Pace) -> Instant {
        self.since + Duration::from_micros(pace.paid_until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn count(count: u32) -> NonZeroU32 {
        NonZeroU32::new(count).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn each_key_has_its_own_rate() {
        let rates = Rates::new(count(2), SECOND);
        assert_eq!((rates.take(&"a"), rates.take(&"a"), rates.take(&"b")), (Ok(()), Ok(()), Ok(())));
        let wait = rates.take(&"a").unwrap_err();
        assert!(wait > Duration::ZERO && wait <= SECOND / 2, "{wait:?}");
        assert!(rates.ask(&"b").is_ok() && rates.ask(&"a").is_err());
        tokio::time::advance(wait).await;
        assert_eq!(rates.take(&"a"), Ok(()));
        assert!(rates.take(&"a").is_err(), "asking has taken nothing, and one was paid");
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_has_paid_is_forgotten() {
        let rates = Rates::new(count(2), SECOND);
        for _ in 0..20 {
            (0..FIRST_SWEEP).for_each(|key| rates.charge(&key));
            tokio::time::advance(SECOND).await;
            (0..FIRST_SWEEP).for_each(|key| rates.charge(&(key + FIRST_SWEEP)));
            tokio::time::advance(SECOND).await;
            assert!(rates.remembered() <= 2 * FIRST_SWEEP, "{}", rates.remembered());
        }
        tokio::time::advance(SECOND).await;
        rates.charge(&usize::MAX);
        assert!(rates.remembered() <= FIRST_SWEEP + 1, "{}", rates.remembered());
    }

    #[tokio::test(start_paused = true)]
    async fn a_pace_is_one_connections_own() {
        let paces = Paces::new(count(10), SECOND);
        let (mut fast, mut calm) = (Pace::default(), Pace::default());
        tokio::time::advance(Duration::from_secs(3600)).await;
        for _ in 0..10 {
            assert_eq!(paces.ask(fast), Ok(()));
            paces.charge(&mut fast);
        }
        let wait = paces.ask(fast).unwrap_err();
        assert!(wait > Duration::ZERO && wait <= SECOND / 10, "{wait:?}");
        paces.charge(&mut calm);
        assert_eq!(paces.ask(calm), Ok(()));
        tokio::time::advance(wait).await;
        assert_eq!(paces.ask(fast), Ok(()));
        assert_eq!(size_of::<Pace>(), 8);
    }
}
