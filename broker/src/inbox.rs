//! The inbox: what a user has not read comes again until they have read it, on whichever device.
//!
//! Messages lie in the log of `users/<uid>`; what was read is a mark beside it. A mark is a place in that log, and single
//! messages beyond it, so that marks can be set in any order, twice, and by two devices at once.

use std::sync::Arc;

use axum::{
    Json,
    extract::{Request, State},
    response::{IntoResponse, Response},
};
use clarion_bus::{LogError, StoreHandle, log::Marks};
use clarion_protocol::{Channel, Cursor, CursorError, Message, MessageId, Place, Uid, limits};
use http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::{
    answer::{Problem, problem},
    api::{self, body},
    auth::{AuthError, Unauthorized},
    ingress::recovery::{History, Recovery, Wanted},
    node::{Caller, Node},
};

/// How many messages of an inbox are looked at: all that its log keeps by default, and more than a person reads.
const LOOKED_AT: usize = 1_000;
/// How many ids one request may name.
const MOST_IDS: usize = Marks::MOST;

/// What was read: everything up to a cursor, or single messages by their ids. Exactly one of the two.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Read {
    #[serde(default)]
    pub(crate) up_to: Option<String>,
    #[serde(default)]
    pub(crate) ids: Option<Vec<MessageId>>,
}

/// How much of an inbox is unread.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Unread {
    /// How many messages.
    pub(crate) count: usize,
    /// The newest one's cursor: marking everything up to it as read empties the inbox.
    #[serde(skip_serializing_if = "Option::is_none")]
    newest: Option<String>,
    /// When the oldest of them was published, in milliseconds since 1970.
    #[serde(skip_serializing_if = "Option::is_none")]
    since: Option<u64>,
}

/// `POST /me/read`: `{"up_to": "<cursor>"}` or `{"ids": [...]}`. Answers what is left unread.
///
/// # Errors
/// 400 for what cannot be read, 401 without a token, 404 where users have no inbox, 410 for a cursor of another deployment or
/// of a log that was lost, 503 when the bus does not answer.
pub async fn read(State(node): State<Arc<Node>>, request: Request) -> Result<Response, Problem> {
    let (head, body) = request.into_parts();
    let caller = node.caller(&head).await?;
    let user = signed_in(&caller)?;
    let json = body::read(&node.bodies, &head, body, limits::BATCH_BYTES).await?;
    let text =
        std::str::from_utf8(&json.bytes).map_err(|_| Problem::bad_request("bad_json", "the body is not UTF-8"))?;
    let read: Read = api::object(text).map_err(|error| Problem::bad_request("bad_json", error))?;
    let unread = mark(&node, &user, &read).await?;
    Ok(Json(json!({ "unread": unread })).into_response())
}

/// `GET /me/unread`: how much is unread.
///
/// # Errors
/// As [`read`].
pub async fn unread(State(node): State<Arc<Node>>, request: Request) -> Result<Response, Problem> {
    let (head, _) = request.into_parts();
    let caller = node.caller(&head).await?;
    let unread = count(&node, &signed_in(&caller)?).await?;
    Ok(Json(unread).into_response())
}

fn signed_in(caller: &Caller) -> Result<Uid, Problem> {
    let user = caller.identity.user.clone();
    user.ok_or_else(|| AuthError::Unauthorized { reason: Unauthorized::NoToken }.into())
}

/// How much of a user's inbox is unread.
pub(crate) async fn count(node: &Node, user: &Uid) -> Result<Unread, Problem> {
    let inbox = Inbox::open(node, user)?;
    let marks = inbox.marks().await?;
    inbox.unread(&marks).await
}

/// Marks what was read, tells the user's devices, and answers what is left.
pub(crate) async fn mark(node: &Node, user: &Uid, read: &Read) -> Result<Unread, Problem> {
    let inbox = Inbox::open(node, user)?;
    let new = match (&read.up_to, &read.ids) {
        (Some(cursor), None) => inbox.up_to(cursor).await?,
        (None, Some(ids)) => inbox.of_ids(ids).await?,
        _ => return Err(Problem::bad_request("bad_read", "exactly one of `up_to` (a cursor) and `ids` is needed")),
    };
    let marks = inbox.store.mark(user, &new).await.map_err(no_log)?;
    let unread = inbox.unread(&marks).await?;
    // The other devices stop showing it. One that does not hear of it now sees the mark when it comes back.
    let told = match &read.up_to {
        Some(cursor) => json!({ "up_to": cursor, "unread": unread.count }),
        None => json!({ "ids": read.ids, "unread": unread.count }),
    };
    node.members.tell_read(user, told).await;
    Ok(unread)
}

