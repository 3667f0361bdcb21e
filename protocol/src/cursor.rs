//! Cursors: how far a subscription has come, as text that a client keeps and shows again.
//!
//! The text is base64url without padding of: the version (1), for each place the epoch's length, the epoch and the offset
//! (8 bytes, big endian), and a check of 8 bytes (SipHash-2-4 with the deployment's key). Places are sorted, so equal places
//! give equal text.

use std::hash::Hasher as _;

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use siphasher::sip::SipHasher24;

use crate::{Epoch, limits};

const VERSION: u8 = 1;
const CHECK_BYTES: usize = 8;
/// Offsets stay below this, so that JavaScript keeps them.
const OFFSET_END: u64 = 1 << 53;

/// How far one partition was heard. An epoch names its partition: each has its own.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The partition's epoch.
    pub epoch: Epoch,
    /// The last offset; 0 before the first.
    pub offset: u64,
}

/// A position for each partition that a subscription can touch. It names places and permits nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cursor(Vec<Place>);

impl Cursor {
    /// From places in any order; of two in one partition the earlier counts.
    #[must_use]
    pub fn new(places: impl IntoIterator<Item = Place>) -> Self {
        let mut places: Vec<_> = places.into_iter().collect();
        places.sort();
        places.dedup_by(|later, earlier| later.epoch == earlier.epoch);
        Self(places)
    }

    /// The places, sorted.
    #[must_use]
    pub fn places(&self) -> &[Place] {
        &self.0
    }

    /// The offset in the partition of this epoch.
    #[must_use]
    pub fn offset(&self, epoch: &Epoch) -> Option<u64> {
        self.0.iter().find(|place| place.epoch == *epoch).map(|place| place.offset)
    }

    /// As text for a client.
    #[must_use]
    pub fn encode(&self, key: &CursorKey) -> String {
        encode(self.0.iter().map(|place| (&place.epoch, place.offset)), key)
    }

    /// Reads what a client shows.
    ///
    /// # Errors
    /// [`CursorError`].
    pub fn decode(text: &str, key: &CursorKey) -> Result<Self, CursorError> {
        if text.len() > limits::CURSOR_BYTES {
            return Err(CursorError::TooLong { bytes: text.len() });
        }
        let bytes = BASE64_URL_SAFE_NO_PAD.decode(text).map_err(|_| CursorError::Malformed)?;
        let (body, check) =
            bytes.split_at_checked(bytes.len().wrapping_sub(CHECK_BYTES)).ok_or(CursorError::Malformed)?;
        let (version, mut rest) = body.split_first().ok_or(CursorError::Malformed)?;
        if *version != VERSION {
            return Err(CursorError::Version(*version));
        }
        if key.check(body) != check {
            return Err(CursorError::Foreign);
        }
        let mut places = Vec::new();
        while !rest.is_empty() {
            places.push(take(&mut rest).ok_or(CursorError::Malformed)?);
        }
        Ok(Self::new(places))
    }
}

/// The text of a cursor with one place, without making the cursor.
#[must_use]
pub fn encode_one(epoch: &Epoch, offset: u64, key: &CursorKey) -> String {
    encode(std::iter::once((epoch, offset)), key)
}

fn encode<'a>(places: impl Iterator<Item = (&'a Epoch, u64)>, key: &CursorKey) -> String {
    let mut bytes = Vec::with_capacity(64);
    bytes.push(VERSION);
    for (epoch, offset) in places {
        // An epoch has at most 64 bytes.
        bytes.push(epoch.as_str().len() as u8);
        bytes.extend_from_slice(epoch.as_str().as_bytes());
        bytes.extend_from_slice(&offset.to_be_bytes());
    }
    bytes.extend_from_slice(&key.check(&bytes));
    BASE64_URL_SAFE_NO_PAD.encode(bytes)
}

