//! Listening: on addresses that may have been in use a moment ago, with errors that say what to do.

use std::{fmt, io, net::SocketAddr};

use tokio::net::{TcpListener, TcpSocket};

/// How many connections may wait to be accepted: a storm of reconnects queues in the kernel. It cuts this to
/// `net.core.somaxconn`, 4096 since Linux 5.4.
const BACKLOG: u32 = 4096;

/// Addresses that cannot be listened on: all of them, so that they can be mended in one go.
#[derive(Debug, thiserror::Error)]
pub struct CannotListen(Vec<Refusal>);

#[derive(Debug)]
struct Refusal {
    flag: &'static str,
    address: SocketAddr,
    error: io::Error,
}

impl fmt::Display for CannotListen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, Refusal { flag, address, error }) in self.0.iter().enumerate() {
            let (line_end, remedy) = (if number == 0 { "" } else { "\n" }, remedy(error.kind()));
            write!(f, "{line_end}{flag}: cannot listen on {address} ({error}): {remedy}")?;
        }
        Ok(())
    }
}

/// Opens all listeners, each named in errors by the flag that sets its address.
pub(super) fn listen<const N: usize>(
    wanted: [(&'static str, SocketAddr); N],
) -> Result<[TcpListener; N], CannotListen> {
    let mut refusals = Vec::new();
    let open = wanted
        .map(|(flag, address)| open(address).map_err(|error| refusals.push(Refusal { flag, address, error })).ok());
    if refusals.is_empty() {
        Ok(open.map(|listener| listener.expect("none was refused")))
    } else {
        Err(CannotListen(refusals))
    }
}

fn open(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    // Connections of the process before may still be closing on this address; another listener is refused all the same.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

fn remedy(kind: io::ErrorKind) -> &'static str {
    match kind {
        io::ErrorKind::AddrInUse => "another process uses this address: stop it, or choose another port",
        io::ErrorKind::PermissionDenied => "ports below 1024 need a right of their own: choose another port",
        io::ErrorKind::AddrNotAvailable => {
            "this machine does not have that address: choose one that it has, or 0.0.0.0"
        }
        _ => "choose another address",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn all_addresses_in_use_are_named_with_what_to_do() {
        let [first] = listen([("--listen", "127.0.0.1:0".parse().unwrap())]).unwrap();
        let used = first.local_addr().unwrap();
        let free = "127.0.0.1:0".parse().unwrap();
        let error = listen([("--listen", used), ("--x", free), ("--admin-listen", used)]).unwrap_err().to_string();
        let lines: Vec<_> = error.lines().collect();
        assert_eq!(lines.len(), 2, "{error}");
        assert!(lines[0].starts_with(&format!("--listen: cannot listen on {used} (")), "{error}");
        assert!(lines[1].starts_with("--admin-listen: ") && lines[1].contains("choose another port"), "{error}");
    }
}
