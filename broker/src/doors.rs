//! The ways in for clients: a request comes in, a registered connection or a plain refusal goes out.
//!
//! All doors ask the same questions in the same order: is the name a channel, is it a door, may this page, who is it,
//! is this his home, may he hear it, is there room. Only then the interests are made to stand and the client is told yes.

pub mod cors;
mod events;
pub mod hand_over;
pub mod page;
pub mod upstream;
mod websocket;

use std::{sync::Arc, time::SystemTime};

use axum::{
    extract::{Request, State},
    response::{IntoResponse, Response},
};
use clarion_bus::Link;
use clarion_protocol::{Channel, Interest, dialect::Dialect};
use http::{
    HeaderMap, Method, StatusCode,
    header::{ACCEPT, UPGRADE},
    request::Parts,
};

use crate::{
    admission::Permit,
    answer::{self, Problem, problem},
    auth::{AuthError, Unauthorized},
    hub::{Lease, Open, Subscription, Ticket},
    ingress::Held,
    node::{Caller, Node},
    relay,
};

/// The doors there are today, for whoever knocks at none.
const DOORS: &str = "a channel is heard by a WebSocket handshake, or as an event stream with `Accept: text/event-stream`; it is published to with POST";

/// Which way in was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Door {
    WebSocket,
    EventStream,
}

impl Door {
    /// Reads a door's sign.
    fn of(headers: &HeaderMap) -> Option<Self> {
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

    fn label(self) -> &'static str {
        match self {
            Self::WebSocket => "websocket",
            Self::EventStream => "sse",
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
    fn interests(self, caller: &Caller) -> Result<Vec<Interest>, Problem> {
        match self {
            Self::These(interests) => Ok(interests),
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
    enter(&node, request, Wanted::These(vec![interest]), upstream, Dialect::Event).await
}

/// `GET /events?channel=a&channel=b/**`: many channels on one event stream.
///
/// # Errors
/// What the client is told when it is not let in.
pub async fn events(State(node): State<Arc<Node>>, request: Request) -> Result<Response, Problem> {
    if Door::of(request.headers()) == Some(Door::WebSocket) {
        return Err(Problem::bad_request(
            "event_stream_only",
            "/events is an event stream; a WebSocket hears one channel path",
        ));
    }
    let interests = events::interests(request.uri().query().unwrap_or_default(), node.settings.channels)?;
    enter(&node, request, Wanted::These(interests), None, Dialect::EventOfMany).await
}

/// `GET /me`: a signed-in user's own channel, and `broadcast`.
///
/// # Errors
/// What the client is told when it is not let in.
pub async fn me(State(node): State<Arc<Node>>, request: Request) -> Result<Response, Problem> {
    enter(&node, request, Wanted::Mine, None, Dialect::Event).await
}

/// Lets a client in, or tells it why not in a way that its kind understands.
async fn enter(
    node: &Arc<Node>,
    request: Request,
    wanted: Wanted,
    upstream: Option<Channel>,
    stream: Dialect,
) -> Result<Response, Problem> {
    let Some(door) = Door::of(request.headers()) else {
        return Err(problem(StatusCode::NOT_ACCEPTABLE, "not_acceptable", DOORS));
    };
    let result = match door {
        Door::WebSocket => websocket::enter(node, request, wanted, upstream).await,
        Door::EventStream => events::enter(node, request, wanted, stream).await,
    };
    result.or_else(|refusal| {
        node.metrics.refused.with_label_values(&[door.label(), refusal.code()]).inc();
        match door {
            Door::EventStream if refusal.passes() => Ok(answer::come_back()),
            Door::EventStream | Door::WebSocket => Err(refusal),
        }
    })
}

/// What a door asks for on behalf of its client.
struct Knock {
    door: Door,
    dialect: Dialect,
    wanted: Wanted,
    upstream: Option<Channel>,
}

/// What is taken for a client that is let in. Its shard tells [`upstream`] when it is not needed any more.
struct Taken {
    held: Held,
    permit: Permit,
}

impl Lease for Taken {
    fn hand_over(self: Box<Self>) -> Option<Box<dyn Send>> {
        self.held.hand_over();
        self.permit.hand_over().map(|counted| Box::new(counted) as Box<dyn Send>)
    }
}

/// What a knock leads to.
enum Welcome {
    /// The connection is registered here.
    Here(Ticket, Caller),
    /// Somebody else answered, or is to be asked.
    Elsewhere(Response),
}

impl Knock {
    /// The questions that all doors ask, in their order.
    async fn ask(self, node: &Arc<Node>, head: &mut Parts) -> Result<Welcome, Problem> {
        let caller = node.newcomer(head).await?;
        let interests = self.wanted.interests(&caller)?;
        if let Some(response) = relay::away(node, head, &caller).await? {
            return Ok(Welcome::Elsewhere(response));
        }
        let policies = interests.iter().map(|interest| node.may_subscribe(&caller, interest));
        let policies: Vec<_> = policies.collect::<Result<_, _>>()?;
        if matches!(*node.ingress.link().borrow(), Link::Down(_)) {
            return Err(Problem::no_bus());
        }
        let permit = node.admission.enter(caller.identity.user.as_ref(), caller.address, &interests)?;
        let held = node.ingress.acquire(&interests).await?;
        let subscriptions = interests.into_iter().zip(held.ids()).zip(policies);
        let subscriptions = subscriptions
            .map(|((interest, id), policy)| Subscription { id: *id, interest, slow: policy.slow })
            .collect();
        let upstream = self.upstream.filter(|channel| node.could_publish(&caller, channel));
        let expires = caller.identity.expires;
        let id = node.ids.next();
        tracing::debug!(connection = id.0, door = self.door.label(), address = %caller.address, "let in");
        let ticket = node.hub.open(Open {
            id,
            dialect: self.dialect,
            subscriptions,
            user: caller.identity.user.clone(),
            upstream,
            expires: expires.map(|at| at.duration_since(SystemTime::now()).unwrap_or_default()),
            lease: Box::new(Taken { held, permit }),
        });
        Ok(Welcome::Here(ticket.await?, caller))
    }
}

/// Any method that a path does not know; the router adds `Allow`.
pub async fn method_not_allowed(method: Method) -> Response {
    let message = format!("{method} is not known at this path; `Allow` names what is");
    problem(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", message).into_response()
}
