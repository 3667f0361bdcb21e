//! What fan-out costs: the hub against a bare loop that writes the same bytes to as many sockets, in alternation.
//!
//! `cargo run --release --example fanout_bench -- [sockets] [both|hub|bare|memory|memory-users|seats] [batch]`. CPU is
//! that of the threads that encode and write (and, for the hub, of the one that dispatches); clients read in another process.

#![expect(clippy::print_stdout, reason = "this prints a report")]
#![expect(clippy::unwrap_used, reason = "a benchmark that cannot go on ends")]

use std::{
    io::{self, Read, Write},
    net::{TcpListener, TcpStream},
    process::{Child, Command},
    sync::{Arc, mpsc},
    time::Duration,
};

use bytes::Bytes;
use clarion_hub::{
    Config, ConnectionId, Framing, Hub, InterestLease, Open, Place, Release, SlowPolicy, Subscription,
    frame::{self, Opcode},
    voice::Mute,
};
use clarion_protocol::{Address, Channel, Delivery, Door, Interest, InterestId, Message, Uid, Wording};
use mio::{Events, Poll, Token};

/// Bytes of a payload.
const PAYLOAD: usize = 128;
/// Write calls in one measurement: some tenths of a second of a core.
const WRITES: usize = 50_000;
/// Seats that each connection joins and leaves in one measurement.
const SEATS: usize = 50;
/// Measurements of each kind.
const ROUNDS: usize = 12;

fn main() {
    let mut args = std::env::args().skip(1);
    let first = args.next().unwrap_or_else(|| "1000".to_owned());
    if first == "read" {
        return read(&args.next().unwrap(), args.next().unwrap().parse().unwrap());
    }
    let sockets: usize = first.parse().unwrap();
    let mode = args.next().unwrap_or_else(|| "both".to_owned());
    let batch = args.next().map_or(16, |batch| batch.parse().unwrap());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    match mode.as_str() {
        "memory" => runtime.block_on(memory(sockets, "one channel for all", |_| ("all".to_owned(), None))),
        "memory-users" => {
            let own = |number: usize| (format!("users/{number}"), Some(Uid::parse(&number.to_string()).unwrap()));
            runtime.block_on(memory(sockets, "a user and a channel for each", own));
        }
        "seats" => runtime.block_on(seats(sockets)),
        _ => runtime.block_on(compare(sockets, &mode, batch)),
    }
}

/// Measures in alternation and prints the medians.
async fn compare(sockets: usize, mode: &str, batch: usize) {
    let mut hub = if mode == "bare" { None } else { Some(HubSide::new(sockets, batch).await) };
    let mut bare = (mode != "hub").then(|| BareSide::new(sockets, batch));
    let batches = (WRITES / sockets).max(3);
    let (mut of_hub, mut of_bare, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        if let Some(hub) = &mut hub {
            of_hub.push(hub.measure(batches).await);
        }
        if let Some(bare) = &mut bare {
            of_bare.push(bare.measure(batches));
        }
        if let (Some(hub), Some(bare)) = (of_hub.last(), of_bare.last()) {
            ratios.push(hub / bare);
        }
    }
    println!("{sockets} sockets, {PAYLOAD} bytes, batches of {batch}, {ROUNDS} rounds, CPU per delivery:");
    for (name, mut values) in [("hub (ns)", of_hub), ("bare loop (ns)", of_bare), ("ratio", ratios)] {
        values.sort_by(f64::total_cmp);
        if let [least, .., most] = values[..] {
            println!("  {name:15} median {:8.3}   least {least:8.3}   most {most:8.3}", values[values.len() / 2]);
        }
    }
}

/// What one connection costs at rest, in memory of this process.
async fn memory(sockets: usize, what: &str, of: impl Fn(usize) -> (String, Option<Uid>)) {
    let (mut readers, mut streams) = Readers::connect(sockets);
    let hub = start_hub();
    // What one connection needs once, and the readers' own part, are not counted.
    open(&hub, streams.pop().unwrap(), 0, "warm", None).await;
    let before = resident();
    for (number, stream) in streams.into_iter().enumerate() {
        let (channel, user) = of(number);
        open(&hub, stream, number + 1, &channel, user).await;
    }
    let mut batch = vec![delivery(InterestId(0), "warm")];
    hub.dispatch(&mut batch).await;
    readers.wait_for(frame_bytes() as u64);
    let grown = resident().saturating_sub(before);
    println!("{sockets} idle connections, {what}: {} bytes each", grown / (sockets - 1));
    hub.stop(tokio::time::Instant::now()).await;
}

