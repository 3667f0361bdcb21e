//! `nodes` and `home`: who is in the cluster, and who of them is a user's home.

use std::time::Duration;

use clarion_protocol::Uid;
use clarion_ring::{SLOTS, slot_of};
use serde_json::{Value, json};

use crate::{context::Context, failure::Failure, members::Cluster, output::table};

/// Lists the nodes.
pub(crate) async fn nodes(context: &Context, listen: Duration) -> Result<(), Failure> {
    let cluster = Cluster::see(context, listen).await?;
    let text = if cluster.members.is_empty() {
        "no node says that it lives".to_owned()
    } else {
        let rows: Vec<_> = cluster.members.iter().map(|member| row(&cluster, &member.node)).collect();
        table(["NODE", "SHARE", "WEIGHT", "CONNECTIONS", "VERSION", "ADVERTISE", "PUBLIC URL"], &rows)
    };
    context.output.result(text, &value(&cluster))?;
    for warning in warnings(&cluster) {
        context.output.note(&warning);
    }
    Ok(())
}

/// Says who a user's home is.
pub(crate) async fn home(context: &Context, user: &Uid, listen: Duration) -> Result<(), Failure> {
    let cluster = Cluster::see(context, listen).await?;
    let Some(home) = cluster.ring.home(user.as_str()) else {
        return Err(Failure::unavailable("no node says that it lives, so nobody is a home")
            .remedy("start a broker on this bus; where heartbeats are slow, listen for longer with --listen 5s"));
    };
    let slot = slot_of(user.as_str());
    let member = cluster.member(home);
    let value = json!({
        "user": user.as_str(),
        "slot": slot.number(),
        "node": home,
        "advertise": member.and_then(|member| member.advertise.as_deref()),
        "public_url": member.and_then(|member| member.public_url.as_deref()),
        "ring": cluster.ring.identity().to_string(),
    });
    let text = format!("{home}  (user {user}, slot {slot}, ring {})", cluster.ring.identity());
    context.output.result(text, &value)?;
    for warning in warnings(&cluster) {
        context.output.note(&warning);
    }
    Ok(())
}

fn row(cluster: &Cluster, node: &clarion_protocol::NodeName) -> [String; 7] {
    let member = cluster.member(node.as_str()).expect("rows are made of members");
    let share = cluster.ring.slots_of(node.as_str()) as f64 / SLOTS as f64 * 100.0;
    let or_dash = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
    [
        node.to_string(),
        if member.leaving { "leaving".to_owned() } else { format!("{share:.1} %") },
        member.weight.to_string(),
        member.connections.to_string(),
        member.version.clone(),
        or_dash(&member.advertise),
        or_dash(&member.public_url),
    ]
}

fn value(cluster: &Cluster) -> Value {
    let members: Vec<Value> = cluster
        .members
        .iter()
        .map(|member| {
            let mut value = json!(member);
            value["slots"] = json!(cluster.ring.slots_of(member.node.as_str()));
            value
        })
        .collect();
    json!({ "ring": cluster.ring.identity().to_string(), "agreed": warnings(cluster).is_empty(), "members": members })
}

/// What is odd about a cluster. Each of these passes within seconds while members come and go.
pub(crate) fn warnings(cluster: &Cluster) -> Vec<String> {
    let mut warnings = Vec::new();
    let ring = cluster.ring.identity().to_string();
    for name in &cluster.contested {
        warnings.push(format!("two processes call themselves {name}: give each its own --node"));
    }
    for name in cluster.dissenters() {
        warnings.push(format!(
            "{name} sees another ring than {ring}: it does not hear all members, or is of another release"
        ));
    }
    if let Some(told) = cluster.told.as_ref().filter(|told| **told != ring) {
        warnings
            .push(format!("the broker has the ring {told}, and its members make {ring}: is `clarion` of its release?"));
    }
    warnings
}
