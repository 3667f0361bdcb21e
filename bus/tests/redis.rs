//! Redis keeps what every bus promises.

#![allow(clippy::unwrap_used, reason = "a test that fails may say so anywhere")]

#[path = "redis/acl.rs"]
mod acl;
#[path = "redis/backend.rs"]
mod backend;
mod conformance;
#[path = "redis/role.rs"]
mod role;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use async_trait::async_trait;
use clarion_bus::{BusConfig, Link, Secret};
use clarion_testkit::{RedisBuilder, RedisServer, eventually, free_port, within};
use conformance::{Node, Recorder, Rig, is_lost, message};

/// One Redis server, with or without TLS.
pub(crate) struct Standalone {
    server: RedisServer,
    tls: bool,
    /// Where backends go, without TLS.
    plain: SocketAddr,
}

impl Standalone {
    async fn start() -> Self {
        let server = Self::builder().start().await;
        Self { tls: false, plain: server.addr(), server }
    }

    /// One that keeps what it is given.
    async fn keeping() -> Self {
        let server = Self::builder().config("appendonly", "yes").start().await;
        Self { tls: false, plain: server.addr(), server }
    }

    async fn with_tls() -> Self {
        let plain = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let server = Self::builder().tls().config("port", &plain.port().to_string()).start().await;
        Self { tls: true, plain, server }
    }

    fn builder() -> RedisBuilder {
        RedisServer::builder()
            .config("client-output-buffer-limit", "pubsub 4mb 4mb 10")
            .acl("alice on >sesame ~* +@all &*")
            .acl("bob on >secret ~* +@all resetchannels &clarion:free/* &_clarion:clarion:*")
    }

    fn config_as(&self, user: &str, password: &str) -> BusConfig {
        let ca_file = self.tls.then(|| self.server.ca());
        let url = self.server.url_as(user, password).parse().unwrap();
        BusConfig { url, ca_file, ..BusConfig::default() }
    }
}

#[async_trait]
impl Rig for Standalone {
    fn config(&self) -> BusConfig {
        if self.tls {
            return self.config_as("alice", "sesame");
        }
        BusConfig { url: self.server.url().parse().unwrap(), ..BusConfig::default() }
    }

    async fn backend(&self, channel: &str, payload: &[u8]) {
        backend::publish(self.plain, "PUBLISH", channel, payload).await;
    }

    async fn restart(&mut self) -> bool {
        self.server.restart().await;
        true
    }

    async fn restart_with_data(&mut self) -> bool {
        self.server.restart().await;
        true
    }

    async fn stop(&mut self) -> bool {
        self.server.kill();
        true
    }

    async fn freeze(&self, frozen: bool) -> bool {
        if frozen {
            self.server.pause()
        } else {
            self.server.resume()
        }
        true
    }

    async fn kill_connections(&self) -> bool {
        self.server.cli(&["CLIENT", "KILL", "TYPE", "pubsub"]).await;
        true
    }

    async fn restricted(&self) -> Option<BusConfig> {
        Some(self.config_as("bob", "secret"))
    }

    async fn subscriptions(&self) -> Option<u64> {
        let channels = self.server.cli(&["PUBSUB", "CHANNELS"]).await;
        let patterns = self.server.cli(&["PUBSUB", "NUMPAT"]).await;
        Some(channels.lines().filter(|line| !line.is_empty()).count() as u64 + patterns.trim().parse::<u64>().unwrap())
    }

    async fn server_memory(&self) -> Option<u64> {
        Some(self.server.memory_used().await)
    }

    fn slow_reader_is_cut(&self) -> bool {
        true
    }

    fn url_of(&self, address: SocketAddr) -> Option<String> {
        let scheme = if self.tls { "rediss" } else { "redis" };
        Some(format!("{scheme}://{address}"))
    }
}

/// A node that goes to a server of whatever kind.
fn node_of(url: &str) -> Node {
    let heard = Arc::new(Recorder::default());
    let config = BusConfig { url: url.parse().unwrap(), ..BusConfig::default() };
    Node { bus: clarion_bus::connect(&config, heard.clone()).unwrap(), heard }
}

mod standalone {
    use super::{Standalone, conformance};

    crate::suite!("redis", Standalone::start().await);
}

mod logs {
    use super::{Standalone, conformance};

    crate::log_suite!("redis logs", Standalone::keeping().await);
}

mod tls {
    use super::{Standalone, conformance};

    crate::suite!("redis", Standalone::with_tls().await);
}

