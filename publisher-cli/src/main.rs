//! `clarion`: publish and look from a shell.
//!
//! Speaks to a broker over HTTP, or to the bus itself, and never needs the broker's code.

mod args;
mod backoff;
mod context;
mod doctor;
mod failure;
mod generate;
mod members;
mod nodes;
mod output;
mod publish;
mod tail;
mod tls;
mod token;
mod via;

use std::process::ExitCode;

use clarion_protocol::Channel;
use tracing_subscriber::filter::LevelFilter;

use crate::{
    args::{Cli, Command},
    context::{Context, Secrets},
    failure::Failure,
    output::Output,
};

fn main() -> ExitCode {
    // Two TLS providers in one binary panic at run time, so ours is named before anything else can choose.
    // This fails only where one is named already.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let cli = match Cli::read() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and the version come as errors too, and what they say goes to standard output.
            let code = if error.use_stderr() { failure::USAGE } else { 0 };
            let _ = error.print();
            return ExitCode::from(code);
        }
    };
    let output = Output::new(cli.common.json);
    log_to_stderr(cli.common.log_level);
    match start(cli, output) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            output.failure(&failure);
            ExitCode::from(failure.exit_code())
        }
    }
}

fn log_to_stderr(level: LevelFilter) {
    tracing_subscriber::fmt().with_max_level(level).with_writer(std::io::stderr).init();
}

fn start(cli: Cli, output: Output) -> Result<(), Failure> {
    let context = Context::new(cli.common, Secrets::from_environment()?, output)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|error| Failure::internal(format!("no runtime can be started: {error}")))?;
    let outcome = runtime.block_on(run(&context, cli.command));
    // Look-ups of names run on threads that cannot be stopped; what is done is done.
    runtime.shutdown_background();
    outcome
}

async fn run(context: &Context, command: Command) -> Result<(), Failure> {
    match command {
        Command::Publish { channel, message } => publish::run(context, channel, message).await,
        Command::Push { user, message } => publish::run(context, Channel::of_user(&user), message).await,
        Command::Broadcast { message } => publish::run(context, Channel::broadcast(), message).await,
        Command::Tail(args) => tail::run(context, args).await,
        Command::Nodes { listen } => nodes::nodes(context, listen).await,
        Command::Home { user, listen } => nodes::home(context, &user, listen).await,
        Command::Token(args) => token::run(context, &args),
        Command::Doctor(args) => doctor::run(context, &args).await,
        Command::Completions { shell } => generate::completions(context.output, shell),
        Command::Man { command } => generate::man(context.output, command.as_deref()),
    }
}
