//! How HTTP answers look, and the one place where errors become status codes.

use std::{borrow::Cow, time::Duration};

use axum::{
    Json,
    body::Body,
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use clarion_bus::PublishError;
use clarion_hub::Leaving;
use clarion_protocol::{
    ChannelError, InterestError, channel::RESERVED, channel::RESERVED_PREFIX, publication::BodyError,
};
use http::{
    HeaderName, HeaderValue, StatusCode,
    header::{CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE},
};
use rand::Rng as _;
use serde_json::json;

use crate::{
    admission::{TooMany, bodies::Full},
    auth::AuthError,
    ingress::AcquireError,
};

/// After how many seconds a publisher may try again: a bus reconnects within five (`bus.reconnect_max`), mostly sooner.
const RETRY_AFTER_BUS: Duration = Duration::from_secs(2);

/// After how many seconds it is worth looking whether somebody has left.
const RETRY_AFTER_FULL: Duration = Duration::from_secs(10);

/// After how many seconds there is room for bodies again: most are done with in milliseconds.
const RETRY_AFTER_BODIES: Duration = Duration::from_secs(1);

/// Bounds of the pause that an event stream is told, in milliseconds: wide enough that a node's clients do not come back at once.
const RETRY_EVENT_STREAM: std::ops::Range<u32> = 1_000..5_000;

/// A header and its value.
type Header = (HeaderName, HeaderValue);

/// What a client is told when its request is not done: `{"error":{"code","message"}}`.
#[derive(Debug, Clone)]
pub struct Problem {
    status: StatusCode,
    code: &'static str,
    message: Cow<'static, str>,
    headers: Vec<Header>,
    /// Over after the pause that is told with it, though its status alone does not say so.
    passes: bool,
}

/// The answer to a request that cannot be done. `code` is for machines and stays, `message` is for people and names the remedy.
pub fn problem(status: StatusCode, code: &'static str, message: impl Into<Cow<'static, str>>) -> Problem {
    Problem { status, code, message: message.into(), headers: Vec::new(), passes: false }
}

impl Problem {
    /// The request is not one that this door understands.
    pub fn bad_request(code: &'static str, message: impl Into<Cow<'static, str>>) -> Self {
        problem(StatusCode::BAD_REQUEST, code, message)
    }

    /// More bytes than are taken.
    pub fn too_large(limit: usize) -> Self {
        problem(StatusCode::PAYLOAD_TOO_LARGE, "too_large", format!("the limit is {limit} bytes"))
    }

    /// This node cannot do it now, another one or a later try may.
    pub fn overloaded(code: &'static str, message: impl Into<Cow<'static, str>>, after: Duration) -> Self {
        problem(StatusCode::SERVICE_UNAVAILABLE, code, message).retry_after(after)
    }

    /// The node has no bus at the moment.
    pub fn no_bus() -> Self {
        Self::overloaded("bus_unavailable", "the bus is not connected; try again", jittered(RETRY_AFTER_BUS))
    }

    /// Adds a header.
    #[must_use]
    pub fn with(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.push((name, value));
        self
    }

    /// Says when to come again.
    #[must_use]
    pub fn retry_after(self, after: Duration) -> Self {
        let seconds = after.as_secs_f64().ceil().max(1.0) as u64;
        self.with(RETRY_AFTER, seconds.into())
    }

    /// Names what it is about, where a request names several things.
    #[must_use]
    pub fn about(mut self, name: &str) -> Self {
        self.message = format!("{name:?}: {}", self.message).into();
        self
    }

    /// The HTTP status.
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// The word for machines.
    pub fn code(&self) -> &'static str {
        self.code
    }

    /// The sentence for people.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// Whether it will pass by itself, as a lack of room at this node or a rate does. An event stream is told to come back.
    pub fn passes(&self) -> bool {
        matches!(self.status, StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT) || self.passes
    }

    /// Whether it lies with the caller's rights or the bus, so that a batch fails of it as a whole.
    pub fn concerns_all(&self) -> bool {
        self.passes() || self.status == StatusCode::UNAUTHORIZED
    }

    /// The same as JSON, for one message of a batch.
    pub fn to_json(&self) -> serde_json::Value {
        json!({ "error": { "code": self.code, "message": self.message } })
    }
}

