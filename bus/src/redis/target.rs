//! Where the subscriber link goes: to the one server, to whichever the Sentinels call master, or to some node of a cluster.

use std::{collections::BTreeSet, future::pending, time::Duration};

use rand::seq::SliceRandom as _;

use super::{
    dial::{Connection, Credentials, DialError},
    role::Role,
    wire::Reply,
};
use crate::{HostPort, RedisMode, RedisUrl, race::race};

/// How often the Sentinels are asked whether the master is still the one this node is linked to (a failover usually
/// closes the link by itself; this is for the master that was cut off from everybody but us), and a server whose link
/// cannot ask any more is asked by a connection of its own what it is.
const MASTER_CHECK: Duration = Duration::from_secs(2);

/// Where to go, and what was learnt about it.
#[derive(Debug)]
pub(crate) struct Target {
    kind: Kind,
    credentials: Credentials,
}

#[derive(Debug)]
enum Kind {
    Server(HostPort),
    Sentinel { sentinels: Vec<HostPort>, master: String, credentials: Credentials },
    Cluster { seeds: Vec<HostPort>, nodes: BTreeSet<HostPort> },
}

impl Target {
    /// The target of a URL.
    pub(crate) fn new(url: &RedisUrl, credentials: Credentials) -> Self {
        let kind = match &url.mode {
            RedisMode::Standalone => Kind::Server(url.servers[0].clone()),
            RedisMode::Sentinel { master, user, password } => Kind::Sentinel {
                sentinels: url.servers.clone(),
                master: master.clone(),
                credentials: Credentials { user: user.clone(), password: password.clone(), ..credentials.clone() },
            },
            RedisMode::Cluster => Kind::Cluster { seeds: url.servers.clone(), nodes: BTreeSet::new() },
        };
        Self { kind, credentials }
    }

    /// One particular server.
    pub(crate) fn server(server: HostPort, credentials: Credentials) -> Self {
        Self { kind: Kind::Server(server), credentials }
    }

    /// Whether a server that is a replica is the wrong one. On a Cluster each server passes on to all the others what is
    /// published at it, so any of them will do.
    pub(crate) fn wants_master(&self) -> bool {
        !matches!(self.kind, Kind::Cluster { .. })
    }

    /// Connects. One attempt; whoever calls waits before the next. Servers that could be the one are tried side by side.
    pub(crate) async fn dial(&mut self) -> Result<Connection, DialError> {
        let credentials = &self.credentials;
        match &mut self.kind {
            Kind::Server(server) => Connection::open_master(server, credentials).await,
            // During a failover the Sentinels may still name the old one.
            Kind::Sentinel { sentinels, master, credentials: of_sentinels } => {
                let server = ask_for_master(sentinels, master, of_sentinels).await?;
                Connection::open_master(&server, credentials).await
            }
            Kind::Cluster { seeds, nodes } => {
                let mut all: Vec<_> = nodes.iter().chain(seeds.iter()).collect();
                all.shuffle(&mut rand::rng());
                let attempt = async |node: &HostPort| {
                    let mut connection = Connection::open(node, credentials).await?;
                    let topology = Topology::ask(&mut connection).await?;
                    Ok((connection, topology.nodes))
                };
                let (connection, known) = race(all, attempt).await.expect("a URL names at least one server")?;
                // Those that have left the cluster for good are forgotten with this.
                *nodes = known;
                Ok(connection)
            }
        }
    }

    /// Returns when the link should go elsewhere than to `server`, and says why. Cancel safe.
    pub(crate) async fn moved(&self, server: &HostPort, asks_itself: bool) -> String {
        loop {
            tokio::time::sleep(MASTER_CHECK).await;
            match &self.kind {
                Kind::Sentinel { sentinels, master, credentials } => {
                    if ask_for_master(sentinels, master, credentials).await.is_ok_and(|now| now != *server) {
                        return "another server is the master".to_owned();
                    }
                }
                Kind::Server(_) if !asks_itself => {
                    let asked = Connection::open(server, &self.credentials).await;
                    if asked.is_ok_and(|connection| connection.role == Role::Replica) {
                        return DialError::Replica(server.clone()).to_string();
                    }
                }
                Kind::Server(_) | Kind::Cluster { .. } => pending::<()>().await,
            }
        }
    }
}

