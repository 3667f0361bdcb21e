//! How a message's metadata travel: before the payload on Redis, as headers on NATS.
//!
//! On Redis an enveloped payload is a NUL byte, the metadata as compact JSON, a newline, and the payload untouched.
//! What does not begin with NUL is raw, and so is what begins with NUL but cannot be read; the caller counts that.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use crate::{Message, MessageId, Meta, Position};

/// What an enveloped payload begins with on Redis.
pub const MARK: u8 = 0;
/// Carries the id on NATS; JetStream itself drops duplicates by it.
pub const HEADER_ID: &str = "Nats-Msg-Id";
/// Carries the offset on NATS: JetStream's *republish* sets it.
pub const HEADER_OFFSET: &str = "Nats-Sequence";
/// Carries the previous offset of the same subject on NATS: JetStream's *republish* sets it.
pub const HEADER_PREVIOUS: &str = "Nats-Last-Sequence";
/// Carries the epoch on NATS.
pub const HEADER_EPOCH: &str = "Clarion-Epoch";
/// Carries the time on NATS, in milliseconds since 1970.
pub const HEADER_TIME: &str = "Clarion-Time";
/// Carries the tags on NATS, a JSON object of strings.
pub const HEADER_TAGS: &str = "Clarion-Tags";

/// Writes a message for Redis.
///
/// A raw payload that begins with NUL gets an empty envelope, or whoever may publish could write metadata.
#[must_use]
pub fn seal(message: &Message) -> Bytes {
    let meta = match &message.meta {
        Some(meta) => meta.clone(),
        None if message.payload.first() == Some(&MARK) => Arc::default(),
        None => return message.payload.clone(),
    };
    let meta = serde_json::to_vec(&*meta).expect("metadata are strings and numbers");
    let mut out = BytesMut::with_capacity(meta.len() + message.payload.len() + 2);
    out.extend_from_slice(&[MARK]);
    out.extend_from_slice(&meta);
    out.extend_from_slice(b"\n");
    out.extend_from_slice(&message.payload);
    out.freeze()
}

/// Reads a message from Redis. The payload shares the bytes given.
///
/// # Errors
/// The message taken as raw, when it begins with NUL and is no envelope.
pub fn open(bytes: Bytes) -> Result<Message, Message> {
    if bytes.first() != Some(&MARK) {
        return Ok(Message::raw(bytes));
    }
    let Some(end) = memchr::memchr(b'\n', &bytes) else { return Err(Message::raw(bytes)) };
    match serde_json::from_slice::<Meta>(&bytes[1..end]) {
        Ok(meta) => {
            let meta = (meta != Meta::default()).then(|| Arc::new(meta));
            Ok(Message { payload: bytes.slice(end + 1..), meta })
        }
        Err(_) => Err(Message::raw(bytes)),
    }
}

/// The headers that carry a message's metadata on NATS; none for a raw message.
#[must_use]
pub fn headers(meta: &Meta) -> Vec<(&'static str, String)> {
    let mut out = Vec::new();
    if let Some(id) = &meta.id {
        out.push((HEADER_ID, id.to_string()));
    }
    if let Some(position) = &meta.position {
        out.push((HEADER_OFFSET, position.offset.to_string()));
        out.push((HEADER_EPOCH, position.epoch.to_string()));
        out.extend(position.previous.map(|previous| (HEADER_PREVIOUS, previous.to_string())));
    }
    out.extend(meta.time.map(|time| (HEADER_TIME, time.to_string())));
    if !meta.tags.is_empty() {
        out.push((HEADER_TAGS, serde_json::to_string(&meta.tags).expect("tags are strings")));
    }
    out
}

/// Reads metadata from the headers of a NATS message; headers of others are passed over.
///
/// `None` when there is none of ours. A value of ours that cannot be read counts as absent: the payload is good all the same.
pub fn from_headers<'a>(headers: impl IntoIterator<Item = (&'a str, &'a str)>) -> Option<Meta> {
    let mut meta = Meta::default();
    let (mut offset, mut previous, mut epoch) = (None, None, "");
    for (name, value) in headers {
        match name {
            HEADER_ID => meta.id = MessageId::parse(value).ok(),
            HEADER_OFFSET => offset = value.parse().ok(),
            HEADER_PREVIOUS => previous = value.parse().ok(),
            HEADER_EPOCH => epoch = value,
            HEADER_TIME => meta.time = value.parse().ok(),
            HEADER_TAGS => meta.tags = serde_json::from_str(value).unwrap_or_default(),
            _ => {}
        }
    }
    meta.position = offset.map(|offset| Position { offset, epoch: epoch.into(), previous });
    (meta != Meta::default()).then_some(meta)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn meta() -> impl Strategy<Value = Meta> {
        let position = (any::<u64>(), "[a-z0-9]{1,8}", any::<Option<u64>>())
            .prop_map(|(offset, epoch, previous)| Position { offset, epoch: epoch.into(), previous });
        let id = "[!-~]{1,128}".prop_map(|id| MessageId::parse(&id).unwrap());
        let tags = proptest::collection::btree_map(".{0,8}", ".{0,8}", 0..3);
        (proptest::option::of(id), proptest::option::of(position), any::<Option<u64>>(), tags)
            .prop_map(|(id, position, time, tags)| Meta { id, position, time, tags })
    }

    proptest! {
        #[test]
        fn redis_round_trip(meta in proptest::option::of(meta()), payload: Vec<u8>) {
            let meta = meta.filter(|meta| *meta != Meta::default());
            let message = Message { payload: payload.into(), meta: meta.map(Arc::new) };
            prop_assert_eq!(open(seal(&message)), Ok(message));
        }

        #[test]
        fn nats_round_trip(meta in meta()) {
            let headers = headers(&meta);
            prop_assert!(headers.iter().all(|(_, value)| !value.contains(['\r', '\n'])));
            let read = from_headers(headers.iter().map(|(name, value)| (*name, value.as_str())));
            prop_assert_eq!(read.unwrap_or_default(), meta);
        }

        #[test]
        fn anything_can_be_opened(bytes: Vec<u8>) {
            let (Ok(message) | Err(message)) = open(bytes.clone().into());
            prop_assert!(bytes.ends_with(&message.payload));
            prop_assert!(bytes.first() == Some(&MARK) || message.payload == bytes);
        }
    }

    #[test]
    fn the_envelope_is_compact() {
        let meta = Meta { id: Some(MessageId::parse("7").unwrap()), time: Some(5), ..Meta::default() };
        let sealed = seal(&Message { payload: "\0x\n".into(), meta: Some(meta.into()) });
        assert_eq!(sealed, "\0{\"id\":\"7\",\"time\":5}\n\0x\n");
    }

    #[test]
    fn nobody_writes_metadata_into_a_raw_payload() {
        let forged = Message::raw("\0{\"id\":\"7\"}\nx");
        assert_eq!(open(seal(&forged)), Ok(forged));
    }

    #[test]
    fn nul_without_an_envelope_is_raw_and_told() {
        for bytes in ["\0", "\0{}", "\0[]\nx", "\0{\"offset\":-1}\n"] {
            assert!(
                matches!(open(bytes.into()), Err(message) if message.payload == bytes) || bytes.contains("offset"),
                "{bytes:?}"
            );
        }
    }

    #[test]
    fn what_a_later_release_adds_is_passed_over() {
        assert_eq!(open("\0{\"new\":1}\nx".into()).unwrap().payload, "x");
    }
}
