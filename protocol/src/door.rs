//! The ways in for clients, by the names that metrics and logs use.

/// A way in for clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Door {
    /// A plain WebSocket at a channel's path or `/me`.
    WebSocket,
    /// An event stream at a channel's path or `/me`.
    Sse,
    /// An event stream of many channels, `/events`.
    Events,
    /// A request that waits for one answer, `?wait=`.
    Poll,
}

impl Door {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 4] = [Self::WebSocket, Self::Sse, Self::Events, Self::Poll];

    /// Its name as the label `door` of metrics.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::WebSocket => "websocket",
            Self::Sse => "sse",
            Self::Events => "events",
            Self::Poll => "poll",
        }
    }
}
