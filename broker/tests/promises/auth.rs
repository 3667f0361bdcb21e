//! Who may do what: tokens of every kind and place, users' own channels, namespaces, origins, development mode.

use clarion_testkit::{
    BrokerProcess, JsonServer, JwtKey, Reply, SseClient, WsClient, WsRefused, eventually, http, in_seconds,
};
use serde_json::json;

use crate::{API_KEY, ConfigFile, SECRET, development, guarded, say, socket_of, token};

/// The status of a WebSocket handshake with this token; 101 when it is let in.
async fn status(node: &BrokerProcess, path: &str, token: Option<&str>) -> u16 {
    let mut request = WsClient::request(&node.url(path));
    if let Some(token) = token {
        request = request.header("authorization", &format!("Bearer {token}"));
    }
    request.connect().await.map_or_else(|refused| refused.status, |_| 101)
}

#[tokio::test]
async fn a_token_may_come_in_four_places() {
    let file = ConfigFile::new("[auth]\ncookie = \"session\"\norigins = [\"https://app.example.com\"]\n");
    let node = guarded().args(["--config", file.path()]).start_ready().await;
    let (token, origin) = (token("42"), "https://app.example.com");
    let me = node.url("me");
    let with_query = format!("{me}?token={token}");
    let bearer = format!("bearer.{token}");
    WsClient::request(&me).header("authorization", &format!("Bearer {token}")).connect().await.expect("a header");
    WsClient::request(&with_query).connect().await.expect("a query");
    let socket = WsClient::request(&me).subprotocols(&["clarion.v1", &bearer]).connect().await.expect("a sub-protocol");
    assert_eq!(socket.subprotocol(), Some("clarion.v1"));
    let cookie = WsClient::request(&me).header("cookie", &format!("a=b; session={token}"));
    cookie.header("origin", origin).connect().await.expect("a cookie");
    let cookie = WsClient::request(&me).header("cookie", &format!("session={token}"));
    assert_eq!(cookie.connect().await.unwrap_err().status, 401, "a cookie counts only with an allowed origin");
    // The first place counts, also when a later one would be better.
    let bad = WsClient::request(&with_query).header("authorization", "Bearer nonsense").connect().await;
    assert_eq!(bad.unwrap_err().status, 401);
    let log = node.log().join("\n");
    assert!(!log.contains(&token), "a token is never logged");
}

#[tokio::test]
async fn a_bad_token_is_refused_everywhere() {
    let node = guarded().start_ready().await;
    let key = JwtKey::hs256(SECRET);
    let good = key.sign(&json!({ "sub": "42" }));
    let (head, _) = good.rsplit_once('.').expect("a token has three parts");
    let unsigned = "eyJhbGciOiJub25lIn0.eyJzdWIiOiI0MiJ9.";
    for (what, token) in [
        ("nonsense", "nonsense".to_owned()),
        ("empty", String::new()),
        ("another secret", JwtKey::hs256("another secret").token("42")),
        ("the development secret", JwtKey::hs256("development").token("42")),
        ("no signature", format!("{head}.")),
        ("no algorithm", unsigned.to_owned()),
        ("a foreign algorithm", JwtKey::es256().token("42")),
        ("expired", key.sign(&json!({ "sub": "42", "exp": in_seconds(-3600) }))),
        ("not yet good", key.sign(&json!({ "sub": "42", "nbf": in_seconds(3600) }))),
        ("no user", key.sign(&json!({ "exp": in_seconds(60) }))),
        ("a user that is no segment", key.sign(&json!({ "sub": "4/2" }))),
        ("an empty user", key.sign(&json!({ "sub": "" }))),
    ] {
        let request = WsClient::request(&node.url("news")).header("authorization", &format!("Bearer {token}"));
        let refused = request.connect().await.map(|_| what).expect_err(what);
        assert_eq!(refused.status, 401, "{what}");
        let challenge = refused.headers["www-authenticate"].to_str().expect("text");
        assert!(challenge.starts_with("Bearer"), "{what}: {challenge}");
        let stream = http().get(node.url("news")).header("authorization", format!("Bearer {token}"));
        assert_eq!(SseClient::request(stream).await.map(|_| what).expect_err(what).code(), 401, "{what}");
    }
    assert_eq!(status(&node, "news", None).await, 101, "without a token nobody asks for one here");
    assert_eq!(status(&node, "me", Some(&key.sign(&json!({ "sub": 42 })))).await, 101, "a number is its decimal");
    assert!(node.metrics().await.sum("clarion_auth_failures_total") >= 24.0);
}

