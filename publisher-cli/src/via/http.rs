//! The way in over a broker's HTTP interface.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use bytes::Bytes;
use clarion_protocol::{Channel, limits};
use reqwest::{Client, RequestBuilder, header, redirect};
use serde::Deserialize;
use serde_json::{Value, json};
use url::{Host, Url};

use super::{
    Published,
    answer::{self, ProblemBody},
};
use crate::{
    context::{Context, Secrets},
    failure::{Failure, chain},
    tls,
};

/// Bytes of an answer that are read: an identifier, a thousand of them, or a list of members.
const ANSWER_BYTES: usize = 16 * 1024 * 1024;

/// A client of one broker.
pub(crate) struct Http {
    client: Client,
    base: Url,
    secrets: Secrets,
    timeout: std::time::Duration,
}

/// `{"id": …}`.
#[derive(Deserialize)]
struct Receipt {
    id: String,
}

/// A result for each message, in `{"results": […]}` or in a bare array.
#[derive(Deserialize)]
#[serde(untagged)]
enum BatchAnswer {
    Named { results: Vec<BatchResult> },
    Bare(Vec<BatchResult>),
}

impl BatchAnswer {
    fn results(self) -> Vec<BatchResult> {
        let (Self::Named { results } | Self::Bare(results)) = self;
        results
    }
}

/// What became of one message.
#[derive(Deserialize)]
#[serde(untagged)]
enum BatchResult {
    Taken(Receipt),
    Refused { error: ProblemBody },
}

/// What JSON-RPC answers.
#[derive(Deserialize)]
struct RpcAnswer {
    result: Option<Value>,
    error: Option<RpcError>,
}

#[derive(Deserialize)]
struct RpcError {
    code: i64,
    message: String,
}

impl Http {
    pub(crate) fn new(context: &Context, base: &Url) -> Result<Self, Failure> {
        // Redirects are not followed: the key must not go to whoever an answer names.
        let mut builder =
            Client::builder().redirect(redirect::Policy::none()).connect_timeout(context.timeout).user_agent("clarion");
        builder = match base.scheme() {
            "https" => builder.use_preconfigured_tls(tls::client(&context.tls)?),
            // Reading the system's authorities would take longer than all the rest.
            _ => builder.tls_built_in_root_certs(false),
        };
        if is_this_machine(base) {
            builder = builder.no_proxy();
        }
        let client = builder.build().map_err(|error| Failure::internal(chain(&error)))?;
        let (base, secrets) = (base.clone(), context.secrets.clone());
        Ok(Self { client, base, secrets, timeout: context.timeout })
    }

