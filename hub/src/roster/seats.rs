//! A connection's seats: its places among the audiences, and which of them brings a message that several ask for.

use clarion_protocol::{Depth, Interest};
use smallvec::{SmallVec, smallvec};

use crate::{audiences::Spot, outbox::SlowPolicy, seat::SeatId};

/// One subscription of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Seat {
    /// Where it is heard.
    pub spot: Spot,
    /// Tells it from those that had its number before.
    pub serial: u16,
    pub slow: SlowPolicy,
    pub state: State,
}

/// Whether a seat hears what comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum State {
    /// Messages are written to it.
    Live,
    /// They wait until it was fed the log.
    Joining,
    /// Nobody sits here.
    Vacant,
}

/// A connection's seats. Nearly every connection has one, and it is kept small for those.
#[derive(Debug, Default)]
pub(crate) enum Seats {
    /// It hears nothing (any more).
    #[default]
    None,
    One(Seat),
    Many(Box<Many>),
}

#[derive(Debug)]
pub(crate) struct Many {
    /// Numbers of seats are places here.
    seats: SmallVec<[Seat; 2]>,
    rivals: Option<Box<Rivals>>,
    /// The serial of the last seat.
    serial: u16,
}

/// For each seat of a connection those that bring a message in its stead: the more specific ones that match it as well.
#[derive(Debug, Default)]
pub(crate) struct Rivals(Vec<Vec<(u16, Interest)>>);

impl Seats {
    /// Adds a seat; what it is called.
    pub(crate) fn add(&mut self, mut seat: Seat) -> SeatId {
        match self {
            Self::None => {
                *self = Self::One(seat);
                SeatId { index: 0, serial: seat.serial }
            }
            Self::One(first) => {
                // The next serial is the first one's successor, so that a number is not used again with the same serial.
                let serial = first.serial.wrapping_add(1);
                seat.serial = serial;
                *self = Self::Many(Box::new(Many { seats: smallvec![*first, seat], rivals: None, serial }));
                SeatId { index: 1, serial }
            }
            Self::Many(many) => {
                many.serial = many.serial.wrapping_add(1);
                seat.serial = many.serial;
                let vacant = many.seats.iter().position(|seat| seat.state == State::Vacant);
                let index = vacant.unwrap_or(many.seats.len());
                match many.seats.get_mut(index) {
                    Some(place) => *place = seat,
                    None => many.seats.push(seat),
                }
                let index = u16::try_from(index).expect("a connection has at most 65,535 seats");
                SeatId { index, serial: seat.serial }
            }
        }
    }

    /// Takes a seat out. The others keep their numbers.
    pub(crate) fn remove(&mut self, index: u16) {
        match self {
            Self::None => {}
            // Kept vacant, so that the next seat with this number has another serial.
            Self::One(seat) => {
                seat.state = State::Vacant;
                *self = Self::Many(Box::new(Many { seats: smallvec![*seat], rivals: None, serial: seat.serial }));
            }
            Self::Many(many) => {
                if let Some(seat) = many.seats.get_mut(usize::from(index)) {
                    seat.state = State::Vacant;
                }
            }
        }
    }

    /// Those that are taken, with their numbers.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u16, &Seat)> {
        let seats = match self {
            Self::None => &[],
            Self::One(seat) => std::slice::from_ref(seat),
            Self::Many(many) => &*many.seats,
        };
        (0..).zip(seats).filter(|(_, seat)| seat.state != State::Vacant)
    }

    /// The one with this number.
    pub(crate) fn at(&self, index: u16) -> Option<&Seat> {
        match self {
            Self::None => None,
            Self::One(seat) => (index == 0).then_some(seat),
            Self::Many(many) => many.seats.get(usize::from(index)),
        }
        .filter(|seat| seat.state != State::Vacant)
    }

    /// The one with this number, to be changed.
    pub(crate) fn at_mut(&mut self, index: u16) -> Option<&mut Seat> {
        match self {
            Self::None => None,
            Self::One(seat) => (index == 0).then_some(seat),
            Self::Many(many) => many.seats.get_mut(usize::from(index)),
        }
        .filter(|seat| seat.state != State::Vacant)
    }

    /// Whether a name is still that of a seat.
    pub(crate) fn holds(&self, id: SeatId) -> bool {
        self.at(id.index).is_some_and(|seat| seat.serial == id.serial)
    }

    /// Those that bring a message in the stead of a seat, where there are any.
    pub(crate) fn rivals(&self, index: u16) -> &[(u16, Interest)] {
        match self {
            Self::None | Self::One(_) => &[],
            Self::Many(many) => many.rivals.as_ref().map_or(&[], |rivals| rivals.of(index)),
        }
    }

    /// Notes that `by` brings some messages in the stead of `of`.
    pub(crate) fn add_rival(&mut self, of: u16, by: u16, interest: Interest) {
        if let Self::Many(many) = self {
            many.rivals.get_or_insert_default().add(of, by, interest);
        }
    }

    /// Forgets a seat that is gone among the rivals; those that have none any more.
    pub(crate) fn remove_rival(&mut self, gone: u16) -> SmallVec<[u16; 4]> {
        let Self::Many(many) = self else { return SmallVec::new() };
        let Some(rivals) = &mut many.rivals else { return SmallVec::new() };
        let freed = rivals.remove(gone);
        if rivals.0.iter().all(Vec::is_empty) {
            many.rivals = None;
        }
        freed
    }
}

