//! Redis servers of our own: one alone, a cluster, a master with its replica and sentinels.

use std::{ffi::OsString, fs, net::SocketAddr, path::PathBuf, process::Command, sync::Arc};

use anyhow::{Context, Result, ensure};

use crate::{
    certificates::Certificates,
    process::{self, Process, find, on_free_port, run},
    wait::{eventually, within},
};

mod cluster;
mod sentinel;

pub use cluster::RedisCluster;
pub use sentinel::RedisSentinel;

/// How a [`RedisServer`] is to be.
#[derive(Debug, Clone, Default)]
pub struct RedisBuilder {
    password: Option<String>,
    acl: Vec<String>,
    tls: Option<Arc<Certificates>>,
    config: Vec<(String, String)>,
}

impl RedisBuilder {
    /// `requirepass`: the password of the user `default`.
    #[must_use]
    pub fn password(mut self, password: &str) -> Self {
        self.password = Some(password.to_owned());
        self
    }

    /// One rule as `ACL SETUSER` takes it: `bob on >secret ~* resetchannels &clarion:* +@all`.
    #[must_use]
    pub fn acl(mut self, rule: &str) -> Self {
        self.acl.push(rule.to_owned());
        self
    }

    /// Speaks TLS and nothing else, with certificates of its own: trust [`RedisServer::ca`].
    #[must_use]
    pub fn tls(mut self) -> Self {
        self.tls = Some(Arc::new(Certificates::generate()));
        self
    }

    /// Any directive of `redis.conf`.
    #[must_use]
    pub fn config(mut self, directive: &str, value: &str) -> Self {
        self.config.push((directive.to_owned(), value.to_owned()));
        self
    }

    /// Starts it on a free port and waits until it answers.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn start(self) -> RedisServer {
        on_free_port(async |port| self.start_on(port).await).await.unwrap_or_else(|error| panic!("{error:#}"))
    }

    async fn start_on(&self, port: u16) -> Result<RedisServer> {
        let directory = tempfile::tempdir().context("a temporary directory")?;
        fs::write(directory.path().join("redis.conf"), self.file(port))?;
        let process = RedisServer::launch(directory.path().join("redis.conf"), &[]).await?;
        let server = RedisServer { builder: self.clone(), port, directory, process, extra: Vec::new() };
        server.ready().await?;
        Ok(server)
    }

    /// The configuration file. Nothing is ever written to disk, so a server that was killed comes back empty.
    fn file(&self, port: u16) -> String {
        let mut lines = vec!["bind 127.0.0.1".to_owned(), "save \"\"".to_owned(), "dir ./".to_owned()];
        match &self.tls {
            None => lines.push(format!("port {port}")),
            Some(tls) => lines.extend([
                "port 0".to_owned(),
                format!("tls-port {port}"),
                format!("tls-ca-cert-file {}", tls.ca().display()),
                format!("tls-cert-file {}", tls.server_cert().display()),
                format!("tls-key-file {}", tls.server_key().display()),
                "tls-auth-clients optional".to_owned(),
            ]),
        }
        lines.extend(self.password.iter().map(|password| format!("requirepass {password}")));
        lines.extend(self.acl.iter().map(|rule| format!("user {rule}")));
        lines.extend(self.config.iter().map(|(directive, value)| format!("{directive} {value}")));
        lines.join("\n") + "\n"
    }
}

/// A Redis server on 127.0.0.1 with a directory of its own; gone when dropped.
#[derive(Debug)]
pub struct RedisServer {
    builder: RedisBuilder,
    port: u16,
    directory: tempfile::TempDir,
    process: Process,
    /// What the command line has beside the configuration file (`--sentinel`).
    extra: Vec<OsString>,
}

