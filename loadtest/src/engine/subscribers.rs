//! All subscribers of a worker.

use std::{
    collections::{BTreeMap, HashMap},
    io::{self, Read},
    time::Duration,
};

use jsonwebtoken::EncodingKey;
use mio::{Interest, Registry, Token, event::Event as Readiness};

use crate::{
    audit::{Audit, Subscriber},
    channels::Chooser,
    clock::Time,
    control::{Door, Event, OpenPlan, WorkerReport},
    engine::{
        connection::{Connection, Counts, Ear, Phase},
        opening::{self, Opening},
    },
    latency::{Latency, Sparse},
    stamp::Scan,
    wire::{Chunks, Frames, Head, KEY, Wire, accept_of, write_frame},
};

/// What one read takes at most: more than most sockets ever have.
const READ: usize = 256 * 1024;

/// How long one who was sent away waits before it comes back, in steps by its number, so that not all come at once.
const PAUSE: Duration = Duration::from_millis(50);
const PAUSES: u64 = 20;

/// The connections, and what all of them count together.
pub(super) struct Subscribers {
    plan: Option<OpenPlan>,
    key: Option<EncodingKey>,
    accept: String,
    connections: Vec<Connection>,
    opening: Opening,
    open: usize,
    pending: usize,
    /// Heads and first words that have not come whole.
    partial: HashMap<usize, Vec<u8>>,
    buffer: Box<[u8]>,
    reply: Vec<u8>,
    base: u32,
    pub(super) audit: Audit,
    interval: Latency,
    total: Latency,
    connect: Latency,
    counts: Counts,
    opened: u64,
    failed: BTreeMap<String, u64>,
    closed: BTreeMap<String, u64>,
    left: u64,
    broken: u64,
    bytes: u64,
    reads: u64,
}

impl Default for Subscribers {
    fn default() -> Self {
        Self {
            plan: None,
            key: None,
            accept: accept_of(KEY),
            connections: Vec::new(),
            opening: Opening::default(),
            open: 0,
            pending: 0,
            partial: HashMap::new(),
            buffer: vec![0; READ].into_boxed_slice(),
            reply: Vec::new(),
            base: 0,
            audit: Audit::default(),
            interval: Latency::default(),
            total: Latency::default(),
            connect: Latency::default(),
            counts: Counts::default(),
            opened: 0,
            failed: BTreeMap::new(),
            closed: BTreeMap::new(),
            left: 0,
            broken: 0,
            bytes: 0,
            reads: 0,
        }
    }
}

impl Subscribers {
    pub(super) fn len(&self) -> usize {
        self.connections.len()
    }

    pub(super) fn plan(&self) -> Option<&OpenPlan> {
        self.plan.as_ref()
    }

    pub(super) fn open_count(&self) -> usize {
        self.open
    }

    pub(super) fn pending_count(&self) -> usize {
        self.pending
    }

    /// Begins to open the connections of a plan, in addition to those there are.
    pub(super) fn open(&mut self, plan: OpenPlan) {
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
        self.plan = Some(plan);
    }

    /// Opens what is due; when the next one is, and the end of the plan once it is reached.
    pub(super) fn open_due(&mut self, now: Time, registry: &Registry) -> (Option<Time>, Option<Event>) {
        let Some(plan) = &self.plan else { return (None, None) };
        let (rate, room) = (plan.rate, plan.pending as usize);
        while self.pending < room {
            let Some((due, index)) = self.opening.take(rate, now) else { break };
            self.connect(index, due, registry);
        }
        let ended = self.opening.next == self.opening.until && self.pending == 0 && self.opening.again.is_empty();
        if self.opening.awaited && (ended || now >= self.opening.deadline) {
            self.give_up_pending();
            self.opening.awaited = false;
            let event = Event::Opened { open: self.open, failed: std::mem::take(&mut self.failed) };
            return (None, Some(event));
        }
        if self.pending >= room {
            return (Some(self.opening.deadline.max(now + PAUSE)), None);
        }
        let again = self.opening.again.front().map(|(due, _)| *due);
        let next = [self.opening.next_due(rate), again].into_iter().flatten().min();
        (next.or(self.opening.awaited.then_some(self.opening.deadline)), None)
    }

    /// The plan's time is over: what is not open by now has failed.
    fn give_up_pending(&mut self) {
        for index in self.opening.first..self.opening.until {
            if matches!(self.connections[index].phase, Phase::Asking | Phase::Confirming) {
                self.fail(index, "no answer in time");
            }
        }
        for _ in self.opening.next..self.opening.until {
            count(&mut self.failed, "not begun in time");
        }
        self.opening.next = self.opening.until;
    }

