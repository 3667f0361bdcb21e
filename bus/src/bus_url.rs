//! The URL of a bus: which kind, where its servers are, and as whom to go there. Credentials are never shown.

use std::{fmt, str::FromStr};

use percent_encoding::percent_decode_str;
use serde::Deserialize;

/// Which bus, and where.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum BusUrl {
    /// Within this process.
    #[default]
    Memory,
    /// A Redis or Valkey server, or several of them.
    Redis(RedisUrl),
    /// A NATS server, or several of one cluster.
    Nats(NatsUrl),
}

/// A Redis deployment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RedisUrl {
    /// What the servers are to each other.
    pub mode: RedisMode,
    /// The server, the Sentinels, or some of the cluster's nodes.
    pub servers: Vec<HostPort>,
    /// Whether every connection is encrypted.
    pub tls: bool,
    /// Who to be; the server's default user when absent.
    pub user: Option<String>,
    /// That user's password.
    pub password: Option<Secret>,
}

/// What the servers of a [`RedisUrl`] are to each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RedisMode {
    /// One server.
    Standalone,
    /// Sentinels that know who is master.
    Sentinel {
        /// What the Sentinels call this master.
        master: String,
        /// Who to be towards the Sentinels.
        user: Option<String>,
        /// That user's password.
        password: Option<Secret>,
    },
    /// Nodes of a Redis Cluster.
    Cluster,
}

/// A NATS deployment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NatsUrl {
    /// Some of the cluster's servers.
    pub servers: Vec<HostPort>,
    /// Whether TLS is insisted on; a server may demand it anyway.
    pub tls: bool,
    /// Who to be.
    pub auth: NatsAuth,
}

/// Who to be towards a NATS server. Credentials files and nkeys are settings of their own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NatsAuth {
    /// Nobody in particular.
    None,
    /// The bearer of a token.
    Token(Secret),
    /// A user. The password may come from another setting.
    User(String, Option<Secret>),
}

/// Where a server listens.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HostPort {
    /// A name, or an address without brackets.
    pub host: String,
    /// The port.
    pub port: u16,
}

/// A password or token. It is shown nowhere.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(from = "String")]
pub struct Secret(String);

/// As a file has it: without the end of its line, which nobody means.
impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self(text.trim_end_matches(['\r', '\n']).to_owned())
    }
}

impl Secret {
    /// Takes a secret.
    pub fn new(secret: impl Into<String>) -> Self {
        Self(secret.into())
    }

    /// The secret itself, for the server it belongs to and for nobody else.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl serde::Serialize for Secret {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str("***")
    }
}

impl BusUrl {
    /// `memory`, `redis` or `nats`.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Redis(_) => "redis",
            Self::Nats(_) => "nats",
        }
    }

    /// Whether the URL asks for TLS.
    #[must_use]
    pub fn tls(&self) -> bool {
        match self {
            Self::Memory => false,
            Self::Redis(redis) => redis.tls,
            Self::Nats(nats) => nats.tls,
        }
    }
}

impl FromStr for BusUrl {
    type Err = BusUrlError;

    fn from_str(text: &str) -> Result<Self, BusUrlError> {
        if matches!(text, "memory" | "memory:" | "memory://") {
            return Ok(Self::Memory);
        }
        let (scheme, _) = text.split_once("://").ok_or(BusUrlError::Scheme)?;
        match scheme {
            "redis" => redis(Parts::read(text, 6379)?, false, RedisMode::Standalone),
            "rediss" => redis(Parts::read(text, 6379)?, true, RedisMode::Standalone),
            "redis-cluster" => redis(Parts::read(text, 6379)?, false, RedisMode::Cluster),
            "rediss-cluster" => redis(Parts::read(text, 6379)?, true, RedisMode::Cluster),
            "redis-sentinel" => sentinel(Parts::read(text, 26379)?, false),
            "rediss-sentinel" => sentinel(Parts::read(text, 26379)?, true),
            "nats" => nats(Parts::read(text, 4222)?, false),
            "tls" => nats(Parts::read(text, 4222)?, true),
            _ => Err(BusUrlError::Scheme),
        }
    }
}

