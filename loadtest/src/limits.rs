//! What the kernel lets a machine and a process have, what to change where that is too little, and how near it is.

use std::fs;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::{
    failure::{Failure, Result},
    procfs::Kernel,
};

/// Descriptors that a process needs beside its connections.
const SPARE: u64 = 64;

/// The same of a server: its listeners, its log, its connections to a bus.
const SERVER_SPARE: u64 = 256;

/// Threads of a node of a server and of a worker, at most: what the machine must have room for.
const THREADS: u64 = 16;

/// Connections from one source address of a worker.
pub(crate) const PER_SOURCE: u32 = 4_000;

/// What a run is going to hold.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Needs {
    pub(crate) connections: u64,
    /// None when they run elsewhere.
    pub(crate) workers: u64,
    /// Nodes of the server that are started here; none when it runs elsewhere.
    pub(crate) nodes: u64,
    /// Handshakes that every worker has under way at once.
    pub(crate) pending: u64,
}

/// Something that the machine has too little of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Missing {
    what: String,
    remedy: Remedy,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Remedy {
    /// Another flag, or a limit that only somebody else can raise.
    Say(String),
    Sysctl {
        name: &'static str,
        value: String,
    },
}

/// How much of something is in use.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Used {
    /// As it is called in a report.
    pub(crate) figure: &'static str,
    /// As it is called where it can be changed.
    pub(crate) name: &'static str,
    pub(crate) percent: f64,
}

/// Raises the limit of open files as far as this user may.
pub(crate) fn raise_descriptors() {
    let limit = getrlimit(Resource::Nofile);
    // Where it is refused, the old limit stays, and `per_process` tells it.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
}

/// Connections that one worker can hold.
pub(crate) fn per_worker() -> u64 {
    per_process().saturating_sub(SPARE)
}

fn per_process() -> u64 {
    getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX)
}

/// Makes room for a run, or says all that is in its way: its own limits are raised where that is allowed, and the machine's
/// where somebody has said so.
pub(crate) fn make_room(needs: &Needs, set_sysctls: bool) -> Result<()> {
    let sides = [(needs.workers, SPARE), (needs.nodes, SERVER_SPARE)].into_iter().filter(|(count, _)| *count > 0);
    let most = sides.map(|(count, spare)| needs.connections.div_ceil(count) + spare).max().unwrap_or(0);
    if most > per_process() {
        // Only root may, and not everywhere; children inherit it.
        let _ = setrlimit(Resource::Nofile, Rlimit { current: Some(most), maximum: Some(most) });
    }
    let mut missing = missing(needs);
    if set_sysctls {
        missing.retain(|one| !one.set());
    }
    if missing.is_empty() {
        return Ok(());
    }
    let whats: Vec<_> = missing.iter().map(|one| one.what.clone()).collect();
    let remedies: Vec<_> = missing.iter().map(Missing::remedy).collect();
    Err(Failure::unavailable(whats.join("\n")).remedy(remedies.join("\n")))
}

/// What is missing for a run on this machine.
pub(crate) fn missing(needs: &Needs) -> Vec<Missing> {
    let mut missing = Vec::new();
    descriptors(needs, &mut missing);
    let sockets = needs.connections * (u64::from(needs.nodes > 0) + u64::from(needs.workers > 0));
    let mut at_least = |name: &'static str, needed: u64, what: String| {
        if number(name, 0).is_some_and(|have| have < needed) {
            missing.push(Missing { what, remedy: Remedy::Sysctl { name, value: needed.to_string() } });
        }
    };
    let open = number("fs.file-nr", 0).unwrap_or(0);
    let files = open + sockets + (needs.nodes + needs.workers) * SERVER_SPARE;
    at_least("fs.file-max", files, format!("{files} files will be open on this machine, and fs.file-max is less"));
    // A firewall that has no rule for it follows nothing, and then its table is empty whatever is open.
    if number("net.netfilter.nf_conntrack_count", 0).is_some_and(|count| count > 0) {
        let what =
            format!("{} connections will be tracked, and net.netfilter.nf_conntrack_max is less", needs.connections);
        at_least("net.netfilter.nf_conntrack_max", needs.connections, what);
    }
    let threads = (needs.nodes + needs.workers) * THREADS + tasks().unwrap_or(0);
    for name in ["kernel.threads-max", "kernel.pid_max"] {
        at_least(name, threads, format!("up to {threads} threads will run, and {name} is less"));
    }
    let backlog = (needs.pending * needs.workers).div_ceil(needs.nodes.max(1));
    at_least(
        "net.core.somaxconn",
        backlog,
        format!("{backlog} handshakes may wait at one node, and net.core.somaxconn is less"),
    );
    ports(&mut missing);
    missing
}

