//! Channel names on the bus: Redis channels and NATS subjects, and back.

use std::{fmt, sync::Arc};

use percent_encoding::{AsciiSet, CONTROLS, percent_decode_str, utf8_percent_encode};

use crate::{Address, Channel, ChannelError, InternalName, channel::RESERVED_PREFIX};

/// What a NATS token cannot hold, and `%` itself. Bytes beyond ASCII are always encoded.
const NATS_TOKEN: &AsciiSet = &CONTROLS.add(b'.').add(b' ').add(b'*').add(b'>').add(b'%');

/// What all subjects of a deployment begin with (`clarion` by default), so that several can share a bus.
///
/// 1 to 32 ASCII letters, digits, `-` and `_`, and not `_clarion…`.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Prefix(Arc<str>);

impl Prefix {
    /// Checks a prefix and takes it.
    ///
    /// # Errors
    /// [`PrefixError`].
    pub fn parse(prefix: &str) -> Result<Self, PrefixError> {
        let good = (1..=32).contains(&prefix.len())
            && prefix.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
            && !prefix.starts_with(RESERVED_PREFIX);
        if good { Ok(Self(prefix.into())) } else { Err(PrefixError) }
    }

    /// The prefix as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The Redis channel: `clarion:<channel>` or `_clarion:clarion:<internal>`.
    #[must_use]
    pub fn redis(&self, address: &Address) -> String {
        match address {
            Address::Channel(channel) => format!("{self}:{channel}"),
            Address::Internal(name) => format!("{RESERVED_PREFIX}:{self}:{name}"),
        }
    }

    /// The Redis pattern for what lies below `base`, at any depth: Redis has no pattern for one level.
    #[must_use]
    pub fn redis_below(&self, base: &str) -> String {
        let mut out = format!("{self}:");
        for c in base.chars() {
            if matches!(c, '*' | '?' | '[' | ']' | '\\') {
                out.push('\\');
            }
            out.push(c);
        }
        out.push_str("/*");
        out
    }

    /// What a Redis channel of this deployment stands for.
    ///
    /// # Errors
    /// [`ForeignSubject`] when it is none of ours; it is counted and dropped.
    pub fn from_redis(&self, channel: &[u8]) -> Result<Address, ForeignSubject> {
        let name = std::str::from_utf8(channel).map_err(|_| ForeignSubject::NotUtf8)?;
        self.strip(name, ':').and_then(|stripped| match stripped {
            Stripped::Channel(name) => Ok(Channel::parse(name)?.into()),
            Stripped::Internal(name) => Ok(InternalName::parse(name).ok_or(ForeignSubject::Internal)?.into()),
        })
    }

    /// The NATS subject: `clarion.<segments joined by dots>` or `_clarion.clarion.<internal>`.
    #[must_use]
    pub fn nats(&self, address: &Address) -> String {
        match address {
            Address::Channel(channel) => self.nats_base(channel.as_str()),
            Address::Internal(name) => format!("{RESERVED_PREFIX}.{self}.{name}"),
        }
    }

    /// What a NATS subject of this deployment stands for. Only the form that [`Prefix::nats`] writes is read.
    ///
    /// # Errors
    /// [`ForeignSubject`] when it is none of ours; it is counted and dropped.
    pub fn from_nats(&self, subject: &str) -> Result<Address, ForeignSubject> {
        match self.strip(subject, '.')? {
            Stripped::Internal(name) => Ok(InternalName::parse(name).ok_or(ForeignSubject::Internal)?.into()),
            Stripped::Channel(tokens) => {
                let segments: Vec<_> = tokens.split('.').map(|token| percent_decode_str(token).decode_utf8()).collect();
                let mut name = String::with_capacity(tokens.len());
                for segment in segments {
                    if !name.is_empty() {
                        name.push('/');
                    }
                    name.push_str(&segment.map_err(|_| ForeignSubject::NotUtf8)?);
                }
                let channel = Channel::parse(&name)?;
                if self.nats_base(channel.as_str()) == subject {
                    Ok(channel.into())
                } else {
                    Err(ForeignSubject::NotCanonical)
                }
            }
        }
    }

    fn nats_base(&self, base: &str) -> String {
        let mut out = String::with_capacity(self.0.len() + base.len() + 1);
        out.push_str(&self.0);
        for segment in base.split('/') {
            out.push('.');
            out.extend(utf8_percent_encode(segment, NATS_TOKEN));
        }
        out
    }

    fn strip<'a>(&self, subject: &'a str, separator: char) -> Result<Stripped<'a>, ForeignSubject> {
        let after = |text: &'a str, word: &str| text.strip_prefix(word)?.strip_prefix(separator);
        if let Some(name) = after(subject, &self.0) {
            return Ok(Stripped::Channel(name));
        }
        let internal = after(subject, RESERVED_PREFIX).and_then(|rest| after(rest, &self.0));
        internal.map(Stripped::Internal).ok_or(ForeignSubject::OtherPrefix)
    }
}

enum Stripped<'a> {
    Channel(&'a str),
    Internal(&'a str),
}

impl Default for Prefix {
    fn default() -> Self {
        Self("clarion".into())
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &*self.0)
    }
}

