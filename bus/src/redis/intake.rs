//! From the bytes that one read brought to the deliveries that they hold. The hot way in: nothing is copied, and nothing
//! allocated for a message on an exact subscription.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use bytes::{Bytes, BytesMut};
use clarion_protocol::{Address, Channel, Prefix, envelope};
use parking_lot::Mutex;
use tokio::sync::watch;

use super::wire::{self, NotResp, Reply, Step};
use crate::{
    Delivery, Stats,
    ask::Questions,
    table::{Ids, Interests, Table},
};

/// Room for one read: some hundreds of messages, and below what the allocator would map and unmap each time.
const READ_BYTES: usize = 64 * 1024;
/// A read into less room than this is not worth its system call.
const LEAST_READ_BYTES: usize = 16 * 1024;
/// What an envelope may add to a payload: ids, a position, and tags with every byte escaped.
const ENVELOPE_BYTES: usize = 8 * 1024;

/// What all links of a bus count.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) reconnects: AtomicU64,
    messages: AtomicU64,
    bytes: AtomicU64,
    foreign: AtomicU64,
    bad_envelopes: AtomicU64,
    oversize: AtomicU64,
}

impl Counters {
    /// Writes what was counted into `stats`.
    pub(crate) fn fill(&self, stats: &mut Stats) {
        stats.reconnects = self.reconnects.load(Relaxed);
        stats.messages = self.messages.load(Relaxed);
        stats.bytes = self.bytes.load(Relaxed);
        stats.foreign = self.foreign.load(Relaxed);
        stats.bad_envelopes = self.bad_envelopes.load(Relaxed);
        stats.oversize = self.oversize.load(Relaxed);
    }
}

/// How subjects of this deployment begin.
#[derive(Debug)]
pub(crate) struct Subjects {
    channels: Vec<u8>,
    internal: Vec<u8>,
    max_payload: usize,
}

impl Subjects {
    pub(crate) fn new(prefix: &Prefix, max_payload: usize) -> Self {
        let internal = format!("{}:{prefix}:", clarion_protocol::channel::RESERVED_PREFIX);
        Self { channels: format!("{prefix}:").into_bytes(), internal: internal.into_bytes(), max_payload }
    }
}

/// The subject on which a link hears itself, and the last number that came back.
#[derive(Debug)]
pub(crate) struct Echo {
    /// Changes when its slot moves to another shard.
    subject: Mutex<String>,
    pub(crate) heard: watch::Sender<u64>,
}

impl Echo {
    pub(crate) fn new(subject: String) -> Self {
        Self { subject: Mutex::new(subject), heard: watch::Sender::new(0) }
    }

    pub(crate) fn subject(&self) -> String {
        self.subject.lock().clone()
    }

    pub(crate) fn set_subject(&self, subject: String) {
        *self.subject.lock() = subject;
    }

    /// Takes what came back.
    fn hear(&self, payload: &[u8]) {
        // Whatever else is published there is nobody's.
        if let Some(number) = std::str::from_utf8(payload).ok().and_then(|text| text.parse().ok()) {
            self.heard.send_replace(number);
        }
    }
}

/// One link's read buffer and what was found in it.
pub(crate) struct Intake {
    pub(crate) buffer: BytesMut,
    found: Vec<wire::Found>,
    /// What is still to come of a message that is thrown away.
    skip: usize,
    /// Behind it comes its payload, which is thrown away as well.
    skip_payload: bool,
    need: usize,
    /// What the last [`Intake::digest`] found, in the order of the bus.
    pub(crate) batch: Vec<Delivery>,
    /// The answers among it.
    pub(crate) replies: Vec<Reply>,
}

impl Intake {
    /// Begins with what the greeting has left over.
    pub(crate) fn new(buffer: BytesMut) -> Self {
        Self {
            buffer,
            found: Vec::new(),
            skip: 0,
            skip_payload: false,
            need: 0,
            batch: Vec::new(),
            replies: Vec::new(),
        }
    }

    /// The buffer with room for the next read. When all deliveries of the last are gone, the memory is used again.
    pub(crate) fn room(&mut self) -> &mut BytesMut {
        let missing = self.need.saturating_sub(self.buffer.len());
        if self.buffer.capacity() - self.buffer.len() < missing.max(LEAST_READ_BYTES) {
            self.buffer.reserve(missing.max(READ_BYTES));
        }
        &mut self.buffer
    }

