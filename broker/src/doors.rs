//! The ways in for clients: a request comes in, a registered connection or a plain refusal goes out.
//!
//! All doors ask the same questions in the same order: is the name a channel, is it a door, may this page, who is it,
//! is this his home, may he hear it, is there room. Only then the interests are made to stand and the client is told yes.

pub mod cors;
mod events;
pub mod hand_over;
pub(crate) mod history;
pub mod page;
pub(crate) mod resume;
mod voice;
mod websocket;

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use axum::{
    extract::{Request, State},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use clarion_bus::Link;
use clarion_hub::{Bookmark, Framing, InterestLease, Leaving, Open, Subscription, Voice, voice::Mute};
use clarion_protocol::{Channel, Cursor, Door, Interest, Uid, Wording};
use http::{
    HeaderMap, Method, StatusCode,
    header::{ACCEPT, UPGRADE},
    request::Parts,
};

use self::{
    hand_over::HandOver,
    resume::{Asked, CatchUp, Marker},
};
use crate::{
    answer::{self, Problem, problem},
    auth::{AuthError, Policy, Unauthorized},
    inbox,
    ingress::recovery::Start,
    node::{Caller, Node},
    relay,
};

/// The doors there are today, for whoever knocks at none.
const DOORS: &str = "a channel is heard by a WebSocket handshake, or as an event stream with `Accept: text/event-stream`; what was logged is read with ?last=20; it is published to with POST";

/// How a client asks to be connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Transport {
    WebSocket,
    EventStream,
}

impl Transport {
    /// Reads the headers that ask for it.
    fn asked(headers: &HeaderMap) -> Option<Self> {
        let lists = |name, word: &str| {
            let values = headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
            let mut items = values.flat_map(|value| value.split(','));
            items.any(|item| item.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case(word))
        };
        if lists(UPGRADE, "websocket") {
            Some(Self::WebSocket)
        } else if lists(ACCEPT, "text/event-stream") {
            Some(Self::EventStream)
        } else {
            None
        }
    }
}

/// What a client wants to hear.
enum Wanted {
    /// What the URL names.
    These(Vec<Interest>),
    /// What is the signed-in user's own.
    Mine,
}

impl Wanted {
    fn interests(&self, caller: &Caller) -> Result<Vec<Interest>, Problem> {
        match self {
            Self::These(interests) => Ok(interests.clone()),
            Self::Mine => match &caller.identity.user {
                Some(user) => Ok(vec![(&Channel::of_user(user)).into(), (&Channel::broadcast()).into()]),
                None => Err(AuthError::Unauthorized { reason: Unauthorized::NoToken }.into()),
            },
        }
    }
}

/// `GET /<channel>`, `/<channel>/*` and `/<channel>/**`.
///
/// # Errors
/// What the client is told when it is not let in.
pub async fn channel(State(node): State<Arc<Node>>, request: Request) -> Result<Response, Problem> {
    let interest = Interest::from_path(request.uri().path())?;
    let upstream = interest.as_channel();
    enter(&node, request, Wanted::These(vec![interest]), upstream, Door::Sse).await
}

/// `GET /events?channel=a&channel=b/**`: many channels on one event stream.
///
/// # Errors
/// What the client is told when it is not let in.
pub async fn events(State(node): State<Arc<Node>>, request: Request) -> Result<Response, Problem> {
    if Transport::asked(request.headers()) == Some(Transport::WebSocket) {
        return Err(Problem::bad_request(
            "event_stream_only",
            "/events is an event stream; a WebSocket hears one channel path",
        ));
    }
    let interests = events::interests(request.uri().query().unwrap_or_default(), node.settings.channels)?;
    enter(&node, request, Wanted::These(interests), None, Door::Events).await
}

/// `GET /me`: a signed-in user's own channel, and `broadcast`.
///
/// # Errors
/// What the client is told when it is not let in.
pub async fn me(State(node): State<Arc<Node>>, request: Request) -> Result<Response, Problem> {
    enter(&node, request, Wanted::Mine, None, Door::Sse).await
}

