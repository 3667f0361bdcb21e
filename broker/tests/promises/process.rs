//! The process: its descriptors, its memory, its log and its signals.

use std::{
    io::Write as _,
    net::{Ipv4Addr, SocketAddr},
    os::unix::fs::PermissionsExt as _,
    process::{Child, Command, Stdio},
};

use clarion_testkit::{BrokerBuilder, BrokerProcess, Metrics, Reply, WsClient, eventually, free_port, http, within};
use tempfile::TempPath;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream},
};

use crate::{ConfigFile, development};

const BROKER: &str = env!("CARGO_BIN_EXE_clarion-broker");

/// A node that may have so many descriptors, and the file that sees to it.
fn with_descriptors(count: u32) -> (BrokerBuilder, TempPath) {
    let mut script = tempfile::NamedTempFile::new().expect("a temporary file can be made");
    write!(script, "#!/bin/sh\nulimit -n {count}\nexec {BROKER} \"$@\"\n").expect("it can be written");
    let path = script.into_temp_path();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o700)).expect("it is ours");
    (BrokerProcess::builder(&path), path)
}

/// Connects from an address of this machine's, and says nothing.
async fn silent_from(last: u8, to: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = TcpSocket::new_v4().expect("there are sockets");
    socket.bind((Ipv4Addr::new(127, 0, 0, last), 0).into()).expect("all of 127.0.0.0/8 is this machine");
    socket.connect(to).await
}

async fn silent(count: usize, last: u8, to: SocketAddr) -> Vec<TcpStream> {
    let mut all = Vec::new();
    for _ in 0..count {
        all.extend(silent_from(last, to).await);
    }
    all
}

/// Whether the node hung up, which a silent one learns from a read.
async fn is_hung_up_on(stream: &mut TcpStream) -> bool {
    matches!(within("it is hung up on", stream.read(&mut [0; 100])).await, Ok(0) | Err(_))
}

async fn refused(node: &BrokerProcess, limit: &str) -> f64 {
    node.metrics().await.sum_where("clarion_accepts_refused_total", limit)
}

#[tokio::test]
async fn silent_connections_do_not_take_the_last_descriptors() {
    let (builder, _script) = with_descriptors(100);
    // Long enough that none of them ends by itself.
    let file = ConfigFile::new("[limits]\nhandshake = \"1h\"\n");
    let node = builder.args(["--config", file.path()]).start_ready().await;
    let mut all = silent(200, 1, node.addr()).await;
    let newest = all.last_mut().expect("there are 200");
    assert!(is_hung_up_on(newest).await, "it is not left hanging");
    assert!(refused(&node, "descriptors").await >= 100.0);
    assert!(node.is_ready().await, "operators are still answered");
    let held = node.metrics().await.sum("clarion_http_connections");
    assert!((20.0..=84.0).contains(&held), "{held}");
    drop(all);
    eventually("there is room again", async || WsClient::request(&node.url("news")).connect().await.is_ok()).await;
}

#[tokio::test]
async fn one_address_does_not_take_the_place_of_others() {
    let (builder, _script) = with_descriptors(200);
    let file = ConfigFile::new("[limits]\nconnections = 20\nper_address = 3\nhandshake = \"1h\"\n");
    let node = builder.args(["--config", file.path()]).start_ready().await;
    let mut all = silent(300, 2, node.addr()).await;
    assert!(is_hung_up_on(all.last_mut().expect("there are 300")).await);
    let held = async || node.metrics().await.sum("clarion_http_connections");
    eventually("3 and 16 are left", async || held().await == 19.0).await;
    assert_eq!(refused(&node, "http_per_address").await, 281.0);
    let mut other = WsClient::connect(&node.url("news")).await;
    other.send_text("ping").await;
    assert_eq!(other.text().await, "pong");
    assert!(node.is_ready().await);
}

#[tokio::test]
async fn a_node_has_so_many_http_connections() {
    let file = ConfigFile::new("[limits]\nhttp_connections = 5\nhandshake = \"1h\"\n");
    let node = development().args(["--config", file.path()]).start_ready().await;
    let mut let_in = Vec::new();
    for _ in 0..10 {
        let_in.push(WsClient::connect(&node.url("news")).await);
    }
    let mut all = silent(10, 1, node.addr()).await;
    assert!(is_hung_up_on(all.last_mut().expect("there are 10")).await);
    assert_eq!(node.metrics().await.sum("clarion_http_connections"), 5.0);
    assert_eq!(refused(&node, "http_connections").await, 5.0);
    let_in[0].send_text("ping").await;
    assert_eq!(let_in[0].text().await, "pong", "who was let in is not among them");
}