impl Rivals {
    fn of(&self, index: u16) -> &[(u16, Interest)] {
        self.0.get(usize::from(index)).map_or(&[], |rivals| rivals)
    }

    fn add(&mut self, of: u16, by: u16, interest: Interest) {
        let place = usize::from(of);
        if self.0.len() <= place {
            self.0.resize_with(place + 1, Vec::new);
        }
        self.0[place].push((by, interest));
    }

    fn remove(&mut self, gone: u16) -> SmallVec<[u16; 4]> {
        let mut freed = SmallVec::new();
        for (index, rivals) in (0..).zip(&mut self.0) {
            if index == gone {
                rivals.clear();
            } else if !rivals.is_empty() {
                rivals.retain(|(by, _)| *by != gone);
                if rivals.is_empty() {
                    freed.push(index);
                }
            }
        }
        freed
    }
}

/// Whether `one` brings what `other` would bring as well, for the channels that both match.
///
/// Interests that match one channel have bases that begin alike, and two exact ones never overlap.
pub(crate) fn outranks(one: &Interest, other: &Interest) -> bool {
    other.depth() != Depth::Exact && one.base().starts_with(other.base()) && one.specificity(other).is_gt()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seat(audience: u32) -> Seat {
        Seat { spot: Spot { audience, position: 0 }, serial: 0, slow: SlowPolicy::Disconnect, state: State::Live }
    }

    fn taken(seats: &Seats) -> Vec<(u16, u32)> {
        seats.iter().map(|(index, seat)| (index, seat.spot.audience)).collect()
    }

    #[test]
    fn seats_come_and_go_and_keep_their_numbers() {
        let mut seats = Seats::default();
        let ids: Vec<SeatId> = (7..11).map(|audience| seats.add(seat(audience))).collect();
        assert_eq!(taken(&seats), [(0, 7), (1, 8), (2, 9), (3, 10)]);
        seats.remove(1);
        seats.remove(3);
        assert_eq!(taken(&seats), [(0, 7), (2, 9)]);
        assert!(seats.at(1).is_none() && !seats.holds(ids[1]) && seats.holds(ids[2]));
        let again = seats.add(seat(12));
        assert_eq!(again.index, 1);
        assert!(seats.holds(again) && !seats.holds(ids[1]), "the number is used again, the name is not");
    }

    #[test]
    fn a_lonely_seat_that_is_left_does_not_come_back_under_its_name() {
        let mut seats = Seats::default();
        let first = seats.add(seat(7));
        seats.remove(0);
        assert_eq!(taken(&seats), []);
        let second = seats.add(seat(8));
        assert_eq!((second.index, taken(&seats)), (0, vec![(0, 8)]));
        assert_ne!(first, second);
    }

    #[test]
    fn rivals_go_with_their_seats() {
        let interest = |text| Interest::parse(text).unwrap();
        let mut seats = Seats::default();
        for audience in 0..4 {
            seats.add(seat(audience));
        }
        seats.add_rival(0, 1, interest("a/*"));
        seats.add_rival(0, 2, interest("a/b"));
        seats.add_rival(1, 2, interest("a/b"));
        assert_eq!((seats.rivals(0).len(), seats.rivals(1).len(), seats.rivals(3).len()), (2, 1, 0));
        assert_eq!(*seats.remove_rival(2), [1]);
        assert_eq!((seats.rivals(0).len(), seats.rivals(1).len()), (1, 0));
        assert_eq!(*seats.remove_rival(1), [0]);
        assert!(matches!(&seats, Seats::Many(many) if many.rivals.is_none()));
    }

    #[test]
    fn only_the_more_specific_outrank() {
        let interest = |text| Interest::parse(text).unwrap();
        for (one, other, expected) in [
            ("a/b", "a/*", true),
            ("a/b", "a/**", true),
            ("a/*", "a/**", true),
            ("a/**", "a/*", false),
            ("a/b", "a", false),
            ("a/b", "c/*", false),
            ("a/b/*", "a/**", true),
        ] {
            assert_eq!(outranks(&interest(one), &interest(other)), expected, "{one} {other}");
        }
    }

    #[test]
    fn those_of_most_connections_are_small() {
        assert_eq!((size_of::<Seat>(), size_of::<Seats>()), (12, 16));
        assert!(size_of::<Many>() <= 48, "{}", size_of::<Many>());
    }
}
