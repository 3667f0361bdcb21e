//! WebSocket frames as RFC 6455 writes them, seen from the server. Bytes in, messages out; no I/O and no limits but its own.
//!
//! The decoder takes the stream in whatever pieces it comes. A frame that lies whole in one piece is handed out where it
//! lies, unmasked in place; only what is cut by the end of a piece is copied, so a connection at rest needs no decoder.

#[cfg(test)]
mod tests;

use std::borrow::Cow;

use bytes::Bytes;
use clarion_protocol::CloseCode;

/// The longest payload of a ping, pong or close frame.
pub const CONTROL_BYTES: usize = 125;
/// The longest header of a frame that a client sends.
const HEAD_BYTES: usize = 14;
/// The length byte that announces two more bytes of length.
const LENGTH_16: u8 = 126;
/// The length byte that announces eight more bytes of length.
const LENGTH_64: u8 = 127;

/// What a message is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// UTF-8.
    Text,
    /// Any bytes.
    Binary,
}

/// What a frame is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Opcode {
    /// Goes on with the message that an earlier frame began.
    Continuation = 0x0,
    /// A text message, or its beginning.
    Text = 0x1,
    /// A binary message, or its beginning.
    Binary = 0x2,
    /// Goodbye.
    Close = 0x8,
    /// Asks for a pong.
    Ping = 0x9,
    /// Answers a ping.
    Pong = 0xa,
}

impl Opcode {
    fn read(bits: u8) -> Option<Self> {
        Some(match bits {
            0x0 => Self::Continuation,
            0x1 => Self::Text,
            0x2 => Self::Binary,
            0x8 => Self::Close,
            0x9 => Self::Ping,
            0xa => Self::Pong,
            _ => return None,
        })
    }

    fn is_control(self) -> bool {
        self as u8 & 0x8 != 0
    }
}

impl From<Kind> for Opcode {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Text => Self::Text,
            Kind::Binary => Self::Binary,
        }
    }
}

