//! Connections that do nothing: what they cost.

use std::time::Duration;

use crate::{
    args::Token,
    failure::Result,
    procfs::{Kernel, Usage},
    report::Report,
    run::{Opening, Run},
    scenario::own_channels,
};

/// How long memory may take to come to rest after the last connection.
const CALM: Duration = Duration::from_secs(1);

/// Opens connections, each on a channel of its own, and watches them rest.
pub(super) fn idle(mut run: Run<'_>, rest: Duration, token: &Token) -> Result<Report> {
    let secret = token.secret()?;
    run.report.parameter("token", secret.is_some());
    let channels = own_channels(secret.is_some(), run.common.connections);
    let generator = run.fleet.pids();
    let (server_before, generator_before) = (Usage::of(&run.server.pids), Usage::of(&generator));
    let kernel_before = Kernel::now();
    let meter = run.meter();
    let open = run.open(&Opening { secret, ..Opening::of(channels, run.common.connections) })?;
    let opening = run.spent_since(&meter);
    run.fleet.pause(CALM, &mut run.watch)?;
    let (server, kernel) = (Usage::of(&run.server.pids), Kernel::now());
    let own = Usage::of(&generator);

    let each = |after: u64, before: u64| (after as f64 - before as f64) / open as f64;
    run.report.figure("open", open as f64);
    if !run.server.pids.is_empty() {
        run.report.figure("pss_bytes_per_connection", each(server.pss, server_before.pss));
        run.report.figure("rss_bytes_per_connection", each(server.rss, server_before.rss));
        run.report.figure("server_pss_empty_mib", server_before.pss as f64 / f64::from(1 << 20));
        run.report.figure("cpu_us_per_connection", opening.server * 1e6 / open as f64);
    }
    run.report.figure("generator_bytes_per_connection", each(own.pss, generator_before.pss));
    // Both ends are on this machine, so each connection is two sockets.
    run.report.figure("kernel_bytes_per_socket", each(kernel.slab, kernel_before.slab) / 2.0);
    run.report.figure("kernel_buffer_bytes_per_socket", each(kernel.tcp_buffers, kernel_before.tcp_buffers) / 2.0);
    run.report.figure("kernel_tcp_sockets", kernel.tcp_sockets as f64);
    run.report.figure("available_memory_gib", kernel.free as f64 / f64::from(1 << 30));

    let meter = run.meter();
    run.fleet.pause(rest, &mut run.watch)?;
    let resting = run.spent_since(&meter);
    run.report.figure("server_cores_at_rest", resting.server / resting.seconds.max(f64::EPSILON));
    let per_hour = resting.server / resting.seconds.max(f64::EPSILON) * 3600.0 * 1e6 / open as f64;
    run.report.figure("cpu_us_per_connection_and_hour", per_hour);
    let reports = run.workers_report(&[])?;
    run.report.figure("still_open", reports.iter().map(|report| report.open).sum::<usize>() as f64);
    for (reason, count) in reports.into_iter().flat_map(|report| report.closed) {
        *run.report.closed.entry(reason).or_default() += count;
    }
    run.finish()
}
