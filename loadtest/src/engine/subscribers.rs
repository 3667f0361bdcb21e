//! All subscribers of a worker.

use std::{
    collections::{BTreeMap, HashMap},
    io::{self, Read},
    sync::Arc,
    time::Duration,
};

use jsonwebtoken::EncodingKey;
use mio::{Registry, event::Event as Readiness};
use rustls::ClientConfig;

use crate::{
    audit::{Audit, Subscriber},
    channels::Numbers,
    clock::Time,
    control::{Door, OpenPlan, WorkerReport},
    engine::{
        connection::{Connection, Counts, Ear, Phase},
        opening::Opening,
    },
    latency::{Latency, Sparse},
    setback::Setback,
    wire::{KEY, accept_of, write_frame},
};

/// What one read takes at most: more than most sockets ever have.
const READ: usize = 256 * 1024;

/// The connections, and what all of them count together.
pub(super) struct Subscribers {
    pub(super) plan: Option<OpenPlan>,
    pub(super) key: Option<EncodingKey>,
    pub(super) tls: Option<Arc<ClientConfig>>,
    pub(super) accept: String,
    pub(super) connections: Vec<Connection>,
    pub(super) opening: Opening,
    pub(super) open: usize,
    pub(super) pending: usize,
    /// Those who are to stall do.
    pub(super) stalling: bool,
    /// Heads and first words that have not come whole.
    pub(super) partial: HashMap<usize, Vec<u8>>,
    buffer: Box<[u8]>,
    pub(super) reply: Vec<u8>,
    base: u32,
    pub(super) audit: Audit,
    interval: Latency,
    total: Latency,
    pub(super) connect: Latency,
    counts: Counts,
    pub(super) opened: u64,
    pub(super) failed: BTreeMap<Setback, u64>,
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
            tls: None,
            accept: accept_of(KEY),
            connections: Vec::new(),
            opening: Opening::default(),
            open: 0,
            pending: 0,
            stalling: false,
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

    /// Serves a socket that has something.
    pub(super) fn ready(&mut self, index: usize, readiness: &Readiness, registry: &Registry) {
        let connection = &mut self.connections[index];
        let Some(stream) = &mut connection.stream else { return };
        if connection.silent {
            if let Ok(Some(error)) = stream.socket().take_error() {
                return self.fail(index, reason(&error).into());
            }
            if readiness.is_writable() {
                self.ask(index);
            }
        }
        let connection = &self.connections[index];
        if self.stalling && connection.stalled && connection.phase == Phase::Open {
            // It does not read; that it is cut off it feels all the same.
            if readiness.is_error() || readiness.is_write_closed() {
                self.end(index, "cut off while it did not read");
            }
            return;
        }
        // The end of a stream that came with its last bytes is told only once, so it is read up to.
        self.read(index, readiness.is_read_closed(), registry);
    }

