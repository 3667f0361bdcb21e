//! Key sets that are published: fetched, cached, rotated, and not to be had.

use std::{
    net::SocketAddr,
    sync::atomic::{AtomicUsize, Ordering},
};

use axum::{
    Router,
    extract::State,
    http::HeaderMap,
    response::{IntoResponse, Response},
    routing::get,
};
use clarion_testkit::{JsonServer, eventually, within};
use tokio::net::TcpListener;
use tokio_util::task::AbortOnDropHandle;

use super::*;

fn set(keys: &[&JwtKey]) -> Value {
    json!({ "keys": keys.iter().map(|key| key.jwk()).collect::<Vec<_>>() })
}

fn fetching(url: &str, more: &str) -> Arc<Auth> {
    auth(&format!("jwks_url = '{url}'\n{more}"))
}

#[tokio::test]
async fn every_kind_of_published_key_is_good() {
    let keys = [RS256.clone().id("r"), ES256.clone().id("e"), EDDSA.clone().id("d")];
    let shared = JwtKey::hs256(SECRET).id("s");
    let issuer = JsonServer::start(&set(&[&keys[0], &keys[1], &keys[2], &shared])).await;
    let auth = fetching(&issuer.url(), "");
    for key in &keys {
        assert_eq!(user(&auth, &key.token("42")).await, Ok("42".to_owned()), "{key:?}");
    }
    assert_eq!(issuer.requests(), 1, "what is known is not fetched again");
    // A shared secret that is published is none.
    assert_eq!(user(&auth, &shared.token("42")).await, Err("invalid_token"));
}

#[tokio::test]
async fn a_file_may_hold_shared_secrets_too() {
    let shared = JwtKey::hs512(SECRET).id("s");
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), set(&[&shared]).to_string()).unwrap();
    let auth = auth(&format!("jwks_file = '{}'", file.path().display()));
    assert_eq!(user(&auth, &shared.token("42")).await, Ok("42".to_owned()));
    assert_eq!(
        user(&auth, &JwtKey::hs256(SECRET).id("s").token("42")).await,
        Err("invalid_token"),
        "its `alg` is HS512"
    );
}

#[tokio::test]
async fn a_key_that_is_not_known_is_fetched_once_in_a_while() {
    let (old, new) = (JwtKey::es256().id("old"), JwtKey::es256().id("new"));
    let issuer = JsonServer::start(&set(&[&old])).await;
    let auth = fetching(&issuer.url(), "jwks_cooldown = '1h'");
    let running = tokio::spawn({
        let auth = Arc::clone(&auth);
        async move { auth.run().await }
    });
    let mut missing = auth.keys_missing().unwrap();
    within("the first fetch", missing.wait_for(Option::is_none)).await.unwrap();
    assert_eq!(user(&auth, &old.token("42")).await, Ok("42".to_owned()));
    assert_eq!(issuer.requests(), 1);
    issuer.set(200, &set(&[&old, &new]));
    assert_eq!(user(&auth, &new.token("42")).await, Ok("42".to_owned()), "rotated");
    assert_eq!(issuer.requests(), 2);
    // Whoever invents names makes us fetch no more.
    for id in ["a", "b", "c"] {
        assert_eq!(user(&auth, &JwtKey::es256().id(id).token("42")).await, Err("invalid_token"));
    }
    assert_eq!(issuer.requests(), 2);
    // A key that was withdrawn is good until the set is fetched again, and then no more.
    running.abort();
}

#[tokio::test]
async fn a_key_that_changed_under_its_name_is_noticed() {
    let (old, new) = (JwtKey::es256(), JwtKey::es256());
    let issuer = JsonServer::start(&set(&[&old])).await;
    let auth = fetching(&issuer.url(), "jwks_cooldown = '0s'");
    assert_eq!(user(&auth, &old.token("42")).await, Ok("42".to_owned()));
    issuer.set(200, &set(&[&new]));
    assert_eq!(user(&auth, &new.token("42")).await, Ok("42".to_owned()));
    assert_eq!(user(&auth, &old.token("42")).await, Err("invalid_token"));
}