/// Lets a client in, or tells it why not in a way that its kind understands. `stream` is the door if it asks for an event
/// stream.
async fn enter(
    node: &Arc<Node>,
    request: Request,
    wanted: Wanted,
    upstream: Option<Channel>,
    stream: Door,
) -> Result<Response, Problem> {
    let (head, body) = request.into_parts();
    let asked = Asked::read(&head);
    let request = Request::from_parts(head, body);
    let Some(transport) = Transport::asked(request.headers()) else {
        let asked = asked?;
        if !asked.is_of_history() {
            return Err(problem(StatusCode::NOT_ACCEPTABLE, "not_acceptable", DOORS));
        }
        return history::enter(node, request, wanted, asked).await;
    };
    let (result, door) = match (transport, asked) {
        (Transport::WebSocket, Err(problem)) => (Err(problem), Door::WebSocket),
        (Transport::EventStream, Err(problem)) => (Err(problem), Door::Sse),
        (Transport::WebSocket, Ok(asked)) => {
            (websocket::enter(node, request, wanted, upstream, asked).await, Door::WebSocket)
        }
        (Transport::EventStream, Ok(asked)) => (events::enter(node, request, wanted, stream, asked).await, Door::Sse),
    };
    result.or_else(|refusal| {
        node.metrics.refused.with_label_values(&[door.label(), refusal.code()]).inc();
        match transport {
            Transport::EventStream if refusal.passes() => Ok(answer::come_back()),
            Transport::EventStream | Transport::WebSocket => Err(refusal),
        }
    })
}

/// What a door asks for on behalf of its client.
struct ConnectionRequest {
    door: Door,
    framing: Framing,
    wording: Wording,
    wanted: Wanted,
    /// Where to its client publishes by what it sends, if it may.
    upstream: Option<Channel>,
    /// What is asked of the log.
    asked: Asked,
    /// Where to begin in it, where that is known already.
    start: Option<Start>,
    /// When it is over, whatever comes.
    ends_after: Option<Duration>,
}

/// What a request for a connection leads to.
enum Outcome {
    /// The client is let in here.
    Here(HandOver, Caller),
    /// Somebody else answered, or is to be asked.
    Elsewhere(Response),
}

impl ConnectionRequest {
    /// Asks the questions that all doors ask, in their order. Interests stand before the connection is registered, and its
    /// shard registers it before it tells the client yes, so that nothing is missed in between.
    async fn admit(self, node: &Arc<Node>, head: &mut Parts) -> Result<Outcome, Problem> {
        let caller = node.newcomer(head).await?;
        let interests = self.wanted.interests(&caller)?;
        if let Some(response) = relay::away(node, head, &caller).await? {
            return Ok(Outcome::Elsewhere(response));
        }
        let policies = interests.iter().map(|interest| node.may_subscribe(&caller, interest));
        let policies: Vec<_> = policies.collect::<Result<_, _>>()?;
        if node.hub.is_leaving() {
            return Err(Leaving.into());
        }
        if matches!(*node.ingress.link().borrow(), Link::Down(_)) {
            return Err(Problem::no_bus());
        }
        let permit = node.admission.enter(caller.identity.user.as_ref(), caller.address, &interests)?;
        let leases = node.ingress.acquire(&interests).await?;
        let begins = self.begins(node, &caller, &interests, &policies, &leases).await?;
        let subscriptions = leases.into_iter().zip(interests).zip(policies).enumerate();
        let subscriptions = subscriptions.map(|(at, ((lease, interest), policy))| {
            let joining = begins.catch_up.as_ref().is_some_and(|it| it.seats.iter().any(|(seat, ..)| *seat == at));
            Subscription { lease, interest, slow: policy.slow, wording: begins.wording, joining }
        });
        let subscriptions = subscriptions.collect();
        let upstream = self.upstream.filter(|channel| node.could_publish(&caller, channel));
        let voice: Box<dyn Voice> = match upstream {
            Some(channel) => {
                let publisher = voice::Publisher::new(node, channel);
                match node.admission.paces_publishing() {
                    false => Box::new(publisher),
                    true => Box::new(voice::PacedPublisher::new(publisher, caller.identity.user.clone())),
                }
            }
            None if self.framing.only_listens() => Box::new(Mute),
            None => Box::new(voice::Listener),
        };
        let expires = caller.identity.expires;
        let id = node.ids.next();
        tracing::debug!(connection = id.0, door = self.door.label(), address = %caller.address, "let in");
        let open = Open {
            id,
            door: self.door,
            framing: self.framing,
            user: caller.identity.user.clone(),
            expires: [self.ends_after, expires.map(|at| at.duration_since(SystemTime::now()).unwrap_or_default())]
                .into_iter()
                .flatten()
                .min(),
            voice,
            lease: permit.into_place(),
        };
        let Begins { catch_up, bookmark, .. } = begins;
        let entered = catch_up.map(|catch_up| catch_up.begin(&node.runtime));
        let hub = node.hub.clone();
        let hand_over = HandOver { hub, open, subscriptions, greeting: Bytes::new(), entered, bookmark };
        Ok(Outcome::Here(hand_over, caller))
    }

