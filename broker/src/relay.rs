//! What is done with a user's connection that did not come to his home: served, relayed or redirected, as `pin` says.
//!
//! The home asks all questions anew: nothing that a relaying node found out is believed. A relayed request carries
//! [`HOP`], and who has it is served where it is, so a request goes at most one hop even while nodes disagree.

mod carry;

use std::{net::IpAddr, sync::Arc, time::Duration};

use anyhow::Context as _;
use axum::{
    Json,
    body::Body,
    extract::{Request, State},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use clarion_protocol::{Uid, limits};
use futures_util::StreamExt as _;
use http::{
    HeaderMap, HeaderName, HeaderValue, StatusCode, Uri,
    header::{CONNECTION, CONTENT_LENGTH, FORWARDED, HOST, LOCATION, ORIGIN, TRANSFER_ENCODING, UPGRADE},
    request::Parts,
};
use http_body_util::{BodyDataStream, Empty};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use serde_json::json;
use socket2::TcpKeepalive;
use tokio::{net::TcpStream, time::timeout};
use tokio_util::task::TaskTracker;

use crate::{
    admission::{HOP, Permit, ProxyHeader},
    answer::{Problem, problem},
    config::Pin,
    members::{Home, Peer},
    node::{self, Caller, Node},
};

/// Where the log of the home, and an older one for its limits, finds the client's address.
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// How long the home may take to be reached and to give its first answer. It is in the same network and makes the user's
/// interests stand first, which takes milliseconds; a home that is frozen accepts and never answers, and the client waits.
const PATIENCE: Duration = Duration::from_secs(3);

/// Finds out that a home's machine is gone, since the client's pings are answered by nobody then.
const KEEP_ALIVE: TcpKeepalive =
    TcpKeepalive::new().with_time(limits::PING_INTERVAL).with_interval(Duration::from_secs(5)).with_retries(2);

/// The answer of somebody else to a connection of this caller; `None` where it is to be served here.
///
/// # Errors
/// When this node carries as much as it may, or this user or address has as much carried.
pub async fn away(node: &Arc<Node>, head: &mut Parts, caller: &Caller) -> Result<Option<Response>, Problem> {
    let Some(user) = caller.identity.user.as_ref() else { return Ok(None) };
    let home = node.members.home(user.as_str());
    node.members.arrived(&home);
    let Home::At(home) = home else { return Ok(None) };
    if head.headers.contains_key(HOP) {
        return Ok(None);
    }
    let (outcome, response) = match node.settings.pin {
        Pin::Serve => ("served", None),
        Pin::Redirect => match redirect(head, &home) {
            Some(response) => ("redirected", Some(response)),
            None => ("served", None),
        },
        Pin::Relay => {
            match relay(node, head, &home, caller.address, node.admission.carry(Some(user), caller.address)?).await {
                Ok(response) => ("relayed", Some(response)),
                Err(error) => {
                    // Counted below; a line for each connection of a dead node would be a flood.
                    tracing::debug!(home = %home.node, error = format!("{error:#}"), "a user's home is unreachable; serving here");
                    ("unreachable", None)
                }
            }
        }
    };
    node.metrics.strays.with_label_values(&[outcome]).inc();
    Ok(response)
}

/// 307 to the same path and query at the home, where the client surely follows it: a WebSocket handshake of a program.
///
/// Browsers send `Origin` and fail on it, and an `EventSource` would go to the target for ever.
fn redirect(head: &Parts, home: &Peer) -> Option<Response> {
    if !head.headers.contains_key(UPGRADE) || head.headers.contains_key(ORIGIN) {
        return None;
    }
    let location = HeaderValue::from_str(&websocket_url(home.public_url.as_deref()?, &head.uri)).ok()?;
    Some((StatusCode::TEMPORARY_REDIRECT, [(LOCATION, location)]).into_response())
}

/// A node's public URL with another path, as a WebSocket client wants it.
fn websocket_url(public: &str, target: &Uri) -> String {
    let base = public.trim_end_matches('/');
    let base = match base.strip_prefix("http") {
        Some(rest) => format!("ws{rest}"),
        None => base.to_owned(),
    };
    base + target.path_and_query().map_or("/", |path| path.as_str())
}

/// Sends the request to the home and passes its answer on: a body as it comes, and after a 101 all bytes both ways.
async fn relay(
    node: &Arc<Node>,
    head: &mut Parts,
    home: &Peer,
    client: IpAddr,
    place: Permit,
) -> anyhow::Result<Response> {
    let address = home.advertise.as_deref().context("it advertises no address")?;
    let mut request = request(node, head, home, client)?;
    // HTTP/1.0 need not name one, and what goes on from here is HTTP/1.1.
    if !request.headers().contains_key(HOST) {
        request.headers_mut().insert(HOST, HeaderValue::from_str(address)?);
    }
    let answer = first_answer(&node.tasks, address, request).await?;
    if answer.status() == StatusCode::SWITCHING_PROTOCOLS {
        return carry::switch(node, head, answer, place).context("this connection cannot be upgraded");
    }
    let (mut answer, body) = answer.into_parts();
    strip_hop_by_hop(&mut answer.headers);
    let relayed = node.relays.enter(place);
    let body = BodyDataStream::new(body).take_until(async move { relayed.told_to_go().await });
    Ok(Response::from_parts(answer, Body::from_stream(body)))
}

/// What the home answers, if it does within [`PATIENCE`], all in all.
async fn first_answer(
    tasks: &TaskTracker,
    address: &str,
    request: http::Request<Empty<Bytes>>,
) -> anyhow::Result<http::Response<Incoming>> {
    let asking = async {
        let socket = TcpStream::connect(address).await?;
        socket.set_nodelay(true)?;
        socket2::SockRef::from(&socket).set_tcp_keepalive(&KEEP_ALIVE)?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(socket)).await?;
        // Ends by itself when both ends of the request are done or dropped.
        tasks.spawn(connection.with_upgrades());
        anyhow::Ok(sender.send_request(request).await?)
    };
    timeout(PATIENCE, asking).await.context("it did not answer in time")?
}

