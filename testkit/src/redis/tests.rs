//! The servers do what the tests that use them rely on.

use super::*;

#[tokio::test]
async fn it_is_killed_and_comes_back_on_its_port() {
    let mut server = RedisServer::start().await;
    assert_eq!(server.cli(&["SET", "a", "1"]).await, "OK");
    assert!(server.memory_used().await > 100_000);
    let port = server.port();
    server.kill();
    assert!(server.try_cli(&["PING"]).await.is_err());
    server.restart().await;
    assert_eq!(server.port(), port);
    assert_eq!(server.cli(&["GET", "a"]).await, "");
}

#[tokio::test]
async fn a_paused_server_keeps_its_connections_and_is_silent() {
    let server = RedisServer::start().await;
    server.pause();
    let silent = tokio::time::timeout(std::time::Duration::from_millis(300), server.try_cli(&["PING"])).await;
    assert!(silent.is_err());
    server.resume();
    assert_eq!(server.cli(&["PING"]).await, "PONG");
}

#[tokio::test]
async fn passwords_and_rules_hold() {
    let rule = "bob on >hers ~* resetchannels &clarion:* +@all";
    let server = RedisServer::builder().password("secret").acl(rule).start().await;
    assert_eq!(server.url(), format!("redis://:secret@{}", server.addr()));
    assert_eq!(server.cli(&["PING"]).await, "PONG");
    let refused = server.try_cli(&["--user", "bob", "--pass", "hers", "PUBLISH", "other", "x"]).await;
    assert!(format!("{:#}", refused.unwrap_err()).contains("NOPERM"));
}

#[tokio::test]
async fn tls_is_spoken() {
    let server = RedisServer::builder().tls().start().await;
    assert_eq!(server.cli(&["PING"]).await, "PONG");
    assert!(server.url().starts_with("rediss://localhost:"));
}

#[tokio::test]
async fn a_cluster_shares_its_slots() {
    let cluster = RedisCluster::start(3).await;
    for key in ["a", "b", "c", "d"] {
        assert_eq!(cluster.owner_of(key).await.cli(&["SET", key, "1"]).await, "OK");
    }
}

#[tokio::test]
async fn sentinels_promote_the_replica() {
    let mut set = RedisSentinel::start().await;
    let old = set.master().await.port();
    set.fail_over().await;
    assert_ne!(set.master().await.port(), old);
}
