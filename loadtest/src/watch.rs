//! What is seen while a run goes on: the series of samples for the report, and the line on a terminal.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use serde::{Deserialize, Serialize};

use crate::{clock::Time, control::Tick, latency::Latency, procfs::Usage};

/// How often the machine is looked at.
const SAMPLE: Duration = Duration::from_millis(500);

/// How often memory is, which costs the kernel a walk through every page of a process.
const MEMORY_EVERY: usize = 4;

/// One look at a run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Sample {
    /// Seconds since the run began.
    pub(crate) at: f64,
    pub(crate) open: usize,
    pub(crate) delivered_per_second: f64,
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
    pub(crate) max_ms: f64,
    /// Cores that the server's process tree was busy on.
    pub(crate) server_cores: f64,
    pub(crate) generator_cores: f64,
    pub(crate) pss_mib: f64,
}

/// Watches one run.
pub(crate) struct Watch {
    server: Vec<u32>,
    generator: Vec<u32>,
    begun: Time,
    last: Time,
    server_cpu: u64,
    generator_cpu: u64,
    delivered: u64,
    ticks: Vec<Tick>,
    interval: Latency,
    samples: Vec<Sample>,
    bar: Option<ProgressBar>,
}

impl Watch {
    /// Watches these processes; a line is shown where somebody looks, with a bar for the connections that are to be open.
    pub(crate) fn new(server: Vec<u32>, generator: Vec<u32>, show: Option<(&str, u32)>) -> Self {
        let now = Time::now();
        let bar = show.map(|(title, connections)| {
            let bar = ProgressBar::new(u64::from(connections));
            let style = ProgressStyle::with_template("{spinner} {prefix} [{elapsed}] {bar:20} {msg}");
            let style = style.expect("it is a template");
            bar.set_style(style);
            bar.set_prefix(title.to_owned());
            bar
        });
        let (server_cpu, generator_cpu) = (Usage::cpu_of(&server), Usage::cpu_of(&generator));
        Self {
            server,
            generator,
            begun: now,
            last: now,
            server_cpu,
            generator_cpu,
            delivered: 0,
            ticks: Vec::new(),
            interval: Latency::default(),
            samples: Vec::new(),
            bar,
        }
    }

    /// The server's processes are others now.
    pub(crate) fn follow(&mut self, server: &[u32]) {
        server.clone_into(&mut self.server);
        self.server_cpu = Usage::cpu_of(server);
    }

    /// A worker has said how it goes.
    pub(crate) fn tick(&mut self, worker: usize, tick: Tick) {
        self.interval.add_sparse(&tick.latency);
        if self.ticks.len() <= worker {
            self.ticks.resize(worker + 1, Tick::default());
        }
        self.ticks[worker] = tick;
    }

    /// Looks at the machine when it is time.
    pub(crate) fn look(&mut self) {
        let now = Time::now();
        if now.since(self.last) < SAMPLE {
            return;
        }
        let seconds = now.seconds_since(self.last);
        let (server, generator) = (Usage::cpu_of(&self.server), Usage::cpu_of(&self.generator));
        let delivered = self.ticks.iter().map(|tick| tick.delivered).sum::<u64>();
        let cores = |now: u64, before: u64| now.saturating_sub(before) as f64 / 1e9 / seconds;
        let memory = self.samples.len().is_multiple_of(MEMORY_EVERY);
        let pss = if memory { Usage::of(&self.server).pss as f64 / f64::from(1 << 20) } else { self.last_pss() };
        let sample = Sample {
            at: now.seconds_since(self.begun),
            open: self.ticks.iter().map(|tick| tick.open).sum(),
            delivered_per_second: delivered.saturating_sub(self.delivered) as f64 / seconds,
            p50_ms: self.interval.percentile_ms(50.0),
            p99_ms: self.interval.percentile_ms(99.0),
            max_ms: self.interval.percentile_ms(100.0),
            server_cores: cores(server, self.server_cpu),
            generator_cores: cores(generator, self.generator_cpu),
            pss_mib: pss,
        };
        (self.last, self.server_cpu, self.generator_cpu, self.delivered) = (now, server, generator, delivered);
        self.interval.clear();
        self.show(&sample);
        self.samples.push(sample);
    }

    /// Samples so far.
    pub(crate) fn len(&self) -> usize {
        self.samples.len()
    }

    /// The most memory of the server since so many samples.
    pub(crate) fn peak_pss_since(&self, sample: usize) -> f64 {
        self.samples[sample..].iter().map(|sample| sample.pss_mib).fold(0.0, f64::max)
    }

    fn last_pss(&self) -> f64 {
        self.samples.last().map_or(0.0, |sample| sample.pss_mib)
    }

    fn show(&self, sample: &Sample) {
        let Some(bar) = &self.bar else { return };
        let pending: usize = self.ticks.iter().map(|tick| tick.pending).sum();
        let published: u64 = self.ticks.iter().map(|tick| tick.published).sum();
        bar.set_position(sample.open as u64);
        bar.set_message(format!(
            "{} open, {pending} connecting · {published} published · {:.0} deliveries/s · p50 {:.2} ms, p99 {:.2} ms · server {:.0} %, generator {:.0} % of a core",
            sample.open,
            sample.delivered_per_second,
            sample.p50_ms,
            sample.p99_ms,
            sample.server_cores * 100.0,
            sample.generator_cores * 100.0,
        ));
        bar.tick();
    }

    /// The series so far.
    pub(crate) fn finish(self) -> Vec<Sample> {
        if let Some(bar) = self.bar {
            bar.finish_and_clear();
        }
        self.samples
    }
}
