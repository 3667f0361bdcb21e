//! A storm of new connections, and those who are there already.

use std::time::Duration;

use crate::{
    args::Token,
    channels::Channels,
    control::Pace,
    failure::Result,
    latency::Latency,
    report::Report,
    run::{Opening, Run},
    scenario::own_channels,
};

/// What bystanders hear meanwhile: the calm of the other scenarios.
const CALM_RATE: f64 = 20.0;

/// Opens connections as fast as asked for.
pub(super) fn connect(
    mut run: Run<'_>,
    rate: Option<f64>,
    pending: u32,
    bystanders: u32,
    token: &Token,
) -> Result<Report> {
    let secret = token.secret()?;
    run.report.parameter("token", secret.is_some());
    run.report
        .parameter("rate_per_second", rate.map_or_else(|| "as many as are taken".to_owned(), |rate| rate.to_string()));
    let count = run.common.connections;
    let storm = Opening { secret, rate, pending, ..Opening::of(own_channels(token.token, count), count) };
    if bystanders > 0 {
        return with_bystanders(run, &storm, bystanders);
    }
    let meter = run.meter();
    let open = run.open(&storm)?;
    let spent = run.spent_since(&meter);
    account(&mut run, open, spent.seconds);
    if !run.server.pids.is_empty() {
        run.report.figure("cpu_us_per_connection", spent.server * 1e6 / open as f64);
        run.report.figure("server_cores", spent.server / spent.seconds);
    }
    run.report.figure("generator_cores", spent.generator / spent.seconds);
    connect_latency(&mut run)?;
    run.finish()
}

/// The same while others are listening: first in calm, then in the storm.
fn with_bystanders(mut run: Run<'_>, storm: &Opening, bystanders: u32) -> Result<Report> {
    run.report.parameter("bystanders", bystanders);
    let channels = Channels::one("load/");
    let already = run.open(&Opening::of(channels.clone(), bystanders))?;
    let calm = run.feed(channels.clone(), Pace::Rate(CALM_RATE), run.common.duration)?;
    run.warm_up(&calm)?;
    run.measure(&calm, |_| Ok(()))?;
    let before = run.report.latency.unwrap_or_default();
    run.report.figure("calm_p50_ms", before.p50_ms);
    run.report.figure("calm_p99_ms", before.p99_ms);

    // It goes on until the storm is over, which nobody can know before.
    let during = run.feed(channels, Pace::Rate(CALM_RATE), Duration::from_secs(24 * 3600))?;
    let mut seconds = 0.0;
    run.measure(&during, |run| {
        let meter = run.meter();
        let open = run.open(storm)?;
        seconds = run.spent_since(&meter).seconds;
        account(run, open.saturating_sub(already), seconds);
        run.stop()
    })?;
    let after = run.report.latency.unwrap_or_default();
    run.report.figure("storm_p50_ms", after.p50_ms);
    run.report.figure("storm_p99_ms", after.p99_ms);
    run.report.figure("storm_over_calm_p99", after.p99_ms / before.p99_ms);
    run.finish()
}

fn account(run: &mut Run<'_>, open: usize, seconds: f64) {
    run.report.figure("open", open as f64);
    run.report.figure("seconds", seconds);
    run.report.figure("connections_per_second", open as f64 / seconds);
}

fn connect_latency(run: &mut Run<'_>) -> Result<()> {
    let mut latency = Latency::default();
    for worker in run.workers_report(&[])? {
        latency.add_sparse(&worker.connect);
    }
    run.report.connect = Some(latency.summary());
    Ok(())
}
