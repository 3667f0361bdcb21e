//! Which web pages may connect: the list of origins, and the rule of development mode.

use std::{fmt, net::IpAddr, str::FromStr};

use http::{HeaderValue, header, request::Parts};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// An entry of the list of origins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OriginRule {
    /// `*`: every page, though without cookies.
    Any,
    /// `null`: pages of files and of sandboxed frames.
    Null,
    /// `https://example.com`.
    Exact(Origin),
    /// `https://*.example.com`: every name below, not the name itself.
    Below(Origin),
}

/// Scheme, host and port of a page. The port is `None` where it is the scheme's usual one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    scheme: String,
    host: String,
    port: Option<u16>,
}

/// A text that is no origin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an origin is `https://example.com`, `https://*.example.com`, `null` or `*`, without a path")]
pub struct OriginError;

impl OriginRule {
    fn allows(&self, origin: Option<&Origin>) -> bool {
        match (self, origin) {
            (Self::Any, _) | (Self::Null, None) => true,
            (Self::Exact(rule), Some(origin)) => rule == origin,
            (Self::Below(rule), Some(origin)) => {
                let below = origin.host.strip_suffix(&rule.host).and_then(|name| name.strip_suffix('.'));
                below.is_some_and(|name| !name.is_empty()) && rule.scheme == origin.scheme && rule.port == origin.port
            }
            (Self::Null, Some(_)) | (Self::Exact(_) | Self::Below(_), None) => false,
        }
    }
}

impl FromStr for OriginRule {
    type Err = OriginError;

    fn from_str(text: &str) -> Result<Self, OriginError> {
        match text {
            "*" => return Ok(Self::Any),
            "null" => return Ok(Self::Null),
            _ => {}
        }
        match text.split_once("://*.") {
            Some((scheme, rest)) => Ok(Self::Below(format!("{scheme}://{rest}").parse()?)),
            None => Ok(Self::Exact(text.parse()?)),
        }
    }
}

impl FromStr for Origin {
    type Err = OriginError;

    fn from_str(text: &str) -> Result<Self, OriginError> {
        let (scheme, authority) = text.split_once("://").ok_or(OriginError)?;
        let letters = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.');
        let name = |b: u8| b.is_ascii_graphic() && !matches!(b, b'/' | b'?' | b'#' | b'@' | b'*' | b'\\');
        let (host, port) = split_port(authority).ok_or(OriginError)?;
        if scheme.is_empty() || !scheme.bytes().all(letters) || host.is_empty() || !host.bytes().all(name) {
            return Err(OriginError);
        }
        let scheme = scheme.to_ascii_lowercase();
        let port = port.filter(|port| usual_port(&scheme) != Some(*port));
        Ok(Self { scheme, host: host.to_ascii_lowercase(), port })
    }
}

impl Origin {
    /// Whether the page is of the host that the request went to. The scheme is not compared: a proxy in front of us
    /// may have taken TLS off.
    fn is_of(&self, host: &str) -> bool {
        let Some((name, port)) = split_port(host) else { return false };
        let port = port.filter(|port| usual_port(&self.scheme) != Some(*port));
        name.eq_ignore_ascii_case(&self.host) && port == self.port
    }
}

fn usual_port(scheme: &str) -> Option<u16> {
    match scheme {
        "http" | "ws" => Some(80),
        "https" | "wss" => Some(443),
        _ => None,
    }
}

/// Splits `host:port`, `[::1]:port` and hosts without port; `None` for what is neither.
fn split_port(authority: &str) -> Option<(&str, Option<u16>)> {
    let bracket = authority.find(']').map_or(0, |at| at + 1);
    match authority[bracket..].find(':') {
        None => Some((authority, None)),
        Some(at) => {
            let (host, port) = authority.split_at(bracket + at);
            Some((host, Some(port[1..].parse().ok()?)))
        }
    }
}

