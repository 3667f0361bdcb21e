//! Who may do what: finds and checks tokens, API keys and origins before a connection is taken, and knows the
//! namespaces' rules. Nothing below ever sees a token, and nothing here is ever logged that could be used as one.
//!
//! The rules, in one place:
//! - A token is looked for in `Authorization`, the WebSocket sub-protocols, `?token=` and a cookie, in this order. One
//!   that is not good is always refused; none at all is an anonymous visitor.
//! - `users/42` and all below it is heard by user 42 alone. For other channels the namespace with the longest prefix
//!   decides. A pattern needs permission for everything that it can match, and for being one: each costs a bus more
//!   than a channel.
//! - Without any namespace everybody may subscribe and only a backend publishes; with at least one, a channel that is in
//!   none of them wants a good token and is published to by a backend only.
//! - Without any token key and any API key this is *development mode*: everybody counts as a backend, tokens are signed
//!   with the well-known secret [`DEVELOPMENT_SECRET`], and only this machine's own names are good as `Host` and `Origin`.

mod api_key;
pub mod config;
mod credential;
mod jwks;
mod key;
mod namespace;
mod origin;
mod refusal;
mod secret;
mod token;
mod web_url;

use std::{sync::Arc, time::SystemTime};

use clarion_hub::SlowPolicy;
use clarion_protocol::{Channel, Depth, Interest, Uid, channel::USERS};
use http::{HeaderValue, request::Parts};
use prometheus::{IntCounterVec, Opts, Registry};
use tokio::sync::watch;

pub use config::{ApiKey, Config, DEVELOPMENT_SECRET, Mistake};
pub use credential::{RESUME_PROTOCOL, SUBPROTOCOL, offers};
pub use namespace::{Log, Namespace, Patterns, Publish, Subscribe};
pub use origin::OriginRule;
pub use refusal::{AuthError, Forbidden, Unauthorized};
pub use secret::{HIDDEN, Secret};
pub use web_url::{WebUrl, WebUrlError};

use api_key::ApiKeys;
use jwks::Jwks;
use namespace::Rules;
use origin::{Origins, Verdict};
use token::Verifier;

/// Decides who may come in, hear and speak.
pub struct Auth {
    verifier: Verifier,
    jwks: Option<Arc<Jwks>>,
    api_keys: ApiKeys,
    origins: Origins,
    rules: Rules,
    /// Where a namespace says nothing about patterns.
    patterns: Patterns,
    cookie: Option<String>,
    development: bool,
    metrics: Metrics,
}

/// Who a request comes from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Identity {
    /// The user, if there was a token.
    pub user: Option<Uid>,
    /// When the token ends, and with it the connection.
    pub expires: Option<SystemTime>,
    /// What the token grants where `subscribe = "token"`.
    pub channels: Vec<Interest>,
    /// The sub-protocol to name in the answer to a WebSocket handshake.
    pub subprotocol: Option<&'static str>,
}

/// How a subscription is to be treated, by its namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// What happens when the client is slow.
    pub slow: SlowPolicy,
    /// Whether what its user has not read comes again.
    pub inbox: bool,
}

