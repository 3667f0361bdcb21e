//! Users, as far as Clarion knows them: by an id that is one channel segment.

use std::{fmt, sync::Arc};

use crate::channel::{self, ChannelError};

/// A user's id: exactly one valid channel segment, so that `users/<uid>` is a channel.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Uid(Arc<str>);

impl Uid {
    /// Checks an id and takes it.
    ///
    /// # Errors
    /// [`UidError`], when `users/<uid>` would be no channel of two segments.
    pub fn parse(uid: &str) -> Result<Self, UidError> {
        if uid.contains('/') {
            return Err(UidError::Slash);
        }
        channel::check(&format!("{}/{uid}", channel::USERS))?;
        Ok(Self(uid.into()))
    }

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Uid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Uid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &*self.0)
    }
}

impl std::borrow::Borrow<str> for Uid {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl std::str::FromStr for Uid {
    type Err = UidError;

    fn from_str(uid: &str) -> Result<Self, UidError> {
        Self::parse(uid)
    }
}

/// Why a text is no user id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UidError {
    /// An id is one segment.
    #[error("a user id is one channel segment and has no slash")]
    Slash,
    /// What holds for every segment; positions count from the start of `users/<uid>`.
    #[error("as the channel `users/<uid>`: {0}")]
    Segment(#[from] ChannelError),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uid_is_one_segment() {
        assert_eq!(Uid::parse("42").unwrap().as_str(), "42");
        assert_eq!(Uid::parse("a@b.c").unwrap().as_str(), "a@b.c");
        assert_eq!(Uid::parse("me").unwrap().as_str(), "me");
        assert_eq!(Uid::parse("4/2"), Err(UidError::Slash));
        for bad in ["", ".", "..", "a*", "a\n"] {
            assert!(matches!(Uid::parse(bad), Err(UidError::Segment(_))), "{bad:?}");
        }
    }
}
