//! Publishing, by fred. It must never keep a message for later: what cannot be sent now is the publisher's to send again.

use std::{pin::pin, time::Duration};

use clarion_protocol::{Prefix, Publication, envelope};
use fred::{
    clients::{Client, WithOptions},
    error::{Error, ErrorKind},
    interfaces::{ClientLike as _, EventInterface as _, PubsubInterface as _},
    types::{
        Builder, ClientState, Value,
        config::{
            ConnectionConfig, Options, PerformanceConfig, ReconnectPolicy, Server, ServerConfig, TlsConnector,
            UnresponsiveConfig,
        },
    },
};
use futures_util::future::{Either, join_all, select};
use parking_lot::RwLock;
use tokio::sync::watch;
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use super::dial::Credentials;
use crate::{BusConfig, Link, PublishError, RedisMode, RedisUrl};

/// The connection on which this node publishes.
#[derive(Debug)]
pub(crate) struct Publisher {
    builder: Builder,
    options: Options,
    live: RwLock<Live>,
    prefix: Prefix,
    max_payload: usize,
    sharded: bool,
    /// On a cluster one of many connections may be lost, and the others go on.
    cluster: bool,
    state: watch::Sender<State>,
}

/// What is known of the connection.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct State {
    /// Counts what went wrong with it. A message that was given to one and answered on the next had to wait in
    /// between, and may have left before the subscribers were back.
    epoch: u64,
    /// It is lost, and there is no new one yet: fred would keep a message until there is, or until its time is over.
    lost: bool,
}

/// One of fred's clients. It connects anew by itself, and would then send what it was given while it had no connection;
/// so, on a single server, one that has lost its connection is dropped with all that waits in it, and another takes its place.
#[derive(Debug)]
struct Live {
    client: WithOptions<Client>,
    task: AbortOnDropHandle<Result<(), Error>>,
}

impl Live {
    fn start(builder: &Builder, options: &Options) -> Self {
        let client = builder.build().expect("a configuration with a server is complete");
        let task = AbortOnDropHandle::new(client.connect());
        Self { client: client.with_options(options), task }
    }
}

impl Publisher {
    /// Starts to connect, and goes on for ever.
    pub(crate) fn start(url: &RedisUrl, config: &BusConfig, credentials: &Credentials, sharded: bool) -> Self {
        let mut redis = fred::types::config::Config {
            fail_fast: false,
            username: credentials.user.clone(),
            password: credentials.password.as_ref().map(|password| password.expose().to_owned()),
            server: server(url),
            ..fred::types::config::Config::default()
        };
        redis.tls = credentials.tls.clone().map(|tls| TlsConnector::Rustls(tls.into()).into());
        let mut builder = Builder::from_config(redis);
        let timeout = config.command_timeout;
        let millis = |duration: Duration| u32::try_from(duration.as_millis()).unwrap_or(u32::MAX);
        builder
            .set_performance_config(PerformanceConfig { default_command_timeout: timeout, ..Default::default() })
            .set_connection_config(ConnectionConfig {
                connection_timeout: config.connect_timeout,
                internal_command_timeout: timeout,
                max_command_attempts: 1,
                auto_client_setname: true,
                unresponsive: UnresponsiveConfig { max_timeout: Some(timeout), interval: Duration::from_secs(1) },
                ..ConnectionConfig::default()
            });
        let mut policy = ReconnectPolicy::new_exponential(0, 100, millis(config.reconnect_max), 2);
        policy.set_jitter(100);
        builder.set_policy(policy);
        let options = Options { fail_fast: true, max_attempts: Some(1), timeout: Some(timeout), ..Options::default() };
        let live = RwLock::new(Live::start(&builder, &options));
        let cluster = matches!(url.mode, RedisMode::Cluster);
        let state = watch::Sender::new(State::default());
        let (prefix, max_payload) = (config.prefix.clone(), config.max_payload);
        Self { builder, options, live, prefix, max_payload, sharded, cluster, state }
    }

