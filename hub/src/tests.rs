//! The hub over real sockets of the loopback interface.

mod fanout;
mod life;
mod slow;
mod seats;
mod streams;
pub(crate) mod support;
mod talk;
