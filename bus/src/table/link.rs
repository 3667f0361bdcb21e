//! The side of the table that the links see: what to ask of the server, and what it answered.

use std::sync::Arc;

use clarion_protocol::Address;
use tokio::sync::Notify;

use super::{
    Lane, NOWHERE, Need, Order, Reach, State, Table, Ticket, Work,
    part::{Part, Past},
};
use crate::{InterestId, SubscribeError};

impl Table {
    /// What wakes the link of a lane when there is work for it.
    pub(crate) fn bell(&self, lane: u16) -> Arc<Notify> {
        self.lanes[usize::from(lane)].work.clone()
    }

    /// The next things to ask of the server, at most `max` to join.
    pub(crate) fn take(&mut self, lane: u16, max: usize) -> Work {
        let Some(queue) = self.lanes.get_mut(usize::from(lane)) else { return Work::default() };
        let mut work = Work { leave: std::mem::take(&mut queue.leaving), join: Vec::new() };
        while work.join.len() < max
            && let Some(ticket) = self.lanes[usize::from(lane)].wanted.pop_front()
        {
            if self.at(ticket).is_none_or(|part| part.lane != lane || part.state != State::Wanted) {
                continue;
            }
            self.set(ticket.slot, State::Asked);
            work.join.push(self.order(ticket.slot));
        }
        work
    }

    /// The server has acknowledged a subscription. Returns whether messages were missed since it stood before.
    pub(crate) fn stood(&mut self, ticket: Ticket) -> bool {
        if self.at(ticket).is_none_or(|part| part.state != State::Asked) {
            return false;
        }
        self.settle(ticket.slot, State::Standing);
        for interest in self.carried(ticket.slot) {
            if self.stands(interest) {
                self.answer(interest, &Ok(()));
            }
        }
        self.parts.get(ticket.slot).past != Past::Calm
    }

    /// Whether the answer to this attempt is still waited for. Whoever wanted it may have gone meanwhile, and then the server has
    /// been told to give it up: to ask again would leave a subscription there that nobody counts.
    pub(crate) fn awaits(&self, ticket: Ticket) -> bool {
        self.at(ticket).is_some_and(|part| part.state == State::Asked)
    }

    /// The server has refused a subscription. Returns whether it had stood until now.
    pub(crate) fn refuse(&mut self, ticket: Ticket, error: &SubscribeError) -> bool {
        let Some(part) = self.at(ticket) else { return false };
        let stood = part.past == Past::Resuming;
        self.settle(ticket.slot, State::Refused);
        for interest in self.carried(ticket.slot) {
            self.answer(interest, &Err(error.clone()));
        }
        stood
    }

    /// The connection of a lane is gone: everything is to be subscribed anew.
    pub(crate) fn lost(&mut self, lane: u16) {
        let Some(queue) = self.lanes.get_mut(usize::from(lane)) else { return };
        queue.wanted.clear();
        queue.leaving.clear();
        for slot in self.slots(|part| part.lane == lane) {
            self.again(slot, lane);
        }
    }

    /// Asks once more for what the server refused although sockets hold it. Returns how many parts that are.
    pub(crate) fn retry_refused(&mut self) -> u64 {
        let refused = self.refused;
        if refused > 0 {
            for slot in self.slots(|part| part.state == State::Refused) {
                self.want(slot);
            }
        }
        refused
    }

    /// The server says that a subscription is no longer there, since its slot goes to another shard. It waits for the
    /// new routes. Returns whether it was one of ours.
    pub(crate) fn dropped(&mut self, base: &Address, lane: u16) -> bool {
        let Some(slot) = self.part(&Need::from(Reach::Exact), base) else { return false };
        let part = self.parts.get(slot);
        let ours = part.lane == lane && part.state == State::Standing;
        if ours {
            self.again(slot, NOWHERE);
        }
        ours
    }

    /// This was the wrong shard to ask; it waits for the new routes.
    pub(crate) fn misplaced(&mut self, ticket: Ticket) {
        if self.at(ticket).is_some_and(|part| part.state == State::Asked) {
            self.again(ticket.slot, NOWHERE);
        }
    }

    /// How many parts belong to no shard that is known.
    pub(crate) fn adrift(&self) -> usize {
        self.parts.all().filter(|(_, part)| part.lane == NOWHERE).count()
    }

