//! Logged namespaces on real buses: a client that keeps its cursor has every message once and in order, while nodes are killed
//! and the bus is restarted.

#![allow(clippy::unwrap_used, reason = "a test that fails may say so anywhere")]

use clarion_testkit::{BrokerProcess, NatsServer, RedisServer, Reply, SseClient, SseEvent, SseItem, eventually, http};

const BROKER: &str = env!("CARGO_BIN_EXE_clarion-broker");
const MESSAGES: usize = 300;

/// A configuration with a logged namespace. It must live as long as nodes start with it.
fn configuration() -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::with_suffix(".toml").unwrap();
    let text = "[[namespaces]]\nprefix = 'orders'\nsubscribe = 'anyone'\npublish = 'anyone'\nlog = { size = 1000 }\n";
    std::fs::write(file.path(), text).unwrap();
    file
}

async fn start(bus: &str, name: &str, file: &tempfile::NamedTempFile) -> BrokerProcess {
    let path = file.path().to_str().unwrap();
    let node =
        BrokerProcess::builder(BROKER).args(["--bus", bus, "--node", name, "--config", path]).start_ready().await;
    // Streams and libraries are made once the bus is there.
    eventually("the log is there", async || Reply::get(&node.url("orders/begin?last=1")).await.code() == 200).await;
    node
}

/// Publishes a number until it is taken; its id keeps a repeat from being stored.
async fn publish(node: &BrokerProcess, number: usize) {
    let request = || http().post(node.url("orders/7")).header("idempotency-key", number.to_string());
    eventually("it is taken", async || {
        request().body(number.to_string()).send().await.is_ok_and(|r| r.status() == 200)
    })
    .await;
}

/// Hears from the first message on, at one node after the other, until all have come.
async fn listen(nodes: &[String]) -> Vec<usize> {
    let (mut heard, mut at, mut visits) = (Vec::new(), None::<String>, 0);
    while heard.len() < MESSAGES {
        let url = format!("{}/orders/**", nodes[visits % nodes.len()]);
        visits += 1;
        let request = match &at {
            Some(at) => http().get(&url).header("last-event-id", at),
            None => http().get(format!("{url}?last=1000")),
        };
        let Ok(mut stream) = SseClient::request(request).await else { continue };
        let mut left = 1 + visits * 13 % 50;
        while left > 0 && heard.len() < MESSAGES {
            match stream.next().await {
                SseItem::Event(SseEvent { id, event, data }) => {
                    at = id.or(at);
                    match event.as_deref() {
                        None => {
                            heard.push(data.parse().unwrap());
                            left -= 1;
                        }
                        Some("cursor") => {}
                        Some(other) => panic!("{other}: {data} after {heard:?}"),
                    }
                }
                SseItem::End => break,
                SseItem::Comment(_) | SseItem::Retry(_) => {}
            }
        }
    }
    heard
}

/// Two nodes that stay, and one that is killed amid the publishing.
async fn nothing_is_lost_when_a_node_dies(bus: &str) {
    let file = configuration();
    let mut dying = start(bus, "dying", &file).await;
    let one = start(bus, "one", &file).await;
    let two = start(bus, "two", &file).await;
    let urls = [&one, &two].map(|node| node.url("").trim_end_matches('/').to_owned());
    let publishing = async {
        for number in 0..MESSAGES {
            publish(if number % 2 == 0 { &one } else { &two }, number).await;
            if number == MESSAGES / 2 {
                dying.kill();
            }
        }
    };
    let clients = futures_util::future::join_all((0..10).map(|_| listen(&urls)));
    let (_, all) = tokio::join!(publishing, clients);
    for heard in all {
        assert_eq!(heard, (0..MESSAGES).collect::<Vec<_>>());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_or_repeated_on_redis() {
    let redis = RedisServer::start().await;
    nothing_is_lost_when_a_node_dies(&redis.url()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_or_repeated_on_nats() {
    let nats = NatsServer::builder().jetstream().start().await;
    nothing_is_lost_when_a_node_dies(&nats.url()).await;
}

/// The bus is killed and comes back with its data: who listens on, and who comes back, has everything.
async fn a_bus_that_comes_back_heals(bus: &str, restart: impl AsyncFnOnce()) {
    let file = configuration();
    let node = start(bus, "one", &file).await;
    let mut stream = SseClient::connect(&node.url("orders/7")).await.unwrap();
    for number in 0..20 {
        publish(&node, number).await;
    }
    restart().await;
    for number in 20..40 {
        publish(&node, number).await;
    }
    let mut heard = Vec::new();
    while heard.len() < 40 {
        match stream.next().await {
            SseItem::Event(SseEvent { event: None, data, .. }) => heard.push(data.parse::<usize>().unwrap()),
            SseItem::Event(SseEvent { event: Some(event), data, .. }) if event != "cursor" => panic!("{event}: {data}"),
            SseItem::End => panic!("the stream ended after {heard:?}"),
            _ => {}
        }
    }
    assert_eq!(heard, (0..40).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_comes_back_heals() {
    let mut redis = RedisServer::builder().config("appendonly", "yes").start().await;
    let url = redis.url();
    a_bus_that_comes_back_heals(&url, async || redis.restart().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_nats_that_comes_back_heals() {
    let mut nats = NatsServer::builder().jetstream().start().await;
    let url = nats.url();
    a_bus_that_comes_back_heals(&url, async || nats.restart().await).await;
}
