//! The table as the callers and the links of one bus share it.

use std::sync::Arc;

use clarion_protocol::Prefix;
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::Notify;

use super::{Layout, Table};
use crate::{InterestId, SubscribeError, Topic};

/// A [`Table`] behind a lock that is never held across an `await`, and taken once for a whole read of the link.
#[derive(Debug)]
pub(crate) struct Interests(Mutex<Table>);

impl Interests {
    /// An empty table.
    pub(crate) fn new(layout: Layout, prefix: Prefix) -> Self {
        Self(Mutex::new(Table::new(layout, prefix)))
    }

    /// The table itself.
    pub(crate) fn lock(&self) -> MutexGuard<'_, Table> {
        self.0.lock()
    }

    /// What wakes the link of a lane when there is work for it.
    pub(crate) fn bell(&self, lane: u16) -> Arc<Notify> {
        self.lock().bell(lane)
    }

    /// Adds a reference and waits until the interest stands. Cancel safe: a dropped call gives its reference back.
    pub(crate) async fn subscribe(&self, topic: &Topic) -> Result<InterestId, SubscribeError> {
        let (id, wait) = self.lock().acquire(topic)?;
        let mut reference = Reference { interests: self, id: Some(id) };
        if let Some(wait) = wait {
            // A waiter is dropped without an answer only together with the table.
            wait.await.unwrap_or(Err(SubscribeError::Closed))?;
        }
        reference.id = None;
        Ok(id)
    }

    /// Gives a reference back.
    pub(crate) fn unsubscribe(&self, id: InterestId) {
        self.lock().release(id);
    }
}

/// A reference that its taker has not got yet.
struct Reference<'a> {
    interests: &'a Interests,
    id: Option<InterestId>,
}

impl Drop for Reference<'_> {
    fn drop(&mut self) {
        if let Some(id) = self.id {
            self.interests.unsubscribe(id);
        }
    }
}
