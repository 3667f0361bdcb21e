//! What waits for one connection: bounded in bytes, with message borders kept, so that a policy can choose what to drop.
//!
//! A connection has an outbox only while its client is behind. Full is an answer, never a surprise.

#[cfg(test)]
mod tests;

use std::{
    collections::{HashMap, VecDeque},
    io::{self, IoSlice, Write},
    sync::Arc,
};

use bytes::{Buf, Bytes};
use clarion_protocol::{Channel, Meta};

use crate::{
    run::{Piece, Run},
    seat::Reached,
};

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
    /// In a logged namespace: what waits is dropped, and the client goes on from the log as soon as it reads again. What is not
    /// logged is treated as by `drop_oldest`.
    CatchUp,
}

/// What an entry costs beside its bytes. It counts, or a million empty messages would cost nothing.
const ENTRY_BYTES: usize = size_of::<Entry>();
/// Pieces handed to the kernel in one call; beyond some dozens more make no difference.
const PIECES: usize = 32;
/// Below this many dropped entries it is not worth closing the gaps.
const GAPS: usize = 64;

/// How many waiting messages gave way, by the policy that let them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Dropped {
    /// By [`SlowPolicy::DropOldest`].
    pub oldest: usize,
    /// By [`SlowPolicy::Latest`].
    pub latest: usize,
}

impl Dropped {
    fn count(&mut self, fate: &Fate) {
        match fate {
            Fate::Droppable => self.oldest += 1,
            Fate::Replaceable(_) => self.latest += 1,
            Fate::Stays | Fate::Resumable(..) => {}
        }
    }

    /// All of them.
    pub(crate) fn all(self) -> usize {
        self.oldest + self.latest
    }
}

/// What became of messages that were to wait.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Pushed {
    /// They wait, and these (old or new) were dropped for it.
    Waits(Dropped),
    /// There is no room. What waited of the seat and can be read from the log was dropped: all of it lies behind these places.
    Behind(Vec<Reached>),
    /// There is no room, nothing more that may be dropped, and the policy is to end the connection. Nothing was added.
    Full,
}

/// How far a flush came.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Flushed {
    /// Bytes that the client took.
    pub written: usize,
    /// The client may take more: it was only this connection's share of a turn that ended.
    pub more: bool,
}

/// What waits for one connection.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
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
    /// Where a waiting pong is.
    pong: Option<u64>,
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
    /// It goes with all others of its seat, which then reads the log from there.
    Resumable(u16, Arc<Meta>),
}

impl Fate {
    /// Whether it may be dropped for whatever comes later.
    fn makes_room(&self) -> bool {
        match self {
            Self::Droppable | Self::Replaceable(_) => true,
            Self::Stays | Self::Resumable(..) => false,
        }
    }
}

impl Outbox {
    /// Bytes that wait, with what keeping them costs.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether nothing waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Adds what must be written whatever waits: a control frame, an advice.
    pub(crate) fn keep(&mut self, bytes: Bytes) {
        self.add(bytes, Fate::Stays);
    }

    /// Adds the rest of a frame of which the client got a part already.
    pub(crate) fn begin(&mut self, rest: Bytes) {
        debug_assert!(self.is_empty(), "what was begun comes first");
        self.begun = !rest.is_empty();
        self.add(rest, Fate::Stays);
    }

    /// Adds a pong. One that waits already gives way: the last one answers all pings before it (RFC 6455, 5.5.3), so that
    /// a client that only pings makes nothing wait but one frame.
    pub(crate) fn keep_pong(&mut self, pong: Bytes) {
        if let Some(number) = self.pong.take() {
            self.drop_entry(number);
        }
        self.pong = Some(self.first + self.entries.len() as u64);
        self.add(pong, Fate::Stays);
    }

    /// Adds what must not be dropped, if there is room or can be made.
    pub(crate) fn push(&mut self, bytes: Bytes, bound: usize) -> Pushed {
        let mut dropped = Dropped::default();
        while self.bytes + bytes.len() + ENTRY_BYTES > bound {
            // What may be dropped goes first: a client is closed for what its policies do not let go, and for nothing else.
            let Some(oldest) = self.oldest() else { return Pushed::Full };
            dropped.count(&self.drop_entry(oldest));
        }
        self.add(bytes, Fate::Stays);
        Pushed::Waits(dropped)
    }

