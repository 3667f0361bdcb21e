//! Publishing, by fred. It must never keep a message for later: what cannot be sent now is the publisher's to send again.

mod live;

use std::{future::Future, pin::pin};

use clarion_protocol::{Prefix, Publication, envelope};
use fred::{
    clients::{Client, WithOptions},
    error::{Error, ErrorKind},
    interfaces::{ClientLike as _, PubsubInterface as _},
    types::{ClusterHash, CustomCommand, Value},
};
use futures_util::future::{Either, join_all, select};
use parking_lot::RwLock;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{dial::Credentials, target::Target};
use crate::{
    BusConfig, Link, PublishError, RedisMode, RedisUrl,
    backoff::Backoff,
    refusal::{self, Outlook},
};
use live::{Live, Recipe};

/// The connection on which this node publishes.
#[derive(Debug)]
pub(crate) struct Publisher {
    recipe: Recipe,
    /// fred's client while there is a connection.
    client: RwLock<Option<WithOptions<Client>>>,
    prefix: Prefix,
    max_payload: usize,
    sharded: bool,
    /// On a cluster one of many connections may be lost, and the others go on.
    cluster: bool,
    state: watch::Sender<State>,
}

/// What is known of the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct State {
    /// Counts what went wrong with it. A message that was given to one and answered on the next had to wait in
    /// between, and may have left before the subscribers were back.
    epoch: u64,
    /// There is none, or it goes to the wrong server: fred would keep a message until there is, or until its time is over.
    lost: bool,
}

impl Publisher {
    /// One that is not connected until it is [watched](Publisher::watch).
    pub(crate) fn new(
        url: &RedisUrl,
        config: &BusConfig,
        credentials: &Credentials,
        sharded: bool,
        rebuild: watch::Sender<()>,
    ) -> Self {
        let cluster = matches!(url.mode, RedisMode::Cluster);
        let (prefix, max_payload) = (config.prefix.clone(), config.max_payload);
        let (recipe, client) = (Recipe::new(config, credentials, cluster, rebuild), RwLock::new(None));
        let state = watch::Sender::new(State { epoch: 0, lost: true });
        Self { recipe, client, prefix, max_payload, sharded, cluster, state }
    }

    /// Connects again and again, and tells of the connection's state whenever it changes, until `stop`.
    pub(crate) async fn watch(&self, mut target: Target, stop: CancellationToken, report: impl Fn(Link)) {
        let mut backoff = Backoff::new(self.recipe.reconnect_max);
        loop {
            let started = tokio::select! {
                started = self.recipe.start(&mut target) => started,
                () = stop.cancelled() => return,
            };
            let why = match started {
                Ok(mut live) => {
                    backoff.reset();
                    *self.client.write() = Some(live.client());
                    self.state.send_modify(|state| state.lost = false);
                    tokio::select! {
                        why = self.follow(&mut live, &report) => why,
                        () = stop.cancelled() => return live.close().await,
                    }
                }
                Err(why) => why,
            };
            self.state.send_modify(|state| *state = State { epoch: state.epoch + 1, lost: true });
            self.client.write().take();
            report(Link::Down(Some(why)));
            tokio::select! {
                () = tokio::time::sleep(backoff.pause()) => {}
                () = stop.cancelled() => return,
            }
        }
    }

