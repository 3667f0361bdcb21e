//! Several servers: what is done when one of them dies or leaves.

use std::{collections::HashMap, time::Duration};

use clarion_bus::BusConfig;
use clarion_testkit::{NatsCluster, NatsServer, SilentServer, TcpProxy, eventually};

use crate::kit::{Node, config};

/// How many connections of ours each server has, by the name they gave.
async fn connections(server: &NatsServer) -> HashMap<String, usize> {
    let page = server.monitor("connz").await;
    let mut names = HashMap::new();
    for connection in page["connections"].as_array().unwrap() {
        *names.entry(connection["name"].as_str().unwrap_or_default().to_owned()).or_default() += 1;
    }
    names
}

/// The one server that has both connections of the node.
async fn home(cluster: &NatsCluster) -> usize {
    eventually("both connections are at one server", async || {
        for (at, server) in cluster.nodes().iter().enumerate() {
            if connections(server).await.len() == 2 {
                return Some(at);
            }
        }
        None
    })
    .await
}

#[tokio::test]
async fn a_node_prefers_one_server_and_finds_another_when_it_dies() {
    let mut cluster = NatsCluster::start(3).await;
    let node = Node::up(&config(&cluster.url())).await;
    let other = Node::up(&config(&cluster.url())).await;
    node.subscribe("a").await;
    for (at, server) in cluster.nodes().iter().enumerate() {
        let names = connections(server).await;
        assert_eq!(names.get("test-node"), names.get("test-node (publisher)"), "{at}: {names:?}");
    }
    // Whichever servers die, the third one is found.
    cluster.nodes_mut()[0].kill();
    cluster.nodes_mut()[1].kill();
    eventually("both came to the third", async || {
        connections(&cluster.nodes()[2]).await
            == HashMap::from([("test-node".into(), 2), ("test-node (publisher)".into(), 2)])
    })
    .await;
    node.wait_up().await;
    other.wait_up().await;
    other.publish("a", "x").await;
    node.take(1).await;
}

#[tokio::test]
async fn both_connections_of_a_node_go_the_same_way() {
    let mut cluster = NatsCluster::start(3).await;
    let node = Node::up(&config(&cluster.url())).await;
    node.subscribe("a").await;
    let first = home(&cluster).await;
    cluster.nodes_mut()[first].kill();
    cluster.nodes_mut()[first].restart().await;
    eventually("the gap is told of", async || node.gaps() == 1).await;
    home(&cluster).await;
    node.wait_up().await;
    node.publish("a", "x").await;
    node.take(1).await;
}

#[tokio::test]
async fn other_servers_are_learnt() {
    let mut cluster = NatsCluster::start(3).await;
    let node = Node::up(&config(&cluster.nodes()[0].url())).await;
    node.subscribe("a").await;
    cluster.nodes_mut()[0].kill();
    eventually("the gap is told of", async || node.gaps() == 1).await;
    node.wait_up().await;
    node.publish("a", "x").await;
    node.take(1).await;
}

#[tokio::test]
async fn a_lame_duck_is_left_before_it_dies() {
    let cluster = NatsCluster::start(2).await;
    let node = Node::up(&config(&cluster.url())).await;
    node.subscribe("a").await;
    let home = home(&cluster).await;
    cluster.nodes()[home].lame_duck();
    // Publishing goes on without a break: the new connection stands before the old one goes.
    eventually("both connections have moved", async || {
        node.publish("b", "x").await;
        (connections(&cluster.nodes()[1 - home]).await.len() == 2).then_some(())
    })
    .await;
    eventually("the gap is told of", async || node.gaps() == 1).await;
    node.wait_up().await;
    node.publish("a", "x").await;
    node.take(1).await;
}

/// What a cluster advertises may be reached by nobody but its own servers, and takes an attempt's whole time: here longer
/// than this test has. What the URL says is found again all the same.
#[tokio::test]
async fn advertised_addresses_that_nobody_reaches_keep_nobody_waiting() {
    let (silent, other) = (SilentServer::start().await, SilentServer::start().await);
    let advertised = format!("client_advertise: \"{}\"", silent.addr());
    let cluster = NatsCluster::start_with(3, &NatsServer::builder().config(&advertised)).await;
    let proxy = TcpProxy::start(cluster.nodes()[0].addr()).await;
    let url = format!("nats://{},{}", other.addr(), proxy.addr());
    let hour = Duration::from_secs(3600);
    let node = Node::up(&BusConfig { connect_timeout: hour, ..config(&url) }).await;
    node.subscribe("a").await;
    proxy.drop_connections();
    eventually("the gap is told of", async || node.gaps() == 1).await;
    node.wait_up().await;
    node.publish("a", "x").await;
    node.take(1).await;
}

#[tokio::test]
async fn advertised_addresses_can_be_ignored() {
    let silent = SilentServer::start().await;
    let advertised = format!("client_advertise: \"{}\"", silent.addr());
    let cluster = NatsCluster::start_with(2, &NatsServer::builder().config(&advertised)).await;
    let proxy = TcpProxy::start(cluster.nodes()[0].addr()).await;
    let node = Node::up(&BusConfig { nats_advertised: false, ..config(&format!("nats://{}", proxy.addr())) }).await;
    // A gap is told of what may be missing, so there must be something.
    node.subscribe("a").await;
    for gaps in 1..4 {
        // Where it is listened to, a lost connection makes the advertised address the first to be tried.
        proxy.drop_connections();
        eventually("the gap is told of", async || node.gaps() == gaps).await;
        node.wait_up().await;
    }
    assert_eq!(silent.accepted(), 0);
}
