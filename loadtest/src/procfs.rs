//! What processes and the kernel use, from `/proc`.

use std::{collections::HashMap, fs};

use serde::{Deserialize, Serialize};

/// What a process and all its descendants have used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Usage {
    /// Nanoseconds of CPU.
    pub(crate) cpu: u64,
    pub(crate) rss: u64,
    /// The proportional set size: shared pages are divided among those who share them.
    pub(crate) pss: u64,
}

/// What the kernel uses for sockets.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Kernel {
    pub(crate) tcp_sockets: u64,
    /// Bytes in the buffers of TCP sockets.
    pub(crate) tcp_buffers: u64,
    /// Bytes of the kernel's own objects, sockets among them.
    pub(crate) slab: u64,
    pub(crate) free: u64,
    pub(crate) total: u64,
}

pub(crate) const PAGE: u64 = 4096;

impl Usage {
    /// What these processes and their descendants use now; those that have ended are missing.
    pub(crate) fn of(roots: &[u32]) -> Self {
        let mut sum = Self::default();
        for pid in family(roots) {
            let one = Self::of_one(pid);
            sum.cpu += one.cpu;
            sum.rss += one.rss;
            sum.pss += one.pss;
        }
        sum
    }

    /// Only the CPU, which is cheap to ask: the memory map of a large process is not.
    pub(crate) fn cpu_of(roots: &[u32]) -> u64 {
        family(roots).into_iter().map(cpu).sum()
    }

    fn of_one(pid: u32) -> Self {
        let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
        Self { cpu: cpu(pid), rss: kilobytes(&rollup, "Rss:"), pss: kilobytes(&rollup, "Pss:") }
    }
}

impl Kernel {
    pub(crate) fn now() -> Self {
        let sockstat = fs::read_to_string("/proc/net/sockstat").unwrap_or_default();
        let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let tcp = sockstat.lines().find(|line| line.starts_with("TCP:")).unwrap_or_default();
        Self {
            tcp_sockets: after(tcp, "alloc"),
            tcp_buffers: after(tcp, "mem") * PAGE,
            slab: kilobytes(&meminfo, "SUnreclaim:"),
            free: kilobytes(&meminfo, "MemAvailable:"),
            total: kilobytes(&meminfo, "MemTotal:"),
        }
    }
}

/// Nanoseconds on a CPU, of all threads that live. `utime` and `stime` are in steps of 10 ms, which is too coarse.
fn cpu(pid: u32) -> u64 {
    let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else { return 0 };
    tasks
        .flatten()
        .filter_map(|task| fs::read_to_string(task.path().join("schedstat")).ok())
        .filter_map(|text| text.split(' ').next()?.parse::<u64>().ok())
        .sum()
}

/// These processes and all that descend from them.
fn family(roots: &[u32]) -> Vec<u32> {
    let mut children: HashMap<u32, Vec<u32>> = HashMap::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        let parent = fs::read_to_string(entry.path().join("stat")).ok().and_then(|stat| parent_in(&stat));
        if let Some(parent) = parent {
            children.entry(parent).or_default().push(pid);
        }
    }
    let mut all = roots.to_owned();
    let mut at = 0;
    while let Some(pid) = all.get(at).copied() {
        at += 1;
        for child in children.get(&pid).into_iter().flatten() {
            if !all.contains(child) {
                all.push(*child);
            }
        }
    }
    all
}

/// A program's name may hold anything, so the fields are counted from its closing parenthesis.
fn parent_in(stat: &str) -> Option<u32> {
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

fn kilobytes(text: &str, name: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok()).unwrap_or_default() * 1024
}

fn after(line: &str, word: &str) -> u64 {
    let mut words = line.split_whitespace().skip_while(|found| *found != word);
    words.nth(1).and_then(|number| number.parse().ok()).unwrap_or_default()
}

/// The machine, for reports.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Machine {
    pub(crate) cpu: String,
    pub(crate) cores: usize,
    pub(crate) memory_gib: f64,
    pub(crate) kernel: String,
}

impl Machine {
    pub(crate) fn this() -> Self {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
        Self {
            cpu: model.map(|(_, name)| name.to_owned()).unwrap_or_default(),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            memory_gib: kilobytes(&meminfo, "MemTotal:") as f64 / f64::from(1 << 30),
            kernel: fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn a_family_is_counted_with_its_children() {
        let mut shell = Command::new("sh").args(["-c", "sleep 60 & sleep 60"]).spawn().unwrap();
        let mut bound = 0;
        while family(&[shell.id()]).len() < 3 {
            std::thread::yield_now();
            bound += 1;
            assert!(bound < 10_000_000, "the shell has no children");
        }
        let usage = Usage::of(&[shell.id()]);
        assert!(usage.rss > 0 && usage.pss > 0 && usage.cpu > 0, "{usage:?}");
        for pid in family(&[shell.id()]).into_iter().skip(1) {
            Command::new("kill").arg(pid.to_string()).status().unwrap();
        }
        shell.kill().unwrap();
        shell.wait().unwrap();
        assert_eq!(Usage::of(&[shell.id()]), Usage::default());
    }

    #[test]
    fn fields_are_found() {
        assert_eq!(parent_in("12 (a ) b) S 7 12 12"), Some(7));
        assert_eq!(after("TCP: inuse 55 orphan 0 tw 475 alloc 56 mem 9", "alloc"), 56);
        assert_eq!(kilobytes("Rss:   12 kB\nPss:  3 kB\n", "Pss:"), 3072);
        let machine = Machine::this();
        assert!(machine.cores > 0 && machine.memory_gib > 0.0 && Kernel::now().slab > 0);
    }
}
