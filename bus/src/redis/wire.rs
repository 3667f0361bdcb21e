//! RESP as the subscriber link needs it. Messages are found by a short path of our own, since nearly all that arrives
//! is messages; everything else is left to the `redis-protocol` crate. Both versions of the protocol are read: in RESP3 a link
//! that has subscribed may still ask what the server is, and messages begin with `>` instead of `*`.

use std::ops::Range;

use bytes::{BufMut as _, BytesMut};
use redis_protocol::{
    resp2::{decode::decode_range, types::RangeFrame},
    resp3::{decode::complete::decode_range as decode_range_3, types::RangeFrame as RangeFrame3},
};

/// What begins at the front of what was read. Ranges are positions in the bytes given.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Nothing complete yet; `usize` bytes would be enough to go on, as far as that is known.
    More(usize),
    /// A message.
    Message { found: Found, end: usize },
    /// A message larger than anybody wants, which is to be thrown away up to `end`, mostly still to come.
    Oversize { end: usize },
    /// A message on a name that is longer than any of ours, which is to be thrown away with the [payload](skip_bulk) behind `end`.
    LongName { end: usize },
    /// Anything else.
    Reply { reply: Reply, end: usize },
}

/// Where the parts of a message are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Found {
    /// The pattern that it came for, if it did.
    pub(crate) pattern: Option<Range<usize>>,
    pub(crate) channel: Range<usize>,
    pub(crate) payload: Range<usize>,
}

impl Found {
    /// Moves it by so many bytes.
    pub(crate) fn shift(&mut self, by: usize) {
        for range in [&mut self.channel, &mut self.payload].into_iter().chain(&mut self.pattern) {
            *range = range.start + by..range.end + by;
        }
    }
}

/// An answer to one of our commands, or something that the server says by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Reply {
    /// `+OK`, `+PONG` and whatever else has one line.
    Line(String),
    /// `-ERR …`.
    Error(String),
    /// `:1`.
    Number(i64),
    /// Bytes.
    Bytes(Vec<u8>),
    /// Several of them.
    Array(Vec<Self>),
    /// Keys and values in turns.
    Map(Vec<Self>),
    /// Nothing.
    Null,
}

/// What was read is not RESP.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the server does not speak the Redis protocol")]
pub(crate) struct NotResp;

/// The longest name of a channel that is read. Ours are far shorter; a publisher can write what it likes, and a pattern matches it.
const MAX_NAME: usize = 64 * 1024;
/// The longest answer to a command; a Cluster of a thousand nodes describes itself in less.
const MAX_REPLY: usize = 4 * 1024 * 1024;

/// Reads what begins at the front of `input`. A message with a payload of more than `max` bytes is [`Step::Oversize`].
pub(crate) fn step(input: &[u8], max: usize) -> Result<Step, NotResp> {
    let (words, at) = match input {
        [b'*' | b'>', b'3', rest @ ..] => match rest {
            [b'\r', b'\n', b'$', b'7', b'\r', b'\n', b'm', b'e', b's', b's', b'a', b'g', b'e', b'\r', b'\n', ..] => {
                (2, 17)
            }
            [
                b'\r',
                b'\n',
                b'$',
                b'8',
                b'\r',
                b'\n',
                b's',
                b'm',
                b'e',
                b's',
                b's',
                b'a',
                b'g',
                b'e',
                b'\r',
                b'\n',
                ..,
            ] => (2, 18),
            _ => return reply(input),
        },
        [b'*' | b'>', b'4', b'\r', b'\n', b'$', b'8', b'\r', b'\n', b'p', b'm', rest @ ..]
            if rest.starts_with(b"essage\r\n") =>
        {
            (3, 18)
        }
        _ => return reply(input),
    };
    let mut at = at;
    let pattern = if words == 3 {
        let Some((length, start)) = length(input, at)? else { return Ok(Step::More(0)) };
        // The patterns are ours.
        if length > MAX_NAME {
            return Err(NotResp);
        }
        at = start + length + 2;
        Some(start..start + length)
    } else {
        None
    };
    let Some((length_of_name, start)) = length(input, at)? else { return Ok(Step::More(0)) };
    at = start + length_of_name + 2;
    if length_of_name > MAX_NAME {
        return Ok(Step::LongName { end: at });
    }
    let channel = start..start + length_of_name;
    let Some((size, start)) = length(input, at)? else { return Ok(Step::More(0)) };
    let end = start + size + 2;
    if size > max {
        return Ok(Step::Oversize { end });
    }
    if end > input.len() {
        return Ok(Step::More(end));
    }
    Ok(Step::Message { found: Found { pattern, channel, payload: start..start + size }, end })
}

