//! A Redis master, its replica, and sentinels that watch them.

use std::fs;

use anyhow::{Context, Result};

use super::{RedisBuilder, RedisServer};
use crate::{process::on_free_port, wait::eventually};

/// The name under which the sentinels know the master.
const SERVICE: &str = "mymaster";

/// A master with one replica under three sentinels, of which two decide.
#[derive(Debug)]
pub struct RedisSentinel {
    servers: Vec<RedisServer>,
    sentinels: Vec<RedisServer>,
}

impl RedisSentinel {
    /// Starts them and waits until every sentinel knows the replica and the other sentinels.
    ///
    /// # Panics
    /// When they do not come up.
    pub async fn start() -> Self {
        let master = RedisServer::start().await;
        let replica = RedisServer::builder().config("replicaof", &format!("127.0.0.1 {}", master.port())).start().await;
        let mut sentinels = Vec::new();
        for _ in 0..3 {
            let sentinel = on_free_port(async |port| start_sentinel(port, master.port()).await).await;
            sentinels.push(sentinel.unwrap_or_else(|error| panic!("{error:#}")));
        }
        let set = Self { servers: vec![master, replica], sentinels };
        for sentinel in &set.sentinels {
            eventually("the sentinels know each other and the replica", async || {
                let answer = sentinel.cli(&["SENTINEL", "MASTER", SERVICE]).await;
                let lines: Vec<_> = answer.lines().collect();
                let field = |name: &str| lines.windows(2).find(|pair| pair[0] == name).map(|pair| pair[1].to_owned());
                field("num-slaves").as_deref() == Some("1") && field("num-other-sentinels").as_deref() == Some("2")
            })
            .await;
        }
        set
    }

    /// The name under which the sentinels know the master: `mymaster`.
    #[must_use]
    pub fn service(&self) -> &'static str {
        SERVICE
    }

    /// `redis-sentinel://host:port?sentinelServiceName=mymaster&node=…`, as the `fred` crate writes it.
    #[must_use]
    pub fn url(&self) -> String {
        let ports: Vec<_> = self.sentinels.iter().map(RedisServer::port).collect();
        let more: String = ports[1..].iter().map(|port| format!("&node=127.0.0.1:{port}")).collect();
        format!("redis-sentinel://127.0.0.1:{}?sentinelServiceName={SERVICE}{more}", ports[0])
    }

    /// The sentinels.
    #[must_use]
    pub fn sentinels(&self) -> &[RedisServer] {
        &self.sentinels
    }

    /// The server that the sentinels name as the master now.
    ///
    /// # Panics
    /// When they name none of ours.
    pub async fn master(&mut self) -> &mut RedisServer {
        let answer = self.sentinels[0].cli(&["SENTINEL", "GET-MASTER-ADDR-BY-NAME", SERVICE]).await;
        let port = answer.lines().last().unwrap_or_default().to_owned();
        let found = self.servers.iter_mut().find(|server| server.port().to_string() == port);
        found.unwrap_or_else(|| panic!("the sentinels name {answer}"))
    }

    /// Kills the master and waits until the sentinels have made the other one the master.
    ///
    /// # Panics
    /// When they do not.
    pub async fn fail_over(&mut self) {
        let old = self.master().await.port();
        self.master().await.kill();
        let sentinels = &self.sentinels;
        eventually("the replica is promoted", async || {
            for sentinel in sentinels {
                let answer = sentinel.cli(&["SENTINEL", "GET-MASTER-ADDR-BY-NAME", SERVICE]).await;
                if answer.ends_with(&old.to_string()) {
                    return false;
                }
            }
            true
        })
        .await;
        let promoted = self.master().await;
        eventually("the promoted server is a master", async || promoted.info("role").await == "master").await;
    }
}

async fn start_sentinel(port: u16, master: u16) -> Result<RedisServer> {
    let directory = tempfile::tempdir().context("a temporary directory")?;
    let file = directory.path().join("redis.conf");
    // Half a second without an answer is death here, so that a test of a fail-over takes seconds.
    let lines = [
        "bind 127.0.0.1".to_owned(),
        format!("port {port}"),
        "dir ./".to_owned(),
        format!("sentinel monitor {SERVICE} 127.0.0.1 {master} 2"),
        format!("sentinel down-after-milliseconds {SERVICE} 500"),
        format!("sentinel failover-timeout {SERVICE} 3000"),
    ];
    fs::write(&file, lines.join("\n") + "\n")?;
    let extra = vec!["--sentinel".into()];
    let process = RedisServer::launch(file, &extra).await?;
    let server = RedisServer { builder: RedisBuilder::default(), port, directory, process, extra };
    server.ready().await?;
    Ok(server)
}
