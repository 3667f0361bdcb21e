//! Who is in the cluster: heard on the bus, or told by a broker.

use std::{collections::BTreeMap, time::Duration};

use clarion_bus::Delivery;
use clarion_protocol::{
    NodeName,
    control::{self, Heartbeat},
};
use clarion_ring::{Member, Ring};
use serde::Deserialize;
use serde_json::Value;
use tokio::time::{Instant, timeout_at};

use crate::{
    context::Context,
    failure::Failure,
    via::{
        Http, Via,
        bus::{Bus, Event},
    },
};

/// The cluster as it looks from here.
#[derive(Debug)]
pub(crate) struct Cluster {
    /// Sorted by name.
    pub(crate) members: Vec<Heartbeat>,
    /// The ring that those make who are not leaving.
    pub(crate) ring: Ring,
    /// The ring that the broker which was asked has; over a bus nobody was.
    pub(crate) told: Option<String>,
    /// Names that several processes claim.
    pub(crate) contested: Vec<NodeName>,
}

/// What the broker's method `info` says, as far as it matters here.
#[derive(Debug, Deserialize)]
struct Info {
    members: Vec<Heartbeat>,
    #[serde(default)]
    ring: Option<String>,
}

impl Cluster {
    /// Asks a broker, or listens on the bus for as long as `listen`.
    pub(crate) async fn see(context: &Context, listen: Duration) -> Result<Self, Failure> {
        match &context.via {
            Via::Http(url) => Self::told_by(&Http::new(context, url)?.rpc("info").await?),
            Via::Bus(target) => {
                let mut bus = Bus::connect(context, target).await?;
                let cluster = Self::heard_on(&mut bus, listen).await;
                bus.close().await;
                cluster
            }
        }
    }

    /// Reads the answer to `info`.
    pub(crate) fn told_by(info: &Value) -> Result<Self, Failure> {
        let info = Info::deserialize(info)
            .map_err(|error| Failure::internal(format!("the broker's `info` cannot be read: {error}")))?;
        Self::of(info.members, info.ring)
    }

    /// Listens to heartbeats, which every node sends once a second.
    pub(crate) async fn heard_on(bus: &mut Bus, listen: Duration) -> Result<Self, Failure> {
        bus.subscribe(control::subject(control::MEMBERS)).await?;
        let deadline = Instant::now() + listen;
        let mut heard = Vec::new();
        while let Ok(Some(event)) = timeout_at(deadline, bus.event()).await {
            let Event::Deliveries(deliveries) = event else { continue };
            heard.extend(deliveries.iter().filter_map(heartbeat));
        }
        Self::of(heard, None)
    }

    /// Makes the cluster of heartbeats in the order in which they came.
    fn of(heard: Vec<Heartbeat>, told: Option<String>) -> Result<Self, Failure> {
        // The last word of each process counts.
        let mut processes: BTreeMap<(NodeName, String), Heartbeat> = BTreeMap::new();
        for heartbeat in heard {
            processes.insert((heartbeat.node.clone(), heartbeat.instance.clone()), heartbeat);
        }
        let mut members: Vec<Heartbeat> = Vec::new();
        let mut contested = Vec::new();
        for heartbeat in processes.into_values() {
            match members.last_mut().filter(|last| last.node == heartbeat.node) {
                None => members.push(heartbeat),
                // A process that left and its successor may well have one name.
                Some(last) if last.leaving => *last = heartbeat,
                Some(_) if heartbeat.leaving => {}
                Some(_) => contested.push(heartbeat.node),
            }
        }
        let staying = members.iter().filter(|member| !member.leaving);
        let ring = Ring::new(staying.map(|member| Member::new(member.node.as_str(), member.weight)))
            .map_err(|error| Failure::internal(format!("the members make no ring: {error}")))?;
        Ok(Self { members, ring, told, contested })
    }

    /// The member of this name.
    pub(crate) fn member(&self, name: &str) -> Option<&Heartbeat> {
        self.members.iter().find(|member| member.node.as_str() == name)
    }

    /// The members that see another ring than the one that they make together.
    pub(crate) fn dissenters(&self) -> Vec<&NodeName> {
        let ring = self.ring.identity().to_string();
        self.members.iter().filter(|member| !member.leaving && member.ring != ring).map(|member| &member.node).collect()
    }
}

/// A heartbeat of a release that nobody here can read is passed over.
fn heartbeat(delivery: &Delivery) -> Option<Heartbeat> {
    serde_json::from_slice(&delivery.message.payload).ok()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn beat(node: &str, instance: &str, leaving: bool) -> Heartbeat {
        let value = json!({ "node": node, "instance": instance, "weight": 1, "ring": "0", "leaving": leaving });
        serde_json::from_value(value).unwrap()
    }

    fn seen(heard: Vec<Heartbeat>) -> Cluster {
        Cluster::of(heard, None).unwrap()
    }

    #[test]
    fn who_leaves_is_listed_and_owns_nothing() {
        let cluster =
            seen(vec![beat("b", "2", false), beat("a", "1", false), beat("b", "2", true), beat("a", "1", false)]);
        assert_eq!(cluster.members.iter().map(|member| member.node.as_str()).collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(cluster.ring.members().len(), 1);
        assert_eq!(cluster.ring.home("42"), Some("a"));
    }

    #[test]
    fn a_successor_is_no_contest_but_a_twin_is() {
        for heard in
            [vec![beat("a", "1", true), beat("a", "2", false)], vec![beat("a", "2", true), beat("a", "1", false)]]
        {
            let cluster = seen(heard);
            assert!(cluster.contested.is_empty() && !cluster.members[0].leaving);
        }
        assert_eq!(seen(vec![beat("a", "1", false), beat("a", "2", false)]).contested.len(), 1);
    }

    #[test]
    fn who_sees_another_ring_is_named() {
        let mut members = vec![beat("a", "1", false), beat("b", "2", false)];
        members[0].ring = seen(members.clone()).ring.identity().to_string();
        assert_eq!(seen(members).dissenters().iter().map(|name| name.as_str()).collect::<Vec<_>>(), ["b"]);
    }

    #[test]
    fn a_broker_tells_the_same() {
        let member = json!({
            "node": "a", "instance": "i", "advertise": null, "public_url": "http://a", "weight": 2, "ring": "00",
            "connections": 3, "version": "0.1.0",
        });
        let cluster = Cluster::told_by(&json!({ "node": "a", "ring": "00", "members": [member] })).unwrap();
        assert_eq!(cluster.members[0].connections, 3);
        assert_eq!(cluster.told.as_deref(), Some("00"));
        assert_eq!(Cluster::told_by(&json!({ "node": "a" })).unwrap_err().exit_code(), 70);
    }
}
