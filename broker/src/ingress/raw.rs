//! What backends published plainly into logged namespaces, on its way to whoever has it numbered, in the order of the bus.

use std::{
    collections::{HashSet, VecDeque},
    sync::Arc,
};

use bytes::Bytes;
use clarion_bus::{Delivery, InterestId};
use clarion_protocol::{Address, Channel, Message};
use parking_lot::{Mutex, RwLock};
use tokio::sync::Notify;

use super::recovery::is_numbered;

/// The internal subject of the markers that are said among raw messages.
pub const MARKERS: &str = "markers";

/// What may wait here. Past it everything goes, and whoever takes it begins anew at the next marker.
const MESSAGES: usize = 50_000;
const BYTES: usize = 32 * 1024 * 1024;

/// One thing that was heard.
#[derive(Debug)]
pub enum Heard {
    /// A message without a number.
    Raw(Channel, Message),
    /// A marker.
    Marker(String),
    /// What follows does not follow what came before.
    Cut,
}

/// The queue between the two. Cheap to clone.
#[derive(Clone, Default)]
pub struct RawQueue(Arc<Inner>);

#[derive(Default)]
struct Inner {
    wanted: RwLock<HashSet<InterestId>>,
    waiting: Mutex<Waiting>,
    bell: Notify,
}

#[derive(Default)]
struct Waiting {
    queue: VecDeque<Heard>,
    bytes: usize,
}

impl RawQueue {
    /// What this interest brings without a number is wanted from now on.
    pub fn wanted(&self, id: InterestId) {
        self.0.wanted.write().insert(id);
    }

    /// It is wanted no more.
    pub fn unwanted(&self, id: InterestId) {
        self.0.wanted.write().remove(&id);
    }

    /// Returns when something may have come. Cancel safe.
    pub async fn wait(&self) {
        self.0.bell.notified().await;
    }

    /// All that has come.
    pub fn take(&self) -> VecDeque<Heard> {
        let mut waiting = self.0.waiting.lock();
        waiting.bytes = 0;
        std::mem::take(&mut waiting.queue)
    }

    /// Keeps what is wanted of a batch: one pass, so that markers keep their places among the messages.
    pub(super) fn hear(&self, batch: &[Delivery]) {
        let wanted = self.0.wanted.read();
        if wanted.is_empty() {
            return;
        }
        let mut waiting = self.0.waiting.lock();
        let before = waiting.queue.len();
        for delivery in batch {
            match &delivery.address {
                Address::Internal(name) if name.as_str() == MARKERS => {
                    waiting.push(Heard::Marker(String::from_utf8_lossy(&delivery.message.payload).into_owned()), 0);
                }
                Address::Channel(channel)
                    if !is_numbered(&delivery.message) && delivery.interests.iter().any(|id| wanted.contains(id)) =>
                {
                    // The payload shares a read buffer of many messages.
                    let payload = Bytes::copy_from_slice(&delivery.message.payload);
                    let bytes = payload.len();
                    let message = Message { payload, ..delivery.message.clone() };
                    waiting.push(Heard::Raw(channel.clone(), message), bytes);
                }
                Address::Channel(_) | Address::Internal(_) => {}
            }
        }
        if waiting.queue.len() > before {
            self.0.bell.notify_one();
        }
    }

    /// Some of these may have missed something.
    pub(super) fn interrupted(&self, interests: &[InterestId]) {
        let wanted = self.0.wanted.read();
        if interests.iter().any(|id| wanted.contains(id)) {
            let mut waiting = self.0.waiting.lock();
            (waiting.queue, waiting.bytes) = (VecDeque::from([Heard::Cut]), 0);
        }
    }
}

impl Waiting {
    fn push(&mut self, heard: Heard, bytes: usize) {
        if self.queue.len() >= MESSAGES || self.bytes + bytes > BYTES {
            (self.queue, self.bytes) = (VecDeque::from([Heard::Cut]), 0);
            return;
        }
        self.bytes += bytes;
        self.queue.push_back(heard);
    }
}
