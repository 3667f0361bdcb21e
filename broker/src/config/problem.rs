//! A mistake in the configuration, told to the person who has to mend it.

use std::fmt;

/// One mistake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The key, as in `limits.payload`.
    pub key: String,
    /// Its value. Never a secret.
    pub value: Option<String>,
    /// Where it was set.
    pub source: Option<String>,
    /// What was expected.
    pub expected: String,
    /// What to do.
    pub remedy: Option<String>,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.key)?;
        if let Some(value) = &self.value {
            write!(f, " is {value}")?;
        }
        if let Some(source) = &self.source {
            write!(f, " ({source})")?;
        }
        write!(f, "\n    expected: {}", self.expected)?;
        self.remedy.as_ref().map_or(Ok(()), |remedy| write!(f, "\n    remedy: {remedy}"))
    }
}

/// Why a configuration is not taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejected {
    /// All mistakes.
    pub problems: Vec<Problem>,
    /// What is none and may be why there are some: a variable whose name is misspelt sets nothing.
    pub warnings: Vec<String>,
}

impl fmt::Display for Rejected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.problems.len() {
            1 => f.write_str("there is a mistake in the configuration:")?,
            many => write!(f, "there are {many} mistakes in the configuration:")?,
        }
        self.problems.iter().try_for_each(|problem| write!(f, "\n\n  {problem}"))?;
        f.write_str("\n")?;
        self.warnings.iter().try_for_each(|warning| write!(f, "\n  warning: {warning}\n"))
    }
}
