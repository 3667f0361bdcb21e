//! What clients and operators give to a node.

use std::{
    io::Write as _,
    net::SocketAddr,
    sync::{Arc, LazyLock},
    time::{SystemTime, UNIX_EPOCH},
};

use clarion_broker::{
    admission::{self, Admission},
    api,
    auth::{self, Auth},
    config::{Config, Flags},
    doors, relay as carrying, server,
};
use clarion_protocol::Interest;
use futures_util::FutureExt as _;
use http::{HeaderName, HeaderValue, Request, header::HOST, request::Parts};
use jsonwebtoken::{EncodingKey, Header};
use prometheus::Registry;
use serde_json::Value;

use crate::pieces;

const SECRET: &str = "a secret of thirty-two bytes or so";

/// For how many seconds a token is good after its end, and as long as a test may hang.
const LEEWAY: f64 = 120.0;

/// The most channels that a query may name.
const CHANNELS: usize = 3;

pub(crate) const HEADS: &[&[u8]] = &[
    b"..GET /news?token=x\nhost: example.com:8000\nconnection: Upgrade\nupgrade: websocket\nsec-websocket-version: 13\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\nsec-websocket-protocol: clarion.v1, bearer.x",
    b"..GET /events?channel=a&channel=b/**\nhost: [::1]:80\naccept: text/event-stream\norigin: https://example.com",
    b"..POST /a%20b\nauthorization: Bearer x.y.z\nx-forwarded-for: 1.2.3.4, 10.0.0.1\ncookie: a=b; session=c",
];

pub(crate) const TOKENS: &[&[u8]] = &[
    b"..{\"sub\":\"42\",\"exp\":99999999999,\"channels\":[\"news\",\"a/**\"],\"subs\":{\"b/*\":{}}}",
    b"..{\"sub\":42,\"exp\":1e10,\"nbf\":1,\"aud\":[\"x\"]}",
    b"..eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiI0MiJ9.c2lnbmF0dXJl",
    b"..eyJhbGciOiJub25lIiwiY3JpdCI6WyJ4Il19.e30.",
];

pub(crate) const FORMS: &[&[u8]] = &[b"..data=hello", b"..x=1&d%61ta=a+b%2B%FF&", b"..data=fish & chips", b"..data"];

pub(crate) const RELAY: &[&[u8]] =
    &[b"\x01\x03\x81\x05hello\x82\x7e\0\x03abc", b"\x02\x02\x82\x7f\0\0\0\0\0\0\0\x02hi\x88\x02\x03\xe8"];

pub(crate) const CONFIGURATION: &[&[u8]] = &[
    b"..listen = '127.0.0.1:9000'\nprefix = 'x'\n[limits]\nper_user = 5\nping = '25s'\npayload = '64KiB'\n",
    b"..[bus]\nurl = 'nats://user:secret@a:4222,b:4222'\nreconnect_max = '5s'\n",
    b"..[auth]\njwt_secret = 'a secret of thirty-two bytes or so'\norigins = ['https://*.example.com']\n",
    b"..[[namespaces]]\nprefix = 'news'\nsubscribe = 'anyone'\npublish = 'signed_in'\nslow = 'latest'\n",
    b"..bus = 1\n[bus.x]\ny = [1, {}]\n[auth]\napi_keys = ['a', {name = 'b', key = 'c'}]\n",
];

static JUDGE: LazyLock<Arc<Auth>> = LazyLock::new(|| {
    let text =
        format!("jwt_secret = '{SECRET}'\napi_keys = ['a key of these tests']\norigins = ['https://example.com']");
    let config: auth::Config = toml::from_str(&text).expect("these settings are good");
    Auth::new(&config, Vec::new(), false, &Registry::new()).expect("these settings are good")
});

static GATE: LazyLock<Arc<Admission>> = LazyLock::new(|| {
    let trusted_proxies = vec!["10.0.0.0/8".parse().expect("it is a network")];
    let config = admission::Config { trusted_proxies, ..admission::Config::default() };
    Admission::new(&config, &Registry::new()).expect("a new registry knows no names")
});

/// A request's head, written as `METHOD target` and a line for each header; `None` for what HTTP lets nobody say.
fn head(text: &[u8]) -> Option<Parts> {
    let mut lines = text.split(|byte| *byte == b'\n');
    let (method, target) = std::str::from_utf8(lines.next()?).ok()?.split_once(' ')?;
    let mut head = Request::builder().method(method).uri(target).body(()).ok()?.into_parts().0;
    for line in lines {
        let at = line.iter().position(|byte| *byte == b':')?;
        let (name, value) = (HeaderName::from_bytes(&line[..at]).ok()?, line[at + 1..].trim_ascii());
        head.headers.append(name, HeaderValue::from_bytes(value).ok()?);
    }
    Some(head)
}

