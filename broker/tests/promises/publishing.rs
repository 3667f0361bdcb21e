//! Publishing over HTTP: forms and bodies, batches, JSON-RPC, and what each mistake is told.

use clarion_testkit::{NatsServer, RedisServer, Reply, WsClient, eventually, http};
use serde_json::{Value, json};

use crate::{API_KEY, ConfigFile, call, code, development, guarded, publish, rpc, say, socket_of};

#[tokio::test]
async fn a_form_has_its_data_and_any_other_body_is_the_payload() {
    let node = development().start_ready().await;
    let mut socket = WsClient::connect(&node.url("news")).await;
    let url = node.url("news");
    for (kind, body, heard) in [
        ("application/x-www-form-urlencoded", "data=a+b%26c%3D%C3%B6", "a b&c=ö"),
        ("application/x-www-form-urlencoded; charset=utf-8", "x=1&data=&y=2", ""),
        ("application/json", "{ \"as\" : \"it is\" }", "{ \"as\" : \"it is\" }"),
        ("text/plain", "data=not a form", "data=not a form"),
    ] {
        let reply = Reply::post(&url, kind, body).await;
        assert_eq!(reply.code(), 200, "{kind}: {}", reply.text());
        assert!(!reply.json()["id"].as_str().expect("an id").is_empty());
        assert_eq!(socket.text().await, heard, "{kind}");
    }
    for form in ["{\"text\":\"paid\"}", "text=hello", "data=fish&chips", ""] {
        let reply = Reply::post(&url, "application/x-www-form-urlencoded", form).await;
        assert_eq!(reply.code(), 400, "{form}");
        assert!(reply.text().contains("content-type"), "the remedy is named: {}", reply.text());
    }
}

#[tokio::test]
async fn the_id_that_is_told_is_in_the_log_of_every_node_that_hears_it() {
    let (redis, nats) = tokio::join!(RedisServer::start(), NatsServer::start());
    for bus in [redis.url(), nats.url()] {
        let start = || development().env("CLARION_BUS_URL", &bus).args(["--log-level", "info,clarion_broker=debug"]);
        let (publisher, hearer) = tokio::join!(start().start_ready(), start().start_ready());
        let mut socket = WsClient::connect(&hearer.url("news")).await;
        let batch =
            Reply::of(http().post(publisher.url("api/batch")).json(&json!([{ "channel": "news", "text": "2" }])));
        let ids = [
            publish(&publisher, "news", "1").await.json()["id"].clone(),
            batch.await.json()["results"][0]["id"].clone(),
            call(&publisher, "publish", json!({ "channel": "news", "text": "3" })).await["id"].clone(),
        ];
        assert_eq!([socket.text().await, socket.text().await, socket.text().await], ["1", "2", "3"]);
        for (id, node, what) in
            ids.iter().flat_map(|id| [(id, &publisher, "a message was published"), (id, &hearer, "a message came")])
        {
            let id = id.as_str().expect("an id");
            eventually("the id is logged", async || {
                node.log().iter().any(|line| line.contains(what) && line.contains(id) && line.contains("news"))
            })
            .await;
        }
    }
}

