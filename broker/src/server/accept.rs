//! The accept loop: takes TCP connections, gives each its HTTP, and keeps going whatever comes.

use std::{
    convert::Infallible,
    future, io,
    net::SocketAddr,
    pin::{Pin, pin},
    sync::Arc,
    task::{Poll, ready},
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    extract::ConnectInfo,
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use http::{
    HeaderValue, Request,
    header::{ACCEPT, CONNECTION},
};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    time,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::Service as _;

use super::{
    exit::{Exit, Leaving},
    line::Line,
};
use crate::{
    admission::{Admission, TooMany},
    answer::{self, Problem},
    node::AcceptMetrics,
    tls::{self, Carrier},
};

/// The pause after the first failed accept, and the longest: without one, a node out of file descriptors would spin.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(1));

/// The largest request head: room for a token and many cookies.
const HEAD_BYTES: usize = 64 * 1024;

/// A listener and what it needs for each connection.
pub(super) struct Acceptor {
    /// The routes.
    pub(super) routes: Router,
    /// TLS, where it is spoken.
    pub(super) tls: Option<Arc<tls::Server>>,
    /// Whether the next connection is one too many for this moment; the admin listener knows no limit.
    pub(super) admission: Option<Arc<Admission>>,
    /// How long a request's head may take, and how long a connection may rest between requests.
    pub(super) head_timeout: Duration,
    /// How long bytes may wait for a peer that takes none of them.
    pub(super) stall_timeout: Duration,
    pub(super) metrics: AcceptMetrics,
    pub(super) reins: Reins,
}

/// By what a listener and its connections are held.
#[derive(Clone, Default)]
pub(super) struct Reins {
    /// Cancelled when no more connections are to be taken.
    pub(super) stop: CancellationToken,
    /// Cancelled when those that are there are to end after the request they are at.
    pub(super) finish: CancellationToken,
    /// Every HTTP connection; upgraded ones have left.
    pub(super) connections: TaskTracker,
}

impl Acceptor {
    /// Accepts until told to stop.
    pub(super) async fn run(self: Arc<Self>, listener: TcpListener) {
        let mut pause = BACKOFF.0;
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = self.reins.stop.cancelled() => return,
            };
            match accepted {
                Ok((socket, peer)) => {
                    pause = BACKOFF.0;
                    self.take(socket, peer);
                }
                Err(error) if is_of_the_peer(&error) => self.metrics.failed.inc(),
                Err(error) => {
                    self.metrics.failed.inc();
                    tracing::warn!(%error, ?pause, "accepting failed; trying again after a pause");
                    let _ = time::timeout(pause, self.reins.stop.cancelled()).await;
                    pause = (pause * 2).min(BACKOFF.1);
                }
            }
        }
    }

    fn take(self: &Arc<Self>, socket: TcpStream, peer: SocketAddr) {
        let busy = self.admission.as_ref().and_then(|admission| admission.accept().err());
        match busy {
            None => self.metrics.accepted.inc(),
            Some(_) => self.metrics.limited.inc(),
        }
        // A message must not wait for the next one to fill a packet. Failing is a connection that is gone already.
        let _ = socket.set_nodelay(true);
        self.cut_when_stalled(&socket);
        match &self.tls {
            None => drop(self.reins.connections.spawn(Box::pin(self.clone().serve(socket, peer, busy)))),
            // A handshake costs more than all that follows it: whoever is one too many is hung up on instead.
            Some(_) if busy.is_some() => {}
            Some(tls) => {
                drop(self.reins.connections.spawn(Box::pin(self.clone().serve_tls(tls.clone(), socket, peer))))
            }
        }
    }

    /// One connection's handshake, and then its HTTP. Who leaves does not wait for handshakes.
    async fn serve_tls(self: Arc<Self>, tls: Arc<tls::Server>, socket: TcpStream, peer: SocketAddr) {
        let stream = tokio::select! {
            stream = tls.accept(socket) => stream,
            () = self.reins.finish.cancelled() => None,
        };
        if let Some(stream) = stream {
            self.serve(stream, peer, None).await;
        }
    }

    /// Has the kernel cut a connection whose peer takes nothing or is gone. For WebSockets pings find that out; an event
    /// stream has nothing else, and a client that reads no more could keep its socket and all that is in it for ever.
    fn cut_when_stalled(&self, socket: &TcpStream) {
        #[cfg(target_os = "linux")]
        if let Err(error) = socket2::SockRef::from(socket).set_tcp_user_timeout(Some(self.stall_timeout)) {
            tracing::debug!(%error, "a connection that stalls will not be noticed");
        }
        #[cfg(not(target_os = "linux"))]
        let _ = socket;
    }

    /// One connection's HTTP, until it is closed or its socket leaves.
    async fn serve(self: Arc<Self>, socket: impl Carrier, peer: SocketAddr, busy: Option<TooMany>) {
        let (routes, exit) = (self.routes.clone(), Exit::default());
        let service = service_fn(|request| answer(routes.clone(), request, peer, busy, exit.clone()));
        let line = Line::new(TokioIo::new(socket), exit.clone());
        let mut connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(self.head_timeout)
            .max_buf_size(HEAD_BYTES)
            .max_header_size(HEAD_BYTES)
            .serve_connection(line.clone(), service)
            .with_upgrades();
        let mut finish = pin!(self.reins.finish.cancelled());
        let mut finishing = false;
        // HTTP may be over before the client has taken all of it, also where it asked for an upgrade in vain.
        let mut over = None;
        let end = future::poll_fn(|context| {
            if !finishing && finish.as_mut().poll(context).is_ready() {
                finishing = true;
                Pin::new(&mut connection).graceful_shutdown();
            }
            if over.is_none()
                && let Poll::Ready(result) = Pin::new(&mut connection).poll(context)
            {
                over = Some(result);
            }
            match &over {
                None => {
                    ready!(line.end_turn(context))?;
                    exit.leaving().map_or(Poll::Pending, |leaving| Poll::Ready(Ok(Some(leaving))))
                }
                Some(Ok(())) => line.end(context).map_ok(|()| None),
                // What was answered before HTTP failed is said as well, as far as the client takes it.
                Some(Err(_)) => {
                    let _ = line.end(context);
                    let error = over.take().and_then(Result::err).expect("it was there just now");
                    Poll::Ready(Err(io::Error::other(error)))
                }
            }
        });
        match end.await {
            Ok(None) => {}
            Ok(Some(leaving)) => {
                let parts = connection.into_parts().expect("a connection that is not over was not upgraded");
                // Copied, since what hyper read ahead pins its whole buffer, empty or not.
                let read_ahead = Bytes::copy_from_slice(&parts.read_buf);
                drop(parts);
                let socket = line.into_inner().expect("nobody else takes it out").into_inner();
                self.let_go(leaving, socket, read_ahead).await;
            }
            Err(error) => tracing::debug!(%error, "an HTTP connection ended early"),
        }
    }

    /// Gives a socket to its shard. One whose client takes nothing is closed.
    async fn let_go(&self, leaving: Leaving, socket: impl Carrier, read_ahead: Bytes) {
        match time::timeout(self.head_timeout, leaving.go(socket, read_ahead)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%error, "a socket was gone before its shard had it"),
            Err(_) => tracing::debug!("a client did not take the head of its answer in time"),
        }
    }
}

/// Routes a request; one of a connection that was one too many is only told when to come back.
async fn answer(
    mut routes: Router,
    mut request: Request<Incoming>,
    peer: SocketAddr,
    busy: Option<TooMany>,
    exit: Exit,
) -> Result<Response, Infallible> {
    if let Some(busy) = busy {
        return Ok(come_back(&request, busy));
    }
    request.extensions_mut().insert(ConnectInfo(peer));
    let version = request.version();
    let response = routes.call(request.map(Body::new)).await?;
    Ok(exit.pass(version, response).await)
}

fn come_back(request: &Request<Incoming>, busy: TooMany) -> Response {
    let accept = request.headers().get(ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let mut response =
        if accept.contains("text/event-stream") { answer::come_back() } else { Problem::from(busy).into_response() };
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    response
}

/// Whether it was only this one connection that failed, before it was taken.
fn is_of_the_peer(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}
