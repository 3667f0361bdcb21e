//! Opening connections: at a rate or as fast as they come in, from many addresses.

use std::{
    cmp::Reverse,
    collections::BinaryHeap,
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

use jsonwebtoken::{EncodingKey, Header};
use mio::{Interest, Registry, Token, net::TcpStream};
use serde_json::json;
use socket2::{Domain, Protocol, Socket, Type};

use crate::{
    clock::Time,
    control::{Door, OpenPlan},
    limits::PER_SOURCE,
    wire::KEY,
};

/// Room that a stalled reader's kernel buffer has, so that it is soon felt.
const STALLED_BUFFER: usize = 4_096;

/// Connections that are to be opened.
#[derive(Debug, Default)]
pub(super) struct Opening {
    /// The first of the connections of this plan, and the one after the last.
    pub(super) next: usize,
    pub(super) until: usize,
    pub(super) first: usize,
    pub(super) begun: Time,
    pub(super) deadline: Time,
    /// Those that have to connect again, whoever is due first at the top.
    pub(super) again: BinaryHeap<Reverse<(Time, usize)>>,
    /// Somebody waits for the end of it.
    pub(super) awaited: bool,
}

impl Opening {
    /// When the next connection of the plan is due.
    pub(super) fn next_due(&self, rate: Option<f64>) -> Option<Time> {
        (self.next < self.until).then(|| match rate {
            Some(rate) => self.begun + Duration::from_secs_f64((self.next - self.first) as f64 / rate),
            None => self.begun,
        })
    }

    /// The next one that is due by now, and when it was.
    pub(super) fn take(&mut self, rate: Option<f64>, now: Time) -> Option<(Time, usize)> {
        if self.next_again().is_some_and(|due| due <= now) {
            return self.again.pop().map(|Reverse(first)| first);
        }
        let due = self.next_due(rate).filter(|due| *due <= now)?;
        self.next += 1;
        // Without a rate a connection is due when there is room for it.
        Some((if rate.is_some() { due } else { now }, self.next - 1))
    }

    /// Lets one connect again.
    pub(super) fn again(&mut self, due: Time, index: usize) {
        self.again.push(Reverse((due, index)));
    }

    /// When the first of those is due.
    pub(super) fn next_again(&self) -> Option<Time> {
        self.again.peek().map(|Reverse((due, _))| *due)
    }
}

/// A socket that has begun to connect, from an address that leaves room for thousands of others.
pub(super) fn connect(plan: &OpenPlan, target: SocketAddr, index: usize, stalled: bool) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(target), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    if let IpAddr::V4(address) = target.ip()
        && address.is_loopback()
    {
        let number = index as u32 / PER_SOURCE;
        let source = Ipv4Addr::new(127, plan.source, (number / 250) as u8, (number % 250 + 1) as u8);
        socket.bind(&SocketAddr::from((source, 0)).into())?;
    }
    if stalled {
        socket.set_recv_buffer_size(STALLED_BUFFER)?;
    }
    match socket.connect(&target.into()) {
        Err(error) if error.raw_os_error() != Some(EINPROGRESS) => return Err(error),
        Ok(()) | Err(_) => {}
    }
    Ok(TcpStream::from_std(socket.into()))
}

/// "Operation now in progress" on Linux.
const EINPROGRESS: i32 = 115;

/// The request of a connection.
pub(super) fn request(
    plan: &OpenPlan,
    target: SocketAddr,
    channel: u32,
    number: u32,
    key: Option<&EncodingKey>,
) -> Vec<u8> {
    let token = key.map(|key| token(channel, key)).unwrap_or_default();
    let filled = |template: &str| fill(template, plan, channel, number, &token);
    let mut request = format!("GET {} HTTP/1.1\r\nHost: {target}\r\n", filled(&plan.handshake.path));
    let mut header = |name: &str, value: &str| request.push_str(&format!("{name}: {value}\r\n"));
    for (name, value) in &plan.handshake.headers {
        header(name, &filled(value));
    }
    if !token.is_empty() {
        header("Authorization", &format!("Bearer {token}"));
    }
    match plan.door {
        Door::EventStream => header("Accept", "text/event-stream"),
        Door::WebSocket => {
            header("Connection", "Upgrade");
            header("Upgrade", "websocket");
            header("Sec-WebSocket-Version", "13");
            header("Sec-WebSocket-Key", KEY);
            if let Some(subprotocol) = &plan.handshake.subprotocol {
                header("Sec-WebSocket-Protocol", subprotocol);
            }
        }
    }
    request.push_str("\r\n");
    request.into_bytes()
}

/// Fills a template in.
pub(super) fn fill(template: &str, plan: &OpenPlan, channel: u32, number: u32, token: &str) -> String {
    let name = plan.channels.name(channel);
    let filled = template.replace("{channel}", &name).replace("{dotted}", &name.replace('/', "."));
    let filled = match plan.handshake.each {
        0 => filled,
        each => {
            let names = (channel * each..(channel + 1) * each).map(|channel| plan.channels.name(channel));
            let items: Vec<_> = names.map(|name| format!("channel={name}")).collect();
            filled.replace("{channels}", &items.join("&"))
        }
    };
    filled.replace("{number}", &number.to_string()).replace("{token}", token)
}

/// A token for the user who has the channel's number for a name.
fn token(user: u32, key: &EncodingKey) -> String {
    // It outlasts every run.
    let expires = Time::now().0 / 1_000_000_000 + 24 * 3600;
    let claims = json!({ "sub": user.to_string(), "exp": expires });
    jsonwebtoken::encode(&Header::default(), &claims, key).expect("a key for HS256 signs with HS256")
}

/// Registers a socket, for writing as well while its request is not sent.
pub(super) fn register(registry: &Registry, stream: &mut TcpStream, index: usize, silent: bool) -> io::Result<()> {
    let interest = if silent { Interest::READABLE | Interest::WRITABLE } else { Interest::READABLE };
    registry.register(stream, Token(index), interest)
}
