//! How bytes leave a connection: what is around a message, what a sign of life is, and how a goodbye is said.
//!
//! How the message itself reads is its [`Wording`].

use std::time::Duration;

use bytes::Bytes;
use clarion_protocol::{CloseCode, Wording, wording};

use crate::{
    frame::{self, Opcode},
    seat::Notice,
};

/// What an event stream carries when nothing else goes by.
const COMMENT: &[u8] = b": \n\n";

/// What carries the messages of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Framing {
    /// Frames of RFC 6455 in both directions.
    WebSocket,
    /// The body of a `text/event-stream`. Its client only listens.
    EventStream,
    /// One HTTP response, written as a whole once there is something to say. Its client only waits.
    Poll,
}

/// A framing and a wording. All who share it are written the same bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Format(u8);

/// A set of formats, one bit each.
pub(crate) type Formats = u32;

impl Framing {
    const ALL: [Self; 3] = [Self::WebSocket, Self::EventStream, Self::Poll];

    /// Whether its client says nothing, so that hanging up is the only goodbye that it has.
    #[must_use]
    pub fn only_listens(self) -> bool {
        match self {
            Self::WebSocket => false,
            Self::EventStream | Self::Poll => true,
        }
    }

    /// What shows the client, or a proxy on the way, that the connection lives. A WebSocket's client answers it.
    pub(crate) fn sign_of_life(self) -> Bytes {
        match self {
            Self::WebSocket => frame::encode(Opcode::Ping, b""),
            Self::EventStream => Bytes::from_static(COMMENT),
            // What is to be one response cannot begin before it is known.
            Self::Poll => Bytes::new(),
        }
    }

    /// What a client hears last: a close frame, or when to come back. A stream whose client should stay away just ends.
    pub(crate) fn goodbye(self, code: CloseCode, retry_within: Duration) -> Bytes {
        match self {
            Self::WebSocket => frame::encode(Opcode::Close, &code.body()),
            Self::EventStream if code.reconnect() => {
                let longest = u64::try_from(retry_within.as_millis()).unwrap_or(u64::MAX);
                format!("retry: {}\n\n", rand::random_range(0..=longest)).into()
            }
            Self::EventStream => Bytes::new(),
            // Its response is made where what it waited for is known.
            Self::Poll => Bytes::new(),
        }
    }

    /// How a notice reads; `None` for those that cannot be told.
    pub(crate) fn notice(self, wording: Wording, notice: &Notice) -> Option<Bytes> {
        let Notice { name, data, cursor } = notice;
        match (self, wording) {
            (Self::EventStream, _) => Some(wording::notice_event(name, data, cursor.as_deref())),
            (Self::WebSocket, Wording::Record | Wording::BareRecord) => {
                Some(frame::encode(Opcode::Text, &wording::notice_record(name, data, cursor.as_deref())))
            }
            (Self::WebSocket | Self::Poll, _) => None,
        }
    }
}

impl Format {
    pub(crate) fn new(framing: Framing, wording: Wording) -> Self {
        Self(framing as u8 * Wording::ALL.len() as u8 + wording as u8)
    }

    pub(crate) fn framing(self) -> Framing {
        Framing::ALL[usize::from(self.0) / Wording::ALL.len()]
    }

    pub(crate) fn wording(self) -> Wording {
        Wording::ALL[usize::from(self.0) % Wording::ALL.len()]
    }

    /// The set of this one alone.
    pub(crate) fn bit(self) -> Formats {
        1 << self.0
    }

    /// The formats of a set.
    pub(crate) fn each(set: Formats) -> impl Iterator<Item = Self> {
        (0..Formats::BITS as u8).map(Self).filter(move |format| set & format.bit() != 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_format_is_its_framing_and_wording() {
        let mut set = 0;
        for (number, framing) in (0..).zip(Framing::ALL) {
            assert_eq!(framing as u8, number);
            for wording in Wording::ALL {
                let format = Format::new(framing, wording);
                assert_eq!((format.framing(), format.wording()), (framing, wording));
                assert_eq!(set & format.bit(), 0, "each has a bit of its own");
                set |= format.bit();
            }
        }
        assert_eq!(Format::each(set).count(), Framing::ALL.len() * Wording::ALL.len());
    }

    #[test]
    fn a_stream_is_told_when_to_come_back_or_just_ends() {
        let goodbye = |code| Framing::EventStream.goodbye(code, Duration::ZERO);
        assert_eq!(goodbye(CloseCode::Restart), "retry: 0\n\n");
        assert_eq!(goodbye(CloseCode::BadToken), "");
    }
}
