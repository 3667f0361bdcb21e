//! Which servers there are, and in what order they are tried.

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;
use rand::seq::SliceRandom as _;
use tokio::time::Instant;

use crate::{HostPort, bus_url::host_port};

/// How many servers are learnt from the servers themselves.
const MAX_LEARNT: usize = 256;

/// How many learnt servers are tried before the configured ones that lately failed: those are at least meant to be there,
/// while a cluster may tell of any number of addresses that only its own servers reach.
const LEARNT_FIRST: usize = 4;

/// How long a server that failed or is leaving is tried last.
const AVOIDED: Duration = Duration::from_secs(60);

/// One server of the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Server {
    /// Where it listens.
    pub(crate) address: HostPort,
    /// The name that its certificate must hold. A server learnt by its address has the name it was learnt under.
    pub(crate) tls_name: String,
}

/// The servers that are configured and those that they told of. Shared by both connections of a node, so that both
/// prefer the same server: then a message that a node publishes after it subscribed comes back without crossing a route.
#[derive(Debug, Clone)]
pub(crate) struct Servers(Arc<Mutex<Known>>);

#[derive(Debug)]
struct Known {
    configured: Vec<Server>,
    learnt: Vec<Server>,
    preferred: Option<HostPort>,
    avoided: Vec<(HostPort, Instant)>,
    /// What servers tell of others is believed.
    learns: bool,
}

impl Servers {
    /// These servers, one of them, drawn by lot, preferred: nodes spread over the cluster.
    pub(crate) fn new(configured: &[HostPort], learns: bool) -> Self {
        let mut configured: Vec<_> = configured
            .iter()
            .map(|address| Server { address: address.clone(), tls_name: address.host.clone() })
            .collect();
        configured.shuffle(&mut rand::rng());
        let preferred = configured.first().map(|server| server.address.clone());
        let (learnt, avoided) = (Vec::new(), Vec::new());
        Self(Arc::new(Mutex::new(Known { configured, learnt, preferred, avoided, learns })))
    }

    /// All servers in the order to try them: the preferred one, the configured ones by lot, some of the learnt, those that
    /// lately failed, the rest.
    pub(crate) fn order(&self) -> Vec<Server> {
        let mut known = self.0.lock();
        let now = Instant::now();
        known.avoided.retain(|(_, until)| *until > now);
        let avoided = |server: &Server| known.avoided.iter().any(|(address, _)| *address == server.address);
        let by_lot = |servers: &[Server]| {
            let mut servers = servers.to_vec();
            servers.shuffle(&mut rand::rng());
            servers.into_iter().partition::<Vec<_>, _>(|server| !avoided(server))
        };
        let ((configured, failed), (mut learnt, learnt_failed)) = (by_lot(&known.configured), by_lot(&known.learnt));
        let rest = learnt.split_off(learnt.len().min(LEARNT_FIRST));
        let mut servers = [configured, learnt, failed, rest, learnt_failed].concat();
        if let Some(at) = servers.iter().position(|server| known.preferred.as_ref() == Some(&server.address))
            && !avoided(&servers[at])
        {
            servers[..=at].rotate_right(1);
        }
        servers
    }

    /// The subscriber link stands there.
    pub(crate) fn prefer(&self, address: &HostPort) {
        let mut known = self.0.lock();
        known.preferred = Some(address.clone());
        known.avoided.retain(|(avoided, _)| avoided != address);
    }

    /// Where the subscriber link stands, or stood last.
    pub(crate) fn preferred(&self) -> Option<HostPort> {
        self.0.lock().preferred.clone()
    }

    /// This server failed or says that it is leaving.
    pub(crate) fn avoid(&self, address: &HostPort) {
        let mut known = self.0.lock();
        known.avoided.retain(|(avoided, _)| avoided != address);
        known.avoided.push((address.clone(), Instant::now() + AVOIDED));
    }

    /// What a server says about its cluster replaces what was learnt before; texts that are no server are passed over.
    pub(crate) fn learn(&self, from: &Server, urls: &[String]) {
        let mut known = self.0.lock();
        if urls.is_empty() || !known.learns {
            return;
        }
        let known = &mut *known;
        known.learnt.clear();
        for address in urls.iter().filter_map(|url| host_port(url, 4222).ok()) {
            let mut all = known.configured.iter().chain(&known.learnt);
            if known.learnt.len() < MAX_LEARNT && all.all(|server| server.address != address) {
                let is_address = address.host.parse::<std::net::IpAddr>().is_ok();
                let tls_name = if is_address { from.tls_name.clone() } else { address.host.clone() };
                known.learnt.push(Server { address, tls_name });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(host: &str) -> HostPort {
        HostPort { host: host.to_owned(), port: 4222 }
    }

    fn hosts(servers: &Servers) -> Vec<String> {
        servers.order().into_iter().map(|server| server.address.host).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn the_preferred_first_and_those_that_failed_last() {
        let servers = Servers::new(&[at("a"), at("b"), at("c")], true);
        assert_eq!(hosts(&servers)[0], hosts(&servers)[0]);
        servers.prefer(&at("b"));
        assert_eq!(hosts(&servers)[0], "b");
        servers.avoid(&at("b"));
        assert_eq!(hosts(&servers)[2], "b");
        servers.avoid(&at("a"));
        assert_eq!(hosts(&servers)[0], "c");
        let mut failed = hosts(&servers).split_off(1);
        failed.sort_unstable();
        assert_eq!(failed, ["a", "b"], "in any order");
        tokio::time::advance(AVOIDED).await;
        assert_eq!(hosts(&servers)[0], "b");
    }

    /// However many there are, and whatever has failed before.
    #[tokio::test]
    async fn what_is_configured_is_tried_before_long() {
        let servers = Servers::new(&[at("a")], true);
        let from = servers.order()[0].clone();
        let urls: Vec<_> = (0..100).map(|number| format!("10.0.0.{number}:4222")).collect();
        servers.learn(&from, &urls);
        assert_eq!((hosts(&servers)[0].as_str(), hosts(&servers).len()), ("a", 101));
        servers.avoid(&at("a"));
        assert_eq!(hosts(&servers)[LEARNT_FIRST], "a");
        servers.prefer(&at("10.0.0.7"));
        assert_eq!((hosts(&servers)[0].as_str(), hosts(&servers).len()), ("10.0.0.7", 101));
        let deaf = Servers::new(&[at("a")], false);
        deaf.learn(&from, &urls);
        assert_eq!(hosts(&deaf), ["a"]);
    }

    #[tokio::test]
    async fn servers_tell_of_others() {
        let servers = Servers::new(&[at("nats.example.com")], true);
        let from = servers.order()[0].clone();
        let urls = ["10.0.0.1:4222", "[::1]:5222", "b.example.com:4222", "nats.example.com:4222", "no port:x"];
        servers.learn(&from, &urls.map(str::to_owned));
        let mut learnt: Vec<_> = servers.order().into_iter().map(|s| (s.address.host, s.tls_name)).collect();
        learnt.sort();
        let expected = [
            ("10.0.0.1", "nats.example.com"),
            ("::1", "nats.example.com"),
            ("b.example.com", "b.example.com"),
            ("nats.example.com", "nats.example.com"),
        ];
        assert_eq!(learnt, expected.map(|(host, name)| (host.to_owned(), name.to_owned())));
        servers.learn(&from, &[]);
        assert_eq!(servers.order().len(), 4);
    }
}
