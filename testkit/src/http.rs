//! HTTP from the outside, and a small server for what a node fetches.

use std::{net::SocketAddr, path::Path, sync::Arc};

use bytes::Bytes;
use parking_lot::Mutex;
use reqwest::{RequestBuilder, StatusCode, header::HeaderMap};
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
};
use tokio_util::task::AbortOnDropHandle;

use crate::wait::within;

/// A client without proxies, redirects and cookies. Made anew for each use: its connections belong to one test's runtime.
///
/// # Panics
/// When it cannot be made.
#[must_use]
pub fn http() -> reqwest::Client {
    // The only failure is that somebody installed the provider before, which is as well.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let client = reqwest::Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none());
    client.tls_built_in_root_certs(false).build().expect("a client without files can be made")
}

/// The same for `https://`, taking certificates of the authority in this file.
///
/// # Panics
/// When there is none in it.
#[must_use]
pub fn https(ca: &Path) -> reqwest::Client {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let pem = std::fs::read(ca).expect("the authority's file can be read");
    let authority = reqwest::Certificate::from_pem(&pem).expect("the file holds a certificate");
    let client = reqwest::Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none());
    let client = client.tls_built_in_root_certs(false).add_root_certificate(authority);
    client.build().expect("a client that trusts one authority can be made")
}

/// An answer, read to its end.
#[derive(Debug, Clone)]
pub struct Reply {
    /// The status.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
}

impl Reply {
    /// Sends a request and reads the answer.
    ///
    /// # Panics
    /// When there is none.
    pub async fn of(request: RequestBuilder) -> Self {
        let answer = async {
            let response = request.send().await?;
            let (status, headers) = (response.status(), response.headers().clone());
            Ok::<_, reqwest::Error>(Self { status, headers, body: response.bytes().await? })
        };
        within("an HTTP answer", answer).await.unwrap_or_else(|error| panic!("no HTTP answer: {error:?}"))
    }

    /// `GET`.
    ///
    /// # Panics
    /// When there is no answer.
    pub async fn get(url: &str) -> Self {
        Self::of(http().get(url)).await
    }

    /// `POST` of bytes with a content type.
    ///
    /// # Panics
    /// When there is no answer.
    pub async fn post(url: &str, content_type: &str, body: impl Into<reqwest::Body>) -> Self {
        Self::of(http().post(url).header("content-type", content_type).body(body)).await
    }

    /// `POST` of a form, as `curl -d 'data=…'` sends it.
    ///
    /// # Panics
    /// When there is no answer.
    pub async fn post_data(url: &str, data: &str) -> Self {
        let encoded: String = data.bytes().map(|byte| format!("%{byte:02X}")).collect();
        Self::post(url, "application/x-www-form-urlencoded", format!("data={encoded}")).await
    }

    /// `POST` of JSON.
    ///
    /// # Panics
    /// When there is no answer.
    pub async fn post_json(url: &str, body: &Value) -> Self {
        Self::post(url, "application/json", body.to_string()).await
    }

    /// The status as a number.
    #[must_use]
    pub fn code(&self) -> u16 {
        self.status.as_u16()
    }

    /// The body as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    ///
    /// # Panics
    /// When it is none.
    #[must_use]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }

    /// A header, or nothing.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

/// Serves one JSON document to whoever asks; the document can be changed. For JWKS URLs.
#[derive(Debug)]
pub struct JsonServer {
    addr: SocketAddr,
    state: Arc<Mutex<Served>>,
    _task: AbortOnDropHandle<()>,
}

#[derive(Debug)]
struct Served {
    status: u16,
    body: String,
    requests: usize,
}

impl JsonServer {
    /// Serves `document` with status 200.
    ///
    /// # Panics
    /// When no port can be had.
    pub async fn start(document: &Value) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a loopback port can be had");
        let addr = listener.local_addr().expect("a bound socket has an address");
        let state = Arc::new(Mutex::new(Served { status: 200, body: document.to_string(), requests: 0 }));
        let served = Arc::clone(&state);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                // One request after the other is enough for a document that is fetched now and then.
                let _ = serve(stream, &served).await;
            }
        });
        Self { addr, state, _task: AbortOnDropHandle::new(task) }
    }

    /// Where the document is.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}/jwks.json", self.addr)
    }

    /// Serves something else from now on.
    pub fn set(&self, status: u16, document: &Value) {
        let mut state = self.state.lock();
        (state.status, state.body) = (status, document.to_string());
    }

    /// How often it was asked for.
    #[must_use]
    pub fn requests(&self) -> usize {
        self.state.lock().requests
    }
}

async fn serve(stream: TcpStream, served: &Mutex<Served>) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    while stream.read_line(&mut line).await? > 2 {
        line.clear();
    }
    let answer = {
        let mut served = served.lock();
        served.requests += 1;
        let (status, length, body) = (served.status, served.body.len(), &served.body);
        format!(
            "HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}"
        )
    };
    stream.write_all(answer.as_bytes()).await?;
    stream.shutdown().await
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[tokio::test]
    async fn a_document_is_served_and_changed() {
        let server = JsonServer::start(&json!({"keys": []})).await;
        let reply = Reply::get(&server.url()).await;
        assert_eq!((reply.code(), reply.json()), (200, json!({"keys": []})));
        server.set(500, &json!(null));
        assert_eq!(Reply::get(&server.url()).await.code(), 500);
        assert_eq!(server.requests(), 2);
    }
}
