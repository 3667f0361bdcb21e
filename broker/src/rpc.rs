//! JSON-RPC 2.0 on `POST /rpc`, for backends.
//!
//! | code | meaning | `data.code` |
//! | --- | --- | --- |
//! | -32700 | the body is no JSON; `data` has `line` and `column` | `bad_json` |
//! | -32600 | not a request, or too many in one batch | `bad_request` |
//! | -32601 | there is no such method | `unknown_method` |
//! | -32602 | the parameters are wrong; the message says which | `bad_params`, `bad_channel`, `reserved`, `bad_message`, `too_many_messages` |
//! | -32603 | something broke here | `internal` |
//! | -32000 | the bus surely did not take it: try again | `bus_unavailable` |
//! | -32001 | the bus did not answer: it may have taken it or not | `bus_timeout` |
//! | -32002 | the bus's rules forbid it | `bus_refused` |
//! | -32003 | the payload is over the limit | `too_large` |
//! | -32004 | this caller may not | `forbidden`, … |

mod call;

use std::{borrow::Cow, collections::BTreeSet, sync::Arc};

use axum::{
    Json,
    extract::{Request, State},
    response::{IntoResponse, Response},
};
use clarion_protocol::limits;
use http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json, value::RawValue};

use crate::{
    answer::Problem,
    api::{self, body},
    node::{Caller, Node},
};

/// Errors of JSON-RPC itself.
const PARSE_ERROR: i32 = -32700;
const INVALID_REQUEST: i32 = -32600;
const METHOD_NOT_FOUND: i32 = -32601;
const INVALID_PARAMS: i32 = -32602;
const INTERNAL_ERROR: i32 = -32603;

/// Errors of Clarion, in the range that JSON-RPC leaves to servers.
const BUS_UNAVAILABLE: i32 = -32000;
const BUS_TIMEOUT: i32 = -32001;
const BUS_REFUSED: i32 = -32002;
const TOO_LARGE: i32 = -32003;
const FORBIDDEN: i32 = -32004;

/// One request, not looked into further than it must be.
#[derive(Deserialize)]
struct Call<'a> {
    #[serde(borrow)]
    jsonrpc: Cow<'a, str>,
    #[serde(borrow)]
    method: Cow<'a, str>,
    #[serde(borrow, default)]
    params: Option<&'a RawValue>,
    /// Absent in a notification, which is not answered. `null` is an id.
    #[serde(borrow, default, deserialize_with = "call::present")]
    id: Option<&'a RawValue>,
}

/// Why a call has no result.
#[derive(Debug, Serialize)]
struct Failure {
    code: i32,
    message: String,
    data: Value,
}

impl Failure {
    fn new(code: i32, word: &'static str, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), data: json!({ "code": word }) }
    }

    fn request(message: &str) -> Self {
        Self::new(INVALID_REQUEST, "bad_request", message)
    }

    fn parse(error: &serde_json::Error) -> Self {
        let data = json!({ "code": "bad_json", "line": error.line(), "column": error.column() });
        Self { code: PARSE_ERROR, message: error.to_string(), data }
    }
}

impl From<Problem> for Failure {
    fn from(problem: Problem) -> Self {
        let code = match problem.status() {
            StatusCode::SERVICE_UNAVAILABLE => BUS_UNAVAILABLE,
            StatusCode::GATEWAY_TIMEOUT => BUS_TIMEOUT,
            StatusCode::PAYLOAD_TOO_LARGE => TOO_LARGE,
            StatusCode::FORBIDDEN if problem.code() == "bus_refused" => BUS_REFUSED,
            StatusCode::FORBIDDEN | StatusCode::UNAUTHORIZED => FORBIDDEN,
            _ => INVALID_PARAMS,
        };
        Self::new(code, problem.code(), problem.message())
    }
}

/// `POST /rpc`: one call, or an array of calls that are done in their order.
///
/// # Errors
/// When this caller is no backend, or its body is too large.
pub async fn rpc(State(node): State<Arc<Node>>, request: Request) -> Result<Response, Problem> {
    let (head, body) = request.into_parts();
    let caller = node.caller(&head).await?;
    node.auth.must_be_backend(&caller.identity, caller.backend)?;
    let json = body::read(&node.bodies, &head, body, limits::BATCH_BYTES).await?;
    // Done to its end even when the caller hangs up: a batch that stops halfway helps nobody.
    let answer = tokio::spawn(async move { answer_all(&node, &caller, &json.bytes).await }).await;
    let answer = answer.unwrap_or_else(|error| {
        tracing::error!(%error, "a remote procedure call broke");
        Some(reply(RawValue::NULL, Err(Failure::new(INTERNAL_ERROR, "internal", "something broke here"))))
    });
    Ok(answer.map_or_else(|| StatusCode::NO_CONTENT.into_response(), |answer| Json(answer).into_response()))
}

