//! One connection of the subscriber link: what was asked of the server, and what its words mean.

use std::sync::Arc;

use clarion_protocol::{Depth, Prefix};
use tokio::{io::WriteHalf, sync::Notify};

use super::{
    Intake, Task,
    probe::{PROBE_SID, Probes},
};
use crate::{
    Link, Sink,
    nats::{
        connection::{Reader, text_of},
        conversation::{Fences, Outgoing, Pulse},
        handshake::Info,
        log::Subjects,
        parse::{Malformed, Op},
        refusal::{self, Refusal},
        status::{Half, Status},
        stream::Stream,
    },
    refusal::Outlook,
    table::{Interests, Order, Reach},
};

/// The only lane of the table: one connection carries everything.
pub(super) const LANE: u16 = 0;
/// How many subscriptions share one acknowledgement.
const CHUNK: usize = 1_000;
/// How many chunks may be on their way: enough to keep a distant server busy.
const CHUNKS: usize = 16;
/// No more is asked while so many bytes wait to be written.
const OUT_BYTES: usize = 256 * 1024;

/// See the module.
pub(super) struct Session {
    pub(super) out: Outgoing,
    pub(super) fences: Fences<Asked>,
    /// Rung when there are interests to ask for or to give up.
    pub(super) bell: Arc<Notify>,
    /// It was rung, and not everything was asked yet.
    pub(super) work_waits: bool,
    interests: Arc<Interests>,
    probes: Arc<Probes>,
    prefix: Prefix,
    subjects: Subjects,
    /// The server has answered, and everything stands that stood before.
    up: bool,
    /// Something stands again, and missed what was published meanwhile.
    missed: bool,
}

/// What stands before one ping.
#[derive(Default)]
pub(super) struct Asked {
    orders: Vec<Order>,
    /// The server took some of them and refused others without saying which; this is what it said.
    declined: Option<String>,
}

/// What was read and concerns the link.
#[derive(Default)]
pub(super) struct Heard {
    pub(super) pong: bool,
    pub(super) info: Option<Info>,
    /// The connection is of no more use, and this is why.
    pub(super) end: Option<String>,
}

impl Session {
    /// A new connection; everything wanted is to be asked for.
    pub(super) fn new(task: &Task, writer: WriteHalf<Stream>) -> Self {
        let mut session = Self {
            out: Outgoing::new(writer),
            fences: Fences::new(task.command_timeout),
            bell: task.interests.bell(LANE),
            work_waits: true,
            interests: task.interests.clone(),
            probes: task.probes.clone(),
            prefix: task.prefix.clone(),
            subjects: task.subjects.clone(),
            up: false,
            missed: false,
        };
        session.sub(&session.prefix.nats(&session.probes.address()), PROBE_SID);
        session.fences.push(&mut session.out, Asked::default());
        session
    }

    fn sub(&mut self, subject: &str, sid: u64) {
        let mut digits = [0; 20];
        let parts = [b"SUB ", subject.as_bytes(), b" ", decimal(sid, &mut digits), b"\r\n"];
        parts.iter().for_each(|part| self.out.bytes.extend_from_slice(part));
    }

    fn unsub(&mut self, sid: u64) {
        let mut digits = [0; 20];
        let parts = [b"UNSUB ", decimal(sid, &mut digits), b"\r\n"];
        parts.iter().for_each(|part| self.out.bytes.extend_from_slice(part));
    }

    /// Writes what is to be asked for and given up, as far as there is room.
    pub(super) fn work(&mut self) {
        while self.work_waits && self.fences.len() < CHUNKS && self.out.bytes.len() < OUT_BYTES {
            let work = self.interests.lock().take(LANE, CHUNK);
            self.work_waits = !work.is_empty();
            for order in work.leave {
                self.unsub(order.ticket.number());
            }
            if work.join.is_empty() {
                continue;
            }
            self.ask(work.join);
        }
    }

    fn ask(&mut self, orders: Vec<Order>) {
        for order in &orders {
            self.sub(&subject(&self.prefix, &self.subjects, order), order.ticket.number());
        }
        self.fences.push(&mut self.out, Asked { orders, declined: None });
    }

    /// Looks at the clock.
    pub(super) fn beat(&mut self, pulse: &Pulse) -> Result<(), String> {
        match pulse {
            Pulse::Well => {}
            Pulse::Ask => self.fences.push(&mut self.out, Asked::default()),
            Pulse::Silent => return Err("the server does not answer".to_owned()),
        }
        Ok(())
    }

    /// Goes through all complete operations; messages go to `intake`, also those before an error.
    pub(super) fn read(&mut self, reader: &mut Reader, intake: &mut Intake) -> Heard {
        let (mut heard, mut at) = (Heard::default(), 0);
        while heard.end.is_none() {
            let bytes = &reader.buffer[at..];
            match reader.parser.next(bytes) {
                Ok(None) => break,
                Ok(Some((Op::Message(frame), taken))) => {
                    intake.push(frame.shifted(at));
                    at += taken;
                }
                Ok(Some((op, taken))) => {
                    self.control(&op, bytes, intake, &mut heard);
                    at += taken;
                }
                Err(Malformed(reason)) => heard.end = Some(Malformed(reason).to_string()),
            }
        }
        intake.take(reader.buffer.split_to(at).freeze());
        heard
    }

