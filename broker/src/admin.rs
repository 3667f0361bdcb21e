//! What operators and load balancers ask, on a listener of its own: is it alive, is it ready, what does it count.
//!
//! Nothing here tells of users, channels or messages.

use axum::{
    Json, Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use clarion_protocol::NodeName;
use prometheus::{Encoder, IntGaugeVec, Opts, Registry, TextEncoder, process_collector::ProcessCollector};
use serde_json::json;

use crate::probe::Ready;

/// The routes of the admin listener of the node of this name.
pub fn router(node: NodeName, ready: Ready, registry: Registry) -> Router {
    Router::new()
        .route("/health/live", get(live))
        .route("/health/ready", get(is_ready).with_state((node, ready)))
        .route("/metrics", get(metrics).with_state(registry))
        .fallback(unknown)
}

/// Registers what is known of every process: its memory, time and files, and which build it is.
///
/// # Errors
/// When the registry knows one of these names already.
pub fn register(registry: &Registry) -> Result<(), prometheus::Error> {
    registry.register(Box::new(ProcessCollector::for_self()))?;
    let info = IntGaugeVec::new(Opts::new("clarion_build_info", "Always 1; the labels tell the build."), &["version"])?;
    info.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
    registry.register(Box::new(info))
}

/// That this is answered at all is the answer: the process lives.
async fn live() -> Response {
    Json(json!({ "status": "live" })).into_response()
}

/// The name says whose answer it is: several nodes of one machine differ in nothing but the port.
async fn is_ready(State((node, ready)): State<(NodeName, Ready)>) -> Response {
    match ready.ready() {
        Ok(()) => Json(json!({ "status": "ready", "node": node })).into_response(),
        Err(reasons) => {
            let body = Json(json!({ "status": "not_ready", "node": node, "reasons": reasons }));
            (StatusCode::SERVICE_UNAVAILABLE, body).into_response()
        }
    }
}

async fn metrics(State(registry): State<Registry>) -> Response {
    let (encoder, mut text) = (TextEncoder::new(), Vec::new());
    match encoder.encode(&registry.gather(), &mut text) {
        Ok(()) => ([(header::CONTENT_TYPE, encoder.format_type().to_owned())], text).into_response(),
        Err(error) => {
            tracing::error!(%error, "the metrics cannot be written");
            (StatusCode::INTERNAL_SERVER_ERROR, "the metrics cannot be written\n").into_response()
        }
    }
}

async fn unknown() -> Response {
    (StatusCode::NOT_FOUND, "here are /health/live, /health/ready and /metrics\n").into_response()
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use http::Request;
    use http_body_util::BodyExt as _;
    use tower::ServiceExt as _;

    use super::*;

    fn name() -> NodeName {
        "node-1".parse().unwrap()
    }

    async fn ask(router: &Router, path: &str) -> (StatusCode, String) {
        let request = Request::get(path).body(Body::empty()).unwrap();
        let response = router.clone().oneshot(request).await.unwrap();
        let status = response.status();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn readiness_tells_its_reasons() {
        let ready = Ready::new();
        let router = router(name(), ready.clone(), Registry::new());
        ready.set("bus", None);
        let (status, body) = ask(&router, "/health/ready").await;
        assert_eq!((status, body.as_str()), (StatusCode::OK, r#"{"node":"node-1","status":"ready"}"#));
        ready.set("bus", Some("the bus is not connected".to_owned()));
        let (status, body) = ask(&router, "/health/ready").await;
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(body, r#"{"node":"node-1","reasons":["the bus is not connected"],"status":"not_ready"}"#);
        assert_eq!(ask(&router, "/health/live").await.0, StatusCode::OK);
    }

    #[tokio::test]
    async fn metrics_tell_of_the_process_and_the_build() {
        let registry = Registry::new();
        register(&registry).unwrap();
        let (status, body) = ask(&router(name(), Ready::new(), registry), "/metrics").await;
        assert_eq!(status, StatusCode::OK);
        assert!(body.contains("process_resident_memory_bytes "), "{body}");
        assert!(body.contains(concat!("clarion_build_info{version=\"", env!("CARGO_PKG_VERSION"), "\"} 1")), "{body}");
    }

    #[tokio::test]
    async fn other_paths_are_told_what_is_here() {
        let (status, body) = ask(&router(name(), Ready::new(), Registry::new()), "/").await;
        assert_eq!(status, StatusCode::NOT_FOUND);
        assert!(body.contains("/health/ready"));
    }
}
