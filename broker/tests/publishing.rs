//! Publishing over HTTP: what is taken, in which forms, from whom, and what the others are told.

mod nodes;

use clarion_protocol::limits;
use clarion_testkit::{JwtKey, Reply, WsClient, http};
use nodes::{KEY, TestNode, keyed, token};
use serde_json::{Value, json};

const FORM: &str = "application/x-www-form-urlencoded";

fn error_code(reply: &Reply) -> (u16, String) {
    (reply.code(), reply.json()["error"]["code"].as_str().expect("an error").to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_payload_comes_as_a_form_or_as_it_is() {
    let node = TestNode::start().await;
    let mut socket = WsClient::connect(&node.url("/news")).await;
    for (kind, body, expected) in [
        (FORM, "data=hello", "hello"),
        (FORM, "data=fish+%26+chips%3D", "fish & chips="),
        ("application/x-www-form-urlencoded; charset=UTF-8", "data=%C3%B6", "ö"),
        (FORM, "data=", ""),
        (FORM, "x=1&data=y&submit=", "y"),
        ("application/json", r#"{"text":"paid"}"#, r#"{"text":"paid"}"#),
        ("text/plain", "data=hello", "data=hello"),
        ("application/x-unheard-of", "", ""),
    ] {
        let reply = Reply::post(&node.url("/news"), kind, body).await;
        assert_eq!(reply.code(), 200, "{body}");
        assert!(!reply.json()["id"].as_str().unwrap().is_empty());
        assert_eq!(socket.text().await, expected);
    }
    let untyped = Reply::of(http().post(node.url("/news")).body("just bytes")).await;
    assert_eq!(untyped.code(), 200);
    assert_eq!(socket.text().await, "just bytes");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_form_that_is_not_understood_says_what_to_do() {
    let node = TestNode::start().await;
    for body in ["text=hello", "", r#"{"text":"paid"}"#, "data=fish & chips", "data=a&data=b"] {
        let reply = Reply::post(&node.url("/news"), FORM, body).await;
        assert_eq!(error_code(&reply), (400, "bad_form".to_owned()), "{body}");
        let message = reply.json()["error"]["message"].as_str().unwrap().to_owned();
        assert!(message.contains("--data-urlencode") && message.contains("application/json"), "{message}");
    }
    let multipart = Reply::post(&node.url("/news"), "multipart/form-data; boundary=x", "--x--").await;
    assert_eq!(error_code(&multipart), (415, "multipart".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_payload_has_a_limit() {
    let node = TestNode::start().await;
    let mut socket = WsClient::connect(&node.url("/news")).await;
    let most = "x".repeat(limits::PAYLOAD_BYTES);
    assert_eq!(Reply::post(&node.url("/news"), "text/plain", most.clone()).await.code(), 200);
    assert_eq!(socket.text().await.len(), most.len());
    assert_eq!(Reply::post_data(&node.url("/news"), &most).await.code(), 200);
    assert_eq!(socket.text().await.len(), most.len());
    for size in [limits::PAYLOAD_BYTES + 1, 3 * 1024 * 1024] {
        let body = "x".repeat(size);
        let raw = Reply::post(&node.url("/news"), "text/plain", body.clone()).await;
        assert_eq!(error_code(&raw), (413, "too_large".to_owned()));
        assert_eq!(Reply::post(&node.url("/news"), FORM, format!("data={body}")).await.code(), 413);
        let unknown_length = futures_util::stream::iter([Ok::<_, std::io::Error>(body)]);
        let chunked = http().post(node.url("/news")).body(reqwest::Body::wrap_stream(unknown_length));
        assert_eq!(Reply::of(chunked).await.code(), 413);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_publish() {
    let node = TestNode::with(|config| {
        keyed(config);
        config.auth.jwt_secret = Some(serde_json::from_value(json!("a secret of thirty-two bytes, at least")).unwrap());
        config.namespaces = serde_json::from_value(json!([
            { "prefix": "open", "subscribe": "anyone", "publish": "anyone" },
            { "prefix": "members", "subscribe": "signed_in", "publish": "signed_in" },
        ]))
        .unwrap();
    })
    .await;
    let key = JwtKey::hs256("a secret of thirty-two bytes, at least");
    let status = async |channel: &str, token: Option<&str>, api_key: Option<&str>| {
        let mut request = http().post(node.url(&format!("/{channel}"))).body("x");
        if let Some(token) = token {
            request = request.bearer_auth(token);
        }
        if let Some(api_key) = api_key {
            request = request.header("x-api-key", api_key);
        }
        Reply::of(request).await.code()
    };
    let user = key.token("42");
    for (channel, token, api_key, expected) in [
        ("open", None, None, 200),
        ("members/hall", None, None, 401),
        ("members/hall", Some(&*user), None, 200),
        ("members/hall", None, Some(KEY), 200),
        ("elsewhere", Some(&*user), None, 403),
        ("elsewhere", None, None, 401),
        ("elsewhere", None, Some(KEY), 200),
        ("users/42", Some(&*user), None, 403),
        ("users/42", None, Some(KEY), 200),
        ("open", None, Some("wrong-key"), 401),
        ("open", Some("rubbish"), None, 401),
    ] {
        assert_eq!(status(channel, token, api_key).await, expected, "{channel} {token:?} {api_key:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn users_and_everybody_are_channels() {
    let node = TestNode::start().await;
    let mut socket = WsClient::connect(&node.url(&format!("/me?token={}", token("42")))).await;
    assert_eq!(Reply::post_json(&node.url("/users/42"), &json!({ "text": "paid" })).await.code(), 200);
    assert_eq!(Reply::post_data(&node.url("/broadcast"), "to all").await.code(), 200);
    assert_eq!([socket.text().await, socket.text().await], [r#"{"text":"paid"}"#, "to all"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_message_for_what_is_no_channel() {
    let node = TestNode::start().await;
    for (path, status, code) in [
        ("/orders/*", 400, "bad_channel"),
        ("/a//b", 400, "bad_channel"),
        ("/sockjs", 404, "reserved"),
        ("/a%2Fb", 400, "bad_channel"),
    ] {
        assert_eq!(error_code(&Reply::post_data(&node.url(path), "x").await), (status, code.to_owned()), "{path}");
    }
    assert_eq!(error_code(&Reply::post_data(&node.url("/me"), "x").await).0, 405);
    assert_eq!(error_code(&Reply::post_data(&node.url("/events"), "x").await).0, 405);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_has_a_result_for_each() {
    let node = TestNode::start().await;
    let mut socket = WsClient::connect(&node.url("/batch/**")).await;
    let too_long = "x".repeat(limits::PAYLOAD_BYTES + 1);
    let batch = json!([
        { "channel": "batch/a", "data": { "n": 1 } },
        { "channel": "batch/b", "text": "zwei" },
        { "channel": "batch//c", "text": "x" },
        { "channel": "batch/c" },
        { "channel": "batch/c", "text": too_long },
        { "channel": "batch/c", "txt": "x" },
        { "text": "x" },
        "no message",
        ["batch/c", "x"],
        { "channel": "batch/c", "base64": "ZHJlaQ==" },
    ]);
    let reply = Reply::post_json(&node.url("/api/batch"), &batch).await;
    assert_eq!(reply.code(), 200);
    let results = reply.json()["results"].clone();
    let codes: Vec<_> =
        results.as_array().unwrap().iter().map(|r| r["error"]["code"].as_str().unwrap_or("ok")).collect();
    let bad = "bad_message";
    assert_eq!(codes, ["ok", "ok", "bad_channel", bad, "too_large", bad, bad, bad, bad, "ok"]);
    assert_ne!(results[0]["id"], results[1]["id"]);
    for expected in [r#"{"n":1}"#, "zwei", "drei"] {
        assert_eq!(socket.text().await, expected);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_cannot_be_read() {
    let node = TestNode::start().await;
    let broken = Reply::post(&node.url("/api/batch"), "application/json", "[\n{\"channel\": \"a\",}]").await;
    assert_eq!(error_code(&broken), (400, "bad_json".to_owned()));
    assert!(broken.json()["error"]["message"].as_str().unwrap().contains("line 2 column"), "{}", broken.text());
    let object = Reply::post_json(&node.url("/api/batch"), &json!({ "channel": "a", "text": "x" })).await;
    assert_eq!(error_code(&object), (400, "bad_json".to_owned()));
    let most: Vec<Value> = (0..limits::BATCH_MESSAGES).map(|n| json!({ "channel": "a", "data": n })).collect();
    let taken = Reply::post_json(&node.url("/api/batch"), &json!(most)).await.json();
    assert!(taken["results"].as_array().unwrap().iter().all(|result| result["id"].is_string()));
    let more = [most, vec![json!({ "channel": "a", "data": 0 })]].concat();
    let refused = Reply::post_json(&node.url("/api/batch"), &json!(more)).await;
    assert_eq!(error_code(&refused), (400, "too_many_messages".to_owned()));
    let large = json!([{ "channel": "a", "text": "x".repeat(limits::BATCH_BYTES) }]);
    assert_eq!(Reply::post_json(&node.url("/api/batch"), &large).await.code(), 413);
    assert_eq!(Reply::post_json(&node.url("/api/batch"), &json!([])).await.json(), json!({ "results": [] }));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_of_which_nothing_can_be_taken_says_so_as_a_whole() {
    let node = TestNode::with(keyed).await;
    let batch = json!([{ "channel": "a", "text": "x" }, { "channel": "b", "text": "x" }]);
    let stranger = Reply::post_json(&node.url("/api/batch"), &batch).await;
    assert_eq!(stranger.code(), 401);
    assert!(stranger.header("www-authenticate").is_some());
    node.bus.cut();
    let send = http().post(node.url("/api/batch")).header("x-api-key", KEY).body(batch.to_string());
    let down = Reply::of(send).await;
    assert_eq!(error_code(&down), (503, "bus_unavailable".to_owned()));
    assert!(down.header("retry-after").is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn tags_travel_and_payloads_stay_untouched() {
    let node = TestNode::start().await;
    let mut socket = WsClient::connect(&node.url("/news")).await;
    let batch = json!([{ "channel": "news", "text": "tagged", "tags": { "kind": "paid" } }]);
    assert_eq!(Reply::post_json(&node.url("/api/batch"), &batch).await.code(), 200);
    assert_eq!(socket.text().await, "tagged");
}
