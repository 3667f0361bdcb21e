//! Whatever order refusals, aborted calls, lost connections and goodbyes come in: what is subscribed at the server is what
//! this node counts. The link is the real one, the server a model that answers as Redis does.

use std::{collections::BTreeSet, task::Poll};

use bytes::BytesMut;
use clarion_protocol::Interest;
use futures_util::poll;
use proptest::prelude::*;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

use super::{
    wire::{self, Reply, Step},
    *,
};
use crate::Delivery;

/// What there is to subscribe to. They share parts, and some may be forbidden.
const TOPICS: [&str; 8] = ["a", "b", "c", "d", "e", "a/**", "b/**", "c/*"];

/// What is done to a link.
#[derive(Debug, Clone)]
enum Event {
    /// Calls begin together, so that they share a command, and are dropped after so many looks at them.
    Abort(Vec<usize>, usize),
    /// Calls begin together, and what they get is kept.
    Hold(Vec<usize>),
    /// Something held is given back.
    Release(usize),
    /// The server forbids a subject, or allows it again.
    Forbid(usize, bool),
    /// The connection is cut.
    Cut,
    /// Time passes.
    Breathe(u8),
}

fn steps() -> impl Strategy<Value = Vec<Event>> {
    let topics = || proptest::collection::vec(0..TOPICS.len(), 1..6);
    let step = prop_oneof![
        4 => (topics(), 1_usize..4).prop_map(|(topics, looks)| Event::Abort(topics, looks)),
        4 => topics().prop_map(Event::Hold),
        3 => any::<usize>().prop_map(Event::Release),
        2 => (0..TOPICS.len(), any::<bool>()).prop_map(|(topic, on)| Event::Forbid(topic, on)),
        1 => Just(Event::Cut),
        3 => (0_u8..20).prop_map(Event::Breathe),
    ];
    proptest::collection::vec(step, 1..40)
}

/// The server: what its one subscriber has, and may not have.
#[derive(Default)]
struct Server {
    subscribed: Mutex<BTreeSet<String>>,
    forbidden: Mutex<BTreeSet<String>>,
    cut: Notify,
}

impl Server {
    async fn run(self: Arc<Self>, listener: TcpListener) {
        while let Ok((mut stream, _)) = listener.accept().await {
            stream.set_nodelay(true).unwrap();
            tokio::select! {
                _ = self.serve(&mut stream) => {}
                () = self.cut.notified() => {}
            }
            self.subscribed.lock().clear();
        }
    }

    async fn serve(&self, stream: &mut TcpStream) -> std::io::Result<()> {
        let mut input = BytesMut::new();
        while stream.read_buf(&mut input).await? > 0 {
            while let Ok(Step::Reply { reply: Reply::Array(words), end }) = wire::step(&input, 0) {
                let _ = input.split_to(end);
                let words: Vec<_> = words.iter().filter_map(Reply::as_str).collect();
                // A server that is busy answers what was asked before only then.
                for _ in 0..words.len() % 5 {
                    tokio::task::yield_now().await;
                }
                let answer = self.answer(words[0], &words[1..]);
                stream.write_all(answer.as_bytes()).await?;
            }
        }
        Ok(())
    }

    fn answer(&self, word: &str, names: &[&str]) -> String {
        let mut subscribed = self.subscribed.lock();
        let mut each = |kind: &str, joins: bool| {
            let answer = |name: &&str| {
                let _ = if joins { subscribed.insert((*name).to_owned()) } else { subscribed.remove(*name) };
                format!("*3\r\n${}\r\n{kind}\r\n${}\r\n{name}\r\n:{}\r\n", kind.len(), name.len(), subscribed.len())
            };
            names.iter().map(answer).collect::<String>()
        };
        match word {
            "SUBSCRIBE" | "PSUBSCRIBE" if names.iter().any(|name| self.forbidden.lock().contains(*name)) => {
                "-NOPERM this user has no permissions\r\n".to_owned()
            }
            "SUBSCRIBE" => each("subscribe", true),
            "PSUBSCRIBE" => each("psubscribe", true),
            "UNSUBSCRIBE" => each("unsubscribe", false),
            "PUNSUBSCRIBE" => each("punsubscribe", false),
            "PING" => "*2\r\n$4\r\npong\r\n$0\r\n\r\n".to_owned(),
            "ROLE" => "*3\r\n$6\r\nmaster\r\n:0\r\n*0\r\n".to_owned(),
            _ => "+OK\r\n".to_owned(),
        }
    }
}