    /// The URL of a path of this broker; the segments are percent-encoded.
    pub(crate) fn url<'a>(&self, segments: impl IntoIterator<Item = &'a str>) -> Url {
        path_of(&self.base, segments)
    }

    /// A request without an end, for event streams, with the user's token.
    pub(crate) fn stream(&self, url: Url) -> RequestBuilder {
        self.with_token(self.client.get(url))
    }

    /// A request for anything, bounded in time. The answer's status is not judged.
    pub(crate) async fn get(&self, url: Url) -> Result<reqwest::Response, Failure> {
        self.client.get(url).timeout(self.timeout).send().await.map_err(|error| self.broken(&error))
    }

    /// Publishes one message, and returns the id that it got.
    pub(crate) async fn publish(&self, channel: &Channel, payload: Bytes) -> Published {
        let request = self.client.post(self.url(channel.segments()));
        let request = request.header(header::CONTENT_TYPE, "application/octet-stream").body(payload);
        let answer = self.answer(self.with_credentials(request)).await?;
        let receipt: Receipt = self.read(&answer)?;
        Ok(receipt.id)
    }

    /// Publishes many in as few requests as the limits of a batch allow, one after the other to keep their order.
    pub(crate) async fn publish_all(&self, channel: &Channel, payloads: Vec<Bytes>) -> Vec<Published> {
        if let [payload] = &*payloads {
            return vec![self.publish(channel, payload.clone()).await];
        }
        let mut results = Vec::with_capacity(payloads.len());
        let entries = payloads.iter().map(|payload| entry(channel, payload)).collect();
        for batch in cut(entries) {
            let next = &payloads[results.len()..results.len() + batch.len()];
            match next {
                // What fits no batch may still be a message that the broker takes.
                [payload] => results.push(self.publish(channel, payload.clone()).await),
                _ => results.extend(self.batch(&batch).await),
            }
        }
        results
    }

    async fn batch(&self, entries: &[String]) -> Vec<Published> {
        let request = self.client.post(self.url(["api", "batch"]));
        let request = request.header(header::CONTENT_TYPE, "application/json").body(format!("[{}]", entries.join(",")));
        let answer = match self.answer(self.with_credentials(request)).await {
            Ok(answer) => self.read::<BatchAnswer>(&answer),
            Err(failure) => Err(failure),
        };
        let answer = answer.map(BatchAnswer::results).and_then(|results| match results.len() == entries.len() {
            true => Ok(results),
            false => Err(Failure::internal(format!("{} answers with another number of results", self.base))),
        });
        match answer {
            Ok(results) => results.into_iter().map(BatchResult::published).collect(),
            Err(failure) => vec![Err(failure); entries.len()],
        }
    }

    /// Calls a method of the broker's JSON-RPC.
    pub(crate) async fn rpc(&self, method: &str) -> Result<Value, Failure> {
        let call = json!({ "jsonrpc": "2.0", "id": 1, "method": method });
        let request = self.client.post(self.url(["rpc"])).header(header::CONTENT_TYPE, "application/json");
        let answer = self.answer(self.with_credentials(request.body(call.to_string()))).await?;
        match self.read(&answer)? {
            RpcAnswer { result: Some(result), .. } => Ok(result),
            RpcAnswer { error: Some(RpcError { code, message }), .. } => {
                Err(Failure::unavailable(format!("{method}: {message} ({code})")))
            }
            RpcAnswer { .. } => Err(Failure::internal(format!("{} answers {method} with nothing", self.base))),
        }
    }

    /// Sends a request and returns the body of a 200.
    async fn answer(&self, request: RequestBuilder) -> Result<Vec<u8>, Failure> {
        let mut response = request.timeout(self.timeout).send().await.map_err(|error| self.broken(&error))?;
        let status = response.status();
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| self.broken(&error))? {
            if body.len() + chunk.len() > ANSWER_BYTES {
                return Err(Failure::internal(format!("{} answers with more than {ANSWER_BYTES} bytes", self.base)));
            }
            body.extend_from_slice(&chunk);
        }
        if status.as_u16() == 200 { Ok(body) } else { Err(answer::failure(self.base.as_str(), status.as_u16(), &body)) }
    }

    fn read<'de, T: Deserialize<'de>>(&self, body: &'de [u8]) -> Result<T, Failure> {
        serde_json::from_slice(body).map_err(|_| answer::failure(self.base.as_str(), 200, b""))
    }

    fn with_credentials(&self, request: RequestBuilder) -> RequestBuilder {
        let request = self.with_token(request);
        match &self.secrets.api_key {
            Some(key) => request.header("x-api-key", key),
            None => request,
        }
    }

    fn with_token(&self, request: RequestBuilder) -> RequestBuilder {
        match &self.secrets.token {
            Some(token) => request.bearer_auth(token),
            None => request,
        }
    }

    /// What an error below HTTP means.
    pub(crate) fn broken(&self, error: &reqwest::Error) -> Failure {
        let base = &self.base;
        if error.is_builder() {
            return Failure::usage(format!("the request cannot be made: {}", chain(error)))
                .remedy("see that CLARION_API_KEY and CLARION_TOKEN are one line of printable ASCII");
        }
        if error.is_connect() {
            let failure = Failure::unavailable(format!("cannot reach a broker at {base}: {}", root(error)));
            return failure.remedy("start one (`clarion-broker`), or name another way in with --via");
        }
        let what = if error.is_timeout() { format!("no answer within {:?}", self.timeout) } else { root(error) };
        Failure::unavailable(format!("{base}: {what}; a message on its way may have been published"))
            .remedy("`clarion doctor`, or a longer --timeout")
    }
}

impl BatchResult {
    fn published(self) -> Published {
        match self {
            Self::Taken(receipt) => Ok(receipt.id),
            Self::Refused { error } => Err(answer::item_failure(&error)),
        }
    }
}

/// The cause behind all others: what the operating system or TLS said.
fn root(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause.to_string()
}

