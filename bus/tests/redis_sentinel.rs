//! Redis under Sentinel keeps what every bus promises, and follows a failover.

#![allow(clippy::unwrap_used, reason = "a test that fails may say so anywhere")]

#[path = "redis/backend.rs"]
mod backend;
mod conformance;

use std::net::SocketAddr;

use async_trait::async_trait;
use clarion_bus::BusConfig;
use clarion_testkit::{RedisSentinel, SilentServer, eventually};
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

mod logs {
    use super::{Sentinel, conformance};

    crate::log_suite!("redis sentinel logs", Sentinel::start().await);
}

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

/// Sentinels that swallow an attempt for longer than this test has, and a user who may do nothing but publish and subscribe.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sentinels_that_do_not_answer_and_rights_that_are_few() {
    let rig = Sentinel::start().await;
    let silent = SilentServer::start().await;
    let rule = "carl on >secret -@all +@pubsub resetchannels &clarion:* &_clarion:clarion:*";
    let words: Vec<_> = ["ACL", "SETUSER"].into_iter().chain(rule.split(' ')).collect();
    let sentinels = vec![silent.addr().to_string(); 8].join(",");
    let url = {
        let mut set = rig.0.lock().await;
        set.master().await.cli(&words).await;
        format!("redis-sentinel://carl:secret@{sentinels},{}/{}", set.sentinels()[0].addr(), set.service())
    };
    let hour = std::time::Duration::from_secs(3600);
    let node = Node::with(&rig, BusConfig { url: url.parse().unwrap(), connect_timeout: hour, ..rig.config() }).await;
    node.subscribe("a").await;
    node.until_heard("a", "x").await;
    assert_eq!((node.bus.stats().reconnects, node.heard.gaps()), (0, 0));
}
