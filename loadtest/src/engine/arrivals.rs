//! Connections that are due, and those that come back.

use std::{io::ErrorKind, sync::Arc, time::Duration};

use jsonwebtoken::EncodingKey;
use mio::Registry;
use rustls::ClientConfig;

use crate::{
    audit::Subscriber,
    channels::Chooser,
    clock::Time,
    control::{Event, OpenPlan},
    engine::{
        connection::{Connection, Phase},
        opening,
        stream::Stream,
        subscribers::{Subscribers, reason},
    },
    stamp::Scan,
    wire::Wire,
};

/// How long one who was sent away waits before it comes back, in steps by its number, so that not all come at once.
const PAUSE: Duration = Duration::from_millis(50);
const PAUSES: u64 = 20;

/// The same for one who was told to come back: a second, and each time up to twice as long, until it is half a minute. The
/// nodes have enough to do.
const TOLD: Duration = Duration::from_secs(1);
const DOUBLINGS: u16 = 5;

impl Subscribers {
    /// Begins to open the connections of a plan, in addition to those there are.
    pub(super) fn open(&mut self, plan: OpenPlan, tls: Option<Arc<ClientConfig>>) {
        let now = Time::now();
        let mut chooser = Chooser::new(&plan.channels, u64::from(plan.first));
        let first = self.connections.len();
        self.connections.extend((0..plan.count).map(|number| Connection {
            stream: None,
            wire: Wire::Plain,
            scan: Scan::default(),
            subscriber: Subscriber::default(),
            due: now,
            channel: chooser.next(),
            phase: Phase::Away,
            away: false,
            // Spread evenly, so that every channel has its share of them.
            stalled: (number + 1) * plan.stalled_percent / 100 > number * plan.stalled_percent / 100,
            silent: false,
            tries: 0,
        }));
        self.opening.first = first;
        self.opening.next = first;
        self.opening.until = self.connections.len();
        self.opening.begun = now;
        self.opening.deadline = now + plan.patience;
        self.opening.awaited = true;
        self.key = plan.secret.as_ref().map(|secret| EncodingKey::from_secret(secret.as_bytes()));
        self.tls = tls;
        self.plan = Some(plan);
    }

    /// Lets all connections of the plan break and come back, at a rate or as soon as there is room. Each breaks when it is its
    /// turn: thousands of goodbyes at once would keep this worker from everything else.
    pub(super) fn come_again(&mut self, rate: Option<f64>, pending: u32, patience: Duration) {
        let now = Time::now();
        for (place, index) in (self.opening.first..self.opening.until).enumerate() {
            let due = now + rate.map_or(Duration::ZERO, |rate| Duration::from_secs_f64(place as f64 / rate));
            self.opening.again(due, index);
        }
        self.opening.deadline = now + patience;
        self.opening.awaited = true;
        if let Some(plan) = &mut self.plan {
            plan.pending = pending;
        }
    }

    /// Opens what is due; when the next one is, and the end of the plan once it is reached.
    pub(super) fn open_due(&mut self, now: Time, registry: &Registry) -> (Option<Time>, Option<Event>) {
        let Some(plan) = &self.plan else { return (None, None) };
        let (rate, room) = (plan.rate, plan.pending as usize);
        while self.pending < room {
            let Some((due, index)) = self.opening.take(rate, now) else { break };
            self.break_off(index);
            self.connect(index, due, registry);
        }
        let ended = self.opening.next == self.opening.until && self.pending == 0 && self.opening.again.is_empty();
        if self.opening.awaited && (ended || now >= self.opening.deadline) {
            self.opening.awaited = false;
            self.give_up_pending();
            let event = Event::Opened { open: self.open, failed: std::mem::take(&mut self.failed) };
            return (None, Some(event));
        }
        if self.pending >= room {
            return (Some(self.opening.deadline.max(now + PAUSE)), None);
        }
        let next = [self.opening.next_due(rate), self.opening.next_again()].into_iter().flatten().min();
        (next.or(self.opening.awaited.then_some(self.opening.deadline)), None)
    }

    /// The plan's time is over: what is not open by now has failed.
    fn give_up_pending(&mut self) {
        for index in self.opening.first..self.opening.until {
            if matches!(self.connections[index].phase, Phase::Asking | Phase::Confirming) {
                self.fail(index, "no answer in time".into());
            }
        }
        for _ in self.opening.next..self.opening.until {
            *self.failed.entry("not begun in time".into()).or_default() += 1;
        }
        self.opening.next = self.opening.until;
        if self.plan.as_ref().is_some_and(|plan| !plan.reconnect) {
            for _ in self.opening.again.drain() {
                *self.failed.entry("not back in time".into()).or_default() += 1;
            }
        }
    }

    fn connect(&mut self, index: usize, due: Time, registry: &Registry) {
        let plan = self.plan.as_ref().expect("only what was planned is opened");
        let connection = &mut self.connections[index];
        let target = plan.targets[(plan.first as usize + index + usize::from(connection.tries)) % plan.targets.len()];
        connection.tries = connection.tries.wrapping_add(1);
        connection.due = due;
        connection.phase = Phase::Asking;
        connection.scan = Scan::default();
        self.pending += 1;
        let outcome = opening::connect(plan, target, index, connection.stalled).and_then(|socket| {
            let mut stream = Stream::new(socket, target, self.tls.as_ref())?;
            let number = plan.first + index as u32;
            let request = opening::request(plan, target, connection.channel, number, self.key.as_ref());
            // On loopback a connection often stands before `connect` returns.
            connection.silent = match stream.send(&request) {
                Ok(()) => false,
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::NotConnected) => true,
                Err(error) => return Err(error),
            };
            opening::register(registry, stream.socket(), index, connection.silent)?;
            connection.stream = Some(stream);
            Ok(())
        });
        if let Err(error) = outcome {
            self.fail(index, reason(&error).into());
        }
    }

    /// Sends the request that could not be sent at once.
    pub(super) fn ask(&mut self, index: usize) {
        let plan = self.plan.as_ref().expect("only what was planned is opened");
        let connection = &mut self.connections[index];
        let Some(stream) = &mut connection.stream else { return };
        let target = stream.socket().peer_addr().unwrap_or(plan.targets[0]);
        let number = plan.first + index as u32;
        let request = opening::request(plan, target, connection.channel, number, self.key.as_ref());
        match stream.send(&request) {
            Ok(()) => connection.silent = false,
            Err(error) => self.fail(index, reason(&error).into()),
        }
    }

    pub(super) fn come_back(&mut self, index: usize) {
        let pause = PAUSE * (1 + (index as u64 % PAUSES)) as u32;
        self.opening.again(Time::now() + pause, index);
    }

    pub(super) fn come_back_as_told(&mut self, index: usize) {
        let tries = self.connections[index].tries.saturating_sub(1).min(DOUBLINGS);
        let pause = (TOLD * (1 << tries)).mul_f64(rand::random_range(0.5..=1.0));
        self.opening.again(Time::now() + pause, index);
    }
}
