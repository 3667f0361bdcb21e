//! From frames to deliveries: all messages of one read go through the table under one lock, and up in one piece.
//!
//! Payloads share the bytes that were read. An exact interest's address is the table's own; only what comes for a
//! pattern has its subject read.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use bytes::Bytes;
use clarion_protocol::{Address, Depth, Message, Prefix, envelope};

use super::probe::{PROBE_SID, Probes};
use crate::{
    Delivery, Sink, Stats,
    ask::Questions,
    nats::{
        log::Subjects,
        parse::{self, Frame},
    },
    table::{Interests, Reach, Table, Ticket},
};

/// Counted since the start.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    reconnects: AtomicU64,
    messages: AtomicU64,
    bytes: AtomicU64,
    foreign: AtomicU64,
    oversize: AtomicU64,
}

impl Counters {
    /// The subscriber link stands anew.
    pub(crate) fn reconnected(&self) {
        self.reconnects.fetch_add(1, Relaxed);
    }

    /// What is counted here; the rest is as given.
    pub(crate) fn fill(&self, stats: Stats) -> Stats {
        Stats {
            reconnects: self.reconnects.load(Relaxed),
            messages: self.messages.load(Relaxed),
            bytes: self.bytes.load(Relaxed),
            foreign: self.foreign.load(Relaxed),
            oversize: self.oversize.load(Relaxed),
            ..stats
        }
    }
}

/// What one read brought. Its vectors are used again and again.
pub(crate) struct Intake {
    frames: Vec<Frame>,
    /// The bytes that the frames are places in.
    chunk: Bytes,
    batch: Vec<Delivery>,
    interests: Arc<Interests>,
    counters: Arc<Counters>,
    prefix: Prefix,
    subjects: Subjects,
}

impl Intake {
    pub(crate) fn new(interests: Arc<Interests>, counters: Arc<Counters>, prefix: Prefix, subjects: Subjects) -> Self {
        Self { frames: Vec::new(), chunk: Bytes::new(), batch: Vec::new(), interests, counters, prefix, subjects }
    }

    /// A message at this place in the bytes that are being read.
    #[inline]
    pub(super) fn push(&mut self, frame: Frame) {
        self.frames.push(frame);
    }

    /// The bytes that were read.
    pub(super) fn take(&mut self, chunk: Bytes) {
        self.chunk = chunk;
    }

    /// A message was skipped since it is larger than the limit.
    pub(super) fn oversize(&self) {
        self.counters.oversize.fetch_add(1, Relaxed);
    }

    /// Hands on everything that came. Not cancel safe.
    pub(super) async fn hand_on(&mut self, sink: &dyn Sink, probes: &Probes, questions: &Questions) {
        if self.frames.is_empty() {
            self.chunk = Bytes::new();
            return;
        }
        self.make_batch(probes, questions);
        if !self.batch.is_empty() {
            sink.deliver(&mut self.batch).await;
            self.batch.clear();
        }
    }

    fn make_batch(&mut self, probes: &Probes, questions: &Questions) {
        // What is left of the bytes belongs to the messages, so that the buffer is free again when they are gone.
        let chunk = std::mem::take(&mut self.chunk);
        let (mut bytes, mut foreign) = (0, 0);
        let interests = self.interests.clone();
        let table = interests.lock();
        for frame in self.frames.drain(..) {
            if frame.sid == PROBE_SID {
                probes.came(&chunk[frame.payload]);
                continue;
            }
            match delivery(&table, &self.prefix, &self.subjects, &chunk, frame) {
                Taken::Delivery(delivery) => {
                    if questions.hear(&delivery.address, &delivery.message) {
                        continue;
                    }
                    bytes += delivery.message.payload.len() as u64;
                    self.batch.push(delivery);
                }
                Taken::Foreign => foreign += 1,
                Taken::Late => {}
            }
        }
        drop(table);
        self.counters.messages.fetch_add(self.batch.len() as u64, Relaxed);
        self.counters.bytes.fetch_add(bytes, Relaxed);
        if foreign > 0 {
            self.counters.foreign.fetch_add(foreign, Relaxed);
        }
    }
}

enum Taken {
    Delivery(Delivery),
    /// A subject in no form of ours.
    Foreign,
    /// For an interest that was given up.
    Late,
}

#[inline]
fn delivery(table: &Table, prefix: &Prefix, subjects: &Subjects, chunk: &Bytes, frame: Frame) -> Taken {
    let Some((base, reach, interests)) = table.ticketed(Ticket::of_number(frame.sid)) else { return Taken::Late };
    let depth = match reach {
        Reach::Exact => Depth::Exact,
        Reach::Children => Depth::Children,
        Reach::Below => Depth::Subtree,
    };
    let logged = subjects.is_logged(base, depth);
    let address = match reach {
        Reach::Exact => base.clone(),
        Reach::Children | Reach::Below => {
            let subject = &chunk[frame.subject];
            let address =
                if logged { republished_to(prefix, subjects, subject) } else { published_to(prefix, subject) };
            match address {
                Some(address) => address,
                None => return Taken::Foreign,
            }
        }
    };
    let headers = &chunk[frame.headers];
    let (id, meta) = if headers.is_empty() {
        (None, None)
    } else if logged {
        envelope::from_republished(parse::headers(headers), |stream| subjects.epoch(stream))
    } else if let Some(id) = envelope::id_header(headers) {
        (Some(id), None)
    } else {
        envelope::from_headers(parse::headers(headers))
    };
    Taken::Delivery(Delivery { interests, address, message: Message { payload: chunk.slice(frame.payload), id, meta } })
}

/// The channel of a subject that JetStream has republished to.
fn republished_to(prefix: &Prefix, subjects: &Subjects, subject: &[u8]) -> Option<Address> {
    let rest = subjects.channel_of(std::str::from_utf8(subject).ok()?)?;
    prefix.from_nats(&format!("{prefix}.{rest}")).ok()
}

fn published_to(prefix: &Prefix, subject: &[u8]) -> Option<Address> {
    prefix.from_nats(std::str::from_utf8(subject).ok()?).ok()
}
