//! Fan-out allocates for a message, never for a recipient. Alone in its process, since it counts what the whole process allocates.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{
    alloc::System,
    io::Read as _,
    net::{TcpListener, TcpStream},
    num::NonZero,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use clarion_hub::{
    Config, ConnectionId, Framing, Hub, InterestLease, Open, Place, Release, SlowPolicy, Subscription,
    frame::{Opcode, encode},
    voice::Mute,
};
use clarion_protocol::{Address, Channel, Delivery, Door, Interest, InterestId, Message, Wording};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// How long anything may take; only a failure waits as long.
const PATIENCE: Duration = Duration::from_secs(30);

/// Messages that go out before anything is counted: by then all that grows with use has grown.
const WARM_UP: usize = 40;

/// Rounds, of which the one with the fewest allocations counts: what else the process does is not in all of them.
const ROUNDS: usize = 12;

/// Messages of a round, one at a time and all at once.
const MESSAGES: usize = 16;

struct Nobody;

impl Release for Nobody {
    fn release(&self, _: &[InterestId]) {}
}

/// A hub and the clients' ends of its sockets.
struct Audience {
    hub: Hub,
    clients: Vec<TcpStream>,
    frame: Vec<u8>,
}

impl Audience {
    async fn gather(size: usize, shards: usize) -> Self {
        // Nobody here answers pings.
        let never = Duration::from_secs(24 * 3600);
        let config = Config { shards: NonZero::new(shards), ping_interval: never, ..Config::default() };
        let hub = Hub::start(&config, Arc::new(Nobody), &prometheus::Registry::new()).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let place = Place::new(());
        let mut clients = Vec::new();
        for _ in 0..size {
            let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            client.set_read_timeout(Some(PATIENCE)).unwrap();
            clients.push(client);
            let opened = hub.open(opening(place.clone()), vec![subscription()]).await.unwrap();
            opened.ticket.attach(listener.accept().unwrap().0, None, Bytes::new());
        }
        let frame = encode(Opcode::Text, b"hello").to_vec();
        Self { hub, clients, frame }
    }

    /// Sends so many messages and waits until every client has them.
    async fn send(&mut self, batch: &mut Vec<Delivery>, messages: usize) {
        batch.extend((0..messages).map(|_| delivery()));
        self.hub.dispatch(batch).await;
        let mut buffer = [0; 4096];
        let heard = &mut buffer[..messages * self.frame.len()];
        for client in &mut self.clients {
            client.read_exact(heard).expect("each client hears each message in time");
            assert!(heard.chunks(self.frame.len()).all(|frame| frame == self.frame));
        }
    }

    /// How often the process asks for memory while a round of messages goes to everybody.
    async fn allocations(&mut self) -> usize {
        let mut batch = Vec::with_capacity(MESSAGES);
        self.send(&mut batch, 1).await;
        for _ in 0..WARM_UP {
            self.send(&mut batch, MESSAGES).await;
        }
        let mut fewest = usize::MAX;
        for _ in 0..ROUNDS {
            let region = Region::new(ALLOCATOR);
            for _ in 0..MESSAGES {
                self.send(&mut batch, 1).await;
            }
            self.send(&mut batch, MESSAGES).await;
            let change = region.change();
            fewest = fewest.min(change.allocations + change.reallocations);
        }
        fewest
    }
}

fn opening(lease: Place) -> Open {
    Open {
        id: ConnectionId(0),
        door: Door::WebSocket,
        framing: Framing::WebSocket,
        user: None,
        expires: None,
        voice: Box::new(Mute),
        lease,
    }
}

fn subscription() -> Subscription {
    Subscription {
        lease: InterestLease::new(InterestId(0), Arc::new(Nobody)),
        interest: Interest::parse("news").unwrap(),
        slow: SlowPolicy::Disconnect,
        wording: Wording::Payload,
        joining: false,
    }
}

fn delivery() -> Delivery {
    let address = Address::Channel(Channel::parse("news").unwrap());
    Delivery { interests: [InterestId(0)].into_iter().collect(), address, message: Message::raw("hello") }
}

#[tokio::test]
async fn no_recipient_costs_an_allocation() {
    for shards in [1, 2] {
        let few = Audience::gather(4, shards).await.allocations().await;
        let many = Audience::gather(400, shards).await.allocations().await;
        // The messages themselves are made anew for each round, so a count of nothing would be a count that does not count.
        assert!(few >= 2 * MESSAGES, "{few} allocations of {} messages", 2 * MESSAGES);
        assert_eq!(many, few, "{shards} shards: 396 recipients more cost {} allocations more", many.abs_diff(few));
    }
}
