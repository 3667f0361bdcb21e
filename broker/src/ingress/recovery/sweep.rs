//! What no later message tells: a lost last message, and how far everything was surely heard.

use std::{sync::Arc, time::Duration};

use clarion_bus::{
    InterestId,
    log::{From, Read},
};
use clarion_protocol::{Depth, Interest, Partition};
use tokio::time::{MissedTickBehavior, interval};

use super::{
    Recovery,
    heal::{Hole, Work},
};

/// How often quiet channels are compared with the log.
const SWEEP: Duration = Duration::from_secs(30);
/// How many channels in one sweep; the next one goes on with others.
const CHANNELS: usize = 200;

/// How far each partition was heard when a probe was sent.
pub struct Heard(Vec<(Partition, u64)>);

/// A quiet channel.
struct Quiet {
    id: InterestId,
    partition: Partition,
    interest: Interest,
    after: u64,
    sure: u64,
}

impl Recovery {
    /// How far everything was heard that came until now, before a probe is sent after it.
    #[must_use]
    pub fn heard(&self) -> Heard {
        let state = self.state.lock();
        let whole = state.partitions.iter().filter(|(_, part)| part.parked.is_none());
        Heard(whole.map(|(partition, part)| (partition.clone(), part.heard)).collect())
    }

    /// The probe came back: whatever the links lost by then they have told of, so all of this was really heard.
    pub fn assure(&self, heard: Heard) {
        let mut state = self.state.lock();
        for (partition, offset) in heard.0 {
            if let Some(part) = state.partitions.get_mut(&partition).filter(|part| part.parked.is_none()) {
                part.sure = part.sure.max(offset);
            }
        }
    }

    /// Compares quiet channels with the log, for ever: a lost last message has no successor that would tell.
    ///
    /// Only exact interests: what a pattern matches is too much to be read again.
    pub async fn sweep(self: Arc<Self>) {
        let mut ticks = interval(SWEEP);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut last = None;
        loop {
            ticks.tick().await;
            last = self.sweep_once(last).await;
        }
    }

    /// One sweep, from behind the channel where the last one ended. Returns where this one has.
    async fn sweep_once(self: &Arc<Self>, last: Option<InterestId>) -> Option<InterestId> {
        let quiet = self.quiet(last);
        let end = (quiet.len() == CHANNELS).then(|| quiet.last().map(|quiet| quiet.id)).flatten();
        for Quiet { id, partition, interest, after, sure } in quiet {
            let read = Read {
                partition: partition.clone(),
                within: interest,
                from: From::After(after),
                up_to: Some(sure),
                messages: 1,
                bytes: 1,
            };
            self.metrics.reads.inc();
            // A log that is away is asked again by the next sweep.
            let Ok(chunk) = async { self.log()?.read(&read).await }.await else { return last };
            let Some((channel, _)) = chunk.messages.into_iter().next() else { continue };
            let mut state = self.state.lock();
            let whole =
                state.interests.get(&id).and_then(|followed| followed.reach(&partition)).map(|reach| reach.mark);
            if whole == Some(after) {
                self.metrics.holes.inc();
                let hole = Hole { id, channel, after, before: sure + 1 };
                self.park(&mut state, &partition, Work::Hole(hole), None);
            }
        }
        end
    }

    fn quiet(&self, last: Option<InterestId>) -> Vec<Quiet> {
        let state = self.state.lock();
        let mut quiet: Vec<_> = state
            .interests
            .iter()
            .filter(|(id, followed)| Some(**id) > last && followed.interest.depth() == Depth::Exact)
            .filter_map(|(id, followed)| {
                let reach = followed.reaches.first()?;
                let sure = state.partitions.get(&reach.partition)?.sure;
                let (partition, interest) = (reach.partition.clone(), followed.interest.clone());
                (reach.mark < sure).then_some(Quiet { id: *id, partition, interest, after: reach.mark, sure })
            })
            .collect();
        quiet.sort_by_key(|quiet| quiet.id);
        quiet.truncate(CHANNELS);
        quiet
    }
}
