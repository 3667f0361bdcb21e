//! The way out of HTTP. When a door hands its client's socket over, hyper's part ends: the response's head is written
//! here, and the socket goes to its shard. Neither a buffer nor a task is left of the request.

use std::{
    future,
    io::{self, Write as _},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::SystemTime,
};

use axum::response::Response;
use bytes::Bytes;
use clarion_hub::Ticket;
use http::{
    HeaderMap, StatusCode, Version,
    header::{CONTENT_LENGTH, DATE},
};
use parking_lot::Mutex;
use tokio::io::AsyncWriteExt as _;

use crate::{doors::hand_over::HandOver, tls::Carrier};

/// One connection's way out. Cheap to clone.
#[derive(Clone, Default)]
pub(super) struct Exit(Arc<Shared>);

#[derive(Default)]
struct Shared {
    leaving: Mutex<Option<Leaving>>,
    /// Somebody else is about to speak on the socket.
    direct: AtomicBool,
}

/// A connection on its way to its shard.
pub(super) struct Leaving {
    ticket: Ticket,
    /// The response's head, and what the client reads first after it.
    opening: Vec<u8>,
}

impl Exit {
    /// Lets a response through. One that hands the socket over is kept here and never comes out: HTTP has nothing to say.
    pub(super) async fn pass(&self, version: Version, mut response: Response) -> Response {
        let Some(HandOver { ticket, greeting }) = HandOver::take(&mut response) else {
            if response.status() == StatusCode::SWITCHING_PROTOCOLS {
                self.go_direct();
            }
            return response;
        };
        // The length is that of a body that is not sent.
        response.headers_mut().remove(CONTENT_LENGTH);
        let mut opening = head(version, response.status(), response.headers());
        opening.extend_from_slice(&greeting);
        *self.0.leaving.lock() = Some(Leaving { ticket, opening });
        future::pending().await
    }

    /// Whoever may leave now, when all that was said before is out: a client may have sent several requests at once, and gets
    /// the answers to the first ones first.
    pub(super) fn leaving(&self) -> Option<Leaving> {
        self.0.leaving.lock().take()
    }

    /// From now on nothing that is said waits for the end of a turn: who upgrades its connection speaks without turns.
    pub(super) fn go_direct(&self) {
        self.0.direct.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_direct(&self) -> bool {
        self.0.direct.load(Ordering::Relaxed)
    }
}

impl Leaving {
    /// Says the opening and gives the socket to the shard, with what was read from it beyond the request.
    ///
    /// Whoever drops this, as a client that takes nothing makes its caller do, closes the connection.
    pub(super) async fn go(self, mut socket: impl Carrier, read_ahead: Bytes) -> io::Result<()> {
        socket.write_all(&self.opening).await?;
        let (socket, tls) = socket.into_parts()?;
        self.ticket.attach(socket, tls, read_ahead);
        Ok(())
    }
}

/// The head of a response as bytes.
fn head(version: Version, status: StatusCode, headers: &HeaderMap) -> Vec<u8> {
    let mut head = Vec::with_capacity(512);
    write!(head, "{version:?} {status}\r\n").expect("memory takes what is written");
    for (name, value) in headers {
        for part in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
            head.extend_from_slice(part);
        }
    }
    if !headers.contains_key(DATE) {
        write!(head, "date: {}\r\n", httpdate::fmt_http_date(SystemTime::now())).expect("memory takes what is written");
    }
    head.extend_from_slice(b"\r\n");
    head
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use clarion_hub::{Config, ConnectionId, Framing, Hub, Open, Place, voice::Mute};
    use clarion_protocol::Door;
    use futures_util::FutureExt as _;
    use prometheus::Registry;

    use super::*;
    use crate::ingress::Returns;

    async fn handed_over() -> Response {
        let hub = Hub::start(Config::default(), Arc::<Returns>::default(), &Registry::new()).unwrap();
        let (id, door, framing, voice) = (ConnectionId(1), Door::Sse, Framing::EventStream, Box::new(Mute));
        let open = Open { id, door, framing, user: None, expires: None, voice, lease: Place::new(()) };
        let mut response = Response::new(Body::empty());
        response.headers_mut().insert(CONTENT_LENGTH, 0.into());
        HandOver::new(hub.open(open, Vec::new()).await.unwrap().ticket, Bytes::from_static(b"hello"))
            .put(&mut response);
        response
    }

    #[tokio::test]
    async fn whoever_leaves_never_answers() {
        let exit = Exit::default();
        assert!(exit.leaving().is_none());
        let passing = exit.pass(Version::HTTP_11, handed_over().await);
        assert!(passing.now_or_never().is_none());
        let opening = String::from_utf8(exit.leaving().unwrap().opening).unwrap();
        assert!(opening.starts_with("HTTP/1.1 200 OK\r\ndate: ") && opening.ends_with("GMT\r\n\r\nhello"), "{opening}");
        assert!(exit.leaving().is_none(), "once");
    }

    #[tokio::test]
    async fn other_answers_pass() {
        let exit = Exit::default();
        let response = exit.pass(Version::HTTP_11, Response::new(Body::empty())).await;
        assert_eq!((response.status(), exit.leaving().is_none(), exit.is_direct()), (StatusCode::OK, true, false));
        let mut switching = Response::new(Body::empty());
        *switching.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        exit.pass(Version::HTTP_11, switching).await;
        assert!(exit.leaving().is_none() && exit.is_direct());
    }
}