/// A path below a base URL.
pub(crate) fn path_of<'a>(base: &Url, segments: impl IntoIterator<Item = &'a str>) -> Url {
    let mut url = base.clone();
    url.path_segments_mut().expect("http URLs have a path").pop_if_empty().extend(segments);
    url
}

/// Whether a URL names this machine by what every machine calls itself.
pub(crate) fn is_this_machine(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

/// One message of a batch. Lines are text: what looks like JSON is not touched either.
fn entry(channel: &Channel, payload: &[u8]) -> String {
    let entry = match std::str::from_utf8(payload) {
        Ok(text) => json!({ "channel": channel.as_str(), "text": text }),
        Err(_) => json!({ "channel": channel.as_str(), "base64": BASE64_STANDARD.encode(payload) }),
    };
    entry.to_string()
}

/// Cuts messages into batches that keep both limits; one that is too long for any is alone.
fn cut(entries: Vec<String>) -> Vec<Vec<String>> {
    let mut batches: Vec<Vec<String>> = Vec::new();
    let mut room = 0;
    for entry in entries {
        // A comma or a bracket goes with each, and one bracket more with the batch.
        let bytes = entry.len() + 1;
        match batches.last_mut() {
            Some(batch) if bytes <= room && batch.len() < limits::BATCH_MESSAGES => batch.push(entry),
            _ => {
                batches.push(vec![entry]);
                room = limits::BATCH_BYTES - 1;
            }
        }
        room = room.saturating_sub(bytes);
    }
    batches
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_keep_both_limits_and_the_order() {
        let sizes = [10, 2_000_000, 600_000, 600_000, 400_000, 5];
        let entries: Vec<String> = sizes.iter().map(|size| "x".repeat(*size)).collect();
        let batches: Vec<Vec<usize>> =
            cut(entries).iter().map(|batch| batch.iter().map(String::len).collect()).collect();
        assert_eq!(batches, [vec![10], vec![2_000_000], vec![600_000], vec![600_000, 400_000, 5]]);
        let lengths: Vec<usize> = cut(vec![String::new(); 2_001]).iter().map(Vec::len).collect();
        assert_eq!(lengths, [1_000, 1_000, 1]);
    }

    #[test]
    fn a_full_batch_is_not_a_byte_too_long() {
        let half = limits::BATCH_BYTES / 2 - 2;
        let batch = &cut(vec!["x".repeat(half), "x".repeat(half + 1), "x".to_owned()])[0];
        assert_eq!(batch.len(), 2);
        assert_eq!(format!("[{}]", batch.join(",")).len(), limits::BATCH_BYTES);
    }

    #[test]
    fn a_channel_becomes_a_path() {
        let url = |base: &str, channel: &str| {
            path_of(&base.parse().unwrap(), Channel::parse(channel).unwrap().segments()).to_string()
        };
        assert_eq!(url("http://h:1", "orders/eu"), "http://h:1/orders/eu");
        assert_eq!(url("http://h/below/", "a"), "http://h/below/a");
        for channel in ["50% ö?#", "a;b=c/d&e", "\\x/%41", "a:b@c"] {
            let url: Url = url("http://h", channel).parse().unwrap();
            assert_eq!(Channel::from_path(url.path()).unwrap().as_str(), channel);
        }
    }

    #[test]
    fn a_batch_is_answered_in_either_form() {
        for answer in [
            r#"{"results":[{"id":"1"},{"error":{"code":"c","message":"m"}}]}"#,
            r#"[{"id":"1"},{"error":{"code":"c","message":"m"}}]"#,
        ] {
            let answer: BatchAnswer = serde_json::from_str(answer).unwrap();
            let results: Vec<Published> = answer.results().into_iter().map(BatchResult::published).collect();
            assert_eq!(results, [Ok("1".to_owned()), Err(Failure::usage("m (c)"))]);
        }
    }

    #[test]
    fn bytes_that_are_no_text_go_as_base64() {
        let channel = Channel::parse("a").unwrap();
        assert_eq!(entry(&channel, b"{\"x\":1}"), r#"{"channel":"a","text":"{\"x\":1}"}"#);
        assert_eq!(entry(&channel, b"\xff"), r#"{"base64":"/w==","channel":"a"}"#);
    }
}
