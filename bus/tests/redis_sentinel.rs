//! Redis under Sentinel keeps what every bus promises, and follows a failover.

#![allow(clippy::unwrap_used, reason = "a test that fails may say so anywhere")]

#[path = "redis/backend.rs"]
mod backend;
mod conformance;

use std::net::SocketAddr;

use async_trait::async_trait;
use clarion_bus::BusConfig;
use clarion_testkit::{RedisSentinel, eventually};
use conformance::{Node, Rig};
use tokio::sync::Mutex;

/// A master, a replica and three Sentinels.
pub(crate) struct Sentinel(Mutex<RedisSentinel>, String);

impl Sentinel {
    async fn start() -> Self {
        let sentinel = RedisSentinel::start().await;
        let url = sentinel.url();
        Self(Mutex::new(sentinel), url)
    }
}

#[async_trait]
impl Rig for Sentinel {
    fn config(&self) -> BusConfig {
        BusConfig { url: self.1.parse().unwrap(), ..BusConfig::default() }
    }

    async fn backend(&self, channel: &str, payload: &[u8]) {
        let address = self.0.lock().await.master().await.addr();
        backend::publish(address, "PUBLISH", channel, payload).await;
    }

    async fn kill_connections(&self) -> bool {
        self.0.lock().await.master().await.cli(&["CLIENT", "KILL", "TYPE", "pubsub"]).await;
        true
    }

    fn url_of(&self, address: SocketAddr) -> Option<String> {
        Some(format!("redis-sentinel://{address}/mymaster"))
    }
}

suite!("redis sentinel", Sentinel::start().await);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failover_is_followed() {
    let rig = Sentinel::start().await;
    let node = Node::up(&rig).await;
    node.subscribe("a").await;
    node.until_heard("a", "before").await;
    rig.0.lock().await.fail_over().await;
    node.heard.wait_gaps(1).await;
    node.link_up().await;
    node.until_heard("a", "after").await;
    rig.backend("a", b"from a backend").await;
    eventually("the new master is heard", async || node.heard.texts().contains(&"from a backend".to_owned())).await;
}

/// A master that only this node still reaches is left when the Sentinels name another.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_master_that_was_replaced_is_left() {
    let rig = Sentinel::start().await;
    let node = Node::up(&rig).await;
    node.subscribe("a").await;
    let old = rig.0.lock().await.master().await.addr();
    {
        let rig = rig.0.lock().await;
        rig.sentinels()[0].cli(&["SENTINEL", "FAILOVER", rig.service()]).await;
    }
    eventually("another is master", async || rig.0.lock().await.master().await.addr() != old).await;
    node.heard.wait_gaps(1).await;
    node.link_up().await;
    rig.backend("a", b"x").await;
    node.heard.wait_count(1).await;
}
