//! How a message's metadata travel: before the payload on Redis, as headers on NATS.
//!
//! On Redis an enveloped payload is a NUL byte, the metadata as compact JSON, a newline, and the payload untouched.
//! What does not begin with NUL is raw, and so is what begins with NUL but cannot be read; the caller counts that.

use std::{borrow::Cow, sync::Arc};

use bytes::{Bytes, BytesMut};

use serde::{Deserialize, Serialize};

use crate::{Epoch, Message, MessageId, Meta, Position, Tags};

/// What an enveloped payload begins with on Redis.
pub const MARK: u8 = 0;
/// Metadata of a message of which nothing is known.
static NOTHING: Meta = Meta { position: None, time: None, tags: Tags::new(), cursor: None };
/// What stands around the id in an envelope that holds nothing else.
const BEFORE_ID: &[u8] = br#"{"id":""#;
const AFTER_ID: &[u8] = br#""}"#;
/// The same of a NATS header block, up to the id.
const BEFORE_ID_HEADER: &[u8] = b"NATS/1.0\r\nNats-Msg-Id: ";
/// The length of such an envelope, with its mark and its newline, where Clarion made the id.
const ID_ALONE: usize = 1 + BEFORE_ID.len() + 36 + AFTER_ID.len() + 1;
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

/// The JSON of an envelope. Flat by hand: serde's own flattening reads every member into a value of its own first, which costs
/// a logged message twice its parsing.
#[derive(Default, Serialize, Deserialize)]
struct Envelope<'a> {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    id: Option<MessageId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    offset: Option<u64>,
    /// One that is no epoch makes no position, and the message is a message all the same.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    epoch: Option<Cow<'a, str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    previous: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    time: Option<u64>,
    #[serde(default, skip_serializing_if = "no_tags")]
    tags: Cow<'a, Tags>,
}

fn no_tags(tags: &Tags) -> bool {
    tags.is_empty()
}

impl<'a> Envelope<'a> {
    fn new(id: Option<&MessageId>, meta: Option<&'a Meta>) -> Self {
        let meta = meta.unwrap_or(&NOTHING);
        let position = meta.position.as_ref();
        Self {
            id: id.cloned(),
            offset: position.map(|position| position.offset),
            epoch: position.map(|position| Cow::Borrowed(position.epoch.as_str())),
            previous: position.and_then(|position| position.previous),
            time: meta.time,
            tags: Cow::Borrowed(&meta.tags),
        }
    }

    fn open(self) -> (Option<MessageId>, Meta) {
        let epoch = self.epoch.and_then(|epoch| Epoch::parse(&epoch).ok());
        let position = self.offset.zip(epoch);
        let position = position.map(|(offset, epoch)| Position { offset, epoch, previous: self.previous });
        (self.id, Meta { position, time: self.time, tags: self.tags.into_owned(), cursor: None })
    }
}

