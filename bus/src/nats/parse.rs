//! The server's half of the NATS text protocol, read from a growing buffer without copying or allocating.
//!
//! The parser sees all bytes that are not yet consumed and answers with places in them. Nothing here does I/O, and
//! nothing trusts a length that the other side states: what is larger than the limit is skipped as it comes.

use std::ops::Range;

/// The longest line that is waited for: an `INFO` that names hundreds of servers.
const LINE_BYTES: usize = 64 * 1024;

/// The longest header block that is taken; Clarion's own headers stay far below.
pub(crate) const HEADER_BYTES: usize = 64 * 1024;

/// No server lets a message have more; a larger number is a broken stream.
const LARGEST: u64 = 1 << 32;

/// One message: where its parts are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Frame {
    /// The subscription that it was sent for.
    pub(crate) sid: u64,
    /// The subject that it was published to.
    pub(crate) subject: Range<usize>,
    /// The header block; empty when there is none.
    pub(crate) headers: Range<usize>,
    /// What was published.
    pub(crate) payload: Range<usize>,
}

impl Frame {
    /// The same places counted from `by` bytes earlier.
    pub(crate) fn shifted(self, by: usize) -> Self {
        let shift = |range: Range<usize>| range.start + by..range.end + by;
        Self { sid: self.sid, subject: shift(self.subject), headers: shift(self.headers), payload: shift(self.payload) }
    }
}

/// What the server said. Places count from the start of the bytes that were given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Op {
    /// `MSG` or `HMSG`.
    Message(Frame),
    /// A message larger than the limit; its bytes are skipped.
    Oversize {
        /// The subscription that it was sent for.
        sid: u64,
    },
    /// Bytes of such a message.
    Skipped,
    /// `INFO` and where its JSON is.
    Info(Range<usize>),
    /// `-ERR` and where its text is, without quotes.
    Error(Range<usize>),
    /// `PING`.
    Ping,
    /// `PONG`.
    Pong,
    /// `+OK`.
    Ok,
}

