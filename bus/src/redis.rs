//! Redis.

use std::sync::Arc;

use crate::{BusConfig, BusHandle, ConfigError, RedisUrl, Sink};

/// Starts a Redis bus.
///
/// # Errors
/// Only for mistakes in the configuration.
pub(crate) fn connect(_url: &RedisUrl, _config: &BusConfig, _sink: Arc<dyn Sink>) -> Result<BusHandle, ConfigError> {
    Err(ConfigError { key: "bus.url", value: "a Redis URL".to_owned(), expected: "memory or NATS".to_owned() })
}
