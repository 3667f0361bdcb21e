//! What both connections have in common once they stand: bytes waiting to be written, the pings that are not
//! answered yet, notice of silence, and moving to another server when this one is leaving.

use std::{collections::VecDeque, io, sync::Arc, time::Duration};

use bytes::{Buf as _, BytesMut};
use tokio::{
    io::{AsyncWriteExt as _, WriteHalf},
    time::{Instant, Interval, MissedTickBehavior},
};
use tokio_util::task::AbortOnDropHandle;

use super::{
    connection::{Connection, Dialer},
    stream::Stream,
};
use crate::{HostPort, backoff::Backoff};

/// After this time without a word the server is asked whether it is still there.
const QUIET: Duration = Duration::from_secs(2);

/// What is to be written. One that is half written stays where it is.
pub(crate) struct Outgoing {
    writer: WriteHalf<Stream>,
    pub(crate) bytes: BytesMut,
    /// Encrypted bytes may wait inside the stream after it has taken ours.
    unflushed: bool,
    /// How many bytes the stream has taken in all.
    pub(crate) written: u64,
}

impl Outgoing {
    pub(crate) fn new(writer: WriteHalf<Stream>) -> Self {
        Self { writer, bytes: BytesMut::new(), unflushed: false, written: 0 }
    }

    /// How many bytes will have been written once all of these are.
    pub(crate) fn end(&self) -> u64 {
        self.written + self.bytes.len() as u64
    }

    /// Whether there is anything to write.
    pub(crate) fn waits(&self) -> bool {
        self.unflushed || !self.bytes.is_empty()
    }

    /// Writes some. Cancel safe: what was not written is still there.
    pub(crate) async fn write(&mut self) -> io::Result<()> {
        if self.bytes.has_remaining() {
            let written = self.writer.write(&self.bytes).await?;
            if written == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            self.bytes.advance(written);
            self.written += written as u64;
            self.unflushed = true;
        } else {
            self.writer.flush().await?;
            self.unflushed = false;
        }
        Ok(())
    }

    /// Says goodbye as far as TCP and TLS have one.
    pub(crate) async fn shut_down(mut self) {
        // The connection is given up either way.
        let _ = self.writer.shutdown().await;
    }
}

/// Pings on their way, each with what its answer will mean. NATS answers in order, after everything written before.
pub(crate) struct Fences<T> {
    waiting: VecDeque<(T, Instant)>,
    heard: Instant,
    patience: Duration,
    tick: Interval,
}

/// What a look at the clock brought.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Pulse {
    /// All is well.
    Well,
    /// Nothing was heard for a while, and nothing was asked: ask.
    Ask,
    /// It was asked and did not answer.
    Silent,
}

impl<T> Fences<T> {
    /// A server that says nothing for `patience` although it was asked counts as gone.
    pub(crate) fn new(patience: Duration) -> Self {
        let mut tick = tokio::time::interval((patience / 4).clamp(Duration::from_millis(10), Duration::from_secs(1)));
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self { waiting: VecDeque::new(), heard: Instant::now(), patience, tick }
    }

    /// Writes a ping whose answer means `meaning`.
    pub(crate) fn push(&mut self, out: &mut Outgoing, meaning: T) {
        out.bytes.extend_from_slice(b"PING\r\n");
        self.waiting.push_back((meaning, Instant::now()));
    }

    /// The server has answered the oldest ping.
    pub(crate) fn pop(&mut self) -> Option<T> {
        self.waiting.pop_front().map(|(meaning, _)| meaning)
    }

    /// What the oldest ping stands for: an error that comes now concerns it.
    pub(crate) fn front(&mut self) -> Option<&mut T> {
        self.waiting.front_mut().map(|(meaning, _)| meaning)
    }

    /// What all pings on their way stand for, oldest first.
    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.waiting.iter_mut().map(|(meaning, _)| meaning)
    }

    /// How many are on their way.
    pub(crate) fn len(&self) -> usize {
        self.waiting.len()
    }

    /// The server has said something, or we were not listening until now.
    pub(crate) fn heard(&mut self) {
        self.heard = Instant::now();
    }

    /// Waits for the next time to look at the clock. Cancel safe.
    pub(crate) async fn pulse(&mut self) -> Pulse {
        let now = self.tick.tick().await;
        match self.waiting.front() {
            Some((_, asked)) if now.duration_since(self.heard.max(*asked)) >= self.patience => Pulse::Silent,
            None if now.duration_since(self.heard) >= QUIET.min(self.patience) => Pulse::Ask,
            Some(_) | None => Pulse::Well,
        }
    }
}

