//! Every cut of what a server sends must mean the same.

use super::*;

#[derive(Debug, Default, PartialEq, Eq)]
struct Log {
    data: Vec<u8>,
    messages: usize,
    pings: Vec<Vec<u8>>,
    closed: Vec<u16>,
}

impl Heard for Log {
    fn data(&mut self, bytes: &[u8]) {
        self.data.extend(bytes);
    }
    fn message(&mut self) {
        self.messages += 1;
    }
    fn ping(&mut self, payload: &[u8]) {
        self.pings.push(payload.to_owned());
    }
    fn closed(&mut self, code: u16) {
        self.closed.push(code);
    }
}

fn hear(wire: &Wire, pieces: &[&[u8]]) -> Result<Log, Broken> {
    let (mut wire, mut log) = (wire.clone(), Log::default());
    for piece in pieces {
        wire.feed(piece, &mut log)?;
    }
    Ok(log)
}

#[track_caller]
fn check(wire: &Wire, bytes: &[u8], expected: &Log) {
    assert_eq!(&hear(wire, &[bytes]).unwrap(), expected);
    for cut in 0..bytes.len() {
        let (left, right) = bytes.split_at(cut);
        assert_eq!(&hear(wire, &[left, right]).unwrap(), expected, "cut at {cut}");
    }
    let single: Vec<_> = bytes.chunks(1).collect();
    assert_eq!(&hear(wire, &single).unwrap(), expected, "byte by byte");
}

fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    write_server_frame(payload, &mut bytes);
    bytes[0] = first;
    bytes
}

#[test]
fn frames_in_every_cut() {
    let long = vec![b'x'; 300];
    let longest = vec![b'y'; 70_000];
    let mut bytes = Vec::new();
    for part in [
        frame(0x81, b"hello"),
        frame(0x89, b"are you there"),
        frame(0x01, b"in "),
        frame(0x89, b""),
        frame(0x80, b"pieces"),
        frame(0x82, &long),
        frame(0x81, b""),
        frame(0x8a, b"pong"),
        frame(0x88, &[0x03, 0xf4, b'b', b'y', b'e']),
    ] {
        bytes.extend(part);
    }
    let data = [b"hello", b"in pi", b"eces".as_slice(), &long].concat();
    let pings = vec![b"are you there".to_vec(), Vec::new()];
    check(&Wire::Frames(Frames::default()), &bytes, &Log { data, messages: 4, pings, closed: vec![1012] });
    let log = hear(&Wire::Frames(Frames::default()), &[&frame(0x81, &longest)]).unwrap();
    assert_eq!((log.data.len(), log.messages), (70_000, 1));
}

#[test]
fn a_close_without_a_code_is_1005() {
    let log = Log { closed: vec![1005], ..Log::default() };
    check(&Wire::Frames(Frames::default()), &frame(0x88, b""), &log);
}

#[test]
fn frames_that_no_server_may_send_are_refused() {
    let mut masked = Vec::new();
    write_frame(1, b"x", &mut masked);
    for bytes in [&masked[..], &[0xc1, 0], &[0x89, 126, 0, 200], &[0x09, 1]] {
        assert!(hear(&Wire::Frames(Frames::default()), &[bytes]).is_err(), "{bytes:?}");
    }
}

#[test]
fn chunks_in_every_cut() {
    let bytes = b"5\r\nhello\r\n1A;name=value\r\nabcdefghijklmnopqrstuvwxyz\r\n0\r\n\r\n";
    let data = b"helloabcdefghijklmnopqrstuvwxyz".to_vec();
    check(&Wire::Chunks(Chunks::default()), bytes, &Log { data, closed: vec![1000], ..Log::default() });
    assert!(hear(&Wire::Chunks(Chunks::default()), &[b"1\r\nab"]).is_err());
}

#[test]
fn heads() {
    let bytes = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nSec-WebSocket-Accept:  x=\r\n\r\nrest";
    let head = Head::read(bytes).unwrap().unwrap();
    assert_eq!((head.status, head.accept.as_deref(), head.length), (101, Some("x="), bytes.len() - 4));
    let head =
        Head::read(b"HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\ncontent-length: 12\r\nconnection: Close\r\n\r\n");
    let head = head.unwrap().unwrap();
    assert!(head.chunked && head.close && head.body == Some(12));
    assert_eq!(Head::read(b"HTTP/1.1 200 OK\r\n"), Ok(None));
    assert!(Head::read(b"SSH-2.0\r\n\r\n").is_err());
    assert!(Head::read(&vec![b'x'; LONGEST_HEAD + 1]).is_err());
}

#[test]
fn the_accept_key_is_that_of_the_rfc() {
    assert_eq!(accept_of("dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
}
