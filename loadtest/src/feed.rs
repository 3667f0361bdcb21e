//! The publisher: sends stamped messages when they are due, whatever becomes of those before.

mod link;
mod speech;

use std::{collections::BTreeMap, time::Duration};

use mio::Registry;

use crate::{
    channels::{Chooser, Numbers},
    clock::Time,
    control::{FeedPlan, Pace, Published},
    feed::link::{Link, Tally},
    stamp::Stamp,
};

/// A message that has not been sent yet.
#[derive(Debug, Clone, Copy)]
struct Due {
    channel: u32,
    intended: Time,
}

/// How long a window may stand still before it is opened by force: then something was lost.
const STALL: Duration = Duration::from_secs(1);

/// How long acknowledgements are waited for at the end.
const LINGER: Duration = Duration::from_secs(10);

/// Publishes what its plan says.
pub(crate) struct Feed {
    plan: FeedPlan,
    links: Vec<Link>,
    chooser: Chooser,
    numbers: Numbers,
    begun: Time,
    until: Time,
    sent: u64,
    tally: Tally,
    window: Window,
    payload: Vec<u8>,
    over: bool,
}

/// What is known of the messages that are under way.
#[derive(Debug, Default)]
struct Window {
    /// Deliveries that had been counted when the feed began.
    before: Option<u64>,
    /// Deliveries that are given up.
    given_up: u64,
    last: u64,
    moved: Time,
    stalls: u64,
}

impl Feed {
    /// Connects; tokens of its sockets begin at `tokens`.
    pub(crate) fn start(plan: FeedPlan, registry: &Registry, tokens: usize) -> Result<Self, String> {
        let count = plan.connections.max(1) as usize;
        let links = (0..count).map(|number| {
            let target = plan.targets[number % plan.targets.len()];
            Link::connect(target, &plan, registry, tokens + number)
                .map_err(|error| format!("cannot publish to {target}: {error}"))
        });
        let now = Time::now();
        Ok(Self {
            links: links.collect::<Result<_, _>>()?,
            chooser: Chooser::new(&plan.channels, 0),
            numbers: Numbers::new(&plan.channels, plan.base),
            begun: now,
            until: now + plan.duration,
            sent: 0,
            tally: Tally::default(),
            window: Window { moved: now, ..Window::default() },
            payload: Vec::new(),
            over: false,
            plan,
        })
    }

    pub(crate) fn published(&self) -> u64 {
        self.sent
    }

    /// Publishes no more.
    pub(crate) fn stop(&mut self) {
        self.until = self.until.min(Time::now());
    }

    /// Serves one of its sockets.
    pub(crate) fn ready(&mut self, link: usize) {
        if let Some(link) = self.links.get_mut(link) {
            link.receive(&mut self.tally);
            link.flush(&mut self.tally);
        }
    }

    /// Sends what is due, and says when the next message is; `delivered` is what this worker's subscribers have got so far.
    pub(crate) fn due(&mut self, now: Time, delivered: u64) -> Option<Time> {
        // What was due before the end is published, however late: leaving it out would flatter a server that stood still.
        let rated = matches!(self.plan.pace, Pace::Rate(_));
        let next = if now < self.until || rated { Some(self.publish(now, delivered)) } else { None };
        let next = next.filter(|_| now < self.until);
        for link in &mut self.links {
            link.flush(&mut self.tally);
        }
        if next.is_none() {
            let waiting = self.links.iter().any(Link::is_busy);
            self.over = !waiting || now >= self.until + LINGER;
            return Some(if self.over { now } else { now + Duration::from_millis(5) });
        }
        next
    }

    fn publish(&mut self, now: Time, delivered: u64) -> Time {
        let batch = u64::from(self.plan.batch.max(1));
        match self.plan.pace {
            Pace::Rate(rate) => loop {
                let due = self.begun + Duration::from_secs_f64(self.sent as f64 / rate);
                if due > now || due >= self.until {
                    return due.min(self.until);
                }
                self.emit(batch, due);
            },
            Pace::Window { messages, fan } => {
                let mut room = self.room(now, delivered, messages, fan);
                while room >= batch && self.links.iter().all(Link::has_room) {
                    self.emit(batch, now);
                    room -= batch;
                }
                self.until.min(self.window.moved.max(self.begun) + STALL)
            }
        }
    }

    /// How many more messages may be under way.
    fn room(&mut self, now: Time, delivered: u64, messages: u32, fan: u32) -> u64 {
        let fan = u64::from(fan.max(1));
        let arrived = delivered - *self.window.before.get_or_insert(delivered);
        let window = &mut self.window;
        if arrived != window.last {
            window.last = arrived;
            window.moved = now;
        } else if now.since(window.moved) >= STALL && self.sent * fan > arrived + window.given_up {
            window.given_up = self.sent * fan - arrived;
            window.moved = now;
            window.stalls += 1;
        }
        let under_way = (self.sent * fan).saturating_sub(arrived + window.given_up);
        u64::from(messages).saturating_sub(under_way.div_ceil(fan))
    }

    /// Hands messages to the connection of their channel.
    fn emit(&mut self, count: u64, intended: Time) {
        let late = Time::now().since(intended);
        let mut batch = Vec::new();
        for _ in 0..count {
            let due = Due { channel: self.chooser.next(), intended };
            self.sent += 1;
            self.tally.lateness.record(late);
            if count == 1 {
                let link = due.channel as usize % self.links.len();
                self.hand_over(link, &[due]);
            } else {
                batch.push(due);
            }
        }
        if !batch.is_empty() {
            self.hand_over(0, &batch);
        }
    }

    fn hand_over(&mut self, link: usize, messages: &[Due]) {
        let link = &mut self.links[link];
        link.begin();
        for message in messages {
            let number = self.numbers.take(message.channel);
            let stamp = Stamp { channel: message.channel, number, intended: message.intended };
            self.payload.clear();
            stamp.write(self.plan.payload as usize, &mut self.payload);
            link.add(&self.plan.channels.name(message.channel), &self.payload);
        }
        link.complete(messages[0].intended, messages.len());
    }

    /// What was published, once all of it is and the acknowledgements are there.
    pub(crate) fn finished(&mut self) -> Option<Published> {
        self.over.then(|| {
            let mut errors: BTreeMap<String, u64> = std::mem::take(&mut self.tally.errors);
            let silent: usize = self.links.iter().map(Link::unanswered).sum();
            if silent > 0 {
                errors.insert("no acknowledgement in time".to_owned(), silent as u64);
            }
            Published {
                numbers: std::mem::take(&mut self.numbers),
                messages: self.sent,
                errors,
                lateness: self.tally.lateness.sparse(),
                acknowledged: self.tally.acknowledged.sparse(),
                seconds: self.until.seconds_since(self.begun),
                stalls: self.window.stalls,
            }
        })
    }
}