/// Writes a message for Redis.
///
/// A raw payload that begins with NUL gets an empty envelope, or whoever may publish could write metadata.
#[must_use]
pub fn seal(message: &Message) -> Bytes {
    let Message { payload, id, meta } = message;
    if id.is_none() && meta.is_none() && payload.first() != Some(&MARK) {
        return payload.clone();
    }
    let mut out = BytesMut::with_capacity(ID_ALONE + payload.len());
    out.extend_from_slice(&[MARK]);
    match (id, meta) {
        // Nearly all that a node publishes. Its id needs no escaping, being hexadecimal digits and hyphens.
        (Some(id), None) if id.is_uuid() => {
            out.extend_from_slice(BEFORE_ID);
            id.with_str(|id| out.extend_from_slice(id.as_bytes()));
            out.extend_from_slice(AFTER_ID);
        }
        _ => {
            let envelope = Envelope::new(id.as_ref(), meta.as_deref());
            out.extend_from_slice(&serde_json::to_vec(&envelope).expect("metadata are strings and numbers"));
        }
    }
    out.extend_from_slice(b"\n");
    out.extend_from_slice(payload);
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
    if let Some(id) = id_alone(&bytes) {
        return Ok(Message { payload: bytes.slice(ID_ALONE..), id: Some(id), meta: None });
    }
    let Some(end) = memchr::memchr(b'\n', &bytes) else { return Err(Message::raw(bytes)) };
    let json = &bytes[1..end];
    // Serde alone would take an array for an object, by the order of its members.
    let envelope =
        json.trim_ascii_start().starts_with(b"{").then(|| serde_json::from_slice::<Envelope<'_>>(json).ok()).flatten();
    match envelope.map(Envelope::open) {
        Some((id, meta)) => Ok(Message { payload: bytes.slice(end + 1..), id, meta: known(meta) }),
        None => Err(Message::raw(bytes)),
    }
}

/// Metadata that say nothing are none.
fn known(meta: Meta) -> Option<Arc<Meta>> {
    (meta != NOTHING).then(|| Arc::new(meta))
}

/// The id of an envelope that holds nothing else, written as [`seal`] writes it: no JSON is parsed for what nodes publish.
fn id_alone(bytes: &[u8]) -> Option<MessageId> {
    let meta = bytes.get(1..ID_ALONE)?.strip_suffix(b"\n")?;
    MessageId::parse_uuid(meta.strip_prefix(BEFORE_ID)?.strip_suffix(AFTER_ID)?)
}

/// The headers that carry a message's id and metadata on NATS; none for a raw message.
#[must_use]
pub fn headers(message: &Message) -> Vec<(&'static str, String)> {
    let mut out = Vec::new();
    if let Some(id) = &message.id {
        out.push((HEADER_ID, id.to_string()));
    }
    let Some(meta) = &message.meta else { return out };
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

/// The id of a header block that holds nothing else, as nodes write it: nearly all that comes with headers.
#[must_use]
pub fn id_header(block: &[u8]) -> Option<MessageId> {
    MessageId::parse_uuid(block.strip_prefix(BEFORE_ID_HEADER)?.strip_suffix(b"\r\n\r\n")?)
}

/// Names the stream of a message that JetStream has republished.
pub const HEADER_STREAM: &str = "Nats-Stream";

/// Reads the headers of a message that JetStream has republished: the same as [`from_headers`], with the place that the server
/// gave it in the stream whose epoch `epoch_of` knows.
pub fn from_republished<'a>(
    headers: impl IntoIterator<Item = (&'a str, &'a str)>,
    epoch_of: impl FnOnce(&str) -> Option<Epoch>,
) -> (Option<MessageId>, Option<Arc<Meta>>) {
    let (mut offset, mut previous, mut stream) = (None, None, None);
    // A publisher may have sent the same headers: the server appends its own, so the last ones count.
    let look = |(name, value): &(&str, &'a str)| match *name {
        HEADER_OFFSET => offset = value.parse().ok(),
        HEADER_PREVIOUS => previous = value.parse().ok(),
        HEADER_STREAM => stream = Some(*value),
        _ => {}
    };
    let (id, meta) = from_headers(headers.into_iter().inspect(look));
    let position = offset.zip(stream.and_then(epoch_of));
    let position = position.map(|(offset, epoch)| Position { offset, epoch, previous });
    let meta = Meta { position, ..meta.map(Arc::unwrap_or_clone).unwrap_or_default() };
    (id, known(meta))
}

/// Reads the id and the metadata from the headers of a NATS message; headers of others are passed over.
///
/// A value of ours that cannot be read counts as absent: the payload is good all the same.
pub fn from_headers<'a>(
    headers: impl IntoIterator<Item = (&'a str, &'a str)>,
) -> (Option<MessageId>, Option<Arc<Meta>>) {
    let (mut id, mut meta) = (None, Meta::default());
    let (mut offset, mut previous, mut epoch) = (None, None, None);
    for (name, value) in headers {
        match name {
            HEADER_ID => id = MessageId::parse(value).ok(),
            HEADER_OFFSET => offset = value.parse().ok(),
            HEADER_PREVIOUS => previous = value.parse().ok(),
            HEADER_EPOCH => epoch = Epoch::parse(value).ok(),
            HEADER_TIME => meta.time = value.parse().ok(),
            HEADER_TAGS => meta.tags = serde_json::from_str(value).unwrap_or_default(),
            _ => {}
        }
    }
    // An offset means nothing outside of its epoch.
    meta.position = offset.zip(epoch).map(|(offset, epoch)| Position { offset, epoch, previous });
    (id, known(meta))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn meta() -> impl Strategy<Value = Meta> {
        let position = (any::<u64>(), "[a-zA-Z0-9._-]{1,8}", any::<Option<u64>>())
            .prop_map(|(offset, epoch, previous)| Position { offset, epoch: Epoch::parse(&epoch).unwrap(), previous });
        let tags = proptest::collection::btree_map(".{0,8}", ".{0,8}", 0..3);
        (proptest::option::of(position), any::<Option<u64>>(), tags).prop_map(|(position, time, tags)| Meta {
            position,
            time,
            tags,
            cursor: None,
        })
    }

    fn message() -> impl Strategy<Value = Message> {
        let id = prop_oneof!["[!-~]{1,128}", "[0-9a-fA-F]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"];
        let id = proptest::option::of(id.prop_map(|id| MessageId::parse(&id).unwrap()));
        (any::<Vec<u8>>(), id, meta()).prop_map(|(payload, id, meta)| Message {
            payload: payload.into(),
            id,
            meta: known(meta),
        })
    }

    proptest! {
        #[test]
        fn redis_round_trip(message in message()) {
            prop_assert_eq!(open(seal(&message)), Ok(message));
        }

        #[test]
        fn nats_round_trip(message in message()) {
            let headers = headers(&message);
            prop_assert!(headers.iter().all(|(_, value)| !value.contains(['\r', '\n'])));
            let read = from_headers(headers.iter().map(|(name, value)| (*name, value.as_str())));
            prop_assert_eq!(read, (message.id, message.meta));
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
        let (id, meta) = (MessageId::parse("7").unwrap(), Meta { time: Some(5), ..Meta::default() });
        let sealed = seal(&Message { payload: "\0x\n".into(), id: Some(id), meta: Some(meta.into()) });
        assert_eq!(sealed, "\0{\"id\":\"7\",\"time\":5}\n\0x\n");
    }

    #[test]
    fn an_id_that_clarion_made_is_written_and_read_as_any_other() {
        let id = "0190a0b0-0000-7000-8000-00000000000f";
        let message = Message { id: Some(MessageId::parse(id).unwrap()), ..Message::raw("x") };
        let sealed = seal(&message);
        let envelope = Envelope::new(message.id.as_ref(), None);
        assert_eq!(sealed, format!("\0{}\nx", serde_json::to_string(&envelope).unwrap()));
        for same in [sealed, format!("\0 {{\"id\": \"{id}\"}}\nx").into()] {
            assert_eq!(open(same), Ok(message.clone()));
        }
        let empty = format!("\0{{\"id\":\"{id}\"}}\n");
        assert_eq!(open(empty.into()).unwrap().payload, "");
    }

    #[test]
    fn an_id_that_stands_alone_in_a_header_block_is_found() {
        let id = "0190a0b0-0000-7000-8000-00000000000f";
        let found = |block: &str| id_header(block.as_bytes()).map(|id| id.to_string());
        assert_eq!(found(&format!("NATS/1.0\r\n{HEADER_ID}: {id}\r\n\r\n")), Some(id.to_owned()));
        for other in [
            format!("NATS/1.0\r\n{HEADER_ID}: {id}\r\nX: y\r\n\r\n"),
            format!("NATS/1.0\r\n{HEADER_ID}: 7\r\n\r\n"),
            format!("NATS/1.0 503\r\n{HEADER_ID}: {id}\r\n\r\n"),
        ] {
            assert_eq!(found(&other), None, "{other:?}");
        }
    }

    #[test]
    fn whoever_may_publish_writes_nothing_into_an_event_stream() {
        let forged = r#"e\n\ndata: forged\n\nid: e"#;
        let heard = open(format!("\0{{\"offset\":7,\"epoch\":\"{forged}\",\"time\":5}}\nx").into()).unwrap();
        let meta = heard.meta.as_ref().unwrap();
        assert_eq!((&meta.position, meta.time), (&None, Some(5)), "the rest of it is good");
        assert_eq!(crate::Wording::Event.word(&crate::Channel::parse("a").unwrap(), &heard), "data: x\n\n");
        for (offset, epoch) in [("7", "e\rdata: forged"), ("7", ""), ("7", "a:b")] {
            assert_eq!(from_headers([(HEADER_OFFSET, offset), (HEADER_EPOCH, epoch)]), (None, None), "{epoch:?}");
        }
        assert_eq!(from_headers([(HEADER_OFFSET, "7")]), (None, None), "an offset of no epoch");
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
