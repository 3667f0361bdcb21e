//! What browsers ask before a page of another origin may talk to this node, and are told with every answer.

use std::sync::Arc;

use axum::{
    extract::{Request, State},
    middleware::Next,
    response::{IntoResponse, Response},
};
use http::{
    HeaderMap, HeaderValue, Method, StatusCode,
    header::{
        ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
        ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE,
        ACCESS_CONTROL_REQUEST_METHOD, ALLOW, ORIGIN, VARY,
    },
};

use crate::{answer::problem, node::Node};

/// The methods that some path knows.
const METHODS: HeaderValue = HeaderValue::from_static("GET, HEAD, POST, OPTIONS");

/// The headers that a page may send.
const HEADERS: HeaderValue =
    HeaderValue::from_static("authorization, content-type, x-api-key, last-event-id, cache-control");

/// The headers of answers that a page may read beside the usual ones.
const EXPOSED: HeaderValue = HeaderValue::from_static("retry-after, www-authenticate");

/// For how many seconds a browser may remember: a change of the list takes effect within ten minutes.
const MAX_AGE: HeaderValue = HeaderValue::from_static("600");

/// Answers `OPTIONS`, and adds to every other answer what the list of origins allows.
pub async fn layer(State(node): State<Arc<Node>>, request: Request, next: Next) -> Response {
    let (head, body) = request.into_parts();
    let allowed = node.auth.allowed_origin(&head);
    let asked = head.headers.contains_key(ORIGIN);
    let mut response = match head.method {
        Method::OPTIONS => options(&head.headers, allowed.is_some()),
        _ => next.run(Request::from_parts(head, body)).await,
    };
    let headers = response.headers_mut();
    if let Some(origin) = allowed {
        // A browser takes no answer that allows everybody and credentials at once.
        if origin != "*" {
            headers.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
        }
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED);
    }
    if asked {
        headers.insert(VARY, HeaderValue::from_static("origin"));
    }
    response
}

fn options(headers: &HeaderMap, allowed: bool) -> Response {
    if !headers.contains_key(ORIGIN) || !headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD) {
        return (StatusCode::NO_CONTENT, [(ALLOW, METHODS)]).into_response();
    }
    if !allowed {
        let message = "pages of this origin may not talk to this node; add it to `auth.origins`";
        return problem(StatusCode::FORBIDDEN, "forbidden_origin", message).into_response();
    }
    let told = [
        (ACCESS_CONTROL_ALLOW_METHODS, METHODS),
        (ACCESS_CONTROL_ALLOW_HEADERS, HEADERS),
        (ACCESS_CONTROL_MAX_AGE, MAX_AGE),
    ];
    (StatusCode::NO_CONTENT, told).into_response()
}
