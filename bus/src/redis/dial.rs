//! One connection to one Redis server: TCP, TLS, who we are, and a question at a time until the link takes over.

use std::{sync::Arc, time::Duration};

use bytes::BytesMut;
use rustls::{ClientConfig, pki_types::ServerName};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::TlsConnector;

use super::wire::{self, Reply, Step};
use crate::{HostPort, Secret};

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
    #[error("no Sentinel knows a master called {0:?} ({1})")]
    NoMaster(String, String),
}

/// A connection on which questions are asked one after the other.
pub(crate) struct Connection {
    pub(crate) stream: Box<dyn Stream>,
    /// What was read and not used yet.
    pub(crate) input: BytesMut,
    pub(crate) server: HostPort,
    timeout: Duration,
}

impl Connection {
    /// Connects, encrypts, and says who we are.
    pub(crate) async fn open(server: &HostPort, credentials: &Credentials) -> Result<Self, DialError> {
        let stream = timeout(credentials.timeout, connect(server, credentials.tls.clone()))
            .await
            .map_err(|_| DialError::Silent(server.clone()))?
            .map_err(|source| DialError::Io { server: server.clone(), source })?;
        let mut connection =
            Self { stream, input: BytesMut::new(), server: server.clone(), timeout: credentials.timeout };
        if let Some(password) = &credentials.password {
            let user = credentials.user.as_deref().unwrap_or("default");
            let answer = match &credentials.user {
                Some(_) => connection.ask(&["AUTH", user, password.expose()]).await?,
                // Servers before Redis 6 know only the form without a user.
                None => connection.ask(&["AUTH", password.expose()]).await?,
            };
            connection.fine(answer)?;
        }
        // A name helps whoever looks at the server; a server that forbids naming oneself is good enough.
        let answer = connection.ask(&["CLIENT", "SETNAME", &credentials.name]).await?;
        if let Reply::Error(answer) = answer
            && !answer.starts_with("NOPERM")
            && !answer.starts_with("ERR")
        {
            return Err(DialError::Refused { server: server.clone(), answer });
        }
        Ok(connection)
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
                Step::Message { .. } | Step::Oversize { .. } => {
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

async fn connect(server: &HostPort, tls: Option<Arc<ClientConfig>>) -> std::io::Result<Box<dyn Stream>> {
    let tcp = TcpStream::connect((server.host.as_str(), server.port)).await?;
    tcp.set_nodelay(true)?;
    let Some(tls) = tls else { return Ok(Box::new(tcp)) };
    let name = ServerName::try_from(server.host.clone()).map_err(std::io::Error::other)?;
    Ok(Box::new(TlsConnector::from(tls).connect(name, tcp).await?))
}
