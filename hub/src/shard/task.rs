//! A shard whose thread runs other tasks as well, when it is the only shard: the links of the bus, or all that a node does.
//!
//! A message for one client wakes one thread and is one read and one write. From a thread of its own a link would have to
//! wake the shard, which costs more than the message itself.

use std::{
    future::poll_fn,
    io,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll},
    thread,
    time::Duration,
};

use futures_util::FutureExt as _;
use mio::{Events, Registry};
use tokio::{
    io::{Interest, unix::AsyncFd},
    runtime::{Builder, Handle},
    sync::oneshot,
    time::{Instant, Sleep, sleep_until},
};
use tokio_util::sync::CancellationToken;

use super::{CloseOnDrop, EVENTS, Pause, Shard};

/// Tells how a shard ended: by its word when it was stopped, by being dropped without one when it broke.
pub(crate) struct Over {
    stopped: Option<oneshot::Sender<()>>,
    failed: CancellationToken,
}

impl Over {
    /// `failed` is cancelled when the shard ends without having been stopped.
    pub(crate) fn new(stopped: oneshot::Sender<()>, failed: CancellationToken) -> Self {
        Self { stopped: Some(stopped), failed }
    }

    /// It was stopped, and has ended.
    pub(crate) fn tell(mut self) {
        if let Some(stopped) = self.stopped.take() {
            // Nobody may be waiting for it.
            let _ = stopped.send(());
        }
    }
}

impl Drop for Over {
    fn drop(&mut self) {
        if self.stopped.is_some() {
            self.failed.cancel();
        }
    }
}

/// Where tasks run beside a shard.
pub(crate) struct Host {
    pub handle: Handle,
    /// Dropped when no more tasks are to run. Until then they outlive the shard: links say goodbye after it.
    _release: oneshot::Sender<()>,
}

/// Starts a thread with a shard and room for tasks; `over` is told when the shard has ended.
pub(crate) fn host(name: String, shard: Shard, over: Over) -> io::Result<Host> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let handle = runtime.handle().clone();
    let (release, released) = oneshot::channel();
    let life = async move {
        live(shard, over).await;
        let _ = released.await;
    };
    thread::Builder::new().name(name).spawn(move || runtime.block_on(life))?;
    Ok(Host { handle, _release: release })
}

/// Starts a shard on the runtime of whoever calls.
pub(crate) fn share(shard: Shard, over: Over) {
    tokio::spawn(live(shard, over));
}

/// A shard's life. One that breaks takes nothing else of its thread along.
async fn live(shard: Shard, over: Over) {
    if matches!(tokio::spawn(shard.run_as_task()).await, Ok(true)) {
        over.tell();
    }
}

impl Shard {
    /// Runs until it is stopped, or cannot go on, letting other tasks of the thread have their turn after each of its own.
    async fn run_as_task(mut self) -> bool {
        // Whatever ends this task, nobody waits for it afterwards.
        let _closed = CloseOnDrop(Arc::clone(&self.inbox));
        let readiness = match self.readiness() {
            Ok(readiness) => readiness,
            Err(error) => {
                tracing::error!(%error, "a shard's poll cannot be watched");
                return false;
            }
        };
        let mut timer = pin!(sleep_until(Instant::now()));
        let mut events = Events::with_capacity(EVENTS);
        while !self.is_done() {
            let ready = self.wait(&readiness, timer.as_mut()).await;
            events.clear();
            if ready {
                if !self.look(&mut events, Some(Duration::ZERO)) {
                    return false;
                }
                if events.iter().count() < EVENTS {
                    // What comes from now on is told again, since nothing of it has been taken.
                    poll_fn(|context| readiness.poll_read_ready(context).map_ok(|mut guard| guard.clear_ready()))
                        .now_or_never();
                }
            }
            self.round(&events);
        }
        true
    }

    /// The poll as the runtime watches it.
    #[expect(
        deprecated,
        reason = "the other constructor is unsafe code; this descriptor is owned and never given away"
    )]
    fn readiness(&self) -> io::Result<AsyncFd<Registry>> {
        AsyncFd::with_interest(self.poll.registry().try_clone()?, Interest::READABLE)
    }

    /// Waits as long as there is nothing to do; whether sockets have something to tell.
    async fn wait(&mut self, readiness: &AsyncFd<Registry>, mut timer: Pin<&mut Sleep>) -> bool {
        let told = |context: &mut Context<'_>| readiness.poll_read_ready(context).map(|_| ());
        let until = match self.pause() {
            Pause::None => {
                tokio::task::yield_now().await;
                return poll_fn(told).now_or_never().is_some();
            }
            Pause::Endless => None,
            Pause::Until(time) => Some(Instant::from_std(time)),
        };
        if let Some(until) = until
            && until != timer.deadline()
        {
            timer.as_mut().reset(until);
        }
        let due =
            |context: &mut Context<'_>| if until.is_some() { timer.as_mut().poll(context) } else { Poll::Pending };
        tokio::select! {
            biased;
            () = poll_fn(told) => true,
            () = self.inbox.rung() => false,
            () = poll_fn(due) => false,
        }
    }
}
