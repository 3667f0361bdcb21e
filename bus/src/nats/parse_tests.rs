//! Whatever way the stream is cut, the same operations come out; and nothing that a server sends brings the parser down.

use proptest::prelude::*;

use super::*;

/// An operation with its parts copied out, so that runs can be compared.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Said {
    Message { sid: u64, subject: Vec<u8>, headers: Vec<u8>, payload: Vec<u8> },
    Oversize(u64),
    Info(Vec<u8>),
    Error(Vec<u8>),
    Ping,
    Pong,
    Ok,
}

const LIMIT: usize = 300;

fn read(pieces: &[&[u8]]) -> Result<Vec<Said>, Malformed> {
    let mut parser = Parser::new(LIMIT);
    let (mut buffer, mut said) = (Vec::new(), Vec::new());
    for piece in pieces {
        buffer.extend_from_slice(piece);
        let mut at = 0;
        while let Some((op, taken)) = parser.next(&buffer[at..])? {
            let rest = &buffer[at..];
            match op {
                Op::Message(frame) => {
                    let shifted = frame.shifted(at);
                    said.push(Said::Message {
                        sid: shifted.sid,
                        subject: buffer[shifted.subject].to_vec(),
                        headers: buffer[shifted.headers].to_vec(),
                        payload: buffer[shifted.payload].to_vec(),
                    });
                }
                Op::Oversize { sid } => said.push(Said::Oversize(sid)),
                Op::Skipped => {}
                Op::Info(json) => said.push(Said::Info(rest[json].to_vec())),
                Op::Error(text) => said.push(Said::Error(rest[text].to_vec())),
                Op::Ping => said.push(Said::Ping),
                Op::Pong => said.push(Said::Pong),
                Op::Ok => said.push(Said::Ok),
            }
            assert!(taken > 0 && taken <= rest.len(), "{taken} of {}", rest.len());
            at += taken;
        }
        buffer.drain(..at);
    }
    Ok(said)
}

/// An operation and how a server writes it.
fn said() -> impl Strategy<Value = (Said, Vec<u8>)> {
    let token = "[!-)+-=?-~]{1,20}";
    let reply = proptest::option::of("[0-9]{1,5}|_INBOX\\.[a-z0-9]{4}");
    let payload = proptest::collection::vec(any::<u8>(), 0..LIMIT + 40);
    let header = proptest::option::of("NATS/1.0\r\n([A-Z][a-z]{1,8}: [ -~]{0,12}\r\n){0,3}\r\n");
    let message =
        (token, 0..u64::MAX / 100, reply, header, payload).prop_map(|(subject, sid, reply, header, payload)| {
            let reply = reply.map(|reply| format!("{reply} ")).unwrap_or_default();
            let headers = header.unwrap_or_default().into_bytes();
            let total = headers.len() + payload.len();
            let line = match headers.len() {
                0 => format!("MSG {subject} {sid} {reply}{total}\r\n"),
                length => format!("HMSG {subject} {sid} {reply}{length} {total}\r\n"),
            };
            let wire = [line.as_bytes(), &headers, &payload, b"\r\n"].concat();
            if payload.len() > LIMIT {
                return (Said::Oversize(sid), wire);
            }
            (Said::Message { sid, subject: subject.into_bytes(), headers, payload }, wire)
        });
    prop_oneof![
        8 => message,
        1 => Just((Said::Ping, b"PING\r\n".to_vec())),
        1 => Just((Said::Pong, b"PONG\r\n".to_vec())),
        1 => Just((Said::Ok, b"+OK\r\n".to_vec())),
        1 => Just((Said::Info(b"{\"a\":1}".to_vec()), b"INFO {\"a\":1}\r\n".to_vec())),
        1 => Just((Said::Error(b"Stale Connection".to_vec()), b"-ERR 'Stale Connection'\r\n".to_vec())),
    ]
}