    fn connect(&mut self, index: usize, due: Time, registry: &Registry) {
        let plan = self.plan.as_ref().expect("only what was planned is opened");
        let connection = &mut self.connections[index];
        let target = plan.targets[(index + usize::from(connection.tries)) % plan.targets.len()];
        connection.tries = connection.tries.wrapping_add(1);
        connection.due = due;
        connection.phase = Phase::Asking;
        connection.scan = Scan::default();
        self.pending += 1;
        let outcome = opening::connect(plan, target, index, connection.stalled).and_then(|mut stream| {
            let number = plan.first + index as u32;
            let request = opening::request(plan, target, connection.channel, number, self.key.as_ref());
            // On loopback a connection often stands before `connect` returns.
            connection.silent = opening::send(&stream, &request).is_err();
            opening::register(registry, &mut stream, index, connection.silent)?;
            connection.stream = Some(stream);
            Ok(())
        });
        if let Err(error) = outcome {
            self.fail(index, &reason(&error));
        }
    }

    /// Serves a socket that has something.
    pub(super) fn ready(&mut self, index: usize, readiness: &Readiness, registry: &Registry) {
        let connection = &mut self.connections[index];
        let Some(stream) = &connection.stream else { return };
        if connection.silent {
            if let Ok(Some(error)) = stream.take_error() {
                return self.fail(index, &reason(&error));
            }
            if readiness.is_writable() {
                self.ask(index);
            }
        }
        let connection = &self.connections[index];
        if connection.stalled && connection.phase == Phase::Open {
            return;
        }
        self.read(index, registry);
    }

    /// Sends the request that could not be sent at once.
    fn ask(&mut self, index: usize) {
        let plan = self.plan.as_ref().expect("only what was planned is opened");
        let connection = &mut self.connections[index];
        let Some(stream) = &connection.stream else { return };
        let target = stream.peer_addr().unwrap_or(plan.targets[0]);
        let number = plan.first + index as u32;
        let request = opening::request(plan, target, connection.channel, number, self.key.as_ref());
        match opening::send(stream, &request) {
            Ok(()) => connection.silent = false,
            Err(error) => self.fail(index, &reason(&error)),
        }
    }

