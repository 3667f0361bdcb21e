//! What waits for a shard: commands and deliveries, in order, taken whole once per turn.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use clarion_protocol::{CloseCode, InterestId};
use mio::Waker;
use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};

use crate::{
    batch::Batch,
    clock::Time,
    roster::Key,
    seat::{Fed, Notice, Page, Reached, SeatId, Subscription},
    ticket::{Arrival, Open, Opened},
    tls::TlsState,
};

/// One thing for a shard to deal with.
pub(crate) enum Item {
    Command(Command),
    Batch(Arc<Batch>),
}

/// What a shard is asked to do. There are never more of them than a few per connection, so only deliveries need a bound.
pub(crate) enum Command {
    /// Registers a connection, and has it join what it hears from its first moment: one way for both.
    Open(Box<Open>, Vec<Subscription>, oneshot::Sender<Opened>),
    /// The same with the socket: one way for all that a plain door asks.
    Enter(Box<Arrival>),
    Attach(Key, std::net::TcpStream, Option<Box<TlsState>>, Bytes),
    /// The handshake was given up.
    Gone(Key),
    Resume(Key),
    Join(Key, Vec<Subscription>, oneshot::Sender<Vec<SeatId>>),
    Leave(Key, SeatId),
    Feed(Key, SeatId, Page, oneshot::Sender<Fed>),
    /// Tells one connection something.
    Notify(Key, Notice),
    /// Tells all who hear an interest something.
    NotifyInterest(InterestId, Notice),
    /// A connection has caught up: from now on it is told how far it has come.
    ReleaseBookmark(Key, Vec<Reached>),
    Close(Key, CloseCode),
    CloseSome(usize, CloseCode),
    /// Closes all, and ends the thread when all are gone or at this time.
    Stop(Time),
}

/// What became of a batch.
pub(crate) enum Taken {
    Yes,
    Full,
}

/// What wakes a shard that waits.
pub(crate) enum Bell {
    /// It waits for its poll, in a thread of its own.
    Poll(Waker),
    /// It waits as one of its thread's tasks.
    Task(Notify),
}

/// The door of a shard. Everything that comes from other threads comes through here.
pub(crate) struct Inbox {
    queue: Mutex<Queue>,
    /// Tells those who wait that the queue was emptied.
    space: Notify,
    bell: Bell,
    bound: usize,
    /// Connections of this shard, those included that are on their way in or out.
    pub connections: AtomicUsize,
    /// Those of them that are on their way out.
    pub closing: AtomicUsize,
}

#[derive(Default)]
struct Queue {
    items: VecDeque<Item>,
    /// What the deliveries weigh.
    weight: usize,
    /// The shard waits for events and must be woken.
    asleep: bool,
    /// The shard has ended.
    closed: bool,
}

impl Inbox {
    pub(crate) fn new(bell: Bell, bound: usize) -> Self {
        Self {
            queue: Mutex::default(),
            space: Notify::new(),
            bell,
            bound,
            connections: AtomicUsize::new(0),
            closing: AtomicUsize::new(0),
        }
    }

    /// Hands over a command. One for a shard that has ended is dropped.
    pub(crate) fn command(&self, command: Command) {
        let mut queue = self.queue.lock();
        if queue.closed {
            // What it holds may lock something on its way out.
            drop(queue);
            drop(command);
            return;
        }
        queue.items.push_back(Item::Command(command));
        let asleep = std::mem::take(&mut queue.asleep);
        drop(queue);
        self.wake(asleep);
    }

    /// Hands over a batch, unless too much is waiting already.
    pub(crate) fn try_deliver(&self, batch: &Arc<Batch>) -> Taken {
        let mut queue = self.queue.lock();
        if queue.closed {
            return Taken::Yes;
        }
        // An empty queue takes a batch of any size, or that batch would wait for ever.
        if queue.weight > 0 && queue.weight + batch.weight > self.bound {
            return Taken::Full;
        }
        queue.weight += batch.weight;
        queue.items.push_back(Item::Batch(Arc::clone(batch)));
        let asleep = std::mem::take(&mut queue.asleep);
        drop(queue);
        self.wake(asleep);
        Taken::Yes
    }

    /// Hands over a batch, waiting while the queue is full; `full` is called when it has to.
    pub(crate) async fn deliver(&self, batch: &Arc<Batch>, full: impl Fn()) {
        loop {
            let space = self.space.notified();
            tokio::pin!(space);
            // From here on no notice is missed.
            space.as_mut().enable();
            match self.try_deliver(batch) {
                Taken::Yes => return,
                Taken::Full => full(),
            }
            space.await;
        }
    }

    /// Whether nothing waits. Then the shard counts as asleep from now on.
    pub(crate) fn sleep(&self) -> bool {
        let mut queue = self.queue.lock();
        queue.asleep = queue.items.is_empty();
        queue.asleep
    }

    /// Takes all that waits into an empty list.
    pub(crate) fn take(&self, into: &mut VecDeque<Item>) {
        let mut queue = self.queue.lock();
        queue.asleep = false;
        std::mem::swap(&mut queue.items, into);
        let crowded = std::mem::take(&mut queue.weight) > 0;
        drop(queue);
        if crowded {
            self.space.notify_waiters();
        }
    }

    /// Takes nothing more, and drops what waits.
    pub(crate) fn close(&self) {
        let mut queue = self.queue.lock();
        queue.closed = true;
        let items = std::mem::take(&mut queue.items);
        drop(queue);
        drop(items);
        self.space.notify_waiters();
    }

    fn wake(&self, asleep: bool) {
        match &self.bell {
            _ if !asleep => {}
            Bell::Task(task) => task.notify_one(),
            Bell::Poll(waker) => {
                if let Err(error) = waker.wake() {
                    // An eventfd can only fail when the process has lost its descriptors.
                    tracing::error!(%error, "a shard cannot be woken");
                }
            }
        }
    }

    /// Waits until something is handed over to a shard that sleeps as a task. Cancel safe.
    pub(crate) async fn rung(&self) {
        match &self.bell {
            Bell::Task(task) => task.notified().await,
            // Its poll tells.
            Bell::Poll(_) => std::future::pending().await,
        }
    }

    /// Connections that are not on their way out.
    pub(crate) fn open_connections(&self) -> usize {
        let all = self.connections.load(Ordering::Relaxed);
        all.saturating_sub(self.closing.load(Ordering::Relaxed))
    }
}
