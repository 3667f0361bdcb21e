//! The bus within one process: the default, and what tests with several nodes run on.
//!
//! It carries messages as they are, without writing them to bytes, and otherwise behaves as the others do: a copy per
//! subscription, one order for all nodes, a bounded queue per node that drops what it cannot hold and then tells of the gap.

mod log;

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use clarion_protocol::{Address, InternalName, Logs, NodeName, Position, Publication};
use parking_lot::Mutex;
use tokio::{
    sync::{Notify, oneshot, watch},
    task::JoinHandle,
    time::Instant,
};

use crate::{
    Answers, Bus, BusConfig, Delivery, InterestId, Link, LogHandle, ProbeError, PublishError, Receipt, Sink, Stats,
    StoreHandle, SubscribeError, Topic,
    ask::Questions,
    table::{Ids, Interests, Layout, Table},
};

/// What may wait for one node: as much as Redis lets wait for a subscriber before it cuts him off.
const QUEUE_BYTES: usize = 32 * 1024 * 1024;
/// What a message without payload counts for.
const DELIVERY_BYTES: usize = size_of::<Delivery>();

/// What the nodes of one process share.
#[derive(Debug, Clone)]
pub struct Server(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    /// Held while a message is given to all, so that all see the same order.
    nodes: Mutex<Vec<Arc<Node>>>,
    /// The logs. Taken while `nodes` is held, so that messages are heard in the order of their offsets.
    kept: Mutex<log::Kept>,
    /// Nobody is connected, as if there were a server that was down.
    stopped: AtomicBool,
    queue_bytes: usize,
}

impl Server {
    /// A server without nodes.
    #[must_use]
    pub fn new() -> Self {
        Self::with_queue(QUEUE_BYTES)
    }

    /// A server that lets at most so many bytes wait for each node.
    #[must_use]
    pub fn with_queue(queue_bytes: usize) -> Self {
        Self(Arc::new(Shared {
            nodes: Mutex::default(),
            kept: Mutex::new(log::Kept::new()),
            stopped: AtomicBool::new(false),
            queue_bytes,
        }))
    }

    /// Cuts all nodes off, and those that come later, until [`Server::start`].
    pub fn stop(&self) {
        let nodes = self.0.nodes.lock();
        self.0.stopped.store(true, Relaxed);
        nodes.iter().for_each(|node| node.cut());
    }

    /// Lets all nodes back.
    pub fn start(&self) {
        let nodes = self.0.nodes.lock();
        self.0.stopped.store(false, Relaxed);
        nodes.iter().for_each(|node| node.heal());
    }

    /// Gives a node its bus. Of the configuration only the prefix, the payload limit and the logs matter.
    #[must_use]
    pub fn attach(&self, config: &BusConfig, sink: Arc<dyn Sink>) -> Memory {
        let interests = Interests::new(Layout::Redis, config.prefix.clone());
        let node = Arc::new(Node {
            bell: interests.bell(0),
            interests,
            questions: Questions::new(),
            queue: Mutex::default(),
            link: watch::Sender::new(Link::Up),
            cut: AtomicBool::new(false),
            reconnects: AtomicU64::new(0),
            messages: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
        });
        let mut nodes = self.0.nodes.lock();
        nodes.push(node.clone());
        if self.0.stopped.load(Relaxed) {
            node.cut();
        }
        drop(nodes);
        let pump = tokio::spawn(node.clone().pump(sink));
        let pump = Arc::new(Mutex::new(Some(pump)));
        let max_payload = config.max_payload;
        let owner = Arc::new(Owner(self.clone(), node.clone()));
        Memory { server: self.clone(), node, max_payload, logs: config.logs.clone(), pump, _owner: owner }
    }
}

impl Default for Server {
    fn default() -> Self {
        Self::new()
    }
}

/// One node's end of a [`Server`]. Clones are the same end.
#[derive(Debug, Clone)]
pub struct Memory {
    server: Server,
    node: Arc<Node>,
    max_payload: usize,
    logs: Logs,
    pump: Arc<Mutex<Option<JoinHandle<()>>>>,
    _owner: Arc<Owner>,
}

/// Takes the node away with the last clone of its end.
#[derive(Debug)]
struct Owner(Server, Arc<Node>);

impl Memory {
    /// Cuts this node off, as a network does that fails: what is on its way is lost, and the link is down.
    pub fn cut(&self) {
        self.node.cut();
    }

    /// Lets it back. The link is up, and the gap told of, when its interests stand again.
    pub fn heal(&self) {
        self.node.heal();
    }

