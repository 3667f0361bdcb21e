//! What the coordinator and its workers say to each other: a JSON object a line, so that a worker on another machine is
//! only a matter of how it is started.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{
    audit::Audit,
    channels::{Channels, Numbers},
    clock::Time,
    latency::Sparse,
    setback::Setback,
};

/// What a worker is told.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "command")]
pub(crate) enum Command {
    /// Tell the time.
    Clock,
    /// Open connections, in addition to those that there are.
    Open(Box<OpenPlan>),
    /// Begin to count anew: subscribers wait for the message of this number.
    Begin { base: u32 },
    /// Publish, and leave and join meanwhile.
    Publish(Box<FeedPlan>),
    /// Let all connections of the last plan break and come back: so many a second, so many under way at once.
    Again { rate: Option<f64>, pending: u32, patience: Duration },
    /// Those who are to stall read no more.
    Stall,
    /// Let subscribers come and go.
    Churn(Churn),
    /// Publish no more.
    Stop,
    /// Wait until every subscriber has what was published.
    Settle { published: Numbers, patience: Duration },
    /// Say what came of it; closes the accounts with what was published.
    Report { published: Numbers },
    /// Close all connections.
    Close,
}

/// What a worker says.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "event")]
pub(crate) enum Event {
    Clock {
        now: Time,
    },
    /// All are open or have failed: how many are, and how many have failed since this was last said, by reason.
    Opened {
        open: usize,
        failed: BTreeMap<Setback, u64>,
    },
    /// Whatever is published from now on is counted.
    Begun,
    Published(Published),
    Settled {
        complete: bool,
    },
    Closed,
    Tick(Box<Tick>),
    Report(Box<WorkerReport>),
    /// It cannot go on.
    Failed {
        message: String,
    },
}

/// A door to come in by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Door {
    /// A WebSocket.
    #[value(name = "ws")]
    WebSocket,
    /// An event stream (SSE).
    #[value(name = "sse")]
    EventStream,
}

/// Connections to open.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct OpenPlan {
    /// Where; the next connection takes the next address.
    pub(crate) targets: Vec<SocketAddr>,
    pub(crate) door: Door,
    pub(crate) handshake: Handshake,
    pub(crate) channels: Channels,
    /// The number of the first of them among those of all workers.
    pub(crate) first: u32,
    pub(crate) count: u32,
    /// A second; as fast as they come in otherwise.
    pub(crate) rate: Option<f64>,
    /// Handshakes that may be under way at once.
    pub(crate) pending: u32,
    /// The second number of the source addresses, 127.x.….
    pub(crate) source: u8,
    pub(crate) payload: u32,
    /// The secret to sign a token with, for each connection one, for the user of its channel's number.
    pub(crate) secret: Option<String>,
    /// Speak TLS, and trust the authorities in this PEM text.
    pub(crate) authorities: Option<String>,
    /// Come back when the server hangs up.
    pub(crate) reconnect: bool,
    /// Of a hundred connections, those that are to stall; they read, unobserved, until they are told to.
    pub(crate) stalled_percent: u32,
    /// What is not open after this time has failed.
    pub(crate) patience: Duration,
    /// What must be added to the publisher's time to get this worker's.
    pub(crate) clock_offset: i64,
}

/// How to ask a server in; `{channel}`, `{dotted}`, `{number}`, `{token}` and `{channels}` are filled in.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Handshake {
    pub(crate) path: String,
    pub(crate) subprotocol: Option<String>,
    pub(crate) headers: BTreeMap<String, String>,
    /// How many channels `{channels}` are: `channel=NAME&channel=NAME`, as `/events` takes them.
    pub(crate) each: u32,
    /// Messages to send once the socket is open.
    pub(crate) after_open: Vec<String>,
    /// The topic to ask for, from a server that speaks MQTT.
    pub(crate) mqtt: Option<String>,
    /// What the server must have said before the subscription counts.
    pub(crate) confirm: Option<String>,
    /// A message of the server's that wants an answer, and the answer.
    pub(crate) answer: Option<(String, String)>,
}