    /// Tells of one of fred's clients until it is of no more use, and then says why.
    async fn follow(&self, live: &mut Live, report: &impl Fn(Link)) -> String {
        loop {
            report(live.link());
            match live.next().await {
                Ok(false) => {}
                // On a cluster the other servers take what is theirs, and fred connects to this one anew.
                Ok(true) if self.cluster => self.state.send_modify(|state| state.epoch += 1),
                Ok(true) => return live.why(),
                Err(why) => return why,
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
    pub(crate) async fn publish_all(&self, publications: &[&Publication]) -> Vec<Result<(), PublishError>> {
        join_all(publications.iter().map(|publication| self.publish(publication))).await
    }

    /// Publishes bytes on a subject, whatever they are.
    pub(crate) async fn send(&self, subject: String, payload: Value) -> Result<(), PublishError> {
        let sharded = self.sharded;
        let sent = self.with(|client| async move {
            let sent: Result<i64, Error> =
                if sharded { client.spublish(subject, payload).await } else { client.publish(subject, payload).await };
            sent
        });
        sent.await.map(drop).map_err(PublishError::from)
    }

    /// Calls a function of the library, whose keys lie in the slot of `key`.
    pub(crate) async fn call(&self, function: &'static str, key: String, args: Vec<Value>) -> Result<Value, Failed> {
        // Of a custom command fred looks at nothing but a slot that is named: the first of its arguments is no key.
        let slot = redis_protocol::redis_keyslot(key.as_bytes());
        let words = [Value::from_static_str(function), Value::Integer(1), Value::from(key)];
        let args: Vec<Value> = words.into_iter().chain(args).collect();
        self.command(CustomCommand::new_static("FCALL", ClusterHash::Custom(slot), false), args).await
    }

    /// Sends any command.
    pub(crate) async fn command(&self, command: CustomCommand, args: Vec<Value>) -> Result<Value, Failed> {
        self.with(|client| async move { client.custom::<Value, _>(command, args).await }).await
    }

    /// Counts what went wrong with the connection: what is known of a server holds for one number.
    pub(crate) fn epoch(&self) -> u64 {
        self.state.borrow().epoch
    }

    /// Does something with the connection, and knows what became of it.
    async fn with<T, F>(&self, send: impl FnOnce(WithOptions<Client>) -> F) -> Result<T, Failed>
    where
        F: Future<Output = Result<T, Error>>,
    {
        let mut watched = self.state.subscribe();
        let before = *watched.borrow_and_update();
        let Some(client) = self.client.read().clone().filter(|_| !before.lost) else {
            return Err(Failed::NotSent("there is no connection".to_owned()));
        };
        let unknown = || Err(Failed::Unknown("the connection was lost meanwhile".to_owned()));
        // Not tokio's `select!`: where a task has used up its budget that polls nothing at all, and among many messages
        // the one that it hits would leave after those behind it. This polls the message first, whatever the budget.
        let result = match select(pin!(send(client)), pin!(watched.wait_for(|state| state.lost))).await {
            Either::Left((result, _)) => result,
            // Its answer will not come; waiting for the time to be over would tell the publisher nothing more.
            Either::Right(_) => return unknown(),
        };
        match result {
            Ok(_) if self.state.borrow().epoch != before.epoch => unknown(),
            Ok(answer) => Ok(answer),
            Err(error) => Err(judge(&error)),
        }
    }
}

/// Why a command has no answer that is one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Failed {
    /// It was surely not done.
    NotSent(String),
    /// Nobody knows.
    Unknown(String),
    /// The server's own words: it never does this.
    Refused(String),
}

impl From<Failed> for PublishError {
    fn from(failed: Failed) -> Self {
        match failed {
            Failed::NotSent(text) => Self::NotTaken(text),
            Failed::Unknown(text) => Self::Unknown(text),
            Failed::Refused(text) => Self::Refused(text),
        }
    }
}

/// What fred says when it fails fast: nothing was written.
const FAILED_FAST: &str = "Connection closed unexpectedly.";
/// What fred says when there is no connection to write to.
const NO_ROUTE: &str = "Failed to route command.";

/// What an error of fred means for the message. Whatever is not surely one or the other, nobody knows.
fn judge(error: &Error) -> Failed {
    let text = error.details().to_owned();
    match error.kind() {
        ErrorKind::Canceled if text == FAILED_FAST => Failed::NotSent(text),
        ErrorKind::Routing | ErrorKind::Backpressure => Failed::NotSent(text),
        ErrorKind::Unknown if text == NO_ROUTE || text.contains("not initialized") => Failed::NotSent(text),
        // These kinds are of the connection, whatever their text is like.
        ErrorKind::IO | ErrorKind::Tls | ErrorKind::Timeout | ErrorKind::Protocol | ErrorKind::Parse => {
            Failed::Unknown(text)
        }
        _ if is_answer(&text) => match refusal::redis(&text) {
            Outlook::Stays => Failed::Refused(text),
            Outlook::Passes => Failed::NotSent(text),
        },
        ErrorKind::Auth => Failed::Refused(text),
        _ => Failed::Unknown(text),
    }
}

/// Whether an error is the server's own answer: they begin with a word in capitals, `LOADING` or `READONLY`.
fn is_answer(text: &str) -> bool {
    let word = text.split(' ').next().unwrap_or_default();
    word.len() > 2 && word.bytes().all(|byte| byte.is_ascii_uppercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_surely_not_taken_is_safe_to_send_again() {
        let judged = |kind, text: &'static str| judge(&Error::new(kind, text));
        for (kind, text) in [
            (ErrorKind::Canceled, FAILED_FAST),
            (ErrorKind::Unknown, NO_ROUTE),
            (ErrorKind::Cluster, "CLUSTERDOWN Hash slot not served"),
            (ErrorKind::Unknown, "LOADING Redis is loading the dataset in memory"),
            (ErrorKind::Unknown, "OOM command not allowed when used memory > 'maxmemory'."),
            (ErrorKind::Unknown, "ERR max number of clients reached"),
        ] {
            assert!(matches!(judged(kind, text), Failed::NotSent(_)), "{text}");
        }
        for (kind, text) in [
            (ErrorKind::Canceled, "Canceled."),
            (ErrorKind::IO, "EOF"),
            (ErrorKind::Timeout, "Request timed out."),
            (ErrorKind::Unknown, "Unexpected."),
        ] {
            assert!(matches!(judged(kind, text), Failed::Unknown(_)), "{text}");
        }
        for (kind, text) in [(ErrorKind::Unknown, "NOPERM no"), (ErrorKind::Auth, "NOAUTH Authentication required.")] {
            assert!(matches!(judged(kind, text), Failed::Refused(_)), "{text}");
        }
    }
}
