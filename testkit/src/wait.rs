//! Waiting for something to hold, with one bound for all tests.

use std::{env, fmt::Debug, future::Future, time::Duration};

use tokio::time::{Instant, sleep, timeout};

/// How long anything may take before a test gives up: 30 s, or the seconds in `CLARION_TEST_PATIENCE`.
///
/// A slow machine raises it; no test may fail because a machine is slow.
#[must_use]
pub fn patience() -> Duration {
    let seconds = env::var("CLARION_TEST_PATIENCE").ok().and_then(|text| text.parse().ok());
    Duration::from_secs(seconds.unwrap_or(30))
}

/// What a check answers: whether it holds yet, and what came of it.
pub trait Outcome {
    /// What a check that holds gives.
    type Value;

    /// The value, or why it does not hold yet.
    ///
    /// # Errors
    /// What is missing, in words.
    fn judge(self) -> Result<Self::Value, String>;
}

impl Outcome for bool {
    type Value = ();

    fn judge(self) -> Result<(), String> {
        if self { Ok(()) } else { Err("it is false".to_owned()) }
    }
}

impl<T> Outcome for Option<T> {
    type Value = T;

    fn judge(self) -> Result<T, String> {
        self.ok_or_else(|| "there is nothing".to_owned())
    }
}

impl<T, E: Debug> Outcome for Result<T, E> {
    type Value = T;

    fn judge(self) -> Result<T, String> {
        self.map_err(|error| format!("{error:?}"))
    }
}

/// Asks `check` again and again until it answers `true`, `Some` or `Ok`, and returns what it gave.
///
/// # Panics
/// When it does not hold within [`patience`]; the message has `what` and the last answer.
pub async fn eventually<C, F>(what: &str, mut check: C) -> <F::Output as Outcome>::Value
where
    C: FnMut() -> F,
    F: Future,
    F::Output: Outcome,
{
    let deadline = Instant::now() + patience();
    let mut pause = Duration::from_millis(2);
    let mut last = "it never answered".to_owned();
    while Instant::now() < deadline {
        match tokio::time::timeout_at(deadline, check()).await.map(Outcome::judge) {
            Ok(Ok(value)) => return value,
            Ok(Err(answer)) => last = answer,
            Err(_) => break,
        }
        sleep(pause).await;
        pause = (pause * 2).min(Duration::from_millis(100));
    }
    panic!("{what}: not within {:?}; last: {last}", patience());
}

/// Awaits `future`, but no longer than [`patience`].
///
/// # Panics
/// When it takes longer.
pub async fn within<F: Future>(what: &str, future: F) -> F::Output {
    match timeout(patience(), future).await {
        Ok(value) => value,
        Err(_) => panic!("{what}: not within {:?}", patience()),
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn asks_until_it_holds() {
        let calls = Cell::new(0);
        let value = eventually("three calls", || {
            calls.set(calls.get() + 1);
            let now = calls.get();
            async move { (now == 3).then_some(now) }
        })
        .await;
        assert_eq!((value, calls.get()), (3, 3));
    }

    #[tokio::test(start_paused = true)]
    #[should_panic(expected = "the moon: not within")]
    async fn gives_up_and_says_what_was_waited_for() {
        eventually("the moon", || async { Err::<(), _>("still dark") }).await;
    }
}