    /// Adds what is left of a run after its first `written` bytes went to the client.
    ///
    /// What is left of a message that was begun is kept whatever the policy says: a frame is never cut.
    pub(crate) fn push_run(
        &mut self,
        run: &mut Run,
        written: usize,
        seat: u16,
        slow: SlowPolicy,
        bound: usize,
    ) -> Pushed {
        let whole = run.shared();
        let next = run.pieces().partition_point(|piece| piece.end <= written);
        let start = if next == 0 { 0 } else { run.pieces()[next - 1].end };
        let mut from = start;
        let mut pieces = &run.pieces()[next..];
        if written > start {
            from = pieces[0].end;
            pieces = &pieces[1..];
            self.begin(whole.slice(written..from));
        }
        match slow {
            SlowPolicy::Disconnect if from == whole.len() => Pushed::Waits(Dropped::default()),
            SlowPolicy::Disconnect => self.push(whole.slice(from..), bound),
            SlowPolicy::DropOldest => self.push_each(&whole, from, pieces, bound, |_| Fate::Droppable),
            SlowPolicy::Latest => self.push_each(&whole, from, pieces, bound, |c| Fate::Replaceable(c.clone())),
            SlowPolicy::CatchUp => self.push_resumable(&whole, from, pieces, seat, bound),
        }
    }

    /// Adds messages that the log has as well. If there is no room for one, all of the seat's go, and so does the rest.
    fn push_resumable(&mut self, whole: &Bytes, mut from: usize, pieces: &[Piece], seat: u16, bound: usize) -> Pushed {
        let mut dropped = Dropped::default();
        for (number, piece) in pieces.iter().enumerate() {
            let bytes = whole.slice(from..piece.end);
            from = piece.end;
            let Some(meta) = piece.meta.as_ref().filter(|meta| meta.position.is_some()) else {
                self.push_droppable(bytes, Fate::Droppable, bound, &mut dropped);
                continue;
            };
            if self.bytes + bytes.len() + ENTRY_BYTES <= bound {
                self.add(bytes, Fate::Resumable(seat, Arc::clone(meta)));
                continue;
            }
            let rest = pieces[number..].iter().filter_map(|piece| piece.meta.clone()).collect();
            return Pushed::Behind(self.drop_resumable(seat, rest));
        }
        Pushed::Waits(dropped)
    }

    /// Drops what waits of a seat and can be read again; where the log is to be read from for that and the rest.
    fn drop_resumable(&mut self, seat: u16, rest: Vec<Arc<Meta>>) -> Vec<Reached> {
        let of_seat = |fate: &Fate| matches!(fate, Fate::Resumable(its, _) if *its == seat);
        let waiting = (self.first..).zip(&self.entries).filter(|(_, entry)| of_seat(&entry.fate));
        let numbers: Vec<u64> = waiting.map(|(number, _)| number).collect();
        let mut metas = rest;
        for number in numbers {
            if let Fate::Resumable(_, meta) = self.drop_entry(number) {
                metas.push(meta);
            }
        }
        let mut from: Vec<Reached> = Vec::new();
        for position in metas.iter().filter_map(|meta| meta.position.as_ref()) {
            let before = position.offset.saturating_sub(1);
            match from.iter_mut().find(|reached| reached.epoch == position.epoch) {
                Some(reached) => reached.offset = reached.offset.min(before),
                None => from.push(Reached { epoch: position.epoch.clone(), offset: before }),
            }
        }
        from
    }

    fn push_each(
        &mut self,
        whole: &Bytes,
        mut from: usize,
        pieces: &[Piece],
        bound: usize,
        fate: impl Fn(&Channel) -> Fate,
    ) -> Pushed {
        let mut dropped = Dropped::default();
        for piece in pieces {
            self.push_droppable(whole.slice(from..piece.end), fate(&piece.channel), bound, &mut dropped);
            from = piece.end;
        }
        Pushed::Waits(dropped)
    }

    /// Adds a message that may be dropped, and drops what must go for it.
    fn push_droppable(&mut self, bytes: Bytes, fate: Fate, bound: usize, dropped: &mut Dropped) {
        let bytes = match &fate {
            Fate::Replaceable(channel) => {
                if let Some(number) = self.latest.remove(channel) {
                    dropped.count(&self.drop_entry(number));
                }
                // A lonely message would keep the whole run that it came in.
                Bytes::copy_from_slice(&bytes)
            }
            Fate::Droppable | Fate::Stays | Fate::Resumable(..) => bytes,
        };
        while self.bytes + bytes.len() + ENTRY_BYTES > bound {
            let Some(oldest) = self.oldest() else { return dropped.count(&fate) };
            dropped.count(&self.drop_entry(oldest));
        }
        self.add(bytes, fate);
    }

