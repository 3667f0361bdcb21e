//! The way out of HTTP. When a door hands its client's socket over, hyper's part ends: the response's head is written
//! here, and the socket goes to its shard. Neither a buffer nor a task is left of the request.

use std::{
    future,
    io::{self, IoSlice, Write as _},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::SystemTime,
};

use axum::response::Response;
use bytes::Bytes;
use http::{
    HeaderMap, StatusCode, Version,
    header::{CONTENT_LENGTH, DATE},
};
use hyper::rt::{Read, ReadBufCursor, Write};
use parking_lot::Mutex;
use tokio::io::AsyncWriteExt as _;

use crate::{doors::hand_over::HandOver, hub::Ticket, tls::Carrier};

/// One connection's way out. Cheap to clone.
#[derive(Clone, Default)]
pub(super) struct Exit(Arc<Shared>);

#[derive(Default)]
struct Shared {
    leaving: Mutex<Option<Leaving>>,
    /// HTTP has said something that the socket has not taken yet.
    unsent: AtomicBool,
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
        let Some(HandOver { ticket, greeting }) = HandOver::take(&mut response) else { return response };
        // The length is that of a body that is not sent.
        response.headers_mut().remove(CONTENT_LENGTH);
        let mut opening = head(version, response.status(), response.headers());
        opening.extend_from_slice(&greeting);
        *self.0.leaving.lock() = Some(Leaving { ticket, opening });
        future::pending().await
    }

    /// Whoever may leave now. Looked at each time that HTTP can do no more for the moment: a client may have sent several
    /// requests at once, and gets the answers to the first ones first.
    pub(super) fn leaving(&self) -> Option<Leaving> {
        if self.0.unsent.load(Ordering::Relaxed) {
            return None;
        }
        self.0.leaving.lock().take()
    }

    /// A socket whose HTTP is watched for what it has not sent yet.
    pub(super) fn watch<T>(&self, socket: T) -> Watched<T> {
        Watched { socket, exit: self.clone() }
    }
}

impl Leaving {
    /// Says the opening and gives the socket to the shard, with what was read from it beyond the request.
    ///
    /// Whoever drops this, as a client that takes nothing makes its caller do, closes the connection.
    pub(super) async fn go(self, mut socket: impl Carrier, read_ahead: Bytes) -> io::Result<()> {
        socket.write_all(&self.opening).await?;
        let (socket, session) = socket.into_parts()?;
        self.ticket.attach(socket, session, read_ahead);
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

/// A socket that tells its [`Exit`] when HTTP has written all that it had: only then it is flushed.
pub(super) struct Watched<T> {
    socket: T,
    exit: Exit,
}

impl<T> Watched<T> {
    pub(super) fn into_inner(self) -> T {
        self.socket
    }
}

impl<T: Unpin> Watched<T> {
    /// The socket, which is about to be written to.
    fn writing(self: Pin<&mut Self>) -> Pin<&mut T> {
        let this = self.get_mut();
        this.exit.0.unsent.store(true, Ordering::Relaxed);
        Pin::new(&mut this.socket)
    }
}

impl<T: Read + Unpin> Read for Watched<T> {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().socket).poll_read(context, buffer)
    }
}

impl<T: Write + Unpin> Write for Watched<T> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.writing().poll_write(context, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.writing().poll_write_vectored(context, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let flushed = Pin::new(&mut this.socket).poll_flush(context);
        if flushed.is_ready() {
            this.exit.0.unsent.store(false, Ordering::Relaxed);
        }
        flushed
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().socket).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use axum::body::Body;
    use clarion_protocol::{Channel, dialect::Dialect};
    use hyper_util::rt::TokioIo;
    use prometheus::Registry;
    use tokio::io::duplex;

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
    async fn whoever_leaves_waits_until_all_before_is_sent() {
        let mut context = Context::from_waker(Waker::noop());
        let exit = Exit::default();
        let (_client, socket) = duplex(10);
        let mut socket = exit.watch(TokioIo::new(socket));
        assert!(exit.leaving().is_none());
        let mut passing = Box::pin(exit.pass(Version::HTTP_11, handed_over().await));
        assert!(Pin::new(&mut socket).poll_write(&mut context, b"said before").is_ready());
        assert!(passing.as_mut().poll(&mut context).is_pending());
        assert!(exit.leaving().is_none(), "something may be left to be said");
        assert!(Pin::new(&mut socket).poll_flush(&mut context).is_ready());
        let opening = String::from_utf8(exit.leaving().unwrap().opening).unwrap();
        assert!(opening.starts_with("HTTP/1.1 200 OK\r\ndate: ") && opening.ends_with("GMT\r\n\r\nhello"), "{opening}");
        assert!(exit.leaving().is_none(), "once");
    }

    #[tokio::test]
    async fn other_answers_pass() {
        let exit = Exit::default();
        let response = exit.pass(Version::HTTP_11, Response::new(Body::empty())).await;
        assert_eq!((response.status(), exit.leaving().is_none()), (StatusCode::OK, true));
    }
}