/// The stream is not, or no longer, the protocol; the connection is of no more use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the server's answer is not the NATS protocol: {0}")]
pub(crate) struct Malformed(pub(crate) &'static str);

/// Reads one operation after the other from the bytes that are not yet consumed.
#[derive(Debug)]
pub(crate) struct Parser {
    /// The largest payload that is handed on.
    limit: usize,
    /// How many of the bytes were searched for a line end already.
    searched: usize,
    /// How many bytes must be there before it is worth looking again.
    need: usize,
    /// How many bytes of an over-size message are still to come.
    skip: usize,
}

impl Parser {
    /// A parser that hands on payloads of up to `limit` bytes.
    pub(crate) fn new(limit: usize) -> Self {
        Self { limit, searched: 0, need: 0, skip: 0 }
    }

    /// The next operation and how many bytes it took, or `None` when more bytes are needed.
    ///
    /// After an operation the caller passes what lies behind it; after `None` the same bytes and more.
    ///
    /// # Errors
    /// [`Malformed`] when this can be no NATS server.
    #[inline]
    pub(crate) fn next(&mut self, bytes: &[u8]) -> Result<Option<(Op, usize)>, Malformed> {
        if self.skip > 0 {
            return Ok(self.skip_some(bytes.len()));
        }
        if bytes.len() <= self.searched || bytes.len() < self.need {
            return Ok(None);
        }
        let end = match memchr::memchr(b'\n', &bytes[self.searched..]) {
            Some(end) => self.searched + end,
            None if bytes.len() > LINE_BYTES => return Err(Malformed("a line has no end")),
            None => {
                self.searched = bytes.len();
                return Ok(None);
            }
        };
        let Some(line) = bytes[..end].strip_suffix(b"\r") else { return Err(Malformed("a line ends without CR")) };
        let found = match line {
            [b'M', b'S', b'G', b' ', args @ ..] => self.message(bytes, Arguments::plain(args, 4)?, end + 1)?,
            [b'H', b'M', b'S', b'G', b' ', args @ ..] => {
                self.message(bytes, Arguments::with_headers(args, 5)?, end + 1)?
            }
            _ => Some((control(line)?, end + 1)),
        };
        match found {
            Some(_) => (self.searched, self.need) = (0, 0),
            // The line is complete and short: it is read again once its payload is there.
            None => self.searched = 0,
        }
        Ok(found)
    }

    #[inline]
    fn message(&mut self, bytes: &[u8], args: Arguments, start: usize) -> Result<Option<(Op, usize)>, Malformed> {
        let Arguments { sid, subject, headers, total } = args;
        if headers > total {
            return Err(Malformed("the headers are longer than the message"));
        }
        let end = start + total;
        if total - headers > self.limit || headers > HEADER_BYTES {
            let taken = bytes.len().min(end + 2);
            self.skip = end + 2 - taken;
            return Ok(Some((Op::Oversize { sid }, taken)));
        }
        if bytes.len() < end + 2 {
            self.need = end + 2;
            return Ok(None);
        }
        if bytes[end..end + 2] != *b"\r\n" {
            return Err(Malformed("a message does not end where it should"));
        }
        let frame = Frame { sid, subject, headers: start..start + headers, payload: start + headers..end };
        Ok(Some((Op::Message(frame), end + 2)))
    }

    fn skip_some(&mut self, available: usize) -> Option<(Op, usize)> {
        let taken = available.min(self.skip);
        self.skip -= taken;
        (taken > 0).then_some((Op::Skipped, taken))
    }
}

/// `<subject> <sid> [reply-to] [header bytes] <total bytes>`.
struct Arguments {
    sid: u64,
    subject: Range<usize>,
    headers: usize,
    total: usize,
}

impl Arguments {
    /// The arguments of `MSG`, which begin `at` bytes into the line.
    #[inline]
    fn plain(args: &[u8], at: usize) -> Result<Self, Malformed> {
        let (subject, sid, rest) = Self::begin(args)?;
        let total = match number(rest) {
            Some(total) => total,
            None => after_reply(rest).and_then(number).ok_or(Malformed("a message states no length"))?,
        };
        Self::checked(sid, at..at + subject, 0, total)
    }

    /// The arguments of `HMSG`.
    #[inline]
    fn with_headers(args: &[u8], at: usize) -> Result<Self, Malformed> {
        let (subject, sid, rest) = Self::begin(args)?;
        // A reply subject can be all digits, so the fields are told apart by their count.
        let rest = if rest.iter().filter(|b| **b == b' ').count() == 2 {
            after_reply(rest).expect("a space was counted")
        } else {
            rest
        };
        let lengths = split(rest).and_then(|(headers, total)| number(headers).zip(number(total)));
        let (headers, total) = lengths.ok_or(Malformed("a message states no length"))?;
        Self::checked(sid, at..at + subject, headers, total)
    }

    #[inline]
    fn begin(args: &[u8]) -> Result<(usize, u64, &[u8]), Malformed> {
        let (subject, rest) = split(args).ok_or(Malformed("a message has no subject"))?;
        let (sid, rest) = split(rest).ok_or(Malformed("a message names no subscription"))?;
        let sid = number(sid).ok_or(Malformed("a subscription is no number"))?;
        Ok((subject.len(), sid, rest))
    }

    #[inline]
    fn checked(sid: u64, subject: Range<usize>, headers: u64, total: u64) -> Result<Self, Malformed> {
        if headers > LARGEST || total > LARGEST || subject.is_empty() {
            return Err(Malformed("a message's length is out of range"));
        }
        let size = |bytes: u64| usize::try_from(bytes).map_err(|_| Malformed("a message's length is out of range"));
        Ok(Self { sid, subject, headers: size(headers)?, total: size(total)? })
    }
}

#[inline]
fn split(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let at = memchr::memchr(b' ', bytes)?;
    Some((&bytes[..at], &bytes[at + 1..]))
}

fn after_reply(bytes: &[u8]) -> Option<&[u8]> {
    split(bytes).map(|(_, rest)| rest)
}

/// A decimal number of at most 18 digits, so that it cannot overflow.
#[inline]
fn number(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || digits.len() > 18 {
        return None;
    }
    let mut value = 0;
    for digit in digits {
        let digit = digit.wrapping_sub(b'0');
        if digit > 9 {
            return None;
        }
        value = value * 10 + u64::from(digit);
    }
    Some(value)
}

fn control(line: &[u8]) -> Result<Op, Malformed> {
    match line {
        b"PING" => Ok(Op::Ping),
        b"PONG" => Ok(Op::Pong),
        b"+OK" => Ok(Op::Ok),
        [b'I', b'N', b'F', b'O', b' ', ..] => Ok(Op::Info(5..line.len())),
        [b'-', b'E', b'R', b'R', text @ ..] => {
            let trimmed = text.trim_ascii_start();
            let start = line.len() - trimmed.len();
            let quoted = trimmed.len() >= 2 && trimmed.starts_with(b"'") && trimmed.ends_with(b"'");
            Ok(Op::Error(if quoted { start + 1..line.len() - 1 } else { start..line.len() }))
        }
        _ => Err(Malformed("an unknown operation")),
    }
}

/// The names and values of a header block, without its version line; nothing when it is no text.
pub(crate) fn headers(block: &[u8]) -> impl Iterator<Item = (&str, &str)> {
    let mut rest = std::str::from_utf8(block).unwrap_or_default();
    let mut line = move || {
        let end = memchr::memchr(b'\n', rest.as_bytes())?;
        let (line, behind) = rest.split_at(end + 1);
        rest = behind;
        Some(line)
    };
    line();
    std::iter::from_fn(line).filter_map(|line| line.split_once(':')).map(|(name, value)| (name, value.trim()))
}

#[cfg(test)]
#[path = "parse_tests.rs"]
mod tests;
