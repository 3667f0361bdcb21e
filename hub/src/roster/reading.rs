//! What clients say, and what they are answered. Each has a share of a turn: a bound on what is read, on how many frames
//! are looked at, and one write for all answers, so that a client that only talks keeps nobody waiting.

use std::io;

use bytes::Bytes;
use clarion_protocol::CloseCode;
use mio::event::Event as Readiness;

use super::{
    Roster,
    record::{Key, Reading},
};
use crate::{
    connection::{Incoming, NEVER, Phase, Tick},
    frame::{Decoder, Event, Opcode, encode, write_header},
    metrics::End,
    outbox::{Dropped, Pushed, SlowPolicy},
    ticket::ConnectionKey,
    voice::{Answer, Attention},
};

/// Frames of one client in a turn: some microseconds' work. A client that says more waits for the next turn.
const TURN_FRAMES: usize = 128;

/// Whether a client's bytes are to be read on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flow {
    On,
    /// Its share of this turn is used up.
    NextTurn,
    /// Its last message must be dealt with first.
    Pause,
    Stop,
}

/// What one client is answered to what was read at once. Its room is used for all.
#[derive(Debug, Default)]
pub(super) struct Replies {
    /// Whole frames, in the order in which they were asked for.
    frames: Vec<u8>,
    /// The payload of the last ping of a client that does not take what waits for it: one pong may answer several pings
    /// (RFC 6455, 5.5.3).
    ping: Option<Vec<u8>>,
}

impl Roster {
    /// A socket has something to tell.
    pub(crate) fn on_event(&mut self, event: &Readiness) {
        let key = Key::from(event.token());
        if event.is_writable() {
            self.flush(key);
        }
        if event.is_error() && self.record(key).is_some_and(|record| record.is_paused()) {
            // Nothing is read from it now, so nothing else would tell that it is gone.
            self.lose(key);
        } else if event.is_readable() || event.is_read_closed() || event.is_error() {
            self.read(key, event.is_read_closed());
        }
    }

    /// Goes on with the sockets that had more to say than their share of the last turn.
    pub(crate) fn read_on(&mut self) {
        for key in std::mem::take(&mut self.unread) {
            if let Some(record) = self.record(key)
                && record.reading == Reading::NextTurn
            {
                record.reading = Reading::OnEvent;
                self.read(key, true);
            }
        }
    }

    /// Has a connection read in the next turn, whether or not its socket tells anything.
    pub(super) fn read_next_turn(&mut self, key: Key) {
        if let Some(record) = self.record(key)
            && record.reading == Reading::OnEvent
        {
            record.reading = Reading::NextTurn;
            self.unread.push(key);
        }
    }

    /// Takes a client's share of this turn: what it said before and was not looked at, or what its socket has now.
    /// `to_the_end`: a short read does not mean that nothing is left.
    pub(super) fn read(&mut self, key: Key, to_the_end: bool) {
        let Some(record) = self.record(key).filter(|record| record.reading == Reading::OnEvent) else { return };
        let rest = record.cold.connection.incoming.as_mut().map(|incoming| std::mem::take(&mut incoming.rest));
        if let Some(mut rest) = rest.filter(|rest| !rest.is_empty()) {
            self.take_in(key, &mut rest);
            self.read_next_turn(key);
            return;
        }
        let mut buffer = std::mem::take(&mut self.buffer);
        let again = self.read_once(key, &mut buffer, to_the_end);
        self.buffer = buffer;
        if again {
            self.read_next_turn(key);
        }
    }

