//! What waits to be published and what is on its way, bounded in bytes, and the answer to each.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use clarion_protocol::{Prefix, Publication, envelope};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

use super::super::{
    conversation::Outgoing,
    status::{Half, Status},
};
use crate::{BusConfig, Link, PublishError};

type Outcome = Result<(), PublishError>;

/// How many bytes may wait and be on their way in all: some tens of milliseconds of a fast network.
const QUEUE_BYTES: usize = 16 * 1024 * 1024;
/// What a message costs beside its payload.
const MESSAGE_BYTES: usize = 256;
/// How many requests may wait.
const QUEUE: usize = 4096;

/// Takes publications and answers when the server has.
pub(crate) struct Publisher {
    requests: mpsc::Sender<Request>,
    room: Arc<Semaphore>,
    taker: Arc<Taker>,
    status: Arc<Status>,
    prefix: Prefix,
    patience: Duration,
}

/// What may be published.
#[derive(Debug)]
pub(crate) struct Taker {
    /// The largest payload that is configured.
    configured: usize,
    /// The largest message that the server takes, headers included; unknown is the largest number.
    server: AtomicUsize,
}

impl Taker {
    /// The server takes no larger messages than this; 0 when it does not say.
    pub(crate) fn limit(&self, bytes: usize) {
        if bytes > 0 {
            self.server.store(bytes, Relaxed);
        }
    }

    fn check(&self, message: &Prepared) -> Outcome {
        let (payload, server) = (message.payload.len(), self.server.load(Relaxed));
        let whole = payload + message.headers.len();
        if payload > self.configured {
            return Err(PublishError::TooLarge { bytes: payload, limit: self.configured });
        }
        if whole > server {
            return Err(PublishError::TooLarge { bytes: whole, limit: server });
        }
        Ok(())
    }
}

impl Publisher {
    pub(super) fn new(config: &BusConfig, status: Arc<Status>) -> (Self, mpsc::Receiver<Request>) {
        let (requests, receiver) = mpsc::channel(QUEUE);
        let taker = Arc::new(Taker { configured: config.max_payload, server: AtomicUsize::new(usize::MAX) });
        let room = Arc::new(Semaphore::new(QUEUE_BYTES));
        let (prefix, patience) = (config.prefix.clone(), config.command_timeout);
        (Self { requests, room, taker, status, prefix, patience }, receiver)
    }

    pub(super) fn taker(&self) -> Arc<Taker> {
        self.taker.clone()
    }

    /// Publishes one message and returns when the server has taken it. Not cancel safe.
    pub(crate) async fn publish(&self, publication: &Publication) -> Outcome {
        let message = Prepared::new(&self.prefix, publication);
        self.taker.check(&message)?;
        self.send(vec![message]).await.pop().unwrap_or_else(|| Err(unanswered()))
    }

    /// Publishes many; the good ones among them go in one piece. Not cancel safe.
    pub(crate) async fn publish_all(&self, publications: &[Publication]) -> Vec<Outcome> {
        let mut good = Vec::with_capacity(publications.len());
        let mut outcomes: Vec<_> = publications
            .iter()
            .map(|publication| {
                let message = Prepared::new(&self.prefix, publication);
                let outcome = self.taker.check(&message);
                if outcome.is_ok() {
                    good.push(message);
                }
                outcome
            })
            .collect();
        let mut answers = self.send(good).await.into_iter();
        for outcome in outcomes.iter_mut().filter(|outcome| outcome.is_ok()) {
            *outcome = answers.next().unwrap_or_else(|| Err(unanswered()));
        }
        outcomes
    }

    async fn send(&self, messages: Vec<Prepared>) -> Vec<Outcome> {
        let count = messages.len();
        let all = |error: PublishError| vec![Err(error); count];
        if count == 0 {
            return Vec::new();
        }
        if self.status.get(Half::Publisher) != Link::Up {
            return all(PublishError::NotTaken("the bus is not connected".to_owned()));
        }
        let Some(room) = self.wait_for_room(&messages).await else {
            return all(PublishError::NotTaken("too much is waiting to be published".to_owned()));
        };
        let (answer, answers) = oneshot::channel();
        let request = Request { messages, answer, _room: room };
        if self.requests.send(request).await.is_err() {
            return all(PublishError::NotTaken("the bus is closed".to_owned()));
        }
        answers.await.unwrap_or_else(|_| all(unanswered()))
    }

