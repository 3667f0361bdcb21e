//! What somebody wants to hear: one channel, its children, or all below it.

use std::{cmp::Ordering, fmt, sync::Arc};

use crate::channel::{self, Channel, ChannelError};

/// How far an interest reaches. Ordered from the widest to the most specific.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Depth {
    /// `base/**`: the channel and all below it.
    Subtree,
    /// `base/*`: the channels one level below, not the channel itself.
    Children,
    /// The channel alone.
    Exact,
}

/// What a subscription asks for: `orders/eu`, `orders/*` or `orders/**`.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Interest {
    base: Arc<str>,
    depth: Depth,
}

impl Interest {
    /// Reads `a/b`, `a/*` or `a/**`.
    ///
    /// # Errors
    /// [`InterestError`], with the position in the text given.
    pub fn parse(text: &str) -> Result<Self, InterestError> {
        let (base, depth) = match text.strip_suffix("/**") {
            Some(base) => (base, Depth::Subtree),
            None => match text.strip_suffix("/*") {
                Some(base) => (base, Depth::Children),
                None => (text, Depth::Exact),
            },
        };
        if matches!(text, "*" | "**") || (base.is_empty() && depth != Depth::Exact) {
            return Err(InterestError::Root);
        }
        channel::check(base)?;
        Ok(Self { base: base.into(), depth })
    }

    /// Reads the path of a URL, percent-decoding it once.
    ///
    /// # Errors
    /// As [`Interest::parse`] and [`Channel::from_path`].
    pub fn from_path(path: &str) -> Result<Self, InterestError> {
        Self::parse(&channel::decode_path(path)?)
    }

    /// What reaches that far from a channel. Shares its text.
    #[must_use]
    pub fn new(base: &Channel, depth: Depth) -> Self {
        Self { base: base.clone().into_inner(), depth }
    }

    /// The channel that is named, or under which the others lie.
    #[must_use]
    pub fn base(&self) -> &str {
        &self.base
    }

    /// How far it reaches.
    #[must_use]
    pub fn depth(&self) -> Depth {
        self.depth
    }

    /// The one channel asked for, if this is no pattern.
    #[must_use]
    pub fn as_channel(&self) -> Option<Channel> {
        (self.depth == Depth::Exact).then(|| self.base_channel())
    }

    /// The base as a channel, which shares its text. It was checked when this was made.
    #[must_use]
    pub fn base_channel(&self) -> Channel {
        Channel::checked(self.base.clone())
    }

    /// Whether a message on `channel` is asked for.
    #[must_use]
    pub fn matches(&self, channel: &str) -> bool {
        let Some(rest) = channel.strip_prefix(&*self.base) else { return false };
        match self.depth {
            Depth::Exact => rest.is_empty(),
            Depth::Subtree => rest.is_empty() || rest.starts_with('/'),
            Depth::Children => rest.strip_prefix('/').is_some_and(|child| !child.contains('/')),
        }
    }

    /// Whether every channel that `other` matches is matched by this as well.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        match (self.depth, other.depth) {
            (_, Depth::Exact) => self.matches(&other.base),
            (Depth::Exact, _) => false,
            (Depth::Children, Depth::Children) => self.base == other.base,
            (Depth::Children, Depth::Subtree) => false,
            (Depth::Subtree, _) => self.matches(&other.base),
        }
    }

    /// Orders interests that match the same channel: the greater is the more specific, and never equal to another.
    ///
    /// The longer base wins, since all bases that match one channel are prefixes of it; then the shorter reach.
    #[must_use]
    pub fn specificity(&self, other: &Self) -> Ordering {
        self.base.len().cmp(&other.base.len()).then(self.depth.cmp(&other.depth))
    }

    /// The uid, when nothing but `users/<uid>` and what lies below it can match.
    #[must_use]
    pub fn user(&self) -> Option<&str> {
        channel::user_of(&self.base)
    }
}

impl From<&Channel> for Interest {
    fn from(channel: &Channel) -> Self {
        Self::new(channel, Depth::Exact)
    }
}

impl fmt::Display for Interest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.base)?;
        f.write_str(match self.depth {
            Depth::Exact => "",
            Depth::Children => "/*",
            Depth::Subtree => "/**",
        })
    }
}

impl fmt::Debug for Interest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

impl std::str::FromStr for Interest {
    type Err = InterestError;

    fn from_str(text: &str) -> Result<Self, InterestError> {
        Self::parse(text)
    }
}

/// Why a text is no interest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InterestError {
    /// `/*` or `/**` with no channel before it.
    #[error("a pattern must name at least one segment before `/*` or `/**`")]
    Root,
    /// The part before the wildcard is no channel.
    #[error(transparent)]
    Channel(#[from] ChannelError),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interest(text: &str) -> Interest {
        Interest::parse(text).unwrap()
    }

    #[test]
    fn what_each_depth_matches() {
        for (pattern, channel, expected) in [
            ("a/b", "a/b", true),
            ("a/b", "a/b/c", false),
            ("a/*", "a", false),
            ("a/*", "a/b", true),
            ("a/*", "a/b/c", false),
            ("a/*", "ab/c", false),
            ("a/**", "a", true),
            ("a/**", "a/b", true),
            ("a/**", "a/b/c", true),
            ("a/**", "ab", false),
        ] {
            assert_eq!(interest(pattern).matches(channel), expected, "{pattern} {channel}");
        }
    }

    #[test]
    fn wildcards_stand_only_at_the_end_and_never_at_the_root() {
        for root in ["*", "**", "/*", "/**"] {
            assert_eq!(Interest::parse(root), Err(InterestError::Root), "{root}");
        }
        for bad in ["a/*/b", "a/**/b", "a*", "a/***", "me/*", ""] {
            assert!(matches!(Interest::parse(bad), Err(InterestError::Channel(_))), "{bad}");
        }
    }

    #[test]
    fn covering_is_about_every_channel() {
        for (wide, narrow, expected) in [
            ("a/**", "a", true),
            ("a/**", "a/*", true),
            ("a/**", "a/b/**", true),
            ("a/*", "a/b", true),
            ("a/*", "a/b/*", false),
            ("a/*", "a/**", false),
            ("a/b", "a/*", false),
            ("users/42/**", "users/**", false),
        ] {
            assert_eq!(interest(wide).covers(&interest(narrow)), expected, "{wide} {narrow}");
        }
    }

    #[test]
    fn the_most_specific_wins() {
        let mut all = ["a/**", "a/b/c", "a/b/*", "a/b/**", "a/b/c/**"].map(interest);
        all.sort_by(Interest::specificity);
        assert_eq!(all.map(|i| i.to_string()), ["a/**", "a/b/**", "a/b/*", "a/b/c/**", "a/b/c"]);
    }
}
