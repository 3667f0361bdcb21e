//! Whether the two connections of a node stand, told as one [`Link`].

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

/// Up when both connections are, and what keeps the first of them down otherwise.
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
        let down = halves.iter().find(|link| **link != Link::Up);
        let both = down.cloned().unwrap_or(Link::Up);
        self.both.send_if_modified(|told| {
            let changed = *told != both;
            *told = both;
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
    fn up_means_both() {
        let status = Status::new();
        let watch = status.watch();
        status.set(Half::Subscriber, Link::Up);
        assert_eq!(*watch.borrow(), Link::Down(None));
        status.set(Half::Publisher, Link::Up);
        assert_eq!(*watch.borrow(), Link::Up);
        let down = Link::Down(Some("gone".to_owned()));
        status.set(Half::Publisher, down.clone());
        assert_eq!(*watch.borrow(), down);
        assert_eq!(status.get(Half::Subscriber), Link::Up);
    }
}
