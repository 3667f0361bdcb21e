//! Sends every message back as it came, for public WebSocket conformance suites: the very shards and frames of the broker,
//! with another voice.
//!
//! `cargo run --release --example echo -- [127.0.0.1:9001]`, then for example `wstest -m fuzzingclient`.

use std::{
    borrow::Cow,
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use bytes::Bytes;
use clarion_hub::{
    Answer, Config, ConnectionId, ConnectionKey, Framing, Hub, Open, Place, Release, Voice,
    frame::{self, Kind},
};
use clarion_protocol::{Door, InterestId};
use http::{HeaderMap, Request, Response, StatusCode, header};
use http_body_util::Empty;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use sha1::{Digest, Sha1};
use tokio::net::{TcpListener, TcpStream};

/// What RFC 6455, 4.2.2, appends to a client's key.
const GUID: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
/// Conformance suites send messages of 16 MiB.
const MESSAGE_BYTES: usize = 32 << 20;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:9001".to_owned());
    serve(TcpListener::bind(address).await?).await
}

/// Echoes to all who connect.
///
/// # Errors
/// When the hub does not start or the listener breaks.
pub(crate) async fn serve(listener: TcpListener) -> anyhow::Result<()> {
    let config = Config { message_bytes: MESSAGE_BYTES, outbox_bytes: 4 * MESSAGE_BYTES, ..Config::default() };
    let hub = Hub::start(&config, Arc::new(NoInterests), &prometheus::Registry::new())?;
    loop {
        let (stream, _) = listener.accept().await?;
        let hub = hub.clone();
        tokio::spawn(async move {
            let shake = service_fn(|request| handshake(hub.clone(), request));
            // A client that hangs up during the handshake is no concern of ours.
            drop(http1::Builder::new().serve_connection(TokioIo::new(stream), shake).with_upgrades().await);
        });
    }
}

/// Nobody here subscribes to anything.
struct NoInterests;

impl Release for NoInterests {
    fn release(&self, _: &[InterestId]) {}
}

struct Echo;

impl Voice for Echo {
    fn message(&mut self, _: ConnectionKey, kind: Kind, payload: Cow<'_, [u8]>) -> Answer {
        Answer::Send(frame::encode(kind.into(), &payload))
    }
}

/// Answers a request for a WebSocket, and gives its socket to the hub.
async fn handshake(hub: Hub, mut request: Request<Incoming>) -> Result<Response<Empty<Bytes>>, Infallible> {
    static CONNECTIONS: AtomicU32 = AtomicU32::new(1);
    let mut response = Response::new(Empty::new());
    let Some(accept) = accept(request.headers()) else {
        *response.status_mut() = StatusCode::UPGRADE_REQUIRED;
        return Ok(response);
    };
    let open = Open {
        id: ConnectionId(CONNECTIONS.fetch_add(1, Ordering::Relaxed)),
        door: Door::WebSocket,
        framing: Framing::WebSocket,
        user: None,
        expires: None,
        voice: Box::new(Echo),
        lease: Place::new(()),
    };
    let Ok(opened) = hub.open(open, Vec::new()).await else {
        *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
        return Ok(response);
    };
    let upgrade = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        let parts = upgrade.await.ok()?.downcast::<TokioIo<TcpStream>>().ok()?;
        let socket = parts.io.into_inner().into_std().ok()?;
        // Copied, since what hyper read ahead keeps its whole buffer alive.
        opened.ticket.attach(socket, None, Bytes::copy_from_slice(&parts.read_buf));
        Some(())
    });
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, header::HeaderValue::from_static("upgrade"));
    headers.insert(header::UPGRADE, header::HeaderValue::from_static("websocket"));
    headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    Ok(response)
}

/// The answer to a client's key, if it asks for a WebSocket.
fn accept(headers: &HeaderMap) -> Option<header::HeaderValue> {
    let key = headers.get(header::SEC_WEBSOCKET_KEY)?;
    let digest = Sha1::new().chain_update(key.as_bytes()).chain_update(GUID).finalize();
    header::HeaderValue::from_str(&BASE64_STANDARD.encode(digest)).ok()
}
