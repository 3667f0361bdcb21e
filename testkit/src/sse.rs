//! An event stream read as the standard says, with what `EventSource` hides: comments, `retry:` and the end.

use std::{collections::VecDeque, time::Duration};

use bytes::BytesMut;
use reqwest::{RequestBuilder, header::HeaderMap};

use crate::{
    http::{Reply, http},
    wait::{patience, within},
};

/// One event.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SseEvent {
    /// `id:`, when the event had one.
    pub id: Option<String>,
    /// `event:`, when the event had one.
    pub event: Option<String>,
    /// `data:`, the lines joined.
    pub data: String,
}

/// What comes on an event stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SseItem {
    /// An event with data.
    Event(SseEvent),
    /// A comment, without its colon and the space behind it.
    Comment(String),
    /// `retry:`.
    Retry(Duration),
    /// The server ended the stream, in order or not.
    End,
}

/// An open event stream.
#[derive(Debug)]
pub struct SseClient {
    response: reqwest::Response,
    /// Bytes that are no whole line yet.
    rest: BytesMut,
    event: SseEvent,
    has_data: bool,
    ready: VecDeque<SseItem>,
}

impl SseClient {
    /// Opens a stream with `Accept: text/event-stream`.
    ///
    /// # Errors
    /// Any answer that is no event stream with status 200.
    ///
    /// # Panics
    /// When there is no answer.
    pub async fn connect(url: &str) -> Result<Self, Reply> {
        Self::request(http().get(url)).await
    }

    /// The same with a request of one's own, for headers (`Last-Event-ID`, `Authorization`).
    ///
    /// # Errors
    /// Any answer that is no event stream with status 200.
    ///
    /// # Panics
    /// When there is no answer.
    pub async fn request(request: RequestBuilder) -> Result<Self, Reply> {
        let sent = within("an event stream", request.header("accept", "text/event-stream").send()).await;
        let response = sent.unwrap_or_else(|error| panic!("no HTTP answer: {error:?}"));
        let (status, headers) = (response.status(), response.headers().clone());
        let kind = headers.get("content-type").and_then(|value| value.to_str().ok()).unwrap_or_default();
        if status.as_u16() == 200 && kind.starts_with("text/event-stream") {
            let (rest, ready) = (BytesMut::new(), VecDeque::new());
            return Ok(Self { response, rest, event: SseEvent::default(), has_data: false, ready });
        }
        let body = response.bytes().await.unwrap_or_default();
        Err(Reply { status, headers, body })
    }

    /// The headers of the answer.
    #[must_use]
    pub fn headers(&self) -> &HeaderMap {
        self.response.headers()
    }

    /// The next item, whatever it is.
    ///
    /// # Panics
    /// When nothing comes within the patience of the tests.
    pub async fn next(&mut self) -> SseItem {
        self.next_within(patience())
            .await
            .unwrap_or_else(|| panic!("nothing on the event stream within {:?}", patience()))
    }

    /// The next item, or nothing when none comes in time. Cancel safe.
    pub async fn next_within(&mut self, time: Duration) -> Option<SseItem> {
        tokio::time::timeout(time, self.advance()).await.ok()
    }

    /// The next event; comments and `retry:` are passed over.
    ///
    /// # Panics
    /// When the stream ends, or nothing comes within the patience of the tests.
    pub async fn event(&mut self) -> SseEvent {
        let event = async {
            loop {
                match self.advance().await {
                    SseItem::Event(event) => return event,
                    SseItem::Comment(_) | SseItem::Retry(_) => {}
                    SseItem::End => panic!("the event stream ended"),
                }
            }
        };
        within("an event", event).await
    }

    /// The data of the next event.
    ///
    /// # Panics
    /// As [`SseClient::event`].
    pub async fn data(&mut self) -> String {
        self.event().await.data
    }

    async fn advance(&mut self) -> SseItem {
        loop {
            if let Some(item) = self.ready.pop_front() {
                return item;
            }
            match self.response.chunk().await {
                Ok(Some(chunk)) => {
                    self.rest.extend_from_slice(&chunk);
                    while let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
                        let line = self.rest.split_to(end + 1);
                        let line = String::from_utf8_lossy(&line).trim_end_matches(['\n', '\r']).to_owned();
                        self.line(&line);
                    }
                }
                Ok(None) | Err(_) => return SseItem::End,
            }
        }
    }

    /// Takes one line; an empty one completes an event, which counts only when it has data.
    fn line(&mut self, line: &str) {
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "" if line.is_empty() => {
                let event = std::mem::take(&mut self.event);
                if std::mem::take(&mut self.has_data) {
                    self.ready.push_back(SseItem::Event(event));
                }
            }
            "" => self.ready.push_back(SseItem::Comment(value.to_owned())),
            "data" => {
                if std::mem::replace(&mut self.has_data, true) {
                    self.event.data.push('\n');
                }
                self.event.data.push_str(value);
            }
            "id" => self.event.id = Some(value.to_owned()),
            "event" => self.event.event = Some(value.to_owned()),
            "retry" => {
                let time = value.parse().map(Duration::from_millis).expect("`retry:` is a number");
                self.ready.push_back(SseItem::Retry(time));
            }
            other => panic!("an event stream has no field {other:?}"),
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

    async fn serve(answer: &'static str) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 4096];
            let _ = stream.read(&mut request).await.unwrap();
            // Cut in the middle of a character and of a line on purpose.
            for part in answer.as_bytes().chunks(7) {
                stream.write_all(part).await.unwrap();
                stream.flush().await.unwrap();
                tokio::task::yield_now().await;
            }
        });
        url
    }

    #[tokio::test]
    async fn a_stream_is_read_as_the_standard_says() {
        let url = serve(concat!(
            "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n",
            ": hi\n\nretry: 1500\n\nid: 1:e\ndata: größe\r\ndata\ndata:  two\n\nevent: x\n\ndata:\n\n"
        ))
        .await;
        let mut stream = SseClient::connect(&url).await.unwrap();
        assert_eq!(stream.next().await, SseItem::Comment("hi".to_owned()));
        assert_eq!(stream.next().await, SseItem::Retry(Duration::from_millis(1500)));
        let event = SseEvent { id: Some("1:e".to_owned()), event: None, data: "größe\n\n two".to_owned() };
        assert_eq!(stream.event().await, event);
        assert_eq!(stream.data().await, "");
        assert_eq!(stream.next().await, SseItem::End);
    }

    #[tokio::test]
    async fn another_answer_is_given_back() {
        let url = serve("HTTP/1.1 401 X\r\ncontent-length: 2\r\nconnection: close\r\n\r\nno").await;
        let reply = SseClient::connect(&url).await.unwrap_err();
        assert_eq!((reply.code(), reply.text()), (401, "no".to_owned()));
    }
}
