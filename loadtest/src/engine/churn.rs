//! Subscribers that leave and others that join, and connections that break.

use rand::{Rng, SeedableRng, rngs::SmallRng};

use crate::{
    channels::{Channels, Chooser},
    clock::Time,
    control::Churn,
    engine::subscribers::Subscribers,
};

/// Who goes when.
pub(super) struct Churning {
    churn: Churn,
    begun: Time,
    left: u64,
    lost: u64,
    random: SmallRng,
    chooser: Chooser,
}

impl Churning {
    pub(super) fn new(churn: Churn, subscribers: &Subscribers) -> Self {
        let channels = subscribers.plan().map_or_else(|| Channels::one("load/"), |plan| plan.channels.clone());
        let chooser = Chooser::new(&channels, 2);
        Self { churn, begun: Time::now(), left: 0, lost: 0, random: SmallRng::seed_from_u64(1), chooser }
    }

    /// Lets go who is due, and says when the next one is.
    pub(super) fn due(&mut self, now: Time, subscribers: &mut Subscribers) -> Time {
        let passed = now.seconds_since(self.begun);
        while (self.left as f64) < passed * self.churn.leave {
            self.left += 1;
            let who = self.anybody(subscribers);
            subscribers.replace(who, self.chooser.next(), now);
        }
        while (self.lost as f64) < passed * self.churn.lose {
            self.lost += 1;
            let who = self.anybody(subscribers);
            if subscribers.break_off(who) {
                subscribers.opening.again(now, who);
            }
        }
        let next = |done: u64, rate: f64| (done as f64 / rate).min(1e6);
        let wait = next(self.left, self.churn.leave).min(next(self.lost, self.churn.lose));
        self.begun + std::time::Duration::from_secs_f64(if wait.is_finite() { wait } else { 1e6 })
    }

    fn anybody(&mut self, subscribers: &Subscribers) -> usize {
        self.random.random_range(0..subscribers.len().max(1))
    }
}
