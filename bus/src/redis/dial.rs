//! One connection to one Redis server: TCP, TLS, who we are, and a question at a time until the link takes over.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use bytes::BytesMut;
use rustls::{ClientConfig, pki_types::ServerName};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::TlsConnector;

use super::{
    role::Role,
    wire::{self, Reply, Step},
};
use crate::{
    HostPort, Secret,
    race::{race, resolve},
};

/// Either kind of connection.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// As whom to go to a server, and how.
#[derive(Debug, Clone)]
pub(crate) struct Credentials {
    pub(crate) tls: Option<Arc<ClientConfig>>,
    pub(crate) user: Option<String>,
    pub(crate) password: Option<Secret>,
    /// What the server's `CLIENT LIST` shows.
    pub(crate) name: String,
    /// How long connecting, and each question, may take.
    pub(crate) timeout: Duration,
}

impl Credentials {
    /// User and password, where there are any. A user without a password is one whom the server asks for none.
    pub(crate) fn login(&self) -> Option<(&str, &str)> {
        match (&self.user, &self.password) {
            (None, None) => None,
            (user, password) => {
                Some((user.as_deref().unwrap_or("default"), password.as_ref().map(Secret::expose).unwrap_or_default()))
            }
        }
    }
}

/// Why there is no connection, for `Link::Down` and the log. Never holds a secret.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DialError {
    #[error("{server}: {source}")]
    Io { server: HostPort, source: std::io::Error },
    #[error("{0} does not answer")]
    Silent(HostPort),
    #[error("{server}: {answer}")]
    Refused { server: HostPort, answer: String },
    #[error("{0}: {1}")]
    NotResp(HostPort, wire::NotResp),
    #[error(
        "{0} is a replica, and what is published there reaches nobody else; waiting for a master to answer at that address"
    )]
    Replica(HostPort),
    #[error("no Sentinel knows a master called {0:?} ({1})")]
    NoMaster(String, String),
}

/// A connection on which questions are asked one after the other.
pub(crate) struct Connection {
    pub(crate) stream: Box<dyn Stream>,
    /// What was read and not used yet.
    pub(crate) input: BytesMut,
    pub(crate) server: HostPort,
    /// The one of the server's addresses that this connection goes to.
    pub(crate) address: SocketAddr,
    /// The server speaks RESP3, in which whoever has subscribed may still ask questions.
    pub(crate) resp3: bool,
    /// What the server says it is.
    pub(crate) role: Role,
    timeout: Duration,
}

impl Connection {
    /// Connects, encrypts, and says who we are, at the first of the server's addresses where that works.
    pub(crate) async fn open(server: &HostPort, credentials: &Credentials) -> Result<Self, DialError> {
        let attempt = |address| Self::open_at(server, address, credentials);
        Self::open_any(server, credentials, attempt).await
    }

    /// The same at the first that is a master, as far as servers say what they are.
    pub(crate) async fn open_master(server: &HostPort, credentials: &Credentials) -> Result<Self, DialError> {
        let attempt = async |address| match Self::open_at(server, address, credentials).await? {
            connection if connection.role == Role::Replica => Err(DialError::Replica(server.clone())),
            connection => Ok(connection),
        };
        Self::open_any(server, credentials, attempt).await
    }

    async fn open_any<F: Future<Output = Result<Self, DialError>>>(
        server: &HostPort,
        credentials: &Credentials,
        attempt: impl Fn(SocketAddr) -> F,
    ) -> Result<Self, DialError> {
        let silent = || DialError::Silent(server.clone());
        let addresses = timeout(credentials.timeout, resolve(server))
            .await
            .map_err(|_| silent())?
            .map_err(|source| DialError::Io { server: server.clone(), source })?;
        race(addresses, attempt).await.unwrap_or_else(|| Err(silent()))
    }

    async fn open_at(server: &HostPort, address: SocketAddr, credentials: &Credentials) -> Result<Self, DialError> {
        let stream = timeout(credentials.timeout, connect(server, address, credentials.tls.clone()))
            .await
            .map_err(|_| DialError::Silent(server.clone()))?
            .map_err(|source| DialError::Io { server: server.clone(), source })?;
        let mut connection = Self {
            stream,
            input: BytesMut::new(),
            server: server.clone(),
            address,
            resp3: false,
            role: Role::Unknown,
            timeout: credentials.timeout,
        };
        connection.greet(credentials).await?;
        Ok(connection)
    }