/// The client's request as the home gets it.
fn request(node: &Node, head: &Parts, home: &Peer, client: IpAddr) -> anyhow::Result<http::Request<Empty<Bytes>>> {
    let mut request = http::Request::new(Empty::new());
    *request.method_mut() = head.method.clone();
    let target: Uri = head.uri.path_and_query().map_or("/", |path| path.as_str()).parse()?;
    let headers = request.headers_mut();
    *headers = head.headers.clone();
    if !headers.contains_key(UPGRADE) {
        strip_hop_by_hop(headers);
    }
    headers.remove(CONTENT_LENGTH);
    node.hops.sign(headers, &home.node, client, &head.method, &target);
    add_forwarded(headers, node.settings.proxy_header, node::peer(head).ip())?;
    *request.uri_mut() = target;
    Ok(request)
}

/// Adds the client's address to those that proxies before this node have written.
fn add_forwarded(headers: &mut HeaderMap, kind: ProxyHeader, peer: IpAddr) -> anyhow::Result<()> {
    let (name, hop) = match (kind, peer.to_canonical()) {
        (ProxyHeader::XForwardedFor, address) => (FORWARDED_FOR, address.to_string()),
        (ProxyHeader::Forwarded, IpAddr::V4(address)) => (FORWARDED, format!("for={address}")),
        (ProxyHeader::Forwarded, IpAddr::V6(address)) => (FORWARDED, format!("for=\"[{address}]\"")),
    };
    let hops = headers.get_all(&name).iter().map(HeaderValue::as_bytes).chain([hop.as_bytes()]);
    let joined = hops.collect::<Vec<_>>().join(&b", "[..]);
    headers.insert(name, HeaderValue::from_bytes(&joined)?);
    Ok(())
}