    /// The first entry that may be dropped. What was passed over once is not looked at again.
    fn oldest(&mut self) -> Option<u64> {
        let begin = self.first + u64::from(self.begun);
        self.kept_until = self.kept_until.max(begin);
        let skip = usize::try_from(self.kept_until - self.first).expect("an entry's place fits memory");
        let found = self.entries.iter().skip(skip).position(|entry| entry.fate.makes_room());
        self.kept_until += found.unwrap_or(self.entries.len().saturating_sub(skip)) as u64;
        found.map(|_| self.kept_until)
    }

    /// Empties an entry where it stands, unless it was begun or is gone; what it was.
    fn drop_entry(&mut self, number: u64) -> Fate {
        let place = number.checked_sub(self.first).and_then(|place| usize::try_from(place).ok());
        let Some(place) = place.filter(|place| !(self.begun && *place == 0)) else { return Fate::Stays };
        let Some(entry) = self.entries.get_mut(place) else { return Fate::Stays };
        let bytes = std::mem::take(&mut entry.bytes);
        if bytes.is_empty() {
            return Fate::Stays;
        }
        let fate = std::mem::replace(&mut entry.fate, Fate::Stays);
        self.forget(number, &fate);
        self.bytes -= bytes.len() + ENTRY_BYTES;
        self.gaps += 1;
        if self.gaps > GAPS && self.gaps * 2 > self.entries.len() {
            self.close_gaps();
        }
        fate
    }

    /// A channel's waiting message is gone.
    fn forget(&mut self, number: u64, fate: &Fate) {
        if let Fate::Replaceable(channel) = fate
            && self.latest.get(channel) == Some(&number)
        {
            self.latest.remove(channel);
        }
    }

    fn close_gaps(&mut self) {
        if let Some(number) = self.pong {
            let before = self.entries.iter().take(usize::try_from(number - self.first).unwrap_or(usize::MAX));
            let gaps = before.filter(|entry| entry.bytes.is_empty()).count();
            self.pong = Some(number - gaps as u64);
        }
        self.entries.retain(|entry| !entry.bytes.is_empty());
        self.gaps = 0;
        self.kept_until = self.first;
        let numbered = (self.first..).zip(&self.entries);
        self.latest = numbered
            .filter_map(|(number, entry)| match &entry.fate {
                Fate::Replaceable(channel) => Some((channel.clone(), number)),
                Fate::Stays | Fate::Droppable | Fate::Resumable(..) => None,
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

    /// Writes until nothing waits, the client takes no more, or it took `most` bytes.
    ///
    /// # Errors
    /// What the socket says, [`io::ErrorKind::WouldBlock`] excepted.
    pub(crate) fn flush(&mut self, to: &mut impl Write, most: usize) -> io::Result<Flushed> {
        let mut written = 0;
        while !self.entries.is_empty() {
            if written >= most {
                return Ok(Flushed { written, more: true });
            }
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
        Ok(Flushed { written, more: false })
    }

    /// Takes off what was written.
    fn advance(&mut self, mut taken: usize) {
        while taken > 0 {
            let Some(first) = self.entries.front_mut() else { return };
            if taken < first.bytes.len() {
                first.bytes.advance(taken);
                self.bytes -= taken;
                self.begun = true;
                if self.pong == Some(self.first) {
                    // It is on its way: the next pong comes after it.
                    self.pong = None;
                }
                return;
            }
            taken -= first.bytes.len();
            self.pop_front();
        }
    }

    /// Takes the first entry out, or the gap that one left.
    fn pop_front(&mut self) {
        let Some(entry) = self.entries.pop_front() else { return };
        let number = self.first;
        self.first += 1;
        if entry.bytes.is_empty() {
            self.gaps -= 1;
            return;
        }
        self.begun = false;
        self.bytes -= entry.bytes.len() + ENTRY_BYTES;
        if self.pong == Some(number) {
            self.pong = None;
        }
        self.forget(number, &entry.fate);
    }

    /// Drops all that waits but what was begun, to make way for a goodbye.
    pub(crate) fn shed(&mut self) {
        self.entries.truncate(usize::from(self.begun));
        self.bytes = self.entries.iter().map(|entry| entry.bytes.len() + ENTRY_BYTES).sum();
        self.gaps = 0;
        self.kept_until = self.first;
        self.latest.clear();
        self.pong = None;
    }
}
