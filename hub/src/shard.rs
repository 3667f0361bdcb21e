//! One thread that owns its sockets and its part of the subscription table. It waits for nobody but its poll.
//!
//! Each round it takes the events of its sockets, then all that waits in its inbox, writes what that brought, and looks
//! at the clock. What it knows of connections is in its [roster](crate::roster), of subscriptions in its
//! [audiences](crate::audiences).

mod inbox;
mod task;

use std::{
    collections::VecDeque,
    io,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use clarion_protocol::CloseCode;
use mio::{Events, Poll, Token, Waker};
use tokio::sync::{Notify, oneshot};

pub(crate) use self::{
    inbox::{Bell, Command, Inbox, Item},
    task::{Host, Over, host, share},
};
use crate::{
    audiences::{Audiences, Member},
    batch::{Batch, Masks, Shards},
    clock::{Time, interval},
    config::Config,
    connection::{Intervals, Tick},
    framing::{Format, Framing},
    metrics::{End, Metrics},
    roster::{Key, Roster},
    seat::{Fed, Notice, Page, Release, SeatId, Subscription},
    ticket::{Arrival, Entered, Open, Opened},
    users::Users,
};

/// The waker's token. No key is like it: serial numbers do not come that far.
const WAKER: Token = Token(usize::MAX);
/// Events taken from the poll at once.
const EVENTS: usize = 1024;
/// Deliveries written in one turn, so that one turn neither fills a client's outbox nor keeps other clients waiting.
const TURN_BYTES: usize = 256 * 1024;

/// What all shards of a hub share.
pub(crate) struct Common {
    pub masks: Arc<Masks>,
    pub users: Arc<Users>,
    pub metrics: Metrics,
    pub settings: Settings,
    pub release: Arc<dyn Release>,
}

/// How long a shard waits when it has done what there was to do.
#[derive(Debug, Clone, Copy)]
enum Pause {
    /// Not at all: there is more.
    None,
    /// Until something happens.
    Endless,
    /// Until then, unless something happens before.
    Until(Time),
}

/// The configuration in a shard's own units.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Settings {
    pub outbox_bytes: usize,
    pub message_bytes: usize,
    pub heartbeats: Intervals,
    pub comments: Tick,
    pub handshake: Tick,
    pub message: Tick,
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
            message: interval(config.message_timeout),
            close: interval(config.close_timeout),
            retry_within: config.retry_within,
        }
    }
}

pub(crate) struct Shard {
    pub(crate) number: u16,
    poll: Poll,
    pub(crate) inbox: Arc<Inbox>,
    roster: Roster,
    audiences: Audiences,
    /// Deliveries to be written at the end of this turn.
    batches: Vec<Arc<Batch>>,
    waiting: VecDeque<Item>,
    /// When the thread ends, whatever is left.
    stopping: Option<Time>,
}

impl Shard {
    /// One that has a thread to itself, or one that is a task.
    pub(crate) fn new(number: usize, common: Arc<Common>, queue_bytes: usize, is_task: bool) -> io::Result<Self> {
        let poll = Poll::new()?;
        let bell = if is_task { Bell::Task(Notify::new()) } else { Bell::Poll(Waker::new(poll.registry(), WAKER)?) };
        let inbox = Arc::new(Inbox::new(bell, queue_bytes));
        let registry = poll.registry().try_clone()?;
        let (masks, release, metrics) = (&common.masks, &common.release, &common.metrics);
        let audiences = Audiences::new(Arc::clone(masks), bit(number), Arc::clone(release), metrics.clone());
        let number = u16::try_from(number).expect("shards are few");
        let roster = Roster::new(number, registry, Arc::clone(&inbox), common);
        let (batches, waiting) = (Vec::new(), VecDeque::new());
        Ok(Self { number, poll, inbox, roster, audiences, batches, waiting, stopping: None })
    }

