//! The connections that this node carries to other nodes, so that leaving can ask them to go as it asks its own.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use tokio::sync::Semaphore;

use crate::admission::Permit;

/// Counts relayed connections and tells them to go, so many at a time. Cheap to clone.
#[derive(Clone)]
pub struct Relays(Arc<Counts>);

struct Counts {
    open: AtomicUsize,
    /// A permit for each connection that is to go; whoever gets one goes.
    goodbyes: Semaphore,
}

impl Relays {
    /// None yet.
    pub fn new() -> Self {
        Self(Arc::new(Counts { open: AtomicUsize::new(0), goodbyes: Semaphore::new(0) }))
    }

    /// Counts one more, until the value is dropped, and its place among all connections with it.
    pub fn enter(&self, place: Permit) -> Relayed {
        self.0.open.fetch_add(1, Ordering::Relaxed);
        Relayed { relays: self.clone(), _place: place }
    }

    /// How many there are.
    pub fn open(&self) -> usize {
        self.0.open.load(Ordering::Relaxed)
    }

    /// Tells about so many to go.
    pub fn close_some(&self, count: usize) {
        // More permits than connections would send those away that come later, and nobody comes to a leaving node.
        self.0.goodbyes.add_permits(count.min(self.open()));
    }
}

impl Default for Relays {
    fn default() -> Self {
        Self::new()
    }
}

/// One relayed connection.
pub struct Relayed {
    relays: Relays,
    /// It holds sockets of this node as any other connection does.
    _place: Permit,
}

impl Relayed {
    /// Waits until this connection is to go. Cancel safe.
    pub async fn told_to_go(&self) {
        match self.relays.0.goodbyes.acquire().await {
            Ok(permit) => permit.forget(),
            // The semaphore is never closed.
            Err(_) => std::future::pending().await,
        }
    }
}

impl Drop for Relayed {
    fn drop(&mut self) {
        self.relays.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use prometheus::Registry;

    use super::*;
    use crate::admission::{self, Admission};

    #[tokio::test]
    async fn so_many_are_told_to_go() {
        let relays = Relays::new();
        let admission = Admission::new(&admission::Config::default(), &Registry::new()).unwrap();
        let all = [1, 2, 3].map(|client| relays.enter(admission.carry(None, [10, 0, 0, client].into()).unwrap()));
        assert_eq!(relays.open(), 3);
        relays.close_some(2);
        all[0].told_to_go().await;
        all[1].told_to_go().await;
        let third = tokio::time::timeout(std::time::Duration::from_millis(1), all[2].told_to_go());
        assert!(third.await.is_err());
        drop(all);
        assert_eq!(relays.open(), 0);
    }
}
