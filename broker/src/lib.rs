//! The broker node as a library, so that a test can start one on port 0. `main.rs` is only its process.
//!
//! Modules stand in the order of `ARCHITECTURE.md`: each may use what is listed below it here, never what is above.

pub mod server;

pub mod doors;
pub mod rpc;
pub mod inbox;
pub mod api;
pub mod relay;
pub mod docs;
pub mod node;
pub mod answer;
pub mod admin;
pub mod config;
pub mod admission;
pub mod auth;

pub mod drain;
pub mod probe;
pub mod scribe;
pub mod members;
pub mod ingress;
pub mod tls;