#[tokio::test]
async fn without_keys_nobody_is_judged_and_with_old_ones_everybody() {
    let key = JwtKey::es256().id("k");
    let issuer = JsonServer::start(&set(&[&key])).await;
    issuer.set(500, &json!({}));
    let auth = fetching(&issuer.url(), "jwks_cooldown = '0s'");
    let error = identify(&auth, &key.token("42")).await.unwrap_err();
    assert_eq!((error.status(), error.code()), (StatusCode::SERVICE_UNAVAILABLE, "keys_unavailable"));
    assert!(auth.keys_missing().unwrap().borrow().as_ref().unwrap().contains("500"));
    // No published key can have signed this, so it is refused without asking for any.
    let asked = issuer.requests();
    assert_eq!(user(&auth, &JwtKey::hs256(SECRET).token("42")).await, Err("invalid_token"));
    assert_eq!(issuer.requests(), asked);
    // Nothing to judge: an anonymous visitor is none the worse.
    assert_eq!(auth.identify(&head(&[])).await, Ok(Identity::default()));
    issuer.set(200, &set(&[&key]));
    assert_eq!(user(&auth, &key.token("42")).await, Ok("42".to_owned()));
    assert_eq!(*auth.keys_missing().unwrap().borrow(), None);
    for (status, body) in [(500, json!({})), (200, json!("nonsense")), (200, json!({"keys": []})), (404, set(&[&key]))]
    {
        issuer.set(status, &body);
        let stranger = JwtKey::es256().id("stranger").token("42");
        assert_eq!(user(&auth, &stranger).await, Err("invalid_token"), "{status} {body}");
        assert_eq!(user(&auth, &key.token("42")).await, Ok("42".to_owned()), "{status} {body}");
    }
}

#[tokio::test]
async fn an_issuer_that_does_not_answer_costs_one_timeout() {
    let silent = clarion_testkit::SilentServer::start().await;
    let auth = fetching(&format!("http://{}/keys", silent.addr()), "jwks_timeout = '200ms'\njwks_cooldown = '1h'");
    let token = JwtKey::es256().token("42");
    let all = futures_util::future::join_all((0..20).map(|_| identify(&auth, &token)));
    let answers = within("twenty answers", all).await;
    assert!(answers.iter().all(|answer| *answer == Err(AuthError::Unavailable)));
}

/// An issuer that names its key set's version and says how long it is good.
struct Polite {
    addr: SocketAddr,
    asked: Arc<Asked>,
    _task: AbortOnDropHandle<()>,
}

#[derive(Default)]
struct Asked {
    body: String,
    full: AtomicUsize,
    unchanged: AtomicUsize,
}

async fn answer(State(asked): State<Arc<Asked>>, headers: HeaderMap) -> Response {
    let caching = [("cache-control", "public, max-age=1"), ("etag", "\"v1\"")];
    if headers.get("if-none-match").is_some_and(|tag| tag == "\"v1\"") {
        asked.unchanged.fetch_add(1, Ordering::SeqCst);
        return (StatusCode::NOT_MODIFIED, caching).into_response();
    }
    asked.full.fetch_add(1, Ordering::SeqCst);
    (caching, asked.body.clone()).into_response()
}

impl Polite {
    async fn start(document: &Value) -> Self {
        let asked = Arc::new(Asked { body: document.to_string(), ..Asked::default() });
        let app = Router::new().route("/keys", get(answer)).with_state(Arc::clone(&asked));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let task = tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        Self { addr, asked, _task: AbortOnDropHandle::new(task) }
    }
}

#[tokio::test]
async fn a_set_that_did_not_change_is_not_sent_again() {
    let key = JwtKey::es256().id("k");
    let issuer = Polite::start(&set(&[&key])).await;
    // `max-age` never makes us come more often than the lesser of 30 s and the configured interval.
    let auth = fetching(&format!("http://{}/keys", issuer.addr), "jwks_refresh = '100ms'");
    let running = tokio::spawn({
        let auth = Arc::clone(&auth);
        async move { auth.run().await }
    });
    eventually("two answers that nothing changed", async || issuer.asked.unchanged.load(Ordering::SeqCst) >= 2).await;
    assert_eq!(issuer.asked.full.load(Ordering::SeqCst), 1);
    assert_eq!(user(&auth, &key.token("42")).await, Ok("42".to_owned()));
    running.abort();
}