    /// Stores a message where its channel is logged, and gives it to all nodes unless the log has it.
    fn send(&self, publication: &mut Publication) -> Result<Option<Position>, PublishError> {
        let bytes = publication.message.payload.len();
        if bytes > self.max_payload {
            return Err(PublishError::TooLarge { bytes, limit: self.max_payload });
        }
        let nodes = self.server.0.nodes.lock();
        if self.node.is_cut() {
            return Err(PublishError::NotTaken("the link is down".to_owned()));
        }
        let mut position = None;
        if let (Address::Channel(channel), false) = (&publication.address, self.logs.is_empty()) {
            let appended = self.server.0.kept.lock().append(&self.logs, channel, &mut publication.message);
            match appended {
                Some((first, false)) => return Ok(Some(first)),
                Some((new, true)) => position = Some(new),
                None => {}
            }
        }
        for node in nodes.iter().filter(|node| !node.is_cut()) {
            node.offer(publication, self.server.0.queue_bytes);
        }
        Ok(position)
    }
}

#[async_trait]
impl Bus for Memory {
    fn kind(&self) -> &'static str {
        "memory"
    }

    async fn subscribe(&self, topic: &Topic) -> Result<InterestId, SubscribeError> {
        self.node.interests.subscribe(topic).await
    }

    fn unsubscribe(&self, id: InterestId) {
        self.node.interests.unsubscribe(id);
    }

    async fn publish(&self, mut publication: Publication) -> Result<Receipt, PublishError> {
        // Nothing here ever waits, so a busy publisher would keep its thread from those who read.
        tokio::task::coop::consume_budget().await;
        let id = publication.identify();
        self.send(&mut publication).map(|position| Receipt { id, position })
    }

    async fn publish_all(&self, publications: Vec<Publication>) -> Vec<Result<Receipt, PublishError>> {
        tokio::task::coop::consume_budget().await;
        let send = |mut publication: Publication| {
            let id = publication.identify();
            self.send(&mut publication).map(|position| Receipt { id, position })
        };
        publications.into_iter().map(send).collect()
    }

    async fn tell(&self, subject: &InternalName, payload: Bytes) -> Result<(), PublishError> {
        tokio::task::coop::consume_budget().await;
        self.send(&mut Publication::raw(subject.clone(), payload)).map(drop)
    }

    async fn ask(
        &self,
        subject: &InternalName,
        payload: Bytes,
        timeout: Duration,
        expected: &BTreeSet<NodeName>,
    ) -> Result<Answers, PublishError> {
        let tell = |question| self.tell(subject, question);
        self.node.questions.ask(&self.node.interests, tell, &payload, timeout, expected).await
    }

    async fn probe(&self, timeout: Duration) -> Result<Duration, ProbeError> {
        if self.node.is_cut() {
            return Err(ProbeError::Down);
        }
        let started = Instant::now();
        let (probe, back) = oneshot::channel();
        self.node.queue.lock().probe = Some(probe);
        self.node.bell.notify_one();
        match tokio::time::timeout(timeout, back).await {
            Ok(Ok(())) => Ok(started.elapsed()),
            _ => Err(ProbeError::Late),
        }
    }

    fn rebuild(&self) {
        if !self.node.is_cut() {
            self.cut();
            self.heal();
        }
    }

    fn link(&self) -> watch::Receiver<Link> {
        self.node.link.subscribe()
    }

    fn log(&self) -> Option<LogHandle> {
        (!self.logs.is_empty()).then(|| Arc::new(self.clone()) as LogHandle)
    }

    fn store(&self) -> Option<StoreHandle> {
        (!self.logs.is_empty()).then(|| Arc::new(self.clone()) as StoreHandle)
    }

    fn stats(&self) -> Stats {
        let table = self.node.interests.lock();
        Stats {
            interests: table.interests(),
            subscriptions: table.standing(),
            refused: table.refused(),
            reconnects: self.node.reconnects.load(Relaxed),
            messages: self.node.messages.load(Relaxed),
            bytes: self.node.bytes.load(Relaxed),
            ..Stats::default()
        }
    }

    async fn close(&self) {
        self.server.0.nodes.lock().retain(|node| !Arc::ptr_eq(node, &self.node));
        self.node.interests.lock().close();
        self.cut();
        self.node.queue.lock().closed = true;
        self.node.bell.notify_one();
        let pump = self.pump.lock().take();
        if let Some(pump) = pump {
            // It ends by itself, and a panic in the sink was reported where it happened.
            let _ = pump.await;
        }
        self.node.link.send_replace(Link::Down(Some("closed".to_owned())));
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        let Self(server, node) = self;
        server.0.nodes.lock().retain(|other| !Arc::ptr_eq(other, node));
        node.queue.lock().closed = true;
        node.bell.notify_one();
    }
}

#[derive(Debug)]
struct Node {
    interests: Interests,
    questions: Questions,
    queue: Mutex<Queue>,
    /// Rung for a message as well as for a subscription.
    bell: Arc<Notify>,
    link: watch::Sender<Link>,
    cut: AtomicBool,
    reconnects: AtomicU64,
    messages: AtomicU64,
    bytes: AtomicU64,
}