#[tokio::test]
async fn publishing_needs_a_key_or_the_namespaces_consent() {
    let file = ConfigFile::new(
        "[[namespaces]]\nprefix = \"open\"\nsubscribe = \"anyone\"\npublish = \"anyone\"\n\
         [[namespaces]]\nprefix = \"members\"\npublish = \"signed_in\"\n",
    );
    let node = guarded().args(["--config", file.path()]).start_ready().await;
    let post = async |channel: &str, headers: &[(&str, &str)]| {
        let mut request = http().post(node.url(channel)).header("content-type", "text/plain").body("x");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        Reply::of(request).await
    };
    let bearer = format!("Bearer {}", crate::token("42"));
    let (key, wrong, token) = (("x-api-key", API_KEY), ("x-api-key", "wrong"), ("authorization", bearer.as_str()));
    for (channel, headers, status) in [
        ("news", &[][..], 401),
        ("news", &[key], 200),
        ("news", &[wrong], 401),
        ("news", &[token], 403),
        ("news", &[token, key], 200),
        ("open", &[], 200),
        ("open", &[wrong], 401),
        ("open/below", &[], 200),
        ("members", &[], 401),
        ("members", &[token], 200),
        ("users/42", &[token], 403),
        ("users/42", &[key], 200),
        ("broadcast", &[], 401),
    ] {
        let reply = post(channel, headers).await;
        assert_eq!(reply.code(), status, "{channel} {headers:?}: {}", reply.text());
        if status != 200 {
            code(&reply);
            assert!(!reply.text().contains("wrong\""), "a credential comes back: {}", reply.text());
        }
    }
}

#[tokio::test]
async fn a_batch_has_a_result_for_each() {
    let node = guarded().start_ready().await;
    let mut news = WsClient::connect(&node.url("news")).await;
    let mut mine = socket_of("42", &node.url("users/42")).connect().await.expect("it is let in");
    let post = async |body: String| {
        let request = http().post(node.url("api/batch")).header("content-type", "application/json");
        Reply::of(request.header("x-api-key", API_KEY).body(body)).await
    };
    let batch = r#"[{"channel":"news","data":{"a" : [1e5, null]}},
        {"channel":"a//b","text":"x"},
        {"channel":"news","data":1,"text":"x"},
        {"channel":"users/42","text":"for 42"},
        {"channel":"api/x","text":"x"},
        {"channel":"news","base64":"/w=="}]"#;
    let reply = post(batch.to_owned()).await;
    assert_eq!(reply.code(), 200, "{}", reply.text());
    let answer = reply.json();
    let results = answer["results"].as_array().expect("a result for each");
    let good: Vec<_> = results.iter().map(|result| result["id"].is_string()).collect();
    assert_eq!(good, [true, false, false, true, false, true], "{answer}");
    assert!(results[1]["error"]["message"].as_str().expect("words").contains("empty segment"));
    assert_eq!(news.text().await, r#"{"a" : [1e5, null]}"#);
    assert_eq!(news.binary().await.as_ref(), [0xff]);
    assert_eq!(mine.text().await, "for 42");

    let reply = post("[{\"channel\":\"news\",\n\"text\": oops}]".to_owned()).await;
    assert_eq!(reply.code(), 400);
    assert!(reply.text().contains("line 2"), "the position is told: {}", reply.text());
    let many: Vec<_> = (0..1001).map(|_| json!({ "channel": "news", "text": "" })).collect();
    assert_eq!(post(json!(many).to_string()).await.code(), 400);
    assert_eq!(post(json!(many[..1000]).to_string()).await.code(), 200);
    assert_eq!(post(format!("[{}]", " ".repeat(1024 * 1024))).await.code(), 413);
    let without_key = Reply::post_json(&node.url("api/batch"), &json!([{ "channel": "news", "text": "x" }])).await;
    assert_eq!(without_key.code(), 401);
}

