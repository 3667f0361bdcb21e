//! What all routes share: the parts of this node, its settings as far as a route needs them, and the counters of the edge.

mod relays;

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use axum::extract::ConnectInfo;
use clarion_bus::Receipt;
use clarion_hub::{ConnectionId, Hub};
use clarion_protocol::{Channel, Interest, NodeName, Prefix, Publication};
use http::request::Parts;
use prometheus::{IntCounter, IntCounterVec, Opts, Registry};
use tokio::runtime::Handle;
use tokio_util::task::TaskTracker;

pub use relays::{Relayed, Relays};

pub use crate::ingress::Via;

use crate::{
    admission::{Admission, Disbelief, Hops, ProxyHeader, bodies::Bodies},
    answer::Problem,
    auth::{Auth, AuthError, Identity, Policy},
    config::Pin,
    ingress::Ingress,
    members::Members,
};

/// This node, as its routes see it.
pub struct Node {
    /// Who is here.
    pub hub: Hub,
    /// The way to the bus.
    pub ingress: Arc<Ingress>,
    /// Who is in the cluster.
    pub members: Arc<Members>,
    /// Who may do what.
    pub auth: Arc<Auth>,
    /// How many may come.
    pub admission: Arc<Admission>,
    /// How much of what requests carry is held.
    pub bodies: Bodies,
    /// What was configured.
    pub settings: Settings,
    /// What is counted here.
    pub metrics: Metrics,
    /// Everything that outlives its request: relayed connections.
    pub tasks: TaskTracker,
    /// The connections that are carried to other nodes.
    pub relays: Relays,
    /// Where tasks run that a shard's thread begins.
    pub runtime: Handle,
    /// What nodes say to each other of those.
    pub hops: Hops,
    /// Names for connections.
    pub ids: ConnectionIds,
}

/// What of the configuration a route needs.
#[derive(Debug, Clone)]
pub struct Settings {
    /// This node's name.
    pub name: NodeName,
    /// What all subjects begin with.
    pub prefix: Prefix,
    /// `memory`, `redis` or `nats`.
    pub bus: &'static str,
    /// Whether anybody on this machine may do everything.
    pub development: bool,
    /// Whether clients speak TLS with the node itself.
    pub tls: bool,
    /// Bytes of a payload.
    pub payload: usize,
    /// Channels of one connection.
    pub channels: usize,
    /// What happens to a user's connection that did not come to his home.
    pub pin: Pin,
    /// Where other nodes look for the address of a client whose connection is relayed to them.
    pub proxy_header: ProxyHeader,
}

/// Counts connections, so that each has a name.
#[derive(Debug, Default)]
pub struct ConnectionIds(AtomicU32);

impl ConnectionIds {
    /// The next name.
    pub fn next(&self) -> ConnectionId {
        ConnectionId(self.0.fetch_add(1, Ordering::Relaxed).wrapping_add(1))
    }
}

/// Who asks, and with which rights.
pub struct Caller {
    /// Whose token came along, if any.
    pub identity: Identity,
    /// Whether a good API key came along, or none is needed.
    pub backend: bool,
    /// Where the client is, as the first node saw it.
    pub address: IpAddr,
}

impl Node {
    /// Checks what every request is checked for: where its page is from, its token and its API key.
    ///
    /// # Errors
    /// 401, 403, 429 where this address got too many wrong or, where the keys could not be loaded yet, 503.
    pub async fn caller(&self, head: &Parts) -> Result<Caller, Problem> {
        self.identify(head, self.client_address(head)).await
    }

    /// The same for a request that wants a connection, of which an address may make so many in a second.
    ///
    /// # Errors
    /// As [`Node::caller`], and 429 for too many of them.
    pub async fn newcomer(&self, head: &Parts) -> Result<Caller, Problem> {
        let address = self.client_address(head);
        // First of all, since what it protects is the work of all that follows.
        self.admission.handshake(address)?;
        self.identify(head, address).await
    }

    async fn identify(&self, head: &Parts, address: IpAddr) -> Result<Caller, Problem> {
        self.auth.check_origin(head)?;
        if self.auth.shows_credential(head) {
            self.admission.may_try(address)?;
        }
        let judged = async {
            let backend = self.auth.backend(head)?;
            Ok((backend, self.auth.identify(head).await?))
        };
        let (backend, identity) = judged.await.inspect_err(|error: &AuthError| {
            if error.is_bad_credential() {
                self.admission.failed(address);
            }
        })?;
        Ok(Caller { identity, backend, address })
    }

    /// Where the client of a request is: what the member says that carries it here, what trusted proxies say, or whoever
    /// opened the TCP connection.
    pub fn client_address(&self, head: &Parts) -> IpAddr {
        let key_of = |node: &str| self.members.view().peer(node).and_then(|peer| peer.key.clone());
        match self.hops.client(&head.headers, &head.method, &head.uri, key_of) {
            Ok(None) => {}
            Ok(Some(client)) => {
                self.metrics.hops.with_label_values(&["believed"]).inc();
                return client;
            }
            Err(error) => {
                self.metrics.hops.with_label_values(&[error.label()]).inc();
                tracing::debug!(%error, "what a request says of the node that carried it is not taken");
            }
        }
        self.admission.client_address(head, peer(head))
    }

