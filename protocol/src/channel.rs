//! Channel names: what is one, what is not, and how a URL's path becomes one.

use std::{fmt, sync::Arc};

use crate::limits;

/// First segments that belong to the broker itself and are therefore no channels, neither in a URL nor on the bus.
///
/// Every segment that begins with [`RESERVED_PREFIX`] is reserved as well.
pub const RESERVED: [&str; 15] = [
    "connection",
    "emulation",
    "sockjs",
    "events",
    "me",
    "api",
    "rpc",
    "health",
    "metrics",
    "console",
    "assets",
    "docs",
    ".well-known",
    "favicon.ico",
    "robots.txt",
];

/// What the first segment of the broker's internal subjects begins with.
pub const RESERVED_PREFIX: &str = "_clarion";

/// The channel that everybody may hear.
pub const BROADCAST: &str = "broadcast";

/// The first segment of the users' own channels, `users/<uid>`.
pub const USERS: &str = "users";

/// A valid channel name such as `orders/eu`: 1 to 16 segments, at most 255 bytes of printable UTF-8.
///
/// Cheap to clone. A value of this type is never reserved and never holds `*`, `>`, `{`, `}`, a control character,
/// an empty segment, `.` or `..`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Channel(Arc<str>);

impl Channel {
    /// Checks a name and takes it.
    ///
    /// # Errors
    /// The first rule that the name breaks, and where.
    pub fn parse(name: &str) -> Result<Self, ChannelError> {
        check(name)?;
        Ok(Self(name.into()))
    }

    /// Reads the path of a URL, with or without its leading slash, percent-decoding it once.
    ///
    /// # Errors
    /// As [`Channel::parse`]; also for `%2F`, a `%` that is no escape, and bytes that are not UTF-8.
    pub fn from_path(path: &str) -> Result<Self, ChannelError> {
        Self::parse(&decode_path(path)?)
    }

    /// Takes a name that was checked before.
    pub(crate) fn checked(name: Arc<str>) -> Self {
        Self(name)
    }

    /// The channel of a user: `users/<uid>`.
    #[must_use]
    pub fn of_user(uid: &crate::Uid) -> Self {
        Self(format!("{USERS}/{uid}").into())
    }

    /// The channel that everybody may hear: `broadcast`.
    #[must_use]
    pub fn broadcast() -> Self {
        Self(BROADCAST.into())
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The segments, outermost first; never empty.
    pub fn segments(&self) -> std::str::Split<'_, char> {
        self.0.split('/')
    }

    /// The uid that this channel belongs to, when it is `users/<uid>` or below it.
    #[must_use]
    pub fn user(&self) -> Option<&str> {
        user_of(&self.0)
    }

    /// The shared text itself, for those who keep many.
    #[must_use]
    pub fn into_inner(self) -> Arc<str> {
        self.0
    }
}

/// The uid in `users/<uid>` or `users/<uid>/…`.
pub(crate) fn user_of(name: &str) -> Option<&str> {
    let rest = name.strip_prefix(USERS)?.strip_prefix('/')?;
    rest.split('/').next()
}

/// Percent-decodes a URL's path once and drops its leading slash.
///
/// # Errors
/// [`ChannelError::EncodedSlash`], [`ChannelError::BadEscape`] or [`ChannelError::NotUtf8`].
pub fn decode_path(path: &str) -> Result<String, ChannelError> {
    let path = path.strip_prefix('/').unwrap_or(path);
    let bytes = path.as_bytes();
    for (at, _) in path.match_indices('%') {
        match bytes.get(at + 1..at + 3) {
            Some([b'2', b'F' | b'f']) => return Err(ChannelError::EncodedSlash { at }),
            Some([a, b]) if a.is_ascii_hexdigit() && b.is_ascii_hexdigit() => {}
            _ => return Err(ChannelError::BadEscape { at }),
        }
    }
    percent_encoding::percent_decode_str(path)
        .decode_utf8()
        .map(std::borrow::Cow::into_owned)
        .map_err(|error| ChannelError::NotUtf8 { at: error.valid_up_to() })
}

/// All rules of a name, in the order in which a person would want to hear of them.
pub(crate) fn check(name: &str) -> Result<(), ChannelError> {
    if name.is_empty() {
        return Err(ChannelError::Empty);
    }
    if name.len() > limits::CHANNEL_BYTES {
        return Err(ChannelError::TooLong { bytes: name.len() });
    }
    if let Some((at, character)) = name.char_indices().find(|(_, c)| is_forbidden(*c)) {
        return Err(ChannelError::Forbidden { character, at });
    }
    let mut at = 0;
    let mut count = 0;
    for segment in name.split('/') {
        match segment {
            "" => return Err(ChannelError::EmptySegment { at }),
            "." | ".." => return Err(ChannelError::DotSegment { at }),
            _ => {}
        }
        at += segment.len() + 1;
        count += 1;
    }
    if count > limits::CHANNEL_SEGMENTS {
        return Err(ChannelError::TooManySegments { segments: count });
    }
    let first = name.split('/').next().unwrap_or_default();
    if is_reserved(first) {
        return Err(ChannelError::Reserved { segment: first.into() });
    }
    Ok(())
}

/// Whether this first segment belongs to the broker.
#[must_use]
pub fn is_reserved(first: &str) -> bool {
    RESERVED.contains(&first) || first.starts_with(RESERVED_PREFIX)
}

/// Control characters, the two Unicode line ends, and what the wildcards and hash tags of the buses are made of.
fn is_forbidden(c: char) -> bool {
    c.is_control() || matches!(c, '*' | '>' | '{' | '}' | '\u{2028}' | '\u{2029}')
}

