//! What a node says when it is up: where it is, and three commands to try, once there is a bus to try them on.

use std::time::Duration;

use clarion_broker::{
    config::{Config, LogFormat},
    server::Running,
};
use clarion_bus::Link;
use tokio::{
    sync::watch,
    time::{Instant, timeout},
};

/// How long a person waits to read what came of the first attempt to reach the bus: one on the same continent has answered by then.
const FIRST_ATTEMPT: Duration = Duration::from_secs(1);

use crate::logging;

/// For machines one record, for people the addresses and what to type.
pub(crate) fn say(config: &Config, running: &Running) {
    let (listen, admin, node) = (running.listen, running.admin, &running.node);
    tracing::info!(%listen, %admin, %node, bus = %config.bus.url, version = env!("CARGO_PKG_VERSION"), "listening");
    match config.log.format {
        LogFormat::Text => {
            // It ends with the process, or when there is nothing more to say.
            tokio::spawn(Greeting::new(config, running).tell(running.link()));
        }
        LogFormat::Json if config.is_development() => {
            tracing::warn!(
                "development mode: no keys are configured, so whoever reaches this node may hear and publish everything"
            );
        }
        LogFormat::Json => {}
    }
}

/// What is said to people.
struct Greeting {
    /// Who this is, and where.
    head: String,
    /// What to type. It works only while there is a bus.
    attempts: String,
    /// The bus, without its secrets.
    bus: String,
    started: Instant,
}

impl Greeting {
    fn new(config: &Config, running: &Running) -> Self {
        let (head, attempts) = (head(config, running), attempts(config, running));
        Self { head, attempts, bus: config.bus.url.to_string(), started: Instant::now() }
    }

    /// Greets as soon as it is known whether the bus is there; where it is not, says why, and greets again when it is.
    async fn tell(self, mut link: watch::Receiver<Link>) {
        let known = link.wait_for(|link| *link != Link::Down(None));
        let state =
            timeout(FIRST_ATTEMPT, known).await.map_or(Ok(Link::Down(None)), |known| known.map(|link| link.clone()));
        match state {
            Ok(Link::Up) => return print(format!("{}\n{}\n", self.head, self.attempts)).await,
            Ok(Link::Down(why)) => print(format!("{}\n{}\n", self.head, self.without_bus(why.as_deref()))).await,
            // The node has left already.
            Err(_) => return,
        }
        if link.wait_for(|link| *link == Link::Up).await.is_ok() {
            let after = self.started.elapsed().as_secs_f64();
            let (bus, attempts) = (&self.bus, &self.attempts);
            print(format!("\n  The bus {bus} is connected, {after:.0} seconds after the start.\n{attempts}\n")).await;
        }
    }

    fn without_bus(&self, why: Option<&str>) -> String {
        format!(
            "\n  NO BUS: {} is not reachable: {}.\n  Nothing is delivered until it is: publishing and new WebSockets are \
             answered 503, /health/ready as well.\n  The node goes on trying, and says when it is connected.\n",
            self.bus,
            why.unwrap_or("it has not answered yet"),
        )
    }
}

/// Prints without holding up the runtime: whoever reads may be slow, or not read at all.
async fn print(text: String) {
    // It ends with the process, if not before.
    let _ = tokio::task::spawn_blocking(|| logging::say(text)).await;
}

fn head(config: &Config, running: &Running) -> String {
    let (listen, admin) = (running.listen, running.admin);
    let mode = if config.is_development() {
        "\n  Development mode: no keys are configured, so everybody on this machine may hear and publish everything.\n  \
         Tokens signed with the secret `development` are good here (`clarion token --user 42`)."
    } else {
        ""
    };
    let scheme = if config.tls.is_on() { "https" } else { "http" };
    format!(
        "\nClarion {version}: node {node} on the bus {kind}\n  clients and publishers: {scheme}://{listen}\n  \
         health and metrics:     http://{admin}{mode}",
        version = env!("CARGO_PKG_VERSION"),
        node = running.node,
        kind = config.bus.url.kind(),
    )
}

fn attempts(config: &Config, running: &Running) -> String {
    let listen = running.listen;
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
        "\n  Try, in two terminals:\n    \
         curl{trust} -N -H 'Accept: text/event-stream' {scheme}://{listen}/news\n    \
         curl{trust}{key} -d 'data=hello' {scheme}://{listen}/news\n    {bus}\n{page}\n"
    )
}
