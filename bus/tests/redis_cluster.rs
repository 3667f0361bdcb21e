//! Redis Cluster, with classic and with sharded pub/sub, keeps what every bus promises, also while slots move and servers die.

#![allow(clippy::unwrap_used, reason = "a test that fails may say so anywhere")]

#[path = "redis/backend.rs"]
mod backend;
mod conformance;

use std::net::SocketAddr;

use async_trait::async_trait;
use clarion_bus::{BusConfig, PubSub, SubscribeError};
use clarion_testkit::{RedisCluster, RedisServer, SilentServer, eventually, free_port, within};
use conformance::{Node, Rig, message, topic};

/// Three masters.
pub(crate) struct Cluster {
    cluster: RedisCluster,
    pubsub: PubSub,
}

impl Cluster {
    async fn start(pubsub: PubSub) -> Self {
        let builder = RedisServer::builder()
            .config("client-output-buffer-limit", "pubsub 4mb 4mb 10")
            .acl("bob on >secret ~* +@all resetchannels &clarion:free/* &_clarion:clarion:*");
        Self { cluster: RedisCluster::start_with(3, &builder).await, pubsub }
    }

    async fn ready(&self) {
        for node in self.cluster.nodes() {
            eventually("the cluster stands", async || {
                node.try_cli(&["CLUSTER", "INFO"]).await.is_ok_and(|info| info.contains("cluster_state:ok"))
            })
            .await;
        }
    }
}

#[async_trait]
impl Rig for Cluster {
    fn config(&self) -> BusConfig {
        BusConfig { url: self.cluster.url().parse().unwrap(), pubsub: self.pubsub, ..BusConfig::default() }
    }

    async fn backend(&self, channel: &str, payload: &[u8]) {
        match self.pubsub {
            PubSub::Classic => backend::publish(self.cluster.nodes()[1].addr(), "PUBLISH", channel, payload).await,
            PubSub::Sharded => {
                let owner = self.cluster.owner_of(&format!("clarion:{channel}")).await;
                backend::publish(owner.addr(), "SPUBLISH", channel, payload).await;
            }
        }
    }

    async fn restart(&mut self) -> bool {
        for node in self.cluster.nodes_mut() {
            node.restart().await;
        }
        self.ready().await;
        true
    }

    async fn stop(&mut self) -> bool {
        for node in self.cluster.nodes_mut() {
            node.kill();
        }
        true
    }

    async fn kill_connections(&self) -> bool {
        // A link that is killed here is soon at another server: there only those are killed that were there before.
        let mut subscribers = Vec::new();
        for node in self.cluster.nodes() {
            let list = node.cli(&["CLIENT", "LIST", "TYPE", "pubsub"]).await;
            let ids = list.lines().filter_map(|line| line.strip_prefix("id=")?.split_once(' '));
            subscribers.extend(ids.map(|(id, _)| (node, id.to_owned())));
        }
        for (node, id) in subscribers {
            node.cli(&["CLIENT", "KILL", "ID", &id]).await;
        }
        true
    }

    async fn restricted(&self) -> Option<BusConfig> {
        let url = format!("redis-cluster://bob:secret@{}", self.cluster.nodes()[0].addr()).parse().unwrap();
        Some(BusConfig { url, ..self.config() })
    }

    async fn server_memory(&self) -> Option<u64> {
        let mut sum = 0;
        for node in self.cluster.nodes() {
            sum += node.memory_used().await;
        }
        Some(sum)
    }

    fn patterns(&self) -> bool {
        self.pubsub == PubSub::Classic
    }

    fn slow_reader_is_cut(&self) -> bool {
        true
    }

    fn links(&self) -> u64 {
        if self.pubsub == PubSub::Classic { 1 } else { 3 }
    }

    fn url_of(&self, address: SocketAddr) -> Option<String> {
        Some(format!("redis-cluster://{address}"))
    }
}

mod classic {
    use super::{Cluster, PubSub, conformance};

    crate::suite!("redis cluster", Cluster::start(PubSub::Classic).await);
}

mod sharded {
    use super::{Cluster, PubSub, conformance};

    crate::suite!("redis sharded", Cluster::start(PubSub::Sharded).await);
}

mod logs {
    use super::{Cluster, PubSub, conformance};

