//! The physical limit: a single thread that writes the same ready-made frame to every socket of a channel, and does nothing
//! else that a broker must do. What it costs is what sockets cost.
//!
//! It speaks just enough WebSocket to be subscribed to, and is fed over HTTP, by Redis or by NATS in the simplest way. Coalesced,
//! what has come in for a channel in one turn goes out in one write for each socket; plain, each message is a write.

mod bus;
mod http;

use std::{
    collections::HashMap,
    io::{self, Read, Write},
    net::SocketAddr,
};

use mio::{
    Events, Interest, Poll, Token,
    net::{TcpListener, TcpStream},
};

use crate::{
    failure::{Context, Result},
    floor::{bus::Upstream, http::Request},
    limits,
    wire::{accept_of, write_server_frame},
};

const LISTENER: Token = Token(usize::MAX);
const UPSTREAM: Token = Token(usize::MAX - 1);
const READ: usize = 256 * 1024;
const BACKLOG: i32 = 4096;

/// What the floor is to be.
#[derive(Debug, Clone)]
pub(crate) struct Options {
    pub(crate) listen: SocketAddr,
    /// One write for each message rather than for each turn.
    pub(crate) plain: bool,
    pub(crate) redis: Option<SocketAddr>,
    pub(crate) nats: Option<SocketAddr>,
}

/// A socket. What is kept for one that waits for messages is all that counts here.
struct Peer {
    stream: TcpStream,
    /// What it has not taken yet; or, of one that is no subscriber, the request so far.
    #[expect(clippy::box_collection, reason = "nearly all hold nothing, and then a box is a third of a vector")]
    held: Option<Box<Vec<u8>>>,
    channel: Option<u32>,
}

#[derive(Default)]
struct Channel {
    peers: Vec<u32>,
    /// Frames of this turn.
    frames: Vec<u8>,
    /// Where each of them ends.
    ends: Vec<usize>,
    changed: bool,
}

struct Floor {
    poll: Poll,
    listener: TcpListener,
    plain: bool,
    upstream: Option<Upstream>,
    peers: Vec<Option<Peer>>,
    free: Vec<u32>,
    names: HashMap<String, u32>,
    channels: Vec<Channel>,
    changed: Vec<u32>,
    buffer: Box<[u8]>,
}

/// Runs until it is killed.
pub(crate) fn run(options: &Options) -> Result<()> {
    limits::raise_descriptors();
    let mut floor = Floor::new(options).unavailable(|| format!("the floor cannot listen on {}", options.listen))?;
    writeln!(io::stdout(), "listening {}", floor.listener.local_addr()?)?;
    floor.run().internal(|| "the floor stopped".to_owned())
}

impl Floor {
    fn new(options: &Options) -> io::Result<Self> {
        let socket = socket2::Socket::new(socket2::Domain::for_address(options.listen), socket2::Type::STREAM, None)?;
        socket.set_reuse_address(true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&options.listen.into())?;
        socket.listen(BACKLOG)?;
        let mut listener = TcpListener::from_std(socket.into());
        let poll = Poll::new()?;
        poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
        let mut upstream = match (options.redis, options.nats) {
            (Some(redis), _) => Some(Upstream::redis(redis)?),
            (None, Some(nats)) => Some(Upstream::nats(nats)?),
            (None, None) => None,
        };
        if let Some(upstream) = &mut upstream {
            poll.registry().register(upstream.stream(), UPSTREAM, Interest::READABLE)?;
        }
        Ok(Self {
            poll,
            listener,
            plain: options.plain,
            upstream,
            peers: Vec::new(),
            free: Vec::new(),
            names: HashMap::new(),
            channels: Vec::new(),
            changed: Vec::new(),
            buffer: vec![0; READ].into_boxed_slice(),
        })
    }

