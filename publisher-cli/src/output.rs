//! What people and machines read: results on standard output, notes and failures on standard error.

use std::io::{self, IsTerminal, Write};

use serde_json::{Value, json};

use crate::failure::{Failure, Kind};

/// Writes for people, or with `--json` one JSON object a line, on both streams.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Output {
    json: bool,
}

impl Output {
    pub(crate) fn new(json: bool) -> Self {
        Self { json }
    }

    /// Whether machines read.
    pub(crate) fn json(self) -> bool {
        self.json
    }

    /// Writes a result: the text for people, or the value for machines.
    pub(crate) fn result(self, text: impl AsRef<str>, value: &Value) -> Result<(), Failure> {
        let line = if self.json { value.to_string() } else { text.as_ref().to_owned() };
        self.line(line.as_bytes())
    }

    /// Writes one line as it is, at once, so that whoever reads a pipe has it.
    pub(crate) fn line(self, line: &[u8]) -> Result<(), Failure> {
        let mut stdout = io::stdout().lock();
        stdout.write_all(line)?;
        stdout.write_all(b"\n")?;
        Ok(stdout.flush()?)
    }

    /// Tells of progress. What cannot be told is not worth failing for.
    pub(crate) fn note(self, text: &str) {
        let line = if self.json { json!({ "note": text }).to_string() } else { text.to_owned() };
        let _ = writeln!(io::stderr().lock(), "{line}");
    }

    /// Tells why the command failed, and what to do about it.
    pub(crate) fn failure(self, failure: &Failure) {
        if failure.kind == Kind::Closed {
            return;
        }
        let line = match &failure.remedy {
            _ if self.json => {
                let error = json!({ "code": failure.code(), "message": failure.message, "remedy": failure.remedy });
                json!({ "error": error }).to_string()
            }
            Some(remedy) => format!("error: {}\n  try: {remedy}", failure.message),
            None => format!("error: {}", failure.message),
        };
        let _ = writeln!(io::stderr().lock(), "{line}");
    }

    /// Whether a person looks at standard error, so that a progress bar makes sense.
    pub(crate) fn person_watches(self) -> bool {
        !self.json && io::stderr().is_terminal()
    }
}

/// Columns of text with a line of titles, each as wide as its widest cell.
pub(crate) fn table<const N: usize>(titles: [&str; N], rows: &[[String; N]]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells.chain([titles[column].len()]).max().unwrap_or_default()
    };
    let widths: [usize; N] = std::array::from_fn(width);
    let line = |cells: [&str; N]| {
        let padded: String = cells.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}  ")).collect();
        padded.trim_end().to_owned()
    };
    let body = rows.iter().map(|row| line(row.each_ref().map(String::as_str)));
    std::iter::once(line(titles)).chain(body).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_they_must_be() {
        let rows = [["größe".to_owned(), "1".to_owned()], ["b".to_owned(), String::new()]];
        assert_eq!(table(["NODE", "N"], &rows), "NODE   N\ngröße  1\nb");
    }
}
