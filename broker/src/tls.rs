//! TLS for clients: the pair of files that proves who this node is, and handshakes.
//!
//! What a connection's TLS needs beyond its handshake is the hub's, since its socket goes there.

mod pair;
mod server;
mod settings;
mod stream;
mod validity;

pub use self::{
    server::Server,
    settings::{Config, Mistake},
    stream::{Carrier, Refusal, TlsStream},
};
