//! The way out: a connection of its own, on which a message counts as published when the server has taken it.
//!
//! NATS answers a `PUB` only when it refuses it. So each batch is followed by a `PING`, the server's `PONG` says that it
//! has gone through all that was written before, and whatever it refused it has named by then. Everything that waits
//! while a batch is written forms the next one, so that many callers share one round trip. While there is no connection
//! nothing waits: it is answered at once that it was not taken.

mod queue;

use std::{sync::Arc, time::Duration};

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use queue::{Pending, Request};
pub(crate) use queue::{Publisher, Taker};

use super::{
    connection::{Connection, Dialer, Reader, text_of},
    conversation::{Fences, Goal, Outgoing, Pulse, Successor},
    handshake::Info,
    parse::Op,
    refusal::{self, Refusal},
    servers::Server,
    status::{Half, Status},
};
use crate::{BusConfig, Link, backoff::Backoff};

/// What this connection adds to the client's name, so that an operator can tell the two apart.
const SUFFIX: &str = " (publisher)";
/// How many batches may be on their way; what comes meanwhile forms larger ones.
const BATCHES: usize = 8;
/// No more is taken while so many bytes wait to be written.
const OUT_BYTES: usize = 256 * 1024;
/// How many requests are taken at once.
const TAKE: usize = 512;

/// Keeps a connection and serves what the [`Publisher`] is given.
pub(crate) struct Task {
    dialer: Arc<Dialer>,
    status: Arc<Status>,
    requests: mpsc::Receiver<Request>,
    taker: Arc<Taker>,
    closed: CancellationToken,
    command_timeout: Duration,
    reconnect_max: Duration,
}

/// Why a connection is no longer served.
enum End {
    /// It is of no more use, and this is why.
    Lost(String),
    /// Another one takes its place.
    Moved(Box<Connection>),
    /// The bus was closed.
    Closed,
}

impl Task {
    /// The two ends: what takes publications, and the task that sends them.
    pub(crate) fn new(
        dialer: Arc<Dialer>,
        status: Arc<Status>,
        closed: CancellationToken,
        config: &BusConfig,
    ) -> (Publisher, Self) {
        let (publisher, requests) = Publisher::new(config, status.clone());
        let taker = publisher.taker();
        let (command_timeout, reconnect_max) = (config.command_timeout, config.reconnect_max);
        (publisher, Self { dialer, status, requests, taker, closed, command_timeout, reconnect_max })
    }

    /// Runs until the bus is closed.
    pub(crate) async fn run(mut self) {
        let mut backoff = Backoff::new(self.reconnect_max);
        let closed = self.closed.clone();
        let (mut pause, mut next) = (Duration::ZERO, None);
        while !closed.is_cancelled() {
            let connection = match next.take() {
                Some(connection) => connection,
                None => match self.connect(pause, &mut backoff).await {
                    Some(connection) => connection,
                    None => break,
                },
            };
            self.status.set(Half::Publisher, Link::Up);
            tracing::debug!(server = %connection.server.address, "publishing to this NATS server");
            match self.serve(connection, &mut backoff).await {
                End::Moved(connection) => next = Some(*connection),
                End::Closed => break,
                End::Lost(reason) => {
                    tracing::warn!(reason, "the connection for publishing is lost");
                    self.status.set(Half::Publisher, Link::Down(Some(reason)));
                    pause = backoff.pause();
                }
            }
        }
        self.status.set(Half::Publisher, Link::Down(Some("closed".to_owned())));
        self.requests.close();
        while let Some(request) = self.requests.recv().await {
            request.not_taken("the bus is closed");
        }
    }

    /// Tries to connect until it works; answers all who come meanwhile. `None` when the bus was closed.
    async fn connect(&mut self, mut pause: Duration, backoff: &mut Backoff) -> Option<Connection> {
        let (dialer, status, closed) = (self.dialer.clone(), self.status.clone(), self.closed.clone());
        let dial = async {
            loop {
                tokio::time::sleep(pause).await;
                match dialer.dial(SUFFIX).await {
                    Ok(connection) => return connection,
                    Err(error) => status.set(Half::Publisher, Link::Down(Some(error.to_string()))),
                }
                pause = backoff.pause();
            }
        };
        let refuse = async {
            while let Some(request) = self.requests.recv().await {
                request.not_taken("the bus is not connected");
            }
        };
        tokio::select! {
            connection = dial => Some(connection),
            () = refuse => None,
            () = closed.cancelled() => None,
        }
    }

    /// Sends what comes until the connection ends; then everything that was taken is answered.
    async fn serve(&mut self, connection: Connection, backoff: &mut Backoff) -> End {
        let Connection { mut reader, writer, server, info } = connection;
        let mut sending = Sending { out: Outgoing::new(writer), fences: Fences::new(self.command_timeout) };
        let mut leaving = Leaving::default();
        self.note(&info, &server, &mut leaving);
        let end = loop {
            if sending.is_idle()
                && let Some(end) = leaving.end()
            {
                break end;
            }
            match self.step(&mut reader, &mut sending, &mut leaving).await {
                Ok(heard) => {
                    if heard.pong {
                        backoff.reset();
                    }
                    heard.info.iter().for_each(|info| self.note(info, &server, &mut leaving));
                    if heard.pulse {
                        self.stay_together(&server, &mut leaving);
                    }
                }
                Err(reason) => break End::Lost(reason),
            }
        };
        if let End::Lost(reason) = &end {
            self.dialer.servers.avoid(&server.address);
            sending.give_up(reason);
        } else {
            sending.out.shut_down().await;
        }
        end
    }

