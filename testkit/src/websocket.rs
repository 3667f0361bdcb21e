//! A WebSocket client that shows what happens on the wire.

use std::{
    fmt, io,
    path::Path,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use rustls::{ClientConfig, pki_types::ServerName};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;
use tokio_tungstenite::{
    WebSocketStream, client_async,
    tungstenite::{
        Error, Message,
        client::IntoClientRequest,
        http::{HeaderMap, HeaderName, HeaderValue, Request, Response},
        protocol::{CloseFrame, frame::coding::CloseCode},
    },
};

use crate::{
    certificates::trusting,
    wait::{patience, within},
};

/// What comes on a WebSocket. Pings are answered by reading on; a client that does not read is a silent peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WsItem {
    /// A text message.
    Text(String),
    /// A binary message.
    Binary(Bytes),
    /// A ping, which has been answered.
    Ping(Bytes),
    /// A pong.
    Pong(Bytes),
    /// The server's close frame; 1005 stands for one without a code.
    Close(u16, String),
    /// The connection is gone, without a close frame or after it.
    Gone,
}

/// A handshake that was not answered with 101.
#[derive(Debug, Clone)]
pub struct WsRefused {
    /// The status of the answer; 0 when there was none.
    pub status: u16,
    /// The headers of the answer.
    pub headers: HeaderMap,
    /// The body of the answer, or what happened instead of one.
    pub body: String,
}

/// A handshake to be made.
#[derive(Debug)]
pub struct WsRequest {
    request: Request<()>,
    tls: Option<Arc<ClientConfig>>,
}

impl WsRequest {
    /// Adds a header.
    ///
    /// # Panics
    /// When it is no valid one.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        let name: HeaderName = name.parse().expect("a valid header name");
        self.request.headers_mut().append(name, HeaderValue::from_str(value).expect("a valid header value"));
        self
    }

    /// Offers sub-protocols, in this order.
    ///
    /// # Panics
    /// When one is no valid header value.
    #[must_use]
    pub fn subprotocols(self, offered: &[&str]) -> Self {
        self.header("sec-websocket-protocol", &offered.join(", "))
    }

    /// Speaks TLS, and takes certificates of this authority.
    ///
    /// # Panics
    /// When the file holds none.
    #[must_use]
    pub fn trust(self, ca: &Path) -> Self {
        self.tls(trusting(ca))
    }

    /// Speaks TLS as set there: a configuration that is used again resumes sessions.
    #[must_use]
    pub fn tls(mut self, config: Arc<ClientConfig>) -> Self {
        self.tls = Some(config);
        self
    }

    /// Makes the handshake.
    ///
    /// # Errors
    /// Any answer but 101, and none.
    ///
    /// # Panics
    /// When nothing happens within the patience of the tests.
    pub async fn connect(self) -> Result<WsClient, WsRefused> {
        match within("a WebSocket handshake", self.shake_hands()).await {
            Ok((stream, response)) => Ok(WsClient { stream, headers: response.headers().clone() }),
            Err(Error::Http(response)) => Err(WsRefused {
                status: response.status().as_u16(),
                headers: response.headers().clone(),
                body: String::from_utf8_lossy(response.body().as_deref().unwrap_or_default()).into_owned(),
            }),
            Err(error) => Err(WsRefused { status: 0, headers: HeaderMap::new(), body: format!("{error:?}") }),
        }
    }

    async fn shake_hands(self) -> Result<(WebSocketStream<Wire>, Response<Option<Vec<u8>>>), Error> {
        let uri = self.request.uri();
        let host = uri.host().expect("the URL of a WebSocket has a host").trim_matches(['[', ']']).to_owned();
        let socket = TcpStream::connect((host.as_str(), uri.port_u16().unwrap_or(80))).await?;
        let wire: Wire = match self.tls {
            None => Wire(Box::new(socket)),
            Some(config) => {
                let name = ServerName::try_from(host).expect("a host's name");
                Wire(Box::new(TlsConnector::from(config).connect(name, socket).await?))
            }
        };
        client_async(self.request, wire).await
    }
}

