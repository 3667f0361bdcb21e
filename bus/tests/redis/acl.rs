//! The rights that the documentation asks for are enough, and an error reply is a sign of life.

use std::time::Duration;

use clarion_bus::SubscribeError;
use clarion_testkit::{RedisBuilder, RedisServer, eventually};

use crate::{
    conformance::{Node, topic},
    node_of,
};

/// What `docs/operations.md` says that a node needs whose clients may subscribe to `c/**`.
const DOCUMENTED: &str = "-@all +@pubsub resetchannels &clarion:* &_clarion:clarion:* &clarion:c/*";

/// Somebody for `redis-cli`, since the default user may do nothing any more.
const ADMIN: &str = "admin on >root ~* &* +@all";

fn builder(rule: &str) -> RedisBuilder {
    RedisServer::builder().acl(ADMIN).acl(&format!("{rule} {DOCUMENTED}"))
}

/// What `ACL LOG` says that was refused.
async fn was_refused(server: &RedisServer, what: &str) -> bool {
    server.cli(&["--no-auth-warning", "--user", "admin", "--pass", "root", "ACL", "LOG"]).await.contains(what)
}

/// Everything that a node does, as this user.
async fn works(url: &str) -> Node {
    let node = node_of(url);
    node.link_up().await;
    let id = node.subscribe("a").await;
    node.subscribe("b").await;
    node.subscribe("c/**").await;
    node.until_heard("a", "exact").await;
    node.until_heard("c/d", "by pattern").await;
    let Err(SubscribeError::Refused(why)) = node.bus.subscribe(&topic("d/*")).await else { panic!("not in the rules") };
    assert!(why.contains("letter for letter: &clarion:d/*"), "{why}");
    node.bus.unsubscribe(id);
    eventually("it is given up", async || node.bus.stats().subscriptions == 3).await;
    eventually("probes go round", async || node.bus.probe(Duration::from_secs(1)).await.is_ok()).await;
    assert_eq!((node.bus.stats().reconnects, node.heard.gaps()), (0, 0), "{url}");
    node
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_documented_rights_are_enough_for_a_named_user() {
    let server = builder("bob on >secret").start().await;
    works(&server.url_as("bob", "secret")).await;
    let server = builder("bob on nopass").start().await;
    works(&format!("redis://bob@{}", server.addr())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_documented_rights_are_enough_for_the_default_user() {
    let server = builder("default on nopass").start().await;
    works(&format!("redis://{}", server.addr())).await;
    let server = builder("default on >secret").start().await;
    works(&format!("redis://:secret@{}", server.addr())).await;
}

/// Without `HELLO` a link asks by `PING`, which these rights forbid as well.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_ping_is_an_answer() {
    let server = builder("bob on >secret").config("rename-command", "HELLO \"\"").start().await;
    let node = works(&server.url_as("bob", "secret")).await;
    eventually("a ping was refused", async || was_refused(&server, "ping").await).await;
    node.until_heard("c/d", "after it").await;
    assert_eq!((node.bus.stats().reconnects, node.heard.gaps()), (0, 0));
}

/// A subscription that cannot be taken back stays, and nothing else suffers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_unsubscribe_costs_nobody_anything() {
    let rule = "bob on >secret -@all +subscribe +psubscribe +publish resetchannels &clarion:* &_clarion:clarion:*";
    let server = RedisServer::builder().acl(ADMIN).acl(rule).start().await;
    let node = node_of(&server.url_as("bob", "secret"));
    node.link_up().await;
    node.subscribe("b").await;
    let id = node.subscribe("a").await;
    node.bus.unsubscribe(id);
    eventually("it was refused", async || was_refused(&server, "unsubscribe").await).await;
    node.until_heard("b", "on").await;
    assert_eq!((node.bus.stats().reconnects, node.heard.gaps()), (0, 0));
}
