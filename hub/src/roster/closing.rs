//! How connections end: our goodbye, the client's, and rules that a client broke.

use clarion_protocol::CloseCode;

use super::{
    Roster,
    record::{Key, Transport},
};
use crate::{
    connection::Phase,
    frame::{FrameError, Opcode, encode},
    framing::Framing,
    metrics::End,
};

impl Roster {
    /// Says goodbye: after what is pending, or instead of it where too much is.
    pub(crate) fn close(&mut self, key: Key, code: CloseCode) {
        let retry_within = self.common.settings.retry_within;
        let Some(record) = self.record(key).filter(|record| record.is_open()) else { return };
        if code == CloseCode::Slow
            && let Some(outbox) = &mut record.outbox
        {
            outbox.shed();
            record.tidy();
        }
        let paused = record.is_paused();
        let goodbye = match record.framing {
            Framing::Poll => self.nothing(key.index),
            framing @ (Framing::WebSocket | Framing::EventStream) => framing.goodbye(code, retry_within),
        };
        self.part(key, Phase::Closing, End::Said(code));
        let Some(record) = self.record(key) else { return };
        match &record.transport {
            Transport::Tcp(_) | Transport::Tls(_) => {
                self.say(key, goodbye);
                if paused {
                    // Its answer may wait in its socket already, of which no event tells again.
                    self.read_next_turn(key);
                }
            }
            Transport::Waiting => record.outbox.get_or_insert_default().keep(goodbye),
        }
    }

    /// Closes some connections that are open, whichever come first.
    pub(crate) fn close_some(&mut self, count: usize, code: CloseCode) {
        let places = self.records.capacity();
        let mut left = count;
        for _ in 0..places {
            if left == 0 {
                break;
            }
            let index = self.close_cursor % places;
            self.close_cursor = index + 1;
            let Some(record) = self.records.get(index).filter(|record| record.is_open()) else { continue };
            let key = Key { index: index as u32, serial: record.serial };
            self.close(key, code);
            left -= 1;
        }
    }

    /// A client said goodbye.
    pub(super) fn goodbye(&mut self, key: Key, code: Option<u16>) {
        // What it asked before is answered before.
        self.reply(key);
        let Some(record) = self.record(key) else { return };
        let ours_is_said = record.phase == Phase::Closing;
        self.part(key, Phase::Leaving, End::Client);
        if ours_is_said {
            self.settle(key);
        } else {
            let body = code.map(u16::to_be_bytes);
            self.say(key, encode(Opcode::Close, body.as_ref().map_or(&[][..], |body| body)));
        }
    }

    /// A client broke a rule.
    pub(super) fn fail(&mut self, key: Key, error: FrameError) {
        self.reply(key);
        let Some(record) = self.record(key) else { return };
        let ours_is_said = record.phase == Phase::Closing;
        tracing::debug!(connection = record.cold.connection.id.0, %error, "a client broke the protocol");
        let code = error.close_code();
        self.part(key, Phase::Failed, End::Said(code));
        if ours_is_said {
            self.settle(key);
        } else {
            self.say(key, encode(Opcode::Close, &code.body()));
        }
    }
}