    /// Reads once; whether there may be more.
    fn read_once(&mut self, key: Key, buffer: &mut [u8], to_the_end: bool) -> bool {
        let now = self.now;
        let Some(record) = self.record(key) else { return false };
        let to_the_end = to_the_end || record.transport.is_tls();
        match record.read(buffer) {
            Ok(0) if record.framing.only_listens() => {
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
        if record.phase == Phase::Failed || record.framing.only_listens() {
            return;
        }
        let connection = &mut record.cold.connection;
        let kept = connection.incoming.take();
        let mut whole_by = kept.as_ref().map_or(NEVER, |incoming| incoming.whole_by);
        let mut decoder = kept.map_or_else(
            || match connection.voice.attention() {
                Attention::Whole => Decoder::new(limit),
                Attention::Word => Decoder::skipping(limit),
            },
            |incoming| incoming.decoder,
        );
        let flow = self.take_apart(key, &mut decoder, &mut input, &mut whole_by);
        self.reply(key);
        let unseen = matches!(flow, Flow::Pause | Flow::NextTurn) && !input.is_empty();
        if flow == Flow::Stop || (decoder.is_idle() && !unseen) {
            return;
        }
        self.keep_incoming(key, decoder, if unseen { input } else { &[] }, whole_by);
        if flow == Flow::NextTurn {
            self.read_next_turn(key);
        }
    }

    /// Acts on what a client says as far as its share of the turn goes.
    fn take_apart(&mut self, key: Key, decoder: &mut Decoder, input: &mut &mut [u8], whole_by: &mut Tick) -> Flow {
        for _ in 0..TURN_FRAMES {
            match decoder.next(input) {
                Ok(None) => return Flow::On,
                Ok(Some(event)) => {
                    if matches!(event, Event::Message(..) | Event::Skipped(_)) {
                        // The next one has its own time.
                        *whole_by = NEVER;
                    }
                    match self.hear(key, event) {
                        Flow::On => {}
                        flow => return flow,
                    }
                }
                Err(error) => {
                    self.fail(key, error);
                    return Flow::Stop;
                }
            }
        }
        Flow::NextTurn
    }

    /// Keeps what a client was in the middle of. A message that has begun has its time to end, counted from its beginning.
    fn keep_incoming(&mut self, key: Key, decoder: Decoder, rest: &[u8], whole_by: Tick) {
        let latest = self.now + self.common.settings.message;
        let Some(record) = self.record(key).filter(|record| record.phase != Phase::Failed) else { return };
        let whole_by = if decoder.is_idle() { NEVER } else { whole_by.min(latest) };
        record.cold.connection.incoming = Some(Box::new(Incoming { decoder, rest: rest.to_vec(), whole_by }));
        if whole_by != NEVER {
            self.watch_message(key.index, whole_by);
        }
    }

    /// Has somebody look when a message must be whole: once for each connection, however many messages it begins.
    pub(super) fn watch_message(&mut self, index: u32, whole_by: Tick) {
        if self.unfinished.insert(index) {
            self.wheel.schedule(index, whole_by);
        }
    }

    /// Acts on one thing that a client said.
    fn hear(&mut self, key: Key, event: Event<'_>) -> Flow {
        let shard = self.shard;
        let Some(record) = self.records.get_mut(key.index as usize).filter(|record| record.serial == key.serial) else {
            return Flow::Stop;
        };
        let metrics = &self.common.metrics;
        let answer = match event {
            Event::Close(code) => {
                self.goodbye(key, code);
                return Flow::Stop;
            }
            _ if !record.is_open() => return Flow::On,
            Event::Pong => return Flow::On,
            Event::Ping(payload) if record.outbox.is_some() => {
                self.replies.ping = Some(payload.to_vec());
                return Flow::On;
            }
            Event::Ping(payload) => {
                write_header(Opcode::Pong, payload.len(), &mut self.replies.frames);
                self.replies.frames.extend_from_slice(payload);
                return Flow::On;
            }
            Event::Skipped(bytes) => {
                metrics.messages_in.inc();
                metrics.bytes_in.inc_by(bytes as u64);
                Answer::Ignore
            }
            Event::Message(kind, payload) => {
                metrics.messages_in.inc();
                metrics.bytes_in.inc_by(payload.len() as u64);
                record.cold.connection.voice.message(ConnectionKey { shard, key }, kind, payload)
            }
        };
        match answer {
            Answer::Ignore => metrics.ignored.inc(),
            Answer::Continue => {}
            Answer::Send(bytes) => self.replies.frames.extend_from_slice(&bytes),
            Answer::Pause => {
                record.reading = Reading::Paused;
                return Flow::Pause;
            }
        }
        Flow::On
    }

    /// Sends what a client asked for, with one write, within its bound: one that asks and does not listen is slow like any
    /// other.
    pub(super) fn reply(&mut self, key: Key) {
        let frames = &mut self.replies.frames;
        if frames.is_empty() && self.replies.ping.is_none() {
            return;
        }
        let bound = self.common.settings.outbox_bytes;
        let Some(record) = self.records.get_mut(key.index as usize).filter(|record| record.serial == key.serial) else {
            frames.clear();
            self.replies.ping = None;
            return;
        };
        let Some(outbox) = &mut record.outbox else {
            let bytes = Bytes::copy_from_slice(frames);
            frames.clear();
            if record.send(bytes).is_err() {
                self.lose(key);
            }
            return;
        };
        if let Some(payload) = self.replies.ping.take() {
            outbox.keep_pong(encode(Opcode::Pong, &payload));
        }
        let pushed = match frames.is_empty() {
            true => Pushed::Waits(Dropped::default()),
            false => outbox.push(Bytes::copy_from_slice(frames), bound),
        };
        frames.clear();
        if pushed == Pushed::Full {
            self.common.metrics.slow(SlowPolicy::Disconnect).inc();
            self.close(key, CloseCode::Slow);
        }
    }

    /// Reads on from a client whose message was dealt with.
    pub(crate) fn resume(&mut self, key: Key) {
        let now = self.now;
        let Some(record) = self.record(key).filter(|record| record.is_paused()) else { return };
        record.reading = Reading::OnEvent;
        record.pulse.heard = now;
        self.read(key, true);
    }
}
