//! How a bus is chosen and reached: the `[bus]` table of the configuration, and the function that starts it.

use std::{fmt, path::PathBuf, sync::Arc, time::Duration};

use clarion_protocol::{Prefix, limits};
use serde::Deserialize;

use crate::{BusHandle, Sink};

/// The `[bus]` table. Parsed into types here, so that a mistake is found before anything is started.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BusConfig {
    /// Which bus, and where: `memory`, `redis://…`, `rediss://…`, `redis-sentinel://…`, `redis-cluster://…`, `nats://…`, `tls://…`.
    pub url: BusUrl,
    /// On a Redis Cluster: classic pub/sub, which knows patterns, or sharded pub/sub, which scales.
    pub pubsub: PubSub,
    /// A PEM file with the certificate authorities to trust instead of the system's.
    pub ca_file: Option<PathBuf>,
    /// A PEM file with the certificate to show to the server.
    pub cert_file: Option<PathBuf>,
    /// A PEM file with that certificate's key.
    pub key_file: Option<PathBuf>,
    /// NATS: a credentials file (user JWT and nkey seed).
    pub nats_creds_file: Option<PathBuf>,
    /// NATS: a file with an nkey seed.
    pub nats_nkey_file: Option<PathBuf>,
    /// How long one attempt to connect may take: several round trips around the world, TLS included.
    #[serde(with = "humantime_serde")]
    pub connect_timeout: Duration,
    /// How long the server may take to answer a command before nobody knows: 503 and 504 should come while somebody waits.
    #[serde(with = "humantime_serde")]
    pub command_timeout: Duration,
    /// The longest pause between two attempts to connect; pauses grow from 100 ms, each drawn from zero to its bound.
    #[serde(with = "humantime_serde")]
    pub reconnect_max: Duration,
    /// The largest payload that is passed on, set from the broker's own limit.
    #[serde(skip)]
    pub max_payload: usize,
    /// What all subjects begin with, set from the broker's own setting.
    #[serde(skip)]
    pub prefix: Prefix,
    /// How this client calls itself towards the server, set from the node's name.
    #[serde(skip)]
    pub client_name: String,
}

impl Default for BusConfig {
    fn default() -> Self {
        Self {
            url: BusUrl::default(),
            pubsub: PubSub::default(),
            ca_file: None,
            cert_file: None,
            key_file: None,
            nats_creds_file: None,
            nats_nkey_file: None,
            connect_timeout: Duration::from_secs(5),
            command_timeout: Duration::from_secs(5),
            reconnect_max: Duration::from_secs(5),
            max_payload: limits::PAYLOAD_BYTES,
            prefix: Prefix::default(),
            client_name: "clarion".to_owned(),
        }
    }
}
