//! The handoff of a socket. When a door asks for its client's socket, hyper's part ends: the socket goes to its shard with
//! the response's head, which is written there. Neither a buffer nor a task is left of the request.

use std::{
    future, io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use axum::response::Response;
use bytes::Bytes;
use clarion_hub::Arrival;
use http::{StatusCode, Version, header::CONTENT_LENGTH};
use parking_lot::Mutex;

use super::response_head;
use crate::{doors::hand_over::HandOver, tls::Carrier};

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
    hand_over: HandOver,
    /// The response's head.
    head: Vec<u8>,
}

impl Handoff {
    /// Lets a response through. One that hands the socket over is kept here and never comes out: HTTP has nothing to say.
    pub(super) async fn pass(&self, version: Version, mut response: Response) -> Response {
        let Some(hand_over) = HandOver::take(&mut response) else {
            if response.status() == StatusCode::SWITCHING_PROTOCOLS {
                self.go_direct();
            }
            return response;
        };
        // The length is that of a body that is not sent.
        response.headers_mut().remove(CONTENT_LENGTH);
        let head = response_head::head(version, response.status(), response.headers());
        *self.0.prepared.lock() = Some(Prepared { hand_over, head });
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
    /// Gives the socket to the hub, with what the client reads first and what was read from it beyond the request.
    ///
    /// # Errors
    /// When the socket is gone already.
    pub(super) fn complete(self, socket: impl Carrier, read_ahead: Bytes) -> io::Result<()> {
        let Self { hand_over, head: mut opening } = self;
        let HandOver { hub, open, subscriptions, greeting, entered, bookmark } = hand_over;
        opening.extend_from_slice(&greeting);
        let (socket, tls) = socket.into_parts()?;
        let opening = opening.into();
        hub.enter(Arrival { open, subscriptions, socket, tls, opening, read_ahead, entered, bookmark });
        Ok(())
    }
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

    fn handed_over() -> Response {
        let hub = Hub::start(&Config::default(), Arc::<Returns>::default(), &Registry::new()).unwrap();
        let (id, door, framing, voice) = (ConnectionId(1), Door::Sse, Framing::EventStream, Box::new(Mute));
        let open = Open { id, door, framing, user: None, expires: None, voice, lease: Place::new(()) };
        let mut response = Response::new(Body::empty());
        response.headers_mut().insert(CONTENT_LENGTH, 0.into());
        let (subscriptions, greeting) = (Vec::new(), Bytes::from_static(b"hello"));
        HandOver { hub, open, subscriptions, greeting, entered: None, bookmark: None }.put(&mut response);
        response
    }

    #[tokio::test]
    async fn who_hands_over_never_answers() {
        let handoff = Handoff::default();
        assert!(handoff.prepared().is_none());
        let passing = handoff.pass(Version::HTTP_11, handed_over());
        assert!(passing.now_or_never().is_none());
        let Prepared { hand_over, head } = handoff.prepared().unwrap();
        let head = String::from_utf8(head).unwrap();
        assert!(head.starts_with("HTTP/1.1 200 OK\r\ndate: ") && head.ends_with("GMT\r\n\r\n"), "{head}");
        assert_eq!(hand_over.greeting, "hello");
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
