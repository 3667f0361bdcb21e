//! Which pages may come, as tables.

use http::request::Parts;

use super::*;

fn head(host: &str, origin: Option<&str>) -> Parts {
    let mut request = http::Request::get("/news").header("host", host);
    if let Some(origin) = origin {
        request = request.header("origin", origin);
    }
    request.body(()).unwrap().into_parts().0
}

fn origins(rules: &[&str], development: bool, insecure: bool) -> Origins {
    Origins::new(rules.iter().map(|rule| rule.parse().unwrap()).collect(), development, insecure)
}

#[test]
fn rules_are_read_and_written() {
    for (text, written) in [
        ("*", "*"),
        ("null", "null"),
        ("https://Example.com", "https://example.com"),
        ("https://example.com:443", "https://example.com"),
        ("https://example.com:8443", "https://example.com:8443"),
        ("https://*.example.com", "https://*.example.com"),
        ("http://[::1]:3000", "http://[::1]:3000"),
        ("capacitor://localhost", "capacitor://localhost"),
    ] {
        assert_eq!(text.parse::<OriginRule>().map(|rule| rule.to_string()), Ok(written.to_owned()), "{text}");
    }
    for bad in [
        "",
        "example.com",
        "https://",
        "https://example.com/",
        "https://a@b",
        "https://*",
        "https://a.*.b",
        "://x",
        "https://x:y",
    ] {
        assert_eq!(bad.parse::<OriginRule>(), Err(OriginError), "{bad}");
    }
}

#[test]
fn a_list_is_exact() {
    let list = origins(&["https://example.com", "https://*.example.org", "http://localhost:3000"], false, false);
    for (origin, expected) in [
        ("https://example.com", Verdict::Allowed),
        ("https://EXAMPLE.com:443", Verdict::Allowed),
        ("http://example.com", Verdict::Refused),
        ("https://example.com:444", Verdict::Refused),
        ("https://a.example.com", Verdict::Refused),
        ("https://a.example.org", Verdict::Allowed),
        ("https://a.b.example.org", Verdict::Allowed),
        ("https://example.org", Verdict::Refused),
        ("https://.example.org", Verdict::Refused),
        ("https://evilexample.org", Verdict::Refused),
        ("https://a.example.org.evil.com", Verdict::Refused),
        ("http://localhost:3000", Verdict::Allowed),
        ("http://localhost", Verdict::Refused),
        ("https://push.example.com", Verdict::Refused),
        ("null", Verdict::Refused),
        ("nonsense", Verdict::Refused),
    ] {
        assert_eq!(list.judge(&head("push.example.com", Some(origin))), expected, "{origin}");
    }
    assert_eq!(list.judge(&head("anything", None)), Verdict::NoOrigin);
}

#[test]
fn the_star_lets_in_without_cookies() {
    let list = origins(&["*", "https://example.com"], false, false);
    assert_eq!(list.judge(&head("h", Some("https://example.com"))), Verdict::Allowed);
    assert_eq!(list.judge(&head("h", Some("https://other.com"))), Verdict::AllowedByStar);
    assert_eq!(list.judge(&head("h", Some("null"))), Verdict::AllowedByStar);
    assert_eq!(list.answer(&head("h", Some("https://other.com"))).unwrap(), "*");
    assert_eq!(list.answer(&head("h", Some("https://example.com"))).unwrap(), "https://example.com");
}

#[test]
fn without_a_list_only_pages_of_our_own_host_come() {
    let list = origins(&[], false, false);
    for (host, origin, expected) in [
        ("push.example.com", "https://push.example.com", Verdict::Allowed),
        ("push.example.com:443", "https://push.example.com", Verdict::Allowed),
        ("push.example.com:8000", "http://push.example.com:8000", Verdict::Allowed),
        ("push.example.com:8000", "http://push.example.com", Verdict::Refused),
        ("push.example.com", "https://example.com", Verdict::Refused),
        ("localhost:8000", "http://localhost:3000", Verdict::Refused),
    ] {
        assert_eq!(list.judge(&head(host, Some(origin))), expected, "{host} {origin}");
    }
}

#[test]
fn in_development_only_this_machine_counts() {
    let list = origins(&[], true, false);
    for (host, origin, expected) in [
        ("localhost:8000", None, Verdict::NoOrigin),
        ("LOCALHOST", None, Verdict::NoOrigin),
        ("127.3.2.1:8000", None, Verdict::NoOrigin),
        ("[::1]:8000", None, Verdict::NoOrigin),
        ("10.0.0.1:8000", None, Verdict::ForeignHost),
        ("evil.com:8000", None, Verdict::ForeignHost),
        ("localhost.evil.com", None, Verdict::ForeignHost),
        ("127.0.0.1.evil.com", None, Verdict::ForeignHost),
        ("localhost:8000@evil.com", None, Verdict::ForeignHost),
        ("", None, Verdict::ForeignHost),
        ("localhost:8000", Some("http://localhost:3000"), Verdict::Allowed),
        ("localhost:8000", Some("http://127.0.0.1:8000"), Verdict::Allowed),
        ("localhost:8000", Some("https://evil.com"), Verdict::Refused),
        ("localhost:8000", Some("null"), Verdict::Refused),
        // A foreign name that resolves to this machine: host and origin agree, and both are foreign.
        ("evil.com:8000", Some("http://evil.com:8000"), Verdict::ForeignHost),
    ] {
        assert_eq!(list.judge(&head(host, origin)), expected, "{host} {origin:?}");
    }
}

#[test]
fn insecure_development_answers_to_other_names() {
    let list = origins(&[], true, true);
    assert_eq!(list.judge(&head("10.0.0.1:8000", None)), Verdict::NoOrigin);
    assert_eq!(list.judge(&head("10.0.0.1:8000", Some("http://10.0.0.1:8000"))), Verdict::Allowed);
    assert_eq!(list.judge(&head("10.0.0.1:8000", Some("http://evil.com"))), Verdict::Refused);
}

#[test]
fn the_request_line_names_the_host_before_the_header() {
    let list = origins(&[], true, false);
    let request = http::Request::get("http://evil.com/news").header("host", "localhost").body(()).unwrap();
    assert_eq!(list.judge(&request.into_parts().0), Verdict::ForeignHost);
}

#[test]
fn two_origins_are_none() {
    let list = origins(&["https://example.com"], false, false);
    let mut head = head("h", Some("https://example.com"));
    head.headers.append("origin", "https://evil.com".parse().unwrap());
    assert_eq!(list.judge(&head), Verdict::Refused);
}

#[test]
fn two_hosts_are_none_of_ours() {
    let mut two = head("localhost", Some("http://localhost"));
    two.headers.append("host", "evil.example.com".parse().unwrap());
    assert_eq!(origins(&[], true, false).judge(&two), Verdict::ForeignHost);
    let mut two = head("push.example.com", Some("https://push.example.com"));
    two.headers.append("host", "push.example.com".parse().unwrap());
    assert_eq!(origins(&[], false, false).judge(&two), Verdict::Refused, "neither is the page of either host");
}
