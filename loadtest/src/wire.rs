//! What servers send, parsed in whatever pieces it comes, without a buffer of its own: the head of an HTTP answer, frames
//! of RFC 6455, and chunks.

use base64::{Engine, prelude::BASE64_STANDARD};
use sha1::{Digest, Sha1};

/// The longest head of an answer; a server that sends more is not one that can be measured.
pub(crate) const LONGEST_HEAD: usize = 16 * 1024;

/// The key of every handshake. It need not be secret, only sent back rightly.
pub(crate) const KEY: &str = "Y2xhcmlvbi1sb2FkdGVzdA==";

/// What a server's bytes mean, told piece by piece.
pub(crate) trait Heard {
    /// A piece of what it sends as messages.
    fn data(&mut self, bytes: &[u8]);
    /// A message is over.
    fn message(&mut self);
    /// It wants a pong.
    fn ping(&mut self, payload: &[u8]);
    /// It says goodbye, with this code.
    fn closed(&mut self, code: u16);
}

/// The server broke its protocol.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Broken(pub(crate) &'static str);

/// How a connection's bytes are to be read.
#[derive(Debug, Clone)]
pub(crate) enum Wire {
    Frames(Frames),
    Chunks(Chunks),
    /// A body that is neither.
    Plain,
}

impl Wire {
    pub(crate) fn feed(&mut self, bytes: &[u8], heard: &mut impl Heard) -> Result<(), Broken> {
        match self {
            Self::Frames(frames) => frames.feed(bytes, heard),
            Self::Chunks(chunks) => chunks.feed(bytes, heard),
            Self::Plain => {
                heard.data(bytes);
                Ok(())
            }
        }
    }
}

/// Where in a frame of a server a connection is.
#[derive(Debug, Clone, Default)]
pub(crate) struct Frames {
    head: [u8; 10],
    have: u8,
    inside: bool,
    left: u64,
    /// The payload of a control frame, where it did not come in one piece.
    #[expect(clippy::box_collection, reason = "nearly none is in pieces, and then a box is a third of a vector")]
    control: Option<Box<Vec<u8>>>,
}

const CLOSE: u8 = 8;
const PING: u8 = 9;
const LONGEST_CONTROL: u64 = 125;

impl Frames {
    fn feed(&mut self, mut bytes: &[u8], heard: &mut impl Heard) -> Result<(), Broken> {
        loop {
            if !self.inside {
                if !self.take_head(&mut bytes)? {
                    return Ok(());
                }
                self.inside = true;
            }
            let length = usize::try_from(self.left).unwrap_or(usize::MAX).min(bytes.len());
            let (piece, rest) = bytes.split_at(length);
            self.left -= length as u64;
            bytes = rest;
            if self.head[0] & 0x08 == 0 {
                if !piece.is_empty() {
                    heard.data(piece);
                }
            } else {
                self.control(piece, heard);
            }
            if self.left > 0 {
                return Ok(());
            }
            if self.head[0] & 0x88 == 0x80 {
                heard.message();
            }
            self.inside = false;
            self.have = 0;
            if bytes.is_empty() {
                return Ok(());
            }
        }
    }

    /// Takes bytes of the head; whether it is complete.
    fn take_head(&mut self, bytes: &mut &[u8]) -> Result<bool, Broken> {
        let mut wanted: usize = 2;
        loop {
            let have = usize::from(self.have);
            let taken = bytes.len().min(wanted.saturating_sub(have));
            self.head[have..have + taken].copy_from_slice(&bytes[..taken]);
            *bytes = &bytes[taken..];
            self.have += taken as u8;
            if usize::from(self.have) < wanted {
                return Ok(false);
            }
            let complete = match self.head[1] {
                127 => 10,
                126 => 4,
                _ => 2,
            };
            if wanted == complete {
                break;
            }
            wanted = complete;
        }
        let head = &self.head;
        self.left = match head[1] {
            short @ 0..=125 => u64::from(short),
            126 => u64::from(u16::from_be_bytes([head[2], head[3]])),
            127 => u64::from_be_bytes([head[2], head[3], head[4], head[5], head[6], head[7], head[8], head[9]]),
            _ => return Err(Broken("a server's frame is masked")),
        };
        if head[0] & 0x70 != 0 {
            return Err(Broken("a frame uses an extension that was not agreed on"));
        }
        if head[0] & 0x08 != 0 && (self.left > LONGEST_CONTROL || head[0] & 0x80 == 0) {
            return Err(Broken("a control frame is too long or in pieces"));
        }
        Ok(true)
    }

    fn control(&mut self, piece: &[u8], heard: &mut impl Heard) {
        let held = self.control.take();
        if self.left > 0 || held.is_some() {
            let mut payload = held.unwrap_or_default();
            payload.extend_from_slice(piece);
            if self.left > 0 {
                self.control = Some(payload);
            } else {
                self.controlled(&payload, heard);
            }
        } else {
            self.controlled(piece, heard);
        }
    }

