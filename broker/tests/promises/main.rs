//! What a node promises, tried on the real binary over real connections: a file for each promise.
//!
//! They are one test binary, since linking one for each would take longer than running them all.

mod auth;
mod bus;
mod config;
mod doors;
mod drain;
mod faults;
mod frames;
mod limits;
mod pinning;
mod process;
mod publishing;
mod slow;
mod tls;

use std::io::Write as _;

use clarion_testkit::{BrokerBuilder, BrokerProcess, JwtKey, Reply, WsClient, WsRequest, http};
use serde_json::Value;
use tempfile::NamedTempFile;

pub(crate) const SECRET: &str = "the secret of these tests, long enough for every HMAC that there is, that is 64 bytes";
pub(crate) const API_KEY: &str = "the-api-key-of-these-tests";

/// A node in development mode, on memory.
pub(crate) fn development() -> BrokerBuilder {
    BrokerProcess::builder(env!("CARGO_BIN_EXE_clarion-broker"))
}

/// A node that wants tokens signed with [`SECRET`] and [`API_KEY`].
pub(crate) fn guarded() -> BrokerBuilder {
    development().env("CLARION_JWT_SECRET", SECRET).env("CLARION_API_KEYS", API_KEY)
}

/// A configuration file that goes with the value.
pub(crate) struct ConfigFile(NamedTempFile);

impl ConfigFile {
    pub(crate) fn new(toml: &str) -> Self {
        let mut file = NamedTempFile::with_suffix(".toml").expect("a temporary file can be made");
        file.write_all(toml.as_bytes()).expect("a temporary file can be written");
        Self(file)
    }

    pub(crate) fn path(&self) -> &str {
        self.0.path().to_str().expect("temporary files have plain names")
    }
}

/// A user's token, good for an hour.
pub(crate) fn token(user: &str) -> String {
    JwtKey::hs256(SECRET).token(user)
}

/// A WebSocket handshake as this user.
pub(crate) fn socket_of(user: &str, url: &str) -> WsRequest {
    WsClient::request(url).header("authorization", &format!("Bearer {}", token(user)))
}

/// Publishes text with the API key, which development mode does not mind.
pub(crate) async fn publish(node: &BrokerProcess, channel: &str, text: &str) -> Reply {
    let request = http().post(node.url(channel)).header("x-api-key", API_KEY).header("content-type", "text/plain");
    Reply::of(request.body(text.to_owned())).await
}

/// The same, which must succeed.
pub(crate) async fn say(node: &BrokerProcess, channel: &str, text: &str) {
    let reply = publish(node, channel, text).await;
    assert_eq!(reply.code(), 200, "{channel}: {}", reply.text());
}

/// Calls JSON-RPC with the API key.
pub(crate) async fn rpc(node: &BrokerProcess, body: &Value) -> Value {
    let request = http().post(node.url("rpc")).header("x-api-key", API_KEY).json(body);
    let reply = Reply::of(request).await;
    assert_eq!(reply.code(), 200, "{}", reply.text());
    reply.json()
}

/// The result of one method.
pub(crate) async fn call(node: &BrokerProcess, method: &str, params: Value) -> Value {
    let answer = rpc(node, &serde_json::json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params })).await;
    assert!(answer.get("error").is_none(), "{method}: {answer}");
    answer["result"].clone()
}

/// The word for machines in an error's body.
pub(crate) fn code(reply: &Reply) -> String {
    let body = reply.json();
    let code = body["error"]["code"].as_str().unwrap_or_else(|| panic!("no error code in {body}"));
    assert!(body["error"]["message"].is_string(), "{body}");
    code.to_owned()
}
