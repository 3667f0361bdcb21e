//! The hub over real sockets of the loopback interface.

mod fanout;
mod life;
mod pulse;
mod slow;
mod streams;
mod support;
mod talk;
