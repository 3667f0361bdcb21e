//! How a bus is chosen and reached: the `[bus]` table of the configuration, and the function that starts it.

use std::{path::PathBuf, sync::Arc, time::Duration};

use clarion_protocol::{Logs, Prefix, limits};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::runtime::Handle;

use crate::{
    BusHandle, Sink,
    bus_url::{BusUrl, RedisMode, RedisUrl, Secret},
    memory, nats, redis,
};

/// The `[bus]` table. Parsed into types here, so that a mistake is found before anything is started.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct BusConfig {
    /// Which bus, and where: `memory`, `redis://…`, `rediss://…`, `redis-sentinel://…`, `redis-cluster://…`, `nats://…`, `tls://…`.
    #[schemars(with = "String")]
    pub url: BusUrl,
    /// The password, when it does not stand in the URL; it goes before the one that does.
    #[schemars(with = "Option<String>")]
    pub password: Option<Secret>,
    /// On a Redis Cluster: classic pub/sub, which knows patterns, or sharded pub/sub, which scales.
    pub pubsub: PubSub,
    /// A PEM file with the certificate authorities to trust instead of the system's.
    #[schemars(example = "/etc/clarion/ca.pem")]
    pub ca_file: Option<PathBuf>,
    /// A PEM file with the certificate to show to the server.
    #[schemars(example = "/etc/clarion/client.pem")]
    pub cert_file: Option<PathBuf>,
    /// A PEM file with that certificate's key.
    #[schemars(example = "/etc/clarion/client.key")]
    pub key_file: Option<PathBuf>,
    /// NATS: a credentials file (user JWT and nkey seed).
    #[schemars(example = "/etc/clarion/clarion.creds")]
    pub nats_creds_file: Option<PathBuf>,
    /// NATS: a file with an nkey seed.
    #[schemars(example = "/etc/clarion/clarion.nk")]
    pub nats_nkey_file: Option<PathBuf>,
    /// NATS: whether servers that a server of `bus.url` tells of are tried as well. `false` where they advertise addresses
    /// that only they reach, such as those of a network of their own.
    pub nats_advertised: bool,
    /// How long one attempt to connect may take: several round trips around the world, TLS included.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "Duration")]
    pub connect_timeout: Duration,
    /// How long the server may take to answer a command before nobody knows: 503 and 504 should come while somebody waits.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "Duration")]
    pub command_timeout: Duration,
    /// The longest pause between two attempts to connect; pauses grow from 100 ms, each drawn from zero to its bound.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "Duration")]
    pub reconnect_max: Duration,
    /// The largest payload that is passed on, set from the broker's own limit.
    #[serde(skip)]
    pub max_payload: usize,
    /// What all subjects begin with, set from the broker's own setting.
    #[serde(skip)]
    pub prefix: Prefix,
    /// Which namespaces are logged, set from the broker's own setting.
    #[serde(skip)]
    pub logs: Logs,
    /// How this client calls itself towards the server, set from the node's name.
    #[serde(skip)]
    pub client_name: String,
    /// Where the subscriber links run, if not where the bus is started: the closer to whoever takes the messages, the
    /// cheaper is each of them. It must outlive the bus.
    #[serde(skip)]
    pub links: Option<Handle>,
}

impl Default for BusConfig {
    fn default() -> Self {
        Self {
            url: BusUrl::default(),
            password: None,
            pubsub: PubSub::default(),
            ca_file: None,
            cert_file: None,
            key_file: None,
            nats_creds_file: None,
            nats_nkey_file: None,
            nats_advertised: true,
            connect_timeout: Duration::from_secs(5),
            command_timeout: Duration::from_secs(5),
            reconnect_max: Duration::from_secs(5),
            max_payload: limits::PAYLOAD_BYTES,
            prefix: Prefix::default(),
            logs: Logs::default(),
            client_name: "clarion".to_owned(),
            links: None,
        }
    }
}

/// How a Redis Cluster carries messages.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum PubSub {
    /// Every message crosses every server. Everything works.
    #[default]
    Classic,
    /// A message stays on the shard of its channel's slot. There are no patterns.
    Sharded,
}

/// A setting that cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{key} is {value}; expected {expected}")]
pub struct ConfigError {
    /// Which setting, `bus.ca_file`.
    pub key: &'static str,
    /// What it is. Never a secret.
    pub value: String,
    /// What it should be.
    pub expected: String,
}

impl BusConfig {
    /// The runtime of the subscriber links.
    pub(crate) fn link_runtime(&self) -> Handle {
        self.links.clone().unwrap_or_else(Handle::current)
    }
}

impl ConfigError {
    /// One of two files that go together.
    pub(crate) fn alone(key: &'static str, file: &std::path::Path, other: &str) -> Self {
        Self { key, value: file.display().to_string(), expected: format!("{other} as well, or neither") }
    }
}

/// Starts the bus that is configured, inside a tokio runtime. Whether its server can be reached shows in [`crate::Bus::link`].
///
/// # Errors
/// Only for mistakes in the configuration, among them files that cannot be read.
pub fn connect(config: &BusConfig, sink: Arc<dyn Sink>) -> Result<BusHandle, ConfigError> {
    check(config)?;
    match &config.url {
        BusUrl::Memory => Ok(Arc::new(memory::Server::new().attach(config, sink))),
        BusUrl::Redis(url) => redis::connect(url, config, sink),
        BusUrl::Nats(url) => nats::connect(url, config, sink),
    }
}

