//! The way up: publishes what clients send over their WebSockets, and gives back what was taken for those that are gone.

use std::sync::{Arc, OnceLock, Weak};

use bytes::Bytes;
use clarion_bus::InterestId;
use clarion_protocol::{Channel, Publication};
use tokio::runtime::Handle;

use crate::{
    hub::{Sender, Upstream},
    node::{Node, Via},
};

/// Publishes clients' messages, one at a time for each connection: the hub reads on when told to.
///
/// Whether a client may was decided when it connected.
pub struct ClientMessages {
    runtime: Handle,
    node: OnceLock<Weak<Node>>,
}

impl ClientMessages {
    /// Made before the hub, which is a part of the node. Must be called on the runtime that is to publish.
    pub fn new() -> Self {
        Self { runtime: Handle::current(), node: OnceLock::new() }
    }

    /// Gives it the node, before the first connection is let in.
    pub fn wire(&self, node: &Arc<Node>) {
        let _ = self.node.set(Arc::downgrade(node));
    }
}

impl Default for ClientMessages {
    fn default() -> Self {
        Self::new()
    }
}

impl Upstream for ClientMessages {
    fn received(&self, from: Sender, channel: Channel, payload: Bytes) {
        // A node that is gone has no connections either.
        let Some(node) = self.node.get().and_then(Weak::upgrade) else { return };
        self.runtime.spawn(async move {
            // Counted by outcome in there. A WebSocket has no answer to a single message, so the client is not told.
            if let Err(problem) = node.publish(Via::WebSocket, Publication::raw(channel, payload)).await {
                tracing::debug!(code = problem.code(), "a client's message was not published");
            }
            node.hub.resume(from);
        });
    }

    fn unheard(&self, interests: &[InterestId]) {
        // With a node its bus is gone, too.
        if let Some(node) = self.node.get().and_then(Weak::upgrade) {
            node.ingress.give_back(interests);
        }
    }

    fn gone(&self) {
        if let Some(node) = self.node.get().and_then(Weak::upgrade) {
            node.admission.leave();
        }
    }
}
