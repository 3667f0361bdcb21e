//! The process: arguments, logging, configuration, start, signals, the end and its status.

mod greeting;

use std::{io::IsTerminal as _, process::ExitCode, time::Duration};

use clap::{Parser, error::ErrorKind};
use clarion_broker::{
    config::{self, Args, Command, Config, LogFormat},
    server::{self, CannotListen, Running, Shutdown},
};
use clarion_bus::Link;
use tokio::{
    runtime::Builder,
    signal::unix::{SignalKind, signal},
};
use tracing_subscriber::{EnvFilter, layer::SubscriberExt as _, util::SubscriberInitExt as _};

/// The arguments or the configuration are wrong (EX_USAGE of sysexits.h).
const USAGE: u8 = 64;
/// The bus is not there, and the configuration requires it (EX_UNAVAILABLE).
const UNAVAILABLE: u8 = 69;
/// Something else went wrong (EX_SOFTWARE).
const SOFTWARE: u8 = 70;

fn main() -> ExitCode {
    rustls::crypto::aws_lc_rs::default_provider().install_default().expect("nothing ran before this line");
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(told) => {
            let asked = matches!(told.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
            // Nothing can be done when nobody reads what is told.
            let _ = told.print();
            return if asked { ExitCode::SUCCESS } else { ExitCode::from(USAGE) };
        }
    };
    if let Some(Command::Config { reference, schema, .. }) = args.command
        && (reference || schema)
    {
        return describe(schema);
    }
    let config = match Config::load(&args.flags, variables()) {
        Ok(config) => config,
        Err(rejected) => return fail(USAGE, &rejected.to_string()),
    };
    match args.command {
        Some(Command::Config { check, .. }) => show(&config, check),
        None => run(&config),
    }
}

/// The environment, as far as it is text: names of ours are ASCII, so nothing else can be meant for us.
fn variables() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
}

#[expect(clippy::print_stdout, clippy::print_stderr, reason = "this is what `config` is asked for")]
fn show(config: &Config, check: bool) -> ExitCode {
    for warning in &config.warnings {
        eprintln!("warning: {warning}");
    }
    if check {
        println!("the configuration is good");
    } else {
        print!("{}", config.to_toml());
    }
    ExitCode::SUCCESS
}

/// Prints what can be set, whatever is set.
#[expect(clippy::print_stdout, reason = "this is what `config` is asked for")]
fn describe(schema: bool) -> ExitCode {
    if schema {
        println!("{:#}", config::schema());
    } else {
        print!("{}", config::reference());
    }
    ExitCode::SUCCESS
}

fn run(config: &Config) -> ExitCode {
    log(config);
    let alone = std::thread::available_parallelism().is_ok_and(|cores| cores.get() == 1);
    // On one core the only shard runs on the runtime's thread as well; where more shards are asked for, they get theirs.
    let mut runtime = match config.limits.shards {
        0 | 1 if alone => Builder::new_current_thread(),
        _ => Builder::new_multi_thread(),
    };
    match runtime.enable_all().build() {
        Ok(runtime) => runtime.block_on(live(config)),
        Err(error) => fail(SOFTWARE, &format!("the runtime cannot be started: {error}\n")),
    }
}

async fn live(config: &Config) -> ExitCode {
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    let shutdown = Shutdown::new();
    let running = match server::start(config.clone(), shutdown.clone()).await {
        Ok(running) => running,
        Err(error) if error.is::<CannotListen>() => return fail(USAGE, &format!("{error}\n")),
        Err(error) => return fail(SOFTWARE, &format!("{error:#}\n")),
    };
    tokio::spawn(signals(shutdown));
    greeting::say(config, &running);
    if let Some(patience) = config.require_bus
        && let Err(reason) = bus_within(&running, patience).await
    {
        return fail(UNAVAILABLE, &format!("the bus is not connected after {patience:?}: {reason}\n"));
    }
    match running.wait().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(SOFTWARE, &format!("{error:#}\n")),
    }
}

/// Waits until the bus is connected; the reason of the last failed attempt when it is not in time.
async fn bus_within(running: &Running, patience: Duration) -> Result<(), String> {
    let mut link = running.link();
    let connected = tokio::time::timeout(patience, link.wait_for(|link| *link == Link::Up)).await;
    if connected.is_ok() {
        return Ok(());
    }
    match &*running.link().borrow() {
        Link::Up => Ok(()),
        Link::Down(reason) => Err(reason.clone().unwrap_or_else(|| "no answer yet".to_owned())),
    }
}

/// The first signal asks the node to leave in order, the second ends the process at once.
async fn signals(shutdown: Shutdown) {
    let wanted = [SignalKind::terminate(), SignalKind::interrupt()].map(signal);
    let [Ok(mut terminate), Ok(mut interrupt)] = wanted else {
        tracing::error!("signals cannot be heard: the process can only be killed");
        return;
    };
    for first in [true, false] {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        if first {
            tracing::info!("leaving; a second signal ends the process at once");
            shutdown.cancel();
        }
    }
    tracing::warn!("ended by a second signal");
    std::process::exit(i32::from(SOFTWARE));
}

fn log(config: &Config) {
    let filter = EnvFilter::new(&config.log.level);
    let registry = tracing_subscriber::registry().with(filter);
    match config.log.format {
        LogFormat::Text => registry
            .with(
                tracing_subscriber::fmt::layer()
                    .with_ansi(std::io::stderr().is_terminal())
                    .with_writer(std::io::stderr),
            )
            .init(),
        LogFormat::Json => {
            let layer = tracing_subscriber::fmt::layer().json().flatten_event(true).with_writer(std::io::stderr);
            registry.with(layer).init();
        }
    }
}

#[expect(clippy::print_stderr, reason = "the last word of a process that cannot log yet, or any more")]
fn fail(status: u8, text: &str) -> ExitCode {
    eprint!("clarion-broker: {text}");
    ExitCode::from(status)
}
