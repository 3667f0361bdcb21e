//! One run: a server, workers, and the account of both. What all scenarios are made of.

mod account;

use std::{ops::Range, time::Duration};

use crate::{
    args::{Common, Scenario},
    channels::{Channels, Numbers},
    clock::Time,
    control::{Churn, Command, Door, Event, FeedPlan, Handshake, OpenPlan, Pace, Published, WorkerReport},
    failure::{Failure, Result},
    fleet::{Fleet, Offset, Whereabouts},
    procfs::{Machine, Usage},
    report::Report,
    server::Server,
    watch::Watch,
};

/// Handshakes that a worker has under way at once, unless a scenario says otherwise.
pub(crate) const PENDING: u32 = 64;
/// How long subscribers may take to get what was published last.
const SETTLE: Duration = Duration::from_secs(10);
/// How much longer than it should something may take.
const GRACE: Duration = Duration::from_secs(60);
/// How long opening a connection, and a delivery, may take when there are very many.
const CONNECTION: Duration = Duration::from_millis(1);
const DELIVERY: Duration = Duration::from_micros(50);
/// Bytes are of no interest between two publications; numbers must differ.
const BETWEEN: u32 = 1000;

/// A run under way.
pub(crate) struct Run<'a> {
    pub(crate) common: &'a Common,
    pub(crate) server: &'a mut Server,
    pub(crate) fleet: Fleet,
    pub(crate) watch: Watch,
    pub(crate) report: Report,
    offsets: Vec<Offset>,
    /// Connections so far, and those of the first worker.
    opened: u32,
    pub(crate) of_first: u32,
    base: u32,
}

/// What is to be opened.
#[derive(Debug, Clone)]
pub(crate) struct Opening {
    pub(crate) channels: Channels,
    pub(crate) count: u32,
    pub(crate) rate: Option<f64>,
    pub(crate) pending: u32,
    pub(crate) secret: Option<String>,
    pub(crate) reconnect: bool,
    pub(crate) stalled_percent: u32,
    /// The workers that hold them.
    pub(crate) part: Part,
    /// Another door than that of the command line, and how it is asked for.
    pub(crate) by: Option<(Door, Handshake)>,
}

/// Which workers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    All,
    /// The one that publishes.
    First,
    /// Those that do not, where there are such.
    Others,
}

impl Part {
    fn of(self, workers: usize) -> Range<usize> {
        match self {
            Self::First => 0..1,
            Self::Others if workers > 1 => 1..workers,
            Self::Others | Self::All => 0..workers,
        }
    }
}

impl Opening {
    pub(crate) fn of(channels: Channels, count: u32) -> Self {
        Self {
            channels,
            count,
            rate: None,
            pending: PENDING,
            secret: None,
            reconnect: false,
            stalled_percent: 0,
            part: Part::All,
            by: None,
        }
    }

    /// How long it may take.
    fn patience(&self) -> Duration {
        let rated = self.rate.map_or(0.0, |rate| f64::from(self.count) / rate);
        Duration::from_secs_f64(rated) + GRACE + CONNECTION * self.count
    }
}

/// What somebody used while something was done.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Spent {
    pub(crate) seconds: f64,
    /// Seconds of CPU.
    pub(crate) server: f64,
    pub(crate) bus: f64,
    pub(crate) generator: f64,
}

/// Where the meters stood.
pub(crate) struct Meter {
    at: Time,
    server: u64,
    bus: u64,
    generator: u64,
}

impl<'a> Run<'a> {
    pub(crate) fn start(scenario: &'a Scenario, server: &'a mut Server, show: bool) -> Result<Self> {
        let common = scenario.common();
        let workers = scenario.workers();
        let mut fleet = Fleet::start(workers, &Whereabouts::of(common)?)?;
        let title = format!("{} · {}", scenario.name(), server.name);
        let mut watch =
            Watch::new(server.pids.clone(), fleet.pids(), show.then_some((title.as_str(), scenario.connections())));
        let offsets = fleet.offsets(&mut watch)?;
        let mut report = Report {
            scenario: scenario.name().to_owned(),
            server: server.name.clone(),
            at: Time::now().to_string(),
            machine: Machine::this(),
            ..Report::default()
        };
        report.parameter("connections", common.connections);
        report.parameter("payload_bytes", common.payload);
        report.parameter("workers", workers);
        if scenario.nodes() > 1 {
            report.parameter("nodes", scenario.nodes());
        }
        let error = offsets.iter().map(|offset| offset.error).max().unwrap_or(0);
        if error > 0 {
            report.figure("clock_error_ms", error as f64 / 1e6);
        }
        if server.pids.is_empty() {
            report.warnings.push("nobody said the server's --pid: its CPU and memory are not known".to_owned());
        }
        Ok(Self { common, server, fleet, watch, report, offsets, opened: 0, of_first: 0, base: 0 })
    }

