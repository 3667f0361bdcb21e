//! How a message reads, whatever carries it. A message is encoded once per wording and shared by all its sockets.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use bytes::Bytes;
use serde_json::value::RawValue;

use crate::{Channel, Message};

/// How a message reads. What is around it on the wire, such as a WebSocket's frame, is the connection's framing.
///
/// Where there is a log, a message names the [cursor](crate::Cursor) of its own place. A connection that hears several
/// partitions, or one through several subscriptions, needs a cursor of all of them, which no single message can name: for those
/// there are the bare wordings, and the cursor is told apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Wording {
    /// The payload and nothing around it.
    Payload,
    /// An event whose `data:` is the payload, for event streams of one channel.
    Event,
    /// The same without its cursor.
    BareEvent,
    /// An event whose `data:` names the channel too, for event streams of many.
    EventOfMany,
    /// The same without its cursor.
    BareEventOfMany,
    /// A JSON object with the channel, the payload, and the message's id, time and cursor.
    Record,
    /// The same without its cursor.
    BareRecord,
}

impl Wording {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 7] = [
        Self::Payload,
        Self::Event,
        Self::BareEvent,
        Self::EventOfMany,
        Self::BareEventOfMany,
        Self::Record,
        Self::BareRecord,
    ];

    /// The same without the cursors of single messages.
    #[must_use]
    pub fn bare(self) -> Self {
        match self {
            Self::Payload => Self::Payload,
            Self::Event | Self::BareEvent => Self::BareEvent,
            Self::EventOfMany | Self::BareEventOfMany => Self::BareEventOfMany,
            Self::Record | Self::BareRecord => Self::BareRecord,
        }
    }

    /// Whether messages name their cursors.
    fn names_cursor(self) -> bool {
        matches!(self, Self::Event | Self::EventOfMany | Self::Record)
    }

    /// Writes a message, which came on `channel`.
    #[must_use]
    pub fn word(self, channel: &Channel, message: &Message) -> Bytes {
        let cursor = message.meta.as_ref().and_then(|meta| meta.cursor.as_deref()).filter(|_| self.names_cursor());
        match self {
            Self::Payload => message.payload.clone(),
            Self::Event | Self::BareEvent => event(message, cursor),
            Self::EventOfMany | Self::BareEventOfMany => event_of_many(channel, message, cursor),
            Self::Record | Self::BareRecord => record(channel, message, cursor).into(),
        }
    }
}

/// How deeply JSON may nest and still count as JSON: what serde_json and most other parsers read by default.
pub const JSON_DEPTH: usize = 128;

/// An event whose data is the payload, byte for byte but for its line ends, which become `\n` at the other side.
fn event(message: &Message, cursor: Option<&str>) -> Bytes {
    let mut out = Vec::with_capacity(message.payload.len() + 64);
    id_line(cursor, &mut out);
    data_lines(&message.payload, &mut out);
    out.into()
}

/// An event whose data is `{"channel":…,"data"|"text"|"base64":…}`: JSON stays JSON, other UTF-8 is text.
fn event_of_many(channel: &Channel, message: &Message, cursor: Option<&str>) -> Bytes {
    let mut out = Vec::with_capacity(message.payload.len() + channel.as_str().len() + 80);
    id_line(cursor, &mut out);
    data_lines(&json(channel, &message.payload), &mut out);
    out.into()
}

