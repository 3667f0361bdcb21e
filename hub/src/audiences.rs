//! Who hears what: a shard's part of the subscription table, and the way from a delivery to the members of an audience.
//!
//! An audience knows its members by their places in the [roster](crate::roster) and by the numbers of their seats.

mod fanout;
mod table;

use std::sync::Arc;

use clarion_protocol::{Interest, InterestId};
use smallvec::SmallVec;

pub(crate) use self::table::{Member, Spot};
use self::{fanout::FanOut, table::Table};
use crate::{
    batch::{Masks, Shards},
    framing::Format,
    metrics::Metrics,
    roster::{Roster, outranks},
    seat::{Release, SeatId},
};

/// A shard's audiences.
pub(crate) struct Audiences {
    table: Table,
    fan_out: FanOut,
    shard: Shards,
    release: Arc<dyn Release>,
    metrics: Metrics,
}

impl Audiences {
    pub(crate) fn new(masks: Arc<Masks>, shard: Shards, release: Arc<dyn Release>, metrics: Metrics) -> Self {
        Self { table: Table::new(masks, shard), fan_out: FanOut::default(), shard, release, metrics }
    }

    /// The audience of an interest, if anybody here has it.
    pub(crate) fn find(&self, id: InterestId) -> Option<u32> {
        self.table.find(id)
    }

    /// Adds a member; where it sits.
    pub(crate) fn join(&mut self, id: InterestId, interest: &Interest, member: Member) -> Spot {
        self.table.join(id, interest, member)
    }

    /// Decides which of a connection's seats brings a message that a new one brings as well.
    ///
    /// Compared with the others once, when it comes: nothing is compared for each message but what may really overlap.
    pub(crate) fn rank(&mut self, roster: &mut Roster, index: u32, new: SeatId, interest: &Interest) {
        let Some(seats) = roster.seats_mut(index) else { return };
        let others: SmallVec<[(u16, Spot); 8]> =
            seats.iter().filter(|(seat, _)| *seat != new.index).map(|(seat, it)| (seat, it.spot)).collect();
        for (other, spot) in others {
            let Some(its) = self.table.audience(spot.audience).map(|audience| audience.interest()) else { continue };
            let (loser, winner) = if outranks(&its, interest) {
                ((new.index, None), (other, its))
            } else if outranks(interest, &its) {
                ((other, Some(spot)), (new.index, interest.clone()))
            } else {
                continue;
            };
            seats.add_rival(loser.0, winner.0, winner.1);
            let spot = loser.1.or_else(|| seats.at(new.index).map(|seat| seat.spot));
            if let Some(member) = spot.and_then(|spot| self.table.member_mut(spot)) {
                member.aside = true;
            }
        }
    }

    /// How a seat hears.
    pub(crate) fn format_at(&self, spot: Spot) -> Option<Format> {
        let audience = self.table.audience(spot.audience)?;
        audience.members().get(spot.position as usize).map(|member| member.format)
    }

    /// Those who hear an interest: where their records are, and how.
    pub(crate) fn members_of(&self, id: InterestId) -> Vec<(u32, Format)> {
        let audience = self.find(id).and_then(|audience| self.table.audience(audience));
        audience.into_iter().flat_map(|it| it.members()).map(|member| (member.index, member.format)).collect()
    }

    /// Sets whether a seat is looked at before it is written to, after it was joined, fed or freed of a rival.
    pub(crate) fn set_aside(&mut self, spot: Spot, aside: bool) {
        if let Some(member) = self.table.member_mut(spot) {
            member.aside = aside;
        }
    }

    /// Takes those out who have left since, and gives their interests back.
    pub(crate) fn tidy(&mut self, roster: &mut Roster) {
        let mut unheard = SmallVec::<[InterestId; 4]>::new();
        while let Some(vacated) = roster.next_vacated() {
            let (interest, moved) = self.table.leave(vacated.spot);
            unheard.push(interest);
            if let Some(moved) = moved {
                roster.moved(moved.index, moved.seat, vacated.spot.position);
            }
        }
        if !unheard.is_empty() {
            self.release.release(&unheard);
        }
        while let Some(spot) = roster.next_caught_up() {
            self.set_aside(spot, false);
        }
    }
}
