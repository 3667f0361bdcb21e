//! The WebSocket door: one channel, each frame is a payload.

use std::time::Duration;

use clarion_protocol::CloseCode;
use futures_util::{SinkExt, StreamExt};
use rustls_pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::TlsConnector;
use tokio_tungstenite::{
    WebSocketStream, client_async,
    tungstenite::{
        Error, Message,
        client::IntoClientRequest,
        handshake::client::Response,
        http::{HeaderValue, header},
        protocol::CloseFrame,
    },
};
use url::Url;

use super::{End, Request, show::Show};
use crate::{
    context::Context,
    failure::{Failure, Kind, chain},
    tls,
    via::answer,
};

/// After how much silence the broker is pinged; after as much again the connection counts as dead.
const QUIET: Duration = Duration::from_secs(20);

/// How often a node may send us to another one (`pin = "redirect"`): one hop leads home, a second is a change of members.
const HOPS: usize = 3;

/// A TCP or TLS connection.
trait Transport: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Transport for T {}

type Socket = WebSocketStream<Box<dyn Transport>>;

/// What a handshake came to.
enum Handshake {
    Open(Box<Socket>),
    Elsewhere(Url),
    Lost(End),
}

/// Follows until the connection ends.
pub(super) async fn follow(context: &Context, request: &Request, show: &mut Show) -> Result<End, Failure> {
    let mut url = request.url.clone();
    for _ in 0..HOPS {
        let shaken = timeout(context.timeout, shake_hands(context, &url)).await;
        match shaken.unwrap_or_else(|_| Ok(Handshake::Lost(lost(format!("no answer within {:?}", context.timeout)))))? {
            Handshake::Open(socket) => {
                context.output.note(&format!("listening to {} ({})", request.what, shown(&url)));
                return read(*socket, request, show).await;
            }
            Handshake::Elsewhere(next) => url = next,
            Handshake::Lost(end) => return Ok(end),
        }
    }
    Ok(lost("the nodes send us from one to the other".to_owned()))
}

fn lost(reason: String) -> End {
    End::Lost { reason, stood: false, after: None }
}

/// The URL as people know it.
fn shown(url: &Url) -> String {
    url.as_str().replacen("http", "ws", 1)
}

async fn shake_hands(context: &Context, url: &Url) -> Result<Handshake, Failure> {
    let transport = match connect(context, url).await? {
        Ok(transport) => transport,
        Err(reason) => return Ok(Handshake::Lost(lost(format!("cannot reach {}: {reason}", shown(url))))),
    };
    let mut request = shown(url).into_client_request().map_err(|error| Failure::internal(chain(&error)))?;
    if let Some(token) = &context.secrets.token {
        let value = HeaderValue::try_from(format!("Bearer {token}"))
            .map_err(|_| Failure::usage("CLARION_TOKEN is not one line of printable ASCII"))?;
        request.headers_mut().insert(header::AUTHORIZATION, value);
    }
    match client_async(request, transport).await {
        Ok((socket, _)) => Ok(Handshake::Open(Box::new(socket))),
        Err(Error::Http(response)) => refused(url, &response),
        Err(error) => Ok(Handshake::Lost(lost(chain(&error)))),
    }
}

/// Opens the connection below; the inner error is one that may pass.
async fn connect(context: &Context, url: &Url) -> Result<Result<Box<dyn Transport>, String>, Failure> {
    let host = url.host_str().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
    let port = url.port_or_known_default().unwrap_or(80);
    let stream = match TcpStream::connect((host, port)).await {
        Ok(stream) => stream,
        Err(error) => return Ok(Err(error.to_string())),
    };
    if url.scheme() != "https" {
        return Ok(Ok(Box::new(stream)));
    }
    let name = ServerName::try_from(host.to_owned()).map_err(|_| Failure::usage(format!("{host} is no host name")))?;
    let connector = TlsConnector::from(std::sync::Arc::new(tls::client(&context.tls)?));
    Ok(match connector.connect(name, stream).await {
        Ok(stream) => Ok(Box::new(stream)),
        Err(error) => Err(error.to_string()),
    })
}

/// What an answer other than 101 means.
fn refused(url: &Url, response: &Response) -> Result<Handshake, Failure> {
    let header = |name| response.headers().get(name).and_then(|value| value.to_str().ok());
    let status = response.status().as_u16();
    if let (307, Some(location)) = (status, header(header::LOCATION)) {
        return elsewhere(url, location).map(Handshake::Elsewhere);
    }
    let body = response.body().as_deref().unwrap_or_default();
    let failure = answer::failure(url.as_str(), status, body);
    let after = answer::retry_after(header(header::RETRY_AFTER));
    match failure.kind {
        Kind::Unavailable | Kind::Internal => {
            Ok(Handshake::Lost(End::Lost { reason: failure.message, stood: false, after }))
        }
        Kind::Usage | Kind::Refused | Kind::Closed => Err(failure),
    }
}

/// Where a node sends us. Never from TLS to plain text, since the token goes along.
fn elsewhere(url: &Url, location: &str) -> Result<Url, Failure> {
    let strange = || Failure::internal(format!("{url} sends us to {location}, which is no place to go"));
    let mut next = url.join(location).map_err(|_| strange())?;
    let scheme = match next.scheme() {
        "ws" | "http" if url.scheme() == "http" => "http",
        "wss" | "https" => "https",
        _ => return Err(strange()),
    };
    next.set_scheme(scheme).map_err(|()| strange())?;
    Ok(next)
}