    fn controlled(&self, payload: &[u8], heard: &mut impl Heard) {
        match self.head[0] & 0x0f {
            // 1005 stands for a close frame without a code.
            CLOSE => heard.closed(payload.first_chunk().map_or(1005, |code| u16::from_be_bytes(*code))),
            PING => heard.ping(payload),
            _ => {}
        }
    }
}

/// Where in a chunked body a connection is.
#[derive(Debug, Clone, Default)]
pub(crate) struct Chunks {
    left: u64,
    at: At,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum At {
    #[default]
    Size,
    SizeEnd,
    Data,
    DataEnd,
    Over,
}

impl Chunks {
    fn feed(&mut self, mut bytes: &[u8], heard: &mut impl Heard) -> Result<(), Broken> {
        while let Some((&byte, rest)) = bytes.split_first() {
            match self.at {
                At::Data => {
                    let length = usize::try_from(self.left).unwrap_or(usize::MAX).min(bytes.len());
                    let (piece, rest) = bytes.split_at(length);
                    heard.data(piece);
                    self.left -= length as u64;
                    bytes = rest;
                    if self.left == 0 {
                        self.at = At::DataEnd;
                    }
                    continue;
                }
                At::Size => match (byte as char).to_digit(16) {
                    Some(digit) => self.left = (self.left & (u64::MAX >> 8)) << 4 | u64::from(digit),
                    None => self.at = At::SizeEnd,
                },
                At::SizeEnd | At::DataEnd | At::Over => {}
            }
            match (self.at, byte) {
                (At::SizeEnd, b'\n') if self.left == 0 => {
                    self.at = At::Over;
                    heard.closed(1000);
                }
                (At::SizeEnd, b'\n') => self.at = At::Data,
                (At::DataEnd, b'\n') => self.at = At::Size,
                (At::DataEnd, b'\r') | (At::Size | At::SizeEnd | At::Data | At::Over, _) => {}
                (At::DataEnd, _) => return Err(Broken("a chunk is longer than it said")),
            }
            bytes = rest;
        }
        Ok(())
    }
}

/// The head of an answer.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) status: u16,
    pub(crate) chunked: bool,
    pub(crate) body: Option<u64>,
    pub(crate) accept: Option<String>,
    pub(crate) close: bool,
    /// Where the body begins.
    pub(crate) length: usize,
}

impl Head {
    /// Reads a head, or says that it is not complete yet.
    pub(crate) fn read(bytes: &[u8]) -> Result<Option<Self>, Broken> {
        let Some(end) = memchr::memmem::find(bytes, b"\r\n\r\n") else {
            return if bytes.len() > LONGEST_HEAD {
                Err(Broken("the head of an answer is too long"))
            } else {
                Ok(None)
            };
        };
        let text = std::str::from_utf8(&bytes[..end]).map_err(|_| Broken("the head of an answer is not text"))?;
        let mut lines = text.split("\r\n");
        let status = lines.next().and_then(|line| line.strip_prefix("HTTP/1.")?.get(2..5)?.parse().ok());
        let status = status.ok_or(Broken("this is no answer of HTTP/1.1"))?;
        let mut head = Self { status, chunked: false, body: None, accept: None, close: false, length: end + 4 };
        for (name, value) in lines.filter_map(|line| line.split_once(':')) {
            let value = value.trim();
            match name {
                _ if name.eq_ignore_ascii_case("transfer-encoding") => head.chunked = value.ends_with("chunked"),
                _ if name.eq_ignore_ascii_case("content-length") => head.body = value.parse().ok(),
                _ if name.eq_ignore_ascii_case("sec-websocket-accept") => head.accept = Some(value.to_owned()),
                _ if name.eq_ignore_ascii_case("connection") => head.close = value.eq_ignore_ascii_case("close"),
                _ => {}
            }
        }
        Ok(Some(head))
    }
}

/// What a server must answer to a handshake's key.
pub(crate) fn accept_of(key: &str) -> String {
    let digest = Sha1::new_with_prefix(key).chain_update("258EAFA5-E914-47DA-95CA-C5AB0DC85B11").finalize();
    BASE64_STANDARD.encode(digest)
}

/// Appends a client's frame. The masking key is zero: it protects proxies from pages, and there is no page here.
pub(crate) fn write_frame(opcode: u8, payload: &[u8], into: &mut Vec<u8>) {
    into.push(0x80 | opcode);
    match u16::try_from(payload.len()) {
        Ok(length @ 0..=125) => into.push(0x80 | length as u8),
        Ok(length) => {
            into.push(0x80 | 126);
            into.extend(length.to_be_bytes());
        }
        Err(_) => {
            into.push(0x80 | 127);
            into.extend((payload.len() as u64).to_be_bytes());
        }
    }
    into.extend([0; 4]);
    into.extend(payload);
}

/// Appends a server's text frame, as the floor sends it.
pub(crate) fn write_server_frame(payload: &[u8], into: &mut Vec<u8>) {
    let begun = into.len();
    write_frame(1, payload, into);
    // The same without mask: its bit and its four bytes.
    into[begun + 1] &= 0x7f;
    let key = into.len() - payload.len() - 4;
    into.drain(key..key + 4);
}

#[cfg(test)]
mod tests;
