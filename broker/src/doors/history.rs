//! A part of a log as JSON, at once or as soon as there is something: `?last=`, `?since=`, `&wait=`.

use std::{sync::Arc, time::Duration};

use axum::{
    Json,
    body::Body,
    extract::Request,
    response::{IntoResponse, Response},
};
use clarion_bus::LogError;
use clarion_hub::Framing;
use clarion_protocol::{Channel, Cursor, Door, Interest, Message, Wording, wording};
use http::{
    HeaderValue, StatusCode,
    header::{CACHE_CONTROL, CONNECTION, CONTENT_TYPE},
};
use serde::Serialize;
use serde_json::{Value, json, value::RawValue};

use super::{ConnectionRequest, Outcome, Wanted as Hears, resume::Asked};
use crate::{
    answer::{Problem, problem},
    ingress::recovery::{History, Recovery, Start, Wanted},
    node::Node,
};

/// The header that tells where to go on when there was nothing.
const CURSOR: &str = "clarion-cursor";

/// Answers with a part of a log, or waits for it.
pub(super) async fn enter(node: &Arc<Node>, request: Request, hears: Hears, asked: Asked) -> Result<Response, Problem> {
    let (mut head, _body) = request.into_parts();
    let caller = node.newcomer(&head).await?;
    let interests = hears.interests(&caller)?;
    for interest in &interests {
        node.may_subscribe(&caller, interest)?;
    }
    let logged = logged(node, &interests);
    let (Some(recovery), false) = (node.ingress.recovery(), logged.is_empty()) else {
        asked.without_log()?;
        return Err(problem(StatusCode::NOT_ACCEPTABLE, "not_acceptable", super::DOORS));
    };
    let key = recovery.key().await.map_err(no_log)?;
    let wanted = match asked.start(false, &key)? {
        Start::Last(count) => Wanted::Last(count),
        Start::Since(cursor) => Wanted::Since(cursor, asked.limit),
        // Only waiting: from now on.
        Start::Now | Start::Lost(_) | Start::From(_) => Wanted::Last(0),
    };
    let history = recovery.history(&logged, &wanted).await.map_err(no_log)?;
    let Some(wait) = asked.wait else { return Ok(answer(recovery, &history)) };
    if let Some(reason) = history.gap {
        return Ok(gone(recovery, &history, reason));
    }
    if !history.messages.is_empty() {
        return Ok(answer(recovery, &history));
    }
    if wait.is_zero() {
        return Ok(nothing(recovery, &history.cursor));
    }
    poll(node, &mut head, Hears::These(interests), history.cursor, wait).await
}

/// The interests among these that touch a log.
pub(super) fn logged(node: &Node, interests: &[Interest]) -> Vec<Interest> {
    let Some(recovery) = node.ingress.recovery() else { return Vec::new() };
    interests.iter().filter(|interest| !recovery.logs().touched(interest).is_empty()).cloned().collect()
}

/// Registers a client that waits for one answer.
async fn poll(
    node: &Arc<Node>,
    head: &mut http::request::Parts,
    wanted: Hears,
    cursor: Cursor,
    wait: Duration,
) -> Result<Response, Problem> {
    let request = ConnectionRequest {
        door: Door::Poll,
        framing: Framing::Poll,
        wording: Wording::BareRecord,
        wanted,
        upstream: None,
        start: Some(Start::Since(cursor)),
        asked: Asked::default(),
        ends_after: Some(wait),
    };
    match request.admit(node, head).await? {
        Outcome::Elsewhere(response) => Ok(response),
        Outcome::Here(hand_over, _) => {
            let mut response = (head_of_json(), Body::empty()).into_response();
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            hand_over.put(&mut response);
            Ok(response)
        }
    }
}

fn head_of_json() -> [(http::HeaderName, &'static str); 2] {
    [(CONTENT_TYPE, "application/json"), (CACHE_CONTROL, "no-store")]
}

fn answer(recovery: &Recovery, history: &History) -> Response {
    ([(CACHE_CONTROL, "no-store")], Json(to_json(recovery, history))).into_response()
}

/// What is read of a log, as JSON.
#[derive(Serialize)]
pub(crate) struct Page {
    /// As resuming clients read them. What was published as JSON stays as it was written.
    messages: Vec<Box<RawValue>>,
    cursor: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    gap: Option<Value>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    more: bool,
}

/// `{"messages":[…],"cursor":"…","gap":{"reason"}?,"more":true?}`.
pub(crate) fn to_json(recovery: &Recovery, history: &History) -> Page {
    // Cursors of single messages would be wrong where there are several places.
    let single = history.cursor.places().len() == 1;
    let one = |(channel, message): &(Channel, Message)| {
        let cursor = message.meta.as_ref().and_then(|meta| meta.cursor.as_deref()).filter(|_| single);
        let record = String::from_utf8(wording::record(channel, message, cursor)).expect("JSON is text");
        RawValue::from_string(record).expect("a record is JSON")
    };
    Page {
        messages: history.messages.iter().map(one).collect(),
        cursor: recovery.text(&history.cursor).map(|text| text.to_string()),
        gap: history.gap.map(|reason| json!({ "reason": reason })),
        more: history.more,
    }
}

/// The cursor of a poll cannot be honoured: where the log begins is told with it.
fn gone(recovery: &Recovery, history: &History, reason: &str) -> Response {
    let message = "messages after this cursor are kept no more; go on with the `cursor` given here, or begin anew";
    let json = json!({
        "error": { "code": "gap", "message": message, "reason": reason },
        "cursor": recovery.text(&history.oldest).as_deref(),
    });
    (StatusCode::GONE, [(CACHE_CONTROL, "no-store")], Json(json)).into_response()
}

fn nothing(recovery: &Recovery, cursor: &Cursor) -> Response {
    let text = recovery.text(cursor);
    let mut response = (StatusCode::NO_CONTENT, [(CACHE_CONTROL, "no-store")]).into_response();
    if let Some(value) = text.and_then(|text| HeaderValue::from_str(&text).ok()) {
        response.headers_mut().insert(CURSOR, value);
    }
    response
}

/// The log did not answer.
pub(crate) fn no_log(error: LogError) -> Problem {
    match error {
        LogError::NotNow(reason) => {
            tracing::debug!(reason, "the log is not available");
            Problem::no_bus()
        }
        LogError::Refused(reason) => problem(StatusCode::NOT_IMPLEMENTED, "log_refused", reason),
    }
}
