//! A connection's places in the table, and which of its subscriptions brings a message that several ask for.

use clarion_protocol::Interest;
use smallvec::SmallVec;

use super::Subscription;
use crate::outbox::SlowPolicy;

/// One subscription's place in the table.
#[derive(Debug, Clone, Copy)]
pub(super) struct Seat {
    pub audience: u32,
    pub position: u32,
    pub slow: SlowPolicy,
}

/// A connection's places, one for each subscription. Nearly every connection has one, and it is kept small for those.
#[derive(Default)]
pub(super) enum Seats {
    /// It hears nothing (any more).
    #[default]
    None,
    One(Seat),
    Many(Box<Many>),
}

pub(super) struct Many {
    seats: Box<[Seat]>,
    rivals: Option<Rivals>,
}

impl Seats {
    pub(super) fn new(seats: SmallVec<[Seat; 2]>, rivals: Option<Rivals>) -> Self {
        match *seats {
            [] => Self::None,
            [seat] => Self::One(seat),
            _ => Self::Many(Box::new(Many { seats: seats.into_vec().into(), rivals })),
        }
    }

    /// In the order of the subscriptions.
    pub(super) fn all(&self) -> &[Seat] {
        match self {
            Self::None => &[],
            Self::One(seat) => std::slice::from_ref(seat),
            Self::Many(many) => &many.seats,
        }
    }

    /// That of one subscription.
    pub(super) fn at(&mut self, subscription: u16) -> Option<&mut Seat> {
        let seats = match self {
            Self::None => &mut [],
            Self::One(seat) => std::slice::from_mut(seat),
            Self::Many(many) => &mut *many.seats,
        };
        seats.get_mut(usize::from(subscription))
    }

    /// For each subscription its more specific neighbours, where there are any.
    pub(super) fn rivals(&self) -> Option<&Rivals> {
        match self {
            Self::None | Self::One(_) => None,
            Self::Many(many) => many.rivals.as_ref(),
        }
    }
}

/// For each of a connection's subscriptions those that bring a message in its stead.
pub(super) struct Rivals(Box<[Box<[Interest]>]>);

impl Rivals {
    /// `None` when there are none at all.
    ///
    /// Interests that match one channel have bases that begin alike, so others need not be compared for each message.
    pub(super) fn find(subscriptions: &[Subscription]) -> Option<Self> {
        if subscriptions.len() < 2 {
            return None;
        }
        let interests = || subscriptions.iter().map(|subscription| &subscription.interest);
        let more_specific = |one: &Interest| -> Box<[Interest]> {
            let rivals = |other: &&Interest| other.base().starts_with(one.base()) && other.specificity(one).is_gt();
            interests().filter(rivals).cloned().collect()
        };
        let all: Box<[Box<[Interest]>]> = interests().map(more_specific).collect();
        all.iter().any(|rivals| !rivals.is_empty()).then_some(Self(all))
    }

    /// Those of one subscription.
    pub(super) fn of(&self, subscription: u16) -> &[Interest] {
        &self.0[usize::from(subscription)]
    }
}

#[cfg(test)]
mod tests {
    use smallvec::smallvec;

    use super::*;

    #[test]
    fn seats_are_found_by_their_subscription() {
        let seat = |audience| Seat { audience, position: 0, slow: SlowPolicy::Disconnect };
        for audiences in [&[][..], &[7][..], &[7, 8, 9][..]] {
            let mut seats = Seats::new(audiences.iter().map(|audience| seat(*audience)).collect(), None);
            assert_eq!(seats.all().iter().map(|seat| seat.audience).collect::<Vec<_>>(), audiences);
            for (subscription, audience) in (0..).zip(audiences) {
                assert_eq!(seats.at(subscription).map(|seat| seat.audience), Some(*audience));
            }
            assert!(seats.at(audiences.len() as u16).is_none());
        }
        let mut moved = Seats::new(smallvec![seat(1), seat(2)], None);
        moved.at(1).unwrap().position = 5;
        assert_eq!(moved.all()[1].position, 5);
    }

    #[test]
    fn those_of_most_connections_are_small() {
        assert_eq!(size_of::<Seats>(), 16);
    }
}
