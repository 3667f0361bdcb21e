//! Which channels there are, who hears them and which one is published to next.

use rand::{Rng, SeedableRng, rngs::SmallRng};
use serde::{Deserialize, Serialize};

/// The channels of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Channels {
    /// What their names begin with; a number follows.
    pub(crate) prefix: String,
    /// The number of the first.
    pub(crate) first: u32,
    pub(crate) count: u32,
    pub(crate) distribution: Distribution,
}

/// The number of the channel that everybody hears who hears himself, whatever his own is.
pub(crate) const BROADCAST: u32 = u32::MAX;

/// How subscribers, and messages, spread over channels.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Distribution {
    /// One after the other.
    Even,
    /// Any, each as likely as the others.
    Random,
    /// The n-th channel is picked with a likelihood of 1/n to this power.
    Zipf(f64),
}

impl Channels {
    /// One channel for all.
    pub(crate) fn one(prefix: &str) -> Self {
        Self { prefix: prefix.to_owned(), first: 0, count: 1, distribution: Distribution::Even }
    }

    /// What everybody hears beside his own channel.
    pub(crate) fn broadcast() -> Self {
        Self { first: BROADCAST, ..Self::one("") }
    }

    /// This one of them, alone.
    pub(crate) fn only(&self, channel: u32) -> Self {
        Self { first: channel, ..Self::one(&self.prefix) }
    }

    pub(crate) fn name(&self, channel: u32) -> String {
        if channel == BROADCAST { "broadcast".to_owned() } else { format!("{}{channel}", self.prefix) }
    }
}

/// How far each of some channels has got: the number of its next message.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Numbers {
    first: u32,
    next: Vec<u32>,
}

impl Numbers {
    /// All of them begin here.
    pub(crate) fn new(channels: &Channels, base: u32) -> Self {
        Self { first: channels.first, next: vec![base; channels.count.max(1) as usize] }
    }

    /// The next message's of a channel.
    pub(crate) fn of(&self, channel: u32) -> u32 {
        // What everybody hears is published alone.
        let channel = if self.first == BROADCAST { BROADCAST } else { channel };
        let place = channel.checked_sub(self.first).and_then(|place| self.next.get(place as usize));
        place.copied().unwrap_or_default()
    }

    /// Gives a number away.
    pub(crate) fn take(&mut self, channel: u32) -> u32 {
        let next = &mut self.next[(channel - self.first) as usize];
        *next += 1;
        *next - 1
    }

    /// A number that none has got to.
    pub(crate) fn end(&self) -> u32 {
        self.next.iter().max().copied().unwrap_or_default()
    }
}

/// Picks channels.
#[derive(Debug)]
pub(crate) struct Chooser {
    first: u32,
    count: u32,
    random: SmallRng,
    how: How,
}

#[derive(Debug)]
enum How {
    Even(u32),
    Random,
    /// The likelihoods, summed up.
    Sums(Vec<f64>),
}

impl Chooser {
    /// The same `seed` picks the same channels.
    pub(crate) fn new(channels: &Channels, seed: u64) -> Self {
        let count = channels.count.max(1);
        let how = match channels.distribution {
            // The seed is where a worker's share of the subscribers begins.
            Distribution::Even => How::Even((seed % u64::from(count)) as u32),
            Distribution::Random => How::Random,
            Distribution::Zipf(exponent) => {
                let weights = (1..=count).map(|rank| f64::from(rank).powf(-exponent));
                let sums = weights.scan(0.0, |sum, weight| {
                    *sum += weight;
                    Some(*sum)
                });
                How::Sums(sums.collect())
            }
        };
        Self { first: channels.first, count, random: SmallRng::seed_from_u64(seed), how }
    }

    pub(crate) fn next(&mut self) -> u32 {
        let place = match &mut self.how {
            How::Even(next) => std::mem::replace(next, (*next + 1) % self.count),
            How::Random => self.random.random_range(0..self.count),
            How::Sums(sums) => {
                let total = *sums.last().expect("there is at least one channel");
                let point = self.random.random_range(0.0..total);
                sums.partition_point(|sum| *sum <= point).min(sums.len() - 1) as u32
            }
        };
        self.first + place
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(distribution: Distribution, count: u32, picks: usize) -> Vec<usize> {
        let channels = Channels { count, distribution, ..Channels::one("c/") };
        let mut chooser = Chooser::new(&channels, 1);
        let mut counts = vec![0; count as usize];
        (0..picks).for_each(|_| counts[chooser.next() as usize] += 1);
        counts
    }

    #[test]
    fn even_is_even() {
        assert_eq!(counts(Distribution::Even, 4, 40), [10; 4]);
        assert_eq!(Channels::one("load/").name(0), "load/0");
    }

    #[test]
    fn numbers_are_those_of_their_channels() {
        let mut few = Numbers::new(&Channels { first: 5, count: 2, ..Channels::one("c/") }, 10);
        assert_eq!((few.take(6), few.take(6), few.take(5)), (10, 11, 10));
        assert_eq!([4, 5, 6, 7].map(|channel| few.of(channel)), [0, 11, 12, 0]);
        assert_eq!(few.end(), 12);
        let mut all = Numbers::new(&Channels::broadcast(), 3);
        assert_eq!(Chooser::new(&Channels::broadcast(), 9).next(), BROADCAST);
        assert_eq!(
            (all.take(BROADCAST), all.of(7), Channels::broadcast().name(BROADCAST)),
            (3, 4, "broadcast".to_owned())
        );
        assert_eq!(Chooser::new(&Channels::one("c/").only(8), 0).next(), 8);
    }

    #[test]
    fn random_reaches_all() {
        assert!(counts(Distribution::Random, 10, 10_000).iter().all(|count| (800..1200).contains(count)));
    }

    #[test]
    fn zipf_is_steep() {
        let counts = counts(Distribution::Zipf(1.0), 100, 100_000);
        // 1 / H(100) is 19.3 %, and the tenth channel has a tenth of that.
        assert!((18_500..20_000).contains(&counts[0]), "{counts:?}");
        assert!((1_700..2_200).contains(&counts[9]), "{counts:?}");
        assert!(counts[99] > 100, "{counts:?}");
    }
}
