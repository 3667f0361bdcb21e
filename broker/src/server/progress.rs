//! Where one connection's HTTP is: waiting for a request, reading one, or answering. Its times hang on this, and what the
//! end of a client's bytes means.
//!
//! hyper starts the time for a request's head when it begins to wait for it, which cuts a connection that rests between two
//! requests. It says through its timer when that wait begins and ends, so the times are kept here instead: one for the rest
//! between requests, another from a head's first byte on.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use hyper::{
    body::{Body, Frame, SizeHint},
    rt::{Sleep, Timer},
};
use parking_lot::Mutex;
use tokio::time::Instant;

/// How long a client may take.
#[derive(Debug, Clone, Copy)]
pub(super) struct Times {
    /// From a head's first byte to its last; also how long a new connection may stay silent.
    pub(super) head: Duration,
    /// From one answer to the next request.
    pub(super) keep_alive: Duration,
}

/// What a client has not done in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Late {
    /// Nothing came: there is nobody to answer.
    Silent,
    /// A head has begun and does not end.
    Head,
}

/// One connection's progress. Cheap to clone.
#[derive(Clone)]
pub(super) struct Progress(Arc<Mutex<State>>);

struct State {
    times: Times,
    /// HTTP waits for a head.
    wait: Option<Wait>,
    /// There was a request before.
    kept: bool,
    /// The body of the request has not come to its end.
    body_open: bool,
    /// A body was dropped before its end, so the client may still be sending it.
    body_dropped: bool,
    answer: Answer,
    /// HTTP has asked for more when the client's bytes had ended.
    at_end: Option<Waker>,
}

#[derive(Clone, Copy)]
struct Wait {
    since: Instant,
    /// When the first byte came that was read during this wait. What was read before it, behind the last request, is not
    /// told apart from that request, and has the longer time until another byte comes.
    begun: Option<Instant>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Answer {
    /// There is none yet.
    Due,
    /// It has a length.
    Whole,
    /// It goes on until somebody has enough of it.
    Stream,
}

impl Progress {
    pub(super) fn new(times: Times) -> Self {
        Self(Arc::new(Mutex::new(State {
            times,
            wait: None,
            kept: false,
            body_open: false,
            body_dropped: false,
            answer: Answer::Due,
            at_end: None,
        })))
    }

    /// What tells hyper's waits for heads to this.
    pub(super) fn timer(&self) -> HeadTimer {
        HeadTimer(self.clone())
    }

    /// HTTP has read something.
    pub(super) fn read(&self) {
        if let Some(wait) = &mut self.0.lock().wait {
            wait.begun.get_or_insert_with(Instant::now);
        }
    }

    /// A head is complete.
    pub(super) fn asked(&self, has_body: bool) {
        let mut state = self.0.lock();
        (state.kept, state.body_open, state.answer) = (true, has_body, Answer::Due);
    }

    /// There is an answer, of a known length or not.
    pub(super) fn answered(&self, has_length: bool) {
        let mut state = self.0.lock();
        state.answer = if has_length { Answer::Whole } else { Answer::Stream };
        // A stream has no other sign that nobody reads it any more.
        if !has_length && let Some(waker) = state.at_end.take() {
            waker.wake();
        }
    }

    /// Whether HTTP is not to know yet that the client's bytes have ended: some clients and proxies close their side behind
    /// a request and wait for its answer, which HTTP would drop. It is woken to see the end when the answer is out.
    pub(super) fn hides_end(&self, waker: &Waker) -> bool {
        let mut state = self.0.lock();
        let hides = state.wait.is_none() && !state.body_open && state.answer != Answer::Stream;
        if hides {
            state.at_end = Some(waker.clone());
        }
        hides
    }

    /// HTTP has said all that it had.
    pub(super) fn flushed(&self) {
        let mut state = self.0.lock();
        if state.answer != Answer::Due
            && let Some(waker) = state.at_end.take()
        {
            waker.wake();
        }
    }

    /// Whether HTTP waits for a head: then the only thing that it can have to say is what is wrong with one.
    pub(super) fn is_waiting(&self) -> bool {
        self.0.lock().wait.is_some()
    }

    /// Whether a client may still be sending what nobody reads.
    pub(super) fn left_unread(&self) -> bool {
        let state = self.0.lock();
        state.body_open || state.body_dropped
    }

    /// When this connection's time is over, and what it is then late with. None while a request is being answered.
    pub(super) fn deadline(&self) -> Option<(Instant, Late)> {
        let state = self.0.lock();
        let Wait { since, begun } = state.wait?;
        Some(match begun {
            Some(begun) => (begun + state.times.head, Late::Head),
            None if state.kept => (since + state.times.keep_alive, Late::Silent),
            None => (since + state.times.head, Late::Silent),
        })
    }

