//! Namespaces: which rule holds for a channel, and for everything that a pattern can match.

use std::{
    fmt,
    num::{NonZeroU16, NonZeroU32},
    time::Duration,
};

use clarion_hub::SlowPolicy;
use clarion_protocol::{Channel, Depth, Interest, LogPolicy, Logs, channel::USERS};
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Who may subscribe.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Subscribe {
    /// Everybody.
    Anyone,
    /// Whoever has a good token.
    SignedIn,
    /// Whoever has a token that names the channel, or a pattern over it, in `channels` or `subs`.
    Token,
}

/// Who may publish besides the holders of an API key, who always may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Publish {
    /// Nobody else.
    Backend,
    /// Whoever has a good token.
    SignedIn,
    /// Everybody.
    Anyone,
}

/// Who may subscribe to patterns that reach in here, of those who may subscribe. Each pattern costs a Redis a comparison for
/// every message that anybody publishes there.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Patterns {
    /// Nobody.
    Nobody,
    /// The holders of an API key.
    Backend,
    /// Whoever has a token that names the pattern, or one over it, in `channels` or `subs`, and backends.
    Token,
    /// Whoever has a good token, and backends.
    SignedIn,
    /// Everybody.
    #[default]
    Anyone,
}

/// A channel prefix and its rules: for the channel of that name and all below it, unless a longer prefix says otherwise.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Namespace {
    /// The channel at its top.
    #[schemars(with = "String", example = "orders/eu")]
    pub prefix: Prefix,
    /// Who may subscribe. Below `users` the rule is fixed: a user's channels are his.
    #[serde(default = "signed_in")]
    pub subscribe: Subscribe,
    /// Who may publish.
    #[serde(default = "backend")]
    pub publish: Publish,
    /// Who of them may do so by patterns such as `orders/**`. Left out: on Redis whoever has a good token or an API key, on
    /// NATS and in memory, where a pattern costs no more than a channel, everybody. In development mode only `nobody` counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub patterns: Option<Patterns>,
    /// What happens to a client that reads too slowly.
    #[serde(default)]
    pub slow: SlowPolicy,
    /// How much of each channel the bus keeps, so that clients get what they missed: `{}` for the usual 300 messages of the last
    /// 24 hours. Left out: nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log: Option<Log>,
    /// Only below `users`: what a user has not read comes again whenever they connect to `/me`. Has a log also where none is named.
    #[serde(default)]
    pub inbox: bool,
}

/// How much of each of a namespace's channels the bus keeps.
#[derive(Debug, Clone, Copy, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Log {
    /// Messages of each channel: what a busy channel brings while a client is away.
    pub size: NonZeroU32,
    /// How old they may become: as long as a client may be away.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "Duration")]
    pub age: Duration,
    /// Into how many parts the namespace is divided, each with a counter of its own and, on a Redis Cluster, a server of its
    /// own. More make a subscription to a pattern dearer.
    pub partitions: NonZeroU16,
}

impl Log {
    /// What a read brings at most, and a list in Redis serves well.
    pub const MAX_SIZE: u32 = 10_000;
    /// A cursor has a place for each.
    pub const MAX_PARTITIONS: u16 = 64;
}

impl Default for Log {
    fn default() -> Self {
        Self {
            size: NonZeroU32::new(300).expect("it is not zero"),
            age: Duration::from_secs(24 * 60 * 60),
            partitions: NonZeroU16::MIN,
        }
    }
}

impl Namespace {
    /// Which channels are logged, and how much of them is kept.
    #[must_use]
    pub fn logs(namespaces: &[Self]) -> Logs {
        Logs::new(namespaces.iter().map(|namespace| (namespace.prefix.0.clone(), namespace.log_policy())))
    }

    fn log_policy(&self) -> Option<LogPolicy> {
        let log = self.log.or_else(|| self.inbox.then(Log::default))?;
        Some(LogPolicy { size: log.size.get(), age: log.age, partitions: log.partitions.get() })
    }

    /// Whether it lies among the users' own channels, whose subscribers are fixed.
    #[must_use]
    pub fn is_of_users(&self) -> bool {
        self.prefix.as_str() == USERS || self.prefix.0.user().is_some()
    }
}

fn signed_in() -> Subscribe {
    Subscribe::SignedIn
}

fn backend() -> Publish {
    Publish::Backend
}

/// The name of a namespace: a channel.
#[derive(Clone, PartialEq, Eq)]
pub struct Prefix(Channel);

impl Prefix {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }

    /// Whether the channel is the prefix itself or below it, by whole segments.
    fn holds(&self, channel: &str) -> bool {
        channel.strip_prefix(self.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }
}

impl fmt::Debug for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl<'de> Deserialize<'de> for Prefix {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Channel::parse(&text).map(Self).map_err(serde::de::Error::custom)
    }
}

impl Serialize for Prefix {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

/// The rules of one channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Rule {
    pub(super) subscribe: Subscribe,
    pub(super) publish: Publish,
    pub(super) patterns: Option<Patterns>,
    pub(super) slow: SlowPolicy,
    pub(super) inbox: bool,
}

/// All namespaces, and the rule of channels that are in none.
#[derive(Debug)]
pub(super) struct Rules {
    /// The longest prefix first, so that the first that holds a channel is its namespace.
    namespaces: Vec<(Prefix, Rule)>,
    unmatched: Rule,
}

