//! One connection of the publisher: what is to be sent, what is sent and not yet acknowledged.

use std::{
    collections::{BTreeMap, VecDeque},
    io::{self, Read, Write},
    net::SocketAddr,
};

use mio::{Interest, Registry, Token, net::TcpStream};

use crate::{
    clock::Time,
    control::FeedPlan,
    feed::speech::{Answer, Speech},
    latency::Latency,
};

/// What all connections count together.
#[derive(Default)]
pub(super) struct Tally {
    pub(super) lateness: Latency,
    pub(super) acknowledged: Latency,
    pub(super) errors: BTreeMap<String, u64>,
}

impl Tally {
    fn error(&mut self, what: &str) {
        *self.errors.entry(what.to_owned()).or_default() += 1;
    }
}

/// Bytes that may be written at once where nothing is acknowledged: what a socket takes without a wait.
const MOST: usize = 64 * 1024;

/// One connection.
pub(super) struct Link {
    stream: TcpStream,
    speech: Speech,
    /// Requests that wait for room, in bytes, with when each was due.
    waiting: VecDeque<(usize, Time)>,
    queued: Vec<u8>,
    /// How much of `queued` may go out, and how much has.
    released: usize,
    written: usize,
    /// Requests that are not acknowledged yet.
    asked: VecDeque<Time>,
    depth: usize,
    received: Vec<u8>,
    building: usize,
    broken: bool,
}

impl Link {
    pub(super) fn connect(target: SocketAddr, plan: &FeedPlan, registry: &Registry, token: usize) -> io::Result<Self> {
        // One connection at the start may block; all that follows does not.
        let stream = std::net::TcpStream::connect(target)?;
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        let mut stream = TcpStream::from_std(stream);
        registry.register(&mut stream, Token(token), Interest::READABLE | Interest::WRITABLE)?;
        let speech = Speech::new(&plan.via, target, plan.batch);
        let mut queued = Vec::new();
        speech.greet(&mut queued);
        let released = queued.len();
        Ok(Self {
            stream,
            speech,
            waiting: VecDeque::new(),
            queued,
            released,
            written: 0,
            asked: VecDeque::new(),
            depth: plan.depth.max(1) as usize,
            received: Vec::new(),
            building: 0,
            broken: false,
        })
    }

    /// Begins a request.
    pub(super) fn begin(&mut self) {
        self.building = self.queued.len();
        self.speech.begin();
    }

    /// Adds a message to it.
    pub(super) fn add(&mut self, channel: &str, payload: &[u8]) {
        self.speech.add(channel, payload, &mut self.queued);
    }

    /// It is complete, and was due then.
    pub(super) fn complete(&mut self, intended: Time, messages: usize) {
        self.speech.complete(&mut self.queued);
        // A batch is one request over HTTP, and one for each message on a bus.
        let requests = if self.speech.joins() { 1 } else { messages };
        let length = self.queued.len() - self.building;
        for request in 0..requests {
            let bytes = if request + 1 == requests { length } else { 0 };
            self.waiting.push_back((bytes, intended));
        }
    }

    /// Whether another request would go out with those that are to go out now.
    pub(super) fn has_room(&self) -> bool {
        let fits = self.queued.len() - self.written < MOST;
        fits && (!self.speech.acknowledges() || self.waiting.len() + self.asked.len() < self.depth)
    }

    pub(super) fn is_busy(&self) -> bool {
        !self.broken && (!self.waiting.is_empty() || !self.asked.is_empty() || self.written < self.queued.len())
    }

    /// Requests without an answer.
    pub(super) fn unanswered(&self) -> usize {
        self.waiting.len() + self.asked.len()
    }

    /// Lets go what has room, and writes what it can.
    pub(super) fn flush(&mut self, tally: &mut Tally) {
        if self.broken {
            return;
        }
        while self.asked.len() < self.depth
            && let Some((bytes, due)) = self.waiting.pop_front()
        {
            self.released += bytes;
            if self.speech.acknowledges() {
                self.asked.push_back(due);
            }
        }
        while self.written < self.released {
            match self.stream.write(&self.queued[self.written..self.released]) {
                Ok(length) => self.written += length,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) => return self.break_off(&error.kind().to_string(), tally),
            }
        }
        if self.written == self.queued.len() && self.written > 0 {
            self.queued.clear();
            (self.released, self.written) = (0, 0);
        }
    }

    /// Reads answers.
    pub(super) fn receive(&mut self, tally: &mut Tally) {
        let mut piece = [0; 64 * 1024];
        while !self.broken {
            match self.stream.read(&mut piece) {
                Ok(0) => self.break_off("the way in hung up", tally),
                Ok(length) => self.received.extend_from_slice(&piece[..length]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => self.break_off(&error.kind().to_string(), tally),
            }
        }
        let now = Time::now();
        let mut used = 0;
        while let Some((answer, length)) = self.speech.answer(&self.received[used..]) {
            used += length;
            let due = if matches!(answer, Answer::Ping) { None } else { self.asked.pop_front() };
            match answer {
                Answer::Taken => tally.acknowledged.record(due.map(|due| now.since(due)).unwrap_or_default()),
                Answer::Refused(why) => tally.error(&why),
                // It goes out before whatever waits, and nothing that waits is half released.
                Answer::Ping => {
                    let pong = b"PONG\r\n";
                    self.queued.splice(self.released..self.released, *pong);
                    self.released += pong.len();
                }
                Answer::Nothing => {
                    if let Some(due) = due {
                        self.asked.push_front(due);
                    }
                }
            }
        }
        self.received.drain(..used);
    }

    fn break_off(&mut self, why: &str, tally: &mut Tally) {
        self.broken = true;
        tally.error(&format!("publisher: {why}"));
    }
}
