//! TLS for clients: the pair of files that proves who this node is, and sessions that need no runtime.
//!
//! A session is bytes in, bytes out, over whatever socket it is given: tokio's while HTTP is spoken, a shard's from then on.
//! It keeps no buffer of its own while nothing is on its way, so that an idle connection costs its keys and little else.

mod pair;
mod server;
mod session;
mod settings;
mod stream;
mod validity;

#[cfg(test)]
mod tests;

pub(crate) use self::session::write_some;
pub use self::{
    server::Server,
    session::Session,
    settings::{Config, Mistake},
    stream::{Carrier, Refusal, TlsStream},
};
