//! How a message reads, whatever carries it. A message is encoded once per wording and shared by all its sockets.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use bytes::Bytes;
use serde_json::value::RawValue;

use crate::{Channel, Message};

/// How a message reads. What is around it on the wire, such as a WebSocket's frame, is the connection's framing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Wording {
    /// The payload and nothing around it.
    Payload,
    /// An event whose `data:` is the payload, for event streams of one channel.
    Event,
    /// An event whose `data:` names the channel too, for event streams of many.
    EventOfMany,
}

impl Wording {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 3] = [Self::Payload, Self::Event, Self::EventOfMany];
}

/// How deeply JSON may nest and still count as JSON: what serde_json and most other parsers read by default.
pub const JSON_DEPTH: usize = 128;

/// An event whose data is the payload, byte for byte but for its line ends, which become `\n` at the other side.
#[must_use]
pub fn event(message: &Message) -> Bytes {
    let mut out = Vec::with_capacity(message.payload.len() + 32);
    id_line(message, &mut out);
    data_lines(&message.payload, &mut out);
    out.into()
}

/// An event whose data is `{"channel":…,"data"|"text"|"base64":…}`: JSON stays JSON, other UTF-8 is text.
#[must_use]
pub fn event_of_many(channel: &Channel, message: &Message) -> Bytes {
    let mut out = Vec::with_capacity(message.payload.len() + channel.as_str().len() + 48);
    id_line(message, &mut out);
    data_lines(&json(channel, &message.payload), &mut out);
    out.into()
}

/// The JSON object that [`event_of_many`] carries.
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

/// `id:` only where there is a log: a client would send it back as `Last-Event-ID`.
fn id_line(message: &Message, out: &mut Vec<u8>) {
    if let Some(position) = message.meta.as_ref().and_then(|meta| meta.position.as_ref()) {
        out.extend_from_slice(format!("id: {}:{}\n", position.epoch, position.offset).as_bytes());
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
    use crate::{Epoch, Meta, Position};

    fn one(payload: &'static [u8]) -> String {
        String::from_utf8(event(&Message::raw(payload)).to_vec()).unwrap()
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
    fn a_logged_message_has_an_id() {
        let position = Position { offset: 7, epoch: Epoch::parse("e1").unwrap(), previous: None };
        let meta = Meta { position: Some(position), ..Meta::default() };
        let message = Message { meta: Some(meta.into()), ..Message::raw("x") };
        assert_eq!(event(&message), "id: e1:7\ndata: x\n\n");
    }
}
