//! Connections that do nothing: what they cost, and that a message to all reaches all, and one to one the one.

use std::time::Duration;

use crate::{
    args::{Audience, OTHERS, Token},
    channels::{Channels, Numbers},
    control::{Door, Pace},
    failure::{Failure, Result},
    limits,
    procfs::{Kernel, Usage},
    report::Report,
    run::{Opening, Run},
    scenario::own_channels,
};

/// How long memory may take to come to rest after the last connection.
const CALM: Duration = Duration::from_secs(1);

/// One message is published in half a second at this rate.
const ONE: (Pace, Duration) = (Pace::Rate(1.0), Duration::from_millis(500));

/// Opens connections, watches them rest, and then speaks to one and to all of them.
pub(super) fn idle(
    mut run: Run<'_>,
    rate: Option<f64>,
    rest: Duration,
    audience: Audience,
    token: &Token,
) -> Result<Report> {
    let opening = Opening { rate, ..opening(&run, audience, token)? };
    if let Some(rate) = rate {
        run.report.parameter("rate_per_second", rate);
    }
    run.report.parameter("token", opening.secret.is_some());
    run.report.parameter("audience", format!("{audience:?}").to_lowercase());
    let before = Memory::of(&run);
    let meter = run.meter();
    let open = run.open(&opening)?;
    let spent = run.spent_since(&meter);
    run.report.figure("open", open as f64);
    run.report.figure("seconds", spent.seconds);
    run.report.figure("connections_per_second", open as f64 / spent.seconds);
    if !run.server.pids.is_empty() {
        run.report.figure("cpu_us_per_connection", spent.server * 1e6 / open as f64);
    }
    run.fleet.pause(CALM, &mut run.watch)?;
    let after = Memory::of(&run);
    account_memory(&mut run, &before, &after, open);
    account_limits(&mut run.report);
    account_rest(&mut run, rest, open)?;
    speak(&mut run, audience, &opening, open)?;
    run.finish()
}

/// What connections hear, and as whom.
fn opening(run: &Run<'_>, audience: Audience, token: &Token) -> Result<Opening> {
    let count = run.common.connections;
    let secret = token.secret()?;
    Ok(match audience {
        Audience::Own => {
            Opening { secret: secret.clone(), ..Opening::of(own_channels(secret.is_some(), count), count) }
        }
        Audience::Shared => Opening { secret, ..Opening::of(Channels::one("load/"), count) },
        Audience::Me => {
            let me = run.server.profile.me.clone().ok_or_else(|| {
                Failure::usage(format!("the profile {} has no [me]", run.server.profile.name))
                    .remedy("--audience shared, which a broadcast reaches, or --audience own")
            })?;
            let secret = secret.or_else(|| Some(Token::DEVELOPMENT.to_owned()));
            let by = Some((run.common.door, me));
            Opening { secret, by, ..Opening::of(own_channels(true, count), count) }
        }
    })
}

/// What is used by whom.
struct Memory {
    server: Usage,
    bus: Usage,
    generator: Usage,
    kernel: Kernel,
}

impl Memory {
    fn of(run: &Run<'_>) -> Self {
        Self {
            server: Usage::of(&run.server.pids),
            bus: Usage::of(&run.server.bus_pids),
            generator: Usage::of(&run.fleet.pids()),
            kernel: Kernel::now(),
        }
    }
}

fn account_memory(run: &mut Run<'_>, before: &Memory, after: &Memory, open: usize) {
    let each = |after: u64, before: u64| (after as f64 - before as f64) / open as f64;
    let report = &mut run.report;
    if !run.server.pids.is_empty() {
        report.figure("pss_bytes_per_connection", each(after.server.pss, before.server.pss));
        report.figure("rss_bytes_per_connection", each(after.server.rss, before.server.rss));
        report.figure("server_pss_empty_mib", before.server.pss as f64 / f64::from(1 << 20));
    }
    if !run.server.bus_pids.is_empty() {
        report.figure("bus_pss_bytes_per_connection", each(after.bus.pss, before.bus.pss));
    }
    if !run.fleet.pids().is_empty() {
        report.figure("generator_bytes_per_connection", each(after.generator.pss, before.generator.pss));
    }
    // Where both ends are on this machine, each connection is two sockets.
    let sockets = each(after.kernel.tcp_sockets, before.kernel.tcp_sockets).round().max(1.0);
    let (kernel, first) = (&after.kernel, &before.kernel);
    report.figure("kernel_bytes_per_socket", each(kernel.slab, first.slab) / sockets);
    report.figure("kernel_buffer_bytes_per_socket", each(kernel.tcp_buffers, first.tcp_buffers) / sockets);
    report.figure("kernel_tcp_sockets", kernel.tcp_sockets as f64);
    report.figure("available_memory_gib", kernel.free as f64 / f64::from(1 << 30));
    report.figure("machine_bytes_per_connection", -each(kernel.free, first.free));
}

