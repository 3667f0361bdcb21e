//! What malformed frames get: the close code of RFC 6455, byte by byte over a raw connection.

use clarion_testkit::{BrokerProcess, within};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::{ConfigFile, guarded, say};

const MASK: [u8; 4] = [1, 2, 3, 4];

/// A frame as a client sends it: first byte, mask, payload.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first];
    match payload.len() {
        short @ 0..=125 => bytes.push(0x80 | u8::try_from(short).expect("short")),
        medium @ 126..=0xffff => {
            bytes.push(0x80 | 126);
            bytes.extend(u16::try_from(medium).expect("medium").to_be_bytes());
        }
        long => {
            bytes.push(0x80 | 127);
            bytes.extend((long as u64).to_be_bytes());
        }
    }
    bytes.extend(MASK);
    bytes.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    bytes
}

/// A WebSocket after its handshake, with nothing but bytes.
async fn raw(node: &BrokerProcess, path: &str) -> TcpStream {
    let mut stream = TcpStream::connect(node.addr()).await.expect("the node listens");
    let request = format!(
        "GET /{path} HTTP/1.1\r\nHost: {}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        node.addr()
    );
    stream.write_all(request.as_bytes()).await.expect("the request is sent");
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(within("the answer's head", stream.read_u8()).await.expect("there is an answer"));
    }
    let head = String::from_utf8(head).expect("a head is text");
    assert!(head.starts_with("HTTP/1.1 101"), "{head}");
    assert!(head.to_lowercase().contains("sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo="), "{head}");
    stream
}

/// Reads one frame of the server, which are all short here and never masked.
async fn read_frame(stream: &mut TcpStream) -> (u8, Vec<u8>) {
    let mut head = [0; 2];
    within("a frame", stream.read_exact(&mut head)).await.expect("a frame comes");
    let mut payload = vec![0; usize::from(head[1])];
    within("its payload", stream.read_exact(&mut payload)).await.expect("its payload comes");
    (head[0], payload)
}

#[tokio::test]
async fn each_mistake_has_its_close_code() {
    let file = ConfigFile::new("[[namespaces]]\nprefix = \"up\"\nsubscribe = \"anyone\"\npublish = \"anyone\"\n");
    let node = guarded().args(["--config", file.path()]).start_ready().await;
    let unmasked = vec![0x81, 2, b'h', b'i'];
    let fragmented_ping = frame(0x09, b"x");
    let long_ping = frame(0x89, &[0; 126]);
    let huge = [&[0x82, 0xff][..], &(1_u64 << 40).to_be_bytes(), &MASK].concat();
    let negative = [&[0x82, 0xff][..], &u64::MAX.to_be_bytes(), &MASK].concat();
    let two_starts = [frame(0x01, b"a"), frame(0x01, b"b")].concat();
    let split_character = [frame(0x01, &[0xc3]), frame(0x80, &[0x28])].concat();
    let in_pieces: Vec<u8> = (0..20).flat_map(|piece| frame(if piece == 0 { 2 } else { 0 }, &[0; 8192])).collect();
    for (what, bytes, code) in [
        ("an unmasked frame", unmasked, 1002),
        ("a reserved bit", frame(0xc1, b"x"), 1002),
        ("a reserved data opcode", frame(0x83, b"x"), 1002),
        ("a reserved control opcode", frame(0x8b, b"x"), 1002),
        ("a fragmented control frame", fragmented_ping, 1002),
        ("a control frame of more than 125 bytes", long_ping, 1002),
        ("a continuation of nothing", frame(0x80, b"x"), 1002),
        ("a second beginning", two_starts, 1002),
        ("a length with its highest bit", negative, 1002),
        ("a text that is no UTF-8", frame(0x81, &[0xff]), 1007),
        ("a character that is cut and wrong", split_character, 1007),
        ("a frame over the limit", huge, 1009),
        ("fragments over the limit", in_pieces, 1009),
        ("a close frame of one byte", frame(0x88, &[3]), 1002),
        ("a close frame with a code that is none", frame(0x88, &999_u16.to_be_bytes()), 1002),
        ("a close frame with a reserved code", frame(0x88, &1005_u16.to_be_bytes()), 1002),
        ("a close frame whose reason is no UTF-8", frame(0x88, &[3, 232, 0xff]), 1007),
        ("a goodbye", frame(0x88, &1000_u16.to_be_bytes()), 1000),
    ] {
        let mut stream = raw(&node, "up").await;
        // A server may close before it has read everything; the rest then cannot be sent.
        let _ = stream.write_all(&bytes).await;
        let (first, payload) = read_frame(&mut stream).await;
        assert_eq!(first, 0x88, "{what}: a close frame");
        assert_eq!(u16::from_be_bytes([payload[0], payload[1]]), code, "{what}");
        let end = within("the end", stream.read(&mut [0; 16])).await;
        assert!(matches!(end, Ok(0) | Err(_)), "{what}: nothing comes after the close frame");
    }
}

#[tokio::test]
async fn fragments_are_joined_and_pings_come_between() {
    let file = ConfigFile::new("[[namespaces]]\nprefix = \"up\"\nsubscribe = \"anyone\"\npublish = \"anyone\"\n");
    let node = guarded().args(["--config", file.path()]).start_ready().await;
    let mut stream = raw(&node, "up").await;
    let bytes = [frame(0x01, "grö".as_bytes()), frame(0x89, b"p"), frame(0x00, &"ß".as_bytes()[..1])].concat();
    for byte in bytes {
        stream.write_all(&[byte]).await.expect("a byte is sent");
    }
    assert_eq!(read_frame(&mut stream).await, (0x8a, b"p".to_vec()));
    stream.write_all(&frame(0x80, &["ß".as_bytes()[1], b'e'])).await.expect("the last fragment is sent");
    assert_eq!(read_frame(&mut stream).await, (0x81, "größe".as_bytes().to_vec()));
}

#[tokio::test]
async fn what_comes_with_the_handshake_is_not_lost() {
    let node = guarded().start_ready().await;
    let mut stream = TcpStream::connect(node.addr()).await.expect("the node listens");
    let request = format!(
        "GET /news HTTP/1.1\r\nHost: {}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        node.addr()
    );
    let with_more = [request.as_bytes(), &frame(0x81, b"ping"), &frame(0x89, b"x")[..3]].concat();
    stream.write_all(&with_more).await.expect("it is sent");
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(within("the answer's head", stream.read_u8()).await.expect("there is an answer"));
    }
    assert_eq!(read_frame(&mut stream).await, (0x81, b"pong".to_vec()));
    stream.write_all(&frame(0x89, b"x")[3..]).await.expect("the rest of the ping is sent");
    assert_eq!(read_frame(&mut stream).await, (0x8a, b"x".to_vec()));
    say(&node, "news", "heard").await;
    assert_eq!(read_frame(&mut stream).await, (0x81, b"heard".to_vec()));
}
