//! A server that makes mistakes on purpose, so that it is seen that the harness notices.

use std::{
    collections::BTreeMap,
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::mpsc,
    thread,
};

use base64::{Engine, prelude::BASE64_STANDARD};
use sha1::{Digest, Sha1};

/// What it does to some messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The fifth is not passed on.
    Lose,
    /// The fifth is passed on twice.
    Double,
    /// The fifth is passed on after the sixth.
    Swap,
    /// The fifth goes to everybody, whatever they asked for.
    Misdirect,
    /// It hangs up on everybody after the fifth.
    HangUp,
}

/// What a connection wants.
enum Wish {
    Subscribe(String, TcpStream),
    Publish(String, Vec<u8>),
}

/// Starts one; it lives as long as the test process.
pub(crate) fn server(fault: Fault) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let address = listener.local_addr().expect("it is bound");
    let (wishes, granted) = mpsc::sync_channel(64);
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let wishes = wishes.clone();
            thread::spawn(move || serve(stream, &wishes));
        }
    });
    thread::spawn(move || distribute(fault, &granted));
    address
}

/// Reads requests until somebody subscribes or hangs up.
fn serve(mut stream: TcpStream, wishes: &mpsc::SyncSender<Wish>) {
    let mut bytes = Vec::new();
    let mut piece = [0; 4096];
    loop {
        while let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
            let header = |name: &str| head.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
            let path = head.split(' ').nth(1).expect("a request has a path").to_owned();
            if let Some(key) = header("Sec-WebSocket-Key:") {
                let digest = Sha1::new_with_prefix(key).chain_update("258EAFA5-E914-47DA-95CA-C5AB0DC85B11").finalize();
                let accept = BASE64_STANDARD.encode(digest);
                let answer = format!("HTTP/1.1 101 Switching Protocols\r\nSec-WebSocket-Accept: {accept}\r\n\r\n");
                // It subscribes before it says so.
                let handle = stream.try_clone().expect("a socket can be shared");
                wishes.send(Wish::Subscribe(path, handle)).expect("somebody distributes");
                return stream.write_all(answer.as_bytes()).expect("the client listens");
            }
            let length: usize = header("Content-Length:").and_then(|text| text.parse().ok()).unwrap_or(0);
            if bytes.len() < end + 4 + length {
                break;
            }
            let body = bytes[end + 4..end + 4 + length].to_vec();
            bytes.drain(..end + 4 + length);
            wishes.send(Wish::Publish(path, body)).expect("somebody distributes");
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").expect("the client listens");
        }
        match stream.read(&mut piece) {
            Ok(0) | Err(_) => return,
            Ok(length) => bytes.extend_from_slice(&piece[..length]),
        }
    }
}

fn distribute(fault: Fault, wishes: &mpsc::Receiver<Wish>) {
    let mut subscribers: BTreeMap<String, Vec<TcpStream>> = BTreeMap::new();
    let mut held = None;
    let mut number = 0;
    for wish in wishes {
        let (path, payload) = match wish {
            Wish::Subscribe(path, stream) => {
                subscribers.entry(path).or_default().push(stream);
                continue;
            }
            Wish::Publish(path, payload) => (path, payload),
        };
        number += 1;
        match (fault, number) {
            (Fault::Lose, 5) => {}
            (Fault::Swap, 5) => held = Some(payload.clone()),
            (Fault::Double, 5) => (0..2).for_each(|_| send(&mut subscribers, |one| one == path, &payload)),
            (Fault::Misdirect, 5) => send(&mut subscribers, |_| true, &payload),
            _ => send(&mut subscribers, |one| one == path, &payload),
        }
        if number == 6
            && let Some(payload) = held.take()
        {
            send(&mut subscribers, |one| one == path, &payload);
        }
        if fault == Fault::HangUp && number == 5 {
            subscribers.values_mut().flatten().for_each(|stream| _ = stream.shutdown(Shutdown::Both));
        }
    }
}

fn send(subscribers: &mut BTreeMap<String, Vec<TcpStream>>, to: impl Fn(&str) -> bool, payload: &[u8]) {
    let frame = [&[0x81, 126][..], &(payload.len() as u16).to_be_bytes(), payload].concat();
    for (_, streams) in subscribers.iter_mut().filter(|(path, _)| to(path)) {
        // One who has gone hears nothing.
        streams.iter_mut().for_each(|stream| _ = stream.write_all(&frame));
    }
}