/// Judges settings that contradict each other. A file that would not be read is one: somebody believes that it is.
///
/// # Errors
/// The first that is found.
pub fn check(config: &BusConfig) -> Result<(), ConfigError> {
    let cluster = matches!(&config.url, BusUrl::Redis(RedisUrl { mode: RedisMode::Cluster, .. }));
    if config.pubsub == PubSub::Sharded && !cluster {
        let expected = "classic: only a redis-cluster:// bus has sharded pub/sub".to_owned();
        return Err(ConfigError { key: "bus.pubsub", value: "sharded".to_owned(), expected });
    }
    if config.pubsub == PubSub::Sharded && !config.logs.is_empty() {
        // A function may publish on a shard's own slots only, and a partition's slot is not that of its channels' names.
        let expected =
            "classic where a namespace has a `log`, or no `log`: a log lies in another slot than its channels"
                .to_owned();
        return Err(ConfigError { key: "bus.pubsub", value: "sharded".to_owned(), expected });
    }
    if let (BusUrl::Nats(_), Some((namespace, _))) =
        (&config.url, config.logs.logged().find(|(_, policy)| policy.partitions > 1))
    {
        let expected = "1 on NATS: a namespace's log is one stream there".to_owned();
        let value = format!("more than 1 for `{namespace}`");
        return Err(ConfigError { key: "namespaces.log.partitions", value, expected });
    }
    // A NATS server may demand TLS of a client whose URL does not.
    let tls = config.url.tls() || matches!(config.url, BusUrl::Nats(_));
    let nats = matches!(config.url, BusUrl::Nats(_));
    let files = [
        ("bus.ca_file", &config.ca_file, tls, "nothing, or a URL with TLS in bus.url"),
        ("bus.cert_file", &config.cert_file, tls, "nothing, or a URL with TLS in bus.url"),
        ("bus.key_file", &config.key_file, tls, "nothing, or a URL with TLS in bus.url"),
        ("bus.nats_creds_file", &config.nats_creds_file, nats, "nothing, or a nats:// URL in bus.url"),
        ("bus.nats_nkey_file", &config.nats_nkey_file, nats, "nothing, or a nats:// URL in bus.url"),
    ];
    for (key, file, used, expected) in files {
        if let (Some(file), false) = (file, used) {
            return Err(ConfigError { key, value: file.display().to_string(), expected: expected.to_owned() });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use clarion_protocol::{Channel, LogPolicy};

    use super::*;

    #[test]
    fn settings_that_contradict_each_other_are_named() {
        let with = |url: &str| BusConfig { url: url.parse().unwrap(), ..BusConfig::default() };
        assert_eq!(check(&with("redis://a")), Ok(()));
        let sharded = BusConfig { pubsub: PubSub::Sharded, ..with("redis://a") };
        assert_eq!(check(&sharded).unwrap_err().key, "bus.pubsub");
        assert_eq!(check(&BusConfig { pubsub: PubSub::Sharded, ..with("redis-cluster://a") }), Ok(()));
        let policy = |partitions| LogPolicy { size: 1, age: Duration::from_secs(1), partitions };
        let logs = |partitions| Logs::new([(Channel::parse("a").unwrap(), Some(policy(partitions)))]);
        let logged = BusConfig { pubsub: PubSub::Sharded, logs: logs(1), ..with("redis-cluster://a") };
        assert_eq!(check(&logged).unwrap_err().key, "bus.pubsub");
        assert_eq!(check(&BusConfig { logs: logs(1), ..with("nats://a") }), Ok(()));
        let parted = BusConfig { logs: logs(2), ..with("nats://a") };
        assert_eq!(check(&parted).unwrap_err().key, "namespaces.log.partitions");
        let ca = |url| BusConfig { ca_file: Some("/ca.pem".into()), ..with(url) };
        assert_eq!(check(&ca("redis://a")).unwrap_err().key, "bus.ca_file");
        assert_eq!(check(&ca("rediss://a")), Ok(()));
        assert_eq!(check(&ca("nats://a")), Ok(()));
        let creds = BusConfig { nats_creds_file: Some("/x".into()), ..with("memory") };
        assert_eq!(check(&creds).unwrap_err().key, "bus.nats_creds_file");
    }

    #[test]
    fn a_table_is_read_and_hides_its_secrets() {
        let json = r#"{"url":"rediss://u:hidden@a","password":"concealed","pubsub":"classic","command_timeout":"2s"}"#;
        let config: BusConfig = serde_json::from_str(json).unwrap();
        let debug = format!("{config:?}");
        assert!(!debug.contains("hidden") && !debug.contains("concealed"), "{debug}");
        assert_eq!(config.command_timeout, Duration::from_secs(2));
        let bad = serde_json::from_str::<BusConfig>(r#"{"url":"rediss://u:hidden@a:port"}"#).unwrap_err();
        assert!(!bad.to_string().contains("hidden"), "{bad}");
        assert!(serde_json::from_str::<BusConfig>(r#"{"urls":"memory"}"#).is_err());
    }
}
