//! The command line.

use std::{convert::Infallible, path::PathBuf, str::FromStr, time::Duration};

use clap::{ArgMatches, Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum, parser::ValueSource};
use clarion_bus::PubSub;
use clarion_protocol::{Channel, Interest, Prefix, Uid, limits};
use tracing_subscriber::filter::LevelFilter;
use url::Url;

/// How long to listen for heartbeats: one second and half of another, for those that are late.
const LISTEN: &str = "1500ms";

const AFTER_HELP: &str = "\
Secrets come from the environment, never from flags, which everybody can see in the list of processes:
  CLARION_API_KEY      for publishing over HTTP
  CLARION_TOKEN        a user's token, for `tail` and for publishing as that user
  CLARION_JWT_SECRET   what `token` signs with; by default the development secret
  CLARION_BUS_PASSWORD the password for a bus; or a URL with a password in CLARION_VIA

Exit codes: 0 done, 64 usage, 69 unavailable, 70 internal, 77 refused.";

/// Publish to Clarion, and look at what it carries
#[derive(Debug, Parser)]
#[command(name = "clarion", version, after_help = AFTER_HELP)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) common: Common,
    #[command(subcommand)]
    pub(crate) command: Command,
}

impl Cli {
    /// Reads the process's arguments.
    pub(crate) fn read() -> Result<Self, clap::Error> {
        Self::from_matches(&Self::command().try_get_matches()?)
    }

    fn from_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut cli = Self::from_arg_matches(matches)?;
        cli.common.via_is_flag = matches.value_source("via") == Some(ValueSource::CommandLine);
        if let (Command::Doctor(doctor), Some((_, matches))) = (&mut cli.command, matches.subcommand()) {
            doctor.bus_is_flag = matches.value_source("bus") == Some(ValueSource::CommandLine);
        }
        Ok(cli)
    }
}

/// What all commands understand.
#[derive(Debug, Args)]
pub(crate) struct Common {
    /// The way in: a broker (http://, https://) or the bus (redis://, rediss://, redis-sentinel://, redis-cluster://, nats://, tls://)
    #[arg(
        long,
        global = true,
        env = "CLARION_VIA",
        hide_env_values = true,
        default_value = "http://127.0.0.1:8000",
        value_name = "URL"
    )]
    pub(crate) via: String,
    /// Whether the URL came by the flag, where a password would be seen by everybody.
    #[arg(skip)]
    pub(crate) via_is_flag: bool,
    /// Write JSON, one object a line
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// How long to wait for a connection or an answer
    #[arg(long, global = true, default_value = "10s", value_name = "DURATION", value_parser = duration)]
    pub(crate) timeout: Duration,
    /// What is written to standard error about the inner workings: off, error, warn, info, debug or trace
    #[arg(long, global = true, default_value = "off", value_name = "LEVEL")]
    pub(crate) log_level: LevelFilter,
    #[command(flatten)]
    pub(crate) tls: TlsFiles,
    #[command(flatten)]
    pub(crate) bus: BusArgs,
}

/// Whom to trust, and who to be.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "TLS")]
pub(crate) struct TlsFiles {
    /// A PEM file with the authorities to trust instead of the system's
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) ca_file: Option<PathBuf>,
    /// A PEM file with the certificate to show to the server
    #[arg(long, global = true, value_name = "FILE", requires = "key_file")]
    pub(crate) cert_file: Option<PathBuf>,
    /// A PEM file with that certificate's key
    #[arg(long, global = true, value_name = "FILE", requires = "cert_file")]
    pub(crate) key_file: Option<PathBuf>,
}

/// What a way in over the bus needs to know.
#[derive(Debug, Args)]
#[command(next_help_heading = "With --via redis://… or nats://…")]
pub(crate) struct BusArgs {
    /// What all subjects of the deployment begin with
    #[arg(long, global = true, env = "CLARION_PREFIX", default_value = "clarion")]
    pub(crate) prefix: Prefix,
    /// The largest payload that the nodes pass on; more is refused here, since it would be dropped there
    #[arg(long, global = true, default_value_t = limits::PAYLOAD_BYTES, value_name = "BYTES")]
    pub(crate) max_payload: usize,
    /// How a Redis Cluster carries messages: classic or sharded
    #[arg(long, global = true, default_value = "classic", value_name = "HOW", value_parser = pubsub)]
    pub(crate) pubsub: PubSub,
    /// NATS: a credentials file
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) nats_creds_file: Option<PathBuf>,
    /// NATS: a file with an nkey seed
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) nats_nkey_file: Option<PathBuf>,
}

