//! Messages for many sockets, encoded one after the other, to be written with one call each.

use std::sync::Arc;

use bytes::Bytes;
use clarion_protocol::{Channel, Meta};

/// Messages in one format, joined. Made once for all who get the same, and its room is used again.
#[derive(Debug, Default)]
pub(crate) struct Run {
    bytes: Vec<u8>,
    pieces: Vec<Piece>,
    shared: Option<Bytes>,
}

/// One message of a run.
#[derive(Debug)]
pub(crate) struct Piece {
    /// Where its bytes end; they begin where the last one's end.
    pub end: usize,
    /// Where it was published.
    pub channel: Channel,
    /// What is known about it; nothing of a raw message.
    pub meta: Option<Arc<Meta>>,
}

impl Run {
    /// Empties it and keeps its room.
    pub(crate) fn clear(&mut self) {
        self.bytes.clear();
        self.pieces.clear();
        self.shared = None;
    }

    /// Adds a message that `encode` writes.
    pub(crate) fn push(&mut self, channel: &Channel, meta: Option<&Arc<Meta>>, encode: impl FnOnce(&mut Vec<u8>)) {
        encode(&mut self.bytes);
        self.pieces.push(Piece { end: self.bytes.len(), channel: channel.clone(), meta: meta.cloned() });
    }

    /// All of it, to be written.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// How many messages it holds.
    pub(crate) fn messages(&self) -> usize {
        self.pieces.len()
    }

    /// Whether it holds none.
    pub(crate) fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// Its messages in order.
    pub(crate) fn pieces(&self) -> &[Piece] {
        &self.pieces
    }

    /// Each message with its bytes.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&Piece, &[u8])> {
        let starts = std::iter::once(0).chain(self.pieces.iter().map(|piece| piece.end));
        starts.zip(&self.pieces).map(|(start, piece)| (piece, &self.bytes[start..piece.end]))
    }

    /// The bytes as a value that outboxes share. Copied once, and only when a first client is behind.
    pub(crate) fn shared(&mut self) -> Bytes {
        self.shared.get_or_insert_with(|| Bytes::copy_from_slice(&self.bytes)).clone()
    }
}
