//! The memory bus keeps what every bus promises.

#![allow(clippy::unwrap_used, reason = "a test that fails may say so anywhere")]

mod conformance;

use std::sync::Arc;

use async_trait::async_trait;
use clarion_bus::{
    Bus as _, BusConfig, BusHandle, InterestId, Link, Sink,
    memory::{Memory, Server},
};
use clarion_protocol::{Channel, Publication};
use conformance::Rig;
use parking_lot::Mutex;

struct InProcess {
    server: Server,
    nodes: Mutex<Vec<Arc<Memory>>>,
}

impl InProcess {
    fn start() -> Self {
        // Small enough that a slow reader is found out.
        Self { server: Server::with_queue(4 * 1024 * 1024), nodes: Mutex::default() }
    }
}

struct Nobody;

#[async_trait]
impl Sink for Nobody {
    async fn deliver(&self, batch: &mut Vec<clarion_bus::Delivery>) {
        batch.clear();
    }

    fn gap(&self, _: &[InterestId]) {}
}

#[async_trait]
impl Rig for InProcess {
    fn config(&self) -> BusConfig {
        BusConfig::default()
    }

    fn connect(&self, config: BusConfig, sink: Arc<dyn Sink>) -> BusHandle {
        let node = Arc::new(self.server.attach(&config, sink));
        self.nodes.lock().push(node.clone());
        node
    }

    async fn backend(&self, channel: &str, payload: &[u8]) {
        let backend = self.server.attach(&BusConfig::default(), Arc::new(Nobody));
        let channel = Channel::parse(channel).unwrap();
        backend.publish(Publication::raw(channel, payload.to_vec())).await.unwrap();
    }

    async fn stop(&mut self) -> bool {
        self.server.stop();
        true
    }

    async fn restart(&mut self) -> bool {
        self.server.stop();
        for node in self.nodes.lock().iter() {
            assert!(matches!(&*node.link().borrow(), Link::Down(_)), "it is cut off for real");
        }
        self.server.start();
        true
    }

    async fn kill_connections(&self) -> bool {
        for node in self.nodes.lock().iter() {
            node.cut();
            node.heal();
        }
        true
    }

    fn slow_reader_is_cut(&self) -> bool {
        true
    }
}

suite!("memory", InProcess::start());

mod logs {
    use super::{InProcess, conformance};

    crate::log_suite!("memory logs", InProcess::start());
}
