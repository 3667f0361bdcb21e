//! A message: payload bytes that nobody here reads, and what is known about them.

use std::{collections::BTreeMap, fmt, sync::Arc};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// Free words about a message, `{"kind":"paid"}`. They make an envelope necessary.
pub type Tags = BTreeMap<String, String>;

/// What a publisher sent, and what is known about it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Message {
    /// The bytes, opaque.
    pub payload: Bytes,
    /// `None` for a raw message, which is most of them.
    pub meta: Option<Arc<Meta>>,
}

impl Message {
    /// A message of which only the payload is known.
    #[must_use]
    pub fn raw(payload: impl Into<Bytes>) -> Self {
        Self { payload: payload.into(), meta: None }
    }
}

/// What is known about a message beside its payload. This is the JSON of the envelope on Redis.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Meta {
    /// The publisher's or the broker's id; repeated ones are dropped where there is a log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<MessageId>,
    /// The place in the channel's log, where there is one.
    #[serde(flatten)]
    pub position: Option<Position>,
    /// When it was published, in milliseconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time: Option<u64>,
    /// Free words.
    #[serde(default, skip_serializing_if = "Tags::is_empty")]
    pub tags: Tags,
}

/// A place in a channel's log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    /// Counts from 1 within an epoch.
    pub offset: u64,
    /// Names one life of the log: another epoch means that the offsets began anew.
    pub epoch: Box<str>,
    /// The offset of the message before this one; a node that has not seen it knows of a hole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous: Option<u64>,
}

/// A message's id: 1 to 128 bytes of printable ASCII without spaces.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct MessageId(Arc<str>);

impl MessageId {
    /// The longest id in bytes.
    pub const MAX_BYTES: usize = 128;

    /// A new id; ids made later sort later (UUID version 7).
    #[must_use]
    pub fn generate() -> Self {
        let mut text = uuid::Uuid::encode_buffer();
        Self((&*uuid::Uuid::now_v7().hyphenated().encode_lower(&mut text)).into())
    }

    /// Checks an id and takes it.
    ///
    /// # Errors
    /// [`MessageIdError`] when it is empty, too long or not printable ASCII.
    pub fn parse(id: &str) -> Result<Self, MessageIdError> {
        let good = (1..=Self::MAX_BYTES).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_graphic());
        if good { Ok(Self(id.into())) } else { Err(MessageIdError) }
    }

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for MessageId {
    type Error = MessageIdError;

    fn try_from(id: String) -> Result<Self, MessageIdError> {
        Self::parse(&id)
    }
}

impl From<MessageId> for String {
    fn from(value: MessageId) -> Self {
        value.as_str().to_owned()
    }
}

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &*self.0)
    }
}

/// A text that is no message id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a message id is 1 to {} bytes of printable ASCII without spaces", MessageId::MAX_BYTES)]
pub struct MessageIdError;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generated_ids_are_valid_and_sort_by_time() {
        let ids: Vec<_> = (0..100).map(|_| MessageId::generate()).collect();
        assert!(ids.is_sorted());
        assert!(ids.iter().all(|id| MessageId::parse(id.as_str()).as_ref() == Ok(id)));
    }

    #[test]
    fn ids_are_bounded() {
        assert!(MessageId::parse(&"x".repeat(128)).is_ok());
        for bad in ["", "a b", "é", "a\n", &"x".repeat(129)] {
            assert_eq!(MessageId::parse(bad), Err(MessageIdError), "{bad:?}");
        }
    }
}
