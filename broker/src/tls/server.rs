//! The server's side: what it proves itself with, renewed when the files change, and what became of handshakes.

use std::{fmt, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use prometheus::{IntCounter, IntCounterVec, IntGauge, Opts, Registry};
use rustls::{
    HandshakeKind, ServerConfig,
    crypto::aws_lc_rs,
    server::{ClientHello, NoServerSessionStorage, ResolvesServerCert},
    sign::CertifiedKey,
};
use tokio::{
    net::TcpStream,
    task::spawn_blocking,
    time::{MissedTickBehavior, interval, timeout},
};

use super::{
    pair::{Digest, Files, Pair},
    settings::{Config, Mistake},
    stream::{Refusal, TlsStream},
};

/// Speaks TLS to clients with the pair that the files hold.
pub struct Server {
    pub(super) config: Arc<ServerConfig>,
    current: Arc<Current>,
    files: Files,
    /// Of what the files held when they were last taken.
    digest: Mutex<Digest>,
    reload: Duration,
    patience: Duration,
    metrics: Metrics,
}

impl Server {
    /// Reads the files; `None` where TLS is off. A handshake may take `patience`.
    ///
    /// # Errors
    /// [`Mistake`], and a registry that knows one of the names.
    pub fn new(config: &Config, patience: Duration, registry: &Registry) -> anyhow::Result<Option<Arc<Self>>> {
        let Some(files) = config.files() else { return Ok(None) };
        let contents = files.read()?;
        let pair = contents.pair(&files)?;
        let metrics = Metrics::new(registry)?;
        metrics.expiry.set(pair.validity.ends);
        let current = Arc::new(Current(ArcSwap::new(pair.certified)));
        let config_of_rustls = rustls_config(Arc::clone(&current))?;
        Ok(Some(Arc::new(Self {
            config: Arc::new(config_of_rustls),
            current,
            files,
            digest: Mutex::new(contents.digest()),
            reload: config.reload,
            patience,
            metrics,
        })))
    }

    /// Shakes hands with a client; `None` when that did not come to TLS. Counted by how it ended.
    pub async fn accept(&self, socket: TcpStream) -> Option<TlsStream> {
        let outcome = match timeout(self.patience, TlsStream::accept(socket, Arc::clone(&self.config))).await {
            Ok(Ok(stream)) => {
                let resumed = stream.handshake() == Some(HandshakeKind::Resumed);
                (if resumed { &self.metrics.resumed } else { &self.metrics.full }).inc();
                return Some(stream);
            }
            Ok(Err(Refusal::PlainHttp)) => &self.metrics.plain_http,
            Ok(Err(Refusal::Failed(error))) => {
                tracing::debug!(%error, "a TLS handshake failed");
                &self.metrics.failed
            }
            Err(_) => &self.metrics.timeout,
        };
        outcome.inc();
        None
    }

    /// Looks at the files for ever. Their contents are compared: Kubernetes swaps whole directories behind links.
    pub async fn watch(&self) {
        let mut looks = interval(self.reload);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut trouble = Trouble::default();
        loop {
            looks.tick().await;
            let (files, known) = (self.files.clone(), *self.digest.lock());
            let looked = spawn_blocking(move || look(&files, known)).await;
            match looked.unwrap_or(Ok(Look::Same)) {
                Ok(Look::Same) => trouble = Trouble::default(),
                Ok(Look::Changed(pair, digest)) => {
                    trouble = Trouble::default();
                    self.take(pair, digest);
                }
                Err(mistake) if trouble.is_worth_telling(&mistake) => {
                    self.metrics.not_loaded.inc();
                    tracing::error!(%mistake, "the certificate's files changed and cannot be used; the pair before stays");
                }
                Err(_) => {}
            }
        }
    }

    fn take(&self, pair: Pair, digest: Digest) {
        if let Some(doubt) = pair.doubt_now() {
            tracing::warn!("{doubt}");
        }
        tracing::info!(expires = pair.validity.ends, "a new certificate is in use");
        self.metrics.loaded.inc();
        self.metrics.expiry.set(pair.validity.ends);
        self.current.0.store(pair.certified);
        *self.digest.lock() = digest;
    }
}

/// What a look at the files found.
enum Look {
    Same,
    Changed(Pair, Digest),
}

fn look(files: &Files, known: Digest) -> Result<Look, Mistake> {
    let contents = files.read()?;
    let digest = contents.digest();
    if digest == known { Ok(Look::Same) } else { Ok(Look::Changed(contents.pair(files)?, digest)) }
}

/// What was wrong at the last looks.
#[derive(Default)]
struct Trouble {
    seen: Option<Mistake>,
    told: bool,
}

impl Trouble {
    /// Once for each mistake, at the second look: at the first the files may be in the middle of being written.
    fn is_worth_telling(&mut self, mistake: &Mistake) -> bool {
        if self.seen.as_ref() != Some(mistake) {
            *self = Self { seen: Some(mistake.clone()), told: false };
            return false;
        }
        !std::mem::replace(&mut self.told, true)
    }
}

fn rustls_config(current: Arc<Current>) -> Result<ServerConfig, rustls::Error> {
    let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_cert_resolver(current);
    // What the accept loop speaks; clients that name nothing get it too.
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    // Nothing is kept for sessions that may come back: their tickets hold it, encrypted with a key of this process that
    // changes every six hours. One a handshake is enough, since whoever comes back gets the next.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.ticketer = aws_lc_rs::Ticketer::new()?;
    config.send_tls13_tickets = 1;
    Ok(config)
}

/// The certificate of this moment, whatever name a client asks for.
struct Current(ArcSwap<CertifiedKey>);

impl fmt::Debug for Current {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Current")
    }
}

impl ResolvesServerCert for Current {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.load_full())
    }
}

/// What is counted, once TLS is on.
struct Metrics {
    full: IntCounter,
    resumed: IntCounter,
    failed: IntCounter,
    timeout: IntCounter,
    plain_http: IntCounter,
    loaded: IntCounter,
    not_loaded: IntCounter,
    expiry: IntGauge,
}

impl Metrics {
    fn new(registry: &Registry) -> prometheus::Result<Self> {
        let counters = |name: &str, help: &str| -> prometheus::Result<IntCounterVec> {
            let counters = IntCounterVec::new(Opts::new(name, help), &["outcome"])?;
            registry.register(Box::new(counters.clone()))?;
            Ok(counters)
        };
        let handshakes = counters("clarion_tls_handshakes_total", "TLS handshakes with clients, by outcome.")?;
        let reloads = counters("clarion_tls_reloads_total", "Changes of the certificate's files, by outcome.")?;
        let expiry = IntGauge::new(
            "clarion_tls_certificate_expiry_timestamp_seconds",
            "Until when the certificate in use is good, in seconds since 1970.",
        )?;
        registry.register(Box::new(expiry.clone()))?;
        Ok(Self {
            full: handshakes.with_label_values(&["full"]),
            resumed: handshakes.with_label_values(&["resumed"]),
            failed: handshakes.with_label_values(&["failed"]),
            timeout: handshakes.with_label_values(&["timeout"]),
            plain_http: handshakes.with_label_values(&["plain_http"]),
            loaded: reloads.with_label_values(&["loaded"]),
            not_loaded: reloads.with_label_values(&["failed"]),
            expiry,
        })
    }
}
