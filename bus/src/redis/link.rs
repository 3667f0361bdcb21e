//! The subscriber link: one connection that asks for what the table wants, waits for the server's own acknowledgements,
//! hands on what arrives, notices silence, and begins anew when it is lost.

mod answers;

use std::{
    collections::VecDeque,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use bytes::BytesMut;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, ReadHalf, WriteHalf},
    sync::Notify,
    time::{Instant, MissedTickBehavior, interval, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{
    Shared,
    dial::{Connection, Stream},
    intake::{Echo, Intake},
    target::Target,
    wire,
};
use crate::{
    HostPort, Link,
    backoff::Backoff,
    table::{Order, Reach, Work},
};

/// Subscriptions in one command: few enough that messages get through in between.
const CHUNK: usize = 1_000;
/// Subscriptions that may wait for their acknowledgement, and bytes of commands that may wait to be written.
const IN_FLIGHT: usize = 4 * CHUNK;
const OUT_BYTES: usize = 256 * 1024;
/// How often the link looks whether the server is silent.
const TICK: Duration = Duration::from_millis(500);
/// After how long without a byte the server is asked whether it is there.
const IDLE: Duration = Duration::from_secs(2);
/// How often the server is asked whether it is still the master: a probe's interval.
const ROLE_CHECK: Duration = Duration::from_secs(1);
/// How often refused subscriptions that somebody holds are asked for again: rules change seldom.
const RETRY_REFUSED: Duration = Duration::from_secs(10);

/// One link of a bus; a sharded cluster has several.
pub(crate) struct Subscriber {
    pub(crate) shared: Arc<Shared>,
    pub(crate) lane: u16,
    pub(crate) target: Target,
    pub(crate) echo: Arc<Echo>,
    /// Ends this link alone: its shard is gone.
    pub(crate) retired: CancellationToken,
}

/// Why a connection is given up.
enum Lost {
    /// The bus is closed, or this shard is gone.
    Ended,
    /// Anything else, in words for `Link::Down`.
    Because(String),
}

impl From<String> for Lost {
    fn from(reason: String) -> Self {
        Self::Because(reason)
    }
}

impl Subscriber {
    /// Connects again and again until it is ended.
    pub(crate) async fn run(mut self) {
        let mut backoff = Backoff::new(self.shared.reconnect_max);
        let mut sessions = 0_u64;
        loop {
            let reason = match self.session(&mut backoff, &mut sessions).await {
                Lost::Ended => break,
                Lost::Because(reason) => reason,
            };
            tracing::warn!(lane = self.lane, reason, "the bus link is down");
            self.shared.interests.lock().lost(self.lane);
            self.shared.report(self.lane, Link::Down(Some(reason)));
            self.shared.moved.notify_one();
            tokio::select! {
                () = tokio::time::sleep(backoff.pause()) => {}
                () = self.retired.cancelled() => break,
            }
        }
        self.shared.interests.lock().lost(self.lane);
        self.shared.report(self.lane, Link::Down(Some("closed".to_owned())));
    }

    /// One connection, from the dial to its end.
    async fn session(&mut self, backoff: &mut Backoff, sessions: &mut u64) -> Lost {
        let dialled = tokio::select! {
            dialled = self.target.dial() => dialled,
            () = self.retired.cancelled() => return Lost::Ended,
        };
        let connection = match dialled {
            Ok(connection) => connection,
            Err(error) => return Lost::Because(error.to_string()),
        };
        if *sessions > 0 {
            self.shared.counters.reconnects.fetch_add(1, Relaxed);
        }
        tracing::info!(lane = self.lane, server = %connection.server, "the bus link is connected");
        let (server, asks_itself) = (connection.server.clone(), connection.resp3);
        let mut session = Session::new(self, connection, sessions);
        session.run(backoff, self.target.moved(&server, asks_itself), &self.retired).await
    }
}

/// What the server owes an answer to, in the order of the commands.
enum Owed {
    /// The link's own subject.
    Echo,
    /// An acknowledgement for each from the `done`th on, or one refusal for all.
    Join { orders: Vec<Order>, done: usize },
    /// So many acknowledgements.
    Leave(usize),
    /// A PONG.
    Pong,
    /// What it is.
    Role,
}

struct Session {
    shared: Arc<Shared>,
    lane: u16,
    echo: Arc<Echo>,
    bell: Arc<Notify>,
    reader: ReadHalf<Box<dyn Stream>>,
    writer: WriteHalf<Box<dyn Stream>>,
    /// How the server is called.
    server: HostPort,
    /// When it was asked what it is; `None` where that makes no difference, or cannot be asked on a link.
    asked_role: Option<Instant>,
    intake: Intake,
    out: BytesMut,
    /// TLS may keep what it has encrypted until it is flushed.
    unflushed: bool,
    owed: VecDeque<Owed>,
    joining: usize,
    echo_stands: bool,
    /// All that stood before stands, and this was reported.
    complete: bool,
    last_read: Instant,
    /// Since when the server has owed anything.
    owes_since: Instant,
    refused_since: Option<Instant>,
    /// Something stands again, and missed what was published meanwhile.
    missed: bool,
}

impl Session {
    fn new(subscriber: &Subscriber, connection: Connection, sessions: &mut u64) -> Self {
        let (reader, writer) = tokio::io::split(connection.stream);
        let asks = connection.resp3 && subscriber.target.wants_master();
        *sessions += 1;
        Self {
            shared: subscriber.shared.clone(),
            lane: subscriber.lane,
            echo: subscriber.echo.clone(),
            bell: subscriber.shared.interests.bell(subscriber.lane),
            reader,
            writer,
            server: connection.server,
            asked_role: asks.then(Instant::now),
            intake: Intake::new(connection.input),
            out: BytesMut::new(),
            unflushed: false,
            owed: VecDeque::new(),
            joining: 0,
            echo_stands: false,
            complete: false,
            last_read: Instant::now(),
            owes_since: Instant::now(),
            refused_since: None,
            missed: false,
        }
    }

    /// Until the connection is given up. What the sink was given it has taken by then.
    async fn run(
        &mut self,
        backoff: &mut Backoff,
        moved: impl Future<Output = String>,
        retired: &CancellationToken,
    ) -> Lost {
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut rebuild = self.shared.rebuild.subscribe();
        tokio::pin!(moved);
        let (join, _) = self.words();
        if self.shared.sharded {
            self.echo.set_subject(self.shared.echo_subject(self.lane));
        }
        let subject = [self.echo.subject()];
        self.command(join, &subject, Owed::Echo);
        loop {
            self.fill();
            self.judge(backoff);
            let sending = !self.out.is_empty() || self.unflushed;
            let done = tokio::select! {
                read = self.reader.read_buf(self.intake.room()) => match read {
                    Ok(0) => Err(Lost::Because("the server closed the connection".to_owned())),
                    Ok(_) => self.take().await,
                    Err(error) => Err(Lost::Because(error.to_string())),
                },
                sent = send(&mut self.writer, &mut self.out), if sending => {
                    self.unflushed = false;
                    sent.map_err(|error| Lost::Because(error.to_string()))
                }
                () = self.bell.notified() => Ok(()),
                _ = tick.tick() => self.tick(),
                why = &mut moved => Err(Lost::Because(why)),
                Ok(()) = rebuild.changed() => Err(Lost::Because("it is built anew".to_owned())),
                () = retired.cancelled() => {
                    self.goodbye().await;
                    Err(Lost::Ended)
                }
            };
            if let Err(lost) = done {
                return lost;
            }
        }
    }

    /// Hands on what one read brought, then looks at the answers in it.
    async fn take(&mut self) -> Result<(), Lost> {
        let shared = &self.shared;
        self.intake
            .digest(&shared.subjects, &shared.interests, &self.echo, &shared.questions, &shared.counters)
            .map_err(|error| error.to_string())?;
        if !self.intake.batch.is_empty() {
            shared.sink.deliver(&mut self.intake.batch).await;
            self.intake.batch.clear();
        }
        // Taken after the sink, whose waiting is not the server's silence.
        self.last_read = Instant::now();
        for reply in std::mem::take(&mut self.intake.replies) {
            self.answered(reply)?;
        }
        Ok(())
    }

    /// Asks for what the table wants, as far as there is room.
    fn fill(&mut self) {
        while self.out.len() < OUT_BYTES && self.joining < IN_FLIGHT {
            let work = self.shared.interests.lock().take(self.lane, CHUNK);
            if work.is_empty() {
                return;
            }
            self.ask(work);
        }
    }

    fn ask(&mut self, work: Work) {
        let (below, exact): (Vec<_>, Vec<_>) = work.leave.into_iter().partition(|order| order.reach == Reach::Below);
        let (join, leave) = self.words();
        for (word, orders) in [(leave, exact), ("PUNSUBSCRIBE", below)] {
            for chunk in orders.chunks(self.chunk()) {
                let names: Vec<_> = chunk.iter().map(|order| self.shared.subject(order)).collect();
                self.command(word, &names, Owed::Leave(names.len()));
            }
        }
        let (below, exact): (Vec<_>, Vec<_>) = work.join.into_iter().partition(|order| order.reach == Reach::Below);
        for (word, orders) in [(join, exact), ("PSUBSCRIBE", below)] {
            for chunk in orders.chunks(self.chunk()) {
                self.join(word, chunk.to_vec());
            }
        }
    }

    fn join(&mut self, word: &'static str, orders: Vec<Order>) {
        self.joining += orders.len();
        let names: Vec<_> = orders.iter().map(|order| self.shared.subject(order)).collect();
        self.command(word, &names, Owed::Join { orders, done: 0 });
    }

    fn words(&self) -> (&'static str, &'static str) {
        if self.shared.sharded { ("SSUBSCRIBE", "SUNSUBSCRIBE") } else { ("SUBSCRIBE", "UNSUBSCRIBE") }
    }

    /// Channels of different slots do not go into one sharded command.
    fn chunk(&self) -> usize {
        if self.shared.sharded { 1 } else { CHUNK }
    }

    fn command(&mut self, word: &str, names: &[String], owed: Owed) {
        let words: Vec<_> = std::iter::once(word).chain(names.iter().map(String::as_str)).map(str::as_bytes).collect();
        wire::command(&mut self.out, words.into_iter());
        self.unflushed = true;
        if self.owed.is_empty() {
            self.owes_since = Instant::now();
        }
        self.owed.push_back(owed);
    }

    /// Reports when all that stood before stands again, or no longer does.
    fn judge(&mut self, backoff: &mut Backoff) {
        let resuming = self.shared.interests.lock().resuming(self.lane);
        let complete = self.echo_stands && resuming == 0;
        let resumed = complete && !self.complete;
        if resumed {
            backoff.reset();
        }
        if complete && std::mem::take(&mut self.missed) {
            let missed = self.shared.interests.lock().missed(self.lane);
            if !missed.is_empty() {
                self.shared.sink.gap(&missed);
            }
        }
        if resumed {
            self.shared.report(self.lane, Link::Up);
        } else if self.complete && !complete {
            self.shared.report(self.lane, Link::Down(Some("subscriptions move".to_owned())));
        }
        self.complete = complete;
    }

    fn tick(&mut self) -> Result<(), Lost> {
        let now = Instant::now();
        let quiet_since = self.last_read.max(self.owes_since);
        if !self.owed.is_empty() && now - quiet_since > self.shared.command_timeout {
            return Err(Lost::Because("the server is silent".to_owned()));
        }
        if self.asked_role.is_some_and(|asked| now - asked >= ROLE_CHECK) {
            self.asked_role = Some(now);
            self.command("HELLO", &["3".to_owned()], Owed::Role);
        }
        if self.owed.is_empty() && now - self.last_read > IDLE {
            self.command("PING", &[], Owed::Pong);
        }
        let mut table = self.shared.interests.lock();
        match self.refused_since {
            None if table.refused() > 0 => self.refused_since = Some(now),
            Some(since) if now - since > RETRY_REFUSED => {
                self.refused_since = None;
                table.retry_refused();
            }
            _ => {}
        }
        Ok(())
    }

    /// Says goodbye, if the server is there to hear it.
    async fn goodbye(&mut self) {
        self.command("QUIT", &[], Owed::Pong);
        // Whether it was heard makes no difference any more.
        let _ = timeout(TICK, send(&mut self.writer, &mut self.out)).await;
        let _ = timeout(TICK, self.writer.shutdown()).await;
    }
}

/// Writes all. Cancel safe: what was not written stays in `out`, and flushing twice does no harm.
async fn send(writer: &mut WriteHalf<Box<dyn Stream>>, out: &mut BytesMut) -> std::io::Result<()> {
    while !out.is_empty() {
        writer.write_buf(out).await?;
    }
    writer.flush().await
}
