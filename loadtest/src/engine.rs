//! The load itself: one thread, one poll, thousands of sockets. What a worker process runs.
//!
//! A connection is a small record; all read into one shared buffer, and nothing is allocated for a message. So the generator
//! stays cheaper than the servers it measures.

mod alarm;
mod arrivals;
mod churn;
mod connection;
mod handshake;
mod opening;
pub(crate) mod stream;
mod subscribers;

use std::{
    io,
    sync::{Arc, mpsc::Receiver},
    time::Duration,
};

use mio::{Events, Poll, Token, Waker};

use crate::{
    channels::Numbers,
    clock::Time,
    control::{Command, Event, Tick},
    engine::{alarm::Alarm, churn::Churning, subscribers::Subscribers},
    feed::Feed,
};

/// Tokens from here on belong to the publisher's connections.
const FEED: usize = 1 << 40;
const WAKE: Token = Token(usize::MAX);
const ALARM: Token = Token(usize::MAX - 1);

/// How often the coordinator hears how it goes.
const TICK: Duration = Duration::from_millis(250);

/// How often a settled state is looked for: what is late by less is not noticed, and the cost is not either.
const SETTLE: Duration = Duration::from_millis(5);

/// Sockets that are served before timers are looked at again, so that the publisher is punctual.
const EVENTS: usize = 512;

/// Where events go.
pub(crate) type Tell = Box<dyn FnMut(&Event) -> io::Result<()>>;

/// One worker's sockets and what happens to them.
pub(crate) struct Engine {
    poll: Poll,
    alarm: Alarm,
    inbox: Receiver<Command>,
    tell: Tell,
    subscribers: Subscribers,
    churn: Option<Churning>,
    feed: Option<Feed>,
    settling: Option<Settling>,
    next_tick: Time,
}

struct Settling {
    published: Numbers,
    /// Connections before this one have it all.
    complete: usize,
    deadline: Time,
    next: Time,
}

impl Engine {
    /// An engine that takes commands from `inbox`, and the waker that tells it of them.
    pub(crate) fn new(inbox: Receiver<Command>, tell: Tell) -> io::Result<(Self, Arc<Waker>)> {
        let poll = Poll::new()?;
        let waker = Arc::new(Waker::new(poll.registry(), WAKE)?);
        let alarm = Alarm::new(poll.registry(), ALARM)?;
        let next_tick = Time::now() + TICK;
        let subscribers = Subscribers::default();
        Ok((Self { poll, alarm, inbox, tell, subscribers, churn: None, feed: None, settling: None, next_tick }, waker))
    }

    /// Runs until nobody gives commands any more.
    pub(crate) fn run(mut self) -> io::Result<()> {
        let mut events = Events::with_capacity(EVENTS);
        loop {
            let now = Time::now();
            let Some(next) = self.due(now)? else { return Ok(()) };
            // What is due already is done after a look at the sockets.
            let timeout = if next <= now {
                Some(Duration::ZERO)
            } else {
                self.alarm.at(next, now)?;
                None
            };
            match self.poll.poll(&mut events, timeout) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                outcome => outcome?,
            }
            for event in &events {
                match event.token() {
                    WAKE | ALARM => {}
                    Token(token) if token >= FEED => {
                        if let Some(feed) = &mut self.feed {
                            feed.ready(token - FEED);
                        }
                    }
                    Token(token) => self.subscribers.ready(token, event, self.poll.registry()),
                }
            }
        }
    }

    /// Does all that is due, and says when the next thing will be; `None` at the end.
    fn due(&mut self, now: Time) -> io::Result<Option<Time>> {
        loop {
            match self.inbox.try_recv() {
                Ok(command) => self.obey(command)?,
                Err(std::sync::mpsc::TryRecvError::Empty) => break,
                Err(std::sync::mpsc::TryRecvError::Disconnected) => return Ok(None),
            }
        }
        let mut next = self.next_tick;
        let (open_next, opened) = self.subscribers.open_due(now, self.poll.registry());
        next = next.min(open_next.unwrap_or(next));
        if let Some(opened) = opened {
            (self.tell)(&opened)?;
        }
        if let Some(churn) = &mut self.churn {
            next = next.min(churn.due(now, &mut self.subscribers));
        }
        next = next.min(self.feed_due(now)?.unwrap_or(next));
        next = next.min(self.settle_due(now)?.unwrap_or(next));
        if now >= self.next_tick {
            self.next_tick = now + TICK;
            let tick = self.tick();
            (self.tell)(&Event::Tick(Box::new(tick)))?;
        }
        Ok(Some(next))
    }

    fn feed_due(&mut self, now: Time) -> io::Result<Option<Time>> {
        let Some(feed) = &mut self.feed else { return Ok(None) };
        let next = feed.due(now, self.subscribers.audit.delivered);
        if let Some(published) = feed.finished() {
            self.feed = None;
            (self.tell)(&Event::Published(published))?;
        }
        Ok(next)
    }

    fn settle_due(&mut self, now: Time) -> io::Result<Option<Time>> {
        let Some(settling) = &mut self.settling else { return Ok(None) };
        if now < settling.next {
            return Ok(Some(settling.next));
        }
        settling.complete = self.subscribers.up_to(&settling.published, settling.complete);
        let complete = self.subscribers.is_quiet() && settling.complete == self.subscribers.len();
        if complete || now >= settling.deadline {
            self.settling = None;
            (self.tell)(&Event::Settled { complete })?;
            return Ok(None);
        }
        settling.next = now + SETTLE;
        Ok(Some(settling.next))
    }

    fn obey(&mut self, command: Command) -> io::Result<()> {
        match command {
            Command::Clock => (self.tell)(&Event::Clock { now: Time::now() })?,
            Command::Open(plan) => match plan.authorities.as_deref().map(stream::trusting).transpose() {
                Ok(tls) => self.subscribers.open(*plan, tls),
                Err(message) => (self.tell)(&Event::Failed { message })?,
            },
            Command::Again { rate, pending, patience } => self.subscribers.come_again(rate, pending, patience),
            Command::Stall => self.subscribers.stall(self.poll.registry()),
            Command::Begin { base } => {
                self.subscribers.begin(base);
                (self.tell)(&Event::Begun)?;
            }
            Command::Publish(plan) => match Feed::start(*plan, self.poll.registry(), FEED) {
                Ok(feed) => self.feed = Some(feed),
                Err(message) => (self.tell)(&Event::Failed { message })?,
            },
            Command::Churn(churn) => self.churn = Some(Churning::new(churn, &self.subscribers)),
            Command::Stop => {
                self.churn = None;
                if let Some(feed) = &mut self.feed {
                    feed.stop();
                }
            }
            Command::Settle { published, patience } => {
                let now = Time::now();
                self.settling = Some(Settling { published, complete: 0, deadline: now + patience, next: now });
            }
            Command::Report { published } => {
                let report = self.subscribers.report(&published);
                (self.tell)(&Event::Report(Box::new(report)))?;
            }
            Command::Close => {
                self.churn = None;
                self.subscribers.close_all();
                (self.tell)(&Event::Closed)?;
            }
        }
        Ok(())
    }

    fn tick(&mut self) -> Tick {
        let latency = self.subscribers.take_interval();
        Tick {
            open: self.subscribers.open_count(),
            pending: self.subscribers.pending_count(),
            published: self.feed.as_ref().map_or(0, Feed::published),
            delivered: self.subscribers.audit.delivered,
            latency,
        }
    }
}
