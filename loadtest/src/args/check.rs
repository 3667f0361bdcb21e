//! What cannot be is found before anything is started.

use std::{
    net::{SocketAddr, ToSocketAddrs},
    time::Duration,
};

use crate::{
    args::{Common, Scenario, Token},
    failure::{Failure, Result},
    limits::{self, Needs},
    run::PENDING,
    stamp::STAMP,
};

/// What a run may be unless somebody says `--unbounded`: enough for any measurement, too little to forget one running.
const MOST_CONNECTIONS: u32 = 100_000;
/// Channels of each connection that only is there.
pub(crate) const OTHERS: u32 = 100;
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

    /// Nodes to start.
    pub(crate) fn nodes(&self) -> usize {
        // Somebody must stay while another one goes, and it shows most when there is a third.
        let few = if let Self::Rolling { .. } = self { 3 } else { 1 };
        self.common().nodes.unwrap_or(few)
    }

    /// All connections that will stand at once.
    pub(crate) fn connections(&self) -> u32 {
        let others = match self {
            Self::Connect { bystanders, .. } => *bystanders,
            Self::Fanout { pace, .. } | Self::Push { pace, .. } => pace.other_channels.div_ceil(OTHERS),
            Self::Idle { .. } | Self::Mixed { .. } | Self::Soak { .. } | Self::Rolling { .. } => 0,
        };
        self.common().connections.saturating_add(others)
    }

    /// Processes that hold them.
    pub(crate) fn workers(&self) -> usize {
        let common = self.common();
        let few = u64::from(self.connections()).div_ceil(limits::per_worker().max(1)).max(1);
        // The bystanders' has nothing to do with the storm.
        let own = usize::from(matches!(self, Self::Connect { bystanders: 1.., .. }));
        common.workers.unwrap_or_else(|| (few as usize + own).max(common.worker_at.len()))
    }

    /// What the machine must have room for.
    pub(crate) fn needs(&self) -> Needs {
        let common = self.common();
        let pending = if let Self::Connect { pending, .. } = self { *pending } else { PENDING };
        let here = common.worker_command.is_empty() && common.worker_at.is_empty();
        Needs {
            connections: u64::from(self.connections()),
            // Workers elsewhere look after themselves.
            workers: if here { self.workers() as u64 } else { 0 },
            nodes: if common.target.is_empty() { self.nodes() as u64 } else { 0 },
            pending: u64::from(pending),
        }
    }

    /// Messages or connections a second.
    fn rate(&self) -> Option<f64> {
        match self {
            Self::Idle { rate, .. } | Self::Connect { rate, .. } => *rate,
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
        let zero = [common.workers, common.nodes].contains(&Some(0)) || common.shards == Some(0);
        if common.connections == 0 || zero {
            return Err(Failure::usage("--connections, --workers, --nodes and --shards are at least 1"));
        }
        if self.rate().is_some_and(|rate| !rate.is_finite() || rate <= 0.0) {
            return Err(Failure::usage("--rate is more than 0"));
        }
        if let Self::Rolling { restart, .. } = self {
            if !common.target.is_empty() && restart.len() != common.target.len() {
                return Err(Failure::usage("every --target needs its --restart")
                    .remedy("give both as often, in the same order"));
            }
            if common.target.is_empty() && self.nodes() < 2 {
                return Err(Failure::usage("--nodes is at least 2: somebody must stay"));
            }
        }
        if let Self::Fanout { channels, stalled, pace, .. } = self
            && pace.rate.is_none()
            && (*channels == 0
                || *channels > 1 && *stalled > 0
                || !u64::from(common.connections).is_multiple_of(u64::from(*channels) * self.workers() as u64))
        {
            return Err(Failure::usage("a window counts deliveries, so every channel must have as many subscribers")
                .remedy(
                    "make --connections a multiple of --channels times --workers, without --stalled; or say a --rate",
                ));
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
    /// The secret that a broker in development mode takes.
    pub(crate) const DEVELOPMENT: &str = "development";

    /// The secret to sign with.
    pub(crate) fn secret(&self) -> Result<Option<String>> {
        match &self.secret_from {
            _ if !self.token => Ok(None),
            None => Ok(Some(Self::DEVELOPMENT.to_owned())),
            Some(name) => secret_in(name).map(Some),
        }
    }
}

/// What a variable holds: secrets are no arguments, since `ps` shows those.
pub(crate) fn secret_in(name: &str) -> Result<String> {
    std::env::var(name).map_err(|_| Failure::usage(format!("there is no variable {name}")))
}