#[tokio::test]
async fn every_algorithm_and_the_rules_for_claims() {
    let (rsa, ec, ed) = (JwtKey::rs256(), JwtKey::es256(), JwtKey::eddsa());
    let pems: Vec<_> = [&rsa, &ec, &ed].iter().map(|key| json!(key.public_pem()).to_string()).collect();
    let text = format!(
        "[auth]\npublic_keys = [{}]\naudience = [\"app\"]\nissuer = [\"login\"]\nrequire_exp = true\n",
        pems.join(", ")
    );
    let file = ConfigFile::new(&text);
    let node = guarded().args(["--config", file.path()]).start_ready().await;
    let claims = json!({ "sub": "42", "aud": ["app", "x"], "iss": "login", "exp": in_seconds(600) });
    let keys = [JwtKey::hs256(SECRET), JwtKey::hs384(SECRET), JwtKey::hs512(SECRET), rsa, ec, ed];
    for key in &keys {
        assert_eq!(status(&node, "me", Some(&key.sign(&claims))).await, 101, "{key:?}");
    }
    for (claim, value) in [("aud", json!("other")), ("iss", json!("other")), ("aud", json!(null)), ("exp", json!(null))]
    {
        let mut wrong = claims.clone();
        match value.is_null() {
            true => drop(wrong.as_object_mut().expect("an object").remove(claim)),
            false => wrong[claim] = value.clone(),
        }
        assert_eq!(status(&node, "me", Some(&keys[0].sign(&wrong))).await, 401, "{claim} is {value}");
    }
    // A public key must not be taken for a shared secret.
    let confused = JwtKey::hs256(keys[3].public_pem()).sign(&claims);
    assert_eq!(status(&node, "me", Some(&confused)).await, 401);
}

#[tokio::test]
async fn a_key_set_is_fetched_kept_and_rotated() {
    let (old, new) = (JwtKey::rs256().id("old"), JwtKey::es256().id("new"));
    let server = JsonServer::start(&json!({ "keys": [] })).await;
    server.set(500, &json!("broken"));
    let file = ConfigFile::new("[auth]\njwks_cooldown = \"10ms\"\n");
    let builder = development().args(["--config", file.path()]).env("CLARION_JWKS_URL", &server.url());
    let node = builder.env("CLARION_API_KEYS", crate::API_KEY).start().await;
    assert_eq!(status(&node, "me", Some(&old.token("42"))).await, 503, "the keys were never loaded");
    server.set(200, &json!({ "keys": [old.jwk()] }));
    eventually("the key set is loaded", async || status(&node, "me", Some(&old.token("42"))).await == 101).await;
    assert_eq!(status(&node, "me", Some(&new.token("42"))).await, 401);
    server.set(200, &json!({ "keys": [old.jwk(), new.jwk()] }));
    eventually("an unknown key is asked for", async || status(&node, "me", Some(&new.token("42"))).await == 101).await;
    server.set(500, &json!("broken"));
    assert_eq!(status(&node, "me", Some(&old.token("42"))).await, 101, "the keys known go on");
    let asked = server.requests();
    assert!(asked < 200, "the issuer is not asked for every token: {asked}");
}

#[tokio::test]
async fn a_connection_ends_with_its_token() {
    let file = ConfigFile::new("[auth]\nleeway = \"0s\"\n");
    let node = guarded().args(["--config", file.path()]).start_ready().await;
    let token = JwtKey::hs256(SECRET).sign(&json!({ "sub": "42", "exp": in_seconds(3) }));
    let mut socket = WsClient::connect(&format!("{}?token={token}", node.url("me"))).await;
    say(&node, "users/42", "still here").await;
    assert_eq!(socket.text().await, "still here");
    assert_eq!(socket.closed().await, (3005, "expired".to_owned()));
}

