//! What cannot be is found before anything is started.

use std::{
    net::{SocketAddr, ToSocketAddrs},
    time::Duration,
};

use crate::{
    args::{Common, Scenario, Token},
    failure::{Failure, Result},
    stamp::STAMP,
};

/// What a run may be unless somebody says `--unbounded`: enough for any measurement, too little to forget one running.
const MOST_CONNECTIONS: u32 = 100_000;
const LONGEST: Duration = Duration::from_secs(3600);
const HIGHEST_RATE: f64 = 1_000_000.0;

impl Scenario {
    pub(crate) fn common(&self) -> &Common {
        match self {
            Self::Idle { common, .. }
            | Self::Connect { common, .. }
            | Self::Fanout { common, .. }
            | Self::Push { common, .. }
            | Self::Mixed { common, .. }
            | Self::Soak { common, .. }
            | Self::Rolling { common, .. } => common,
        }
    }

    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Idle { .. } => "idle",
            Self::Connect { .. } => "connect",
            Self::Fanout { .. } => "fanout",
            Self::Push { .. } => "push",
            Self::Mixed { .. } => "mixed",
            Self::Soak { .. } => "soak",
            Self::Rolling { .. } => "rolling",
        }
    }

    /// Messages or connections a second.
    fn rate(&self) -> Option<f64> {
        match self {
            Self::Idle { .. } => None,
            Self::Connect { rate, .. } => *rate,
            Self::Fanout { pace, .. } | Self::Push { pace, .. } => pace.rate,
            Self::Mixed { mix, .. } | Self::Soak { mix, .. } => Some(mix.rate),
            Self::Rolling { rate, .. } => Some(*rate),
        }
    }

    /// Finds what cannot be, before anything is started.
    pub(crate) fn check(&self) -> Result<()> {
        let common = self.common();
        if (common.payload as usize) < STAMP {
            return Err(Failure::usage(format!("--payload {}: a message has at least {STAMP} bytes", common.payload)));
        }
        if common.connections == 0 || common.workers == 0 {
            return Err(Failure::usage("--connections and --workers are at least 1"));
        }
        if self.rate().is_some_and(|rate| !rate.is_finite() || rate <= 0.0) {
            return Err(Failure::usage("--rate is more than 0"));
        }
        if let Self::Rolling { restart, nodes, .. } = self {
            if !common.target.is_empty() && restart.len() != common.target.len() {
                return Err(Failure::usage("every --target needs its --restart")
                    .remedy("give both as often, in the same order"));
            }
            if common.target.is_empty() && *nodes < 2 {
                return Err(Failure::usage("--nodes is at least 2: somebody must stay"));
            }
        }
        let rate = self.rate().unwrap_or(0.0);
        let above = common.connections > MOST_CONNECTIONS || common.duration > LONGEST || rate > HIGHEST_RATE;
        if above && !common.unbounded {
            return Err(Failure::usage(format!(
                "this is more than {MOST_CONNECTIONS} connections, {HIGHEST_RATE} a second or an hour"
            ))
            .remedy("--unbounded says that it is meant"));
        }
        Ok(())
    }
}

impl Common {
    /// The authorities that subscribers trust, where they speak TLS.
    pub(crate) fn authorities(&self) -> Result<Option<String>> {
        let Some(path) = &self.tls_ca else { return Ok(None) };
        let wrong = |why: String| Failure::usage(format!("--tls-ca {}: {why}", path.display()));
        let text = std::fs::read_to_string(path).map_err(|error| wrong(error.to_string()))?;
        crate::engine::stream::trusting(&text).map_err(wrong)?;
        Ok(Some(text))
    }

    /// The addresses that load goes to, all of this machine unless somebody takes responsibility.
    pub(crate) fn targets(&self) -> Result<Vec<SocketAddr>> {
        self.target.iter().map(|target| self.resolve(target)).collect()
    }

    pub(crate) fn publish_address(&self) -> Result<Option<SocketAddr>> {
        self.publish_to.as_ref().map(|address| self.resolve(address)).transpose()
    }

    fn resolve(&self, name: &str) -> Result<SocketAddr> {
        let found = name.to_socket_addrs().ok().and_then(|mut addresses| addresses.next());
        let address = found.ok_or_else(|| {
            Failure::usage(format!("`{name}` is no address")).remedy("an address is HOST:PORT: 127.0.0.1:8000")
        })?;
        if !address.ip().is_loopback() && !self.i_own_this_target {
            return Err(Failure::usage(format!("{address} is not of this machine"))
                .remedy("load on somebody else's server is an attack; --i-own-this-target says that it is yours"));
        }
        Ok(address)
    }
}

impl Token {
    /// The secret to sign with.
    pub(crate) fn secret(&self) -> Result<Option<String>> {
        match &self.secret_from {
            _ if !self.token => Ok(None),
            None => Ok(Some("development".to_owned())),
            Some(name) => {
                std::env::var(name).map(Some).map_err(|_| Failure::usage(format!("there is no variable {name}")))
            }
        }
    }
}
