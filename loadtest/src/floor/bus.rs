//! The floor behind Redis or NATS: one connection, one subscription for each channel, as a broker with exact interest has.

use std::{
    collections::HashMap,
    io::{self, Read, Write},
    net::SocketAddr,
};

use mio::net::TcpStream;

/// The prefix of every channel on a bus, as Clarion's.
const PREFIX: &str = "clarion";

/// The connection to a bus.
pub(super) struct Upstream {
    stream: TcpStream,
    kind: Kind,
    received: Vec<u8>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Redis,
    Nats,
}

/// One thing that a bus has said.
#[derive(Debug, PartialEq, Eq)]
enum Said<'a> {
    Message { channel: Place<'a>, payload: &'a [u8] },
    Ping,
    Nothing,
}

/// A channel by its name, or by the number that was given with the subscription.
#[derive(Debug, PartialEq, Eq)]
enum Place<'a> {
    Name(&'a str),
    Number(u32),
}

impl Upstream {
    pub(super) fn redis(address: SocketAddr) -> io::Result<Self> {
        Self::connect(address, Kind::Redis)
    }

    pub(super) fn nats(address: SocketAddr) -> io::Result<Self> {
        let upstream = Self::connect(address, Kind::Nats)?;
        (&upstream.stream).write_all(b"CONNECT {\"verbose\":false,\"pedantic\":false}\r\n")?;
        Ok(upstream)
    }

    fn connect(address: SocketAddr, kind: Kind) -> io::Result<Self> {
        let stream = std::net::TcpStream::connect(address)?;
        stream.set_nonblocking(true)?;
        stream.set_nodelay(true)?;
        Ok(Self { stream: TcpStream::from_std(stream), kind, received: Vec::new() })
    }

    pub(super) fn stream(&mut self) -> &mut TcpStream {
        &mut self.stream
    }

    pub(super) fn subscribe(&mut self, name: &str, number: u32) {
        let command = match self.kind {
            Kind::Redis => {
                format!("*2\r\n$9\r\nSUBSCRIBE\r\n${}\r\n{PREFIX}:{name}\r\n", name.len() + PREFIX.len() + 1)
            }
            Kind::Nats => format!("SUB {PREFIX}.{} {number}\r\n", name.replace('/', ".")),
        };
        let mut bytes = command.as_bytes();
        // A bus that does not take it at once is waited for: a floor has nobody else to serve.
        while !bytes.is_empty() {
            match (&self.stream).write(bytes) {
                Ok(length) => bytes = &bytes[length..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => std::thread::yield_now(),
                Err(_) => return,
            }
        }
    }

    /// Reads all there is and passes the messages on.
    pub(super) fn read(
        &mut self,
        buffer: &mut [u8],
        names: &HashMap<String, u32>,
        mut message: impl FnMut(u32, &[u8]),
    ) -> io::Result<()> {
        loop {
            match self.stream.read(buffer) {
                Ok(0) => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the bus hung up")),
                Ok(length) => self.received.extend_from_slice(&buffer[..length]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        let mut used = 0;
        let mut pings = 0;
        while let Some((said, length)) = self.kind.next(&self.received[used..]) {
            used += length;
            match said {
                Said::Message { channel: Place::Number(number), payload } => message(number, payload),
                Said::Message { channel: Place::Name(name), payload } => {
                    if let Some(number) = names.get(name) {
                        message(*number, payload);
                    }
                }
                Said::Ping => pings += 1,
                Said::Nothing => {}
            }
        }
        self.received.drain(..used);
        for _ in 0..pings {
            (&self.stream).write_all(b"PONG\r\n")?;
        }
        Ok(())
    }
}

impl Kind {
    /// The next whole thing, and its length.
    fn next(self, bytes: &[u8]) -> Option<(Said<'_>, usize)> {
        match self {
            Self::Redis => redis(bytes),
            Self::Nats => nats(bytes),
        }
    }
}

/// Answers to SUBSCRIBE and messages are arrays of three; a message's kind is `message`.
fn redis(bytes: &[u8]) -> Option<(Said<'_>, usize)> {
    let (head, mut at) = line(bytes)?;
    if head != b"*3" {
        return Some((Said::Nothing, at));
    }
    let mut parts: [&[u8]; 3] = [b""; 3];
    for part in &mut parts {
        let (size, length) = line(&bytes[at..])?;
        at += length;
        if size.first() == Some(&b'$') {
            let size: usize = std::str::from_utf8(&size[1..]).ok()?.parse().ok()?;
            *part = bytes.get(at..at + size)?;
            bytes.get(at + size..at + size + 2)?;
            at += size + 2;
        }
    }
    let [kind, channel, payload] = parts;
    let name = std::str::from_utf8(channel).ok().and_then(|name| name.strip_prefix(PREFIX)?.strip_prefix(':'));
    let said = match (kind, name) {
        (b"message", Some(name)) => Said::Message { channel: Place::Name(name), payload },
        _ => Said::Nothing,
    };
    Some((said, at))
}

fn nats(bytes: &[u8]) -> Option<(Said<'_>, usize)> {
    let (head, at) = line(bytes)?;
    if head == b"PING" {
        return Some((Said::Ping, at));
    }
    let Some(words) = head.strip_prefix(b"MSG ").and_then(|words| std::str::from_utf8(words).ok()) else {
        return Some((Said::Nothing, at));
    };
    let mut words = words.split(' ').skip(1);
    let number = words.next()?.parse().ok()?;
    let size: usize = words.last()?.parse().ok()?;
    let payload = bytes.get(at..at + size)?;
    bytes.get(at + size..at + size + 2)?;
    Some((Said::Message { channel: Place::Number(number), payload }, at + size + 2))
}

fn line(bytes: &[u8]) -> Option<(&[u8], usize)> {
    let end = memchr::memmem::find(bytes, b"\r\n")?;
    Some((&bytes[..end], end + 2))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(kind: Kind, bytes: &[u8], expected: Said<'_>) {
        assert_eq!(kind.next(bytes), Some((expected, bytes.len())));
        for cut in 0..bytes.len() {
            assert_eq!(kind.next(&bytes[..cut]), None, "cut at {cut}");
        }
    }

    #[test]
    fn messages_are_read_only_when_they_are_whole() {
        let payload = b"a\r\nb";
        let message = Said::Message { channel: Place::Name("x/1"), payload };
        check(Kind::Redis, b"*3\r\n$7\r\nmessage\r\n$11\r\nclarion:x/1\r\n$4\r\na\r\nb\r\n", message);
        check(Kind::Redis, b"*3\r\n$9\r\nsubscribe\r\n$11\r\nclarion:x/1\r\n:1\r\n", Said::Nothing);
        let message = Said::Message { channel: Place::Number(7), payload };
        check(Kind::Nats, b"MSG clarion.x.1 7 4\r\na\r\nb\r\n", message);
        check(Kind::Nats, b"PING\r\n", Said::Ping);
        check(Kind::Nats, b"INFO {}\r\n", Said::Nothing);
    }
}
