//! A child process that dies with its value and with the test process, and whose output is kept.

use std::{
    collections::hash_map::RandomState,
    fmt::Write as _,
    hash::{BuildHasher, Hasher},
    io::{BufRead, BufReader, Read},
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, OnceLock, mpsc},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::wait::{eventually, patience};

/// Lines of output that are kept for diagnosis; the oldest go first.
const KEPT_LINES: usize = 20_000;

/// How often a server is tried on another port when somebody else was faster.
pub(crate) const PORT_ATTEMPTS: usize = 20;

/// A running child process. Killed and reaped when dropped.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    output: Output,
}

/// What a process has written, shared with the threads that read it.
#[derive(Debug, Clone, Default)]
struct Output(Arc<Mutex<Written>>);

#[derive(Debug, Default)]
struct Written {
    lines: Vec<String>,
    /// Streams that are not yet read to their end.
    open: usize,
}

impl Process {
    /// Starts `command`. Its output is read and kept; it has no input.
    ///
    /// # Errors
    /// When it cannot be started, with the name of what is missing.
    pub fn spawn(command: Command) -> Result<Self> {
        let program = command.get_program().to_owned();
        let name = Path::new(&program).file_name().unwrap_or(&program).to_string_lossy().into_owned();
        let mut command = dying_with_us(command);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = spawn_from_lasting_thread(command)
            .with_context(|| format!("cannot start {name}: `./test` installs what the tests need"))?;
        let output = Output::default();
        let streams: [Option<Box<dyn Read + Send>>; 2] = [
            child.stdout.take().map(|stream| Box::new(stream) as Box<dyn Read + Send>),
            child.stderr.take().map(|stream| Box::new(stream) as Box<dyn Read + Send>),
        ];
        for stream in streams.into_iter().flatten() {
            let output = output.clone();
            output.0.lock().open += 1;
            thread::Builder::new().name(format!("{name}-output")).spawn(move || output.read(stream))?;
        }
        Ok(Self { name, child, output })
    }

    /// The process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Everything it has written so far, both streams, a line an entry.
    #[must_use]
    pub fn output(&self) -> Vec<String> {
        self.output.0.lock().lines.clone()
    }

    /// Waits until a line of its output makes `check` answer `Some`.
    ///
    /// # Errors
    /// When it ends first, with what it wrote.
    ///
    /// # Panics
    /// When there is no such line within [`patience`].
    pub async fn wait_for_line<T>(&mut self, what: &str, check: impl Fn(&str) -> Option<T>) -> Result<T> {
        let what = format!("{} {what}", self.name);
        let process = Mutex::new(self);
        let outcome = eventually(&what, || async {
            let mut process = process.lock();
            let running = process.is_running();
            let written = process.output.0.lock();
            // What a process wrote before it ended may still have to be read.
            let ended = !running && written.open == 0;
            match written.lines.iter().find_map(|line| check(line)) {
                Some(found) => Some(Ok(found)),
                None if ended => Some(Err(())),
                None => None,
            }
        })
        .await;
        outcome.or_else(|()| {
            let process = process.into_inner();
            bail!("{what}: it ended instead, having written\n{}", process.output().join("\n"))
        })
    }

    /// Sends a signal by its name: `TERM`, `STOP`, `CONT`, `HUP`, `USR2` …
    ///
    /// # Panics
    /// When it cannot be sent.
    pub fn signal(&self, signal: &str) {
        // The child is not reaped while `self` lives, so the id cannot be anybody else's.
        let line = format!("kill -s {signal} {}", self.pid());
        let status = Command::new("sh").args(["-c", &line]).status().expect("there is a shell");
        assert!(status.success(), "{line}: {status}");
    }

