//! The 300 sockets: what each of them must hear, and what it heard.

use std::collections::BTreeMap;

use clarion_testkit::{BrokerProcess, JwtKey, SseClient, SseItem, WsClient, WsItem, http, patience};
use serde_json::Value;
use tokio::task::JoinHandle;

use crate::SECRET;

pub(crate) const USERS: usize = 100;
pub(crate) const CHANNELS: usize = 10;

/// What ends a socket's listening, once for each channel that it hears.
pub(crate) const END: &str = "end";

/// How often a socket heard each payload, and in which order.
#[derive(Debug, Default)]
pub(crate) struct Heard {
    pub(crate) counts: BTreeMap<String, usize>,
    pub(crate) order: Vec<String>,
}

/// One socket: where it is, what it asked for, and the task that listens.
pub(crate) struct Socket {
    pub(crate) name: String,
    pub(crate) node: usize,
    pub(crate) channels: Vec<String>,
    listener: JoinHandle<Heard>,
}

/// All sockets.
pub(crate) struct Audience(Vec<Socket>);

impl Audience {
    /// Opens three sockets a user, spread over the nodes: his own channel by WebSocket and by an event stream, and one for channels.
    pub(crate) async fn open(nodes: &[BrokerProcess]) -> Self {
        let mut sockets = Vec::with_capacity(3 * USERS);
        for user in 0..USERS {
            let place = |shift: usize| (user + shift) % nodes.len();
            let own = format!("users/{user}");
            sockets.push(websocket(nodes, place(0), &own, vec![own.clone()], Some(user)).await);
            sockets.push(stream(nodes, place(1), &own, vec![own.clone()], Some(user)).await);
            let one = format!("ch/{}", user % CHANNELS);
            let all: Vec<_> = (0..CHANNELS).map(|n| format!("ch/{n}")).collect();
            sockets.push(match user % 4 {
                0 => websocket(nodes, place(2), &one, vec![one.clone()], None).await,
                1 => stream(nodes, place(2), &one, vec![one.clone()], None).await,
                // Three subscriptions that overlap: each message must come once all the same.
                2 => {
                    stream(nodes, place(2), &format!("events?channel={one}&channel=ch/*&channel=ch/**"), all, None)
                        .await
                }
                _ => websocket(nodes, place(2), "ch/*", all, None).await,
            });
        }
        Self(sockets)
    }

    /// Waits for all sockets but those of `lost` nodes, and checks that each heard what `published` says for its channels, once.
    pub(crate) async fn check(self, lost: Option<usize>, published: &BTreeMap<String, Vec<String>>) -> usize {
        let mut checked = 0;
        for socket in self.0.into_iter().filter(|socket| Some(socket.node) != lost) {
            let heard = socket.listener.await.unwrap_or_else(|error| panic!("{}: {error}", socket.name));
            let mut expected = BTreeMap::new();
            for channel in &socket.channels {
                expected.extend(published[channel].iter().map(|payload| (payload.clone(), 1)));
            }
            assert_eq!(heard.counts, expected, "{} at node {}", socket.name, socket.node);
            for channel in &socket.channels {
                in_order(&heard.order, channel, &socket.name);
            }
            checked += 1;
        }
        checked
    }
}

/// Each publisher's messages on one channel carry rising numbers: `<publisher>|<channel>|<number>`.
fn in_order(heard: &[String], channel: &str, name: &str) {
    let mut last: BTreeMap<&str, usize> = BTreeMap::new();
    for payload in heard {
        let mut parts = payload.split('|');
        let (Some(publisher), Some(on), Some(number)) = (parts.next(), parts.next(), parts.next()) else { continue };
        if on != channel {
            continue;
        }
        let number: usize = number.parse().expect("payloads are numbered");
        let before = last.insert(publisher, number);
        assert!(before.is_none_or(|before| before < number), "{name}: {publisher} on {channel} out of order");
    }
}

fn token(user: Option<usize>) -> Option<String> {
    user.map(|user| format!("Bearer {}", JwtKey::hs256(SECRET).token(&user.to_string())))
}

async fn websocket(
    nodes: &[BrokerProcess],
    node: usize,
    path: &str,
    channels: Vec<String>,
    user: Option<usize>,
) -> Socket {
    let mut request = WsClient::request(&nodes[node].url(path));
    if let Some(token) = token(user) {
        request = request.header("authorization", &token);
    }
    let mut client = request.connect().await.unwrap_or_else(|refused| panic!("{path}: {refused:?}"));
    let mut ends = channels.len();
    let listener = tokio::spawn(async move {
        let mut heard = Heard::default();
        while ends > 0 {
            let Some(WsItem::Text(text)) = client.next_within(4 * patience()).await else { break };
            if text.as_str() == END { ends -= 1 } else { note(&mut heard, text.as_str()) }
        }
        heard
    });
    Socket { name: format!("WebSocket {path}"), node, channels, listener }
}

async fn stream(
    nodes: &[BrokerProcess],
    node: usize,
    path: &str,
    channels: Vec<String>,
    user: Option<usize>,
) -> Socket {
    let mut request = http().get(nodes[node].url(path));
    if let Some(token) = token(user) {
        request = request.header("authorization", token);
    }
    let mut client = SseClient::request(request).await.unwrap_or_else(|reply| panic!("{path}: {reply:?}"));
    let many = path.starts_with("events");
    let mut ends = channels.len();
    let listener = tokio::spawn(async move {
        let mut heard = Heard::default();
        while ends > 0 {
            match client.next_within(4 * patience()).await {
                Some(SseItem::Event(event)) => {
                    let text = if many { text_of(&event.data) } else { event.data };
                    if text == END { ends -= 1 } else { note(&mut heard, &text) }
                }
                Some(SseItem::Comment(_) | SseItem::Retry(_)) => {}
                Some(SseItem::End) | None => break,
            }
        }
        heard
    });
    Socket { name: format!("event stream {path}"), node, channels, listener }
}

fn text_of(data: &str) -> String {
    let event: Value = serde_json::from_str(data).expect("an event of many is JSON");
    event["text"].as_str().expect("the payloads here are text").to_owned()
}

fn note(heard: &mut Heard, payload: &str) {
    *heard.counts.entry(payload.to_owned()).or_default() += 1;
    heard.order.push(payload.to_owned());
}
