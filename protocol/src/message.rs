//! A message: payload bytes that nobody here reads, and what is known about them.

use std::{borrow::Cow, cmp::Ordering, collections::BTreeMap, fmt, sync::Arc};

use bytes::Bytes;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use uuid::Uuid;

/// Free words about a message, `{"kind":"paid"}`. They make an envelope necessary.
pub type Tags = BTreeMap<String, String>;

/// What a publisher sent, and what is known about it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Message {
    /// The bytes, opaque.
    pub payload: Bytes,
    /// The publisher's or the broker's id; repeated ones are dropped where there is a log. `None` for a raw message.
    ///
    /// It is not among the metadata, which take memory of their own: nearly all that nodes publish has an id and nothing else.
    pub id: Option<MessageId>,
    /// What else is known; nothing of most messages.
    pub meta: Option<Arc<Meta>>,
}

impl Message {
    /// A message of which only the payload is known.
    #[must_use]
    pub fn raw(payload: impl Into<Bytes>) -> Self {
        Self { payload: payload.into(), id: None, meta: None }
    }
}

/// What is known about a message beside its payload and its id. With the id this is the JSON of the envelope on Redis.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Meta {
    /// The place in the channel's log, where there is one.
    #[serde(flatten)]
    pub position: Option<Position>,
    /// When it was published, in milliseconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time: Option<u64>,
    /// Free words.
    #[serde(default, skip_serializing_if = "Tags::is_empty")]
    pub tags: Tags,
    /// The [cursor](crate::Cursor) that names this message's place alone, as text for clients. Made by the node that hears
    /// the message, and never on the bus.
    #[serde(skip)]
    pub cursor: Option<Arc<str>>,
}

/// A place in a channel's log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    /// Grows within the channel's partition, not by ones: on Redis it is a time in microseconds. Below 2^53.
    pub offset: u64,
    /// Names one life of the partition, and thereby the partition: each has an epoch of its own.
    pub epoch: Epoch,
    /// The offset of the message before this one in the same channel, 0 for the first; a node that has not seen that one knows
    /// of a hole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous: Option<u64>,
}

/// Names one life of a log: 1 to 64 ASCII letters, digits, `-`, `_` and `.`.
///
/// It comes from the bus and stands in the lines of event streams, so whoever may publish must not be able to end a line with it.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Epoch(Arc<str>);

impl Epoch {
    /// The longest epoch in bytes.
    pub const MAX_BYTES: usize = 64;

    /// Checks an epoch and takes it.
    ///
    /// # Errors
    /// [`EpochError`].
    pub fn parse(epoch: &str) -> Result<Self, EpochError> {
        let good = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
        let fits = (1..=Self::MAX_BYTES).contains(&epoch.len()) && epoch.bytes().all(good);
        if fits { Ok(Self(epoch.into())) } else { Err(EpochError) }
    }

    /// The epoch as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Epoch {
    type Error = EpochError;

    fn try_from(epoch: String) -> Result<Self, EpochError> {
        Self::parse(&epoch)
    }
}

impl From<Epoch> for String {
    fn from(epoch: Epoch) -> Self {
        epoch.as_str().to_owned()
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &*self.0)
    }
}

/// A text that is no epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an epoch is 1 to {} ASCII letters, digits, `-`, `_` and `.`", Epoch::MAX_BYTES)]
pub struct EpochError;

/// A message's id: 1 to 128 bytes of printable ASCII without spaces.
///
/// One that Clarion made needs no memory of its own, since every message that a node publishes has one.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct MessageId(Form);

/// Each id has one form: what is written as a UUID in lower case is always the first.
#[derive(Clone, PartialEq, Eq, Hash)]
enum Form {
    Uuid(Uuid),
    Text(Arc<str>),
}

impl MessageId {
    /// The longest id in bytes.
    pub const MAX_BYTES: usize = 128;

    /// A new id; ids made later sort later (UUID version 7).
    #[must_use]
    pub fn generate() -> Self {
        Self(Form::Uuid(Uuid::now_v7()))
    }

    /// Checks an id and takes it.
    ///
    /// # Errors
    /// [`MessageIdError`] when it is empty, too long or not printable ASCII.
    pub fn parse(id: &str) -> Result<Self, MessageIdError> {
        if let Some(id) = Self::parse_uuid(id.as_bytes()) {
            return Ok(id);
        }
        let good = (1..=Self::MAX_BYTES).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_graphic());
        if good { Ok(Self(Form::Text(id.into()))) } else { Err(MessageIdError) }
    }

    /// Takes an id of the kind that [`MessageId::generate`] makes, without looking for any other.
    pub(crate) fn parse_uuid(id: &[u8]) -> Option<Self> {
        let hyphenated = id.len() == uuid::fmt::Hyphenated::LENGTH && !id.iter().any(u8::is_ascii_uppercase);
        let uuid = if hyphenated { Uuid::try_parse_ascii(id).ok()? } else { return None };
        Some(Self(Form::Uuid(uuid)))
    }

    /// Whether it is of the kind that [`MessageId::generate`] makes.
    pub(crate) fn is_uuid(&self) -> bool {
        matches!(self.0, Form::Uuid(_))
    }

    /// Gives the id as text to whoever wants to look at it.
    pub fn with_str<T>(&self, look: impl FnOnce(&str) -> T) -> T {
        match &self.0 {
            Form::Uuid(uuid) => look(uuid.hyphenated().encode_lower(&mut Uuid::encode_buffer())),
            Form::Text(text) => look(text),
        }
    }
}

impl Serialize for MessageId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.with_str(|id| serializer.serialize_str(id))
    }
}

impl<'de> Deserialize<'de> for MessageId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let id = Cow::<str>::deserialize(deserializer)?;
        Self::parse(&id).map_err(de::Error::custom)
    }
}

impl PartialOrd for MessageId {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for MessageId {
    fn cmp(&self, other: &Self) -> Ordering {
        self.with_str(|one| other.with_str(|two| one.cmp(two)))
    }
}

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.with_str(|id| f.write_str(id))
    }
}

impl fmt::Debug for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.with_str(|id| write!(f, "{id:?}"))
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
        assert!(ids.iter().all(|id| id.with_str(MessageId::parse).as_ref() == Ok(id)));
    }

    #[test]
    fn an_id_stays_as_it_was_written() {
        let lower = "0190a0b0-0000-7000-8000-00000000000f";
        for id in [lower, &lower.to_uppercase(), &lower.replace('-', ""), &format!("{{{lower}}}"), "7", "urn:uuid:x"] {
            let read = MessageId::parse(id).unwrap();
            assert_eq!((read.to_string(), serde_json::to_string(&read).unwrap()), (id.to_owned(), format!("\"{id}\"")));
            assert_eq!(serde_json::from_str::<MessageId>(&format!("\"{id}\"")).unwrap(), read);
        }
    }

    #[test]
    fn an_epoch_ends_no_line() {
        assert!(Epoch::parse(&"x".repeat(64)).is_ok());
        for bad in ["", "e\nid: forged", "e\r", "e:1", "e 1", "é", "\u{2028}", &"x".repeat(65)] {
            assert_eq!(Epoch::parse(bad), Err(EpochError), "{bad:?}");
        }
    }

    #[test]
    fn ids_are_bounded() {
        assert!(MessageId::parse(&"x".repeat(128)).is_ok());
        for bad in ["", "a b", "é", "a\n", &"x".repeat(129)] {
            assert_eq!(MessageId::parse(bad), Err(MessageIdError), "{bad:?}");
        }
    }
}