    /// Whether this caller may hear everything that an interest can match, and how that is treated.
    ///
    /// # Errors
    /// 401 or 403.
    pub fn may_subscribe(&self, caller: &Caller, interest: &Interest) -> Result<Policy, AuthError> {
        self.auth.may_subscribe(&caller.identity, caller.backend, interest)
    }

    /// Whether this caller may publish one message there now. Backends have no rate.
    ///
    /// # Errors
    /// 401, 403 or 429.
    pub fn may_publish(&self, caller: &Caller, channel: &Channel) -> Result<(), Problem> {
        self.auth.may_publish(&caller.identity, caller.backend, channel)?;
        let user = caller.identity.user.as_ref().filter(|_| !caller.backend);
        Ok(self.admission.publish(user)?)
    }

    /// Whether this caller could publish there. Only a question: nothing is counted, and no rate is used up.
    pub fn could_publish(&self, caller: &Caller, channel: &Channel) -> bool {
        self.auth.could_publish(&caller.identity, caller.backend, channel)
    }

    /// Publishes one message and tells the id that travels with it, and its place where there is a log. A caller that goes
    /// away does not stop it.
    ///
    /// # Errors
    /// 403, 413, 503 or 504, as the bus answered.
    pub async fn publish(&self, via: Via, publication: Publication) -> Result<Receipt, Problem> {
        self.ingress.publish(via, publication).await.map_err(Problem::from)
    }

    /// Publishes many, in order per channel; a result for each.
    pub async fn publish_all(&self, via: Via, publications: Vec<Publication>) -> Vec<Result<Receipt, Problem>> {
        let taken = self.ingress.publish_all(via, publications).await;
        taken.into_iter().map(|taken| taken.map_err(Problem::from)).collect()
    }
}

/// The address of whoever opened the TCP connection.
pub fn peer(head: &Parts) -> SocketAddr {
    let nobody = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);
    head.extensions.get::<ConnectInfo<SocketAddr>>().map_or(nobody, |ConnectInfo(address)| *address)
}

/// What the edge counts.
pub struct Metrics {
    /// Requests for a connection that were refused, by door and by the answer's code.
    pub refused: IntCounterVec,
    /// Users' connections that did not come to their home, by what was done with them.
    pub strays: IntCounterVec,
    /// Requests that say that a node sent them on, by whether its word about the client was taken.
    pub hops: IntCounterVec,
    /// TCP connections at the listener.
    pub accepts: AcceptMetrics,
}

/// What the accept loop counts.
#[derive(Clone)]
pub struct AcceptMetrics {
    /// Connections that were taken.
    pub accepted: IntCounter,
    /// Connections that were only told to come back.
    pub limited: IntCounter,
    /// Connections that were hung up on at once.
    pub refused: IntCounter,
    /// Accepts that failed.
    pub failed: IntCounter,
}

impl AcceptMetrics {
    /// Counters that nobody sees, for a listener that is not for clients.
    pub fn unseen() -> Self {
        let counter = || IntCounter::new("unseen", "not registered").expect("the name is valid");
        Self { accepted: counter(), limited: counter(), refused: counter(), failed: counter() }
    }

    fn new(outcomes: &IntCounterVec) -> Self {
        let outcome = |label| outcomes.with_label_values(&[label]);
        Self {
            accepted: outcome("accepted"),
            limited: outcome("limited"),
            refused: outcome("refused"),
            failed: outcome("failed"),
        }
    }
}

impl Metrics {
    /// Registers all of them.
    ///
    /// # Errors
    /// When one is registered already.
    pub fn new(registry: &Registry) -> prometheus::Result<Self> {
        let counters = |name: &str, help: &str, labels: &[&str]| -> prometheus::Result<IntCounterVec> {
            let counters = IntCounterVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(counters.clone()))?;
            Ok(counters)
        };
        let hops = counters(
            "clarion_hops_total",
            "Requests that another node sent on, by whether its word about the client was taken",
            &["outcome"],
        )?;
        // There from the start: an alert or a dashboard on one that never came would say nothing.
        for outcome in ["believed"].into_iter().chain(Disbelief::ALL.map(Disbelief::label)) {
            hops.with_label_values(&[outcome]);
        }
        Ok(Self {
            hops,
            refused: counters(
                "clarion_connections_refused_total",
                "Requests for a connection that were refused, by door and answer",
                &["door", "code"],
            )?,
            strays: counters(
                "clarion_strays_handled_total",
                "Users' connections that did not come to their home, by what was done with them",
                &["outcome"],
            )?,
            accepts: AcceptMetrics::new(&counters(
                "clarion_accepts_total",
                "TCP connections at the listener, by outcome",
                &["outcome"],
            )?),
        })
    }
}
