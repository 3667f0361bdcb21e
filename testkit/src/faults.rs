//! Networks that misbehave: a server that never answers, a proxy that can be cut and stalled.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
};
use tokio_util::task::AbortOnDropHandle;

/// Accepts connections, keeps them open and never says anything.
#[derive(Debug)]
pub struct SilentServer {
    addr: SocketAddr,
    accepted: Arc<AtomicUsize>,
    _task: AbortOnDropHandle<()>,
}

impl SilentServer {
    /// Starts on any port of 127.0.0.1.
    ///
    /// # Panics
    /// When no port can be had.
    pub async fn start() -> Self {
        let (listener, addr) = listen().await;
        let accepted = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&accepted);
        let task = tokio::spawn(async move {
            let mut kept = Vec::new();
            while let Ok((stream, _)) = listener.accept().await {
                kept.push(stream);
                count.fetch_add(1, Ordering::Relaxed);
            }
        });
        Self { addr, accepted, _task: AbortOnDropHandle::new(task) }
    }

    /// Where it listens.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// How many connections it has taken.
    #[must_use]
    pub fn accepted(&self) -> usize {
        self.accepted.load(Ordering::Relaxed)
    }
}

/// A loopback proxy in front of a server. Its connections can be stalled, cut and refused.
#[derive(Debug)]
pub struct TcpProxy {
    addr: SocketAddr,
    flow: watch::Sender<Flow>,
    accepted: Arc<AtomicUsize>,
    _task: AbortOnDropHandle<()>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Flow {
    /// Bytes go through. When not, both ends see an open connection on which nothing comes.
    moving: bool,
    /// New connections are taken. When not, they are reset at once.
    open: bool,
    /// Connections of an earlier generation are reset.
    generation: usize,
}

impl TcpProxy {
    /// Starts on any port of 127.0.0.1, in front of `upstream`.
    ///
    /// # Panics
    /// When no port can be had.
    pub async fn start(upstream: SocketAddr) -> Self {
        let (listener, addr) = listen().await;
        let (flow, state) = watch::channel(Flow { moving: true, open: true, generation: 0 });
        let accepted = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&accepted);
        let task = tokio::spawn(async move {
            // Dropping the set with this task ends the connections as well.
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::Relaxed);
                connections.spawn(relay(client, upstream, state.clone()));
                while connections.try_join_next().is_some() {}
            }
        });
        Self { addr, flow, accepted, _task: AbortOnDropHandle::new(task) }
    }

    /// Where it listens.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// How many connections it has taken.
    #[must_use]
    pub fn accepted(&self) -> usize {
        self.accepted.load(Ordering::Relaxed)
    }

    /// Lets nothing through from now on, in neither direction; all connections stay open.
    pub fn stall(&self) {
        self.flow.send_modify(|flow| flow.moving = false);
    }

    /// Resets all connections; new ones are taken.
    pub fn drop_connections(&self) {
        self.flow.send_modify(|flow| flow.generation += 1);
    }

    /// Resets all connections, and new ones as soon as they come.
    pub fn cut(&self) {
        self.flow.send_modify(|flow| {
            flow.generation += 1;
            flow.open = false;
        });
    }

    /// Undoes [`TcpProxy::stall`] and [`TcpProxy::cut`].
    pub fn resume(&self) {
        self.flow.send_modify(|flow| (flow.moving, flow.open) = (true, true));
    }
}

async fn listen() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a loopback port can be had");
    let addr = listener.local_addr().expect("a bound socket has an address");
    (listener, addr)
}

/// One connection through the proxy, until either end closes it or it is cut.
async fn relay(client: TcpStream, upstream: SocketAddr, mut flow: watch::Receiver<Flow>) {
    let born = *flow.borrow_and_update();
    // A reset, not a goodbye: this is what a lost network looks like. Failing to set it would only make it politer.
    let _ = client.set_zero_linger();
    if !born.open {
        return;
    }
    let Ok(server) = TcpStream::connect(upstream).await else { return };
    let _ = (client.set_nodelay(true), server.set_nodelay(true), server.set_zero_linger());
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let moving = flow.clone();
    tokio::select! {
        _ = flow.wait_for(|now| now.generation != born.generation) => {}
        // One direction that ends is passed on as such; the connection ends with both.
        _ = async { tokio::join!(pump(from_client, to_server, moving.clone()), pump(from_server, to_client, moving)) } => {}
    }
}

async fn pump(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut flow: watch::Receiver<Flow>) -> io::Result<()> {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let read = from.read(&mut buffer).await?;
        if flow.wait_for(|now| now.moving).await.is_err() {
            return Ok(());
        }
        if read == 0 {
            return to.shutdown().await;
        }
        to.write_all(&buffer[..read]).await?;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::wait::within;

    async fn echo() -> SocketAddr {
        let (listener, addr) = listen().await;
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let (mut reader, mut writer) = stream.split();
                    tokio::io::copy(&mut reader, &mut writer).await
                });
            }
        });
        addr
    }

    async fn ping(stream: &mut TcpStream) -> io::Result<()> {
        stream.write_all(b"x").await?;
        within("the echo", stream.read_u8()).await.map(|_| ())
    }

    #[tokio::test]
    async fn a_proxy_stalls_and_goes_on() {
        let proxy = TcpProxy::start(echo().await).await;
        let mut stream = TcpStream::connect(proxy.addr()).await.unwrap();
        ping(&mut stream).await.unwrap();
        proxy.stall();
        stream.write_all(b"y").await.unwrap();
        assert!(tokio::time::timeout(Duration::from_millis(100), stream.read_u8()).await.is_err());
        proxy.resume();
        assert_eq!(within("what was stalled", stream.read_u8()).await.unwrap(), b'y');
    }

    #[tokio::test]
    async fn a_proxy_cuts_and_refuses() {
        let proxy = TcpProxy::start(echo().await).await;
        let mut stream = TcpStream::connect(proxy.addr()).await.unwrap();
        ping(&mut stream).await.unwrap();
        proxy.drop_connections();
        assert!(within("the cut", stream.read_u8()).await.is_err());
        let mut stream = TcpStream::connect(proxy.addr()).await.unwrap();
        ping(&mut stream).await.unwrap();
        proxy.cut();
        assert!(within("the cut", stream.read_u8()).await.is_err());
        let mut stream = TcpStream::connect(proxy.addr()).await.unwrap();
        assert!(ping(&mut stream).await.is_err());
        proxy.resume();
        let mut stream = TcpStream::connect(proxy.addr()).await.unwrap();
        ping(&mut stream).await.unwrap();
        assert_eq!(proxy.accepted(), 4);
    }

    #[tokio::test]
    async fn a_silent_server_takes_and_says_nothing() {
        let server = SilentServer::start().await;
        let mut stream = TcpStream::connect(server.addr()).await.unwrap();
        stream.write_all(b"hello?").await.unwrap();
        assert!(tokio::time::timeout(Duration::from_millis(100), stream.read_u8()).await.is_err());
        assert_eq!(server.accepted(), 1);
    }
}
