//! Standard input: read by a thread of its own, handed on in chunks with a bound.

use std::io::{self, BufRead, BufReader, Read};

use bytes::Bytes;
use clarion_protocol::limits;
use tokio::sync::mpsc;

use crate::failure::Failure;

/// The longest line: far more than any bus takes, and little enough to keep.
const LINE_BYTES: usize = 8 * 1024 * 1024;
/// What one read of the input may bring.
const READ_BYTES: usize = 256 * 1024;
/// Chunks that may wait: one is published while the next is read.
const CHUNKS: usize = 2;

/// Lines that were there together, at most as many and as long as one batch may be (or one line that is longer).
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Chunk {
    pub(crate) lines: Vec<Bytes>,
    /// What they took of the input, their ends included.
    pub(crate) input_bytes: u64,
}

/// Reads lines until the input ends or nobody wants more.
///
/// The thread is not waited for: it may sit in a read that never returns, and ends with the process.
pub(crate) fn lines() -> mpsc::Receiver<Result<Chunk, Failure>> {
    let (sender, chunks) = mpsc::channel(CHUNKS);
    let read = move || each_chunk(io::stdin().lock(), |chunk| sender.blocking_send(chunk).is_ok());
    std::thread::Builder::new().name("input".to_owned()).spawn(read).expect("a thread can be started");
    chunks
}

/// All of the input as one message.
pub(crate) async fn whole() -> Result<Bytes, Failure> {
    let read = || {
        let mut bytes = Vec::new();
        let most = LINE_BYTES as u64 + 1;
        io::stdin().lock().take(most).read_to_end(&mut bytes).map(|_| bytes)
    };
    let bytes = tokio::task::spawn_blocking(read).await.map_err(|error| Failure::internal(error.to_string()))?;
    let bytes = bytes.map_err(|error| unreadable(&error))?;
    if bytes.len() > LINE_BYTES {
        return Err(Failure::usage(format!("standard input has more than {LINE_BYTES} bytes, which no bus takes"))
            .remedy("`-`, which publishes it a message a line"));
    }
    Ok(bytes.into())
}

/// Cuts an input into chunks until it ends or `hand_on` answers `false`.
fn each_chunk(input: impl Read, mut hand_on: impl FnMut(Result<Chunk, Failure>) -> bool) {
    let mut input = BufReader::with_capacity(READ_BYTES, input);
    let mut chunk = Chunk::default();
    let mut bytes = 0;
    let mut number = 0_u64;
    loop {
        // What is there goes on before the next read, which may wait for long.
        let full = chunk.lines.len() >= limits::BATCH_MESSAGES || bytes >= limits::BATCH_BYTES;
        if !chunk.lines.is_empty() && (full || memchr::memchr(b'\n', input.buffer()).is_none()) {
            bytes = 0;
            if !hand_on(Ok(std::mem::take(&mut chunk))) {
                return;
            }
        }
        number += 1;
        match line(&mut input, number) {
            Ok(Some((line, read))) => {
                bytes += line.len();
                chunk.input_bytes += read;
                chunk.lines.push(line);
            }
            Ok(None) => break,
            Err(failure) => {
                let _ = (chunk.lines.is_empty() || hand_on(Ok(chunk))) && hand_on(Err(failure));
                return;
            }
        }
    }
    if !chunk.lines.is_empty() {
        hand_on(Ok(chunk));
    }
}

/// The next line without its end, and how many bytes it took; `None` at the end of the input.
fn line(input: &mut impl BufRead, number: u64) -> Result<Option<(Bytes, u64)>, Failure> {
    let mut line = Vec::new();
    let most = LINE_BYTES as u64 + 2;
    let read = input.take(most).read_until(b'\n', &mut line).map_err(|error| unreadable(&error))?;
    if read == 0 {
        return Ok(None);
    }
    if line.last() == Some(&b'\n') {
        line.pop();
        if line.last() == Some(&b'\r') {
            line.pop();
        }
    }
    if line.len() > LINE_BYTES {
        let message = format!("line {number} of standard input has more than {LINE_BYTES} bytes, which no bus takes");
        return Err(Failure::usage(message).remedy("@- in place of -, if all of the input is one message"));
    }
    Ok(Some((line.into(), read as u64)))
}

fn unreadable(error: &io::Error) -> Failure {
    Failure::usage(format!("standard input cannot be read: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunks(input: impl Read) -> Vec<Result<Chunk, Failure>> {
        let mut chunks = Vec::new();
        each_chunk(input, |chunk| {
            chunks.push(chunk);
            true
        });
        chunks
    }

    fn lines_of(input: impl Read) -> Vec<Vec<Bytes>> {
        chunks(input).into_iter().map(|chunk| chunk.unwrap().lines).collect()
    }

    #[test]
    fn a_message_is_a_line_without_its_end() {
        assert_eq!(
            lines_of(&b"a\r\n\nb \n\xff\r\r\nlast"[..]),
            [vec!["a".into(), Bytes::new(), "b ".into(), Bytes::from_static(b"\xff\r")], vec!["last".into()]]
        );
        assert!(lines_of(&b""[..]).is_empty());
    }

    #[test]
    fn what_is_there_is_handed_on_before_the_next_read() {
        // Each part is what one read of a pipe brings; a line may come in two.
        let input = (&b"a\nb\nc"[..]).chain(&b"d\n"[..]).chain(&b"e\n"[..]);
        assert_eq!(lines_of(input), [vec!["a", "b"], vec!["cd"], vec!["e"]]);
    }

    #[test]
    fn a_chunk_is_no_larger_than_a_batch() {
        let many = "x\n".repeat(2_500);
        assert_eq!(lines_of(many.as_bytes()).iter().map(Vec::len).collect::<Vec<_>>(), [1_000, 1_000, 500]);
        let long = format!("{}\n", "x".repeat(100_000)).repeat(30);
        assert!(lines_of(long.as_bytes()).iter().all(|lines| lines.len() <= 11));
        let total: u64 = chunks(long.as_bytes()).into_iter().map(|chunk| chunk.unwrap().input_bytes).sum();
        assert_eq!(total, long.len() as u64);
    }

    #[test]
    fn a_line_without_an_end_is_refused_after_those_before_it() {
        let input = (&b"a\n"[..]).chain(io::repeat(b'x').take(LINE_BYTES as u64 + 1));
        let chunks = chunks(input);
        assert_eq!(chunks[0].as_ref().unwrap().lines, ["a"]);
        assert!(chunks[1].as_ref().unwrap_err().message.contains("line 2"));
        assert_eq!(chunks.len(), 2);
        assert_eq!(lines_of(io::repeat(b'x').take(LINE_BYTES as u64))[0][0].len(), LINE_BYTES);
    }
}
