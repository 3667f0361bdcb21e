//! The logs on NATS: a JetStream stream for each logged namespace, which stores, numbers and republishes what is published
//! there, by whomever. Sockets hear the republished subject only.

mod read;
mod records;
mod streams;

use std::{collections::HashMap, sync::Arc, time::Duration};

use async_nats::{
    ConnectOptions,
    jetstream::{self, Context, context::PublishErrorKind},
};
use async_trait::async_trait;
use clarion_protocol::{
    Address, Channel, CursorKey, Depth, Epoch, Interest, LogPolicy, Logs, Partition, Position, Prefix, Publication,
    Uid, channel::RESERVED_PREFIX, envelope,
};
use parking_lot::RwLock;
use tokio::sync::OnceCell;

use super::handshake::Login;
use crate::{
    BusConfig, ConfigError, NatsUrl, PublishError, Receipt,
    log::{Chunk, Log, LogError, Marks, Read, Store, Top},
    tls,
};

/// How often it is looked whether streams are still the same.
const LOOK: Duration = Duration::from_secs(10);
/// How often a server that is not there yet is asked again.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// Which subjects carry what is logged, and the epochs of their streams. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Subjects {
    logs: Logs,
    /// What republished subjects begin with.
    republished: Arc<str>,
    epochs: Arc<RwLock<HashMap<String, Epoch>>>,
}

impl Subjects {
    pub(crate) fn new(logs: Logs, prefix: &Prefix) -> Self {
        let republished = format!("{RESERVED_PREFIX}.{prefix}.log.").into();
        Self { logs, republished, epochs: Arc::default() }
    }

    /// Whether what an interest of this base and depth matches is logged, so that it is heard republished.
    pub(crate) fn is_logged(&self, base: &Address, depth: Depth) -> bool {
        match base {
            Address::Channel(channel) if !self.logs.is_empty() => match depth {
                Depth::Exact => self.logs.of(channel.as_str()).is_some(),
                Depth::Children | Depth::Subtree => self.logs.covers(&Interest::new(channel, depth)),
            },
            Address::Channel(_) | Address::Internal(_) => false,
        }
    }

    /// Why a pattern cannot be heard: only a part of it is republished.
    pub(crate) fn refuses(&self, interest: &Interest) -> Option<String> {
        let mixed =
            interest.depth() != Depth::Exact && !self.logs.touched(interest).is_empty() && !self.logs.covers(interest);
        mixed.then(|| {
            "on NATS a pattern is logged as a whole or not at all: ask for its parts, or give all of its namespaces a `log`".to_owned()
        })
    }

    /// A plain subject as it is republished.
    pub(crate) fn republished(&self, plain: &str) -> String {
        let rest = plain.split_once('.').map_or(plain, |(_, rest)| rest);
        format!("{}{rest}", self.republished)
    }

    /// What of a republished subject is behind its beginning; `None` for others.
    pub(crate) fn channel_of<'a>(&self, subject: &'a str) -> Option<&'a str> {
        subject.strip_prefix(&*self.republished)
    }

    /// The epoch of a stream.
    pub(crate) fn epoch(&self, stream: &str) -> Option<Epoch> {
        self.epochs.read().get(stream).cloned()
    }
}

/// The logs of one NATS account.
pub(crate) struct NatsLog {
    subjects: Subjects,
    prefix: Prefix,
    url: NatsUrl,
    login: Login,
    tls: Option<Arc<rustls::ClientConfig>>,
    context: OnceCell<Context>,
    max_payload: usize,
    timeout: Duration,
    name: String,
}

impl NatsLog {
    /// # Errors
    /// Namespaces that streams cannot be made of, and credentials or certificates that cannot be used.
    pub(crate) fn new(url: &NatsUrl, config: &BusConfig, subjects: Subjects) -> Result<Self, ConfigError> {
        let namespaces: Vec<_> = config.logs.logged().map(|(namespace, _)| namespace.clone()).collect();
        for inner in &namespaces {
            let within = |outer: &&Channel| inner.as_str().starts_with(&format!("{outer}/"));
            if let Some(outer) = namespaces.iter().find(within) {
                let value = format!("set for `{inner}` and for `{outer}`");
                let expected = "only one of the two on NATS: subjects of streams may not overlap".to_owned();
                return Err(ConfigError { key: "namespaces.log", value, expected });
            }
        }
        let files = config.ca_file.is_some() || config.cert_file.is_some() || config.key_file.is_some();
        Ok(Self {
            subjects,
            prefix: config.prefix.clone(),
            url: url.clone(),
            login: Login::new(url, config)?,
            tls: (url.tls || files).then(|| tls::client_config(config)).transpose()?,
            context: OnceCell::new(),
            max_payload: config.max_payload,
            timeout: config.command_timeout,
            name: format!("{} (log)", config.client_name),
        })
    }

