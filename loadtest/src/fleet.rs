//! The workers, as the coordinator holds them.

use std::{
    io::{BufRead, BufReader, Read, Write},
    process::{Child, Command, Stdio},
    sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender},
    thread,
    time::Duration,
};

use crate::{
    agent,
    args::Common,
    clock::Time,
    control::{Command as Order, Event},
    failure::{Context, Failure, Result},
    server::install::program,
    watch::Watch,
};

/// Events that may wait to be looked at; then workers wait.
const QUEUE: usize = 4096;

/// How often the watch looks at the machine, whether or not workers have something to say.
const LOOK: Duration = Duration::from_millis(50);

/// Round trips from which the best is taken to compare two clocks.
const CLOCK_TRIPS: usize = 9;

/// All workers.
pub(crate) struct Fleet {
    workers: Vec<Worker>,
    events: Receiver<(usize, Said)>,
    /// Whether workers are on other machines, whose clocks differ.
    remote: bool,
}

/// Where workers are.
pub(crate) enum Whereabouts {
    /// On this machine, on these cores.
    Here(Option<String>),
    /// Wherever these commands start them, in turns: `ssh host clarion-loadtest worker`.
    Commands(Vec<String>),
    /// Where agents listen, in turns.
    Listening { addresses: Vec<String>, secret: Option<String> },
}

struct Worker {
    /// What this process has started for it.
    child: Option<Child>,
    input: Box<dyn Write>,
}

enum Said {
    Event(Event),
    Gone(String),
}

/// How much later a worker's clock is than ours, and how wrong that may be, in nanoseconds.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Offset {
    pub(crate) nanoseconds: i64,
    pub(crate) error: u64,
}

impl Whereabouts {
    pub(crate) fn of(common: &Common) -> Result<Self> {
        if !common.worker_at.is_empty() {
            let secret = common.worker_secret_from.as_deref().map(crate::args::secret_in).transpose()?;
            return Ok(Self::Listening { addresses: common.worker_at.clone(), secret });
        }
        Ok(match &common.worker_command[..] {
            [] => Self::Here(common.generator_cores.clone()),
            commands => Self::Commands(commands.to_owned()),
        })
    }

    /// Starts one of the workers.
    fn start(&self, number: usize) -> Result<(Worker, Box<dyn Read + Send>)> {
        match self {
            Self::Here(cores) => child(own_command(cores.as_deref())?, number),
            Self::Commands(lines) => {
                let mut command = Command::new("sh");
                command.args(["-c", &lines[number % lines.len()]]);
                child(command, number)
            }
            Self::Listening { addresses, secret } => {
                let stream = agent::hire(&addresses[number % addresses.len()], secret.as_deref())?;
                let output = stream.try_clone().internal(|| "cannot share a socket".to_owned())?;
                Ok((Worker { child: None, input: Box::new(stream) }, Box::new(output)))
            }
        }
    }
}

impl Fleet {
    /// Starts workers.
    pub(crate) fn start(count: usize, whereabouts: &Whereabouts) -> Result<Self> {
        let (sender, events) = mpsc::sync_channel(QUEUE);
        let mut workers = Vec::new();
        for number in 0..count {
            let (worker, output) = whereabouts.start(number)?;
            listen(number, output, sender.clone())?;
            workers.push(worker);
        }
        Ok(Self { workers, events, remote: !matches!(whereabouts, Whereabouts::Here(_)) })
    }

    pub(crate) fn len(&self) -> usize {
        self.workers.len()
    }

    /// The processes on this machine.
    pub(crate) fn pids(&self) -> Vec<u32> {
        if self.remote {
            return Vec::new();
        }
        self.workers.iter().filter_map(|worker| worker.child.as_ref()).map(Child::id).collect()
    }

    pub(crate) fn tell(&mut self, worker: usize, order: &Order) -> Result<()> {
        let mut line = serde_json::to_vec(order).internal(|| "cannot write a command".to_owned())?;
        line.push(b'\n');
        let input = &mut self.workers[worker].input;
        let sent = input.write_all(&line).and_then(|()| input.flush());
        sent.unavailable(|| format!("worker {worker} takes no commands"))
    }

    pub(crate) fn tell_all(&mut self, order: &Order) -> Result<()> {
        (0..self.len()).try_for_each(|worker| self.tell(worker, order))
    }