    crate::log_suite!("redis cluster logs", Cluster::start(PubSub::Classic).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn patterns_are_refused_with_a_reason_where_there_are_none() {
    let rig = Cluster::start(PubSub::Sharded).await;
    let node = Node::up(&rig).await;
    for pattern in ["a/*", "a/**"] {
        let Err(SubscribeError::Refused(why)) = node.bus.subscribe(&topic(pattern)).await else { panic!("{pattern}") };
        assert!(why.contains("bus.pubsub"), "{why}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_classic_link_moves_when_its_server_dies() {
    let mut rig = Cluster::start(PubSub::Classic).await;
    let node = Node::up(&rig).await;
    node.subscribe("a").await;
    // Whichever of them it is linked to, and the one that its URL names among them.
    let mut linked = None;
    for (at, server) in rig.cluster.nodes().iter().enumerate() {
        if server.cli(&["PUBSUB", "NUMSUB", "clarion:a"]).await.ends_with('1') {
            linked = Some(at);
        }
    }
    let linked = linked.unwrap();
    rig.cluster.nodes_mut()[linked].kill();
    eventually("it is linked to another", async || {
        let mut found = false;
        for (at, server) in rig.cluster.nodes().iter().enumerate() {
            found |= at != linked && server.cli(&["PUBSUB", "NUMSUB", "clarion:a"]).await.ends_with('1');
        }
        found
    })
    .await;
    node.heard.wait_gaps(1).await;
    let other = &rig.cluster.nodes()[(linked + 1) % 3];
    eventually("a message comes through", async || {
        backend::publish(other.addr(), "PUBLISH", "a", b"x").await;
        node.heard.count() > 0
    })
    .await;
}

/// Moves one slot, with all that is subscribed in it, to another master.
async fn move_slot(cluster: &RedisCluster, slot: &str, from: usize, to: usize) {
    let mut ids = Vec::new();
    for node in cluster.nodes() {
        ids.push(node.cli(&["CLUSTER", "MYID"]).await);
    }
    let nodes = cluster.nodes();
    nodes[to].cli(&["CLUSTER", "SETSLOT", slot, "IMPORTING", &ids[from]]).await;
    nodes[from].cli(&["CLUSTER", "SETSLOT", slot, "MIGRATING", &ids[to]]).await;
    for node in [to, from, 3 - from - to] {
        nodes[node].cli(&["CLUSTER", "SETSLOT", slot, "NODE", &ids[to]]).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sharded_subscriptions_follow_their_slots() {
    let rig = Cluster::start(PubSub::Sharded).await;
    let node = Node::up(&rig).await;
    for n in 0..300 {
        node.subscribe(&format!("c/{n}")).await;
    }
    let nodes = rig.cluster.nodes();
    // Every channel whose slot is the first master's goes to the second.
    let mut moved = Vec::new();
    for n in 0..300 {
        let subject = format!("clarion:c/{n}");
        if rig.cluster.owner_of(&subject).await.port() == nodes[0].port() && moved.len() < 20 {
            let slot = nodes[0].cli(&["CLUSTER", "KEYSLOT", &subject]).await;
            move_slot(&rig.cluster, &slot, 0, 1).await;
            moved.push(n);
        }
    }
    assert_eq!(moved.len(), 20);
    node.heard.wait_gaps(1).await;
    for n in moved {
        eventually("a moved channel is heard", async || {
            // Whoever shares its slot moved along.
            let before = node.heard.count();
            let taken = node.bus.publish(message(&format!("c/{n}"), "x")).await;
            let heard = node.heard.wait(|all| all[before..].iter().any(|one| one.address == format!("c/{n}")));
            taken.is_ok() && tokio::time::timeout(std::time::Duration::from_millis(500), heard).await.is_ok()
        })
        .await;
    }
    eventually("all stand", async || node.bus.stats().subscriptions == 300).await;
    node.link_up().await;
    within("the probe", async { node.bus.probe(std::time::Duration::from_secs(20)).await }).await.unwrap();
}

/// Adds a server to the cluster as the replica of one of its masters.
async fn replica_of(cluster: &RedisCluster, master: usize) -> RedisServer {
    let replica = RedisServer::builder()
        .config("cluster-enabled", "yes")
        .config("cluster-node-timeout", "2000")
        .config("cluster-port", &free_port().to_string())
        .start()
        .await;
    let talk = replica.cli(&["CONFIG", "GET", "cluster-port"]).await;
    let talk = talk.lines().last().unwrap_or_default().to_owned();
    let master = &cluster.nodes()[master];
    master.cli(&["CLUSTER", "MEET", "127.0.0.1", &replica.port().to_string(), &talk]).await;
    let id = master.cli(&["CLUSTER", "MYID"]).await;
    eventually("it replicates", async || {
        replica.try_cli(&["CLUSTER", "REPLICATE", &id]).await.is_ok_and(|ok| ok == "OK")
    })
    .await;
    eventually("it is in step", async || replica.info("master_link_status").await == "up").await;
    // The others must know it before they may let it be elected.
    for node in cluster.nodes() {
        eventually("all know it", async || node.cli(&["CLUSTER", "NODES"]).await.contains(" slave ")).await;
    }
    replica
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shards_failover_is_followed() {
    let mut rig = Cluster::start(PubSub::Sharded).await;
    let replica = replica_of(&rig.cluster, 2).await;
    let node = Node::up(&rig).await;
    for n in 0..30 {
        node.subscribe(&format!("c/{n}")).await;
    }
    rig.cluster.nodes_mut()[2].kill();
    eventually("the replica is promoted", async || replica.info("role").await == "master").await;
    node.heard.wait_gaps(1).await;
    node.link_up().await;
    for n in 0..30 {
        node.until_heard(&format!("c/{n}"), &n.to_string()).await;
    }
    assert_eq!(node.bus.stats().subscriptions, 30);
}

/// On a cluster a replica passes on what is published as every other server does: a node that is led to one is where it should be.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_of_a_cluster_is_as_good_as_its_master() {
    let rig = Cluster::start(PubSub::Classic).await;
    let replica = replica_of(&rig.cluster, 0).await;
    let url = format!("redis-cluster://{}", replica.addr());
    let led_there = Node::with(&rig, BusConfig { url: url.parse().unwrap(), ..rig.config() }).await;
    let other = Node::up(&rig).await;
    led_there.subscribe("a").await;
    other.subscribe("a").await;
    led_there.publish("a", "from there").await;
    other.publish("a", "from elsewhere").await;
    for node in [&led_there, &other] {
        node.heard.wait_count(2).await;
    }
}

/// Seeds that swallow an attempt for longer than this test has keep nobody from the one that answers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn seeds_that_do_not_answer_keep_nobody_waiting() {
    let rig = Cluster::start(PubSub::Classic).await;
    let silent = SilentServer::start().await;
    let seeds = vec![silent.addr().to_string(); 8].join(",");
    let url = format!("redis-cluster://{seeds},{}", rig.cluster.nodes()[0].addr());
    let hour = std::time::Duration::from_secs(3600);
    let config = BusConfig { url: url.parse().unwrap(), connect_timeout: hour, ..rig.config() };
    let node = Node::with(&rig, config).await;
    node.subscribe("a").await;
    node.until_heard("a", "x").await;
}

/// The rights that the documentation asks for on a cluster.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_documented_rights_are_enough() {
    for pubsub in [PubSub::Classic, PubSub::Sharded] {
        let rig = Cluster::start(pubsub).await;
        for server in rig.cluster.nodes() {
            let rule = "carl on >secret -@all +@pubsub +cluster|slots +cluster|info resetchannels &clarion:* &_clarion:clarion:*";
            let words: Vec<_> = ["ACL", "SETUSER"].into_iter().chain(rule.split(' ')).collect();
            server.cli(&words).await;
        }
        let url = format!("redis-cluster://carl:secret@{}", rig.cluster.nodes()[0].addr());
        let node = Node::with(&rig, BusConfig { url: url.parse().unwrap(), ..rig.config() }).await;
        for channel in ["a", "b", "c", "d"] {
            node.subscribe(channel).await;
            node.until_heard(channel, channel).await;
        }
        eventually("probes go round", async || node.bus.probe(std::time::Duration::from_secs(1)).await.is_ok()).await;
        assert_eq!((node.bus.stats().reconnects, node.heard.gaps()), (0, 0), "{pubsub:?}");
    }
}
