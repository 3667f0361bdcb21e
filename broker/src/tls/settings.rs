//! The `[tls]` table of the configuration.

use std::{
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::pair::{Files, Pair};

/// TLS towards clients. On when both files are named.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The PEM file with the certificate, and after it those up to its authority.
    #[schemars(example = "/etc/clarion/tls/tls.crt")]
    pub certificate: Option<PathBuf>,
    /// The PEM file with its private key.
    #[schemars(example = "/etc/clarion/tls/tls.key")]
    pub key: Option<PathBuf>,
    /// How often the files are looked at: certificates are renewed days ahead, so seconds are soon enough.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "Duration")]
    pub reload: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self { certificate: None, key: None, reload: Duration::from_secs(5) }
    }
}

/// Something in the table, or in a file that it names, that cannot work.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("tls.{key}{}: expected {expected}; {remedy}", value.as_ref().map(|value| format!(" ({value})")).unwrap_or_default())]
pub struct Mistake {
    /// The key within `[tls]`.
    pub key: &'static str,
    /// Its value.
    pub value: Option<String>,
    /// What was expected, and what was found instead.
    pub expected: String,
    /// What to do.
    pub remedy: String,
}

impl Mistake {
    pub(super) fn of_file(key: &'static str, file: &Path, expected: String, remedy: &str) -> Self {
        Self { key, value: Some(file.display().to_string()), expected, remedy: remedy.to_owned() }
    }

    fn alone(key: &'static str, other: &str) -> Self {
        Self {
            key,
            value: None,
            expected: format!("a file, since {other} is set: TLS needs both"),
            remedy: format!("set tls.{key}, or remove {other} to speak plain HTTP"),
        }
    }
}

impl Config {
    /// Whether TLS is spoken.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.certificate.is_some() && self.key.is_some()
    }

    /// The two files, once both are named.
    pub(super) fn files(&self) -> Option<Files> {
        Some(Files { certificate: self.certificate.clone()?, key: self.key.clone()? })
    }

    /// What cannot work, the files included.
    #[must_use]
    pub fn mistakes(&self) -> Vec<Mistake> {
        let mut mistakes = Vec::new();
        match (&self.certificate, &self.key) {
            (None, None) => {}
            (Some(_), None) => mistakes.push(Mistake::alone("key", "tls.certificate")),
            (None, Some(_)) => mistakes.push(Mistake::alone("certificate", "tls.key")),
            (Some(certificate), Some(key)) => {
                let files = Files { certificate: certificate.clone(), key: key.clone() };
                mistakes.extend(files.read().and_then(|read| read.pair(&files)).err());
            }
        }
        if self.reload < Duration::from_millis(100) || self.reload > Duration::from_secs(3600) {
            mistakes.push(Mistake {
                key: "reload",
                value: Some(humantime::format_duration(self.reload).to_string()),
                expected: "100ms to 1h".to_owned(),
                remedy: "leave it out for 5s".to_owned(),
            });
        }
        mistakes
    }

    /// What works and may not be meant: a certificate that no client will take.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        let pair = self.files().and_then(|files| files.read().and_then(|read| read.pair(&files)).ok());
        pair.as_ref().and_then(Pair::doubt_now).into_iter().collect()
    }
}

impl Pair {
    /// Why clients will not take it today.
    pub(super) fn doubt_now(&self) -> Option<String> {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        self.doubt(i64::try_from(now).unwrap_or(i64::MAX))
    }
}
