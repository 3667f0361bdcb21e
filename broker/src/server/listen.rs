//! Listening: on addresses that may have been in use a moment ago, with an error that says what to do.

use std::{io, net::SocketAddr};

use tokio::net::{TcpListener, TcpSocket};

/// How many connections may wait to be accepted: a storm of reconnects queues in the kernel. It cuts this to
/// `net.core.somaxconn`, 4096 since Linux 5.4.
const BACKLOG: u32 = 4096;

/// An address that cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("{flag}: cannot listen on {address}; {remedy}")]
pub struct CannotListen {
    flag: &'static str,
    address: SocketAddr,
    remedy: &'static str,
    source: io::Error,
}

/// Opens a listener, named in errors by the flag that sets its address.
pub(super) fn listen(flag: &'static str, address: SocketAddr) -> Result<TcpListener, CannotListen> {
    open(address).map_err(|source| CannotListen { flag, address, remedy: remedy(source.kind()), source })
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
    async fn an_address_in_use_says_what_to_do() {
        let first = listen("--listen", "127.0.0.1:0".parse().unwrap()).unwrap();
        let error = listen("--listen", first.local_addr().unwrap()).unwrap_err();
        let text = error.to_string();
        assert!(
            text.starts_with("--listen: cannot listen on 127.0.0.1:") && text.contains("choose another port"),
            "{text}"
        );
    }
}