struct Nobody;

#[async_trait]
impl Sink for Nobody {
    async fn deliver(&self, batch: &mut Vec<Delivery>) {
        batch.clear();
    }

    fn gap(&self, _: &[InterestId]) {}
}

fn topic(at: usize) -> Topic {
    Interest::parse(TOPICS[at]).unwrap().into()
}

async fn play(steps: Vec<Event>) -> Result<(), String> {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url: RedisUrl = match format!("redis://{}", listener.local_addr().unwrap()).parse().unwrap() {
        crate::BusUrl::Redis(url) => url,
        other => panic!("{other:?}"),
    };
    let server = Arc::new(Server::default());
    tokio::spawn(server.clone().run(listener));
    let config = BusConfig { reconnect_max: Duration::from_millis(1), ..BusConfig::default() };
    let (shared, credentials) = (Arc::new(Shared::new(&config, Arc::new(Nobody))), credentials(&url, &config).unwrap());
    let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
    shared.start_lane(0, Target::new(&url, credentials), stop.clone(), &tasks);

    let mut held = Vec::new();
    for step in steps {
        match step {
            Event::Abort(topics, looks) => {
                let topics: Vec<_> = topics.into_iter().map(topic).collect();
                let mut calls: Vec<_> =
                    topics.iter().map(|topic| Box::pin(shared.interests.subscribe(topic))).collect();
                for _ in 0..looks {
                    let mut open = Vec::new();
                    for mut call in calls {
                        match poll!(&mut call) {
                            Poll::Pending => open.push(call),
                            Poll::Ready(Ok(id)) => shared.interests.unsubscribe(id),
                            Poll::Ready(Err(_)) => {}
                        }
                    }
                    calls = open;
                    tokio::task::yield_now().await;
                }
            }
            Event::Hold(topics) => {
                let shared = shared.clone();
                let calls = topics.into_iter().map(move |at| {
                    let shared = shared.clone();
                    async move { shared.interests.subscribe(&topic(at)).await }
                });
                held.push(tokio::spawn(futures_util::future::join_all(calls)));
            }
            Event::Release(at) if !held.is_empty() => {
                let calls = held.swap_remove(at % held.len());
                for id in calls.await.unwrap().into_iter().flatten() {
                    shared.interests.unsubscribe(id);
                }
            }
            Event::Release(_) => {}
            Event::Forbid(at, on) => {
                let name = TOPICS[at].trim_end_matches("/**").trim_end_matches("/*");
                let name = if TOPICS[at] == name { format!("clarion:{name}") } else { format!("clarion:{name}/*") };
                let mut forbidden = server.forbidden.lock();
                if on {
                    forbidden.insert(name)
                } else {
                    forbidden.remove(&name)
                };
            }
            Event::Cut => server.cut.notify_one(),
            Event::Breathe(times) => {
                for _ in 0..times {
                    tokio::task::yield_now().await;
                }
            }
        }
    }
    for calls in held {
        // Whatever was refused holds nothing; the rest is held to the end.
        drop(calls.await);
    }
    let result = settle(&shared, &server).await;
    stop.cancel();
    result
}

/// Waits until the server has what the node counts, and no more.
async fn settle(shared: &Shared, server: &Server) -> Result<(), String> {
    let look = || {
        let mut counted: BTreeSet<_> = {
            let table = shared.interests.lock();
            table.standing_orders().iter().map(|order| shared.subject(order)).collect()
        };
        let count = shared.interests.lock().standing();
        assert_eq!(counted.len() as u64, count);
        counted.extend(shared.lanes.lock().values().filter_map(|lane| lane.echo.as_ref()).map(|echo| echo.subject()));
        let asked = shared.interests.lock().asks();
        (!asked && counted == *server.subscribed.lock(), counted)
    };
    let began = Instant::now();
    loop {
        let (settled, counted) = look();
        if settled {
            return Ok(());
        }
        if began.elapsed() > Duration::from_secs(5) {
            return Err(format!("counted {counted:?}\nat the server {:?}", server.subscribed.lock()));
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, max_shrink_time: 60_000, ..ProptestConfig::default() })]

    #[test]
    fn what_is_subscribed_is_what_is_counted(steps in steps()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        if let Err(differs) = runtime.block_on(play(steps)) {
            return Err(TestCaseError::fail(differs));
        }
    }
}
