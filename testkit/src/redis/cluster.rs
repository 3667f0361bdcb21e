//! A Redis Cluster on this machine.

use super::{RedisBuilder, RedisServer};
use crate::{process::free_port, wait::eventually};

/// Hash slots of a Redis Cluster.
const SLOTS: usize = 16_384;

/// Masters that share the slots evenly, without replicas.
#[derive(Debug)]
pub struct RedisCluster {
    nodes: Vec<RedisServer>,
}

impl RedisCluster {
    /// Starts and joins that many masters, three at least, and waits until each of them knows all.
    ///
    /// # Panics
    /// When the cluster does not come up.
    pub async fn start(masters: usize) -> Self {
        Self::start_with(masters, &RedisBuilder::default()).await
    }

    /// The same with servers of another kind (no password, no TLS: their joining is not prepared for it).
    ///
    /// # Panics
    /// When the cluster does not come up.
    pub async fn start_with(masters: usize, builder: &RedisBuilder) -> Self {
        let mut nodes = Vec::with_capacity(masters);
        for _ in 0..masters {
            // The port of the cluster's own talk is ours to choose: by default it would be the port plus 10,000.
            let node = builder.clone().config("cluster-enabled", "yes").config("cluster-node-timeout", "2000");
            nodes.push(node.config("cluster-port", &free_port().to_string()).start().await);
        }
        let cluster = Self { nodes };
        cluster.join().await;
        cluster
    }

    async fn join(&self) {
        let count = self.nodes.len();
        for (number, node) in self.nodes.iter().enumerate() {
            let (first, next) = (number * SLOTS / count, (number + 1) * SLOTS / count);
            let (first, last) = (first.to_string(), (next - 1).to_string());
            node.cli(&["CLUSTER", "ADDSLOTSRANGE", &first, &last]).await;
            node.cli(&["CLUSTER", "SET-CONFIG-EPOCH", &(number + 1).to_string()]).await;
        }
        for node in &self.nodes[1..] {
            let port = node.port().to_string();
            let talk = node.cli(&["CONFIG", "GET", "cluster-port"]).await;
            let talk = talk.lines().last().unwrap_or_default().to_owned();
            self.nodes[0].cli(&["CLUSTER", "MEET", "127.0.0.1", &port, &talk]).await;
        }
        let known = format!("cluster_known_nodes:{count}");
        for node in &self.nodes {
            eventually("the cluster stands", async || {
                let info = node.cli(&["CLUSTER", "INFO"]).await;
                info.contains("cluster_state:ok") && info.contains(&known)
            })
            .await;
        }
    }

    /// `redis-cluster://127.0.0.1:<port of the first>`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("redis-cluster://127.0.0.1:{}", self.nodes[0].port())
    }

    /// The servers.
    #[must_use]
    pub fn nodes(&self) -> &[RedisServer] {
        &self.nodes
    }

    /// The servers, to be killed and started.
    pub fn nodes_mut(&mut self) -> &mut [RedisServer] {
        &mut self.nodes
    }

    /// The server that owns a key's or sharded channel's slot.
    ///
    /// # Panics
    /// When the server does not say.
    pub async fn owner_of(&self, key: &str) -> &RedisServer {
        let slot = self.nodes[0].cli(&["CLUSTER", "KEYSLOT", key]).await;
        let slot: usize = slot.parse().expect("a slot is a number");
        let count = self.nodes.len();
        let owner = (0..count).find(|number| slot < (number + 1) * SLOTS / count);
        &self.nodes[owner.expect("every slot has an owner")]
    }
}
