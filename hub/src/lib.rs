//! Who is here: owns all long-lived connections of a node, and writes to them what the bus delivers.
//!
//! The hub is a handle to its shards. Each shard is one thread that owns its sockets and its part of the subscription
//! table; nothing in here ever awaits a client. It knows no request, no token and no bus: a door opens a connection, has it
//! join what it may hear, and attaches its socket.

mod audiences;
mod batch;
mod clock;
mod config;
mod connection;
pub mod frame;
mod framing;
mod metrics;
mod outbox;
mod roster;
mod run;
mod seat;
mod shard;
mod ticket;
pub mod tls;
mod users;
pub mod voice;
mod wheel;

#[cfg(test)]
mod tests;

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use clarion_protocol::{CloseCode, Delivery, InterestId};
use parking_lot::Mutex;
use prometheus::Registry;
use tokio::{runtime::Handle, sync::oneshot};
use tokio_util::sync::CancellationToken;

use self::{
    batch::{Batch, Masks},
    clock::Time,
    metrics::Metrics,
    shard::{Command, Common, Host, Inbox, Over, Settings, Shard},
    users::Users,
};
pub use self::{
    config::{Config, MAX_SHARDS, Thread},
    connection::ConnectionId,
    framing::Framing,
    outbox::SlowPolicy,
    seat::{Behind, Bookmark, Fed, InterestLease, Notice, Page, Reached, Release, SeatId, Subscription},
    ticket::{Arrival, ConnectionKey, Entered, Open, Opened, Place, Ticket},
    voice::{Answer, Attention, Voice},
};

/// This node is about to leave, or has: it takes no more connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("this node is leaving")]
pub struct Leaving;

/// The handle to all shards. Cheap to clone.
#[derive(Clone)]
pub struct Hub {
    inner: Arc<Inner>,
}

struct Inner {
    shards: Box<[Arc<Inbox>]>,
    common: Arc<Common>,
    leaving: AtomicBool,
    /// Told when a shard has ended, which its thread may outlive.
    ended: Mutex<Vec<oneshot::Receiver<()>>>,
    /// Cancelled when one has that was not stopped.
    failed: CancellationToken,
    host: Option<Host>,
}

