//! The way in: a broker over HTTP, or the bus itself.

pub(crate) mod answer;
pub(crate) mod bus;
pub(crate) mod http;

use bytes::Bytes;
use clarion_bus::BusUrl;
use clarion_protocol::Channel;
use url::Url;

use crate::{context::Context, failure::Failure};

pub(crate) use self::{bus::Bus, http::Http};

/// What `--via` names. Its `Debug` shows no credentials: [`BusUrl`]'s does not, and a broker's URL has none.
#[derive(Debug, Clone)]
pub(crate) enum Via {
    /// A broker.
    Http(Url),
    /// A bus.
    Bus(BusTarget),
}

/// A bus and how to speak of it.
#[derive(Debug, Clone)]
pub(crate) struct BusTarget {
    pub(crate) url: BusUrl,
    /// The URL without credentials, for messages.
    pub(crate) shown: String,
}

impl Via {
    /// Reads a URL that came by `origin`, a flag or a variable.
    pub(crate) fn parse(text: &str, origin: &str) -> Result<Self, Failure> {
        let shown = without_credentials(text);
        let scheme = text.split_once(':').map_or("", |(scheme, _)| scheme);
        if matches!(scheme, "http" | "https") {
            return broker(text, origin, &shown).map(Self::Http);
        }
        let known = "http://, https://, redis://, rediss://, redis-sentinel://, redis-cluster://, nats:// or tls://";
        if scheme == "memory" || text == "memory" {
            let failure = Failure::usage(format!("{origin}: a memory bus lives within one broker"));
            return Err(failure.remedy("name that broker, such as --via http://127.0.0.1:8000"));
        }
        BusTarget::parse(text, origin).map(Self::Bus).map_err(|failure| match failure.remedy {
            None => failure.remedy(format!("a URL that begins with {known}")),
            Some(_) => failure,
        })
    }
}

/// Checks the URL of a broker.
fn broker(text: &str, origin: &str, shown: &str) -> Result<Url, Failure> {
    let url: Url = text.parse().map_err(|error| Failure::usage(format!("{origin} {shown}: {error}")))?;
    if !url.username().is_empty() || url.password().is_some() {
        let failure = Failure::usage(format!("{origin} {shown}: a broker's URL has no user and no password"));
        return Err(failure.remedy("put the key in CLARION_API_KEY or the token in CLARION_TOKEN"));
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(Failure::usage(format!("{origin} {shown}: a broker's URL has no query and no fragment")));
    }
    Ok(url)
}

impl BusTarget {
    /// Reads the URL of a bus that came by `origin`, a flag or a variable.
    pub(crate) fn parse(text: &str, origin: &str) -> Result<Self, Failure> {
        let shown = without_credentials(text);
        if origin.starts_with("--") && holds_secret(text) {
            return Err(Failure::usage(format!("{origin} {shown}: a password in a flag can be seen by everybody"))
                .remedy("put the URL in the variable CLARION_VIA, or the password in CLARION_BUS_PASSWORD"));
        }
        let url = text.parse().map_err(|error| Failure::usage(format!("{origin} {shown}: {error}")))?;
        Ok(Self { url, shown })
    }
}

/// Whether a bus's URL has a password or token: `user:password@`, NATS's `token@`, or a password in the query.
fn holds_secret(url: &str) -> bool {
    let Some((scheme, rest)) = url.split_once("://") else { return false };
    let login = rest.rsplit_once('@').map(|(login, _)| login);
    let token = |login: &str| matches!(scheme, "nats" | "tls") && !login.is_empty();
    login.is_some_and(|login| login.contains(':') || token(login)) || rest.to_lowercase().contains("password=")
}

/// A URL as it may be shown: nothing before the last `@`, nothing after `?`.
pub(crate) fn without_credentials(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else {
        // Not a URL at all, so nobody knows what in it is secret.
        return if url.contains('@') { "…".to_owned() } else { url.to_owned() };
    };
    let rest = rest.rsplit_once('@').map_or(rest, |(_, rest)| rest);
    let rest = rest.split_once('?').map_or(rest, |(rest, _)| rest);
    format!("{scheme}://{rest}")
}

/// An open way in.
pub(crate) enum Way {
    Http(Http),
    Bus(Bus),
}

/// What became of one message: the id that travels with it.
pub(crate) type Published = Result<String, Failure>;

impl Way {
    /// Makes ready to publish. A bus is connected to; a broker is first asked with the first message.
    pub(crate) async fn open(context: &Context) -> Result<Self, Failure> {
        Ok(match &context.via {
            Via::Http(url) => Self::Http(Http::new(context, url)?),
            Via::Bus(target) => Self::Bus(Bus::connect(context, target).await?),
        })
    }

    /// Publishes one message.
    pub(crate) async fn publish(&self, channel: &Channel, payload: Bytes) -> Published {
        match self {
            Self::Http(http) => http.publish(channel, payload).await,
            Self::Bus(bus) => bus.publish(channel, payload).await,
        }
    }

    /// Publishes many in their order, with a result for each. Always as many results as payloads.
    pub(crate) async fn publish_all(&self, channel: &Channel, payloads: Vec<Bytes>) -> Vec<Published> {
        match self {
            Self::Http(http) => http.publish_all(channel, payloads).await,
            Self::Bus(bus) => bus.publish_all(channel, payloads).await,
        }
    }

    /// Says goodbye.
    pub(crate) async fn close(&self) {
        if let Self::Bus(bus) = self {
            bus.close().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_holds_no_secret() {
        for (url, shown) in [
            ("redis://u:secret@h:1/0", "redis://h:1/0"),
            ("nats://secret@h", "nats://h"),
            ("redis://:se/cr@et@h", "redis://h"),
            ("redis-sentinel://h/m?sentinelPassword=secret", "redis-sentinel://h/m"),
            ("u:secret@h", "…"),
            ("redis://h", "redis://h"),
        ] {
            assert_eq!(without_credentials(url), shown);
        }
    }

    #[test]
    fn a_password_is_refused_in_a_flag_only() {
        for url in ["redis://:secret@h", "nats://secret@h", "rediss://u:secret@h"] {
            let failure = Via::parse(url, "--via").unwrap_err();
            assert!(failure.message.contains("everybody") && !failure.message.contains("secret"), "{failure:?}");
            let via = Via::parse(url, "CLARION_VIA").unwrap();
            assert!(!format!("{via:?}").contains("secret"));
        }
        assert!(matches!(Via::parse("redis://user@h", "--via"), Ok(Via::Bus(_))));
    }

    #[test]
    fn what_is_no_way_in() {
        for (url, word) in [
            ("memory", "--via http://"),
            ("ftp://h", "https://"),
            ("localhost:8000", "https://"),
            ("http://u:secret@h", "CLARION_API_KEY"),
        ] {
            let failure = Via::parse(url, "--via").unwrap_err();
            assert!(failure.remedy.as_ref().is_some_and(|remedy| remedy.contains(word)), "{url}: {failure:?}");
            assert!(!format!("{failure:?}").contains("secret"));
        }
    }
}
