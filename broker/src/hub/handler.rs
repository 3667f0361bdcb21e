//! What becomes of the messages that clients send. The shard asks; it knows nothing of channels and publishing itself.

use std::{borrow::Cow, sync::Arc};

use bytes::Bytes;
use clarion_bus::InterestId;
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

    /// As [`Upstream::unheard`].
    fn unheard(&mut self, interests: &[InterestId]) {
        let _ = interests;
    }

    /// As [`Upstream::gone`].
    fn gone(&mut self) {}
}

/// What was taken for a connection before it came to the hub. Dropped, it gives back all that was not handed over.
///
/// Nearly every connection has taken the same: references to interests, which its shard knows as well, and a place among
/// all. When the shard says that these are free, nothing has to be kept for it.
pub trait Lease: Send {
    /// Leaves it to [`Upstream`] to give interests and place back. What is left is dropped when the connection is gone.
    fn hand_over(self: Box<Self>) -> Option<Box<dyn Send>>;
}

/// A lease that knows itself how to give everything back.
#[derive(Debug)]
pub struct Whole<T>(pub T);

impl<T: Send + 'static> Lease for Whole<T> {
    fn hand_over(self: Box<Self>) -> Option<Box<dyn Send>> {
        Some(self)
    }
}

/// What comes up from the shards: what clients send, and what they need no more. Given to the hub at wiring, called on a
/// shard's thread: must not block.
pub trait Upstream: Send + Sync + 'static {
    /// A client sent a message that is to be published. Nothing more is read from it until
    /// [`Hub::resume`](super::Hub::resume).
    fn received(&self, from: Sender, channel: Channel, payload: Bytes);

    /// A connection hears these no more, each of which its lease had one reference to.
    fn unheard(&self, interests: &[InterestId]) {
        let _ = interests;
    }

    /// A connection has ended, and its place is free.
    fn gone(&self) {}
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

    fn unheard(&mut self, interests: &[InterestId]) {
        self.0.unheard(interests);
    }

    fn gone(&mut self) {
        self.0.gone();
    }
}
