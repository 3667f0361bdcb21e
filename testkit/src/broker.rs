//! A node as a real process.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};
use serde_json::Value;

use crate::{
    http::{Reply, http},
    process::Process,
    wait::eventually,
};

/// What a node is started with unless its builder says otherwise.
const DEFAULTS: [(&str, &str); 3] =
    [("--listen", "127.0.0.1:0"), ("--admin-listen", "127.0.0.1:0"), ("--log-format", "json")];

/// How a [`BrokerProcess`] is to be.
#[derive(Debug, Clone)]
pub struct BrokerBuilder {
    binary: PathBuf,
    args: Vec<String>,
    env: Vec<(String, String)>,
}

impl BrokerBuilder {
    /// Adds an argument.
    #[must_use]
    pub fn arg(mut self, arg: &str) -> Self {
        self.args.push(arg.to_owned());
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<'a>(mut self, args: impl IntoIterator<Item = &'a str>) -> Self {
        self.args.extend(args.into_iter().map(str::to_owned));
        self
    }

    /// Sets a variable; those of this process that begin with `CLARION_` are not passed on.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Starts it and waits until it listens, which says nothing about its bus.
    ///
    /// # Panics
    /// When it does not come to that.
    pub async fn start(self) -> BrokerProcess {
        self.try_start().await.unwrap_or_else(|error| panic!("{error:#}"))
    }

    /// Starts it and waits until it is ready, bus included.
    ///
    /// # Panics
    /// When it does not come to that.
    pub async fn start_ready(self) -> BrokerProcess {
        let broker = self.start().await;
        broker.wait_ready().await;
        broker
    }

    /// The same as [`BrokerBuilder::start`], giving the error back.
    ///
    /// # Errors
    /// When it ends before it listens, with what it said.
    pub async fn try_start(self) -> Result<BrokerProcess> {
        let mut process = Process::spawn(self.command())?;
        let (listen, admin, node) = process.wait_for_line("listens", Listening::read).await?.parse()?;
        Ok(BrokerProcess { process, listen, admin, node })
    }

    /// Starts it, expecting that it ends by itself: its exit code and what it wrote.
    ///
    /// # Panics
    /// When it cannot be started or does not end.
    pub async fn start_and_end(self) -> (Option<i32>, String) {
        let mut process = Process::spawn(self.command()).unwrap_or_else(|error| panic!("{error:#}"));
        let code = process.ended().await;
        (code, process.whole_output().await.join("\n"))
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.binary);
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("CLARION_") {
                command.env_remove(name);
            }
        }
        // A test that says where to listen, or how to log, says it instead of these.
        for (flag, value) in DEFAULTS {
            if !self.args.iter().any(|arg| arg == flag) {
                command.args([flag, value]);
            }
        }
        command.args(&self.args).envs(self.env.iter().map(|(name, value)| (name, value)));
        command
    }
}

/// The record that a node writes when it listens.
struct Listening(Value);

impl Listening {
    /// A line `{"message":"listening","listen":…,"admin":…,"node":…}`, its fields at the top or under `fields`.
    fn read(line: &str) -> Option<Self> {
        let mut record: Value = serde_json::from_str(line).ok()?;
        let fields = record.get_mut("fields").map(Value::take);
        let record = fields.unwrap_or(record);
        (record.get("message")?.as_str()? == "listening").then_some(Self(record))
    }

    fn parse(&self) -> Result<(SocketAddr, SocketAddr, String)> {
        let field = |name: &str| self.0[name].as_str().with_context(|| format!("{name} is missing: {}", self.0));
        Ok((field("listen")?.parse()?, field("admin")?.parse()?, field("node")?.to_owned()))
    }
}

/// A running `clarion-broker` on ports of its own; gone when dropped.
#[derive(Debug)]
pub struct BrokerProcess {
    process: Process,
    listen: SocketAddr,
    admin: SocketAddr,
    node: String,
}

impl BrokerProcess {
    /// A node to be started from this binary, which only its own package's tests know: `env!("CARGO_BIN_EXE_clarion-broker")`.
    ///
    /// It listens on any ports of 127.0.0.1 and logs JSON, unless it is given `--listen`, `--admin-listen` or `--log-format`.
    /// A test that starts it again on its port takes one of [`crate::free_port`].
    #[must_use]
    pub fn builder(binary: impl AsRef<Path>) -> BrokerBuilder {
        BrokerBuilder { binary: binary.as_ref().to_owned(), args: Vec::new(), env: Vec::new() }
    }