    /// Takes all that is complete in the buffer. The table is locked once for all of it.
    pub(crate) fn digest(
        &mut self,
        subjects: &Subjects,
        interests: &Interests,
        echo: &Echo,
        questions: &Questions,
        counters: &Counters,
    ) -> Result<(), NotResp> {
        let end = self.scan(subjects.max_payload + ENVELOPE_BYTES, counters)?;
        let input = self.buffer.split_to(end).freeze();
        if self.found.is_empty() {
            return Ok(());
        }
        let mut reading = Reading { input: &input, subjects, echo, questions, counters, bytes: 0 };
        let table = interests.lock();
        self.batch.reserve(self.found.len());
        for found in self.found.drain(..) {
            self.batch.extend(reading.delivery(&table, &found));
        }
        drop(table);
        counters.messages.fetch_add(self.batch.len() as u64, Relaxed);
        counters.bytes.fetch_add(reading.bytes, Relaxed);
        Ok(())
    }

    /// Finds messages and answers; returns how far the buffer is used up.
    fn scan(&mut self, max: usize, counters: &Counters) -> Result<usize, NotResp> {
        let mut at = 0;
        self.need = 0;
        while at < self.buffer.len() {
            if self.skip > 0 {
                let here = self.skip.min(self.buffer.len() - at);
                self.skip -= here;
                at += here;
                continue;
            }
            if self.skip_payload {
                let Some(size) = wire::skip_bulk(&self.buffer[at..])? else { break };
                (self.skip, self.skip_payload) = (size, false);
                continue;
            }
            match wire::step(&self.buffer[at..], max)? {
                Step::Message { mut found, end } => {
                    found.shift(at);
                    self.found.push(found);
                    at += end;
                }
                Step::Reply { reply, end } => {
                    self.replies.push(reply);
                    at += end;
                }
                Step::Oversize { end } => {
                    counters.oversize.fetch_add(1, Relaxed);
                    self.skip = end;
                }
                Step::LongName { end } => {
                    counters.foreign.fetch_add(1, Relaxed);
                    (self.skip, self.skip_payload) = (end, true);
                }
                Step::More(need) => {
                    self.need = need;
                    break;
                }
            }
        }
        Ok(at)
    }
}

/// What it takes to turn one read's copies into deliveries.
struct Reading<'a> {
    input: &'a Bytes,
    subjects: &'a Subjects,
    echo: &'a Echo,
    questions: &'a Questions,
    counters: &'a Counters,
    bytes: u64,
}

impl Reading<'_> {
    fn delivery(&mut self, table: &Table, found: &wire::Found) -> Option<Delivery> {
        let channel = &self.input[found.channel.clone()];
        let (address, interests) = match &found.pattern {
            None => self.exact(table, channel, found)?,
            Some(pattern) => self.below(table, &self.input[pattern.clone()], channel)?,
        };
        let message = envelope::open(self.input.slice(found.payload.clone())).unwrap_or_else(|raw| {
            self.counters.bad_envelopes.fetch_add(1, Relaxed);
            raw
        });
        if message.payload.len() > self.subjects.max_payload {
            self.counters.oversize.fetch_add(1, Relaxed);
            return None;
        }
        if self.questions.hear(&address, &message) {
            return None;
        }
        self.bytes += message.payload.len() as u64;
        Some(Delivery { interests, address, message })
    }

    /// `None` also when the interest went while the message was on its way.
    fn exact(&self, table: &Table, subject: &[u8], found: &wire::Found) -> Option<(Address, Ids)> {
        let known = match subject.strip_prefix(&*self.subjects.channels) {
            Some(channel) => table.exact(channel),
            None => {
                let internal = table.internal(subject.strip_prefix(&*self.subjects.internal)?);
                if internal.is_none() && *self.echo.subject.lock().as_bytes() == *subject {
                    self.echo.hear(&self.input[found.payload.clone()]);
                }
                internal
            }
        };
        known.map(|(address, ids)| (address.clone(), ids))
    }

    fn below(&self, table: &Table, pattern: &[u8], subject: &[u8]) -> Option<(Address, Ids)> {
        let base = pattern.strip_prefix(&*self.subjects.channels)?.strip_suffix(b"/*")?;
        let name = subject.strip_prefix(&*self.subjects.channels).and_then(|name| std::str::from_utf8(name).ok());
        let Some(channel) = name.and_then(|name| Channel::parse(name).ok()) else {
            self.counters.foreign.fetch_add(1, Relaxed);
            return None;
        };
        let ids = if base.contains(&b'\\') {
            let mut escaped = false;
            let plain = |byte: &u8| {
                escaped = *byte == b'\\' && !escaped;
                (!escaped).then_some(*byte)
            };
            table.below(&base.iter().filter_map(plain).collect::<Vec<_>>(), channel.as_str())?
        } else {
            table.below(base, channel.as_str())?
        };
        (!ids.is_empty()).then(|| (channel.into(), ids))
    }
}

