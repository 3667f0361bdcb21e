//! Which path is whose. Every path that is not listed here is a channel.

use std::sync::Arc;

use axum::{
    Router, middleware,
    routing::{get, post},
};

use crate::{
    api, docs,
    doors::{self, cors, page},
    inbox,
    node::Node,
    relay, rpc,
};

/// The routes of the listener for clients and publishers.
pub(super) fn router(node: Arc<Node>) -> Router {
    let channel = get(doors::channel).post(api::publish).fallback(doors::method_not_allowed);
    Router::new()
        .route("/", get(page::index).fallback(doors::method_not_allowed))
        .route("/assets/{file}", get(page::asset).fallback(doors::method_not_allowed))
        .route("/me", get(doors::me).fallback(doors::method_not_allowed))
        .route("/me/read", post(inbox::read).fallback(doors::method_not_allowed))
        .route("/me/unread", get(inbox::unread).fallback(doors::method_not_allowed))
        .route("/events", get(doors::events).fallback(doors::method_not_allowed))
        .route("/api/batch", post(api::batch).fallback(doors::method_not_allowed))
        .route("/rpc", post(rpc::rpc).fallback(doors::method_not_allowed))
        .route("/docs", get(docs::index).fallback(doors::method_not_allowed))
        .route("/docs/openapi.json", get(docs::openapi).fallback(doors::method_not_allowed))
        .route("/docs/openrpc.json", get(docs::openrpc).fallback(doors::method_not_allowed))
        .route("/docs/configuration.schema.json", get(docs::configuration).fallback(doors::method_not_allowed))
        .route("/connection/locate", get(relay::locate).fallback(doors::method_not_allowed))
        .fallback_service(channel.with_state(node.clone()))
        .layer(middleware::from_fn_with_state(node.clone(), cors::layer))
        .with_state(node)
}