/// A time between the one given and its double, so that those who wait do not come back together.
fn jittered(base: Duration) -> Duration {
    base.mul_f64(rand::rng().random_range(1.0..2.0))
}

/// `retry:` with a pause of its own for each stream.
pub fn retry_line() -> Bytes {
    format!("retry: {}\n\n", rand::rng().random_range(RETRY_EVENT_STREAM)).into()
}

/// An event stream with this body. Proxies neither keep nor hold back what it says.
pub fn event_stream(body: Body) -> Response {
    let headers = [
        (CONTENT_TYPE.as_str(), "text/event-stream"),
        (CACHE_CONTROL.as_str(), "no-store"),
        ("x-accel-buffering", "no"),
    ];
    (headers, body).into_response()
}

/// What an event stream gets instead of a 503: an `EventSource` gives up for ever after any status but 200.
pub fn come_back() -> Response {
    event_stream(Body::from(retry_line()))
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(self.to_json())).into_response();
        response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        response.headers_mut().extend(self.headers);
        response
    }
}

impl From<ChannelError> for Problem {
    fn from(error: ChannelError) -> Self {
        match error {
            ChannelError::Reserved { segment } => problem(
                StatusCode::NOT_FOUND,
                "reserved",
                format!(
                    "`{segment}` is reserved and nothing is here; reserved first segments are {} and all that begin with {RESERVED_PREFIX}",
                    RESERVED.join(", ")
                ),
            ),
            other => Self::bad_request("bad_channel", other.to_string()),
        }
    }
}

impl From<InterestError> for Problem {
    fn from(error: InterestError) -> Self {
        match error {
            InterestError::Channel(error) => error.into(),
            InterestError::Root => Self::bad_request("bad_channel", error.to_string()),
        }
    }
}

impl From<BodyError> for Problem {
    fn from(error: BodyError) -> Self {
        match error {
            BodyError::Channel(error) => error.into(),
            other => Self::bad_request("bad_message", other.to_string()),
        }
    }
}

impl From<PublishError> for Problem {
    fn from(error: PublishError) -> Self {
        match error {
            PublishError::NotTaken(_) => Self::no_bus(),
            PublishError::Unknown(_) => problem(
                StatusCode::GATEWAY_TIMEOUT,
                "bus_timeout",
                "the bus did not answer; the message may have been published or not",
            ),
            PublishError::Refused(_) => {
                problem(StatusCode::FORBIDDEN, "bus_refused", "the bus's rules forbid this channel to this node")
            }
            PublishError::TooLarge { limit, .. } => Self::too_large(limit),
        }
    }
}

impl From<AcquireError> for Problem {
    fn from(error: AcquireError) -> Self {
        match error {
            AcquireError::Refused(reason) => problem(StatusCode::FORBIDDEN, "bus_refused", reason),
            AcquireError::NotNow(reason) => Self::overloaded(
                "bus_unavailable",
                format!("the bus does not take this subscription now; try again ({reason})"),
                jittered(RETRY_AFTER_BUS),
            ),
            AcquireError::Unavailable => Self::no_bus(),
        }
    }
}

impl From<Leaving> for Problem {
    fn from(_: Leaving) -> Self {
        Self::overloaded("leaving", "this node is leaving; another one takes you", jittered(RETRY_AFTER_BUS))
    }
}

impl From<TooMany> for Problem {
    fn from(error: TooMany) -> Self {
        let mut told = problem(error.status(), error.code(), error.to_string());
        told.passes = error.is_rate();
        if error.status() == StatusCode::BAD_REQUEST {
            return told;
        }
        // Somebody has to leave before there is room for one more, and nobody knows when that is.
        told.retry_after(error.retry_after().unwrap_or_else(|| jittered(RETRY_AFTER_FULL)))
    }
}

impl From<Full> for Problem {
    fn from(error: Full) -> Self {
        Self::overloaded("bodies_full", error.to_string(), jittered(RETRY_AFTER_BODIES))
    }
}

impl From<AuthError> for Problem {
    fn from(error: AuthError) -> Self {
        let told = problem(error.status(), error.code(), error.message());
        match error.www_authenticate() {
            Some(value) => told.with(WWW_AUTHENTICATE, value),
            None if told.passes() => told.retry_after(jittered(RETRY_AFTER_BUS)),
            None => told,
        }
    }
}
