//! What becomes of the messages that clients send. The shard asks; it knows nothing of channels and publishing itself.

use std::{borrow::Cow, sync::Arc};

use bytes::Bytes;
use clarion_protocol::Channel;

use super::record::Key;
use crate::frame::{Kind, Opcode, encode};

/// Names the connection that is to be resumed.
#[derive(Debug, Clone, Copy)]
pub struct Sender {
    pub(super) shard: u16,
    pub(super) key: Key,
}

/// Who sent a message.
#[derive(Debug, Clone, Copy)]
pub struct From<'a> {
    /// Names the connection.
    pub sender: Sender,
    /// Where to its client may publish.
    pub upstream: Option<&'a Channel>,
}

/// What is to be done after a message.
#[derive(Debug)]
pub enum Answer {
    /// Nothing: it was of no use. Counted.
    Ignore,
    /// Nothing more is read from this client until [`Hub::resume`](super::Hub::resume).
    Pause,
    /// This frame goes back.
    Send(Bytes),
}

/// What a shard does with the messages of its clients. Called on the shard's thread: must not block.
pub trait Handler: Clone + Send + 'static {
    /// A client sent a message.
    fn message(&mut self, from: From<'_>, kind: Kind, payload: Cow<'_, [u8]>) -> Answer;
}

/// What clients send, on its way up. Given to the hub at wiring, called on a shard's thread: must not block.
pub trait Upstream: Send + Sync + 'static {
    /// A client sent a message that is to be published. Nothing more is read from it until
    /// [`Hub::resume`](super::Hub::resume).
    fn received(&self, from: Sender, channel: Channel, payload: Bytes);
}

/// The broker's own handler: `ping` is answered, what may be published goes up, the rest is ignored.
#[derive(Clone)]
pub(super) struct Clients(pub Arc<dyn Upstream>);

impl Handler for Clients {
    fn message(&mut self, from: From<'_>, kind: Kind, payload: Cow<'_, [u8]>) -> Answer {
        if kind == Kind::Text && *payload == *b"ping" {
            return Answer::Send(encode(Opcode::Text, b"pong"));
        }
        let Some(channel) = from.upstream else { return Answer::Ignore };
        self.0.received(from.sender, channel.clone(), Bytes::from(payload.into_owned()));
        Answer::Pause
    }
}
