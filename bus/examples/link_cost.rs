//! What a received message costs on the Redis subscriber link, beside a bare reader of the same bytes.
//!
//! `cargo run --release -p clarion-bus --example link_cost [messages]`. Starts a Redis server of its own and lets
//! `redis-cli` and `redis-benchmark` publish 100-byte payloads as fast as they can, raw and with an id as nodes publish them;
//! counts this process's CPU time.

use std::{
    fs,
    io::Write as _,
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use async_trait::async_trait;
use clarion_bus::{BusConfig, Delivery, InterestId, Link, Sink};
use clarion_protocol::Interest;
use clarion_testkit::RedisServer;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

const CHANNELS: usize = 10_000;
/// Messages that are written at once to one channel.
const BLOCK: u64 = 1_000;

/// Counts and forgets.
#[derive(Default)]
struct Counter {
    messages: AtomicU64,
    batches: AtomicU64,
    with_id: AtomicBool,
}

#[async_trait]
impl Sink for Counter {
    async fn deliver(&self, batch: &mut Vec<Delivery>) {
        self.messages.fetch_add(batch.len() as u64, Relaxed);
        self.with_id.store(batch.last().is_some_and(|last| last.message.id.is_some()), Relaxed);
        self.batches.fetch_add(1, Relaxed);
        batch.clear();
    }

    fn gap(&self, _: &[InterestId]) {
        panic!("the server has cut the link off, so the figure would be wrong");
    }
}

/// CPU time of this process in seconds.
fn cpu() -> anyhow::Result<f64> {
    let mut nanoseconds = 0;
    for task in fs::read_dir("/proc/self/task")? {
        let stat = fs::read_to_string(task?.path().join("schedstat"))?;
        nanoseconds += stat.split(' ').next().unwrap_or_default().parse::<u64>()?;
    }
    Ok(nanoseconds as f64 / 1e9)
}

/// 100 bytes, as a backend publishes them or as a node does.
fn payload(with_id: bool) -> String {
    let id = if with_id { "\0{\"id\":\"0190a0b0-0000-7000-8000-000000000000\"}\n" } else { "" };
    id.to_owned() + &"x".repeat(100)
}

/// Publishes `count` messages, to one channel or to many, and returns when all are published. Other processes do it.
async fn publish(port: u16, count: u64, channel: &str, payload: String) -> anyhow::Result<()> {
    let port = port.to_string();
    let mut file = tempfile::NamedTempFile::new()?;
    let mut command = if channel.contains("__rand_int__") {
        let mut command = Command::new("redis-benchmark");
        command.args(["-p", &port, "-n", &count.to_string(), "-P", "32", "-c", "4", "-q", "-r", &CHANNELS.to_string()]);
        command.args(["PUBLISH", channel, &payload]);
        command
    } else {
        // redis-benchmark takes no payload with a NUL.
        anyhow::ensure!(count.is_multiple_of(BLOCK), "the number of messages must be a multiple of {BLOCK}");
        let (channel_bytes, bytes) = (channel.len(), payload.len());
        let one = format!("*3\r\n$7\r\nPUBLISH\r\n${channel_bytes}\r\n{channel}\r\n${bytes}\r\n{payload}\r\n");
        file.write_all(one.repeat(usize::try_from(BLOCK)?).as_bytes())?;
        let script = "for n in $(seq $1); do cat $2; done | redis-cli -p $3 --pipe";
        let mut command = Command::new("sh");
        command.args(["-c", script, "sh", &(count / BLOCK).to_string()]).arg(file.path()).arg(&port);
        command
    };
    command.stdout(Stdio::null());
    let status = tokio::task::spawn_blocking(move || command.status()).await??;
    anyhow::ensure!(status.success(), "publishing: {status}");
    Ok(())
}

/// A reader that looks at nothing.
async fn bare(port: u16, count: u64, channel: &str) -> anyhow::Result<f64> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
    stream.write_all(format!("SUBSCRIBE {channel}\r\n").as_bytes()).await?;
    let mut buffer = vec![0; 64 * 1024];
    let read = stream.read(&mut buffer).await?;
    anyhow::ensure!(read > 0, "no acknowledgement");
    let one = format!("*3\r\n$7\r\nmessage\r\n${}\r\n{channel}\r\n$100\r\n", channel.len()).len() + 102;
    let reader = tokio::spawn(async move {
        let mut left = one as u64 * count;
        while left > 0 {
            left -= stream.read(&mut buffer).await.unwrap_or(0) as u64;
        }
    });
    let before = cpu()?;
    publish(port, count, channel, payload(false)).await?;
    reader.await?;
    Ok(cpu()? - before)
}

async fn link(port: u16, count: u64, interests: &[String], channel: &str, with_id: bool) -> anyhow::Result<(f64, f64)> {
    let config = BusConfig { url: format!("redis://127.0.0.1:{port}").parse()?, ..BusConfig::default() };
    let counter = Arc::new(Counter::default());
    let bus = clarion_bus::connect(&config, counter.clone())?;
    bus.link().wait_for(|link| *link == Link::Up).await?;
    for interest in interests {
        bus.subscribe(&Interest::parse(interest)?.into()).await?;
    }
    let before = cpu()?;
    publish(port, count, channel, payload(with_id)).await?;
    while counter.messages.load(Relaxed) < count {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let spent = cpu()? - before;
    anyhow::ensure!(counter.with_id.load(Relaxed) == with_id, "an id came where there was none, or did not come");
    bus.close().await;
    Ok((spent, count as f64 / counter.batches.load(Relaxed) as f64))
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
#[expect(clippy::print_stdout, reason = "the figures are what this program is for")]
async fn main() -> anyhow::Result<()> {
    let count: u64 = std::env::args().nth(1).map_or(Ok(2_000_000), |count| count.parse())?;
    let server = RedisServer::builder().config("client-output-buffer-limit", "pubsub 0 0 0").start().await;
    let port = server.port();
    let micros = |seconds: f64| seconds * 1e6 / count as f64;
    let many: Vec<_> = (0..CHANNELS).map(|n| format!("users/{n:012}")).collect();
    for _ in 0..3 {
        let reader = micros(bare(port, count, "clarion:users/000000000000").await?);
        println!("bare reader                    {reader:.3} µs a message");
        let one = &["users/000000000000".to_owned()][..];
        for (name, interests, channel, with_id) in [
            ("one exact interest", one, "clarion:users/000000000000", false),
            ("one, each with an id", one, "clarion:users/000000000000", true),
            ("10,000 exact interests", &many, "clarion:users/__rand_int__", false),
            ("a pattern", &["users/*".to_owned()], "clarion:users/__rand_int__", false),
        ] {
            let (spent, batch) = link(port, count, interests, channel, with_id).await?;
            let spent = micros(spent);
            println!("link, {name:24} {spent:.3} µs a message, {:.1} × the reader, {batch:.0} a batch", spent / reader);
        }
    }
    Ok(())
}
