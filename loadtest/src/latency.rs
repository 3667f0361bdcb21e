//! Latencies: histograms with high dynamic range, in nanoseconds, and their way from process to process.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

/// The longest latency that is told apart: a minute. Anything longer counts as that.
const LONGEST: u64 = 60_000_000_000;

/// A histogram of durations.
#[derive(Debug, Clone)]
pub(crate) struct Latency(Histogram<u64>);

/// Where a histogram is not empty: pairs of nanoseconds and count.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Sparse(pub(crate) Vec<(u64, u64)>);

/// What people ask of a histogram, in milliseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Summary {
    pub(crate) count: u64,
    pub(crate) min_ms: f64,
    pub(crate) mean_ms: f64,
    pub(crate) p50_ms: f64,
    pub(crate) p90_ms: f64,
    pub(crate) p99_ms: f64,
    pub(crate) p999_ms: f64,
    pub(crate) max_ms: f64,
}

impl Default for Latency {
    fn default() -> Self {
        // Three digits: 0.1 % is finer than any two runs agree.
        Self(Histogram::new_with_bounds(1, LONGEST, 3).expect("the bounds are in order"))
    }
}

impl Latency {
    pub(crate) fn record(&mut self, duration: Duration) {
        self.0.saturating_record(u64::try_from(duration.as_nanos()).unwrap_or(LONGEST));
    }

    pub(crate) fn count(&self) -> u64 {
        self.0.len()
    }

    pub(crate) fn clear(&mut self) {
        self.0.reset();
    }

    pub(crate) fn add(&mut self, other: &Self) {
        self.0.add(&other.0).expect("both have the same bounds");
    }

    pub(crate) fn sparse(&self) -> Sparse {
        Sparse(self.0.iter_recorded().map(|value| (value.value_iterated_to(), value.count_at_value())).collect())
    }

    pub(crate) fn add_sparse(&mut self, sparse: &Sparse) {
        for (value, count) in &sparse.0 {
            self.0.saturating_record_n(*value, *count);
        }
    }

    pub(crate) fn percentile_ms(&self, percentile: f64) -> f64 {
        milliseconds(self.0.value_at_percentile(percentile))
    }

    pub(crate) fn summary(&self) -> Summary {
        Summary {
            count: self.0.len(),
            min_ms: if self.0.is_empty() { 0.0 } else { milliseconds(self.0.min()) },
            mean_ms: self.0.mean() / 1e6,
            p50_ms: self.percentile_ms(50.0),
            p90_ms: self.percentile_ms(90.0),
            p99_ms: self.percentile_ms(99.0),
            p999_ms: self.percentile_ms(99.9),
            max_ms: milliseconds(self.0.max()),
        }
    }
}

fn milliseconds(nanoseconds: u64) -> f64 {
    nanoseconds as f64 / 1e6
}

/// The middle of some figures, and how far they lie apart.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
    pub(crate) runs: usize,
}

impl Spread {
    /// `None` where there is nothing.
    pub(crate) fn of(figures: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut sorted: Vec<f64> = figures.into_iter().filter(|figure| figure.is_finite()).collect();
        sorted.sort_by(f64::total_cmp);
        let (first, last) = (*sorted.first()?, *sorted.last()?);
        let middle = sorted.len() / 2;
        let median =
            if sorted.len() % 2 == 1 { sorted[middle] } else { f64::midpoint(sorted[middle - 1], sorted[middle]) };
        Some(Self { median, min: first, max: last, runs: sorted.len() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_histogram_survives_its_journey() {
        let mut latency = Latency::default();
        (1..=1000_u64).for_each(|micros| latency.record(Duration::from_micros(micros)));
        latency.record(Duration::from_secs(3600));
        let mut other = Latency::default();
        other.add_sparse(&latency.sparse());
        assert_eq!(other.sparse(), latency.sparse());
        let summary = other.summary();
        assert_eq!(summary.count, 1001);
        assert!((summary.p50_ms - 0.501).abs() < 0.002, "{summary:?}");
        assert!((summary.max_ms - 60_000.0).abs() < 100.0, "{summary:?}");
        other.add(&latency);
        assert_eq!(other.count(), 2002);
        other.clear();
        assert_eq!(other.summary(), Summary::default());
    }

    #[test]
    fn medians() {
        let spread = |figures: &[f64]| Spread::of(figures.iter().copied()).map(|s| (s.median, s.min, s.max, s.runs));
        assert_eq!(spread(&[3.0, 1.0, 2.0]), Some((2.0, 1.0, 3.0, 3)));
        assert_eq!(spread(&[4.0, 1.0, 2.0, f64::NAN, 3.0]), Some((2.5, 1.0, 4.0, 4)));
        assert_eq!(spread(&[]), None);
    }
}
