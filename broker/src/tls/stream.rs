//! TLS over tokio's socket, for as long as HTTP is spoken: the handshake, then reading and writing.

use std::{
    io::{self, Read, Write},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use clarion_hub::tls::{NotTls, TlsState};
use rustls::{HandshakeKind, ServerConfig};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, Interest, ReadBuf},
    net::TcpStream,
};

/// What somebody is told who speaks HTTP to a port that speaks TLS.
const SPEAK_TLS: &str = concat!(
    "HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: 110\r\n\r\n",
    r#"{"error":{"code":"tls_required","message":"this port speaks TLS: say https:// or wss:// instead of http://"}}"#,
    "\n"
);

/// Why a connection did not come to TLS.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// It spoke HTTP, and was answered in HTTP.
    #[error("it spoke plain HTTP")]
    PlainHttp,
    /// It did something else that is no TLS, or broke a rule of it, or was gone.
    #[error("{0}")]
    Failed(#[source] io::Error),
}

/// A TCP connection with TLS on it.
pub struct TlsStream {
    socket: TcpStream,
    tls: Box<TlsState>,
}

impl TlsStream {
    /// Shakes hands. Put a time limit around it: cancelling closes the connection.
    ///
    /// # Errors
    /// What became of it instead.
    pub(super) async fn accept(socket: TcpStream, config: Arc<ServerConfig>) -> Result<Self, Refusal> {
        let tls = TlsState::new(config).map_err(|error| Refusal::Failed(io::Error::other(error)))?;
        let mut stream = Self { socket, tls: Box::new(tls) };
        loop {
            match stream.tls.shake_hands(&mut Tried(&stream.socket)) {
                Ok(()) => return Ok(stream),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let wanted = if stream.tls.is_behind() { Interest::WRITABLE } else { Interest::READABLE };
                    stream.socket.ready(wanted).await.map_err(Refusal::Failed)?;
                }
                Err(error) if speaks_http(&error) => {
                    // It may be gone as well.
                    let _ = stream.socket.write_all(SPEAK_TLS.as_bytes()).await;
                    let _ = stream.socket.shutdown().await;
                    return Err(Refusal::PlainHttp);
                }
                Err(error) => return Err(Refusal::Failed(error)),
            }
        }
    }

    /// How the handshake went.
    pub(super) fn handshake(&self) -> Option<HandshakeKind> {
        self.tls.handshake()
    }
}

/// What HTTP is spoken over, until the socket leaves for its shard.
pub trait Carrier: AsyncRead + AsyncWrite + Unpin + Send + 'static {
    /// The socket out of its runtime, and the state of its TLS, which goes on elsewhere, if there is one. What was decrypted and
    /// not fetched is still in there.
    ///
    /// # Errors
    /// When the runtime does not let it go.
    fn into_parts(self) -> io::Result<(std::net::TcpStream, Option<Box<TlsState>>)>;
}

impl Carrier for TcpStream {
    fn into_parts(self) -> io::Result<(std::net::TcpStream, Option<Box<TlsState>>)> {
        Ok((self.into_std()?, None))
    }
}

impl Carrier for TlsStream {
    fn into_parts(self) -> io::Result<(std::net::TcpStream, Option<Box<TlsState>>)> {
        Ok((self.socket.into_std()?, Some(self.tls)))
    }
}

fn speaks_http(error: &io::Error) -> bool {
    error.get_ref().and_then(|error| error.downcast_ref()).is_some_and(|NotTls { http }| *http)
}

/// tokio's socket as one that does not block: it forgets its readiness when it says so, and is asked for it then.
struct Tried<'a>(&'a TcpStream);

impl Read for Tried<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.0.try_read(into)
    }
}

impl Write for Tried<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.try_write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl AsyncRead for TlsStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let Self { socket, tls } = &mut *self;
        loop {
            match tls.read(&mut Tried(socket), into.initialize_unfilled()) {
                Ok(length) => {
                    into.advance(length);
                    return Poll::Ready(Ok(()));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => ready!(socket.poll_read_ready(cx))?,
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

impl AsyncWrite for TlsStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let Self { socket, tls } = &mut *self;
        loop {
            match tls.write(&mut Tried(socket), bytes)? {
                0 if !bytes.is_empty() => ready!(socket.poll_write_ready(cx))?,
                taken => return Poll::Ready(Ok(taken)),
            }
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self { socket, tls } = &mut *self;
        loop {
            tls.flush(&mut Tried(socket))?;
            if !tls.is_behind() {
                return Poll::Ready(Ok(()));
            }
            ready!(socket.poll_write_ready(cx))?;
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self { socket, tls } = &mut *self;
        tls.end(&mut Tried(socket))?;
        ready!(self.as_mut().poll_flush(cx))?;
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::SPEAK_TLS;

    #[test]
    fn the_answer_is_as_long_as_it_says() {
        let (head, body) = SPEAK_TLS.split_once("\r\n\r\n").unwrap();
        assert!(head.ends_with(&format!("content-length: {}", body.len())), "{}", body.len());
        let parsed: serde_json::Value = serde_json::from_str(body).unwrap();
        assert_eq!(parsed["error"]["code"], "tls_required");
    }
}