/// How long the string is that begins at the front of `input`, its length and line ends included. `None` when that is not known yet.
pub(crate) fn skip_bulk(input: &[u8]) -> Result<Option<usize>, NotResp> {
    Ok(length(input, 0)?.map(|(size, start)| start + size + 2))
}

/// Reads `$<length>\r\n` at `at`: the length, and where what it tells of begins.
fn length(input: &[u8], at: usize) -> Result<Option<(usize, usize)>, NotResp> {
    match input.get(at) {
        None => return Ok(None),
        Some(b'$') => {}
        Some(_) => return Err(NotResp),
    }
    let mut length = 0_usize;
    // Redis's own limit of 512 MiB has nine digits.
    for (digits, byte) in input[at + 1..].iter().enumerate() {
        match byte {
            b'0'..=b'9' if digits < 10 => length = length * 10 + usize::from(byte - b'0'),
            b'\r' if digits > 0 => {
                let start = at + digits + 3;
                return Ok((start <= input.len()).then_some((length, start)));
            }
            _ => return Err(NotResp),
        }
    }
    Ok(None)
}

fn reply(input: &[u8]) -> Result<Step, NotResp> {
    let resp3 = || decode_range_3(input).map(|read| read.map(|(frame, end)| (Reply::of_3(input, &frame), end)));
    let resp2 = || decode_range(input).map(|read| read.map(|(frame, end)| (Reply::of(input, &frame), end)));
    let decoded = match input.first() {
        // What only RESP3 has.
        Some(b'>' | b'%' | b'~' | b'_' | b'#' | b',' | b'(' | b'=' | b'!' | b'|') => resp3(),
        // It may also have such a thing within what both have; what stands for nothing in RESP2 is no RESP3.
        _ => resp2().or_else(|_| resp3()),
    };
    match decoded {
        Ok(Some((reply, end))) => Ok(Step::Reply { reply, end }),
        Ok(None) if input.len() < MAX_REPLY => Ok(Step::More(0)),
        Ok(None) | Err(_) => Err(NotResp),
    }
}

impl Reply {
    fn of(input: &[u8], frame: &RangeFrame) -> Self {
        let text = |range: &(usize, usize)| String::from_utf8_lossy(&input[range.0..range.1]).into_owned();
        match frame {
            RangeFrame::SimpleString(range) => Self::Line(text(range)),
            RangeFrame::Error(range) => Self::Error(text(range)),
            RangeFrame::Integer(number) => Self::Number(*number),
            RangeFrame::BulkString(range) => Self::Bytes(input[range.0..range.1].to_vec()),
            RangeFrame::Array(frames) => Self::Array(frames.iter().map(|frame| Self::of(input, frame)).collect()),
            RangeFrame::Null => Self::Null,
        }
    }

