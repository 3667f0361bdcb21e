//! A member of the ring as the ring sees it.

use std::sync::Arc;

/// The greatest weight; the smallest is 1.
pub const MAX_WEIGHT: u16 = 100;

/// Somebody who can own slots. Plain data; [`Ring::new`](crate::Ring::new) judges it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its name, unique in a ring.
    pub name: Arc<str>,
    /// Its share relative to the others', 1 to [`MAX_WEIGHT`].
    pub weight: u16,
}

impl Member {
    /// A member of this name and weight.
    pub fn new(name: impl Into<Arc<str>>, weight: u16) -> Self {
        Self { name: name.into(), weight }
    }
}
