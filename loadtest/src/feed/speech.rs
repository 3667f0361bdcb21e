//! How a message is put to each way in, and what its answers mean.

use std::{collections::BTreeMap, fmt::Write as _, net::SocketAddr};

use crate::{
    control::{Batch, Via},
    mqtt,
    wire::Head,
};

/// What a way in said.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// It has taken a request.
    Taken,
    /// It has not.
    Refused(String),
    /// It wants a pong.
    Ping,
    /// Nothing that matters.
    Nothing,
}

/// A way in.
pub(super) enum Speech {
    Http {
        target: SocketAddr,
        path: String,
        headers: BTreeMap<String, String>,
        body: String,
        request: Vec<u8>,
    },
    /// Many messages in one request.
    Batch {
        target: SocketAddr,
        batch: Batch,
        request: Vec<u8>,
        count: usize,
    },
    Redis {
        channel: String,
    },
    Nats {
        subject: String,
    },
    Mqtt {
        topic: String,
    },
}

impl Speech {
    pub(super) fn new(via: &Via, target: SocketAddr, messages: u32) -> Self {
        match via.clone() {
            Via::Http { batch: Some(batch), .. } if messages > 1 => {
                Self::Batch { target, batch, request: Vec::new(), count: 0 }
            }
            Via::Http { path, headers, body, .. } => Self::Http { target, path, headers, body, request: Vec::new() },
            Via::Redis { channel } => Self::Redis { channel },
            Via::Nats { subject } => Self::Nats { subject },
            Via::Mqtt { topic } => Self::Mqtt { topic },
        }
    }

    /// Whether every request is answered.
    pub(super) fn acknowledges(&self) -> bool {
        !matches!(self, Self::Nats { .. } | Self::Mqtt { .. })
    }

    /// Whether the messages of a batch become one request.
    pub(super) fn joins(&self) -> bool {
        matches!(self, Self::Batch { .. })
    }

    /// What is said first.
    pub(super) fn greet(&self, into: &mut Vec<u8>) {
        match self {
            Self::Nats { .. } => {
                into.extend(b"CONNECT {\"verbose\":false,\"pedantic\":false,\"name\":\"clarion-loadtest\"}\r\n");
            }
            // Without a name the server makes one.
            Self::Mqtt { .. } => mqtt::connect("", into),
            Self::Http { .. } | Self::Batch { .. } | Self::Redis { .. } => {}
        }
    }

    /// Begins a request.
    pub(super) fn begin(&mut self) {
        if let Self::Batch { batch, request, count, .. } = self {
            *count = 0;
            request.clear();
            request.extend(batch.begin.as_bytes());
        }
    }

    /// Adds a message.
    pub(super) fn add(&mut self, name: &str, payload: &[u8], into: &mut Vec<u8>) {
        let text = || std::str::from_utf8(payload).expect("a payload is ASCII");
        match self {
            Self::Http { target, path, headers, body, request } => {
                request.clear();
                if body == "{payload}" {
                    request.extend(payload);
                } else {
                    request.extend(body.replace("{channel}", name).replace("{payload}", text()).as_bytes());
                }
                http(*target, &path.replace("{channel}", name), headers, request, into);
            }
            Self::Batch { batch, request, count, .. } => {
                if *count > 0 {
                    request.extend(batch.separator.as_bytes());
                }
                *count += 1;
                request.extend(batch.message.replace("{channel}", name).replace("{payload}", text()).as_bytes());
            }
            Self::Redis { channel } => {
                let channel = channel.replace("{channel}", name);
                let head = format!("*3\r\n$7\r\nPUBLISH\r\n${}\r\n{channel}\r\n${}\r\n", channel.len(), payload.len());
                into.extend(head.as_bytes());
                into.extend(payload);
                into.extend(b"\r\n");
            }
            Self::Mqtt { topic } => mqtt::publish(&topic.replace("{channel}", name), payload, into),
            Self::Nats { subject } => {
                let subject = subject.replace("{dotted}", &name.replace('/', "."));
                into.extend(format!("PUB {subject} {}\r\n", payload.len()).as_bytes());
                into.extend(payload);
                into.extend(b"\r\n");
            }
        }
    }

    /// Ends a request.
    pub(super) fn complete(&mut self, into: &mut Vec<u8>) {
        if let Self::Batch { target, batch, request, .. } = self {
            request.extend(batch.end.as_bytes());
            http(*target, &batch.path, &batch.headers, request, into);
        }
    }

    /// The next answer in what has come, and its length; `None` while it is not complete.
    pub(super) fn answer(&self, bytes: &[u8]) -> Option<(Answer, usize)> {
        if bytes.is_empty() {
            return None;
        }
        match self {
            Self::Http { .. } | Self::Batch { .. } => http_answer(bytes),
            Self::Redis { .. } => line(bytes).map(|(line, length)| match line.first() {
                Some(b':') => (Answer::Taken, length),
                _ => (Answer::Refused(shown(line)), length),
            }),
            // It answers nothing but the greeting.
            Self::Mqtt { .. } => mqtt::length(bytes).map(|length| (Answer::Nothing, length)),
            Self::Nats { .. } => line(bytes).map(|(line, length)| match line {
                b"PING" => (Answer::Ping, length),
                _ if line.starts_with(b"-ERR") => (Answer::Refused(shown(line)), length),
                _ => (Answer::Nothing, length),
            }),
        }
    }
}

