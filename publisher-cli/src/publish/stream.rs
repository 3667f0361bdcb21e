//! Standard input, a message a line: batches as large as what is there, a progress bar, a summary.

use std::{fs::File, io, os::fd::AsFd, time::Duration};

use clarion_protocol::Channel;
use indicatif::{HumanBytes, HumanCount, ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::json;
use tokio::time::Instant;

use super::{input, pace::Pace};
use crate::{
    context::Context,
    failure::{Failure, Kind},
    output::Output,
    via::{Published, Way},
};

/// Lines whose failure is told one by one; more would hide what was said first.
const TOLD: u64 = 10;

/// Publishes each line of standard input until it ends, until Ctrl-C, or until nothing goes any more.
pub(crate) async fn run(context: &Context, channel: &Channel, rate: Option<f64>) -> Result<(), Failure> {
    let way = Way::open(context).await?;
    let mut tally = Tally::new(context.output);
    let bar = bar(context.output);
    let end = publish_lines(&way, channel, rate, &mut tally, &bar).await;
    way.close().await;
    bar.finish_and_clear();
    tally.summary(channel)?;
    end?;
    match tally.first {
        Some(first) => Err(first),
        None => Ok(()),
    }
}

async fn publish_lines(
    way: &Way,
    channel: &Channel,
    rate: Option<f64>,
    tally: &mut Tally,
    bar: &ProgressBar,
) -> Result<(), Failure> {
    let mut chunks = input::lines();
    let mut pace = Pace::new(rate);
    let mut interrupted = std::pin::pin!(tokio::signal::ctrl_c());
    loop {
        let chunk = tokio::select! {
            chunk = chunks.recv() => chunk,
            _ = &mut interrupted => return Ok(()),
        };
        let Some(chunk) = chunk.transpose()? else { return Ok(()) };
        let mut lines = chunk.lines;
        while !lines.is_empty() {
            let count = tokio::select! {
                count = pace.take(lines.len()) => count,
                _ = &mut interrupted => return Ok(()),
            };
            let rest = lines.split_off(count);
            let part = std::mem::replace(&mut lines, rest);
            let sizes: Vec<usize> = part.iter().map(bytes::Bytes::len).collect();
            let results = way.publish_all(channel, part).await;
            tally.add(&sizes, results, bar)?;
            bar.set_message(tally.progress());
        }
        bar.inc(chunk.input_bytes);
    }
}

/// A bar where standard input is a file, whose length is known; a running count otherwise.
fn bar(output: Output) -> ProgressBar {
    let target = if output.person_watches() { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
    let file = io::stdin().as_fd().try_clone_to_owned().and_then(|fd| File::from(fd).metadata());
    let length = file.ok().filter(std::fs::Metadata::is_file).map(|file| file.len());
    let bar = ProgressBar::with_draw_target(length, target);
    let style = match length {
        Some(_) => "{bar:30} {percent:>3} %  {msg}  {elapsed}  {eta} to go",
        None => "{spinner} {msg}  {elapsed}",
    };
    bar.set_style(ProgressStyle::with_template(style).expect("the template is sound"));
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

/// What was published so far.
struct Tally {
    output: Output,
    begin: Instant,
    published: u64,
    failed: u64,
    bytes: u64,
    first: Option<Failure>,
}

impl Tally {
    fn new(output: Output) -> Self {
        Self { output, begin: Instant::now(), published: 0, failed: 0, bytes: 0, first: None }
    }

    /// Counts results, and tells of lines that failed.
    ///
    /// Fails itself once nothing will go any more: the bus is away, or nobody may publish here.
    fn add(&mut self, sizes: &[usize], results: Vec<Published>, bar: &ProgressBar) -> Result<(), Failure> {
        let mut over = None;
        for (size, result) in sizes.iter().zip(results) {
            match result {
                Ok(_) => {
                    self.published += 1;
                    self.bytes += *size as u64;
                }
                Err(failure) => {
                    self.failed += 1;
                    let line = self.published + self.failed;
                    match failure.kind {
                        Kind::Usage => {
                            self.tell(line, &failure, bar);
                            self.first.get_or_insert(failure);
                        }
                        Kind::Unavailable | Kind::Internal | Kind::Refused | Kind::Closed => {
                            over.get_or_insert((line, failure));
                        }
                    }
                }
            }
        }
        let Some((line, failure)) = over else { return Ok(()) };
        Err(Failure { message: format!("stopped at line {line}: {}", failure.message), ..failure })
    }

    fn tell(&self, line: u64, failure: &Failure, bar: &ProgressBar) {
        match self.failed {
            ..=TOLD => bar.suspend(|| self.output.note(&format!("line {line}: {}", failure.message))),
            _ if self.failed == TOLD + 1 => {
                bar.suspend(|| self.output.note("more lines failed; they are only counted"))
            }
            _ => {}
        }
    }

    fn per_second(&self) -> f64 {
        self.published as f64 / self.begin.elapsed().as_secs_f64().max(1e-3)
    }

    fn progress(&self) -> String {
        let failed = if self.failed == 0 { String::new() } else { format!(", {} failed", HumanCount(self.failed)) };
        let rate = self.per_second();
        format!("{} published{failed}, {rate:.0}/s", HumanCount(self.published))
    }

    /// The last word, also after a failure: what went is what a person must know to go on.
    fn summary(&self, channel: &Channel) -> Result<(), Failure> {
        let seconds = self.begin.elapsed().as_secs_f64();
        let text = format!("{} ({}) to {channel} in {seconds:.1} s", self.progress(), HumanBytes(self.bytes));
        let value = json!({
            "channel": channel.as_str(),
            "published": self.published,
            "failed": self.failed,
            "bytes": self.bytes,
            "seconds": (seconds * 1e3).round() / 1e3,
            "per_second": self.per_second().round(),
        });
        self.output.result(text, &value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(results: Vec<Published>) -> (Tally, Result<(), Failure>) {
        let mut tally = Tally::new(Output::new(true));
        let end = tally.add(&vec![5; results.len()], results, &ProgressBar::hidden());
        (tally, end)
    }

    #[test]
    fn a_bad_line_does_not_stop_the_others() {
        let (tally, end) = tally(vec![Ok("id".to_owned()), Err(Failure::usage("too large")), Ok("id".to_owned())]);
        assert_eq!((tally.published, tally.failed, tally.bytes), (2, 1, 10));
        assert_eq!(end, Ok(()));
        assert_eq!(tally.first.unwrap().message, "too large");
    }

    #[test]
    fn a_bus_that_is_away_stops_at_its_line() {
        let (tally, end) =
            tally(vec![Ok("id".to_owned()), Err(Failure::unavailable("away")), Err(Failure::unavailable("away"))]);
        assert_eq!((tally.published, tally.failed), (1, 2));
        assert_eq!(end.unwrap_err().message, "stopped at line 2: away");
    }
}