    /// Runs until it is stopped; `false` when it could not go on.
    pub(crate) fn run(mut self) -> bool {
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
                return false;
            }
            self.round(&events);
        }
        true
    }

    /// Takes the events of the poll, as soon as there are any or the pause is over; `false` when it does not work any more.
    fn look(&mut self, events: &mut Events, pause: Option<Duration>) -> bool {
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
    fn round(&mut self, events: &Events) {
        self.roster.begin_turn();
        for event in events.iter().filter(|event| event.token() != WAKER) {
            self.roster.on_event(event);
        }
        self.roster.read_on();
        self.roster.write_on();
        // Places in the table are given up before others may get the same places among the records.
        self.audiences.tidy(&mut self.roster);
        self.turn();
        self.roster.watch();
        self.audiences.tidy(&mut self.roster);
    }

    /// How long to wait for events. Looks for what is waiting before a wait, so that nothing is slept over.
    fn pause(&mut self) -> Pause {
        if !self.waiting.is_empty() || self.roster.has_more() || !self.inbox.sleep() {
            return Pause::None;
        }
        self.roster.next_due().into_iter().chain(self.stopping).min().map_or(Pause::Endless, Pause::Until)
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
                Item::Command(command) => {
                    self.obey(command);
                    self.audiences.tidy(&mut self.roster);
                }
            }
        }
        self.fan_out();
    }

    fn fan_out(&mut self) {
        self.audiences.fan_out(&mut self.batches, &mut self.roster);
        self.roster.end_turn();
        self.audiences.tidy(&mut self.roster);
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Open(open, subscriptions, reply) => self.open(*open, subscriptions, reply),
            Command::Enter(arrival) => self.enter(*arrival),
            Command::Attach(key, socket, tls, read_ahead) => self.roster.attach(key, socket, tls, &read_ahead),
            Command::Gone(key) => self.roster.remove(key, Some(End::Handshake)),
            Command::Resume(key) => self.roster.resume(key),
            Command::Join(key, subscriptions, reply) => {
                // Whoever asked may have gone away; the connection has its seats all the same.
                let _ = reply.send(self.join(key, subscriptions));
            }
            // What was delivered before a seat is left, fed or closed is written before, as its bus had it.
            Command::Leave(key, seat) => {
                self.fan_out();
                self.leave(key, seat);
            }
            Command::Feed(key, seat, page, reply) => {
                self.fan_out();
                self.feed(key, seat, page, reply);
            }
            Command::Notify(key, notice) => {
                self.fan_out();
                self.notify(key, &notice);
            }
            Command::NotifyInterest(interest, notice) => {
                self.fan_out();
                for (index, format) in self.audiences.members_of(interest) {
                    if let Some(key) = self.roster.key_at(index) {
                        self.roster.notify(key, format.wording(), &notice);
                    }
                }
            }
            Command::ReleaseBookmark(key, reached) => {
                self.fan_out();
                self.roster.release_mark(key, &reached);
                self.roster.end_turn();
            }
            Command::Close(key, code) => {
                self.fan_out();
                self.roster.close(key, code);
            }
            Command::CloseSome(count, code) => {
                self.fan_out();
                self.roster.close_some(count, code);
            }
            Command::Stop(deadline) => {
                self.fan_out();
                self.stopping = Some(deadline);
                self.roster.close_some(usize::MAX, CloseCode::Restart);
            }
        }
    }

    /// Registers a connection and lets it join what it is to hear from its first moment.
    fn open(&mut self, open: Open, subscriptions: Vec<Subscription>, reply: oneshot::Sender<Opened>) {
        if self.stopping.is_some() {
            return self.roster.turn_away();
        }
        let ticket = self.roster.open(open);
        let seats = self.join(ticket.key().key, subscriptions);
        // Whoever asked may have gone away: then the ticket is dropped, and takes this back.
        drop(reply.send(Opened { ticket, seats }));
    }

    /// Registers a connection, lets it join, and only then tells its client that it is let in.
    fn enter(&mut self, arrival: Arrival) {
        let Arrival { open, subscriptions, socket, tls, opening, read_ahead, entered, bookmark } = arrival;
        if self.stopping.is_some() {
            return self.roster.turn_away();
        }
        let is_poll = open.framing == Framing::Poll;
        let key = self.roster.register(open);
        if let (Some(bookmark), Some(first)) = (bookmark, subscriptions.first()) {
            self.roster.mark(key, first.wording, bookmark, is_poll.then(|| opening.clone()));
        }
        let seats = self.join(key, subscriptions);
        if !is_poll {
            self.roster.greet(key, opening);
        }
        self.roster.attach(key, socket, tls, &read_ahead);
        if let Some(entered) = entered {
            // Whoever asked may have gone away: then nothing is fed, and the client hangs up when it has waited enough.
            let _ = entered.send(Entered { key: self.roster.name_of(key), seats });
        }
    }

    /// Tells one connection something, as its first seat reads.
    fn notify(&mut self, key: Key, notice: &Notice) {
        let spot = self.roster.seats_mut(key.index).and_then(|seats| seats.iter().next().map(|(_, seat)| seat.spot));
        if let Some(format) = spot.and_then(|spot| self.audiences.format_at(spot)) {
            self.roster.notify(key, format.wording(), notice);
        }
    }

    /// Gives a connection a seat for each subscription, or the one that it has there already. One that is gone has none.
    fn join(&mut self, key: Key, subscriptions: Vec<Subscription>) -> Vec<SeatId> {
        let Some(framing) = self.roster.framing(key) else { return Vec::new() };
        let marked = self.roster.is_marked(key.index);
        let mut seats = Vec::with_capacity(subscriptions.len());
        for Subscription { lease, interest, slow, wording, joining } in subscriptions {
            let audience = self.audiences.find(lease.id());
            if let Some(seat) = audience.and_then(|audience| self.roster.seat_in(key.index, audience)) {
                // The bus delivers for an interest once, however often a client asks; the second reference goes back.
                seats.push(seat);
                continue;
            }
            let Some(seat) = self.roster.add_seat(key.index, slow, joining) else { return seats };
            let (format, aside) = (Format::new(framing, wording), joining || marked);
            let member = Member { index: key.index, seat: seat.index, format, aside };
            let spot = self.audiences.join(lease.into_id(), &interest, member);
            self.roster.settle_in(key.index, seat, spot);
            self.audiences.rank(&mut self.roster, key.index, seat, &interest);
            seats.push(seat);
        }
        seats
    }

    fn leave(&mut self, key: Key, seat: SeatId) {
        for freed in self.roster.leave_seat(key, seat) {
            self.audiences.set_aside(freed, false);
        }
    }

    fn feed(&mut self, key: Key, seat: SeatId, page: Page, reply: oneshot::Sender<Fed>) {
        let format = self.roster.spot_of(key, seat).and_then(|spot| self.audiences.format_at(spot));
        match format {
            Some(format) => self.roster.feed(key, seat, format, page, reply),
            None => drop(reply.send(Fed::Gone)),
        }
    }

    /// Whether it was stopped and has ended what was to end.
    fn is_done(&self) -> bool {
        self.stopping.is_some_and(|deadline| self.roster.is_empty() || Time::now() >= deadline)
    }
}

impl Drop for Shard {
    fn drop(&mut self) {
        self.roster.end_all();
        self.audiences.tidy(&mut self.roster);
        self.inbox.connections.store(0, Ordering::Relaxed);
        self.inbox.closing.store(0, Ordering::Relaxed);
    }
}

/// Closes the inbox when the thread ends.
struct CloseOnDrop(Arc<Inbox>);

impl Drop for CloseOnDrop {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// The set of one shard.
fn bit(number: usize) -> Shards {
    1 << number
}
