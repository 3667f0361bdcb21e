//! Where a client begins in a log: `?since=`, `?last=`, `Last-Event-ID`, and how long it waits for more.

use std::{sync::Arc, time::Duration};

use clarion_bus::log::Marks;
use clarion_hub::{Bookmark, Entered, Reached};
use clarion_protocol::{Cursor, CursorError, CursorKey, Interest, InterestId, Place, Position};
use http::{HeaderMap, StatusCode, request::Parts};
use tokio::sync::oneshot;

use crate::{
    answer::{Problem, problem},
    ingress::recovery::{Joined, Recovery, Start},
};

/// How many of the newest messages may be asked for.
pub(crate) const MOST: usize = 1_000;
/// How many are given where nothing is said.
const USUAL: usize = 100;
/// The longest wait of a poll: proxies hang up on answers that take longer.
const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// What an `EventSource` sends of itself when it comes back.
const LAST_EVENT_ID: &str = "last-event-id";

/// What a request asks of a log.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Asked {
    since: Option<String>,
    last: Option<usize>,
    /// Sent by the client itself, so what is wrong with it is not the caller's mistake.
    last_event_id: Option<String>,
    /// How long to wait when there is nothing.
    pub(super) wait: Option<Duration>,
    /// How many messages to give at most.
    pub(super) limit: usize,
}

impl Asked {
    /// Reads the query and, for event streams, `Last-Event-ID`, which goes before `since`: it is newer.
    ///
    /// # Errors
    /// 400 for what cannot be read.
    pub(super) fn read(head: &Parts) -> Result<Self, Problem> {
        let mut asked = Self { limit: USUAL, ..Self::default() };
        for (key, value) in form_urlencoded::parse(head.uri.query().unwrap_or_default().as_bytes()) {
            match &*key {
                "since" => asked.since = Some(value.into_owned()),
                "lastEventId" => asked.last_event_id = Some(value.into_owned()),
                "last" => asked.last = Some(count("last", &value)?),
                "limit" => asked.limit = count("limit", &value)?,
                "wait" => asked.wait = Some(wait(&value)?),
                _ => {}
            }
        }
        if asked.since.is_some() && asked.last.is_some() {
            return Err(bad("either `since` or `last`, not both"));
        }
        asked.last_event_id = header(&head.headers).or(asked.last_event_id).filter(|id| !id.is_empty());
        Ok(asked)
    }

    /// Whether it asks for a part of a log, and for no connection.
    pub(super) fn is_of_history(&self) -> bool {
        self.since.is_some() || self.last.is_some() || self.wait.is_some()
    }

    /// Where to begin in what is logged.
    ///
    /// # Errors
    /// 400 or 410 for a cursor that is none, or of another deployment.
    pub(super) fn start(&self, stream: bool, key: &CursorKey) -> Result<Start, Problem> {
        if let Some(id) = self.last_event_id.as_deref().filter(|_| stream) {
            // An `EventSource` gives up for ever after any status but 200, so it is let in and told of a gap.
            return Ok(Cursor::decode(id, key).map_or(Start::Lost("log_lost"), Start::Since));
        }
        match (&self.since, self.last) {
            (Some(since), _) => Ok(Start::Since(Cursor::decode(since, key).map_err(refused)?)),
            (None, Some(last)) => Ok(Start::Last(last)),
            (None, None) => Ok(Start::Now),
        }
    }

    /// What is asked of a channel that has no log.
    ///
    /// # Errors
    /// 400 where somebody asked for one. A `Last-Event-ID` was not asked for.
    pub(super) fn without_log(&self) -> Result<(), Problem> {
        if !self.is_of_history() {
            return Ok(());
        }
        let remedy = "nothing is logged there: give its namespace a `log`, or leave out `since`, `last` and `wait`";
        Err(Problem::bad_request("not_logged", remedy))
    }
}

fn header(headers: &HeaderMap) -> Option<String> {
    Some(headers.get(LAST_EVENT_ID)?.to_str().unwrap_or("?").to_owned())
}

fn bad(message: impl Into<std::borrow::Cow<'static, str>>) -> Problem {
    Problem::bad_request("bad_query", message)
}

fn count(key: &str, value: &str) -> Result<usize, Problem> {
    let number = value.parse().ok().filter(|number| (1..=MOST).contains(number));
    number.ok_or_else(|| bad(format!("`{key}` is a number from 1 to {MOST}, not {:?}", short(value))))
}

fn wait(value: &str) -> Result<Duration, Problem> {
    let seconds = value.strip_suffix('s').unwrap_or(value).parse().ok().map(Duration::from_secs);
    let fits = seconds.filter(|wait| *wait <= LONGEST_WAIT);
    let most = LONGEST_WAIT.as_secs();
    fits.ok_or_else(|| bad(format!("`wait` is a number of seconds up to {most}, such as 25, not {:?}", short(value))))
}

/// What a message repeats of a value.
fn short(value: &str) -> String {
    value.chars().take(40).collect()
}

