//! The `[auth]` table: which tokens are good, which keys publish, which pages may come.

use std::{path::PathBuf, time::Duration};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Patterns, key, origin::OriginRule, secret::Secret, web_url::WebUrl};

/// The secret with which tokens are signed in development mode. It is good nowhere else.
pub const DEVELOPMENT_SECRET: &str = "development";

/// The `[auth]` table. Without any token key and without any API key the broker is in development mode.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The shared secret of HS256, HS384 and HS512 tokens.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jwt_secret: Option<Secret>,
    /// Public keys of RS256, ES256 and EdDSA tokens: each a PEM text, or the path of a file that holds one or more.
    #[schemars(example = ["/etc/clarion/issuer.pem"])]
    pub public_keys: Vec<String>,
    /// Where the issuer publishes its keys.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>", example = "https://issuer.example.com/.well-known/jwks.json")]
    pub jwks_url: Option<WebUrl>,
    /// A file with a JSON Web Key Set, read anew like the URL.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(example = "/etc/clarion/jwks.json")]
    pub jwks_file: Option<PathBuf>,
    /// How often the key set is fetched anew; earlier when its `Cache-Control` says so. Issuers announce a new key
    /// longer than this before they use it, and an unknown key is fetched for at once anyhow.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "Duration")]
    pub jwks_refresh: Duration,
    /// How often at most an unknown key makes us fetch: anybody can invent key names.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "Duration")]
    pub jwks_cooldown: Duration,
    /// How long one fetch may take: a client is waiting for its handshake.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "Duration")]
    pub jwks_timeout: Duration,
    /// A token must name one of these in `aud`. Empty: `aud` is not looked at.
    #[schemars(example = ["push"])]
    pub audience: Vec<String>,
    /// A token must name one of these in `iss`. Empty: `iss` is not looked at.
    #[schemars(example = ["https://issuer.example.com"])]
    pub issuer: Vec<String>,
    /// Refuses tokens without `exp`, whose connections never end by themselves.
    pub require_exp: bool,
    /// By how much the issuer's clock may differ from ours: machines with NTP are far closer.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "Duration")]
    pub leeway: Duration,
    /// The cookie that holds a token. Read only for requests with an allowed `Origin`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(example = &"session")]
    pub cookie: Option<String>,
    /// The keys of those who publish: each a text, or `{ name = "billing", key = "…" }` to tell them apart in logs.
    pub api_keys: Vec<ApiKey>,
    /// The pages that may connect: `https://example.com`, `https://*.example.com`, `null` or `*`. Empty: only pages
    /// of the broker's own host.
    #[schemars(with = "Vec<String>", example = ["https://example.com", "https://*.example.com"])]
    pub origins: Vec<OriginRule>,
    /// Who may subscribe to patterns where a namespace does not say; it follows from the bus.
    #[serde(skip)]
    pub patterns: Patterns,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            jwt_secret: None,
            public_keys: Vec::new(),
            jwks_url: None,
            jwks_file: None,
            jwks_refresh: Duration::from_secs(600),
            jwks_cooldown: Duration::from_secs(30),
            jwks_timeout: Duration::from_secs(5),
            audience: Vec::new(),
            issuer: Vec::new(),
            require_exp: false,
            leeway: Duration::from_secs(5),
            cookie: None,
            api_keys: Vec::new(),
            origins: Vec::new(),
            patterns: Patterns::default(),
        }
    }
}

/// A key that publishes, perhaps with a name for logs.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(untagged, expecting = "a text, or a table with `name` and `key`")]
pub enum ApiKey {
    /// The key alone.
    Key(Secret),
    /// The key and its name.
    Named(NamedKey),
}

/// An API key with the name that logs call it by.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NamedKey {
    /// What logs call it.
    pub name: String,
    /// The key.
    pub key: Secret,
}

impl ApiKey {
    /// The key itself.
    #[must_use]
    pub fn key(&self) -> &Secret {
        match self {
            Self::Key(key) | Self::Named(NamedKey { key, .. }) => key,
        }
    }