/// What a WebSocket runs over.
trait Carrier: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Carrier for T {}

struct Wire(Box<dyn Carrier>);

impl fmt::Debug for Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Wire")
    }
}

impl AsyncRead for Wire {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, into)
    }
}

impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

/// A connected WebSocket.
#[derive(Debug)]
pub struct WsClient {
    stream: WebSocketStream<Wire>,
    headers: HeaderMap,
}

impl WsClient {
    /// Connects to `ws://…`; `http://…` is taken for the same. `wss://…` needs [`WsRequest::trust`].
    ///
    /// # Panics
    /// When it is refused.
    pub async fn connect(url: &str) -> Self {
        let connected = Self::request(url).connect().await;
        connected.unwrap_or_else(|refused| panic!("{url} is refused: {} {}", refused.status, refused.body))
    }

    /// A handshake to be made, with headers and sub-protocols of one's own.
    ///
    /// # Panics
    /// When the URL is none.
    #[must_use]
    pub fn request(url: &str) -> WsRequest {
        let url = url.replacen("http", "ws", usize::from(url.starts_with("http")));
        WsRequest { request: url.into_client_request().expect("a valid URL"), tls: None }
    }

    /// The headers of the server's 101.
    #[must_use]
    pub fn headers(&self) -> &HeaderMap {
        &self.headers
    }

    /// The sub-protocol that the server chose.
    #[must_use]
    pub fn subprotocol(&self) -> Option<&str> {
        self.headers.get("sec-websocket-protocol")?.to_str().ok()
    }

    /// The next item, whatever it is.
    ///
    /// # Panics
    /// When nothing comes within the patience of the tests.
    pub async fn next(&mut self) -> WsItem {
        self.next_within(patience()).await.unwrap_or_else(|| panic!("nothing on the WebSocket within {:?}", patience()))
    }

    /// The next item, or nothing when none comes in time. Cancel safe.
    pub async fn next_within(&mut self, time: Duration) -> Option<WsItem> {
        tokio::time::timeout(time, self.advance()).await.ok()
    }

    /// The next message, which must be text.
    ///
    /// # Panics
    /// When it is anything else.
    pub async fn text(&mut self) -> String {
        match self.message().await {
            WsItem::Text(text) => text,
            other => panic!("{other:?} instead of a text message"),
        }
    }

    /// The next message, which must be binary.
    ///
    /// # Panics
    /// When it is anything else.
    pub async fn binary(&mut self) -> Bytes {
        match self.message().await {
            WsItem::Binary(bytes) => bytes,
            other => panic!("{other:?} instead of a binary message"),
        }
    }

    /// Reads on until the server closes: its code and reason. Messages that come before are passed over.
    ///
    /// # Panics
    /// When the connection goes without a close frame.
    pub async fn closed(&mut self) -> (u16, String) {
        let close = async {
            loop {
                match self.advance().await {
                    WsItem::Close(code, reason) => return (code, reason),
                    WsItem::Gone => panic!("the connection is gone without a close frame"),
                    WsItem::Text(_) | WsItem::Binary(_) | WsItem::Ping(_) | WsItem::Pong(_) => {}
                }
            }
        };
        within("a close frame", close).await
    }

    /// The next item that is neither ping nor pong.
    async fn message(&mut self) -> WsItem {
        let message = async {
            loop {
                match self.advance().await {
                    WsItem::Ping(_) | WsItem::Pong(_) => {}
                    item => return item,
                }
            }
        };
        within("a message on the WebSocket", message).await
    }

    /// Sends a text message.
    ///
    /// # Panics
    /// When it cannot be sent.
    pub async fn send_text(&mut self, text: &str) {
        self.send(Message::text(text)).await.expect("a text message is sent");
    }

