//! What Redis and NATS servers send.

use clarion_bus::fuzz::{nats, redis};

use crate::pieces;

/// The largest payload that is to be handed on.
const LIMIT: usize = 100;

/// What is subscribed to on Redis.
const INTERESTS: [&str; 3] = ["a", "a[b/*", "a/**"];

/// The read buffer may hold one name and one message that are not over their limits, room for a read, and as much again
/// when it grows.
const REDIS_BUFFER: usize = 4 * (64 * 1024 + 8 * 1024 + LIMIT + 64 * 1024);

/// A line or a block of headers, and a message.
const NATS_BUFFER: usize = 2 * 64 * 1024 + LIMIT + 256;

pub(crate) const REDIS: &[&[u8]] = &[
    b"\x07\x01*3\r\n$7\r\nmessage\r\n$9\r\nclarion:a\r\n$1\r\n1\r\n+PONG\r\n",
    b"\xff\x02*4\r\n$8\r\npmessage\r\n$15\r\nclarion:a\\[b/*\r\n$13\r\nclarion:a[b/c\r\n$1\r\n3\r\n",
    b"\x10\x10>3\r\n$7\r\nmessage\r\n$9\r\nclarion:a\r\n$13\r\n\0{\"time\":1}\n5\r\n-NOPERM no\r\n",
    b"\x01\x01*3\r\n$9\r\nsubscribe\r\n$9\r\nclarion:a\r\n:1\r\n%1\r\n$4\r\nrole\r\n$6\r\nmaster\r\n",
    b"\x03\x09*3\r\n$8\r\nsmessage\r\n$9\r\nclarion:a\r\n$101\r\n..",
    b"\x03\x09*3\r\n$7\r\nmessage\r\n$25\r\n_clarion:clarion:probe.x\r\n$1\r\n7\r\n*2\r\n:1\r\n*-1\r\n",
];

pub(crate) const NATS: &[&[u8]] = &[
    b"\x05\x01INFO {\"server_id\":\"x\",\"max_payload\":1048576,\"headers\":true}\r\nPING\r\nPONG\r\n+OK\r\n",
    b"\x01\x02MSG clarion.a 1 5\r\nhello\r\nMSG clarion.a.b 22 reply.7 2\r\nhi\r\n",
    b"\xff\x01HMSG clarion.a 1 33 38\r\nNATS/1.0\r\nNats-Msg-Id: 0191-ab\r\n\r\nhello\r\n",
    b"\x11\x03HMSG clarion.a 1 12 200\r\nNATS/1.0\r\n\r\n....",
    b"\x09\x09-ERR 'Permissions Violation for Publish to \"clarion.a\"'\r\n",
];

/// What is heard does not depend on how it was cut, and what a message may have is all that is kept.
pub(crate) fn redis(input: &[u8]) {
    let (whole, pieces) = pieces(input);
    let at_once = redis::hear(&INTERESTS, LIMIT, &[whole]);
    let cut = redis::hear(&INTERESTS, LIMIT, &pieces);
    assert_eq!(at_once.broken, cut.broken, "it matters how the stream is cut");
    assert!(cut.buffer <= REDIS_BUFFER, "the buffer grows to {}", cut.buffer);
    if !cut.broken {
        // Of a read with a mistake in it nothing counts, so that only whole streams can be compared.
        let written = |heard: &redis::Transcript| format!("{:?}", heard.deliveries);
        assert_eq!(written(&at_once), written(&cut));
        assert_eq!(at_once.replies, cut.replies);
    }
    for delivery in cut.deliveries {
        assert!(delivery.message.payload.len() <= LIMIT && !delivery.interests.is_empty(), "{delivery:?}");
    }
}

/// The same for NATS.
pub(crate) fn nats(input: &[u8]) {
    let (whole, pieces) = pieces(input);
    let at_once = nats::hear(LIMIT, &[whole]);
    let cut = nats::hear(LIMIT, &pieces);
    assert_eq!(at_once, cut, "it matters how the stream is cut");
    assert!(cut.largest <= LIMIT && cut.kept <= NATS_BUFFER, "{cut:?}");
}
