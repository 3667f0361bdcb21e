//! The command line.

mod check;

pub(crate) use check::{OTHERS, secret_in};

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::{control::Door, profile, report::expect::Expectation};

const AFTER_HELP: &str = "\
A server is started for the run (--server) or there already (--target). NAME is clarion, floor (the physical limit: what is
pending for a socket in one write), floor-plain (a write for each message), nats, nchan, tornado, ws, or the path of a profile;
NAME:redis and NAME:nats put it behind a bus that is started as well, and publish there.

Figures are named in the report, and --expect takes them: `--expect 'cpu_us_per_delivery<2' --expect lost==0`.

Exit codes: 0 done, 1 an expectation did not hold, 64 usage, 69 a server or program is missing, 70 internal.";

/// Put load on a push server, and measure it
#[derive(Debug, Parser)]
#[command(name = "clarion-loadtest", version, after_help = AFTER_HELP, args_override_self = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    #[command(flatten)]
    Scenario(Box<Scenario>),
    /// Run a scenario on several servers, or in several ways, in turns, and print the ratios
    Compare(Compare),
    /// Serve as the physical limit: write ready-made frames, and nothing else
    Floor(FloorArgs),
    /// Hold connections for a coordinator that speaks on standard input, or for those that ask over HTTP
    Worker(WorkerArgs),
}

#[derive(Debug, Clone, Subcommand)]
pub(crate) enum Scenario {
    /// Memory and CPU of connections that do nothing
    Idle {
        #[command(flatten)]
        common: Common,
        /// Connections a second; as many as are taken otherwise
        #[arg(long)]
        rate: Option<f64>,
        /// How long to watch them rest
        #[arg(long, default_value = "5s", value_parser = humantime::parse_duration)]
        rest: Duration,
        /// What each of them hears; afterwards one broadcast goes to all who hear the same, and one push to one alone
        #[arg(long, value_enum, default_value = "own")]
        audience: Audience,
        #[command(flatten)]
        token: Token,
    },
    /// A storm of new connections
    Connect {
        #[command(flatten)]
        common: Common,
        /// Connections a second; as many as are taken otherwise
        #[arg(long)]
        rate: Option<f64>,
        /// Handshakes under way at once, for each worker
        #[arg(long, default_value_t = 64)]
        pending: u32,
        /// Subscribers who are there before, and whose latencies are watched meanwhile
        #[arg(long, default_value_t = 0)]
        bystanders: u32,
        /// All connect in peace first; the storm is that all break and come back
        #[arg(long)]
        again: bool,
        #[command(flatten)]
        token: Token,
    },
    /// One channel that all subscribe to, or a few
    Fanout {
        #[command(flatten)]
        common: Common,
        /// Channels that subscribers are spread over
        #[arg(long, default_value_t = 1)]
        channels: u32,
        /// Of a hundred connections, those that stop reading: first all read, then these do not
        #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=90))]
        stalled: u32,
        #[command(flatten)]
        pace: PaceArgs,
    },
    /// A channel for each connection, and messages to one of them at a time
    Push {
        #[command(flatten)]
        common: Common,
        #[command(flatten)]
        pace: PaceArgs,
        #[command(flatten)]
        token: Token,
    },
    /// Many channels, subscribers who come and go, who do not read, whose connections break
    Mixed {
        #[command(flatten)]
        common: Common,
        #[command(flatten)]
        mix: Mix,
    },
    /// The same for long, with an eye on memory
    Soak {
        #[command(flatten)]
        common: Common,
        #[command(flatten)]
        mix: Mix,
    },
    /// Restart one node after the other, and audit every subscriber
    Rolling {
        #[command(flatten)]
        common: Common,
        /// Messages a second
        #[arg(long, default_value_t = 100.0)]
        rate: f64,
        /// Pause between two restarts
        #[arg(long, default_value = "1s", value_parser = humantime::parse_duration)]
        pause: Duration,
        /// How each --target is restarted: a shell command that ends when the node is ready again
        #[arg(long)]
        restart: Vec<String>,
    },
}

