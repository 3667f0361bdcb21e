//! Bodies of requests: read within a limit and a time, as far as the node has room for them, and the payload found in them.

use std::time::Duration;

use axum::body::{Body, HttpBody as _};
use bytes::{Bytes, BytesMut};
use http::{
    HeaderMap, StatusCode,
    header::{CONTENT_TYPE, EXPECT},
    request::Parts,
};
use http_body_util::BodyExt as _;
use percent_encoding::percent_decode;

use crate::{
    admission::bodies::{self, Bodies, Room},
    answer::{Problem, problem},
};

/// How long a body may take: a full batch (1 MiB) at 300 kbit/s.
const TIMEOUT: Duration = Duration::from_secs(30);

/// How much of a body that is too large is read and thrown away, so that its sender is still there to read the answer.
const DISCARDED: u64 = 4 * 1024 * 1024;

/// A body that was read, or what was found in it. It counts among those that this node holds until this is dropped.
pub(crate) struct Held {
    pub(crate) bytes: Bytes,
    room: Room,
}

/// Finds the payload in a request: the field `data` of a form, or else the body as it is.
pub(super) async fn payload(bodies: &Bodies, head: &Parts, body: Body, limit: usize) -> Result<Held, Problem> {
    match content_type(&head.headers) {
        Some(kind) if kind.eq_ignore_ascii_case("application/x-www-form-urlencoded") => {
            let Held { bytes: form, room } = read(bodies, head, body, bodies::largest(limit)).await?;
            let bytes = form_data(&form)?;
            if bytes.len() > limit { Err(Problem::too_large(limit)) } else { Ok(Held { bytes, room }) }
        }
        Some(kind) if kind.eq_ignore_ascii_case("multipart/form-data") => Err(problem(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "multipart",
            "multipart forms are not read: send `data=…` as application/x-www-form-urlencoded (curl -d), or the payload itself with another content type",
        )),
        _ => read(bodies, head, body, limit).await,
    }
}

fn content_type(headers: &HeaderMap) -> Option<&str> {
    headers.get(CONTENT_TYPE)?.to_str().ok()?.split(';').next().map(str::trim)
}

/// The bytes of the field `data`. Read by hand, since a payload need not be UTF-8.
pub(super) fn form_data(form: &[u8]) -> Result<Bytes, Problem> {
    const REMEDY: &str = "`curl --data-urlencode 'data=…'` writes such a form; to publish the body as it is, send another content type, as with `-H 'content-type: application/json'`";
    let bad = |what: String| Problem::bad_request("bad_form", format!("{what}. {REMEDY}"));
    let mut data = None;
    for field in form.split(|byte| *byte == b'&').filter(|field| !field.is_empty()) {
        let Some(at) = field.iter().position(|byte| *byte == b'=') else {
            // Whoever writes forms writes the `=`. Passing over this would publish half of `data=fish & chips`.
            let field: String = String::from_utf8_lossy(field).chars().take(40).collect();
            return Err(bad(format!("the form has {field:?} without a `=`; an `&` within a value is written %26")));
        };
        if decode(&field[..at]) == b"data" && data.replace(decode(&field[at + 1..])).is_some() {
            return Err(bad("the form has more than one field `data`".to_owned()));
        }
    }
    data.map(Bytes::from).ok_or_else(|| bad("the form has no field `data`".to_owned()))
}

fn decode(escaped: &[u8]) -> Vec<u8> {
    let spaced: Vec<u8> = escaped.iter().map(|byte| if *byte == b'+' { b' ' } else { *byte }).collect();
    percent_decode(&spaced).collect()
}

/// Reads a whole body. Whoever calls this has asked before whether its sender may.
pub(crate) async fn read(bodies: &Bodies, head: &Parts, body: Body, limit: usize) -> Result<Held, Problem> {
    let slow = || problem(StatusCode::REQUEST_TIMEOUT, "slow_body", "the body did not come in time");
    tokio::time::timeout(TIMEOUT, collect(bodies, head, body, limit)).await.unwrap_or_else(|_| Err(slow()))
}

async fn collect(bodies: &Bodies, head: &Parts, mut body: Body, limit: usize) -> Result<Held, Problem> {
    if body.size_hint().lower() > limit as u64 {
        // Whoever asks first (`Expect: 100-continue`) has sent nothing and will not.
        if !head.headers.contains_key(EXPECT) {
            discard(body).await;
        }
        return Err(Problem::too_large(limit));
    }
    // Counted as it comes: what is only announced takes no memory, and must not keep others out.
    let (mut bytes, mut room) = (BytesMut::new(), bodies.room());
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| Problem::bad_request("bad_body", "the body could not be read to its end"))?;
        let Ok(data) = frame.into_data() else { continue };
        if bytes.len() + data.len() > limit {
            discard(body).await;
            return Err(Problem::too_large(limit));
        }
        room.grow(data.len())?;
        bytes.extend_from_slice(&data);
    }
    Ok(Held { bytes: bytes.freeze(), room })
}

async fn discard(mut body: Body) {
    let mut discarded = 0;
    while let Some(Ok(frame)) = body.frame().await {
        discarded += frame.data_ref().map_or(0, Bytes::len) as u64;
        if discarded > DISCARDED {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_form_has_one_field_data() {
        for (form, expected) in [
            (&b"data=hello"[..], &b"hello"[..]),
            (b"data=", b""),
            (b"x=1&data=y&submit=", b"y"),
            (b"data=a+b%2Bc%26%3D=", b"a b+c&=="),
            (b"d%61ta=%FF%00", b"\xff\0"),
            (b"&data=x&", b"x"),
        ] {
            assert_eq!(form_data(form).unwrap(), expected);
        }
        for form in [&b""[..], b"text=hello", b"data=fish & chips", b"data", b"data=a&data=b", b"{\"text\":\"paid\"}"] {
            assert_eq!(form_data(form).unwrap_err().code(), "bad_form");
        }
    }
}
