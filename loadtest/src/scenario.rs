//! The scenarios: what is opened, what is published, and what is made of it.

mod connect;
mod idle;
mod mixed;
mod rolling;
mod stalled;

use crate::{
    args::{PaceArgs, Scenario, Token},
    channels::{Channels, Distribution},
    control::{FeedPlan, Pace},
    failure::Result,
    report::Report,
    run::{Opening, Run},
    server::{Launch, Server},
};

/// Starts the server that is asked for, or takes the one that is there.
pub(crate) fn server(scenario: &Scenario, name: Option<&str>) -> Result<Server> {
    let common = scenario.common();
    if name.is_none() && !common.target.is_empty() {
        let profile = crate::profile::Profile::load(&common.profile)?;
        let (targets, publish_to) = (common.targets()?, common.publish_address()?);
        return Server::given(profile, targets, publish_to, common.publish_by.into(), common.pid.clone());
    }
    let launch = Launch {
        // It is started in a folder of its own.
        broker: common.broker.as_ref().map(|path| std::path::absolute(path).unwrap_or_else(|_| path.clone())),
        server_cores: common.server_cores.clone(),
        bus_cores: common.bus_cores.clone(),
        server_args: common.server_args.clone(),
        server_env: common.server_env.clone(),
        nodes: scenario.nodes(),
        shards: common.shards,
    };
    Server::start(name.unwrap_or(&common.server), &launch)
}

/// Runs a scenario on a server; `show` where somebody looks.
pub(crate) fn run(scenario: &Scenario, server: &mut Server, show: bool) -> Result<Report> {
    let run = Run::start(scenario, server, show)?;
    match scenario {
        Scenario::Idle { rate, rest, audience, token, .. } => idle::idle(run, *rate, *rest, *audience, token),
        Scenario::Connect { rate, pending, bystanders, again, token, .. } => {
            connect::connect(run, &connect::Storm { rate: *rate, pending: *pending, again: *again }, *bystanders, token)
        }
        Scenario::Fanout { channels, stalled, pace, .. } => fanout(run, *channels, *stalled, pace),
        Scenario::Push { pace, token, .. } => push(run, pace, token),
        Scenario::Mixed { mix, .. } => mixed::mixed(run, mix),
        Scenario::Soak { mix, .. } => mixed::soak(run, mix),
        Scenario::Rolling { rate, pause, restart, .. } => rolling::rolling(run, *rate, *pause, restart),
    }
}

/// One channel that all subscribe to, or a few.
fn fanout(mut run: Run<'_>, count: u32, stalled: u32, pace: &PaceArgs) -> Result<Report> {
    let channels = Channels { count: count.max(1), ..Channels::one("load/") };
    if channels.count > 1 {
        run.report.parameter("channels", channels.count);
    }
    if pace.other_channels > 0 {
        idle::others(&mut run, pace.other_channels)?;
    }
    let opening = Opening { stalled_percent: stalled, ..Opening::of(channels.clone(), run.common.connections) };
    run.open(&opening)?;
    // Those who are to stall are not observed, so a window does not see them.
    let fan = (run.of_first - run.of_first * stalled / 100) / channels.count;
    let plan = planned(&mut run, channels, pace, fan)?;
    run.warm_up(&plan)?;
    stalled::measure(&mut run, stalled, |run| run.measure(&plan, |_| Ok(())).map(|_| ()))?;
    run.finish()
}

/// A channel for each connection.
fn push(mut run: Run<'_>, pace: &PaceArgs, token: &Token) -> Result<Report> {
    let secret = token.secret()?;
    let channels = own_channels(secret.is_some(), run.common.connections);
    if pace.other_channels > 0 {
        idle::others(&mut run, pace.other_channels)?;
    }
    run.open(&Opening { secret, ..Opening::of(channels.clone(), run.common.connections) })?;
    // A window sees only what reaches the first worker, whose channels are the first.
    let count = if pace.rate.is_some() { channels.count } else { run.of_first };
    let channels = Channels { count, distribution: Distribution::Random, ..channels };
    let plan = planned(&mut run, channels, pace, 1)?;
    run.warm_up(&plan)?;
    run.measure(&plan, |_| Ok(()))?;
    run.finish()
}

/// A channel for each connection: that of a user where there are users.
fn own_channels(users: bool, count: u32) -> Channels {
    let prefix = if users { "users/" } else { "own/" };
    Channels { count, ..Channels::one(prefix) }
}

/// What is published, at what pace; the report says it.
fn planned(run: &mut Run<'_>, channels: Channels, pace: &PaceArgs, fan: u32) -> Result<FeedPlan> {
    let pace = match pace.rate {
        Some(rate) => Pace::Rate(rate),
        // A batch is one thing under way, or none would fit a small window.
        None => Pace::Window { messages: pace.window.max(1).saturating_mul(run.common.batch.max(1)), fan },
    };
    match pace {
        Pace::Rate(rate) => run.report.parameter("rate_per_second", rate),
        Pace::Window { messages, .. } => run.report.parameter("window", messages),
    }
    run.report.parameter("batch", run.common.batch);
    run.report.parameter("depth", run.common.depth);
    run.feed(channels, pace, run.common.duration)
}