#[tokio::test]
async fn only_the_user_hears_his_channels() {
    let opened = ConfigFile::new("[[namespaces]]\nprefix = \"users\"\nsubscribe = \"anyone\"\n");
    let (code, words) = guarded().args(["--config", opened.path()]).start_and_end().await;
    assert_eq!(code, Some(64), "a namespace cannot open the users' channels: {words}");
    let some = ConfigFile::new("[[namespaces]]\nprefix = \"users\"\nslow = \"drop_oldest\"\n");
    for node in [guarded().start_ready().await, guarded().args(["--config", some.path()]).start_ready().await] {
        let (mine, other) = (token("42"), token("43"));
        for path in ["users/42", "users/42/orders", "users/42/*", "users/42/**"] {
            assert_eq!(status(&node, path, Some(&mine)).await, 101, "{path}");
            assert_eq!(status(&node, path, Some(&other)).await, 403, "{path}");
            assert_eq!(status(&node, path, None).await, 401, "{path}");
        }
        for path in ["users/**", "users/*", "users/4", "users/420"] {
            assert!(matches!(status(&node, path, Some(&mine)).await, 403), "{path}");
        }
        let grants = JwtKey::hs256(SECRET).sign(&json!({ "sub": "42", "channels": ["users/**", "users/43"] }));
        assert_eq!(status(&node, "users/43", Some(&grants)).await, 403, "no token grants another user's channel");
    }
}

#[tokio::test]
async fn namespaces_say_who_may_hear() {
    let file = ConfigFile::new(
        "[[namespaces]]\nprefix = \"open\"\nsubscribe = \"anyone\"\n\
         [[namespaces]]\nprefix = \"open/members\"\nsubscribe = \"signed_in\"\n\
         [[namespaces]]\nprefix = \"rooms\"\nsubscribe = \"token\"\n",
    );
    let node = guarded().args(["--config", file.path()]).start_ready().await;
    let member = token("42");
    let room = JwtKey::hs256(SECRET).sign(&json!({ "sub": "42", "channels": ["rooms/1", "rooms/vip/**"] }));
    for (path, nobody, signed_in, with_room) in [
        ("open", 101, 101, 101),
        ("open/x", 101, 101, 101),
        ("open/members/x", 401, 101, 101),
        ("open/**", 401, 101, 101),
        ("open/*", 401, 101, 101),
        ("rooms/1", 401, 403, 101),
        ("rooms/2", 401, 403, 403),
        ("rooms/vip/3", 401, 403, 101),
        ("rooms/**", 401, 403, 403),
        ("elsewhere", 401, 101, 101),
    ] {
        let got = (
            status(&node, path, None).await,
            status(&node, path, Some(&member)).await,
            status(&node, path, Some(&room)).await,
        );
        assert_eq!(got, (nobody, signed_in, with_room), "{path}");
    }
}

#[tokio::test]
async fn pages_of_other_origins_stay_out() {
    let file = ConfigFile::new("[auth]\norigins = [\"https://app.example.com\", \"https://*.example.org\"]\n");
    let node = guarded().args(["--config", file.path()]).start_ready().await;
    for (origin, good) in [
        ("https://app.example.com", true),
        ("https://a.example.org", true),
        ("https://example.org", false),
        ("http://app.example.com", false),
        ("https://app.example.com.evil.net", false),
        ("null", false),
    ] {
        let handshake = WsClient::request(&node.url("news")).header("origin", origin).connect().await;
        assert_eq!(
            handshake.as_ref().map_or_else(|refused: &WsRefused| refused.status, |_| 101),
            if good { 101 } else { 403 },
            "{origin}"
        );
        let preflight = http().request(http::Method::OPTIONS, node.url("news")).header("origin", origin);
        let preflight = preflight.header("access-control-request-method", "POST");
        let reply = Reply::of(preflight.header("access-control-request-headers", "x-api-key")).await;
        let allowed = reply.header("access-control-allow-origin");
        assert_eq!(allowed, good.then_some(origin), "{origin}: {}", reply.text());
    }
}

#[tokio::test]
async fn asking_for_an_event_streams_head_opens_nothing() {
    let node = guarded().start_ready().await;
    let head = async |path: &str, user: Option<&str>| {
        let mut request = http().head(node.url(path)).header("accept", "text/event-stream");
        if let Some(user) = user {
            request = request.bearer_auth(token(user));
        }
        Reply::of(request).await.code()
    };
    assert_eq!(head("news", None).await, 200);
    assert_eq!(head("users/42", Some("42")).await, 200);
    assert_eq!(head("users/42", None).await, 401, "as the stream itself would be answered");
    assert_eq!(head("users/42", Some("43")).await, 403);
    assert_eq!(head("me", None).await, 401);
}

