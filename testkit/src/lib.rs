//! Real servers, real nodes and raw clients for Clarion's tests. Development only: nothing here is shipped.
//!
//! What is started here dies with its value, and with the test process, however that ends. Nothing waits for a fixed time:
//! [`eventually`] asks until something holds, bounded by [`patience`]. What cannot be done panics and says why.

mod broker;
mod certificates;
mod faults;
mod http;
mod jwt;
mod nats;
mod process;
mod redis;
mod sse;
mod wait;
mod websocket;

pub use broker::{BrokerBuilder, BrokerProcess, Metrics};
pub use certificates::{Certificates, tls, trusting};
pub use faults::{SilentServer, TcpProxy};
pub use http::{JsonServer, Reply, http, https};
pub use jwt::{JwtKey, in_seconds};
pub use nats::{NatsBuilder, NatsCluster, NatsServer};
pub use process::{Process, dying_with_us, free_port, run};
pub use redis::{RedisBuilder, RedisCluster, RedisSentinel, RedisServer};
pub use sse::{SseClient, SseEvent, SseItem};
pub use wait::{Outcome, eventually, patience, within};
pub use websocket::{WsClient, WsItem, WsRefused, WsRequest};
