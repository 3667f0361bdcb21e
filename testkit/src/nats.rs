//! NATS servers of our own: one alone, or a cluster.

use std::{fmt::Write as _, fs, net::SocketAddr, path::PathBuf, process::Command, sync::Arc};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::{
    certificates::Certificates,
    http::http,
    process::{PORT_ATTEMPTS, Process, find, free_port, is_address_in_use, on_free_port},
    wait::eventually,
};

/// How a [`NatsServer`] is to be.
#[derive(Debug, Clone, Default)]
pub struct NatsBuilder {
    login: Login,
    users: Vec<String>,
    tls: Option<Arc<Certificates>>,
    verify_clients: bool,
    max_payload: Option<usize>,
    mappings: Vec<(String, String)>,
    jetstream: bool,
    more: String,
}

/// What a client of ours says to be let in.
#[derive(Debug, Clone, Default)]
enum Login {
    #[default]
    None,
    Token(String),
    User(String, String),
}

impl NatsBuilder {
    /// Everybody shows this token.
    #[must_use]
    pub fn token(mut self, token: &str) -> Self {
        self.login = Login::Token(token.to_owned());
        self
    }

    /// A user who may do everything. The first one is in [`NatsServer::url`].
    #[must_use]
    pub fn user(self, user: &str, password: &str) -> Self {
        self.user_with(user, password, "")
    }

    /// A user with permissions as the configuration file has them:
    /// `publish: { deny: "secret.>" }, subscribe: "clarion.>"`.
    #[must_use]
    pub fn user_with(mut self, user: &str, password: &str, permissions: &str) -> Self {
        if matches!(self.login, Login::None) {
            self.login = Login::User(user.to_owned(), password.to_owned());
        }
        self.users.push(format!("{{ user: {user:?}, password: {password:?}, permissions: {{ {permissions} }} }}"));
        self
    }

    /// A user who signs with an nkey; this is its public half, `U…`.
    #[must_use]
    pub fn nkey(mut self, public: &str) -> Self {
        self.users.push(format!("{{ nkey: {public} }}"));
        self
    }

    /// Wants TLS, with certificates of its own: trust [`NatsServer::ca`].
    #[must_use]
    pub fn tls(mut self) -> Self {
        self.tls = Some(Arc::new(Certificates::generate()));
        self
    }

    /// Wants TLS and a client's certificate.
    #[must_use]
    pub fn tls_verify(mut self) -> Self {
        self.verify_clients = true;
        self.tls()
    }

    /// The largest message in bytes.
    #[must_use]
    pub fn max_payload(mut self, bytes: usize) -> Self {
        self.max_payload = Some(bytes);
        self
    }

    /// A subject mapping.
    #[must_use]
    pub fn mapping(mut self, from: &str, to: &str) -> Self {
        self.mappings.push((from.to_owned(), to.to_owned()));
        self
    }

    /// With JetStream, in the server's own directory.
    #[must_use]
    pub fn jetstream(mut self) -> Self {
        self.jetstream = true;
        self
    }

    /// Any lines of the configuration file.
    #[must_use]
    pub fn config(mut self, lines: &str) -> Self {
        self.more.push_str(lines);
        self.more.push('\n');
        self
    }

    /// Starts it on a free port and waits until it answers.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn start(self) -> NatsServer {
        on_free_port(async |port| self.start_on(port, "").await).await.unwrap_or_else(|error| panic!("{error:#}"))
    }

    async fn start_on(&self, port: u16, cluster: &str) -> Result<NatsServer> {
        let directory = tempfile::tempdir().context("a temporary directory")?;
        let monitor = free_port();
        let jetstream = format!("jetstream {{ store_dir: {:?} }}\n", directory.path().join("jetstream"));
        let file = self.file(port, monitor) + if self.jetstream { &jetstream } else { "" } + cluster;
        fs::write(directory.path().join("nats.conf"), file)?;
        let process = NatsServer::launch(&directory).await?;
        let server = NatsServer { builder: self.clone(), port, monitor, directory, process };
        server.ready().await?;
        Ok(server)
    }

    fn file(&self, port: u16, monitor: u16) -> String {
        let mut file = format!("listen: \"127.0.0.1:{port}\"\nhttp: \"127.0.0.1:{monitor}\"\n");
        // Writing into a String cannot fail.
        match &self.login {
            Login::Token(token) => _ = writeln!(file, "authorization {{ token: {token:?} }}"),
            Login::None | Login::User(..) if !self.users.is_empty() => {
                _ = writeln!(file, "authorization {{ users: [ {} ] }}", self.users.join(", "));
            }
            Login::None | Login::User(..) => {}
        }
        if let Some(tls) = &self.tls {
            let (cert, key, ca, verify) = (tls.server_cert(), tls.server_key(), tls.ca(), self.verify_clients);
            _ = writeln!(file, "tls {{ cert_file: {cert:?}, key_file: {key:?}, ca_file: {ca:?}, verify: {verify} }}");
        }
        if let Some(bytes) = self.max_payload {
            _ = writeln!(file, "max_payload: {bytes}");
        }
        if !self.mappings.is_empty() {
            let mappings: Vec<_> = self.mappings.iter().map(|(from, to)| format!("{from:?}: {to:?}")).collect();
            _ = writeln!(file, "mappings {{ {} }}", mappings.join(", "));
        }
        file + &self.more
    }
}

