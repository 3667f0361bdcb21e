//! What the NATS bus promises, on a real nats-server: the conformance suite of every bus, and what is NATS's own.

#![allow(clippy::unwrap_used, reason = "a test that fails may say so anywhere")]

mod conformance;

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
#[path = "nats/rig.rs"]
mod rig;

mod plain {
    use crate::{conformance, rig::Server};

    crate::suite!("nats", Server::start().await);
}

mod tls {
    use crate::{conformance, rig::Server};

    crate::suite!("nats", Server::with_tls().await);
}

mod logs {
    use crate::{conformance, rig::Server};

    crate::log_suite!("nats logs", Server::with_streams().await);
}
