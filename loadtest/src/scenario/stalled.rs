//! Readers that stop reading, and what the others feel of it: the same run twice, once while all read.

use crate::{failure::Result, procfs::Usage, run::Run};

/// Measures; where some are to stall, first while all read and then while these do not.
pub(super) fn measure(
    run: &mut Run<'_>,
    percent: u32,
    mut measure: impl FnMut(&mut Run<'_>) -> Result<()>,
) -> Result<()> {
    if percent == 0 {
        return measure(run);
    }
    run.report.parameter("stalled_percent", percent);
    measure(run)?;
    let reading = run.report.latency.unwrap_or_default();
    let memory = Usage::of(&run.server.pids).pss as f64 / MIB;

    run.stall()?;
    let begun = run.watch.len();
    measure(run)?;
    let stalled = run.report.latency.unwrap_or_default();
    let peak = run.watch.peak_pss_since(begun).max(Usage::of(&run.server.pids).pss as f64 / MIB);

    let report = &mut run.report;
    for (name, summary) in [("reading", reading), ("stalled", stalled)] {
        report.figure(&format!("{name}_p50_ms"), summary.p50_ms);
        report.figure(&format!("{name}_p99_ms"), summary.p99_ms);
        report.figure(&format!("{name}_p999_ms"), summary.p999_ms);
    }
    report.figure("stalled_over_reading_p99", stalled.p99_ms / reading.p99_ms.max(f64::EPSILON));
    if !run.server.pids.is_empty() {
        let readers = f64::from(run.common.connections * percent / 100).max(1.0);
        report.figure("reading_pss_mib", memory);
        report.figure("stalled_peak_pss_mib", peak);
        report.figure("pss_kib_per_stalled_reader", (peak - memory).max(0.0) * 1024.0 / readers);
    }
    Ok(())
}

const MIB: f64 = 1048576.0;