/// A connection to another server, made while the old one still serves.
#[derive(Default)]
pub(crate) struct Successor(Option<(Goal, AbortOnDropHandle<Connection>)>);

/// Which server is sought.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Goal {
    /// Any but this one, which is leaving.
    AwayFrom(HostPort),
    /// This one, where the node's other connection is.
    To(HostPort),
}

impl Goal {
    async fn reach(&self, dialer: &Dialer, suffix: &str) -> Option<Connection> {
        match self {
            Self::AwayFrom(leaving) => {
                dialer.dial(suffix).await.ok().filter(|connection| connection.server.address != *leaving)
            }
            Self::To(address) => dialer.dial_to(address, suffix).await.ok(),
        }
    }
}

impl Successor {
    /// Looks for one until it is found. To get away goes before anything that was sought until now.
    pub(crate) fn seek(&mut self, dialer: &Arc<Dialer>, goal: Goal, suffix: &'static str, max: Duration) {
        match (&self.0, &goal) {
            (Some((sought, _)), _) if *sought == goal => return,
            (Some((Goal::AwayFrom(_), _)), Goal::To(_)) => return,
            (_, Goal::AwayFrom(leaving)) => {
                tracing::info!(server = %leaving, "the NATS server is leaving; looking for another");
                dialer.servers.avoid(leaving);
            }
            (_, Goal::To(_)) => {}
        }
        let (dialer, sought, mut backoff) = (dialer.clone(), goal.clone(), Backoff::new(max));
        let task = tokio::spawn(async move {
            loop {
                if let Some(connection) = sought.reach(&dialer, suffix).await {
                    return connection;
                }
                tokio::time::sleep(backoff.pause()).await;
            }
        });
        self.0 = Some((goal, AbortOnDropHandle::new(task)));
    }

    /// Gives up looking for one to be together with the other connection.
    pub(crate) fn stay(&mut self) {
        if matches!(self.0, Some((Goal::To(_), _))) {
            self.0 = None;
        }
    }

    /// Waits until there is one; for ever when none is sought. Cancel safe.
    pub(crate) async fn found(&mut self) -> Connection {
        if let Some((_, task)) = &mut self.0 {
            let found = task.await;
            self.0 = None;
            if let Ok(connection) = found {
                return connection;
            }
        }
        std::future::pending().await
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::AsyncReadExt as _,
        net::{TcpListener, TcpStream},
    };

    use super::*;

    async fn outgoing() -> (Outgoing, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (far, _) = listener.accept().await.unwrap();
        (Outgoing::new(tokio::io::split(Stream::Plain(near)).1), far)
    }

    #[tokio::test]
    async fn what_is_written_is_counted() {
        let (mut out, mut far) = outgoing().await;
        out.bytes.extend_from_slice(b"abc");
        assert_eq!((out.end(), out.written), (3, 0));
        while out.waits() {
            out.write().await.unwrap();
        }
        assert_eq!((out.end(), out.written), (3, 3));
        let mut read = [0; 3];
        far.read_exact(&mut read).await.unwrap();
        assert_eq!(&read, b"abc");
    }

    #[tokio::test]
    async fn silence_is_asked_about_and_then_believed() {
        let (mut out, _far) = outgoing().await;
        tokio::time::pause();
        let mut fences = Fences::new(Duration::from_secs(4));
        let next = async |fences: &mut Fences<u8>| loop {
            match fences.pulse().await {
                Pulse::Well => {}
                other => return (other, fences.heard.elapsed()),
            }
        };
        let (pulse, after) = next(&mut fences).await;
        assert_eq!((pulse, after.as_secs()), (Pulse::Ask, 2));
        fences.push(&mut out, 7);
        // The clock is looked at once a second.
        let (pulse, after) = next(&mut fences).await;
        assert!(pulse == Pulse::Silent && (6..=7).contains(&after.as_secs()), "{pulse:?} {after:?}");
        fences.heard();
        assert_eq!(fences.pulse().await, Pulse::Well);
        assert_eq!((fences.pop(), fences.pop()), (Some(7), None));
    }
}
