//! The issuer's published keys: fetched at start, kept fresh politely, and fetched anew when a token names one that
//! is not here. Once there were keys they go on being good while the issuer cannot be reached.

use std::{path::PathBuf, sync::Arc, time::Duration};

use arc_swap::ArcSwapOption;
use http::{HeaderMap, StatusCode, header};
use jsonwebtoken::{Algorithm, AlgorithmFamily};
use parking_lot::Mutex;
use reqwest::Client;
use tokio::{sync::watch, time::Instant};
use url::Url;

use super::{
    config::Config,
    key::{self, Key},
};

/// Larger than any key set that was seen.
const MAX_BYTES: usize = 256 * 1024;
/// The first pause after a failure; it doubles up to [`MAX_BACKOFF`].
const MIN_BACKOFF: Duration = Duration::from_secs(1);
const MAX_BACKOFF: Duration = Duration::from_secs(60);
/// No `Cache-Control` makes us fetch more often than this.
const MIN_REFRESH: Duration = Duration::from_secs(30);

/// The keys of one issuer.
pub(super) struct Jwks {
    source: Source,
    keys: ArcSwapOption<Vec<Key>>,
    refresh: Duration,
    cooldown: Duration,
    /// Held during a fetch, so that there is one at a time.
    fetching: tokio::sync::Mutex<Fetched>,
    /// When a token last made us fetch.
    demanded: Mutex<Option<Instant>>,
    /// Changes with every fetch, whatever came of it.
    attempts: watch::Sender<u64>,
    /// Why there are no keys at all, while that is so.
    missing: watch::Sender<Option<String>>,
}

enum Source {
    Url { client: Client, url: Url },
    File(PathBuf),
}

#[derive(Default)]
struct Fetched {
    etag: Option<header::HeaderValue>,
    failures: u32,
}

