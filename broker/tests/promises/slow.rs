//! A slow client never slows another and never grows memory; what happens to it is its namespace's policy.

use std::time::Duration;

use clarion_testkit::{BrokerProcess, WsClient, WsItem, http};
use serde_json::json;

use crate::{API_KEY, ConfigFile, guarded};

/// Messages of 16 KiB; 3,000 of them are far more than socket buffers and an outbox of 256 KiB hold.
const COUNT: usize = 3000;
const SIZE: usize = 16 * 1024;

/// Messages at once, which an outbox holds: a client that reads is then never slow, however slow the machine is.
const STEP: usize = 8;

async fn node() -> BrokerProcess {
    let file = ConfigFile::new(
        "[limits]\noutbox = \"256KiB\"\n\
         [[namespaces]]\nprefix = \"strict\"\nsubscribe = \"anyone\"\n\
         [[namespaces]]\nprefix = \"lossy\"\nsubscribe = \"anyone\"\nslow = \"drop_oldest\"\n\
         [[namespaces]]\nprefix = \"board\"\nsubscribe = \"anyone\"\nslow = \"latest\"\n",
    );
    guarded().args(["--config", file.path()]).start_ready().await
}

/// Publishes numbered messages to the channels in turn, a few a request.
async fn flood(node: &BrokerProcess, channels: &[&str], mut after_each: impl AsyncFnMut(std::ops::Range<usize>)) {
    let text = |number: usize| format!("{number:08}{}", "x".repeat(SIZE - 8));
    for start in (0..COUNT).step_by(STEP) {
        let messages: Vec<_> = (start..start + STEP)
            .map(|number| json!({ "channel": channels[number % channels.len()], "text": text(number) }))
            .collect();
        let request = http().post(node.url("api/batch")).header("x-api-key", API_KEY).json(&messages);
        let reply = clarion_testkit::Reply::of(request).await;
        assert_eq!(reply.code(), 200, "{}", reply.text());
        after_each(start..start + STEP).await;
    }
}

/// The numbers that a socket still gets, until nothing more comes or the last one has.
async fn rest(socket: &mut WsClient, until: usize) -> (Vec<usize>, Option<WsItem>) {
    let mut numbers = Vec::new();
    loop {
        match socket.next_within(Duration::from_secs(30)).await {
            Some(WsItem::Text(text)) => {
                numbers.push(text[..8].parse().expect("messages are numbered"));
                if numbers.last() == Some(&until) {
                    return (numbers, None);
                }
            }
            Some(WsItem::Ping(_) | WsItem::Pong(_)) => {}
            other => return (numbers, other),
        }
    }
}

/// A client that reads, beside one that does not: everything arrives at the first, in order.
async fn beside_a_slow_one(channel: &str) -> (BrokerProcess, WsClient) {
    let node = node().await;
    let slow = WsClient::connect(&node.url(channel)).await;
    let mut reader = WsClient::connect(&node.url(channel)).await;
    let before = node.memory_used();
    flood(&node, &[channel], async |numbers| {
        for number in numbers {
            assert_eq!(reader.text().await[..8].parse(), Ok(number), "a slow client slows no other");
        }
    })
    .await;
    let grown = node.memory_used().saturating_sub(before);
    assert!(grown < 24 * 1024 * 1024, "{grown} bytes for a flood of {} bytes", COUNT * SIZE);
    (node, slow)
}

#[tokio::test]
async fn disconnect_closes_the_slow_one() {
    let (node, mut slow) = beside_a_slow_one("strict/a").await;
    let (numbers, end) = rest(&mut slow, COUNT - 1).await;
    // The close frame may find no room in a socket that nobody reads; then the connection just ends.
    assert!(matches!(end, Some(WsItem::Close(3008, _) | WsItem::Gone)), "{end:?}");
    assert!(numbers.len() < COUNT && numbers.iter().copied().eq(0..numbers.len()), "what came was whole and in order");
    let metrics = node.metrics().await;
    assert!(metrics.sum_where("clarion_closes_total", "3008") >= 1.0);
    assert!(metrics.sum("clarion_outbox_overflows_total") >= 1.0);
}

#[tokio::test]
async fn drop_oldest_keeps_the_newest_in_order() {
    let (node, mut slow) = beside_a_slow_one("lossy/a").await;
    let (numbers, end) = rest(&mut slow, COUNT - 1).await;
    assert_eq!(end, None, "it stays connected and gets the last message");
    assert!(numbers.is_sorted() && numbers.len() < COUNT, "{} of {COUNT}", numbers.len());
    assert!(node.metrics().await.sum_where("clarion_outbox_overflows_total", "drop_oldest") >= 1.0);
}

#[tokio::test]
async fn latest_keeps_the_newest_of_each_channel() {
    let node = node().await;
    let mut slow = WsClient::connect(&node.url("board/*")).await;
    flood(&node, &["board/a", "board/b", "board/c"], async |_| ()).await;
    let mut seen: [Vec<usize>; 3] = Default::default();
    loop {
        match slow.next().await {
            WsItem::Text(text) => {
                let number: usize = text[..8].parse().expect("messages are numbered");
                seen[number % 3].push(number);
            }
            WsItem::Ping(_) | WsItem::Pong(_) => {}
            other => panic!("{other:?}"),
        }
        if (0..3).all(|channel| seen[channel].last().is_some_and(|last| last + 3 >= COUNT)) {
            break;
        }
    }
    assert!(seen.iter().all(|numbers| numbers.is_sorted()));
    let skipped = COUNT - seen.iter().map(Vec::len).sum::<usize>();
    assert!(skipped > 0, "nothing was skipped: the flood was too small to try anything");
}
