//! What clients say, and what they are answered.

use std::{io, net::Shutdown};

use bytes::Bytes;
use clarion_protocol::CloseCode;
use mio::event::Event as Readiness;

use super::{
    handler::{Answer, From, Handler, Sender},
    metrics::End,
    record::{Key, Transport},
    shard::Shard,
};
use crate::{
    connection::{Incoming, Phase},
    frame::{Decoder, Event, FrameError, Opcode, encode},
    outbox::{Pushed, SlowPolicy},
};

/// Reads in a row from one socket before others have their turn.
const READS: usize = 16;

/// Whether a client's bytes are to be read on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flow {
    On,
    Pause,
    Stop,
}

impl<H: Handler> Shard<H> {
    /// A socket has something to tell.
    pub(super) fn on_event(&mut self, event: &Readiness) {
        let key = Key::from(event.token());
        if event.is_writable() {
            self.flush(key);
        }
        if event.is_error() && self.record(key).is_some_and(|record| record.paused) {
            // Nothing is read from it now, so nothing else would tell that it is gone.
            self.lose(key);
        } else if event.is_readable() || event.is_read_closed() || event.is_error() {
            self.read(key, event.is_read_closed());
        }
    }

    /// Goes on with the sockets that had more to say than their turn allowed.
    pub(super) fn read_on(&mut self) {
        for key in std::mem::take(&mut self.unread) {
            self.read(key, true);
        }
    }

    /// Reads what there is, up to a number of reads. `to_the_end`: a short read does not mean that nothing is left.
    pub(super) fn read(&mut self, key: Key, to_the_end: bool) {
        let mut buffer = std::mem::take(&mut self.buffer);
        let mut again = false;
        for _ in 0..READS {
            again = self.read_once(key, &mut buffer, to_the_end);
            if !again {
                break;
            }
        }
        if again {
            self.unread.push(key);
        }
        self.buffer = buffer;
    }

