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

/// All mistakes as one text.
#[must_use]
pub fn report(problems: &[Problem]) -> String {
    let title = match problems.len() {
        1 => "there is a mistake in the configuration:".to_owned(),
        many => format!("there are {many} mistakes in the configuration:"),
    };
    problems.iter().fold(title, |text, problem| format!("{text}\n\n  {problem}")) + "\n"
}
