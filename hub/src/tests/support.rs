//! A hub, clients that speak WebSocket by hand, and messages for them.

use std::{
    borrow::Cow,
    collections::VecDeque,
    io::{self, Read, Write},
    net::{TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use clarion_protocol::{Address, Channel, Delivery, Door, Interest, InterestId, Message, Wording};
use parking_lot::Mutex;
use prometheus::Registry;
use socket2::{Domain, Socket, Type};

use crate::{
    Answer, Behind, Config, ConnectionId, ConnectionKey, Framing, Hub, InterestLease, Open, Opened, Place, Release,
    SlowPolicy, Subscription, Thread, Ticket, Voice,
    frame::{Kind, Opcode, encode, write_header},
};

/// How long a test waits for what must come. Generous: a machine may be slow, and only a failure waits this long.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Keeps what came up: what clients sent, and the interests that nobody needs any more.
#[derive(Default)]
pub(crate) struct Received {
    pub messages: Mutex<VecDeque<(ConnectionKey, Channel, Bytes)>>,
    pub released: Mutex<Vec<InterestId>>,
    pub behind: Mutex<Vec<Behind>>,
}

impl Release for Received {
    fn release(&self, interests: &[InterestId]) {
        self.released.lock().extend_from_slice(interests);
    }

    fn fell_behind(&self, behind: Behind) {
        self.behind.lock().push(behind);
    }
}

/// Answers `ping`, and sends all else up where there is somewhere to send it.
pub(crate) struct Talk {
    pub upstream: Option<Channel>,
    pub received: Arc<Received>,
}

impl Voice for Talk {
    fn message(&mut self, from: ConnectionKey, kind: Kind, payload: Cow<'_, [u8]>) -> Answer {
        if kind == Kind::Text && *payload == *b"ping" {
            return Answer::Send(encode(Opcode::Text, b"pong"));
        }
        let Some(channel) = &self.upstream else { return Answer::Ignore };
        self.received.messages.lock().push_back((from, channel.clone(), payload.into_owned().into()));
        Answer::Pause
    }
}

/// A connection that is to be, and what it is to hear.
pub(crate) struct Wish {
    pub open: Open,
    pub subscriptions: Vec<Subscription>,
}

pub(crate) struct Fixture {
    pub hub: Hub,
    pub registry: Registry,
    pub received: Arc<Received>,
    listener: TcpListener,
    interests: Mutex<Vec<Interest>>,
    ids: AtomicU32,
    leases: Arc<AtomicUsize>,
}

/// Counted while it lives.
pub(crate) struct Lease(Arc<AtomicUsize>);

impl Drop for Lease {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// A configuration with heartbeats out of the way. One shard is a task beside others, several have threads of their own.
pub(crate) fn config(shards: usize) -> Config {
    let shards = std::num::NonZero::new(shards);
    Config { shards, thread: Thread::Hosting, ping_interval: Duration::from_secs(3600), ..Config::default() }
}

impl Fixture {
    #[expect(clippy::needless_pass_by_value, reason = "a test's configuration is made for it")]
    pub(crate) fn new(config: Config) -> Self {
        let (registry, received) = (Registry::new(), Arc::<Received>::default());
        Self {
            hub: Hub::start(&config, Arc::clone(&received) as Arc<dyn Release>, &registry).unwrap(),
            registry,
            received,
            listener: TcpListener::bind("127.0.0.1:0").unwrap(),
            interests: Mutex::default(),
            ids: AtomicU32::default(),
            leases: Arc::default(),
        }
    }

    /// What the bus would call an interest.
    pub(crate) fn interest(&self, text: &str) -> (InterestId, Interest) {
        let interest = Interest::parse(text).unwrap();
        let mut all = self.interests.lock();
        let place = all.iter().position(|other| *other == interest).unwrap_or_else(|| {
            all.push(interest.clone());
            all.len() - 1
        });
        (InterestId(place as u64), interest)
    }

    /// A subscription, live from the beginning.
    pub(crate) fn subscription(&self, door: Door, text: &str, slow: SlowPolicy) -> Subscription {
        let (id, interest) = self.interest(text);
        let wording = match door {
            Door::WebSocket => Wording::Payload,
            Door::Sse | Door::Poll => Wording::Event,
            Door::Events => Wording::EventOfMany,
        };
        let lease = InterestLease::new(id, Arc::clone(&self.received) as Arc<dyn Release>);
        Subscription { lease, interest, slow, wording, joining: false }
    }

    /// What a connection needs to be told of, for these interests.
    pub(crate) fn wish(&self, door: Door, interests: &[&str], slow: SlowPolicy) -> Wish {
        self.leases.fetch_add(1, Ordering::SeqCst);
        let open = Open {
            id: ConnectionId(self.ids.fetch_add(1, Ordering::Relaxed)),
            door,
            framing: if door == Door::WebSocket { Framing::WebSocket } else { Framing::EventStream },
            user: None,
            expires: None,
            voice: Box::new(Talk { upstream: None, received: Arc::clone(&self.received) }),
            lease: Place::new(Lease(Arc::clone(&self.leases))),
        };
        let subscriptions = interests.iter().map(|text| self.subscription(door, text, slow)).collect();
        Wish { open, subscriptions }
    }

    /// The same for a client that may publish.
    pub(crate) fn speaker(&self, channel: &str) -> Wish {
        let mut wish = self.wish(Door::WebSocket, &[channel], SlowPolicy::Disconnect);
        let upstream = Some(Channel::parse(channel).unwrap());
        wish.open.voice = Box::new(Talk { upstream, received: Arc::clone(&self.received) });
        wish
    }

    pub(crate) async fn open(&self, wish: Wish) -> Opened {
        self.hub.open(wish.open, wish.subscriptions).await.unwrap()
    }

    pub(crate) async fn ticket(&self, interests: &[&str]) -> Ticket {
        self.open(self.wish(Door::WebSocket, interests, SlowPolicy::Disconnect)).await.ticket
    }

    /// A connected client of the interests given.
    pub(crate) async fn client(&self, interests: &[&str]) -> Client {
        self.connect(self.wish(Door::WebSocket, interests, SlowPolicy::Disconnect)).await
    }

    /// A connected client with small buffers at both ends, so that it is soon behind.
    pub(crate) async fn narrow(&self, interests: &[&str], slow: SlowPolicy) -> Client {
        let opened = self.open(self.wish(Door::WebSocket, interests, slow)).await;
        let (client, server) = self.pair(Some(4096));
        opened.ticket.attach(server, None, Bytes::new());
        client
    }

    pub(crate) async fn connect(&self, wish: Wish) -> Client {
        let opened = self.open(wish).await;
        let (client, server) = self.pair(None);
        opened.ticket.attach(server, None, Bytes::new());
        client
    }

    /// Both ends of a connection.
    pub(crate) fn pair(&self, buffers: Option<usize>) -> (Client, TcpStream) {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        if let Some(bytes) = buffers {
            socket.set_recv_buffer_size(bytes).unwrap();
        }
        socket.connect(&self.listener.local_addr().unwrap().into()).unwrap();
        let (server, _) = self.listener.accept().unwrap();
        if let Some(bytes) = buffers {
            socket2::SockRef::from(&server).set_send_buffer_size(bytes).unwrap();
        }
        let socket = TcpStream::from(socket);
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        (Client { socket, read: Vec::new() }, server)
    }

    /// Dispatches what the bus would deliver for `(channel, payload)`: a copy for each interest that matches.
    pub(crate) async fn dispatch(&self, messages: impl IntoIterator<Item = (&str, Bytes)>) {
        self.publish(messages.into_iter().map(|(channel, payload)| (channel, Message::raw(payload)))).await;
    }

    /// The same for whole messages.
    pub(crate) async fn publish(&self, messages: impl IntoIterator<Item = (&str, Message)>) {
        let mut batch = Vec::new();
        for (channel, message) in messages {
            for (place, interest) in self.interests.lock().iter().enumerate() {
                if interest.matches(channel) {
                    batch.push(Delivery {
                        interests: [InterestId(place as u64)].into_iter().collect(),
                        address: Address::Channel(Channel::parse(channel).unwrap()),
                        message: message.clone(),
                    });
                }
            }
        }
        self.hub.dispatch(&mut batch).await;
        assert!(batch.is_empty());
    }

    pub(crate) async fn say(&self, channel: &str, text: &str) {
        self.dispatch([(channel, Bytes::copy_from_slice(text.as_bytes()))]).await;
    }

    /// How many leases are held.
    pub(crate) fn leases(&self) -> usize {
        self.leases.load(Ordering::SeqCst)
    }

    /// The value of a counter or gauge, `name` or `name{label="value"}`.
    pub(crate) fn metric(&self, name: &str) -> f64 {
        let text = prometheus::TextEncoder::new().encode_to_string(&self.registry.gather()).unwrap();
        let line = text.lines().find(|line| line.rsplit_once(' ').is_some_and(|(key, _)| key == name));
        line.map_or(0.0, |line| line.rsplit_once(' ').unwrap().1.parse().unwrap())
    }

    /// Ends the hub. Clients of a test do not answer goodbyes, so there is no use in waiting for them.
    pub(crate) async fn stop(self) {
        self.hub.stop(tokio::time::Instant::now()).await;
    }
}

/// Waits until a condition holds.
pub(crate) async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let end = tokio::time::Instant::now() + PATIENCE;
    while !holds() {
        assert!(tokio::time::Instant::now() < end, "never: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// A frame of the server: its first byte and its payload.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Frame(pub u8, pub Vec<u8>);

pub(crate) fn text(text: &str) -> Frame {
    Frame(0x81, text.as_bytes().to_vec())
}

/// A close frame with its code and reason.
pub(crate) fn close(code: clarion_protocol::CloseCode) -> Frame {
    Frame(0x88, code.body())
}

/// A client that knows nothing but frames.
pub(crate) struct Client {
    pub socket: TcpStream,
    read: Vec<u8>,
}

impl Client {
    /// The next frame, or `None` when the server hung up in order.
    pub(crate) fn frame(&mut self) -> Option<Frame> {
        loop {
            if let Some((frame, length)) = parse(&self.read) {
                self.read.drain(..length);
                return Some(frame);
            }
            let mut buffer = [0; 16 * 1024];
            match self.socket.read(&mut buffer) {
                Ok(0) => {
                    assert!(self.read.is_empty(), "a frame was cut");
                    return None;
                }
                Ok(length) => self.read.extend_from_slice(&buffer[..length]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => panic!("no frame came: {error}"),
            }
        }
    }

    /// The next frame's payload as text.
    pub(crate) fn text(&mut self) -> String {
        let Frame(first, payload) = self.frame().expect("a message, not the end");
        assert_eq!(first, 0x81, "{payload:?}");
        String::from_utf8(payload).unwrap()
    }

    /// Reads text that is no frames, until it ends so.
    pub(crate) fn until(&mut self, end: &str) -> String {
        let mut text = String::from_utf8(std::mem::take(&mut self.read)).unwrap();
        let mut buffer = [0; 16 * 1024];
        while !text.ends_with(end) {
            let length = self.socket.read(&mut buffer).unwrap();
            assert_ne!(length, 0, "the end came after {text:?}");
            text.push_str(std::str::from_utf8(&buffer[..length]).unwrap());
        }
        text
    }

    /// Reads text until the server ends it, and hangs up.
    pub(crate) fn rest(&mut self) -> String {
        let mut text = String::new();
        self.socket.read_to_string(&mut text).unwrap();
        self.socket.shutdown(std::net::Shutdown::Write).unwrap();
        text
    }

    /// The code of the close frame that comes next.
    pub(crate) fn close_code(&mut self) -> Option<u16> {
        let Frame(first, payload) = self.frame()?;
        (first == 0x88).then(|| u16::from_be_bytes([payload[0], payload[1]]))
    }

    /// Whether nothing is there to be read after something else surely arrived.
    pub(crate) fn is_quiet(&mut self) -> bool {
        self.socket.set_nonblocking(true).unwrap();
        let mut byte = [0];
        let quiet = matches!(self.socket.peek(&mut byte), Err(error) if error.kind() == io::ErrorKind::WouldBlock);
        self.socket.set_nonblocking(false).unwrap();
        quiet && self.read.is_empty()
    }

    pub(crate) fn send(&mut self, first: u8, payload: &[u8]) {
        self.socket.write_all(&masked(first, payload)).unwrap();
    }

    pub(crate) fn send_text(&mut self, text: &str) {
        self.send(0x81, text.as_bytes());
    }
}

/// A client's frame.
pub(crate) fn masked(first: u8, payload: &[u8]) -> Vec<u8> {
    const MASK: [u8; 4] = [0x11, 0x22, 0x33, 0xc4];
    let mut frame = Vec::new();
    write_header(Opcode::Text, payload.len(), &mut frame);
    frame[0] = first;
    frame[1] |= 0x80;
    frame.extend_from_slice(&MASK);
    frame.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    frame
}

fn parse(bytes: &[u8]) -> Option<(Frame, usize)> {
    let [first, second, ..] = *bytes else { return None };
    let (start, length) = match second {
        126 => (4, usize::from(u16::from_be_bytes(bytes.get(2..4)?.try_into().unwrap()))),
        127 => (10, u64::from_be_bytes(bytes.get(2..10)?.try_into().unwrap()) as usize),
        short => (2, usize::from(short)),
    };
    Some((Frame(first, bytes.get(start..start + length)?.to_vec()), start + length))
}
