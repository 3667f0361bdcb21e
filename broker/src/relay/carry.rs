//! Carries the bytes of a relayed WebSocket both ways, and says goodbye to the client when this node leaves.
//!
//! The bytes are never changed. Only the lengths of the frames from the home to the client are followed, so that a
//! close frame can be put between two of them.

use std::{io, sync::Arc};

use axum::{body::Body, response::Response};
use clarion_protocol::CloseCode;
use http::request::Parts;
use hyper::{
    body::Incoming,
    upgrade::{OnUpgrade, Upgraded},
};
use hyper_util::rt::TokioIo;
use smallvec::SmallVec;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, ReadHalf, WriteHalf};

use crate::{
    admission::Permit,
    node::{Node, Relayed},
};

/// Bytes on their way at once, for each direction: a few messages.
const BUFFER: usize = 8 * 1024;

/// The first byte of a close frame: final, opcode 8.
const CLOSE: u8 = 0x88;

type Reader = ReadHalf<TokioIo<Upgraded>>;
type Writer = WriteHalf<TokioIo<Upgraded>>;

/// The home's 101 for the client; the bytes follow it. `None` when the client's connection cannot be upgraded.
pub(super) fn switch(
    node: &Arc<Node>,
    head: &mut Parts,
    answer: http::Response<Incoming>,
    place: Permit,
) -> Option<Response> {
    let client = head.extensions.remove::<OnUpgrade>()?;
    let mut response = Response::new(Body::empty());
    *response.status_mut() = answer.status();
    *response.headers_mut() = answer.headers().clone();
    let home = hyper::upgrade::on(answer);
    let relayed = node.relays.enter(place);
    node.tasks.spawn(async move {
        // Either side may be gone before the handshake is through; there is nobody to tell.
        let (Ok(client), Ok(home)) = tokio::join!(client, home) else { return };
        if let Err(error) = carry(client, home, &relayed).await {
            tracing::debug!(%error, "a relayed connection broke");
        }
    });
    Some(response)
}

/// Until either side is done: a WebSocket has no half of its own to close.
async fn carry(client: Upgraded, home: Upgraded, relayed: &Relayed) -> io::Result<()> {
    let (from_client, to_client) = tokio::io::split(TokioIo::new(client));
    let (from_home, to_home) = tokio::io::split(TokioIo::new(home));
    tokio::select! {
        result = up(from_client, to_home) => result,
        result = down(from_home, to_client, relayed) => result,
    }
}

async fn up(mut from: Reader, mut to: Writer) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER];
    loop {
        match from.read(&mut buffer).await? {
            0 => return to.shutdown().await,
            read => to.write_all(&buffer[..read]).await?,
        }
    }
}

async fn down(mut from: Reader, mut to: Writer, relayed: &Relayed) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER];
    let mut frames = Frames::default();
    loop {
        let read = tokio::select! {
            read = from.read(&mut buffer) => read?,
            () = relayed.told_to_go(), if frames.between() => {
                to.write_all(&goodbye()).await?;
                return to.shutdown().await;
            }
        };
        if read == 0 {
            return to.shutdown().await;
        }
        frames.pass(&buffer[..read]);
        to.write_all(&buffer[..read]).await?;
    }
}

/// A close frame with 1012, unmasked as all frames of a server.
fn goodbye() -> Vec<u8> {
    let body = CloseCode::Restart.body();
    let length = u8::try_from(body.len()).expect("the bodies of close frames are short");
    [&[CLOSE, length], body.as_slice()].concat()
}

/// Where in a server's frames the bytes are that have passed.
#[derive(Default)]
pub(super) struct Frames {
    header: SmallVec<[u8; 10]>,
    payload_left: u64,
}

impl Frames {
    /// Whether the last byte ended a frame.
    pub(super) fn between(&self) -> bool {
        self.header.is_empty() && self.payload_left == 0
    }

    pub(super) fn pass(&mut self, mut bytes: &[u8]) {
        while let Some((first, rest)) = bytes.split_first() {
            if self.payload_left > 0 {
                let passing = bytes.len().min(usize::try_from(self.payload_left).unwrap_or(usize::MAX));
                self.payload_left -= passing as u64;
                bytes = &bytes[passing..];
                continue;
            }
            self.header.push(*first);
            bytes = rest;
            if let Some(length) = self.length() {
                self.payload_left = length;
                self.header.clear();
            }
        }
    }

    /// The payload's length, once the header is complete.
    fn length(&self) -> Option<u64> {
        let (short, extended) = (self.header.get(1)? & 0x7f, &self.header[2..]);
        match short {
            126 => extended.try_into().ok().map(|bytes| u64::from(u16::from_be_bytes(bytes))),
            127 => extended.try_into().ok().map(u64::from_be_bytes),
            length => Some(u64::from(length)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_followed_however_they_are_cut() {
        let mut stream = vec![0x81, 0, 0x82, 3, 1, 2, 3, 0x82, 126, 1, 0];
        stream.extend([7; 256]);
        stream.extend([0x82, 127, 0, 0, 0, 0, 0, 0, 0, 2, 9, 9]);
        let ends = [2, 7, 267, 279];
        for size in [1, 2, 3, 7, 1000] {
            let (mut frames, mut passed) = (Frames::default(), 0);
            for piece in stream.chunks(size) {
                frames.pass(piece);
                passed += piece.len();
                assert_eq!(frames.between(), ends.contains(&passed), "{size} {passed}");
            }
        }
    }

    #[test]
    fn the_goodbye_is_a_close_frame() {
        assert_eq!(goodbye(), b"\x88\x09\x03\xf4restart");
    }
}
