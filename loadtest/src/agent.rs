//! Workers for coordinators on other machines: whoever asks over HTTP, and knows the secret, gets a worker of his own.
//!
//! The request is an upgrade, after which both speak as a coordinator and its workers always do, a JSON object a line. The
//! connection becomes the worker's standard input and output, so the worker ends when the connection does.

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    os::fd::OwnedFd,
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use crate::failure::{Context, Failure, Result};

const PROTOCOL: &str = "clarion-loadtest";

/// How long somebody may take to ask, and a worker to answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// The longest request or answer; ours have about 200 bytes.
const LONGEST: usize = 8 * 1024;

/// Listens for coordinators until it is killed.
pub(crate) fn run(address: SocketAddr, secret: Option<&str>) -> Result<()> {
    if !address.ip().is_loopback() && secret.is_none() {
        return Err(Failure::usage(format!("anybody could put load on others through {address}"))
            .remedy("give it a secret: --secret-from VARIABLE"));
    }
    let listener = TcpListener::bind(address).unavailable(|| format!("cannot listen on {address}"))?;
    writeln!(io::stdout(), "listening {}", listener.local_addr()?)?;
    for stream in listener.incoming().flatten() {
        let secret = secret.map(str::to_owned);
        // One who does not ask holds nobody else up.
        let serve = move || match serve(stream, secret.as_deref()) {
            Ok(()) => {}
            Err(error) => _ = writeln!(io::stderr(), "{error}"),
        };
        thread::Builder::new()
            .name("worker".to_owned())
            .spawn(serve)
            .internal(|| "cannot start a thread".to_owned())?;
    }
    Ok(())
}

/// Answers one request, with a worker where it is one for a worker.
fn serve(mut stream: TcpStream, secret: Option<&str>) -> io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    let head = read_head(&mut stream)?;
    if let Err(status) = judge(&head, secret) {
        return write!(stream, "HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    }
    stream.set_read_timeout(None)?;
    stream.set_nodelay(true)?;
    write!(stream, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: {PROTOCOL}\r\n\r\n")?;
    let output = stream.try_clone()?;
    let mut worker = Command::new(std::env::current_exe()?);
    worker.arg("worker").stdin(Stdio::from(OwnedFd::from(stream))).stdout(Stdio::from(OwnedFd::from(output)));
    let mut child = worker.spawn()?;
    // The command holds the sockets too, and the coordinator waits for the last of them.
    drop(worker);
    child.wait().map(|_| ())
}

fn judge(head: &str, secret: Option<&str>) -> std::result::Result<(), &'static str> {
    let mut lines = head.split("\r\n");
    let header = |wanted: &str| {
        let mut headers = head.split("\r\n").skip(1).filter_map(|line| line.split_once(':'));
        headers.find(|(name, _)| name.eq_ignore_ascii_case(wanted)).map(|(_, value)| value.trim())
    };
    if lines.next() != Some("GET /worker HTTP/1.1") {
        return Err("404 Not Found");
    }
    if let Some(secret) = secret
        && !header("Authorization").is_some_and(|given| is_same(given, &format!("Bearer {secret}")))
    {
        return Err("401 Unauthorized");
    }
    if header("Upgrade") == Some(PROTOCOL) { Ok(()) } else { Err("426 Upgrade Required") }
}

/// Takes as long for a nearly right secret as for a wrong one.
fn is_same(one: &str, other: &str) -> bool {
    one.len() == other.len() && one.bytes().zip(other.bytes()).fold(0, |sum, (one, other)| sum | (one ^ other)) == 0
}

/// Asks for a worker; what comes back is its standard input and output.
pub(crate) fn hire(address: &str, secret: Option<&str>) -> Result<TcpStream> {
    let unreachable = || format!("no worker at {address}");
    let mut stream = TcpStream::connect(address).unavailable(unreachable)?;
    stream.set_nodelay(true).unavailable(unreachable)?;
    stream.set_read_timeout(Some(PATIENCE)).unavailable(unreachable)?;
    let authorization = secret.map(|secret| format!("Authorization: Bearer {secret}\r\n")).unwrap_or_default();
    let request = format!(
        "GET /worker HTTP/1.1\r\nHost: {address}\r\nConnection: Upgrade\r\nUpgrade: {PROTOCOL}\r\n{authorization}\r\n"
    );
    stream.write_all(request.as_bytes()).unavailable(unreachable)?;
    let head = read_head(&mut stream).unavailable(unreachable)?;
    if !head.starts_with("HTTP/1.1 101 ") {
        let answer = head.lines().next().unwrap_or_default();
        return Err(Failure::unavailable(format!("{address} gives no worker: {answer}"))
            .remedy("start `clarion-loadtest worker --listen` there, and say its secret with --worker-secret-from"));
    }
    stream.set_read_timeout(None).unavailable(unreachable)?;
    Ok(stream)
}

/// Reads up to the empty line and not a byte further: what follows is not ours.
fn read_head(stream: &mut TcpStream) -> io::Result<String> {
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte)?;
        head.push(byte[0]);
        if head.len() > LONGEST {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the head of a message is too long"));
        }
    }
    String::from_utf8(head).map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "the head of a message is not text"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_who_knows_the_secret_gets_a_worker() {
        let ask = |secret: &str| {
            format!("GET /worker HTTP/1.1\r\nupgrade: clarion-loadtest\r\nAUTHORIZATION: Bearer {secret}\r\n\r\n")
        };
        assert_eq!(judge(&ask("s3cret"), Some("s3cret")), Ok(()));
        assert_eq!(judge(&ask(""), None), Ok(()));
        for wrong in ["", "s3cre", "s3creT", "s3cret2"] {
            assert_eq!(judge(&ask(wrong), Some("s3cret")), Err("401 Unauthorized"), "{wrong}");
        }
        assert_eq!(judge("GET /worker HTTP/1.1\r\n\r\n", None), Err("426 Upgrade Required"));
        assert_eq!(judge("GET / HTTP/1.1\r\n\r\n", None), Err("404 Not Found"));
    }

    #[test]
    fn nobody_else_can_use_one_without_a_secret() {
        let error = run(SocketAddr::from(([0, 0, 0, 0], 0)), None).unwrap_err();
        assert_eq!(error.exit_code(), 64);
    }
}
