//! Texts that are used and never shown.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// What stands in place of a secret wherever one would be shown.
pub const HIDDEN: &str = "[hidden]";

/// A key or password of the configuration. Printing or serialising it shows [`HIDDEN`].
#[derive(Clone, PartialEq, Eq, schemars::JsonSchema)]
#[schemars(transparent)]
pub struct Secret(String);

impl Secret {
    /// The text itself, for those who compute with it.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

/// Without the end of the line that files and here-documents put behind it: nobody means it, and those who sign or show the
/// same secret mostly have it from elsewhere.
impl From<&str> for Secret {
    fn from(text: &str) -> Self {
        Self(text.trim_end_matches(['\r', '\n']).to_owned())
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(|text| Self::from(text.as_str()))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(HIDDEN)
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(HIDDEN)
    }
}
