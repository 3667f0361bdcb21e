//! WebSocket frames as clients send them.

use clarion_hub::frame::{CONTROL_BYTES, Decoder, Event, FrameError, Kind, Opcode, write_header};

use crate::pieces;

/// The longest message that the decoder is to take.
const LIMIT: usize = 1000;

pub(crate) const SEEDS: &[&[u8]] = &[
    b"\x03\x01\x81\x85\0\0\0\0hello\x89\x80\0\0\0\0",
    b"\x01\xff\x01\x82\x01\x02\x03\x04\x69\x67\x80\x81\0\0\0\0!\x88\x82\0\0\0\0\x03\xe8",
    b"\x05\x02\x82\xfe\x00\x7e\0\0\0\0................................................................................................................................",
    b"\x01\x01\x01\x81\0\0\0\0\xc3\x8a\x80\0\0\0\0\x80\x81\0\0\0\0\xb6",
];

/// An event that owns what it says.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Said {
    Message(Kind, Vec<u8>),
    Skipped(usize),
    Ping(Vec<u8>),
    Pong,
    Close(Option<u16>),
}

/// A decoder's answers to these pieces, and the rule that was broken in the end.
fn decode(mut decoder: Decoder, pieces: &[&[u8]]) -> (Vec<Said>, Option<FrameError>) {
    let mut said = Vec::new();
    for piece in pieces {
        let mut piece = piece.to_vec();
        let mut input = &mut piece[..];
        loop {
            match decoder.next(&mut input) {
                Ok(Some(event)) => said.push(Said::from(event)),
                Ok(None) => break,
                Err(error) => return (said, Some(error)),
            }
        }
        assert!(input.is_empty(), "what was given is used up");
    }
    (said, None)
}

impl From<Event<'_>> for Said {
    fn from(event: Event<'_>) -> Self {
        match event {
            Event::Message(kind, payload) => Self::Message(kind, payload.into_owned()),
            Event::Skipped(length) => Self::Skipped(length),
            Event::Ping(payload) => Self::Ping(payload.to_vec()),
            Event::Pong => Self::Pong,
            Event::Close(code) => Self::Close(code),
        }
    }
}

/// A message as a client frames it.
fn framed(kind: Kind, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    write_header(Opcode::from(kind), payload.len(), &mut frame);
    frame[1] |= 0x80;
    let mask = [1, 2, 3, 0xf4];
    frame.extend_from_slice(&mask);
    frame.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    frame
}

/// A decoder that keeps and one that skips judge alike, and alike however the stream is cut.
pub(crate) fn run(input: &[u8]) {
    let (whole, pieces) = pieces(input);
    let (said, error) = decode(Decoder::new(LIMIT), &[whole]);
    assert_eq!(decode(Decoder::new(LIMIT), &pieces), (said.clone(), error), "it matters how the stream is cut");
    let (skipped, error_of_skipping) = decode(Decoder::skipping(LIMIT), &pieces);
    assert_eq!((skipped.len(), error_of_skipping), (said.len(), error), "whoever skips judges otherwise");
    for (said, skipped) in said.iter().zip(&skipped) {
        match said {
            Said::Message(kind, payload) => {
                assert!(payload.len() <= LIMIT, "a message is over the limit");
                assert!(*kind == Kind::Binary || std::str::from_utf8(payload).is_ok(), "a text is no text");
                assert!(*skipped == Said::Skipped(payload.len()) || skipped == said);
                let (again, error) = decode(Decoder::new(LIMIT), &[&framed(*kind, payload)]);
                assert_eq!((again.as_slice(), error), (std::slice::from_ref(said), None), "it is not read back");
            }
            Said::Ping(payload) => assert!(payload.len() <= CONTROL_BYTES),
            Said::Close(code) => assert!(code.is_none_or(|code| (1000..5000).contains(&code))),
            Said::Pong | Said::Skipped(_) => {}
        }
    }
}
