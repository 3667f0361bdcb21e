//! Why a connection ends, as a WebSocket close code and a reason that a client may see.
//!
//! Codes from 3000 on follow the Centrifuge protocol: after 3000–3499 a client comes back, after 3500–3999 and
//! 4500–4999 it stays away.

use std::fmt;

macro_rules! close_codes {
    ($($(#[$doc:meta])* $name:ident = $code:literal, $reason:literal;)*) => {
        /// Why a connection ends.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[repr(u16)]
        pub enum CloseCode {
            $($(#[$doc])* $name = $code,)*
        }

        impl CloseCode {
            /// All of them, for tables in docs and metrics.
            pub const ALL: &[Self] = &[$(Self::$name),*];

            /// What the client is told beside the number.
            #[must_use]
            pub fn reason(self) -> &'static str {
                match self { $(Self::$name => $reason,)* }
            }
        }
    };
}

close_codes! {
    /// The client said goodbye, or nothing more is to be said.
    Normal = 1000, "bye";
    /// A frame that RFC 6455 does not allow.
    Protocol = 1002, "protocol error";
    /// A text that is no UTF-8.
    InvalidUtf8 = 1007, "a text frame must be UTF-8";
    /// A frame or message over the limit.
    TooLarge = 1009, "message too large";
    /// Something broke here.
    Internal = 1011, "internal error";
    /// This node is leaving; come back and another one takes you.
    Restart = 1012, "restart";
    /// The token's time is over; come back with a new one.
    Expired = 3005, "expired";
    /// Too much was waiting for this client.
    Slow = 3008, "slow";
    /// Messages are missing, and the client speaks nothing in which it could be told.
    InsufficientState = 3010, "insufficient state";
    /// A ping was not answered.
    NoPong = 3012, "no pong";
    /// The token is not good any more.
    BadToken = 3500, "invalid token";
    /// Somebody who may asked for this user to be disconnected.
    Disconnected = 3503, "disconnected";
    /// The user or the address has too many connections.
    TooManyConnections = 3504, "connection limit";
    /// The connection has too many channels.
    TooManyChannels = 3505, "channel limit";
}

impl CloseCode {
    /// The number on the wire.
    #[must_use]
    pub fn code(self) -> u16 {
        self as u16
    }

    /// Whether a client should come back by itself.
    #[must_use]
    pub fn reconnect(self) -> bool {
        matches!(self.code(), 1001 | 1006 | 1011..=1014 | 3000..=3499)
    }

    /// The body of a close frame: the code in network order and the reason.
    #[must_use]
    pub fn body(self) -> Vec<u8> {
        [&self.code().to_be_bytes(), self.reason().as_bytes()].concat()
    }
}

impl fmt::Display for CloseCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.code(), self.reason())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_close_frame_fits_a_control_frame() {
        assert!(CloseCode::ALL.iter().all(|code| code.body().len() <= 125));
        assert_eq!(CloseCode::Restart.body(), b"\x03\xf4restart");
    }

    #[test]
    fn clients_know_when_to_come_back() {
        assert!(CloseCode::Restart.reconnect() && CloseCode::Slow.reconnect() && CloseCode::Expired.reconnect());
        assert!(!CloseCode::BadToken.reconnect() && !CloseCode::TooLarge.reconnect());
    }
}