#[tokio::test]
async fn json_rpc_publishes_and_knows_its_errors() {
    let node = guarded().start_ready().await;
    let mut news = WsClient::connect(&node.url("news")).await;
    let mut mine = socket_of("42", &node.url("me")).connect().await.expect("it is let in");
    assert!(call(&node, "publish", json!({ "channel": "news", "data": { "a": 1 } })).await["id"].is_string());
    assert_eq!(news.text().await, "{\"a\":1}");
    assert!(call(&node, "push", json!({ "user": "42", "text": "for you" })).await["id"].is_string());
    assert!(call(&node, "push", json!({ "user": 42, "text": "a number too" })).await["id"].is_string());
    assert!(call(&node, "broadcast", json!({ "text": "for all" })).await["id"].is_string());
    for expected in ["for you", "a number too", "for all"] {
        assert_eq!(mine.text().await, expected);
    }
    let batch =
        call(&node, "batch", json!({ "messages": [{ "channel": "news", "text": "x" }, { "text": "y" }] })).await;
    assert!(batch["results"][0]["id"].is_string() && batch["results"][1]["error"].is_object(), "{batch}");

    let request =
        |method: &str, params: Value| json!({ "jsonrpc": "2.0", "id": "q", "method": method, "params": params });
    for (body, expected, id) in [
        (request("nothing", json!({})), -32601, json!("q")),
        (request("publish", json!({ "channel": "news" })), -32602, json!("q")),
        (request("publish", json!({ "channel": "a//b", "text": "x" })), -32602, json!("q")),
        (request("publish", json!([1])), -32602, json!("q")),
        (json!({ "id": 1, "method": "info" }), -32600, Value::Null),
        (json!([]), -32600, Value::Null),
        (json!(1), -32600, Value::Null),
    ] {
        let answer = rpc(&node, &body).await;
        assert_eq!(answer["error"]["code"], expected, "{body}: {answer}");
        assert_eq!(answer["id"], id, "{body}: {answer}");
    }
    let broken = http().post(node.url("rpc")).header("x-api-key", API_KEY).body("{\"jsonrpc\":");
    assert_eq!(Reply::of(broken).await.json()["error"]["code"], -32700);
}

#[tokio::test]
async fn json_rpc_batches_and_notifications() {
    let node = guarded().start_ready().await;
    let mut news = WsClient::connect(&node.url("news")).await;
    let notification =
        |text: &str| json!({ "jsonrpc": "2.0", "method": "publish", "params": { "channel": "news", "text": text } });
    let mut asked = notification("second");
    asked["id"] = json!(7);
    let answers = rpc(&node, &json!([notification("first"), asked, { "foo": 1 }])).await;
    let answers = answers.as_array().expect("an array for an array");
    assert_eq!(answers.len(), 2, "a notification has no answer: {answers:?}");
    assert!(answers.iter().any(|answer| answer["id"] == 7 && answer["result"]["id"].is_string()));
    assert!(answers.iter().any(|answer| answer["error"]["code"] == -32600));
    for expected in ["first", "second"] {
        assert_eq!(news.text().await, expected);
    }
    let silent = http().post(node.url("rpc")).header("x-api-key", API_KEY).json(&notification("third"));
    let reply = Reply::of(silent).await;
    assert_eq!((reply.code(), reply.body.len()), (204, 0));
    assert_eq!(news.text().await, "third");
    let stranger = http().post(node.url("rpc")).json(&notification("x"));
    assert_eq!(Reply::of(stranger).await.code(), 401);
}

#[tokio::test]
async fn info_names_the_node_and_its_bus() {
    let node = development().args(["--node", "the-node"]).start_ready().await;
    let info = call(&node, "info", json!({})).await;
    assert_eq!((&info["node"], &info["bus"]), (&json!("the-node"), &json!("memory")), "{info}");
    assert_eq!(info["members"][0]["node"], "the-node", "{info}");
}

#[tokio::test]
async fn order_of_one_publisher_is_kept() {
    let node = development().start_ready().await;
    let mut socket = WsClient::connect(&node.url("news")).await;
    for number in 0..200 {
        say(&node, "news", &number.to_string()).await;
    }
    for number in 0..200 {
        assert_eq!(socket.text().await, number.to_string());
    }
    assert_eq!(publish(&node, "news", &"x".repeat(64 * 1024)).await.code(), 200);
    let too_large = publish(&node, "news", &"x".repeat(64 * 1024 + 1)).await;
    assert_eq!((too_large.code(), code(&too_large).as_str()), (413, "too_large"));
    assert_eq!(socket.text().await.len(), 64 * 1024);
}