    pub(crate) fn meter(&self) -> Meter {
        Meter {
            at: Time::now(),
            server: Usage::cpu_of(&self.server.pids),
            bus: Usage::cpu_of(&self.server.bus_pids),
            generator: Usage::cpu_of(&self.fleet.pids()),
        }
    }

    pub(crate) fn spent_since(&self, meter: &Meter) -> Spent {
        let now = self.meter();
        let seconds = |now: u64, before: u64| now.saturating_sub(before) as f64 / 1e9;
        Spent {
            seconds: now.at.seconds_since(meter.at),
            server: seconds(now.server, meter.server),
            bus: seconds(now.bus, meter.bus),
            generator: seconds(now.generator, meter.generator),
        }
    }

    /// Begins to open connections, shared out among the workers.
    pub(crate) fn begin_to_open(&mut self, opening: &Opening) -> Result<()> {
        let authorities = self.common.authorities()?;
        let part = opening.part.of(self.fleet.len());
        let workers = part.len() as u32;
        let (door, handshake) = match &opening.by {
            Some((door, handshake)) => (*door, handshake.clone()),
            None => (self.common.door, self.server.profile.handshake(self.common.door)?.clone()),
        };
        for (place, worker) in part.enumerate() {
            let share = |place: usize| (u64::from(opening.count) * place as u64 / u64::from(workers)) as u32;
            let (first, until) = (share(place), share(place + 1));
            if worker == 0 {
                self.of_first = until - first;
            }
            let clock = |worker: usize| self.offsets[worker].nanoseconds;
            let plan = OpenPlan {
                targets: self.server.targets.clone(),
                door,
                handshake: handshake.clone(),
                channels: opening.channels.clone(),
                first,
                count: until - first,
                rate: opening.rate.map(|rate| rate / f64::from(workers)),
                pending: opening.pending,
                source: (1 + worker % 250) as u8,
                payload: self.common.payload,
                secret: opening.secret.clone(),
                authorities: authorities.clone(),
                reconnect: opening.reconnect,
                stalled_percent: opening.stalled_percent,
                patience: opening.patience(),
                clock_offset: clock(worker) - clock(0),
            };
            self.fleet.tell(worker, &Command::Open(Box::new(plan)))?;
        }
        self.opened += opening.count;
        Ok(())
    }

    /// Waits until they are open; how many are.
    pub(crate) fn wait_opened(&mut self, opening: &Opening) -> Result<usize> {
        let patience = opening.patience() + GRACE;
        let pick = |event| if let Event::Opened { open, failed } = event { Some((open, failed)) } else { None };
        let part: Vec<usize> = opening.part.of(self.fleet.len()).collect();
        let opened = self.fleet.wait(&part, "connections are open", patience, &mut self.watch, pick)?;
        let total: usize = opened.iter().map(|(open, _)| open).sum();
        for (reason, count) in opened.into_iter().flat_map(|(_, failed)| failed) {
            *self.report.failed.entry(reason).or_default() += count;
        }
        if total == 0 {
            self.server.check()?;
            let reasons = crate::report::table::reasons(&self.report.failed);
            return Err(Failure::unavailable(format!("no connection came to stand: {reasons}")));
        }
        // Those came back until they were let in, or until the end, which has a name of its own.
        let failed = self.report.failed.iter().filter(|(why, _)| !why.passes());
        let failed: u64 = failed.map(|(_, count)| count).sum();
        if failed > 0 && !opening.reconnect {
            self.report.warnings.push(format!("{failed} connections did not come to stand"));
        }
        Ok(total)
    }

    /// Lets all that was opened last break, and waits until it has come back.
    pub(crate) fn again(&mut self, opening: &Opening) -> Result<usize> {
        let part = opening.part.of(self.fleet.len());
        let rate = opening.rate.map(|rate| rate / part.len() as f64);
        let again = Command::Again { rate, pending: opening.pending, patience: opening.patience() };
        part.clone().try_for_each(|worker| self.fleet.tell(worker, &again))?;
        self.wait_opened(opening)
    }

    /// Those who are to stall do from now on.
    pub(crate) fn stall(&mut self) -> Result<()> {
        self.fleet.tell_all(&Command::Stall)
    }

    pub(crate) fn open(&mut self, opening: &Opening) -> Result<usize> {
        self.begin_to_open(opening)?;
        self.wait_opened(opening)
    }

    /// A plan to publish; a window counts what reaches the first worker.
    pub(crate) fn feed(&self, channels: Channels, pace: Pace, duration: Duration) -> Result<FeedPlan> {
        let (via, targets) = self.server.via.clone().ok_or_else(|| Failure::usage("nobody said where to publish"))?;
        let Common { payload, publishers, depth, batch, .. } = *self.common;
        Ok(FeedPlan {
            via,
            targets,
            channels,
            payload,
            pace,
            duration,
            connections: publishers,
            depth,
            batch,
            base: self.base,
        })
    }

