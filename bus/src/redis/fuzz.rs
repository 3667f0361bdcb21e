//! For fuzzing: what a subscriber link makes of bytes as reads from Redis bring them.

use bytes::BytesMut;
use clarion_protocol::{Interest, Prefix};

use super::{
    intake::{Counters, Echo, Intake, Subjects},
    wire::Reply,
};
use crate::{
    Delivery,
    ask::Questions,
    table::{Interests, Layout},
};

/// What came of some reads.
#[derive(Debug, Default)]
pub struct Transcript {
    /// The messages, in the order of the bus.
    pub deliveries: Vec<Delivery>,
    /// The answers, written for comparing.
    pub replies: Vec<String>,
    /// Whether the stream ended in something that is no RESP.
    pub broken: bool,
    /// The most memory that the read buffer had.
    pub buffer: usize,
}

/// Reads the pieces one after the other, as a link of the default prefix that wants these channels and patterns.
///
/// # Panics
/// When an interest is none.
#[must_use]
pub fn hear(interests: &[&str], max_payload: usize, pieces: &[&[u8]]) -> Transcript {
    let prefix = Prefix::default();
    let table = Interests::new(Layout::Redis, prefix.clone());
    for interest in interests {
        let interest = Interest::parse(interest).expect("it is an interest");
        table.lock().acquire(&interest.into()).expect("there is room in the table");
    }
    let (subjects, questions, counters) = (Subjects::new(&prefix, max_payload), Questions::new(), Counters::default());
    let echo = Echo::new("_clarion:clarion:probe.x".to_owned());
    let mut intake = Intake::new(BytesMut::new());
    let mut heard = Transcript::default();
    for piece in pieces {
        intake.room().extend_from_slice(piece);
        heard.buffer = heard.buffer.max(intake.buffer.capacity());
        heard.broken = intake.digest(&subjects, &table, &echo, &questions, &counters).is_err();
        heard.deliveries.append(&mut intake.batch);
        heard.replies.extend(intake.replies.drain(..).map(|reply| written(&reply)));
        if heard.broken {
            break;
        }
    }
    heard
}

/// An answer as text. RESP3 has sets and maps, whose members are read in another order each time.
fn written(reply: &Reply) -> String {
    let sorted = |mut all: Vec<String>| {
        all.sort_unstable();
        format!("[{}]", all.join(", "))
    };
    match reply {
        Reply::Array(all) => sorted(all.iter().map(written).collect()),
        Reply::Map(all) => {
            sorted(all.chunks(2).map(|pair| pair.iter().map(written).collect::<Vec<_>>().join(": ")).collect())
        }
        Reply::Line(_) | Reply::Error(_) | Reply::Number(_) | Reply::Bytes(_) | Reply::Null => format!("{reply:?}"),
    }
}