    /// Sends a binary message.
    ///
    /// # Panics
    /// When it cannot be sent.
    pub async fn send_binary(&mut self, bytes: impl Into<Bytes>) {
        self.send(Message::binary(bytes.into())).await.expect("a binary message is sent");
    }

    /// Sends a ping.
    ///
    /// # Panics
    /// When it cannot be sent.
    pub async fn send_ping(&mut self, bytes: &'static [u8]) {
        self.send(Message::Ping(Bytes::from_static(bytes))).await.expect("a ping is sent");
    }

    /// Sends a close frame; [`WsClient::closed`] then waits for the server's.
    ///
    /// # Panics
    /// When it cannot be sent.
    pub async fn send_close(&mut self, code: u16, reason: &str) {
        let frame = CloseFrame { code: CloseCode::from(code), reason: reason.into() };
        self.send(Message::Close(Some(frame))).await.expect("a close frame is sent");
    }

    /// Sends any message, and tells whether that went well.
    ///
    /// # Errors
    /// What the connection says.
    ///
    /// # Panics
    /// When nothing happens within the patience of the tests.
    pub async fn send(&mut self, message: Message) -> Result<(), Error> {
        within("a message is sent", self.stream.send(message)).await
    }

    async fn advance(&mut self) -> WsItem {
        loop {
            return match self.stream.next().await {
                Some(Ok(Message::Text(text))) => WsItem::Text(text.as_str().to_owned()),
                Some(Ok(Message::Binary(bytes))) => WsItem::Binary(bytes),
                Some(Ok(Message::Ping(bytes))) => WsItem::Ping(bytes),
                Some(Ok(Message::Pong(bytes))) => WsItem::Pong(bytes),
                Some(Ok(Message::Close(Some(frame)))) => {
                    WsItem::Close(frame.code.into(), frame.reason.as_str().to_owned())
                }
                Some(Ok(Message::Close(None))) => WsItem::Close(1005, String::new()),
                // Raw frames are only for sending.
                Some(Ok(Message::Frame(_))) => continue,
                Some(Err(_)) | None => WsItem::Gone,
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    use super::*;

    #[tokio::test]
    async fn messages_and_the_close_are_seen() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/news", listener.local_addr().unwrap());
        tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            let mut server = tokio_tungstenite::accept_async(stream).await.unwrap();
            let first = server.next().await.unwrap().unwrap();
            server.send(first).await.unwrap();
            server.send(Message::Ping(Bytes::from_static(b"p"))).await.unwrap();
            assert_eq!(server.next().await.unwrap().unwrap(), Message::Pong(Bytes::from_static(b"p")));
            server.send(Message::binary(&b"\0"[..])).await.unwrap();
            let frame = CloseFrame { code: CloseCode::Restart, reason: "restart".into() };
            server.close(Some(frame)).await.unwrap();
            while server.next().await.is_some() {}
        });
        let mut client = WsClient::connect(&url).await;
        client.send_text("hello").await;
        assert_eq!(client.text().await, "hello");
        assert_eq!(client.binary().await.as_ref(), b"\0");
        assert_eq!(client.closed().await, (1012, "restart".to_owned()));
        assert_eq!(client.next().await, WsItem::Gone);
    }

    #[tokio::test]
    async fn a_refusal_has_its_status_and_words() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("ws://{}/", listener.local_addr().unwrap());
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 4096];
            let _ = stream.read(&mut request).await.unwrap();
            let answer = "HTTP/1.1 401 X\r\nwww-authenticate: Bearer\r\ncontent-length: 2\r\n\r\nno";
            stream.write_all(answer.as_bytes()).await.unwrap();
        });
        let refused = WsClient::request(&url).subprotocols(&["clarion.v1"]).connect().await.unwrap_err();
        assert_eq!((refused.status, refused.body.as_str()), (401, "no"));
        assert_eq!(refused.headers["www-authenticate"], "Bearer");
    }
}
