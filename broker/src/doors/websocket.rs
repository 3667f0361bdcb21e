//! The plain WebSocket: the opening handshake by hand (RFC 6455, 4.2), after which the socket leaves HTTP for its shard.

use std::sync::Arc;

use axum::{
    body::Body,
    extract::Request,
    response::{IntoResponse, Response},
};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use clarion_hub::Framing;
use clarion_protocol::{Channel, Door, Wording};
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Version,
    header::{
        CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, UPGRADE,
    },
    request::Parts,
};
use sha1::{Digest as _, Sha1};

use super::{ConnectionRequest, Outcome, Wanted, resume::Asked};
use crate::{
    answer::{Problem, problem},
    auth,
    node::Node,
};

/// What every server appends to the client's key (RFC 6455, 1.3).
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// The only version there is.
const VERSION: HeaderValue = HeaderValue::from_static("13");

/// Registers a WebSocket and answers its handshake.
pub(super) async fn enter(
    node: &Arc<Node>,
    request: Request,
    wanted: Wanted,
    upstream: Option<Channel>,
    asked: Asked,
) -> Result<Response, Problem> {
    let (mut head, _body) = request.into_parts();
    let accept = check(&head)?;
    let (door, framing) = (Door::WebSocket, Framing::WebSocket);
    let resumes = auth::offers(&head, auth::RESUME_PROTOCOL);
    let wording = if resumes { Wording::Record } else { Wording::Payload };
    let request = ConnectionRequest { door, framing, wording, wanted, upstream, asked, start: None, ends_after: None };
    let (hand_over, caller) = match request.admit(node, &mut head).await? {
        Outcome::Here(hand_over, caller) => (hand_over, caller),
        Outcome::Elsewhere(response) => return Ok(response),
    };
    let subprotocol = resumes.then_some(auth::RESUME_PROTOCOL).or(caller.identity.subprotocol);
    let mut response = switch(accept, subprotocol);
    hand_over.put(&mut response);
    Ok(response)
}

/// Whether this is an opening handshake; answers what proves that it was understood.
pub(super) fn check(head: &Parts) -> Result<HeaderValue, Problem> {
    let bad = |message: &'static str| Problem::bad_request("bad_handshake", message);
    if head.method != Method::GET || head.version < Version::HTTP_11 {
        return Err(bad("a WebSocket handshake is a GET request of HTTP/1.1"));
    }
    if !lists_upgrade(&head.headers) {
        return Err(bad("a WebSocket handshake has `Connection: Upgrade`"));
    }
    if head.headers.get(SEC_WEBSOCKET_VERSION) != Some(&VERSION) {
        let message = "only version 13 of the WebSocket protocol is spoken here";
        return Err(problem(StatusCode::UPGRADE_REQUIRED, "websocket_version", message)
            .with(SEC_WEBSOCKET_VERSION, VERSION)
            .with(UPGRADE, HeaderValue::from_static("websocket")));
    }
    let mut keys = head.headers.get_all(SEC_WEBSOCKET_KEY).into_iter();
    match (keys.next(), keys.next()) {
        (Some(key), None) if is_key(key.as_bytes()) => Ok(proof(key.as_bytes())),
        _ => Err(bad("a WebSocket handshake has one `Sec-WebSocket-Key` of 16 bytes in base64")),
    }
}

fn lists_upgrade(headers: &HeaderMap) -> bool {
    let values = headers.get_all(CONNECTION).into_iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|item| item.trim().eq_ignore_ascii_case("upgrade"))
}

fn is_key(key: &[u8]) -> bool {
    BASE64_STANDARD.decode(key).is_ok_and(|bytes| bytes.len() == 16)
}

fn proof(key: &[u8]) -> HeaderValue {
    let digest = Sha1::new().chain_update(key).chain_update(GUID).finalize();
    HeaderValue::from_str(&BASE64_STANDARD.encode(digest)).expect("base64 is a header value")
}

/// 101. permessage-deflate and other extensions are never offered.
fn switch(accept: HeaderValue, subprotocol: Option<&'static str>) -> Response {
    let headers: [(HeaderName, HeaderValue); 3] = [
        (CONNECTION, HeaderValue::from_static("Upgrade")),
        (UPGRADE, HeaderValue::from_static("websocket")),
        (SEC_WEBSOCKET_ACCEPT, accept),
    ];
    let mut response = (StatusCode::SWITCHING_PROTOCOLS, headers, Body::empty()).into_response();
    if let Some(name) = subprotocol {
        response.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(name));
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(change: impl FnOnce(&mut HeaderMap)) -> Parts {
        let mut request = http::Request::get("/a").body(()).unwrap();
        let headers = request.headers_mut();
        headers.insert(CONNECTION, HeaderValue::from_static("keep-alive, Upgrade"));
        headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(SEC_WEBSOCKET_VERSION, VERSION);
        headers.insert(SEC_WEBSOCKET_KEY, HeaderValue::from_static("dGhlIHNhbXBsZSBub25jZQ=="));
        change(headers);
        request.into_parts().0
    }

    #[test]
    fn the_example_of_the_rfc() {
        assert_eq!(check(&head(|_| {})).unwrap(), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[test]
    fn what_is_no_handshake() {
        let value = HeaderValue::from_static;
        let status = |head: &Parts| check(head).unwrap_err().status().as_u16();
        assert_eq!(status(&head(|h| drop(h.insert(SEC_WEBSOCKET_VERSION, value("8"))))), 426);
        assert_eq!(status(&head(|h| drop(h.remove(SEC_WEBSOCKET_VERSION)))), 426);
        assert_eq!(status(&head(|h| drop(h.remove(SEC_WEBSOCKET_KEY)))), 400);
        assert_eq!(status(&head(|h| drop(h.insert(SEC_WEBSOCKET_KEY, value("c2hvcnQ="))))), 400);
        assert_eq!(status(&head(|h| assert!(h.append(SEC_WEBSOCKET_KEY, value("dGhlIHNhbXBsZSBub25jZQ=="))))), 400);
        assert_eq!(status(&head(|h| drop(h.insert(CONNECTION, value("close"))))), 400);
        let mut old = head(|_| {});
        old.version = Version::HTTP_10;
        assert_eq!(status(&old), 400);
    }
}
