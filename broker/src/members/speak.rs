//! A member's mouth: a heartbeat a second, and goodbye.

use tokio::time::{self, MissedTickBehavior};

use clarion_protocol::control;

use super::Shared;

/// Speaks as soon as this node has listened long enough, until it leaves. The goodbye is the last word.
pub(super) async fn run(shared: &Shared) {
    tokio::select! {
        () = beat(shared) => {}
        () = shared.leaving.cancelled() => {}
    }
    say(shared, true).await;
    shared.said_goodbye.cancel();
}

async fn beat(shared: &Shared) {
    let mut view = shared.view.subscribe();
    if view.wait_for(|view| view.settled).await.is_err() {
        return;
    }
    let mut ticks = time::interval(shared.config.interval);
    // A bus that took its time is not to be flooded with what was missed.
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        say(shared, false).await;
    }
}

async fn say(shared: &Shared, leaving: bool) {
    let view = shared.view.borrow().clone();
    let Some(me) = view.peers.get(&view.me) else { return };
    let mut heartbeat = me.heartbeat(leaving, shared.disconnects());
    heartbeat.connections = shared.here.connections() as u64;
    // The probe tells of a bus that is down; here it only means silence, which the others understand.
    if let Err(error) = shared.say(control::subject(control::MEMBERS), &heartbeat).await {
        tracing::debug!(%error, leaving, "a heartbeat was not taken");
    }
}