    /// Follows a request's body to its end.
    pub(super) fn follow<B>(&self, body: B) -> Followed<B> {
        Followed { body, progress: self.clone(), ended: false }
    }
}

/// hyper's clock: its only use is the time for heads, whose waits are told to [`Progress`].
pub(super) struct HeadTimer(Progress);

#[expect(clippy::disallowed_types, reason = "hyper's trait has it; the time it gives is not used")]
impl Timer for HeadTimer {
    fn sleep(&self, _: Duration) -> Pin<Box<dyn Sleep>> {
        Box::pin(HeadWait::begin(self.0.clone()))
    }

    fn sleep_until(&self, _: std::time::Instant) -> Pin<Box<dyn Sleep>> {
        Box::pin(HeadWait::begin(self.0.clone()))
    }
}

/// hyper's wait for one head, from its first look until the head is complete. It never ends by itself.
struct HeadWait(Progress);

impl HeadWait {
    fn begin(progress: Progress) -> Self {
        progress.0.lock().wait = Some(Wait { since: Instant::now(), begun: None });
        Self(progress)
    }
}

impl Future for HeadWait {
    type Output = ();

    fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<()> {
        Poll::Pending
    }
}

impl Sleep for HeadWait {}

impl Drop for HeadWait {
    fn drop(&mut self) {
        self.0.0.lock().wait = None;
    }
}

/// A request's body whose end is told to [`Progress`].
pub(super) struct Followed<B> {
    body: B,
    progress: Progress,
    ended: bool,
}

impl<B: Body + Unpin> Body for Followed<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let frame = std::task::ready!(Pin::new(&mut self.body).poll_frame(context));
        if (frame.is_none() || self.body.is_end_stream()) && !self.ended {
            self.ended = true;
            self.progress.0.lock().body_open = false;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl<B> Drop for Followed<B> {
    fn drop(&mut self) {
        if !self.ended {
            let mut state = self.progress.0.lock();
            (state.body_open, state.body_dropped) = (false, true);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMES: Times = Times { head: Duration::from_secs(10), keep_alive: Duration::from_secs(75) };

    fn ahead(progress: &Progress) -> Option<(u64, Late)> {
        progress.deadline().map(|(at, late)| ((at - Instant::now()).as_secs(), late))
    }

    #[tokio::test(start_paused = true)]
    async fn the_time_of_a_head_runs_from_its_first_byte() {
        let progress = Progress::new(TIMES);
        assert_eq!(ahead(&progress), None);
        let wait = HeadWait::begin(progress.clone());
        assert_eq!(ahead(&progress), Some((10, Late::Silent)), "a new connection is to ask for something");
        progress.read();
        drop(wait);
        progress.asked(false);
        assert_eq!(ahead(&progress), None, "an answer may take its time");
        progress.answered(true);
        let _wait = HeadWait::begin(progress.clone());
        tokio::time::advance(Duration::from_secs(74)).await;
        assert_eq!(ahead(&progress), Some((1, Late::Silent)));
        progress.read();
        tokio::time::advance(Duration::from_secs(4)).await;
        progress.read();
        assert_eq!(ahead(&progress), Some((6, Late::Head)), "more bytes do not begin it anew");
    }

    #[test]
    fn the_end_of_a_clients_bytes_is_no_end_of_its_request() {
        let (progress, waker) = (Progress::new(TIMES), Waker::noop());
        let wait = HeadWait::begin(progress.clone());
        assert!(!progress.hides_end(waker), "nothing was asked");
        drop(wait);
        progress.asked(true);
        assert!(!progress.hides_end(waker), "the body is cut");
        progress.asked(false);
        assert!(progress.hides_end(waker));
        progress.answered(false);
        assert!(!progress.hides_end(waker), "a stream ends with its reader");
    }

    #[test]
    fn a_body_that_nobody_reads_is_remembered() {
        let progress = Progress::new(TIMES);
        progress.asked(true);
        let body = progress.follow(http_body_util::Full::new(bytes::Bytes::from_static(b"x")));
        assert!(progress.left_unread());
        drop(body);
        assert!(progress.left_unread());
        let read = Progress::new(TIMES);
        read.asked(true);
        let mut body = read.follow(http_body_util::Full::new(bytes::Bytes::from_static(b"x")));
        let frame = Pin::new(&mut body).poll_frame(&mut Context::from_waker(Waker::noop()));
        assert!(frame.is_ready());
        drop(body);
        assert!(!read.left_unread());
    }
}
