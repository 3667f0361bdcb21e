//! The tree of all settings: one TOML file, over which `CLARION_*` variables stand, over which flags stand.
//!
//! All mistakes are found at start and reported together, each with its key, its value unless that is a secret, what was
//! expected and what to do. Modules keep their own tables; here they come together and are checked against each other.

mod args;
mod bytes;
mod check;
mod keys;
mod layers;
mod limits;
mod node;
mod places;
mod problem;
mod reference;
mod text;

use std::{net::SocketAddr, num::NonZeroU32, time::Duration};

use clarion_bus::{BusConfig, BusUrl};
use clarion_protocol::{NodeName, Prefix};
use ipnet::IpNet;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    admission::{self, ProxyHeader},
    auth::{self, Namespace, Patterns, WebUrl},
    drain, ingress, members, probe, tls,
};

pub use args::{Args, Command, Flags};
pub use bytes::ByteSize;
pub use limits::Limits;
pub use problem::{Problem, Rejected};
pub use reference::{page as reference, schema};

/// `limits.patterns` on Redis, which compares every message with every pattern, at 30 to 40 ns each: one with none took 1.4
/// million messages a second, with 100 some 200,000, with 300 (three nodes with others each) 70,000, with 7,680 only 1,000.
const PATTERNS_ON_REDIS: u32 = 100;

/// HTTP connections that an address may have beside those that become its WebSockets and event streams.
const HTTP_BESIDE: u32 = 16;

/// All settings of a node.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Where clients connect.
    pub listen: SocketAddr,
    /// Where health and metrics are. Not for the public.
    pub admin_listen: SocketAddr,
    /// What all subjects on the bus begin with, so that deployments can share one.
    #[serde(with = "text")]
    #[schemars(with = "String")]
    pub prefix: Prefix,
    /// This node's name, unique among the members; by default the host's and a random part.
    #[schemars(with = "String")]
    pub node: NodeName,
    /// `host:port` at which other nodes reach this one's listener.
    #[schemars(example = "10.1.2.3:8000")]
    pub advertise: Option<String>,
    /// The address at which clients reach this very node.
    #[schemars(with = "Option<String>", example = "https://node-1.push.example.com")]
    pub public_url: Option<WebUrl>,
    /// What happens to a user's connection that did not come to his home.
    pub pin: Pin,
    /// Allows what is usually a mistake: development mode on an address that others reach.
    pub insecure: bool,
    /// Ends the process with status 69 when the bus is not connected after this time, instead of trying for ever.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "Option<Duration>", example = "10s")]
    pub require_bus: Option<Duration>,
    /// Networks of proxies whose word about their client's address is taken.
    #[schemars(with = "Vec<String>", example = ["10.0.0.0/8"])]
    pub trusted_proxies: Vec<IpNet>,
    /// The header in which they give it.
    pub proxy_header: ProxyHeader,
    /// What is logged, and how.
    pub log: Log,
    /// TLS towards clients.
    pub tls: tls::Config,
    /// The bus.
    pub bus: BusConfig,
    /// Tokens, keys and origins.
    pub auth: auth::Config,
    /// Who may do what where.
    pub namespaces: Vec<Namespace>,
    /// Limits and the times of a connection's life.
    pub limits: Limits,
    /// The way to the bus.
    pub ingress: ingress::Config,
    /// The cluster.
    pub members: members::Config,
    /// The bus's probe.
    pub probe: probe::Config,
    /// Leaving in order.
    pub drain: drain::Config,
    /// What is no mistake and yet worth saying, for the log.
    #[serde(skip)]
    pub warnings: Vec<String>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 8000)),
            admin_listen: SocketAddr::from(([127, 0, 0, 1], 8001)),
            prefix: Prefix::default(),
            node: node::random_name(),
            advertise: None,
            public_url: None,
            pin: Pin::default(),
            insecure: false,
            require_bus: None,
            trusted_proxies: Vec::new(),
            proxy_header: ProxyHeader::default(),
            log: Log::default(),
            tls: tls::Config::default(),
            bus: BusConfig::default(),
            auth: auth::Config::default(),
            namespaces: Vec::new(),
            limits: Limits::default(),
            ingress: ingress::Config::default(),
            members: members::Config::default(),
            probe: probe::Config::default(),
            drain: drain::Config::default(),
            warnings: Vec::new(),
        }
    }
}

