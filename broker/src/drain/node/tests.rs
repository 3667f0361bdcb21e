//! A node of real parts leaves: a hub with its threads, members, and a bus that goes on delivering meanwhile.

use std::time::Duration;

use bytes::Bytes;
use clarion_bus::{Bus as _, BusConfig, BusHandle, Delivery, InterestId, PublishError, Sink, memory::Server};
use clarion_hub::{self as hub, ConnectionId, Framing, Leaving, Open, Place, SlowPolicy, Subscription, voice::Mute};
use clarion_protocol::{Channel, Door, Interest, NodeName, Publication, Wording};
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
    ingress::{self, Deliverer, Returns},
    members::{self, Me},
};

/// What the members hear on the bus: heartbeats, questions and answers.
const MEMBERS_INTERESTS: u64 = 3;

/// Nobody listens there.
struct Nobody;

#[async_trait]
impl Sink for Nobody {
    async fn deliver(&self, batch: &mut Vec<Delivery>) {
        batch.clear();
    }

    fn gap(&self, _: &[InterestId]) {}
}

fn node(server: &Server) -> (Node, BusHandle) {
    let registry = Registry::new();
    let returns = Arc::<Returns>::default();
    let hub = Hub::start(&hub::Config::default(), returns.clone(), &registry).unwrap();
    let metrics = ingress::Metrics::new(&registry).unwrap();
    let (deliverer, internals) = Deliverer::new(hub.clone(), None, &metrics);
    let bus: BusHandle = Arc::new(server.attach(&BusConfig::default(), Arc::new(deliverer)));
    returns.wire(&bus);
    let ingress = Ingress::new(bus.clone(), ingress::Config::default(), None, &metrics, &registry).unwrap();
    let me = Me { node: NodeName::parse("a").unwrap(), advertise: None, public_url: None, key: None };
    let metrics = members::Metrics::new(&registry).unwrap();
    let members =
        Members::start(members::Config::default(), me, bus.clone(), internals, Arc::new(hub.clone()), metrics);
    let (accepting, listeners) = (CancellationToken::new(), TaskTracker::new());
    listeners.spawn(accepting.clone().cancelled_owned());
    (Node { ready: Ready::new(), members, accepting, listeners, hub, ingress }, bus)
}

/// What an event stream on the channel `a` is opened with; `token` is held as long as it has its place.
async fn opening(node: &Node, token: &Arc<()>) -> (Open, Vec<Subscription>) {
    let interest = Interest::parse("a").unwrap();
    let lease = node.ingress.acquire(std::slice::from_ref(&interest)).await.unwrap().remove(0);
    let (slow, wording, joining) = (SlowPolicy::default(), Wording::Event, false);
    let (id, door, framing, voice) = (ConnectionId(1), Door::Sse, Framing::EventStream, Box::new(Mute));
    let open = Open { id, door, framing, user: None, expires: None, voice, lease: Place::new(token.clone()) };
    (open, vec![Subscription { lease, interest, slow, wording, joining }])
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
    let (node, bus) = node(&server);
    let publisher = server.attach(&BusConfig::default(), Arc::new(Nobody));
    let say = async |text: &'static str| {
        publisher.publish(Publication::raw(Channel::parse("a").unwrap(), text)).await.unwrap();
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut streams = Vec::new();
    for _ in 0..50 {
        let (open, subscriptions) = opening(&node, &token).await;
        let ticket = node.hub.open(open, subscriptions).await.unwrap().ticket;
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
    assert!(matches!(node.hub.open(late.0, late.1).await, Err(Leaving)));
    assert_eq!(Arc::strong_count(&token), 1, "all places were given back");
    assert_eq!(bus.stats().interests, MEMBERS_INTERESTS, "all others were given back");
    let refused = node.ingress.publish(ingress::Via::Http, Publication::raw(Channel::parse("a").unwrap(), "")).await;
    assert!(matches!(refused, Err(PublishError::NotTaken(_))), "{refused:?}");
}
