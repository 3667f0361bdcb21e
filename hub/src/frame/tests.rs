//! The codec against tables of RFC 6455, and against every way of cutting a stream into pieces.

use proptest::prelude::*;

use super::*;

/// An event that owns what it says.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Said {
    Message(Kind, Vec<u8>),
    Skipped(usize),
    Ping(Vec<u8>),
    Pong,
    Close(Option<u16>),
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

const LIMIT: usize = 1000;

fn client_frame(fin: bool, opcode: u8, mask: [u8; 4], payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    write_header(Opcode::Text, payload.len(), &mut out);
    out[0] = u8::from(fin) << 7 | opcode;
    out[1] |= 0x80;
    out.extend_from_slice(&mask);
    out.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    out
}

fn masked(fin: bool, opcode: u8, payload: &[u8]) -> Vec<u8> {
    client_frame(fin, opcode, [1, 2, 3, 0xf4], payload)
}

/// Decodes pieces one after the other, as reads from a socket would bring them.
fn decode<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> (Vec<Said>, Option<FrameError>) {
    decode_by(|| Decoder::new(LIMIT), pieces)
}

fn decode_by<'a>(
    new: impl Fn() -> Decoder,
    pieces: impl IntoIterator<Item = &'a [u8]>,
) -> (Vec<Said>, Option<FrameError>) {
    let mut decoder = new();
    let mut said = Vec::new();
    for piece in pieces {
        let mut piece = piece.to_vec();
        let mut input = &mut piece[..];
        loop {
            match decoder.next(&mut input) {
                Ok(Some(event)) => said.push(event.into()),
                Ok(None) => break,
                Err(error) => return (said, Some(error)),
            }
        }
        assert!(input.is_empty());
        if decoder.is_idle() {
            decoder = new();
        }
        assert!(decoder.keeps || decoder.message.capacity() < 16, "what is skipped is not kept");
    }
    (said, None)
}

/// Checks a stream in one piece and byte by byte.
#[track_caller]
fn check(stream: &[u8], said: &[Said], error: Option<FrameError>) {
    assert_eq!(decode([stream]), (said.to_vec(), error), "in one piece");
    assert_eq!(decode(stream.chunks(1)), (said.to_vec(), error), "byte by byte");
}

#[test]
fn what_the_rfc_shows() {
    let hello = || Said::Message(Kind::Text, b"Hello".to_vec());
    check(b"\x81\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58", &[hello()], None);
    check(&[masked(false, 1, b"Hel"), masked(true, 0, b"lo")].concat(), &[hello()], None);
    check(&masked(true, 9, b"Hello"), &[Said::Ping(b"Hello".to_vec())], None);
    check(&masked(true, 10, b"Hello"), &[Said::Pong], None);
    check(&masked(true, 8, b"\x03\xe8bye"), &[Said::Close(Some(1000))], None);
    check(&masked(true, 8, b""), &[Said::Close(None)], None);
}

#[test]
fn control_frames_come_between_fragments() {
    let stream = [masked(false, 1, b"a"), masked(true, 9, b"p"), masked(false, 0, b""), masked(true, 0, b"b")].concat();
    check(&stream, &[Said::Ping(b"p".to_vec()), Said::Message(Kind::Text, b"ab".to_vec())], None);
}

#[test]
fn lengths_at_their_borders() {
    for length in [0, 1, 125, 126, 127, 128, LIMIT - 1, LIMIT] {
        let payload = vec![b'x'; length];
        check(&masked(true, 2, &payload), &[Said::Message(Kind::Binary, payload)], None);
    }
    for length in [LIMIT + 1, 65_535, 65_536] {
        let error = FrameError::TooLarge { limit: LIMIT };
        check(&masked(true, 2, &vec![0; length]), &[], Some(error));
        assert_eq!(error.close_code(), CloseCode::TooLarge);
    }
    let fragments = [masked(false, 2, &[0; 600]), masked(true, 0, &[0; 401])].concat();
    check(&fragments, &[], Some(FrameError::TooLarge { limit: LIMIT }));
}