/// What can be asked for.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Publish to a channel
    Publish {
        /// The channel, such as orders/eu
        channel: Channel,
        #[command(flatten)]
        message: MessageArgs,
    },
    /// Publish to one user, on all of his devices
    Push {
        /// The user's id
        user: Uid,
        #[command(flatten)]
        message: MessageArgs,
    },
    /// Publish to everybody who listens to `broadcast`
    Broadcast {
        #[command(flatten)]
        message: MessageArgs,
    },
    /// Follow channels and write what comes, a message a line
    Tail(TailArgs),
    /// List the nodes of the cluster
    Nodes {
        /// Over a bus: how long to listen for heartbeats, which come once a second
        #[arg(long, default_value = LISTEN, value_name = "DURATION", value_parser = duration)]
        listen: Duration,
    },
    /// Say which node is a user's home
    Home {
        /// The user's id
        user: Uid,
        /// Over a bus: how long to listen for heartbeats, which come once a second
        #[arg(long, default_value = LISTEN, value_name = "DURATION", value_parser = duration)]
        listen: Duration,
    },
    /// Sign a token for a user (HS256, with CLARION_JWT_SECRET or the development secret)
    Token(TokenArgs),
    /// Check bus, clock, reachability and configuration, and say what to do
    Doctor(DoctorArgs),
    /// Write completions for a shell
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
    },
    /// Write the manual page, of `clarion` or of one of its commands
    Man {
        /// The command
        command: Option<String>,
    },
}

/// What is published.
#[derive(Debug, Args)]
pub(crate) struct MessageArgs {
    /// Text; @FILE for what is in a file, @- for all of standard input, - for standard input a message a line, @@… for text that begins with @
    #[arg(value_name = "TEXT|@FILE|-", allow_negative_numbers = true)]
    pub(crate) message: Source,
    /// With -: at most so many messages a second
    #[arg(long, value_name = "PER_SECOND", value_parser = rate)]
    pub(crate) rate: Option<f64>,
}

/// Where a message comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Source {
    /// The command line.
    Text(String),
    /// A file.
    File(PathBuf),
    /// All of standard input is one message.
    WholeInput,
    /// Each line of standard input is a message.
    Lines,
}

impl FromStr for Source {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(match text.strip_prefix('@') {
            None if text == "-" => Self::Lines,
            None => Self::Text(text.to_owned()),
            Some("-") => Self::WholeInput,
            Some(rest) if rest.starts_with('@') => Self::Text(rest.to_owned()),
            Some(file) => Self::File(file.into()),
        })
    }
}

/// What to follow, and how.
#[derive(Debug, Args)]
pub(crate) struct TailArgs {
    /// Channels such as orders/eu, or patterns: orders/* for one level below, orders/** for all
    #[arg(required_unless_present = "me", value_name = "CHANNEL")]
    pub(crate) channels: Vec<Interest>,
    /// Follow the channel of the user of CLARION_TOKEN, and `broadcast`; each line says which of them it came by, unless --door is given
    #[arg(long, conflicts_with = "channels")]
    pub(crate) me: bool,
    /// The door of the broker: by default ws for one channel, sse for several and for patterns
    #[arg(long)]
    pub(crate) door: Option<Door>,
    /// End when the connection does, instead of connecting again
    #[arg(long)]
    pub(crate) once: bool,
    /// End after so many messages
    #[arg(long, value_name = "MESSAGES", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) count: Option<u64>,
    /// Keep the cursor in a file, and go on from it: after any interruption nothing is missing that the log still has
    #[arg(long, value_name = "FILE")]
    pub(crate) resume: Option<PathBuf>,
    /// Begin behind a cursor
    #[arg(long, value_name = "CURSOR", conflicts_with = "last")]
    pub(crate) since: Option<String>,
    /// Begin with so many of the newest messages of the log
    #[arg(long, value_name = "MESSAGES", value_parser = clap::value_parser!(u64).range(1..=1000))]
    pub(crate) last: Option<u64>,
}

/// A way in for clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Door {
    /// A plain WebSocket, for one channel.
    Ws,
    /// An event stream, for one channel or many.
    Sse,
}

