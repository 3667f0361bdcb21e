//! Doors: what a client opens is a channel, and what it hears is the payload.

use std::time::Duration;

use clarion_testkit::{Reply, SseClient, SseItem, WsClient, WsItem, http};
use serde_json::{Value, json};

use crate::{ConfigFile, development, guarded, publish, say, socket_of};

#[tokio::test]
async fn a_websocket_gets_text_as_text_and_bytes_as_bytes() {
    let node = development().start_ready().await;
    let mut socket = WsClient::connect(&node.url("a/b")).await;
    assert_eq!(socket.subprotocol(), None);
    say(&node, "a/b", "größe").await;
    say(&node, "a/b", "").await;
    let bytes = http().post(node.url("a/b")).header("content-type", "application/octet-stream").body(vec![0xff, 0, 10]);
    assert_eq!(Reply::of(bytes).await.code(), 200);
    say(&node, "a", "not for a/b").await;
    say(&node, "a/b/c", "neither").await;
    say(&node, "a/b", "last").await;
    assert_eq!(socket.text().await, "größe");
    assert_eq!(socket.text().await, "");
    assert_eq!(socket.binary().await.as_ref(), [0xff, 0, 10]);
    assert_eq!(socket.text().await, "last");
}

#[tokio::test]
async fn patterns_hear_each_message_once() {
    let node = development().start_ready().await;
    let mut children = WsClient::connect(&node.url("o/*")).await;
    let mut all = WsClient::connect(&node.url("o/**")).await;
    for channel in ["o", "o/a", "o/a/b", "ox/a", "o/last"] {
        say(&node, channel, channel).await;
    }
    for expected in ["o/a", "o/last"] {
        assert_eq!(children.text().await, expected);
    }
    for expected in ["o", "o/a", "o/a/b", "o/last"] {
        assert_eq!(all.text().await, expected);
    }
}

#[tokio::test]
async fn an_application_ping_is_answered_and_a_protocol_ping_as_well() {
    let node = development().start_ready().await;
    let mut socket = WsClient::connect(&node.url("news")).await;
    socket.send_text("ping").await;
    assert_eq!(socket.text().await, "pong");
    socket.send_ping(b"are you there").await;
    assert_eq!(socket.next().await, WsItem::Pong(b"are you there".to_vec().into()));
    socket.send_close(1000, "done").await;
    assert_eq!(socket.closed().await.0, 1000);
}

#[tokio::test]
async fn what_a_client_sends_goes_up_only_where_it_may() {
    let file = ConfigFile::new(
        "[[namespaces]]\nprefix = \"open\"\nsubscribe = \"anyone\"\npublish = \"anyone\"\n\
         [[namespaces]]\nprefix = \"members\"\nsubscribe = \"anyone\"\npublish = \"signed_in\"\n\
         [[namespaces]]\nprefix = \"shut\"\nsubscribe = \"anyone\"\n",
    );
    let node = guarded().args(["--config", file.path()]).start_ready().await;
    for (channel, user, goes_up) in
        [("open", None, true), ("members", None, false), ("members", Some("42"), true), ("shut", Some("42"), false)]
    {
        let mut hears = WsClient::connect(&node.url(channel)).await;
        let mut speaks = match user {
            Some(user) => socket_of(user, &node.url(channel)).connect().await.expect("it is let in"),
            None => WsClient::connect(&node.url(channel)).await,
        };
        speaks.send_text("from a client").await;
        speaks.send_binary(vec![0xff]).await;
        // The answer to this ping comes after what was sent before it has been dealt with.
        speaks.send_text("ping").await;
        if goes_up {
            assert_eq!(hears.text().await, "from a client", "{channel}");
            assert_eq!(hears.binary().await.as_ref(), [0xff], "{channel}");
        } else {
            assert_eq!(speaks.text().await, "pong");
            say(&node, channel, "from the backend").await;
            assert_eq!(hears.text().await, "from the backend", "{channel}: what a client sent must not come");
        }
    }
}

#[tokio::test]
async fn an_event_stream_carries_lines_and_names_no_event() {
    let node = development().start_ready().await;
    let mut stream = SseClient::connect(&node.url("news")).await.expect("it is let in");
    assert_eq!(stream.headers()["cache-control"], "no-store");
    assert_eq!(stream.headers()["x-accel-buffering"], "no");
    for payload in ["one", "two\nlines\n", "", " leading", "größe", "data: x", "a\r\nb"] {
        say(&node, "news", payload).await;
    }
    for expected in ["one", "two\nlines\n", "", " leading", "größe", "data: x", "a\nb"] {
        let event = stream.event().await;
        assert_eq!((event.data.as_str(), event.event, event.id), (expected, None, None));
    }
}