    /// Where clients connect.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.listen
    }

    /// Where health and metrics are.
    #[must_use]
    pub fn admin(&self) -> SocketAddr {
        self.admin
    }

    /// The node's name.
    #[must_use]
    pub fn node(&self) -> &str {
        &self.node
    }

    /// `http://127.0.0.1:<port>/<path>`; [`crate::WsClient`] takes it as well.
    #[must_use]
    pub fn url(&self, path: &str) -> String {
        format!("http://{}/{}", self.listen, path.trim_start_matches('/'))
    }

    /// The same on the admin listener.
    #[must_use]
    pub fn admin_url(&self, path: &str) -> String {
        format!("http://{}/{}", self.admin, path.trim_start_matches('/'))
    }

    /// Waits until `/health/ready` answers 200.
    ///
    /// # Panics
    /// When it does not.
    pub async fn wait_ready(&self) {
        let url = self.admin_url("/health/ready");
        eventually(&format!("{} is ready", self.node), async || {
            let response = http().get(&url).send().await.map_err(|error| error.to_string())?;
            let (status, body) = (response.status(), response.text().await.unwrap_or_default());
            if status == 200 { Ok(()) } else { Err(format!("{status} {body}")) }
        })
        .await;
    }

    /// Whether `/health/ready` answers 200 now.
    ///
    /// # Panics
    /// When there is no answer.
    pub async fn is_ready(&self) -> bool {
        Reply::get(&self.admin_url("/health/ready")).await.code() == 200
    }

    /// What `/metrics` says now.
    ///
    /// # Panics
    /// When there is no answer.
    pub async fn metrics(&self) -> Metrics {
        Metrics::parse(&Reply::get(&self.admin_url("/metrics")).await.text())
    }

    /// Asks it to leave (SIGTERM).
    pub fn sigterm(&self) {
        self.process.signal("TERM");
    }

    /// Kills it at once (SIGKILL).
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Freezes it (SIGSTOP).
    pub fn pause(&self) {
        self.process.pause();
    }

    /// Lets it go on.
    pub fn resume(&self) {
        self.process.resume();
    }

    /// Waits until it has ended by itself: its exit code.
    ///
    /// # Panics
    /// When it does not.
    pub async fn ended(&mut self) -> Option<i32> {
        self.process.ended().await
    }

    /// Its log so far.
    #[must_use]
    pub fn log(&self) -> Vec<String> {
        self.process.output()
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Its resident memory in bytes.
    ///
    /// # Panics
    /// When it does not run.
    #[must_use]
    pub fn memory_used(&self) -> u64 {
        let path = format!("/proc/{}/status", self.pid());
        let status = std::fs::read_to_string(path).expect("a running process has a status");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kilobytes = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
        kilobytes.expect("a running process has a resident size") * 1024
    }
}

/// What `/metrics` said at one moment.
#[derive(Debug, Clone, Default)]
pub struct Metrics(BTreeMap<String, f64>);

impl Metrics {
    /// Reads the text format of Prometheus.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        let pairs = lines.filter_map(|line| line.rsplit_once(' '));
        Self(pairs.filter_map(|(name, value)| Some((name.to_owned(), value.parse().ok()?))).collect())
    }

    /// The sum of a metric over all its labels; 0 where there is none.
    #[must_use]
    pub fn sum(&self, name: &str) -> f64 {
        self.sum_where(name, "")
    }

    /// The sum over those series of a metric that have this label: `door="websocket"`.
    #[must_use]
    pub fn sum_where(&self, name: &str, label: &str) -> f64 {
        let series = self.0.iter().filter(|(series, _)| {
            let (found, labels) = series.split_once('{').unwrap_or((series, ""));
            found == name && labels.contains(label)
        });
        series.map(|(_, value)| value).sum()
    }

    /// All series with their values, each by its name and labels as printed.
    #[must_use]
    pub fn series(&self) -> &BTreeMap<String, f64> {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_start_record_is_read_in_both_shapes() {
        for line in [
            r#"{"message":"listening","listen":"127.0.0.1:1","admin":"127.0.0.1:2","node":"a"}"#,
            r#"{"level":"INFO","fields":{"message":"listening","listen":"127.0.0.1:1","admin":"127.0.0.1:2","node":"a"}}"#,
        ] {
            let (listen, admin, node) = Listening::read(line).unwrap().parse().unwrap();
            assert_eq!((listen.port(), admin.port(), node.as_str()), (1, 2, "a"));
        }
        assert!(Listening::read(r#"{"message":"starting"}"#).is_none());
        assert!(Listening::read("clarion listens").is_none());
    }

    #[test]
    fn metrics_are_summed() {
        let metrics = Metrics::parse("# HELP a b\na{door=\"sse\"} 2\na{door=\"ws\",x=\"y\"} 3\nab 7\nb 1e3\n");
        assert!((metrics.sum("a") - 5.0).abs() < f64::EPSILON);
        assert!((metrics.sum_where("a", "door=\"ws\"") - 3.0).abs() < f64::EPSILON);
        assert!((metrics.sum("b") - 1000.0).abs() < f64::EPSILON);
        assert!(metrics.sum("c").abs() < f64::EPSILON);
    }
}
