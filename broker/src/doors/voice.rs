//! What becomes of what clients say over plain WebSockets: `ping` is answered, a message is published where the client may.

use std::{
    borrow::Cow,
    sync::{Arc, Weak},
    time::Duration,
};

use bytes::Bytes;
use clarion_hub::{
    Answer, Attention, ConnectionKey, Voice,
    frame::{Kind, Opcode, encode},
};
use clarion_protocol::{Channel, Publication, Uid};

use crate::{admission::Pace, ingress::Via, node::Node};

/// What every client may say, as text, to see whether the connection lives.
const PING: &[u8] = b"ping";
/// What it is answered.
const PONG: &[u8] = b"pong";

/// The voice of a client that only listens, or may only listen: all but `ping` is counted and dropped.
pub(super) struct Listener;

impl Voice for Listener {
    fn attention(&self) -> Attention {
        Attention::Word
    }

    fn message(&mut self, _: ConnectionKey, kind: Kind, payload: Cow<'_, [u8]>) -> Answer {
        answer_to_ping(kind, &payload).unwrap_or(Answer::Ignore)
    }
}

/// The voice of a client that may publish to the channel of its URL, one message at a time: the hub reads on when the bus
/// has taken the last.
pub(super) struct Publisher {
    /// A node that is gone has no connections either.
    node: Weak<Node>,
    channel: Channel,
}

impl Publisher {
    /// Whether the client may was decided when it connected.
    pub(super) fn new(node: &Arc<Node>, channel: Channel) -> Self {
        Self { node: Arc::downgrade(node), channel }
    }
}

impl Publisher {
    /// Publishes a message after a pause, and then has the hub read on.
    fn publish(&self, node: Arc<Node>, pause: Duration, from: ConnectionKey, payload: Cow<'_, [u8]>) -> Answer {
        let publication = Publication::raw(self.channel.clone(), Bytes::from(payload.into_owned()));
        let runtime = node.runtime.clone();
        runtime.spawn(async move {
            if !pause.is_zero() {
                tokio::time::sleep(pause).await;
            }
            // Counted by outcome in there. A WebSocket has no answer to a single message, so the client is not told.
            if let Err(problem) = node.publish(Via::WebSocket, publication).await {
                tracing::debug!(code = problem.code(), "a client's message was not published");
            }
            node.hub.resume(from);
        });
        Answer::Pause
    }
}

impl Voice for Publisher {
    fn message(&mut self, from: ConnectionKey, kind: Kind, payload: Cow<'_, [u8]>) -> Answer {
        if let Some(answer) = answer_to_ping(kind, &payload) {
            return answer;
        }
        let Some(node) = self.node.upgrade() else { return Answer::Ignore };
        self.publish(node, Duration::ZERO, from, payload)
    }
}

/// The same where publishing has a rate. A message that comes too early waits, and with it all that its client sends after
/// it: nothing is lost, and the client feels it as back-pressure.
pub(super) struct PacedPublisher {
    publisher: Publisher,
    user: Option<Uid>,
    pace: Pace,
}

impl PacedPublisher {
    pub(super) fn new(publisher: Publisher, user: Option<Uid>) -> Self {
        Self { publisher, user, pace: Pace::default() }
    }
}

impl Voice for PacedPublisher {
    fn message(&mut self, from: ConnectionKey, kind: Kind, payload: Cow<'_, [u8]>) -> Answer {
        if let Some(answer) = answer_to_ping(kind, &payload) {
            return answer;
        }
        let Some(node) = self.publisher.node.upgrade() else { return Answer::Ignore };
        let pause = node.admission.publish_up(&mut self.pace, self.user.as_ref());
        self.publisher.publish(node, pause, from, payload)
    }
}

fn answer_to_ping(kind: Kind, payload: &[u8]) -> Option<Answer> {
    (kind == Kind::Text && payload == PING).then(|| Answer::Send(encode(Opcode::Text, PONG)))
}
