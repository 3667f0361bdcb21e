//! What a node says when it is up: where it is, and three commands to try.

use clarion_broker::{
    config::{Config, LogFormat},
    server::Running,
};

use crate::logging;

/// For machines one record, for people the addresses and what to type.
pub(crate) fn say(config: &Config, running: &Running) {
    let (listen, admin, node) = (running.listen, running.admin, &running.node);
    tracing::info!(%listen, %admin, %node, bus = %config.bus.url, version = env!("CARGO_PKG_VERSION"), "listening");
    match config.log.format {
        LogFormat::Text => logging::say(text(config, running)),
        LogFormat::Json if config.is_development() => {
            tracing::warn!(
                "development mode: no keys are configured, so whoever reaches this node may hear and publish everything"
            );
        }
        LogFormat::Json => {}
    }
}

fn text(config: &Config, running: &Running) -> String {
    let (listen, admin) = (running.listen, running.admin);
    let mode = if config.is_development() {
        "\n  Development mode: no keys are configured, so everybody on this machine may hear and publish everything.\n  \
         Tokens signed with the secret `development` are good here (`clarion token --user 42`)."
    } else {
        ""
    };
    let key = if config.is_development() { "" } else { " -H 'x-api-key: …'" };
    // A certificate is made out for a name, and hardly for this address.
    let (scheme, trust) = if config.tls.is_on() { ("https", " -k") } else { ("http", "") };
    let bus = match config.bus.url.kind() {
        "redis" => format!("redis-cli PUBLISH {}:news hello", config.prefix),
        "nats" => format!("nats pub {}.news hello", config.prefix),
        _ => {
            let json = "-H 'content-type: application/json' -d '{\"paid\":true}'";
            format!("curl{trust} {json}{key} {scheme}://{listen}/users/42")
        }
    };
    let page =
        if config.is_development() { format!("\n  A page to try it: {scheme}://{listen}/") } else { String::new() };
    format!(
        "\nClarion {version}: node {node} on the bus {kind}\n  clients and publishers: {scheme}://{listen}\n  \
         health and metrics:     http://{admin}{mode}\n\n  Try, in two terminals:\n    \
         curl{trust} -N -H 'Accept: text/event-stream' {scheme}://{listen}/news\n    \
         curl{trust}{key} -d 'data=hello' {scheme}://{listen}/news\n    {bus}\n{page}\n\n",
        version = env!("CARGO_PKG_VERSION"),
        node = running.node,
        kind = config.bus.url.kind(),
    )
}
