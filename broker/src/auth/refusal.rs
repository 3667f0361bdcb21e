//! What somebody is told who is not let in, heard or served: a word for machines, and a sentence with the remedy.

use std::borrow::Cow;

use http::{HeaderValue, StatusCode};

use super::token::Failure;

/// Why somebody is not let in, heard or served.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    /// 401: what was shown, or not shown, proves nothing.
    #[error("{}", reason.message())]
    Unauthorized {
        /// What is missing or wrong.
        reason: Unauthorized,
    },
    /// 403: known, and not allowed.
    #[error("{}", reason.message())]
    Forbidden {
        /// What is not allowed.
        reason: Forbidden,
    },
    /// 503: tokens cannot be judged yet.
    #[error("tokens cannot be checked yet, since the issuer's keys could not be loaded")]
    Unavailable,
}

/// What is missing or wrong about a credential. Says no more about a bad one than that it is bad.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unauthorized {
    /// A token is needed and there is none.
    NoToken,
    /// The token is not good.
    BadToken,
    /// The token was good once. Only its true owner learns this: the signature was checked before.
    Expired,
    /// An API key is needed and there is none.
    NoApiKey,
    /// The API key is not good.
    BadApiKey,
    /// A token is needed for a pattern and there is none.
    NoTokenForPattern,
    /// An API key is needed for a pattern and there is none.
    NoApiKeyForPattern,
}

/// What is not allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Forbidden {
    /// The page's origin is not on the list.
    Origin,
    /// Development mode, asked for by another name than this machine's.
    Host,
    /// Another user's channel.
    OtherUser,
    /// A pattern over all users' channels.
    AllUsers,
    /// The token does not name the channel.
    NotGranted,
    /// Only a backend may do this.
    BackendOnly,
    /// Nobody may hear this by a pattern.
    NoPatterns,
    /// The token does not name the pattern.
    PatternNotGranted,
    /// Only a backend may hear this by a pattern.
    PatternsOfBackends,
}

impl Unauthorized {
    fn code(self) -> &'static str {
        match self {
            Self::NoToken | Self::NoTokenForPattern => "token_required",
            Self::BadToken => "invalid_token",
            Self::Expired => "token_expired",
            Self::NoApiKey | Self::NoApiKeyForPattern => "api_key_required",
            Self::BadApiKey => "invalid_api_key",
        }
    }

    fn message(self) -> &'static str {
        match self {
            Self::NoToken => {
                "this needs a token: in `Authorization: Bearer`, as sub-protocol `bearer.<token>`, or as `?token=`"
            }
            Self::BadToken => "the token is not valid",
            Self::Expired => "the token has expired",
            Self::NoApiKey => "publishing here needs an API key in the header `X-API-Key`",
            Self::BadApiKey => "the API key is not valid",
            Self::NoTokenForPattern => {
                "a pattern needs a token here (`patterns` of the namespace; on Redis all do unless it says otherwise); channels by their names may not"
            }
            Self::NoApiKeyForPattern => {
                "a pattern needs an API key here (`patterns` of the namespace); channels by their names may not"
            }
        }
    }

    fn challenge(self) -> &'static str {
        match self {
            Self::NoToken | Self::NoTokenForPattern => r#"Bearer realm="clarion""#,
            Self::BadToken => r#"Bearer realm="clarion", error="invalid_token""#,
            Self::Expired => r#"Bearer realm="clarion", error="invalid_token", error_description="expired""#,
            Self::NoApiKey | Self::NoApiKeyForPattern | Self::BadApiKey => r#"X-API-Key realm="clarion""#,
        }
    }
}

impl Forbidden {
    fn code(self) -> &'static str {
        match self {
            Self::Origin => "origin_not_allowed",
            Self::Host => "host_not_allowed",
            Self::OtherUser => "not_your_channel",
            Self::AllUsers => "users_pattern",
            Self::NotGranted => "not_granted",
            Self::BackendOnly => "backend_only",
            Self::NoPatterns | Self::PatternNotGranted | Self::PatternsOfBackends => "patterns_not_allowed",
        }
    }

    fn message(self) -> &'static str {
        match self {
            Self::Origin => "pages of this origin may not connect: it is not in `auth.origins`",
            Self::Host => {
                "in development mode the broker answers to localhost, 127.0.0.1 and [::1] only; configure keys to serve other names"
            }
            Self::OtherUser => "only the user himself may subscribe to his channels",
            Self::AllUsers => "nobody may subscribe to the channels of all users",
            Self::NotGranted => "the token does not name this channel in `channels` or `subs`",
            Self::BackendOnly => "only a backend with an API key may publish here",
            Self::NoPatterns => "nobody may hear this by a pattern (`patterns` of the namespace); name the channels",
            Self::PatternNotGranted => {
                "the token does not name this pattern, or one over it, in `channels` or `subs` (`patterns` of the namespace)"
            }
            Self::PatternsOfBackends => {
                "only a backend with an API key may hear this by a pattern (`patterns` of the namespace); name the channels"
            }
        }
    }
}

impl AuthError {
    /// Whether something was shown that nobody has issued: a guess, or a key that was changed on one side only. An expired
    /// token is none of it, since it was good.
    pub fn is_bad_credential(self) -> bool {
        matches!(self, Self::Unauthorized { reason: Unauthorized::BadToken | Unauthorized::BadApiKey })
    }

    /// The HTTP status.
    pub fn status(self) -> StatusCode {
        match self {
            Self::Unauthorized { .. } => StatusCode::UNAUTHORIZED,
            Self::Forbidden { .. } => StatusCode::FORBIDDEN,
            Self::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    /// The name of the error in answers and counters.
    pub fn code(self) -> &'static str {
        match self {
            Self::Unauthorized { reason } => reason.code(),
            Self::Forbidden { reason } => reason.code(),
            Self::Unavailable => "keys_unavailable",
        }
    }

    /// What the client is told.
    pub fn message(self) -> Cow<'static, str> {
        self.to_string().into()
    }

    /// The `WWW-Authenticate` that a 401 comes with.
    pub fn www_authenticate(self) -> Option<HeaderValue> {
        match self {
            Self::Unauthorized { reason } => Some(HeaderValue::from_static(reason.challenge())),
            Self::Forbidden { .. } | Self::Unavailable => None,
        }
    }
}

impl From<Failure> for AuthError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::KeysUnavailable => Self::Unavailable,
            Failure::Expired => Self::Unauthorized { reason: Unauthorized::Expired },
            Failure::Malformed | Failure::UnknownKey | Failure::Signature | Failure::Claim(_) => {
                Self::Unauthorized { reason: Unauthorized::BadToken }
            }
        }
    }
}
