//! From where a client left off to what comes now: pages of the log for seats that are joining.

use std::sync::Arc;

use bytes::Bytes;
use clarion_bus::{
    InterestId, LogError,
    log::{From, Marks, Read, Top},
};
use clarion_hub::{Behind, ConnectionKey, Fed, Notice, Page, Reached, SeatId};
use clarion_protocol::{Channel, Cursor, Epoch, Interest, Message, Partition, Place};

use super::{
    Recovery,
    heal::{READ_BYTES, READ_MESSAGES, gap},
    history::begin,
    place, position, stamp,
};

/// Where a subscription begins.
#[derive(Debug, Clone)]
pub enum Start {
    /// With what comes now.
    Now,
    /// Where a cursor ends.
    Since(Cursor),
    /// With so many of the newest messages.
    Last(usize),
    /// With what comes now, although its client had been somewhere: why that is not known.
    Lost(&'static str),
    /// Behind these places, and with what comes now in all other partitions.
    From(Vec<Place>),
}

/// A connection whose logged seats have joined and wait for the log.
pub struct Joined {
    /// Whose.
    pub connection: ConnectionKey,
    /// The seats in logged namespaces, each with its interest.
    pub seats: Vec<(SeatId, InterestId, Interest)>,
    /// Where they begin.
    pub start: Start,
    /// How far the partitions had come when the client was let in: what comes after is for it, also where it begins with what
    /// comes now.
    pub admitted: Vec<Place>,
    /// Whether the client is told cursors, and therefore its first one as well.
    pub cursors: bool,
    /// What the user has read, where the seats' channel is an inbox: it does not come again, and with [`Start::Now`] the unread
    /// come first.
    pub read: Option<Marks>,
}

impl Joined {
    /// Where the unread of an inbox begin. Of the user's other channels nothing comes: they are no part of it.
    fn unread_after(&self, top: &Top) -> u64 {
        match &self.read {
            Some(read) if read.epoch.as_ref() == Some(&top.epoch) => read.up_to.min(top.offset),
            // Marks of a log that was lost, or none: everything there is was not read.
            Some(_) => 0,
            None => top.offset,
        }
    }

    /// Whether this is an inbox that begins with what is unread: what fell out of it is counted, and is no gap.
    fn begins_unread(&self) -> bool {
        self.read.is_some() && matches!(self.start, Start::Now)
    }

    /// Whether a message is to be shown.
    fn shows(&self, message: &Message) -> bool {
        let Some(at) = position(message) else { return true };
        self.read.as_ref().is_none_or(|read| !read.has(&at.epoch, at.offset))
    }

    fn interests(&self) -> Vec<Interest> {
        self.seats.iter().map(|(_, _, interest)| interest.clone()).collect()
    }
}

/// A partition at the moment when the seats had joined: all up to `up_to` comes from the log, all beyond it comes live.
#[derive(Clone)]
struct Edge {
    partition: Partition,
    epoch: Epoch,
    after: u64,
    up_to: u64,
}

/// Why catching up ended early.
enum Stopped {
    /// The client left.
    Gone,
    Log(LogError),
}

impl std::convert::From<LogError> for Stopped {
    fn from(error: LogError) -> Self {
        Self::Log(error)
    }
}

impl Recovery {
    /// Whether a connection with these interests needs a cursor of several places, or one place for several seats, which only
    /// the end of a turn can tell.
    #[must_use]
    pub fn needs_bookmark(&self, interests: &[Interest]) -> bool {
        let touched: Vec<_> = interests.iter().map(|interest| self.logs.touched(interest).len()).collect();
        touched.iter().filter(|touched| **touched > 0).count() > 1 || touched.iter().any(|touched| *touched > 1)
    }

