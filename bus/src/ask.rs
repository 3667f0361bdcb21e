//! Questions on the broker's own subjects, and gathering their answers; the same on every bus.
//!
//! A question is `<subject for answers> <number>`, a line end and whatever is asked; an answer is `<number> <node>`, a
//! line end and whatever is answered. Each bus has a subject of its own for answers, which it takes with its first question.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use bytes::Bytes;
use clarion_protocol::{Address, InternalName, Message, NodeName};
use parking_lot::Mutex;
use tokio::{
    sync::{OnceCell, mpsc},
    time::{Instant, timeout_at},
};

use crate::{InterestId, PublishError, SubscribeError, Topic, table::Interests};

/// Answers that may wait on top of twice those that are expected: of nodes that have come since.
const MORE_ANSWERS: usize = 16;

/// What came back for a question.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Answers {
    /// What each node answered, also nodes that were not expected to.
    pub given: BTreeMap<NodeName, Bytes>,
    /// Who was expected to answer and has not.
    pub silent: BTreeSet<NodeName>,
}

/// Something asked on one of the broker's own subjects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// Where the answer goes.
    pub reply: Reply,
    /// What is asked.
    pub payload: Bytes,
}

/// Where an answer goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    subject: InternalName,
    number: u64,
}

impl Question {
    /// Finds the question in what was heard; `None` when there is none in it. The payload shares the bytes given.
    #[must_use]
    pub fn read(heard: &Bytes) -> Option<Self> {
        let (line, payload) = split(heard)?;
        let (subject, number) = line.split_once(' ')?;
        let reply = Reply { subject: InternalName::parse(subject)?, number: number.parse().ok()? };
        Some(Self { reply, payload })
    }
}

impl Reply {
    pub(crate) fn subject(&self) -> &InternalName {
        &self.subject
    }

    /// An answer as it travels.
    pub(crate) fn frame(&self, from: &NodeName, payload: &[u8]) -> Bytes {
        [format!("{} {from}\n", self.number).as_bytes(), payload].concat().into()
    }

    /// A question as it travels.
    fn question(&self, payload: &[u8]) -> Bytes {
        [format!("{} {}\n", self.subject, self.number).as_bytes(), payload].concat().into()
    }
}

/// The first line, and what stands after it.
fn split(heard: &Bytes) -> Option<(&str, Bytes)> {
    let end = memchr::memchr(b'\n', heard)?;
    Some((std::str::from_utf8(&heard[..end]).ok()?, heard.slice(end + 1..)))
}

/// The open questions of one bus.
#[derive(Debug)]
pub(crate) struct Questions {
    subject: InternalName,
    /// The interest in answers. It stays for as long as the bus does.
    heard: OnceCell<InterestId>,
    last: AtomicU64,
    open: Mutex<HashMap<u64, mpsc::Sender<(NodeName, Bytes)>>>,
}

impl Questions {
    pub(crate) fn new() -> Self {
        let subject = InternalName::parse(&format!("answers.{:032x}", rand::random::<u128>()));
        Self {
            subject: subject.expect("hexadecimal digits are good in internal names"),
            heard: OnceCell::new(),
            last: AtomicU64::new(0),
            open: Mutex::default(),
        }
    }

    /// Takes an answer to this bus; false for any other message.
    #[inline]
    pub(crate) fn hear(&self, address: &Address, message: &Message) -> bool {
        let ours = matches!(address, Address::Internal(name) if *name == self.subject);
        if ours {
            self.answered(&message.payload);
        }
        ours
    }

    fn answered(&self, heard: &Bytes) {
        let Some((line, payload)) = split(heard) else { return };
        let Some((number, node)) = line.split_once(' ') else { return };
        let (Ok(number), Ok(node)) = (number.parse::<u64>(), NodeName::parse(node)) else { return };
        if let Some(asker) = self.open.lock().get(&number) {
            // Copied out of the link's read buffer. Those that find no room are more than there are nodes.
            let _ = asker.try_send((node, Bytes::copy_from_slice(&payload)));
        }
    }

    /// See [`crate::Bus::ask`]. `tell` publishes the question on its subject.
    pub(crate) async fn ask<T: Future<Output = Result<(), PublishError>> + Send>(
        &self,
        interests: &Interests,
        tell: impl FnOnce(Bytes) -> T + Send,
        payload: &[u8],
        timeout: Duration,
        expected: &BTreeSet<NodeName>,
    ) -> Result<Answers, PublishError> {
        let deadline = Instant::now() + timeout;
        let late = "nobody could be asked in time".to_owned();
        let listening = self.heard.get_or_try_init(async || {
            let topic = Topic::Internal(self.subject.clone());
            interests.subscribe(&topic).await
        });
        let Ok(listening) = timeout_at(deadline, listening).await else { return Err(PublishError::NotTaken(late)) };
        listening.map_err(refused)?;
        let mut question = self.open(expected.len());
        let reply = Reply { subject: self.subject.clone(), number: question.number };
        timeout_at(deadline, tell(reply.question(payload))).await.map_err(|_| PublishError::Unknown(late))??;
        let mut answers = Answers { given: BTreeMap::new(), silent: expected.clone() };
        while !answers.silent.is_empty() {
            // The sender stands in `open` for as long as the question does.
            let Ok(Some((node, answer))) = timeout_at(deadline, question.answers.recv()).await else { break };
            answers.silent.remove(&node);
            answers.given.insert(node, answer);
        }
        Ok(answers)
    }

    fn open(&self, expected: usize) -> Open<'_> {
        let number = self.last.fetch_add(1, Relaxed) + 1;
        let (sender, answers) = mpsc::channel(expected * 2 + MORE_ANSWERS);
        self.open.lock().insert(number, sender);
        Open { questions: self, number, answers }
    }
}

fn refused(error: SubscribeError) -> PublishError {
    match error {
        SubscribeError::Refused(reason) => PublishError::Refused(reason),
        SubscribeError::NotNow(reason) => PublishError::NotTaken(reason),
        SubscribeError::Closed => PublishError::NotTaken("the bus is closed".to_owned()),
    }
}

/// One question, closed when dropped.
struct Open<'a> {
    questions: &'a Questions,
    number: u64,
    answers: mpsc::Receiver<(NodeName, Bytes)>,
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.questions.open.lock().remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_is_read_as_it_was_asked() {
        let reply = Reply { subject: InternalName::parse("answers.0a").unwrap(), number: 7 };
        for payload in [&b""[..], b"x\ny", b"\xff\0\n"] {
            let question = Question::read(&reply.question(payload)).unwrap();
            assert_eq!((question.reply, &*question.payload), (reply.clone(), payload));
        }
        for other in ["", "{}", "answers.0a 7", "answers 7x\n", "Answers 7\n", "a b c\n"] {
            assert_eq!(Question::read(&Bytes::from(other)), None, "{other:?}");
        }
    }
}
