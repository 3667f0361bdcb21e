//! The line that HTTP is spoken on: what is said in one turn goes out with one write.
//!
//! A client that sends many requests at once gets their answers together. HTTP's own way to do that holds answers back for
//! as long as the next request has come in part, and has no bound; here they go out whenever HTTP can do no more.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use hyper::rt::{Read, ReadBufCursor, Write};
use parking_lot::Mutex;

use super::exit::Exit;

/// How much is held for the end of the turn: a hundred answers to publications. What does not fit goes out at once.
const HELD_BYTES: usize = 16 * 1024;

/// One connection's socket. HTTP has one handle, whoever ends its turns has another.
pub(super) struct Line<T> {
    wire: Arc<Mutex<Wire<T>>>,
    exit: Exit,
}

struct Wire<T> {
    /// Gone when it was taken out.
    socket: Option<T>,
    /// What HTTP has said in this turn.
    held: Vec<u8>,
    /// HTTP has more to say, which was neither held nor sent.
    speaking: bool,
    /// Something was written that the socket may have kept to itself, as TLS does.
    written: bool,
}

impl<T> Clone for Line<T> {
    fn clone(&self) -> Self {
        Self { wire: Arc::clone(&self.wire), exit: self.exit.clone() }
    }
}

impl<T: Write + Unpin> Line<T> {
    /// A line to this socket, whose connection leaves HTTP by this way.
    pub(super) fn new(socket: T, exit: Exit) -> Self {
        let wire = Wire { socket: Some(socket), held: Vec::new(), speaking: false, written: false };
        Self { wire: Arc::new(Mutex::new(wire)), exit }
    }

    /// Ends a turn: sends what was said in it. Ready when HTTP has nothing more to say for now and all of it is out.
    pub(super) fn end_turn(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut wire = self.wire.lock();
        ready!(wire.send(context))?;
        // Whoever speaks was told when to go on.
        if wire.speaking { Poll::Pending } else { Poll::Ready(Ok(())) }
    }

    /// Sends the rest when HTTP is over. Whoever upgraded the connection speaks for himself.
    pub(super) fn end(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.exit.is_direct() { Poll::Ready(Ok(())) } else { self.wire.lock().send(context) }
    }

    /// The socket, which HTTP has let go.
    pub(super) fn into_inner(self) -> Option<T> {
        self.wire.lock().socket.take()
    }

    /// Holds what there is room for, or sends it.
    fn say(&self, context: &mut Context<'_>, pieces: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let mut wire = self.wire.lock();
        wire.speaking = true;
        let length: usize = pieces.iter().map(|piece| piece.len()).sum();
        if !self.exit.is_direct() && wire.held.len() + length <= HELD_BYTES {
            pieces.iter().for_each(|piece| wire.held.extend_from_slice(piece));
            return Poll::Ready(Ok(length));
        }
        ready!(wire.write_held(context))?;
        wire.written = true;
        wire.socket()?.poll_write_vectored(context, pieces)
    }
}

impl<T: Write + Unpin> Wire<T> {
    fn socket(&mut self) -> io::Result<Pin<&mut T>> {
        self.socket.as_mut().map(Pin::new).ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    /// Brings everything that was said to the client's side.
    fn send(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.write_held(context))?;
        if self.written {
            ready!(self.socket()?.poll_flush(context))?;
            self.written = false;
        }
        Poll::Ready(Ok(()))
    }

