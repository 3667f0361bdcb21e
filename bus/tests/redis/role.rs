//! A replica takes what a master takes and passes it on to nobody: a node that goes to one is not connected, says why, and
//! comes back by itself once a master answers there.

use std::time::Duration;

use clarion_bus::{Link, ProbeError, PublishError};
use clarion_testkit::{RedisBuilder, RedisServer, eventually, within};

use crate::{
    conformance::{Node, message},
    node_of,
};

/// Waits until the link says that its server is a replica, and that nothing is taken meanwhile.
async fn finds_a_replica(node: &Node) {
    let mut link = node.bus.link();
    let told = link.wait_for(|link| matches!(link, Link::Down(Some(why)) if why.contains("is a replica")));
    within("it is said that this is a replica", told).await.unwrap();
    let refused = node.bus.publish(message("a", "into the void")).await;
    assert!(matches!(&refused, Err(PublishError::NotTaken(why)) if why.contains("is a replica")), "{refused:?}");
    assert_eq!(node.bus.probe(Duration::from_secs(1)).await, Err(ProbeError::Down));
}

/// Through all that can happen to a server of this kind.
async fn follows_the_master(builder: RedisBuilder) {
    let master = RedisServer::start().await;
    let port = master.port().to_string();
    let server = builder.config("replicaof", &format!("127.0.0.1 {port}")).start().await;
    let node = node_of(&server.url());
    finds_a_replica(&node).await;

    server.cli(&["REPLICAOF", "NO", "ONE"]).await;
    node.link_up().await;
    node.subscribe("a").await;
    node.until_heard("a", "as a master").await;

    let gaps = node.heard.gaps();
    server.cli(&["REPLICAOF", "127.0.0.1", &port]).await;
    finds_a_replica(&node).await;
    server.cli(&["REPLICAOF", "NO", "ONE"]).await;
    node.link_up().await;
    node.heard.wait_gaps(gaps + 1).await;
    node.until_heard("a", "as a master again").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_is_no_server_until_it_is_the_master() {
    follows_the_master(RedisServer::builder()).await;
}

/// Before Redis 6 there was no `HELLO`, and a link that has subscribed could ask nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn also_where_a_link_cannot_ask() {
    follows_the_master(RedisServer::builder().config("rename-command", "HELLO \"\"")).await;
}

/// Who may do nothing but publish and subscribe is told all the same. The tests themselves are somebody else.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn also_for_a_user_without_rights_to_ask() {
    let rule = "bob on >secret -@all +@pubsub resetchannels &clarion:* &_clarion:clarion:*";
    let master = RedisServer::start().await;
    let server = RedisServer::builder().acl(rule).start().await;
    let node = node_of(&server.url_as("bob", "secret"));
    node.link_up().await;
    server.cli(&["REPLICAOF", "127.0.0.1", &master.port().to_string()]).await;
    finds_a_replica(&node).await;
    server.cli(&["REPLICAOF", "NO", "ONE"]).await;
    node.link_up().await;
    eventually("it relays", async || node.bus.probe(Duration::from_secs(1)).await.is_ok()).await;
}
