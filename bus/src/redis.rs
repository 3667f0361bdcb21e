//! Redis and Valkey: one server, Sentinel, Cluster with classic or with sharded pub/sub.
//!
//! fred carries publishes. The way in is a subscriber link of our own, which costs a fraction and whose subscriptions
//! stand when the server says so. Nothing here knows sockets.

mod dial;
pub mod fuzz;
mod intake;
mod link;
mod log;
#[cfg(test)]
mod model;
mod publish;
mod role;
mod shards;
mod target;
mod wire;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use clarion_protocol::{Address, InternalName, NodeName, Prefix, Publication};
use parking_lot::Mutex;
use tokio::{
    runtime::Handle,
    sync::{Notify, watch},
    time::Instant,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::{
    dial::Credentials,
    intake::{Counters, Echo, Subjects},
    link::Subscriber,
    log::RedisLog,
    publish::Publisher,
    shards::Shards,
    target::Target,
};
use crate::{
    Answers, Bus, BusConfig, BusHandle, ConfigError, InterestId, Link, LogHandle, NumberingHandle, ProbeError, PubSub,
    PublishError, Receipt, RedisUrl, Sink, Stats, StoreHandle, SubscribeError, Topic,
    ask::Questions,
    table::{Interests, Layout, Order, Reach},
    tls,
};

/// Where the publishing connection stands among the links.
const PUBLISHER: u16 = u16::MAX;
/// Where what is known of a sharded cluster stands among the links.
const TOPOLOGY: u16 = u16::MAX - 1;

/// Starts a Redis bus.
///
/// # Errors
/// Only for mistakes in the configuration.
pub(crate) fn connect(url: &RedisUrl, config: &BusConfig, sink: Arc<dyn Sink>) -> Result<BusHandle, ConfigError> {
    let credentials = credentials(url, config)?;
    let shared = Arc::new(Shared::new(config, sink));
    let sharded = shared.sharded;
    let publisher = Arc::new(Publisher::new(url, config, &credentials, sharded, shared.rebuild.clone()));
    let log = (!config.logs.is_empty()).then(|| {
        let (logs, prefix) = (config.logs.clone(), config.prefix.clone());
        Arc::new(RedisLog::new(publisher.clone(), logs, prefix, config.max_payload))
    });
    let redis = Redis {
        shared,
        publisher,
        log,
        tasks: TaskTracker::new(),
        stop: CancellationToken::new(),
        probes: AtomicU64::new(0),
    };
    redis.shared.lanes.lock().insert(PUBLISHER, Lane { state: Link::Down(None), echo: None });
    let (publisher, shared, stop) = (redis.publisher.clone(), redis.shared.clone(), redis.stop.clone());
    let target = Target::new(url, credentials.clone());
    redis.tasks.spawn(async move { publisher.watch(target, stop, |state| shared.report(PUBLISHER, state)).await });
    if sharded {
        redis.shared.lanes.lock().insert(TOPOLOGY, Lane { state: Link::Down(None), echo: None });
        let (shared, tasks, stop) = (redis.shared.clone(), redis.tasks.clone(), redis.stop.clone());
        redis.tasks.spawn(Shards::new(shared, url, credentials, tasks, stop).run());
    } else {
        let target = Target::new(url, credentials);
        redis.shared.start_lane(0, target, redis.stop.child_token(), &redis.tasks);
    }
    Ok(Arc::new(redis))
}

/// As whom this node goes to its servers.
fn credentials(url: &RedisUrl, config: &BusConfig) -> Result<Credentials, ConfigError> {
    Ok(Credentials {
        tls: url.tls.then(|| tls::client_config(config)).transpose()?,
        user: url.user.clone(),
        password: config.password.clone().or_else(|| url.password.clone()),
        name: client_name(&config.client_name),
        timeout: config.connect_timeout,
    })
}

/// `CLIENT SETNAME` takes printable ASCII without spaces.
fn client_name(name: &str) -> String {
    name.chars().map(|c| if c.is_ascii_graphic() { c } else { '-' }).collect()
}

/// What the links of one bus share.
struct Shared {
    interests: Interests,
    prefix: Prefix,
    subjects: Subjects,
    questions: Questions,
    sink: Arc<dyn Sink>,
    sharded: bool,
    counters: Counters,
    lanes: Mutex<BTreeMap<u16, Lane>>,
    link: watch::Sender<Link>,
    rebuild: watch::Sender<()>,
    /// Rung when a shard says that it is no longer the one to ask.
    moved: Notify,
    command_timeout: Duration,
    reconnect_max: Duration,
    /// Where the links run.
    links: Handle,
}

/// A link as the others see it.
struct Lane {
    state: Link,
    /// The publishing connection has none.
    echo: Option<Arc<Echo>>,
}

impl Shared {
    fn new(config: &BusConfig, sink: Arc<dyn Sink>) -> Self {
        let sharded = config.pubsub == PubSub::Sharded;
        Self {
            interests: Interests::new(if sharded { Layout::Sharded } else { Layout::Redis }, config.prefix.clone()),
            prefix: config.prefix.clone(),
            subjects: Subjects::new(&config.prefix, config.max_payload),
            questions: Questions::new(),
            sink,
            sharded,
            counters: Counters::default(),
            lanes: Mutex::default(),
            link: watch::Sender::new(Link::Down(None)),
            rebuild: watch::Sender::new(()),
            moved: Notify::new(),
            command_timeout: config.command_timeout,
            reconnect_max: config.reconnect_max,
            links: config.link_runtime(),
        }
    }

    /// Starts the link of a lane.
    fn start_lane(self: &Arc<Self>, lane: u16, target: Target, retired: CancellationToken, tasks: &TaskTracker) {
        let echo = Arc::new(Echo::new(self.echo_subject(lane)));
        self.lanes.lock().insert(lane, Lane { state: Link::Down(None), echo: Some(echo.clone()) });
        tasks.spawn_on(Subscriber { shared: self.clone(), lane, target, echo, retired }.run(), &self.links);
    }

    /// A subject that nobody else uses; in a sharded cluster one that this lane's shard serves.
    fn echo_subject(&self, lane: u16) -> String {
        // A shard with a single slot is found after some 16,384 tries, which take milliseconds.
        for _ in 0..200_000 {
            let name = format!("probe.{:016x}", rand::random::<u64>());
            let name = InternalName::parse(&name).expect("hexadecimal digits are good in internal names").into();
            if self.interests.lock().lane_of(&name) == lane {
                return self.prefix.redis(&name);
            }
        }
        format!("{}probe.none", self.internal())
    }

    /// Tells of a link's new state. The bus is up when all its links are.
    fn report(&self, lane: u16, state: Link) {
        let mut lanes = self.lanes.lock();
        if let Some(lane) = lanes.get_mut(&lane) {
            lane.state = state;
        }
        let down = lanes.values().map(|lane| &lane.state).find(|state| **state != Link::Up);
        let state = down.cloned().unwrap_or(Link::Up);
        // Under the lock, so that the last state told is the last one there was.
        self.link.send_if_modified(|now| {
            let changed = *now != state;
            *now = state;
            changed
        });
    }

    /// How a part is written.
    fn subject(&self, order: &Order) -> String {
        match (order.reach, &order.base) {
            (Reach::Exact, base) => self.prefix.redis(base),
            (_, Address::Channel(base)) => self.prefix.redis_below(base.as_str()),
            (_, Address::Internal(name)) => self.prefix.redis_below(name.as_str()),
        }
    }

    /// What the broker's own subjects begin with.
    fn internal(&self) -> String {
        format!("{}:{}:", clarion_protocol::channel::RESERVED_PREFIX, self.prefix)
    }
}

struct Redis {
    shared: Arc<Shared>,
    publisher: Arc<Publisher>,
    /// Where something is logged.
    log: Option<Arc<RedisLog>>,
    tasks: TaskTracker,
    stop: CancellationToken,
    probes: AtomicU64,
}

impl Redis {
    /// Sends a number to one link and waits for it.
    async fn probe_one(&self, echo: Arc<Echo>) -> Result<(), ProbeError> {
        let number = self.probes.fetch_add(1, Relaxed) + 1;
        let mut heard = echo.heard.subscribe();
        match self.publisher.send(echo.subject(), number.to_string().into()).await {
            Ok(()) => {}
            Err(PublishError::NotTaken(_)) => return Err(ProbeError::Down),
            Err(_) => return Err(ProbeError::Late),
        }
        heard.wait_for(|heard| *heard >= number).await.map(drop).map_err(|_| ProbeError::Down)
    }
}

#[async_trait]
impl Bus for Redis {
    fn kind(&self) -> &'static str {
        "redis"
    }

    async fn subscribe(&self, topic: &Topic) -> Result<InterestId, SubscribeError> {
        self.shared.interests.subscribe(topic).await
    }

    fn unsubscribe(&self, id: InterestId) {
        self.shared.interests.unsubscribe(id);
    }

    async fn publish(&self, mut publication: Publication) -> Result<Receipt, PublishError> {
        self.may_send()?;
        if let Some(log) = self.log.as_ref().filter(|log| log.keeps(&publication.address)) {
            let mut results = log.append_all(vec![&mut publication]).await;
            return results.pop().unwrap_or_else(|| Err(PublishError::Unknown("there is no answer".to_owned())));
        }
        let id = publication.identify();
        self.publisher.publish(&publication).await.map(|()| Receipt::unlogged(id))
    }

    async fn publish_all(&self, mut publications: Vec<Publication>) -> Vec<Result<Receipt, PublishError>> {
        if let Err(error) = self.may_send() {
            return vec![Err(error); publications.len()];
        }
        let ids: Vec<_> = publications.iter_mut().map(Publication::identify).collect();
        let keeps = |publication: &Publication| self.log.as_ref().is_some_and(|log| log.keeps(&publication.address));
        let logged: Vec<bool> = publications.iter().map(keeps).collect();
        let (mut kept, mut plain) = (Vec::new(), Vec::new());
        for (publication, logged) in publications.iter_mut().zip(&logged) {
            if *logged { kept.push(publication) } else { plain.push(&*publication) }
        }
        let kept = async {
            match &self.log {
                Some(log) if !kept.is_empty() => log.append_all(kept).await,
                _ => Vec::new(),
            }
        };
        let (kept, plain) = tokio::join!(kept, self.publisher.publish_all(&plain));
        let (mut kept, mut plain) = (kept.into_iter(), plain.into_iter());
        let lost = || Err(PublishError::Unknown("there is no answer".to_owned()));
        let result = |(logged, id)| match logged {
            true => kept.next().unwrap_or_else(lost),
            false => plain.next().unwrap_or_else(|| lost().map(drop)).map(|()| Receipt::unlogged(id)),
        };
        logged.into_iter().zip(ids).map(result).collect()
    }

    async fn tell(&self, subject: &InternalName, payload: Bytes) -> Result<(), PublishError> {
        self.may_send()?;
        self.publisher.publish(&Publication::raw(subject.clone(), payload)).await
    }

    async fn ask(
        &self,
        subject: &InternalName,
        payload: Bytes,
        timeout: Duration,
        expected: &BTreeSet<NodeName>,
    ) -> Result<Answers, PublishError> {
        let tell = |question| self.tell(subject, question);
        self.shared.questions.ask(&self.shared.interests, tell, &payload, timeout, expected).await
    }

    async fn probe(&self, timeout: Duration) -> Result<Duration, ProbeError> {
        if *self.shared.link.borrow() != Link::Up {
            return Err(ProbeError::Down);
        }
        let echoes: Vec<_> = self.shared.lanes.lock().values().filter_map(|lane| lane.echo.clone()).collect();
        let started = Instant::now();
        let all = futures_util::future::try_join_all(echoes.into_iter().map(|echo| self.probe_one(echo)));
        match tokio::time::timeout(timeout, all).await {
            Ok(all) => all.map(|_| started.elapsed()),
            Err(_) => Err(ProbeError::Late),
        }
    }

    fn rebuild(&self) {
        self.shared.rebuild.send_replace(());
    }

    fn link(&self) -> watch::Receiver<Link> {
        self.shared.link.subscribe()
    }

    fn log(&self) -> Option<LogHandle> {
        self.log.clone().map(|log| log as LogHandle)
    }

    fn numbering(&self) -> Option<NumberingHandle> {
        self.log.clone().map(|log| log as NumberingHandle)
    }

    fn store(&self) -> Option<StoreHandle> {
        self.log.clone().map(|log| log as StoreHandle)
    }

    fn stats(&self) -> Stats {
        let mut stats = Stats::default();
        self.shared.counters.fill(&mut stats);
        let table = self.shared.interests.lock();
        (stats.interests, stats.subscriptions, stats.refused) = (table.interests(), table.standing(), table.refused());
        stats
    }

    async fn close(&self) {
        self.shared.interests.lock().close();
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

impl Redis {
    /// Whether there is any use in giving a message to the publishing connection. One that is given to a server that
    /// hangs is answered when the time of a command is over, and by then nobody can know whether it was taken.
    fn may_send(&self) -> Result<(), PublishError> {
        let not_taken = |reason: &str| Err(PublishError::NotTaken(reason.to_owned()));
        if self.stop.is_cancelled() {
            return not_taken("the bus is closed");
        }
        // On a cluster one of many servers may be away, and the others take what is theirs.
        match &*self.shared.link.borrow() {
            Link::Down(reason) if !self.publisher.is_of_cluster() => {
                not_taken(reason.as_deref().unwrap_or("there is no connection"))
            }
            Link::Up | Link::Down(_) => Ok(()),
        }
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}
