//! What the bus delivers: channels' messages go on to the hub, the broker's own to whoever counts the members.

use async_trait::async_trait;
use bytes::Bytes;
use clarion_bus::{Delivery, Sink};
use clarion_protocol::{Address, InternalName};
use tokio::sync::mpsc;

use super::Metrics;
use crate::hub::Hub;

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
    metrics: Metrics,
}

impl Deliverer {
    /// A sink for this hub, and where the internal messages come out.
    #[must_use]
    pub fn new(hub: Hub, metrics: &Metrics) -> (Self, Internals) {
        let (internals, receiver) = mpsc::channel(INTERNAL_QUEUE);
        (Self { hub, internals, metrics: metrics.clone() }, receiver)
    }

    /// Takes the internal messages out of a batch; the others stay in their order.
    fn divert(&self, batch: &mut Vec<Delivery>) {
        batch.retain(|delivery| {
            let Address::Internal(name) = &delivery.address else { return true };
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
        // Nearly every batch holds none, and looking moves nothing.
        if batch.iter().any(|delivery| matches!(delivery.address, Address::Internal(_))) {
            self.divert(batch);
        }
        if !batch.is_empty() {
            self.hub.dispatch(batch).await;
        }
    }

    fn gap(&self) {
        self.metrics.gaps.inc();
        tracing::info!("the bus was interrupted; messages published meanwhile may be missing");
    }
}
