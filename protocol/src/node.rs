//! The names of nodes.

use std::{fmt, sync::Arc};

use serde::{Deserialize, Serialize};

/// A node's name: 1 to 64 ASCII letters, digits, `-`, `_` and `.`; unique among the members.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct NodeName(Arc<str>);

impl NodeName {
    /// Checks a name and takes it.
    ///
    /// # Errors
    /// [`NodeNameError`].
    pub fn parse(name: &str) -> Result<Self, NodeNameError> {
        let good = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
        let fits = (1..=64).contains(&name.len()) && name.bytes().all(good);
        if fits { Ok(Self(name.into())) } else { Err(NodeNameError) }
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for NodeName {
    type Error = NodeNameError;

    fn try_from(name: String) -> Result<Self, NodeNameError> {
        Self::parse(&name)
    }
}

impl std::str::FromStr for NodeName {
    type Err = NodeNameError;

    fn from_str(name: &str) -> Result<Self, NodeNameError> {
        Self::parse(name)
    }
}

impl From<NodeName> for String {
    fn from(value: NodeName) -> Self {
        value.as_str().to_owned()
    }
}

impl fmt::Display for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &*self.0)
    }
}

/// A text that is no node name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a node name is 1 to 64 ASCII letters, digits, `-`, `_` and `.`")]
pub struct NodeNameError;
