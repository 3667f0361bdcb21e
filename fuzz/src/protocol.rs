//! Names, envelopes, bodies and wordings.

use bytes::Bytes;
use clarion_protocol::{
    Address, Channel, Cursor, CursorKey, Epoch, Interest, Message, MessageId, NodeName, Prefix, Uid, Wording,
    channel::decode_path,
    control::{Answer, Control, Heartbeat},
    envelope as codec, limits,
    publication::PublicationBody,
};

use crate::pieces;

pub(crate) const ENVELOPE: &[&[u8]] = &[
    b"..plain",
    b"..\0{}\n",
    b"..\0{\"id\":\"01a21c56-327a-7463-87e2-8e15aa5b78e6\"}\npayload",
    b"..\0{\"id\":\"x\",\"offset\":7,\"epoch\":\"e\",\"previous\":6,\"time\":1,\"tags\":{\"kind\":\"paid\"}}\npayload",
];

pub(crate) const NAMES: &[&[u8]] = &[
    b"..orders/eu",
    b"..users/42",
    b"..a b/\xc3\xb6/%41.>*",
    b"..orders/**",
    b"..clarion:orders/eu",
    b"..clarion.a%2Eb.%C3%B6",
    b"..node-1",
    b"..0191-ab.c_d",
];

pub(crate) const BODIES: &[&[u8]] = &[
    b"..{\"channel\":\"news\",\"text\":\"hello\",\"tags\":{\"kind\":\"paid\"}}",
    b"..{\"channel\":\"a/b\",\"data\":{\"x\":[1,2,{}]}}",
    b"..{\"channel\":\"a\",\"base64\":\"aGk=\"}",
    b"..{\"type\":\"disconnect\",\"user\":\"42\",\"instance\":\"i\",\"number\":1}",
    b"..{\"type\":\"online\",\"connections\":[1,2]}",
    b"..{\"node\":\"a\",\"instance\":\"i\",\"weight\":1,\"ring\":\"00\",\"public_url\":\"http://a\"}",
];

pub(crate) const WORDINGS: &[&[u8]] = &[
    b"..hello",
    b"..\"\"\n",
    b"..two\r\nlines\rand\nmore",
    b"..{\"a\":[1]}",
    b"..\0{\"offset\":7,\"epoch\":\"e\"}\nx",
    b"..\xff\0",
];

/// What is read from Redis is written so that the same is read again; on NATS the metadata survive as headers.
pub(crate) fn envelope(input: &[u8]) {
    let (whole, _) = pieces(input);
    let bytes = Bytes::copy_from_slice(whole);
    let message = match codec::open(bytes.clone()) {
        Ok(message) => message,
        Err(raw) => {
            assert_eq!((&raw.payload, &raw.meta), (&bytes, &None), "what is no envelope is raw");
            raw
        }
    };
    assert!(message.payload.len() <= bytes.len());
    assert_eq!(codec::open(codec::seal(&message)).as_ref(), Ok(&message), "it is not read back");
    let headers = codec::headers(&message);
    assert!(headers.iter().all(|(_, value)| !value.contains(['\r', '\n'])), "a header ends early: {headers:?}");
    let read = codec::from_headers(headers.iter().map(|(name, value)| (*name, value.as_str())));
    assert_eq!(read, (message.id, message.meta), "{headers:?}");
}

