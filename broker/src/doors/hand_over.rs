//! How a door asks for its client's socket: what the hub is told of the connection travels in the response.
//!
//! The accept loop takes it out and gives it to the hub with the socket and the response's head, which a shard writes once
//! the connection hears what it asked for. A response that gets lost on the way takes all with it, leases included.

use std::sync::Arc;

use axum::response::Response;
use bytes::Bytes;
use clarion_hub::{Bookmark, Entered, Hub, Open, Subscription};
use parking_lot::Mutex;
use tokio::sync::oneshot;

/// A client that is let in: with the head of its response the socket leaves HTTP.
pub struct HandOver {
    /// Who takes it.
    pub hub: Hub,
    /// Who it is.
    pub open: Open,
    /// What it hears; its interests stand.
    pub subscriptions: Vec<Subscription>,
    /// What the client reads first after the head.
    pub greeting: Bytes,
    /// Who is told that it was let in.
    pub entered: Option<oneshot::Sender<Entered>>,
    /// Keeps how far it comes, where single messages cannot tell.
    pub bookmark: Option<Box<dyn Bookmark>>,
}

/// What a response can carry must be one that can be cloned; the client goes to whoever takes it first.
#[derive(Clone)]
struct InResponse(Arc<Mutex<Option<HandOver>>>);

impl HandOver {
    /// Puts it into a response.
    pub fn put(self, response: &mut Response) {
        response.extensions_mut().insert(InResponse(Arc::new(Mutex::new(Some(self)))));
    }

    /// Takes it out of a response, if it is in there.
    pub fn take(response: &mut Response) -> Option<Self> {
        response.extensions_mut().remove::<InResponse>()?.0.lock().take()
    }
}