fn take(rest: &mut &[u8]) -> Option<Place> {
    let (length, after) = rest.split_first()?;
    let (epoch, after) = after.split_at_checked(usize::from(*length))?;
    let (offset, after) = after.split_first_chunk()?;
    *rest = after;
    let offset = u64::from_be_bytes(*offset);
    let epoch = Epoch::parse(std::str::from_utf8(epoch).ok()?).ok()?;
    (offset < OFFSET_END).then_some(Place { epoch, offset })
}

/// The deployment's key for the check of its cursors: the same on all its nodes, which find it on the bus.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct CursorKey([u8; 16]);

impl CursorKey {
    /// This key.
    #[must_use]
    pub fn new(key: [u8; 16]) -> Self {
        Self(key)
    }

    fn check(&self, body: &[u8]) -> [u8; CHECK_BYTES] {
        let mut hasher = SipHasher24::new_with_key(&self.0);
        hasher.write(body);
        hasher.finish().to_be_bytes()
    }
}

impl std::fmt::Debug for CursorKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("CursorKey")
    }
}

/// Why a text is no cursor of this deployment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CursorError {
    /// Longer than any cursor.
    #[error("a cursor has at most {} bytes, this one has {bytes}", limits::CURSOR_BYTES)]
    TooLong {
        /// What was shown.
        bytes: usize,
    },
    /// Not made by Clarion, or cut short.
    #[error("this is no cursor, or not all of it")]
    Malformed,
    /// Of another release.
    #[error("this cursor is of version {0}, which is not known here")]
    Version(u8),
    /// Forged, or of another deployment, or of one whose logs were lost.
    #[error("this cursor was not made by this deployment")]
    Foreign,
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: CursorKey = CursorKey([7; 16]);

    fn place(epoch: &str, offset: u64) -> Place {
        Place { epoch: Epoch::parse(epoch).unwrap(), offset }
    }

    #[test]
    fn equal_places_give_equal_text_which_is_read_again() {
        let one = Cursor::new([place("b", 2), place("a", 1)]);
        let text = one.encode(&KEY);
        assert_eq!(text, Cursor::new([place("a", 1), place("b", 2), place("b", 9)]).encode(&KEY));
        assert_eq!(Cursor::decode(&text, &KEY), Ok(one.clone()));
        assert_eq!((one.offset(&Epoch::parse("b").unwrap()), one.offset(&Epoch::parse("c").unwrap())), (Some(2), None));
        let alone = Epoch::parse("a").unwrap();
        assert_eq!(encode_one(&alone, 5, &KEY), Cursor::new([place("a", 5)]).encode(&KEY));
        assert_eq!(Cursor::decode(&Cursor::default().encode(&KEY), &KEY), Ok(Cursor::default()));
    }

    #[test]
    fn what_was_not_made_here_is_refused() {
        let text = Cursor::new([place("epoch", 1 << 40)]).encode(&KEY);
        assert_eq!(Cursor::decode(&text, &CursorKey([8; 16])), Err(CursorError::Foreign));
        for at in 0..text.len() {
            assert!(Cursor::decode(&text[..at], &KEY).is_err(), "cut at {at}");
            let other = if &text[at..=at] == "A" { "B" } else { "A" };
            let forged = format!("{}{other}{}", &text[..at], &text[at + 1..]);
            assert!(Cursor::decode(&forged, &KEY).is_err(), "{forged}");
        }
        let long = "A".repeat(limits::CURSOR_BYTES + 1);
        assert_eq!(Cursor::decode(&long, &KEY), Err(CursorError::TooLong { bytes: long.len() }));
        let version = BASE64_URL_SAFE_NO_PAD.encode([9; 20]);
        assert_eq!(Cursor::decode(&version, &KEY), Err(CursorError::Version(9)));
        for bad in ["", "!", "12:5", "a b"] {
            assert_eq!(Cursor::decode(bad, &KEY), Err(CursorError::Malformed), "{bad:?}");
        }
        let future = Cursor::new([place("e", 1 << 53)]).encode(&KEY);
        assert_eq!(Cursor::decode(&future, &KEY), Err(CursorError::Malformed));
    }
}
