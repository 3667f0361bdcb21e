//! The steps of leaving that concern the edge too: the HTTP connections, and those that are carried to other nodes.

use std::sync::Arc;

use async_trait::async_trait;
use tokio::time::Instant;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::accept::Lifecycle;
use crate::{
    drain::{self, Steps},
    node::{Node, Relays},
    probe::Ready,
};

/// A running node and its edge as leaving sees them.
pub(super) struct DrainSteps {
    inner: drain::Node,
    relays: Relays,
    /// Cancelled when HTTP connections are to end after the request they are at.
    finish: CancellationToken,
}

impl DrainSteps {
    pub(super) fn new(node: &Arc<Node>, ready: Ready, listeners: TaskTracker, lifecycle: &Lifecycle) -> Self {
        let (members, hub, ingress) = (node.members.clone(), node.hub.clone(), node.ingress.clone());
        let inner = drain::Node { ready, members, accepting: lifecycle.stop.clone(), listeners, hub, ingress };
        Self { inner, relays: node.relays.clone(), finish: lifecycle.finish.clone() }
    }
}

#[async_trait]
impl Steps for DrainSteps {
    fn unready(&self) {
        self.inner.unready();
    }

    async fn leave_ring(&self) {
        self.inner.leave_ring().await;
    }

    async fn stop_accepting(&self) {
        self.inner.stop_accepting().await;
        self.finish.cancel();
    }

    fn connections(&self) -> usize {
        self.inner.connections() + self.relays.open()
    }

    fn close_some(&self, count: usize) {
        let carried = count.min(self.relays.open());
        self.relays.close_some(carried);
        self.inner.close_some(count - carried);
    }

    async fn flush(&self, until: Instant) {
        self.inner.flush(until).await;
    }

    async fn close_bus(&self) {
        self.inner.close_bus().await;
    }
}