#[test]
fn rules_and_what_breaks_them() {
    let with_first = |first: u8| {
        let mut frame = masked(true, 1, b"x");
        frame[0] = first;
        frame
    };
    let opening = masked(false, 1, b"x");
    for (stream, error) in [
        (with_first(0xc1), FrameError::ReservedBits),
        (with_first(0xa1), FrameError::ReservedBits),
        (with_first(0x91), FrameError::ReservedBits),
        (with_first(0x83), FrameError::ReservedOpcode(3)),
        (with_first(0x8b), FrameError::ReservedOpcode(11)),
        (with_first(0x8f), FrameError::ReservedOpcode(15)),
        (b"\x81\x01x".to_vec(), FrameError::Unmasked),
        (masked(false, 9, b""), FrameError::FragmentedControl),
        (masked(false, 8, b""), FrameError::FragmentedControl),
        (masked(true, 9, &[0; 126]), FrameError::LongControl),
        (masked(true, 8, &[0; 126]), FrameError::LongControl),
        (b"\x82\xfe\0\x7d\0\0\0\0".to_vec(), FrameError::NonMinimalLength),
        (b"\x82\xff\0\0\0\0\0\0\xff\xff\0\0\0\0".to_vec(), FrameError::NonMinimalLength),
        (b"\x82\xff\x80\0\0\0\0\0\0\0\0\0\0\0".to_vec(), FrameError::ImpossibleLength),
        (masked(true, 0, b"x"), FrameError::NothingToContinue),
        ([opening.clone(), masked(true, 1, b"y")].concat(), FrameError::Interrupted),
        ([opening.clone(), masked(true, 2, b"y")].concat(), FrameError::Interrupted),
        (masked(true, 8, b"\x03"), FrameError::ShortClose),
        (masked(true, 8, b"\x03\xe8\xff"), FrameError::InvalidUtf8),
        (masked(true, 1, b"\xce\xba\xed\xa0\x80"), FrameError::InvalidUtf8),
        (masked(true, 1, b"\xf0\x9f\xa6"), FrameError::InvalidUtf8),
        ([masked(false, 1, b"\xf0\x9f"), masked(true, 0, b"\xa6x")].concat(), FrameError::InvalidUtf8),
    ] {
        check(&stream, &[], Some(error));
    }
}

#[test]
fn close_codes_that_may_be_said() {
    let judge = |code: u16| decode([&masked(true, 8, &code.to_be_bytes())[..]]);
    for code in [1000, 1001, 1002, 1003, 1007, 1010, 1011, 1012, 1014, 3000, 3999, 4000, 4999] {
        assert_eq!(judge(code), (vec![Said::Close(Some(code))], None));
    }
    for code in [0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535] {
        assert_eq!(judge(code), (vec![], Some(FrameError::BadCloseCode(code))));
    }
}

#[test]
fn a_bad_text_is_refused_before_it_ends() {
    let bad = masked(false, 1, b"abc\xff");
    check(&bad, &[], Some(FrameError::InvalidUtf8));
    let cut_character = masked(false, 1, "ab🦀".as_bytes().split_at(4).0);
    check(&cut_character, &[], None);
    let long = masked(true, 1, &[b"\xff", &[b'a'; 500][..]].concat());
    assert_eq!(decode([&long[..20]]), (vec![], Some(FrameError::InvalidUtf8)));
}

#[test]
fn an_unfinished_message_keeps_the_decoder() {
    let stream = masked(true, 1, b"hello");
    for cut in 1..stream.len() {
        let mut decoder = Decoder::new(LIMIT);
        let mut piece = stream[..cut].to_vec();
        assert_eq!(decoder.next(&mut &mut piece[..]), Ok(None));
        assert!(!decoder.is_idle(), "cut at {cut}");
    }
}

#[test]
fn headers_of_the_server() {
    for (length, header) in [
        (0, &b"\x81\0"[..]),
        (125, b"\x81\x7d"),
        (126, b"\x81\x7e\0\x7e"),
        (65_535, b"\x81\x7e\xff\xff"),
        (65_536, b"\x81\x7f\0\0\0\0\0\x01\0\0"),
    ] {
        let mut out = Vec::new();
        write_header(Opcode::Text, length, &mut out);
        assert_eq!(out, header);
    }
    assert_eq!(encode(Opcode::Pong, b"pong"), &b"\x8a\x04pong"[..]);
}