/// Asks the Sentinels, in any order, until one knows.
async fn ask_for_master(
    sentinels: &[HostPort],
    master: &str,
    credentials: &Credentials,
) -> Result<HostPort, DialError> {
    let mut shuffled: Vec<_> = sentinels.iter().collect();
    shuffled.shuffle(&mut rand::rng());
    let ask = async |sentinel: &HostPort| match ask_sentinel(sentinel, master, credentials).await {
        Ok(Some(server)) => Ok(server),
        Ok(None) => Err(format!("{sentinel} knows none")),
        Err(error) => Err(error.to_string()),
    };
    let asked = race(shuffled, ask).await.expect("a URL names at least one server");
    asked.map_err(|why| DialError::NoMaster(master.to_owned(), why))
}

async fn ask_sentinel(
    sentinel: &HostPort,
    master: &str,
    credentials: &Credentials,
) -> Result<Option<HostPort>, DialError> {
    let mut connection = Connection::open(sentinel, credentials).await?;
    let answer = connection.ask(&["SENTINEL", "GET-MASTER-ADDR-BY-NAME", master]).await?;
    let answer = connection.fine(answer)?;
    let [host, port] = answer.as_array().unwrap_or_default() else { return Ok(None) };
    let port = port.as_str().and_then(|port| port.parse().ok());
    Ok(host.as_str().zip(port).map(|(host, port)| HostPort { host: host.to_owned(), port }))
}

/// Who serves which slots of a cluster.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Topology {
    /// Ranges of slots, both ends included, and their master.
    pub(crate) masters: Vec<(u16, u16, HostPort)>,
    /// Masters and replicas.
    pub(crate) nodes: BTreeSet<HostPort>,
}

impl Topology {
    /// Asks a node of the cluster.
    pub(crate) async fn ask(connection: &mut Connection) -> Result<Self, DialError> {
        let answer = connection.ask(&["CLUSTER", "SLOTS"]).await?;
        let answer = connection.fine(answer)?;
        Ok(Self::read(&answer, &connection.server))
    }

    /// Reads the answer of `CLUSTER SLOTS`; what cannot be read is passed over.
    fn read(answer: &Reply, asked: &HostPort) -> Self {
        let mut topology = Self::default();
        for range in answer.as_array().unwrap_or_default() {
            let [from, to, nodes @ ..] = range.as_array().unwrap_or_default() else { continue };
            let slot = |reply: &Reply| reply.as_number().and_then(|slot| u16::try_from(slot).ok());
            let nodes: Vec<_> = nodes.iter().filter_map(|node| Self::node(node, asked)).collect();
            if let (Some(from), Some(to), Some(master)) = (slot(from), slot(to), nodes.first()) {
                topology.masters.push((from, to, master.clone()));
            }
            topology.nodes.extend(nodes);
        }
        topology
    }

    /// A node that does not know its own address means the one that was used to ask it.
    fn node(node: &Reply, asked: &HostPort) -> Option<HostPort> {
        let [host, port, ..] = node.as_array()? else { return None };
        let host = host.as_str().filter(|host| !host.is_empty() && *host != "?").unwrap_or(&asked.host);
        let port = u16::try_from(port.as_number()?).ok()?;
        Some(HostPort { host: host.to_owned(), port })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cluster_describes_itself() {
        let node = |host: &str, port| {
            Reply::Array(vec![
                Reply::Bytes(host.as_bytes().to_vec()),
                Reply::Number(port),
                Reply::Bytes(b"id".to_vec()),
            ])
        };
        let range =
            |from, to, nodes: Vec<Reply>| Reply::Array([vec![Reply::Number(from), Reply::Number(to)], nodes].concat());
        let answer = Reply::Array(vec![
            range(0, 8191, vec![node("a", 1), node("b", 2)]),
            range(8192, 16_383, vec![node("", 3)]),
            Reply::Null,
        ]);
        let server = |host: &str, port| HostPort { host: host.to_owned(), port };
        let topology = Topology::read(&answer, &server("asked", 9));
        assert_eq!(topology.masters, [(0, 8191, server("a", 1)), (8192, 16_383, server("asked", 3))]);
        assert_eq!(topology.nodes.len(), 3);
    }
}
