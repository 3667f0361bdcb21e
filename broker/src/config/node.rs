//! A node's name when none is given.

use std::fs;

use clarion_protocol::NodeName;
use rand::{Rng, distr::Alphanumeric};

/// The random part keeps apart the processes of one machine, and a node from its predecessor of the same name.
const RANDOM: usize = 6;
/// What of the host's name still fits beside it.
const HOST: usize = 64 - RANDOM - 1;

/// The host's name and a random part.
pub(super) fn random_name() -> NodeName {
    let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let random: String = rand::rng().sample_iter(Alphanumeric).take(RANDOM).map(char::from).collect();
    let name = format!("{}-{}", clean(&host), random.to_ascii_lowercase());
    NodeName::parse(&name).expect("a cleaned host name and letters are a node's name")
}

fn clean(host: &str) -> String {
    let good = |c: char| if c.is_ascii_alphanumeric() || c == '-' { c } else { '-' };
    // The first label: what follows says where the machine is, not which.
    let label = host.trim().split('.').next().unwrap_or_default();
    let clean: String = label.chars().take(HOST).map(good).collect();
    if clean.is_empty() { "node".to_owned() } else { clean }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hosts_name_becomes_a_nodes() {
        assert_eq!(clean("web-1.example.com\n"), "web-1");
        assert_eq!(clean("größe_1"), "gr--e-1");
        assert_eq!(clean(""), "node");
        assert_eq!(clean(&"x".repeat(100)).len(), 57);
        assert_ne!(random_name(), random_name());
    }
}