    /// Makes the streams as soon as the server is there, and looks at them from time to time, for ever.
    pub(crate) async fn keep(self: Arc<Self>) {
        let mut told = None;
        loop {
            let looked = self.look().await;
            let pause = if looked.is_ok() { LOOK } else { ASK_AGAIN };
            match looked {
                Ok(()) => told = None,
                Err(error) if told.as_ref() != Some(&error) => {
                    tracing::warn!(%error, "the streams of logged namespaces are not there");
                    told = Some(error);
                }
                Err(_) => {}
            }
            tokio::time::sleep(pause).await;
        }
    }

    async fn look(&self) -> Result<(), LogError> {
        for (namespace, policy) in self.subjects.logs.logged() {
            self.stream(namespace, policy).await?;
        }
        Ok(())
    }

    /// JetStream, by a connection of its own.
    async fn context(&self) -> Result<&Context, LogError> {
        self.context.get_or_try_init(|| self.connect()).await
    }

    async fn connect(&self) -> Result<Context, LogError> {
        let away = |error: &dyn std::fmt::Display| LogError::NotNow(error.to_string());
        let mut options = match &self.login {
            Login::Nobody => ConnectOptions::new(),
            Login::Token(token) => ConnectOptions::new().token(token.clone()),
            Login::User(user, password) => ConnectOptions::new().user_and_password(user.clone(), password.clone()),
            Login::Nkey(file) => {
                let seed = tokio::fs::read_to_string(file).await.map_err(|error| away(&error))?;
                ConnectOptions::new().nkey(seed.trim().to_owned())
            }
            Login::Creds(file) => ConnectOptions::new().credentials_file(file).await.map_err(|error| away(&error))?,
        };
        if let Some(tls) = &self.tls {
            options = options.require_tls(self.url.tls).tls_client_config((**tls).clone());
        }
        let options = options
            .name(&self.name)
            .ping_interval(Duration::from_secs(5))
            .connection_timeout(self.timeout)
            .request_timeout(Some(self.timeout));
        let scheme = if self.url.tls { "tls" } else { "nats" };
        let servers: Vec<String> = self
            .url
            .servers
            .iter()
            .map(|server| match server.host.contains(':') {
                true => format!("{scheme}://[{}]:{}", server.host, server.port),
                false => format!("{scheme}://{}:{}", server.host, server.port),
            })
            .collect();
        let client = options.connect(servers).await.map_err(|error| away(&error))?;
        let mut context = jetstream::new(client);
        context.set_timeout(self.timeout);
        Ok(context)
    }

    /// Whether messages of this address are stored.
    pub(crate) fn keeps(&self, address: &Address) -> bool {
        self.subjects.is_logged(address, Depth::Exact)
    }

    /// Stores a message of a logged channel, which JetStream then relays.
    pub(crate) async fn append(&self, publication: &mut Publication) -> Result<Receipt, PublishError> {
        self.append_all(vec![publication])
            .await
            .pop()
            .unwrap_or_else(|| Err(PublishError::Unknown("there is no answer".to_owned())))
    }

    /// Stores many, in their order; a result for each.
    pub(crate) async fn append_all(&self, publications: Vec<&mut Publication>) -> Vec<Result<Receipt, PublishError>> {
        let mut sent = Vec::with_capacity(publications.len());
        for publication in publications {
            sent.push(self.send(publication).await);
        }
        let mut results = Vec::with_capacity(sent.len());
        for one in sent {
            results.push(match one {
                Err(error) => Err(error),
                Ok((id, namespace, waiting)) => match waiting.await {
                    Ok(ack) => {
                        let epoch = self.subjects.epoch(&self.stream_name(&namespace));
                        let position = epoch.map(|epoch| Position { offset: ack.sequence, epoch, previous: None });
                        Ok(Receipt { id, position })
                    }
                    Err(error) => Err(judge(&error)),
                },
            });
        }
        results
    }