/// Whatever a head says, each decoder of it gives an answer that fits to the others.
pub(crate) fn heads(input: &[u8]) {
    let (whole, _) = pieces(input);
    let Some(head) = head(whole) else { return };
    if server::takes_host(head.version, &head.headers) {
        assert_eq!(head.headers.get_all(HOST).iter().count(), 1, "HTTP/1.1 has one host");
    }
    if doors::takes_handshake(&head) {
        assert_eq!(head.method, http::Method::GET);
    }
    if let Some(interests) = head.uri.query().and_then(|query| doors::asked_for(query, CHANNELS)) {
        assert!((1..=CHANNELS).contains(&interests.len()), "{interests:?}");
        assert!(interests.iter().all(|interest| Interest::parse(&interest.to_string()).as_ref() == Ok(interest)));
    }
    if let Ok(interest) = Interest::from_path(head.uri.path()) {
        assert_eq!(Interest::parse(&interest.to_string()), Ok(interest));
    }
    let who = JUDGE.identify(&head).now_or_never().expect("there is no issuer to be asked");
    assert!(who.is_err() || who.is_ok_and(|who| who.user.is_none()), "nobody here can sign a token");
    assert!(JUDGE.backend(&head).is_ok_and(|backend| !backend) || head.headers.contains_key("x-api-key"));
    let origin = JUDGE.check_origin(&head);
    assert_eq!(origin.is_ok(), JUDGE.check_origin(&head).is_ok());
    let stranger = SocketAddr::from(([192, 0, 2, 1], 7));
    assert_eq!(GATE.client_address(&head, stranger), stranger.ip(), "a stranger's headers are believed");
    let _ = GATE.client_address(&head, SocketAddr::from(([10, 0, 0, 1], 7)));
}

/// A token that we have not signed is nobody's. What we sign may say anything and opens no more than it names.
pub(crate) fn tokens(input: &[u8]) {
    let (whole, _) = pieces(input);
    if let Some(head) = bearer(whole) {
        let who = JUDGE.identify(&head).now_or_never().expect("there is no issuer to be asked");
        assert!(who.is_err(), "a token is good that nobody has signed");
    }
    let Ok(claims) = serde_json::from_slice::<Value>(whole) else { return };
    let Ok(token) = jsonwebtoken::encode(&Header::default(), &claims, &EncodingKey::from_secret(SECRET.as_bytes()))
    else {
        return;
    };
    let head = bearer(token.as_bytes()).expect("a token is good in a header");
    if let Ok(who) = JUDGE.identify(&head).now_or_never().expect("there is no issuer to be asked") {
        let user = who.user.expect("a good token is somebody's");
        let (sub, number) = (&claims["sub"], claims["sub"].to_string());
        assert!(sub.as_str() == Some(user.as_str()) || number == user.as_str(), "{claims}");
        let exp = claims.get("exp");
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64());
        let over = |exp: &Value| exp.as_f64().is_none_or(|exp| exp < now - LEEWAY);
        assert!(exp.is_none_or(|exp| !over(exp)), "a token is good whose end is over, or is no time: {claims}");
        assert!(who.expires.is_none() || exp.is_some(), "{claims}");
        let named = |interest: &Interest| {
            let name = interest.to_string();
            let listed = claims["channels"].as_array().is_some_and(|all| all.iter().any(|one| *one == *name));
            listed || claims["subs"].get(&name).is_some()
        };
        assert!(who.channels.iter().all(named), "{claims}");
    }
}

fn bearer(token: &[u8]) -> Option<Parts> {
    let value = HeaderValue::from_bytes(&[b"Bearer ", token].concat()).ok()?;
    Some(Request::get("/news").header("authorization", value).body(()).ok()?.into_parts().0)
}

/// A form's payload is no longer than the form.
pub(crate) fn forms(input: &[u8]) {
    let (whole, _) = pieces(input);
    if let Some(payload) = api::form_payload(whole) {
        assert!(payload.len() + b"data=".len() <= whole.len());
    }
}

/// Where a frame of the home ends does not depend on how its bytes come.
pub(crate) fn relay(input: &[u8]) {
    let (whole, pieces) = pieces(input);
    assert_eq!(carrying::end_between_frames(&[whole]), carrying::end_between_frames(&pieces));
}

/// Whatever stands in the file, it is a configuration that is good for writing down and reading again, or a list of mistakes.
pub(crate) fn configuration(input: &[u8]) {
    let (whole, _) = pieces(input);
    let mut file = tempfile::NamedTempFile::new().expect("a file can be made");
    file.write_all(whole).expect("a file can be written");
    let flags = Flags { config: Some(file.path().to_owned()), ..Flags::default() };
    match Config::load(&flags, []) {
        Ok(config) => {
            config.to_toml().parse::<toml::Table>().expect("what is printed is TOML");
        }
        Err(rejected) => {
            assert!(!rejected.problems.is_empty());
            assert!(rejected.problems.iter().all(|problem| !problem.to_string().is_empty()));
        }
    }
}
