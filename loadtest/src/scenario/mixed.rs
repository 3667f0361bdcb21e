//! Life as it is: popular channels and lonely ones, people who come and go, and some who never read.

use crate::{
    args::Mix,
    channels::{Channels, Distribution},
    control::{Churn, FeedPlan, Pace},
    failure::Result,
    report::Report,
    run::{Opening, Run},
    scenario::stalled,
    watch::Sample,
};

/// The mixture for as long as asked for.
pub(super) fn mixed(mut run: Run<'_>, mix: &Mix) -> Result<Report> {
    live(&mut run, mix)?;
    run.finish()
}

/// The same, with what becomes of memory.
pub(super) fn soak(mut run: Run<'_>, mix: &Mix) -> Result<Report> {
    live(&mut run, mix)?;
    let mut report = run.finish()?;
    if let Some(growth) = growth_per_hour(&report.series) {
        report.figure("pss_growth_mib_per_hour", growth);
    }
    Ok(report)
}

fn live(run: &mut Run<'_>, mix: &Mix) -> Result<()> {
    let distribution = if mix.zipf > 0.0 { Distribution::Zipf(mix.zipf) } else { Distribution::Even };
    let channels = Channels { count: mix.channels.max(1), distribution, ..Channels::one("mixed/") };
    for (name, value) in [
        ("channels", f64::from(mix.channels)),
        ("zipf", mix.zipf),
        ("rate_per_second", mix.rate),
        ("leave_per_second", mix.leave),
        ("lose_per_second", mix.lose),
        ("stalled_percent", f64::from(mix.stalled)),
    ] {
        run.report.parameter(name, value);
    }
    let opening = Opening {
        reconnect: true,
        stalled_percent: mix.stalled,
        ..Opening::of(channels.clone(), run.common.connections)
    };
    run.open(&opening)?;
    let plan = run.feed(channels, Pace::Rate(mix.rate), run.common.duration)?;
    run.warm_up(&plan)?;
    stalled::measure(run, mix.stalled, |run| measure(run, mix, &plan))
}

/// Publishes while people come and go.
fn measure(run: &mut Run<'_>, mix: &Mix, plan: &FeedPlan) -> Result<()> {
    let workers = run.fleet.len() as f64;
    let churn = Churn { leave: mix.leave / workers, lose: mix.lose / workers };
    let duration = run.common.duration;
    run.measure(plan, |run| {
        if churn.leave > 0.0 || churn.lose > 0.0 {
            run.churn(churn)?;
        }
        // Publishing ends by itself; coming and going has to be ended with it.
        run.fleet.pause(duration.mul_f64(0.98), &mut run.watch)?;
        run.churn(Churn::default())
    })?;
    Ok(())
}

/// The slope of memory in the second half of a run, by least squares: the first half is growth that every server has.
fn growth_per_hour(series: &[Sample]) -> Option<f64> {
    let half = &series[series.len() / 2..];
    let count = half.len() as f64;
    let at = half.iter().map(|sample| sample.at).sum::<f64>() / count;
    let memory = half.iter().map(|sample| sample.pss_mib).sum::<f64>() / count;
    let above: f64 = half.iter().map(|sample| (sample.at - at) * (sample.pss_mib - memory)).sum();
    let below: f64 = half.iter().map(|sample| (sample.at - at).powi(2)).sum();
    (half.len() > 2 && below > 0.0).then(|| above / below * 3600.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn growth_is_the_slope_of_the_second_half() {
        let series: Vec<_> = (0..20)
            .map(|second| Sample {
                at: f64::from(second),
                pss_mib: if second < 10 { 0.0 } else { 50.0 + f64::from(second) / 3600.0 },
                ..Sample::default()
            })
            .collect();
        assert!((growth_per_hour(&series).unwrap() - 1.0).abs() < 1e-6);
        assert_eq!(growth_per_hour(&series[..4]), None);
        assert_eq!(growth_per_hour(&[]), None);
    }
}
