//! A rolling restart: one node after the other goes and comes, and every subscriber is audited.

use std::{process::Command, thread, time::Duration};

use crate::{
    channels::Channels,
    clock::Time,
    control::Pace,
    failure::{Context, Failure, Result},
    report::Report,
    run::{Opening, Run},
};

/// Channels, so that an order is checked on more than one.
const CHANNELS: u32 = 10;

/// How long the load watches between two looks at a restart.
const LOOK: Duration = Duration::from_millis(20);

/// Restarts all nodes while messages go on.
pub(super) fn rolling(mut run: Run<'_>, rate: f64, pause: Duration, commands: &[String]) -> Result<Report> {
    let nodes = if commands.is_empty() { run.server.node_count() } else { commands.len() };
    run.report.parameter("nodes", nodes);
    run.report.parameter("rate_per_second", rate);
    let channels = Channels { count: CHANNELS, ..Channels::one("roll/") };
    // Through a node that is about to go nobody can publish; the bus stays.
    if run
        .server
        .via
        .as_ref()
        .is_some_and(|(_, targets)| targets.iter().any(|target| run.server.targets.contains(target)))
    {
        return Err(Failure::usage("a rolling restart is published to through the bus")
            .remedy("use --server clarion:redis or clarion:nats, or --publish-by and --publish-to"));
    }
    let opening = Opening { reconnect: true, ..Opening::of(channels.clone(), run.common.connections) };
    run.open(&opening)?;
    let calm = run.feed(channels.clone(), Pace::Rate(rate), run.common.duration)?;
    run.warm_up(&calm)?;
    let plan = run.feed(channels, Pace::Rate(rate), Duration::from_secs(24 * 3600))?;
    let mut slowest: f64 = 0.0;
    run.measure(&plan, |run| {
        run.fleet.pause(pause, &mut run.watch)?;
        for node in 0..nodes {
            let begun = Time::now();
            restart(run, node, commands)?;
            slowest = slowest.max(Time::now().seconds_since(begun));
            run.fleet.pause(pause, &mut run.watch)?;
        }
        run.stop()
    })?;
    // The processes that were measured at the beginning are gone.
    for name in ["cpu_us_per_delivery", "cpu_us_per_message", "server_cores"] {
        run.report.figures.remove(name);
    }
    run.report.figure("restarts", nodes as f64);
    run.report.figure("slowest_restart_seconds", slowest);
    run.finish()
}

fn restart(run: &mut Run<'_>, node: usize, commands: &[String]) -> Result<()> {
    let Run { fleet, watch, server, .. } = run;
    // What goes wrong with the load meanwhile is found by what comes next.
    let mut meanwhile = || _ = fleet.pause(LOOK, watch);
    match commands.get(node) {
        None => {
            server.restart(node, &mut meanwhile)?;
            let pids = server.pids.clone();
            watch.follow(&pids);
        }
        Some(line) => {
            let mut child =
                Command::new("sh").args(["-c", line]).spawn().unavailable(|| format!("cannot run `{line}`"))?;
            let status = loop {
                if let Some(status) = child.try_wait()? {
                    break status;
                }
                meanwhile();
                thread::yield_now();
            };
            if !status.success() {
                return Err(Failure::unavailable(format!("`{line}` failed: {status}")));
            }
        }
    }
    Ok(())
}
