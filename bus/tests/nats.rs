//! What the NATS bus promises, on a real nats-server: beside the conformance suite, which holds for every bus.

#![allow(clippy::unwrap_used, reason = "a test that fails may say so anywhere")]

#[path = "nats/auth.rs"]
mod auth;
#[path = "nats/cluster.rs"]
mod cluster;
#[path = "nats/faults.rs"]
mod faults;
#[path = "nats/kit.rs"]
mod kit;
#[path = "nats/many.rs"]
mod many;
#[path = "nats/publish.rs"]
mod publish;
#[path = "nats/relay.rs"]
mod relay;