/// What a client said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event<'a> {
    /// A whole message, its fragments joined. Text is valid UTF-8.
    Message(Kind, Cow<'a, [u8]>),
    /// The end of a message that came in pieces and was not kept, and how long it was.
    Skipped(usize),
    /// A ping, to be answered with the same payload.
    Ping(&'a [u8]),
    /// A pong, asked for or not.
    Pong,
    /// Goodbye, with the code if one was given. Nothing may follow.
    Close(Option<u16>),
}

/// Reads the frames of one client. Made anew it costs next to nothing; keep it only while [`Decoder::is_idle`] is false.
#[derive(Debug)]
pub struct Decoder {
    limit: usize,
    /// Whether messages that come in pieces are kept. Otherwise they are only judged.
    keeps: bool,
    head: [u8; HEAD_BYTES],
    head_len: usize,
    frame: Option<Frame>,
    /// The kind of the message that is on its way, from its first header to its last byte.
    kind: Option<Kind>,
    /// How much of that message has come.
    length: usize,
    /// What of it is kept: all, or the beginning of a character whose end has not come.
    message: Vec<u8>,
    /// How much of a kept text is known to be UTF-8.
    checked: usize,
    control: Vec<u8>,
}

/// A frame whose header was read.
#[derive(Debug, Clone, Copy)]
struct Frame {
    opcode: Opcode,
    fin: bool,
    left: usize,
    mask: [u8; 4],
}

impl Decoder {
    /// A decoder at the start of a frame, for messages of at most `limit` bytes.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self {
            limit,
            keeps: true,
            head: [0; HEAD_BYTES],
            head_len: 0,
            frame: None,
            kind: None,
            length: 0,
            message: Vec::new(),
            checked: 0,
            control: Vec::new(),
        }
    }

    /// The same for a client whose long messages are of no use: one that lies whole in a piece is handed out, any other is
    /// judged by the same rules and dropped as it comes.
    #[must_use]
    pub fn skipping(limit: usize) -> Self {
        Self { keeps: false, ..Self::new(limit) }
    }

    /// Whether it stands between two messages, so that a new one would go on just as well.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.head_len == 0 && self.frame.is_none() && self.kind.is_none()
    }

    /// The next thing that the client said, or `None` when `input` is used up. Takes what it read off `input`.
    ///
    /// # Errors
    /// The rule that the client broke. Nothing after it can be read.
    pub fn next<'s, 'i: 's>(&'s mut self, input: &mut &'i mut [u8]) -> Result<Option<Event<'s>>, FrameError> {
        loop {
            let Some(mut frame) = self.frame.take().map_or_else(|| self.read_head(input), |frame| Ok(Some(frame)))?
            else {
                return Ok(None);
            };
            let chunk = take(input, frame.left);
            unmask(chunk, frame.mask);
            frame.mask.rotate_left(chunk.len() % 4);
            frame.left -= chunk.len();
            let unfinished = frame.left > 0;
            self.frame = unfinished.then_some(frame);
            if frame.opcode.is_control() {
                if unfinished {
                    self.control.extend_from_slice(chunk);
                    return Ok(None);
                }
                return self.finish_control(frame.opcode, chunk).map(Some);
            }
            let kind = self.kind.expect("a data frame's header says what its message is");
            if !unfinished && frame.fin && self.length == 0 {
                self.kind = None;
                return whole(kind, chunk).map(Some);
            }
            self.length += chunk.len();
            self.extend(kind, chunk)?;
            if unfinished {
                return Ok(None);
            }
            if frame.fin {
                return self.finish_message(kind).map(Some);
            }
        }
    }

    /// Reads a header, or as much of it as there is.
    fn read_head(&mut self, input: &mut &mut [u8]) -> Result<Option<Frame>, FrameError> {
        if !self.fill_head(2, input) {
            return Ok(None);
        }
        // These two bytes are judged as soon as they are there: a client that broke a rule is told at once.
        let [first, second, ..] = self.head;
        let opcode = self.judge(first, second)?;
        let short = second & 0x7f;
        let extended = match short {
            LENGTH_16 => 2,
            LENGTH_64 => 8,
            _ => 0,
        };
        if !self.fill_head(2 + extended + 4, input) {
            return Ok(None);
        }
        let length = self.head[2..2 + extended].iter().fold(0_u64, |sum, byte| sum << 8 | u64::from(*byte));
        let length = match short {
            LENGTH_16 if length < u64::from(LENGTH_16) => return Err(FrameError::NonMinimalLength),
            LENGTH_64 if length <= u64::from(u16::MAX) => return Err(FrameError::NonMinimalLength),
            LENGTH_64 if length > i64::MAX as u64 => return Err(FrameError::ImpossibleLength),
            LENGTH_16 | LENGTH_64 => length,
            _ => u64::from(short),
        };
        let room = self.limit.saturating_sub(self.length);
        let left = usize::try_from(length).unwrap_or(usize::MAX);
        if !opcode.is_control() && left > room {
            return Err(FrameError::TooLarge { limit: self.limit });
        }
        let mut mask = [0; 4];
        mask.copy_from_slice(&self.head[2 + extended..2 + extended + 4]);
        self.head_len = 0;
        match opcode {
            Opcode::Text => self.kind = Some(Kind::Text),
            Opcode::Binary => self.kind = Some(Kind::Binary),
            Opcode::Close | Opcode::Ping | Opcode::Pong => self.control.clear(),
            Opcode::Continuation => {}
        }
        Ok(Some(Frame { opcode, fin: first & 0x80 != 0, left, mask }))
    }

    /// The rules that the first two bytes of a frame can break.
    fn judge(&self, first: u8, second: u8) -> Result<Opcode, FrameError> {
        if first & 0x70 != 0 {
            return Err(FrameError::ReservedBits);
        }
        let opcode = Opcode::read(first & 0xf).ok_or(FrameError::ReservedOpcode(first & 0xf))?;
        if second & 0x80 == 0 {
            return Err(FrameError::Unmasked);
        }
        match opcode {
            Opcode::Close | Opcode::Ping | Opcode::Pong if first & 0x80 == 0 => Err(FrameError::FragmentedControl),
            Opcode::Close | Opcode::Ping | Opcode::Pong if usize::from(second & 0x7f) > CONTROL_BYTES => {
                Err(FrameError::LongControl)
            }
            Opcode::Continuation if self.kind.is_none() => Err(FrameError::NothingToContinue),
            Opcode::Text | Opcode::Binary if self.kind.is_some() => Err(FrameError::Interrupted),
            _ => Ok(opcode),
        }
    }

    /// Takes bytes until the header has `want`; whether it has.
    fn fill_head(&mut self, want: usize, input: &mut &mut [u8]) -> bool {
        let chunk = take(input, want.saturating_sub(self.head_len));
        self.head[self.head_len..self.head_len + chunk.len()].copy_from_slice(chunk);
        self.head_len += chunk.len();
        self.head_len >= want
    }

    /// Adds to the message that is on its way. A text is judged as far as it has come: RFC 6455, 8.1, wants that at once.
    fn extend(&mut self, kind: Kind, chunk: &[u8]) -> Result<(), FrameError> {
        if !self.keeps && kind == Kind::Binary {
            return Ok(());
        }
        self.message.extend_from_slice(chunk);
        if kind == Kind::Text {
            self.checked += match simdutf8::compat::from_utf8(&self.message[self.checked..]) {
                Ok(text) => text.len(),
                Err(error) if error.error_len().is_some() => return Err(FrameError::InvalidUtf8),
                Err(error) => error.valid_up_to(),
            };
        }
        if !self.keeps {
            // At most three bytes of a character are left, in room of their own.
            self.message = self.message[self.checked..].to_vec();
            self.checked = 0;
        }
        Ok(())
    }

    fn finish_message(&mut self, kind: Kind) -> Result<Event<'static>, FrameError> {
        if kind == Kind::Text && self.checked < self.message.len() {
            return Err(FrameError::InvalidUtf8);
        }
        self.kind = None;
        self.checked = 0;
        let length = std::mem::take(&mut self.length);
        let message = std::mem::take(&mut self.message);
        Ok(if self.keeps { Event::Message(kind, Cow::Owned(message)) } else { Event::Skipped(length) })
    }

    fn finish_control<'s>(&'s mut self, opcode: Opcode, chunk: &'s [u8]) -> Result<Event<'s>, FrameError> {
        let payload = if self.control.is_empty() {
            chunk
        } else {
            self.control.extend_from_slice(chunk);
            &self.control
        };
        match opcode {
            Opcode::Ping => Ok(Event::Ping(payload)),
            Opcode::Close => close_code(payload).map(Event::Close),
            Opcode::Pong | Opcode::Continuation | Opcode::Text | Opcode::Binary => Ok(Event::Pong),
        }
    }
}