    /// Freezes the process (SIGSTOP) and returns when all of its threads stand still, which is later than the signal is sent.
    ///
    /// # Panics
    /// When they do not within [`patience`].
    pub fn pause(&self) {
        self.signal("STOP");
        let begun = Instant::now();
        while !self.stands_still() {
            assert!(begun.elapsed() < patience(), "{} does not stop", self.name);
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// Lets it go on.
    pub fn resume(&self) {
        self.signal("CONT");
    }

    fn stands_still(&self) -> bool {
        let threads = std::fs::read_dir(format!("/proc/{}/task", self.pid())).into_iter().flatten().flatten();
        // A thread that has just ended has no state to read, and runs no more.
        threads.map(|thread| std::fs::read_to_string(thread.path().join("stat"))).all(|stat| match stat {
            Ok(stat) => stat.contains(") T "),
            Err(_) => true,
        })
    }

    /// Waits until the process has ended by itself; its exit code, or `None` when a signal ended it.
    ///
    /// # Panics
    /// When it does not within [`patience`].
    pub async fn ended(&mut self) -> Option<i32> {
        let what = format!("{} ends", self.name);
        let child = Mutex::new(&mut self.child);
        let status = eventually(&what, || async { child.lock().try_wait().ok().flatten() }).await;
        status.code()
    }

    /// Everything it wrote, once it has ended and all of that is read.
    ///
    /// # Panics
    /// When somebody else keeps its output open.
    pub async fn whole_output(&self) -> Vec<String> {
        eventually("its output ends", async || self.output.0.lock().open == 0).await;
        self.output()
    }

    /// Kills the process at once (SIGKILL) and reaps it.
    pub fn kill(&mut self) {
        // Both fail only when it has ended already, which is what is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Output {
    fn read(&self, stream: impl Read) {
        let mut reader = BufReader::new(stream);
        let mut line = Vec::new();
        while let Ok(1..) = reader.read_until(b'\n', &mut line) {
            let lines = &mut self.0.lock().lines;
            if lines.len() == KEPT_LINES {
                lines.drain(..KEPT_LINES / 2);
            }
            lines.push(String::from_utf8_lossy(&line).trim_end().to_owned());
            line.clear();
        }
        self.0.lock().open -= 1;
    }
}

/// Wraps a command so that the kernel kills it when the thread that starts it ends, even if this process is killed: what a
/// test starts by itself ends with the test, also when that hangs and is killed for it.
///
/// `setpriv` belongs to util-linux; where it is missing, `Drop` has to do.
#[must_use]
pub fn dying_with_us(command: Command) -> Command {
    let Ok(setpriv) = find("setpriv") else { return command };
    let mut wrapped = Command::new(setpriv);
    wrapped.args(["--pdeathsig", "KILL", "--"]).arg(command.get_program()).args(command.get_args());
    if let Some(directory) = command.get_current_dir() {
        wrapped.current_dir(directory);
    }
    for (key, value) in command.get_envs() {
        match value {
            Some(value) => wrapped.env(key, value),
            None => wrapped.env_remove(key),
        };
    }
    wrapped
}

/// Starts a process from a thread that lives as long as this process does: the death signal of `setpriv` comes when the
/// *thread* that started the child ends, and a test's thread may end before a server that several tests share.
fn spawn_from_lasting_thread(command: Command) -> Result<Child> {
    type Job = (Command, mpsc::SyncSender<std::io::Result<Child>>);
    static SPAWNER: OnceLock<mpsc::SyncSender<Job>> = OnceLock::new();
    let spawner = SPAWNER.get_or_init(|| {
        let (sender, jobs) = mpsc::sync_channel::<Job>(16);
        let run = move || {
            for (mut command, answer) in jobs {
                // Nobody waits any more only when the asking thread has panicked.
                let _ = answer.send(command.spawn());
            }
        };
        thread::Builder::new().name("spawner".to_owned()).spawn(run).expect("a thread can be started");
        sender
    });
    let (answer, child) = mpsc::sync_channel(1);
    spawner.send((command, answer)).context("the spawner is gone")?;
    Ok(child.recv().context("the spawner is gone")??)
}

/// Finds a program in `PATH`, or where Debian puts servers, which is not in everybody's `PATH`.
pub(crate) fn find(program: &str) -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/usr/local/bin", "/usr/bin"].map(PathBuf::from))
        .map(|directory| directory.join(program))
        .find(|candidate| candidate.is_file())
        .with_context(|| format!("{program} is not installed: `./test` installs what the tests need"))
}

/// Runs a command to its end and returns what it wrote on standard output, without the last line end.
///
/// # Errors
/// When it fails or takes longer than [`patience`], with what it wrote.
pub async fn run(command: Command) -> Result<String> {
    let shown = show(&command);
    let mut command = tokio::process::Command::from(command);
    command.kill_on_drop(true).stdin(Stdio::null());
    let output = tokio::time::timeout(patience(), command.output())
        .await
        .with_context(|| format!("{shown}: not within {:?}", patience()))?
        .with_context(|| shown.clone())?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end().to_owned();
    if !output.status.success() {
        bail!("{shown}: {}\n{}\n{}", output.status, text(&output.stdout), text(&output.stderr));
    }
    Ok(text(&output.stdout))
}

fn show(command: &Command) -> String {
    let mut shown = command.get_program().to_string_lossy().into_owned();
    for argument in command.get_args() {
        let _ = write!(shown, " {}", argument.to_string_lossy());
    }
    shown
}

/// A port of 127.0.0.1 that nobody listens on now.
///
/// It lies below the range from which the kernel takes the ports of outgoing connections, so that a server which is
/// killed and started again finds its port still free. Another process may be faster: who uses it tries again.
///
/// # Panics
/// When a thousand ports in a row are taken.
#[must_use]
pub fn free_port() -> u16 {
    const FIRST: u16 = 10_000;
    const COUNT: u64 = 22_000;
    for _ in 0..1000 {
        let random = RandomState::new().build_hasher().finish() % COUNT;
        let port = FIRST + u16::try_from(random).expect("COUNT fits");
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("no port of 127.0.0.1 is free");
}

/// Starts something on a free port, again on another one when that was taken meanwhile.
pub(crate) async fn on_free_port<T>(start: impl AsyncFn(u16) -> Result<T>) -> Result<T> {
    let mut attempt = 1;
    loop {
        match start(free_port()).await {
            Err(error) if attempt < PORT_ATTEMPTS && is_address_in_use(&error) => attempt += 1,
            outcome => return outcome,
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

pub(crate) fn is_address_in_use(error: &anyhow::Error) -> bool {
    format!("{error:#}").to_lowercase().contains("address already in use")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[tokio::test]
    async fn output_is_kept_and_awaited() {
        let mut process = Process::spawn(shell("echo one; echo two >&2; exec cat /dev/zero >/dev/null")).unwrap();
        for line in ["one", "two"] {
            process.wait_for_line("says it", |l| (l == line).then_some(())).await.unwrap();
        }
        assert!(process.is_running());
        process.kill();
        assert!(!process.is_running());
    }

    #[tokio::test]
    async fn an_early_end_is_told_with_its_words() {
        let mut process = Process::spawn(shell("echo Address already in use; exit 3")).unwrap();
        let error = process.wait_for_line("is ready", |l| (l == "ready").then_some(())).await.unwrap_err();
        assert!(is_address_in_use(&error), "{error:#}");
        assert_eq!(process.ended().await, Some(3));
    }

    #[tokio::test]
    async fn a_child_does_not_outlive_its_value() {
        let process = Process::spawn(shell("exec cat /dev/zero > /dev/null")).unwrap();
        let entry = PathBuf::from(format!("/proc/{}", process.pid()));
        assert!(entry.exists());
        drop(process);
        assert!(!entry.exists());
    }

    #[tokio::test]
    async fn a_child_outlives_the_thread_that_asked_for_it() {
        let start = || Process::spawn(shell("echo started; exec cat /dev/zero > /dev/null")).unwrap();
        let mut process = thread::spawn(start).join().unwrap();
        process.wait_for_line("starts", |l| (l == "started").then_some(())).await.unwrap();
        assert!(process.is_running());
    }

    #[test]
    fn free_ports_can_be_bound() {
        let port = free_port();
        assert!(TcpListener::bind(("127.0.0.1", port)).is_ok());
    }
}