/// What all scenarios have.
#[derive(Debug, Clone, Args)]
pub(crate) struct Common {
    /// The server to start
    #[arg(long, default_value = "clarion")]
    pub(crate) server: String,
    /// Addresses of a server that is there already
    #[arg(long, conflicts_with = "server")]
    pub(crate) target: Vec<String>,
    /// How that one is spoken to: a shipped profile, or a file
    #[arg(long, default_value = "clarion")]
    pub(crate) profile: String,
    /// Where to publish to it, where that is another address
    #[arg(long)]
    pub(crate) publish_to: Option<String>,
    /// How to publish to it
    #[arg(long, value_enum, default_value = "http")]
    pub(crate) publish_by: PublishBy,
    /// Nodes of it to start, on one bus; 1, and 3 for a rolling restart, unless said
    #[arg(long)]
    pub(crate) nodes: Option<usize>,
    /// Threads of each node that own sockets, for servers whose profile knows of them
    #[arg(long)]
    pub(crate) shards: Option<u32>,
    /// Its processes, to be measured with all their descendants
    #[arg(long)]
    pub(crate) pid: Vec<u32>,
    /// Arguments for the server that is started
    #[arg(long = "server-arg", allow_hyphen_values = true)]
    pub(crate) server_args: Vec<String>,
    /// Variables for the server that is started, such as CLARION_LIMITS_PING=5m
    #[arg(long = "server-env", value_name = "NAME=VALUE", value_parser = variable)]
    pub(crate) server_env: Vec<(String, String)>,
    /// The clarion-broker to start
    #[arg(long)]
    pub(crate) broker: Option<PathBuf>,
    /// Cores for the server, as `taskset -c` takes them
    #[arg(long)]
    pub(crate) server_cores: Option<String>,
    /// Cores for the bus
    #[arg(long)]
    pub(crate) bus_cores: Option<String>,
    /// Cores for the generator
    #[arg(long)]
    pub(crate) generator_cores: Option<String>,

    /// Connections
    #[arg(long, short = 'c', default_value_t = 1000)]
    pub(crate) connections: u32,
    /// Which door they come in by
    #[arg(long, value_enum, default_value = "ws")]
    pub(crate) door: Door,
    /// Speak TLS to the server, and trust the authorities in this PEM file; messages are published on its bus then, by --publish-by and --publish-to
    #[arg(long, value_name = "FILE")]
    pub(crate) tls_ca: Option<PathBuf>,
    /// Bytes of a message
    #[arg(long, default_value_t = 128)]
    pub(crate) payload: u32,
    /// How long to measure
    #[arg(long, short = 'd', default_value = "5s", value_parser = humantime::parse_duration)]
    pub(crate) duration: Duration,
    /// How long to publish before that
    #[arg(long, default_value = "500ms", value_parser = humantime::parse_duration)]
    pub(crate) warm_up: Duration,
    /// Connections to publish on
    #[arg(long, default_value_t = 1)]
    pub(crate) publishers: u32,
    /// Requests without an answer on each of them
    #[arg(long, default_value_t = 16)]
    pub(crate) depth: u32,
    /// Messages in one request
    #[arg(long, default_value_t = 1)]
    pub(crate) batch: u32,
    /// Processes that hold the connections; as few as have room for them unless said
    #[arg(long)]
    pub(crate) workers: Option<usize>,
    /// How to start workers elsewhere: `ssh host clarion-loadtest worker`
    #[arg(long)]
    pub(crate) worker_command: Vec<String>,
    /// Workers that listen elsewhere, each started by `clarion-loadtest worker --listen HOST:PORT`
    #[arg(long, conflicts_with = "worker_command")]
    pub(crate) worker_at: Vec<String>,
    /// The variable that holds the secret of those workers
    #[arg(long, requires = "worker_at")]
    pub(crate) worker_secret_from: Option<String>,

    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
    /// Write the JSON to a file as well
    #[arg(long)]
    pub(crate) save: Option<PathBuf>,
    /// Write a page with plots
    #[arg(long)]
    pub(crate) html: Option<PathBuf>,
    /// What must hold: p99_ms<=10
    #[arg(long)]
    pub(crate) expect: Vec<Expectation>,
    /// Put load on addresses that are not of this machine
    #[arg(long)]
    pub(crate) i_own_this_target: bool,
    /// Set the machine's limits that are too small (root only; they stay set)
    #[arg(long)]
    pub(crate) set_sysctls: bool,
    /// More than 100,000 connections, a million messages a second or an hour
    #[arg(long)]
    pub(crate) unbounded: bool,
}

