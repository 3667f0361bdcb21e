//! The edge: opens the listeners, builds and wires everything below, serves, and leaves in order.

mod accept;
mod connection;
mod corked;
mod drain_steps;
mod handoff;
mod listen;
mod malformed;
mod memory;
mod progress;
mod response_head;
mod routes;

use std::{future::Future, net::SocketAddr, sync::Arc, time::Duration};

use anyhow::{Context as _, anyhow};
use clarion_bus::{BusConfig, BusHandle, BusUrl, ConfigError, Link, Sink};
use clarion_hub::{self as hub, Hub};
use clarion_protocol::NodeName;
use prometheus::Registry;
use tokio::{
    net::TcpListener,
    runtime::{Handle, RuntimeFlavor},
    sync::watch,
    task::{JoinHandle, JoinSet},
    time::Instant,
};
use tokio_util::{
    sync::CancellationToken,
    task::{AbortOnDropHandle, TaskTracker},
};

use crate::{
    admin,
    admission::{Admission, Hops, bodies::Bodies, sockets::Sockets},
    auth::{Auth, Namespace},
    config::Config,
    drain,
    ingress::{self, Deliverer, Ingress, RawQueue, Recovery, Returns, recovery},
    members::{self, Me, Members},
    node::{AcceptMetrics, ConnectionIds, Metrics, Node, Relays, Settings},
    probe::{self, Ready},
    scribe, tls,
};

use accept::{Acceptor, Lifecycle, Limits};
pub use listen::CannotListen;
use progress::Times;

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
    /// What it counts, for whoever has something to add.
    pub registry: Registry,
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
    let (ready, link, registry) = (parts.ready.clone(), parts.node.ingress.link(), parts.registry.clone());
    let life = tokio::spawn(live(config.clone(), parts, listeners, shutdown));
    Ok(Running { listen, admin, node: config.node, ready, registry, link, life: AbortOnDropHandle::new(life) })
}

/// All parts of a node, wired and not yet listening.
struct Parts {
    node: Arc<Node>,
    bus: BusHandle,
    ready: Ready,
    registry: Registry,
    tls: Option<Arc<tls::Server>>,
    sockets: Arc<Sockets>,
    probe: probe::Metrics,
    drain: drain::Metrics,
    /// What was published plainly into logged namespaces.
    raw: RawQueue,
    scribe: scribe::Metrics,
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
        let hub = Hub::start(&held(config), returns.clone(), &registry).context("the shards cannot be started")?;
        let counters = ingress::Metrics::new(&registry)?;
        let logs = Namespace::logs(&config.namespaces);
        let recovery = Recovery::new(logs.clone(), hub.clone(), recovery::Metrics::new(&registry)?);
        if let Some(recovery) = &recovery {
            returns.wire_recovery(recovery);
        }
        let (deliverer, internals) = Deliverer::new(hub.clone(), recovery.clone(), &counters);
        let raw = deliverer.raw();
        let on_the_shard = BusConfig { links: hub.host(), logs, ..config.bus.clone() };
        let bus = connect(&on_the_shard, Arc::new(deliverer))?;
        returns.wire(&bus);
        let ingress = Ingress::new(bus.clone(), config.ingress.clone(), recovery, &counters, &registry)?;
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
            tls: config.tls.is_on(),
            proxy_header: config.proxy_header,
        };
        let node = Arc::new(Node {
            hub,
            ingress,
            members,
            auth,
            admission: Admission::new(&config.admission(), &registry)?,
            bodies: Bodies::new(config.limits.bodies.bytes(), &registry)?,
            settings,
            metrics: Metrics::new(&registry)?,
            tasks: TaskTracker::new(),
            relays: Relays::new(),
            runtime: Handle::current(),
            hops,
            ids: ConnectionIds::default(),
        });
        let sockets = Sockets::new(config.sockets(), descriptors(), &registry)?;
        let (probe, drain) = (probe::Metrics::new(&registry)?, drain::Metrics::new(&registry)?);
        let ready = Ready::new();
        ready.register(&registry)?;
        let scribe = scribe::Metrics::new(&registry)?;
        Ok(Self { node, bus, ready, registry, tls, sockets, probe, drain, raw, scribe })
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

