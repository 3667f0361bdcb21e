//! The edge: opens the listeners, builds and wires everything below, serves, and leaves in order.

mod accept;
mod exit;
mod leave;
mod line;
mod listen;
mod routes;
mod trim;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use anyhow::Context as _;
use clarion_bus::{BusConfig, BusHandle, BusUrl, ConfigError, Link, Sink};
use clarion_hub::{self as hub, Hub};
use clarion_protocol::NodeName;
use prometheus::Registry;
use tokio::{
    net::TcpListener,
    runtime::{Handle, RuntimeFlavor},
    sync::watch,
    task::JoinSet,
    time::Instant,
};
use tokio_util::{
    sync::CancellationToken,
    task::{AbortOnDropHandle, TaskTracker},
};

use crate::{
    admin,
    admission::{Admission, Hops},
    auth::Auth,
    config::Config,
    drain,
    ingress::{self, Deliverer, Ingress, Returns},
    members::{self, Me, Members},
    node::{AcceptMetrics, ConnectionIds, Metrics, Node, Relays, Settings},
    probe::{self, Ready},
    tls,
};

use accept::{Acceptor, Reins};
pub use listen::CannotListen;

/// Cancelled when the node is to leave.
pub type Shutdown = CancellationToken;

/// A node that serves.
pub struct Running {
    /// Where clients and publishers are served.
    pub listen: SocketAddr,
    /// Where health and metrics are.
    pub admin: SocketAddr,
    /// The node's name.
    pub node: NodeName,
    /// Whether it can deliver.
    pub ready: Ready,
    link: watch::Receiver<Link>,
    life: AbortOnDropHandle<anyhow::Result<()>>,
}

impl Running {
    /// Whether the bus is connected, and each change of it.
    pub fn link(&self) -> watch::Receiver<Link> {
        self.link.clone()
    }

    /// Waits until the node has left, after its [`Shutdown`] or since it cannot go on.
    ///
    /// # Errors
    /// Why it cannot go on.
    pub async fn wait(self) -> anyhow::Result<()> {
        self.life.await.context("the node broke")?
    }
}

/// Starts a node on the bus that is configured, and returns when it listens. Its bus may still be unreachable.
///
/// # Errors
/// [`CannotListen`], or what of the configuration turns out not to work.
pub async fn start(config: Config, shutdown: Shutdown) -> anyhow::Result<Running> {
    start_with(config, shutdown, clarion_bus::connect).await
}

/// The same on a bus of one's own, such as one that several nodes of a process share.
///
/// # Errors
/// As [`start`].
pub async fn start_with(
    config: Config,
    shutdown: Shutdown,
    connect: impl FnOnce(&BusConfig, Arc<dyn Sink>) -> Result<BusHandle, ConfigError>,
) -> anyhow::Result<Running> {
    let listeners = listen::listen([("--listen", config.listen), ("--admin-listen", config.admin_listen)])?;
    let [listen, admin] = [listeners[0].local_addr()?, listeners[1].local_addr()?];
    let parts = Parts::build(&config, connect)?;
    let (ready, link) = (parts.ready.clone(), parts.node.ingress.link());
    let life = tokio::spawn(live(config.clone(), parts, listeners, shutdown));
    Ok(Running { listen, admin, node: config.node, ready, link, life: AbortOnDropHandle::new(life) })
}

/// All parts of a node, wired and not yet listening.
struct Parts {
    node: Arc<Node>,
    bus: BusHandle,
    ready: Ready,
    registry: Registry,
    tls: Option<Arc<tls::Server>>,
    probe: probe::Metrics,
    drain: drain::Metrics,
}

impl Parts {
    fn build(
        config: &Config,
        connect: impl FnOnce(&BusConfig, Arc<dyn Sink>) -> Result<BusHandle, ConfigError>,
    ) -> anyhow::Result<Self> {
        let registry = Registry::new();
        admin::register(&registry)?;
        let tls = tls::Server::new(&config.tls, config.limits.handshake, &registry)?;
        let returns = Arc::<Returns>::default();
        let hub = Hub::start(held(config), returns.clone(), &registry).context("the shards cannot be started")?;
        let counters = ingress::Metrics::new(&registry)?;
        let (deliverer, internals) = Deliverer::new(hub.clone(), &counters);
        let on_the_shard = BusConfig { links: hub.host(), ..config.bus.clone() };
        let bus = connect(&on_the_shard, Arc::new(deliverer))?;
        returns.wire(&bus);
        let ingress = Ingress::new(bus.clone(), config.ingress.clone(), &counters, &registry)?;
        let (name, advertise, public_url) = (
            config.node.clone(),
            // Nodes relay by plain HTTP, which a listener that speaks TLS does not understand.
            config.advertise.clone().filter(|_| !config.tls.is_on()),
            config.public_url.as_ref().map(|url| url.expose().as_str().trim_end_matches('/').to_owned()),
        );
        let hops = Hops::new(config.node.clone())?;
        let members = Members::start(
            config.members.clone(),
            Me { node: name, advertise, public_url, key: Some(hops.public_key()) },
            bus.clone(),
            internals,
            Arc::new(hub.clone()),
            members::Metrics::new(&registry)?,
        );
        let auth = Auth::new(&config.auth, config.namespaces.clone(), config.insecure, &registry)?;
        let settings = Settings {
            name: config.node.clone(),
            prefix: config.prefix.clone(),
            bus: bus.kind(),
            development: auth.is_development(),
            channels: config.limits.channels_per_connection,
            payload: config.limits.payload.bytes(),
            pin: config.pin,
            proxy_header: config.proxy_header,
        };
        let node = Arc::new(Node {
            hub,
            ingress,
            members,
            auth,
            admission: Admission::new(&config.admission(), &registry)?,
            settings,
            metrics: Metrics::new(&registry)?,
            tasks: TaskTracker::new(),
            relays: Relays::new(),
            runtime: Handle::current(),
            hops,
            ids: ConnectionIds::default(),
        });
        let (probe, drain) = (probe::Metrics::new(&registry)?, drain::Metrics::new(&registry)?);
        let ready = Ready::new();
        ready.register(&registry)?;
        Ok(Self { node, bus, ready, registry, tls, probe, drain })
    }
}

