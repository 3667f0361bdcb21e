//! What all routes share: the parts of this node, its settings as far as a route needs them, and the counters of the edge.

mod relays;

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use axum::extract::ConnectInfo;
use clarion_protocol::{Channel, MessageId, NodeName, Prefix, Publication};
use http::request::Parts;
use prometheus::{IntCounter, IntCounterVec, Opts, Registry};
use tokio_util::task::TaskTracker;

pub use relays::{Relayed, Relays};

use crate::{
    admission::{Admission, ProxyHeader, bodies::Bodies},
    answer::Problem,
    auth::{Auth, AuthError, Identity},
    config::Pin,
    hub::{ConnectionId, Hub},
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
    /// Bytes of a payload.
    pub payload: usize,
    /// Channels of one connection.
    pub channels: usize,
    /// What happens to a user's connection that did not come to his home.
    pub pin: Pin,
    /// Where other nodes look for the address of a client whose connection is relayed to them.
    pub proxy_header: ProxyHeader,
}

/// Counts connections, so that each has a name for the life of this process.
#[derive(Debug, Default)]
pub struct ConnectionIds(AtomicU64);

impl ConnectionIds {
    /// The next name.
    pub fn next(&self) -> ConnectionId {
        ConnectionId(self.0.fetch_add(1, Ordering::Relaxed) + 1)
    }
}

/// Who asks, and with which rights.
pub struct Caller {
    /// Whose token came along, if any.
    pub identity: Identity,
    /// Whether a good API key came along, or none is needed.
    pub backend: bool,
}

impl Node {
    /// Checks what every request is checked for: where its page is from, its token and its API key.
    ///
    /// # Errors
    /// 401, 403 or, where the keys could not be loaded yet, 503.
    pub async fn caller(&self, head: &Parts) -> Result<Caller, AuthError> {
        self.auth.check_origin(head)?;
        let backend = self.auth.backend(head)?;
        let identity = self.auth.identify(head).await?;
        Ok(Caller { identity, backend })
    }

    /// Whether this caller may publish there.
    ///
    /// # Errors
    /// 401 or 403.
    pub fn may_publish(&self, caller: &Caller, channel: &Channel) -> Result<(), AuthError> {
        self.auth.may_publish(&caller.identity, caller.backend, channel)
    }

    /// Publishes one message, counted by the way it came. A caller that goes away does not stop it.
    ///
    /// # Errors
    /// 403, 413, 503 or 504, as the bus answered.
    pub async fn publish(&self, via: Via, publication: Publication) -> Result<MessageId, Problem> {
        let answer = self.ingress.publish(publication).await;
        let result = answer.map(|()| MessageId::generate()).map_err(Problem::from);
        self.metrics.count(via, &result);
        result
    }

    /// Publishes many, in order per channel; a result for each.
    pub async fn publish_all(&self, via: Via, publications: Vec<Publication>) -> Vec<Result<MessageId, Problem>> {
        let answers = self.ingress.publish_all(publications).await;
        let ids = answers.into_iter().map(|answer| answer.map(|()| MessageId::generate()).map_err(Problem::from));
        ids.inspect(|result| self.metrics.count(via, result)).collect()
    }
}

/// The address of whoever opened the TCP connection.
pub fn peer(head: &Parts) -> SocketAddr {
    let nobody = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);
    head.extensions.get::<ConnectInfo<SocketAddr>>().map_or(nobody, |ConnectInfo(address)| *address)
}

/// The ways in which a message is published through a node.
#[derive(Debug, Clone, Copy)]
pub enum Via {
    /// `POST /<channel>`.
    Http,
    /// `POST /api/batch`.
    Batch,
    /// `POST /rpc`.
    Rpc,
    /// A frame of a client.
    WebSocket,
}

impl Via {
    fn label(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Batch => "batch",
            Self::Rpc => "rpc",
            Self::WebSocket => "websocket",
        }
    }
}

/// What the edge counts.
pub struct Metrics {
    /// Requests for a connection that were refused, by door and by the answer's code.
    pub refused: IntCounterVec,
    /// Messages published through this node, by way and outcome.
    pub publications: IntCounterVec,
    /// Users' connections that did not come to their home, by what was done with them.
    pub strays: IntCounterVec,
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
    fn count(&self, via: Via, result: &Result<MessageId, Problem>) {
        let outcome = result.as_ref().map_or_else(Problem::code, |_| "ok");
        self.publications.with_label_values(&[via.label(), outcome]).inc();
    }

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
        Ok(Self {
            refused: counters(
                "clarion_connections_refused_total",
                "Requests for a connection that were refused, by door and answer",
                &["door", "code"],
            )?,
            publications: counters(
                "clarion_publications_total",
                "Messages published through this node, by way and outcome",
                &["via", "outcome"],
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
