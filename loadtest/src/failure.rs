//! Why a run failed: what the shell is told by the exit code, and a person by a message and a remedy.

use std::{error::Error, fmt, io};

/// What kind of failure it is; the exit codes are those of sysexits.h, but for `Unmet`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// What was asked for cannot be: 64.
    Usage,
    /// A server or a program is not there: 69.
    Unavailable,
    /// Something that should not happen did: 70.
    Internal,
    /// The run was done, and what was expected of it with `--expect` did not hold: 1.
    Unmet,
    /// Whoever read our output has gone, as `head` does. Nothing is wrong: 0.
    Closed,
}

/// Why a run failed.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) kind: Kind,
    pub(crate) message: String,
    /// What to do about it.
    pub(crate) remedy: Option<String>,
}

pub(crate) type Result<T, E = Failure> = std::result::Result<T, E>;

impl Failure {
    fn new(kind: Kind, message: impl Into<String>) -> Self {
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

    /// All is said, and there is nothing to do.
    pub(crate) fn closed(message: impl Into<String>) -> Self {
        Self::new(Kind::Closed, message)
    }

    pub(crate) fn unmet(message: impl Into<String>) -> Self {
        Self::new(Kind::Unmet, message)
    }

    /// Says what to do about it.
    #[must_use]
    pub(crate) fn remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = Some(remedy.into());
        self
    }

    pub(crate) fn exit_code(&self) -> u8 {
        match self.kind {
            Kind::Usage => 64,
            Kind::Unavailable => 69,
            Kind::Internal => 70,
            Kind::Unmet => 1,
            Kind::Closed => 0,
        }
    }
}

/// Only writing to standard output fails with a bare I/O error; all others are given context.
impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            return Self::new(Kind::Closed, "nobody reads the output any more");
        }
        Self::internal(format!("input or output failed: {error}"))
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        match &self.remedy {
            Some(remedy) => write!(f, "\n{remedy}"),
            None => Ok(()),
        }
    }
}

impl Error for Failure {}

/// Says what was being done when an error came.
pub(crate) trait Context<T> {
    fn unavailable(self, what: impl FnOnce() -> String) -> Result<T>;
    fn internal(self, what: impl FnOnce() -> String) -> Result<T>;
}

impl<T, E: fmt::Display> Context<T> for std::result::Result<T, E> {
    fn unavailable(self, what: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|error| Failure::unavailable(format!("{}: {error}", what())))
    }

    fn internal(self, what: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|error| Failure::internal(format!("{}: {error}", what())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_its_exit_code() {
        let codes = [Kind::Usage, Kind::Unavailable, Kind::Internal, Kind::Unmet, Kind::Closed]
            .map(|kind| Failure::new(kind, "x").exit_code());
        assert_eq!(codes, [64, 69, 70, 1, 0]);
    }

    #[test]
    fn a_closed_pipe_is_no_error() {
        assert_eq!(Failure::from(io::Error::from(io::ErrorKind::BrokenPipe)).exit_code(), 0);
    }
}