impl serde::Serialize for BusUrl {
    /// As it is shown: without credentials.
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for BusUrl {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

fn redis(parts: Parts, tls: bool, mode: RedisMode) -> Result<BusUrl, BusUrlError> {
    if mode == RedisMode::Standalone && parts.servers.len() != 1 {
        return Err(BusUrlError::Several);
    }
    if !matches!(parts.path.as_str(), "" | "0") {
        return Err(BusUrlError::Path);
    }
    if let Some((key, _)) = parts.query.first() {
        return Err(BusUrlError::Query(key.clone()));
    }
    Ok(BusUrl::Redis(RedisUrl { mode, servers: parts.servers, tls, user: parts.user, password: parts.password }))
}

/// The master's name is the path. What fred's URLs call it, and its other words, are understood as well.
fn sentinel(mut parts: Parts, tls: bool) -> Result<BusUrl, BusUrlError> {
    let (mut user, mut password) = (None, None);
    for (key, value) in parts.query {
        match key.as_str() {
            "sentinel_user" | "sentinelUsername" => user = Some(value),
            "sentinel_password" | "sentinelPassword" => password = Some(Secret(value)),
            "sentinelServiceName" => parts.path = value,
            "node" => parts.servers.push(host_port(&value, 26379)?),
            _ => return Err(BusUrlError::Query(key)),
        }
    }
    if parts.path.is_empty() {
        return Err(BusUrlError::NoMaster);
    }
    let mode = RedisMode::Sentinel { master: parts.path, user, password };
    Ok(BusUrl::Redis(RedisUrl { mode, servers: parts.servers, tls, user: parts.user, password: parts.password }))
}

fn nats(parts: Parts, tls: bool) -> Result<BusUrl, BusUrlError> {
    if !parts.path.is_empty() {
        return Err(BusUrlError::Path);
    }
    if let Some((key, _)) = parts.query.first() {
        return Err(BusUrlError::Query(key.clone()));
    }
    let auth = match (parts.user, parts.password) {
        (None, None) => NatsAuth::None,
        (None, Some(password)) => NatsAuth::User(String::new(), Some(password)),
        // As the NATS clients read it: a user without a password is a token.
        (Some(token), None) if !parts.colon => NatsAuth::Token(Secret(token)),
        (Some(user), password) => NatsAuth::User(user, password),
    };
    Ok(BusUrl::Nats(NatsUrl { servers: parts.servers, tls, auth }))
}

/// The pieces of a URL that may name several servers, `scheme://user:password@host:port,host:port/path?key=value`.
///
/// A later server may repeat the scheme and the credentials, as NATS users write it.
#[derive(Default)]
struct Parts {
    user: Option<String>,
    password: Option<Secret>,
    colon: bool,
    servers: Vec<HostPort>,
    path: String,
    query: Vec<(String, String)>,
}

impl Parts {
    fn read(text: &str, port: u16) -> Result<Self, BusUrlError> {
        let mut parts = Self::default();
        let (scheme, rest) = text.split_once("://").ok_or(BusUrlError::Scheme)?;
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            parts.query.push((decode(key)?, decode(value)?));
        }
        for (at, server) in rest.split(',').enumerate() {
            let server = server.trim();
            let server = server.strip_prefix(scheme).and_then(|rest| rest.strip_prefix("://")).unwrap_or(server);
            let (server, path) = server.split_once('/').unwrap_or((server, ""));
            if !path.is_empty() {
                parts.path = decode(path)?;
            }
            let address = match server.rsplit_once('@') {
                Some((user_info, address)) => {
                    parts.credentials(user_info, at)?;
                    address
                }
                None => server,
            };
            parts.servers.push(host_port(address, port)?);
        }
        Ok(parts)
    }

    fn credentials(&mut self, text: &str, at: usize) -> Result<(), BusUrlError> {
        let (user, password) = text.split_once(':').map_or((text, None), |(user, password)| (user, Some(password)));
        let user = Some(decode(user)?).filter(|user| !user.is_empty());
        let password = password.map(decode).transpose()?.filter(|password| !password.is_empty()).map(Secret);
        let same = (&self.user, &self.password) == (&user, &password);
        if at > 0 && !same {
            return Err(BusUrlError::Credentials);
        }
        (self.user, self.password, self.colon) = (user, password, text.contains(':'));
        Ok(())
    }
}

fn decode(text: &str) -> Result<String, BusUrlError> {
    percent_decode_str(text).decode_utf8().map(std::borrow::Cow::into_owned).map_err(|_| BusUrlError::NotUtf8)
}

/// Reads `host`, `host:port` or `[address]:port`.
pub(crate) fn host_port(text: &str, default: u16) -> Result<HostPort, BusUrlError> {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (host, rest) = rest.split_once(']').ok_or(BusUrlError::Server)?;
            (host, rest.strip_prefix(':'))
        }
        None => text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port))),
    };
    let port = match port {
        None => default,
        Some(port) => port.parse().ok().filter(|port| *port > 0).ok_or(BusUrlError::Server)?,
    };
    let good = !host.is_empty() && !host.contains(char::is_whitespace);
    if good { Ok(HostPort { host: host.to_owned(), port }) } else { Err(BusUrlError::Server) }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