/// Whether this host is the machine itself: `localhost`, `127.0.0.0/8` or `[::1]`, with any port.
fn is_this_machine(host: &str) -> bool {
    let Some((name, _)) = split_port(host) else { return false };
    let bare = name.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(name);
    name.eq_ignore_ascii_case("localhost") || bare.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// What the list says of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// No page sent it.
    NoOrigin,
    /// A page that is named, or of our own host: it may bring its cookies.
    Allowed,
    /// Any page may, so this one brings no cookies.
    AllowedByStar,
    /// Not a page that may.
    Refused,
    /// Development mode, and the host that was asked for is not this machine.
    ForeignHost,
}

/// The list of origins together with the mode that decides what an empty list means.
#[derive(Debug)]
pub(super) struct Origins {
    rules: Vec<OriginRule>,
    /// Whether only this machine's names are good: any web page can post a form to localhost, and a name that
    /// resolves to 127.0.0.1 makes a foreign page look like one of ours.
    this_machine_only: bool,
    development: bool,
}

impl Origins {
    pub(super) fn new(rules: Vec<OriginRule>, development: bool, insecure: bool) -> Self {
        Self { rules, this_machine_only: development && !insecure, development }
    }

    pub(super) fn judge(&self, head: &Parts) -> Verdict {
        let host = host(head);
        if self.this_machine_only && host.is_some_and(|host| !is_this_machine(host)) {
            return Verdict::ForeignHost;
        }
        let mut values = head.headers.get_all(header::ORIGIN).iter();
        let Some(value) = values.next() else { return Verdict::NoOrigin };
        let Some(origin) = value.to_str().ok().filter(|_| values.next().is_none()) else { return Verdict::Refused };
        self.judge_origin(origin, host)
    }

    fn judge_origin(&self, text: &str, host: Option<&str>) -> Verdict {
        let origin = match text {
            "null" => None,
            _ => match text.parse::<Origin>() {
                Ok(origin) => Some(origin),
                Err(OriginError) => return Verdict::Refused,
            },
        };
        let named = self.rules.iter().any(|rule| *rule != OriginRule::Any && rule.allows(origin.as_ref()));
        if named || origin.as_ref().is_some_and(|origin| self.is_ours(origin, host)) {
            return Verdict::Allowed;
        }
        if self.rules.contains(&OriginRule::Any) { Verdict::AllowedByStar } else { Verdict::Refused }
    }

    /// Without a list a page of our own host may; in development mode also one of this machine, on any port.
    fn is_ours(&self, origin: &Origin, host: Option<&str>) -> bool {
        (self.development && is_this_machine(&origin.host))
            || (self.rules.is_empty() && !self.this_machine_only && host.is_some_and(|host| origin.is_of(host)))
    }

    /// The value of `Access-Control-Allow-Origin` for this request.
    pub(super) fn answer(&self, head: &Parts) -> Option<HeaderValue> {
        match self.judge(head) {
            Verdict::Allowed => head.headers.get(header::ORIGIN).cloned(),
            Verdict::AllowedByStar => Some(HeaderValue::from_static("*")),
            Verdict::NoOrigin | Verdict::Refused | Verdict::ForeignHost => None,
        }
    }
}

/// The host that was asked for: the request line's, where it has one, wins over the header.
fn host(head: &Parts) -> Option<&str> {
    match head.uri.authority() {
        Some(authority) => Some(authority.as_str()),
        None => {
            let mut hosts = head.headers.get_all(header::HOST).iter();
            let host = hosts.next()?;
            // Of two hosts a proxy may believe the other one; neither that nor what is no text is a host of ours.
            Some(host.to_str().ok().filter(|_| hosts.next().is_none()).unwrap_or_default())
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write(f, "")
    }
}

impl Origin {
    fn write(&self, f: &mut fmt::Formatter<'_>, wildcard: &str) -> fmt::Result {
        write!(f, "{}://{wildcard}{}", self.scheme, self.host)?;
        self.port.map_or(Ok(()), |port| write!(f, ":{port}"))
    }
}

impl fmt::Display for OriginRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("*"),
            Self::Null => f.write_str("null"),
            Self::Exact(origin) => origin.write(f, ""),
            Self::Below(origin) => origin.write(f, "*."),
        }
    }
}

impl<'de> Deserialize<'de> for OriginRule {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl Serialize for OriginRule {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests;
