//! How many may come, how fast, and what each may have the node carry: one ledger for all limits.
//!
//! Knows nothing of sockets. What is counted here is given back when the value that stands for it is dropped, however that
//! comes about.

pub mod bodies;
mod forwarded;
mod hop;
mod ledger;
mod metrics;
mod rate;
mod refusal;
pub mod sockets;

use std::{net::IpAddr, num::NonZeroU32, sync::Arc, time::Duration};

use clarion_protocol::{Interest, Uid};
use http::request::Parts;
use ipnet::IpNet;
use prometheus::Registry;

pub use forwarded::ProxyHeader;
pub use hop::{Disbelief, HOP, Hops, NoKey};
pub use ledger::{Permit, Seats, Tally};
pub use rate::Pace;
pub use refusal::TooMany;

use ledger::{Ledger, network};
use metrics::Refusals;
use rate::{Paces, Rate, Rates};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

/// The limits. `None` is no limit.
#[derive(Debug, Clone, Default)]
pub struct Config {
    /// New connections a second; as many may come at once after a quiet second.
    pub accepts_per_second: Option<NonZeroU32>,
    /// Requests for a connection that one address may make in a second.
    pub handshakes_per_address: Option<NonZeroU32>,
    /// Tokens and API keys that one address may get wrong in a minute.
    pub failures_per_address: Option<NonZeroU32>,
    /// Messages that one connection may publish in a second.
    pub publishes_per_connection: Option<NonZeroU32>,
    /// Messages that one user may publish at this node in a second.
    pub publishes_per_user: Option<NonZeroU32>,
    /// Connections of this node, those included that it carries to others.
    pub connections: Option<NonZeroU32>,
    /// Connections of one user at this node.
    pub per_user: Option<NonZeroU32>,
    /// Connections of one address at this node. IPv6 counts by /64, which is what one customer is given.
    pub per_address: Option<NonZeroU32>,
    /// Channels and patterns of one connection.
    pub channels_per_connection: Option<NonZeroU32>,
    /// Distinct channels of one address at this node.
    pub channels_per_address: Option<NonZeroU32>,
    /// Distinct channels of this node.
    pub channels: Option<NonZeroU32>,
    /// Patterns of one connection.
    pub patterns_per_connection: Option<NonZeroU32>,
    /// Distinct patterns of one address at this node.
    pub patterns_per_address: Option<NonZeroU32>,
    /// Distinct patterns of this node.
    pub patterns: Option<NonZeroU32>,
    /// Networks of proxies whose word about their client's address is taken.
    pub trusted_proxies: Vec<IpNet>,
    /// The header in which they give it.
    pub proxy_header: ProxyHeader,
}

/// Counts those who are here and says no to those who are too many.
pub struct Admission {
    accepts: Option<Rate>,
    handshakes: Option<Rates<IpAddr>>,
    failures: Option<Rates<IpAddr>>,
    paces: Option<Paces>,
    publishes: Option<Rates<Uid>>,
    ledger: Arc<Ledger>,
    trusted: Vec<IpNet>,
    header: ProxyHeader,
    refusals: Refusals,
}

impl Admission {
    /// Begins with nobody here.
    ///
    /// # Errors
    /// When the registry knows one of the metrics already.
    pub fn new(config: &Config, registry: &Registry) -> Result<Arc<Self>, prometheus::Error> {
        Ok(Arc::new(Self {
            accepts: config.accepts_per_second.map(|count| Rate::new(count, SECOND)),
            handshakes: config.handshakes_per_address.map(|count| Rates::new(count, SECOND)),
            failures: config.failures_per_address.map(|count| Rates::new(count, MINUTE)),
            paces: config.publishes_per_connection.map(|count| Paces::new(count, SECOND)),
            publishes: config.publishes_per_user.map(|count| Rates::new(count, SECOND)),
            ledger: Ledger::new(config, registry)?,
            trusted: config.trusted_proxies.clone(),
            header: config.proxy_header,
            refusals: Refusals::new(registry)?,
        }))
    }

    /// Takes one new connection at the rate that this node can greet them.
    ///
    /// # Errors
    /// [`TooMany::Rate`] with the time until there is room for one more.
    pub fn accept(&self) -> Result<(), TooMany> {
        let answer = self.accepts.as_ref().map_or(Ok(()), Rate::take);
        answer.map_err(|retry_after| self.refuse(TooMany::Rate { retry_after }))
    }

