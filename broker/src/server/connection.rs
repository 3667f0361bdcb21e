//! One connection's HTTP, from its first byte until it is closed or its socket leaves.

use std::{
    convert::Infallible,
    future::{self, Future},
    io,
    pin::{Pin, pin},
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::{
    body::{Body, HttpBody as _},
    extract::ConnectInfo,
    response::{IntoResponse as _, Response},
};
use bytes::Bytes;
use http::{
    HeaderValue, Request,
    header::{ACCEPT, CONNECTION},
};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::time::{self, Instant, Sleep};
use tower::Service as _;

use super::{
    accept::{Accepted, Acceptor},
    corked::Corked,
    handoff::{Handoff, Prepared},
    malformed,
    progress::{Late, Progress},
    response_head,
};
use crate::{
    admission::TooMany,
    answer::{self, Problem},
    tls::Carrier,
};

/// The largest request head: room for a token and many cookies.
const HEAD_BYTES: usize = 64 * 1024;

/// The most header lines of a request.
const HEADERS: usize = 100;

/// For how long, and how much of, what nobody wants is read from a client that was given its last answer. A socket that is
/// closed while something in it is unread resets the connection, and the answer is lost on its way.
const LINGER: (Duration, usize) = (Duration::from_secs(2), 4 * 1024 * 1024);

/// How a connection's time with HTTP ended.
enum End {
    /// There is nothing more to come.
    Over,
    /// The socket goes elsewhere.
    HandOff(Prepared),
    /// HTTP cannot go on.
    Failed(io::Error),
    /// The same, since what came is no request.
    Malformed(hyper::Error),
    /// The client was too slow.
    Late(Late),
}

/// Speaks HTTP on a socket.
pub(super) async fn serve(acceptor: &Acceptor, socket: impl Carrier, accepted: Accepted) {
    let Accepted { peer, busy, counted } = accepted;
    let (routes, handoff, progress) = (&acceptor.routes, Handoff::default(), Progress::new(acceptor.times));
    let service = service_fn(|request: Request<Incoming>| {
        progress.asked(!request.body().is_end_stream());
        let (routes, handoff, progress) = (routes.clone(), handoff.clone(), progress.clone());
        async move { Ok::<_, Infallible>(respond(routes, request, ConnectInfo(peer), busy, handoff, progress).await) }
    });
    let corked = Corked::new(socket, handoff.clone(), progress.clone());
    let mut connection = http1::Builder::new()
        .timer(progress.timer())
        .header_read_timeout(acceptor.times.head)
        .max_buf_size(HEAD_BYTES)
        .max_header_size(HEAD_BYTES)
        .max_headers(HEADERS)
        .serve_connection(TokioIo::new(corked.clone()), service)
        .with_upgrades();
    let mut finish = pin!(acceptor.lifecycle.finish.cancelled());
    let mut finishing = false;
    let mut deadline = Deadline::default();
    let end = future::poll_fn(|context| {
        if !finishing && finish.as_mut().poll(context).is_ready() {
            finishing = true;
            Pin::new(&mut connection).graceful_shutdown();
        }
        if let Poll::Ready(result) = Pin::new(&mut connection).poll(context) {
            return Poll::Ready(match result {
                Ok(()) => End::Over,
                Err(error) if error.is_parse() => End::Malformed(error),
                Err(error) => End::Failed(io::Error::other(error)),
            });
        }
        match corked.end_turn(context) {
            Poll::Ready(Err(error)) => return Poll::Ready(End::Failed(error)),
            Poll::Ready(Ok(())) => {
                if let Some(prepared) = handoff.prepared() {
                    return Poll::Ready(End::HandOff(prepared));
                }
            }
            Poll::Pending => {}
        }
        deadline.poll(&progress, context).map(End::Late)
    })
    .await;
    if let End::HandOff(prepared) = end {
        let parts = connection.into_parts().expect("a connection that is not over was not upgraded");
        // Copied, since what hyper read ahead pins its whole buffer, empty or not.
        let read_ahead = Bytes::copy_from_slice(&parts.read_buf);
        drop(parts);
        let socket = corked.into_inner().expect("nobody else takes it out");
        // From here on it is counted as a client's.
        drop(counted);
        if let Err(error) = prepared.complete(socket, read_ahead) {
            tracing::debug!(%error, "a socket was gone before its shard had it");
        }
    } else {
        let lingers = last_words(end, &corked, &progress);
        drop(connection);
        close(&corked, lingers, acceptor.times.head).await;
    }
}

/// Says what is to be said of a connection that has come to its end; whether its client may still be sending.
fn last_words<S: Carrier>(end: End, corked: &Corked<S>, progress: &Progress) -> bool {
    match end {
        End::Over | End::HandOff(_) => return progress.left_unread(),
        End::Late(Late::Silent) => return false,
        End::Failed(error) => {
            tracing::debug!(%error, "an HTTP connection ended early");
            return progress.left_unread();
        }
        End::Late(Late::Head) => corked.replace_refusal(|_| response_head::last(&malformed::slow_head())),
        End::Malformed(error) => {
            tracing::debug!(%error, "something that is no request");
            corked.replace_refusal(|status| response_head::last(&malformed::unreadable(status, &error)));
        }
    }
    true
}

/// Sends what is left and closes. A client that takes nothing is not waited for.
async fn close<S: Carrier>(corked: &Corked<S>, lingers: bool, patience: Duration) {
    let sent = time::timeout(patience, future::poll_fn(|context| corked.end(context))).await;
    if lingers && matches!(sent, Ok(Ok(()))) {
        let (time, mut bytes) = LINGER;
        let _ = time::timeout(time, future::poll_fn(|context| corked.discard(context, &mut bytes))).await;
    }
}

/// Watches one connection's deadline with one timer, which is not set anew for each request: one that goes off too early
/// looks when it is really due.
#[derive(Default)]
struct Deadline(Option<Pin<Box<Sleep>>>);

impl Deadline {
    fn poll(&mut self, progress: &Progress, context: &mut Context<'_>) -> Poll<Late> {
        loop {
            let Some((deadline, late)) = progress.deadline() else { return Poll::Pending };
            let timer = self.0.get_or_insert_with(|| Box::pin(time::sleep_until(deadline)));
            if timer.deadline() > deadline {
                timer.as_mut().reset(deadline);
            }
            ready!(timer.as_mut().poll(context));
            if Instant::now() >= deadline {
                return Poll::Ready(late);
            }
            timer.as_mut().reset(deadline);
        }
    }
}

/// Routes a request. One that names no host is refused before, and one of a connection that was one too many is only told
/// when to come back.
async fn respond(
    mut routes: axum::Router,
    mut request: Request<Incoming>,
    peer: ConnectInfo<std::net::SocketAddr>,
    busy: Option<TooMany>,
    handoff: Handoff,
    progress: Progress,
) -> Response {
    let version = request.version();
    let early = match malformed::check_host(version, request.headers()) {
        Err(problem) => Some(closing(problem.into_response())),
        Ok(()) => busy.map(|busy| come_back(&request, busy)),
    };
    let response = match early {
        Some(response) => response,
        None => {
            request.extensions_mut().insert(peer);
            let request = request.map(|body| match body.is_end_stream() {
                true => Body::empty(),
                false => Body::new(progress.follow(body)),
            });
            let Ok(response) = routes.call(request).await;
            response
        }
    };
    let response = handoff.pass(version, response).await;
    progress.answered(response.body().size_hint().exact().is_some());
    response
}

fn come_back(request: &Request<Incoming>, busy: TooMany) -> Response {
    let accept = request.headers().get(ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    closing(if accept.contains("text/event-stream") {
        answer::come_back()
    } else {
        Problem::from(busy).into_response()
    })
}

fn closing(mut response: Response) -> Response {
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    response
}
