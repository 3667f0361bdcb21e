//! The scenarios: what is opened, what is published, and what is made of it.

mod connect;
mod idle;
mod mixed;
mod rolling;

use crate::{
    args::{PaceArgs, Scenario, Token},
    channels::{Channels, Distribution},
    control::Pace,
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
        broker: common.broker.clone(),
        server_cores: common.server_cores.clone(),
        bus_cores: common.bus_cores.clone(),
        server_args: common.server_args.clone(),
    };
    let nodes = if let Scenario::Rolling { nodes, .. } = scenario { *nodes } else { 1 };
    Server::start(name.unwrap_or(&common.server), nodes, &launch)
}

/// Runs a scenario on a server; `show` where somebody looks.
pub(crate) fn run(scenario: &Scenario, server: &mut Server, show: bool) -> Result<Report> {
    let run = Run::start(scenario, server, show)?;
    match scenario {
        Scenario::Idle { rest, token, .. } => idle::idle(run, *rest, token),
        Scenario::Connect { rate, pending, bystanders, token, .. } => {
            connect::connect(run, *rate, *pending, *bystanders, token)
        }
        Scenario::Fanout { pace, .. } => fanout(run, pace),
        Scenario::Push { pace, token, .. } => push(run, pace, token),
        Scenario::Mixed { mix, .. } => mixed::mixed(run, mix),
        Scenario::Soak { mix, .. } => mixed::soak(run, mix),
        Scenario::Rolling { rate, pause, restart, .. } => rolling::rolling(run, *rate, *pause, restart),
    }
}

/// One channel that all subscribe to.
fn fanout(mut run: Run<'_>, pace: &PaceArgs) -> Result<Report> {
    let channels = Channels::one("load/");
    run.open(&Opening::of(channels.clone(), run.common.connections))?;
    let fan = run.of_first;
    publish(&mut run, channels, pace, fan)?;
    run.finish()
}

/// A channel for each connection.
fn push(mut run: Run<'_>, pace: &PaceArgs, token: &Token) -> Result<Report> {
    let secret = token.secret()?;
    let channels = own_channels(secret.is_some(), run.common.connections);
    run.open(&Opening { secret, ..Opening::of(channels.clone(), run.common.connections) })?;
    // A window sees only what reaches the first worker, whose channels are the first.
    let count = if pace.rate.is_some() { channels.count } else { run.of_first };
    publish(&mut run, Channels { count, distribution: Distribution::Random, ..channels }, pace, 1)?;
    run.finish()
}

/// A channel for each connection: that of a user where there are users.
fn own_channels(users: bool, count: u32) -> Channels {
    let prefix = if users { "users/" } else { "own/" };
    Channels { prefix: prefix.to_owned(), count, distribution: Distribution::Even }
}

fn publish(run: &mut Run<'_>, channels: Channels, pace: &PaceArgs, fan: u32) -> Result<()> {
    let pace = match pace.rate {
        Some(rate) => Pace::Rate(rate),
        None => Pace::Window { messages: pace.window, fan },
    };
    match pace {
        Pace::Rate(rate) => run.report.parameter("rate_per_second", rate),
        Pace::Window { messages, .. } => run.report.parameter("window", messages),
    }
    run.report.parameter("batch", run.common.batch);
    let plan = run.feed(channels, pace, run.common.duration)?;
    run.warm_up(&plan)?;
    run.measure(&plan, |_| Ok(()))?;
    Ok(())
}
