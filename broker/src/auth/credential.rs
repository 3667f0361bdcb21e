//! Where in a request the token is: `Authorization`, WebSocket sub-protocol, `?token=`, cookie, in this order.

use std::{borrow::Cow, fmt};

use http::{HeaderMap, HeaderName, header, request::Parts};

/// The sub-protocol that Clarion speaks on plain WebSockets.
pub const SUBPROTOCOL: &str = "clarion.v1";

/// The sub-protocol in which frames carry cursors.
pub const RESUME_PROTOCOL: &str = "clarion.resume.v1";

/// What a sub-protocol that is really a token begins with.
const BEARER_PROTOCOL: &str = "bearer.";

/// A token as it was found, not yet looked at.
pub(super) struct Credential<'a> {
    pub(super) token: Cow<'a, str>,
    /// Where it was, for logs.
    pub(super) place: &'static str,
}

/// The first token of a request.
pub(super) fn find<'a>(head: &'a Parts, cookie: Option<&str>, cookie_allowed: bool) -> Option<Credential<'a>> {
    let cookie = cookie.filter(|_| cookie_allowed);
    authorization(&head.headers)
        .or_else(|| {
            protocols(&head.headers)
                .find_map(|protocol| protocol.strip_prefix(BEARER_PROTOCOL))
                .map(Cow::from)
                .map(place("sub-protocol"))
        })
        .or_else(|| query(head.uri.query().unwrap_or_default()).map(place("query")))
        .or_else(|| cookie.and_then(|name| self::cookie(&head.headers, name)).map(Cow::from).map(place("cookie")))
}

fn place<'a>(place: &'static str) -> impl FnOnce(Cow<'a, str>) -> Credential<'a> {
    move |token| Credential { token, place }
}

/// The sub-protocol to answer with. Browsers break off when none of those that they offered is named.
pub(super) fn subprotocol(head: &Parts) -> Option<&'static str> {
    protocols(&head.headers).any(|protocol| protocol == SUBPROTOCOL).then_some(SUBPROTOCOL)
}

/// Whether a WebSocket handshake offers a sub-protocol.
pub fn offers(head: &Parts, protocol: &str) -> bool {
    protocols(&head.headers).any(|offered| offered == protocol)
}

/// Other schemes, such as the `Basic` of a proxy, are not for us.
fn authorization(headers: &HeaderMap) -> Option<Credential<'_>> {
    let value = headers.get(header::AUTHORIZATION)?.as_bytes();
    let (scheme, token) = value.split_at_checked(b"bearer".len())?;
    if !scheme.eq_ignore_ascii_case(b"bearer") || !matches!(token.first(), None | Some(b' ')) {
        return None;
    }
    // What is no text becomes a token that is not good, which is what it is.
    Some(place("authorization")(Cow::from(std::str::from_utf8(token).unwrap_or_default().trim())))
}

fn protocols(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    items(headers, header::SEC_WEBSOCKET_PROTOCOL, ',')
}

fn query(query: &str) -> Option<Cow<'_, str>> {
    form_urlencoded::parse(query.as_bytes()).find(|(key, _)| key == "token").map(|(_, token)| token)
}

fn cookie<'a>(headers: &'a HeaderMap, wanted: &str) -> Option<&'a str> {
    items(headers, header::COOKIE, ';')
        .filter_map(|pair| pair.split_once('='))
        .find(|(name, _)| *name == wanted)
        .map(|(_, value)| value)
}

/// The items of a list header, however many lines it has.
fn items(headers: &HeaderMap, name: HeaderName, separator: char) -> impl Iterator<Item = &str> {
    let lines = headers.get_all(name).into_iter().filter_map(|line| line.to_str().ok());
    lines.flat_map(move |line| line.split(separator)).map(str::trim)
}

impl fmt::Debug for Credential<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credential").field("place", &self.place).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(uri: &str, headers: &[(&str, &str)]) -> Parts {
        let mut request = http::Request::get(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    fn found(uri: &str, headers: &[(&str, &str)], cookie_allowed: bool) -> Option<(String, &'static str)> {
        find(&head(uri, headers), Some("session"), cookie_allowed).map(|c| (c.token.into_owned(), c.place))
    }

    #[test]
    fn tokens_are_found_in_their_order() {
        let all = [
            ("authorization", "bearer a"),
            ("sec-websocket-protocol", "clarion.v1, bearer.b"),
            ("cookie", "x=y; session=d"),
        ];
        let some = |token: &str, place| Some((token.to_owned(), place));
        assert_eq!(found("/x?token=c", &all, true), some("a", "authorization"));
        assert_eq!(found("/x?token=c", &all[1..], true), some("b", "sub-protocol"));
        assert_eq!(found("/x?y=z&token=c%2E", &all[2..], true), some("c.", "query"));
        assert_eq!(found("/x", &all[2..], true), some("d", "cookie"));
        assert_eq!(found("/x", &all[2..], false), None);
        assert_eq!(found("/x", &[("authorization", "Basic a")], true), None);
        assert_eq!(found("/x", &[("authorization", "Bearers a")], true), None);
        // Present and empty is a token that is not good, not a visitor without one.
        assert_eq!(found("/x", &[("authorization", "Bearer")], true), some("", "authorization"));
        assert_eq!(found("/x?token=", &[], true), some("", "query"));
    }

    #[test]
    fn the_answer_names_our_subprotocol_only_when_it_was_offered() {
        let answer = |offer: &str| subprotocol(&head("/x", &[("sec-websocket-protocol", offer)]));
        assert_eq!(answer("bearer.x , clarion.v1"), Some("clarion.v1"));
        assert_eq!(answer("bearer.x"), None);
        assert_eq!(answer("clarion.v12"), None);
    }

    #[test]
    fn a_credential_does_not_show_its_token() {
        let head = head("/x?token=secret", &[]);
        assert!(!format!("{:?}", find(&head, None, false)).contains("secret"));
    }
}
