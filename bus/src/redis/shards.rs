//! Sharded pub/sub: which shard has which slots, a link to each master, and following both when they change.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use rand::Rng as _;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    Shared, TOPOLOGY,
    dial::{Credentials, DialError},
    target::{Target, Topology},
};
use crate::{HostPort, Link, RedisUrl};

/// How often the cluster is asked while all is well. Shards tell of most changes by themselves.
const CALM: Duration = Duration::from_secs(5);
/// How often while something is down or moves.
const BUSY: Duration = Duration::from_millis(300);
/// Slots of a cluster.
const SLOTS: usize = 16_384;
/// A slot that no master serves.
const NOBODY: u16 = u16::MAX;

/// Keeps the links of a sharded bus in step with its cluster.
pub(crate) struct Shards {
    shared: Arc<Shared>,
    /// Whom to ask about the cluster.
    cluster: Target,
    credentials: Credentials,
    tasks: TaskTracker,
    stop: CancellationToken,
    masters: BTreeMap<HostPort, Shard>,
    /// Lanes are never used twice, so that what a link says at its end is not taken for another's word.
    next_lane: u16,
    known: Topology,
}

struct Shard {
    lane: u16,
    retired: CancellationToken,
}

impl Shards {
    pub(crate) fn new(
        shared: Arc<Shared>,
        url: &RedisUrl,
        credentials: Credentials,
        tasks: TaskTracker,
        stop: CancellationToken,
    ) -> Self {
        let cluster = Target::new(url, credentials.clone());
        let (masters, known) = (BTreeMap::new(), Topology::default());
        Self { shared, cluster, credentials, tasks, stop, masters, next_lane: 0, known }
    }

    /// Follows the cluster until the bus is closed.
    pub(crate) async fn run(mut self) {
        let stop = self.stop.clone();
        loop {
            let asked = tokio::select! {
                asked = self.ask() => asked,
                () = stop.cancelled() => return,
            };
            match asked {
                Ok(topology) => self.follow(topology),
                Err(error) if self.known == Topology::default() => {
                    self.shared.report(TOPOLOGY, Link::Down(Some(error.to_string())));
                }
                // What is known may still be right; the links themselves say whether they are.
                Err(error) => tracing::warn!(%error, "the cluster does not say who serves which slots"),
            }
            let calm = *self.shared.link.borrow() == Link::Up;
            let bound = if calm { CALM } else { BUSY };
            // Nodes that lost the same shard do not ask all at once.
            let pause = bound.mul_f64(rand::rng().random_range(0.5..1.0));
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.shared.moved.notified() => tokio::time::sleep(BUSY / 3).await,
                () = stop.cancelled() => return,
            }
        }
    }

    async fn ask(&mut self) -> Result<Topology, DialError> {
        let mut connection = self.cluster.dial().await?;
        Topology::ask(&mut connection).await
    }

    fn follow(&mut self, topology: Topology) {
        let adrift = self.shared.interests.lock().adrift();
        if topology == self.known && adrift == 0 {
            return;
        }
        let mut started = Vec::new();
        let mut routes = vec![NOBODY; SLOTS];
        for (from, to, master) in &topology.masters {
            let lane = match self.masters.get(master) {
                Some(shard) => shard.lane,
                None => {
                    let Some(next) = self.next_lane.checked_add(1).filter(|next| *next < TOPOLOGY) else {
                        tracing::error!("the cluster has had more masters than this process can tell apart");
                        return;
                    };
                    let lane = std::mem::replace(&mut self.next_lane, next);
                    let retired = self.stop.child_token();
                    self.masters.insert(master.clone(), Shard { lane, retired: retired.clone() });
                    started.push((lane, master.clone(), retired));
                    lane
                }
            };
            routes.iter_mut().take(usize::from(*to) + 1).skip(usize::from(*from)).for_each(|route| *route = lane);
        }
        let unserved = routes.iter().filter(|route| **route == NOBODY).count();
        self.shared.interests.lock().reroute(usize::from(self.next_lane), routes);
        for (lane, master, retired) in started {
            tracing::info!(lane, %master, "a shard has a master that is new here");
            let target = Target::server(master, self.credentials.clone());
            self.shared.start_lane(lane, target, retired, &self.tasks);
        }
        let serves = |server: &HostPort| topology.masters.iter().any(|(_, _, master)| master == server);
        for (_, shard) in self.masters.extract_if(.., |server, _| !serves(server)) {
            self.shared.lanes.lock().remove(&shard.lane);
            shard.retired.cancel();
        }
        let state = match unserved {
            0 => Link::Up,
            _ => Link::Down(Some(format!("{unserved} of the cluster's slots have no master"))),
        };
        self.shared.report(TOPOLOGY, state);
        self.known = topology;
    }
}
