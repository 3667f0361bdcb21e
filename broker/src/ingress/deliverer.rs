//! What the bus delivers: channels' messages go on to the hub, the broker's own to whoever counts the members.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use clarion_bus::{Delivery, InterestId, Sink};
use clarion_hub::Hub;
use clarion_protocol::{Address, InternalName};
use tokio::sync::mpsc;

use super::{MARKERS, Metrics, RawQueue, Recovery};

/// How many internal messages may wait: ten heartbeats of a hundred nodes. What comes on top is dropped, since a heartbeat
/// comes again and a question that is not answered says so, while waiting here would hold up everybody's messages.
const INTERNAL_QUEUE: usize = 1_000;

/// A message on one of the broker's own subjects.
#[derive(Debug, Clone)]
pub struct Internal {
    /// Which subject.
    pub name: InternalName,
    /// What was said, copied out of the bus's read buffer.
    pub payload: Bytes,
}

/// Where internal messages come out.
pub type Internals = mpsc::Receiver<Internal>;

/// The sink that a bus is started with.
pub struct Deliverer {
    hub: Hub,
    internals: mpsc::Sender<Internal>,
    /// Where something is logged.
    recovery: Option<Arc<Recovery>>,
    raw: RawQueue,
    metrics: Metrics,
}

impl Deliverer {
    /// A sink for this hub, and where the internal messages come out.
    #[must_use]
    pub fn new(hub: Hub, recovery: Option<Arc<Recovery>>, metrics: &Metrics) -> (Self, Internals) {
        let (internals, receiver) = mpsc::channel(INTERNAL_QUEUE);
        let (raw, metrics) = (RawQueue::default(), metrics.clone());
        (Self { hub, internals, recovery, raw, metrics }, receiver)
    }

    /// Where what was published plainly into logged namespaces comes out.
    #[must_use]
    pub fn raw(&self) -> RawQueue {
        self.raw.clone()
    }

    /// Takes the internal messages out of a batch; the others stay in their order.
    fn divert(&self, batch: &mut Vec<Delivery>) {
        batch.retain(|delivery| {
            let Address::Internal(name) = &delivery.address else { return true };
            if name.as_str() == MARKERS {
                return false;
            }
            let payload = Bytes::copy_from_slice(&delivery.message.payload);
            if self.internals.try_send(Internal { name: name.clone(), payload }).is_err() {
                self.metrics.internal_dropped.inc();
            }
            false
        });
    }
}

#[async_trait]
impl Sink for Deliverer {
    async fn deliver(&self, batch: &mut Vec<Delivery>) {
        if tracing::enabled!(tracing::Level::DEBUG) {
            batch.iter().for_each(note);
        }
        if self.recovery.is_some() {
            self.raw.hear(batch);
        }
        // Nearly every batch holds none, and looking moves nothing.
        if batch.iter().any(|delivery| matches!(delivery.address, Address::Internal(_))) {
            self.divert(batch);
        }
        if let Some(recovery) = &self.recovery {
            recovery.sift(batch);
        }
        if !batch.is_empty() {
            let bytes: usize = batch.iter().map(|delivery| delivery.message.payload.len()).sum();
            self.metrics.messages.inc_by(batch.len() as u64);
            self.metrics.bytes.inc_by(bytes as u64);
            self.hub.dispatch(batch).await;
        }
    }

    fn gap(&self, interests: &[InterestId]) {
        self.metrics.gaps.inc();
        if let Some(recovery) = &self.recovery {
            recovery.interrupted(interests);
            self.raw.interrupted(interests);
        }
        let interests = interests.len();
        tracing::info!(interests, "the bus was interrupted; messages published meanwhile may be missing");
    }
}

/// Logs a message by the id that its publisher was told.
fn note(delivery: &Delivery) {
    if let (Address::Channel(channel), Some(id)) = (&delivery.address, &delivery.message.id) {
        tracing::debug!(%id, %channel, "a message came");
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use clarion_hub::{
        Config, ConnectionId, Framing, InterestLease, Open, Place, SlowPolicy, Subscription, voice::Mute,
    };
    use clarion_protocol::{Channel, Door, Interest, Message, Wording};
    use prometheus::Registry;
    use tokio::{
        io::AsyncReadExt as _,
        net::{TcpListener, TcpStream},
    };

    use super::*;
    use crate::ingress::Returns;

    fn delivery(address: impl Into<Address>, payload: &'static str) -> Delivery {
        Delivery {
            interests: [InterestId(1)].into_iter().collect(),
            address: address.into(),
            message: Message::raw(payload),
        }
    }

    fn internal(payload: &'static str) -> Delivery {
        delivery(InternalName::parse("members").unwrap(), payload)
    }

    fn to_channel(payload: &'static str) -> Delivery {
        delivery(Channel::parse("a").unwrap(), payload)
    }

    fn deliverer() -> (Deliverer, Internals, Hub, Metrics) {
        let (registry, metrics) = (Registry::new(), Metrics::new(&Registry::new()).unwrap());
        let hub = Hub::start(&Config::default(), Arc::<Returns>::default(), &registry).unwrap();
        let (deliverer, internals) = Deliverer::new(hub.clone(), None, &metrics);
        (deliverer, internals, hub, metrics)
    }

    #[tokio::test]
    async fn channels_go_to_the_hub_and_internals_to_the_members() {
        let (deliverer, mut internals, hub, metrics) = deliverer();
        let interest = Interest::parse("a").unwrap();
        let lease = InterestLease::new(InterestId(1), Arc::<Returns>::default());
        let (slow, wording, joining) = (SlowPolicy::default(), Wording::Event, false);
        let (id, door, framing, voice) = (ConnectionId(1), Door::Sse, Framing::EventStream, Box::new(Mute));
        let open = Open { id, door, framing, user: None, expires: None, voice, lease: Place::new(()) };
        let subscription = Subscription { lease, interest, slow, wording, joining };
        let ticket = hub.open(open, vec![subscription]).await.unwrap().ticket;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        ticket.attach(listener.accept().await.unwrap().0.into_std().unwrap(), None, Bytes::new());
        let mut batch = vec![internal("one"), to_channel("first"), internal("two"), to_channel("second")];
        deliverer.deliver(&mut batch).await;
        assert!(batch.is_empty());
        assert_eq!(internals.recv().await.unwrap().payload, "one");
        assert_eq!(internals.recv().await.unwrap().payload, "two");
        let mut heard = Vec::new();
        let both = async {
            while !heard.ends_with(b"data: second\n\n") {
                assert_ne!(stream.read_buf(&mut heard).await.unwrap(), 0);
            }
        };
        tokio::time::timeout(Duration::from_secs(30), both).await.unwrap();
        let heard = String::from_utf8(heard).unwrap();
        assert!(heard.contains("data: first\n\n") && !heard.contains("one"), "{heard}");
        assert_eq!((metrics.messages.get(), metrics.bytes.get()), (2, 11), "internal ones are not counted");
    }

    #[tokio::test]
    async fn internals_that_nobody_takes_hold_nobody_up() {
        let (deliverer, mut internals, _hub, metrics) = deliverer();
        let mut batch: Vec<_> = (0..INTERNAL_QUEUE + 5).map(|_| internal("beat")).collect();
        deliverer.deliver(&mut batch).await;
        assert_eq!(metrics.internal_dropped.get(), 5);
        assert_eq!(internals.len(), INTERNAL_QUEUE);
        internals.close();
        deliverer.deliver(&mut vec![internal("beat")]).await;
        assert_eq!(metrics.internal_dropped.get(), 6);
    }
}