/// How many seats a second open connections join and leave, without a bus: so many clients that each wait for their answer.
async fn seats(connections: usize) {
    let hub = start_hub();
    let mut tickets = Vec::new();
    for _ in 0..connections {
        tickets.push(hub.open(opening(None), Vec::new()).await.unwrap().ticket);
    }
    let mut rates = Vec::new();
    for _ in 0..ROUNDS {
        let before = tokio::time::Instant::now();
        for round in 0..SEATS {
            let joins = tickets.iter().map(|ticket| {
                let channel = format!("seats/{}", round % 20);
                hub.join(ticket.key(), vec![subscription(round % 20, &channel)])
            });
            let seats = futures_util::future::join_all(joins).await;
            tickets.iter().zip(seats).for_each(|(ticket, seats)| hub.leave(ticket.key(), seats[0]));
        }
        rates.push((2 * SEATS * connections) as f64 / before.elapsed().as_secs_f64());
    }
    rates.sort_by(f64::total_cmp);
    let (median, least, most) = (rates[ROUNDS / 2], rates[0], rates[ROUNDS - 1]);
    println!("{connections} open connections, {ROUNDS} rounds, joins and leaves a second:");
    println!("  median {median:.0}   least {least:.0}   most {most:.0}");
    hub.stop(tokio::time::Instant::now()).await;
}

/// The hub with one shard, and its clients.
struct HubSide {
    hub: Hub,
    readers: Readers,
    batch: usize,
}

impl HubSide {
    async fn new(sockets: usize, batch: usize) -> Self {
        let hub = start_hub();
        let (readers, streams) = Readers::connect(sockets);
        for stream in streams {
            open(&hub, stream, 0, "all", None).await;
        }
        Self { hub, readers, batch }
    }

    /// CPU per delivery in nanoseconds.
    async fn measure(&mut self, batches: usize) -> f64 {
        let before = cpu("shard-0") + cpu_here();
        for _ in 0..batches {
            let mut batch: Vec<_> = (0..self.batch).map(|_| delivery(InterestId(0), "all")).collect();
            self.hub.dispatch(&mut batch).await;
            self.readers.wait_for_all(self.batch);
        }
        let spent = cpu("shard-0") + cpu_here() - before;
        spent as f64 / (batches * self.batch * self.readers.sockets) as f64
    }
}

/// A loop that does nothing but encode a run and write it.
struct BareSide {
    runs: mpsc::SyncSender<()>,
    readers: Readers,
    batch: usize,
}

impl BareSide {
    fn new(sockets: usize, batch: usize) -> Self {
        let (readers, mut streams) = Readers::connect(sockets);
        let (runs, waiting) = mpsc::sync_channel::<()>(1);
        let write_all = move || {
            let payload = vec![b'x'; PAYLOAD];
            let mut run = Vec::new();
            while waiting.recv().is_ok() {
                run.clear();
                for _ in 0..batch {
                    frame::write_header(Opcode::Text, payload.len(), &mut run);
                    run.extend_from_slice(&payload);
                }
                for stream in &mut streams {
                    assert_eq!(stream.write(&run).unwrap(), run.len());
                }
            }
        };
        std::thread::Builder::new().name("bare".to_owned()).spawn(write_all).unwrap();
        Self { runs, readers, batch }
    }

    fn measure(&mut self, batches: usize) -> f64 {
        let before = cpu("bare");
        for _ in 0..batches {
            self.runs.send(()).unwrap();
            self.readers.wait_for_all(self.batch);
        }
        (cpu("bare") - before) as f64 / (batches * self.batch * self.readers.sockets) as f64
    }
}

struct Nobody;

impl Release for Nobody {
    fn release(&self, _: &[InterestId]) {}
}

/// What all connections share, as in a broker whose limits are not set.
fn place() -> Place {
    static PLACE: std::sync::LazyLock<Place> = std::sync::LazyLock::new(|| Place::new(()));
    PLACE.clone()
}

fn start_hub() -> Hub {
    // The readers know nothing of pings.
    let never = Duration::from_secs(24 * 3600);
    let config = Config {
        shards: std::num::NonZero::new(1),
        ping_interval: never,
        handshake_timeout: never,
        ..Config::default()
    };
    Hub::start(&config, Arc::new(Nobody), &prometheus::Registry::new()).unwrap()
}