impl std::str::FromStr for Prefix {
    type Err = PrefixError;

    fn from_str(prefix: &str) -> Result<Self, PrefixError> {
        Self::parse(prefix)
    }
}

/// A text that is no prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a prefix is 1 to 32 ASCII letters, digits, `-` and `_`, and does not begin with `{RESERVED_PREFIX}`")]
pub struct PrefixError;

/// Why something heard on the bus is not a message of this deployment.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ForeignSubject {
    /// It belongs to somebody else.
    #[error("the subject has another prefix")]
    OtherPrefix,
    /// It is no text.
    #[error("the subject is not UTF-8")]
    NotUtf8,
    /// It decodes to a channel, but is not how that channel is written.
    #[error("the subject is not in the form that Clarion writes")]
    NotCanonical,
    /// It is below the broker's own subjects and none of them.
    #[error("the subject is no internal one")]
    Internal,
    /// It decodes to something that is no channel.
    #[error("the subject is no channel")]
    Channel(#[from] ChannelError),
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn channel(name: &str) -> Address {
        Channel::parse(name).unwrap().into()
    }

    /// Names from the characters that make trouble, and any others.
    pub(crate) fn names() -> impl Strategy<Value = Channel> {
        let segment = prop_oneof!["[a-z0-9.%?\\[\\]\\\\^$_ :!-]{1,8}", "\\PC{1,4}"];
        proptest::collection::vec(segment, 1..6)
            .prop_filter_map("is a channel", |segments| Channel::parse(&segments.join("/")).ok())
    }

    proptest! {
        #[test]
        fn redis_round_trip(name in names()) {
            let (prefix, address) = (Prefix::default(), Address::Channel(name));
            prop_assert_eq!(prefix.from_redis(prefix.redis(&address).as_bytes()), Ok(address));
        }

        #[test]
        fn nats_round_trip(name in names()) {
            let (prefix, address) = (Prefix::default(), Address::Channel(name));
            let subject = prefix.nats(&address);
            prop_assert!(subject.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b'*' | b'>')), "{}", subject);
            prop_assert!(!subject.contains("..") && !subject.ends_with('.'));
            prop_assert_eq!(prefix.from_nats(&subject), Ok(address));
        }

        #[test]
        fn any_subject_is_read_or_refused(subject in "clarion[.:]\\PC{0,20}") {
            let prefix = Prefix::default();
            if let Ok(address) = prefix.from_nats(&subject) {
                prop_assert_eq!(prefix.nats(&address), subject.clone());
            }
            if let Ok(address) = prefix.from_redis(subject.as_bytes()) {
                prop_assert_eq!(prefix.redis(&address), subject);
            }
        }
    }

    #[test]
    fn how_names_look_on_the_bus() {
        let prefix = Prefix::default();
        for (name, redis, nats) in [
            ("orders/eu", "clarion:orders/eu", "clarion.orders.eu"),
            ("a.b/c d", "clarion:a.b/c d", "clarion.a%2Eb.c%20d"),
            ("$x/_y", "clarion:$x/_y", "clarion.$x._y"),
            ("ö/50%", "clarion:ö/50%", "clarion.%C3%B6.50%25"),
        ] {
            assert_eq!(prefix.redis(&channel(name)), redis);
            assert_eq!(prefix.nats(&channel(name)), nats);
        }
        let internal = Address::Internal(InternalName::parse("members").unwrap());
        assert_eq!(prefix.redis(&internal), "_clarion:clarion:members");
        assert_eq!(prefix.nats(&internal), "_clarion.clarion.members");
        assert_eq!(prefix.from_nats("_clarion.clarion.members"), Ok(internal.clone()));
        assert_eq!(prefix.from_redis(b"_clarion:clarion:members"), Ok(internal));
    }

    #[test]
    fn patterns_escape_what_redis_would_glob() {
        let prefix = Prefix::default();
        assert_eq!(prefix.redis_below("a[1]?\\"), "clarion:a\\[1\\]\\?\\\\/*");
    }

    #[test]
    fn what_is_not_ours() {
        use ForeignSubject as F;
        let prefix = Prefix::default();
        for (subject, error) in [
            ("other.a", F::OtherPrefix),
            ("clarionx.a", F::OtherPrefix),
            ("clarion.%c3%b6", F::NotCanonical),
            ("clarion.%41", F::NotCanonical),
            ("clarion.a/b", F::NotCanonical),
            ("clarion.%FF", F::NotUtf8),
            ("clarion.me", F::Channel(ChannelError::Reserved { segment: "me".into() })),
            ("_clarion.other.members", F::OtherPrefix),
            ("_clarion.clarion.A", F::Internal),
        ] {
            assert_eq!(prefix.from_nats(subject), Err(error), "{subject}");
        }
        assert_eq!(prefix.from_redis(b"clarion:\xff"), Err(F::NotUtf8));
        assert!(Prefix::parse("_clarion").is_err());
        assert!(Prefix::parse("a.b").is_err());
    }
}
