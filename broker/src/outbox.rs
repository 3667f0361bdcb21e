//! What waits for one connection: bounded in bytes, with message borders kept, so that a policy can choose what to drop.
//!
//! A connection has an outbox only while its client is behind. Full is an answer, never a surprise.

#[cfg(test)]
mod tests;

use std::{
    collections::{HashMap, VecDeque},
    io::{self, IoSlice, Write},
};

use bytes::{Buf, Bytes};
use clarion_protocol::Channel;

/// What happens to a message that finds a connection's outbox full.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, Hash, serde::Deserialize, serde::Serialize, schemars::JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum SlowPolicy {
    /// The connection is closed with 3008.
    #[default]
    Disconnect,
    /// The messages that have waited longest are dropped.
    DropOldest,
    /// Only the newest message of each channel is kept while the client is behind.
    Latest,
}

/// What an entry costs beside its bytes. It counts, or a million empty messages would cost nothing.
const ENTRY_BYTES: usize = size_of::<Entry>();
/// Pieces handed to the kernel in one call; beyond some dozens more make no difference.
const PIECES: usize = 32;
/// Below this many dropped entries it is not worth closing the gaps.
const GAPS: usize = 64;

/// Messages for many sockets, encoded one after the other, to be written with one call each.
#[derive(Debug, Default)]
pub struct Run {
    bytes: Vec<u8>,
    ends: Vec<(usize, Channel)>,
    shared: Option<Bytes>,
}

impl Run {
    /// Empties it and keeps its room.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.ends.clear();
        self.shared = None;
    }

    /// Adds a message that `encode` writes.
    pub fn push(&mut self, channel: &Channel, encode: impl FnOnce(&mut Vec<u8>)) {
        encode(&mut self.bytes);
        self.ends.push((self.bytes.len(), channel.clone()));
    }

    /// All of it, to be written.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// How many messages it holds.
    #[must_use]
    pub fn messages(&self) -> usize {
        self.ends.len()
    }

    /// Whether it holds none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Each message with its channel.
    pub fn iter(&self) -> impl Iterator<Item = (&Channel, &[u8])> {
        let starts = std::iter::once(0).chain(self.ends.iter().map(|(end, _)| *end));
        starts.zip(&self.ends).map(|(start, (end, channel))| (channel, &self.bytes[start..*end]))
    }

    /// The bytes as a value that outboxes share. Copied once, and only when a first client is behind.
    fn shared(&mut self) -> Bytes {
        self.shared.get_or_insert_with(|| Bytes::copy_from_slice(&self.bytes)).clone()
    }
}

/// What became of messages that were to wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pushed {
    /// They wait, and this many (old or new) were dropped for it.
    Waits {
        /// Messages that will not be written.
        dropped: usize,
    },
    /// There is no room and the policy is to end the connection. Nothing was added.
    Full,
}

/// What waits for one connection.
#[derive(Debug, Default)]
pub struct Outbox {
    entries: VecDeque<Entry>,
    /// Bytes of all entries, and what the entries themselves cost.
    bytes: usize,
    /// How many entries were dropped and left a gap.
    gaps: usize,
    /// Whether a part of the first entry was written already: it must not be dropped.
    begun: bool,
    /// The number of the first entry; numbers count up and name entries while the queue moves.
    first: u64,
    /// No entry before this one can be dropped.
    kept_until: u64,
    /// Where the waiting message of a channel is, for [`SlowPolicy::Latest`].
    latest: HashMap<Channel, u64>,
}

#[derive(Debug)]
struct Entry {
    bytes: Bytes,
    fate: Fate,
}

/// What may happen to an entry before it is written.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Fate {
    /// Nothing: it is written, or the connection ends.
    Stays,
    /// It may make room for later ones.
    Droppable,
    /// It makes room for later ones, and gives way to the next of its channel.
    Replaceable(Channel),
}

impl Outbox {
    /// Bytes that wait, with what keeping them costs.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Adds what must be written whatever waits: a control frame, an advice.
    pub fn keep(&mut self, bytes: Bytes) {
        self.add(bytes, Fate::Stays);
    }

