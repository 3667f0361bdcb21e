//! Several ways to one end, tried side by side.
//!
//! A server that is switched off, or an address that nothing routes to, swallows the whole time of an attempt. Tried one
//! after the other, each of them would keep a node from the server that is there; so the next attempt begins while the
//! last is still on its way (as RFC 8305 has it for the addresses of one name).

use std::{collections::VecDeque, time::Duration};

use futures_util::{StreamExt as _, stream::FuturesUnordered};
use tokio::{
    net::{TcpStream, lookup_host},
    time::sleep,
};

use crate::HostPort;

/// How long an attempt is alone before the next begins: a server on the same continent has answered by then, TLS included,
/// so that the order of preference mostly holds.
const HEAD_START: Duration = Duration::from_millis(250);

/// Makes an attempt for each candidate, in their order, and returns the first that succeeds; the others are dropped.
/// `None` when there were no candidates.
///
/// Cancel safe where the attempts are.
///
/// # Errors
/// The error that came first: a server that says no tells more than an address that says nothing.
pub(crate) async fn race<C, T, E, F>(
    candidates: impl IntoIterator<Item = C>,
    attempt: impl Fn(C) -> F,
) -> Option<Result<T, E>>
where
    F: Future<Output = Result<T, E>>,
{
    let mut waiting: VecDeque<C> = candidates.into_iter().collect();
    let (mut running, mut first) = (FuturesUnordered::new(), None);
    loop {
        running.extend(waiting.pop_front().map(&attempt));
        tokio::select! {
            done = running.next() => match done {
                Some(Ok(reached)) => return Some(Ok(reached)),
                Some(Err(error)) => first = first.or(Some(error)),
                None => return first.map(Err),
            },
            () = sleep(HEAD_START), if !waiting.is_empty() => {}
        }
    }
}

/// The addresses of a server, as its name is resolved now: what a name stands for changes when a server takes over.
///
/// # Errors
/// A name that stands for nothing.
pub(crate) async fn resolve(server: &HostPort) -> std::io::Result<Vec<std::net::SocketAddr>> {
    let addresses: Vec<_> = lookup_host((server.host.as_str(), server.port)).await?.collect();
    if addresses.is_empty() { Err(std::io::Error::other("the name has no address")) } else { Ok(addresses) }
}

/// A connection to the first of a server's addresses that takes one.
///
/// # Errors
/// The name's, or the one that came first.
pub(crate) async fn connect(server: &HostPort) -> std::io::Result<TcpStream> {
    let connected = race(resolve(server).await?, TcpStream::connect).await;
    connected.expect("a name that is resolved has an address")
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use parking_lot::Mutex;
    use tokio::time::Instant;

    use super::*;

    /// `Ok` after so many milliseconds, `Err` at once, or never.
    async fn attempt(what: &str) -> Result<String, String> {
        match what.parse() {
            Ok(millis) => sleep(Duration::from_millis(millis)).await,
            Err(_) if what == "never" => pending().await,
            Err(_) => return Err(what.to_owned()),
        }
        Ok(what.to_owned())
    }

    #[tokio::test(start_paused = true)]
    async fn those_that_swallow_an_attempt_cost_a_head_start_each() {
        let started = Instant::now();
        let reached = race(["never", "never", "never", "never", "10"], attempt).await;
        assert_eq!((reached, started.elapsed().as_millis()), (Some(Ok("10".to_owned())), 1_010));
    }

    #[tokio::test(start_paused = true)]
    async fn the_order_holds_among_those_that_answer() {
        let asked = Mutex::new(Vec::new());
        let ask = |what| {
            asked.lock().push(what);
            attempt(what)
        };
        assert_eq!(race(["200", "1"], ask).await, Some(Ok("200".to_owned())));
        assert_eq!(*asked.lock(), ["200"]);
        // One that has failed keeps nobody waiting.
        let started = Instant::now();
        assert_eq!(race(["no", "5", "1"], attempt).await, Some(Ok("5".to_owned())));
        assert_eq!(started.elapsed().as_millis(), 5);
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_error_is_told() {
        assert_eq!(race(["no", "not", "never at all"], attempt).await, Some(Err("no".to_owned())));
        assert_eq!(race([], attempt).await, None);
    }
}
