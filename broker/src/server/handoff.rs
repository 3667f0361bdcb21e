//! The handoff of a socket. When a door asks for its client's socket, hyper's part ends: the response's head is written
//! here, and the socket goes to its shard. Neither a buffer nor a task is left of the request.

use std::{
    future, io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use axum::response::Response;
use bytes::Bytes;
use http::{StatusCode, Version, header::CONTENT_LENGTH};
use parking_lot::Mutex;
use tokio::io::AsyncWriteExt as _;

use super::response_head;
use crate::{doors::hand_over::HandOver, hub::Ticket, tls::Carrier};

/// Where one connection's handoff is prepared. Cheap to clone.
#[derive(Clone, Default)]
pub(super) struct Handoff(Arc<Inner>);

#[derive(Default)]
struct Inner {
    prepared: Mutex<Option<Prepared>>,
    /// Somebody else is about to write to the socket.
    direct: AtomicBool,
}

/// A handoff that can take place as soon as what was answered before is out.
pub(super) struct Prepared {
    ticket: Ticket,
    /// The response's head, and what the client reads first after it.
    opening: Vec<u8>,
}

impl Handoff {
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
        let mut opening = response_head::head(version, response.status(), response.headers());
        opening.extend_from_slice(&greeting);
        *self.0.prepared.lock() = Some(Prepared { ticket, opening });
        future::pending().await
    }

    /// The handoff that is to take place now, when all that was said before is out: a client may have sent several requests
    /// at once, and gets the answers to the first ones first.
    pub(super) fn prepared(&self) -> Option<Prepared> {
        self.0.prepared.lock().take()
    }

    /// From now on nothing that is written waits for the end of a turn: who upgrades its connection writes without turns.
    pub(super) fn go_direct(&self) {
        self.0.direct.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_direct(&self) -> bool {
        self.0.direct.load(Ordering::Relaxed)
    }
}

impl Prepared {
    /// Writes the opening and gives the socket to the shard, with what was read from it beyond the request.
    ///
    /// Whoever drops this, as a client that takes nothing makes its caller do, closes the connection.
    pub(super) async fn complete(self, mut socket: impl Carrier, read_ahead: Bytes) -> io::Result<()> {
        socket.write_all(&self.opening).await?;
        let (socket, tls) = socket.into_parts()?;
        self.ticket.attach(socket, tls, read_ahead);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use clarion_protocol::{Channel, dialect::Dialect};
    use futures_util::FutureExt as _;
    use prometheus::Registry;

    use super::*;
    use crate::hub::{Config, ConnectionId, Hub, Open, Sender, Upstream, Whole};

    struct Nobody;

    impl Upstream for Nobody {
        fn received(&self, _: Sender, _: Channel, _: Bytes) {}
    }

    async fn handed_over() -> Response {
        let hub = Hub::start(Config::default(), Arc::new(Nobody), &Registry::new()).unwrap();
        let (id, subscriptions, lease) = (ConnectionId(1), Vec::new(), Box::new(Whole(())));
        let open =
            Open { id, dialect: Dialect::Event, subscriptions, user: None, upstream: None, expires: None, lease };
        let mut response = Response::new(Body::empty());
        response.headers_mut().insert(CONTENT_LENGTH, 0.into());
        HandOver::new(hub.open(open).await.unwrap(), Bytes::from_static(b"hello")).put(&mut response);
        response
    }

    #[tokio::test]
    async fn who_hands_over_never_answers() {
        let handoff = Handoff::default();
        assert!(handoff.prepared().is_none());
        let passing = handoff.pass(Version::HTTP_11, handed_over().await);
        assert!(passing.now_or_never().is_none());
        let opening = String::from_utf8(handoff.prepared().unwrap().opening).unwrap();
        assert!(opening.starts_with("HTTP/1.1 200 OK\r\ndate: ") && opening.ends_with("GMT\r\n\r\nhello"), "{opening}");
        assert!(handoff.prepared().is_none(), "once");
    }

    #[tokio::test]
    async fn other_answers_pass() {
        let handoff = Handoff::default();
        let response = handoff.pass(Version::HTTP_11, Response::new(Body::empty())).await;
        assert_eq!(
            (response.status(), handoff.prepared().is_none(), handoff.is_direct()),
            (StatusCode::OK, true, false)
        );
        let mut switching = Response::new(Body::empty());
        *switching.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        handoff.pass(Version::HTTP_11, switching).await;
        assert!(handoff.prepared().is_none() && handoff.is_direct());
    }
}