    /// Adds the rest of a frame of which the client got a part already.
    pub fn begin(&mut self, rest: Bytes) {
        debug_assert!(self.is_empty(), "what was begun comes first");
        self.begun = !rest.is_empty();
        self.add(rest, Fate::Stays);
    }

    /// Adds one thing that is no channel's message, if there is room.
    pub fn push(&mut self, bytes: Bytes, bound: usize) -> Pushed {
        if self.bytes + bytes.len() + ENTRY_BYTES > bound {
            return Pushed::Full;
        }
        self.add(bytes, Fate::Stays);
        Pushed::Waits { dropped: 0 }
    }

    /// Adds what is left of a run after its first `written` bytes went to the client.
    ///
    /// What is left of a message that was begun is kept whatever the policy says: a frame is never cut.
    pub fn push_run(&mut self, run: &mut Run, written: usize, slow: SlowPolicy, bound: usize) -> Pushed {
        let whole = run.shared();
        let next = run.ends.partition_point(|(end, _)| *end <= written);
        let start = if next == 0 { 0 } else { run.ends[next - 1].0 };
        let mut from = start;
        let mut ends = &run.ends[next..];
        if written > start {
            from = ends[0].0;
            ends = &ends[1..];
            self.begin(whole.slice(written..from));
        }
        match slow {
            SlowPolicy::Disconnect if from == whole.len() => Pushed::Waits { dropped: 0 },
            SlowPolicy::Disconnect => self.push(whole.slice(from..), bound),
            SlowPolicy::DropOldest => self.push_each(&whole, from, ends, bound, |_| Fate::Droppable),
            SlowPolicy::Latest => self.push_each(&whole, from, ends, bound, |c| Fate::Replaceable(c.clone())),
        }
    }

    fn push_each(
        &mut self,
        whole: &Bytes,
        mut from: usize,
        ends: &[(usize, Channel)],
        bound: usize,
        fate: impl Fn(&Channel) -> Fate,
    ) -> Pushed {
        let mut dropped = 0;
        for (end, channel) in ends {
            dropped += self.push_droppable(whole.slice(from..*end), fate(channel), bound);
            from = *end;
        }
        Pushed::Waits { dropped }
    }

    /// Adds a message that may be dropped, and drops what must go for it; how many that were.
    fn push_droppable(&mut self, bytes: Bytes, fate: Fate, bound: usize) -> usize {
        let mut dropped = 0;
        let bytes = match &fate {
            Fate::Replaceable(channel) => {
                if let Some(number) = self.latest.remove(channel) {
                    dropped += self.drop_entry(number);
                }
                // A lonely message would keep the whole run that it came in.
                Bytes::copy_from_slice(&bytes)
            }
            Fate::Droppable | Fate::Stays => bytes,
        };
        while self.bytes + bytes.len() + ENTRY_BYTES > bound {
            let Some(oldest) = self.oldest() else { return dropped + 1 };
            dropped += self.drop_entry(oldest);
        }
        self.add(bytes, fate);
        dropped
    }

    /// The first entry that may be dropped. What was passed over once is not looked at again.
    fn oldest(&mut self) -> Option<u64> {
        let begin = self.first + u64::from(self.begun);
        self.kept_until = self.kept_until.max(begin);
        let skip = usize::try_from(self.kept_until - self.first).expect("an entry's place fits memory");
        let found = self.entries.iter().skip(skip).position(|entry| entry.fate != Fate::Stays);
        self.kept_until += found.unwrap_or(self.entries.len().saturating_sub(skip)) as u64;
        found.map(|_| self.kept_until)
    }