    async fn send(
        &self,
        publication: &mut Publication,
    ) -> Result<(clarion_protocol::MessageId, Channel, jetstream::context::PublishAckFuture), PublishError> {
        let (bytes, limit) = (publication.message.payload.len(), self.max_payload);
        if bytes > limit {
            return Err(PublishError::TooLarge { bytes, limit });
        }
        let id = publication.identify();
        let Address::Channel(channel) = &publication.address else {
            return Err(PublishError::Refused("internal subjects have no log".to_owned()));
        };
        let Some((namespace, policy)) = self.subjects.logs.of(channel.as_str()) else {
            return Err(PublishError::Refused("its channel has no log".to_owned()));
        };
        if self.subjects.epoch(&self.stream_name(namespace)).is_none() {
            // Without its stream the server would relay it, and nobody would ever hear of it.
            self.stream(namespace, policy).await.map_err(|error| match error {
                LogError::NotNow(text) => PublishError::NotTaken(text),
                LogError::Refused(text) => PublishError::Refused(text),
            })?;
        }
        let context = self.context().await.map_err(|error| PublishError::NotTaken(error.to_string()))?;
        let mut headers = async_nats::HeaderMap::new();
        for (name, value) in envelope::headers(&publication.message) {
            headers.insert(name, value.as_str());
        }
        let subject = self.prefix.nats(&publication.address);
        let payload = publication.message.payload.clone();
        let waiting = context.publish_with_headers(subject, headers, payload).await.map_err(|error| judge(&error))?;
        Ok((id, namespace.clone(), waiting))
    }

    fn policy(&self, partition: &Partition) -> Result<(&Channel, LogPolicy), LogError> {
        let mut logged = self.subjects.logs.logged();
        let found = logged.find(|(namespace, _)| **namespace == partition.namespace);
        found.ok_or_else(|| LogError::Refused(format!("`{}` is no logged namespace", partition.namespace)))
    }
}

/// What an error of JetStream means for the message.
fn judge(error: &async_nats::error::Error<PublishErrorKind>) -> PublishError {
    match error.kind() {
        PublishErrorKind::StreamNotFound => PublishError::NotTaken(
            "no JetStream stream took the message: is JetStream enabled on the server?".to_owned(),
        ),
        PublishErrorKind::MaxPayloadExceeded => PublishError::Refused(error.to_string()),
        PublishErrorKind::WrongLastMessageId
        | PublishErrorKind::WrongLastSequence
        | PublishErrorKind::MaxAckPending => PublishError::NotTaken(error.to_string()),
        PublishErrorKind::TimedOut | PublishErrorKind::BrokenPipe => PublishError::Unknown(error.to_string()),
        // What JetStream itself answers, such as that its storage is full: it did not take the message.
        PublishErrorKind::Other => PublishError::NotTaken(error.to_string()),
    }
}

#[async_trait]
impl Log for NatsLog {
    async fn tops(&self, partitions: &[Partition]) -> Result<Vec<Top>, LogError> {
        let mut tops = Vec::with_capacity(partitions.len());
        for partition in partitions {
            let (namespace, policy) = self.policy(partition)?;
            let stream = self.stream(namespace, policy).await?;
            tops.push(Top { epoch: streams::epoch_of(&stream), offset: stream.cached_info().state.last_sequence });
        }
        Ok(tops)
    }

    async fn read(&self, read: &Read) -> Result<Chunk, LogError> {
        self.read_log(read).await
    }

    async fn cursor_key(&self) -> Result<CursorKey, LogError> {
        self.shared_key().await
    }
}

#[async_trait]
impl Store for NatsLog {
    async fn marks(&self, user: &Uid) -> Result<Marks, LogError> {
        Ok(self.marks_of(user).await?.0)
    }

    async fn mark(&self, user: &Uid, read: &Marks) -> Result<Marks, LogError> {
        self.add_marks(user, read).await
    }
}