    fn of_3(input: &[u8], frame: &RangeFrame3) -> Self {
        let text = |range: &(usize, usize)| String::from_utf8_lossy(&input[range.0..range.1]).into_owned();
        let all = |frames: &[RangeFrame3]| frames.iter().map(|frame| Self::of_3(input, frame)).collect();
        match frame {
            RangeFrame3::SimpleString { data, .. } => Self::Line(text(data)),
            RangeFrame3::SimpleError { data, .. } | RangeFrame3::BlobError { data, .. } => Self::Error(text(data)),
            RangeFrame3::Number { data, .. } => Self::Number(*data),
            RangeFrame3::BlobString { data, .. }
            | RangeFrame3::VerbatimString { data, .. }
            | RangeFrame3::BigNumber { data, .. } => Self::Bytes(input[data.0..data.1].to_vec()),
            RangeFrame3::Array { data, .. } | RangeFrame3::Push { data, .. } => Self::Array(all(data)),
            RangeFrame3::Set { data, .. } => Self::Array(data.iter().map(|frame| Self::of_3(input, frame)).collect()),
            RangeFrame3::Map { data, .. } => {
                Self::Map(data.iter().flat_map(|(key, value)| [key, value]).map(|f| Self::of_3(input, f)).collect())
            }
            // Nothing that is asked here is answered by one of these.
            RangeFrame3::Null
            | RangeFrame3::Boolean { .. }
            | RangeFrame3::Double { .. }
            | RangeFrame3::Hello { .. }
            | RangeFrame3::ChunkedString(_) => Self::Null,
        }
    }

    /// The bytes of a string, of either kind.
    pub(crate) fn as_bytes(&self) -> Option<&[u8]> {
        match self {
            Self::Line(text) => Some(text.as_bytes()),
            Self::Bytes(bytes) => Some(bytes),
            Self::Error(_) | Self::Number(_) | Self::Array(_) | Self::Map(_) | Self::Null => None,
        }
    }

    /// The text of a string, of either kind.
    pub(crate) fn as_str(&self) -> Option<&str> {
        self.as_bytes().and_then(|bytes| std::str::from_utf8(bytes).ok())
    }

    /// The members of an array.
    pub(crate) fn as_array(&self) -> Option<&[Self]> {
        if let Self::Array(all) = self { Some(all) } else { None }
    }

    /// A number.
    pub(crate) fn as_number(&self) -> Option<i64> {
        if let Self::Number(number) = self { Some(*number) } else { None }
    }
}

/// Writes a command.
pub(crate) fn command<'a>(out: &mut BytesMut, words: impl ExactSizeIterator<Item = &'a [u8]>) {
    number(out, b'*', words.len());
    for word in words {
        out.reserve(word.len() + 24);
        number(out, b'$', word.len());
        out.put_slice(word);
        out.put_slice(b"\r\n");
    }
}