/// What is answered to a cursor that cannot be read.
pub(crate) fn refused(error: CursorError) -> Problem {
    match error {
        CursorError::Foreign => {
            let message = format!("{error}; begin again without it");
            problem(StatusCode::GONE, "foreign_cursor", message)
        }
        CursorError::TooLong { .. } | CursorError::Malformed | CursorError::Version(_) => {
            Problem::bad_request("bad_cursor", error.to_string())
        }
    }
}

/// How far a connection of several places has come.
pub(super) struct Marker {
    places: Vec<Place>,
    key: CursorKey,
}

impl Marker {
    pub(super) fn new(cursor: &Cursor, key: CursorKey) -> Self {
        Self { places: cursor.places().to_vec(), key }
    }

    fn place(&mut self, epoch: &clarion_protocol::Epoch) -> &mut Place {
        let at = self.places.iter().position(|place| place.epoch == *epoch).unwrap_or_else(|| {
            self.places.push(Place { epoch: epoch.clone(), offset: 0 });
            self.places.len() - 1
        });
        &mut self.places[at]
    }
}

impl Bookmark for Marker {
    fn pass(&mut self, position: &Position) {
        let place = self.place(&position.epoch);
        place.offset = place.offset.max(position.offset);
    }

    fn set(&mut self, reached: &Reached) {
        self.place(&reached.epoch).offset = reached.offset;
    }

    fn text(&self) -> String {
        Cursor::new(self.places.iter().cloned()).encode(&self.key)
    }
}

/// What a connection that begins in a log needs once its shard has let it in.
pub(super) struct CatchUp {
    pub(super) recovery: Arc<Recovery>,
    /// The logged ones among the connection's subscriptions, by their places.
    pub(super) seats: Vec<(usize, InterestId, Interest)>,
    pub(super) start: Start,
    pub(super) admitted: Vec<Place>,
    pub(super) cursors: bool,
    pub(super) read: Option<Marks>,
}

impl CatchUp {
    /// Waits until the shard tells of the connection, and feeds it. A connection that is never let in needs nothing.
    pub(super) fn begin(self, runtime: &tokio::runtime::Handle) -> oneshot::Sender<Entered> {
        let (sender, entered) = oneshot::channel();
        runtime.spawn(async move {
            let Ok(Entered { key: connection, seats }) = entered.await else { return };
            let Self { recovery, seats: logged, start, admitted, cursors, read } = self;
            let seat = |(at, id, interest): (usize, InterestId, Interest)| Some((*seats.get(at)?, id, interest));
            let seats = logged.into_iter().filter_map(seat).collect();
            recovery.catch_up(Joined { connection, seats, start, admitted, cursors, read }).await;
        });
        sender
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(uri: &str, id: Option<&str>) -> Result<Asked, Problem> {
        let mut request = http::Request::get(uri);
        if let Some(id) = id {
            request = request.header(LAST_EVENT_ID, id);
        }
        Asked::read(&request.body(()).unwrap().into_parts().0)
    }

    #[test]
    fn a_query_says_where_to_begin() {
        let read = |uri| asked(uri, None).unwrap();
        assert_eq!(read("/a?token=x"), Asked { limit: 100, ..Asked::default() });
        assert_eq!(read("/a?last=20").last, Some(20));
        let poll = read("/a?since=c&wait=25&limit=5");
        assert_eq!((poll.since.as_deref(), poll.wait, poll.limit), (Some("c"), Some(Duration::from_secs(25)), 5));
        assert_eq!(read("/a?wait=0s").wait, Some(Duration::ZERO));
        assert_eq!(asked("/a?lastEventId=q", Some("h")).unwrap().last_event_id.as_deref(), Some("h"));
        for bad in
            ["last=-1", "last=0", "last=x", "last=1001", "limit=", "wait=1h", "wait=61", "wait=-1", "since=a&last=1"]
        {
            assert_eq!(asked(&format!("/a?{bad}"), None).unwrap_err().code(), "bad_query", "{bad}");
        }
    }

    #[test]
    fn only_who_asked_is_refused() {
        let key = CursorKey::new([1; 16]);
        let start = |uri: &str, id: Option<&str>, stream| asked(uri, id).unwrap().start(stream, &key);
        assert!(matches!(start("/a", Some("forged"), true), Ok(Start::Lost(_))));
        assert!(matches!(start("/a", Some("forged"), false), Ok(Start::Now)));
        assert_eq!(start("/a?since=forged", None, true).unwrap_err().code(), "bad_cursor");
        let foreign = Cursor::default().encode(&CursorKey::new([2; 16]));
        assert_eq!(start(&format!("/a?since={foreign}"), None, false).unwrap_err().status(), StatusCode::GONE);
        let own = Cursor::default().encode(&key);
        assert!(matches!(start(&format!("/a?since={own}"), Some(&own), true), Ok(Start::Since(_))));
    }
}
