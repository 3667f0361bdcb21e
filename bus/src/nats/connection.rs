//! A connection to one NATS server, from the first byte to the answer to our `CONNECT`.
//!
//! Both the subscriber link and the publisher begin with one. What it costs to get there is bounded by one timeout.

use std::{
    io,
    sync::{Arc, OnceLock},
    time::Duration,
};

use bytes::BytesMut;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, ReadHalf, WriteHalf};
use tokio_rustls::TlsConnector;

use super::{
    handshake::{self, Info, Login, LoginError},
    parse::{Malformed, Op, Parser},
    servers::{Server, Servers},
    stream::Stream,
};
use crate::{
    BusConfig, ConfigError, HostPort, NatsUrl,
    apart::Apart,
    race::{self, race},
    tls,
};

/// Room that a read finds at least. What is read at once becomes one batch, and its messages share one allocation.
const READ_BYTES: usize = 16 * 1024;
/// How much is allocated when there is less room than that.
const BUFFER_BYTES: usize = 64 * 1024;

/// Everything that is needed to connect, the same for both connections of a node.
#[derive(Debug)]
pub(crate) struct Dialer {
    pub(crate) servers: Servers,
    login: Login,
    /// The URL insists on TLS.
    tls_wanted: bool,
    /// Made at start where the URL or a file asks for TLS, else when a server does.
    tls: OnceLock<Arc<rustls::ClientConfig>>,
    /// Where the files are read that are read again for each connection.
    apart: Apart,
    config: BusConfig,
}

/// A connection that the server has let in.
pub(crate) struct Connection {
    pub(crate) reader: Reader,
    pub(crate) writer: WriteHalf<Stream>,
    pub(crate) server: Server,
    pub(crate) info: Info,
}

/// The reading half: bytes that are not yet consumed, and what makes sense of them.
pub(crate) struct Reader {
    half: ReadHalf<Stream>,
    pub(crate) buffer: BytesMut,
    pub(crate) parser: Parser,
}

impl Dialer {
    /// Reads the settings.
    ///
    /// # Errors
    /// Credentials or certificates that cannot be used.
    pub(crate) fn new(url: &NatsUrl, config: &BusConfig) -> Result<Self, ConfigError> {
        let tls = OnceLock::new();
        if url.tls || config.ca_file.is_some() || config.cert_file.is_some() || config.key_file.is_some() {
            // Nobody else has this cell yet.
            let _ = tls.set(tls::client_config(config)?);
        }
        Ok(Self {
            servers: Servers::new(&url.servers, config.nats_advertised),
            login: Login::new(url, config)?,
            tls_wanted: url.tls,
            tls,
            apart: Apart::new(),
            config: config.clone(),
        })
    }

    /// Tries the servers, side by side where they take their time, until one lets us in.
    ///
    /// # Errors
    /// The reason of the first one that did not.
    pub(crate) async fn dial(&self, suffix: &str) -> Result<Connection, DialError> {
        let attempt = async |server: Server| {
            let dialled = self.dial_one(&server, suffix).await;
            if let Err(error) = &dialled {
                tracing::debug!(server = %server.address, %error, "no connection to this NATS server");
                self.servers.avoid(&server.address);
            }
            dialled
        };
        race(self.servers.order(), attempt).await.unwrap_or(Err(DialError::Closed))
    }

    /// Tries this server alone.
    ///
    /// # Errors
    /// Why it did not let us in.
    pub(crate) async fn dial_to(&self, address: &HostPort, suffix: &str) -> Result<Connection, DialError> {
        let server = self.servers.order().into_iter().find(|server| server.address == *address);
        self.dial_one(&server.ok_or(DialError::Closed)?, suffix).await
    }

    async fn dial_one(&self, server: &Server, suffix: &str) -> Result<Connection, DialError> {
        let patience = self.config.connect_timeout;
        let connection = tokio::time::timeout(patience, self.greet(server, suffix)).await;
        let connection = connection.unwrap_or(Err(DialError::Timeout(patience)))?;
        self.servers.learn(server, &connection.info.connect_urls);
        Ok(connection)
    }

    async fn greet(&self, server: &Server, suffix: &str) -> Result<Connection, DialError> {
        let stream = race::connect(&server.address).await?;
        // What is written is a whole batch already; waiting to fill a packet would only delay it.
        stream.set_nodelay(true)?;
        let (mut buffer, mut parser) = (BytesMut::with_capacity(BUFFER_BYTES), Parser::new(self.config.max_payload));
        let mut stream = Stream::Plain(stream);
        let info = match say(&mut stream, &mut buffer, &mut parser).await? {
            Said::Info(info) => *info,
            Said::Refused(reason) => return Err(DialError::Refused(reason)),
            Said::Ping | Said::Pong | Said::Nothing => return Err(DialError::NoGreeting),
        };
        let secure = self.tls_wanted || info.tls_required;
        if secure {
            stream = self.encrypt(stream, server, &info, &buffer).await?;
        }
        let name = format!("{}{suffix}", self.config.client_name);
        let secret = self.login.read(&self.apart, self.config.connect_timeout / 2).await?;
        let mut greeting = handshake::connect_line(&info, &self.login, &secret, &name, secure)?;
        greeting.extend_from_slice(b"PING\r\n");
        stream.write_all(&greeting).await?;
        stream.flush().await?;
        let info = admitted(&mut stream, &mut buffer, &mut parser, info).await?;
        if !info.headers {
            return Err(DialError::NoHeaders);
        }
        let (half, writer) = tokio::io::split(stream);
        Ok(Connection { reader: Reader { half, buffer, parser }, writer, server: server.clone(), info })
    }