/// What a client might send: good frames in an order that makes sense.
fn stream() -> impl Strategy<Value = (Vec<u8>, Vec<Said>)> {
    let message = (any::<bool>(), ".{0,60}", any::<[u8; 4]>(), any::<[proptest::sample::Index; 2]>(), any::<bool>());
    proptest::collection::vec(message, 1..6).prop_map(|messages| {
        let (mut bytes, mut said) = (Vec::new(), Vec::new());
        for (text, payload, mask, cuts, ping) in messages {
            let payload = payload.into_bytes();
            let mut cuts = cuts.map(|cut| cut.index(payload.len() + 1));
            cuts.sort_unstable();
            let kind = if text { Kind::Text } else { Kind::Binary };
            bytes.extend(client_frame(false, Opcode::from(kind) as u8, mask, &payload[..cuts[0]]));
            if ping {
                bytes.extend(client_frame(true, 9, mask, &payload[..cuts[0].min(CONTROL_BYTES)]));
                said.push(Said::Ping(payload[..cuts[0].min(CONTROL_BYTES)].to_vec()));
            }
            bytes.extend(client_frame(false, 0, mask, &payload[cuts[0]..cuts[1]]));
            bytes.extend(client_frame(true, 0, mask, &payload[cuts[1]..]));
            said.push(Said::Message(kind, payload));
        }
        (bytes, said)
    })
}

/// Cuts a stream at the places given.
fn pieces<'a>(stream: &'a [u8], cuts: &[proptest::sample::Index]) -> Vec<&'a [u8]> {
    let mut at: Vec<_> = cuts.iter().map(|cut| cut.index(stream.len() + 1)).collect();
    at.extend([0, stream.len()]);
    at.sort_unstable();
    at.windows(2).map(|pair| &stream[pair[0]..pair[1]]).collect()
}

proptest! {
    #[test]
    fn cuts_change_nothing((stream, said) in stream(), cuts: [proptest::sample::Index; 7]) {
        prop_assert_eq!(decode(pieces(&stream, &cuts)), (said, None));
    }

    #[test]
    fn anything_can_be_read_in_any_pieces(bytes: Vec<u8>, cuts: [proptest::sample::Index; 4]) {
        let (said, error) = decode([&bytes[..]]);
        prop_assert_eq!(decode(pieces(&bytes, &cuts)), (said, error));
    }

    #[test]
    fn nearly_good_frames_in_any_pieces(
        frames in proptest::collection::vec((any::<bool>(), 0_u8..12, any::<[u8; 4]>(), any::<Vec<u8>>()), 0..5),
        cuts: [proptest::sample::Index; 4],
    ) {
        let stream: Vec<u8> =
            frames.iter().flat_map(|(fin, opcode, mask, payload)| client_frame(*fin, *opcode, *mask, payload)).collect();
        let (said, error) = decode([&stream[..]]);
        prop_assert_eq!(decode(pieces(&stream, &cuts)), (said, error));
    }

    #[test]
    fn what_is_skipped_is_judged_by_the_same_rules(
        frames in proptest::collection::vec((any::<bool>(), 0_u8..12, any::<[u8; 4]>(), any::<String>()), 0..5),
        cuts: [proptest::sample::Index; 4],
    ) {
        let stream: Vec<u8> = frames
            .iter()
            .flat_map(|(fin, opcode, mask, payload)| client_frame(*fin, *opcode, *mask, payload.as_bytes()))
            .collect();
        let length = |said: &Said| match said {
            Said::Message(_, payload) => Said::Skipped(payload.len()),
            other => other.clone(),
        };
        let (kept, error) = decode(pieces(&stream, &cuts));
        let (skipped, same) = decode_by(|| Decoder::skipping(LIMIT), pieces(&stream, &cuts));
        prop_assert_eq!(error, same);
        prop_assert_eq!(kept.iter().map(length).collect::<Vec<_>>(), skipped.iter().map(length).collect::<Vec<_>>());
    }

    #[test]
    fn masks_are_undone(payload: Vec<u8>, mask: [u8; 4], cut: proptest::sample::Index) {
        let mut masked: Vec<u8> = payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask).collect();
        let (front, back) = masked.split_at_mut(cut.index(payload.len() + 1));
        let mut later = mask;
        later.rotate_left(front.len() % 4);
        unmask(front, mask);
        unmask(back, later);
        prop_assert_eq!(masked, payload);
    }
}
