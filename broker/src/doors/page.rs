//! The page to try it, in development mode; elsewhere `/` only says what this is.

use std::sync::Arc;

use axum::{
    Json,
    extract::{Request, State},
    response::{IntoResponse, Response},
};
use http::{
    HeaderName, HeaderValue, Uri,
    header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS},
};
use rust_embed::RustEmbed;
use serde_json::json;

use crate::{
    answer::{Problem, problem},
    node::Node,
};

/// Everything the page needs comes from this node and may only talk to it. `ws:` is named, since in some browsers
/// `'self'` does not include it.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; \
    connect-src 'self' ws: wss:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

#[derive(RustEmbed)]
#[folder = "assets/"]
struct Assets;

/// `GET /`.
///
/// # Errors
/// 403 in development mode under a name that is not this machine's.
pub async fn index(State(node): State<Arc<Node>>, request: Request) -> Result<Response, Problem> {
    node.auth.check_origin(&request.into_parts().0)?;
    if !node.settings.development {
        let about = json!({ "name": "clarion", "version": env!("CARGO_PKG_VERSION"), "docs": "/docs tells how to talk to this node" });
        return Ok(Json(about).into_response());
    }
    let page = Assets::get("index.html").expect("the page is embedded");
    let page = String::from_utf8_lossy(&page.data)
        .replace("{{prefix}}", node.settings.prefix.as_str())
        .replace("{{bus}}", node.settings.bus);
    let headers = [(CONTENT_TYPE, "text/html; charset=utf-8"), (CONTENT_SECURITY_POLICY, POLICY)];
    Ok((headers, guards(), page).into_response())
}

/// `GET /assets/<file>`: the page's style and script.
///
/// # Errors
/// 404, also outside of development mode.
pub async fn asset(State(node): State<Arc<Node>>, uri: Uri) -> Result<Response, Problem> {
    let name = uri.path().trim_start_matches("/assets/");
    let kind = match name.rsplit_once('.') {
        Some((_, "js")) => "text/javascript; charset=utf-8",
        Some((_, "css")) => "text/css; charset=utf-8",
        _ => return Err(absent()),
    };
    let file = Assets::get(name).filter(|_| node.settings.development).ok_or_else(absent)?;
    Ok(([(CONTENT_TYPE, kind)], guards(), file.data.into_owned()).into_response())
}

fn absent() -> Problem {
    problem(http::StatusCode::NOT_FOUND, "not_found", "there is no such file")
}

fn guards() -> [(HeaderName, HeaderValue); 3] {
    [
        (CACHE_CONTROL, HeaderValue::from_static("no-store")),
        (X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
        (REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
    ]
}
