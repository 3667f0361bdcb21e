//! Logged namespaces: which channels have a log, how long it is, and which partition a channel belongs to.

use std::{fmt, sync::Arc, time::Duration};

use crate::{Channel, Depth, Interest};

/// How much of its channels a logged namespace keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogPolicy {
    /// Messages of each channel.
    pub size: u32,
    /// How old they may become.
    pub age: Duration,
    /// Into how many parts the namespace is divided, each with a counter of its own; at least one.
    pub partitions: u16,
}

/// A part of a logged namespace with one counter.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Partition {
    /// The channel at the namespace's top.
    pub namespace: Channel,
    /// Which part, counted from 0.
    pub number: u16,
}

impl fmt::Display for Partition {
    /// `orders:0`, for logs and for the names of what a server keeps.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.namespace, self.number)
    }
}

/// All namespaces and their logs. Cheap to clone.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Logs(Arc<[(Channel, Option<LogPolicy>)]>);

impl Logs {
    /// From every namespace there is, those without a log included: a longer prefix ends a shorter one's log.
    #[must_use]
    pub fn new(namespaces: impl IntoIterator<Item = (Channel, Option<LogPolicy>)>) -> Self {
        let mut all: Vec<_> = namespaces.into_iter().collect();
        // The longest first, so that the first that holds a channel is its namespace.
        all.sort_by_key(|(prefix, _)| std::cmp::Reverse(prefix.as_str().len()));
        Self(all.into())
    }

    /// Whether nothing is logged at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.logged().next().is_none()
    }

    /// The logged namespaces, the longest prefix first.
    pub fn logged(&self) -> impl Iterator<Item = (&Channel, LogPolicy)> {
        self.0.iter().filter_map(|(prefix, policy)| Some((prefix, (*policy)?)))
    }

    /// All namespaces, the longest prefix first, and the policy of those that are logged.
    pub fn all(&self) -> impl Iterator<Item = (&Channel, Option<LogPolicy>)> {
        self.0.iter().map(|(prefix, policy)| (prefix, *policy))
    }

    /// All partitions of all logged namespaces.
    pub fn partitions(&self) -> impl Iterator<Item = Partition> {
        self.logged().flat_map(|(namespace, policy)| parts(namespace, policy))
    }

    /// The namespace of a channel and its policy, if it is logged.
    #[must_use]
    pub fn of(&self, channel: &str) -> Option<(&Channel, LogPolicy)> {
        let (prefix, policy) = self.0.iter().find(|(prefix, _)| holds(prefix.as_str(), channel))?;
        Some((prefix, (*policy)?))
    }

    /// The partition that numbers a channel's messages, if it is logged.
    #[must_use]
    pub fn partition(&self, channel: &str) -> Option<Partition> {
        let (namespace, policy) = self.of(channel)?;
        let number = fnv1a(channel.as_bytes()) % u32::from(policy.partitions.max(1));
        Some(Partition { namespace: namespace.clone(), number: number as u16 })
    }

    /// Every partition that an interest can touch, in a fixed order; none when nothing that it can match is logged.
    #[must_use]
    pub fn touched(&self, interest: &Interest) -> Vec<Partition> {
        if interest.depth() == Depth::Exact {
            return self.partition(interest.base()).into_iter().collect();
        }
        let mut touched: Vec<_> = self
            .logged()
            .filter(|(prefix, _)| self.reaches(interest, prefix))
            .flat_map(|(prefix, policy)| parts(prefix, policy))
            .collect();
        touched.sort();
        touched
    }

    /// Whether everything that an interest can match is logged.
    #[must_use]
    pub fn covers(&self, interest: &Interest) -> bool {
        let base =
            if interest.depth() == Depth::Children { below(interest.base()) } else { interest.base().to_owned() };
        let unlogged =
            |(prefix, policy): &(Channel, Option<LogPolicy>)| policy.is_none() && self.reaches(interest, prefix);
        self.of(&base).is_some() && !self.0.iter().any(unlogged)
    }

    /// Whether a pattern can match a channel of this namespace.
    fn reaches(&self, pattern: &Interest, prefix: &Channel) -> bool {
        let base = pattern.base();
        if holds(prefix.as_str(), base) {
            // The pattern's base lies in it; unless a longer prefix holds all of the pattern, so does a part of the pattern.
            let name = if pattern.depth() == Depth::Children { below(base) } else { base.to_owned() };
            return self
                .0
                .iter()
                .find(|(other, _)| holds(other.as_str(), &name))
                .is_some_and(|(other, _)| other == prefix);
        }
        match pattern.depth() {
            Depth::Subtree => holds(base, prefix.as_str()),
            Depth::Children => pattern.matches(prefix.as_str()),
            Depth::Exact => false,
        }
    }
}

fn parts(namespace: &Channel, policy: LogPolicy) -> impl Iterator<Item = Partition> + use<> {
    let namespace = namespace.clone();
    (0..policy.partitions.max(1)).map(move |number| Partition { namespace: namespace.clone(), number })
}

/// Some channel one level below, which no prefix names.
fn below(base: &str) -> String {
    format!("{base}/\u{1}")
}

/// Whether a channel is the prefix itself or below it, by whole segments.
fn holds(prefix: &str, channel: &str) -> bool {
    channel.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// FNV-1a, 32 bit: a channel's partition must be the same in every process, release and language.
#[must_use]
pub fn fnv1a(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn logs() -> Logs {
        let policy = |partitions| Some(LogPolicy { size: 10, age: Duration::from_secs(60), partitions });
        let channel = |name| Channel::parse(name).unwrap();
        Logs::new([
            (channel("orders"), policy(1)),
            (channel("orders/eu/plain"), None),
            (channel("orders/eu/own"), policy(2)),
            (channel("chat"), policy(4)),
            (channel("news"), None),
        ])
    }

    #[test]
    fn a_channel_belongs_to_its_longest_prefix() {
        let logs = logs();
        for (channel, expected) in [
            ("orders", Some("orders")),
            ("orders/eu", Some("orders")),
            ("orders/eu/plain/x", None),
            ("orders/eu/own", Some("orders/eu/own")),
            ("ordersx", None),
            ("news", None),
        ] {
            assert_eq!(logs.of(channel).map(|(prefix, _)| prefix.as_str()), expected, "{channel}");
        }
        let numbers: Vec<_> =
            ["chat/1", "chat/2", "chat/3"].iter().map(|c| logs.partition(c).unwrap().number).collect();
        assert_eq!(numbers, [3, 2, 1], "the same in every release");
    }

    #[test]
    fn a_pattern_touches_all_that_it_can_match() {
        let logs = logs();
        for (pattern, touched, covers) in [
            ("orders/us", "orders:0", true),
            ("news", "", false),
            ("orders/*", "orders:0", true),
            ("orders/eu/*", "orders/eu/own:0 orders/eu/own:1 orders:0", false),
            ("orders/eu/own/**", "orders/eu/own:0 orders/eu/own:1", true),
            ("orders/eu/plain/**", "", false),
            ("orders/**", "orders/eu/own:0 orders/eu/own:1 orders:0", false),
            ("chat/**", "chat:0 chat:1 chat:2 chat:3", true),
        ] {
            let interest = Interest::parse(pattern).unwrap();
            let mut names: Vec<_> = logs.touched(&interest).iter().map(ToString::to_string).collect();
            names.sort();
            assert_eq!((names.join(" ").as_str(), logs.covers(&interest)), (touched, covers), "{pattern}");
        }
    }
}