/// Shows what comes, and keeps an eye on silence.
async fn read(mut socket: Socket, request: &Request, show: &mut Show) -> Result<End, Failure> {
    let channel = request.channel.as_deref().unwrap_or_default();
    let lost = |reason: String| Ok(End::Lost { reason, stood: true, after: None });
    let mut pinged = false;
    loop {
        let message = match timeout(QUIET, socket.next()).await {
            Ok(Some(Ok(message))) => message,
            Ok(Some(Err(error))) => return lost(chain(&error)),
            Ok(None) => return lost("the connection has ended".to_owned()),
            Err(_) if pinged => return lost(format!("nothing came for {:?}", QUIET * 2)),
            Err(_) => {
                if let Err(error) = socket.send(Message::Ping(bytes::Bytes::new())).await {
                    return lost(chain(&error));
                }
                pinged = true;
                continue;
            }
        };
        pinged = false;
        let payload = match message {
            Message::Text(text) => bytes::Bytes::from(text),
            Message::Binary(payload) => payload,
            Message::Close(frame) => return closed(frame.as_ref()),
            Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => continue,
        };
        if show.message(channel, &payload)?.is_break() {
            // The broker is told, but what was asked for has come.
            let _ = timeout(Duration::from_secs(1), socket.close(None)).await;
            return Ok(End::Done);
        }
    }
}

/// What a close frame means: come back, stay away, or nothing more to say.
fn closed(frame: Option<&CloseFrame>) -> Result<End, Failure> {
    let Some(frame) = frame else {
        return Ok(End::Lost { reason: "the connection was closed".to_owned(), stood: true, after: None });
    };
    let code = u16::from(frame.code);
    let reason = format!("closed: {code} {}", frame.reason);
    match code {
        1000 => Ok(End::Done),
        _ if code == CloseCode::BadToken.code() || code == CloseCode::Disconnected.code() => {
            Err(Failure::refused(reason).remedy("a new token in CLARION_TOKEN"))
        }
        3500..=3999 | 4500..=4999 => Err(Failure::unavailable(reason)),
        _ => Ok(End::Lost { reason: reason.trim_end().to_owned(), stood: true, after: None }),
    }
}

#[cfg(test)]
mod tests {
    use tokio_tungstenite::tungstenite::protocol::Role;

    use super::*;
    use crate::{args::Door, output::Output};

    #[tokio::test(start_paused = true)]
    async fn a_silent_broker_is_pinged_and_then_given_up() {
        let (ours, theirs) = tokio::io::duplex(1024);
        let socket = WebSocketStream::from_raw_socket(Box::new(ours) as Box<dyn Transport>, Role::Client, None).await;
        let mut broker = WebSocketStream::from_raw_socket(theirs, Role::Server, None).await;
        let url = Url::parse("http://h/a").unwrap();
        let request =
            Request { url, door: Door::Ws, channel: Some("a".to_owned()), what: "a".to_owned(), resume: None };
        let mut show = Show::new(Output::new(false), false, None);
        let begin = tokio::time::Instant::now();
        let answers_once = async {
            // Reading the ping answers it; from then on nothing is read and nothing is said.
            assert!(broker.next().await.unwrap().unwrap().is_ping());
            broker.flush().await.unwrap();
        };
        let both = async { tokio::join!(read(socket, &request, &mut show), answers_once) };
        let (end, ()) = timeout(QUIET * 10, both).await.expect("it is given up");
        let End::Lost { reason, stood: true, .. } = end.unwrap() else { panic!() };
        assert!(reason.contains("40s"), "{reason}");
        // A ping after 20 s and its pong, another one after 40 s, and the end after 60 s.
        assert_eq!(begin.elapsed().as_secs(), 60);
    }

    #[test]
    fn a_close_code_says_whether_to_come_back() {
        let end = |code: u16| closed(Some(&CloseFrame { code: code.into(), reason: "x".into() }));
        assert!(matches!(end(1000), Ok(End::Done)));
        for code in [1001, 1011, 1012, 3005, 3008] {
            assert!(matches!(end(code), Ok(End::Lost { stood: true, .. })), "{code}");
        }
        assert_eq!(end(3500).unwrap_err().exit_code(), 77);
        assert_eq!(end(3505).unwrap_err().exit_code(), 69);
        assert!(matches!(closed(None), Ok(End::Lost { .. })));
    }

    #[test]
    fn a_token_never_leaves_tls() {
        let from = |url: &str, to: &str| elsewhere(&url.parse().unwrap(), to).map(String::from);
        assert_eq!(from("http://a/x", "ws://b:1/x?y").unwrap(), "http://b:1/x?y");
        assert_eq!(from("http://a/x", "https://b/x").unwrap(), "https://b/x");
        assert_eq!(from("https://a/x", "wss://b/x").unwrap(), "https://b/x");
        assert_eq!(from("https://a/x", "/y").unwrap(), "https://a/y");
        for to in ["ws://b/x", "http://b/x", "file:///x"] {
            assert!(from("https://a/x", to).is_err(), "{to}");
        }
    }
}