/// What the server does not let in is said to be so, and never shows a secret.
#[tokio::test]
async fn a_wrong_password_is_named_and_not_shown() {
    let rig = Standalone::start().await;
    let url = rig.server.url_as("alice", "hidden").parse().unwrap();
    let node = Node::started(&rig, BusConfig { url, ..BusConfig::default() });
    let mut link = node.bus.link();
    let down = link.wait_for(|link| matches!(link, Link::Down(Some(_))));
    let Link::Down(Some(why)) = within("a reason", down).await.unwrap().clone() else { unreachable!() };
    assert!(why.contains("WRONGPASS") && !why.contains("hidden"), "{why}");
}

#[tokio::test]
async fn the_password_may_come_apart_from_the_url() {
    let rig = Standalone::start().await;
    let url = format!("redis://alice@{}", rig.server.addr()).parse().unwrap();
    let node = Node::with(&rig, BusConfig { url, password: Some(Secret::new("sesame")), ..BusConfig::default() }).await;
    node.subscribe("a").await;
    let clients = rig.server.cli(&["CLIENT", "LIST", "TYPE", "pubsub"]).await;
    assert!(clients.contains("name=clarion") && clients.contains("user=alice"), "{clients}");
}

/// Who stood and is forbidden later hears of it when it stands again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_right_that_is_taken_away_and_given_back() {
    let rig = Standalone::start().await;
    let node = Node::with(&rig, rig.config_as("bob", "secret")).await;
    node.subscribe("free/a").await;
    rig.server.cli(&["ACL", "SETUSER", "bob", "resetchannels", "&_clarion:clarion:*"]).await;
    eventually("it is refused", async || node.bus.stats().refused == 1).await;
    node.link_up().await;
    let gaps = node.heard.gaps();
    rig.server.cli(&["ACL", "SETUSER", "bob", "&clarion:free/*"]).await;
    node.heard.wait_gaps(gaps + 1).await;
    assert_eq!((node.bus.stats().refused, node.bus.stats().subscriptions), (0, 1));
    node.until_heard("free/a", "back").await;
}

#[tokio::test]
async fn a_bus_without_rights_to_its_own_subjects_says_so() {
    let rig = Standalone::start().await;
    rig.server.cli(&["ACL", "SETUSER", "carl", "on", ">x", "~*", "+@all", "resetchannels", "&clarion:*"]).await;
    let node = Node::started(&rig, rig.config_as("carl", "x"));
    let mut link = node.bus.link();
    let told = link.wait_for(|link| matches!(link, Link::Down(Some(why)) if why.contains("&_clarion:clarion:*")));
    within("a reason", told).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silence_is_noticed_by_the_link_itself() {
    let rig = Standalone::start().await;
    let node = Node::with(&rig, BusConfig { command_timeout: Duration::from_millis(500), ..rig.config() }).await;
    node.subscribe("a").await;
    rig.server.pause();
    let mut link = node.bus.link();
    let told = link.wait_for(|link| matches!(link, Link::Down(Some(why)) if why.contains("silent")));
    within("it is said", told).await.unwrap();
    rig.server.resume();
    node.heard.wait_gaps(1).await;
    node.until_heard("a", "after").await;
}

#[test]
fn a_file_that_is_not_there_is_a_mistake() {
    let config = BusConfig {
        url: "rediss://localhost".parse().unwrap(),
        ca_file: Some("/nowhere/ca.pem".into()),
        ..BusConfig::default()
    };
    let error = clarion_bus::connect(&config, Arc::new(Recorder::default())).err().unwrap();
    assert_eq!((error.key, error.value.as_str()), ("bus.ca_file", "/nowhere/ca.pem"));
}

/// Whoever publishes when the server has just died is not kept waiting for an answer that cannot come.
#[tokio::test]
async fn a_dead_server_is_told_of_at_once() {
    let mut rig = Standalone::start().await;
    let node = Node::with(&rig, BusConfig { command_timeout: Duration::from_secs(600), ..rig.config() }).await;
    node.publish("a", "before").await;
    rig.stop().await;
    for _ in 0..50 {
        let answer = within("an answer", node.bus.publish(message("a", "into the void"))).await;
        assert!(is_lost(&answer), "{answer:?}");
    }
    rig.restart().await;
    eventually("it is taken again", async || node.bus.publish(message("a", "after")).await.is_ok()).await;
}

/// Whoever may publish can write any name, and a pattern matches it: no node loses its link, or its memory, to one.
#[tokio::test]
async fn a_name_that_no_channel_has_is_passed_over() {
    let rig = Standalone::start().await;
    let node = Node::up(&rig).await;
    node.subscribe("a/*").await;
    let name = format!("a/{}", "x".repeat(300_000));
    rig.backend(&name, &[b'y'; 200_000]).await;
    rig.backend(&name, b"short").await;
    rig.backend("a/b", b"after").await;
    node.heard.wait_count(1).await;
    assert_eq!(node.heard.texts(), ["after"]);
    let stats = node.bus.stats();
    assert_eq!((stats.foreign, stats.reconnects, node.heard.gaps()), (2, 0, 0));
}