    fn control(&mut self, op: &Op, bytes: &[u8], intake: &Intake, heard: &mut Heard) {
        match op {
            Op::Pong => {
                heard.pong = true;
                match self.fences.pop() {
                    Some(asked) => self.acknowledged(asked),
                    None => heard.end = Some("the server answers what was not asked".to_owned()),
                }
            }
            Op::Ping => self.out.bytes.extend_from_slice(b"PONG\r\n"),
            Op::Error(text) => heard.end = self.refused(&bytes[text.clone()]),
            Op::Info(json) => heard.info = serde_json::from_slice(&bytes[json.clone()]).ok(),
            Op::Oversize { .. } => intake.oversize(),
            Op::Ok | Op::Skipped | Op::Message(_) => {}
        }
    }

    fn acknowledged(&mut self, asked: Asked) {
        if let Some(text) = asked.declined {
            return self.declined(asked.orders, &text);
        }
        let mut table = self.interests.lock();
        for order in asked.orders {
            self.missed |= table.stood(order.ticket);
        }
    }

    /// Some of these stand, and nobody knows which. They are asked for again by halves, until each that can stand does.
    fn declined(&mut self, mut orders: Vec<Order>, text: &str) {
        orders.iter().for_each(|order| self.unsub(order.ticket.number()));
        orders.retain(|order| self.interests.lock().awaits(order.ticket));
        if orders.is_empty() {
            return;
        }
        if let [order] = orders.as_slice() {
            let error = crate::refusal::nats(text).of_subscription(format!("the server says: {text}"));
            if self.interests.lock().refuse(order.ticket, &error) {
                tracing::warn!(reason = text, "the server no longer takes what it took before");
            }
            return;
        }
        let half = orders.split_off(orders.len() / 2);
        self.ask(orders);
        self.ask(half);
    }

    /// Finds what an error is about; `Some` when that is the connection itself.
    fn refused(&mut self, text: &[u8]) -> Option<String> {
        match refusal::read(text) {
            // Without it nobody would know whether the link brings anything.
            Refusal::Subscribe(subject) if subject == self.prefix.nats(&self.probes.address()) => {
                let text = text_of(text);
                Some(format!("the server forbids the broker's own subjects: allow `{}>` ({text})", self.internal()))
            }
            Refusal::Subscribe(refused) => {
                let found = self.fences.iter_mut().find_map(|asked| {
                    let at = asked
                        .orders
                        .iter()
                        .position(|order| subject(&self.prefix, &self.subjects, order) == refused)?;
                    Some(asked.orders.swap_remove(at))
                });
                // A server that takes back what it allowed before names a subscription that is not on its way.
                let Some(order) = found else { return Some(format!("the server says: {}", text_of(text))) };
                let error = Outlook::Stays.of_subscription(format!("the server forbids subscribing to `{refused}`"));
                if self.interests.lock().refuse(order.ticket, &error) {
                    tracing::warn!(subject = refused, "the server no longer allows what it allowed before");
                }
                None
            }
            Refusal::SomeSubscription => match self.fences.front() {
                Some(asked) if !asked.orders.is_empty() => {
                    asked.declined = Some(text_of(text));
                    None
                }
                // It is the probe's, without which nobody would know whether the link brings anything.
                _ => Some(format!("the server says: {}", text_of(text))),
            },
            Refusal::Publish(_) | Refusal::Other => Some(format!("the server says: {}", text_of(text))),
        }
    }

    /// Where the broker's own subjects begin.
    fn internal(&self) -> String {
        let subject = self.prefix.nats(&self.probes.address());
        subject.strip_suffix(self.probes.name()).unwrap_or_default().to_owned()
    }

    /// Tells that the link is up, once everything stands that stood before, and that there may be a gap.
    pub(super) fn rise(&mut self, sink: &dyn Sink, status: &Status, answered: bool) {
        let stands = self.interests.lock().resuming(LANE) == 0;
        let rises = !self.up && answered && stands;
        if (self.up || rises) && stands && std::mem::take(&mut self.missed) {
            let missed = self.interests.lock().missed(LANE);
            if !missed.is_empty() {
                sink.gap(&missed);
            }
        }
        if rises {
            self.up = true;
            status.set(Half::Subscriber, Link::Up);
        }
    }
}

/// How an interest's part is written. What is logged is heard as JetStream republishes it.
fn subject(prefix: &Prefix, subjects: &Subjects, order: &Order) -> String {
    let mut subject = prefix.nats(&order.base);
    let (depth, end) = match order.reach {
        Reach::Exact => (Depth::Exact, ""),
        Reach::Children => (Depth::Children, ".*"),
        Reach::Below => (Depth::Subtree, ".>"),
    };
    subject.push_str(end);
    if subjects.is_logged(&order.base, depth) { subjects.republished(&subject) } else { subject }
}

fn decimal(mut number: u64, digits: &mut [u8; 20]) -> &[u8] {
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + u8::try_from(number % 10).expect("a digit");
        number /= 10;
        if number == 0 {
            return &digits[at..];
        }
    }
}
