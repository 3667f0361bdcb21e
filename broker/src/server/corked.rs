//! The socket as HTTP sees it. What is written in one turn is corked and goes out with one write.
//!
//! A client that sends many requests at once gets their answers together. HTTP's own way to do that holds answers back for
//! as long as the next request has come in part, and has no bound; here they go out whenever HTTP can do no more.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{handoff::Handoff, progress::Progress};

/// How much is corked until the end of the turn: a hundred answers to publications. What does not fit goes out at once.
const CORKED_BYTES: usize = 16 * 1024;

/// One connection's socket. HTTP has one handle, whoever ends its turns has another.
pub(super) struct Corked<T> {
    wire: Arc<Mutex<Wire<T>>>,
    handoff: Handoff,
    progress: Progress,
}

struct Wire<T> {
    /// Gone when it was taken out.
    socket: Option<T>,
    /// What HTTP has written in this turn.
    corked: Vec<u8>,
    /// HTTP has more to write, which was neither corked nor sent.
    writing: bool,
    /// Something was written that the socket may have kept to itself, as TLS does.
    unflushed: bool,
}

impl<T> Clone for Corked<T> {
    fn clone(&self) -> Self {
        Self { wire: Arc::clone(&self.wire), handoff: self.handoff.clone(), progress: self.progress.clone() }
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> Corked<T> {
    /// Around this socket.
    pub(super) fn new(socket: T, handoff: Handoff, progress: Progress) -> Self {
        let wire = Wire { socket: Some(socket), corked: Vec::new(), writing: false, unflushed: false };
        Self { wire: Arc::new(Mutex::new(wire)), handoff, progress }
    }

    /// Ends a turn: sends what was written in it. Ready when HTTP has nothing more to write for now and all of it is out.
    pub(super) fn end_turn(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut wire = self.wire.lock();
        ready!(wire.send(context))?;
        // Who is still writing was told when to go on.
        if wire.writing { Poll::Pending } else { Poll::Ready(Ok(())) }
    }

    /// Sends the rest when HTTP is over, and then says that nothing follows. Whoever upgraded the connection does that itself.
    pub(super) fn end(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.handoff.is_direct() {
            return Poll::Ready(Ok(()));
        }
        let mut wire = self.wire.lock();
        ready!(wire.send(context))?;
        wire.socket()?.poll_shutdown(context)
    }

    /// Replaces what hyper has said of a head that it could not read by something with a body. hyper has written its own
    /// answer last and as a whole: while it waits for a head nothing is sent before the end of the turn.
    pub(super) fn replace_refusal(&self, refusal: impl FnOnce(Option<u16>) -> Vec<u8>) {
        let mut wire = self.wire.lock();
        let own = automatic(&wire.corked);
        if let Some((at, _)) = own {
            wire.corked.truncate(at);
        }
        let refusal = refusal(own.map(|(_, status)| status));
        wire.corked.extend_from_slice(&refusal);
    }

    /// Reads away what still comes. Ready when nothing more does.
    pub(super) fn discard(&self, context: &mut Context<'_>, budget: &mut usize) -> Poll<()> {
        let mut wire = self.wire.lock();
        let mut buffer = [0; 4096];
        loop {
            let (mut into, Ok(socket)) = (ReadBuf::new(&mut buffer), wire.socket()) else { return Poll::Ready(()) };
            match ready!(socket.poll_read(context, &mut into)) {
                Ok(()) if !into.filled().is_empty() && *budget > 0 => {
                    *budget = budget.saturating_sub(into.filled().len());
                }
                Ok(()) | Err(_) => return Poll::Ready(()),
            }
        }
    }

    /// The socket, which HTTP has let go.
    pub(super) fn into_inner(self) -> Option<T> {
        self.wire.lock().socket.take()
    }

    /// Corks what there is room for, or sends it.
    fn put(&self, context: &mut Context<'_>, pieces: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let mut wire = self.wire.lock();
        wire.writing = true;
        let length: usize = pieces.iter().map(|piece| piece.len()).sum();
        let fits = wire.corked.len() + length <= CORKED_BYTES || self.progress.is_waiting();
        if !self.handoff.is_direct() && fits {
            pieces.iter().for_each(|piece| wire.corked.extend_from_slice(piece));
            return Poll::Ready(Ok(length));
        }
        ready!(wire.write_corked(context))?;
        wire.unflushed = true;
        wire.socket()?.poll_write_vectored(context, pieces)
    }
}

/// Where hyper's own answer to a bad head begins, and its status: the last head of all, which has no body.
fn automatic(corked: &[u8]) -> Option<(usize, u16)> {
    const START: &[u8] = b"HTTP/1.1 4";
    let at = corked.windows(START.len()).rposition(|window| window == START)?;
    let head = std::str::from_utf8(&corked[at..]).ok()?;
    let is_whole = head.ends_with("\r\n\r\n") && head.contains("\r\ncontent-length: 0\r\n");
    let status = head.get(9..12)?.parse().ok()?;
    is_whole.then_some((at, status))
}

impl<T: AsyncWrite + Unpin> Wire<T> {
    fn socket(&mut self) -> io::Result<Pin<&mut T>> {
        self.socket.as_mut().map(Pin::new).ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    /// Brings everything that was written to the client's side.
    fn send(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.write_corked(context))?;
        if self.unflushed {
            ready!(self.socket()?.poll_flush(context))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    /// An idle connection keeps no memory for what it may write.
    fn write_corked(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.corked.is_empty() {
            let socket = self.socket.as_mut().map(Pin::new).ok_or(io::ErrorKind::NotConnected)?;
            let taken = ready!(socket.poll_write(context, &self.corked))?;
            self.unflushed = true;
            match taken {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                all if all == self.corked.len() => self.corked = Vec::new(),
                some => drop(self.corked.drain(..some)),
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncRead for Corked<T> {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = into.filled().len();
        ready!(self.wire.lock().socket()?.poll_read(context, into))?;
        if into.filled().len() > before {
            self.progress.read();
        } else if into.remaining() > 0 && !self.handoff.is_direct() && self.progress.hides_end(context.waker()) {
            return Poll::Pending;
        }
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Corked<T> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.put(context, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.put(context, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// HTTP calls this when it has written all that it had.
    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut wire = self.wire.lock();
        wire.writing = false;
        if self.handoff.is_direct() {
            return wire.send(context);
        }
        drop(wire);
        self.progress.flushed();
        Poll::Ready(Ok(()))
    }

    /// HTTP calls this when it is over; what it said last is still to be looked at, so the socket is closed by [`Self::end`].
    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.handoff.is_direct() {
            return Poll::Ready(Ok(()));
        }
        let mut wire = self.wire.lock();
        ready!(wire.send(context))?;
        wire.socket()?.poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use std::{task::Waker, time::Duration};

    use tokio::io::{AsyncReadExt as _, DuplexStream, duplex};

    use super::*;
    use crate::server::progress::Times;

    const ROOM: usize = 8;

    fn pair() -> (DuplexStream, Corked<DuplexStream>, Handoff) {
        let (client, socket) = duplex(ROOM);
        let handoff = Handoff::default();
        let times = Times { head: Duration::from_secs(1), keep_alive: Duration::from_secs(1) };
        (client, Corked::new(socket, handoff.clone(), Progress::new(times)), handoff)
    }

    fn put(corked: &Corked<DuplexStream>, bytes: &[u8]) -> Poll<usize> {
        let mut context = Context::from_waker(Waker::noop());
        Pin::new(&mut corked.clone()).poll_write(&mut context, bytes).map(Result::unwrap)
    }

    fn flush(corked: &Corked<DuplexStream>) -> bool {
        Pin::new(&mut corked.clone()).poll_flush(&mut Context::from_waker(Waker::noop())).is_ready()
    }

    fn end_turn(corked: &Corked<DuplexStream>) -> bool {
        corked.end_turn(&mut Context::from_waker(Waker::noop())).is_ready()
    }

    async fn hear(client: &mut DuplexStream, length: usize) -> String {
        let mut heard = vec![0; length];
        client.read_exact(&mut heard).await.unwrap();
        String::from_utf8(heard).unwrap()
    }

    #[tokio::test]
    async fn what_is_written_in_a_turn_goes_out_at_its_end() {
        let (mut client, corked, _) = pair();
        assert_eq!(put(&corked, b"one"), Poll::Ready(3));
        assert!(flush(&corked));
        assert_eq!(put(&corked, b"two"), Poll::Ready(3));
        assert!(!end_turn(&corked), "HTTP is still writing");
        assert_eq!(hear(&mut client, 6).await, "onetwo");
        assert!(flush(&corked) && end_turn(&corked));
        assert_eq!(corked.wire.lock().corked.capacity(), 0);
    }

    #[tokio::test]
    async fn a_turn_does_not_end_before_the_client_has_taken_it() {
        let (mut client, corked, _) = pair();
        assert_eq!(put(&corked, b"more than it takes"), Poll::Ready(18));
        assert!(flush(&corked) && !end_turn(&corked));
        assert_eq!(hear(&mut client, ROOM).await, "more tha");
        assert!(!end_turn(&corked));
        assert_eq!(hear(&mut client, ROOM).await, "n it tak");
        assert!(end_turn(&corked));
        assert_eq!(hear(&mut client, 2).await, "es");
    }

    #[tokio::test]
    async fn what_is_corked_has_a_bound() {
        let (mut client, corked, _) = pair();
        assert_eq!(put(&corked, &[b'x'; CORKED_BYTES]), Poll::Ready(CORKED_BYTES));
        assert_eq!(put(&corked, b"y"), Poll::Pending);
        assert_eq!(hear(&mut client, ROOM).await, "xxxxxxxx");
        assert_eq!(put(&corked, &[b'y'; ROOM]), Poll::Ready(ROOM), "there is room again");
        assert_eq!(put(&corked, b"z"), Poll::Pending);
        let hearing = tokio::spawn(async move { hear(&mut client, CORKED_BYTES).await });
        std::future::poll_fn(|context| corked.wire.lock().send(context)).await.unwrap();
        let heard = hearing.await.unwrap();
        assert!(heard.ends_with("xyyyyyyyy") && !heard.contains('z'));
        assert_eq!(put(&corked, b"z"), Poll::Ready(1));
    }

    #[tokio::test]
    async fn a_connection_that_leaves_http_is_not_held_back() {
        let (mut client, corked, handoff) = pair();
        assert_eq!(put(&corked, b"one"), Poll::Ready(3));
        handoff.go_direct();
        assert_eq!(put(&corked, b"two"), Poll::Ready(3));
        assert_eq!(hear(&mut client, 6).await, "onetwo");
    }

    #[tokio::test]
    async fn only_hypers_own_refusal_is_replaced() {
        const OWN: &[u8] = b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-length: 0\r\n\r\n";
        let before = b"HTTP/1.1 400 Bad Request\r\ncontent-length: 2\r\n\r\n{}";
        for (said, last, status) in
            [(&[][..], OWN, Some(431)), (before, OWN, Some(431)), (before, b"", None), (b"", b"", None)]
        {
            let (_client, corked, _) = pair();
            assert!(put(&corked, said).is_ready() && put(&corked, last).is_ready());
            corked.replace_refusal(|found| {
                assert_eq!(found, status);
                b"ours".to_vec()
            });
            assert_eq!(corked.wire.lock().corked, [said, b"ours"].concat());
        }
    }
}