/// What cannot be set up, although the configuration was judged good before: files change.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// A key.
    #[error("a key of `auth.public_keys` cannot be used: {0}")]
    Key(String),
    /// The client that fetches the key set.
    #[error("no HTTP client for `auth.jwks_url`")]
    Client(#[from] reqwest::Error),
    /// A counter.
    #[error("no metrics")]
    Metrics(#[from] prometheus::Error),
}

impl Auth {
    /// Sets everything up; fetches nothing yet. `insecure` lifts development mode's rule for the `Host`, which a
    /// node that listens on more than loopback could not be reached with.
    ///
    /// # Errors
    /// [`SetupError`].
    pub fn new(
        config: &Config,
        namespaces: Vec<Namespace>,
        insecure: bool,
        registry: &Registry,
    ) -> Result<Arc<Self>, SetupError> {
        let development = config.is_development();
        let jwks = Jwks::new(config)?;
        let verifier = Verifier::new(config, jwks.clone()).map_err(|error| SetupError::Key(error.to_string()))?;
        Ok(Arc::new(Self {
            verifier,
            jwks,
            api_keys: ApiKeys::new(&config.api_keys),
            origins: Origins::new(config.origins.clone(), development, insecure),
            rules: Rules::new(namespaces),
            patterns: config.patterns,
            cookie: config.cookie.clone(),
            development,
            metrics: Metrics::new(registry)?,
        }))
    }

    /// Keeps the issuer's keys fresh. Ends at once where no key set is configured, otherwise never.
    pub async fn run(&self) {
        if let Some(jwks) = &self.jwks {
            Arc::clone(jwks).run().await;
        }
    }

    /// Why tokens cannot be judged yet, for readiness; `None` where no key set is configured.
    pub fn keys_missing(&self) -> Option<watch::Receiver<Option<String>>> {
        self.jwks.as_ref().map(|jwks| jwks.missing())
    }

    /// Whether this is development mode.
    pub fn is_development(&self) -> bool {
        self.development
    }

    /// Checks `Origin` against the list, and in development mode `Host` as well.
    ///
    /// # Errors
    /// [`AuthError::Forbidden`].
    pub fn check_origin(&self, head: &Parts) -> Result<(), AuthError> {
        match self.origins.judge(head) {
            Verdict::NoOrigin | Verdict::Allowed | Verdict::AllowedByStar => Ok(()),
            Verdict::Refused => Err(self.refuse(AuthError::Forbidden { reason: Forbidden::Origin })),
            Verdict::ForeignHost => Err(self.refuse(AuthError::Forbidden { reason: Forbidden::Host })),
        }
    }

    /// The value of `Access-Control-Allow-Origin`, when a page that may has sent the request. With `*` a browser
    /// sends no cookies, so `Access-Control-Allow-Credentials` belongs only to other values.
    pub fn allowed_origin(&self, head: &Parts) -> Option<HeaderValue> {
        self.origins.answer(head)
    }

    /// Finds out who sent a request. May wait for the issuer's keys. Cancel safe.
    ///
    /// # Errors
    /// [`AuthError::Unauthorized`] for a token that is not good, [`AuthError::Unavailable`] while no token can be judged.
    pub async fn identify(&self, head: &Parts) -> Result<Identity, AuthError> {
        let subprotocol = credential::subprotocol(head);
        // A cookie comes along with whatever page made the browser send the request, so that page must be a known one.
        let cookie_allowed = self.origins.judge(head) == Verdict::Allowed;
        let Some(credential) = credential::find(head, self.cookie.as_deref(), cookie_allowed) else {
            return Ok(Identity { subprotocol, ..Identity::default() });
        };
        match self.verifier.verify(&credential.token).await {
            Ok(token) => {
                Ok(Identity { user: Some(token.user), expires: token.expires, channels: token.channels, subprotocol })
            }
            Err(failure) => {
                tracing::debug!(place = credential.place, reason = %failure, "token refused");
                Err(self.refuse(failure.into()))
            }
        }
    }

    /// Whether a request shows a token or an API key, good or not.
    pub fn shows_credential(&self, head: &Parts) -> bool {
        let cookie_allowed = self.origins.judge(head) == Verdict::Allowed;
        head.headers.contains_key(api_key::HEADER)
            || credential::find(head, self.cookie.as_deref(), cookie_allowed).is_some()
    }

    /// Whether a request comes from a backend: it has a good `X-API-Key`, or this is development mode.
    ///
    /// # Errors
    /// [`AuthError::Unauthorized`] for a key that is not good.
    pub fn backend(&self, head: &Parts) -> Result<bool, AuthError> {
        if self.development {
            return Ok(true);
        }
        match head.headers.get(api_key::HEADER) {
            None => Ok(false),
            Some(key) if self.api_keys.contains(key.as_bytes()) => Ok(true),
            Some(_) => Err(self.refuse(AuthError::Unauthorized { reason: Unauthorized::BadApiKey })),
        }
    }

    /// Whether somebody may hear everything that an interest can match; `backend` is what [`Auth::backend`] said.
    ///
    /// # Errors
    /// [`AuthError::Unauthorized`] where signing in may help, [`AuthError::Forbidden`] where it was done and does not.
    pub fn may_subscribe(&self, who: &Identity, backend: bool, interest: &Interest) -> Result<Policy, AuthError> {
        let judged = self.judge_subscribe(who, interest);
        let judged = judged.and_then(|policy| self.judge_pattern(who, backend, interest).map(|()| policy));
        judged.map_err(|error| self.refuse(error))
    }

    /// Whether what a user has not read on their channel comes again.
    #[must_use]
    pub fn has_inbox(&self, channel: &Channel) -> bool {
        channel.user().is_some() && self.rules.of(channel.as_str()).inbox
    }

    /// Whether somebody who may hear what an interest matches may ask for it by a pattern.
    fn judge_pattern(&self, who: &Identity, backend: bool, interest: &Interest) -> Result<(), AuthError> {
        if interest.depth() == Depth::Exact {
            return Ok(());
        }
        for (rule, part) in self.rules.parts(interest) {
            let forbidden = |reason| Err(AuthError::Forbidden { reason });
            match (rule.patterns.unwrap_or(self.patterns), &who.user) {
                (Patterns::Nobody, _) => return forbidden(Forbidden::NoPatterns),
                (Patterns::Anyone, _) | (Patterns::SignedIn, Some(_)) => {}
                _ if backend => {}
                (Patterns::Token, Some(_)) if who.channels.iter().any(|grant| grant.covers(&part)) => {}
                (Patterns::Token, Some(_)) => return forbidden(Forbidden::PatternNotGranted),
                (Patterns::Backend, Some(_)) => return forbidden(Forbidden::PatternsOfBackends),
                (Patterns::Backend, None) => {
                    return Err(AuthError::Unauthorized { reason: Unauthorized::NoApiKeyForPattern });
                }
                (Patterns::SignedIn | Patterns::Token, None) => {
                    return Err(AuthError::Unauthorized { reason: Unauthorized::NoTokenForPattern });
                }
            }
        }
        Ok(())
    }

    fn judge_subscribe(&self, who: &Identity, interest: &Interest) -> Result<Policy, AuthError> {
        let rule = self.rules.of(interest.base());
        let policy = Policy { slow: rule.slow, inbox: rule.inbox };
        if let Some(owner) = interest.user() {
            return match &who.user {
                Some(user) if user.as_str() == owner => Ok(policy),
                Some(_) => Err(AuthError::Forbidden { reason: Forbidden::OtherUser }),
                None => Err(AuthError::Unauthorized { reason: Unauthorized::NoToken }),
            };
        }
        if interest.base() == USERS && interest.depth() != Depth::Exact {
            return Err(AuthError::Forbidden { reason: Forbidden::AllUsers });
        }
        for (rule, part) in self.rules.parts(interest) {
            match (rule.subscribe, &who.user) {
                (Subscribe::Anyone, _) | (Subscribe::SignedIn, Some(_)) => {}
                (Subscribe::SignedIn | Subscribe::Token, None) => {
                    return Err(AuthError::Unauthorized { reason: Unauthorized::NoToken });
                }
                (Subscribe::Token, Some(_)) if who.channels.iter().any(|grant| grant.covers(&part)) => {}
                (Subscribe::Token, Some(_)) => return Err(AuthError::Forbidden { reason: Forbidden::NotGranted }),
            }
        }
        Ok(policy)
    }

    /// Whether somebody may publish to a channel; `backend` is what [`Auth::backend`] said.
    ///
    /// # Errors
    /// [`AuthError::Unauthorized`] where a token or key may help, [`AuthError::Forbidden`] where it does not.
    pub fn may_publish(&self, who: &Identity, backend: bool, channel: &Channel) -> Result<(), AuthError> {
        self.judge_publish(who, backend, channel).map_err(|error| self.refuse(error))
    }

    /// Whether somebody could publish to a channel. A client that only listens has failed at nothing, so a no is not counted.
    pub fn could_publish(&self, who: &Identity, backend: bool, channel: &Channel) -> bool {
        self.judge_publish(who, backend, channel).is_ok()
    }

    fn judge_publish(&self, who: &Identity, backend: bool, channel: &Channel) -> Result<(), AuthError> {
        match (self.rules.of(channel.as_str()).publish, &who.user) {
            _ if backend => Ok(()),
            (Publish::Anyone, _) | (Publish::SignedIn, Some(_)) => Ok(()),
            (Publish::SignedIn, None) => Err(AuthError::Unauthorized { reason: Unauthorized::NoToken }),
            (Publish::Backend, None) => Err(AuthError::Unauthorized { reason: Unauthorized::NoApiKey }),
            (Publish::Backend, Some(_)) => Err(AuthError::Forbidden { reason: Forbidden::BackendOnly }),
        }
    }

    /// Whether there is anything that somebody may publish, which can be said before it is known what: a batch from nobody
    /// who may is not read.
    ///
    /// # Errors
    /// As [`Auth::may_publish`].
    pub fn may_publish_something(&self, who: &Identity, backend: bool) -> Result<(), AuthError> {
        let open = |publish| publish == Publish::Anyone || (publish == Publish::SignedIn && who.user.is_some());
        let signing_in_helps = self.rules.publish().any(|publish| publish == Publish::SignedIn);
        let error = match &who.user {
            _ if backend || self.rules.publish().any(open) => return Ok(()),
            None if signing_in_helps => AuthError::Unauthorized { reason: Unauthorized::NoToken },
            None => AuthError::Unauthorized { reason: Unauthorized::NoApiKey },
            Some(_) => AuthError::Forbidden { reason: Forbidden::BackendOnly },
        };
        Err(self.refuse(error))
    }

    /// Whether somebody may do what only backends do; `backend` is what [`Auth::backend`] said.
    ///
    /// # Errors
    /// [`AuthError::Unauthorized`] where an API key may help, [`AuthError::Forbidden`] for a signed-in user.
    pub fn must_be_backend(&self, who: &Identity, backend: bool) -> Result<(), AuthError> {
        match &who.user {
            _ if backend => Ok(()),
            None => Err(self.refuse(AuthError::Unauthorized { reason: Unauthorized::NoApiKey })),
            Some(_) => Err(self.refuse(AuthError::Forbidden { reason: Forbidden::BackendOnly })),
        }
    }

    fn refuse(&self, error: AuthError) -> AuthError {
        self.metrics.failures.with_label_values(&[error.code()]).inc();
        error
    }
}

struct Metrics {
    failures: IntCounterVec,
}

impl Metrics {
    fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let opts = Opts::new("clarion_auth_failures_total", "Requests refused for who sent them, by reason.");
        let failures = IntCounterVec::new(opts, &["reason"])?;
        registry.register(Box::new(failures.clone()))?;
        Ok(Self { failures })
    }
}

#[cfg(test)]
mod tests;