    /// Takes one request for a connection from this address, before anything is done for it.
    ///
    /// # Errors
    /// [`TooMany::Handshakes`].
    pub fn handshake(&self, address: IpAddr) -> Result<(), TooMany> {
        let answer = self.handshakes.as_ref().map_or(Ok(()), |rates| rates.take(&network(address)));
        answer.map_err(|retry_after| self.refuse(TooMany::Handshakes { retry_after }))
    }

    /// Whether this address may show a token or key: it has not got too many wrong. Ask before it is checked.
    ///
    /// # Errors
    /// [`TooMany::Failures`].
    pub fn may_try(&self, address: IpAddr) -> Result<(), TooMany> {
        let answer = self.failures.as_ref().map_or(Ok(()), |rates| rates.ask(&network(address)));
        answer.map_err(|retry_after| self.refuse(TooMany::Failures { retry_after }))
    }

    /// Notes a token or key of this address that was not good.
    pub fn failed(&self, address: IpAddr) {
        if let Some(failures) = &self.failures {
            failures.charge(&network(address));
        }
    }

    /// Takes one message that a client publishes by a request of its own.
    ///
    /// # Errors
    /// [`TooMany::PublishesOfUser`].
    pub fn publish(&self, user: Option<&Uid>) -> Result<(), TooMany> {
        let answer = self.publishes.as_ref().zip(user).map_or(Ok(()), |(rates, user)| rates.take(user));
        answer.map_err(|retry_after| self.refuse(TooMany::PublishesOfUser { retry_after }))
    }

    /// Whether messages that clients publish up their connections have a rate.
    pub fn paces_publishing(&self) -> bool {
        self.paces.is_some() || self.publishes.is_some()
    }

    /// Takes one message that a client publishes up its connection, whose door keeps its `pace`; how long it has to wait
    /// first. It is taken in any case: whoever waits reads nothing more meanwhile, so that its client feels it.
    pub fn publish_up(&self, pace: &mut Pace, user: Option<&Uid>) -> Duration {
        let mut wait = Duration::ZERO;
        if let Some(paces) = &self.paces {
            if let Err(retry_after) = paces.ask(*pace) {
                self.refuse(TooMany::PublishesOfConnection { retry_after });
                wait = retry_after;
            }
            paces.charge(pace);
        }
        if let Some((rates, user)) = self.publishes.as_ref().zip(user) {
            if let Err(retry_after) = rates.ask(user) {
                self.refuse(TooMany::PublishesOfUser { retry_after });
                wait = wait.max(retry_after);
            }
            rates.charge(user);
        }
        wait
    }

    /// Takes one connection of this user and address in, with what it is to hear from the start, until its permit is dropped.
    ///
    /// # Errors
    /// [`TooMany`], naming the first limit that is reached.
    pub fn enter(&self, user: Option<&Uid>, address: IpAddr, interests: &[Interest]) -> Result<Permit, TooMany> {
        let mut permit = self.ledger.enter(user, address, false).map_err(|error| self.refuse(error))?;
        permit.keep(self.join(address, Tally::default(), interests)?);
        Ok(permit)
    }

    /// Takes in a connection that is carried to its user's home. It is one here as well: it holds sockets and memory.
    ///
    /// # Errors
    /// [`TooMany`], naming the first limit that is reached.
    pub fn carry(&self, user: Option<&Uid>, address: IpAddr) -> Result<Permit, TooMany> {
        self.ledger.enter(user, address, true).map_err(|error| self.refuse(error))
    }

    /// Has a connection that is here hear more than what it hears `already`, until what is returned is dropped: all of it
    /// or nothing. `None` when nothing of it has a limit, so that nothing has to be kept for it.
    ///
    /// # Errors
    /// [`TooMany`], naming the first limit that is reached.
    pub fn join(&self, address: IpAddr, already: Tally, interests: &[Interest]) -> Result<Option<Seats>, TooMany> {
        self.ledger.join(address, already, interests).map_err(|error| self.refuse(error))
    }

    /// The address of the client: the peer's, or what trusted proxies say of theirs.
    pub fn client_address(&self, head: &Parts, peer: std::net::SocketAddr) -> IpAddr {
        forwarded::client_address(&self.trusted, self.header, &head.headers, peer.ip())
    }

    fn refuse(&self, error: TooMany) -> TooMany {
        self.refusals.count(error)
    }
}

#[cfg(test)]
mod tests;