impl fmt::Display for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &*self.0)
    }
}

impl AsRef<str> for Channel {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl std::borrow::Borrow<str> for Channel {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl std::str::FromStr for Channel {
    type Err = ChannelError;

    fn from_str(name: &str) -> Result<Self, ChannelError> {
        Self::parse(name)
    }
}

/// The rule that a name breaks. Positions are byte offsets into the name (for a path: without its leading slash).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChannelError {
    /// Nothing at all.
    #[error("a channel name must not be empty")]
    Empty,
    /// More than [`limits::CHANNEL_BYTES`].
    #[error("a channel name has at most {} bytes, this one has {bytes}", limits::CHANNEL_BYTES)]
    TooLong {
        /// The name's length.
        bytes: usize,
    },
    /// More than [`limits::CHANNEL_SEGMENTS`].
    #[error("a channel name has at most {} segments, this one has {segments}", limits::CHANNEL_SEGMENTS)]
    TooManySegments {
        /// How many there are.
        segments: usize,
    },
    /// Two slashes in a row, or one at an end.
    #[error("a channel name has no empty segment, and no slash at its ends (at byte {at})")]
    EmptySegment {
        /// Where the segment should begin.
        at: usize,
    },
    /// `.` or `..`.
    #[error("`.` and `..` are no segments of a channel name (at byte {at})")]
    DotSegment {
        /// Where the segment begins.
        at: usize,
    },
    /// A character that no name holds.
    #[error("{character:?} (U+{:04X}) must not occur in a channel name (at byte {at})", *character as u32)]
    Forbidden {
        /// The character.
        character: char,
        /// Where it is.
        at: usize,
    },
    /// A first segment that belongs to the broker.
    #[error("`{segment}` is reserved and no channel")]
    Reserved {
        /// The segment.
        segment: Box<str>,
    },
    /// `%2F` in a path.
    #[error("%2F is refused: a slash always separates segments (at byte {at})")]
    EncodedSlash {
        /// Where the escape begins.
        at: usize,
    },
    /// A `%` without two hexadecimal digits behind it.
    #[error("`%` must be followed by two hexadecimal digits (at byte {at})")]
    BadEscape {
        /// Where the escape begins.
        at: usize,
    },
    /// Bytes that are no UTF-8.
    #[error("a channel name is UTF-8 (it stops being so at byte {at})")]
    NotUtf8 {
        /// How far it is valid.
        at: usize,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_are_taken() {
        let longest = "x".repeat(255);
        let deepest = ["s"; 16].join("/");
        for name in [
            "news",
            "orders/eu",
            "users/42",
            "a b",
            "größe/🦀",
            "a.b",
            "...",
            "$SYS/_x",
            "me2",
            "x/me",
            &longest,
            &deepest,
        ] {
            assert_eq!(Channel::parse(name).as_ref().map(Channel::as_str), Ok(name));
        }
    }

    #[test]
    fn names_that_are_refused() {
        use ChannelError as E;
        let cases: [(&str, E); 12] = [
            ("", E::Empty),
            ("/a", E::EmptySegment { at: 0 }),
            ("a/", E::EmptySegment { at: 2 }),
            ("a//b", E::EmptySegment { at: 2 }),
            ("a/./b", E::DotSegment { at: 2 }),
            ("..", E::DotSegment { at: 0 }),
            ("a*", E::Forbidden { character: '*', at: 1 }),
            ("ab\u{7f}", E::Forbidden { character: '\u{7f}', at: 2 }),
            ("a{b}", E::Forbidden { character: '{', at: 1 }),
            ("me", E::Reserved { segment: "me".into() }),
            ("_clarionette/x", E::Reserved { segment: "_clarionette".into() }),
            ("api/x", E::Reserved { segment: "api".into() }),
        ];
        for (name, error) in cases {
            assert_eq!(Channel::parse(name), Err(error), "{name:?}");
        }
        assert_eq!(Channel::parse(&"x".repeat(256)), Err(E::TooLong { bytes: 256 }));
        assert_eq!(Channel::parse(&["s"; 17].join("/")), Err(E::TooManySegments { segments: 17 }));
    }

    #[test]
    fn a_path_is_decoded_once() {
        assert_eq!(Channel::from_path("/a%20b/%C3%B6").unwrap().as_str(), "a b/ö");
        assert_eq!(Channel::from_path("/%2541").unwrap().as_str(), "%41");
        assert_eq!(Channel::from_path("/a%2Fb"), Err(ChannelError::EncodedSlash { at: 1 }));
        assert_eq!(Channel::from_path("/a%2"), Err(ChannelError::BadEscape { at: 1 }));
        assert_eq!(Channel::from_path("/a%zz"), Err(ChannelError::BadEscape { at: 1 }));
        assert_eq!(Channel::from_path("/a%FF"), Err(ChannelError::NotUtf8 { at: 1 }));
        assert_eq!(Channel::from_path("/%2A"), Err(ChannelError::Forbidden { character: '*', at: 0 }));
        assert_eq!(Channel::from_path("/%6De"), Err(ChannelError::Reserved { segment: "me".into() }));
    }

    #[test]
    fn a_users_channel_names_its_user() {
        let user = |name: &str| Channel::parse(name).unwrap().user().map(str::to_owned);
        assert_eq!(user("users/42"), Some("42".to_owned()));
        assert_eq!(user("users/42/orders"), Some("42".to_owned()));
        assert_eq!(user("users"), None);
        assert_eq!(user("usersx/42"), None);
    }
}
