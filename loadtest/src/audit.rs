//! What a subscriber has missed, got twice or got in the wrong order.

use std::ops::AddAssign;

use serde::{Deserialize, Serialize};

/// Numbers behind the newest that can still be told apart: late, or a second time.
const WINDOW: u32 = 64;

/// One subscriber's view of its channel.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Subscriber {
    /// The number that comes next, once anything is known.
    next: Option<u32>,
    /// Which of the last numbers have come: bit 0 is `next - 1`.
    seen: u64,
}

/// What came of all subscribers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Audit {
    /// Messages that reached a subscriber for the first time.
    pub(crate) delivered: u64,
    /// Messages that never came to one who was connected all the while.
    pub(crate) lost: u64,
    /// Messages that were published while a subscriber was between two connections, and did not come afterwards.
    pub(crate) missed_away: u64,
    /// Messages that came again.
    pub(crate) duplicates: u64,
    /// Messages that came after one that was published later.
    pub(crate) out_of_order: u64,
    /// Messages of a channel that the subscriber had not asked for.
    pub(crate) strays: u64,
}

impl AddAssign for Audit {
    fn add_assign(&mut self, other: Self) {
        self.delivered += other.delivered;
        self.lost += other.lost;
        self.missed_away += other.missed_away;
        self.duplicates += other.duplicates;
        self.out_of_order += other.out_of_order;
        self.strays += other.strays;
    }
}

impl Audit {
    /// Whether nobody has anything to complain of.
    pub(crate) fn is_clean(&self) -> bool {
        self.lost == 0 && self.duplicates == 0 && self.out_of_order == 0 && self.strays == 0
    }
}

impl Subscriber {
    /// One who is there before the message of this number is published.
    pub(crate) fn from(next: u32) -> Self {
        Self { next: Some(next), seen: 0 }
    }

    /// A message has come; `away` says that it is the first one of a new connection.
    pub(crate) fn got(&mut self, number: u32, away: bool, audit: &mut Audit) {
        let next = *self.next.get_or_insert(number);
        if number >= next {
            let gap = number - next;
            if away {
                audit.missed_away += u64::from(gap);
            } else {
                audit.lost += u64::from(gap);
            }
            self.seen = match gap {
                // What is older than a connection is not its to number.
                _ if away => u64::MAX,
                gap if gap >= WINDOW - 1 => 1,
                gap => self.seen << (gap + 1) | 1,
            };
            self.next = Some(number + 1);
            audit.delivered += 1;
            return;
        }
        let behind = next - 1 - number;
        if behind < WINDOW && self.seen >> behind & 1 == 0 {
            self.seen |= 1 << behind;
            audit.out_of_order += 1;
            audit.delivered += 1;
            // It was counted as lost when a later one came before it.
            audit.lost = audit.lost.saturating_sub(1);
        } else {
            audit.duplicates += 1;
        }
    }

    /// Whether everything up to `published` has come.
    pub(crate) fn is_up_to(&self, published: u32) -> bool {
        self.next.is_none_or(|next| next >= published)
    }

    /// The end: so many have been published, and what has not come by now does not come; `away` says that the subscriber
    /// is not connected, or has had nothing since it is again.
    pub(crate) fn end(&mut self, published: u32, away: bool, audit: &mut Audit) {
        if let Some(next) = &mut self.next {
            let missing = u64::from(published.saturating_sub(*next));
            *if away { &mut audit.missed_away } else { &mut audit.lost } += missing;
            *next = published.max(*next);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(start: Option<u32>, numbers: &[u32], end: u32, expected: (u64, u64, u64, u64)) {
        let mut audit = Audit::default();
        let mut subscriber = start.map_or_else(Subscriber::default, Subscriber::from);
        numbers.iter().for_each(|number| subscriber.got(*number, false, &mut audit));
        subscriber.end(end, false, &mut audit);
        let Audit { delivered, lost, duplicates, out_of_order, .. } = audit;
        assert_eq!((delivered, lost, duplicates, out_of_order), expected, "{numbers:?}");
    }

    #[test]
    fn every_fault_is_counted_once() {
        check(Some(0), &[0, 1, 2, 3], 4, (4, 0, 0, 0));
        check(Some(0), &[0, 2, 3], 4, (3, 1, 0, 0));
        check(Some(0), &[0, 1], 4, (2, 2, 0, 0));
        check(Some(0), &[], 4, (0, 4, 0, 0));
        check(Some(0), &[0, 1, 1, 2], 3, (3, 0, 1, 0));
        check(Some(0), &[0, 2, 1, 3], 4, (4, 0, 0, 1));
        check(Some(0), &[0, 2, 1, 1, 3], 4, (4, 0, 1, 1));
        check(Some(0), &[0, 500, 501], 502, (3, 499, 0, 0));
        check(Some(0), &[63, 0, 64], 65, (3, 62, 0, 1));
    }

    #[test]
    fn one_who_joins_late_is_owed_only_what_follows() {
        check(None, &[7, 8, 10], 12, (3, 2, 0, 0));
        check(None, &[], 12, (0, 0, 0, 0));
    }

    #[test]
    fn what_was_published_while_one_was_away_is_told_apart() {
        let (mut audit, mut subscriber) = (Audit::default(), Subscriber::from(0));
        subscriber.got(0, false, &mut audit);
        subscriber.got(4, true, &mut audit);
        subscriber.got(4, false, &mut audit);
        assert_eq!(audit, Audit { delivered: 2, missed_away: 3, duplicates: 1, ..Audit::default() });
        assert!(!audit.is_clean() && subscriber.is_up_to(5) && !subscriber.is_up_to(6));
    }
}
