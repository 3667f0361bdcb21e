//! Why a connection did not come to stand.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The status by which a server says that it is for later.
const COME_BACK: u16 = 503;

/// Why a connection did not come to stand. Workers and reports write it as text, which is read back as what it was.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub(crate) enum Setback {
    /// The server answered, with a status that opens nothing.
    Status(u16),
    /// Anything else, in a few words that are the same for all that have it.
    Other(String),
}

impl Setback {
    /// Whether the server asks to come back: then nothing has failed yet.
    pub(crate) fn passes(&self) -> bool {
        *self == Self::Status(COME_BACK)
    }
}

impl fmt::Display for Setback {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Status(status) => write!(f, "status {status}"),
            Self::Other(words) => f.write_str(words),
        }
    }
}

impl From<String> for Setback {
    fn from(text: String) -> Self {
        match text.strip_prefix("status ").map(str::parse) {
            Some(Ok(status)) => Self::Status(status),
            _ => Self::Other(text),
        }
    }
}

impl From<&str> for Setback {
    fn from(words: &str) -> Self {
        Self::Other(words.to_owned())
    }
}

impl From<Setback> for String {
    fn from(setback: Setback) -> Self {
        setback.to_string()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn a_report_names_it_and_a_worker_reads_it_back() {
        let counts = BTreeMap::from([(Setback::Status(503), 2), (Setback::Status(401), 1), ("reset".into(), 3)]);
        let json = serde_json::to_string(&counts).unwrap();
        assert_eq!(json, r#"{"status 401":1,"status 503":2,"reset":3}"#);
        assert_eq!(serde_json::from_str::<BTreeMap<Setback, u64>>(&json).unwrap(), counts);
    }

    #[test]
    fn only_one_status_asks_to_come_back() {
        for (setback, passes) in
            [(Setback::Status(503), true), (Setback::Status(502), false), (Setback::from("status 503 once"), false)]
        {
            assert_eq!(setback.passes(), passes, "{setback}");
        }
    }
}