/// How many descriptors this process may have; `None` for no limit.
fn descriptors() -> Option<u64> {
    rustix::process::getrlimit(rustix::process::Resource::Nofile).current
}

/// The node's own tasks, none of which ends as long as the node lives: where one does, the node is only half there.
type Background = JoinSet<&'static str>;

fn spawn(background: &mut Background, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
    background.spawn(async move {
        task.await;
        name
    });
}

/// A node's life: serve until told to leave, then leave. What it started ends with it.
async fn live(config: Config, parts: Parts, listeners: [TcpListener; 2], shutdown: Shutdown) -> anyhow::Result<()> {
    let Parts { node, bus, ready, registry, tls, sockets, probe, drain, raw, scribe } = parts;
    let mut background = JoinSet::new();
    let recovery = node.ingress.recovery().cloned();
    if let (Some(recovery), Some(_)) = (&recovery, bus.numbering()) {
        let numbering = scribe::run(bus.clone(), recovery.logs().clone(), node.members.clone(), raw, scribe);
        spawn(&mut background, "the scribe", numbering);
    }
    spawn(&mut background, "the probe", probe::run(bus, config.probe.clone(), ready.clone(), recovery.clone(), probe));
    if let Some(recovery) = recovery {
        spawn(&mut background, "comparing with the log", recovery.sweep());
    }
    if let Some(missing) = node.auth.keys_missing() {
        spawn(&mut background, "the issuer's keys", watch_keys(node.auth.clone(), missing, ready.clone()));
    }
    let open = {
        let (node, sockets) = (node.clone(), sockets.clone());
        move || u64::from(sockets.open_now()) + (node.hub.connections() + node.relays.open()) as u64
    };
    spawn(&mut background, "giving memory back", memory::run(node.metrics.accepts.accepted.clone(), open));
    if let Some(tls) = tls.clone() {
        spawn(&mut background, "the certificate's files", async move { tls.watch().await });
    }
    let [clients, operators] = listeners;
    // Those who ask whether the node lives are answered to its end; clients are not.
    let (clients_lifecycle, admin_lifecycle) = (Lifecycle::default(), Lifecycle::default());
    // A life that is cut short, as a test does that drops its node, takes no more connections either.
    let _guards =
        [&clients_lifecycle, &admin_lifecycle].map(|it| (it.stop.clone().drop_guard(), it.finish.clone().drop_guard()));
    let limits = Limits { admission: node.admission.clone(), sockets };
    let (times, stall_timeout) = (times(&config), config.limits.ping + config.limits.pong);
    let for_clients = Acceptor {
        routes: routes::router(node.clone()),
        tls,
        limits: Some(limits),
        metrics: node.metrics.accepts.clone(),
        times,
        stall_timeout,
        lifecycle: clients_lifecycle.clone(),
    };
    let for_operators = Acceptor {
        routes: admin::router(node.settings.name.clone(), ready.clone(), registry),
        tls: None,
        limits: None,
        metrics: AcceptMetrics::unseen(),
        times,
        stall_timeout,
        lifecycle: admin_lifecycle.clone(),
    };
    let accepting = TaskTracker::new();
    let accepted = accepting.spawn(Arc::new(for_clients).run(clients));
    spawn(&mut background, "the admin listener", Arc::new(for_operators).run(operators));
    tokio::select! {
        () = shutdown.cancelled() => {}
        error = failed(&node, &mut background, accepted) => {
            clients_lifecycle.stop.cancel();
            abandon(&node).await;
            return Err(error);
        }
    }
    let since = Instant::now();
    let steps = drain_steps::DrainSteps::new(&node, ready, accepting, &clients_lifecycle);
    drain::run(&leaving(&config), &steps, &drain, since).await;
    // Answers that are on their way still get out; event streams ended with the hub.
    clients_lifecycle.connections.close();
    node.tasks.close();
    let rest = async { tokio::join!(clients_lifecycle.connections.wait(), node.tasks.wait()) };
    let patience = (since + config.drain.deadline).min(Instant::now() + LAST_ANSWERS);
    if tokio::time::timeout_at(patience, rest).await.is_err() {
        tracing::info!(
            cut = clients_lifecycle.connections.len(),
            "some connections did not take their last answers in time"
        );
    }
    Ok(())
}