fn descriptors(needs: &Needs, missing: &mut Vec<Missing>) {
    let limit = per_process();
    let sides = [("worker", needs.workers, SPARE, "--workers"), ("node", needs.nodes, SERVER_SPARE, "--nodes")];
    for (side, count, spare, flag) in sides.into_iter().filter(|(_, count, ..)| *count > 0) {
        let each = needs.connections.div_ceil(count) + spare;
        if each > limit {
            let enough = needs.connections.div_ceil(limit.saturating_sub(spare).max(1));
            missing.push(Missing {
                what: format!("a {side} needs {each} descriptors, and `ulimit -Hn` is {limit}"),
                remedy: Remedy::Say(format!("use {flag} {enough}, or raise it to {each}")),
            });
        }
    }
}

fn ports(missing: &mut Vec<Missing>) {
    const RANGE: &str = "net.ipv4.ip_local_port_range";
    if let (Some(first), Some(last)) = (number(RANGE, 0), number(RANGE, 1))
        && last.saturating_sub(first) < u64::from(PER_SOURCE)
    {
        let what = format!("{PER_SOURCE} connections leave from one address, and {RANGE} has {first} to {last} only");
        missing.push(Missing { what, remedy: Remedy::Sysctl { name: RANGE, value: "32768 60999".to_owned() } });
    }
}

impl Missing {
    fn remedy(&self) -> String {
        match &self.remedy {
            Remedy::Say(text) => text.clone(),
            Remedy::Sysctl { name, value } => format!("sysctl -w {name}='{value}' (or --set-sysctls, as root)"),
        }
    }

    /// Sets it; whether that was enough.
    fn set(&self) -> bool {
        match &self.remedy {
            Remedy::Say(_) => false,
            Remedy::Sysctl { name, value } => fs::write(path(name), value).is_ok(),
        }
    }
}

/// How much is in use of all that has an end, the nearest to its end first.
pub(crate) fn used() -> Vec<Used> {
    let percent = |used: Option<u64>, limit: Option<u64>| match (used, limit) {
        (Some(used), Some(limit)) if limit > 0 => Some(used as f64 * 100.0 / limit as f64),
        _ => None,
    };
    let kernel = Kernel::now();
    let all = [
        ("memory_used_percent", "memory", percent(kernel.total.checked_sub(kernel.free), Some(kernel.total))),
        ("file_max_used_percent", "fs.file-max", percent(number("fs.file-nr", 0), number("fs.file-max", 0))),
        (
            "tcp_mem_used_percent",
            "net.ipv4.tcp_mem",
            percent(Some(kernel.tcp_buffers / crate::procfs::PAGE), number("net.ipv4.tcp_mem", 2)),
        ),
        (
            "conntrack_used_percent",
            "net.netfilter.nf_conntrack_max",
            percent(number("net.netfilter.nf_conntrack_count", 0), number("net.netfilter.nf_conntrack_max", 0)),
        ),
        ("threads_used_percent", "kernel.pid_max", percent(tasks(), number("kernel.pid_max", 0))),
    ];
    let mut used: Vec<_> =
        all.into_iter().filter_map(|(figure, name, percent)| Some(Used { figure, name, percent: percent? })).collect();
    used.sort_by(|one, other| other.percent.total_cmp(&one.percent));
    used
}

/// Threads and processes that there are.
fn tasks() -> Option<u64> {
    let text = fs::read_to_string("/proc/loadavg").ok()?;
    text.split(' ').nth(3)?.split_once('/')?.1.parse().ok()
}

fn path(name: &str) -> String {
    format!("/proc/sys/{}", name.replace('.', "/"))
}

/// One of the numbers of a sysctl, where there is such a one. What is greater than any number is no limit.
fn number(name: &str, place: usize) -> Option<u64> {
    let text = fs::read_to_string(path(name)).ok()?;
    text.split_whitespace().nth(place)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn little_needs_nothing() {
        let needs = Needs { connections: 10, workers: 1, nodes: 1, pending: 64 };
        assert_eq!(missing(&needs), []);
        make_room(&needs, false).unwrap();
    }

    #[test]
    fn what_is_missing_is_said_with_the_remedy() {
        let limit = per_process();
        if limit >= u64::MAX / 8 {
            return;
        }
        let connections = (limit - SERVER_SPARE) * 3;
        let text = |needs: Needs| missing(&needs).iter().map(Missing::remedy).collect::<Vec<_>>().join("\n");
        let one = text(Needs { connections, workers: 1, nodes: 1, pending: 64 });
        assert!(one.contains("--workers 3") && one.contains("--nodes 3"), "{one}");
        let enough = text(Needs { connections, workers: 3, nodes: 3, pending: 64 });
        assert!(!enough.contains("--workers") && !enough.contains("--nodes"), "{enough}");
        let handshakes = text(Needs { connections: 1, workers: 1, nodes: 1, pending: 1 << 40 });
        assert!(handshakes.contains(&format!("net.core.somaxconn='{}'", 1_u64 << 40)), "{handshakes}");
    }

    #[test]
    fn what_is_used_is_known_and_sorted() {
        let used = used();
        assert!(used.iter().any(|one| one.figure == "memory_used_percent" && one.percent > 0.0), "{used:?}");
        assert!(used.is_sorted_by(|one, other| one.percent >= other.percent), "{used:?}");
    }
}