/// `{"channel":…,"data"|"text"|"base64":…,"id":…,"time":…,"cursor":…}`: the message as histories, polls and resuming clients
/// read it. What is not known is left out.
#[must_use]
pub fn record(channel: &Channel, message: &Message, cursor: Option<&str>) -> Vec<u8> {
    let mut out = json(channel, &message.payload);
    out.pop();
    if let Some(id) = &message.id {
        out.extend_from_slice(br#","id":"#);
        id.with_str(|id| write_string(id, &mut out));
    }
    if let Some(time) = message.meta.as_ref().and_then(|meta| meta.time) {
        out.extend_from_slice(format!(r#","time":{time}"#).as_bytes());
    }
    if let Some(cursor) = cursor {
        out.extend_from_slice(br#","cursor":"#);
        write_string(cursor, &mut out);
    }
    out.push(b'}');
    out
}

/// An event that is no message: `name` says what it is, and its data is a JSON object or nothing.
#[must_use]
pub fn notice_event(name: &str, json: &[u8], cursor: Option<&str>) -> Bytes {
    let mut out = format!("event: {name}\n").into_bytes();
    id_line(cursor, &mut out);
    data_lines(json, &mut out);
    out.into()
}

/// The same as an object: `{"<name>":…,"cursor":…}`, or the cursor alone where there is nothing to say.
#[must_use]
pub fn notice_record(name: &str, json: &[u8], cursor: Option<&str>) -> Bytes {
    let mut out = vec![b'{'];
    if !json.is_empty() {
        write_string(name, &mut out);
        out.push(b':');
        out.extend_from_slice(json);
    }
    if let Some(cursor) = cursor {
        if out.len() > 1 {
            out.push(b',');
        }
        out.extend_from_slice(br#""cursor":"#);
        write_string(cursor, &mut out);
    }
    out.push(b'}');
    out.into()
}

/// The JSON object that an event of many carries.
#[must_use]
pub fn json(channel: &Channel, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(payload.len() + channel.as_str().len() + 24);
    out.extend_from_slice(br#"{"channel":"#);
    write_string(channel.as_str(), &mut out);
    match simdutf8::basic::from_utf8(payload) {
        Ok(text) if is_json(text) => {
            out.extend_from_slice(br#","data":"#);
            out.extend_from_slice(payload);
        }
        Ok(text) => {
            out.extend_from_slice(br#","text":"#);
            write_string(text, &mut out);
        }
        Err(_) => {
            out.extend_from_slice(br#","base64":"#);
            write_string(&BASE64_STANDARD.encode(payload), &mut out);
        }
    }
    out.push(b'}');
    out
}

fn write_string(text: &str, out: &mut Vec<u8>) {
    serde_json::to_writer(out, text).expect("a string is always JSON and a Vec takes all");
}

fn is_json(text: &str) -> bool {
    depth(text.as_bytes()) <= JSON_DEPTH && serde_json::from_str::<&RawValue>(text).is_ok()
}

/// How deeply brackets nest, strings apart. For text that is JSON this is its depth.
pub(crate) fn depth(json: &[u8]) -> usize {
    let (mut depth, mut deepest, mut in_string, mut escaped) = (0_usize, 0, false, false);
    for &byte in json {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b'[' | b'{' if !in_string => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b']' | b'}' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

/// `id:` only where there is a log: a client sends it back as `Last-Event-ID`. A cursor is base64url and ends no line.
fn id_line(cursor: Option<&str>, out: &mut Vec<u8>) {
    if let Some(cursor) = cursor {
        out.extend_from_slice(b"id: ");
        out.extend_from_slice(cursor.as_bytes());
        out.push(b'\n');
    }
}

/// One `data:` line for each line of the payload, and the empty line that ends an event.
///
/// `\r\n`, `\r` and `\n` all end a line in an event stream (WHATWG HTML, 9.2.6), so each of them must begin a new `data:`.
fn data_lines(payload: &[u8], out: &mut Vec<u8>) {
    let mut rest = payload;
    loop {
        out.extend_from_slice(b"data: ");
        let Some(end) = memchr::memchr2(b'\r', b'\n', rest) else { break };
        out.extend_from_slice(&rest[..end]);
        out.push(b'\n');
        let width = if rest[end..].starts_with(b"\r\n") { 2 } else { 1 };
        rest = &rest[end + width..];
    }
    out.extend_from_slice(rest);
    out.extend_from_slice(b"\n\n");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{MessageId, Meta};

    fn one(payload: &'static [u8]) -> String {
        String::from_utf8(event(&Message::raw(payload), None).to_vec()).unwrap()
    }

    #[test]
    fn every_line_end_begins_a_new_data_line() {
        for (payload, expected) in [
            (&b"hello"[..], "data: hello\n\n"),
            (b"", "data: \n\n"),
            (b" a", "data:  a\n\n"),
            (b"a\nb", "data: a\ndata: b\n\n"),
            (b"a\r\nb\rc\n", "data: a\ndata: b\ndata: c\ndata: \n\n"),
            (b"\n\n", "data: \ndata: \ndata: \n\n"),
        ] {
            assert_eq!(one(payload), expected);
        }
    }

    #[test]
    fn an_event_of_many_names_its_channel() {
        let channel = Channel::parse("a/\"b").unwrap();
        for (payload, expected) in [
            (&b"hello"[..], r#"{"channel":"a/\"b","text":"hello"}"#),
            (b"{\"x\": 1}", r#"{"channel":"a/\"b","data":{"x": 1}}"#),
            (b"42", r#"{"channel":"a/\"b","data":42}"#),
            (b"", r#"{"channel":"a/\"b","text":""}"#),
            (b"\xff", r#"{"channel":"a/\"b","base64":"/w=="}"#),
        ] {
            assert_eq!(String::from_utf8(json(&channel, payload)).unwrap(), expected);
        }
        let deep = "[".repeat(200) + &"]".repeat(200);
        assert!(json(&channel, deep.as_bytes()).starts_with(br#"{"channel":"a/\"b","text":"#));
    }

    #[test]
    fn brackets_in_strings_do_not_nest() {
        assert_eq!(depth(br#"{"a":"[[[\"[[","b":[1]}"#), 2);
    }

    #[test]
    fn a_logged_message_names_its_cursor_unless_it_is_bare() {
        let meta = Meta { cursor: Some("c-1".into()), time: Some(5), ..Meta::default() };
        let id = MessageId::parse("i\"").ok();
        let message = Message { meta: Some(meta.into()), id, ..Message::raw("x") };
        let channel = Channel::parse("a").unwrap();
        for (wording, expected) in [
            (Wording::Payload, "x"),
            (Wording::Event, "id: c-1\ndata: x\n\n"),
            (Wording::BareEvent, "data: x\n\n"),
            (Wording::EventOfMany, "id: c-1\ndata: {\"channel\":\"a\",\"text\":\"x\"}\n\n"),
            (Wording::BareEventOfMany, "data: {\"channel\":\"a\",\"text\":\"x\"}\n\n"),
            (Wording::Record, r#"{"channel":"a","text":"x","id":"i\"","time":5,"cursor":"c-1"}"#),
            (Wording::BareRecord, r#"{"channel":"a","text":"x","id":"i\"","time":5}"#),
        ] {
            assert_eq!(wording.word(&channel, &message), expected, "{wording:?}");
            let raw = wording.bare().word(&channel, &Message::raw("x"));
            assert_eq!(wording.word(&channel, &Message::raw("x")), raw, "{wording:?}");
        }
    }

    #[test]
    fn notices_read_as_their_carriers_do() {
        assert_eq!(notice_event("gap", b"{}", Some("c")), "event: gap\nid: c\ndata: {}\n\n");
        assert_eq!(notice_event("cursor", b"", Some("c")), "event: cursor\nid: c\ndata: \n\n");
        assert_eq!(notice_record("gap", b"{}", Some("c")), r#"{"gap":{},"cursor":"c"}"#);
        assert_eq!(notice_record("read", b"{}", None), r#"{"read":{}}"#);
        assert_eq!(notice_record("cursor", b"", Some("c")), r#"{"cursor":"c"}"#);
    }
}