impl RedisServer {
    /// A plain one: no password, no TLS.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn start() -> Self {
        Self::builder().start().await
    }

    /// One to be configured first.
    #[must_use]
    pub fn builder() -> RedisBuilder {
        RedisBuilder::default()
    }

    async fn launch(file: PathBuf, extra: &[OsString]) -> Result<Process> {
        let mut command = Command::new(find("redis-server")?);
        command.current_dir(file.parent().expect("the file is in a directory")).arg(&file).args(extra);
        let mut process = Process::spawn(command)?;
        // Redis says this when it listens; a sentinel says its id just before.
        let ready = |line: &str| {
            (line.contains("Ready to accept connections") || line.contains("Sentinel ID is")).then_some(())
        };
        process.wait_for_line("is ready", ready).await?;
        Ok(process)
    }

    /// The last word has a connection: the server answers, be it that it wants a password or forbids to be asked.
    async fn ready(&self) -> Result<()> {
        let answer = within("redis-server answers", run(self.command(&["PING"], false))).await;
        let text = answer.unwrap_or_else(|error| format!("{error:#}"));
        let answers = ["PONG", "NOAUTH", "NOPERM"].iter().any(|word| text.contains(word));
        ensure!(answers, "redis-server answers PING with {text}");
        Ok(())
    }

    /// Where it listens.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port))
    }

    /// The port it listens on.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// `redis://127.0.0.1:<port>`, `rediss://localhost:<port>`, with the password where there is one.
    #[must_use]
    pub fn url(&self) -> String {
        let login = self.builder.password.as_ref().map(|password| format!(":{password}@")).unwrap_or_default();
        self.url_with(&login)
    }

    /// The same as another user.
    #[must_use]
    pub fn url_as(&self, user: &str, password: &str) -> String {
        self.url_with(&format!("{user}:{password}@"))
    }

    fn url_with(&self, login: &str) -> String {
        match self.builder.tls {
            None => format!("redis://{login}127.0.0.1:{}", self.port),
            Some(_) => format!("rediss://{login}localhost:{}", self.port),
        }
    }

    /// The authority to trust, where it speaks TLS.
    ///
    /// # Panics
    /// When it does not.
    #[must_use]
    pub fn ca(&self) -> PathBuf {
        self.certificates().ca()
    }

    /// All of its certificates, a client's among them.
    ///
    /// # Panics
    /// When it does not speak TLS.
    #[must_use]
    pub fn certificates(&self) -> &Certificates {
        self.builder.tls.as_deref().expect("this server was built with `tls()`")
    }

    /// Runs `redis-cli` with these arguments and returns what it prints.
    ///
    /// # Panics
    /// When the server answers with an error, or not at all.
    pub async fn cli(&self, arguments: &[&str]) -> String {
        self.try_cli(arguments).await.unwrap_or_else(|error| panic!("{error:#}"))
    }

    /// The same, giving the error back.
    ///
    /// # Errors
    /// When the server answers with an error, or not at all.
    pub async fn try_cli(&self, arguments: &[&str]) -> Result<String> {
        run(self.command(arguments, true)).await
    }

    fn command(&self, arguments: &[&str], login: bool) -> Command {
        let mut command = Command::new("redis-cli");
        command.args(["-e", "-h", "127.0.0.1", "-p", &self.port.to_string()]);
        if let Some(tls) = &self.builder.tls {
            command.arg("--tls").arg("--cacert").arg(tls.ca());
        }
        if let (Some(password), true) = (&self.builder.password, login) {
            command.args(["--no-auth-warning", "-a", password]);
        }
        command.args(arguments);
        command
    }

    /// One field of `INFO`.
    ///
    /// # Panics
    /// When there is no such field.
    pub async fn info(&self, field: &str) -> String {
        let info = self.cli(&["INFO", "everything"]).await;
        let value = info.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
        value.unwrap_or_else(|| panic!("INFO has no {field}")).trim().to_owned()
    }

    /// Bytes that the server uses (`used_memory`).
    ///
    /// # Panics
    /// When it does not say.
    pub async fn memory_used(&self) -> u64 {
        self.info("used_memory").await.parse().expect("used_memory is a number")
    }

    /// Kills the server (SIGKILL).
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Starts it again on the same port, killing it first where it still runs. It comes back empty.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn restart(&mut self) {
        self.kill();
        let file = self.directory.path().join("redis.conf");
        let port = self.port;
        // The port can be in use for a moment by somebody who asked for any free one.
        self.process =
            eventually(&format!("redis-server starts on {port} again"), || Self::launch(file.clone(), &self.extra))
                .await;
        self.ready().await.unwrap_or_else(|error| panic!("{error:#}"));
    }

    /// Freezes the server (SIGSTOP): connections stay open, nobody answers.
    pub fn pause(&self) {
        self.process.pause();
    }

    /// Lets a frozen server go on.
    pub fn resume(&self) {
        self.process.resume();
    }

    /// The process itself.
    #[must_use]
    pub fn process(&self) -> &process::Process {
        &self.process
    }
}

#[cfg(test)]
mod tests;