    /// An idle connection keeps no memory for what it may say.
    fn write_held(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.held.is_empty() {
            let socket = self.socket.as_mut().map(Pin::new).ok_or(io::ErrorKind::NotConnected)?;
            let taken = ready!(socket.poll_write(context, &self.held))?;
            self.written = true;
            match taken {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                all if all == self.held.len() => self.held = Vec::new(),
                some => drop(self.held.drain(..some)),
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<T: Read + Write + Unpin> Read for Line<T> {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        self.wire.lock().socket()?.poll_read(context, buffer)
    }
}

impl<T: Write + Unpin> Write for Line<T> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.say(context, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.say(context, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// HTTP calls this when it has said all that it had.
    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut wire = self.wire.lock();
        wire.speaking = false;
        if self.exit.is_direct() { wire.send(context) } else { Poll::Ready(Ok(())) }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut wire = self.wire.lock();
        ready!(wire.send(context))?;
        wire.socket()?.poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use hyper_util::rt::TokioIo;
    use tokio::io::{AsyncReadExt as _, DuplexStream, duplex};

    use super::*;

    const ROOM: usize = 8;

    fn line() -> (DuplexStream, Line<TokioIo<DuplexStream>>, Exit) {
        let (client, socket) = duplex(ROOM);
        let exit = Exit::default();
        (client, Line::new(TokioIo::new(socket), exit.clone()), exit)
    }

    fn say(line: &Line<TokioIo<DuplexStream>>, bytes: &[u8]) -> Poll<usize> {
        let mut context = Context::from_waker(Waker::noop());
        Pin::new(&mut line.clone()).poll_write(&mut context, bytes).map(Result::unwrap)
    }

    fn flush(line: &Line<TokioIo<DuplexStream>>) -> bool {
        Pin::new(&mut line.clone()).poll_flush(&mut Context::from_waker(Waker::noop())).is_ready()
    }

    fn end_turn(line: &Line<TokioIo<DuplexStream>>) -> bool {
        line.end_turn(&mut Context::from_waker(Waker::noop())).is_ready()
    }

    async fn hear(client: &mut DuplexStream, length: usize) -> String {
        let mut heard = vec![0; length];
        client.read_exact(&mut heard).await.unwrap();
        String::from_utf8(heard).unwrap()
    }

    #[tokio::test]
    async fn what_is_said_in_a_turn_goes_out_at_its_end() {
        let (mut client, line, _) = line();
        assert_eq!(say(&line, b"one"), Poll::Ready(3));
        assert!(flush(&line));
        assert_eq!(say(&line, b"two"), Poll::Ready(3));
        assert!(!end_turn(&line), "HTTP is still speaking");
        assert_eq!(hear(&mut client, 6).await, "onetwo");
        assert!(flush(&line) && end_turn(&line));
        assert_eq!(line.wire.lock().held.capacity(), 0);
    }

    #[tokio::test]
    async fn a_turn_does_not_end_before_the_client_has_taken_it() {
        let (mut client, line, _) = line();
        assert_eq!(say(&line, b"more than it takes"), Poll::Ready(18));
        assert!(flush(&line) && !end_turn(&line));
        assert_eq!(hear(&mut client, ROOM).await, "more tha");
        assert!(!end_turn(&line));
        assert_eq!(hear(&mut client, ROOM).await, "n it tak");
        assert!(end_turn(&line));
        assert_eq!(hear(&mut client, 2).await, "es");
    }

    #[tokio::test]
    async fn what_is_held_has_a_bound() {
        let (mut client, line, _) = line();
        assert_eq!(say(&line, &[b'x'; HELD_BYTES]), Poll::Ready(HELD_BYTES));
        assert_eq!(say(&line, b"y"), Poll::Pending);
        assert_eq!(hear(&mut client, ROOM).await, "xxxxxxxx");
        assert_eq!(say(&line, &[b'y'; ROOM]), Poll::Ready(ROOM), "there is room again");
        assert_eq!(say(&line, b"z"), Poll::Pending);
        let hearing = tokio::spawn(async move { hear(&mut client, HELD_BYTES).await });
        std::future::poll_fn(|context| line.wire.lock().send(context)).await.unwrap();
        let heard = hearing.await.unwrap();
        assert!(heard.ends_with("xyyyyyyyy") && !heard.contains('z'));
        assert_eq!(say(&line, b"z"), Poll::Ready(1));
    }

    #[tokio::test]
    async fn a_connection_that_leaves_http_is_not_held_back() {
        let (mut client, line, exit) = line();
        assert_eq!(say(&line, b"one"), Poll::Ready(3));
        exit.go_direct();
        assert_eq!(say(&line, b"two"), Poll::Ready(3));
        assert_eq!(hear(&mut client, 6).await, "onetwo");
    }
}
