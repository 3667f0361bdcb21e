//! How a door asks for its client's socket: the ticket of the registered connection travels in the response.
//!
//! The accept loop takes it out, writes the response's head itself, and gives the socket to the ticket's shard. A response
//! that gets lost on the way takes the ticket with it, which closes the connection.

use std::sync::Arc;

use axum::response::Response;
use bytes::Bytes;
use clarion_hub::Ticket;
use parking_lot::Mutex;

/// In a response: after its head the socket leaves HTTP.
pub struct HandOver {
    /// The registered connection that waits for the socket.
    pub ticket: Ticket,
    /// What the client reads first after the head.
    pub greeting: Bytes,
}

/// What a response can carry must be one that can be cloned; the ticket goes to whoever takes it first.
#[derive(Clone)]
struct InResponse(Arc<Mutex<Option<HandOver>>>);

impl HandOver {
    /// For this connection.
    pub fn new(ticket: Ticket, greeting: Bytes) -> Self {
        Self { ticket, greeting }
    }

    /// Puts it into a response.
    pub fn put(self, response: &mut Response) {
        response.extensions_mut().insert(InResponse(Arc::new(Mutex::new(Some(self)))));
    }

    /// Takes it out of a response, if it is in there.
    pub fn take(response: &mut Response) -> Option<Self> {
        response.extensions_mut().remove::<InResponse>()?.0.lock().take()
    }
}