    fn client(&self) -> WithOptions<Client> {
        self.live.read().client.clone()
    }

    /// Tells of the connection's state whenever it changes, until `stop`.
    pub(crate) async fn watch(&self, stop: CancellationToken, report: impl Fn(Link)) {
        let mut client = self.client();
        let (mut errors, mut connections) = (client.error_rx(), client.reconnect_rx());
        let (mut why, mut was_up) = (None, false);
        loop {
            let up = client.state() == ClientState::Connected;
            was_up |= up;
            if up {
                self.state.send_if_modified(|state| std::mem::take(&mut state.lost));
            }
            report(if up { Link::Up } else { Link::Down(why.clone()) });
            // fred tells of errors before it forgets the connection and of connections before it counts on them.
            let pause = if up { Duration::from_millis(500) } else { Duration::from_millis(20) };
            tokio::select! {
                error = errors.recv() => {
                    self.state.send_modify(|state| *state = State { epoch: state.epoch + 1, lost: !self.cluster });
                    why = error.ok().map(|(error, _)| plain(error.details())).or(why);
                    // One that tries to connect was given nothing since: it goes on, with longer and longer pauses.
                    if !self.cluster && std::mem::take(&mut was_up) {
                        *self.live.write() = Live::start(&self.builder, &self.options);
                        client = self.client();
                        (errors, connections) = (client.error_rx(), client.reconnect_rx());
                    }
                }
                _ = connections.recv() => {}
                () = tokio::time::sleep(pause) => {}
                () = stop.cancelled() => return,
            }
        }
    }

    /// Whether there are many servers, each with a part of the channels.
    pub(crate) fn is_of_cluster(&self) -> bool {
        self.cluster
    }

    /// Publishes one message.
    pub(crate) async fn publish(&self, publication: &Publication) -> Result<(), PublishError> {
        let bytes = publication.message.payload.len();
        if bytes > self.max_payload {
            return Err(PublishError::TooLarge { bytes, limit: self.max_payload });
        }
        let subject = self.prefix.redis(&publication.address);
        self.send(subject, Value::Bytes(envelope::seal(&publication.message))).await
    }

    /// Publishes many at once; they leave in their order.
    pub(crate) async fn publish_all(&self, publications: &[Publication]) -> Vec<Result<(), PublishError>> {
        join_all(publications.iter().map(|publication| self.publish(publication))).await
    }

    /// Publishes bytes on a subject, whatever they are.
    pub(crate) async fn send(&self, subject: String, payload: Value) -> Result<(), PublishError> {
        let mut watched = self.state.subscribe();
        let before = *watched.borrow_and_update();
        if before.lost {
            return Err(PublishError::NotTaken("there is no connection".to_owned()));
        }
        let unknown = || Err(PublishError::Unknown("the connection was lost meanwhile".to_owned()));
        let client = self.client();
        let sent = async {
            if self.sharded { client.spublish(subject, payload).await } else { client.publish(subject, payload).await }
        };
        // Not tokio's `select!`: where a task has used up its budget that polls nothing at all, and among many messages
        // the one that it hits would leave after those behind it. This polls the message first, whatever the budget.
        let result: Result<i64, Error> = match select(pin!(sent), pin!(watched.wait_for(|state| state.lost))).await {
            Either::Left((result, _)) => result,
            // Its answer will not come; waiting for the time to be over would tell the publisher nothing more.
            Either::Right(_) => return unknown(),
        };
        match result {
            Ok(_) if self.state.borrow().epoch != before.epoch => unknown(),
            Ok(_) => Ok(()),
            Err(error) => Err(judge(&error)),
        }
    }

    /// Ends the connection.
    pub(crate) async fn close(&self) {
        // A server that is not there hears no goodbye.
        let _ = tokio::time::timeout(Duration::from_secs(1), self.client().quit()).await;
        self.live.read().task.abort();
    }
}

