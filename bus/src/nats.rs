//! NATS: core subjects carry the live relay.
//!
//! A node has two connections, both speaking the text protocol here, without a library: the subscriber link, and one for
//! publishing, so that a link which waits for its sink never keeps a publication's answer.
//!
//! `async-nats` (0.51) cannot keep what [`Bus::publish`] promises, as was tried: its `flush` returns when the socket has taken the
//! bytes (62 µs with the server frozen); what is published while it is disconnected answers Ok and is sent after the
//! reconnect, and by its source so is what was still in its queue; of 10,000 refused publications its events told of 3,169.
//! It would be for streams and key-value buckets, where the server answers each request; until there are any, only tests use it.
//!
//! The user needs rights to publish and subscribe to `<prefix>.>` and `_clarion.<prefix>.>`.

mod connection;
mod conversation;
pub mod fuzz;
mod handshake;
mod link;
mod log;
mod parse;
mod publisher;
mod refusal;
mod servers;
mod status;
mod stream;

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use clarion_protocol::{InternalName, NodeName, Publication};
use parking_lot::Mutex;
use tokio::{sync::watch, time::Instant};
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::AbortOnDropHandle,
};

use self::{
    connection::Dialer,
    link::{Counters, Probes},
    log::NatsLog,
    publisher::Publisher,
    status::{Half, Status},
};
use crate::{
    Answers, Bus, BusConfig, BusHandle, ConfigError, InterestId, Link, LogHandle, NatsUrl, ProbeError, PublishError,
    Receipt, Sink, Stats, StoreHandle, SubscribeError, Topic,
    ask::Questions,
    table::{Interests, Layout},
};

/// Starts a NATS bus.
///
/// # Errors
/// Only for mistakes in the configuration.
pub(crate) fn connect(url: &NatsUrl, config: &BusConfig, sink: Arc<dyn Sink>) -> Result<BusHandle, ConfigError> {
    Ok(Arc::new(Nats::start(url, config, sink)?))
}

/// A node's connections to NATS.
pub(crate) struct Nats {
    interests: Arc<Interests>,
    counters: Arc<Counters>,
    probes: Arc<Probes>,
    questions: Arc<Questions>,
    status: Arc<Status>,
    publisher: Publisher,
    /// Which subjects are republished.
    subjects: log::Subjects,
    /// Where something is logged.
    log: Option<Arc<NatsLog>>,
    rebuilds: watch::Sender<u64>,
    closed: CancellationToken,
    tasks: Mutex<Vec<AbortOnDropHandle<()>>>,
    command_timeout: Duration,
    _closes: DropGuard,
}

impl Nats {
    fn start(url: &NatsUrl, config: &BusConfig, sink: Arc<dyn Sink>) -> Result<Self, ConfigError> {
        let dialer = Arc::new(Dialer::new(url, config)?);
        let subjects = log::Subjects::new(config.logs.clone(), &config.prefix);
        let log = (!config.logs.is_empty()).then(|| NatsLog::new(url, config, subjects.clone()).map(Arc::new));
        let log = log.transpose()?;
        let interests = Arc::new(Interests::new(Layout::Nats, config.prefix.clone()));
        let (counters, probes) = (Arc::new(Counters::default()), Arc::new(Probes::new()));
        let questions = Arc::new(Questions::new());
        let (status, closed) = (Arc::new(Status::new()), CancellationToken::new());
        let (rebuilds, rebuild) = watch::channel(0);
        let (publisher, publishing) = publisher::Task::new(dialer.clone(), status.clone(), closed.clone(), config);
        let link = link::Task {
            dialer,
            status: status.clone(),
            interests: interests.clone(),
            counters: counters.clone(),
            probes: probes.clone(),
            questions: questions.clone(),
            sink,
            rebuilds: rebuild,
            closed: closed.clone(),
            prefix: config.prefix.clone(),
            subjects: subjects.clone(),
            command_timeout: config.command_timeout,
            reconnect_max: config.reconnect_max,
        };
        let link = config.link_runtime().spawn(link.run());
        let mut tasks: Vec<_> = [link, tokio::spawn(publishing.run())].map(AbortOnDropHandle::new).into();
        if let Some(log) = &log {
            tasks.push(AbortOnDropHandle::new(tokio::spawn(log.clone().keep())));
        }
        Ok(Self {
            interests,
            counters,
            probes,
            questions,
            status,
            publisher,
            rebuilds,
            subjects,
            log,
            tasks: Mutex::new(tasks),
            command_timeout: config.command_timeout,
            _closes: closed.clone().drop_guard(),
            closed,
        })
    }
}