    async fn wait_for_room(&self, messages: &[Prepared]) -> Option<OwnedSemaphorePermit> {
        let bytes: usize = messages.iter().map(|message| message.bytes() + MESSAGE_BYTES).sum();
        // A batch larger than the whole queue goes alone.
        let permits = u32::try_from(bytes.min(QUEUE_BYTES)).expect("the queue's size fits");
        let room = self.room.clone().acquire_many_owned(permits);
        tokio::time::timeout(self.patience, room).await.ok()?.ok()
    }
}

/// The task went away without an answer, which it does only when the runtime goes down.
fn unanswered() -> PublishError {
    PublishError::Unknown("the connection's task has ended".to_owned())
}

/// A message as it will be written.
#[derive(Debug)]
struct Prepared {
    subject: String,
    /// The header block; empty when there is none.
    headers: String,
    payload: Bytes,
}

impl Prepared {
    fn new(prefix: &Prefix, publication: &Publication) -> Self {
        let mut headers = String::new();
        for (name, value) in envelope::headers(&publication.message) {
            // A line end in a value would begin a header of somebody else's making.
            if value.bytes().all(|b| b != b'\r' && b != b'\n') {
                let lead = if headers.is_empty() { "NATS/1.0\r\n" } else { "" };
                headers.extend([lead, name, ": ", &value, "\r\n"]);
            }
        }
        if !headers.is_empty() {
            headers.push_str("\r\n");
        }
        Self { subject: prefix.nats(&publication.address), headers, payload: publication.message.payload.clone() }
    }

    fn bytes(&self) -> usize {
        self.subject.len() + self.headers.len() + self.payload.len()
    }

    fn write(&self, out: &mut BytesMut) {
        use std::fmt::Write as _;
        let (headers, total) = (self.headers.len(), self.headers.len() + self.payload.len());
        // A buffer in memory takes everything.
        let _ = match headers {
            0 => write!(out, "PUB {} {total}\r\n", self.subject),
            _ => write!(out, "HPUB {} {headers} {total}\r\n", self.subject),
        };
        out.extend_from_slice(self.headers.as_bytes());
        out.extend_from_slice(&self.payload);
        out.extend_from_slice(b"\r\n");
    }
}

/// One call's messages, waiting.
#[derive(Debug)]
pub(crate) struct Request {
    messages: Vec<Prepared>,
    answer: oneshot::Sender<Vec<Outcome>>,
    _room: OwnedSemaphorePermit,
}

impl Request {
    /// Answers that nothing of it was taken.
    pub(super) fn not_taken(self, reason: &str) {
        let outcomes = vec![Err(PublishError::NotTaken(reason.to_owned())); self.messages.len()];
        // Whoever does not wait any more does not want to know.
        let _ = self.answer.send(outcomes);
    }

    /// Writes all of it into the buffer.
    pub(super) fn write(self, out: &mut Outgoing) -> Pending {
        let messages = self.messages.into_iter().map(|message| {
            message.write(&mut out.bytes);
            Sent { subject: message.subject, end: out.end(), refused: false }
        });
        Pending { messages: messages.collect(), answer: self.answer, _room: self._room }
    }
}

/// One call's messages, on their way.
#[derive(Debug)]
pub(crate) struct Pending {
    messages: Vec<Sent>,
    answer: oneshot::Sender<Vec<Outcome>>,
    _room: OwnedSemaphorePermit,
}

#[derive(Debug)]
struct Sent {
    subject: String,
    /// How many bytes of the connection's stream there are up to its end.
    end: u64,
    refused: bool,
}

impl Sent {
    fn refusal(&self) -> PublishError {
        PublishError::Refused(format!("the server forbids publishing to `{}`", self.subject))
    }
}

impl Pending {
    /// The server forbids this subject.
    pub(super) fn refuse(&mut self, subject: &str) {
        for message in self.messages.iter_mut().filter(|message| message.subject == subject) {
            message.refused = true;
        }
    }

    /// The server has gone through all of it.
    pub(super) fn acknowledge(self) {
        self.answer(|message| if message.refused { Err(message.refusal()) } else { Ok(()) });
    }

    /// The connection is gone after it took `written` bytes.
    pub(super) fn lost(self, written: u64, reason: &str) {
        self.answer(|message| {
            if message.refused {
                Err(message.refusal())
            } else if message.end <= written {
                Err(PublishError::Unknown(reason.to_owned()))
            } else {
                Err(PublishError::NotTaken(reason.to_owned()))
            }
        });
    }

    fn answer(self, outcome: impl Fn(&Sent) -> Outcome) {
        // Whoever does not wait any more does not want to know.
        let _ = self.answer.send(self.messages.iter().map(outcome).collect());
    }
}