    /// Reads once; whether there may be more.
    fn read_once(&mut self, key: Key, buffer: &mut [u8], to_the_end: bool) -> bool {
        let now = self.now;
        let Some(record) = self.record(key).filter(|record| !record.paused) else { return false };
        let to_the_end = to_the_end || record.transport.is_tls();
        match record.read(buffer) {
            Ok(0) if record.cold.connection.is_stream() => {
                // Hanging up is the only goodbye that it has.
                self.remove(key, Some(End::Client));
                false
            }
            Ok(0) => {
                self.lose(key);
                false
            }
            Ok(length) => {
                if record.is_open() {
                    record.pulse.heard = now;
                }
                self.take_in(key, &mut buffer[..length]);
                to_the_end || length == buffer.len()
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => false,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => true,
            Err(_) => {
                self.lose(key);
                false
            }
        }
    }

    /// Takes bytes of a client apart and acts on what it says.
    pub(super) fn take_in(&mut self, key: Key, mut input: &mut [u8]) {
        let limit = self.common.settings.message_bytes;
        let Some(record) = self.record(key) else { return };
        if record.phase == Phase::Failed || record.cold.connection.is_stream() {
            return;
        }
        let mut kept = record.cold.connection.incoming.take();
        let mut fresh = None;
        let decoder = match &mut kept {
            Some(incoming) => &mut incoming.decoder,
            None => fresh.insert(Decoder::new(limit)),
        };
        let flow = loop {
            match decoder.next(&mut input) {
                Ok(None) => break Flow::On,
                Ok(Some(event)) => match self.hear(key, event) {
                    Flow::On => {}
                    flow => break flow,
                },
                Err(error) => {
                    self.fail(key, error);
                    break Flow::Stop;
                }
            }
        };
        let paused = flow == Flow::Pause && !input.is_empty();
        if flow == Flow::Stop || (decoder.is_idle() && !paused) {
            return;
        }
        let rest = if paused { input.to_vec() } else { Vec::new() };
        let incoming = match (kept, fresh) {
            (Some(mut incoming), _) => {
                incoming.rest = rest;
                incoming
            }
            (None, fresh) => Box::new(Incoming { decoder: fresh.unwrap_or_else(|| Decoder::new(limit)), rest }),
        };
        if let Some(record) = self.record(key) {
            record.cold.connection.incoming = Some(incoming);
        }
    }

    /// Acts on one thing that a client said.
    fn hear(&mut self, key: Key, event: Event<'_>) -> Flow {
        let shard = self.number;
        let Some(record) = self.records.get_mut(key.index as usize).filter(|record| record.serial == key.serial) else {
            return Flow::Stop;
        };
        let answer = match event {
            Event::Close(code) => {
                self.goodbye(key, code);
                return Flow::Stop;
            }
            _ if !record.is_open() => return Flow::On,
            Event::Pong => return Flow::On,
            Event::Ping(payload) => Answer::Send(encode(Opcode::Pong, payload)),
            Event::Message(kind, payload) => {
                self.common.metrics.messages_in.inc();
                self.common.metrics.bytes_in.inc_by(payload.len() as u64);
                let upstream = record.cold.connection.upstream.as_ref();
                self.handler.message(From { sender: Sender { shard, key }, upstream }, kind, payload)
            }
        };
        match answer {
            Answer::Ignore => {
                self.common.metrics.ignored.inc();
                Flow::On
            }
            Answer::Pause => {
                record.paused = true;
                Flow::Pause
            }
            Answer::Send(frame) => self.answer(key, frame),
        }
    }

    /// Sends what a client asked for, within its bound: one that only asks and never reads is slow.
    fn answer(&mut self, key: Key, frame: Bytes) -> Flow {
        let bound = self.common.settings.outbox_bytes;
        let Some(record) = self.record(key) else { return Flow::Stop };
        if let Some(outbox) = &mut record.outbox {
            if outbox.push(frame, bound) == Pushed::Full {
                self.common.metrics.slow(SlowPolicy::Disconnect).inc();
                self.close(key, CloseCode::Slow);
            }
            return Flow::On;
        }
        if record.send(frame).is_err() {
            self.lose(key);
            return Flow::Stop;
        }
        Flow::On
    }

    /// Sends a frame of ours, whatever waits; it may be the last one.
    pub(super) fn say(&mut self, key: Key, frame: Bytes) {
        let Some(record) = self.record(key) else { return };
        match record.send(frame) {
            Ok(()) => self.settle(key),
            Err(_) => self.lose(key),
        }
    }

    /// Writes what waits.
    pub(super) fn flush(&mut self, key: Key) {
        let now = self.now;
        let Some(record) = self.record(key).filter(|record| record.outbox.is_some()) else { return };
        match record.flush() {
            Ok(written) => {
                if written > 0 {
                    // Only a client that took something makes room, so this is a sign of life: its pong may stand in a queue.
                    record.pulse.heard = now;
                }
                self.settle(key);
            }
            Err(_) => self.lose(key),
        }
    }

    /// Ends a connection whose last words were written; a stream's client sees the end, and hangs up.
    fn settle(&mut self, key: Key) {
        let Some(record) = self.record(key).filter(|record| record.outbox.is_none()) else { return };
        let is_last = match record.phase {
            Phase::Open => false,
            Phase::Closing => record.cold.connection.is_stream(),
            Phase::Leaving | Phase::Failed => true,
        };
        if !is_last || !record.end() {
            return;
        }
        // Whoever broke a rule may still be sending: closing now would answer that with a reset, and the goodbye would be lost.
        let close_at_once = record.phase == Phase::Leaving;
        match &record.transport {
            Transport::Waiting => {}
            Transport::Tcp(_) | Transport::Tls(_) if close_at_once => self.remove(key, None),
            Transport::Tcp(socket) => drop(socket.shutdown(Shutdown::Write)),
            Transport::Tls(tls) => drop(tls.socket.shutdown(Shutdown::Write)),
        }
    }

    /// A client said goodbye.
    fn goodbye(&mut self, key: Key, code: Option<u16>) {
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
    fn fail(&mut self, key: Key, error: FrameError) {
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

    /// Reads on from a client whose message was dealt with.
    pub(super) fn resume(&mut self, key: Key) {
        let now = self.now;
        let Some(record) = self.record(key).filter(|record| record.paused) else { return };
        record.paused = false;
        record.pulse.heard = now;
        let rest = record.cold.connection.incoming.as_mut().map(|incoming| std::mem::take(&mut incoming.rest));
        if let Some(mut rest) = rest {
            self.take_in(key, &mut rest);
        }
        self.read(key, true);
    }
}
