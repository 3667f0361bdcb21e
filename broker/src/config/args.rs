//! The command line. Values stay texts here: what is wrong with them is reported together with everything else.

use std::path::PathBuf;

use clap::{Parser, Subcommand};

/// Clarion's broker: relays what any backend publishes on the bus to the browsers and apps of the people who should see it.
#[derive(Debug, Clone, Parser)]
#[command(name = "clarion-broker", version)]
pub struct Args {
    /// Settings.
    #[command(flatten)]
    pub flags: Flags,
    /// What to do instead of running.
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// What can be done besides running.
#[derive(Debug, Clone, Subcommand)]
pub enum Command {
    /// Print the effective configuration as TOML, with secrets hidden.
    Config {
        /// Judge it and print nothing but mistakes.
        #[arg(long)]
        check: bool,
        /// Print the reference of all settings as Markdown instead.
        #[arg(long, conflicts_with = "check")]
        reference: bool,
        /// Print the JSON Schema of the file instead, for editors.
        #[arg(long, conflicts_with_all = ["check", "reference"])]
        schema: bool,
    },
}

/// Settings on the command line; each stands over its `CLARION_*` variable, which stands over the file.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Flags {
    /// The TOML file with settings [variable: CLARION_CONFIG].
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Where clients connect [default: 127.0.0.1:8000].
    #[arg(long, global = true, value_name = "IP:PORT")]
    pub listen: Option<String>,
    /// Where health and metrics are [default: 127.0.0.1:8001].
    #[arg(long, global = true, value_name = "IP:PORT")]
    pub admin_listen: Option<String>,
    /// The bus: memory, redis://…, rediss://…, redis-sentinel://…, redis-cluster://…, nats://… or tls://…, without a password [default: memory].
    #[arg(long, global = true, value_name = "URL")]
    pub bus: Option<String>,
    /// What all subjects on the bus begin with [default: clarion].
    #[arg(long, global = true)]
    pub prefix: Option<String>,
    /// This node's name [default: the host's and a random part].
    #[arg(long, global = true, value_name = "NAME")]
    pub node: Option<String>,
    /// Where other nodes reach this one's listener.
    #[arg(long, global = true, value_name = "HOST:PORT")]
    pub advertise: Option<String>,
    /// Where clients reach this very node.
    #[arg(long, global = true, value_name = "URL")]
    pub public_url: Option<String>,
    /// A user's connection that did not come to his home: serve, relay or redirect [default: serve].
    #[arg(long, global = true)]
    pub pin: Option<String>,
    /// Allow development mode on an address that others reach.
    #[arg(long, global = true)]
    pub insecure: bool,
    /// error, warn, info, debug, trace, or directives [default: info].
    #[arg(long, global = true, value_name = "LEVEL")]
    pub log_level: Option<String>,
    /// text or json [default: text].
    #[arg(long, global = true, value_name = "FORMAT")]
    pub log_format: Option<String>,
    /// Exit with status 69 when the bus is not connected after this time, such as 10s.
    #[arg(long, global = true, value_name = "DURATION")]
    pub require_bus: Option<String>,
}

impl Flags {
    /// All flags that take a value: name, key of the setting, value if it was given.
    pub(super) fn all(&self) -> impl Iterator<Item = (&'static str, &'static str, Option<&str>)> {
        let flags = [
            ("--listen", "listen", &self.listen),
            ("--admin-listen", "admin_listen", &self.admin_listen),
            ("--bus", "bus.url", &self.bus),
            ("--prefix", "prefix", &self.prefix),
            ("--node", "node", &self.node),
            ("--advertise", "advertise", &self.advertise),
            ("--public-url", "public_url", &self.public_url),
            ("--pin", "pin", &self.pin),
            ("--log-level", "log.level", &self.log_level),
            ("--log-format", "log.format", &self.log_format),
            ("--require-bus", "require_bus", &self.require_bus),
        ];
        flags.into_iter().map(|(flag, key, text)| (flag, key, text.as_deref()))
    }

    /// The flags that were given: name, key of the setting, value.
    pub(super) fn given(&self) -> impl Iterator<Item = (&'static str, &'static str, &str)> {
        let insecure = self.insecure.then_some(("--insecure", "insecure", "true"));
        self.all().filter_map(|(flag, key, text)| Some((flag, key, text?))).chain(insecure)
    }
}