    /// Waits until each of these workers has said what is picked.
    pub(crate) fn wait<T>(
        &mut self,
        who: &[usize],
        what: &str,
        patience: Duration,
        watch: &mut Watch,
        pick: impl Fn(Event) -> Option<T>,
    ) -> Result<Vec<T>> {
        let deadline = Time::now() + patience;
        let mut found: Vec<Option<T>> = who.iter().map(|_| None).collect();
        while found.iter().any(Option::is_none) {
            match self.events.recv_timeout(LOOK) {
                Ok((worker, Said::Event(Event::Tick(tick)))) => watch.tick(worker, *tick),
                Ok((worker, Said::Event(Event::Failed { message }))) => {
                    return Err(Failure::unavailable(format!("worker {worker}: {message}")));
                }
                Ok((worker, Said::Gone(why))) => {
                    return Err(Failure::internal(format!("worker {worker} has ended: {why}")));
                }
                Ok((worker, Said::Event(event))) => {
                    if let (Some(at), Some(value)) = (who.iter().position(|one| *one == worker), pick(event)) {
                        found[at] = Some(value);
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Err(Failure::internal("all workers have ended")),
            }
            watch.look();
            if Time::now() > deadline {
                return Err(Failure::unavailable(format!("{what}: not within {patience:?}")));
            }
        }
        Ok(found.into_iter().flatten().collect())
    }

    /// Waits for all workers.
    pub(crate) fn wait_all<T>(
        &mut self,
        what: &str,
        patience: Duration,
        watch: &mut Watch,
        pick: impl Fn(Event) -> Option<T>,
    ) -> Result<Vec<T>> {
        let all: Vec<usize> = (0..self.len()).collect();
        self.wait(&all, what, patience, watch, pick)
    }

    /// Lets time pass, with an eye on everything.
    pub(crate) fn pause(&mut self, duration: Duration, watch: &mut Watch) -> Result<()> {
        let until = Time::now() + duration;
        while Time::now() < until {
            match self.events.recv_timeout(LOOK.min(until.since(Time::now()))) {
                Ok((worker, Said::Event(Event::Tick(tick)))) => watch.tick(worker, *tick),
                Ok((worker, Said::Gone(why))) => {
                    return Err(Failure::internal(format!("worker {worker} has ended: {why}")));
                }
                Ok(_) | Err(_) => {}
            }
            watch.look();
        }
        Ok(())
    }

    /// Compares the workers' clocks with ours; on one machine there is only one.
    pub(crate) fn offsets(&mut self, watch: &mut Watch) -> Result<Vec<Offset>> {
        if !self.remote {
            return Ok(vec![Offset::default(); self.len()]);
        }
        (0..self.len()).map(|worker| self.offset(worker, watch)).collect()
    }

    fn offset(&mut self, worker: usize, watch: &mut Watch) -> Result<Offset> {
        let mut best = Offset { nanoseconds: 0, error: u64::MAX };
        for _ in 0..CLOCK_TRIPS {
            let asked = Time::now();
            self.tell(worker, &Order::Clock)?;
            let clock = |event| if let Event::Clock { now } = event { Some(now) } else { None };
            let theirs = self.wait(&[worker], "the time", Duration::from_secs(10), watch, clock)?[0];
            let half = Time::now().since(asked).as_nanos() as u64 / 2;
            if half < best.error {
                best = Offset { nanoseconds: theirs.0.cast_signed() - (asked.0 + half).cast_signed(), error: half };
            }
        }
        Ok(best)
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        for child in self.workers.iter_mut().filter_map(|worker| worker.child.as_mut()) {
            // Both fail only when it has ended already, which is what is wanted.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn child(mut command: Command, number: usize) -> Result<(Worker, Box<dyn Read + Send>)> {
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().unavailable(|| format!("cannot start worker {number}"))?;
    let input = child.stdin.take().expect("it is a pipe");
    let output = child.stdout.take().expect("it is a pipe");
    Ok((Worker { child: Some(child), input: Box::new(input) }, Box::new(output)))
}

fn own_command(cores: Option<&str>) -> Result<Command> {
    let ours = std::env::current_exe()?;
    let mut command = match (cores, program("taskset")) {
        (Some(cores), Some(taskset)) => {
            let mut command = Command::new(taskset);
            command.args(["-c", cores]).arg(ours);
            command
        }
        (Some(_), None) => {
            return Err(Failure::unavailable("taskset is not installed").remedy("apt-get install util-linux"));
        }
        (None, _) => Command::new(ours),
    };
    command.arg("worker");
    Ok(command)
}

fn listen(number: usize, output: Box<dyn Read + Send>, sender: SyncSender<(usize, Said)>) -> Result<()> {
    let read = move || {
        for line in BufReader::new(output).lines() {
            let said = match line.map(|line| serde_json::from_str(&line)) {
                Ok(Ok(event)) => Said::Event(event),
                Ok(Err(error)) => Said::Gone(format!("it says what is no event: {error}")),
                Err(error) => Said::Gone(error.to_string()),
            };
            if sender.send((number, said)).is_err() {
                return;
            }
        }
        // The coordinator may have ended before, and then nobody is told.
        let _ = sender.send((number, Said::Gone("its output is over".to_owned())));
    };
    thread::Builder::new().name("worker".to_owned()).spawn(read).internal(|| "cannot start a thread".to_owned())?;
    Ok(())
}