    async fn encrypt(&self, stream: Stream, server: &Server, info: &Info, read: &[u8]) -> Result<Stream, DialError> {
        let Stream::Plain(stream) = stream else { return Ok(stream) };
        if !info.tls_required && !info.tls_available {
            return Err(DialError::NoTls);
        }
        // Somebody between us and the server could have put words before the encryption begins.
        if !read.is_empty() {
            return Err(DialError::NoGreeting);
        }
        let config = match self.tls.get() {
            Some(config) => config.clone(),
            None => {
                let config = self.config.clone();
                let made = self.apart.run(self.config.connect_timeout / 2, move || tls::client_config(&config)).await;
                let made =
                    made.ok_or_else(|| DialError::TlsConfig("the certificates cannot be read in time".to_owned()))?;
                let made = made.map_err(|error| DialError::TlsConfig(error.to_string()))?;
                self.tls.get_or_init(|| made).clone()
            }
        };
        let name = ServerName::try_from(server.tls_name.clone()).map_err(|_| DialError::TlsName)?;
        let stream = TlsConnector::from(config).connect(name, stream).await.map_err(DialError::Tls)?;
        Ok(Stream::Tls(Box::new(stream)))
    }
}

impl Reader {
    /// Waits for more bytes. Cancel safe: nothing is lost.
    ///
    /// # Errors
    /// The connection's; its end is one.
    pub(crate) async fn fill(&mut self) -> io::Result<usize> {
        if self.buffer.capacity() - self.buffer.len() < READ_BYTES {
            self.buffer.reserve(BUFFER_BYTES);
        }
        match self.half.read_buf(&mut self.buffer).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            read => Ok(read),
        }
    }
}

/// One thing that a server says before we are in.
enum Said {
    Info(Box<Info>),
    Refused(String),
    Ping,
    Pong,
    Nothing,
}

async fn say(stream: &mut Stream, buffer: &mut BytesMut, parser: &mut Parser) -> Result<Said, DialError> {
    loop {
        if let Some((op, taken)) = parser.next(buffer)? {
            let bytes = buffer.split_to(taken);
            return Ok(match op {
                Op::Info(json) => Said::Info(serde_json::from_slice(&bytes[json]).map_err(|_| DialError::NoGreeting)?),
                Op::Error(text) => Said::Refused(text_of(&bytes[text])),
                Op::Ping => Said::Ping,
                Op::Pong => Said::Pong,
                Op::Ok | Op::Message(_) | Op::Oversize { .. } | Op::Skipped => Said::Nothing,
            });
        }
        if stream.read_buf(buffer).await? == 0 {
            return Err(DialError::Closed);
        }
    }
}

/// Waits for the `PONG` that says that our `CONNECT` was taken; a later `INFO` replaces the first.
async fn admitted(
    stream: &mut Stream,
    buffer: &mut BytesMut,
    parser: &mut Parser,
    mut info: Info,
) -> Result<Info, DialError> {
    loop {
        match say(stream, buffer, parser).await? {
            Said::Pong => return Ok(info),
            Said::Info(newer) => info = *newer,
            Said::Refused(reason) => return Err(DialError::Refused(reason)),
            Said::Ping => {
                stream.write_all(b"PONG\r\n").await?;
                stream.flush().await?;
            }
            Said::Nothing => {}
        }
    }
}

/// A server's words for a log: printable, and not many of them.
pub(crate) fn text_of(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).chars().filter(|c| !c.is_control()).take(300).collect()
}

/// Why there is no connection. Its text goes into [`crate::Link::Down`] and never holds a secret.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DialError {
    #[error("no connection: {0}")]
    Io(#[from] io::Error),
    #[error("the server closed the connection")]
    Closed,
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    #[error(transparent)]
    Protocol(#[from] Malformed),
    #[error("what listens there does not greet like a NATS server")]
    NoGreeting,
    #[error("the server is too old: it does not know headers")]
    NoHeaders,
    #[error("the server says: {0}")]
    Refused(String),
    #[error("the URL asks for TLS and the server does not offer it")]
    NoTls,
    #[error("the server demands TLS: {0}")]
    TlsConfig(String),
    #[error("TLS: {0}")]
    Tls(io::Error),
    #[error("the server's name cannot stand in a certificate")]
    TlsName,
    #[error("the credentials file is not {0}")]
    Login(#[from] LoginError),
}