/// What waits for a node.
#[derive(Debug, Default)]
struct Queue {
    deliveries: Vec<Delivery>,
    bytes: usize,
    /// Interests that lost something since the gap was last told of.
    lost: BTreeSet<InterestId>,
    reconnected: bool,
    probe: Option<oneshot::Sender<()>>,
    closed: bool,
}

impl Node {
    fn is_cut(&self) -> bool {
        self.cut.load(Relaxed)
    }

    fn cut(&self) {
        let mut queue = self.queue.lock();
        self.cut.store(true, Relaxed);
        (queue.deliveries, queue.bytes) = (Vec::new(), 0);
        drop(queue);
        self.interests.lock().lost(0);
        self.link.send_replace(Link::Down(Some("the link was cut".to_owned())));
    }

    fn heal(&self) {
        let mut queue = self.queue.lock();
        if self.cut.swap(false, Relaxed) {
            queue.reconnected = true;
        }
        drop(queue);
        self.bell.notify_one();
    }

    /// Queues a copy for each subscription of this node that matches.
    fn offer(&self, publication: &Publication, limit: usize) {
        let table = self.interests.lock();
        let mut queue = self.queue.lock();
        let before = queue.deliveries.len();
        if self.questions.hear(&publication.address, &publication.message) {
            return;
        }
        copies(&table, &publication.address, |address, interests| {
            let cost = publication.message.payload.len() + DELIVERY_BYTES;
            if queue.bytes + cost > limit {
                queue.lost.extend(interests);
            } else {
                queue.bytes += cost;
                queue.deliveries.push(Delivery {
                    interests,
                    address: address.clone(),
                    message: publication.message.clone(),
                });
            }
        });
        // A queue that was not empty has rung already.
        if before == 0 && !queue.deliveries.is_empty() {
            self.bell.notify_one();
        }
    }

    /// Takes what waits and hands it on, until the node is closed.
    async fn pump(self: Arc<Self>, sink: Arc<dyn Sink>) {
        let mut batch = Vec::new();
        loop {
            self.bell.notified().await;
            let (reconnected, missed) = self.acknowledge();
            let (mut lost, probe) = {
                let mut queue = self.queue.lock();
                if queue.closed {
                    return;
                }
                std::mem::swap(&mut queue.deliveries, &mut batch);
                queue.bytes = 0;
                (std::mem::take(&mut queue.lost), queue.probe.take())
            };
            if let Some(probe) = probe {
                // Whoever asked may have stopped waiting.
                let _ = probe.send(());
            }
            if !batch.is_empty() {
                self.messages.fetch_add(batch.len() as u64, Relaxed);
                let bytes: usize = batch.iter().map(|delivery| delivery.message.payload.len()).sum();
                self.bytes.fetch_add(bytes as u64, Relaxed);
                sink.deliver(&mut batch).await;
                batch.clear();
            }
            lost.extend(missed);
            if !lost.is_empty() {
                sink.gap(&lost.into_iter().collect::<Vec<_>>());
            }
            if reconnected {
                self.reconnects.fetch_add(1, Relaxed);
                self.link.send_if_modified(|link| {
                    let up = !self.is_cut();
                    if up {
                        *link = Link::Up;
                    }
                    up
                });
            }
        }
    }

    /// Says yes to all subscriptions that are asked for, unless the node is cut off. Returns whether it was until now, and
    /// what may have missed something by that.
    fn acknowledge(&self) -> (bool, Vec<InterestId>) {
        let mut table = self.interests.lock();
        let mut queue = self.queue.lock();
        if self.is_cut() {
            return (false, Vec::new());
        }
        for order in table.take(0, usize::MAX).join {
            table.stood(order.ticket);
        }
        let reconnected = std::mem::take(&mut queue.reconnected);
        (reconnected, if reconnected { table.missed(0) } else { Vec::new() })
    }
}

/// Calls `give` for each subscription that matches: the exact one, and every pattern above.
fn copies(table: &Table, address: &Address, mut give: impl FnMut(&Address, Ids)) {
    let channel = match address {
        Address::Internal(name) => {
            if let Some((address, ids)) = table.internal(name.as_str().as_bytes()) {
                give(address, ids);
            }
            return;
        }
        Address::Channel(channel) => channel.as_str(),
    };
    if let Some((address, ids)) = table.exact(channel.as_bytes()) {
        give(address, ids);
    }
    if table.has_patterns() {
        for (at, _) in channel.match_indices('/') {
            if let Some(ids) = table.below(&channel.as_bytes()[..at], channel)
                && !ids.is_empty()
            {
                give(address, ids);
            }
        }
    }
}
