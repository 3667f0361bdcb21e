//! The life of one of fred's clients: where it goes, what it says at first, and whether its server is still the right one.
//!
//! Which server that is, is found out by a connection of our own, as for the links: fred asks no server what it is, tries
//! those of a list one after the other, and takes each error reply at the beginning, even one to `PING`, for a dead server.
//! On a single server a client lives as long as its connection: one that connects anew by itself would then send what it was
//! given while it had none.

use std::time::Duration;

use async_trait::async_trait;
use fred::{
    clients::{Client, WithOptions},
    error::Error,
    interfaces::{ClientLike as _, EventInterface as _},
    types::{
        Builder, ClientState, ClusterHash, CustomCommand, Value,
        config::{
            ClusterDiscoveryPolicy, ConnectionConfig, CredentialProvider, Options, PerformanceConfig, ReconnectPolicy,
            Server, ServerConfig, TlsConnector, UnresponsiveConfig,
        },
    },
};
use tokio::{
    sync::{broadcast, watch},
    time::{Instant, sleep, timeout},
};
use tokio_util::task::AbortOnDropHandle;

use super::super::{
    dial::{Connection, Credentials, DialError},
    role::Role,
    target::Target,
};
use crate::{BusConfig, HostPort, Link, Secret};

/// How often the server is asked whether it is still the master: a probe's interval.
const ROLE_CHECK: Duration = Duration::from_secs(1);
/// How often fred's state is looked at. It tells of errors before it forgets a connection and of connections before it counts on them.
const LOOK: Duration = Duration::from_millis(500);
const LOOK_WHILE_DOWN: Duration = Duration::from_millis(20);

/// What a client is made of.
#[derive(Debug)]
pub(super) struct Recipe {
    credentials: Credentials,
    options: Options,
    cluster: bool,
    connect_timeout: Duration,
    command_timeout: Duration,
    pub(super) reconnect_max: Duration,
    /// Builds the links anew: the same server is theirs.
    rebuild: watch::Sender<()>,
}

/// As whom fred goes to a server. With one of these it asks for nothing but to be let in; without, it begins with a `PING`
/// whose refusal it takes for the server's death.
#[derive(Debug)]
struct Login(Option<String>, Option<Secret>);

#[async_trait]
impl CredentialProvider for Login {
    async fn fetch(&self, _: Option<&Server>) -> Result<(Option<String>, Option<String>), Error> {
        Ok((self.0.clone(), self.1.as_ref().map(|password| password.expose().to_owned())))
    }
}

impl Recipe {
    pub(super) fn new(
        config: &BusConfig,
        credentials: &Credentials,
        cluster: bool,
        rebuild: watch::Sender<()>,
    ) -> Self {
        let timeout = config.command_timeout;
        let options = Options { fail_fast: true, max_attempts: Some(1), timeout: Some(timeout), ..Options::default() };
        Self {
            credentials: credentials.clone(),
            options,
            cluster,
            connect_timeout: config.connect_timeout,
            command_timeout: timeout,
            reconnect_max: config.reconnect_max,
            rebuild,
        }
    }

    /// Finds the server and connects to it.
    pub(super) async fn start(&self, target: &mut Target) -> Result<Live, String> {
        let found = target.dial().await.map_err(|error| error.to_string())?;
        let client = self.builder(&found).build().expect("a configuration with a server is complete");
        let errors = client.error_rx();
        let task = AbortOnDropHandle::new(client.connect());
        let connected = timeout(self.connect_timeout + self.command_timeout, client.wait_for_connect()).await;
        connected.map_err(|_| "the server does not answer".to_owned())?.map_err(|error| plain(error.details()))?;
        let mut live = Live {
            client: client.with_options(&self.options),
            errors,
            _task: task,
            question: target.wants_master().then_some(if found.resp3 { ["HELLO", "2"] } else { ["ROLE", ""] }),
            server: found.server,
            asked: Instant::now(),
            connected: Instant::now(),
            patience: self.connect_timeout + self.command_timeout,
            why: None,
            rebuild: self.rebuild.clone(),
        };
        if !self.cluster {
            let name = format!("{}-publisher", self.credentials.name);
            // A name helps whoever looks at the server; one that forbids to have a name is good enough.
            let _ = live.ask("CLIENT", &["SETNAME", &name]).await;
        }
        live.check_role().await?;
        Ok(live)
    }