impl Config {
    /// Reads the file that the arguments or `CLARION_CONFIG` name, the variables and the flags, and judges what comes
    /// out, files that it names included.
    ///
    /// # Errors
    /// All mistakes.
    pub fn load(flags: &Flags, vars: impl IntoIterator<Item = (String, String)>) -> Result<Self, Rejected> {
        let layers::Read { mut config, mut problems, sources, places } = layers::read(flags, vars);
        config.settle();
        check::check(&config, &mut problems);
        for problem in problems.iter_mut().filter(|problem| problem.source.is_none()) {
            problem.source = sources.get(&problem.key).cloned().or_else(|| places.place(&problem.key));
        }
        if !problems.is_empty() {
            return Err(Rejected { problems, warnings: config.warnings });
        }
        check::warn(&mut config);
        Ok(config)
    }

    /// Hands what is set in one place to the modules that need it too.
    fn settle(&mut self) {
        self.bus.max_payload = self.limits.payload.bytes();
        self.bus.prefix = self.prefix.clone();
        self.bus.client_name = format!("clarion-{}", self.node);
        self.ingress.max_payload = self.limits.payload.bytes();
        self.auth.patterns = if self.is_on_redis() { Patterns::SignedIn } else { Patterns::Anyone };
    }

    fn is_on_redis(&self) -> bool {
        matches!(self.bus.url, BusUrl::Redis(_))
    }

    /// Everything as TOML, defaults included and secrets hidden.
    ///
    /// # Panics
    /// Never: every setting has a form in TOML.
    #[must_use]
    pub fn to_toml(&self) -> String {
        toml::to_string_pretty(self).expect("every setting has a form in TOML")
    }

    /// Whether nobody is kept out: no token keys and no API keys.
    #[must_use]
    pub fn is_development(&self) -> bool {
        self.auth.is_development()
    }

    /// How many connections may speak HTTP.
    #[must_use]
    pub fn sockets(&self) -> admission::sockets::Config {
        let Limits { http_connections, http_per_address, per_address, .. } = self.limits;
        // Whoever counts addresses knows that they are his clients'. Each of them comes by HTTP first, and asks a little more.
        let derived = if per_address == 0 { 0 } else { per_address.saturating_add(HTTP_BESIDE) };
        let per_address = if http_per_address == 0 { derived } else { http_per_address };
        admission::sockets::Config {
            http: http_connections.try_into().ok(),
            http_per_address: per_address.try_into().ok(),
            trusted_proxies: self.trusted_proxies.clone(),
        }
    }

    /// What admission needs of it.
    #[must_use]
    pub fn admission(&self) -> admission::Config {
        let limits = &self.limits;
        let patterns = limits.patterns.unwrap_or(if self.is_on_redis() { PATTERNS_ON_REDIS } else { 0 });
        let limit = |count: u32| NonZeroU32::new(count);
        admission::Config {
            accepts_per_second: limit(limits.accepts_per_second),
            handshakes_per_address: limit(limits.handshakes_per_address),
            failures_per_address: limit(limits.failures_per_address),
            publishes_per_connection: limit(limits.publishes_per_connection),
            publishes_per_user: limit(limits.publishes_per_user),
            connections: limit(limits.connections),
            per_user: limit(limits.per_user),
            per_address: limit(limits.per_address),
            channels_per_connection: limits.channels_per_connection.try_into().ok().and_then(limit),
            channels_per_address: limit(limits.channels_per_address),
            channels: limit(limits.channels),
            patterns_per_connection: limit(limits.patterns_per_connection),
            patterns_per_address: limit(limits.patterns_per_address),
            patterns: limit(patterns),
            trusted_proxies: self.trusted_proxies.clone(),
            proxy_header: self.proxy_header,
        }
    }
}

/// What happens to a user's connection that did not come to his home.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Pin {
    /// It is served where it landed.
    #[default]
    Serve,
    /// Its bytes are carried to its home.
    Relay,
    /// A WebSocket client that is no browser is sent to its home.
    Redirect,
}

/// The `[log]` table.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Log {
    /// `error`, `warn`, `info`, `debug`, `trace`, or directives such as `info,clarion_bus=debug`.
    pub level: String,
    /// For people or for machines.
    pub format: LogFormat,
}

impl Default for Log {
    fn default() -> Self {
        Self { level: "info".to_owned(), format: LogFormat::default() }
    }
}

/// How log lines look.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

#[cfg(test)]
mod tests;
