//! The echo example, which is the broker's shards and frames, against what public conformance suites ask of a WebSocket.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[path = "../examples/echo.rs"]
#[expect(dead_code, reason = "an example has a main of its own")]
mod echo;

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use tokio_tungstenite::tungstenite::{self, Message, protocol::frame::coding::CloseCode};

/// A client's frame.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    const MASK: [u8; 4] = [9, 8, 7, 0xf6];
    let mut out = vec![first];
    match payload.len() {
        length @ 0..126 => out.push(0x80 | length as u8),
        length @ 126..=0xffff => {
            out.push(0x80 | 126);
            out.extend((length as u16).to_be_bytes());
        }
        length => {
            out.push(0x80 | 127);
            out.extend((length as u64).to_be_bytes());
        }
    }
    out.extend(MASK);
    out.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    out
}

/// A connection after its handshake.
fn connect(address: SocketAddr) -> TcpStream {
    let mut socket = TcpStream::connect(address).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let request = "GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                   Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    socket.write_all(request.as_bytes()).unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        socket.read_exact(&mut byte).unwrap();
        head.extend(byte);
    }
    let head = String::from_utf8(head).unwrap();
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    // The key and its answer are RFC 6455's own example.
    assert!(head.contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), "{head}");
    socket
}

/// All that the server sends until it hangs up.
fn rest(mut socket: TcpStream) -> Vec<u8> {
    let mut all = Vec::new();
    socket.read_to_end(&mut all).unwrap();
    all
}

async fn start() -> SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(echo::serve(listener));
    address
}

/// Server frames with a payload below 126 bytes.
fn said(frames: &[(u8, &[u8])]) -> Vec<u8> {
    frames.iter().flat_map(|(first, payload)| [&[*first, payload.len() as u8], *payload].concat()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_sent_comes_back_in_any_pieces() {
    let address = start().await;
    let bye = frame(0x88, b"\x03\xe8");
    let bye_said = (0x88, &b"\x03\xe8"[..]);
    for (name, frames, answers) in [
        ("empty text", vec![frame(0x81, b"")], vec![(0x81, &b""[..])]),
        (
            "text and binary",
            vec![frame(0x81, "ä".as_bytes()), frame(0x82, b"\xff")],
            vec![(0x81, "ä".as_bytes()), (0x82, b"\xff")],
        ),
        ("fragments", vec![frame(0x02, b"a"), frame(0x00, b""), frame(0x80, b"b")], vec![(0x82, b"ab")]),
        (
            "a ping between fragments",
            vec![frame(0x01, b"a"), frame(0x89, b"p"), frame(0x80, b"b")],
            vec![(0x8a, b"p"), (0x81, b"ab")],
        ),
        (
            "a character between fragments",
            vec![frame(0x01, b"\xf0\x9f"), frame(0x80, b"\xa6\x80")],
            vec![(0x81, "🦀".as_bytes())],
        ),
        (
            "pings and pongs",
            vec![frame(0x8a, b"x"), frame(0x89, b""), frame(0x89, &[7; 125])],
            vec![(0x8a, b""), (0x8a, &[7; 125])],
        ),
        ("nothing after goodbye", vec![bye.clone(), frame(0x81, b"late"), frame(0x89, b"late")], vec![]),
    ] {
        for piece in [usize::MAX, 1] {
            let mut socket = connect(address);
            let stream = [frames.concat(), bye.clone()].concat();
            for piece in stream.chunks(piece.min(stream.len())) {
                // After its goodbye the server may have hung up already.
                drop(socket.write_all(piece));
            }
            let expected = said(&[&answers[..], &[bye_said]].concat());
            assert_eq!(rest(socket), expected, "{name} in pieces of {piece}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn broken_rules_end_the_connection() {
    let address = start().await;
    for (name, stream, code) in [
        ("reserved bit", frame(0xc1, b""), 1002_u16),
        ("reserved opcode", frame(0x83, b""), 1002),
        ("reserved control opcode", frame(0x8b, b""), 1002),
        ("no mask", b"\x81\x00".to_vec(), 1002),
        ("long ping", frame(0x89, &[0; 126]), 1002),
        ("fragmented ping", frame(0x09, b""), 1002),
        ("continuation of nothing", frame(0x80, b"x"), 1002),
        ("text within text", [frame(0x01, b"x"), frame(0x81, b"y")].concat(), 1002),
        ("half a close code", frame(0x88, b"\x03"), 1002),
        ("a close code nobody may send", frame(0x88, &1005_u16.to_be_bytes()), 1002),
        ("a close reason that is no text", frame(0x88, b"\x03\xe8\xff"), 1007),
        ("a surrogate", frame(0x81, b"\xed\xa0\x80"), 1007),
        ("a text that goes wrong early", frame(0x01, b"\xf4\x90\x80\x80"), 1007),
        ("a text cut within a character", frame(0x81, b"\xce"), 1007),
        ("too long", b"\x82\xff\0\0\0\0\x02\0\0\x01\0\0\0\0".to_vec(), 1009),
    ] {
        let mut socket = connect(address);
        socket.write_all(&frame(0x81, b"before")).unwrap();
        socket.write_all(&stream).unwrap();
        let all = rest(socket);
        let (before, after) = all.split_at(8);
        assert_eq!(before, b"\x81\x06before", "{name}");
        assert_eq!((after[0], &after[2..4]), (0x88, &code.to_be_bytes()[..]), "{name}");
        assert_eq!(after.len(), 2 + usize::from(after[1]), "{name}: nothing after the goodbye");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_implementation_gets_large_messages_back() {
    use futures_util::{SinkExt, StreamExt};
    let address = start().await;
    let limits = tungstenite::protocol::WebSocketConfig::default().max_frame_size(None).max_message_size(None);
    let url = format!("ws://{address}/");
    let (mut socket, _) = tokio_tungstenite::connect_async_with_config(url, Some(limits), false).await.unwrap();
    for length in [0, 125, 126, 65_535, 65_536, 4 << 20, 16 << 20] {
        let text = Message::text("x".repeat(length));
        let binary = Message::binary(vec![0xfe; length]);
        for message in [text, binary] {
            socket.send(message.clone()).await.unwrap();
            assert!(socket.next().await.unwrap().unwrap() == message, "{length}");
        }
    }
    let close = tungstenite::protocol::CloseFrame { code: CloseCode::Normal, reason: "bye".into() };
    socket.close(Some(close)).await.unwrap();
    let answer = socket.next().await.unwrap().unwrap();
    assert!(matches!(answer, Message::Close(Some(frame)) if frame.code == CloseCode::Normal));
    assert!(socket.next().await.is_none());
}
