//! A node's end of the bus for tests: it keeps what it is given, and can be told to take nothing.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

use async_trait::async_trait;
use clarion_bus::{BusConfig, BusHandle, Delivery, InterestId, Link, Sink, SubscribeError, Topic};
use clarion_protocol::{Channel, Interest, Publication};
use clarion_testkit::{eventually, within};
use parking_lot::Mutex;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpStream},
    sync::watch,
};

/// Keeps everything, in order.
pub(crate) struct Recorder {
    taken: Mutex<Vec<Delivery>>,
    gaps: AtomicUsize,
    open: watch::Sender<bool>,
}

#[async_trait]
impl Sink for Recorder {
    async fn deliver(&self, batch: &mut Vec<Delivery>) {
        // The sender lives in `self`, so it cannot be gone.
        let _ = self.open.subscribe().wait_for(|open| *open).await;
        self.taken.lock().append(batch);
    }

    fn gap(&self, _: &[InterestId]) {
        self.gaps.fetch_add(1, Relaxed);
    }
}

/// One that takes everything.
pub(crate) fn recorder() -> Arc<Recorder> {
    Arc::new(Recorder { taken: Mutex::default(), gaps: AtomicUsize::new(0), open: watch::Sender::new(true) })
}

pub(crate) struct Node {
    pub(crate) bus: BusHandle,
    pub(crate) sink: Arc<Recorder>,
}

/// The configuration for a URL, with a short patience.
pub(crate) fn config(url: &str) -> BusConfig {
    BusConfig { url: url.parse().unwrap(), client_name: "test-node".to_owned(), ..BusConfig::default() }
}

impl Node {
    /// Starts and waits until the link is up.
    pub(crate) async fn up(config: &BusConfig) -> Self {
        let node = Self::start(config);
        node.wait_up().await;
        node
    }

    pub(crate) fn start(config: &BusConfig) -> Self {
        let sink = recorder();
        Self { bus: clarion_bus::connect(config, sink.clone()).unwrap(), sink }
    }

    pub(crate) async fn wait_up(&self) {
        let mut link = self.bus.link();
        within("the link is up", link.wait_for(|link| *link == Link::Up)).await.unwrap();
    }

    /// Waits until the link is down and returns why.
    pub(crate) async fn wait_down(&self) -> String {
        let mut link = self.bus.link();
        let down = within("the link is down", link.wait_for(|link| matches!(link, Link::Down(Some(_))))).await.unwrap();
        match &*down {
            Link::Down(Some(reason)) => reason.clone(),
            other => panic!("{other:?}"),
        }
    }

    pub(crate) async fn subscribe(&self, interest: &str) -> InterestId {
        self.try_subscribe(interest).await.unwrap()
    }

    pub(crate) async fn try_subscribe(&self, interest: &str) -> Result<InterestId, SubscribeError> {
        within("subscribing", self.bus.subscribe(&topic(interest))).await
    }

    pub(crate) async fn try_subscribe_owned(&self, interest: String) -> Result<InterestId, SubscribeError> {
        self.try_subscribe(&interest).await
    }

    pub(crate) async fn publish(&self, channel: &str, payload: impl Into<bytes::Bytes>) {
        within("publishing", self.bus.publish(publication(channel, payload))).await.unwrap();
    }

    /// Waits until so many deliveries are there, and takes all.
    pub(crate) async fn take(&self, count: usize) -> Vec<Delivery> {
        eventually("deliveries", async || {
            let there = self.sink.taken.lock().len();
            if there >= count { Ok(()) } else { Err(format!("{there} of {count}")) }
        })
        .await;
        std::mem::take(&mut *self.sink.taken.lock())
    }

    /// Takes the payloads of so many deliveries.
    pub(crate) async fn payloads(&self, count: usize) -> Vec<String> {
        let text = |delivery: Delivery| String::from_utf8(delivery.message.payload.to_vec()).unwrap();
        self.take(count).await.into_iter().map(text).collect()
    }

    pub(crate) fn gaps(&self) -> usize {
        self.sink.gaps.load(Relaxed)
    }

    /// Whether the sink takes anything.
    pub(crate) fn open(&self, open: bool) {
        self.sink.open.send_replace(open);
    }
}

/// A server that lets everybody in, answers pings, and otherwise does what it is told.
pub(crate) struct Scripted;

impl Scripted {
    /// Starts one and returns its URL. `answer` gives what is said to a line, before the `PONG` where there
    /// is one; nothing at all ("") ends the connection.
    pub(crate) async fn start(answer: impl Fn(&str) -> Option<String> + Send + Sync + 'static) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("nats://{}", listener.local_addr().unwrap());
        let answer = Arc::new(answer);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(Self::serve(stream, answer.clone()));
            }
        });
        url
    }

    async fn serve(stream: TcpStream, answer: Arc<impl Fn(&str) -> Option<String>>) -> std::io::Result<()> {
        let mut stream = BufReader::new(stream);
        stream.write_all(b"INFO {\"headers\":true,\"max_payload\":1048576}\r\n").await?;
        let mut line = String::new();
        while stream.read_line(&mut line).await? > 0 {
            if let Some(answer) = answer(line.trim_end()) {
                stream.write_all(answer.as_bytes()).await?;
                if answer.is_empty() {
                    break;
                }
            }
            if line == "PING\r\n" {
                stream.write_all(b"PONG\r\n").await?;
            }
            line.clear();
        }
        Ok(())
    }
}

pub(crate) fn topic(interest: &str) -> Topic {
    Interest::parse(interest).unwrap().into()
}

pub(crate) fn publication(channel: &str, payload: impl Into<bytes::Bytes>) -> Publication {
    Publication::raw(Channel::parse(channel).unwrap(), payload)
}
