//! Every decoder of Clarion against bytes that nobody meant. A target is a plain function that panics when a promise is broken:
//! nothing brings a decoder down, what it keeps is bounded, it does not matter how bytes are cut, and what was written is
//! read back.
//!
//! `cargo test -p clarion-fuzz` tries each for a second with proptest; `fuzz/run` goes on for minutes, led by the branches
//! that an input has reached.

mod broker;
mod bus;
mod frames;
mod pieces;
mod protocol;

pub use pieces::pieces;

/// A decoder and what it has to stand.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// What it is called on the command line.
    pub name: &'static str,
    /// Panics when these bytes break a promise.
    pub run: fn(&[u8]),
    /// Good input to begin with, behind two bytes that say [how it is cut](pieces()).
    pub seeds: &'static [&'static [u8]],
}

/// All of them.
pub const TARGETS: [Target; 12] = [
    Target { name: "frames", run: frames::run, seeds: frames::SEEDS },
    Target { name: "heads", run: broker::heads, seeds: broker::HEADS },
    Target { name: "tokens", run: broker::tokens, seeds: broker::TOKENS },
    Target { name: "forms", run: broker::forms, seeds: broker::FORMS },
    Target { name: "relay", run: broker::relay, seeds: broker::RELAY },
    Target { name: "configuration", run: broker::configuration, seeds: broker::CONFIGURATION },
    Target { name: "redis", run: bus::redis, seeds: bus::REDIS },
    Target { name: "nats", run: bus::nats, seeds: bus::NATS },
    Target { name: "envelope", run: protocol::envelope, seeds: protocol::ENVELOPE },
    Target { name: "names", run: protocol::names, seeds: protocol::NAMES },
    Target { name: "bodies", run: protocol::bodies, seeds: protocol::BODIES },
    Target { name: "wordings", run: protocol::wordings, seeds: protocol::WORDINGS },
];

/// The target of this name.
#[must_use]
pub fn target(name: &str) -> Option<&'static Target> {
    TARGETS.iter().find(|target| target.name == name)
}
