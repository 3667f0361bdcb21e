//! A NATS server for the conformance suite, with a proxy before it that can cut what no server command can.

use std::net::SocketAddr;

use async_trait::async_trait;
use clarion_bus::BusConfig;
use clarion_protocol::{Channel, Prefix};
use clarion_testkit::{NatsBuilder, NatsServer, TcpProxy, within};

use crate::conformance::Rig;

/// One server, with or without TLS.
pub(crate) struct Server {
    server: NatsServer,
    proxy: TcpProxy,
    tls: bool,
}

impl Server {
    pub(crate) async fn start() -> Self {
        Self::of(Self::builder(), false).await
    }

    pub(crate) async fn with_tls() -> Self {
        Self::of(Self::builder().tls(), true).await
    }

    /// One that keeps what it is given.
    pub(crate) async fn with_streams() -> Self {
        Self::of(Self::builder().jetstream(), false).await
    }

    async fn of(builder: NatsBuilder, tls: bool) -> Self {
        let server = builder.start().await;
        let proxy = TcpProxy::start(server.addr()).await;
        Self { server, proxy, tls }
    }

    fn builder() -> NatsBuilder {
        let forbidden = r#"["clarion.forbidden", "clarion.forbidden.>"]"#;
        let permissions = format!("publish: {{ deny: {forbidden} }}, subscribe: {{ deny: {forbidden} }}");
        // A reader that takes nothing is cut soon.
        let limits = "max_pending: 4194304\nwrite_deadline: \"2s\"";
        NatsServer::builder().user("alice", "sesame").user_with("bob", "secret", &permissions).config(limits)
    }

    fn config_as(&self, user: &str, password: &str) -> BusConfig {
        let (scheme, host, port) = (self.scheme(), self.host(), self.proxy.addr().port());
        BusConfig {
            url: format!("{scheme}://{user}:{password}@{host}:{port}").parse().unwrap(),
            ca_file: self.tls.then(|| self.server.ca()),
            ..BusConfig::default()
        }
    }

    fn scheme(&self) -> &'static str {
        if self.tls { "tls" } else { "nats" }
    }

    fn host(&self) -> &'static str {
        if self.tls { "localhost" } else { "127.0.0.1" }
    }
}

#[async_trait]
impl Rig for Server {
    fn config(&self) -> BusConfig {
        self.config_as("alice", "sesame")
    }

    async fn backend(&self, channel: &str, payload: &[u8]) {
        let mut options = async_nats::ConnectOptions::with_user_and_password("alice".to_owned(), "sesame".to_owned());
        if self.tls {
            options = options.require_tls(true).add_root_certificates(self.server.ca());
        }
        let address = format!("{}:{}", self.host(), self.server.port());
        let client = within("a backend comes", options.connect(address)).await.unwrap();
        let subject = Prefix::default().nats(&Channel::parse(channel).unwrap().into());
        client.publish(subject, payload.to_vec().into()).await.unwrap();
        // Its own flush is no barrier; that nobody answers here is the server's word that it has taken what came before.
        let answer = within("a backend publishes", client.request("nobody", "".into())).await;
        assert!(answer.is_err_and(|error| error.to_string().contains("no responders")));
    }

    async fn restart(&mut self) -> bool {
        self.server.restart().await;
        true
    }

    async fn restart_with_data(&mut self) -> bool {
        self.server.restart().await;
        true
    }

    async fn stop(&mut self) -> bool {
        self.server.kill();
        true
    }

    async fn freeze(&self, frozen: bool) -> bool {
        if frozen {
            self.server.pause();
        } else {
            self.server.resume();
        }
        true
    }

    async fn kill_connections(&self) -> bool {
        self.proxy.drop_connections();
        true
    }

    async fn restricted(&self) -> Option<BusConfig> {
        Some(self.config_as("bob", "secret"))
    }

    fn copies_are_in_order(&self) -> bool {
        false
    }

    async fn server_memory(&self) -> Option<u64> {
        Some(self.server.memory_used().await)
    }

    fn slow_reader_is_cut(&self) -> bool {
        true
    }

    fn url_of(&self, address: SocketAddr) -> Option<String> {
        Some(format!("{}://{}:{}", self.scheme(), self.host(), address.port()))
    }
}