/// What concerns one TCP connection only.
fn strip_hop_by_hop(headers: &mut HeaderMap) {
    for name in [CONNECTION, TRANSFER_ENCODING, HeaderName::from_static("keep-alive")] {
        headers.remove(name);
    }
}

/// `GET /connection/locate`: where this user's home is, for clients that want to go there by themselves.
///
/// # Errors
/// When the token is not good.
pub async fn locate(State(node): State<Arc<Node>>, request: Request) -> Result<Response, Problem> {
    let (head, _body) = request.into_parts();
    let caller = node.caller(&head).await?;
    let view = node.members.view();
    let me = || view.peers.get(&view.me).cloned();
    let home = match caller.identity.user.as_ref().map(|user| node.members.home(user.as_str())) {
        Some(Home::At(home)) => Some(home),
        Some(Home::Here) | None => me(),
    };
    let Some(home) = home else {
        return Err(problem(StatusCode::SERVICE_UNAVAILABLE, "no_members", "this node has not joined the cluster yet"));
    };
    let answer =
        json!({ "user": caller.identity.user.as_ref().map(Uid::as_str), "node": home.node, "url": home.public_url });
    Ok(([(http::header::CACHE_CONTROL, "no-store")], Json(answer)).into_response())
}

/// Whether these pieces of a home's answer end between two frames. For fuzzing.
#[doc(hidden)]
pub fn end_between_frames(pieces: &[&[u8]]) -> bool {
    let mut frames = carry::Frames::default();
    pieces.iter().for_each(|piece| frames.pass(piece));
    frames.between()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clients_address_is_added_behind_those_of_proxies() {
        let four: IpAddr = "::ffff:10.0.0.7".parse().unwrap();
        let six: IpAddr = "2001:db8::1".parse().unwrap();
        for (kind, before, peer, expected) in [
            (ProxyHeader::XForwardedFor, None, four, "10.0.0.7"),
            (ProxyHeader::XForwardedFor, Some("192.0.2.1"), six, "192.0.2.1, 2001:db8::1"),
            (ProxyHeader::Forwarded, None, four, "for=10.0.0.7"),
            (ProxyHeader::Forwarded, Some("for=192.0.2.1"), six, "for=192.0.2.1, for=\"[2001:db8::1]\""),
        ] {
            let name = if kind == ProxyHeader::Forwarded { FORWARDED } else { FORWARDED_FOR };
            let mut headers = HeaderMap::new();
            headers.extend(before.map(|value| (name.clone(), HeaderValue::from_static(value))));
            add_forwarded(&mut headers, kind, peer).unwrap();
            assert_eq!(headers[name], expected);
        }
    }

    /// Time stands still but for the timeout: a home whose kernel still accepts and whose process is frozen.
    #[tokio::test(start_paused = true)]
    async fn a_frozen_home_is_given_up_after_three_seconds() {
        let frozen = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = frozen.local_addr().unwrap().to_string();
        let request = http::Request::new(Empty::new());
        let start = tokio::time::Instant::now();
        let answer = first_answer(&TaskTracker::new(), &address, request).await;
        assert!(answer.unwrap_err().to_string().contains("in time"));
        assert_eq!(start.elapsed().as_secs(), 3);
    }

    #[test]
    fn a_redirect_keeps_path_and_query() {
        let target: Uri = "/a/b?token=x&y=%20".parse().unwrap();
        for (public, expected) in [
            ("https://n1.example.org", "wss://n1.example.org/a/b?token=x&y=%20"),
            ("http://10.0.0.1:8000/", "ws://10.0.0.1:8000/a/b?token=x&y=%20"),
            ("wss://n1.example.org/push", "wss://n1.example.org/push/a/b?token=x&y=%20"),
        ] {
            assert_eq!(websocket_url(public, &target), expected);
        }
    }
}
