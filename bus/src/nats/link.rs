//! The way in: the subscriber link, which keeps a connection, keeps the node's interests standing on it, and hands on
//! what the server sends.
//!
//! NATS answers a `SUB` only when it refuses it. So each chunk of them is followed by a `PING`: the server's `PONG` says that
//! all before it stand but those that it named. One connection answers for itself alone: in a cluster the other servers
//! hear of a subscription a moment later. That is why a node publishes on the same server where it can.

mod intake;
mod probe;
mod session;

use std::{sync::Arc, time::Duration};

use clarion_protocol::Prefix;
use tokio::{
    sync::watch,
    time::{Instant, MissedTickBehavior},
};
use tokio_util::sync::CancellationToken;

pub(crate) use intake::{Counters, Intake};
pub(crate) use probe::Probes;

use session::{LANE, Session};

use super::{
    connection::{Connection, Dialer, Reader},
    conversation::{Goal, Successor},
    log::Subjects,
    servers::Server,
    status::{Half, Status},
};
use crate::{Link, Sink, ask::Questions, backoff::Backoff, table::Interests};

/// This connection bears the client's name as it is.
const SUFFIX: &str = "";
/// How often the server is asked again for what it refused to a link that had it before.
const RETRY: Duration = Duration::from_secs(10);

/// Everything that the link shares with the bus it belongs to.
pub(crate) struct Task {
    pub(crate) dialer: Arc<Dialer>,
    pub(crate) status: Arc<Status>,
    pub(crate) interests: Arc<Interests>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) probes: Arc<Probes>,
    pub(crate) questions: Arc<Questions>,
    pub(crate) sink: Arc<dyn Sink>,
    pub(crate) rebuilds: watch::Receiver<u64>,
    pub(crate) closed: CancellationToken,
    pub(crate) prefix: Prefix,
    pub(crate) subjects: Subjects,
    pub(crate) command_timeout: Duration,
    pub(crate) reconnect_max: Duration,
}

/// Why a connection is no longer served.
enum End {
    Lost(String),
    Moved(Box<Connection>),
    Closed,
}

impl Task {
    /// Runs until the bus is closed.
    pub(crate) async fn run(mut self) {
        let mut backoff = Backoff::new(self.reconnect_max);
        let mut intake =
            Intake::new(self.interests.clone(), self.counters.clone(), self.prefix.clone(), self.subjects.clone());
        let closed = self.closed.clone();
        let (mut first, mut pause, mut next) = (true, Duration::ZERO, None);
        loop {
            let connection = match next.take() {
                Some(connection) => connection,
                None => tokio::select! {
                    connection = self.connect(pause, &mut backoff) => connection,
                    () = closed.cancelled() => break,
                },
            };
            if !first {
                self.counters.reconnected();
            }
            let end = self.serve(connection, &mut intake, &mut backoff).await;
            first = false;
            self.interests.lock().lost(LANE);
            match end {
                End::Closed => break,
                End::Moved(connection) => {
                    self.status.set(Half::Subscriber, Link::Down(Some("moving to another server".to_owned())));
                    next = Some(*connection);
                }
                End::Lost(reason) => {
                    tracing::warn!(reason, "the subscriber link is lost");
                    self.status.set(Half::Subscriber, Link::Down(Some(reason)));
                    pause = backoff.pause();
                }
            }
        }
        self.status.set(Half::Subscriber, Link::Down(Some("closed".to_owned())));
    }

    async fn connect(&self, mut pause: Duration, backoff: &mut Backoff) -> Connection {
        loop {
            tokio::time::sleep(pause).await;
            match self.dialer.dial(SUFFIX).await {
                Ok(connection) => return connection,
                Err(error) => self.status.set(Half::Subscriber, Link::Down(Some(error.to_string()))),
            }
            pause = backoff.pause();
        }
    }

    /// Serves a connection until it ends.
    async fn serve(&mut self, connection: Connection, intake: &mut Intake, backoff: &mut Backoff) -> End {
        let Connection { mut reader, writer, server, info } = connection;
        tracing::debug!(server = %server.address, "subscribing at this NATS server");
        self.dialer.servers.prefer(&server.address);
        self.rebuilds.mark_unchanged();
        let mut session = Session::new(self, writer);
        let mut successor = Successor::default();
        if info.ldm {
            successor.seek(&self.dialer, Goal::AwayFrom(server.address.clone()), SUFFIX, self.reconnect_max);
        }
        let mut retry = tokio::time::interval_at(Instant::now() + RETRY, RETRY);
        retry.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut step = Ok(());
        let end = loop {
            if let Err(reason) = step {
                break End::Lost(reason);
            }
            session.work();
            step = tokio::select! {
                read = reader.fill() => match read {
                    Ok(_) => self.take_in(&mut reader, &mut session, intake, backoff, &mut successor, &server).await,
                    Err(error) => Err(error.to_string()),
                },
                written = session.out.write(), if session.out.waits() => written.map_err(|error| error.to_string()),
                () = session.bell.notified() => {
                    session.work_waits = true;
                    Ok(())
                }
                pulse = session.fences.pulse() => session.beat(&pulse),
                _ = retry.tick() => {
                    self.interests.lock().retry_refused();
                    Ok(())
                }
                Ok(()) = self.rebuilds.changed() => Err("the link is built anew".to_owned()),
                connection = successor.found() => break End::Moved(Box::new(connection)),
                () = self.closed.cancelled() => break End::Closed,
            };
        };
        if let End::Lost(_) = &end {
            self.dialer.servers.avoid(&server.address);
        } else {
            session.out.shut_down().await;
        }
        end
    }

    /// Goes through all that was read, and hands the messages on in one piece.
    async fn take_in(
        &self,
        reader: &mut Reader,
        session: &mut Session,
        intake: &mut Intake,
        backoff: &mut Backoff,
        successor: &mut Successor,
        server: &Server,
    ) -> Result<(), String> {
        let heard = session.read(reader, intake);
        if heard.pong {
            backoff.reset();
        }
        if let Some(info) = heard.info {
            self.dialer.servers.learn(server, &info.connect_urls);
            if info.ldm {
                successor.seek(&self.dialer, Goal::AwayFrom(server.address.clone()), SUFFIX, self.reconnect_max);
            }
        }
        intake.hand_on(&*self.sink, &self.probes, &self.questions).await;
        // While the sink kept us waiting, silence was our own.
        session.fences.heard();
        if let Some(reason) = heard.end {
            return Err(reason);
        }
        session.rise(&*self.sink, &self.status, heard.pong);
        Ok(())
    }
}