/// Subscribers that come and go.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Churn {
    /// Subscribers a second that leave for good; another one joins for each.
    pub(crate) leave: f64,
    /// Connections a second that break; their subscribers come back.
    pub(crate) lose: f64,
}

/// A way in for messages.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Via {
    Http { path: String, headers: BTreeMap<String, String>, body: String, batch: Option<Batch> },
    Redis { channel: String },
    Nats { subject: String },
    Mqtt { topic: String },
}

/// How many messages are put into one request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Batch {
    pub(crate) path: String,
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) begin: String,
    /// `{channel}` and `{payload}` are filled in.
    pub(crate) message: String,
    pub(crate) separator: String,
    pub(crate) end: String,
}

/// What to publish.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct FeedPlan {
    pub(crate) via: Via,
    pub(crate) targets: Vec<SocketAddr>,
    pub(crate) channels: Channels,
    pub(crate) payload: u32,
    pub(crate) pace: Pace,
    /// Publish for so long.
    pub(crate) duration: Duration,
    /// Connections to publish on; a channel stays on one of them, since order is promised on one only.
    pub(crate) connections: u32,
    /// Requests that may be without an answer on each connection.
    pub(crate) depth: u32,
    /// Messages in one request.
    pub(crate) batch: u32,
    /// The number of the first message of every channel.
    pub(crate) base: u32,
}

/// When the next message is due.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Pace {
    /// So many a second, whatever becomes of them: latencies count from when a message was due.
    Rate(f64),
    /// Always so many under way, each to reach so many subscribers of this worker: what saturates a server without flooding it.
    Window { messages: u32, fan: u32 },
}

/// What was published.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Published {
    pub(crate) numbers: Numbers,
    pub(crate) messages: u64,
    pub(crate) errors: BTreeMap<String, u64>,
    /// From when a message was due until the generator came to it: its own fault, nobody else's.
    pub(crate) lateness: Sparse,
    /// From when a message was due until the way in had acknowledged it.
    pub(crate) acknowledged: Sparse,
    pub(crate) seconds: f64,
    /// Times that a window stood still for a second and was opened by force.
    pub(crate) stalls: u64,
}

/// A worker's state, a few times a second.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Tick {
    pub(crate) open: usize,
    pub(crate) pending: usize,
    pub(crate) published: u64,
    /// Since `Begin`.
    pub(crate) delivered: u64,
    /// Latencies since the last tick.
    pub(crate) latency: Sparse,
}

/// What came of a worker's connections since `Begin`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct WorkerReport {
    pub(crate) open: usize,
    pub(crate) opened: u64,
    /// Connections that did not come to stand, since this was last said.
    pub(crate) failed: BTreeMap<Setback, u64>,
    /// Connections that ended without our doing, by close code or reason.
    pub(crate) closed: BTreeMap<String, u64>,
    pub(crate) left: u64,
    pub(crate) broken: u64,
    pub(crate) audit: Audit,
    pub(crate) bytes: u64,
    pub(crate) reads: u64,
    pub(crate) pings: u64,
    /// Stamps that lay in the future by more than clocks may differ.
    pub(crate) from_the_future: u64,
    pub(crate) latency: Sparse,
    pub(crate) connect: Sparse,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_survive_their_journey() {
        let commands = [
            Command::Clock,
            Command::Begin { base: 7 },
            Command::Churn(Churn { leave: 1.5, lose: 0.0 }),
            Command::Settle { published: Numbers::new(&Channels::one("a/"), 2), patience: Duration::from_secs(1) },
        ];
        for command in commands {
            let text = serde_json::to_string(&command).unwrap();
            let back: Command = serde_json::from_str(&text).unwrap();
            assert_eq!(format!("{back:?}"), format!("{command:?}"));
        }
    }
}