/// A NATS server on 127.0.0.1 with a directory of its own and its monitoring on; gone when dropped.
#[derive(Debug)]
pub struct NatsServer {
    builder: NatsBuilder,
    port: u16,
    monitor: u16,
    directory: tempfile::TempDir,
    process: Process,
}

impl NatsServer {
    /// A plain one: no login, no TLS.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn start() -> Self {
        Self::builder().start().await
    }

    /// One to be configured first.
    #[must_use]
    pub fn builder() -> NatsBuilder {
        NatsBuilder::default()
    }

    async fn launch(directory: &tempfile::TempDir) -> Result<Process> {
        let mut command = Command::new(find("nats-server")?);
        command.current_dir(directory.path()).args(["--config", "nats.conf"]);
        let mut process = Process::spawn(command)?;
        process.wait_for_line("is ready", |line| line.contains("Server is ready").then_some(())).await?;
        Ok(process)
    }

    /// The server greets before it asks for anything, so a connection and its first bytes are enough.
    async fn ready(&self) -> Result<()> {
        let greeting = eventually("nats-server greets", async || {
            let stream = tokio::net::TcpStream::connect(self.addr()).await?;
            stream.readable().await?;
            let mut greeting = [0; 4];
            let read = stream.try_read(&mut greeting)?;
            Ok::<_, std::io::Error>(greeting[..read].to_vec())
        })
        .await;
        ensure!(greeting == b"INFO", "nats-server greets with {greeting:?}");
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

    /// `nats://127.0.0.1:<port>` or `tls://localhost:<port>`, with token or first user and password where there are any.
    #[must_use]
    pub fn url(&self) -> String {
        let login = match &self.builder.login {
            Login::None => String::new(),
            Login::Token(token) => format!("{token}@"),
            Login::User(user, password) => format!("{user}:{password}@"),
        };
        self.url_with(&login)
    }

    /// The same as another user.
    #[must_use]
    pub fn url_as(&self, user: &str, password: &str) -> String {
        self.url_with(&format!("{user}:{password}@"))
    }

    fn url_with(&self, login: &str) -> String {
        match self.builder.tls {
            None => format!("nats://{login}127.0.0.1:{}", self.port),
            Some(_) => format!("tls://{login}localhost:{}", self.port),
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

    /// What its monitoring answers: `varz`, `connz?subs=1`, `subsz`, `routez` …
    ///
    /// # Panics
    /// When it answers with something that is no JSON.
    pub async fn monitor(&self, page: &str) -> Value {
        let url = format!("http://127.0.0.1:{}/{page}", self.monitor);
        eventually(&format!("nats-server's {page}"), async || http().get(&url).send().await?.json().await).await
    }

    /// Resident bytes of the server.
    ///
    /// # Panics
    /// When it does not say.
    pub async fn memory_used(&self) -> u64 {
        self.monitor("varz").await["mem"].as_u64().expect("varz has mem")
    }

    /// Kills the server (SIGKILL).
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Starts it again on the same port, killing it first where it still runs.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn restart(&mut self) {
        self.kill();
        let what = format!("nats-server starts on {} again", self.port);
        self.process = eventually(&what, || Self::launch(&self.directory)).await;
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

    /// Lame duck mode: tells the clients to go elsewhere, and closes their connections one by one.
    pub fn lame_duck(&self) {
        self.process.signal("USR2");
    }

    /// The process itself.
    #[must_use]
    pub fn process(&self) -> &Process {
        &self.process
    }
}

/// Servers that are joined, each with a route to every other.
#[derive(Debug)]
pub struct NatsCluster {
    nodes: Vec<NatsServer>,
}

impl NatsCluster {
    /// Starts and joins that many plain servers.
    ///
    /// # Panics
    /// When the cluster does not come up.
    pub async fn start(count: usize) -> Self {
        Self::start_with(count, &NatsBuilder::default()).await
    }

    /// The same with servers of another kind.
    ///
    /// # Panics
    /// When the cluster does not come up.
    pub async fn start_with(count: usize, builder: &NatsBuilder) -> Self {
        let mut attempt = 1;
        let cluster = loop {
            match Self::try_start(count, builder).await {
                Err(error) if attempt < PORT_ATTEMPTS && is_address_in_use(&error) => attempt += 1,
                outcome => break outcome.unwrap_or_else(|error| panic!("{error:#}")),
            }
        };
        for node in &cluster.nodes {
            eventually("the servers have routes to each other", async || {
                let routes = node.monitor("routez").await;
                routes["num_routes"].as_u64() >= Some(count as u64 - 1)
            })
            .await;
        }
        cluster
    }

    async fn try_start(count: usize, builder: &NatsBuilder) -> Result<Self> {
        // Every file names the routes of all, so their ports are chosen first.
        let ports: Vec<_> = (0..count).map(|_| free_port()).collect();
        let routes: Vec<_> = ports.iter().map(|port| format!("\"nats://127.0.0.1:{port}\"")).collect();
        let mut nodes = Vec::new();
        for (number, port) in ports.iter().enumerate() {
            let routes = routes.join(", ");
            let lines = format!(
                "server_name: \"test-{number}\"\ncluster {{ name: \"test\", listen: \"127.0.0.1:{port}\", routes: [ {routes} ] }}\n"
            );
            nodes.push(builder.start_on(free_port(), &lines).await?);
        }
        Ok(Self { nodes })
    }

    /// `nats://…,nats://…` with all servers.
    #[must_use]
    pub fn url(&self) -> String {
        self.nodes.iter().map(NatsServer::url).collect::<Vec<_>>().join(",")
    }

    /// The servers.
    #[must_use]
    pub fn nodes(&self) -> &[NatsServer] {
        &self.nodes
    }

    /// The servers, to be killed and started.
    pub fn nodes_mut(&mut self) -> &mut [NatsServer] {
        &mut self.nodes
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
        net::TcpStream,
    };

    use super::*;
    use crate::wait::within;

    /// What the server answers to these lines, after its greeting.
    async fn answer(server: &NatsServer, lines: &str) -> String {
        let mut stream = BufReader::new(TcpStream::connect(server.addr()).await.unwrap());
        let mut line = String::new();
        within("the greeting", stream.read_line(&mut line)).await.unwrap();
        stream.write_all(lines.as_bytes()).await.unwrap();
        line.clear();
        within("the answer", stream.read_line(&mut line)).await.unwrap();
        line.trim_end().to_owned()
    }

    #[tokio::test]
    async fn it_is_killed_and_comes_back_on_its_port() {
        let mut server = NatsServer::start().await;
        assert_eq!(answer(&server, "CONNECT {\"verbose\":false}\r\nPING\r\n").await, "PONG");
        assert!(server.memory_used().await > 1_000_000);
        let addr = server.addr();
        server.kill();
        assert!(TcpStream::connect(addr).await.is_err());
        server.restart().await;
        assert_eq!(server.addr(), addr);
        assert_eq!(answer(&server, "CONNECT {\"verbose\":false}\r\nPING\r\n").await, "PONG");
    }

    #[tokio::test]
    async fn logins_and_permissions_hold() {
        let users = NatsServer::builder().user("a", "b").user_with("c", "d", "subscribe: \"clarion.>\"").start().await;
        assert_eq!(users.url(), format!("nats://a:b@{}", users.addr()));
        let greeting = "CONNECT {\"verbose\":false,\"user\":\"c\",\"pass\":\"d\"}\r\nSUB other 1\r\nPING\r\n";
        assert!(answer(&users, greeting).await.contains("Permissions Violation"));
        let token = NatsServer::builder().token("t").max_payload(1000).start().await;
        assert!(answer(&token, "CONNECT {\"verbose\":false}\r\nPING\r\n").await.contains("Authorization Violation"));
        assert_eq!(token.monitor("varz").await["max_payload"], 1000);
    }

    #[tokio::test]
    async fn lame_ducks_tell_their_clients() {
        let server = NatsServer::start().await;
        let mut stream = BufReader::new(TcpStream::connect(server.addr()).await.unwrap());
        stream.write_all(b"CONNECT {\"verbose\":false,\"protocol\":1}\r\nPING\r\n").await.unwrap();
        let mut seen = String::new();
        while !seen.contains("PONG") {
            within("the answer", stream.read_line(&mut seen)).await.unwrap();
        }
        server.lame_duck();
        while !seen.contains("\"ldm\":true") {
            assert!(within("the warning", stream.read_line(&mut seen)).await.unwrap() > 0, "{seen}");
        }
    }

    #[tokio::test]
    async fn tls_mappings_and_jetstream_are_taken() {
        let builder = NatsServer::builder().tls_verify().mapping("a.*", "b.{{wildcard(1)}}").jetstream();
        let server = builder.config("ping_interval: \"1s\"").start().await;
        let page = server.monitor("varz").await;
        assert_eq!(page["tls_required"], true);
        assert!(page["jetstream"]["config"].is_object(), "{page}");
    }

    #[tokio::test]
    async fn a_cluster_has_its_routes() {
        let cluster = NatsCluster::start(3).await;
        assert_eq!(cluster.url().matches("nats://").count(), 3);
    }
}
