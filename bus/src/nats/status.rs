//! Whether the two connections of a node stand, told as one [`Link`].
//!
//! It comes up when both are. It goes down with the subscriber's alone: then messages may be missed, and a gap will be
//! told of. A publisher's connection that is lost by itself shows in its answers and in the probe.

use parking_lot::Mutex;
use tokio::sync::watch;

use crate::Link;

/// The two connections.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Half {
    /// What brings messages.
    Subscriber = 0,
    /// What takes publications.
    Publisher = 1,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Status {
    halves: Mutex<[Link; 2]>,
    both: watch::Sender<Link>,
}

impl Status {
    /// Both down, for no reason yet.
    pub(crate) fn new() -> Self {
        Self { halves: Mutex::new([Link::Down(None), Link::Down(None)]), both: watch::Sender::new(Link::Down(None)) }
    }

    /// Sets the state of one connection.
    pub(crate) fn set(&self, half: Half, link: Link) {
        // Told under the lock, so that two changes cannot be told in the wrong order.
        let mut halves = self.halves.lock();
        halves[half as usize] = link;
        let [subscriber, publisher] = &*halves;
        self.both.send_if_modified(|told| {
            let new = match (subscriber, publisher) {
                (Link::Up, Link::Down(_)) if *told == Link::Up => return false,
                (Link::Up, publisher) => publisher,
                (down, _) => down,
            };
            let changed = told != new;
            told.clone_from(new);
            changed
        });
    }

    /// The state of one connection.
    pub(crate) fn get(&self, half: Half) -> Link {
        self.halves.lock()[half as usize].clone()
    }

    /// The state of both, and each change.
    pub(crate) fn watch(&self) -> watch::Receiver<Link> {
        self.both.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn up_means_both_and_down_means_a_gap() {
        let status = Status::new();
        let watch = status.watch();
        let down = |reason: &str| Link::Down(Some(reason.to_owned()));
        for (half, link, told) in [
            (Half::Subscriber, Link::Up, Link::Down(None)),
            (Half::Publisher, down("a"), down("a")),
            (Half::Publisher, Link::Up, Link::Up),
            (Half::Publisher, down("b"), Link::Up),
            (Half::Subscriber, down("c"), down("c")),
            (Half::Subscriber, Link::Up, down("b")),
            (Half::Publisher, Link::Up, Link::Up),
        ] {
            status.set(half, link.clone());
            assert_eq!(*watch.borrow(), told, "{half:?} {link:?}");
            assert_eq!(status.get(half), link);
        }
    }
}
