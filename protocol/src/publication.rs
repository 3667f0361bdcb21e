//! What is handed to the bus, and the JSON in which HTTP, batches and RPC ask for it.

use std::{borrow::Cow, fmt, sync::Arc};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use bytes::Bytes;
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use crate::{Channel, ChannelError, Message, MessageId, Meta, Tags, limits};

/// Where on the bus something goes or came from.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Address {
    /// A channel, which anybody may publish to.
    Channel(Channel),
    /// One of the broker's own subjects, which nobody else uses.
    Internal(InternalName),
}

impl From<Channel> for Address {
    fn from(channel: Channel) -> Self {
        Self::Channel(channel)
    }
}

impl From<InternalName> for Address {
    fn from(name: InternalName) -> Self {
        Self::Internal(name)
    }
}

/// The name of an internal subject: lower-case letters, digits, `-` and `.`; at most 100 bytes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct InternalName(Arc<str>);

impl InternalName {
    /// Checks a name and takes it; `None` when it is none.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        let good = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'.');
        let tokens = name.split('.').all(|token| !token.is_empty());
        (tokens && name.len() <= 100 && name.bytes().all(good)).then(|| Self(name.into()))
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for InternalName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One message and where it goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Publication {
    /// Where it goes.
    pub address: Address,
    /// What goes there. With `meta` it travels in an envelope.
    pub message: Message,
}

impl Publication {
    /// A raw message for a channel or an internal subject.
    pub fn raw(address: impl Into<Address>, payload: impl Into<Bytes>) -> Self {
        Self { address: address.into(), message: Message::raw(payload) }
    }

    /// The id under which it is published: its own, or a new one that it carries from now on.
    pub fn identify(&mut self) -> MessageId {
        self.message.id.get_or_insert_with(MessageId::generate).clone()
    }
}

/// A message as batches and RPC write it: `{"channel": …, "data" | "text" | "base64": …, "tags": {…}, "id": …}`.
///
/// Exactly one of `data` (any JSON, passed on verbatim), `text` and `base64` is present. `tags` and `id` are optional.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PublicationBody<'a> {
    /// The channel's name. Absent where the method itself names the target.
    #[serde(borrow, default)]
    pub channel: Option<Cow<'a, str>>,
    /// What is published.
    #[serde(borrow, default, deserialize_with = "present")]
    pub data: Option<&'a RawValue>,
    /// What is published, as text.
    #[serde(borrow, default)]
    pub text: Option<Cow<'a, str>>,
    /// What is published, as base64 (the standard alphabet, with padding).
    #[serde(borrow, default)]
    pub base64: Option<Cow<'a, str>>,
    /// Free words about it.
    #[serde(default)]
    pub tags: Tags,
    /// The publisher's own id; in a logged namespace a repeat of it is dropped.
    #[serde(default)]
    pub id: Option<MessageId>,
}

/// Keeps a `null` that is present apart from a member that is absent.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
}

impl PublicationBody<'_> {
    /// The payload, copied.
    ///
    /// # Errors
    /// [`BodyError`] when there is none, more than one, or one that cannot be read.
    pub fn payload(&self) -> Result<Bytes, BodyError> {
        match (&self.data, &self.text, &self.base64) {
            (Some(data), None, None) if crate::wording::depth(data.get().as_bytes()) > crate::wording::JSON_DEPTH => {
                Err(BodyError::TooDeep)
            }
            (Some(data), None, None) => Ok(Bytes::copy_from_slice(data.get().as_bytes())),
            (None, Some(text), None) => Ok(Bytes::copy_from_slice(text.as_bytes())),
            (None, None, Some(base64)) => BASE64_STANDARD
                .decode(base64.as_bytes())
                .map(Bytes::from)
                .map_err(|error| BodyError::Base64(error.to_string())),
            _ => Err(BodyError::NotOnePayload),
        }
    }

    /// The message, enveloped when it has tags.
    ///
    /// # Errors
    /// As [`PublicationBody::payload`]; also when the tags are too many or too long.
    pub fn message(&self) -> Result<Message, BodyError> {
        let bytes: usize = self.tags.iter().map(|(key, value)| key.len() + value.len()).sum();
        if bytes > limits::TAG_BYTES {
            return Err(BodyError::Tags);
        }
        let payload = self.payload()?;
        let meta = (!self.tags.is_empty()).then(|| Arc::new(Meta { tags: self.tags.clone(), ..Meta::default() }));
        Ok(Message { payload, id: self.id.clone(), meta })
    }

    /// The whole of it.
    ///
    /// # Errors
    /// As [`PublicationBody::message`]; also when `channel` is absent or no channel.
    pub fn publication(&self) -> Result<Publication, BodyError> {
        let channel = Channel::parse(self.channel.as_deref().ok_or(BodyError::NoChannel)?)?;
        Ok(Publication { address: channel.into(), message: self.message()? })
    }
}