    /// What logs call it.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        match self {
            Self::Key(_) => None,
            Self::Named(named) => Some(&named.name),
        }
    }
}

/// A value of the table that cannot work, in words for the person who wrote it. Never holds a secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistake {
    /// The key within `[auth]`.
    pub key: &'static str,
    /// Its value, unless that is a secret.
    pub value: Option<String>,
    /// What is wrong and what was expected.
    pub expected: String,
    /// What to do.
    pub remedy: String,
}

impl Config {
    /// Whether any token key is configured.
    #[must_use]
    pub fn has_token_keys(&self) -> bool {
        self.jwt_secret.is_some() || !self.public_keys.is_empty() || self.jwks_url.is_some() || self.jwks_file.is_some()
    }

    /// Whether nothing is configured that could keep anybody out.
    #[must_use]
    pub fn is_development(&self) -> bool {
        !self.has_token_keys() && self.api_keys.is_empty()
    }

    /// Everything about this table that cannot work, files that it names included.
    #[must_use]
    pub fn mistakes(&self) -> Vec<Mistake> {
        let mut found = Vec::new();
        self.judge_secrets(&mut found);
        self.judge_keys(&mut found);
        // A longer leeway would make `exp` meaningless.
        if self.leeway > MAX_LEEWAY {
            found.push(Mistake {
                key: "leeway",
                value: Some(humantime::format_duration(self.leeway).to_string()),
                expected: "at most 5m".to_owned(),
                remedy: "keep the machines' clocks right with NTP".to_owned(),
            });
        }
        found
    }

    fn judge_secrets(&self, found: &mut Vec<Mistake>) {
        let secret = |key, expected: &str, remedy: &str| Mistake {
            key,
            value: None,
            expected: expected.to_owned(),
            remedy: remedy.to_owned(),
        };
        match self.jwt_secret.as_ref().map(Secret::expose) {
            Some("") => found.push(secret(
                "jwt_secret",
                "a secret, and it is empty",
                "set it, or remove the key and the variable CLARION_JWT_SECRET",
            )),
            Some(DEVELOPMENT_SECRET) => found.push(secret(
                "jwt_secret",
                "a secret that nobody else knows, and this one is in the documentation",
                "make one with `openssl rand -base64 32`",
            )),
            _ => {}
        }
        if self.api_keys.iter().any(|key| key.key().expose().trim().is_empty()) {
            found.push(secret(
                "api_keys",
                "keys, and one of them is empty",
                "remove it, or the variable CLARION_API_KEYS, or the comma too many in it",
            ));
        }
    }

    fn judge_keys(&self, found: &mut Vec<Mistake>) {
        for source in &self.public_keys {
            if let Err(error) = key::from_config(source) {
                found.push(Mistake {
                    key: "public_keys",
                    value: (!key::is_pem(source)).then(|| source.clone()),
                    expected: format!("a PEM public key, or the path of a file with some: {error}"),
                    remedy: "give the issuer's public key, as `openssl pkey -pubout` prints it".to_owned(),
                });
            }
        }
        if let Some(path) = &self.jwks_file
            && let Err(error) = std::fs::read(path)
                .map_err(|e| e.to_string())
                .and_then(|text| key::from_jwks(&text, true).map(|_| ()).map_err(|e| e.to_string()))
        {
            found.push(Mistake {
                key: "jwks_file",
                value: Some(path.display().to_string()),
                expected: format!("a readable JSON Web Key Set: {error}"),
                remedy: "give a file of the form {\"keys\":[…]}".to_owned(),
            });
        }
        if self.jwks_url.is_some() && self.jwks_file.is_some() {
            found.push(Mistake {
                key: "jwks_file",
                value: self.jwks_file.as_ref().map(|path| path.display().to_string()),
                expected: "only one of `jwks_url` and `jwks_file`".to_owned(),
                remedy: "remove one of the two".to_owned(),
            });
        }
    }
}

const MAX_LEEWAY: Duration = Duration::from_secs(300);
