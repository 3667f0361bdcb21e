//! `clarion-loadtest`: puts load on a push server, Clarion or another, and measures it beside the physical limit.
//!
//! A coordinator (this process) starts the server and some workers, tells the workers what to do, watches the machine, and
//! writes the report. Workers hold the connections: one thread each, with a poll of its own.

mod agent;
mod args;
mod audit;
mod channels;
mod clock;
mod control;
mod engine;
mod failure;
mod feed;
mod fleet;
mod floor;
mod latency;
mod limits;
mod mqtt;
mod output;
mod procfs;
mod profile;
mod report;
mod run;
mod scenario;
mod server;
mod setback;
mod stamp;
mod turns;
mod watch;
mod wire;
mod worker;

use std::process::ExitCode;

use clap::Parser;

use crate::{
    args::{Cli, Command, FloorArgs, Scenario},
    failure::Result,
    output::Output,
    report::expect,
};

/// The exit code of a usage error (`EX_USAGE` of sysexits.h).
const USAGE: u8 = 64;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and the version come as errors too, and what they say goes to standard output.
            let code = if error.use_stderr() { USAGE } else { 0 };
            let _ = error.print();
            return ExitCode::from(code);
        }
    };
    match run(cli.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            output::failure(&failure);
            ExitCode::from(failure.exit_code())
        }
    }
}

fn run(command: Command) -> Result<()> {
    match command {
        Command::Scenario(scenario) => alone(&scenario),
        Command::Compare(compare) => turns::run(&compare),
        Command::Floor(FloorArgs { listen, plain, redis, nats }) => {
            floor::run(&floor::Options { listen, plain, redis, nats })
        }
        Command::Worker(args) => match args.listen {
            Some(address) => {
                let secret = args.secret_from.as_deref().map(args::secret_in).transpose()?;
                agent::run(address, secret.as_deref())
            }
            None => worker::run(),
        },
    }
}

/// One scenario on one server.
fn alone(scenario: &Scenario) -> Result<()> {
    scenario.check()?;
    limits::raise_descriptors();
    limits::make_room(&scenario.needs(), scenario.common().set_sysctls)?;
    let output = Output::new(scenario.common());
    let mut server = scenario::server(scenario, None)?;
    let report = scenario::run(scenario, &mut server, output.shows_progress())?;
    output.report(&report)?;
    expect::judge(&scenario.common().expect, &report)
}