fn http(target: SocketAddr, path: &str, headers: &BTreeMap<String, String>, body: &[u8], into: &mut Vec<u8>) {
    let mut head = format!("POST {path} HTTP/1.1\r\nHost: {target}\r\nContent-Length: {}\r\n", body.len());
    for (name, value) in headers {
        // Writing into a String cannot fail.
        let _ = write!(head, "{name}: {value}\r\n");
    }
    head.push_str("\r\n");
    into.extend(head.as_bytes());
    into.extend(body);
}

fn http_answer(bytes: &[u8]) -> Option<(Answer, usize)> {
    let head = match Head::read(bytes) {
        Ok(head) => head?,
        Err(broken) => return Some((Answer::Refused(broken.0.to_owned()), bytes.len())),
    };
    let body = &bytes[head.length..];
    let length = match head.body {
        _ if head.chunked => memchr::memmem::find(body, b"0\r\n\r\n")? + 5,
        length => usize::try_from(length.unwrap_or(0)).ok()?,
    };
    if body.len() < length {
        return None;
    }
    let taken = (200..300).contains(&head.status);
    let answer = if taken { Answer::Taken } else { Answer::Refused(format!("publish: status {}", head.status)) };
    Some((answer, head.length + length))
}

fn line(bytes: &[u8]) -> Option<(&[u8], usize)> {
    let end = memchr::memmem::find(bytes, b"\r\n")?;
    Some((&bytes[..end], end + 2))
}

fn shown(line: &[u8]) -> String {
    format!("publish: {}", String::from_utf8_lossy(line))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target() -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], 80))
    }

    fn http_speech(messages: u32) -> Speech {
        let batch = Batch {
            path: "/batch".to_owned(),
            headers: BTreeMap::new(),
            begin: "[".to_owned(),
            message: "{channel}={payload}".to_owned(),
            separator: ",".to_owned(),
            end: "]".to_owned(),
        };
        let headers = [("Content-Type".to_owned(), "text/plain".to_owned())].into();
        let via =
            Via::Http { path: "/{channel}".to_owned(), headers, body: "{payload}".to_owned(), batch: Some(batch) };
        Speech::new(&via, target(), messages)
    }

    fn say(speech: &mut Speech, messages: &[(&str, &[u8])]) -> String {
        let mut bytes = Vec::new();
        speech.begin();
        messages.iter().for_each(|(channel, payload)| speech.add(channel, payload, &mut bytes));
        speech.complete(&mut bytes);
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn requests() {
        let single = say(&mut http_speech(1), &[("a/1", b"hi")]);
        assert_eq!(
            single,
            "POST /a/1 HTTP/1.1\r\nHost: 127.0.0.1:80\r\nContent-Length: 2\r\nContent-Type: text/plain\r\n\r\nhi"
        );
        let mut batch = http_speech(2);
        for _ in 0..2 {
            let text = say(&mut batch, &[("a", b"x"), ("b", b"y")]);
            assert_eq!(text, "POST /batch HTTP/1.1\r\nHost: 127.0.0.1:80\r\nContent-Length: 9\r\n\r\n[a=x,b=y]");
        }
        let mut redis = Speech::new(&Via::Redis { channel: "c:{channel}".to_owned() }, target(), 1);
        assert_eq!(say(&mut redis, &[("a/1", b"hi")]), "*3\r\n$7\r\nPUBLISH\r\n$5\r\nc:a/1\r\n$2\r\nhi\r\n");
        let mut nats = Speech::new(&Via::Nats { subject: "c.{dotted}".to_owned() }, target(), 1);
        assert_eq!(say(&mut nats, &[("a/1", b"hi")]), "PUB c.a.1 2\r\nhi\r\n");
    }

    #[test]
    fn answers_are_read_only_when_they_are_whole() {
        let refused = |text: &str| Answer::Refused(text.to_owned());
        let http = http_speech(1);
        let redis = Speech::Redis { channel: String::new() };
        let nats = Speech::Nats { subject: String::new() };
        let cases: [(&Speech, &[u8], Answer); 8] = [
            (&http, b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}", Answer::Taken),
            (&http, b"HTTP/1.1 201 Created\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", Answer::Taken),
            (&http, b"HTTP/1.1 503 No\r\n\r\n", refused("publish: status 503")),
            (&redis, b":12\r\n", Answer::Taken),
            (&redis, b"-ERR no\r\n", refused("publish: -ERR no")),
            (&nats, b"PING\r\n", Answer::Ping),
            (&nats, b"INFO {}\r\n", Answer::Nothing),
            (&nats, b"-ERR 'x'\r\n", refused("publish: -ERR 'x'")),
        ];
        for (speech, bytes, expected) in cases {
            let shown = String::from_utf8_lossy(bytes);
            assert_eq!(speech.answer(bytes), Some((expected, bytes.len())), "{shown}");
            for cut in 0..bytes.len() {
                assert_eq!(speech.answer(&bytes[..cut]), None, "{shown} cut at {cut}");
            }
        }
    }
}