#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[tokio::test]
async fn the_memory_of_silent_connections_is_given_back() {
    let file = ConfigFile::new("[limits]\nhandshake = \"1h\"\n");
    let node =
        development().args(["--config", file.path()]).env("CLARION_LOG_LEVEL", "info,clarion_broker::server=debug");
    let node = node.start_ready().await;
    let before = node.memory_used();
    let all = silent(3000, 1, node.addr()).await;
    let here = async || node.metrics().await.sum("clarion_http_connections");
    eventually("they are here", async || here().await >= 3000.0).await;
    // What their coming left free is given back first; they themselves are still here.
    let given = async || node.log().iter().any(|line| line.contains("gave memory back"));
    eventually("their coming is over", given).await;
    let during = node.memory_used() - before;
    drop(all);
    eventually("nearly all is given back", async || {
        let left = node.memory_used().saturating_sub(before);
        if left * 4 < during { Ok(()) } else { Err(format!("{left} of {during} bytes are left")) }
    })
    .await;
}

/// A node whose log goes where a test wants it.
struct Unheard {
    child: Child,
    listen: SocketAddr,
    admin: SocketAddr,
}

impl Unheard {
    async fn start(log: Stdio, format: &str, level: &str) -> Self {
        let [listen, admin] = [free_port(), free_port()].map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
        let mut command = Command::new(BROKER);
        command.args(["--listen", &listen.to_string(), "--admin-listen", &admin.to_string(), "--log-format", format]);
        let child = command.env("CLARION_LOG_LEVEL", level).stderr(log).spawn().expect("it can be started");
        let this = Self { child, listen, admin };
        eventually("it is ready", async || {
            http().get(format!("http://{admin}/health/ready")).send().await.is_ok_and(|reply| reply.status() == 200)
        })
        .await;
        this
    }

    async fn metrics(&self) -> Metrics {
        Metrics::parse(&Reply::get(&format!("http://{}/metrics", self.admin)).await.text())
    }

    async fn ended(&mut self) -> Option<i32> {
        let child = std::cell::RefCell::new(&mut self.child);
        eventually("it ends", async || child.borrow_mut().try_wait().expect("it is ours")).await.code()
    }

    fn signal(&self, name: &str) {
        let sent = Command::new("kill").args([&format!("-{name}"), &self.child.id().to_string()]).status();
        assert!(sent.expect("there is kill").success());
    }
}

impl Drop for Unheard {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test]
async fn a_log_that_nobody_reads_stops_nobody() {
    let mut node = Unheard::start(Stdio::piped(), "json", "debug").await;
    // Each is a line of the log: far more than its pipe holds.
    for _ in 0..2000 {
        let mut rubbish = TcpStream::connect(node.listen).await.expect("it listens");
        rubbish.write_all(b"rubbish\0\r\n\r\n").await.expect("it is sent");
        rubbish.read_to_end(&mut Vec::new()).await.expect("it is answered");
    }
    let url = format!("http://{}/news", node.listen);
    let mut socket = WsClient::connect(&url).await;
    assert_eq!(Reply::of(http().post(&url).body("still here")).await.code(), 200);
    assert_eq!(socket.text().await, "still here");
    drop(socket);
    node.signal("TERM");
    assert_eq!(node.ended().await, Some(0));
}

#[tokio::test]
async fn a_full_disk_costs_the_log_and_nothing_else() {
    for format in ["text", "json"] {
        let full = std::fs::OpenOptions::new().write(true).open("/dev/full").expect("Linux has it");
        let mut node = Unheard::start(full.into(), format, "info").await;
        let url = format!("http://{}/news", node.listen);
        let mut socket = WsClient::connect(&url).await;
        assert_eq!(Reply::of(http().post(&url).body("still here")).await.code(), 200);
        assert_eq!(socket.text().await, "still here");
        let lost = node.metrics().await.sum_where("clarion_log_lines_lost_total", "unwritten");
        assert!(lost >= 1.0, "{lost}");
        drop(socket);
        node.signal("TERM");
        assert_eq!(node.ended().await, Some(0));
    }
}

#[tokio::test]
async fn two_signals_at_once_are_one() {
    let file = ConfigFile::new("[drain]\nwait = \"2s\"\nclose_over = \"100ms\"\n");
    let mut node = development().args(["--config", file.path()]).start_ready().await;
    let mut socket = WsClient::connect(&node.url("news")).await;
    // By one process, so that they are within a millisecond.
    let pid = node.pid();
    let sent =
        Command::new("sh").args(["-c", &format!("kill -TERM {pid}; kill -TERM {pid}; kill -INT {pid}")]).status();
    assert!(sent.expect("there is a shell").success());
    assert_eq!(socket.closed().await.0, 1012);
    assert_eq!(node.ended().await, Some(0));
}