    /// Says who we are and asks what the server is. `HELLO` does it all in one round trip, and needs no right from Redis 7 on.
    async fn greet(&mut self, credentials: &Credentials) -> Result<(), DialError> {
        let mut hello = vec!["HELLO", "3"];
        hello.extend(credentials.login().into_iter().flat_map(|(user, password)| ["AUTH", user, password]));
        hello.extend(["SETNAME", &credentials.name]);
        match self.ask(&hello).await? {
            Reply::Error(answer) if is_about_hello(&answer) => self.greet_plainly(credentials).await,
            Reply::Error(answer) => Err(DialError::Refused { server: self.server.clone(), answer }),
            about => {
                (self.resp3, self.role) = (true, Role::of_reply(&about));
                Ok(())
            }
        }
    }

    /// The same towards a server that knows no `HELLO`, or forbids it.
    async fn greet_plainly(&mut self, credentials: &Credentials) -> Result<(), DialError> {
        let answer = match (credentials.login(), &credentials.user) {
            (None, _) => Reply::Null,
            (Some((user, password)), Some(_)) => self.ask(&["AUTH", user, password]).await?,
            // Servers before Redis 6 know only the form without a user.
            (Some((_, password)), None) => self.ask(&["AUTH", password]).await?,
        };
        self.fine(answer)?;
        // Nothing of this is needed, so an error is a sign of life: a name helps whoever looks at the server, and a server
        // that does not tell what it is has to show in the probe that it is the right one.
        self.ask(&["CLIENT", "SETNAME", &credentials.name]).await?;
        self.role = Role::of_reply(&self.ask(&["ROLE"]).await?);
        Ok(())
    }

    /// Asks one question.
    pub(crate) async fn ask(&mut self, words: &[&str]) -> Result<Reply, DialError> {
        timeout(self.timeout, self.ask_patiently(words)).await.map_err(|_| DialError::Silent(self.server.clone()))?
    }

    async fn ask_patiently(&mut self, words: &[&str]) -> Result<Reply, DialError> {
        let mut out = BytesMut::new();
        wire::command(&mut out, words.iter().map(|word| word.as_bytes()));
        self.stream.write_all(&out).await.map_err(|source| self.broken(source))?;
        self.stream.flush().await.map_err(|source| self.broken(source))?;
        loop {
            let step = wire::step(&self.input, 0).map_err(|error| DialError::NotResp(self.server.clone(), error))?;
            match step {
                Step::Reply { reply, end } => {
                    let _ = self.input.split_to(end);
                    return Ok(reply);
                }
                Step::More(_) => {
                    let read = self.stream.read_buf(&mut self.input).await.map_err(|source| self.broken(source))?;
                    if read == 0 {
                        return Err(self.broken(std::io::ErrorKind::UnexpectedEof.into()));
                    }
                }
                // Nothing was subscribed to.
                Step::Message { .. } | Step::Oversize { .. } | Step::LongName { .. } => {
                    return Err(DialError::NotResp(self.server.clone(), wire::NotResp));
                }
            }
        }
    }

    /// An error as an error.
    pub(crate) fn fine(&self, reply: Reply) -> Result<Reply, DialError> {
        match reply {
            Reply::Error(answer) => Err(DialError::Refused { server: self.server.clone(), answer }),
            other => Ok(other),
        }
    }

    fn broken(&self, source: std::io::Error) -> DialError {
        DialError::Io { server: self.server.clone(), source }
    }
}

/// Whether it is only `HELLO` that the server does not want: it does not know the command, the version or a word of it, or
/// (before Redis 7) its rules do not name it.
fn is_about_hello(answer: &str) -> bool {
    let full = answer.contains("max number of clients");
    ["NOPROTO", "NOPERM", "ERR"].iter().any(|word| answer.starts_with(word)) && !full
}

async fn connect(
    server: &HostPort,
    address: SocketAddr,
    tls: Option<Arc<ClientConfig>>,
) -> std::io::Result<Box<dyn Stream>> {
    let tcp = TcpStream::connect(address).await?;
    tcp.set_nodelay(true)?;
    let Some(tls) = tls else { return Ok(Box::new(tcp)) };
    let name = ServerName::try_from(server.host.clone()).map_err(std::io::Error::other)?;
    Ok(Box::new(TlsConnector::from(tls).connect(name, tcp).await?))
}