/// Why a JSON body is no message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    /// None of the three, or several.
    #[error("a message has exactly one of `data` (any JSON), `text` and `base64`")]
    NotOnePayload,
    /// No `channel`.
    #[error("a message needs a `channel`")]
    NoChannel,
    /// `channel` is no channel.
    #[error("channel: {0}")]
    Channel(#[from] ChannelError),
    /// `base64` is not base64.
    #[error("base64: {0}")]
    Base64(String),
    /// `data` nests too deeply for what has to read it.
    #[error("data: nested more than {} levels deep", crate::wording::JSON_DEPTH)]
    TooDeep,
    /// Too much in `tags`.
    #[error("tags: more than {} bytes in all", limits::TAG_BYTES)]
    Tags,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Result<Publication, BodyError> {
        serde_json::from_str::<PublicationBody<'_>>(json).unwrap().publication()
    }

    #[test]
    fn data_is_verbatim_and_null_is_data() {
        for (json, payload) in [
            (r#"{"channel":"a","data":{"b" : 1e5}}"#, r#"{"b" : 1e5}"#),
            (r#"{"channel":"a","data":null}"#, "null"),
            (r#"{"channel":"a","data":12345678901234567890123}"#, "12345678901234567890123"),
            (r#"{"channel":"a","text":"x\ny"}"#, "x\ny"),
            (r#"{"channel":"a","text":""}"#, ""),
            (r#"{"channel":"\u0061","base64":"aGk="}"#, "hi"),
        ] {
            let read = read(json).unwrap();
            assert_eq!(read.message, Message::raw(payload.to_owned()), "{json}");
            assert_eq!(read.address, Address::Channel(Channel::parse("a").unwrap()));
        }
    }

    #[test]
    fn what_is_no_message() {
        assert_eq!(read(r#"{"channel":"a"}"#), Err(BodyError::NotOnePayload));
        assert_eq!(read(r#"{"channel":"a","data":1,"text":""}"#), Err(BodyError::NotOnePayload));
        assert_eq!(read(r#"{"data":1}"#), Err(BodyError::NoChannel));
        assert!(matches!(read(r#"{"channel":"a","base64":"?"}"#), Err(BodyError::Base64(_))));
        assert!(matches!(read(r#"{"channel":"a//b","data":1}"#), Err(BodyError::Channel(_))));
        let deep = format!(r#"{{"channel":"a","data":{}{}}}"#, "[".repeat(129), "]".repeat(129));
        assert_eq!(read(&deep), Err(BodyError::TooDeep));
        assert!(serde_json::from_str::<PublicationBody<'_>>(r#"{"channel":"a","dta":1}"#).is_err());
    }

    #[test]
    fn tags_make_an_envelope() {
        let read = read(r#"{"channel":"a","data":1,"tags":{"kind":"paid"}}"#).unwrap();
        assert_eq!(read.message.meta.unwrap().tags["kind"], "paid");
    }

    #[test]
    fn an_id_is_given_once_and_stays() {
        let mut own = Publication::raw(Channel::parse("a").unwrap(), "x");
        let id = own.identify();
        assert_eq!((own.identify(), own.message.id), (id.clone(), Some(id)));
    }

    #[test]
    fn internal_names_are_plain() {
        assert!(InternalName::parse("node.0191-ab").is_some());
        for bad in ["", "a..b", ".a", "a b", "A", "a*"] {
            assert!(InternalName::parse(bad).is_none(), "{bad:?}");
        }
    }
}
