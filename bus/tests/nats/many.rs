//! A hundred thousand users on one node.

use std::fs;

use clarion_testkit::{NatsServer, eventually, within};
use futures_util::StreamExt as _;
use tokio::time::Instant;

use crate::kit::{Node, config, topic};

const MANY: usize = 100_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_thousand_exact_interests() {
    let mut server = NatsServer::start().await;
    let node = Node::up(&config(&server.url())).await;
    let (ours, theirs) = (resident("self"), resident(&server.process().pid().to_string()));
    let started = Instant::now();
    let ids: Vec<_> = futures_util::stream::iter(0..MANY)
        .map(|n| {
            let bus = node.bus.clone();
            async move { bus.subscribe(&topic(&format!("users/{n}"))).await.unwrap() }
        })
        .buffer_unordered(5_000)
        .collect()
        .await;
    let took = started.elapsed();
    let (ours, theirs) = (resident("self") - ours, resident(&server.process().pid().to_string()) - theirs);
    println!("{MANY} interests: {took:?}, node {} B each, server {} B each", ours / MANY, theirs / MANY);
    assert_eq!(node.bus.stats().subscriptions, MANY as u64);
    let listed = server.monitor("varz").await["subscriptions"].as_u64().unwrap();
    assert!(listed >= MANY as u64, "{listed}");
    node.publish("users/99999", "x").await;
    assert_eq!(node.take(1).await[0].interests.len(), 1);
    let started = Instant::now();
    server.restart().await;
    let restarted = started.elapsed();
    eventually("the gap is told of", async || node.gaps() == 1).await;
    node.wait_up().await;
    println!("restart {restarted:?}, all stand again after {:?}", started.elapsed());
    node.publish("users/0", "x").await;
    node.take(1).await;
    for id in ids {
        node.bus.unsubscribe(id);
    }
    assert_eq!(node.bus.stats().interests, 0);
    within("closing", node.bus.close()).await;
}

/// Resident bytes of a process.
fn resident(process: &str) -> usize {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse::<usize>().unwrap() * 1024
}
