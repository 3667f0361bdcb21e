//! Who may do what, with real keys.

mod issuer;

use std::{sync::LazyLock, time::UNIX_EPOCH};

use clarion_testkit::{JwtKey, in_seconds};
use http::{Request, StatusCode};
use serde_json::{Value, json};

use super::*;

/// Made once: RSA keys take their time.
static RS256: LazyLock<JwtKey> = LazyLock::new(JwtKey::rs256);
static ES256: LazyLock<JwtKey> = LazyLock::new(JwtKey::es256);
static EDDSA: LazyLock<JwtKey> = LazyLock::new(JwtKey::eddsa);

const SECRET: &str = "a secret of thirty-two bytes or so";

#[derive(serde::Deserialize)]
struct Namespaces {
    #[serde(default)]
    namespaces: Vec<Namespace>,
}

fn auth_with(auth: &str, namespaces: &str) -> Arc<Auth> {
    let config: Config = toml::from_str(auth).unwrap();
    assert_eq!(config.mistakes(), []);
    let file: Namespaces = toml::from_str(namespaces).unwrap();
    Auth::new(&config, file.namespaces, false, &Registry::new()).unwrap()
}

fn auth(config: &str) -> Arc<Auth> {
    auth_with(config, "")
}

fn head(headers: &[(&str, &str)]) -> Parts {
    let mut request = Request::get("/news").header("host", "push.example.com");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(()).unwrap().into_parts().0
}

async fn identify(auth: &Auth, token: &str) -> Result<Identity, AuthError> {
    auth.identify(&head(&[("authorization", &format!("Bearer {token}"))])).await
}

async fn user(auth: &Auth, token: &str) -> Result<String, &'static str> {
    identify(auth, token).await.map(|who| who.user.unwrap().to_string()).map_err(AuthError::code)
}

fn public_keys(keys: &[&JwtKey]) -> String {
    let texts: Vec<Value> = keys.iter().map(|key| json!(key.public_pem())).collect();
    format!("public_keys = {}", Value::from(texts))
}

#[tokio::test]
async fn every_algorithm_is_verified_with_its_own_key_only() {
    let shared = auth(&format!("jwt_secret = '{SECRET}'"));
    let public = auth(&public_keys(&[&RS256, &ES256, &EDDSA]));
    for key in [JwtKey::hs256(SECRET), JwtKey::hs384(SECRET), JwtKey::hs512(SECRET)] {
        assert_eq!(user(&shared, &key.token("42")).await, Ok("42".to_owned()), "{key:?}");
        assert_eq!(user(&public, &key.token("42")).await, Err("invalid_token"), "{key:?}");
    }
    for key in [&*RS256, &*ES256, &*EDDSA] {
        assert_eq!(user(&public, &key.token("42")).await, Ok("42".to_owned()), "{key:?}");
        assert_eq!(user(&shared, &key.token("42")).await, Err("invalid_token"), "{key:?}");
    }
    assert_eq!(user(&shared, &JwtKey::hs256("another secret").token("42")).await, Err("invalid_token"));
    assert_eq!(user(&public, &JwtKey::es256().token("42")).await, Err("invalid_token"));
}

