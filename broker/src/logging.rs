//! The log: written by a thread of its own, so that nobody who serves waits for whoever reads it.
//!
//! A reader that stalls and a disk that is full cost lines, which are counted, and nothing else.

use std::{
    backtrace::Backtrace,
    io::{self, IsTerminal as _, Write},
    sync::{Arc, mpsc},
    thread,
    time::Duration,
};

use clarion_broker::config::{Log, LogFormat};
use parking_lot::Mutex;
use prometheus::{
    IntCounter, IntCounterVec, Opts, Registry,
    core::{Collector, Desc},
    proto::MetricFamily,
};
use tracing_appender::non_blocking::{ErrorCounter, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::{EnvFilter, layer::SubscriberExt as _, util::SubscriberInitExt as _};

/// How many lines may wait for their reader: some MB of the longest.
const LINES: usize = 10_000;

/// How long what is no record may take.
const PATIENCE: Duration = Duration::from_secs(1);

/// The running log. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Logging {
    /// Writes what waits when it is dropped, as far as somebody reads within a second.
    guard: Arc<Mutex<Option<WorkerGuard>>>,
    lost: Lost,
}

impl Logging {
    /// Sends all records of this process to standard error, and what a panic says.
    pub(crate) fn start(config: &Log) -> Self {
        let unwritten = IntCounter::new("unwritten", "lines").expect("the name is valid");
        let writer = Unfailing { inner: io::stderr(), unwritten: unwritten.clone() };
        let builder = NonBlockingBuilder::default().lossy(true).buffered_lines_limit(LINES).thread_name("log");
        let (writer, guard) = builder.finish(writer);
        let lost = Lost::new(writer.error_counter(), unwritten);
        let registry = tracing_subscriber::registry().with(EnvFilter::new(&config.level));
        match config.format {
            LogFormat::Text => {
                let layer = tracing_subscriber::fmt::layer().with_ansi(io::stderr().is_terminal());
                registry.with(layer.with_writer(writer)).init();
            }
            LogFormat::Json => {
                let layer = tracing_subscriber::fmt::layer().json().flatten_event(true);
                registry.with(layer.with_writer(writer)).init();
            }
        }
        // The hook of the standard library writes by itself, and a thread that dies must not wait for a reader.
        std::panic::set_hook(Box::new(|panic| {
            let (thread, trace) = (thread::current(), Backtrace::capture());
            say(format!("clarion-broker: thread {:?} {panic}\n{trace}\n", thread.name().unwrap_or("without a name")));
        }));
        Self { guard: Arc::new(Mutex::new(Some(guard))), lost }
    }

    /// Shows what was lost among a node's metrics.
    pub(crate) fn register(&self, registry: &Registry) -> prometheus::Result<()> {
        registry.register(Box::new(self.lost.clone()))
    }

    /// Writes what waits, for a process that is about to end.
    pub(crate) fn finish(&self) {
        drop(self.guard.lock().take());
    }
}

/// Writes to standard error what is no record, by a thread that is left behind if nobody reads: what a process says that
/// cannot log yet, or is about to end.
pub(crate) fn say(text: String) {
    let (done, written) = mpsc::sync_channel(1);
    let writing = thread::Builder::new().name("say".to_owned()).spawn(move || {
        let mut stderr = io::stderr();
        // Nobody is left who could be told of an error.
        let _ = stderr.write_all(text.as_bytes()).and_then(|()| stderr.flush());
        let _ = done.send(());
    });
    // Where there is no thread for it, it is not said: waiting for a reader could be for ever.
    if writing.is_ok() {
        let _ = written.recv_timeout(PATIENCE);
    }
}

/// A writer whose lines get lost instead of its thread: a disk that was full may have room again.
struct Unfailing<W> {
    inner: W,
    unwritten: IntCounter,
}

impl<W: Write> Write for Unfailing<W> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        // The whole line or nothing more of it: what is left of one that was cut would stand before the next.
        if self.inner.write_all(line).is_err() {
            self.unwritten.inc();
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        // Lines that could not be written were counted.
        let _ = self.inner.flush();
        Ok(())
    }
}

/// Lines that nobody can read, by reason.
#[derive(Clone)]
struct Lost {
    lines: IntCounterVec,
    /// Counted by the queue itself.
    dropped: ErrorCounter,
    unwritten: IntCounter,
}

impl Lost {
    fn new(dropped: ErrorCounter, unwritten: IntCounter) -> Self {
        let about = Opts::new("clarion_log_lines_lost_total", "Lines of the log that were lost, by reason.");
        Self { lines: IntCounterVec::new(about, &["reason"]).expect("the names are valid"), dropped, unwritten }
    }
}

impl Collector for Lost {
    fn desc(&self) -> Vec<&Desc> {
        self.lines.desc()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        for (reason, lost) in [("behind", self.dropped.dropped_lines() as u64), ("unwritten", self.unwritten.get())] {
            let counter = self.lines.with_label_values(&[reason]);
            counter.inc_by(lost.saturating_sub(counter.get()));
        }
        self.lines.collect()
    }
}

#[cfg(test)]
mod tests {
    use prometheus::TextEncoder;

    use super::*;

    /// Takes lines once it may.
    struct Stalled(Arc<Mutex<()>>);

    impl Write for Stalled {
        fn write(&mut self, line: &[u8]) -> io::Result<usize> {
            let _read = self.0.lock();
            Ok(line.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    struct FullDisk;

    impl Write for FullDisk {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::StorageFull.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Err(io::ErrorKind::StorageFull.into())
        }
    }

    fn shown(lost: &Lost) -> String {
        let registry = Registry::new();
        registry.register(Box::new(lost.clone())).unwrap();
        TextEncoder::new().encode_to_string(&registry.gather()).unwrap()
    }

    #[test]
    fn a_reader_that_stalls_costs_lines() {
        let reader = Arc::new(Mutex::new(()));
        let stalled = reader.lock();
        let builder = NonBlockingBuilder::default().lossy(true).buffered_lines_limit(2);
        let (mut writer, guard) = builder.finish(Stalled(reader.clone()));
        for _ in 0..10 {
            writer.write_all(b"a line\n").unwrap();
        }
        let lost = Lost::new(writer.error_counter(), IntCounter::new("unwritten", "lines").unwrap());
        assert!(lost.dropped.dropped_lines() >= 7, "one is being written and two wait");
        let expected = format!("{{reason=\"behind\"}} {}", lost.dropped.dropped_lines());
        assert!(shown(&lost).contains(&expected) && shown(&lost).contains(&expected), "{}", shown(&lost));
        drop(stalled);
        drop(guard);
    }

    #[test]
    fn a_full_disk_costs_lines() {
        let mut writer = Unfailing { inner: FullDisk, unwritten: IntCounter::new("unwritten", "lines").unwrap() };
        writer.write_all(b"a line\n").unwrap();
        writer.flush().unwrap();
        assert_eq!(writer.unwritten.get(), 1);
    }
}
