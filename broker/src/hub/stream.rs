//! The way of an event stream's bytes from its shard to the HTTP response that fetches them.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use futures_util::Stream;
use parking_lot::Mutex;

use super::{
    queue::{Command, Inbox},
    record::Key,
};
use crate::outbox::{Outbox, Pushed, Run, SlowPolicy};

/// What the shard and the response share. The lock is held for moments and hardly ever by both.
#[derive(Default)]
pub(super) struct Pipe {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    outbox: Outbox,
    waker: Option<Waker>,
    /// Somebody fetches.
    taken: bool,
    /// Nothing more will come.
    ended: bool,
}

impl Pipe {
    /// Adds a run. The waker, if one is waiting, is to be woken at the end of the turn.
    pub(super) fn push_run(&self, run: &mut Run, slow: SlowPolicy, bound: usize) -> (Pushed, Option<Waker>) {
        let mut state = self.state.lock();
        (state.outbox.push_run(run, 0, slow, bound), state.waker.take())
    }

    /// Adds bytes of the stream's own. Nobody is woken for them: they come first or last.
    pub(super) fn keep(&self, bytes: Bytes) {
        self.state.lock().outbox.keep(bytes);
    }

    /// Adds bytes that only say that the stream lives, if nothing else waits to say so.
    pub(super) fn comment(&self, bytes: Bytes) -> Option<Waker> {
        let mut state = self.state.lock();
        if state.outbox.is_empty() {
            state.outbox.keep(bytes);
        }
        state.waker.take()
    }

    /// Drops what waits.
    pub(super) fn shed(&self) {
        self.state.lock().outbox.shed();
    }

    /// Ends the stream after what waits.
    pub(super) fn end(&self) -> Option<Waker> {
        let mut state = self.state.lock();
        state.ended = true;
        state.waker.take()
    }

    pub(super) fn is_taken(&self) -> bool {
        self.state.lock().taken
    }
}

/// The bytes of one event stream, for an HTTP response. Dropping it closes the connection.
pub struct EventStream {
    pipe: Arc<Pipe>,
    inbox: Arc<Inbox>,
    key: Key,
}

impl EventStream {
    pub(super) fn new(pipe: Arc<Pipe>, inbox: Arc<Inbox>, key: Key) -> Self {
        pipe.state.lock().taken = true;
        Self { pipe, inbox, key }
    }
}

impl Stream for EventStream {
    type Item = Bytes;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Bytes>> {
        let mut state = self.pipe.state.lock();
        match state.outbox.pop() {
            Some(bytes) => Poll::Ready(Some(bytes)),
            None if state.ended => Poll::Ready(None),
            None => {
                state.waker = Some(context.waker().clone());
                Poll::Pending
            }
        }
    }
}

impl Drop for EventStream {
    fn drop(&mut self) {
        self.inbox.command(Command::Gone(self.key));
    }
}