/// How the hub is to hold connections.
fn held(config: &Config) -> hub::Config {
    let limits = &config.limits;
    hub::Config {
        shards: limits.shards.try_into().ok(),
        thread: match Handle::current().runtime_flavor() {
            // With one core a second thread only takes turns with the first, which costs more than a message does.
            RuntimeFlavor::CurrentThread => hub::Thread::Shared,
            // In memory there is no link, and messages come from the threads that take them in.
            _ if config.bus.url == BusUrl::Memory => hub::Thread::Alone,
            _ => hub::Thread::Hosting,
        },
        queue_bytes: limits.queue.bytes(),
        outbox_bytes: limits.outbox.bytes(),
        message_bytes: limits.payload.bytes(),
        ping_interval: limits.ping,
        pong_timeout: limits.pong,
        handshake_timeout: limits.handshake,
        ..hub::Config::default()
    }
}

/// A node's life: serve until told to leave, then leave. What it started ends with it.
async fn live(config: Config, parts: Parts, listeners: [TcpListener; 2], shutdown: Shutdown) -> anyhow::Result<()> {
    let Parts { node, bus, ready, registry, tls, probe, drain } = parts;
    let mut background = JoinSet::new();
    background.spawn(probe::run(bus, config.probe.clone(), ready.clone(), probe));
    background.spawn(watch_keys(node.auth.clone(), ready.clone()));
    background.spawn(trim::run(node.metrics.accepts.accepted.clone(), node.hub.clone()));
    if let Some(tls) = tls.clone() {
        background.spawn(async move { tls.watch().await });
    }
    let [clients, operators] = listeners;
    // Those who ask whether the node lives are answered to its end; clients are not.
    let (doors, desk) = (Reins::default(), Reins::default());
    // A life that is cut short, as a test does that drops its node, takes no more connections either.
    let _guards = [&doors, &desk].map(|reins| (reins.stop.clone().drop_guard(), reins.finish.clone().drop_guard()));
    let stall_timeout = config.limits.ping + config.limits.pong;
    let for_clients = Acceptor {
        routes: routes::router(node.clone()),
        tls,
        admission: Some(node.admission.clone()),
        metrics: node.metrics.accepts.clone(),
        head_timeout: config.limits.handshake,
        stall_timeout,
        reins: doors.clone(),
    };
    let for_operators = Acceptor {
        routes: admin::router(ready.clone(), registry),
        tls: None,
        admission: None,
        metrics: AcceptMetrics::unseen(),
        head_timeout: config.limits.handshake,
        stall_timeout,
        reins: desk.clone(),
    };
    let accepting = TaskTracker::new();
    accepting.spawn(Arc::new(for_clients).run(clients));
    background.spawn(Arc::new(for_operators).run(operators));
    tokio::select! {
        () = shutdown.cancelled() => {}
        error = node.members.failed() => {
            doors.stop.cancel();
            abandon(&node).await;
            return Err(error.into());
        }
        () = node.hub.failed() => {
            // Its clients are lost already; being half there would lose those who come as well.
            doors.stop.cancel();
            abandon(&node).await;
            anyhow::bail!("a shard of the hub has ended");
        }
    }
    let since = Instant::now();
    let steps = leave::Leaving::new(&node, ready, accepting, &doors);
    drain::run(&config.drain, &steps, &drain, since).await;
    // Answers that are on their way still get out; event streams ended with the hub.
    doors.connections.close();
    node.tasks.close();
    let rest = async { tokio::join!(doors.connections.wait(), node.tasks.wait()) };
    let patience = (since + config.drain.deadline).min(Instant::now() + LAST_ANSWERS);
    if tokio::time::timeout_at(patience, rest).await.is_err() {
        tracing::info!(cut = doors.connections.len(), "some connections did not take their last answers in time");
    }
    Ok(())
}

/// How long the answers of a node that has left may take: a client that reads nothing must not hold it to its deadline.
const LAST_ANSWERS: Duration = Duration::from_secs(5);

/// How long a node that must not go on may take to hang up.
const ABANDON_TIME: Duration = Duration::from_secs(1);

/// Ends what must not go on, without the courtesies of leaving: another node bears this one's name.
async fn abandon(node: &Node) {
    let hang_up = async {
        node.hub.clone().stop(Instant::now()).await;
        node.ingress.close().await;
    };
    let _ = tokio::time::timeout(ABANDON_TIME, hang_up).await;
}

/// Keeps the issuer's keys fresh, and readiness red while there are none.
async fn watch_keys(auth: Arc<Auth>, ready: Ready) {
    let Some(mut missing) = auth.keys_missing() else { return };
    let tell = async {
        loop {
            ready.set("keys", missing.borrow_and_update().clone());
            if missing.changed().await.is_err() {
                return;
            }
        }
    };
    tokio::join!(auth.run(), tell);
}