/// Why a fetch brought nothing. Never names the address, which may hold a password.
#[derive(Debug, thiserror::Error)]
enum FetchError {
    #[error("it cannot be reached")]
    Http(#[source] reqwest::Error),
    #[error("it answers {0}")]
    Status(StatusCode),
    #[error("it is larger than {MAX_BYTES} bytes")]
    TooLarge,
    #[error("the file cannot be read")]
    File(#[from] std::io::Error),
    #[error(transparent)]
    Keys(#[from] key::KeyError),
}

impl Jwks {
    /// Made without fetching anything; `None` where no key set is configured.
    pub(super) fn new(config: &Config) -> Result<Option<Arc<Self>>, reqwest::Error> {
        let source = match (&config.jwks_url, &config.jwks_file) {
            (Some(url), _) => Source::Url {
                client: client(config.jwks_timeout, url.expose().scheme() == "https")?,
                url: url.expose().clone(),
            },
            (None, Some(path)) => Source::File(path.clone()),
            (None, None) => return Ok(None),
        };
        Ok(Some(Arc::new(Self {
            source,
            keys: ArcSwapOption::empty(),
            refresh: config.jwks_refresh,
            cooldown: config.jwks_cooldown,
            fetching: tokio::sync::Mutex::default(),
            demanded: Mutex::default(),
            attempts: watch::Sender::new(0),
            missing: watch::Sender::new(Some("the token keys (JWKS) were not loaded yet".to_owned())),
        })))
    }

    /// Why there are no keys yet, for readiness.
    pub(super) fn missing(&self) -> watch::Receiver<Option<String>> {
        self.missing.subscribe()
    }

    /// Whether a key for this algorithm can be among them at all: what is published at an address is no shared secret.
    pub(super) fn may_hold(&self, algorithm: Algorithm) -> bool {
        matches!(self.source, Source::File(_)) || algorithm.family() != AlgorithmFamily::Hmac
    }

    /// The keys, fetched anew first when `enough` says that those here will not do and it is not too soon.
    /// `None` when there never were any. Cancel safe: a fetch goes on without its caller.
    pub(super) async fn keys(self: &Arc<Self>, enough: impl Fn(&[Key]) -> bool) -> Option<Arc<Vec<Key>>> {
        let keys = self.keys.load_full();
        if keys.as_ref().is_some_and(|keys| enough(keys)) {
            return keys;
        }
        if self.may_demand(keys.is_some()) {
            let this = Arc::clone(self);
            // Fails only when the runtime is going down, and then what is here has to do.
            let _ = tokio::spawn(async move { this.fetch().await }).await;
        } else {
            self.wait_for_fetch().await;
        }
        self.keys.load_full()
    }

    /// Waits for the fetch that is under way, if there is one.
    async fn wait_for_fetch(&self) {
        let mut attempts = self.attempts.subscribe();
        // A fetch unlocks before it counts itself, so either this sees it locked and is woken, or it has ended.
        if self.fetching.try_lock().is_err() {
            // Fails only when the sender is gone, and we hold it.
            let _ = attempts.changed().await;
        }
    }

    /// Takes the right to fetch on a token's demand. Anybody can make up tokens, so it is given rarely; more often
    /// while there are no keys at all, since then nobody can sign in.
    fn may_demand(&self, loaded: bool) -> bool {
        let pause = if loaded { self.cooldown } else { self.cooldown.min(MIN_BACKOFF) };
        let now = Instant::now();
        let mut demanded = self.demanded.lock();
        let may = demanded.is_none_or(|last| now.duration_since(last) >= pause);
        if may {
            *demanded = Some(now);
        }
        may
    }

    /// Fetches now and again, for ever.
    pub(super) async fn run(self: Arc<Self>) {
        loop {
            let pause = self.fetch().await;
            // Nodes that started together should not come back together.
            tokio::time::sleep(pause.mul_f64(rand::random_range(0.8..1.0))).await;
        }
    }

    /// Fetches once, and says when it would be polite to come again.
    async fn fetch(&self) -> Duration {
        let mut fetched = self.fetching.lock().await;
        let pause = match self.load(&mut fetched).await {
            Ok(pause) => {
                fetched.failures = 0;
                self.missing.send_if_modified(|missing| missing.take().is_some());
                pause
            }
            Err(error) => {
                let pause = (MIN_BACKOFF * 2u32.saturating_pow(fetched.failures.min(16))).min(MAX_BACKOFF);
                fetched.failures += 1;
                self.report(&error, pause);
                pause
            }
        };
        // Unlocked first, so that whoever this wakes sees that no fetch is under way.
        drop(fetched);
        self.attempts.send_modify(|attempts| *attempts += 1);
        pause
    }

    fn report(&self, error: &FetchError, pause: Duration) {
        let known = self.keys.load().as_ref().map_or(0, |keys| keys.len());
        let cause = std::error::Error::source(error).map(ToString::to_string);
        tracing::warn!(%error, cause, known, ?pause, "token keys (JWKS) not loaded");
        let text = format!("the token keys (JWKS) were never loaded: {error}");
        self.missing.send_if_modified(|missing| missing.is_some() && missing.replace(text.clone()) != Some(text));
    }

    async fn load(&self, fetched: &mut Fetched) -> Result<Duration, FetchError> {
        match &self.source {
            Source::Url { client, url } => self.load_url(client, url, fetched).await,
            Source::File(path) => {
                self.keep(key::from_jwks(&tokio::fs::read(path).await?, true)?);
                Ok(self.refresh)
            }
        }
    }

    async fn load_url(&self, client: &Client, url: &Url, fetched: &mut Fetched) -> Result<Duration, FetchError> {
        let mut request = client.get(url.clone()).header(header::ACCEPT, "application/jwk-set+json, application/json");
        if let Some(etag) = &fetched.etag {
            request = request.header(header::IF_NONE_MATCH, etag);
        }
        let mut response = request.send().await.map_err(without_url)?;
        let pause = max_age(response.headers())
            .map_or(self.refresh, |age| age.clamp(MIN_REFRESH.min(self.refresh), self.refresh));
        match response.status() {
            StatusCode::OK => {}
            StatusCode::NOT_MODIFIED if fetched.etag.is_some() => return Ok(pause),
            status => return Err(FetchError::Status(status)),
        }
        let etag = response.headers().get(header::ETAG).cloned();
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(without_url)? {
            body.extend_from_slice(&chunk);
            if body.len() > MAX_BYTES {
                return Err(FetchError::TooLarge);
            }
        }
        self.keep(key::from_jwks(&body, false)?);
        fetched.etag = etag;
        Ok(pause)
    }

    fn keep(&self, keys: Vec<Key>) {
        tracing::debug!(keys = keys.len(), "token keys (JWKS) loaded");
        self.keys.store(Some(Arc::new(keys)));
    }
}

fn without_url(error: reqwest::Error) -> FetchError {
    FetchError::Http(error.without_url())
}

fn client(timeout: Duration, https_only: bool) -> Result<Client, reqwest::Error> {
    // The binary has installed one; a library test may not have. A second installation is refused and changes nothing.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    Client::builder()
        .timeout(timeout)
        .https_only(https_only)
        .tls_built_in_root_certs(https_only)
        .redirect(reqwest::redirect::Policy::limited(3))
        .user_agent(concat!("clarion/", env!("CARGO_PKG_VERSION")))
        .build()
}

/// What `Cache-Control` allows, if it says a time.
fn max_age(headers: &HeaderMap) -> Option<Duration> {
    let lines = headers.get_all(header::CACHE_CONTROL).into_iter().filter_map(|line| line.to_str().ok());
    let mut directives = lines.flat_map(|line| line.split(',')).map(str::trim);
    directives.find_map(|directive| directive.strip_prefix("max-age=")?.parse().ok()).map(Duration::from_secs)
}
