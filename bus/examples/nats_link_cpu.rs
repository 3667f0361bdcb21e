//! CPU per received message on the NATS subscriber link, compared with a reader that only reads the socket.
//!
//! `cargo run --release -p clarion-bus --example nats_link_cpu`. A thread in this process plays the server and writes
//! the same bytes to both, so that only the reading side differs. Linux only: it reads the thread's CPU time from `/proc`.

#![expect(clippy::print_stdout, reason = "this reports")]

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    thread,
};

use anyhow::Context as _;
use async_trait::async_trait;
use clarion_bus::{BusConfig, Delivery, InterestId, Link, Sink};
use clarion_protocol::Interest;
use tokio::sync::Notify;

/// How many messages each reader gets.
const MESSAGES: usize = 4_000_000;
/// Repetitions, of which the best counts: what disturbs a run only makes it slower.
const RUNS: usize = 5;
/// As long as the link's own.
const SID: &str = "33554433";

/// Counts, and tells when all are there.
struct Counter {
    taken: AtomicUsize,
    all: Notify,
}

#[async_trait]
impl Sink for Counter {
    async fn deliver(&self, batch: &mut Vec<Delivery>) {
        let taken = self.taken.fetch_add(batch.len(), Relaxed) + batch.len();
        batch.clear();
        if taken >= MESSAGES {
            self.all.notify_one();
        }
    }

    fn gap(&self, _: &[InterestId]) {}
}

fn main() -> anyhow::Result<()> {
    for (what, headers) in [("plain", false), ("with headers", true)] {
        let bare = best(|| bare(headers))?;
        let exact = best(|| link("a/b", headers))?;
        let pattern = best(|| link("a/**", headers))?;
        println!("{what}: socket {bare:.1} ns a message");
        println!("{what}: link, exact interest {exact:.1} ns, {:.2} × the socket", exact / bare);
        println!("{what}: link, pattern {pattern:.1} ns, {:.2} × the socket", pattern / bare);
    }
    Ok(())
}

fn best(mut run: impl FnMut() -> anyhow::Result<f64>) -> anyhow::Result<f64> {
    (0..RUNS).try_fold(f64::INFINITY, |best, _| Ok(run()?.min(best)))
}

/// CPU nanoseconds per message of a thread that reads and looks at nothing.
fn bare(headers: bool) -> anyhow::Result<f64> {
    let address = server(headers)?;
    thread::spawn(move || {
        let mut stream = TcpStream::connect(address)?;
        stream.write_all(format!("SUB clarion.a.b {SID}\r\n").as_bytes())?;
        let mut buffer = vec![0; 64 * 1024];
        let (begun, mut left) = (cpu()?, MESSAGES * message(SID, headers).len());
        while left > 0 {
            left = left.saturating_sub(stream.read(&mut buffer)?);
        }
        per_message(begun)
    })
    .join()
    .expect("it does not panic")
}

/// The same for the link, which has a runtime of one thread to itself.
fn link(interest: &str, headers: bool) -> anyhow::Result<f64> {
    let interest = Interest::parse(interest)?;
    let address = server(headers)?;
    thread::spawn(move || {
        tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
            let sink = Arc::new(Counter { taken: AtomicUsize::new(0), all: Notify::new() });
            let config = BusConfig { url: format!("nats://{address}").parse()?, ..BusConfig::default() };
            let bus = clarion_bus::connect(&config, sink.clone())?;
            bus.link().wait_for(|link| *link == Link::Up).await?;
            let begun = cpu()?;
            bus.subscribe(&interest.into()).await?;
            sink.all.notified().await;
            per_message(begun)
        })
    })
    .join()
    .expect("it does not panic")
}

/// A server that sends its messages to whoever subscribes to `clarion.a…`.
fn server(headers: bool) -> anyhow::Result<String> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?.to_string();
    // The node's two connections, or the one of the bare reader; the thread ends with the process.
    thread::spawn(move || {
        while let Ok((stream, _)) = listener.accept() {
            thread::spawn(move || serve(stream, headers));
        }
    });
    Ok(address)
}

fn serve(mut stream: TcpStream, headers: bool) -> anyhow::Result<()> {
    stream.write_all(b"INFO {\"headers\":true,\"max_payload\":1048576}\r\n")?;
    let lines = BufReader::new(stream.try_clone()?).lines();
    for line in lines {
        let line = line?;
        if line == "PING" {
            stream.write_all(b"PONG\r\n")?;
            continue;
        }
        // `a/**` subscribes to the channel as well; what is sent lies below it.
        let subject = line.strip_prefix("SUB ").and_then(|subject| subject.split_once(' '));
        if let Some(("clarion.a.b" | "clarion.a.>", sid)) = subject {
            let many = message(sid, headers).repeat(400);
            for _ in 0..MESSAGES / 400 {
                stream.write_all(many.as_bytes())?;
            }
        }
    }
    Ok(())
}

fn message(sid: &str, headers: bool) -> String {
    let payload = "x".repeat(100);
    let block = "NATS/1.0\r\nNats-Msg-Id: 0190a0b0-0000-7000-8000-000000000000\r\n\r\n";
    match headers {
        false => format!("MSG clarion.a.b {sid} 100\r\n{payload}\r\n"),
        true => format!("HMSG clarion.a.b {sid} {} {}\r\n{block}{payload}\r\n", block.len(), block.len() + 100),
    }
}

/// The CPU time of this thread in nanoseconds.
fn cpu() -> anyhow::Result<u64> {
    let stat = fs::read_to_string("/proc/thread-self/schedstat")?;
    Ok(stat.split(' ').next().context("schedstat is empty")?.parse()?)
}

#[expect(clippy::cast_precision_loss, reason = "this is a measurement")]
fn per_message(begun: u64) -> anyhow::Result<f64> {
    Ok((cpu()? - begun) as f64 / MESSAGES as f64)
}
