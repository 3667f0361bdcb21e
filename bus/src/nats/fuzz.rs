//! For fuzzing: what a connection makes of bytes as reads from a NATS server bring them.

use clarion_protocol::envelope;

use super::{
    handshake::Info,
    parse::{Op, Parser, headers},
    refusal,
};

/// What came of some reads.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Transcript {
    /// What the server said, written for comparing.
    pub said: Vec<String>,
    /// The largest payload that was handed on.
    pub largest: usize,
    /// How many bytes of messages over the limit were skipped.
    pub skipped: usize,
    /// Whether the stream ended in something that is not the protocol.
    pub broken: bool,
    /// How many bytes are kept since what they begin has not come whole.
    pub kept: usize,
}

/// Reads the pieces one after the other.
///
/// # Panics
/// When two ways to read the same differ.
#[must_use]
pub fn hear(limit: usize, pieces: &[&[u8]]) -> Transcript {
    let (mut parser, mut buffer, mut heard) = (Parser::new(limit), Vec::new(), Transcript::default());
    for piece in pieces {
        buffer.extend_from_slice(piece);
        let mut at = 0;
        loop {
            match parser.next(&buffer[at..]) {
                Ok(Some((op, taken))) => {
                    heard.take(op, &buffer[at..], taken);
                    at += taken;
                }
                Ok(None) => break,
                Err(_) => {
                    heard.broken = true;
                    return heard;
                }
            }
        }
        buffer.drain(..at);
    }
    heard.kept = buffer.len();
    heard
}

impl Transcript {
    fn take(&mut self, op: Op, bytes: &[u8], taken: usize) {
        let said = match op {
            Op::Message(frame) => {
                self.largest = self.largest.max(frame.payload.len());
                let block = &bytes[frame.headers];
                let known = envelope::from_headers(headers(block));
                if let Some(id) = envelope::id_header(block) {
                    assert_eq!(known, (Some(id), None), "the short way to an id leads elsewhere: {block:?}");
                }
                let (subject, payload) = (&bytes[frame.subject], &bytes[frame.payload]);
                format!("{} {subject:?} {known:?} {payload:?}", frame.sid)
            }
            // How much of it had come when it was found to be too large depends on how it came.
            Op::Oversize { sid } => {
                self.skipped += taken;
                format!("{sid} too large")
            }
            Op::Skipped => {
                self.skipped += taken;
                return;
            }
            Op::Info(json) => format!("info {:?}", serde_json::from_slice::<Info>(&bytes[json]).is_ok()),
            Op::Error(text) => format!("{:?}", refusal::read(&bytes[text])),
            other @ (Op::Ping | Op::Pong | Op::Ok) => format!("{other:?}"),
        };
        self.said.push(said);
    }
}