    /// Begins to count, and to publish.
    pub(crate) fn begin_to_publish(&mut self, plan: &FeedPlan) -> Result<()> {
        self.fleet.tell_all(&Command::Begin { base: plan.base })?;
        // A worker that begins later than the publisher would miss what it was sent before.
        let pick = |event| if let Event::Begun = event { Some(()) } else { None };
        self.fleet.wait_all("workers begin", GRACE, &mut self.watch, pick)?;
        self.fleet.tell(0, &Command::Publish(Box::new(plan.clone())))
    }

    /// Waits until all is published and has arrived.
    pub(crate) fn wait_published(&mut self, patience: Duration) -> Result<Published> {
        let pick = |event| if let Event::Published(published) = event { Some(published) } else { None };
        let mut all = self.fleet.wait(&[0], "messages are published", patience + GRACE, &mut self.watch, pick)?;
        let published = all.remove(0);
        self.settle(&published.numbers)?;
        self.base = published.numbers.end() + BETWEEN;
        Ok(published)
    }

    fn settle(&mut self, published: &Numbers) -> Result<()> {
        let patience = SETTLE + DELIVERY * self.opened;
        self.fleet.tell_all(&Command::Settle { published: published.clone(), patience })?;
        let pick = |event| if let Event::Settled { complete } = event { Some(complete) } else { None };
        self.fleet.wait_all("messages arrive", patience + GRACE, &mut self.watch, pick)?;
        Ok(())
    }

    /// Publishes what is not measured.
    pub(crate) fn warm_up(&mut self, plan: &FeedPlan) -> Result<()> {
        if self.common.warm_up.is_zero() {
            return Ok(());
        }
        let plan = FeedPlan { duration: self.common.warm_up, ..plan.clone() };
        self.begin_to_publish(&plan)?;
        let published = self.wait_published(plan.duration)?;
        // The accounts of the warm-up are closed, and nobody looks at them.
        self.workers_report(&published.numbers)?;
        Ok(())
    }

    /// Publishes and measures; `meanwhile` does what else there is to do, and ends the publication where it has no end.
    pub(crate) fn measure(
        &mut self,
        plan: &FeedPlan,
        meanwhile: impl FnOnce(&mut Self) -> Result<()>,
    ) -> Result<Spent> {
        let plan = FeedPlan { base: self.base, ..plan.clone() };
        let meter = self.meter();
        self.begin_to_publish(&plan)?;
        meanwhile(self)?;
        let published = self.wait_published(plan.duration)?;
        let spent = self.spent_since(&meter);
        let reports = self.workers_report(&published.numbers)?;
        let delivered = self.account(&published, &reports);
        self.account_spent(spent, delivered, &published, matches!(plan.pace, Pace::Rate(_)));
        Ok(spent)
    }

    pub(crate) fn churn(&mut self, churn: Churn) -> Result<()> {
        self.fleet.tell_all(&Command::Churn(churn))
    }

    /// Ends publishing, coming and going.
    pub(crate) fn stop(&mut self) -> Result<()> {
        self.fleet.tell_all(&Command::Stop)
    }

    pub(crate) fn workers_report(&mut self, published: &Numbers) -> Result<Vec<WorkerReport>> {
        self.fleet.tell_all(&Command::Report { published: published.clone() })?;
        let pick = |event| if let Event::Report(report) = event { Some(*report) } else { None };
        self.fleet.wait_all("workers report", GRACE + DELIVERY * self.opened, &mut self.watch, pick)
    }

    /// Closes everything, and gives the report.
    pub(crate) fn finish(mut self) -> Result<Report> {
        self.server.check()?;
        let usage = Usage::of(&self.server.pids);
        if !self.server.pids.is_empty() {
            self.report.figure("server_rss_mib", usage.rss as f64 / f64::from(1 << 20));
            self.report.figure("server_pss_mib", usage.pss as f64 / f64::from(1 << 20));
        }
        self.fleet.tell_all(&Command::Close)?;
        let pick = |event| if let Event::Closed = event { Some(()) } else { None };
        self.fleet.wait_all("connections are closed", GRACE + CONNECTION * self.opened, &mut self.watch, pick)?;
        if !self.report.audit.is_clean() {
            let audit = self.report.audit;
            self.report.warnings.push(format!(
                "{} lost, {} duplicates, {} out of order, {} strays",
                audit.lost, audit.duplicates, audit.out_of_order, audit.strays
            ));
        }
        self.report.series = self.watch.finish();
        Ok(self.report)
    }
}