#[tokio::test]
async fn many_channels_on_one_stream() {
    let node = development().start_ready().await;
    let url = node.url("events?channel=a&channel=a/*&channel=a/**&channel=b%20c");
    let mut stream = SseClient::connect(&url).await.expect("it is let in");
    say(&node, "a", "text").await;
    say(&node, "a/b", "{\"json\": 1e5}").await;
    say(&node, "other", "not for us").await;
    let bytes = http().post(node.url("b%20c")).header("content-type", "application/octet-stream").body(vec![0xff]);
    assert_eq!(Reply::of(bytes).await.code(), 200);
    let mut next = async || serde_json::from_str::<Value>(&stream.data().await).expect("events of many are JSON");
    assert_eq!(next().await, json!({ "channel": "a", "text": "text" }));
    assert_eq!(next().await, json!({ "channel": "a/b", "data": { "json": 1e5 } }));
    assert_eq!(next().await, json!({ "channel": "b c", "base64": "/w==" }));
}

#[tokio::test]
async fn as_many_channels_as_the_limit_says() {
    let node = development().start_ready().await;
    let url = |count: usize| {
        let channels: Vec<_> = (0..count).map(|number| format!("channel=c{number}")).collect();
        node.url(&format!("events?{}", channels.join("&")))
    };
    let mut stream = SseClient::connect(&url(128)).await.expect("128 are let in");
    say(&node, "c127", "heard").await;
    assert_eq!(serde_json::from_str::<Value>(&stream.data().await).unwrap()["channel"], "c127");
    assert_eq!(SseClient::connect(&url(129)).await.unwrap_err().code(), 400);
    assert_eq!(SseClient::connect(&url(0)).await.unwrap_err().code(), 400);
}

#[tokio::test]
async fn me_is_the_users_own_and_broadcast() {
    let node = guarded().start_ready().await;
    let refused = WsClient::request(&node.url("me")).connect().await.unwrap_err();
    assert_eq!(refused.status, 401);
    assert!(refused.headers["www-authenticate"].to_str().unwrap().starts_with("Bearer"));
    let mut socket = socket_of("42", &node.url("me")).connect().await.expect("user 42 is let in");
    say(&node, "users/43", "for 43").await;
    say(&node, "users/42", "for 42").await;
    say(&node, "broadcast", "for all").await;
    assert_eq!(socket.text().await, "for 42");
    assert_eq!(socket.text().await, "for all");
}

#[tokio::test]
async fn without_a_doors_sign_there_is_a_list_of_doors() {
    let node = development().start_ready().await;
    let reply = Reply::get(&node.url("news")).await;
    assert_eq!((reply.code(), crate::code(&reply).as_str()), (406, "not_acceptable"));
    assert!(reply.text().contains("text/event-stream") && reply.text().contains("WebSocket"), "{}", reply.text());
    let put = Reply::of(http().put(node.url("news"))).await;
    assert_eq!(put.code(), 405);
}

#[tokio::test]
async fn bad_names_are_told_their_rule_and_byte() {
    let node = development().start_ready().await;
    for (path, status, words) in [
        ("a//b", 400, "empty segment"),
        ("a/", 400, "empty segment"),
        ("a%2Fb", 400, "at byte 1"),
        ("a%0Ab", 400, "at byte 1"),
        ("a%7Bb", 400, "at byte 1"),
        ("a%FF", 400, "UTF-8"),
        ("a%zz", 400, "hexadecimal"),
        ("*", 400, "pattern"),
        ("a/*/b", 400, "at byte 2"),
        ("api/other", 404, "emulation"),
        ("_clarionette", 404, "_clarion"),
        ("sockjs/x", 404, "sockjs"),
    ] {
        let reply = SseClient::connect(&node.url(path)).await.unwrap_err();
        assert_eq!(reply.code(), status, "{path}: {}", reply.text());
        assert!(reply.text().contains(words), "{path}: {}", reply.text());
        let posted = publish(&node, path, "x").await;
        assert!(posted.code() == status || posted.code() == 405, "{path}: {}", posted.text());
    }
    let long = "x".repeat(256);
    assert_eq!(publish(&node, &long, "x").await.code(), 400);
    say(&node, &"x".repeat(255), "x").await;
}

#[tokio::test]
async fn compression_is_not_offered() {
    let node = development().start_ready().await;
    let request = WsClient::request(&node.url("news"));
    let socket =
        request.header("sec-websocket-extensions", "permessage-deflate; client_max_window_bits").connect().await;
    assert!(socket.expect("it is let in").headers().get("sec-websocket-extensions").is_none());
}

#[tokio::test]
async fn an_event_stream_is_not_silent_for_long() {
    let node = development().start_ready().await;
    let mut stream = SseClient::connect(&node.url("news")).await.expect("it is let in");
    // A comment every 15 seconds; whatever comes before is part of the greeting.
    let comment = async {
        loop {
            match stream.next_within(Duration::from_secs(60)).await {
                Some(SseItem::Comment(_)) => return,
                Some(SseItem::End) | None => panic!("the stream ends, or is silent"),
                Some(SseItem::Event(_) | SseItem::Retry(_)) => {}
            }
        }
    };
    clarion_testkit::within("a comment", comment).await;
}
