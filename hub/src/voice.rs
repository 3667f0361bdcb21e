//! What becomes of the messages that a client sends. The shard asks; it knows nothing of channels and publishing itself.

use std::borrow::Cow;

use bytes::Bytes;

use crate::{frame::Kind, ticket::ConnectionKey};

/// What a connection's client may say, and what is done with it. Called on the shard's thread: must not block.
///
/// A token that comes in a message is for the voice to judge; nothing in the hub looks into a message.
pub trait Voice: Send {
    /// How much of a message it wants to see. Asked when a message begins.
    fn attention(&self) -> Attention {
        Attention::Whole
    }

    /// The client sent a whole message. Messages come in their order; the next one comes at once unless the answer is
    /// [`Answer::Pause`].
    fn message(&mut self, from: ConnectionKey, kind: Kind, payload: Cow<'_, [u8]>) -> Answer;
}

/// How much of a client's message is kept while it comes in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attention {
    /// All of it, up to the hub's limit.
    Whole,
    /// A message that is cut by the end of a read is counted and dropped: its client may say a word at most.
    Word,
}

/// What is to be done after a message.
#[derive(Debug)]
pub enum Answer {
    /// Nothing: it was of no use. Counted.
    Ignore,
    /// Nothing here: it is being dealt with elsewhere, and the next one may come.
    Continue,
    /// Nothing more is read from this client until [`Hub::resume`](crate::Hub::resume).
    Pause,
    /// These bytes go back, framed as this connection is.
    Send(Bytes),
}

/// One that takes nothing: what its client says is counted and dropped.
#[derive(Debug, Clone, Copy, Default)]
pub struct Mute;

impl Voice for Mute {
    fn attention(&self) -> Attention {
        Attention::Word
    }

    fn message(&mut self, _: ConnectionKey, _: Kind, _: Cow<'_, [u8]>) -> Answer {
        Answer::Ignore
    }
}