    fn run(&mut self) -> io::Result<()> {
        let mut events = Events::with_capacity(1024);
        loop {
            match self.poll.poll(&mut events, None) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                outcome => outcome?,
            }
            for event in &events {
                match event.token() {
                    LISTENER => self.accept()?,
                    UPSTREAM => self.hear_bus()?,
                    Token(peer) => {
                        if event.is_writable() {
                            self.resume(peer);
                        }
                        if event.is_readable() {
                            self.read(peer, event.is_read_closed());
                        }
                    }
                }
            }
            self.write_turn();
        }
    }

    fn accept(&mut self) -> io::Result<()> {
        loop {
            let mut stream = match self.listener.accept() {
                Ok((stream, _)) => stream,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                // One that has gone again, or no descriptor is left: the others wait in the backlog.
                Err(_) => return Ok(()),
            };
            stream.set_nodelay(true)?;
            let index = self.free.pop().unwrap_or_else(|| {
                self.peers.push(None);
                (self.peers.len() - 1) as u32
            });
            let interest = Interest::READABLE | Interest::WRITABLE;
            self.poll.registry().register(&mut stream, Token(index as usize), interest)?;
            self.peers[index as usize] = Some(Peer { stream, held: None, channel: None });
        }
    }

    fn read(&mut self, index: usize, to_the_end: bool) {
        loop {
            let Some(Some(peer)) = self.peers.get_mut(index) else { return };
            match peer.stream.read(&mut self.buffer) {
                Ok(0) => return self.drop_peer(index),
                // What subscribers send is nothing to a floor.
                Ok(length) if peer.channel.is_some() => {
                    if length < self.buffer.len() && !to_the_end {
                        return;
                    }
                }
                Ok(length) => {
                    let held = peer.held.get_or_insert_default();
                    held.extend_from_slice(&self.buffer[..length]);
                    self.requests(index);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => return self.drop_peer(index),
            }
        }
    }

    /// Answers the whole requests of a connection.
    fn requests(&mut self, index: usize) {
        let Some(mut held) = self.peers[index].as_mut().and_then(|peer| peer.held.take()) else { return };
        let mut used = 0;
        while let Some((request, length)) = Request::read(&held[used..]) {
            used += length;
            match request {
                Request::Subscribe { channel, key } => return self.subscribe(index, &channel, &key),
                Request::Publish { channel, payload } => {
                    self.publish(&channel, payload);
                    let answered = self.peers[index].as_ref().map(|peer| (&peer.stream).write(http::TAKEN));
                    if !matches!(answered, Some(Ok(_))) {
                        return self.drop_peer(index);
                    }
                }
                Request::Other => return self.drop_peer(index),
            }
        }
        held.drain(..used);
        if let (false, Some(peer)) = (held.is_empty(), &mut self.peers[index]) {
            peer.held = Some(held);
        }
    }

    fn subscribe(&mut self, index: usize, name: &str, key: &str) {
        let channel = self.channel(name);
        self.channels[channel as usize].peers.push(index as u32);
        if let Some(peer) = &mut self.peers[index] {
            peer.channel = Some(channel);
            let accept = accept_of(key);
            let answer = format!(
                "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {accept}\r\n\r\n"
            );
            // An empty send buffer takes an answer whole.
            let _ = (&peer.stream).write(answer.as_bytes());
        }
    }

    /// The number of a channel; a new one is asked for on the bus.
    fn channel(&mut self, name: &str) -> u32 {
        if let Some(number) = self.names.get(name) {
            return *number;
        }
        let number = self.channels.len() as u32;
        self.channels.push(Channel::default());
        self.names.insert(name.to_owned(), number);
        if let Some(upstream) = &mut self.upstream {
            upstream.subscribe(name, number);
        }
        number
    }

    fn publish(&mut self, name: &str, payload: &[u8]) {
        if let Some(number) = self.names.get(name) {
            add(&mut self.channels, &mut self.changed, *number, payload);
        }
    }

    /// Takes all that the bus has sent.
    fn hear_bus(&mut self) -> io::Result<()> {
        let Self { upstream: Some(upstream), channels, changed, names, .. } = self else { return Ok(()) };
        upstream.read(&mut self.buffer, names, |number, payload| add(channels, changed, number, payload))
    }

    /// Writes what has come in to all whom it concerns.
    fn write_turn(&mut self) {
        for number in std::mem::take(&mut self.changed) {
            let mut channel = std::mem::take(&mut self.channels[number as usize]);
            for index in &channel.peers {
                if let Some(peer) = &mut self.peers[*index as usize] {
                    peer.write_all(&channel.frames, &channel.ends, self.plain);
                }
            }
            channel.frames.clear();
            channel.ends.clear();
            channel.changed = false;
            self.channels[number as usize] = channel;
        }
    }

    /// Goes on writing to one who could not take all.
    fn resume(&mut self, index: usize) {
        let Some(Some(peer)) = self.peers.get_mut(index) else { return };
        if peer.channel.is_some()
            && let Some(held) = peer.held.take()
        {
            peer.write(&held);
        }
    }

    fn drop_peer(&mut self, index: usize) {
        if let Some(peer) = self.peers[index].take() {
            if let Some(channel) = peer.channel {
                self.channels[channel as usize].peers.retain(|peer| *peer as usize != index);
            }
            self.free.push(index as u32);
        }
    }
}

impl Peer {
    fn write_all(&mut self, frames: &[u8], ends: &[usize], plain: bool) {
        if !plain {
            return self.write(frames);
        }
        let mut begin = 0;
        for end in ends {
            self.write(&frames[begin..*end]);
            begin = *end;
        }
    }

    /// Writes, and keeps what is not taken.
    fn write(&mut self, bytes: &[u8]) {
        if let Some(held) = &mut self.held {
            held.extend_from_slice(bytes);
            return;
        }
        // A broken socket says so when it is read.
        let written = (&self.stream).write(bytes).unwrap_or(0);
        if written < bytes.len() {
            self.held = Some(Box::new(bytes[written..].to_owned()));
        }
    }
}

fn add(channels: &mut [Channel], changed: &mut Vec<u32>, number: u32, payload: &[u8]) {
    let channel = &mut channels[number as usize];
    write_server_frame(payload, &mut channel.frames);
    channel.ends.push(channel.frames.len());
    if !std::mem::replace(&mut channel.changed, true) {
        changed.push(number);
    }
}
