//! What the kernel lets a process have, and what to change where that is too little.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Descriptors that a process needs beside its connections.
const SPARE: u64 = 64;

/// Raises the limit of open files as far as this user may.
pub(crate) fn raise_descriptors() {
    let limit = getrlimit(Resource::Nofile);
    // Where it is refused, the old limit stays, and `per_process` tells it.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
}

/// Connections that one process can hold.
pub(crate) fn per_process() -> u64 {
    getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX).saturating_sub(SPARE)
}

/// What is missing for this many connections from this machine to one address, in words.
pub(crate) fn missing(connections: u64, workers: u64) -> Vec<String> {
    let mut missing = Vec::new();
    let each = connections.div_ceil(workers.max(1));
    if each > per_process() {
        let needed = connections.div_ceil(per_process().max(1));
        missing.push(format!(
            "{each} connections in one process need {} descriptors, and `ulimit -Hn` is {}: use --workers {needed}, or raise it",
            each + SPARE,
            per_process() + SPARE
        ));
    }
    // Both ends are on this machine when the target is loopback.
    if let Some(files) = read_number("/proc/sys/fs/file-max")
        && files < 2 * connections
    {
        missing.push(format!(
            "both ends need {} open files: sysctl -w fs.file-max={}",
            2 * connections,
            3 * connections
        ));
    }
    missing
}

fn read_number(path: &str) -> Option<u64> {
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_said_with_the_remedy() {
        assert!(missing(10, 1).is_empty());
        let many = per_process().saturating_mul(3);
        if many < u64::MAX / 4 {
            let text = missing(many, 1).join("\n");
            assert!(text.contains("--workers 3"), "{text}");
        }
    }
}
