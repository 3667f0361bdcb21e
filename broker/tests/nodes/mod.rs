//! Nodes in this process, on ports of their own and one memory bus, for the tests of the edge.
#![allow(dead_code, reason = "each of the test files uses its part")]

use std::{net::SocketAddr, sync::Arc};

use clarion_broker::{
    config::Config,
    server::{self, Running, Shutdown},
};
use clarion_bus::memory::{Memory, Server};
use clarion_protocol::NodeName;
use clarion_testkit::{JwtKey, Metrics, Reply, eventually, http};
use serde_json::{Value, json};

/// The API key of nodes that are not in development mode.
pub(crate) const KEY: &str = "secret-key";

/// A node and the ends by which a test holds it.
pub(crate) struct TestNode {
    pub(crate) running: Running,
    pub(crate) shutdown: Shutdown,
    pub(crate) bus: Arc<Memory>,
}

impl TestNode {
    /// A node in development mode, alone on its bus.
    pub(crate) async fn start() -> Self {
        Self::with(|_| {}).await
    }

    /// A node alone on its bus, set as a test wants it.
    pub(crate) async fn with(configure: impl Fn(&mut Config)) -> Self {
        cluster(1, configure).await.pop().expect("there is one")
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.running.listen)
    }

    pub(crate) fn name(&self) -> &str {
        self.running.node.as_str()
    }

    pub(crate) async fn metrics(&self) -> Metrics {
        Metrics::parse(&Reply::get(&format!("http://{}/metrics", self.running.admin)).await.text())
    }

    /// Calls a method of JSON-RPC: the whole answer.
    pub(crate) async fn rpc(&self, method: &str, params: Value) -> Value {
        let call = json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params });
        Reply::of(http().post(self.url("/rpc")).header("x-api-key", KEY).body(call.to_string())).await.json()
    }
}

/// So many nodes on one bus, once each of them knows all others.
pub(crate) async fn cluster(count: usize, configure: impl Fn(&mut Config)) -> Vec<TestNode> {
    let server = Server::new();
    let mut nodes = Vec::new();
    for number in 0..count {
        nodes.push(join(&server, &format!("node-{number}"), &configure).await);
    }
    for node in &nodes {
        eventually("every node knows all", async || {
            let info = node.rpc("info", json!({})).await;
            let members = info["result"]["members"].as_array().map_or(0, Vec::len);
            if node.running.ready.ready().is_ok() && members == count { Ok(()) } else { Err(info) }
        })
        .await;
    }
    nodes
}

/// One more node on a bus.
async fn join(server: &Server, name: &str, configure: impl Fn(&mut Config)) -> TestNode {
    let any_port = SocketAddr::from(([127, 0, 0, 1], 0));
    let node = NodeName::parse(name).expect("a valid name");
    let mut config = Config { listen: any_port, admin_listen: any_port, node, ..Config::default() };
    // Load balancers are not waited for, there are none.
    config.drain.wait = Some(std::time::Duration::ZERO);
    configure(&mut config);
    let (shutdown, mut bus) = (Shutdown::new(), None);
    let running = server::start_with(config, shutdown.clone(), |config, sink| {
        let memory = Arc::new(server.attach(config, sink));
        bus = Some(memory.clone());
        Ok(memory)
    });
    let running = running.await.expect("it starts");
    TestNode { running, shutdown, bus: bus.expect("it was asked for") }
}

/// Ends development mode: publishing needs [`KEY`] from now on.
pub(crate) fn keyed(config: &mut Config) {
    config.auth.api_keys = vec![serde_json::from_value(json!(KEY)).expect("a key")];
}

/// A token that is good in development mode.
pub(crate) fn token(user: &str) -> String {
    JwtKey::hs256("development").token(user)
}
