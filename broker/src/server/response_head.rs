//! Answers as bytes, for where HTTP does not write them: before its socket goes elsewhere, and when it has given up.

use std::{io::Write as _, time::SystemTime};

use http::{
    HeaderMap, HeaderValue, StatusCode, Version,
    header::{CACHE_CONTROL, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, DATE},
};

use crate::answer::Problem;

/// The head of a response.
pub(super) fn head(version: Version, status: StatusCode, headers: &HeaderMap) -> Vec<u8> {
    let mut head = Vec::with_capacity(512);
    write!(head, "{version:?} {status}\r\n").expect("memory takes what is written");
    for (name, value) in headers {
        for part in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
            head.extend_from_slice(part);
        }
    }
    if !headers.contains_key(DATE) {
        write!(head, "date: {}\r\n", httpdate::fmt_http_date(SystemTime::now())).expect("memory takes what is written");
    }
    head.extend_from_slice(b"\r\n");
    head
}

/// The last answer on a connection.
pub(super) fn last(problem: &Problem) -> Vec<u8> {
    let body = problem.to_json().to_string();
    let headers = HeaderMap::from_iter([
        (CONTENT_TYPE, HeaderValue::from_static("application/json")),
        (CACHE_CONTROL, HeaderValue::from_static("no-store")),
        (CONNECTION, HeaderValue::from_static("close")),
        (CONTENT_LENGTH, body.len().into()),
    ]);
    let mut response = head(Version::HTTP_11, problem.status(), &headers);
    response.extend_from_slice(body.as_bytes());
    response
}
