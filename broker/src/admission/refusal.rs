//! What those are told who are too many: which limit it is, where it is set, and when to come again.

use std::time::Duration;

use http::StatusCode;

/// Which limit is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TooMany {
    /// New connections come faster than this node takes them.
    #[error("too many new connections at once (`limits.accepts_per_second`)")]
    Rate {
        /// When there is room for one more.
        retry_after: Duration,
    },
    /// One address asks for connections faster than it may.
    #[error("this address asks for too many connections at once (`limits.handshakes_per_address`)")]
    Handshakes {
        /// When it may ask again.
        retry_after: Duration,
    },
    /// One address has shown too many tokens or keys that are not good.
    #[error("this address has shown too many bad tokens or keys (`limits.failures_per_address`)")]
    Failures {
        /// When it may show another one.
        retry_after: Duration,
    },
    /// One connection publishes faster than it may.
    #[error("this connection publishes too fast (`limits.publishes_per_connection`)")]
    PublishesOfConnection {
        /// When it may publish again.
        retry_after: Duration,
    },
    /// One user publishes faster than he may.
    #[error("this user publishes too fast (`limits.publishes_per_user`)")]
    PublishesOfUser {
        /// When he may publish again.
        retry_after: Duration,
    },
    /// This node has all the connections that it may.
    #[error("this node takes no more connections (`limits.connections`)")]
    Node,
    /// The user has.
    #[error("this user has too many connections (`limits.per_user`)")]
    User,
    /// The address has.
    #[error("this address has too many connections (`limits.per_address`)")]
    Address,
    /// The connection has all the channels that it may.
    #[error("a connection may not have so many channels (`limits.channels_per_connection`)")]
    ChannelsOfConnection,
    /// The address has.
    #[error("this address hears too many channels (`limits.channels_per_address`)")]
    ChannelsOfAddress,
    /// This node has.
    #[error("this node hears no more channels (`limits.channels`)")]
    ChannelsOfNode,
    /// The connection has all the patterns that it may.
    #[error(
        "a connection may not have so many patterns (`limits.patterns_per_connection`); name channels, or one pattern above these"
    )]
    PatternsOfConnection,
    /// The address has.
    #[error("this address hears too many patterns (`limits.patterns_per_address`)")]
    PatternsOfAddress,
    /// This node has.
    #[error("this node hears no more patterns (`limits.patterns`)")]
    PatternsOfNode,
}

impl TooMany {
    /// Whether it is over after a known pause, whatever anybody does.
    pub fn is_rate(self) -> bool {
        self.retry_after().is_some()
    }

    /// The HTTP status: 503 where another node may help, 429 where the client has to let go of something or wait, and 400
    /// where it asks for more than any connection gets.
    pub fn status(self) -> StatusCode {
        match self {
            Self::Rate { .. } | Self::Node | Self::ChannelsOfNode | Self::PatternsOfNode => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            Self::Handshakes { .. }
            | Self::Failures { .. }
            | Self::PublishesOfConnection { .. }
            | Self::PublishesOfUser { .. }
            | Self::User
            | Self::Address
            | Self::ChannelsOfAddress
            | Self::PatternsOfAddress => StatusCode::TOO_MANY_REQUESTS,
            Self::ChannelsOfConnection | Self::PatternsOfConnection => StatusCode::BAD_REQUEST,
        }
    }

    /// The name of the error in answers.
    pub fn code(self) -> &'static str {
        match self {
            Self::Rate { .. } => "too_fast",
            Self::Handshakes { .. }
            | Self::Failures { .. }
            | Self::PublishesOfConnection { .. }
            | Self::PublishesOfUser { .. } => "rate_limit",
            Self::Node | Self::ChannelsOfNode | Self::PatternsOfNode => "full",
            Self::User | Self::Address => "connection_limit",
            Self::ChannelsOfConnection => "too_many_channels",
            Self::ChannelsOfAddress => "channel_limit",
            Self::PatternsOfConnection => "too_many_patterns",
            Self::PatternsOfAddress => "pattern_limit",
        }
    }

    /// When there is surely room for one more, where that is known.
    pub fn retry_after(self) -> Option<Duration> {
        match self {
            Self::Rate { retry_after }
            | Self::Handshakes { retry_after }
            | Self::Failures { retry_after }
            | Self::PublishesOfConnection { retry_after }
            | Self::PublishesOfUser { retry_after } => Some(retry_after),
            Self::Node
            | Self::User
            | Self::Address
            | Self::ChannelsOfConnection
            | Self::ChannelsOfAddress
            | Self::ChannelsOfNode
            | Self::PatternsOfConnection
            | Self::PatternsOfAddress
            | Self::PatternsOfNode => None,
        }
    }

    /// The setting, as metrics call it: its name within `[limits]`.
    pub fn limit(self) -> &'static str {
        match self {
            Self::Rate { .. } => "accepts_per_second",
            Self::Handshakes { .. } => "handshakes_per_address",
            Self::Failures { .. } => "failures_per_address",
            Self::PublishesOfConnection { .. } => "publishes_per_connection",
            Self::PublishesOfUser { .. } => "publishes_per_user",
            Self::Node => "connections",
            Self::User => "per_user",
            Self::Address => "per_address",
            Self::ChannelsOfConnection => "channels_per_connection",
            Self::ChannelsOfAddress => "channels_per_address",
            Self::ChannelsOfNode => "channels",
            Self::PatternsOfConnection => "patterns_per_connection",
            Self::PatternsOfAddress => "patterns_per_address",
            Self::PatternsOfNode => "patterns",
        }
    }
}