    fn read(&mut self, index: usize, registry: &Registry) {
        // The buffer is lent out so that the rest of `self` can be used beside it.
        let mut buffer = std::mem::take(&mut self.buffer);
        while let Some(mut stream) = self.connections[index].stream.as_ref() {
            match stream.read(&mut buffer) {
                Ok(0) => self.end(index, "ended without a goodbye"),
                Ok(length) => {
                    self.reads += 1;
                    self.bytes += length as u64;
                    self.heard(index, &buffer[..length], registry);
                    // A short read has emptied the socket, and the poll tells of whatever comes next.
                    if length < buffer.len() {
                        break;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => self.end(index, &reason(&error)),
            }
        }
        self.buffer = buffer;
    }

    fn heard(&mut self, index: usize, bytes: &[u8], registry: &Registry) {
        match self.connections[index].phase {
            Phase::Away => {}
            Phase::Open => self.listen(index, bytes, false),
            Phase::Asking => self.head(index, bytes, registry),
            Phase::Confirming => self.confirm(index, bytes, registry),
        }
    }

    /// Takes data; `keep` also puts it aside to be searched for the confirmation.
    fn listen(&mut self, index: usize, bytes: &[u8], keep: bool) {
        let plan = self.plan.as_ref().expect("only what was planned is opened");
        let connection = &mut self.connections[index];
        let mut ear = Ear {
            scan: &mut connection.scan,
            subscriber: &mut connection.subscriber,
            away: &mut connection.away,
            channel: connection.channel,
            now: Time::now(),
            payload: plan.payload as usize,
            base: self.base,
            clock_offset: plan.clock_offset,
            answer: plan.handshake.answer.as_ref(),
            audit: &mut self.audit,
            latency: &mut self.interval,
            counts: &mut self.counts,
            frames: plan.door == Door::WebSocket,
            reply: &mut self.reply,
            closed: None,
            heard: if keep { Some(self.partial.entry(index).or_default()) } else { None },
        };
        let outcome = ear.listen(&mut connection.wire, bytes);
        let closed = ear.closed;
        if !self.reply.is_empty() {
            // One that does not take a pong is noticed when the server hangs up.
            let _ = connection.stream.as_ref().map(|stream| opening::send(stream, &self.reply));
            self.reply.clear();
        }
        match (outcome, closed) {
            (Err(broken), _) => self.end(index, broken.0),
            (Ok(()), Some(code)) => self.end(index, &format!("close code {code}")),
            (Ok(()), None) => {}
        }
    }

    /// Takes a piece of the answer's head.
    fn head(&mut self, index: usize, bytes: &[u8], registry: &Registry) {
        let earlier = self.partial.remove(&index);
        let whole = earlier.map(|mut earlier| {
            earlier.extend_from_slice(bytes);
            earlier
        });
        let bytes = whole.as_deref().unwrap_or(bytes);
        let head = match Head::read(bytes) {
            Err(broken) => return self.fail(index, broken.0),
            Ok(None) => {
                self.partial.insert(index, bytes.to_owned());
                return;
            }
            Ok(Some(head)) => head,
        };
        let plan = self.plan.as_ref().expect("only what was planned is opened");
        let wire = match (plan.door, head.status) {
            (Door::WebSocket, 101) if head.accept.as_ref() == Some(&self.accept) => Wire::Frames(Frames::default()),
            (Door::WebSocket, 101) => return self.fail(index, "a wrong Sec-WebSocket-Accept"),
            (Door::EventStream, 200) if head.chunked => Wire::Chunks(Chunks::default()),
            (Door::EventStream, 200) => Wire::Plain,
            (_, status) => return self.fail(index, &format!("status {status}")),
        };
        let connection = &mut self.connections[index];
        connection.wire = wire;
        let number = plan.first + index as u32;
        for message in &plan.handshake.after_open {
            let text = opening::fill(message, plan, connection.channel, number, "");
            write_frame(1, text.as_bytes(), &mut self.reply);
        }
        let sent = connection.stream.as_ref().map(|stream| opening::send(stream, &self.reply));
        if let (false, Some(Err(error))) = (self.reply.is_empty(), sent) {
            self.reply.clear();
            return self.fail(index, &reason(&error));
        }
        self.reply.clear();
        connection.phase = Phase::Confirming;
        self.confirm(index, &bytes[head.length..], registry);
    }

    /// Listens for the confirmation where there is to be one.
    fn confirm(&mut self, index: usize, bytes: &[u8], registry: &Registry) {
        let plan = self.plan.as_ref().expect("only what was planned is opened");
        let Some(confirm) = plan.handshake.confirm.clone() else {
            self.opened(index, registry);
            if !bytes.is_empty() {
                self.listen(index, bytes, false);
            }
            return;
        };
        self.listen(index, bytes, true);
        let heard =
            self.partial.get(&index).is_some_and(|text| memchr::memmem::find(text, confirm.as_bytes()).is_some());
        if heard && self.connections[index].phase == Phase::Confirming {
            self.partial.remove(&index);
            self.opened(index, registry);
        }
    }

    fn opened(&mut self, index: usize, registry: &Registry) {
        let connection = &mut self.connections[index];
        connection.phase = Phase::Open;
        self.pending -= 1;
        self.open += 1;
        self.opened += 1;
        self.connect.record(Time::now().since(connection.due));
        if connection.stalled
            && let Some(stream) = &mut connection.stream
        {
            // It is told no more of what it could read.
            let _ = registry.reregister(stream, Token(index), Interest::WRITABLE);
        }
    }

    /// A connection that did not come to stand.
    fn fail(&mut self, index: usize, why: &str) {
        count(&mut self.failed, why);
        self.partial.remove(&index);
        let connection = &mut self.connections[index];
        connection.stream = None;
        connection.phase = Phase::Away;
        self.pending -= 1;
        let reconnect = self.plan.as_ref().is_some_and(|plan| plan.reconnect);
        if reconnect {
            self.come_back(index);
        }
    }

    /// A connection that stood is gone.
    fn end(&mut self, index: usize, why: &str) {
        if self.connections[index].phase != Phase::Open {
            if self.connections[index].phase != Phase::Away {
                self.fail(index, why);
            }
            return;
        }
        count(&mut self.closed, why);
        self.hang_up(index);
        if self.plan.as_ref().is_some_and(|plan| plan.reconnect) {
            self.come_back(index);
        }
    }

    fn come_back(&mut self, index: usize) {
        let pause = PAUSE * (1 + (index as u64 % PAUSES)) as u32;
        self.opening.again(Time::now() + pause, index);
    }

    fn hang_up(&mut self, index: usize) {
        let connection = &mut self.connections[index];
        if connection.phase == Phase::Open {
            self.open -= 1;
        }
        connection.phase = Phase::Away;
        connection.away = true;
        abort(connection);
    }

    /// A subscriber leaves for good, and another one joins in its place.
    pub(super) fn replace(&mut self, index: usize, channel: u32, now: Time) {
        if self.connections.get(index).is_none_or(|connection| connection.phase != Phase::Open) {
            return;
        }
        self.hang_up(index);
        self.left += 1;
        let connection = &mut self.connections[index];
        connection.subscriber = Subscriber::default();
        connection.away = false;
        connection.channel = channel;
        self.opening.again(now, index);
    }

    /// A connection breaks, and its subscriber comes back at once.
    pub(super) fn break_off(&mut self, index: usize, now: Time) {
        if self.connections.get(index).is_none_or(|connection| connection.phase != Phase::Open) {
            return;
        }
        self.hang_up(index);
        self.broken += 1;
        self.opening.again(now, index);
    }

    /// Counts anew: whoever is there is owed everything from this number on.
    pub(super) fn begin(&mut self, base: u32) {
        self.base = base;
        for connection in &mut self.connections {
            connection.away = false;
            connection.subscriber = Subscriber::from(base);
        }
        self.audit = Audit::default();
        self.interval.clear();
        self.total.clear();
        self.counts = Counts::default();
        self.closed.clear();
        (self.left, self.broken, self.bytes, self.reads) = (0, 0, 0, 0);
    }

    /// Whether all who read and are connected have what was published.
    pub(super) fn are_up_to(&self, published: &[u32]) -> bool {
        self.pending == 0
            && self.opening.again.is_empty()
            && self
                .connections
                .iter()
                .filter(|connection| connection.phase == Phase::Open && !connection.stalled)
                .all(|connection| connection.subscriber.is_up_to(published_to(published, connection.channel)))
    }

    /// Latencies since this was last asked.
    pub(super) fn take_interval(&mut self) -> Sparse {
        let sparse = self.interval.sparse();
        self.total.add(&self.interval);
        self.interval.clear();
        sparse
    }

    pub(super) fn report(&mut self, published: &[u32]) -> WorkerReport {
        self.take_interval();
        for connection in self.connections.iter_mut().filter(|connection| !connection.stalled) {
            let away = connection.away || connection.phase != Phase::Open;
            connection.subscriber.end(published_to(published, connection.channel), away, &mut self.audit);
        }
        WorkerReport {
            open: self.open,
            opened: self.opened,
            failed: std::mem::take(&mut self.failed),
            closed: self.closed.clone(),
            left: self.left,
            broken: self.broken,
            audit: self.audit,
            bytes: self.bytes,
            reads: self.reads,
            pings: self.counts.pings,
            from_the_future: self.counts.from_the_future,
            latency: self.total.sparse(),
            connect: self.connect.sparse(),
        }
    }

    pub(super) fn close_all(&mut self) {
        self.connections.iter_mut().for_each(abort);
        *self = Self { buffer: std::mem::take(&mut self.buffer), ..Self::default() };
    }
}

/// Closes with a reset, which leaves no port waiting: thousands of them would soon be all there are.
fn abort(connection: &mut Connection) {
    if let Some(stream) = connection.stream.take() {
        // Where it cannot be set, the port waits for its minute.
        let _ = socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO));
    }
}

fn published_to(published: &[u32], channel: u32) -> u32 {
    published.get(channel as usize).copied().unwrap_or_default()
}

fn count(counts: &mut BTreeMap<String, u64>, what: &str) {
    match counts.get_mut(what) {
        Some(count) => *count += 1,
        None => _ = counts.insert(what.to_owned(), 1),
    }
}

/// An error in a few words, the same for all that have it.
fn reason(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "refused".to_owned(),
        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => "reset".to_owned(),
        io::ErrorKind::AddrNotAvailable | io::ErrorKind::AddrInUse => {
            "no source port is free: widen net.ipv4.ip_local_port_range".to_owned()
        }
        _ if error.raw_os_error() == Some(EMFILE) => {
            "no descriptor is free: raise `ulimit -n` or use more --workers".to_owned()
        }
        kind => kind.to_string(),
    }
}

/// "Too many open files" on Linux.
const EMFILE: i32 = 24;
