//! The bus, seen from here: connected, delivering, and with members.

use super::{Finding, broker};
use crate::{
    context::Context,
    failure::Failure,
    members::Cluster,
    via::{Bus, BusTarget},
};

/// How long to listen for heartbeats, which come once a second.
const LISTEN: std::time::Duration = std::time::Duration::from_millis(2_500);

/// Connects, sends a message to itself, and listens for the nodes.
pub(super) async fn check(context: &Context, target: &BusTarget) -> Vec<Finding> {
    let mut bus = match Bus::connect(context, target).await {
        Ok(bus) => bus,
        Err(failure) => {
            let remedy = if failure.message.contains("is a replica") {
                "the address of its master, or redis-sentinel:// where Sentinels know it".to_owned()
            } else {
                remedy(target)
            };
            return vec![Finding::fail("bus", failure.remedy(remedy))];
        }
    };
    let delivers = match bus.probe().await {
        Ok(time) => Finding::ok("bus", format!("{} delivers within {time:.1?}", target.shown)),
        Err(Failure { message, .. }) => {
            let failure =
                Failure::unavailable(format!("{} is connected and does not deliver: {message}", target.shown));
            Finding::fail(
                "bus",
                failure.remedy("may this user publish and subscribe below `_clarion`? see the server's ACL"),
            )
        }
    };
    let mut findings = vec![delivers];
    findings.push(broker::cluster(Cluster::heard_on(&mut bus, LISTEN).await));
    bus.close().await;
    findings
}

fn remedy(target: &BusTarget) -> String {
    let client = match target.shown.split_once(':').map(|(scheme, _)| scheme) {
        Some("redis" | "rediss") => format!("`redis-cli -u {} ping` from this machine", target.shown),
        Some("nats" | "tls") => format!("`nats -s {} rtt` from this machine", target.shown),
        _ => "the server's own client from this machine".to_owned(),
    };
    format!("{client}; then address, TLS and credentials (CLARION_BUS_PASSWORD, --ca-file, --nats-creds-file)")
}