impl fmt::Display for BusUrl {
    /// Whoever is named in the URL is shown as `***`, and so is what he knows.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (scheme, hidden, servers) = match self {
            Self::Memory => return f.write_str("memory"),
            Self::Redis(redis) => {
                let kind = match redis.mode {
                    RedisMode::Standalone => "",
                    RedisMode::Sentinel { .. } => "-sentinel",
                    RedisMode::Cluster => "-cluster",
                };
                let scheme = format!("redis{}{kind}", if redis.tls { "s" } else { "" });
                (scheme, redis.user.is_some() || redis.password.is_some(), &redis.servers)
            }
            Self::Nats(nats) => {
                let scheme = if nats.tls { "tls" } else { "nats" };
                (scheme.to_owned(), nats.auth != NatsAuth::None, &nats.servers)
            }
        };
        write!(f, "{scheme}://{}", if hidden { "***@" } else { "" })?;
        for (at, server) in servers.iter().enumerate() {
            write!(f, "{}{server}", if at > 0 { "," } else { "" })?;
        }
        match self {
            Self::Redis(RedisUrl { mode: RedisMode::Sentinel { master, .. }, .. }) => write!(f, "/{master}"),
            _ => Ok(()),
        }
    }
}

/// Why a text is no URL of a bus. Never repeats the text, which may hold a password.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BusUrlError {
    /// Something else before `://`.
    #[error(
        "a bus is `memory`, or a URL that begins with redis://, rediss://, redis-sentinel://, rediss-sentinel://, \
         redis-cluster://, rediss-cluster://, nats:// or tls://"
    )]
    Scheme,
    /// A server that cannot be read.
    #[error("a server is written host, host:port or [IPv6 address]:port")]
    Server,
    /// Several servers where one is meant.
    #[error("redis:// names one server; use redis-cluster:// or redis-sentinel:// for several")]
    Several,
    /// A path that means nothing.
    #[error("nothing may follow the servers in this URL: publish and subscribe know no database numbers")]
    Path,
    /// Sentinel without the master's name.
    #[error("redis-sentinel:// needs the master's name: redis-sentinel://host:26379,host:26379/mymaster")]
    NoMaster,
    /// A query parameter that means nothing.
    #[error("`{0}` means nothing in the URL of this bus")]
    Query(String),
    /// Several servers with different users.
    #[error("all servers of one bus take the same user and password")]
    Credentials,
    /// An escape that is no text.
    #[error("the escapes in the URL are not UTF-8")]
    NotUtf8,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(url: &str) -> Result<String, BusUrlError> {
        url.parse::<BusUrl>().map(|url| url.to_string())
    }

    #[test]
    fn what_is_read_and_shown() {
        for (url, expected) in [
            ("memory", "memory"),
            ("redis://localhost", "redis://localhost:6379"),
            ("redis://:secret@localhost:1/0", "redis://***@localhost:1"),
            ("rediss://me:se%40cret@[::1]:7000", "rediss://***@[::1]:7000"),
            ("redis-cluster://a:1,b:2,c", "redis-cluster://a:1,b:2,c:6379"),
            ("redis-sentinel://u:p@a,b:1/main?sentinel_password=x", "redis-sentinel://***@a:26379,b:1/main"),
            ("redis-sentinel://a:1?sentinelServiceName=m&node=b:2", "redis-sentinel://a:1,b:2/m"),
            ("nats://token@a:4223,b", "nats://***@a:4223,b:4222"),
            ("nats://u:p@a,nats://u:p@b", "nats://***@a:4222,b:4222"),
            ("tls://a", "tls://a:4222"),
        ] {
            assert_eq!(shown(url).as_deref(), Ok(expected), "{url}");
            let debug = format!("{:?}", url.parse::<BusUrl>().unwrap());
            assert!(!debug.contains("cret") && !debug.contains("token\""), "{debug}");
        }
    }

    #[test]
    fn what_is_refused() {
        use BusUrlError as E;
        for (url, expected) in [
            ("localhost:6379", E::Scheme),
            ("http://a", E::Scheme),
            ("redis://", E::Server),
            ("redis://a:0", E::Server),
            ("redis://a:x", E::Server),
            ("redis://a,b", E::Several),
            ("redis://a/7", E::Path),
            ("redis://a?db=1", E::Query("db".to_owned())),
            ("redis-sentinel://a", E::NoMaster),
            ("nats://u:p@a,v:p@b", E::Credentials),
            ("nats://%ff@a", E::NotUtf8),
        ] {
            assert_eq!(shown(url), Err(expected), "{url}");
        }
    }

    #[test]
    fn who_to_be() {
        let auth = |url: &str| match url.parse::<BusUrl>().unwrap() {
            BusUrl::Nats(nats) => nats.auth,
            other => panic!("{other:?}"),
        };
        assert_eq!(auth("nats://a"), NatsAuth::None);
        assert_eq!(auth("nats://t@a"), NatsAuth::Token(Secret::new("t")));
        assert_eq!(auth("nats://u:p@a"), NatsAuth::User("u".to_owned(), Some(Secret::new("p"))));
        assert_eq!(auth("nats://u:@a"), NatsAuth::User("u".to_owned(), None));
        let BusUrl::Redis(redis) = "redis://u:p%3A@a".parse().unwrap() else { panic!() };
        assert_eq!((redis.user.as_deref(), redis.password.unwrap().expose()), (Some("u"), "p:"));
    }
}
