//! A node of real parts leaves: a hub with its threads, members, and a bus that goes on delivering meanwhile.

use std::time::Duration;

use bytes::Bytes;
use clarion_bus::{Bus as _, BusConfig, Delivery, PublishError, Sink, memory::Server};
use clarion_protocol::{Channel, Interest, NodeName, Publication, dialect::Dialect};
use futures_util::future;
use prometheus::Registry;
use tokio::{
    io::AsyncReadExt as _,
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

use super::*;
use crate::{
    drain::{self, Config, Metrics},
    hub::{self, ConnectionId, Open, Refused, Sender, SlowPolicy, Subscription, Upstream, Whole},
    ingress::{self, Deliverer},
    members::{self, Me},
};

/// Nobody publishes here, and nobody listens there.
struct Nobody;

impl Upstream for Nobody {
    fn received(&self, _: Sender, _: Channel, _: Bytes) {}
}

#[async_trait]
impl Sink for Nobody {
    async fn deliver(&self, batch: &mut Vec<Delivery>) {
        batch.clear();
    }

    fn gap(&self) {}
}

fn node(server: &Server) -> Node {
    let registry = Registry::new();
    let hub = Hub::start(hub::Config::default(), Arc::new(Nobody), &registry).unwrap();
    let metrics = ingress::Metrics::new(&registry).unwrap();
    let (deliverer, internals) = Deliverer::new(hub.clone(), &metrics);
    let bus = Arc::new(server.attach(&BusConfig::default(), Arc::new(deliverer)));
    let ingress = Ingress::new(bus.clone(), ingress::Config::default(), &metrics, &registry).unwrap();
    let me = Me { node: NodeName::parse("a").unwrap(), advertise: None, public_url: None };
    let metrics = members::Metrics::new(&registry).unwrap();
    let members = Members::start(members::Config::default(), me, bus, internals, Arc::new(hub.clone()), metrics);
    let (accepting, listeners) = (CancellationToken::new(), TaskTracker::new());
    listeners.spawn(accepting.clone().cancelled_owned());
    Node { ready: Ready::new(), members, accepting, listeners, hub, ingress }
}

/// What an event stream on the channel `a` is opened with; `token` is held as long as the connection is here.
async fn opening(node: &Node, token: &Arc<()>) -> Open {
    let interest = Interest::parse("a").unwrap();
    let held = node.ingress.acquire(std::slice::from_ref(&interest)).await.unwrap();
    Open {
        id: ConnectionId(1),
        dialect: Dialect::Event,
        subscriptions: vec![Subscription { id: held.ids()[0], interest, slow: SlowPolicy::default() }],
        user: None,
        upstream: None,
        expires: None,
        lease: Box::new(Whole((held, token.clone()))),
    }
}

/// Reads a stream to its end.
fn read(mut stream: TcpStream) -> JoinHandle<String> {
    tokio::spawn(async move {
        let mut all = String::new();
        stream.read_to_string(&mut all).await.unwrap();
        all
    })
}

#[tokio::test]
async fn a_node_leaves_and_loses_nobody() {
    let (server, token) = (Server::new(), Arc::new(()));
    let node = node(&server);
    let publisher = server.attach(&BusConfig::default(), Arc::new(Nobody));
    let say = async |text: &'static str| {
        publisher.publish(Publication::raw(Channel::parse("a").unwrap(), text)).await.unwrap();
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut streams = Vec::new();
    for _ in 0..50 {
        let open = opening(&node, &token).await;
        let ticket = node.hub.open(open).await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        ticket.attach(listener.accept().await.unwrap().0.into_std().unwrap(), None, Bytes::new());
        streams.push(read(client));
    }
    let late = opening(&node, &token).await;
    say("early").await;

    let config = Config { wait: Some(Duration::from_secs(1)), ..Config::default() };
    let metrics = Metrics::new(&Registry::new()).unwrap();
    let leaving = drain::run(&config, &node, &metrics, Instant::now());
    let meanwhile = async {
        let mut reasons = node.ready.watch();
        reasons.wait_for(|reasons| reasons.contains_key("leaving")).await.unwrap();
        node.members.watch().wait_for(|view| view.leaving).await.unwrap();
        assert!(!node.accepting.is_cancelled(), "it accepts until the load balancer knows");
        say("while leaving").await;
    };
    let (left, ()) = tokio::time::timeout(Duration::from_secs(60), future::join(leaving, meanwhile)).await.unwrap();

    assert_eq!(left.cut, 0, "{left:?}");
    for stream in streams {
        let heard = stream.await.unwrap();
        assert!(heard.contains("data: early\n") && heard.contains("data: while leaving\n"), "{heard}");
        assert!(heard.contains("retry:"), "told when to come back: {heard}");
    }
    assert!(matches!(node.hub.open(late).await, Err(Refused::Leaving)));
    assert_eq!(Arc::strong_count(&token), 1, "all interests were given back");
    let refused = node.ingress.publish(Publication::raw(Channel::parse("a").unwrap(), "")).await;
    assert!(matches!(refused, Err(PublishError::NotTaken(_))), "{refused:?}");
}