#[tokio::test]
async fn development_mode_is_for_this_machine() {
    let node = development().start_ready().await;
    let with_host =
        async |host: &str| Reply::of(http().post(node.url("news")).header("host", host).body("x")).await.code();
    assert_eq!(with_host("localhost:8000").await, 200);
    assert_eq!(with_host("127.0.0.1").await, 200);
    assert_eq!(with_host("evil.example.com").await, 403, "a name of somebody else's that leads here");
    let page = Reply::of(http().get(node.url("")).header("host", "evil.example.com")).await;
    assert_eq!(page.code(), 403, "not the page to try it either");
    let form = http().post(node.url("news")).header("origin", "https://evil.example.com").form(&[("data", "x")]);
    assert_eq!(Reply::of(form).await.code(), 403, "any web page can post a form");
    let mine = JwtKey::hs256("development").token("42");
    assert_eq!(status(&node, "me", Some(&mine)).await, 101);
    assert!(node.log().iter().any(|line| line.contains("development")), "it says so at start");

    let (code, words) = development().args(["--listen", "0.0.0.0:0"]).start_and_end().await;
    assert_eq!(code, Some(64), "{words}");
    assert!(words.contains("--insecure"), "the remedy is named: {words}");
    development().args(["--listen", "0.0.0.0:0", "--insecure"]).start().await;
}

#[tokio::test]
async fn a_disconnected_user_is_out_on_all_connections() {
    let node = guarded().start_ready().await;
    let mut sockets = Vec::new();
    for user in ["42", "42", "43"] {
        sockets.push(socket_of(user, &node.url("me")).connect().await.expect("they are let in"));
    }
    crate::call(&node, "disconnect", json!({ "user": "42" })).await;
    for socket in &mut sockets[..2] {
        assert_eq!(socket.closed().await.0, 3503);
    }
    say(&node, "users/43", "still here").await;
    assert_eq!(sockets[2].text().await, "still here");
}

#[tokio::test]
async fn a_user_without_a_key_is_told_the_same_at_all_ways_to_publish() {
    let node = guarded().start_ready().await;
    let call = r#"{"jsonrpc":"2.0","id":1,"method":"broadcast","params":{"text":"x"}}"#;
    for (token, status, code) in [(None, 401, "api_key_required"), (Some(token("42")), 403, "backend_only")] {
        for path in ["news", "rpc"] {
            let counter = format!("clarion_auth_failures_total{{reason=\"{code}\"}}");
            let counted = async || node.metrics().await.series().get(&counter).copied().unwrap_or_default();
            let before = counted().await;
            let mut request = http().post(node.url(path)).header("content-type", "application/json").body(call);
            if let Some(token) = &token {
                request = request.header("authorization", format!("Bearer {token}"));
            }
            let reply = Reply::of(request).await;
            assert_eq!((reply.code(), crate::code(&reply).as_str()), (status, code), "{path}");
            assert!(counted().await > before, "{path}: {code} is not counted");
        }
    }
}

/// Each start of a rolling deploy brings all of them at once, and an alert counts failures.
#[tokio::test]
async fn sockets_that_only_listen_have_failed_at_nothing() {
    let node = guarded().start_ready().await;
    let mut sockets = Vec::new();
    for _ in 0..20 {
        sockets.push(WsClient::connect(&node.url("news")).await);
        sockets.push(socket_of("42", &node.url("me")).connect().await.expect("it is let in"));
    }
    assert_eq!(node.metrics().await.sum("clarion_auth_failures_total"), 0.0);
    assert_eq!(Reply::of(http().post(node.url("news")).body("x")).await.code(), 401);
    assert_eq!(node.metrics().await.sum("clarion_auth_failures_total"), 1.0);
}

#[tokio::test]
async fn a_secret_made_of_a_file_is_the_secret_in_it() {
    let secret = format!("{SECRET}\n");
    let node = development().env("CLARION_JWT_SECRET", &secret).env("CLARION_API_KEYS", &format!("{API_KEY}\n"));
    let node = node.start_ready().await;
    let mut socket = socket_of("42", &node.url("me")).connect().await.expect("a token that is signed with it is good");
    say(&node, "users/42", "hello").await;
    assert_eq!(socket.text().await, "hello");
}