/// `None` when there were only notifications.
async fn answer_all(node: &Arc<Node>, caller: &Caller, json: &[u8]) -> Option<Box<RawValue>> {
    let whole: &RawValue = match serde_json::from_slice(json) {
        Ok(whole) => whole,
        Err(error) => return Some(reply(RawValue::NULL, Err(Failure::parse(&error)))),
    };
    if !whole.get().starts_with('[') {
        return match read(whole) {
            Ok(call) => answer_one(node, caller, &call).await,
            Err(answer) => Some(answer),
        };
    }
    let calls: Vec<&RawValue> = serde_json::from_str(whole.get()).expect("it is JSON and an array");
    if calls.is_empty() || calls.len() > limits::BATCH_MESSAGES {
        let message = format!("a batch has 1 to {} calls, this one has {}", limits::BATCH_MESSAGES, calls.len());
        return Some(reply(RawValue::NULL, Err(Failure::request(&message))));
    }
    let answers = answer_batch(node, caller, &calls).await;
    (!answers.is_empty()).then(|| raw(&answers))
}

/// The calls in their order, but that `online` after `online` is asked of the members together: a thousand of them take as
/// long as one. A member that did not answer is not waited for again in the same batch.
async fn answer_batch(node: &Arc<Node>, caller: &Caller, calls: &[&RawValue]) -> Vec<Box<RawValue>> {
    let (mut answers, mut silent) = (Vec::new(), BTreeSet::new());
    let calls: Vec<_> = calls.iter().map(|call| read(call)).collect();
    let asks = |call: &Result<Call<'_>, Box<RawValue>>| call.as_ref().is_ok_and(|call| call.method == call::ONLINE);
    for run in calls.chunk_by(|one, next| asks(one) && asks(next)) {
        match run {
            [Err(answer), ..] => answers.push(answer.clone()),
            [Ok(call)] if !asks(&run[0]) => answers.extend(answer_one(node, caller, call).await),
            run => {
                let run: Vec<_> = run.iter().flatten().collect();
                let params: Vec<_> = run.iter().map(|call| call.params).collect();
                let results = call::online_all(node, &params, &mut silent).await;
                answers.extend(run.iter().zip(results).filter_map(|(call, result)| call.reply(result)));
            }
        }
    }
    answers
}

/// Reads one call, or says in an answer why it is none.
fn read(json: &RawValue) -> Result<Call<'_>, Box<RawValue>> {
    let refused = |why: &str| reply(RawValue::NULL, Err(Failure::request(why)));
    let call: Call<'_> = api::object(json.get()).map_err(|error| refused(&error))?;
    call.wrong().map_or(Ok(call), |wrong| Err(refused(wrong)))
}

async fn answer_one(node: &Arc<Node>, caller: &Caller, call: &Call<'_>) -> Option<Box<RawValue>> {
    call.reply(call::dispatch(node, caller, &call.method, call.params).await)
}

impl Call<'_> {
    /// What is answered; nothing to a notification.
    fn reply(&self, result: Result<Value, Failure>) -> Option<Box<RawValue>> {
        self.id.map(|id| reply(id, result))
    }

    /// What makes this no request of JSON-RPC 2.0.
    fn wrong(&self) -> Option<&'static str> {
        let is_id = |id: &RawValue| !id.get().starts_with(['{', '[', 't', 'f']);
        if self.jsonrpc != "2.0" {
            Some("`jsonrpc` must be \"2.0\"")
        } else if !self.id.is_none_or(is_id) {
            Some("`id` must be a string, a number or null")
        } else {
            None
        }
    }
}

/// One answer, its members in the order of their names.
#[derive(Serialize)]
struct Reply<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<Failure>,
    /// As it came: of a number that JSON can write and this machine cannot hold, or of `1e2`, another one would go back.
    id: &'a RawValue,
    jsonrpc: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    result: Option<Value>,
}

fn reply(id: &RawValue, result: Result<Value, Failure>) -> Box<RawValue> {
    let (result, error) = match result {
        Ok(result) => (Some(result), None),
        Err(failure) => (None, Some(failure)),
    };
    raw(&Reply { error, id, jsonrpc: "2.0", result })
}

fn raw(value: &impl Serialize) -> Box<RawValue> {
    serde_json::value::to_raw_value(value).expect("JSON in memory can be written")
}