#[cfg(test)]
mod tests {
    use clarion_protocol::Interest;

    use super::*;
    use crate::table::Layout;

    struct Fixture {
        intake: Intake,
        subjects: Subjects,
        interests: Interests,
        echo: Echo,
        questions: Questions,
        counters: Counters,
    }

    impl Fixture {
        fn new(topics: &[&str]) -> Self {
            let prefix = Prefix::default();
            let interests = Interests::new(Layout::Redis, prefix.clone());
            for topic in topics {
                interests.lock().acquire(&Interest::parse(topic).unwrap().into()).unwrap();
            }
            let echo = Echo::new("_clarion:clarion:probe.x".to_owned());
            let subjects = Subjects::new(&prefix, 100);
            let (intake, questions) = (Intake::new(BytesMut::new()), Questions::new());
            Self { intake, subjects, interests, echo, questions, counters: Counters::default() }
        }

        fn feed(&mut self, input: &[u8]) {
            self.intake.room().extend_from_slice(input);
            let (questions, counters) = (&self.questions, &self.counters);
            self.intake.digest(&self.subjects, &self.interests, &self.echo, questions, counters).unwrap();
        }

        /// What has arrived, as `channel=payload×interests`.
        fn heard(&mut self) -> Vec<String> {
            let text = |delivery: Delivery| {
                let Address::Channel(channel) = &delivery.address else { panic!() };
                let payload = String::from_utf8_lossy(&delivery.message.payload).into_owned();
                format!("{channel}={payload}×{}", delivery.interests.len())
            };
            self.intake.batch.drain(..).map(text).collect()
        }

        fn stats(&self) -> Stats {
            let mut stats = Stats::default();
            self.counters.fill(&mut stats);
            stats
        }
    }

    fn frame(words: &[&[u8]]) -> Vec<u8> {
        let mut out = BytesMut::new();
        wire::command(&mut out, words.iter().copied());
        out.to_vec()
    }

    #[test]
    fn however_the_bytes_arrive_the_same_is_heard() {
        let input = [
            frame(&[b"message", b"clarion:a", b"1"]),
            b"+PONG\r\n".to_vec(),
            frame(&[b"message", b"clarion:gone", b"2"]),
            frame(&[b"pmessage", b"clarion:a\\[b/*", b"clarion:a[b/c", b"3"]),
            frame(&[b"pmessage", b"clarion:a\\[b/*", b"clarion:a[b/c/d", b"4"]),
            frame(&[b"message", b"clarion:a", &[b'x'; 20_000]]),
            frame(&[b"message", b"clarion:a", b"\0{\"time\":1}\n5"]),
            frame(&[b"message", b"clarion:a", b"\0nothing"]),
            frame(&[b"pmessage", b"clarion:a\\[b/*", b"clarion:a[b//c", b"6"]),
            frame(&[b"message", b"_clarion:clarion:probe.x", b"7"]),
            frame(&[b"message", b"clarion:a", &[b'x'; 101]]),
            frame(&[b"pmessage", b"clarion:a\\[b/*", &[b'x'; 70_000], &[b'x'; 3_000]]),
            frame(&[b"message", b"clarion:a", b"8"]),
        ]
        .concat();
        for size in [1, 7, 100, 4096, input.len()] {
            let mut fixture = Fixture::new(&["a", "a[b/*", "a/**"]);
            let mut heard = Vec::new();
            for part in input.chunks(size) {
                fixture.feed(part);
                heard.extend(fixture.heard());
            }
            assert_eq!(heard, ["a=1×2", "a[b/c=3×1", "a=5×2", "a=\0nothing×2", "a=8×2"], "in parts of {size}");
            assert_eq!(fixture.intake.replies, [Reply::Line("PONG".to_owned())]);
            assert_eq!(*fixture.echo.heard.borrow(), 7);
            let stats = fixture.stats();
            assert_eq!((stats.messages, stats.foreign, stats.bad_envelopes, stats.oversize), (5, 2, 1, 2));
        }
    }

    #[test]
    fn the_buffer_is_used_again_when_its_deliveries_are_gone() {
        let mut fixture = Fixture::new(&["a"]);
        let message = frame(&[b"message", b"clarion:a", b"1"]);
        fixture.feed(&message);
        let first = fixture.intake.batch[0].message.payload.as_ptr() as usize;
        for _ in 0..100_000 {
            fixture.feed(&message);
            fixture.intake.batch.clear();
        }
        fixture.feed(&message);
        let last = fixture.intake.batch[0].message.payload.as_ptr() as usize;
        assert!(first.abs_diff(last) < 2 * READ_BYTES, "{first:x} {last:x}");
    }
}