/// What a user has read, where their channel has an inbox: doors begin with the rest.
///
/// # Errors
/// 503 when the bus does not answer.
pub(crate) async fn marks(node: &Node, user: &Uid) -> Result<Marks, Problem> {
    Inbox::open(node, user)?.marks().await
}

/// One user's inbox.
struct Inbox<'a> {
    recovery: &'a Arc<Recovery>,
    store: StoreHandle,
    user: &'a Uid,
    channel: Channel,
}

impl<'a> Inbox<'a> {
    fn open(node: &'a Node, user: &'a Uid) -> Result<Self, Problem> {
        let channel = Channel::of_user(user);
        let parts = node.ingress.recovery().zip(node.ingress.store()).filter(|_| node.auth.has_inbox(&channel));
        let (recovery, store) = parts.ok_or_else(|| {
            let remedy = "users have no inbox here: give the namespace `users` the setting `inbox = true`";
            problem(StatusCode::NOT_FOUND, "no_inbox", remedy)
        })?;
        Ok(Self { recovery, store, user, channel })
    }

    async fn marks(&self) -> Result<Marks, Problem> {
        self.store.marks(self.user).await.map_err(no_log)
    }

    /// What lies in the log beyond what is marked as a whole.
    async fn beyond(&self, marks: &Marks) -> Result<History, Problem> {
        let newest =
            self.recovery.history(&[(&self.channel).into()], &Wanted::Last(LOOKED_AT)).await.map_err(no_log)?;
        let messages = newest.messages.into_iter().filter(|(_, message)| unmarked(message, marks)).collect();
        Ok(History { messages, ..newest })
    }

    async fn unread(&self, marks: &Marks) -> Result<Unread, Problem> {
        let History { messages, .. } = self.beyond(marks).await?;
        let meta = |found: Option<&(Channel, Message)>| found.and_then(|(_, message)| message.meta.clone());
        let newest = meta(messages.last()).and_then(|meta| meta.cursor.as_deref().map(str::to_owned));
        Ok(Unread { count: messages.len(), newest, since: meta(messages.first()).and_then(|meta| meta.time) })
    }

    /// Everything up to the place that a cursor names in the inbox.
    async fn up_to(&self, cursor: &str) -> Result<Marks, Problem> {
        let key = self.recovery.key().await.map_err(no_log)?;
        let cursor = Cursor::decode(cursor, &key).map_err(bad_cursor)?;
        let top = self.top().await?;
        let offset = cursor.offset(&top.epoch).ok_or_else(gone)?;
        // A mark beyond the top would mark what is yet to come.
        Ok(Marks { epoch: Some(top.epoch), up_to: offset.min(top.offset), ..Marks::default() })
    }

    /// The messages with these ids that are still there; others are read, or gone, and count for nothing.
    async fn of_ids(&self, ids: &[MessageId]) -> Result<Marks, Problem> {
        if ids.is_empty() || ids.len() > MOST_IDS {
            let message = format!("`ids` names 1 to {MOST_IDS} messages; `up_to` marks all up to a cursor");
            return Err(Problem::bad_request("bad_read", message));
        }
        let top = self.top().await?;
        let History { messages, .. } = self.beyond(&Marks::default()).await?;
        let named = messages.iter().filter(|(_, message)| message.id.as_ref().is_some_and(|id| ids.contains(id)));
        let also = named.filter_map(|(_, message)| Some(message.meta.as_ref()?.position.as_ref()?.offset)).collect();
        Ok(Marks { epoch: Some(top.epoch), up_to: 0, also })
    }

    async fn top(&self) -> Result<Place, Problem> {
        let history = self.recovery.history(&[(&self.channel).into()], &Wanted::Last(0)).await.map_err(no_log)?;
        history.cursor.places().first().cloned().ok_or_else(gone)
    }
}

fn unmarked(message: &Message, marks: &Marks) -> bool {
    let position = message.meta.as_ref().and_then(|meta| meta.position.as_ref());
    position.is_some_and(|position| !marks.has(&position.epoch, position.offset))
}

fn gone() -> Problem {
    problem(StatusCode::GONE, "log_lost", "this cursor is of a log that was lost; begin again without it")
}

fn bad_cursor(error: CursorError) -> Problem {
    match error {
        CursorError::Foreign => problem(StatusCode::GONE, "foreign_cursor", error.to_string()),
        CursorError::TooLong { .. } | CursorError::Malformed | CursorError::Version(_) => {
            Problem::bad_request("bad_cursor", error.to_string())
        }
    }
}

fn no_log(error: LogError) -> Problem {
    match error {
        LogError::NotNow(reason) => Problem::no_bus().about(&reason),
        LogError::Refused(reason) => problem(StatusCode::NOT_IMPLEMENTED, "log_refused", reason),
    }
}
