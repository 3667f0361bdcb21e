//! Requests that are none, and what is told of them: below all routes, and as JSON like everywhere.

use http::{HeaderMap, StatusCode, Version, header::HOST};

use crate::answer::{Problem, problem};

/// A request of HTTP/1.1 names its host once; no request names it twice, or by what is no host (RFC 9112, 3.2). Whoever stands
/// between could understand another one than we do.
///
/// # Errors
/// 400.
pub(super) fn check_host(version: Version, headers: &HeaderMap) -> Result<(), Problem> {
    let bad = |message: &'static str| Err(Problem::bad_request("bad_host", message));
    let mut hosts = headers.get_all(HOST).into_iter();
    match (hosts.next(), hosts.next()) {
        (None, _) if version < Version::HTTP_11 => Ok(()),
        (None, _) => bad("a request of HTTP/1.1 has a header `Host`"),
        (Some(_), Some(_)) => bad("a request has one header `Host`, this one has several"),
        (Some(host), None) if is_host(host.as_bytes()) => Ok(()),
        (Some(_), None) => bad("`Host` is a name or an address and perhaps a port, as in `example.com:8000`"),
    }
}

/// Whether this is `uri-host [ ":" port ]` (RFC 3986, 3.2.2) that names something.
fn is_host(host: &[u8]) -> bool {
    let end = match host.first() {
        Some(b'[') => host.iter().position(|byte| *byte == b']').map(|at| at + 1),
        _ => host.iter().position(|byte| *byte == b':').or(Some(host.len())),
    };
    let Some((name, port)) = end.map(|end| host.split_at(end)) else { return false };
    let is_name = match name {
        [b'[', address @ .., b']'] => std::str::from_utf8(address).is_ok_and(is_ip_literal),
        name => !name.is_empty() && name.iter().all(|byte| is_of_a_name(*byte)),
    };
    is_name && (port.is_empty() || (port[0] == b':' && port[1..].iter().all(u8::is_ascii_digit) && port.len() <= 6))
}

fn is_ip_literal(address: &str) -> bool {
    // An address may name its zone (RFC 6874), whose `%` is written `%25`.
    let (address, zone) = address.split_once("%25").unwrap_or((address, "x"));
    address.parse::<std::net::Ipv6Addr>().is_ok() && !zone.is_empty() && zone.bytes().all(is_of_a_name)
}

fn is_of_a_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~%!$&'()*+,;=".contains(&byte)
}

/// What is told of a head that could not be read; `status` is what HTTP would have answered.
pub(super) fn unreadable(status: Option<u16>, error: &hyper::Error) -> Problem {
    match status {
        Some(431) => {
            let message = "a request's head has at most 64 KiB and 100 header lines";
            problem(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "head_too_large", message)
        }
        _ => Problem::bad_request("bad_request", format!("this is no request of HTTP/1.1: {error}")),
    }
}

/// What is told of a head that does not come to its end.
pub(super) fn slow_head() -> Problem {
    problem(StatusCode::REQUEST_TIMEOUT, "slow_head", "the request's head did not come in time")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_names_and_addresses() {
        for good in [
            "localhost",
            "example.com:8000",
            "127.0.0.1:1",
            "[::1]",
            "[2001:db8::1]:443",
            "[fe80::1%25eth0]",
            "a_b:",
            "a%20b",
        ] {
            assert!(is_host(good.as_bytes()), "{good}");
        }
        for bad in [
            "",
            ":80",
            "a b",
            "a:b",
            "a:80:90",
            "user@host",
            "a/b",
            "http://a",
            "[::1",
            "[]",
            "[::1]x",
            "[x]",
            "a:123456",
            "a\t",
            "größe",
            "a,b c",
            "[fe80::1%25]",
        ] {
            assert!(!is_host(bad.as_bytes()), "{bad}");
        }
    }

    #[test]
    fn a_request_has_one_host() {
        let check = |version, hosts: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for host in hosts {
                headers.append(HOST, http::HeaderValue::from_static(host));
            }
            check_host(version, &headers).map_err(|problem| problem.status().as_u16())
        };
        assert_eq!(check(Version::HTTP_11, &["a"]), Ok(()));
        assert_eq!(check(Version::HTTP_10, &[]), Ok(()));
        assert_eq!(check(Version::HTTP_11, &[]), Err(400));
        assert_eq!(check(Version::HTTP_11, &["a", "a"]), Err(400));
        assert_eq!(check(Version::HTTP_10, &["a", "b"]), Err(400));
        assert_eq!(check(Version::HTTP_10, &["a b"]), Err(400));
    }
}
