//! Addresses of web servers, shown without what may be secret in them.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use url::Url;

/// An `http` or `https` address. Printing or serialising it hides its password and its query.
#[derive(Clone, PartialEq, Eq)]
pub struct WebUrl(Url);

/// A text that is no address of a web server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an address is `https://host/path` or `http://host/path`")]
pub struct WebUrlError;

impl WebUrl {
    /// Checks an address and takes it.
    ///
    /// # Errors
    /// [`WebUrlError`].
    pub fn parse(text: &str) -> Result<Self, WebUrlError> {
        let url = Url::parse(text).map_err(|_| WebUrlError)?;
        let web = matches!(url.scheme(), "http" | "https") && url.has_host();
        if web { Ok(Self(url)) } else { Err(WebUrlError) }
    }

    /// The address itself, for those who use it.
    #[must_use]
    pub fn expose(&self) -> &Url {
        &self.0
    }
}

impl fmt::Display for WebUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut url = self.0.clone();
        if url.password().is_some() {
            url.set_password(Some("hidden")).expect("an address with a host takes a password");
        }
        // Signed addresses carry their secret in the query.
        if url.query().is_some() {
            url.set_query(Some("hidden"));
        }
        f.write_str(url.as_str())
    }
}

impl fmt::Debug for WebUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl<'de> Deserialize<'de> for WebUrl {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::parse(&String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

impl Serialize for WebUrl {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}