async fn open(hub: &Hub, stream: TcpStream, interest: usize, channel: &str, user: Option<Uid>) {
    let interest = if channel == "all" { 0 } else { interest };
    let opened = hub.open(opening(user), vec![subscription(interest, channel)]).await.unwrap();
    opened.ticket.attach(stream, None, Bytes::new());
}

fn subscription(interest: usize, channel: &str) -> Subscription {
    Subscription {
        lease: InterestLease::new(InterestId(interest as u64), Arc::new(Nobody)),
        interest: Interest::parse(channel).unwrap(),
        slow: SlowPolicy::Disconnect,
        wording: Wording::Payload,
        joining: false,
    }
}

fn opening(user: Option<Uid>) -> Open {
    Open {
        id: ConnectionId(0),
        door: Door::WebSocket,
        framing: Framing::WebSocket,
        user,
        expires: None,
        voice: Box::new(Mute),
        lease: place(),
    }
}

fn delivery(interest: InterestId, channel: &str) -> Delivery {
    let address = Address::Channel(Channel::parse(channel).unwrap());
    Delivery { interests: [interest].into_iter().collect(), address, message: Message::raw(vec![b'x'; PAYLOAD]) }
}

fn frame_bytes() -> usize {
    frame::encode(Opcode::Text, &[0; PAYLOAD]).len()
}

/// CPU time of the thread with a name, in nanoseconds.
fn cpu(thread: &str) -> u64 {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap().map(|task| task.unwrap().path());
    let named =
        |task: &std::path::PathBuf| std::fs::read_to_string(task.join("comm")).is_ok_and(|name| name.trim() == thread);
    tasks.filter(named).map(|task| schedstat(&task.join("schedstat"))).sum()
}

fn cpu_here() -> u64 {
    schedstat("/proc/thread-self/schedstat".as_ref())
}

fn schedstat(path: &std::path::Path) -> u64 {
    std::fs::read_to_string(path).unwrap().split(' ').next().unwrap().parse().unwrap()
}

/// Bytes of this process in memory.
fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

/// A process that holds the clients' ends and says how much it has read.
struct Readers {
    child: Child,
    control: TcpStream,
    sockets: usize,
    seen: u64,
    expected: u64,
}

impl Readers {
    fn connect(sockets: usize) -> (Self, Vec<TcpStream>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["read", &address, &sockets.to_string()])
            .spawn()
            .unwrap();
        let control = listener.accept().unwrap().0;
        let streams = (0..sockets)
            .map(|_| {
                let stream = listener.accept().unwrap().0;
                stream.set_nodelay(true).unwrap();
                stream
            })
            .collect();
        (Self { child, control, sockets, seen: 0, expected: 0 }, streams)
    }

    /// Waits until each client has this many more messages.
    fn wait_for_all(&mut self, messages: usize) {
        self.wait_for((messages * self.sockets * frame_bytes()) as u64);
    }

    fn wait_for(&mut self, bytes: u64) {
        self.expected += bytes;
        while self.seen < self.expected {
            let mut count = [0; 8];
            self.control.read_exact(&mut count).unwrap();
            self.seen += u64::from_ne_bytes(count);
        }
    }
}

impl Drop for Readers {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// The other process: connects, reads, counts.
fn read(address: &str, sockets: usize) {
    let mut control = TcpStream::connect(address).unwrap();
    let mut poll = Poll::new().unwrap();
    let mut streams = Vec::with_capacity(sockets);
    for number in 0..sockets {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_nonblocking(true).unwrap();
        let mut stream = mio::net::TcpStream::from_std(stream);
        poll.registry().register(&mut stream, Token(number), mio::Interest::READABLE).unwrap();
        streams.push(stream);
    }
    let mut events = Events::with_capacity(sockets);
    let mut buffer = vec![0; 1 << 20];
    loop {
        // Pauses let what was written gather, so that the reader does not disturb the writer more than it must.
        std::thread::sleep(Duration::from_micros(200));
        poll.poll(&mut events, None).unwrap();
        let mut read = 0_u64;
        for event in &events {
            loop {
                match streams[event.token().0].read(&mut buffer) {
                    Ok(0) => return,
                    Ok(length) => read += length as u64,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Err(_) => return,
                }
            }
        }
        if control.write_all(&read.to_ne_bytes()).is_err() {
            return;
        }
    }
}
