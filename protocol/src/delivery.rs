//! A message on its way from the bus to those who asked for it.

use smallvec::SmallVec;

use crate::{Address, Message};

/// A subscription of a node that stands on the bus, however many sockets share it. Never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct InterestId(pub u64);

/// One copy of a message as the bus's server sent it.
#[derive(Debug, Clone)]
pub struct Delivery {
    /// The interests that this copy was sent for, nearly always one. A copy on one server-side subscription can
    /// serve several interests (`a` and `a/**` share Redis's `SUBSCRIBE clarion:a`); each interest gets each message once.
    pub interests: SmallVec<[InterestId; 2]>,
    /// Where it was published.
    pub address: Address,
    /// What was published. The payload may share the link's read buffer: copy what is kept.
    pub message: Message,
}
