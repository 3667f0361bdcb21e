//! Everybody who can publish: `redis-cli`, Python's `redis`, `nats-py`, HTTP, JSON-RPC and the CLI.

use std::{io::Write as _, path::Path, process::Command};

use clarion_testkit::{BrokerProcess, Reply, http, run};
use serde_json::{Value, json};

use crate::API_KEY;

/// Publishes a list of (channel, payload) in its own way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Publisher {
    RedisCli,
    PythonRedis,
    PythonNats,
    Http,
    JsonRpc,
    Cli,
}

/// Where there is something to publish to.
pub(crate) struct Target<'a> {
    /// The bus's URL.
    pub(crate) bus: &'a str,
    /// The node for those who publish through one.
    pub(crate) node: &'a BrokerProcess,
}

impl Publisher {
    /// Those who can publish on this bus.
    pub(crate) fn on(bus: &str) -> &'static [Self] {
        if bus.starts_with("nats") {
            &[Self::PythonNats, Self::Http, Self::JsonRpc, Self::Cli]
        } else {
            &[Self::RedisCli, Self::PythonRedis, Self::Http, Self::JsonRpc, Self::Cli]
        }
    }

    /// Publishes all, in order.
    pub(crate) async fn publish(self, target: &Target<'_>, messages: &[(String, String)]) {
        match self {
            Self::RedisCli => redis_cli(target, messages).await,
            Self::PythonRedis => python("publish_redis.py", target, messages).await,
            Self::PythonNats => python("publish_nats.py", target, messages).await,
            Self::Http => by_http(target, messages).await,
            Self::JsonRpc => json_rpc(target, messages).await,
            Self::Cli => cli(target, messages).await,
        }
    }
}

async fn redis_cli(target: &Target<'_>, messages: &[(String, String)]) {
    for (channel, payload) in messages {
        let mut command = Command::new("redis-cli");
        command.args(["-e", "-u", target.bus, "PUBLISH", &format!("clarion:{channel}"), payload]);
        run(command).await.expect("redis-cli publishes");
    }
}

/// The scripts beside this file know nothing of Clarion: they publish lines of `[subject, payload]`.
async fn python(script: &str, target: &Target<'_>, messages: &[(String, String)]) {
    let mut list = tempfile::NamedTempFile::new().expect("a temporary file");
    for (channel, payload) in messages {
        let subject = match script {
            "publish_nats.py" => format!("clarion.{}", channel.replace('/', ".")),
            _ => format!("clarion:{channel}"),
        };
        writeln!(list, "{}", json!([subject, payload])).expect("it is written");
    }
    let python = "python3";
    let mut command = Command::new(python);
    command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cluster").join(script));
    command.arg(target.bus).arg(list.path());
    run(command).await.expect("Python publishes (`./test` installs the packages and names them in PYTHONPATH)");
}

async fn by_http(target: &Target<'_>, messages: &[(String, String)]) {
    for (channel, payload) in messages {
        let request = http().post(target.node.url(channel)).header("x-api-key", API_KEY).form(&[("data", payload)]);
        let reply = Reply::of(request).await;
        assert_eq!(reply.code(), 200, "{channel}: {}", reply.text());
    }
}

async fn json_rpc(target: &Target<'_>, messages: &[(String, String)]) {
    let call = |(number, (channel, payload)): (usize, &(String, String))| match channel.strip_prefix("users/") {
        Some(user) => {
            json!({"jsonrpc": "2.0", "id": number, "method": "push", "params": {"user": user, "text": payload}})
        }
        None => {
            json!({"jsonrpc": "2.0", "id": number, "method": "publish", "params": {"channel": channel, "text": payload}})
        }
    };
    for part in messages.chunks(50) {
        let calls: Value = part.iter().enumerate().map(call).collect();
        let request = http().post(target.node.url("rpc")).header("x-api-key", API_KEY).json(&calls);
        let reply = Reply::of(request).await;
        let answers = reply.json();
        let good =
            answers.as_array().is_some_and(|answers| answers.iter().all(|answer| answer["result"]["id"].is_string()));
        assert!(good && answers.as_array().map(Vec::len) == Some(part.len()), "{answers}");
    }
}

async fn cli(target: &Target<'_>, messages: &[(String, String)]) {
    let clarion = Path::new(env!("CARGO_BIN_EXE_clarion-broker")).with_file_name("clarion");
    assert!(clarion.exists(), "`clarion` is not built: run `cargo build -p clarion-cli` or test the whole workspace");
    for (channel, payload) in messages {
        let mut command = Command::new(&clarion);
        match channel.strip_prefix("users/") {
            Some(user) => command.args(["push", user, payload]),
            None => command.args(["publish", channel, payload]),
        };
        command.args(["--via", &target.node.url("")]).env("CLARION_API_KEY", API_KEY);
        run(command).await.expect("clarion publishes");
    }
}