/// What will give way first when there are more.
fn account_limits(report: &mut Report) {
    let used = limits::used();
    for one in &used {
        report.figure(one.figure, one.percent);
    }
    if let Some(first) = used.first() {
        report.parameter("nearest_limit", format!("{}: {:.0} % used", first.name, first.percent));
    }
}

fn account_rest(run: &mut Run<'_>, rest: Duration, open: usize) -> Result<()> {
    let meter = run.meter();
    run.fleet.pause(rest, &mut run.watch)?;
    let resting = run.spent_since(&meter);
    let cores = resting.server / resting.seconds.max(f64::EPSILON);
    run.report.figure("server_cores_at_rest", cores);
    run.report.figure("cpu_us_per_connection_and_hour", cores * 3600.0 * 1e6 / open as f64);
    let reports = run.workers_report(&Numbers::default())?;
    run.report.figure("still_open", reports.iter().map(|report| report.open).sum::<usize>() as f64);
    for (reason, count) in reports.into_iter().flat_map(|report| report.closed) {
        *run.report.closed.entry(reason).or_default() += count;
    }
    Ok(())
}

/// A push to one in the middle, and a broadcast to all, as far as they hear such a thing.
fn speak(run: &mut Run<'_>, audience: Audience, opening: &Opening, open: usize) -> Result<()> {
    if audience != Audience::Shared {
        let one = opening.channels.only(run.common.connections / 2);
        publish(run, one, "push", 1)?;
    }
    match audience {
        Audience::Own => Ok(()),
        Audience::Shared => publish(run, opening.channels.clone(), "broadcast", open),
        Audience::Me => publish(run, Channels::broadcast(), "broadcast", open),
    }
}

/// Publishes one message, and says how many it reached, and when the last of them had it.
fn publish(run: &mut Run<'_>, channels: Channels, name: &str, expected: usize) -> Result<()> {
    let plan = run.feed(channels, ONE.0, ONE.1)?;
    // Most figures of a single message mean nothing.
    let figures = run.report.figures.clone();
    run.measure(&plan, |_| Ok(()))?;
    let report = &mut run.report;
    let spoken = std::mem::replace(&mut report.figures, figures);
    let latency = report.latency.unwrap_or_default();
    let reached = spoken.get("delivered").copied().unwrap_or_default();
    report.figure(&format!("{name}_reached"), reached);
    for (percentile, value) in [("p50", latency.p50_ms), ("p99", latency.p99_ms), ("max", latency.max_ms)] {
        report.figure(&format!("{name}_{percentile}_ms"), value);
    }
    if let Some(cpu) = spoken.get("cpu_us_per_delivery") {
        report.figure(&format!("{name}_cpu_us_per_delivery"), *cpu);
    }
    if reached < expected as f64 {
        report.warnings.push(format!("the {name} reached {reached} of {expected}"));
    }
    Ok(())
}

/// Connections that only are there, each on channels of its own that nobody publishes to.
pub(super) fn others(run: &mut Run<'_>, channels: u32) -> Result<()> {
    let Some(mut events) = run.server.profile.events.clone() else {
        return Err(Failure::usage(format!("the profile {} has no [events]", run.server.profile.name)));
    };
    events.each = OTHERS.min(channels);
    let count = channels.div_ceil(events.each);
    // Numbers that no channel of the measurement has.
    let others = Channels { first: 1 << 24, count, ..Channels::one("other/") };
    run.report.parameter("other_channels", count * events.each);
    run.open(&Opening { by: Some((Door::EventStream, events)), ..Opening::of(others, count) })?;
    Ok(())
}
