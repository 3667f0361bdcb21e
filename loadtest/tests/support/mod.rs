//! Runs the binary and reads its reports.

pub(crate) mod faulty;

use std::{
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use clarion_testkit::dying_with_us;
use serde_json::Value;

/// A run that is to be.
pub(crate) struct Loadtest {
    words: Vec<String>,
    variables: Vec<(String, String)>,
    directory: tempfile::TempDir,
}

/// What it came to.
#[derive(Debug)]
pub(crate) struct Ran {
    code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    /// What it wrote lies here.
    _directory: tempfile::TempDir,
}

/// The JSON that it wrote.
#[derive(Debug)]
pub(crate) struct Report(Value);

/// A run with these arguments.
pub(crate) fn loadtest(line: &str) -> Loadtest {
    let words = line.split_whitespace().map(str::to_owned).collect();
    Loadtest { words, variables: Vec::new(), directory: tempfile::tempdir().expect("a temporary directory") }
}

/// Where the binaries of this build are.
fn binaries() -> PathBuf {
    Path::new(env!("CARGO_BIN_EXE_clarion-loadtest")).parent().expect("a binary is in a folder").to_owned()
}

/// The broker of this build.
pub(crate) fn broker() -> PathBuf {
    let broker = binaries().join("clarion-broker");
    assert!(broker.is_file(), "build it first: cargo build -p clarion-broker");
    broker
}

impl Loadtest {
    /// A file that is gone afterwards.
    pub(crate) fn file(&self, name: &str) -> String {
        self.directory.path().join(name).to_string_lossy().into_owned()
    }

    pub(crate) fn variable(mut self, name: &str, value: &str) -> Self {
        self.variables.push((name.to_owned(), value.to_owned()));
        self
    }

    pub(crate) fn with(mut self, words: &[&str]) -> Self {
        self.words.extend(words.iter().map(|word| (*word).to_owned()));
        self
    }

    /// With a shipped profile in which something is replaced, behind this bus.
    pub(crate) fn server_of(self, name: &str, old: &str, new: &str, bus: &str) -> Self {
        let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("profiles/{name}.toml"));
        let text = std::fs::read_to_string(shipped).expect("the profile is there");
        assert!(text.contains(old), "{name} has no {old}");
        let path = self.file("profile.toml");
        std::fs::write(&path, text.replacen(old, new, 1)).expect("the profile is written");
        self.with(&["--server", &format!("{path}{bus}")])
    }

    #[track_caller]
    pub(crate) fn succeeds(self) -> Ran {
        self.ends(0)
    }

    /// Runs to the end, which must have this exit code.
    #[track_caller]
    pub(crate) fn ends(self, code: i32) -> Ran {
        let starts_ours =
            !self.words.iter().any(|word| word == "--server" || word == "--servers" || word == "--target");
        if starts_ours && code == 0 {
            broker();
        }
        let mut command = Command::new(env!("CARGO_BIN_EXE_clarion-loadtest"));
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("CLARION_")) {
            command.env_remove(name);
        }
        // Packages of peers are kept from run to run, beside what cargo keeps.
        command.env(
            "CLARION_LOADTEST_CACHE",
            binaries().parent().expect("a profile of cargo's is in its target").join("loadtest-peers"),
        );
        command.envs(self.variables.iter().cloned()).args(&self.words);
        let output = dying_with_us(command).stdin(Stdio::null()).output().expect("the binary starts");
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("the output is UTF-8");
        let ended = output.status.code().unwrap_or(-1);
        let ran =
            Ran { code: ended, stdout: text(output.stdout), stderr: text(output.stderr), _directory: self.directory };
        assert_eq!(ran.code, code, "{:?}\n{ran:?}", self.words);
        ran
    }
}

impl Ran {
    pub(crate) fn report(&self) -> Report {
        Report(serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:?}")))
    }
}

impl Report {
    pub(crate) fn whole(&self) -> &Value {
        &self.0
    }

    #[track_caller]
    pub(crate) fn value(&self, path: &str) -> &Value {
        path.split('.')
            .fold(&self.0, |value, name| value.get(name).unwrap_or_else(|| panic!("no {path} in {}", self.0)))
    }

    /// A number, or a parameter that is one.
    #[track_caller]
    pub(crate) fn number(&self, path: &str) -> f64 {
        let value = self.value(path);
        let number = value.as_f64().or_else(|| value.as_str()?.parse().ok());
        number.unwrap_or_else(|| panic!("{path} is {value}"))
    }

    /// The sum of all counts of a table.
    pub(crate) fn sum(&self, path: &str) -> f64 {
        self.value(path).as_object().into_iter().flatten().filter_map(|(_, count)| count.as_f64()).sum()
    }

    /// Nothing was lost, doubled, out of order or misdirected, and nobody was refused.
    #[track_caller]
    pub(crate) fn is_clean(&self) -> &Self {
        for name in ["lost", "duplicates", "out_of_order", "strays"] {
            assert_eq!(self.number(&format!("audit.{name}")), 0.0, "{name}: {}", self.0);
        }
        assert_eq!((self.sum("failed"), self.sum("publish_errors")), (0.0, 0.0), "{}", self.0);
        for name in ["scenario", "server", "at", "machine", "parameters", "series", "histogram", "warnings"] {
            assert!(!self.value(name).is_null(), "{name}");
        }
        assert!(self.number("machine.cores") >= 1.0 && !self.value("at").as_str().unwrap_or_default().is_empty());
        self
    }

    #[track_caller]
    pub(crate) fn has(&self, figures: &[&str]) -> &Self {
        figures.iter().for_each(|name| assert!(self.number(&format!("figures.{name}")).is_finite(), "{name}"));
        self
    }

    /// Every delivery has its latency.
    #[track_caller]
    pub(crate) fn has_latency(&self) -> &Self {
        assert!(self.number("latency.count") > 0.0, "{}", self.0);
        assert_eq!(self.number("latency.count"), self.number("figures.delivered"));
        let [p50, p99, max] = ["p50_ms", "p99_ms", "max_ms"].map(|name| self.number(&format!("latency.{name}")));
        assert!(0.0 < p50 && p50 <= p99 && p99 <= max, "{p50} {p99} {max}");
        let counts = self
            .value("histogram")
            .as_array()
            .expect("a histogram is a list")
            .iter()
            .filter_map(|pair| pair[1].as_f64());
        assert_eq!(counts.sum::<f64>(), self.number("latency.count"));
        self
    }
}

/// What somebody else has started: it says where it listens.
pub(crate) struct Started {
    child: Child,
    pub(crate) address: String,
}

impl Started {
    pub(crate) fn floor() -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_clarion-loadtest"));
        command.arg("floor");
        Self::start(command)
    }

    /// One that gives workers to those who know this secret.
    pub(crate) fn agent(secret: &str) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_clarion-loadtest"));
        command.args(["worker", "--listen", "127.0.0.1:0", "--secret-from", "SECRET"]).env("SECRET", secret);
        Self::start(command)
    }

    fn start(command: Command) -> Self {
        let mut child = dying_with_us(command).stdout(Stdio::piped()).spawn().expect("it starts");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("it is a pipe"))
            .read_line(&mut line)
            .expect("it says where it listens");
        let address = line.trim().strip_prefix("listening ").expect("it listens").to_owned();
        Self { child, address }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
