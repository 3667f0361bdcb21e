//! What a node says of itself at `/docs`: its HTTP as OpenAPI, its JSON-RPC as OpenRPC, the schema of its configuration,
//! and a page for people made of them. Public, also in production: nothing here depends on what is configured.
//!
//! The documents are written by hand, in `broker/docs/`; tests hold them against the routes and answers that there are.

mod page;

use std::sync::{Arc, LazyLock};

use axum::{
    extract::State,
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use http::{
    HeaderMap, HeaderValue,
    header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS},
};
use serde_json::Value;

use crate::{config, node::Node};

const HTTP: &str = include_str!("../docs/openapi.json");
const RPC: &str = include_str!("../docs/openrpc.json");

/// HTTP, as OpenAPI 3.1.
pub static OPENAPI: LazyLock<Value> = LazyLock::new(|| read(HTTP));

/// The methods of JSON-RPC, as OpenRPC 1.3.
pub static OPENRPC: LazyLock<Value> = LazyLock::new(|| read(RPC));

fn read(text: &str) -> Value {
    serde_json::from_str(&released(text)).expect("the document is JSON, as a test says")
}

fn released(text: &str) -> String {
    text.replace("{{version}}", env!("CARGO_PKG_VERSION"))
}

/// `GET /docs/openapi.json`.
pub async fn openapi() -> Response {
    static TEXT: LazyLock<Bytes> = LazyLock::new(|| released(HTTP).into());
    told("application/json", TEXT.clone())
}

/// `GET /docs/openrpc.json`.
pub async fn openrpc() -> Response {
    static TEXT: LazyLock<Bytes> = LazyLock::new(|| released(RPC).into());
    told("application/json", TEXT.clone())
}

/// `GET /docs/configuration.schema.json`.
pub async fn configuration() -> Response {
    static TEXT: LazyLock<Bytes> = LazyLock::new(|| format!("{:#}\n", config::schema()).into());
    told("application/schema+json", TEXT.clone())
}

/// `GET /docs`, with examples that work as they are: they name the address by which this very page was asked for.
pub async fn index(State(node): State<Arc<Node>>, headers: HeaderMap) -> Response {
    static PAGE: LazyLock<(String, HeaderValue)> = LazyLock::new(|| (page::html(), page::policy()));
    let (page, policy) = &*PAGE;
    let page = page::at(page, &page::base(&headers, node.settings.tls));
    let mut response = told("text/html; charset=utf-8", page.into());
    response.headers_mut().insert(CONTENT_SECURITY_POLICY, policy.clone());
    response
}

fn told(kind: &'static str, body: Bytes) -> Response {
    let headers = [
        (CONTENT_TYPE, kind),
        // A node of the next release has other documents.
        (CACHE_CONTROL, "no-cache"),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (REFERRER_POLICY, "no-referrer"),
    ];
    (headers, body).into_response()
}