    fn read(&mut self, index: usize, to_the_end: bool, registry: &Registry) {
        // The buffer is lent out so that the rest of `self` can be used beside it.
        let mut buffer = std::mem::take(&mut self.buffer);
        while let Some(stream) = self.connections[index].stream.as_mut() {
            let to_the_end = to_the_end || stream.is_tls();
            match stream.read(&mut buffer) {
                Ok(0) => self.end(index, "ended without a goodbye"),
                Ok(length) => {
                    self.reads += 1;
                    self.bytes += length as u64;
                    self.heard(index, &buffer[..length], registry);
                    // A short read has emptied the socket, and the poll tells of whatever comes next.
                    if length < buffer.len() && !to_the_end {
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
    pub(super) fn listen(&mut self, index: usize, bytes: &[u8], keep: bool) {
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
            observed: !connection.stalled,
            reply: &mut self.reply,
            closed: None,
            heard: if keep { Some(self.partial.entry(index).or_default()) } else { None },
        };
        let outcome = ear.listen(&mut connection.wire, bytes);
        let closed = ear.closed;
        if !self.reply.is_empty() {
            // One that does not take a pong is noticed when the server hangs up.
            let _ = connection.stream.as_mut().map(|stream| stream.send(&self.reply));
            self.reply.clear();
        }
        match (outcome, closed) {
            (Err(broken), _) => self.end(index, broken.0),
            (Ok(()), Some(code)) => self.end(index, &format!("close code {code}")),
            (Ok(()), None) => {}
        }
    }

    /// A connection that did not come to stand.
    pub(super) fn fail(&mut self, index: usize, why: Setback) {
        let passes = why.passes();
        *self.failed.entry(why).or_default() += 1;
        self.partial.remove(&index);
        let connection = &mut self.connections[index];
        connection.stream = None;
        connection.phase = Phase::Away;
        self.pending -= 1;
        // Who is told to come back does, as clients do, until the time of the plan is over.
        if self.plan.as_ref().is_some_and(|plan| plan.reconnect) {
            self.come_back(index);
        } else if passes && self.opening.awaited {
            self.come_back_as_told(index);
        }
    }

    /// A connection that stood is gone.
    fn end(&mut self, index: usize, why: &str) {
        if self.connections[index].phase != Phase::Open {
            if self.connections[index].phase != Phase::Away {
                self.fail(index, why.into());
            }
            return;
        }
        count(&mut self.closed, why);
        self.hang_up(index);
        if self.plan.as_ref().is_some_and(|plan| plan.reconnect) {
            self.come_back(index);
        }
    }

    /// Closes as a client does who means it; who only vanishes is aborted.
    fn say_goodbye(&mut self, index: usize) {
        let frames = self.plan.as_ref().is_some_and(|plan| plan.door == Door::WebSocket);
        if let Some(mut stream) = self.connections[index].stream.take()
            && frames
        {
            let mut goodbye = Vec::new();
            write_frame(8, &1000_u16.to_be_bytes(), &mut goodbye);
            // A server that does not take it sees the end of the stream all the same.
            let _ = stream.send(&goodbye);
        }
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
        self.say_goodbye(index);
        self.hang_up(index);
        self.left += 1;
        let connection = &mut self.connections[index];
        connection.subscriber = Subscriber::default();
        connection.away = false;
        connection.channel = channel;
        self.opening.again(now, index);
    }

    /// A connection breaks; whether there was one.
    pub(super) fn break_off(&mut self, index: usize) -> bool {
        if self.connections.get(index).is_none_or(|connection| connection.phase != Phase::Open) {
            return false;
        }
        self.hang_up(index);
        self.broken += 1;
        true
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

    /// Nobody is on his way in.
    pub(super) fn is_quiet(&self) -> bool {
        self.pending == 0 && self.opening.again.is_empty()
    }

    /// The first connection from `begin` on that lacks something of what was published, though it reads; who has it all goes
    /// on having it, so that thousands need not be asked again and again.
    pub(super) fn up_to(&self, published: &Numbers, begin: usize) -> usize {
        let lacks = |connection: &Connection| {
            connection.phase == Phase::Open
                && !connection.stalled
                && !connection.subscriber.is_up_to(published.of(connection.channel))
        };
        let found = self.connections[begin..].iter().position(lacks);
        found.map_or(self.connections.len(), |place| begin + place)
    }

    /// Latencies since this was last asked.
    pub(super) fn take_interval(&mut self) -> Sparse {
        let sparse = self.interval.sparse();
        self.total.add(&self.interval);
        self.interval.clear();
        sparse
    }

    pub(super) fn report(&mut self, published: &Numbers) -> WorkerReport {
        self.take_interval();
        for connection in self.connections.iter_mut().filter(|connection| !connection.stalled) {
            let away = connection.away || connection.phase != Phase::Open;
            connection.subscriber.end(published.of(connection.channel), away, &mut self.audit);
        }
        let connect = std::mem::take(&mut self.connect).sparse();
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
            connect,
        }
    }

    pub(super) fn close_all(&mut self) {
        self.connections.iter_mut().for_each(abort);
        *self = Self { buffer: std::mem::take(&mut self.buffer), ..Self::default() };
    }
}

/// Closes with a reset, which leaves no port waiting: thousands of them would soon be all there are.
fn abort(connection: &mut Connection) {
    if let Some(mut stream) = connection.stream.take() {
        // Where it cannot be set, the port waits for its minute.
        let _ = socket2::SockRef::from(&*stream.socket()).set_linger(Some(Duration::ZERO));
    }
}

fn count(counts: &mut BTreeMap<String, u64>, what: &str) {
    match counts.get_mut(what) {
        Some(count) => *count += 1,
        None => _ = counts.insert(what.to_owned(), 1),
    }
}

/// An error in a few words, the same for all that have it.
pub(super) fn reason(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "refused".to_owned(),
        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => "reset".to_owned(),
        io::ErrorKind::AddrNotAvailable | io::ErrorKind::AddrInUse => {
            "no source port is free: widen net.ipv4.ip_local_port_range".to_owned()
        }
        // What TLS says is worth more than its kind.
        io::ErrorKind::InvalidData => error.to_string(),
        _ if error.raw_os_error() == Some(EMFILE) => {
            "no descriptor is free: raise `ulimit -n` or use more --workers".to_owned()
        }
        _ if error.raw_os_error() == Some(ENFILE) => "no file of the machine is free: raise fs.file-max".to_owned(),
        _ if matches!(error.raw_os_error(), Some(ENOMEM | ENOBUFS)) => "the kernel has no memory left".to_owned(),
        kind => kind.to_string(),
    }
}

/// "Too many open files", of the process and of the machine, and no memory, on Linux.
const EMFILE: i32 = 24;
const ENFILE: i32 = 23;
const ENOMEM: i32 = 12;
const ENOBUFS: i32 = 105;