/// Splits at most `most` bytes off the front.
fn take<'i>(input: &mut &'i mut [u8], most: usize) -> &'i mut [u8] {
    let whole = std::mem::take(input);
    let middle = most.min(whole.len());
    let (front, rest) = whole.split_at_mut(middle);
    *input = rest;
    front
}

/// A message that came in one piece.
fn whole(kind: Kind, payload: &[u8]) -> Result<Event<'_>, FrameError> {
    if kind == Kind::Text && simdutf8::basic::from_utf8(payload).is_err() {
        return Err(FrameError::InvalidUtf8);
    }
    Ok(Event::Message(kind, Cow::Borrowed(payload)))
}

/// Undoes a client's mask, eight bytes at a time.
fn unmask(payload: &mut [u8], mask: [u8; 4]) {
    let [a, b, c, d] = mask;
    let word = u64::from_ne_bytes([a, b, c, d, a, b, c, d]);
    let mut words = payload.chunks_exact_mut(8);
    for chunk in &mut words {
        let bytes: [u8; 8] = (&*chunk).try_into().expect("a chunk of eight");
        chunk.copy_from_slice(&(u64::from_ne_bytes(bytes) ^ word).to_ne_bytes());
    }
    for (byte, mask) in words.into_remainder().iter_mut().zip(mask.iter().cycle()) {
        *byte ^= mask;
    }
}

