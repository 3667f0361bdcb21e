//! One subscriber and its socket.

use crate::{
    audit::{Audit, Subscriber},
    channels::BROADCAST,
    clock::Time,
    engine::stream::Stream,
    latency::Latency,
    stamp::Scan,
    wire::{Broken, Heard, Wire, write_frame},
};

/// Differences between clocks that are nothing to wonder about.
const FUTURE: u64 = 5_000_000;

/// Where a connection is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Phase {
    /// Not connected.
    #[default]
    Away,
    /// The request is on its way.
    Asking,
    /// The door is open, the subscription is not yet confirmed.
    Confirming,
    Open,
}

/// What is kept for a connection: this is what one costs the generator, beside its socket.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) stream: Option<Stream>,
    pub(super) wire: Wire,
    pub(super) scan: Scan,
    pub(super) subscriber: Subscriber,
    /// When it should have begun to connect.
    pub(super) due: Time,
    pub(super) channel: u32,
    pub(super) phase: Phase,
    /// It was connected before, and has heard nothing since it is again.
    pub(super) away: bool,
    /// It is to stall: it is not observed, so that those who read are the same before and while it does.
    pub(super) stalled: bool,
    /// The request is not yet sent.
    pub(super) silent: bool,
    /// How often it has connected: it goes on to the next address each time.
    pub(super) tries: u16,
}

/// A subscriber listening to its bytes: what is shared by all of them, lent for one read.
pub(super) struct Ear<'a> {
    pub(super) scan: &'a mut Scan,
    pub(super) subscriber: &'a mut Subscriber,
    pub(super) away: &'a mut bool,
    pub(super) channel: u32,
    pub(super) now: Time,
    pub(super) payload: usize,
    pub(super) base: u32,
    pub(super) clock_offset: i64,
    pub(super) answer: Option<&'a (String, String)>,
    pub(super) audit: &'a mut Audit,
    pub(super) latency: &'a mut Latency,
    pub(super) counts: &'a mut Counts,
    /// Whether frames are what it answers with.
    pub(super) frames: bool,
    /// Whether what it hears counts.
    pub(super) observed: bool,
    /// What has to be sent back.
    pub(super) reply: &'a mut Vec<u8>,
    pub(super) closed: Option<u16>,
    /// Where what is heard is kept until the subscription is confirmed.
    pub(super) heard: Option<&'a mut Vec<u8>>,
}

#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) pings: u64,
    pub(super) messages: u64,
    pub(super) from_the_future: u64,
}

impl Ear<'_> {
    pub(super) fn listen(&mut self, wire: &mut Wire, bytes: &[u8]) -> Result<(), Broken> {
        wire.feed(bytes, self)
    }
}

impl Heard for Ear<'_> {
    fn data(&mut self, bytes: &[u8]) {
        if let Some(heard) = &mut self.heard {
            heard.extend_from_slice(bytes);
        }
        if let Some((question, answer)) = self.answer
            && bytes.starts_with(question.as_bytes())
        {
            write_frame(1, answer.as_bytes(), self.reply);
        }
        if !self.observed {
            return;
        }
        let Self { scan, subscriber, away, audit, latency, counts, .. } = self;
        scan.feed(bytes, self.payload, |stamp| {
            if stamp.number < self.base {
                return;
            }
            if stamp.channel != self.channel && stamp.channel != BROADCAST {
                audit.strays += 1;
                return;
            }
            subscriber.got(stamp.number, std::mem::take(away), audit);
            let intended = stamp.intended.shifted(self.clock_offset);
            if intended.0 > self.now.0 + FUTURE {
                counts.from_the_future += 1;
            }
            latency.record(self.now.since(intended));
        });
    }

    fn message(&mut self) {
        self.counts.messages += 1;
    }

    fn ping(&mut self, payload: &[u8]) {
        self.counts.pings += 1;
        if self.frames {
            write_frame(10, payload, self.reply);
        }
    }

    fn closed(&mut self, code: u16) {
        self.closed = Some(code);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_costs_less_than_300_bytes() {
        assert!(size_of::<Connection>() <= 200, "{}", size_of::<Connection>());
    }
}
