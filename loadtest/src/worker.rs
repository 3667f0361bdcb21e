//! A worker process: an engine between standard input and standard output. It ends when its input does, so it never
//! outlives its coordinator.

use std::{
    io::{self, BufRead, Write},
    sync::{Arc, mpsc},
    thread,
};

use mio::Waker;

use crate::{
    control::{Command, Event},
    engine::Engine,
    failure::{Context, Result},
    limits,
};

/// Commands that may wait; the coordinator waits for answers to nearly all.
const QUEUE: usize = 64;

/// Runs a worker.
pub(crate) fn run() -> Result<()> {
    limits::raise_descriptors();
    let (sender, inbox) = mpsc::sync_channel(QUEUE);
    let (engine, waker) = Engine::new(inbox, Box::new(tell)).internal(|| "cannot poll sockets".to_owned())?;
    thread::Builder::new()
        .name("commands".to_owned())
        .spawn(move || listen(&sender, &waker))
        .internal(|| "cannot start a thread".to_owned())?;
    match engine.run() {
        // The coordinator is gone, and so is the reason to be here.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        outcome => outcome.internal(|| "the engine stopped".to_owned()),
    }
}

/// Hands commands on until the input ends or cannot be understood.
fn listen(sender: &mpsc::SyncSender<Command>, waker: &Arc<Waker>) {
    for line in io::stdin().lock().lines() {
        let command = line
            .map_err(|error| error.to_string())
            .and_then(|line| serde_json::from_str(&line).map_err(|error| format!("this is no command: {error}")));
        match command {
            Ok(command) => {
                if sender.send(command).is_err() {
                    return;
                }
            }
            Err(message) => {
                // Nobody is left to be told when this fails.
                let _ = tell(&Event::Failed { message });
                break;
            }
        }
        // An engine that cannot be woken looks at its queue with its next tick.
        let _ = waker.wake();
    }
}

fn tell(event: &Event) -> io::Result<()> {
    let mut line = serde_json::to_vec(event)?;
    line.push(b'\n');
    let mut output = io::stdout().lock();
    output.write_all(&line)?;
    output.flush()
}