/// What a token says.
#[derive(Debug, Args)]
pub(crate) struct TokenArgs {
    /// Whose token it is
    #[arg(long, value_name = "UID")]
    pub(crate) user: Uid,
    /// How long it is good
    #[arg(long, default_value = "1h", value_name = "DURATION", value_parser = duration)]
    pub(crate) expires: Duration,
    /// A channel or pattern that it allows (claim `channels`); may come several times
    #[arg(long = "channel", value_name = "CHANNEL")]
    pub(crate) channels: Vec<Interest>,
    /// The claim `aud`, where the broker asks for one
    #[arg(long)]
    pub(crate) audience: Option<String>,
    /// The claim `iss`, where the broker asks for one
    #[arg(long)]
    pub(crate) issuer: Option<String>,
}

/// What is checked beside the way in.
#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {
    /// The broker's admin listener; by default port 8001 where the broker is on this machine
    #[arg(long, value_name = "URL")]
    pub(crate) admin: Option<Url>,
    /// A bus to check beside the broker of --via
    #[arg(long, env = "CLARION_BUS", hide_env_values = true, value_name = "URL")]
    pub(crate) bus: Option<String>,
    /// Whether the URL came by the flag, where a password would be seen by everybody.
    #[arg(skip)]
    pub(crate) bus_is_flag: bool,
    /// The broker's configuration file, for `clarion-broker config --check`
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
}

fn duration(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(Duration::ZERO) => Err("expected more than nothing".to_owned()),
        Ok(duration) => Ok(duration),
        Err(error) => Err(format!("{error}; expected a number with its unit, such as 500ms, 10s or 1h")),
    }
}

fn rate(text: &str) -> Result<f64, String> {
    let rate = text.parse::<f64>().ok().filter(|rate| rate.is_finite() && *rate > 0.0);
    rate.ok_or_else(|| "expected a number above 0, such as 100 or 0.5".to_owned())
}

fn pubsub(text: &str) -> Result<PubSub, String> {
    match text {
        "classic" => Ok(PubSub::Classic),
        "sharded" => Ok(PubSub::Sharded),
        _ => Err("expected classic or sharded".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Result<Cli, clap::Error> {
        let words = std::iter::once("clarion").chain(line.split(' '));
        Cli::from_matches(&Cli::command().try_get_matches_from(words)?)
    }

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn where_a_message_comes_from() {
        for (text, source) in [
            ("hello", Source::Text("hello".into())),
            ("", Source::Text(String::new())),
            ("-", Source::Lines),
            ("@-", Source::WholeInput),
            ("@a b.json", Source::File("a b.json".into())),
            ("@@home", Source::Text("@home".into())),
        ] {
            assert_eq!(text.parse(), Ok(source), "{text}");
        }
    }

    #[test]
    fn a_url_on_the_command_line_is_known_to_be_one() {
        assert!(read("nodes --via nats://a").unwrap().common.via_is_flag);
        assert!(read("--via nats://a nodes").unwrap().common.via_is_flag);
        assert!(!read("nodes").unwrap().common.via_is_flag);
        let Command::Doctor(doctor) = read("doctor --bus redis://a").unwrap().command else { panic!() };
        assert!(doctor.bus_is_flag);
    }

    #[test]
    fn what_is_refused() {
        for (line, word) in [
            ("publish a//b x", "empty segment"),
            ("publish me x", "reserved"),
            ("push 4/2 x", "slash"),
            ("publish a - --rate 0", "--rate"),
            ("publish a - --rate inf", "--rate"),
            ("tail", "<CHANNEL>"),
            ("tail *", "pattern"),
            ("tail a --count 0", "--count"),
            ("token --user 42 --expires 1", "--expires"),
            ("token --user 42 --expires 0s", "--expires"),
            ("token", "--user"),
            ("nodes --timeout 0s", "--timeout"),
            ("nodes --prefix a.b", "--prefix"),
            ("nodes --cert-file x", "--key-file"),
        ] {
            let error = read(line).unwrap_err().to_string();
            assert!(error.contains(word), "{line}: {error}");
        }
    }

    #[test]
    fn a_negative_number_is_a_message() {
        let Command::Publish { message, .. } = read("publish a -5").unwrap().command else { panic!() };
        assert_eq!(message.message, Source::Text("-5".into()));
    }
}
