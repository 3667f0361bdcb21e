//! A backend that speaks to Redis itself.

use std::net::SocketAddr;

/// Publishes as `redis-cli` does, by a connection of its own.
pub(crate) async fn publish(address: SocketAddr, command: &str, channel: &str, payload: &[u8]) {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let channel = format!("clarion:{channel}");
    let mut out =
        format!("*3\r\n${}\r\n{command}\r\n${}\r\n{channel}\r\n${}\r\n", command.len(), channel.len(), payload.len())
            .into_bytes();
    out.extend_from_slice(payload);
    out.extend_from_slice(b"\r\n");
    stream.write_all(&out).await.unwrap();
    let mut answer = [0; 64];
    let read = stream.read(&mut answer).await.unwrap();
    assert!(answer.starts_with(b":"), "{}", String::from_utf8_lossy(&answer[..read]));
}
