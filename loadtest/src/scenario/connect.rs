//! A storm of new connections, and those who are there already.

use std::time::Duration;

use crate::{
    args::Token,
    channels::{Channels, Numbers},
    control::Pace,
    failure::Result,
    latency::Latency,
    report::Report,
    run::{Opening, Part, Run, Spent},
    scenario::own_channels,
};

/// What bystanders hear meanwhile: the calm of the other scenarios.
const CALM_RATE: f64 = 20.0;

/// How they come.
#[derive(Debug, Clone, Copy)]
pub(super) struct Storm {
    /// A second; as many as are taken otherwise.
    pub(super) rate: Option<f64>,
    /// Handshakes under way at once, for each worker.
    pub(super) pending: u32,
    /// They were there before, and break.
    pub(super) again: bool,
}

/// Opens connections as fast as asked for.
pub(super) fn connect(mut run: Run<'_>, storm: &Storm, bystanders: u32, token: &Token) -> Result<Report> {
    let secret = token.secret()?;
    run.report.parameter("token", secret.is_some());
    let rate = storm.rate.map_or_else(|| "as many as are taken".to_owned(), |rate| rate.to_string());
    run.report.parameter("rate_per_second", rate);
    run.report.parameter("again", storm.again);
    let count = run.common.connections;
    let Storm { rate, pending, .. } = *storm;
    // Number 0 is the channel of the bystanders.
    let channels = Channels { first: 1, ..own_channels(token.token, count) };
    let opening = Opening { secret, rate, pending, ..Opening::of(channels, count) };
    if bystanders > 0 {
        return with_bystanders(run, storm, &opening, bystanders);
    }
    if storm.again {
        in_peace(&mut run, &opening)?;
    }
    let (open, spent) = blow(&mut run, storm, &opening)?;
    account(&mut run, open, &spent, spent.server);
    run.report.figure("generator_cores", spent.generator / spent.seconds);
    connect_latency(&mut run)?;
    run.finish()
}

/// The same while others are listening: first in calm, then in the storm.
fn with_bystanders(mut run: Run<'_>, storm: &Storm, opening: &Opening, bystanders: u32) -> Result<Report> {
    run.report.parameter("bystanders", bystanders);
    let channels = Channels::one("load/");
    // Whoever publishes, and tells what is late, has no part in the storm, where there are others for it.
    let shared = run.fleet.len() == 1;
    let already = run.open(&Opening { part: Part::First, ..Opening::of(channels.clone(), bystanders) })?;
    let opening = &Opening { part: Part::Others, ..opening.clone() };
    if storm.again {
        in_peace(&mut run, opening)?;
    }
    let calm = run.feed(channels.clone(), Pace::Rate(CALM_RATE), run.common.duration)?;
    run.warm_up(&calm)?;
    let resting = run.measure(&calm, |_| Ok(()))?;
    let before = run.report.latency.unwrap_or_default();
    run.report.figure("calm_p50_ms", before.p50_ms);
    run.report.figure("calm_p99_ms", before.p99_ms);

    // It goes on until the storm is over, which nobody can know before.
    let during = run.feed(channels, Pace::Rate(CALM_RATE), Duration::from_secs(24 * 3600))?;
    let (mut open, mut spent) = (0, Spent::default());
    run.measure(&during, |run| {
        (open, spent) = blow(run, storm, opening)?;
        run.stop()
    })?;
    let came = if shared { open.saturating_sub(already) } else { open };
    // What the bystanders' messages cost anyhow is not the newcomers'.
    let own = spent.server - resting.server / resting.seconds.max(f64::EPSILON) * spent.seconds;
    account(&mut run, came, &spent, own.max(0.0));
    let after = run.report.latency.unwrap_or_default();
    run.report.figure("storm_p50_ms", after.p50_ms);
    run.report.figure("storm_p99_ms", after.p99_ms);
    run.report.figure("storm_over_calm_p99", after.p99_ms / before.p99_ms);
    run.finish()
}

/// Those who will be in the storm come before it, and nobody takes notice.
fn in_peace(run: &mut Run<'_>, opening: &Opening) -> Result<()> {
    run.open(&Opening { rate: None, ..opening.clone() })?;
    run.workers_report(&Numbers::default())?;
    Ok(())
}

/// The storm itself; how many are there after it.
fn blow(run: &mut Run<'_>, storm: &Storm, opening: &Opening) -> Result<(usize, Spent)> {
    let meter = run.meter();
    let open = if storm.again { run.again(opening)? } else { run.open(opening)? };
    Ok((open, run.spent_since(&meter)))
}

fn account(run: &mut Run<'_>, open: usize, spent: &Spent, server: f64) {
    let report = &mut run.report;
    report.figure("open", open as f64);
    report.figure("seconds", spent.seconds);
    report.figure("connections_per_second", open as f64 / spent.seconds);
    if !run.server.pids.is_empty() {
        report.figure("cpu_us_per_connection", server * 1e6 / open.max(1) as f64);
        report.figure("connections_per_second_and_core", open as f64 / server.max(f64::EPSILON));
        report.figure("server_cores", spent.server / spent.seconds);
    }
}

fn connect_latency(run: &mut Run<'_>) -> Result<()> {
    let mut latency = Latency::default();
    for worker in run.workers_report(&Numbers::default())? {
        latency.add_sparse(&worker.connect);
    }
    run.report.connect = Some(latency.summary());
    Ok(())
}