impl Rules {
    /// Without any namespace everybody may subscribe and only a backend publishes. Whoever configures one has
    /// started to say who may what, so from then on everything unsaid is closed to strangers.
    pub(super) fn new(namespaces: Vec<Namespace>) -> Self {
        let subscribe = if namespaces.is_empty() { Subscribe::Anyone } else { Subscribe::SignedIn };
        let unmatched =
            Rule { subscribe, publish: Publish::Backend, patterns: None, slow: SlowPolicy::default(), inbox: false };
        let mut namespaces: Vec<(Prefix, Rule)> = namespaces
            .into_iter()
            .map(|namespace| {
                let Namespace { prefix, subscribe, publish, patterns, slow, log: _, inbox } = namespace;
                (prefix, Rule { subscribe, publish, patterns, slow, inbox })
            })
            .collect();
        namespaces.sort_by_key(|(prefix, _)| std::cmp::Reverse(prefix.as_str().len()));
        Self { namespaces, unmatched }
    }

    /// The rule of one channel, or of the channel at a pattern's base.
    pub(super) fn of(&self, channel: &str) -> Rule {
        self.namespaces.iter().find(|(prefix, _)| prefix.holds(channel)).map_or(self.unmatched, |(_, rule)| *rule)
    }

    /// Who may publish, in each of the namespaces and outside of them.
    pub(super) fn publish(&self) -> impl Iterator<Item = Publish> {
        self.namespaces.iter().map(|(_, rule)| rule).chain([&self.unmatched]).map(|rule| rule.publish)
    }

    /// Every part of an interest that has a rule of its own, with what of the interest lies in it: first the
    /// interest as a whole under the rule of its base, then what lies in namespaces below.
    pub(super) fn parts(&self, interest: &Interest) -> Vec<(Rule, Interest)> {
        let mut parts = vec![(self.of(interest.base()), interest.clone())];
        for (prefix, rule) in &self.namespaces {
            let below = prefix.as_str() != interest.base() && within(interest.base(), prefix.as_str());
            if !below {
                continue;
            }
            match interest.depth() {
                Depth::Subtree => parts.push((*rule, subtree(prefix))),
                // One level deep a pattern matches the channel that the namespace is named after, and nothing below.
                Depth::Children if interest.matches(prefix.as_str()) => parts.push((*rule, Interest::from(&prefix.0))),
                Depth::Children | Depth::Exact => {}
            }
        }
        parts
    }
}

fn within(base: &str, channel: &str) -> bool {
    channel.strip_prefix(base).is_some_and(|rest| rest.starts_with('/'))
}

fn subtree(prefix: &Prefix) -> Interest {
    Interest::parse(&format!("{}/**", prefix.as_str())).expect("a channel with `/**` behind it is a pattern")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(text: &str) -> Rules {
        #[derive(Deserialize)]
        struct File {
            namespaces: Vec<Namespace>,
        }
        Rules::new(toml::from_str::<File>(text).unwrap().namespaces)
    }

    const NESTED: &str = r#"
        [[namespaces]]
        prefix = "orders"
        subscribe = "anyone"
        [[namespaces]]
        prefix = "orders/eu/secret"
        subscribe = "token"
        publish = "signed_in"
        slow = "latest"
        [[namespaces]]
        prefix = "orders/eu"
    "#;

    #[test]
    fn the_longest_prefix_wins_by_segments() {
        let rules = rules(NESTED);
        for (channel, expected) in [
            ("orders", Subscribe::Anyone),
            ("orders/us", Subscribe::Anyone),
            ("orders/eu", Subscribe::SignedIn),
            ("orders/europe", Subscribe::Anyone),
            ("orders/eu/x", Subscribe::SignedIn),
            ("orders/eu/secret", Subscribe::Token),
            ("orders/eu/secret/x", Subscribe::Token),
            ("orders/eu/secrets", Subscribe::SignedIn),
            ("ordersx", Subscribe::SignedIn),
            ("news", Subscribe::SignedIn),
        ] {
            assert_eq!(rules.of(channel).subscribe, expected, "{channel}");
        }
        assert_eq!(rules.of("orders/eu/secret").slow, SlowPolicy::Latest);
        assert_eq!(rules.of("orders/eu/secret").publish, Publish::SignedIn);
        assert_eq!(rules.of("news").publish, Publish::Backend);
    }

    #[test]
    fn without_namespaces_everybody_may_listen() {
        let rule = Rules::new(Vec::new()).of("news");
        assert_eq!((rule.subscribe, rule.publish), (Subscribe::Anyone, Publish::Backend));
    }

    #[test]
    fn a_pattern_has_a_part_in_every_namespace_that_it_reaches() {
        let rules = rules(NESTED);
        for (pattern, expected) in [
            ("orders/us", vec!["orders/us"]),
            ("orders/*", vec!["orders/*", "orders/eu"]),
            ("orders/**", vec!["orders/**", "orders/eu/secret/**", "orders/eu/**"]),
            ("orders/eu/*", vec!["orders/eu/*", "orders/eu/secret"]),
            ("orders/eu/secret/**", vec!["orders/eu/secret/**"]),
            ("order/**", vec!["order/**"]),
        ] {
            let interest = Interest::parse(pattern).unwrap();
            let parts: Vec<String> = rules.parts(&interest).into_iter().map(|(_, part)| part.to_string()).collect();
            assert_eq!(parts, expected, "{pattern}");
        }
    }
}
