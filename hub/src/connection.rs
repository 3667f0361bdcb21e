//! One client: how it is called, what it may send, whether it lives, and how far its goodbye has come.
//!
//! Nothing here touches a socket or a clock: time comes in ticks of the shard's wheel, bytes come from the shard.

use clarion_protocol::Uid;

use crate::{frame::Decoder, ticket::Place, voice::Voice};

/// Names one connection in logs. A name comes again after four billion connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ConnectionId(pub u32);

/// A time on a shard's clock.
pub(crate) type Tick = u32;

/// A time that does not come.
pub(crate) const NEVER: Tick = Tick::MAX;

/// What is known of a client and never looked at while messages fan out.
pub(crate) struct Connection {
    /// Its name in logs.
    pub id: ConnectionId,
    /// Whose it is.
    pub user: Option<Uid>,
    /// When its token ends, or [`NEVER`].
    pub expires: Tick,
    /// What becomes of what it says.
    pub voice: Box<dyn Voice>,
    /// What it was in the middle of saying.
    pub incoming: Option<Box<Incoming>>,
    /// Its place among all, until its goodbye begins.
    pub lease: Option<Place>,
}

/// What a client was in the middle of saying when its bytes ended, or when it was told to wait.
#[derive(Debug)]
pub(crate) struct Incoming {
    /// Stands within a frame or a message.
    pub decoder: Decoder,
    /// Bytes that were read and not looked at yet: of a client whose last message is being dealt with, or that says more
    /// than its share of a turn.
    pub rest: Vec<u8>,
    /// When the message that is on its way must be whole, or [`NEVER`] between two messages.
    pub whole_by: Tick,
}

/// How far a connection is from its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Messages go out and are taken in.
    Open,
    /// Our goodbye is on its way after what was pending; the client's is awaited.
    Closing,
    /// Both said goodbye: it ends when ours is written.
    Leaving,
    /// The client broke a rule and was told so: what it says is not read any more, and it ends when it hangs up.
    Failed,
}

/// The intervals of heartbeats, in ticks.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Intervals {
    /// Between two pings.
    pub ping: Tick,
    /// From a ping to the last moment for a sign of life.
    pub pong: Tick,
}

/// What a heartbeat found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Beat {
    /// All is well.
    Rest,
    /// A ping is due.
    Ping,
    /// The last ping brought no sign of life.
    Silent,
}

/// Whether a client lives. Looked at twice per ping interval: when the ping is due, and when its answer is.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Pulse {
    /// When bytes last came from it.
    pub heard: Tick,
    /// When it is to be looked at again.
    pub next: Tick,
    /// The last ping's answer is to be looked for then.
    asked: bool,
}

impl Pulse {
    /// Of a client that was heard `now`.
    pub(crate) fn new(now: Tick, next: Tick) -> Self {
        Self { heard: now, next, asked: false }
    }

    /// Notes what is due now, and when to look again. A silent client stays as it is, so that it can be asked about once more.
    pub(crate) fn beat(&mut self, now: Tick, intervals: Intervals) -> Beat {
        if !self.asked {
            self.asked = true;
            self.next = now + intervals.pong;
            return Beat::Ping;
        }
        let pinged = self.next.saturating_sub(intervals.pong);
        if self.heard < pinged {
            return Beat::Silent;
        }
        self.asked = false;
        self.next = (pinged + intervals.ping).max(now + 1);
        Beat::Rest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVALS: Intervals = Intervals { ping: 250, pong: 100 };

    #[test]
    fn a_client_that_answers_is_pinged_once_per_interval() {
        let mut pulse = Pulse::default();
        for round in 0..3 {
            let asked = 1000 + round * INTERVALS.ping;
            assert_eq!(pulse.beat(asked, INTERVALS), Beat::Ping);
            assert_eq!(pulse.next, asked + INTERVALS.pong);
            pulse.heard = asked;
            assert_eq!(pulse.beat(pulse.next, INTERVALS), Beat::Rest);
            assert_eq!(pulse.next, asked + INTERVALS.ping);
        }
    }

    #[test]
    fn silence_after_a_ping_is_noticed() {
        let mut pulse = Pulse { heard: 999, ..Pulse::default() };
        assert_eq!(pulse.beat(1000, INTERVALS), Beat::Ping);
        assert_eq!(pulse.beat(pulse.next, INTERVALS), Beat::Silent);
        pulse.heard = pulse.next;
        assert_eq!(pulse.beat(pulse.next, INTERVALS), Beat::Rest, "its answer was found after all");
    }

    #[test]
    fn an_answer_may_take_longer_than_the_interval() {
        let mut pulse = Pulse::default();
        let slow = Intervals { ping: 10, pong: 100 };
        assert_eq!(pulse.beat(1000, slow), Beat::Ping);
        pulse.heard = 1099;
        assert_eq!(pulse.beat(1100, slow), Beat::Rest);
        assert_eq!(pulse.next, 1101);
    }
}
