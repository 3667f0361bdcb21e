//! A bus that dies, hangs, or is not there: publishing says so, sockets stay, readiness is red, and everything resumes.

use clarion_testkit::{
    BrokerProcess, NatsServer, RedisServer, SilentServer, SseClient, SseItem, TcpProxy, WsClient, eventually,
};

use crate::{code, development, publish, say};

/// Publishes until the socket hears it: what is said while subscriptions are rebuilt may be missed.
async fn hears_again(node: &BrokerProcess, socket: &mut WsClient) {
    eventually("messages pass again", async || publish(node, "news", "again").await.code() == 200).await;
    eventually("it is ready again", async || node.is_ready().await).await;
    say(node, "news", "the last").await;
    loop {
        let text = socket.text().await;
        if text == "the last" {
            return;
        }
    }
}

/// With one shard, which has the link on its own thread; other tests have as many as this machine has cores.
async fn survives_a_restart(bus: &str, restart: impl AsyncFnOnce(&BrokerProcess, &mut WsClient)) {
    let node = development().args(["--bus", bus]).env("CLARION_LIMITS_SHARDS", "1").start_ready().await;
    let mut socket = WsClient::connect(&node.url("news")).await;
    say(&node, "news", "before").await;
    assert_eq!(socket.text().await, "before");
    restart(&node, &mut socket).await;
    hears_again(&node, &mut socket).await;
}

/// What holds while the bus is dead.
async fn while_dead(node: &BrokerProcess, socket: &mut WsClient) {
    eventually("it is not ready", async || !node.is_ready().await).await;
    let reply = eventually("publishing is refused for sure", async || {
        let reply = publish(node, "news", "into the void").await;
        (reply.code() == 503).then_some(reply)
    })
    .await;
    assert!(reply.header("retry-after").is_some());
    code(&reply);
    socket.send_text("ping").await;
    assert_eq!(socket.text().await, "pong", "sockets stay");
    let newcomer = WsClient::request(&node.url("news")).connect().await.expect_err("a newcomer is refused");
    assert_eq!(newcomer.status, 503);
    assert!(newcomer.headers.contains_key("retry-after"));
    let mut stream = SseClient::connect(&node.url("news")).await.expect("an event stream gets 200 whatever happens");
    assert!(matches!(stream.next().await, SseItem::Retry(_)));
    assert_eq!(stream.next().await, SseItem::End);
}

#[tokio::test]
async fn redis_is_killed_and_comes_back() {
    let mut redis = RedisServer::start().await;
    let url = redis.url();
    survives_a_restart(&url, async |node, socket| {
        redis.kill();
        while_dead(node, socket).await;
        redis.restart().await;
    })
    .await;
}

#[tokio::test]
async fn nats_is_killed_and_comes_back() {
    let mut nats = NatsServer::start().await;
    let url = nats.url();
    survives_a_restart(&url, async |node, socket| {
        nats.kill();
        while_dead(node, socket).await;
        nats.restart().await;
    })
    .await;
}

#[tokio::test]
async fn a_frozen_bus_is_noticed_and_answered_504() {
    let (redis, nats) = (RedisServer::start().await, NatsServer::start().await);
    for (url, pause, resume) in [
        (redis.url(), &(|| redis.pause()) as &dyn Fn(), &(|| redis.resume()) as &dyn Fn()),
        (nats.url(), &|| nats.pause(), &|| nats.resume()),
    ] {
        survives_a_restart(&url, async |node, _| {
            pause();
            let status = publish(node, "news", "nobody knows").await.code();
            assert!(matches!(status, 503 | 504), "{url}: {status}");
            eventually("it is not ready", async || !node.is_ready().await).await;
            resume();
        })
        .await;
    }
}

#[tokio::test]
async fn a_redis_that_is_known_to_hang_is_given_nothing() {
    let redis = RedisServer::start().await;
    // What is given to a server that hangs would be answered after longer than this test has patience for.
    let node =
        development().args(["--bus", &redis.url()]).env("CLARION_BUS_COMMAND_TIMEOUT", "10m").start_ready().await;
    redis.pause();
    eventually("it is not ready", async || !node.is_ready().await).await;
    assert_eq!(publish(&node, "news", "surely not taken").await.code(), 503);
    redis.resume();
}

#[tokio::test]
async fn a_silent_link_is_rebuilt() {
    let (redis, nats) = (RedisServer::start().await, NatsServer::start().await);
    for (kind, addr) in [("redis", redis.addr()), ("nats", nats.addr())] {
        let proxy = TcpProxy::start(addr).await;
        survives_a_restart(&format!("{kind}://{}", proxy.addr()), async |node, _| {
            proxy.stall();
            eventually("the probe is late", async || !node.is_ready().await).await;
            proxy.resume();
        })
        .await;
    }
}

#[tokio::test]
async fn killed_subscriber_connections_are_rebuilt() {
    let redis = RedisServer::start().await;
    survives_a_restart(&redis.url(), async |node, _| {
        let before = node.metrics().await.sum("clarion_bus_reconnects_total");
        redis.cli(&["CLIENT", "KILL", "TYPE", "pubsub"]).await;
        let reconnected = async || node.metrics().await.sum("clarion_bus_reconnects_total") > before;
        eventually("the link is built anew", reconnected).await;
    })
    .await;
}

#[tokio::test]
async fn an_unreachable_bus_at_start_is_waited_for_or_not() {
    let silent = SilentServer::start().await;
    let bus = format!("redis://{}", silent.addr());
    let node = development().args(["--bus", &bus]).start().await;
    assert!(!node.is_ready().await);
    eventually("it is said plainly", async || node.log().iter().any(|line| line.contains("bus"))).await;
    let (code, words) = development().args(["--bus", &bus, "--require-bus", "1s"]).start_and_end().await;
    assert_eq!(code, Some(69), "{words}");

    let mut redis = RedisServer::start().await;
    redis.kill();
    let node = development().args(["--bus", &redis.url()]).start().await;
    redis.restart().await;
    node.wait_ready().await;
}