impl Nats {
    /// Whether there is any use in giving a message to JetStream: async-nats would keep it until there is a connection.
    fn may_store(&self) -> Result<(), PublishError> {
        match self.status.get(Half::Publisher) {
            Link::Up => Ok(()),
            Link::Down(reason) => {
                Err(PublishError::NotTaken(reason.unwrap_or_else(|| "the bus is not connected".to_owned())))
            }
        }
    }
}

#[async_trait]
impl Bus for Nats {
    fn kind(&self) -> &'static str {
        "nats"
    }

    async fn subscribe(&self, topic: &Topic) -> Result<InterestId, SubscribeError> {
        if let Topic::Channels(interest) = topic
            && let Some(reason) = self.subjects.refuses(interest)
        {
            return Err(SubscribeError::Refused(reason));
        }
        self.interests.subscribe(topic).await
    }

    fn unsubscribe(&self, id: InterestId) {
        self.interests.unsubscribe(id);
    }

    async fn publish(&self, mut publication: Publication) -> Result<Receipt, PublishError> {
        if let Some(log) = self.log.as_ref().filter(|log| log.keeps(&publication.address)) {
            self.may_store()?;
            return log.append(&mut publication).await;
        }
        let id = publication.identify();
        self.publisher.publish(&publication).await.map(|()| Receipt::unlogged(id))
    }

    async fn publish_all(&self, mut publications: Vec<Publication>) -> Vec<Result<Receipt, PublishError>> {
        let ids: Vec<_> = publications.iter_mut().map(Publication::identify).collect();
        let Some(log) = self.log.as_ref().filter(|log| publications.iter().any(|one| log.keeps(&one.address))) else {
            let taken = self.publisher.publish_all(&publications).await;
            return taken.into_iter().zip(ids).map(|(taken, id)| taken.map(|()| Receipt::unlogged(id))).collect();
        };
        let may = self.may_store();
        let logged: Vec<bool> = publications.iter().map(|publication| log.keeps(&publication.address)).collect();
        let plain: Vec<_> = publications.iter().filter(|one| !log.keeps(&one.address)).cloned().collect();
        let kept: Vec<_> = publications.iter_mut().filter(|one| log.keeps(&one.address)).collect();
        let kept = async {
            match may {
                Ok(()) => log.append_all(kept).await,
                Err(error) => kept.iter().map(|_| Err(error.clone())).collect(),
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
        self.questions.ask(&self.interests, tell, &payload, timeout, expected).await
    }

    async fn probe(&self, timeout: Duration) -> Result<Duration, ProbeError> {
        if self.status.get(Half::Subscriber) != Link::Up {
            return Err(ProbeError::Down);
        }
        let started = Instant::now();
        let (payload, back) = self.probes.begin();
        let probe = Publication::raw(self.probes.address(), payload);
        let round_trip = async {
            match self.publisher.publish(&probe).await {
                // It may be back before the server has said that it took it.
                Ok(()) | Err(PublishError::Unknown(_)) => back.await.map_err(|_| ProbeError::Late),
                Err(PublishError::NotTaken(_)) => Err(ProbeError::Down),
                Err(PublishError::Refused(_) | PublishError::TooLarge { .. }) => Err(ProbeError::Late),
            }
        };
        tokio::time::timeout(timeout, round_trip).await.unwrap_or(Err(ProbeError::Late))?;
        Ok(started.elapsed())
    }

    fn rebuild(&self) {
        self.rebuilds.send_modify(|times| *times += 1);
    }

    fn link(&self) -> watch::Receiver<Link> {
        self.status.watch()
    }

    fn log(&self) -> Option<LogHandle> {
        self.log.clone().map(|log| log as LogHandle)
    }

    fn store(&self) -> Option<StoreHandle> {
        self.log.clone().map(|log| log as StoreHandle)
    }

    fn stats(&self) -> Stats {
        let table = self.interests.lock();
        let (interests, subscriptions, refused) = (table.interests(), table.standing(), table.refused());
        drop(table);
        self.counters.fill(Stats { interests, subscriptions, refused, ..Stats::default() })
    }

    async fn close(&self) {
        self.interests.lock().close();
        self.closed.cancel();
        let tasks = std::mem::take(&mut *self.tasks.lock());
        let ended = async {
            for task in tasks {
                // One that panicked was reported where it happened.
                let _ = task.await;
            }
        };
        // A sink that takes nothing any more must not keep the process: what is not over by then is dropped.
        let _ = tokio::time::timeout(self.command_timeout * 2, ended).await;
        for half in [Half::Subscriber, Half::Publisher] {
            self.status.set(half, Link::Down(Some("closed".to_owned())));
        }
    }
}
