//! As much HTTP as a floor needs.

/// The answer to a message.
pub(super) const TAKEN: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}";

/// What somebody asks for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Request<'a> {
    Subscribe { channel: String, key: String },
    Publish { channel: String, payload: &'a [u8] },
    Other,
}

impl<'a> Request<'a> {
    /// The next whole request and its length.
    pub(super) fn read(bytes: &'a [u8]) -> Option<(Self, usize)> {
        let end = memchr::memmem::find(bytes, b"\r\n\r\n")?;
        let body = &bytes[end + 4..];
        let Ok(text) = std::str::from_utf8(&bytes[..end]) else { return Some((Self::Other, bytes.len())) };
        let mut lines = text.split("\r\n");
        let mut words = lines.next().unwrap_or_default().split(' ');
        let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let channel = path.trim_start_matches('/').split('?').next().unwrap_or_default().to_owned();
        let (mut key, mut length) = (None, 0);
        for (name, value) in lines.filter_map(|line| line.split_once(':')) {
            if name.eq_ignore_ascii_case("sec-websocket-key") {
                key = Some(value.trim().to_owned());
            } else if name.eq_ignore_ascii_case("content-length") {
                length = value.trim().parse().unwrap_or(0);
            }
        }
        if body.len() < length {
            return None;
        }
        let request = match (method, key) {
            ("GET", Some(key)) => Self::Subscribe { channel, key },
            ("POST", _) => Self::Publish { channel, payload: &body[..length] },
            _ => Self::Other,
        };
        Some((request, end + 4 + length))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_one_after_the_other() {
        let bytes =
            b"POST /a/1 HTTP/1.1\r\ncontent-length: 2\r\n\r\nhiGET /b?x HTTP/1.1\r\nSec-WebSocket-Key: k\r\n\r\n";
        let (request, length) = Request::read(bytes).unwrap();
        assert_eq!(request, Request::Publish { channel: "a/1".to_owned(), payload: b"hi" });
        let (request, _) = Request::read(&bytes[length..]).unwrap();
        assert_eq!(request, Request::Subscribe { channel: "b".to_owned(), key: "k".to_owned() });
        assert_eq!(Request::read(&bytes[..length - 1]), None);
        assert_eq!(Request::read(b"GET / HTTP/1.1\r\n\r\n").unwrap().0, Request::Other);
    }
}
