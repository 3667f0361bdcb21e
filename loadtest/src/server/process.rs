//! A child process that dies with its value, and whose last words are kept.

use std::{
    collections::VecDeque,
    io::{BufRead, BufReader, Read},
    process::{Child, Command, Stdio},
    sync::Arc,
    thread::{self, JoinHandle},
    time::Duration,
};

use parking_lot::Mutex;
use rustix::process::{Pid, Signal, kill_process};

use crate::{
    clock::Time,
    failure::{Context, Result},
    server::install::program,
};

/// Lines that are kept of what a server says.
const LINES: usize = 40;

/// How long what an ended server has said may take to be read.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// A running child.
pub(crate) struct Process {
    child: Child,
    words: Arc<Mutex<VecDeque<String>>>,
    listeners: Vec<JoinHandle<()>>,
}

/// A command that stays on these cores, and that the kernel kills when this process ends, however that may be.
pub(crate) fn command(words: &[String], cores: Option<&str>) -> Command {
    let mut line: Vec<String> = Vec::new();
    if let Some(setpriv) = program("setpriv") {
        line.extend([setpriv, "--pdeathsig".to_owned(), "KILL".to_owned(), "--".to_owned()]);
    }
    if let Some(cores) = cores {
        line.extend(["taskset".to_owned(), "-c".to_owned(), cores.to_owned()]);
    }
    line.extend(words.iter().cloned());
    let mut command = Command::new(&line[0]);
    command.args(&line[1..]);
    // What somebody's shell has set for his own broker is not for the one that is measured.
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("CLARION_")) {
        command.env_remove(name);
    }
    command
}

impl Process {
    pub(crate) fn spawn(command: &mut Command) -> Result<Self> {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let name = command.get_program().to_string_lossy().into_owned();
        let mut child = command.spawn().unavailable(|| format!("cannot start {name}"))?;
        let words = Arc::default();
        let mut listeners = Vec::new();
        if let Some(stream) = child.stdout.take() {
            listeners.push(listen(stream, &words)?);
        }
        if let Some(stream) = child.stderr.take() {
            listeners.push(listen(stream, &words)?);
        }
        Ok(Self { child, words, listeners })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn runs(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Asks it to end (SIGTERM).
    pub(crate) fn terminate(&self) {
        // It is ours until it is waited for, so the id is nobody else's; one that has ended already is fine.
        if let Some(pid) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            let _ = kill_process(pid, Signal::TERM);
        }
    }

    /// The last that it said; of one that has ended all of it, unless somebody else keeps its output open.
    pub(crate) fn words(&mut self) -> String {
        let deadline = Time::now() + LAST_WORDS;
        while !self.runs() && self.listeners.iter().any(|listener| !listener.is_finished()) && Time::now() < deadline {
            thread::sleep(Duration::from_millis(1));
        }
        let words: Vec<String> = self.words.lock().iter().cloned().collect();
        words.join("\n")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail only when it has ended already, which is what is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Reads a stream to its end, which comes with the end of the child.
fn listen(stream: impl Read + Send + 'static, words: &Arc<Mutex<VecDeque<String>>>) -> Result<JoinHandle<()>> {
    let words = Arc::clone(words);
    let read = move || {
        for line in BufReader::new(stream).lines().map_while(std::result::Result::ok) {
            let mut words = words.lock();
            if words.len() == LINES {
                words.pop_front();
            }
            words.push_back(line);
        }
    };
    thread::Builder::new().name("words".to_owned()).spawn(read).internal(|| "cannot start a thread".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Process {
        Process::spawn(&mut command(&["sh", "-c", script].map(str::to_owned), None)).unwrap()
    }

    #[test]
    fn a_child_ends_when_it_is_asked_and_its_words_are_kept() {
        let mut process = shell("echo ready; exec sleep 60");
        while process.words() != "ready" {
            assert!(process.runs());
            thread::yield_now();
        }
        process.terminate();
        while process.runs() {
            thread::yield_now();
        }
    }
}
