//! Why a command failed: what the shell is told by the exit code, and a person by a message and a remedy.

use std::{error::Error, fmt::Write as _, io};

/// The exit code of a usage error (`EX_USAGE` of sysexits.h), also what bad arguments get before anything runs.
pub(crate) const USAGE: u8 = 64;

/// What kind of failure it is. The exit codes are those of sysexits.h.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// What was asked for cannot be: 64.
    Usage,
    /// The broker or the bus is not there, or took nothing: 69.
    Unavailable,
    /// Something that should not happen did: 70.
    Internal,
    /// Whoever asked may not: 77.
    Refused,
    /// Whoever read our output has gone, as `head` does. Nothing is wrong: 0.
    Closed,
}

/// Why a command failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) kind: Kind,
    pub(crate) message: String,
    /// What to do about it.
    pub(crate) remedy: Option<String>,
}

impl Failure {
    pub(crate) fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), remedy: None }
    }

    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::new(Kind::Usage, message)
    }

    pub(crate) fn unavailable(message: impl Into<String>) -> Self {
        Self::new(Kind::Unavailable, message)
    }

    pub(crate) fn internal(message: impl Into<String>) -> Self {
        Self::new(Kind::Internal, message)
    }

    pub(crate) fn refused(message: impl Into<String>) -> Self {
        Self::new(Kind::Refused, message)
    }

    /// Says what to do about it.
    #[must_use]
    pub(crate) fn remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = Some(remedy.into());
        self
    }

    pub(crate) fn exit_code(&self) -> u8 {
        match self.kind {
            Kind::Usage => USAGE,
            Kind::Unavailable => 69,
            Kind::Internal => 70,
            Kind::Refused => 77,
            Kind::Closed => 0,
        }
    }

    /// The word for `--json`.
    pub(crate) fn code(&self) -> &'static str {
        match self.kind {
            Kind::Usage => "usage",
            Kind::Unavailable => "unavailable",
            Kind::Internal => "internal",
            Kind::Refused => "refused",
            Kind::Closed => "closed",
        }
    }
}

/// Only writing to standard output fails with a bare I/O error here.
impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            return Self::new(Kind::Closed, "nobody reads the output any more");
        }
        Self::internal(format!("the output cannot be written: {error}"))
    }
}

/// An error and all its causes in one line.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        // Many errors repeat their cause in their own words.
        if !text.contains(&next) {
            let _ = write!(text, ": {next}");
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_its_exit_code() {
        let codes = [Kind::Usage, Kind::Unavailable, Kind::Internal, Kind::Refused, Kind::Closed]
            .map(|kind| Failure::new(kind, "x").exit_code());
        assert_eq!(codes, [64, 69, 70, 77, 0]);
    }

    #[test]
    fn a_closed_pipe_is_no_error() {
        assert_eq!(Failure::from(io::Error::from(io::ErrorKind::BrokenPipe)).exit_code(), 0);
        assert_eq!(Failure::from(io::Error::from(io::ErrorKind::StorageFull)).exit_code(), 70);
    }
}
