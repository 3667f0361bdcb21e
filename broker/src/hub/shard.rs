//! One thread that owns its sockets and its part of the subscription table. It waits for nobody but its poll.
//!
//! Each round it takes the events of its sockets, then all that waits in its inbox, writes what that brought, and looks
//! at the clock. Files beside this one hold the parts: `fanout` writes, `talk` reads, `life` opens, watches and closes.

use std::{
    collections::VecDeque,
    io,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use clarion_protocol::CloseCode;
use mio::{Events, Poll, Token, Waker};
use slab::Slab;
use tokio::sync::Notify;

use super::{
    batch::{Batch, Masks, Shards},
    clock::{Clock, Time, interval},
    config::Config,
    fanout::FanOut,
    handler::Handler,
    metrics::{End, Metrics},
    queue::{Bell, Command, Inbox, Item},
    record::{Key, Record},
    table::Table,
    users::Users,
    wheel::Wheel,
};
use crate::connection::{Intervals, Tick};

/// The waker's token. No key is like it: serial numbers do not come that far.
const WAKER: Token = Token(usize::MAX);
/// Events taken from the poll at once.
pub(super) const EVENTS: usize = 1024;
/// What one read can bring: a few of the largest frames, or many small ones.
const READ_BYTES: usize = 64 * 1024;
/// Deliveries written in one turn, so that one turn neither fills a client's outbox nor keeps other clients waiting.
const TURN_BYTES: usize = 256 * 1024;

/// What all shards of a hub share.
pub(super) struct Common {
    pub masks: Arc<Masks>,
    pub users: Arc<Users>,
    pub metrics: Metrics,
    pub settings: Settings,
}

/// How long a shard waits when it has done what there was to do.
#[derive(Debug, Clone, Copy)]
pub(super) enum Pause {
    /// Not at all: there is more.
    None,
    /// Until something happens.
    Endless,
    /// Until then, unless something happens before.
    Until(Time),
}

/// The configuration in a shard's own units.
#[derive(Debug, Clone, Copy)]
pub(super) struct Settings {
    pub outbox_bytes: usize,
    pub message_bytes: usize,
    pub heartbeats: Intervals,
    pub comments: Tick,
    pub handshake: Tick,
    pub close: Tick,
    pub retry_within: Duration,
}

impl From<&Config> for Settings {
    fn from(config: &Config) -> Self {
        Self {
            outbox_bytes: config.outbox_bytes,
            message_bytes: config.message_bytes,
            heartbeats: Intervals { ping: interval(config.ping_interval), pong: interval(config.pong_timeout) },
            comments: interval(config.comment_interval),
            handshake: interval(config.handshake_timeout),
            close: interval(config.close_timeout),
            retry_within: config.retry_within,
        }
    }
}

pub(super) struct Shard<H> {
    pub number: u16,
    pub poll: Poll,
    pub inbox: Arc<Inbox>,
    pub common: Arc<Common>,
    pub handler: H,
    pub records: Slab<Record>,
    /// The serial number of the last record.
    pub serial: u32,
    pub table: Table,
    pub wheel: Wheel,
    pub clock: Clock,
    /// The tick in which this turn began.
    pub now: Tick,
    /// Deliveries to be written at the end of this turn.
    pub batches: Vec<Arc<Batch>>,
    pub fan: FanOut,
    /// Every socket is read into this.
    pub buffer: Vec<u8>,
    /// Sockets that may have more to say than they were let.
    pub unread: Vec<Key>,
    /// Where the search for connections to close goes on.
    pub close_cursor: usize,
    waiting: VecDeque<Item>,
    /// When the thread ends, whatever is left.
    stopping: Option<Time>,
}

impl<H: Handler> Shard<H> {
    /// One that has a thread to itself, or one that is a task.
    pub(super) fn new(
        number: usize,
        common: Arc<Common>,
        handler: H,
        queue_bytes: usize,
        is_task: bool,
    ) -> io::Result<Self> {
        let poll = Poll::new()?;
        let bell = if is_task { Bell::Task(Notify::new()) } else { Bell::Poll(Waker::new(poll.registry(), WAKER)?) };
        let inbox = Arc::new(Inbox::new(bell, queue_bytes));
        let clock = Clock::new();
        let now = clock.tick(Time::now());
        Ok(Self {
            number: u16::try_from(number).expect("shards are few"),
            poll,
            inbox,
            table: Table::new(Arc::clone(&common.masks), bit(number)),
            common,
            handler,
            records: Slab::new(),
            serial: 0,
            wheel: Wheel::new(now),
            clock,
            now,
            batches: Vec::new(),
            fan: FanOut::default(),
            buffer: vec![0; READ_BYTES],
            unread: Vec::new(),
            close_cursor: 0,
            waiting: VecDeque::new(),
            stopping: None,
        })
    }

    /// Runs until it is stopped.
    pub(super) fn run(mut self) {
        // Whatever ends this thread, nobody waits for it afterwards.
        let _closed = CloseOnDrop(Arc::clone(&self.inbox));
        let mut events = Events::with_capacity(EVENTS);
        while !self.is_done() {
            let pause = match self.pause() {
                Pause::None => Some(Duration::ZERO),
                Pause::Endless => None,
                Pause::Until(time) => Some(time.saturating_duration_since(Time::now())),
            };
            if !self.look(&mut events, pause) {
                return;
            }
            self.round(&events);
        }
    }

    /// Takes the events of the poll, as soon as there are any or the pause is over; `false` when it does not work any more.
    pub(super) fn look(&mut self, events: &mut Events, pause: Option<Duration>) -> bool {
        match self.poll.poll(events, pause) {
            Ok(()) => true,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {
                events.clear();
                true
            }
            Err(error) => {
                tracing::error!(%error, shard = self.number, "a shard's poll failed");
                false
            }
        }
    }

    /// Deals with events, with all that waits in the inbox, and with what the clock says.
    pub(super) fn round(&mut self, events: &Events) {
        self.now = self.clock.tick(Time::now());
        for event in events.iter().filter(|event| event.token() != WAKER) {
            self.on_event(event);
        }
        self.read_on();
        self.turn();
        self.watch();
    }

    /// How long to wait for events. Looks for what is waiting before a wait, so that nothing is slept over.
    pub(super) fn pause(&mut self) -> Pause {
        if !self.waiting.is_empty() || !self.unread.is_empty() || !self.inbox.sleep() {
            return Pause::None;
        }
        let due = self.wheel.next().map(|tick| self.clock.begin(tick));
        due.into_iter().chain(self.stopping).min().map_or(Pause::Endless, Pause::Until)
    }

    /// Deals with what was waiting, deliveries last, in order all the same.
    fn turn(&mut self) {
        if self.waiting.is_empty() {
            // What woke this thread is taken now: another look at the poll before it would be a call for nothing.
            self.inbox.take(&mut self.waiting);
        }
        let mut weight = 0;
        while weight < TURN_BYTES
            && let Some(item) = self.waiting.pop_front()
        {
            match item {
                Item::Batch(batch) => {
                    weight += batch.weight;
                    self.batches.push(batch);
                }
                Item::Command(command) => self.obey(command),
            }
        }
        self.fan_out();
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Open(open, reply) => self.open(*open, reply),
            Command::Attach(key, socket, session, read_ahead) => self.attach(key, socket, session, &read_ahead),
            Command::Gone(key) => self.remove(key, Some(End::Handshake)),
            Command::Resume(key) => self.resume(key),
            Command::Close(key, code) => {
                self.fan_out();
                self.close(key, code);
            }
            Command::CloseSome(count, code) => {
                self.fan_out();
                self.close_some(count, code);
            }
            Command::Stop(deadline) => {
                self.fan_out();
                self.stopping = Some(deadline);
                self.close_some(usize::MAX, CloseCode::Restart);
            }
        }
    }

    /// Whether it was stopped and has ended what was to end.
    pub(super) fn is_done(&self) -> bool {
        self.stopping.is_some_and(|deadline| self.records.is_empty() || Time::now() >= deadline)
    }

    /// Whether connections that come now come too late.
    pub(super) fn is_stopping(&self) -> bool {
        self.stopping.is_some()
    }

    /// The record that a key names, if it still does.
    pub(super) fn record(&mut self, key: Key) -> Option<&mut Record> {
        self.records.get_mut(key.index as usize).filter(|record| record.serial == key.serial)
    }
}

impl<H> Drop for Shard<H> {
    fn drop(&mut self) {
        // What the deadline left behind: leases are given back and the counters are right before the thread is joined.
        for (_, record) in &self.records {
            self.common.metrics.connections(record.cold.connection.dialect).dec();
        }
        self.inbox.connections.store(0, Ordering::Relaxed);
        self.inbox.closing.store(0, Ordering::Relaxed);
    }
}

/// Closes the inbox when the thread ends.
pub(super) struct CloseOnDrop(pub Arc<Inbox>);

impl Drop for CloseOnDrop {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// The set of one shard.
pub(super) fn bit(number: usize) -> Shards {
    1 << number
}
