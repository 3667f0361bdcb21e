//! Reading files where it may hang, as on a mount that is gone or from a pipe: on threads of their own.
//!
//! A link runs on the thread that writes to all sockets of its shard. The runtime's own threads for such work are no better:
//! a process waits for them before it ends.

use std::{
    sync::{Arc, mpsc},
    thread,
    time::Duration,
};

use tokio::sync::{Semaphore, oneshot};

/// Does one piece of work after the other, so that one that hangs takes a single thread, however often it is tried again.
#[derive(Debug, Clone)]
pub(crate) struct Apart(Arc<Semaphore>);

impl Apart {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Semaphore::new(1)))
    }

    /// Does it, and waits at most so long. Cancel safe: nothing waits for what it finds.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        patience: Duration,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        let done = async {
            let alone = self.0.clone().acquire_owned().await.ok()?;
            let (tell, told) = oneshot::channel();
            let work = move || {
                // Whoever asked may have stopped waiting.
                let _ = tell.send(work());
                drop(alone);
            };
            thread::Builder::new().name("files".to_owned()).spawn(work).ok()?;
            told.await.ok()
        };
        tokio::time::timeout(patience, done).await.ok()?
    }
}

/// The same for whoever cannot await.
pub(crate) fn within<T: Send + 'static>(patience: Duration, work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    let (tell, told) = mpsc::sync_channel(1);
    let work = move || {
        // Whoever asked may have stopped waiting.
        let _ = tell.send(work());
    };
    thread::Builder::new().name("files".to_owned()).spawn(work).ok()?;
    told.recv_timeout(patience).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_hangs_is_given_up_and_takes_one_thread() {
        let (apart, moment) = (Apart::new(), Duration::from_millis(20));
        let (release, hang) = mpsc::sync_channel::<()>(1);
        assert_eq!(apart.run(moment, move || hang.recv().is_ok()).await, None);
        // It is not even begun while the first hangs.
        assert_eq!(apart.run(moment, || panic!("begun")).await, None::<()>);
        release.send(()).unwrap();
        assert_eq!(apart.run(Duration::from_secs(30), || 7).await, Some(7));
        assert_eq!(within(moment, thread::park), None);
        assert_eq!(within(Duration::from_secs(30), || 7), Some(7));
    }
}