fn number(out: &mut BytesMut, kind: u8, number: usize) {
    let mut digits = [0_u8; 20];
    let mut at = digits.len();
    let mut rest = number;
    loop {
        at -= 1;
        digits[at] = b'0' + u8::try_from(rest % 10).expect("a remainder by ten is a digit");
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    out.put_u8(kind);
    out.put_slice(&digits[at..]);
    out.put_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(words: &[&[u8]]) -> Vec<u8> {
        let mut out = BytesMut::new();
        command(&mut out, words.iter().copied());
        out.to_vec()
    }

    #[test]
    fn messages_are_found_where_they_are() {
        let input = [frame(&[b"message", b"clarion:a", b"\r\n$3\0"]), b"rest".to_vec()].concat();
        let Ok(Step::Message { found, end }) = step(&input, 100) else { panic!() };
        assert_eq!((found.pattern, &input[found.channel]), (None, &b"clarion:a"[..]));
        assert_eq!((&input[found.payload], &input[end..]), (&b"\r\n$3\0"[..], &b"rest"[..]));

        let input = frame(&[b"pmessage", b"clarion:a/*", b"clarion:a/b", b""]);
        let Ok(Step::Message { found, end }) = step(&input, 100) else { panic!() };
        assert_eq!((&input[found.pattern.unwrap()], &input[found.channel]), (&b"clarion:a/*"[..], &b"clarion:a/b"[..]));
        assert_eq!((found.payload.len(), end), (0, input.len()));

        let input = frame(&[b"smessage", b"c", b"x"]);
        assert!(matches!(step(&input, 100), Ok(Step::Message { .. })));
    }

    #[test]
    fn in_resp3_messages_are_pushed() {
        for words in
            [&[&b"message"[..], b"c", b"x"][..], &[b"smessage", b"c", b"x"], &[b"pmessage", b"p/*", b"p/c", b"x"]]
        {
            let mut input = frame(words);
            let plain = step(&input, 100);
            assert!(matches!(plain, Ok(Step::Message { .. })), "{plain:?}");
            input[0] = b'>';
            assert_eq!(step(&input, 100), plain);
        }
    }

    #[test]
    fn a_name_that_is_too_long_is_thrown_away_with_its_payload() {
        let name = [b"clarion:a/", &[b'x'; MAX_NAME][..]].concat();
        let input = frame(&[b"pmessage", b"clarion:a/*", &name, b"payload"]);
        for known in [60, 1_000, input.len()] {
            let Ok(Step::LongName { end }) = step(&input[..known], 100) else { panic!("{known}") };
            assert_eq!(&input[end..], b"$7\r\npayload\r\n");
            assert_eq!(skip_bulk(&input[end..]), Ok(Some(input.len() - end)));
            assert_eq!(skip_bulk(&input[end..end + 3]), Ok(None));
        }
    }

    #[test]
    fn every_beginning_of_a_message_wants_more() {
        for words in [&[&b"message"[..], b"c", b"payload"][..], &[b"pmessage", b"p/*", b"p/c", b"payload"]] {
            let input = frame(words);
            for cut in 0..input.len() {
                assert!(matches!(step(&input[..cut], 100), Ok(Step::More(n)) if n == 0 || n == input.len()), "{cut}");
            }
        }
    }

    #[test]
    fn what_is_too_large_is_known_before_it_is_read() {
        let input = frame(&[b"message", b"c", &[b'x'; 101]]);
        assert_eq!(step(&input, 100), Ok(Step::Oversize { end: input.len() }));
        assert_eq!(step(&input[..40], 100), Ok(Step::Oversize { end: input.len() }));
    }

    #[test]
    fn replies_are_left_to_the_crate() {
        for (input, expected) in [
            ("+OK\r\n", Reply::Line("OK".to_owned())),
            ("-NOPERM no\r\n", Reply::Error("NOPERM no".to_owned())),
            (":7\r\n", Reply::Number(7)),
            ("$-1\r\n", Reply::Null),
            ("_\r\n", Reply::Null),
            ("*-1\r\n", Reply::Null),
            ("*2\r\n:1\r\n%0\r\n", Reply::Array(vec![Reply::Number(1), Reply::Map(Vec::new())])),
            (
                "%1\r\n$4\r\nrole\r\n$6\r\nmaster\r\n",
                Reply::Map(vec![Reply::Bytes(b"role".to_vec()), Reply::Bytes(b"master".to_vec())]),
            ),
            (
                ">3\r\n$9\r\nsubscribe\r\n$1\r\nc\r\n:1\r\n",
                Reply::Array(vec![Reply::Bytes(b"subscribe".to_vec()), Reply::Bytes(b"c".to_vec()), Reply::Number(1)]),
            ),
            (
                "*3\r\n$9\r\nsubscribe\r\n$1\r\nc\r\n:1\r\n",
                Reply::Array(vec![Reply::Bytes(b"subscribe".to_vec()), Reply::Bytes(b"c".to_vec()), Reply::Number(1)]),
            ),
        ] {
            assert_eq!(step(input.as_bytes(), 100), Ok(Step::Reply { reply: expected, end: input.len() }));
        }
    }

    #[test]
    fn what_is_not_resp_is_said_to_be_none() {
        for input in ["HTTP/1.1 400\r\n", "*3\r\n$7\r\nmessage\r\n+c\r\n", "*3\r\n$7\r\nmessage\r\n$99999999999\r\n"] {
            assert_eq!(step(input.as_bytes(), 100), Err(NotResp), "{input:?}");
        }
    }
}