#[tokio::test]
async fn a_public_key_is_no_secret_and_none_is_no_algorithm() {
    use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD as BASE64};
    let public = auth(&public_keys(&[&RS256]));
    let confused = JwtKey::hs256(RS256.public_pem()).token("42");
    assert_eq!(user(&public, &confused).await, Err("invalid_token"));
    for header in [r#"{"alg":"none"}"#, r#"{"alg":"None","typ":"JWT"}"#, r#"{"typ":"JWT"}"#] {
        let body = format!("{}.{}.", BASE64.encode(header), BASE64.encode(r#"{"sub":"42"}"#));
        assert_eq!(user(&public, &body).await, Err("invalid_token"), "{header}");
    }
    let good = RS256.token("42");
    let (start, signature) = good.rsplit_once('.').unwrap();
    for bad in ["", ".", "..", "x", start, &format!("{start}."), &format!("{good}x"), &format!("{good}.{signature}")] {
        assert_eq!(user(&public, bad).await, Err("invalid_token"), "{bad}");
    }
    let huge = JwtKey::hs256(SECRET).sign(&json!({"sub": "42", "x": "x".repeat(20_000)}));
    assert_eq!(user(&auth(&format!("jwt_secret = '{SECRET}'")), &huge).await, Err("invalid_token"));
}

#[tokio::test]
async fn claims_are_checked() {
    let key = JwtKey::hs256(SECRET);
    let plain = format!("jwt_secret = '{SECRET}'\n");
    let strict = format!("{plain}audience = ['push', 'app']\nissuer = ['me']\nrequire_exp = true");
    let of = |more: Value| {
        let mut claims = json!({"sub": "42"});
        claims.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        key.sign(&claims)
    };
    let (soon, past) = (in_seconds(600), in_seconds(-600));
    let full = |changes: Value| {
        let mut claims = json!({"aud": "push", "iss": "me", "exp": soon});
        claims.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        claims.as_object_mut().unwrap().retain(|_, value| !value.is_null());
        of(claims)
    };
    let ok = Ok("42".to_owned());
    for (config, token, expected) in [
        (&plain, of(json!({})), ok.clone()),
        (&plain, of(json!({"exp": soon})), ok.clone()),
        (&plain, of(json!({"exp": past})), Err("token_expired")),
        (&plain, of(json!({"exp": in_seconds(-3)})), ok.clone()),
        (&plain, of(json!({"exp": in_seconds(-30)})), Err("token_expired")),
        (&plain, of(json!({"exp": "soon"})), Err("invalid_token")),
        (&plain, of(json!({"exp": -5})), Err("invalid_token")),
        (&plain, of(json!({"exp": u64::MAX})), ok.clone()),
        (&plain, of(json!({"exp": 1e300})), Err("invalid_token")),
        (&plain, of(json!({"nbf": soon})), Err("invalid_token")),
        (&plain, of(json!({"nbf": past})), ok.clone()),
        // Where none is configured, nobody looks at them.
        (&plain, of(json!({"aud": "other", "iss": "you"})), ok.clone()),
        (&strict, full(json!({})), ok.clone()),
        (&strict, full(json!({"aud": ["x", "app"]})), ok.clone()),
        (&strict, full(json!({"aud": "other"})), Err("invalid_token")),
        (&strict, full(json!({"aud": []})), Err("invalid_token")),
        (&strict, full(json!({"aud": null})), Err("invalid_token")),
        (&strict, full(json!({"aud": 5})), Err("invalid_token")),
        (&strict, full(json!({"iss": "you"})), Err("invalid_token")),
        (&strict, full(json!({"iss": null})), Err("invalid_token")),
        (&strict, full(json!({"exp": null})), Err("invalid_token")),
        (&plain, of(json!({"channels": "news"})), Err("invalid_token")),
    ] {
        assert_eq!(user(&auth(config), &token).await, expected, "{config} {token}");
    }
}

#[tokio::test]
async fn a_subject_is_one_segment_and_a_number_its_decimal() {
    let (auth, key) = (auth(&format!("jwt_secret = '{SECRET}'")), JwtKey::hs256(SECRET));
    for (sub, expected) in [
        (json!("42"), Ok("42")),
        (json!(42), Ok("42")),
        (json!(-1), Ok("-1")),
        (json!(u64::MAX), Ok("18446744073709551615")),
        (json!("a@b.c"), Ok("a@b.c")),
        (json!("größe"), Ok("größe")),
        (json!(4.2), Err("invalid_token")),
        (json!(""), Err("invalid_token")),
        (json!("4/2"), Err("invalid_token")),
        (json!(".."), Err("invalid_token")),
        (json!("*"), Err("invalid_token")),
        (json!("a\nb"), Err("invalid_token")),
        (json!(true), Err("invalid_token")),
        (json!(null), Err("invalid_token")),
        (json!(["42"]), Err("invalid_token")),
        (json!("x".repeat(250)), Err("invalid_token")),
    ] {
        assert_eq!(user(&auth, &key.sign(&json!({"sub": sub}))).await, expected.map(str::to_owned), "{sub}");
    }
    assert_eq!(user(&auth, &key.sign(&json!({"name": "42"}))).await, Err("invalid_token"));
}

#[tokio::test]
async fn an_identity_has_what_the_token_says() {
    let (auth, key) = (auth(&format!("jwt_secret = '{SECRET}'\nleeway = '5s'")), JwtKey::hs256(SECRET));
    let exp = u64::try_from(in_seconds(100)).unwrap();
    let token =
        key.sign(&json!({"sub": 42, "exp": exp, "channels": ["news", "a/**", "bad//name"], "subs": {"b/*": {}}}));
    let protocols = format!("clarion.v1, bearer.{token}");
    let who = auth.identify(&head(&[("sec-websocket-protocol", &protocols)])).await.unwrap();
    let channels = ["news", "a/**", "b/*"].map(|text| Interest::parse(text).unwrap());
    assert_eq!(who.user, Some(Uid::parse("42").unwrap()));
    assert_eq!(who.expires, Some(UNIX_EPOCH + std::time::Duration::from_secs(exp + 5)));
    assert_eq!(who.channels, channels);
    assert_eq!(who.subprotocol, Some("clarion.v1"));
    let nobody = auth.identify(&head(&[("sec-websocket-protocol", "clarion.v1")])).await.unwrap();
    assert_eq!(nobody, Identity { subprotocol: Some("clarion.v1"), ..Identity::default() });
    // No date that a clock can show: it lasts.
    let forever = identify(&auth, &key.sign(&json!({"sub": 42, "exp": u64::MAX}))).await.unwrap();
    assert_eq!(forever.expires, None);
}

#[tokio::test]
async fn a_cookie_counts_only_for_pages_that_are_named() {
    let auth =
        auth(&format!("jwt_secret = '{SECRET}'\ncookie = 'session'\norigins = ['https://app.example.com', '*']"));
    let cookie = format!("x=y; session={}", JwtKey::hs256(SECRET).token("42"));
    for (origin, known) in
        [(Some("https://app.example.com"), true), (Some("https://evil.example"), false), (None, false)]
    {
        let mut headers = vec![("cookie", cookie.as_str())];
        headers.extend(origin.map(|origin| ("origin", origin)));
        let head = head(&headers);
        assert_eq!(auth.check_origin(&head), Ok(()));
        assert_eq!(auth.identify(&head).await.unwrap().user.is_some(), known, "{origin:?}");
    }
}

#[tokio::test]
async fn development_knows_one_secret_and_everybody_publishes() {
    let development = auth("");
    let token = JwtKey::hs256(DEVELOPMENT_SECRET).token("42");
    assert!(development.is_development());
    assert_eq!(user(&development, &token).await, Ok("42".to_owned()));
    assert_eq!(user(&development, &JwtKey::hs256("other").token("42")).await, Err("invalid_token"));
    assert_eq!(development.backend(&head(&[])), Ok(true));
    let foreign = development.check_origin(&head(&[])).unwrap_err();
    assert_eq!((foreign.status(), foreign.code()), (StatusCode::FORBIDDEN, "host_not_allowed"));
    for config in ["api_keys = ['k']".to_owned(), format!("jwt_secret = '{SECRET}'")] {
        let auth = auth(&config);
        assert!(!auth.is_development());
        assert_eq!(user(&auth, &token).await, Err("invalid_token"), "{config}");
        assert_eq!(auth.backend(&head(&[])), Ok(false), "{config}");
    }
}

#[test]
fn an_api_key_is_good_or_an_error() {
    let auth = auth("api_keys = ['one', { name = 'billing', key = 'two' }]");
    let backend = |key: &str| auth.backend(&head(&[("x-api-key", key)]));
    assert_eq!((backend("one"), backend("two"), auth.backend(&head(&[]))), (Ok(true), Ok(true), Ok(false)));
    for bad in ["", "on", "onee", "ONE", "one,two"] {
        let error = backend(bad).unwrap_err();
        assert_eq!((error.status(), error.code()), (StatusCode::UNAUTHORIZED, "invalid_api_key"), "{bad}");
    }
}

fn who(user: Option<&str>, grants: &[&str]) -> Identity {
    Identity {
        user: user.map(|user| Uid::parse(user).unwrap()),
        channels: grants.iter().map(|grant| Interest::parse(grant).unwrap()).collect(),
        ..Identity::default()
    }
}

const NAMESPACES: &str = r#"
    [[namespaces]]
    prefix = "open"
    subscribe = "anyone"
    publish = "anyone"
    slow = "latest"
    [[namespaces]]
    prefix = "open/club"
    publish = "signed_in"
    [[namespaces]]
    prefix = "granted"
    subscribe = "token"
"#;

#[test]
fn subscribing_follows_the_rules_of_everything_that_is_matched() {
    let config = format!("jwt_secret = '{SECRET}'");
    let with = auth_with(&config, NAMESPACES);
    let without = auth(&config);
    let (nobody, user) = (who(None, &[]), who(Some("42"), &[]));
    let granted = who(Some("42"), &["granted/a/**", "granted/b", "open/x"]);
    for (auth, who, interest, expected) in [
        (&without, &nobody, "news", Ok(())),
        (&without, &nobody, "news/**", Ok(())),
        (&with, &nobody, "open/x", Ok(())),
        (&with, &nobody, "open/club", Err("token_required")),
        (&with, &user, "open/club/x", Ok(())),
        (&with, &nobody, "open/*", Err("token_required")),
        (&with, &nobody, "open/x/**", Ok(())),
        (&with, &user, "open/**", Ok(())),
        (&with, &nobody, "news", Err("token_required")),
        (&with, &user, "news", Ok(())),
        (&with, &user, "broadcast", Ok(())),
        (&with, &user, "granted/a", Err("not_granted")),
        (&with, &granted, "granted/a", Ok(())),
        (&with, &granted, "granted/a/x/*", Ok(())),
        (&with, &granted, "granted/b", Ok(())),
        (&with, &granted, "granted/b/*", Err("not_granted")),
        (&with, &granted, "granted/**", Err("not_granted")),
        (&with, &granted, "granted", Err("not_granted")),
        (&with, &nobody, "granted/b", Err("token_required")),
        // A grant is no way around anything else.
        (&with, &who(Some("42"), &["users/43"]), "users/43", Err("not_your_channel")),
        (&without, &nobody, "users/42", Err("token_required")),
        (&without, &user, "users/42", Ok(())),
        (&without, &user, "users/42/**", Ok(())),
        (&without, &user, "users/42/orders/*", Ok(())),
        (&without, &user, "users/421", Err("not_your_channel")),
        (&without, &user, "users/4", Err("not_your_channel")),
        (&without, &user, "users/*", Err("users_pattern")),
        (&without, &user, "users/**", Err("users_pattern")),
        (&without, &nobody, "users/**", Err("users_pattern")),
        (&without, &nobody, "users", Ok(())),
    ] {
        let answer = auth.may_subscribe(who, false, &Interest::parse(interest).unwrap());
        assert_eq!(answer.map(|_| ()).map_err(AuthError::code), expected, "{interest} {who:?}");
    }
    let policy = |interest: &str| with.may_subscribe(&user, false, &Interest::parse(interest).unwrap()).unwrap();
    assert_eq!(policy("open/x").slow, SlowPolicy::Latest);
    assert_eq!(policy("open/club/x").slow, SlowPolicy::Disconnect);
}

#[test]
fn patterns_have_a_rule_of_their_own() {
    let namespaces = r#"
        [[namespaces]]
        prefix = "a"
        subscribe = "anyone"
        patterns = "anyone"
        [[namespaces]]
        prefix = "a/closed"
        subscribe = "anyone"
        patterns = "nobody"
        [[namespaces]]
        prefix = "b"
        subscribe = "anyone"
        patterns = "backend"
        [[namespaces]]
        prefix = "t"
        subscribe = "anyone"
        patterns = "token"
        [[namespaces]]
        prefix = "silent"
        subscribe = "anyone"
    "#;
    let names: Namespaces = toml::from_str(namespaces).unwrap();
    let on = |patterns| {
        let config = Config { patterns, ..toml::from_str(&format!("jwt_secret = '{SECRET}'")).unwrap() };
        Auth::new(&config, names.namespaces.clone(), false, &Registry::new()).unwrap()
    };
    let (redis, nats) = (on(Patterns::SignedIn), on(Patterns::Anyone));
    let (nobody, user, granted) = (who(None, &[]), who(Some("42"), &[]), who(Some("42"), &["t/x/**"]));
    for (auth, who, backend, interest, expected) in [
        (&redis, &nobody, false, "a/x/**", Ok(())),
        (&redis, &user, true, "a/closed/*", Err("patterns_not_allowed")),
        (&redis, &nobody, false, "a/closed/x", Ok(())),
        (&redis, &user, false, "a/**", Err("patterns_not_allowed")),
        (&redis, &nobody, false, "b/*", Err("api_key_required")),
        (&redis, &user, false, "b/*", Err("patterns_not_allowed")),
        (&redis, &nobody, true, "b/*", Ok(())),
        (&redis, &nobody, false, "b/x", Ok(())),
        (&redis, &nobody, false, "t/*", Err("token_required")),
        (&redis, &user, false, "t/*", Err("patterns_not_allowed")),
        (&redis, &granted, false, "t/x/*", Ok(())),
        (&redis, &granted, false, "t/**", Err("patterns_not_allowed")),
        (&redis, &nobody, true, "t/**", Ok(())),
        (&redis, &nobody, false, "silent/*", Err("token_required")),
        (&redis, &user, false, "silent/*", Ok(())),
        (&redis, &nobody, true, "silent/*", Ok(())),
        (&redis, &user, false, "users/42/**", Ok(())),
        (&nats, &nobody, false, "silent/*", Ok(())),
        (&nats, &nobody, false, "b/*", Err("api_key_required")),
    ] {
        let answer = auth.may_subscribe(who, backend, &Interest::parse(interest).unwrap());
        assert_eq!(answer.map(|_| ()).map_err(AuthError::code), expected, "{interest} {who:?} {backend}");
    }
}

#[test]
fn asking_whether_is_no_failure() {
    let registry = Registry::new();
    let config: Config = toml::from_str(&format!("jwt_secret = '{SECRET}'")).unwrap();
    let auth = Auth::new(&config, Vec::new(), false, &registry).unwrap();
    let (nobody, news) = (who(None, &[]), Channel::parse("news").unwrap());
    assert!(!auth.could_publish(&nobody, false, &news) && auth.could_publish(&nobody, true, &news));
    let failures = || registry.gather().iter().map(|family| family.get_metric().len()).sum::<usize>();
    assert_eq!(failures(), 0);
    assert!(auth.may_publish(&nobody, false, &news).is_err());
    assert_eq!(failures(), 1);
}

#[test]
fn publishing_needs_a_key_or_consent() {
    let auth = auth_with(&format!("jwt_secret = '{SECRET}'"), NAMESPACES);
    let (nobody, user) = (who(None, &[]), who(Some("42"), &[]));
    for (who, backend, channel, expected) in [
        (&nobody, true, "news", Ok(())),
        (&nobody, true, "users/42", Ok(())),
        (&nobody, false, "news", Err(("api_key_required", 401))),
        (&user, false, "news", Err(("backend_only", 403))),
        (&user, false, "users/42", Err(("backend_only", 403))),
        (&nobody, false, "open/x", Ok(())),
        (&nobody, false, "open/club/x", Err(("token_required", 401))),
        (&user, false, "open/club/x", Ok(())),
    ] {
        let answer = auth.may_publish(who, backend, &Channel::parse(channel).unwrap());
        assert_eq!(answer.map_err(|error| (error.code(), error.status().as_u16())), expected, "{channel}");
    }
}

#[tokio::test]
async fn answers_reveal_nothing_and_are_counted() {
    let registry = Registry::new();
    let config: Config = toml::from_str(&format!("jwt_secret = '{SECRET}'")).unwrap();
    let auth = Auth::new(&config, Vec::new(), false, &registry).unwrap();
    let error = identify(&auth, "not-a-token").await.unwrap_err();
    assert_eq!((error.status(), error.message().as_ref()), (StatusCode::UNAUTHORIZED, "the token is not valid"));
    assert_eq!(error.www_authenticate().unwrap(), r#"Bearer realm="clarion", error="invalid_token""#);
    let forbidden = auth.check_origin(&head(&[("origin", "https://evil.example")])).unwrap_err();
    assert_eq!((forbidden.status(), forbidden.www_authenticate()), (StatusCode::FORBIDDEN, None));
    let family = &registry.gather()[0];
    assert_eq!((family.name(), family.get_metric().len()), ("clarion_auth_failures_total", 2));
    assert!(!format!("{config:?}").contains(SECRET));
}