/// What is taken for a name is written in each of its forms so that the same is read again.
pub(crate) fn names(input: &[u8]) {
    // Whatever a client shows as a cursor is read or refused.
    if let Ok(text) = std::str::from_utf8(input) {
        let key = CursorKey::new([7; 16]);
        if let Ok(cursor) = Cursor::decode(text, &key) {
            assert_eq!(Cursor::decode(&cursor.encode(&key), &key), Ok(cursor));
        }
    }
    let (whole, _) = pieces(input);
    let prefix = Prefix::default();
    if let Ok(address) = prefix.from_redis(whole) {
        assert_eq!(prefix.redis(&address).as_bytes(), whole, "{address:?}");
    }
    let Ok(text) = std::str::from_utf8(whole) else { return };
    if let Ok(channel) = Channel::parse(text) {
        assert_eq!(channel.as_str(), text);
        let address = Address::from(channel.clone());
        assert_eq!(prefix.from_redis(prefix.redis(&address).as_bytes()).as_ref(), Ok(&address));
        assert_eq!(prefix.from_nats(&prefix.nats(&address)).as_ref(), Ok(&address));
        assert!(Interest::from(&channel).matches(text));
    }
    if let Ok(channel) = Channel::from_path(text) {
        assert_eq!(decode_path(text).as_deref(), Ok(channel.as_str()));
        assert_eq!(Channel::parse(channel.as_str()), Ok(channel));
    }
    if let Ok(interest) = Interest::parse(text) {
        assert_eq!(interest.to_string(), text);
        assert!(interest.covers(&interest));
    }
    if let Ok(address) = prefix.from_nats(text) {
        assert_eq!(prefix.nats(&address), text, "{address:?}");
    }
    if let Ok(prefix) = Prefix::parse(text) {
        let address = Address::from(Channel::broadcast());
        assert_eq!(prefix.from_redis(prefix.redis(&address).as_bytes()).as_ref(), Ok(&address));
        assert_eq!(prefix.from_nats(&prefix.nats(&address)).as_ref(), Ok(&address));
    }
    if let Ok(user) = Uid::parse(text) {
        assert_eq!(Channel::of_user(&user).user(), Some(text));
    }
    if let Ok(id) = MessageId::parse(text) {
        assert_eq!(id.to_string(), text);
    }
    assert!(Epoch::parse(text).is_err() || text.len() <= Epoch::MAX_BYTES);
    assert!(NodeName::parse(text).map_or(true, |name| name.as_str() == text));
}

/// JSON of publishers and of other nodes: what is taken keeps its limits, and what nodes say is read back.
pub(crate) fn bodies(input: &[u8]) {
    let (whole, _) = pieces(input);
    if let Ok(body) = serde_json::from_slice::<PublicationBody<'_>>(whole)
        && let Ok(publication) = body.publication()
    {
        let message = publication.message;
        let tags = message.meta.iter().flat_map(|meta| &meta.tags);
        assert!(tags.map(|(key, value)| key.len() + value.len()).sum::<usize>() <= limits::TAG_BYTES);
        assert!(message.payload.len() <= whole.len());
    }
    fn is_read_back<T: serde::Serialize + serde::de::DeserializeOwned + PartialEq + std::fmt::Debug>(json: &[u8]) {
        if let Ok(value) = serde_json::from_slice::<T>(json) {
            let written = serde_json::to_vec(&value).expect("it is JSON");
            assert_eq!(serde_json::from_slice::<T>(&written).ok().as_ref(), Some(&value));
        }
    }
    is_read_back::<Heartbeat>(whole);
    is_read_back::<Control>(whole);
    is_read_back::<Answer>(whole);
}

/// A message is one event, and all of it: nobody who may publish writes an event of his own into a client's stream.
pub(crate) fn wordings(input: &[u8]) {
    let (whole, _) = pieces(input);
    let message = codec::open(Bytes::copy_from_slice(whole)).unwrap_or_else(|raw| raw);
    let lines = |bytes: &[u8]| String::from_utf8_lossy(bytes).replace("\r\n", "\n").replace('\r', "\n");
    let channel = Channel::broadcast();
    assert_eq!(data_of(&Wording::Event.word(&channel, &message)), lines(&message.payload));
    let json = data_of(&Wording::EventOfMany.word(&channel, &message));
    let body: PublicationBody<'_> = serde_json::from_str(&json).expect("an event of many channels is JSON");
    assert_eq!(body.channel.as_deref(), Some(channel.as_str()));
    let payload = body.payload().expect("there is one payload");
    match body.data {
        // An event stream has one end of line, which within JSON is white space, and white space around JSON belongs to nobody.
        Some(_) => assert_eq!(lines(&payload), lines(&message.payload).trim_matches([' ', '\t', '\n'])),
        None => assert_eq!(payload, message.payload),
    }
    let _: Message = body.message().expect("there are no tags");
}

/// The data of an event stream that must be one event of `data:` and `id:`.
fn data_of(event: &[u8]) -> String {
    let event = String::from_utf8_lossy(event).replace("\r\n", "\n").replace('\r', "\n");
    let event = event.strip_suffix("\n\n").expect("an event ends with an empty line");
    let mut data = Vec::new();
    for line in event.split('\n') {
        match line.split_once(':') {
            Some(("data", value)) => data.push(value.strip_prefix(' ').unwrap_or(value)),
            Some(("id", _)) => {}
            _ => panic!("a line of an event is {line:?}"),
        }
    }
    data.join("\n")
}
