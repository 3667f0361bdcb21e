//! NATS.

use std::sync::Arc;

use crate::{BusConfig, BusHandle, ConfigError, NatsUrl, Sink};

/// Starts a NATS bus.
///
/// # Errors
/// Only for mistakes in the configuration.
pub(crate) fn connect(_url: &NatsUrl, _config: &BusConfig, _sink: Arc<dyn Sink>) -> Result<BusHandle, ConfigError> {
    Err(ConfigError { key: "bus.url", value: "a NATS URL".to_owned(), expected: "memory or Redis".to_owned() })
}
