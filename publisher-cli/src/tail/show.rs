//! What `tail` writes: a message a line.

use std::{
    io::{self, IsTerminal},
    ops::ControlFlow,
};

use clarion_protocol::{Channel, wording};

use super::Flow;
use crate::{failure::Failure, output::Output};

/// Writes messages, and knows when there were enough.
pub(crate) struct Show {
    output: Output,
    /// Whether each line names its channel.
    names: bool,
    left: Option<u64>,
    /// Whether a person looks, whose terminal a message must not steer.
    terminal: bool,
}

impl Show {
    pub(crate) fn new(output: Output, names: bool, count: Option<u64>) -> Self {
        Self { output, names, left: count, terminal: io::stdout().is_terminal() }
    }

    /// Writes one message; breaks after the last one that was asked for.
    pub(crate) fn message(&mut self, channel: &str, payload: &[u8]) -> Result<Flow, Failure> {
        self.output.line(&self.line(channel, payload))?;
        self.left = self.left.map(|left| left - 1);
        Ok(if self.left == Some(0) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
    }

    fn line(&self, channel: &str, payload: &[u8]) -> Vec<u8> {
        if self.output.json() {
            return json(channel, payload);
        }
        let payload = if self.terminal { harmless(payload) } else { payload.to_vec() };
        if self.names { named(channel, &payload) } else { payload }
    }
}

/// The payload with its channel before each of its lines: the second line of a message belongs to somebody as well.
fn named(channel: &str, payload: &[u8]) -> Vec<u8> {
    // The end of the message is the end of its last line.
    let payload = payload.strip_suffix(b"\n").unwrap_or(payload);
    let lines: Vec<Vec<u8>> =
        payload.split(|byte| *byte == b'\n').map(|line| [channel.as_bytes(), b"\t", line].concat()).collect();
    lines.join(&b'\n')
}

/// One JSON object in one line. A payload that is JSON may have line ends between its parts, never within a string.
fn json(channel: &str, payload: &[u8]) -> Vec<u8> {
    let mut line = match Channel::parse(channel) {
        Ok(channel) => wording::json(&channel, payload),
        // `/me` is a door and no channel, and says not which of its two channels a message came from.
        Err(_) => {
            let text = String::from_utf8_lossy(payload);
            serde_json::json!({ "channel": channel, "text": text }).to_string().into_bytes()
        }
    };
    for byte in &mut line {
        if matches!(byte, b'\n' | b'\r') {
            *byte = b' ';
        }
    }
    line
}

/// Text whose control characters are shown and not obeyed: anybody may have published them.
fn harmless(payload: &[u8]) -> Vec<u8> {
    let mut text = String::with_capacity(payload.len());
    for c in String::from_utf8_lossy(payload).chars() {
        match c {
            '\n' | '\t' => text.push(c),
            c if c.is_control() => text.extend(c.escape_default()),
            c => text.push(c),
        }
    }
    text.into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn show(json: bool, names: bool, terminal: bool) -> Show {
        Show { output: Output::new(json), names, left: None, terminal }
    }

    #[test]
    fn a_line_for_people() {
        assert_eq!(show(false, false, false).line("a", b"\x1b\xff"), b"\x1b\xff");
        assert_eq!(show(false, true, false).line("a/b", b"x"), b"a/b\tx");
        assert_eq!(show(false, true, false).line("a", b""), b"a\t");
        assert_eq!(show(false, true, true).line("a", b"x\ny\r\n"), b"a\tx\na\ty\\r");
        assert_eq!(show(false, false, true).line("a", b"\x1b[2J\r\xc3\xb6\n"), "\\u{1b}[2J\\r\u{f6}\n".as_bytes());
    }

    #[test]
    fn a_line_for_machines_is_one_line() {
        for (channel, payload, line) in [
            ("a", &b"x\ny"[..], r#"{"channel":"a","text":"x\ny"}"#),
            ("a", b"{\r\n\"x\":\n1}", r#"{"channel":"a","data":{  "x": 1}}"#),
            ("a", b"\xff", r#"{"channel":"a","base64":"/w=="}"#),
            ("me", b"x", r#"{"channel":"me","text":"x"}"#),
        ] {
            assert_eq!(String::from_utf8(show(true, true, true).line(channel, payload)).unwrap(), line);
        }
    }
}