    /// How far the partitions have come that these interests touch. Asked before a client is let in.
    #[must_use]
    pub fn admitted<'a>(&self, seats: impl Iterator<Item = (InterestId, &'a Interest)>) -> Vec<Place> {
        let (ids, interests): (Vec<_>, Vec<_>) = seats.unzip();
        let mut partitions: Vec<_> = interests.into_iter().flat_map(|interest| self.logs.touched(interest)).collect();
        partitions.sort();
        partitions.dedup();
        let tops = self.state.lock().edges(&partitions, &ids);
        tops.into_iter().map(|top| place(&top.epoch, top.offset)).collect()
    }

    /// Feeds the log to seats that have joined until they are live.
    pub async fn catch_up(self: Arc<Self>, joined: Joined) {
        let outcome = match self.feed_all(&joined).await {
            Ok(None) => "whole",
            Ok(Some(_)) => "gap",
            Err(Stopped::Gone) => "left",
            Err(Stopped::Log(error)) => {
                tracing::warn!(%error, "a client that came back was not served from the log, and is told of a gap");
                self.set_live(&joined).await;
                "unreadable"
            }
        };
        self.metrics.resumes.with_label_values(&[outcome]).inc();
    }

    /// A slow client goes on from the log as soon as it reads again.
    pub fn fell_behind(self: &Arc<Self>, behind: Behind) {
        let Behind { connection, seat, interest, asked, from } = behind;
        let places = from.into_iter().map(|Reached { epoch, offset }| place(&epoch, offset)).collect();
        let seats = vec![(seat, interest, asked)];
        // Cursors are told as before: each message names its own, or the connection's bookmark goes on.
        let start = Start::From(places);
        let joined = Joined { connection, seats, start, admitted: Vec::new(), cursors: false, read: None };
        let recovery = self.clone();
        self.runtime.spawn(async move { recovery.catch_up(joined).await });
    }

    async fn feed_all(self: &Arc<Self>, joined: &Joined) -> Result<Option<&'static str>, Stopped> {
        let (edges, mut missing) = self.edges(joined).await?;
        let newest = match joined.start {
            Start::Last(count) => self.newest(joined, &edges, count).await?,
            Start::Now | Start::Since(_) | Start::Lost(_) | Start::From(_) => Vec::new(),
        };
        if let (Some(reason), Some((seat, ..))) = (missing, joined.seats.first()) {
            self.say_gap(joined, *seat, reason).await?;
        }
        let mut newest = newest.into_iter();
        for (seat, id, interest) in &joined.seats {
            self.page(joined, *seat, newest.next().unwrap_or_default()).await?;
            let touched = self.logs.touched(interest);
            let edges = edges.iter().filter(|edge| touched.contains(&edge.partition)).cloned().collect();
            missing = missing.or(self.feed_seat(joined, *seat, *id, interest, edges).await?);
        }
        // The first edges, although some seat may have read beyond: what the other seats had by then is not known here.
        self.release_bookmark(joined, &edges);
        Ok(missing)
    }

    /// Feeds one seat until it is live. Returns why something is missing, if it is.
    async fn feed_seat(
        self: &Arc<Self>,
        joined: &Joined,
        seat: SeatId,
        id: InterestId,
        interest: &Interest,
        mut edges: Vec<Edge>,
    ) -> Result<Option<&'static str>, Stopped> {
        let mut missing = None;
        loop {
            for edge in &edges {
                missing = missing.or(self.feed_part(joined, seat, id, interest, edge).await?);
            }
            let up_to = edges.iter().map(|edge| Reached { epoch: edge.epoch.clone(), offset: edge.up_to }).collect();
            // Said before what waited goes out: a message that comes later must not be followed by an older cursor.
            let notices = self.first_cursor(joined, &edges).into_iter().collect();
            let page = Page { up_to, notices, last: true, ..Page::default() };
            match self.hub.feed(joined.connection, seat, page).await {
                Fed::Gone => return Err(Stopped::Gone),
                // More came meanwhile than may wait: it is in the log by now.
                Fed::Behind => self.move_edges(&mut edges),
                Fed::Live | Fed::Next => return Ok(missing),
            }
        }
    }

    /// Where the log ends and what comes now begins, for each partition that the seats touch.
    async fn edges(self: &Arc<Self>, joined: &Joined) -> Result<(Vec<Edge>, Option<&'static str>), Stopped> {
        let mut partitions: Vec<_> =
            joined.seats.iter().flat_map(|(_, _, interest)| self.logs.touched(interest)).collect();
        partitions.sort();
        partitions.dedup();
        let ids: Vec<_> = joined.seats.iter().map(|(_, id, _)| *id).collect();
        let mut tops = self.state.lock().edges(&partitions, &ids);
        let mut missing = if let Start::Lost(reason) = joined.start { Some(reason) } else { None };
        if let Start::Since(cursor) = &joined.start {
            // A cursor of a node that has heard more than this one: only the log knows whether it is of the future.
            let ahead = |top: &Top| cursor.offset(&top.epoch).is_none_or(|offset| offset > top.offset);
            if tops.iter().any(ahead) {
                tops = self.tops.ask(self, &partitions).await?;
            }
            if cursor.places().len() > partitions.len() {
                missing = Some("log_lost");
            }
        }
        let edges = partitions.into_iter().zip(tops).map(|(partition, top)| {
            let after = match &joined.start {
                Start::Now if joined.read.is_some() => joined.unread_after(&top),
                Start::Last(_) => top.offset,
                Start::Now | Start::Lost(_) => behind(&joined.admitted, &top),
                Start::From(places) => behind(places, &top),
                Start::Since(cursor) => {
                    let (after, gap) = begin(cursor, &top);
                    missing = missing.or(gap);
                    after
                }
            };
            Edge { partition, epoch: top.epoch, after, up_to: top.offset }
        });
        Ok((edges.collect(), missing))
    }

    /// The newest messages over all seats, those of each seat apart and in order.
    async fn newest(
        &self,
        joined: &Joined,
        edges: &[Edge],
        count: usize,
    ) -> Result<Vec<Vec<(Channel, Message)>>, Stopped> {
        let mut found: Vec<(usize, Channel, Message)> = Vec::new();
        for (number, (_, _, interest)) in joined.seats.iter().enumerate() {
            for edge in edges.iter().filter(|edge| self.logs.touched(interest).contains(&edge.partition)) {
                let newest = self.newest_of(interest, &edge.partition, edge.up_to, count).await?;
                found.extend(newest.into_iter().map(|(channel, message)| (number, channel, message)));
            }
        }
        found.sort_by_key(|(_, _, message)| message.meta.as_ref().and_then(|meta| meta.time));
        let surplus = found.len().saturating_sub(count);
        let mut seats = vec![Vec::new(); joined.seats.len()];
        for (number, channel, message) in found.drain(surplus..) {
            seats[number].push((channel, message));
        }
        Ok(seats)
    }

    /// Feeds what one seat has missed of one partition. Returns why something is missing, if it is.
    async fn feed_part(
        self: &Arc<Self>,
        joined: &Joined,
        seat: SeatId,
        id: InterestId,
        interest: &Interest,
        edge: &Edge,
    ) -> Result<Option<&'static str>, Stopped> {
        let (mut after, mut missing) = (edge.after, None);
        if after >= edge.up_to {
            return Ok(None);
        }
        // One reads for all who share the interest: whoever waits here finds what the first has read.
        let turn = self.state.lock().recent.turn(id);
        let guard = match &turn {
            Some(turn) => Some(turn.lock().await),
            None => None,
        };
        let known = self.state.lock().recent.read(id, &edge.partition, after, edge.up_to);
        if let Some(messages) = known {
            self.metrics.remembered.inc();
            drop(guard);
            self.pages(joined, seat, messages).await?;
            return Ok(None);
        }
        let (mut all, begun) = (Vec::new(), after);
        loop {
            let read = Read {
                partition: edge.partition.clone(),
                within: interest.clone(),
                from: From::After(after),
                up_to: Some(edge.up_to),
                messages: READ_MESSAGES,
                bytes: READ_BYTES,
            };
            self.metrics.reads.inc();
            let chunk = self.log()?.read(&read).await?;
            if chunk.epoch != edge.epoch {
                drop(guard);
                self.say_gap(joined, seat, "log_lost").await?;
                return Ok(Some("log_lost"));
            }
            missing = missing.or(chunk.lost.then_some("too_old"));
            after = chunk.reached;
            all.extend(chunk.messages);
            if chunk.end || all.len() > 10 * READ_MESSAGES {
                if chunk.end && missing.is_none() {
                    self.state.lock().recent.extend(id, &edge.partition, begun, &all);
                }
                // A page waits for its client, and nobody else must.
                break;
            }
        }
        drop(guard);
        if missing.is_some() && joined.begins_unread() {
            self.metrics.inbox_overflows.inc();
        } else if let Some(reason) = missing {
            self.say_gap(joined, seat, reason).await?;
        }
        self.pages(joined, seat, all).await?;
        if after < edge.up_to {
            let rest = Edge { partition: edge.partition.clone(), epoch: edge.epoch.clone(), after, up_to: edge.up_to };
            return Ok(missing.or(Box::pin(self.feed_part(joined, seat, id, interest, &rest)).await?));
        }
        Ok(missing)
    }

    async fn pages(&self, joined: &Joined, seat: SeatId, messages: Vec<(Channel, Message)>) -> Result<(), Stopped> {
        let mut messages = messages.into_iter().peekable();
        while messages.peek().is_some() {
            self.page(joined, seat, messages.by_ref().take(READ_MESSAGES).collect()).await?;
        }
        Ok(())
    }

    /// Feeds one page, and waits until its client has taken it.
    async fn page(&self, joined: &Joined, seat: SeatId, mut messages: Vec<(Channel, Message)>) -> Result<(), Stopped> {
        let key = *self.key.read();
        messages.retain(|(_, message)| joined.shows(message));
        if messages.is_empty() {
            return Ok(());
        }
        for (_, message) in &mut messages {
            stamp(message, key.as_ref());
        }
        self.feed(joined, seat, Page { messages, ..Page::default() }).await
    }

    async fn say_gap(&self, joined: &Joined, seat: SeatId, reason: &'static str) -> Result<(), Stopped> {
        self.metrics.gaps.with_label_values(&[reason]).inc();
        self.feed(joined, seat, Page { notices: vec![gap(reason)], ..Page::default() }).await
    }

    async fn feed(&self, joined: &Joined, seat: SeatId, page: Page) -> Result<(), Stopped> {
        match self.hub.feed(joined.connection, seat, page).await {
            Fed::Gone => Err(Stopped::Gone),
            Fed::Next | Fed::Live | Fed::Behind => Ok(()),
        }
    }

    /// What tells a client of one place where it stands before it hears what comes.
    fn first_cursor(&self, joined: &Joined, edges: &[Edge]) -> Option<Notice> {
        let alone = joined.cursors && !self.needs_bookmark(&joined.interests());
        let cursor = || Cursor::new(edges.iter().map(|edge| place(&edge.epoch, edge.up_to)));
        alone.then(|| Notice { name: Notice::CURSOR, data: Bytes::new(), cursor: self.text(&cursor()) })
    }

    /// From now on the end of each turn tells a client of several places where it stands. Others have no bookmark.
    fn release_bookmark(&self, joined: &Joined, edges: &[Edge]) {
        let reached = edges.iter().map(|edge| Reached { epoch: edge.epoch.clone(), offset: edge.up_to }).collect();
        self.hub.release_bookmark(joined.connection, reached);
    }

    /// More came than may wait: the log has it by now.
    fn move_edges(&self, edges: &mut [Edge]) {
        let state = self.state.lock();
        for edge in edges {
            edge.after = edge.up_to;
            if let Some(part) = state.partitions.get(&edge.partition) {
                edge.up_to = edge.up_to.max(part.heard);
            }
        }
    }

    /// Lets seats go on with what comes now, after they were told that something is missing.
    async fn set_live(&self, joined: &Joined) {
        for (seat, ..) in &joined.seats {
            self.metrics.gaps.with_label_values(&["unreadable"]).inc();
            let page = Page { notices: vec![gap("unreadable")], last: true, ..Page::default() };
            let _ = self.hub.feed(joined.connection, *seat, page).await;
        }
    }
}

impl super::State {
    /// How far each partition has come for all of these interests.
    fn edges(&self, partitions: &[Partition], ids: &[InterestId]) -> Vec<Top> {
        let mark = |id: &InterestId, partition: &Partition| {
            self.interests.get(id).and_then(|followed| followed.reach(partition)).map_or(0, |reach| reach.mark)
        };
        partitions
            .iter()
            .map(|partition| {
                let part = self.partitions.get(partition);
                let marks = ids.iter().map(|id| mark(id, partition));
                let offset = marks.chain(part.map(|part| part.heard)).max().unwrap_or_default();
                let epoch = part.map_or_else(unknown, |part| part.epoch.clone());
                Top { epoch, offset }
            })
            .collect()
    }
}

/// Where to begin in a partition that goes that far; at its top if none of these places is in it.
fn behind(places: &[Place], top: &Top) -> u64 {
    let from = places.iter().find(|place| place.epoch == top.epoch);
    from.map_or(top.offset, |place| place.offset.min(top.offset))
}

/// The epoch of a partition that nobody follows any more, as when the client has left meanwhile.
fn unknown() -> Epoch {
    Epoch::parse("none").expect("it is an epoch")
}