    /// Empties an entry where it stands, unless it was begun; how many messages that drops.
    fn drop_entry(&mut self, number: u64) -> usize {
        let Some(place) = number.checked_sub(self.first).and_then(|place| usize::try_from(place).ok()) else {
            return 0;
        };
        if self.begun && place == 0 {
            return 0;
        }
        let Some(entry) = self.entries.get_mut(place) else { return 0 };
        let bytes = std::mem::take(&mut entry.bytes);
        let fate = std::mem::replace(&mut entry.fate, Fate::Stays);
        self.forget(number, fate);
        self.bytes -= bytes.len() + ENTRY_BYTES;
        self.gaps += 1;
        if self.gaps > GAPS && self.gaps * 2 > self.entries.len() {
            self.close_gaps();
        }
        1
    }

    /// A channel's waiting message is gone.
    fn forget(&mut self, number: u64, fate: Fate) {
        if let Fate::Replaceable(channel) = fate
            && self.latest.get(&channel) == Some(&number)
        {
            self.latest.remove(&channel);
        }
    }

    fn close_gaps(&mut self) {
        self.entries.retain(|entry| !entry.bytes.is_empty());
        self.gaps = 0;
        self.kept_until = self.first;
        let numbered = (self.first..).zip(&self.entries);
        self.latest = numbered
            .filter_map(|(number, entry)| match &entry.fate {
                Fate::Replaceable(channel) => Some((channel.clone(), number)),
                Fate::Stays | Fate::Droppable => None,
            })
            .collect();
    }

    fn add(&mut self, bytes: Bytes, fate: Fate) {
        if bytes.is_empty() {
            return;
        }
        self.bytes += bytes.len() + ENTRY_BYTES;
        if let Fate::Replaceable(channel) = &fate {
            self.latest.insert(channel.clone(), self.first + self.entries.len() as u64);
        }
        self.entries.push_back(Entry { bytes, fate });
    }

    /// Takes the next piece out, for a client that fetches.
    pub fn pop(&mut self) -> Option<Bytes> {
        while !self.entries.is_empty() {
            let bytes = self.pop_front();
            if !bytes.is_empty() {
                return Some(bytes);
            }
        }
        None
    }

    /// Writes until nothing waits or the client takes no more; returns how many bytes it took.
    ///
    /// # Errors
    /// What the socket says, [`io::ErrorKind::WouldBlock`] excepted.
    pub fn flush(&mut self, to: &mut impl Write) -> io::Result<usize> {
        let mut written = 0;
        while !self.entries.is_empty() {
            let mut pieces = [IoSlice::new(&[]); PIECES];
            let mut count = 0;
            for (piece, entry) in pieces.iter_mut().zip(self.entries.iter().filter(|entry| !entry.bytes.is_empty())) {
                *piece = IoSlice::new(&entry.bytes);
                count += 1;
            }
            if count == 0 {
                self.shed();
                break;
            }
            match to.write_vectored(&pieces[..count]) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(taken) => {
                    written += taken;
                    self.advance(taken);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(written)
    }

    /// Takes off what was written.
    fn advance(&mut self, mut taken: usize) {
        while taken > 0 {
            let Some(first) = self.entries.front_mut() else { return };
            if taken < first.bytes.len() {
                first.bytes.advance(taken);
                self.bytes -= taken;
                self.begun = true;
                return;
            }
            taken -= first.bytes.len();
            self.pop_front();
        }
    }

    /// Takes the first entry; no bytes, where one was dropped.
    fn pop_front(&mut self) -> Bytes {
        let Some(entry) = self.entries.pop_front() else { return Bytes::new() };
        let number = self.first;
        self.first += 1;
        if entry.bytes.is_empty() {
            self.gaps -= 1;
            return entry.bytes;
        }
        self.begun = false;
        self.bytes -= entry.bytes.len() + ENTRY_BYTES;
        self.forget(number, entry.fate);
        entry.bytes
    }

    /// Drops all that waits but what was begun, to make way for a goodbye.
    pub fn shed(&mut self) {
        self.entries.truncate(usize::from(self.begun));
        self.bytes = self.entries.iter().map(|entry| entry.bytes.len() + ENTRY_BYTES).sum();
        self.gaps = 0;
        self.kept_until = self.first;
        self.latest.clear();
    }
}