    /// How many parts of this lane stood before and do not stand yet.
    pub(crate) fn resuming(&self, lane: u16) -> usize {
        self.lanes.get(usize::from(lane)).map_or(0, |lane| lane.resuming)
    }

    /// The interests that stand again in a lane and missed what was published meanwhile. Each loss is told once.
    pub(crate) fn missed(&mut self, lane: u16) -> Vec<InterestId> {
        let mut missed = Vec::new();
        for slot in self.slots(|part| part.past != Past::Calm && part.lane == lane && part.state == State::Standing) {
            self.parts.get_mut(slot).past = Past::Calm;
            missed.extend(self.carried(slot).into_iter().map(|interest| self.records.get(interest).id(interest)));
        }
        // A subtree has two parts.
        missed.sort_unstable();
        missed.dedup();
        missed
    }

    /// The lanes of a cluster, and the lane of each of its slots. What moves is subscribed anew in its new lane.
    pub(crate) fn reroute(&mut self, lanes: usize, routes: Vec<u16>) {
        while self.lanes.len() < lanes {
            self.lanes.push(Lane::default());
        }
        self.routes = routes;
        for slot in self.slots(|_| true) {
            let lane = self.lane_of(self.base_of(slot));
            if lane != self.parts.get(slot).lane {
                self.again(slot, lane);
            }
        }
    }

    // ---- inside ----

    fn slots(&self, wanted: impl Fn(&Part) -> bool) -> Vec<u32> {
        self.parts.all().filter(|(_, part)| wanted(part)).map(|(slot, _)| slot).collect()
    }

    /// Queues a new attempt to subscribe.
    pub(super) fn want(&mut self, slot: u32) {
        self.last_attempt = self.last_attempt.wrapping_add(1);
        let attempt = self.last_attempt;
        self.set(slot, State::Wanted);
        let part = self.parts.get_mut(slot);
        part.attempt = attempt;
        let lane = usize::from(part.lane);
        if lane >= self.lanes.len() {
            return;
        }
        // Interests that come and go while the link is down leave tickets that are no longer good.
        if self.lanes[lane].wanted.len() > 4 * self.index.len() + 1024 {
            let mut wanted = std::mem::take(&mut self.lanes[lane].wanted);
            wanted.retain(|ticket| self.at(*ticket).is_some());
            self.lanes[lane].wanted = wanted;
        }
        self.lanes[lane].wanted.push_back(Ticket { slot, attempt });
        self.lanes[lane].work.notify_one();
    }

    /// Queues a part that the server has lost, or that goes to another lane.
    fn again(&mut self, slot: u32, lane: u16) {
        let part = self.parts.get(slot);
        let stood = part.state == State::Standing || part.past == Past::Resuming;
        let asked = matches!(part.state, State::Asked | State::Standing);
        if asked && lane != part.lane {
            self.leave(slot, self.base_of(slot).clone());
        }
        self.unmark(slot);
        self.parts.get_mut(slot).lane = lane;
        self.want(slot);
        if stood {
            self.parts.get_mut(slot).past = Past::Resuming;
            if let Some(lane) = self.lanes.get_mut(usize::from(lane)) {
                lane.resuming += 1;
            }
        }
    }

    /// Queues that the server be told to give a part up.
    pub(super) fn leave(&mut self, slot: u32, base: Address) {
        let part = self.parts.get(slot);
        let order = Order { ticket: Ticket { slot, attempt: part.attempt }, base, reach: part.reach };
        if let Some(lane) = self.lanes.get_mut(usize::from(part.lane)) {
            lane.leaving.push(order);
            lane.work.notify_one();
        }
    }

    fn settle(&mut self, slot: u32, state: State) {
        self.unmark(slot);
        self.set(slot, state);
    }

    pub(super) fn unmark(&mut self, slot: u32) {
        let part = self.parts.get_mut(slot);
        if part.past == Past::Resuming {
            part.past = Past::Missed;
            let lane = usize::from(part.lane);
            if let Some(lane) = self.lanes.get_mut(lane) {
                lane.resuming -= 1;
            }
        }
    }

    fn set(&mut self, slot: u32, state: State) {
        let old = std::mem::replace(&mut self.parts.get_mut(slot).state, state);
        self.count(old, Some(state));
    }

    fn answer(&mut self, interest: u32, result: &Result<(), SubscribeError>) {
        for waiter in self.waiting.remove(&interest).into_iter().flatten() {
            // Whoever dropped his call has given his reference back.
            let _ = waiter.send(result.clone());
        }
    }
}
