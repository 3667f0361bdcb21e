//! The steps of leaving as the parts of a node take them.

use std::sync::Arc;

use async_trait::async_trait;
use clarion_hub::Hub;
use clarion_protocol::CloseCode;
use tokio::time::Instant;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::Steps;
use crate::{
    ingress::Ingress,
    members::Members,
    probe::{LEAVING, Ready},
};

/// A running node as leaving sees it.
pub struct Node {
    /// Goes red.
    pub ready: Ready,
    /// Leaves the ring.
    pub members: Arc<Members>,
    /// Cancelled to stop the accept loops.
    pub accepting: CancellationToken,
    /// The accept loops: their listeners are closed when these have ended. Not the connections, which go on.
    pub listeners: TaskTracker,
    /// Closes the connections.
    pub hub: Hub,
    /// Closes the bus.
    pub ingress: Arc<Ingress>,
}

#[async_trait]
impl Steps for Node {
    fn unready(&self) {
        self.ready.set(LEAVING, Some("this node is leaving".to_owned()));
    }

    async fn leave_ring(&self) {
        self.members.leave().await;
    }

    async fn stop_accepting(&self) {
        self.accepting.cancel();
        self.hub.refuse();
        self.listeners.close();
        self.listeners.wait().await;
    }

    fn connections(&self) -> usize {
        self.hub.connections()
    }

    fn close_some(&self, count: usize) {
        self.hub.close_some(count, CloseCode::Restart);
    }

    async fn flush(&self, until: Instant) {
        self.hub.clone().stop(until).await;
    }

    async fn close_bus(&self) {
        self.ingress.close().await;
    }
}

#[cfg(test)]
mod tests;