/// When messages are published.
#[derive(Debug, Clone, Args)]
pub(crate) struct PaceArgs {
    /// Messages a second; otherwise as many as the server can take
    #[arg(long)]
    pub(crate) rate: Option<f64>,
    /// Messages, or batches, under way at once where there is no rate: the more, the more of them come with one write
    #[arg(long, default_value_t = 8, conflicts_with = "rate")]
    pub(crate) window: u32,
    /// Channels that there are besides, heard by connections of their own and published to by nobody
    #[arg(long, default_value_t = 0)]
    pub(crate) other_channels: u32,
}

/// Who people are.
#[derive(Debug, Clone, Args)]
pub(crate) struct Token {
    /// Sign a token for each connection, which is user N on users/N
    #[arg(long)]
    pub(crate) token: bool,
    /// The variable that holds the secret to sign with; `development` otherwise
    #[arg(long, requires = "token")]
    pub(crate) secret_from: Option<String>,
}

/// Who does what in a mixture.
#[derive(Debug, Clone, Args)]
pub(crate) struct Mix {
    /// Channels
    #[arg(long, default_value_t = 100)]
    pub(crate) channels: u32,
    /// How much more often the first are picked, by subscribers and publishers: 0 is evenly
    #[arg(long, default_value_t = 1.0)]
    pub(crate) zipf: f64,
    /// Messages a second
    #[arg(long, default_value_t = 200.0)]
    pub(crate) rate: f64,
    /// Subscribers a second who leave, and as many who join
    #[arg(long, default_value_t = 10.0)]
    pub(crate) leave: f64,
    /// Connections a second that break and come back
    #[arg(long, default_value_t = 5.0)]
    pub(crate) lose: f64,
    /// Of a hundred connections, those that stop reading: first all read, then these do not
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=90))]
    pub(crate) stalled: u32,
}

/// A comparison.
#[derive(Debug, Clone, Args)]
pub(crate) struct Compare {
    /// Servers, the first being what the others are compared with
    #[arg(long, value_delimiter = ',')]
    pub(crate) servers: Vec<String>,
    /// More arguments for the scenario, once for each way to run it: --vary '-c 1000' --vary '-c 5000'
    #[arg(long, allow_hyphen_values = true)]
    pub(crate) vary: Vec<String>,
    /// How often each has its turn
    #[arg(long, default_value_t = 5)]
    pub(crate) rounds: u32,
    /// The scenario and its arguments
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
    pub(crate) scenario: Vec<String>,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct FloorArgs {
    /// Where to listen
    #[arg(long, default_value = "127.0.0.1:0")]
    pub(crate) listen: SocketAddr,
    /// One write for each message
    #[arg(long)]
    pub(crate) plain: bool,
    /// A Redis to hear messages from
    #[arg(long)]
    pub(crate) redis: Option<SocketAddr>,
    /// A NATS server to hear messages from
    #[arg(long, conflicts_with = "redis")]
    pub(crate) nats: Option<SocketAddr>,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct WorkerArgs {
    /// Where to listen for coordinators; each gets worker processes of its own
    #[arg(long)]
    pub(crate) listen: Option<SocketAddr>,
    /// The variable that holds the secret that a coordinator must know; needed on other addresses than loopback
    #[arg(long, requires = "listen")]
    pub(crate) secret_from: Option<String>,
}

/// What connections that do nothing hear.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Audience {
    /// Each a channel of its own.
    Own,
    /// All the same channel.
    Shared,
    /// Each its user's channel and what goes to everybody, with a token: /me.
    Me,
}

/// A way in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum PublishBy {
    Http,
    Redis,
    Nats,
}

impl From<PublishBy> for profile::Bus {
    fn from(by: PublishBy) -> Self {
        match by {
            PublishBy::Http => Self::None,
            PublishBy::Redis => Self::Redis,
            PublishBy::Nats => Self::Nats,
        }
    }
}

/// `NAME=VALUE` apart.
fn variable(text: &str) -> std::result::Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("write NAME=VALUE".to_owned()),
    }
}

#[cfg(test)]
mod tests;
