//! The keys of those who publish, compared without telling by the time taken how close a guess was.

use sha2::{Digest, Sha256};
use subtle::{Choice, ConstantTimeEq};

use super::config::ApiKey;

/// The header that carries an API key.
pub(super) const HEADER: &str = "x-api-key";

/// Digests of all keys. Equal length makes the comparison constant in time; the keys themselves are not kept.
pub(super) struct ApiKeys(Vec<(Option<Box<str>>, [u8; 32])>);

impl ApiKeys {
    pub(super) fn new(keys: &[ApiKey]) -> Self {
        let digest = |key: &ApiKey| (key.name().map(Into::into), Sha256::digest(key.key().expose()).into());
        Self(keys.iter().map(digest).collect())
    }

    /// Whether this is one of the keys. All are compared, whichever it is.
    pub(super) fn contains(&self, presented: &[u8]) -> bool {
        let digest: [u8; 32] = Sha256::digest(presented).into();
        let mut found = Choice::from(0);
        let mut name = None;
        for (this, known) in &self.0 {
            let equal = known.ct_eq(&digest);
            found |= equal;
            if equal.into() {
                name = this.as_deref();
            }
        }
        if let Some(name) = name {
            tracing::debug!(api_key = name, "publisher identified");
        }
        found.into()
    }
}