    fn builder(&self, found: &Connection) -> Builder {
        // The very address that has answered, under the name that its certificate holds.
        let mut server = Server::new(found.address.ip().to_string(), found.address.port());
        server.tls_server_name = Some(found.server.host.as_str().into());
        let (user, password) = (self.credentials.user.clone(), self.credentials.password.clone());
        // A user without a password is one whom the server asks for none.
        let password = password.or_else(|| user.as_ref().map(|_| Secret::new("")));
        let config = fred::types::config::Config {
            fail_fast: true,
            credential_provider: Some(std::sync::Arc::new(Login(user, password))),
            tls: self.credentials.tls.clone().map(|tls| TlsConnector::Rustls(tls.into()).into()),
            server: if self.cluster {
                // Only the server that has answered, and only a cluster that is whole again (`CLUSTER INFO`): when fred finds its
                // way while some of its connections are still breaking, it sends again what was on its way on those.
                let server = Server::new(found.server.host.as_str(), found.server.port);
                ServerConfig::Clustered { hosts: vec![server], policy: ClusterDiscoveryPolicy::ConfigEndpoint }
            } else {
                ServerConfig::Centralized { server }
            },
            ..fred::types::config::Config::default()
        };
        let mut builder = Builder::from_config(config);
        let timeout = self.command_timeout;
        builder
            .set_performance_config(PerformanceConfig { default_command_timeout: timeout, ..Default::default() })
            .set_connection_config(ConnectionConfig {
                connection_timeout: self.connect_timeout,
                internal_command_timeout: timeout,
                max_command_attempts: 1,
                unresponsive: UnresponsiveConfig { max_timeout: Some(timeout), interval: Duration::from_secs(1) },
                ..ConnectionConfig::default()
            });
        if self.cluster {
            let max = u32::try_from(self.reconnect_max.as_millis()).unwrap_or(u32::MAX);
            let mut policy = ReconnectPolicy::new_exponential(0, 100, max, 2);
            policy.set_jitter(100);
            builder.set_policy(policy);
        }
        builder
    }
}

/// A client that has connected. Dropped, it is gone with all that waits in it.
pub(super) struct Live {
    client: WithOptions<Client>,
    errors: broadcast::Receiver<(Error, Option<Server>)>,
    _task: AbortOnDropHandle<Result<(), Error>>,
    server: HostPort,
    /// How to ask the server what it is; `None` where that makes no difference.
    question: Option<[&'static str; 2]>,
    asked: Instant,
    /// When fred was last seen connected, and how long it may be without before another client is made.
    connected: Instant,
    patience: Duration,
    why: Option<String>,
    rebuild: watch::Sender<()>,
}

impl Live {
    pub(super) fn client(&self) -> WithOptions<Client> {
        self.client.clone()
    }

    /// Whether it has a connection now.
    pub(super) fn link(&self) -> Link {
        if self.client.state() == ClientState::Connected { Link::Up } else { Link::Down(self.why.clone()) }
    }

    /// Waits for something to happen; `true` when something went wrong with a connection, which [`Live::why`] tells of.
    ///
    /// # Errors
    /// Why it is of no more use.
    pub(super) async fn next(&mut self) -> Result<bool, String> {
        let up = self.link() == Link::Up;
        tokio::select! {
            error = self.errors.recv() => {
                self.why = error.ok().map(|(error, _)| plain(error.details())).or(self.why.take());
                return Ok(true);
            }
            () = sleep(if up { LOOK } else { LOOK_WHILE_DOWN }) => {}
        }
        if up {
            self.connected = Instant::now();
        } else if self.connected.elapsed() > self.patience {
            // The servers that it knows are gone; others may have taken their place.
            return Err(self.why());
        }
        if self.asked.elapsed() >= ROLE_CHECK {
            self.check_role().await?;
        }
        Ok(false)
    }

    /// What went wrong last.
    pub(super) fn why(&self) -> String {
        self.why.clone().unwrap_or_else(|| "the connection is lost".to_owned())
    }

    /// Asks the server what it is. One that does not say is taken for the right one; whether it answers at all, fred notices.
    async fn check_role(&mut self) -> Result<(), String> {
        self.asked = Instant::now();
        let Some([word, argument]) = self.question else { return Ok(()) };
        let arguments: &[&str] = if argument.is_empty() { &[] } else { &[argument] };
        let answer = self.ask(word, arguments).await;
        match answer.as_ref().map(Role::of_value) {
            Ok(Role::Replica) => {
                // It may be the master again before the links have asked, and nobody would be told what they have missed.
                self.rebuild.send_replace(());
                Err(DialError::Replica(self.server.clone()).to_string())
            }
            Ok(Role::Master | Role::Unknown) | Err(_) => Ok(()),
        }
    }

    async fn ask(&self, word: &'static str, arguments: &[&str]) -> Result<Value, Error> {
        let command = CustomCommand::new_static(word, ClusterHash::FirstKey, false);
        self.client.custom(command, arguments.iter().map(|argument| (*argument).to_owned()).collect()).await
    }

    /// Says goodbye, if the server is there to hear it.
    pub(super) async fn close(self) {
        let _ = timeout(Duration::from_secs(1), self.client.quit()).await;
    }
}

/// An error's text for people: fred writes those of the system as Rust's own description of them.
fn plain(details: &str) -> String {
    let message = details.strip_prefix("Os {").and_then(|rest| rest.split_once("message: \"")?.1.strip_suffix("\" }"));
    message.unwrap_or(details).to_owned()
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
}
