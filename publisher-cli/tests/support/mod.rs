//! What the tests of the binary share: running it, and a small HTTP server to talk to.
// Each test file is a crate of its own and uses a part of this.
#![allow(dead_code)]

use std::{
    ffi::OsStr,
    process::{Output, Stdio},
    sync::Arc,
};

use clarion_testkit::{dying_with_us, within};
use parking_lot::Mutex;
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    process::Command,
    task::JoinHandle,
};

/// The binary, with none of this shell's settings.
pub(crate) fn clarion<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>) -> Command {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_clarion"));
    command.args(args);
    let mut command = Command::from(dying_with_us(command));
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("CLARION_") {
            command.env_remove(name);
        }
    }
    command
}

/// What a run came to.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ran {
    fn of(output: Output) -> Self {
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("the output is UTF-8");
        let code = output.status.code().expect("it ended by itself");
        Self { code, stdout: text(output.stdout), stderr: text(output.stderr) }
    }

    /// Its output, which must be one JSON object.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// Asserts its exit code, and passes it on.
    #[track_caller]
    pub(crate) fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, code, "{self:?}");
        self
    }
}

/// Runs to the end.
pub(crate) async fn run(mut command: Command) -> Ran {
    Ran::of(within("clarion ends", command.output()).await.expect("clarion can be started"))
}

/// Runs with this standard input to the end.
pub(crate) async fn run_with_input(mut command: Command, input: &[u8]) -> Ran {
    let mut child = command.stdin(Stdio::piped()).spawn().expect("clarion can be started");
    let mut stdin = child.stdin.take().expect("it is a pipe");
    let input = input.to_owned();
    // It may end before it has read all, and then this fails, which is no matter.
    tokio::spawn(async move { stdin.write_all(&input).await });
    Ran::of(within("clarion ends", child.wait_with_output()).await.expect("its output can be read"))
}

/// A run that goes on, and its lines.
pub(crate) struct Running {
    pub(crate) child: tokio::process::Child,
    stdout: Option<tokio::io::Lines<BufReader<tokio::process::ChildStdout>>>,
    stderr: tokio::io::Lines<BufReader<tokio::process::ChildStderr>>,
}

impl Running {
    pub(crate) fn start(mut command: Command) -> Self {
        let mut child = command.spawn().expect("clarion can be started");
        let stdout = BufReader::new(child.stdout.take().expect("it is a pipe")).lines();
        let stderr = BufReader::new(child.stderr.take().expect("it is a pipe")).lines();
        Self { child, stdout: Some(stdout), stderr }
    }

    /// Starts, and waits until it says that it listens.
    pub(crate) async fn listening(command: Command) -> Self {
        let mut running = Self::start(command);
        running.note("listening to").await;
        running
    }

    /// The next line of its output.
    pub(crate) async fn line(&mut self) -> String {
        let stdout = self.stdout.as_mut().expect("the output was not closed");
        let line = within("a line of output", stdout.next_line()).await;
        line.expect("the output can be read").expect("the output goes on")
    }

    /// Waits for a note that holds this word.
    pub(crate) async fn note(&mut self, word: &str) -> String {
        loop {
            let line = within(word, self.stderr.next_line()).await.expect("notes can be read");
            let line = line.unwrap_or_else(|| panic!("it ended without a note of {word}"));
            if line.contains(word) {
                return line;
            }
        }
    }

    /// Reads its output no more, as `head` does.
    pub(crate) fn close_output(&mut self) {
        self.stdout = None;
    }

    /// Waits until it ends; its exit code.
    pub(crate) async fn ended(mut self) -> i32 {
        let status = within("clarion ends", self.child.wait()).await.expect("it can be waited for");
        status.code().expect("it ended by itself")
    }
}

/// A request as it came.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    /// `POST /news`.
    pub(crate) line: String,
    /// Names in lower case.
    headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Request {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).expect("the body is JSON")
    }
}

/// A server that keeps what it was asked and answers as it is told; gone when dropped.
pub(crate) struct Server {
    pub(crate) url: String,
    requests: Arc<Mutex<Vec<Request>>>,
    task: JoinHandle<()>,
}

impl Server {
    /// Answers every request with a status, headers and a body.
    pub(crate) async fn start(
        answer: impl Fn(&Request) -> (u16, &'static str, String) + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a loopback port can be had");
        let url = format!("http://{}", listener.local_addr().expect("a bound socket has an address"));
        let requests = Arc::new(Mutex::new(Vec::new()));
        let (kept, answer) = (Arc::clone(&requests), Arc::new(answer));
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (kept, answer) = (Arc::clone(&kept), Arc::clone(&answer));
                tokio::spawn(async move {
                    let mut stream = BufReader::new(stream);
                    while let Some(request) = read(&mut stream).await {
                        let (status, headers, body) = answer(&request);
                        kept.lock().push(request);
                        let length = body.len();
                        let head = format!("HTTP/1.1 {status} X\r\ncontent-length: {length}\r\n{headers}\r\n");
                        if stream.write_all((head + &body).as_bytes()).await.is_err() {
                            break;
                        }
                    }
                });
            }
        });
        Self { url, requests, task }
    }

    /// What was asked so far.
    pub(crate) fn requests(&self) -> Vec<Request> {
        self.requests.lock().clone()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn read(stream: &mut BufReader<TcpStream>) -> Option<Request> {
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        match stream.read_line(&mut line).await {
            Ok(2) => break,
            Ok(1..) => lines.push(line.trim_end().to_owned()),
            Ok(0) | Err(_) => return None,
        }
    }
    let line = lines.remove(0).trim_end_matches(" HTTP/1.1").to_owned();
    let header = |line: &String| line.split_once(": ").map(|(name, value)| (name.to_lowercase(), value.to_owned()));
    let mut request = Request { line, headers: lines.iter().filter_map(header).collect(), body: Vec::new() };
    let length = request.header("content-length").map_or(0, |length| length.parse().expect("a length is a number"));
    request.body.resize(length, 0);
    stream.read_exact(&mut request.body).await.ok()?;
    Some(request)
}