fn times(config: &Config) -> Times {
    Times { head: config.limits.handshake, keep_alive: config.limits.keep_alive }
}

/// How this node is to leave.
fn leaving(config: &Config) -> drain::Config {
    let mut drain = config.drain.clone();
    if config.is_development() && !config.insecure {
        // It listens on loopback, where nobody balances: a person has pressed Ctrl-C and waits.
        drain.wait.get_or_insert(Duration::ZERO);
    }
    drain
}

/// Waits until a part of this node has ended that must not: then the node ends as a whole and says why, instead of being half
/// there and ready. Never, if all is well.
async fn failed(node: &Node, background: &mut Background, accepting: JoinHandle<()>) -> anyhow::Error {
    tokio::select! {
        // Its clients are lost already; being half there would lose those who come as well.
        () = node.hub.failed() => anyhow!("a shard of the hub has ended"),
        error = node.members.failed() => error.into(),
        error = ended(background, accepting) => error,
    }
}

/// Which of the node's own tasks ended first.
async fn ended(background: &mut Background, accepting: JoinHandle<()>) -> anyhow::Error {
    tokio::select! {
        Some(ended) = background.join_next() => match ended {
            Ok(name) => anyhow!("a task ended that must not: {name}"),
            Err(error) => anyhow!(error).context("a task of this node broke"),
        },
        ended = accepting => match ended {
            Ok(()) => anyhow!("a task ended that must not: the clients' listener"),
            Err(error) => anyhow!(error).context("the clients' listener broke"),
        },
    }
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
async fn watch_keys(auth: Arc<Auth>, mut missing: watch::Receiver<Option<String>>, ready: Ready) {
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

/// Whether a request of this version may name its host so. For fuzzing.
#[doc(hidden)]
pub fn takes_host(version: http::Version, headers: &http::HeaderMap) -> bool {
    malformed::check_host(version, headers).is_ok()
}

#[cfg(test)]
mod tests {
    use std::future;

    use super::*;

    #[test]
    fn only_who_may_be_balanced_waits_for_balancers() {
        let wait = |change: &dyn Fn(&mut Config)| {
            let mut config = Config::default();
            change(&mut config);
            leaving(&config).wait
        };
        assert_eq!(wait(&|_| {}), Some(Duration::ZERO));
        assert_eq!(wait(&|config| config.drain.wait = Some(Duration::from_secs(1))), Some(Duration::from_secs(1)));
        assert_eq!(wait(&|config| config.insecure = true), None);
        let key = serde_json::json!("a key");
        let keyed = |config: &mut Config| config.auth.api_keys = vec![serde_json::from_value(key.clone()).unwrap()];
        assert_eq!(wait(&keyed), None);
    }

    #[tokio::test]
    async fn a_task_that_ends_or_breaks_is_the_nodes_end() {
        let listener = || tokio::spawn(future::pending());
        let mut background = Background::new();
        spawn(&mut background, "lives", future::pending());
        spawn(&mut background, "ends", async {});
        assert!(ended(&mut background, listener()).await.to_string().ends_with("ends"));
        spawn(&mut background, "breaks", async { panic!("as it must in this test") });
        let error = format!("{:#}", ended(&mut background, listener()).await);
        assert!(error.contains("broke") && error.contains("as it must"), "{error}");
        let error = ended(&mut background, tokio::spawn(async {})).await.to_string();
        assert!(error.ends_with("the clients' listener"), "{error}");
    }
}
