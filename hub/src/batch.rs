//! What one call of `dispatch` brings, shared by the shards that need it, each message encoded once per wording.

use std::{collections::HashMap, sync::OnceLock};

use bytes::Bytes;
use clarion_protocol::{Address, Channel, Delivery, InterestId, Message, Wording};
use parking_lot::RwLock;
use smallvec::SmallVec;

use crate::{
    clock::Time,
    frame::{self, Opcode},
    framing::{Format, Framing},
};

/// What a message costs in a queue beside its payload.
const ITEM_BYTES: usize = size_of::<Delivered>();

/// A set of shards, one bit each.
pub(crate) type Shards = u64;

/// The set of the only shard.
const ONLY: Shards = 1;

/// Which shards hold members of which interest. Written when a shard gets its first or loses its last.
#[derive(Debug)]
pub(crate) struct Masks {
    /// A shard that is alone gets everything, and knows itself what is nobody's.
    of: Option<RwLock<HashMap<InterestId, Shards>>>,
}

impl Masks {
    pub(crate) fn new(shards: usize) -> Self {
        Self { of: (shards > 1).then(RwLock::default) }
    }

    pub(crate) fn set(&self, interest: InterestId, shard: Shards) {
        if let Some(of) = &self.of {
            *of.write().entry(interest).or_default() |= shard;
        }
    }

    pub(crate) fn clear(&self, interest: InterestId, shard: Shards) {
        let Some(of) = &self.of else { return };
        let mut of = of.write();
        if let Some(shards) = of.get_mut(&interest) {
            *shards &= !shard;
            if *shards == 0 {
                of.remove(&interest);
            }
        }
    }
}

/// Messages that were dispatched together.
pub(crate) struct Batch {
    pub messages: Vec<Delivered>,
    /// When they came.
    pub at: Time,
    /// What they cost in a queue.
    pub weight: usize,
    /// All shards that need one of them.
    pub shards: Shards,
}

/// One copy of a message, and how it is written.
pub(crate) struct Delivered {
    pub interests: SmallVec<[InterestId; 2]>,
    /// The shards that need it.
    pub shards: Shards,
    pub channel: Channel,
    pub message: Message,
    text: OnceLock<bool>,
    /// How it reads in each wording but the payload's, which needs no words.
    worded: [OnceLock<Bytes>; Wording::ALL.len() - 1],
}

impl Batch {
    /// Keeps what some socket here hears.
    pub(crate) fn new(deliveries: impl Iterator<Item = Delivery>, masks: &Masks, at: Time) -> Self {
        let mut batch = Self { messages: Vec::with_capacity(deliveries.size_hint().0), at, weight: 0, shards: 0 };
        let of = masks.of.as_ref().map(RwLock::read);
        for Delivery { interests, address, message } in deliveries {
            let shards = of
                .as_ref()
                .map_or(ONLY, |of| interests.iter().filter_map(|id| of.get(id)).fold(0, |all, shards| all | shards));
            // The broker's own messages are sorted out before; a message whose last socket just left is nobody's.
            let Address::Channel(channel) = address else { continue };
            if shards == 0 {
                continue;
            }
            batch.shards |= shards;
            batch.weight += message.payload.len() + ITEM_BYTES;
            batch.messages.push(Delivered::new(interests, shards, channel, message));
        }
        batch
    }
}

impl Delivered {
    fn new(interests: SmallVec<[InterestId; 2]>, shards: Shards, channel: Channel, message: Message) -> Self {
        Self { interests, shards, channel, message, text: OnceLock::new(), worded: Default::default() }
    }

    /// One that is for a single connection and was not dispatched.
    pub(crate) fn alone(channel: Channel, message: Message) -> Self {
        Self::new(SmallVec::new(), 0, channel, message)
    }

    /// Writes it in a format. What is dear is done by the first shard that comes, for all.
    pub(crate) fn encode(&self, format: Format, out: &mut Vec<u8>) {
        match (format.framing(), format.wording()) {
            (Framing::EventStream, wording) => out.extend_from_slice(self.worded(wording)),
            (Framing::WebSocket, Wording::Payload) => self.frame(&self.message.payload, out),
            (Framing::WebSocket, wording) => text_frame(self.worded(wording), out),
            (Framing::Poll, wording) => {
                out.extend_from_slice(self.worded(wording));
                out.push(b',');
            }
        }
    }

    /// How it reads.
    fn worded(&self, wording: Wording) -> &[u8] {
        match wording {
            Wording::Payload => &self.message.payload,
            _ => self.worded[wording as usize - 1].get_or_init(|| wording.word(&self.channel, &self.message)),
        }
    }

    /// A frame is its header and what it carries: only whether that is text must be found out.
    fn frame(&self, payload: &[u8], out: &mut Vec<u8>) {
        let text = *self.text.get_or_init(|| simdutf8::basic::from_utf8(&self.message.payload).is_ok());
        frame::write_header(if text { Opcode::Text } else { Opcode::Binary }, payload.len(), out);
        out.extend_from_slice(payload);
    }
}

/// Words of ours are text.
fn text_frame(words: &[u8], out: &mut Vec<u8>) {
    frame::write_header(Opcode::Text, words.len(), out);
    out.extend_from_slice(words);
}
