//! Event streams: one channel path, `/events` for many, `/me`.

use std::sync::Arc;

use axum::{body::Body, extract::Request, response::Response};
use clarion_hub::Framing;
use clarion_protocol::{Door, Interest, Wording};
use http::{HeaderValue, Method, header::CONNECTION};

use super::{ConnectionRequest, Outcome, Wanted, hand_over::HandOver, resume::Asked};
use crate::{
    answer::{self, Problem},
    node::Node,
};

/// Registers an event stream and makes the head of its response; the shard writes the rest to the socket itself.
pub(super) async fn enter(
    node: &Arc<Node>,
    request: Request,
    wanted: Wanted,
    door: Door,
    asked: Asked,
) -> Result<Response, Problem> {
    let (mut head, _body) = request.into_parts();
    if head.method == Method::HEAD {
        let caller = node.caller(&head).await?;
        for interest in wanted.interests(&caller)? {
            node.may_subscribe(&caller, &interest)?;
        }
        return Ok(answer::event_stream(Body::empty()));
    }
    let wording = if door == Door::Events { Wording::EventOfMany } else { Wording::Event };
    let framing = Framing::EventStream;
    let request =
        ConnectionRequest { door, framing, wording, wanted, upstream: None, asked, start: None, ends_after: None };
    match request.admit(node, &mut head).await? {
        Outcome::Elsewhere(response) => Ok(response),
        Outcome::Here(hand_over, _) => {
            let mut response = answer::event_stream(Body::empty());
            // Without a length the body ends with the connection, so messages need no chunks around them.
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            HandOver { greeting: answer::retry_line(), ..hand_over }.put(&mut response);
            Ok(response)
        }
    }
}

/// Reads `channel=a&channel=b/**`, each name once.
pub(super) fn interests(query: &str, limit: usize) -> Result<Vec<Interest>, Problem> {
    let mut interests = Vec::new();
    for (_, name) in form_urlencoded::parse(query.as_bytes()).filter(|(key, _)| key == "channel") {
        let interest = interest(&name)?;
        if !interests.contains(&interest) {
            interests.push(interest);
        }
        if interests.len() > limit {
            let message = format!("a connection has at most {limit} channels");
            return Err(Problem::bad_request("too_many_channels", message));
        }
    }
    if interests.is_empty() {
        let remedy = "/events needs at least one channel: /events?channel=news&channel=orders/**";
        return Err(Problem::bad_request("no_channel", remedy));
    }
    Ok(interests)
}

/// One name from a query, where `%2F` and `/` are the same. It names itself in the error, since there may be many.
fn interest(name: &str) -> Result<Interest, Problem> {
    Interest::parse(name).map_err(|error| Problem::from(error).about(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_names_channels_and_patterns_once() {
        let read = |query| interests(query, 3).map(|all| all.iter().map(ToString::to_string).collect::<Vec<_>>());
        assert_eq!(read("channel=a&token=x&channel=b%2Fc/**&channel=a").unwrap(), ["a", "b/c/**"]);
        for (query, code) in [
            ("", "no_channel"),
            ("channels=a", "no_channel"),
            ("channel=a&channel=b&channel=c&channel=d", "too_many_channels"),
            ("channel=a//b", "bad_channel"),
            ("channel=/**", "bad_channel"),
            ("channel=rpc", "reserved"),
        ] {
            assert_eq!(read(query).unwrap_err().code(), code, "{query}");
        }
    }
}
