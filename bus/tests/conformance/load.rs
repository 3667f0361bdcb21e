//! As many interests as a busy node has.

use std::{fs, sync::Arc};

use super::*;

const INTERESTS: usize = 100_000;

/// Bytes of memory that this process holds.
fn resident() -> u64 {
    let statm = fs::read_to_string("/proc/self/statm").unwrap_or_default();
    statm.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok()).unwrap_or(0) * 4096
}

pub(crate) async fn a_hundred_thousand_interests(rig: &mut impl Rig) -> Ran {
    let node = Arc::new(Node::up(rig).await);
    let server_before = rig.server_memory().await;
    let before = resident();
    let started = std::time::SystemTime::now();
    let mut calls = tokio::task::JoinSet::new();
    // As connections come: many at once, each for itself.
    for part in 0..100 {
        let bus = node.bus.clone();
        calls.spawn(async move {
            for n in (part..INTERESTS).step_by(100) {
                bus.subscribe(&topic(&format!("users/{n}"))).await.unwrap();
            }
        });
    }
    within("all subscriptions", calls.join_all()).await;
    let took = started.elapsed().unwrap();
    let each = resident().saturating_sub(before) / INTERESTS as u64;
    let at_server = match (server_before, rig.server_memory().await) {
        (Some(before), Some(after)) => format!("{} B", after.saturating_sub(before) / INTERESTS as u64),
        _ => "nothing".to_owned(),
    };
    println!("{INTERESTS} exact interests in {took:?}; each {each} B here, {at_server} at the server");
    assert_eq!((node.bus.stats().interests, node.bus.stats().subscriptions), (INTERESTS as u64, INTERESTS as u64));
    for n in [0, 77_777, INTERESTS - 1] {
        rig.backend(&format!("users/{n}"), b"x").await;
    }
    node.heard.wait_count(3).await;
    if rig.kill_connections().await {
        let again = std::time::SystemTime::now();
        links_are_back(rig, &node, 1).await;
        node.heard.wait_gaps(1).await;
        println!("all of them stood again after {:?}", again.elapsed().unwrap());
        assert_eq!(node.bus.stats().subscriptions, INTERESTS as u64);
    }
    rig.backend("users/5", b"y").await;
    node.heard.wait_count(4).await;
    assert_eq!(node.heard.count(), 4);
    Ok(())
}