/// The bytes cut at these places.
fn cut<'a>(bytes: &'a [u8], places: &[prop::sample::Index]) -> Vec<&'a [u8]> {
    let mut at: Vec<_> = places.iter().map(|place| place.index(bytes.len() + 1)).collect();
    at.extend([0, bytes.len()]);
    at.sort_unstable();
    at.windows(2).map(|pair| &bytes[pair[0]..pair[1]]).collect()
}

proptest! {
    #[test]
    fn any_cut_gives_the_same(
        ops in proptest::collection::vec(said(), 0..12),
        places in proptest::collection::vec(any::<prop::sample::Index>(), 0..40),
    ) {
        let wire: Vec<u8> = ops.iter().flat_map(|(_, wire)| wire.clone()).collect();
        let expected: Vec<_> = ops.into_iter().map(|(said, _)| said).collect();
        prop_assert_eq!(read(&cut(&wire, &places)), Ok(expected.clone()));
        let bytes: Vec<_> = wire.chunks(1).collect();
        prop_assert_eq!(read(&bytes), Ok(expected));
    }

    #[test]
    fn garbage_is_refused_or_waited_for(
        bytes in prop_oneof![
            proptest::collection::vec(any::<u8>(), 0..200),
            "(MSG|HMSG|INFO|-ERR|PING|PONG)[ 0-9a-z.\r\n]{0,60}".prop_map(String::into_bytes),
        ],
        places in proptest::collection::vec(any::<prop::sample::Index>(), 0..8),
    ) {
        let whole = read(&[&bytes]);
        prop_assert_eq!(read(&cut(&bytes, &places)).is_ok(), whole.is_ok());
    }

    #[test]
    fn a_changed_byte_never_panics(ops in proptest::collection::vec(said(), 1..6), at: prop::sample::Index, to: u8) {
        let mut wire: Vec<u8> = ops.iter().flat_map(|(_, wire)| wire.clone()).collect();
        let at = at.index(wire.len());
        wire[at] = to;
        let _ = read(&[&wire]);
    }
}

#[test]
fn what_is_malformed() {
    for wire in [
        "HELLO\r\n",
        "PING\n",
        "MSG a\r\n",
        "MSG a 1\r\n",
        "MSG a x 1\r\n",
        "MSG a 1 -1\r\n",
        "MSG  1 1\r\n\r\n",
        "MSG a 1 99999999999\r\n",
        "MSG a 1 9999999999999999999999\r\n",
        "HMSG a 1 5\r\n",
        "HMSG a 1 9 5\r\nabcdefghi\r\n",
        "MSG a 1 2\r\nabcd",
    ] {
        assert!(read(&[wire.as_bytes()]).is_err(), "{wire:?}");
    }
    assert!(read(&[&[b'a'; LINE_BYTES + 1]]).is_err());
}

#[test]
fn a_large_message_is_waited_for_without_reading_it_again() {
    let mut parser = Parser::new(1 << 20);
    let mut wire = b"MSG a 1 1000000\r\n".to_vec();
    assert_eq!(parser.next(&wire), Ok(None));
    assert_eq!(parser.need, wire.len() + 1_000_002);
    wire.resize(wire.len() + 1_000_000, b'x');
    assert_eq!(parser.next(&wire), Ok(None));
    wire.extend_from_slice(b"\r\n");
    assert!(matches!(parser.next(&wire), Ok(Some((Op::Message(_), taken))) if taken == wire.len()));
}

#[test]
fn headers_are_split() {
    let block = b"NATS/1.0\r\nNats-Msg-Id: 7\r\nEmpty:\r\nno colon\r\nA:b: c \r\n\r\n";
    assert_eq!(headers(block).collect::<Vec<_>>(), [("Nats-Msg-Id", "7"), ("Empty", ""), ("A", "b: c")]);
    assert_eq!(headers(b"NATS/1.0\r\nA: \xff\r\n\r\n").count(), 0);
}
