//! Who is here: owns all long-lived connections, and writes to them what the bus delivers.
//!
//! The hub is a handle to its shards. Each shard is one thread that owns its sockets and its part of the subscription
//! table; nothing in here ever awaits a client.

mod batch;
mod clock;
mod config;
mod fanout;
mod handler;
mod host;
mod life;
mod metrics;
mod queue;
mod record;
mod seats;
mod shard;
mod table;
mod talk;
mod users;
mod wheel;

#[cfg(test)]
mod tests;

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use clarion_bus::{Delivery, InterestId};
use clarion_protocol::{Channel, CloseCode, Interest, Uid, dialect::Dialect};
use parking_lot::Mutex;
use prometheus::Registry;
use tokio::{runtime::Handle, sync::oneshot};

use self::{
    batch::{Batch, Masks},
    clock::Time,
    handler::Clients,
    host::Host,
    metrics::Metrics,
    queue::{Command, Inbox},
    record::Key,
    shard::{Common, Settings, Shard},
    users::Users,
};
pub use self::{
    config::{Config, MAX_SHARDS, Thread},
    handler::{Answer, From, Handler, Lease, Sender, Upstream, Whole},
};
use crate::tls::Session;
pub use crate::{connection::ConnectionId, outbox::SlowPolicy};

/// One of a connection's subscriptions. Its interest stands on the bus already.
#[derive(Debug, Clone)]
pub struct Subscription {
    /// What the bus calls it.
    pub id: InterestId,
    /// What was asked for; decides which of a connection's overlapping subscriptions brings a message.
    pub interest: Interest,
    /// What happens when the client is slow.
    pub slow: SlowPolicy,
}

/// Everything the hub is told of a new connection.
pub struct Open {
    /// The connection's name in logs.
    pub id: ConnectionId,
    /// How messages are written for it. `Plain` is a WebSocket, the others are event streams.
    pub dialect: Dialect,
    /// What it hears.
    pub subscriptions: Vec<Subscription>,
    /// Whose it is.
    pub user: Option<Uid>,
    /// Where to its client may publish by sending frames.
    pub upstream: Option<Channel>,
    /// When its token ends, from now.
    pub expires: Option<Duration>,
    /// What was taken for it. Dropping must not block.
    pub lease: Box<dyn Lease>,
}

/// Why a connection is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// As many connections are here as this node takes.
    #[error("this node has as many connections as it takes")]
    Full,
    /// This node is about to leave.
    #[error("this node is leaving")]
    Leaving,
}

/// The handle to all shards. Cheap to clone.
#[derive(Clone)]
pub struct Hub {
    inner: Arc<Inner>,
}

struct Inner {
    shards: Box<[Arc<Inbox>]>,
    common: Arc<Common>,
    config: Config,
    leaving: AtomicBool,
    /// Told when a shard has ended, which its thread may outlive.
    ended: Mutex<Vec<oneshot::Receiver<()>>>,
    host: Option<Host>,
}

impl Hub {
    /// Starts the shards, from within a runtime where they are to share its thread.
    ///
    /// # Errors
    /// When a thread or its poll cannot be had, or a metric of the hub is registered already.
    pub fn start(config: Config, upstream: Arc<dyn Upstream>, registry: &Registry) -> io::Result<Self> {
        Self::start_with(config, Clients(upstream), registry)
    }

    /// Starts the shards with something else to do with what clients send.
    ///
    /// # Errors
    /// As [`Hub::start`].
    pub fn start_with(config: Config, handler: impl Handler, registry: &Registry) -> io::Result<Self> {
        let count = config.shard_count();
        let common = Arc::new(Common {
            masks: Arc::new(Masks::new(count)),
            users: Arc::new(Users::default()),
            metrics: Metrics::new(registry).map_err(io::Error::other)?,
            settings: Settings::from(&config),
        });
        let thread = if count == 1 { config.thread } else { Thread::Alone };
        let is_task = thread != Thread::Alone;
        let shards = std::iter::repeat_n(handler, count)
            .enumerate()
            .map(|(number, handler)| Shard::new(number, Arc::clone(&common), handler, config.queue_bytes, is_task))
            .collect::<io::Result<Vec<_>>>()?;
        let mut inner = Inner {
            shards: shards.iter().map(|shard| Arc::clone(&shard.inbox)).collect(),
            common,
            config,
            leaving: AtomicBool::new(false),
            ended: Mutex::default(),
            host: None,
        };
        for shard in shards {
            let name = format!("shard-{}", shard.number);
            let (over, ended) = oneshot::channel();
            inner.ended.get_mut().push(ended);
            match thread {
                Thread::Hosting => inner.host = Some(host::start(name, shard, over)?),
                Thread::Shared => host::share(shard, over),
                Thread::Alone => drop(std::thread::Builder::new().name(name).spawn(|| {
                    shard.run();
                    // Nobody may be waiting for it.
                    let _ = over.send(());
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

    /// Registers a connection whose transport comes later, and returns when its shard has taken it.
    ///
    /// From then on messages are kept for it, within its bound, so that none is lost between the hub's word and the client's
    /// first read: call this *before* the handshake is confirmed. Cancel safe.
    ///
    /// # Errors
    /// When this node takes no more connections.
    pub async fn open(&self, open: Open) -> Result<Ticket, Refused> {
        if self.inner.leaving.load(Ordering::Relaxed) {
            return Err(Refused::Leaving);
        }
        if self.inner.config.max_connections.is_some_and(|most| self.connections() >= most.get()) {
            return Err(Refused::Full);
        }
        let load = |inbox: &&Arc<Inbox>| inbox.connections.load(Ordering::Relaxed);
        let inbox = self.inner.shards.iter().min_by_key(load).expect("there is at least one shard");
        inbox.connections.fetch_add(1, Ordering::Relaxed);
        let (reply, ticket) = oneshot::channel();
        inbox.command(Command::Open(Box::new(open), reply));
        // Without an answer the shard has ended, and its counters with it.
        ticket.await.map_err(|_| Refused::Leaving)
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
    pub fn resume(&self, sender: Sender) {
        self.inner.shards[usize::from(sender.shard)].command(Command::Resume(sender.key));
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
                tracing::error!("a shard had panicked");
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

/// A registered connection that waits for its transport. Dropping it closes the connection.
pub struct Ticket {
    inbox: Arc<Inbox>,
    key: Key,
    used: bool,
}

impl Ticket {
    /// Gives the connection its socket, once its client was told that it is let in, with the TLS session on it, if there is
    /// one, and with what was read beyond the request, as plaintext.
    pub fn attach(mut self, socket: std::net::TcpStream, session: Option<Box<Session>>, read_ahead: Bytes) {
        // A socket that cannot be set is broken: the ticket is dropped unused, which closes the connection.
        if let Err(error) = socket.set_nonblocking(true).and_then(|()| socket.set_nodelay(true)) {
            tracing::debug!(%error, "a socket was gone before it was attached");
            return;
        }
        self.used = true;
        self.inbox.command(Command::Attach(self.key, socket, session, read_ahead));
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if !self.used {
            self.inbox.command(Command::Gone(self.key));
        }
    }
}
