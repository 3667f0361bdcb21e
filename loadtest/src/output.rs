//! What goes to standard output, to files, and to the terminal.

use std::{
    fs,
    io::{self, IsTerminal, Write},
    path::{Path, PathBuf},
};

use serde::Serialize;
use serde_json::json;

use crate::{
    args::Common,
    failure::{Context, Failure, Kind, Result},
    report::{Report, compare::Comparison, html, table},
};

/// Where results go.
pub(crate) struct Output {
    json: bool,
    save: Option<PathBuf>,
    html: Option<PathBuf>,
}

impl Output {
    pub(crate) fn new(common: &Common) -> Self {
        Self { json: common.json, save: common.save.clone(), html: common.html.clone() }
    }

    /// Whether somebody looks.
    pub(crate) fn shows_progress(&self) -> bool {
        !self.json && io::stderr().is_terminal()
    }

    pub(crate) fn report(&self, report: &Report) -> Result<()> {
        self.give(&table::report(report), report, || html::report(report))
    }

    pub(crate) fn comparison(&self, comparison: &Comparison) -> Result<()> {
        self.give(&comparison.table(), &comparison.json(), || html::comparison(comparison))
    }

    /// One run of a comparison is done: a line for whoever waits, which is not the result.
    pub(crate) fn turn(&self, round: u32, report: &Report) -> Result<()> {
        let names = [
            "cpu_us_per_delivery",
            "messages_per_read",
            "cpu_us_per_message",
            "cpu_us_per_connection",
            "p99_ms",
            "pss_bytes_per_connection",
        ];
        let found = names.into_iter().filter_map(|name| Some((name, report.lookup(name)?)));
        if self.json {
            let figures: serde_json::Map<_, _> = found.map(|(name, value)| (name.to_owned(), json!(value))).collect();
            let line = json!({ "round": round + 1, "server": report.server, "figures": figures });
            return Ok(writeln!(io::stderr(), "{line}")?);
        }
        let figures: Vec<_> =
            found.map(|(name, value)| format!("{} {}", table::title(name), table::number(value))).collect();
        Ok(writeln!(io::stderr(), "round {} · {} · {}", round + 1, report.server, figures.join(" · "))?)
    }

    fn give(&self, text: &str, value: &impl Serialize, page: impl FnOnce() -> String) -> Result<()> {
        let line = serde_json::to_string(value).internal(|| "cannot write the report".to_owned())?;
        writeln!(io::stdout(), "{}", if self.json { &line } else { text })?;
        if let Some(path) = &self.save {
            write(path, &line)?;
        }
        if let Some(path) = &self.html {
            write(path, &page())?;
        }
        Ok(())
    }
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).internal(|| format!("cannot write {}", path.display()))
}

/// Why a run failed, on standard error.
pub(crate) fn failure(failure: &Failure) {
    if failure.kind != Kind::Closed {
        // When nobody reads errors, nobody is to be told.
        let _ = writeln!(
            io::stderr(),
            "{}: {failure}",
            if failure.kind == Kind::Unmet { "not as expected" } else { "error" }
        );
    }
}
