//! Clarion's words as types: channel names, subjects, messages, envelopes, wordings, logs, cursors, close codes and limits.
//!
//! Everything here is pure: no I/O, no clock of its own, no logging, no async. What crosses the network is
//! defined here and nowhere else.

pub mod channel;
pub mod close;
pub mod control;
pub mod cursor;
pub mod delivery;
pub mod door;
pub mod envelope;
pub mod interest;
pub mod limits;
pub mod log;
pub mod message;
pub mod node;
pub mod publication;
pub mod subject;
pub mod user;
pub mod wording;

pub use channel::{Channel, ChannelError};
pub use close::CloseCode;
pub use cursor::{Cursor, CursorError, CursorKey, Place};
pub use delivery::{Delivery, InterestId};
pub use door::Door;
pub use interest::{Depth, Interest, InterestError};
pub use log::{LogPolicy, Logs, Partition};
pub use message::{Epoch, EpochError, Message, MessageId, Meta, Position, Tags};
pub use node::{NodeName, NodeNameError};
pub use publication::{Address, InternalName, Publication};
pub use subject::Prefix;
pub use user::{Uid, UidError};
pub use wording::Wording;
