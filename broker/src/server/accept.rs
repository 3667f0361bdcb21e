//! The accept loop: takes TCP connections, counts them, and keeps going whatever comes.

use std::{io, net::SocketAddr, os::fd::AsRawFd as _, sync::Arc, time::Duration};

use axum::Router;
use tokio::{
    net::{TcpListener, TcpStream},
    time,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{connection, progress::Times};
use crate::{
    admission::{Admission, TooMany, sockets},
    node::AcceptMetrics,
    tls,
};

/// The pause after the first failed accept, and the longest: without one, a node out of file descriptors would spin.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(1));

/// A listener and what it needs for each connection.
pub(super) struct Acceptor {
    /// The routes.
    pub(super) routes: Router,
    /// TLS, where it is spoken.
    pub(super) tls: Option<Arc<tls::Server>>,
    /// How many may come; the admin listener knows no limit.
    pub(super) limits: Option<Limits>,
    /// How long clients may take for their requests.
    pub(super) times: Times,
    /// How long bytes may wait for a peer that takes none of them.
    pub(super) stall_timeout: Duration,
    pub(super) metrics: AcceptMetrics,
    pub(super) lifecycle: Lifecycle,
}

/// What a new connection is measured by.
pub(super) struct Limits {
    /// Whether it is one too many for this moment.
    pub(super) admission: Arc<Admission>,
    /// Whether it is one too many for HTTP.
    pub(super) sockets: Arc<sockets::Sockets>,
}

/// The control of a listener and its connections.
#[derive(Clone, Default)]
pub(super) struct Lifecycle {
    /// Cancelled when no more connections are to be taken.
    pub(super) stop: CancellationToken,
    /// Cancelled when those that are there are to end after the request they are at.
    pub(super) finish: CancellationToken,
    /// Every HTTP connection; upgraded ones have left.
    pub(super) connections: TaskTracker,
}

/// What is known of a connection before its first byte.
pub(super) struct Accepted {
    pub(super) peer: SocketAddr,
    /// It is only told to come back.
    pub(super) busy: Option<TooMany>,
    /// Its place among those who speak HTTP.
    pub(super) counted: Option<sockets::Counted>,
}

impl Acceptor {
    /// Accepts until told to stop.
    pub(super) async fn run(self: Arc<Self>, listener: TcpListener) {
        let mut pause = BACKOFF.0;
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = self.lifecycle.stop.cancelled() => return,
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
                    let _ = time::timeout(pause, self.lifecycle.stop.cancelled()).await;
                    pause = (pause * 2).min(BACKOFF.1);
                }
            }
        }
    }

    fn take(self: &Arc<Self>, socket: TcpStream, peer: SocketAddr) {
        let counted = match &self.limits {
            None => None,
            Some(limits) => match limits.sockets.open(socket.as_raw_fd(), peer.ip()) {
                Ok(counted) => Some(counted),
                // Closed at once and without a word: to say one its request would have to be waited for. Clients come back
                // after that, event streams included, and proxies ask another node.
                Err(reason) => {
                    self.metrics.refused.inc();
                    return tracing::debug!(%peer, %reason, "hung up on a new connection");
                }
            },
        };
        let busy = self.limits.as_ref().and_then(|limits| limits.admission.accept().err());
        match busy {
            None => self.metrics.accepted.inc(),
            Some(_) => self.metrics.limited.inc(),
        }
        // A message must not wait for the next one to fill a packet. Failing is a connection that is gone already.
        let _ = socket.set_nodelay(true);
        self.cut_when_stalled(&socket);
        let (this, accepted) = (Arc::clone(self), Accepted { peer, busy, counted });
        match &self.tls {
            None => {
                let life = Box::pin(async move { connection::serve(&this, socket, accepted).await });
                drop(self.lifecycle.connections.spawn(life));
            }
            // A handshake costs more than all that follows it: whoever is one too many is hung up on instead.
            Some(_) if busy.is_some() => {}
            Some(tls) => {
                let life = Box::pin(this.serve_tls(Arc::clone(tls), socket, accepted));
                drop(self.lifecycle.connections.spawn(life));
            }
        }
    }

    /// One connection's handshake, and then its HTTP. Who leaves does not wait for handshakes.
    async fn serve_tls(self: Arc<Self>, tls: Arc<tls::Server>, socket: TcpStream, accepted: Accepted) {
        let stream = tokio::select! {
            stream = tls.accept(socket) => stream,
            () = self.lifecycle.finish.cancelled() => None,
        };
        if let Some(stream) = stream {
            connection::serve(&self, stream, accepted).await;
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
}

/// Whether it was only this one connection that failed, before it was taken.
fn is_of_the_peer(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}