impl Hub {
    /// Starts the shards, from within a runtime where they are to share its thread. `release` takes back the interests that
    /// no seat needs any more.
    ///
    /// # Errors
    /// When a thread or its poll cannot be had, or a metric of the hub is registered already.
    pub fn start(config: &Config, release: Arc<dyn Release>, registry: &Registry) -> io::Result<Self> {
        let count = config.shard_count();
        let common = Arc::new(Common {
            masks: Arc::new(Masks::new(count)),
            users: Arc::new(Users::default()),
            metrics: Metrics::new(registry).map_err(io::Error::other)?,
            settings: Settings::from(config),
            release,
        });
        let thread = if count == 1 { config.thread } else { Thread::Alone };
        let is_task = thread != Thread::Alone;
        let shards = (0..count)
            .map(|number| Shard::new(number, Arc::clone(&common), config.queue_bytes, is_task))
            .collect::<io::Result<Vec<_>>>()?;
        let mut inner = Inner {
            shards: shards.iter().map(|shard| Arc::clone(&shard.inbox)).collect(),
            common,
            leaving: AtomicBool::new(false),
            ended: Mutex::default(),
            failed: CancellationToken::new(),
            host: None,
        };
        for shard in shards {
            let name = format!("shard-{}", shard.number);
            let (stopped, ended) = oneshot::channel();
            let over = Over::new(stopped, inner.failed.clone());
            inner.ended.get_mut().push(ended);
            match thread {
                Thread::Hosting => inner.host = Some(shard::host(name, shard, over)?),
                Thread::Shared => shard::share(shard, over),
                Thread::Alone => drop(std::thread::Builder::new().name(name).spawn(|| {
                    if shard.run() {
                        over.tell();
                    }
                })?),
            }
        }
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Where tasks run that hand on what the bus delivers: beside the shard, where there is only one and it
    /// has a thread of its own for that. They may outlive the shard, but not the last handle to the hub.
    pub fn host(&self) -> Option<Handle> {
        self.inner.host.as_ref().map(|host| host.handle.clone())
    }

    /// Returns when a shard has ended without having been stopped. Its connections are lost and it takes no more, so the
    /// node must not go on. Cancel safe.
    pub async fn failed(&self) {
        self.inner.failed.cancelled().await;
    }

    /// Registers a connection whose transport comes later, lets it join what it hears from its first moment, and returns
    /// when its shard has done both.
    ///
    /// From then on messages are kept for it, within its bound, so that none is lost between the hub's word and the client's
    /// first read: call this *before* the handshake is confirmed. Cancel safe.
    ///
    /// # Errors
    /// When this node takes no more connections.
    pub async fn open(&self, open: Open, subscriptions: Vec<Subscription>) -> Result<Opened, Leaving> {
        if self.is_leaving() {
            return Err(Leaving);
        }
        let (reply, opened) = oneshot::channel();
        self.emptiest().command(Command::Open(Box::new(open), subscriptions, reply));
        // Without an answer the shard has ended, and its counters with it.
        opened.await.map_err(|_| Leaving)
    }

    /// Takes a connection with its socket: its shard registers it, lets it join, and then tells its client, so that nothing
    /// is missed between the word that it is let in and its first message. One command does what [`Hub::open`] and
    /// [`Ticket::attach`] do in two, without anybody waiting in between. A connection that comes too late is hung up on: ask
    /// [`Hub::is_leaving`] before the client is promised anything.
    pub fn enter(&self, arrival: Arrival) {
        if ticket::prepare(&arrival.socket) {
            self.emptiest().command(Command::Enter(Box::new(arrival)));
        }
    }

    /// Whether this node takes no more connections.
    #[must_use]
    pub fn is_leaving(&self) -> bool {
        self.inner.leaving.load(Ordering::Relaxed)
    }

    /// The inbox of the shard with the fewest connections, one more announced: it is counted before the shard knows of it,
    /// so that the next one goes elsewhere.
    fn emptiest(&self) -> &Inbox {
        let load = |inbox: &&Arc<Inbox>| inbox.connections.load(Ordering::Relaxed);
        let inbox = self.inner.shards.iter().min_by_key(load).expect("there is at least one shard");
        inbox.connections.fetch_add(1, Ordering::Relaxed);
        inbox
    }

    /// Lets an open connection join more. What it has joined already it is not given twice: the seat that it has is named
    /// again. No seats when the connection is gone. Cancel safe: it joins all the same.
    pub async fn join(&self, key: ConnectionKey, subscriptions: Vec<Subscription>) -> Vec<SeatId> {
        let (reply, seats) = oneshot::channel();
        self.inbox(key).command(Command::Join(key.key, subscriptions, reply));
        seats.await.unwrap_or_default()
    }

    /// Gives a seat of a connection up, after what was delivered to it before.
    pub fn leave(&self, key: ConnectionKey, seat: SeatId) {
        self.inbox(key).command(Command::Leave(key.key, seat));
    }

    /// Writes a page of the log to a seat that is joining, and returns when its client has taken it. Cancel safe: it is
    /// written all the same.
    pub async fn feed(&self, key: ConnectionKey, seat: SeatId, page: Page) -> Fed {
        let (reply, fed) = oneshot::channel();
        self.inbox(key).command(Command::Feed(key.key, seat, page, reply));
        fed.await.unwrap_or(Fed::Gone)
    }

    /// Tells one connection something, after what was delivered to it before.
    pub fn notify(&self, key: ConnectionKey, notice: Notice) {
        self.inbox(key).command(Command::Notify(key.key, notice));
    }

    /// Tells all connections that hear an interest something, after what was delivered for it before.
    pub fn notify_interest(&self, interest: InterestId, notice: &Notice) {
        for inbox in &self.inner.shards {
            inbox.command(Command::NotifyInterest(interest, notice.clone()));
        }
    }

    /// Tells all connections of a user something.
    pub fn notify_user(&self, user: &str, notice: &Notice) {
        for place in self.inner.common.users.places(user) {
            self.inner.shards[usize::from(place.shard)].command(Command::Notify(place.key, notice.clone()));
        }
    }

    /// All seats of a connection that has a bookmark are live, and its partitions were read up to here: from now on its client
    /// is told how far it has come, and a poll answers what it has.
    pub fn release_bookmark(&self, key: ConnectionKey, reached: Vec<Reached>) {
        self.inbox(key).command(Command::ReleaseBookmark(key.key, reached));
    }

    /// Hands on what the bus delivered, leaving the batch empty. Waits only while a shard's queue is full, which is counted.
    ///
    /// Not cancel safe: some shards may have got the batch and others not.
    pub async fn dispatch(&self, batch: &mut Vec<Delivery>) {
        let batch = Batch::new(batch.drain(..), &self.inner.common.masks, Time::now());
        let batch = Arc::new(batch);
        let mut left = batch.shards;
        while left != 0 {
            let inbox = &self.inner.shards[left.trailing_zeros() as usize];
            inbox.deliver(&batch, || self.inner.common.metrics.queue_full.inc()).await;
            left &= left - 1;
        }
    }

    /// Reads on from a connection whose message was dealt with.
    pub fn resume(&self, key: ConnectionKey) {
        self.inbox(key).command(Command::Resume(key.key));
    }

    /// Closes all connections of a user; returns how many there were.
    pub fn close_user(&self, user: &str, code: CloseCode) -> usize {
        let places = self.inner.common.users.places(user);
        for place in &places {
            self.inner.shards[usize::from(place.shard)].command(Command::Close(place.key, code));
        }
        places.len()
    }

    /// How many connections of a user are here.
    pub fn connections_of(&self, user: &str) -> usize {
        self.inner.common.users.count(user)
    }

    /// How many connections there are, those included that are on their way in or out.
    pub fn connections(&self) -> usize {
        self.inner.shards.iter().map(|inbox| inbox.connections.load(Ordering::Relaxed)).sum()
    }

    /// Closes about `count` connections with `code`, each after what is pending for it (event streams get `retry:` and end).
    pub fn close_some(&self, count: usize, code: CloseCode) {
        let open: Vec<_> = self.inner.shards.iter().map(|inbox| inbox.open_connections()).collect();
        let mut all: usize = open.iter().sum();
        let mut left = count.min(all);
        for (inbox, open) in self.inner.shards.iter().zip(open) {
            // Each shard's share of what is left, so that the last one gets the rest.
            let share = if all == 0 { 0 } else { (left * open).div_ceil(all) };
            if share > 0 {
                inbox.command(Command::CloseSome(share, code));
            }
            left -= share.min(left);
            all -= open;
        }
    }

    fn inbox(&self, key: ConnectionKey) -> &Inbox {
        &self.inner.shards[usize::from(key.shard)]
    }

    /// Takes no more connections.
    pub fn refuse(&self) {
        self.inner.leaving.store(true, Ordering::Relaxed);
    }

    /// Ends the shards: flushes what can be written until `deadline`, then closes what is left.
    pub async fn stop(self, deadline: tokio::time::Instant) {
        self.refuse();
        let all_ended = std::mem::take(&mut *self.inner.ended.lock());
        self.inner.stop(deadline.into_std());
        for ended in all_ended {
            if ended.await.is_err() {
                tracing::error!("a shard had ended before");
            }
        }
    }
}

impl Inner {
    fn stop(&self, deadline: Time) {
        for inbox in &self.shards {
            inbox.command(Command::Stop(deadline));
        }
    }
}

impl Drop for Inner {
    /// A hub that nobody holds any more leaves no threads behind.
    fn drop(&mut self) {
        self.stop(Time::now());
    }
}