    /// Waits for one thing to happen and does what it asks for.
    async fn step(
        &mut self,
        reader: &mut Reader,
        sending: &mut Sending,
        leaving: &mut Leaving,
    ) -> Result<Heard, String> {
        let mut taken = Vec::new();
        tokio::select! {
            read = reader.fill() => {
                read.map_err(|error| error.to_string())?;
                sending.fences.heard();
                return sending.take_in(reader);
            }
            written = sending.out.write(), if sending.out.waits() => written.map_err(|error| error.to_string())?,
            count = self.requests.recv_many(&mut taken, TAKE), if sending.has_room() && !leaving.is_decided() => {
                leaving.closing = count == 0;
                sending.queue(taken);
            }
            pulse = sending.fences.pulse() => {
                sending.beat(&pulse)?;
                return Ok(Heard { pulse: true, ..Heard::default() });
            }
            connection = leaving.successor.found() => leaving.moved = Some(Box::new(connection)),
            () = self.closed.cancelled(), if !leaving.closing => leaving.closing = true,
        }
        Ok(Heard::default())
    }

    /// Follows the subscriber link to its server: only there a message that the node publishes after it has
    /// subscribed is sure to come back.
    fn stay_together(&self, server: &Server, leaving: &mut Leaving) {
        match self.dialer.servers.preferred() {
            Some(home) if home != server.address => {
                leaving.successor.seek(&self.dialer, Goal::To(home), SUFFIX, self.reconnect_max);
            }
            Some(_) | None => leaving.successor.stay(),
        }
    }

    /// What the server says about itself.
    fn note(&self, info: &Info, server: &Server, leaving: &mut Leaving) {
        self.taker.limit(info.max_payload);
        self.dialer.servers.learn(server, &info.connect_urls);
        if info.ldm {
            leaving.successor.seek(&self.dialer, Goal::AwayFrom(server.address.clone()), SUFFIX, self.reconnect_max);
        }
    }
}

/// Why a connection that is good will be left once everything on it is answered.
#[derive(Default)]
struct Leaving {
    successor: Successor,
    moved: Option<Box<Connection>>,
    closing: bool,
}

impl Leaving {
    /// Nothing more is taken.
    fn is_decided(&self) -> bool {
        self.closing || self.moved.is_some()
    }

    fn end(&mut self) -> Option<End> {
        if self.closing { Some(End::Closed) } else { self.moved.take().map(End::Moved) }
    }
}

/// What happened and concerns the task.
#[derive(Default)]
struct Heard {
    pong: bool,
    pulse: bool,
    info: Option<Info>,
}

/// One connection's state.
struct Sending {
    out: Outgoing,
    fences: Fences<Vec<Pending>>,
}

impl Sending {
    fn has_room(&self) -> bool {
        self.fences.len() < BATCHES && self.out.bytes.len() < OUT_BYTES
    }

    /// Nothing is on its way.
    fn is_idle(&self) -> bool {
        self.fences.len() == 0 && !self.out.waits()
    }

    /// Writes these into the buffer, with one ping behind them.
    fn queue(&mut self, requests: Vec<Request>) {
        let batch: Vec<_> = requests.into_iter().map(|request| request.write(&mut self.out)).collect();
        if !batch.is_empty() {
            self.fences.push(&mut self.out, batch);
        }
    }

    /// Goes through all that was read.
    fn take_in(&mut self, reader: &mut Reader) -> Result<Heard, String> {
        let mut heard = Heard::default();
        while let Some((op, taken)) = reader.parser.next(&reader.buffer).map_err(|error| error.to_string())? {
            let bytes = reader.buffer.split_to(taken);
            match op {
                Op::Pong => {
                    heard.pong = true;
                    let batch = self.fences.pop().ok_or("the server answers what was not asked")?;
                    batch.into_iter().for_each(Pending::acknowledge);
                }
                Op::Ping => self.out.bytes.extend_from_slice(b"PONG\r\n"),
                Op::Error(text) => self.refused(&bytes[text])?,
                Op::Info(json) => heard.info = serde_json::from_slice(&bytes[json]).ok().or(heard.info),
                // Nothing is subscribed here.
                Op::Ok | Op::Message(_) | Op::Oversize { .. } | Op::Skipped => {}
            }
        }
        Ok(heard)
    }

    /// An error concerns what stands before the oldest ping that is not answered.
    fn refused(&mut self, text: &[u8]) -> Result<(), String> {
        match refusal::read(text) {
            Refusal::Publish(subject) => {
                for pending in self.fences.front().into_iter().flatten() {
                    pending.refuse(&subject);
                }
                Ok(())
            }
            Refusal::Subscribe(_) | Refusal::SomeSubscription | Refusal::Other => {
                Err(format!("the server says: {}", text_of(text)))
            }
        }
    }

    fn beat(&mut self, pulse: &Pulse) -> Result<(), String> {
        match pulse {
            Pulse::Well => Ok(()),
            Pulse::Ask => {
                self.fences.push(&mut self.out, Vec::new());
                Ok(())
            }
            Pulse::Silent => Err("the server does not answer".to_owned()),
        }
    }

    /// Answers everything that is on its way: what was not written completely was surely not taken.
    fn give_up(&mut self, reason: &str) {
        while let Some(batch) = self.fences.pop() {
            for pending in batch {
                pending.lost(self.out.written, reason);
            }
        }
    }
}