    /// Where the connection begins in what is logged, and how it is told how far it has come.
    async fn begins(
        &self,
        node: &Arc<Node>,
        caller: &Caller,
        interests: &[Interest],
        policies: &[Policy],
        leases: &[InterestLease],
    ) -> Result<Begins, Problem> {
        let plain = Begins { catch_up: None, bookmark: None, wording: self.wording };
        let Some(recovery) = node.ingress.recovery() else {
            self.asked.without_log()?;
            return Ok(plain);
        };
        let touches = |interest: &Interest| !recovery.logs().touched(interest).is_empty();
        let seats = leases.iter().zip(interests).enumerate().filter(|(_, (_, interest))| touches(interest));
        let seats: Vec<_> = seats.map(|(at, (lease, interest))| (at, lease.id(), interest.clone())).collect();
        if seats.is_empty() {
            self.asked.without_log()?;
            return Ok(plain);
        }
        let key = recovery.key().await.map_err(history::no_log)?;
        let start = match &self.start {
            Some(start) => start.clone(),
            None => self.asked.start(self.framing == Framing::EventStream, &key)?,
        };
        let logged: Vec<_> = seats.iter().map(|(_, _, interest)| interest.clone()).collect();
        let cursors = self.wording != Wording::Payload;
        let several = recovery.needs_bookmark(&logged);
        let cursor = if let Start::Since(cursor) = &start { cursor.clone() } else { Cursor::default() };
        let bookmark = cursors && (several || self.framing == Framing::Poll);
        let bookmark = bookmark.then(|| Box::new(Marker::new(&cursor, key)) as Box<dyn Bookmark>);
        let wording = if several { self.wording.bare() } else { self.wording };
        let read = match &caller.identity.user {
            Some(user) if has_inbox(user, interests, policies) => Some(inbox::marks(node, user).await?),
            _ => None,
        };
        let admitted = recovery.admitted(seats.iter().map(|(_, id, interest)| (*id, interest)));
        let catch_up = CatchUp { recovery: recovery.clone(), seats, start, admitted, cursors, read };
        Ok(Begins { catch_up: Some(catch_up), bookmark, wording })
    }
}

/// How a connection begins.
struct Begins {
    catch_up: Option<CatchUp>,
    bookmark: Option<Box<dyn Bookmark>>,
    wording: Wording,
}

/// Whether a connection hears its user's inbox.
fn has_inbox(user: &Uid, interests: &[Interest], policies: &[Policy]) -> bool {
    let own = Interest::from(&Channel::of_user(user));
    interests.iter().zip(policies).any(|(interest, policy)| policy.inbox && *interest == own)
}

/// Any method that a path does not know; the router adds `Allow`.
pub async fn method_not_allowed(method: Method) -> Response {
    let message = format!("{method} is not known at this path; `Allow` names what is");
    problem(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", message).into_response()
}

/// Whether this is the opening handshake of a WebSocket. For fuzzing.
#[doc(hidden)]
pub fn takes_handshake(head: &Parts) -> bool {
    websocket::check(head).is_ok()
}

/// What a query of `/events` asks for. For fuzzing.
#[doc(hidden)]
pub fn asked_for(query: &str, limit: usize) -> Option<Vec<Interest>> {
    events::interests(query, limit).ok()
}