/// Reads the body of a close frame.
fn close_code(body: &[u8]) -> Result<Option<u16>, FrameError> {
    let Some((code, reason)) = body.split_first_chunk::<2>() else {
        return if body.is_empty() { Ok(None) } else { Err(FrameError::ShortClose) };
    };
    let code = u16::from_be_bytes(*code);
    // 1004 to 1006 and 1015 are for programs to say among themselves; 1016 to 2999 belong to nobody yet.
    if !matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999) {
        return Err(FrameError::BadCloseCode(code));
    }
    simdutf8::basic::from_utf8(reason).map_err(|_| FrameError::InvalidUtf8)?;
    Ok(Some(code))
}

/// Writes the header of a server's frame that is a message or control frame of its own.
pub fn write_header(opcode: Opcode, length: usize, out: &mut Vec<u8>) {
    let first = 0x80 | opcode as u8;
    match length {
        0..126 => out.extend_from_slice(&[first, length as u8]),
        126..=0xffff => {
            out.extend_from_slice(&[first, LENGTH_16]);
            out.extend_from_slice(&(length as u16).to_be_bytes());
        }
        _ => {
            out.extend_from_slice(&[first, LENGTH_64]);
            out.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
}

/// A server's frame.
#[must_use]
pub fn encode(opcode: Opcode, payload: &[u8]) -> Bytes {
    let mut out = Vec::with_capacity(payload.len() + 10);
    write_header(opcode, payload.len(), &mut out);
    out.extend_from_slice(payload);
    out.into()
}

/// A rule of RFC 6455 that a client broke, or a limit of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// RSV1 to RSV3 belong to extensions, and none was agreed on.
    #[error("a reserved bit is set")]
    ReservedBits,
    /// An opcode that means nothing.
    #[error("opcode {0} is reserved")]
    ReservedOpcode(u8),
    /// Clients mask.
    #[error("the frame is not masked")]
    Unmasked,
    /// A control frame is one frame.
    #[error("a control frame is fragmented")]
    FragmentedControl,
    /// A control frame over [`CONTROL_BYTES`].
    #[error("a control frame is longer than {CONTROL_BYTES} bytes")]
    LongControl,
    /// A length in more bytes than it needs.
    #[error("the length is not written in the fewest bytes")]
    NonMinimalLength,
    /// A length with its highest bit set.
    #[error("the length has its highest bit set")]
    ImpossibleLength,
    /// A continuation of nothing.
    #[error("a continuation without a message")]
    NothingToContinue,
    /// A new message within another.
    #[error("a message begins before the last one ended")]
    Interrupted,
    /// A close frame with half a code.
    #[error("a close frame with one byte")]
    ShortClose,
    /// A close code that must not be sent.
    #[error("{0} is no close code")]
    BadCloseCode(u16),
    /// A text or a reason that is no UTF-8.
    #[error("the text is not UTF-8")]
    InvalidUtf8,
    /// More than a message may have.
    #[error("the message is longer than {limit} bytes")]
    TooLarge {
        /// What is allowed.
        limit: usize,
    },
}

impl FrameError {
    /// What the client is told.
    #[must_use]
    pub fn close_code(self) -> CloseCode {
        match self {
            Self::InvalidUtf8 => CloseCode::InvalidUtf8,
            Self::TooLarge { .. } => CloseCode::TooLarge,
            _ => CloseCode::Protocol,
        }
    }
}