/// What fred says when it fails fast: nothing was written.
const FAILED_FAST: &str = "Connection closed unexpectedly.";
/// What fred says when there is no connection to write to.
const NO_ROUTE: &str = "Failed to route command.";

/// An error's text for people: fred writes those of the system as Rust's own description of them.
fn plain(details: &str) -> String {
    let message = details.strip_prefix("Os {").and_then(|rest| rest.split_once("message: \"")?.1.strip_suffix("\" }"));
    message.unwrap_or(details).to_owned()
}

/// What an error of fred means for the message. Whatever is not surely one or the other, nobody knows.
fn judge(error: &Error) -> PublishError {
    let text = error.details().to_owned();
    if ["NOPERM", "NOAUTH", "WRONGPASS"].iter().any(|word| text.starts_with(word)) {
        return PublishError::Refused(text);
    }
    match error.kind() {
        ErrorKind::Canceled if text == FAILED_FAST => PublishError::NotTaken(text),
        ErrorKind::Routing | ErrorKind::Backpressure => PublishError::NotTaken(text),
        ErrorKind::Unknown if text == NO_ROUTE || text.contains("not initialized") => PublishError::NotTaken(text),
        ErrorKind::Auth => PublishError::Refused(text),
        // These kinds are of the connection, whatever their text is like.
        ErrorKind::IO | ErrorKind::Tls | ErrorKind::Timeout | ErrorKind::Protocol | ErrorKind::Parse => {
            PublishError::Unknown(text)
        }
        _ if is_answer(&text) => PublishError::NotTaken(text),
        _ => PublishError::Unknown(text),
    }
}

/// Whether an error is the server's own answer: they begin with a word in capitals, `LOADING` or `READONLY`.
fn is_answer(text: &str) -> bool {
    let word = text.split(' ').next().unwrap_or_default();
    word.len() > 2 && word.bytes().all(|byte| byte.is_ascii_uppercase())
}

fn server(url: &RedisUrl) -> ServerConfig {
    let hosts = || url.servers.iter().map(|server| Server::new(server.host.as_str(), server.port)).collect();
    match &url.mode {
        RedisMode::Standalone => {
            ServerConfig::Centralized { server: Server::new(url.servers[0].host.as_str(), url.servers[0].port) }
        }
        RedisMode::Sentinel { master, user, password } => ServerConfig::Sentinel {
            hosts: hosts(),
            service_name: master.clone(),
            username: user.clone(),
            password: password.as_ref().map(|password| password.expose().to_owned()),
        },
        RedisMode::Cluster => ServerConfig::Clustered { hosts: hosts(), policy: Default::default() },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_of_the_system_are_told_in_words() {
        let refused = Error::from(std::io::Error::from_raw_os_error(111));
        assert_eq!(plain(refused.details()), "Connection refused");
        assert_eq!(plain("Connection closed."), "Connection closed.");
    }

    #[test]
    fn only_what_was_surely_not_taken_is_safe_to_send_again() {
        let judged = |kind, text: &'static str| judge(&Error::new(kind, text));
        for (kind, text) in [
            (ErrorKind::Canceled, FAILED_FAST),
            (ErrorKind::Unknown, NO_ROUTE),
            (ErrorKind::Cluster, "CLUSTERDOWN Hash slot not served"),
            (ErrorKind::Unknown, "LOADING Redis is loading the dataset in memory"),
        ] {
            assert!(matches!(judged(kind, text), PublishError::NotTaken(_)), "{text}");
        }
        for (kind, text) in [
            (ErrorKind::Canceled, "Canceled."),
            (ErrorKind::IO, "EOF"),
            (ErrorKind::Timeout, "Request timed out."),
            (ErrorKind::Unknown, "Unexpected."),
        ] {
            assert!(matches!(judged(kind, text), PublishError::Unknown(_)), "{text}");
        }
        assert!(matches!(judged(ErrorKind::Unknown, "NOPERM no"), PublishError::Refused(_)));
    }
}
