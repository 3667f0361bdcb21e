//! How many bytes of requests' bodies this node holds at once.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use prometheus::{IntCounter, IntGauge, Registry};

/// How often a byte can be escaped in a form: `%41` for `A`.
const FORM_FACTOR: usize = 3;

/// What a form may hold beside the payload: the field's name and a little room.
const FORM_EXTRA: usize = 1024;

/// The most bytes that a form may have which holds a payload of so many.
#[must_use]
pub const fn largest(payload: usize) -> usize {
    payload * FORM_FACTOR + FORM_EXTRA
}

/// Counts the bytes of all bodies that have come and are not done with. Cheap to clone.
#[derive(Clone)]
pub struct Bodies(Arc<Inner>);

struct Inner {
    limit: usize,
    held: AtomicUsize,
    gauge: IntGauge,
    refused: IntCounter,
}

/// There is no room for more bytes now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("this node holds as many bytes of requests as it may")]
pub struct Full;

impl Bodies {
    /// Room for so many bytes.
    ///
    /// # Errors
    /// When the registry knows one of the names already.
    pub fn new(limit: usize, registry: &Registry) -> Result<Self, prometheus::Error> {
        let gauge = IntGauge::new("clarion_bodies_held_bytes", "Bytes of requests' bodies that are held.")?;
        let refused =
            IntCounter::new("clarion_bodies_refused_total", "Requests refused since too many bytes were held.")?;
        registry.register(Box::new(gauge.clone()))?;
        registry.register(Box::new(refused.clone()))?;
        Ok(Self(Arc::new(Inner { limit, held: AtomicUsize::new(0), gauge, refused })))
    }

    /// The place of one body, which holds nothing yet.
    pub fn room(&self) -> Room {
        Room { bodies: self.clone(), bytes: 0 }
    }
}

/// One body's bytes. They are given back when this is dropped.
pub struct Room {
    bodies: Bodies,
    bytes: usize,
}

impl Room {
    /// Takes room for more bytes that have come.
    ///
    /// # Errors
    /// [`Full`]: none of them are taken, counted.
    pub fn grow(&mut self, bytes: usize) -> Result<(), Full> {
        let Inner { limit, held, gauge, refused } = &*self.bodies.0;
        let more = |held: usize| held.checked_add(bytes).filter(|held| held <= limit);
        if held.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_err() {
            refused.inc();
            return Err(Full);
        }
        self.bytes += bytes;
        gauge.add(bytes as i64);
        Ok(())
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.bodies.0.held.fetch_sub(self.bytes, Ordering::Relaxed);
        self.bodies.0.gauge.sub(self.bytes as i64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_bodies_share_one_bound() {
        let bodies = Bodies::new(10, &Registry::new()).unwrap();
        let (mut a, mut b) = (bodies.room(), bodies.room());
        a.grow(4).unwrap();
        b.grow(6).unwrap();
        assert_eq!(a.grow(1), Err(Full));
        drop(b);
        a.grow(6).unwrap();
        assert_eq!(bodies.0.gauge.get(), 10);
        drop(a);
        assert_eq!((bodies.0.gauge.get(), bodies.0.refused.get()), (0, 1));
    }
}
