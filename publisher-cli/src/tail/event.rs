//! Event streams (WHATWG HTML, 9.2.6): bytes in, events out.

use std::time::Duration;

/// The longest line and the longest event: far above what a broker passes on.
const EVENT_BYTES: usize = 16 * 1024 * 1024;

/// What outlives a connection: where to go on, and how long to stay away.
#[derive(Debug, Default)]
pub(crate) struct Cursor {
    /// The last event's id; empty when none had one.
    pub(crate) last_event_id: String,
    /// What the broker last asked for with `retry:`.
    pub(crate) retry: Option<Duration>,
}

/// One event.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Event {
    /// `event:`; empty for a message.
    pub(crate) name: String,
    pub(crate) data: Vec<u8>,
    /// The last `id:` of the stream when it was complete.
    pub(crate) id: String,
}

/// Cuts a stream into events. One parser for one connection.
#[derive(Debug, Default)]
pub(crate) struct Parser {
    line: Vec<u8>,
    name: String,
    data: Vec<u8>,
    has_data: bool,
    /// The `id:` of the event that is not complete yet.
    id: Option<String>,
    /// A `\r` was the last byte: a `\n` right after it belongs to the same line end.
    after_cr: bool,
}

/// An event or a line of it is longer than anybody sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TooLong;

impl Parser {
    /// Takes bytes as they come, and hands on each event that they complete.
    pub(crate) fn feed(&mut self, bytes: &[u8], cursor: &mut Cursor, events: &mut Vec<Event>) -> Result<(), TooLong> {
        let mut rest = bytes;
        if self.after_cr && rest.first() == Some(&b'\n') {
            rest = &rest[1..];
        }
        self.after_cr &= rest.is_empty();
        while let Some(end) = memchr::memchr2(b'\r', b'\n', rest) {
            self.line.extend_from_slice(&rest[..end]);
            self.end_of_line(cursor, events);
            let cr = rest[end] == b'\r';
            rest = &rest[end + 1..];
            match rest.first() {
                Some(b'\n') if cr => rest = &rest[1..],
                None => self.after_cr = cr,
                Some(_) => {}
            }
        }
        self.line.extend_from_slice(rest);
        if self.line.len() + self.data.len() > EVENT_BYTES { Err(TooLong) } else { Ok(()) }
    }

    fn end_of_line(&mut self, cursor: &mut Cursor, events: &mut Vec<Event>) {
        let line = std::mem::take(&mut self.line);
        if line.is_empty() {
            // An id counts once its event is complete, also if that has no data.
            if let Some(id) = self.id.take() {
                cursor.last_event_id = id;
            }
            let name = std::mem::take(&mut self.name);
            if std::mem::take(&mut self.has_data) {
                let (data, id) = (std::mem::take(&mut self.data), cursor.last_event_id.clone());
                events.push(Event { name, data, id });
            }
            return;
        }
        let (name, value) = match memchr::memchr(b':', &line) {
            Some(colon) => (&line[..colon], &line[colon + 1..]),
            None => (&line[..], &[][..]),
        };
        let value = value.strip_prefix(b" ").unwrap_or(value);
        match name {
            b"data" => {
                if std::mem::replace(&mut self.has_data, true) {
                    self.data.push(b'\n');
                }
                self.data.extend_from_slice(value);
            }
            b"event" => self.name = String::from_utf8_lossy(value).into_owned(),
            b"id" if !value.contains(&0) => self.id = Some(String::from_utf8_lossy(value).into_owned()),
            b"retry" => {
                let milliseconds = std::str::from_utf8(value).ok().and_then(|text| text.parse().ok());
                cursor.retry = milliseconds.map(Duration::from_millis).or(cursor.retry);
            }
            // Comments begin with a colon, so their name is empty; all else is passed over as the standard says.
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn events(parts: &[&[u8]]) -> (Vec<String>, Cursor) {
        let (mut parser, mut cursor, mut events) = (Parser::default(), Cursor::default(), Vec::new());
        for part in parts {
            parser.feed(part, &mut cursor, &mut events).unwrap();
        }
        (events.into_iter().map(|event: Event| String::from_utf8(event.data).unwrap()).collect(), cursor)
    }

    const STREAM: &[u8] =
        b": hello\r\nretry: 250\n\ndata: a\ndata:b\r\ndata\r\nid: e:7\n\ndata:  c\r\rid\nevent: x\n\ndata: lost";

    #[test]
    fn events_are_what_the_standard_says() {
        let (events, cursor) = events(&[STREAM]);
        assert_eq!(events, ["a\nb\n", " c"]);
        assert_eq!(cursor.last_event_id, "");
        assert_eq!(cursor.retry, Some(Duration::from_millis(250)));
    }

    #[test]
    fn it_does_not_matter_how_bytes_come() {
        let whole = events(&[STREAM]).0;
        for cut in 0..STREAM.len() {
            let (a, b) = STREAM.split_at(cut);
            assert_eq!(events(&[a, b]).0, whole, "cut at {cut}");
        }
        let bytes: Vec<&[u8]> = STREAM.chunks(1).collect();
        assert_eq!(events(&bytes).0, whole);
    }

    #[test]
    fn an_id_is_kept_until_the_next() {
        assert_eq!(events(&[b"id: e:7\ndata: x\n\ndata: y\n\n"]).1.last_event_id, "e:7");
        assert_eq!(events(&[b"id: e:7\nid: a\0\n\n"]).1.last_event_id, "e:7");
    }

    #[test]
    fn an_event_has_its_name_and_the_id_that_was_complete_with_it() {
        let (mut parser, mut cursor, mut events) = (Parser::default(), Cursor::default(), Vec::new());
        let stream = b"event: cursor\nid: 1\ndata: \n\nid: 2\ndata: x\n\nid: 3\ndata: half";
        parser.feed(stream, &mut cursor, &mut events).unwrap();
        let event = |name: &str, data: &[u8], id: &str| Event { name: name.into(), data: data.into(), id: id.into() };
        assert_eq!(events, [event("cursor", b"", "1"), event("", b"x", "2")]);
        assert_eq!(cursor.last_event_id, "2", "the third is not complete");
    }

    #[test]
    fn an_event_without_an_end_is_refused() {
        let (mut parser, mut cursor, mut events) = (Parser::default(), Cursor::default(), Vec::new());
        let line = [&b"data: "[..], &vec![b'x'; 1024 * 1024], b"\n"].concat();
        let fed: Result<(), TooLong> = (0..17).try_for_each(|_| parser.feed(&line, &mut cursor, &mut events));
        assert_eq!(fed, Err(TooLong));
    }
}
