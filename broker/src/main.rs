//! The process: arguments, logging, configuration, start, signals, the end and its status.

mod greeting;
mod logging;

use std::{process::ExitCode, time::Duration};

use clap::{Parser, error::ErrorKind};
use clarion_broker::{
    config::{self, Args, Command, Config},
    server::{self, CannotListen, Running, Shutdown},
};
use clarion_bus::Link;
use logging::Logging;
use tokio::{
    runtime::Builder,
    signal::unix::{SignalKind, signal},
    time::{Instant, timeout_at},
};

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
    let log = Logging::start(&config.log);
    let alone = std::thread::available_parallelism().is_ok_and(|cores| cores.get() == 1);
    // On one core the only shard runs on the runtime's thread as well; where more shards are asked for, they get theirs.
    let mut runtime = match config.limits.shards {
        0 | 1 if alone => Builder::new_current_thread(),
        _ => Builder::new_multi_thread(),
    };
    match runtime.enable_all().build() {
        Ok(runtime) => runtime.block_on(live(config, &log)),
        Err(error) => fail(SOFTWARE, &format!("the runtime cannot be started: {error}\n")),
    }
}

async fn live(config: &Config, log: &Logging) -> ExitCode {
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    let shutdown = Shutdown::new();
    let running = match server::start(config.clone(), shutdown.clone()).await {
        Ok(running) => running,
        Err(error) if error.is::<CannotListen>() => return fail(USAGE, &format!("{error}\n")),
        Err(error) => return fail(SOFTWARE, &format!("{error:#}\n")),
    };
    if let Err(error) = log.register(&running.registry) {
        return fail(SOFTWARE, &format!("{error}\n"));
    }
    tokio::spawn(signals(shutdown, log.clone()));
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

/// Signals this soon after the first one are the same request: a terminal signals a whole group of processes, and a parent among
/// them passes its own on; some supervisors signal both. A person who has lost patience takes longer.
const SAME_REQUEST: Duration = Duration::from_millis(500);

/// The first signal asks the node to leave in order, a later one ends the process at once.
async fn signals(shutdown: Shutdown, log: Logging) {
    let wanted = [SignalKind::terminate(), SignalKind::interrupt()].map(signal);
    let [Ok(mut terminate), Ok(mut interrupt)] = wanted else {
        tracing::error!("signals cannot be heard: the process can only be killed");
        return;
    };
    let mut next = async || {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    next().await;
    tracing::info!("leaving; a second signal ends the process at once");
    shutdown.cancel();
    let same = Instant::now() + SAME_REQUEST;
    while timeout_at(same, next()).await.is_ok() {}
    next().await;
    tracing::warn!("ended by a second signal");
    log.finish();
    std::process::exit(i32::from(SOFTWARE));
}

fn fail(status: u8, text: &str) -> ExitCode {
    logging::say(format!("clarion-broker: {text}"));
    ExitCode::from(status)
}
