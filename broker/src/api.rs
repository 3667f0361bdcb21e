//! Publishing over HTTP: `POST /<channel>` and `POST /api/batch`.

pub(crate) mod body;

use std::sync::Arc;

use axum::{
    Json,
    extract::{Request, State},
    response::{IntoResponse, Response},
};
use clarion_bus::Receipt;
use clarion_protocol::{
    Channel, MessageId, Publication, limits, message::MessageIdError, publication::PublicationBody,
};
use http::HeaderMap;
use serde::Deserialize;
use serde_json::{Value, json, value::RawValue};

use crate::{
    answer::Problem,
    node::{Caller, Node, Via},
};

/// The header that carries a publisher's own id.
const IDEMPOTENCY_KEY: &str = "idempotency-key";

/// `POST /<channel>`, which is also `POST /users/<uid>` and `POST /broadcast`.
///
/// # Errors
/// What the publisher is told when nothing was published, or nobody can know.
pub async fn publish(State(node): State<Arc<Node>>, request: Request) -> Result<Response, Problem> {
    let channel = Channel::from_path(request.uri().path())?;
    let (head, body) = request.into_parts();
    let caller = node.caller(&head).await?;
    node.may_publish(&caller, &channel)?;
    let payload = body::payload(&node.bodies, &head, body, node.settings.payload).await?;
    let mut publication = Publication::raw(channel, payload.bytes.clone());
    publication.message.id = own_id(&head.headers)?;
    let receipt = node.publish(Via::Http, publication).await?;
    Ok(Json(taken(&receipt)).into_response())
}

/// The publisher's own id for its message: in a logged namespace a repeat of it is dropped.
fn own_id(headers: &HeaderMap) -> Result<Option<MessageId>, Problem> {
    let Some(value) = headers.get(IDEMPOTENCY_KEY) else { return Ok(None) };
    let id = value.to_str().ok().and_then(|id| MessageId::parse(id).ok());
    id.map(Some).ok_or_else(|| Problem::bad_request("bad_id", format!("Idempotency-Key: {MessageIdError}")))
}

/// `POST /api/batch`: a JSON array of messages, answered by `{"results"}` with one for each.
///
/// # Errors
/// When the array cannot be read, or no message of it was taken since this caller may not publish or there is no bus.
pub async fn batch(State(node): State<Arc<Node>>, request: Request) -> Result<Response, Problem> {
    let (head, body) = request.into_parts();
    let caller = node.caller(&head).await?;
    node.auth.may_publish_something(&caller.identity, caller.backend)?;
    let json = body::read(&node.bodies, &head, body, limits::BATCH_BYTES).await?;
    let messages: Vec<&RawValue> = serde_json::from_slice(&json.bytes).map_err(|error| bad_json(&error))?;
    let results = publish_all(&node, &caller, Via::Batch, &messages).await?;
    if let Some(problem) = nothing_taken(&results) {
        return Err(problem.clone());
    }
    Ok(Json(outcomes(&results)).into_response())
}

/// Publishes what is good of a batch; a result for each message, in their order.
///
/// # Errors
/// When there are too many.
pub(crate) async fn publish_all(
    node: &Node,
    caller: &Caller,
    via: Via,
    messages: &[&RawValue],
) -> Result<Vec<Result<Receipt, Problem>>, Problem> {
    if messages.len() > limits::BATCH_MESSAGES {
        let message =
            format!("a batch has at most {} messages, this one has {}", limits::BATCH_MESSAGES, messages.len());
        return Err(Problem::bad_request("too_many_messages", message));
    }
    let mut results = Vec::with_capacity(messages.len());
    let mut good = Vec::with_capacity(messages.len());
    for message in messages {
        match read(node, caller, message) {
            Ok(publication) => {
                good.push(publication);
                results.push(None);
            }
            Err(problem) => results.push(Some(Err(problem))),
        }
    }
    let mut published = node.publish_all(via, good).await.into_iter();
    let fill = |result: Option<_>| result.or_else(|| published.next()).expect("every good message has a result");
    Ok(results.into_iter().map(fill).collect())
}

fn read(node: &Node, caller: &Caller, message: &RawValue) -> Result<Publication, Problem> {
    let body: PublicationBody<'_> =
        object(message.get()).map_err(|error| Problem::bad_request("bad_message", error))?;
    let publication = body.publication()?;
    if let clarion_protocol::Address::Channel(channel) = &publication.address {
        node.may_publish(caller, channel)?;
    }
    Ok(publication)
}

/// What all messages of a batch failed of, when it concerns the caller or the bus and not the messages.
fn nothing_taken(results: &[Result<Receipt, Problem>]) -> Option<&Problem> {
    let first = results.first()?.as_ref().err()?;
    let same = |result: &Result<_, Problem>| result.as_ref().is_err_and(|problem| problem.status() == first.status());
    (first.concerns_all() && results.iter().all(same)).then_some(first)
}

/// What is told of a batch: for each message `{"id"}` or `{"error"}`.
pub(crate) fn outcomes(results: &[Result<Receipt, Problem>]) -> Value {
    let each: Value = results.iter().map(|result| result.as_ref().map_or_else(Problem::to_json, taken)).collect();
    json!({ "results": each })
}

/// What a publisher gets for a message that the bus has taken: its id, and its offset where there is a log.
pub(crate) fn taken(receipt: &Receipt) -> Value {
    match &receipt.position {
        None => json!({ "id": receipt.id }),
        Some(position) => json!({ "id": receipt.id, "offset": position.offset }),
    }
}

/// Reads an object by the names of its members. Serde alone would take an array for one, by their order.
pub(crate) fn object<'a, T: Deserialize<'a>>(json: &'a str) -> Result<T, String> {
    if json.starts_with('{') {
        serde_json::from_str(json).map_err(|error| error.to_string())
    } else {
        Err("expected an object".to_owned())
    }
}

/// JSON that cannot be read, with the position of the mistake.
pub(crate) fn bad_json(error: &serde_json::Error) -> Problem {
    Problem::bad_request("bad_json", error.to_string())
}

/// The payload of a form. For fuzzing.
#[doc(hidden)]
pub fn form_payload(form: &[u8]) -> Option<bytes::Bytes> {
    body::form_data(form).ok()
}
