//! Many requests at once on one connection: answered in order, as soon as they can be, and never kept without bound.

mod nodes;

use std::time::Duration;

use clarion_testkit::{WsClient, within};
use nodes::TestNode;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
};

/// More than are answered in one turn.
const MANY: usize = 300;

async fn connect(node: &TestNode) -> (Answers, OwnedWriteHalf) {
    let (from, to) = TcpStream::connect(node.running.listen).await.expect("the node listens").into_split();
    (Answers { from, read: Vec::new() }, to)
}

fn post(node: &TestNode, path: &str, body: &str) -> String {
    format!(
        "POST {path} HTTP/1.1\r\nhost: {}\r\ncontent-type: text/plain\r\ncontent-length: {}\r\n\r\n{body}",
        node.running.listen,
        body.len()
    )
}

/// The answers on one connection.
struct Answers {
    from: OwnedReadHalf,
    read: Vec<u8>,
}

impl Answers {
    /// The next one's status and body.
    async fn next(&mut self) -> (u16, String) {
        loop {
            if let Some((length, answer)) = parsed(&self.read) {
                self.read.drain(..length);
                return answer;
            }
            let read = within("an answer", self.from.read_buf(&mut self.read)).await.expect("no reset");
            assert_ne!(read, 0, "hung up after {:?}", String::from_utf8_lossy(&self.read));
        }
    }
}

fn parsed(bytes: &[u8]) -> Option<(usize, (u16, String))> {
    let text = std::str::from_utf8(bytes).ok()?;
    let head = &text[..text.find("\r\n\r\n")? + 4];
    let number = |text: &str| text.parse::<usize>().expect("a number");
    let status = head.split(' ').nth(1).map_or(0, number) as u16;
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).map_or(0, number);
    let body = text.get(head.len()..head.len() + length)?;
    Some((head.len() + length, (status, body.to_owned())))
}

#[tokio::test(flavor = "multi_thread")]
async fn many_publications_at_once_are_answered_and_heard_in_order() {
    let node = TestNode::start().await;
    let mut socket = WsClient::connect(&node.url("/news")).await;
    let (mut answers, mut to) = connect(&node).await;
    // Every third one is refused, so that answers in another order would show.
    let request = |number: usize| match number % 3 {
        0 => post(&node, "/news//", "never"),
        _ => post(&node, "/news", &number.to_string()),
    };
    let requests: String = (0..MANY).map(request).collect();
    to.write_all(requests.as_bytes()).await.unwrap();
    for number in 0..MANY {
        let expected = if number % 3 == 0 { 400 } else { 200 };
        assert_eq!(answers.next().await.0, expected, "{number}");
    }
    for number in (0..MANY).filter(|number| number % 3 != 0) {
        assert_eq!(socket.text().await, number.to_string());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_does_not_wait_for_a_request_that_is_not_complete() {
    let node = TestNode::start().await;
    let (mut answers, mut to) = connect(&node).await;
    let second = post(&node, "/news", "second");
    // Within the head, right after it, and within the body.
    for cut in [1, second.len() / 2, second.len() - 6, second.len() - 1] {
        let (begin, end) = second.split_at(cut);
        to.write_all(format!("{}{begin}", post(&node, "/news", "first")).as_bytes()).await.unwrap();
        assert_eq!(answers.next().await.0, 200, "cut at {cut}");
        to.write_all(end.as_bytes()).await.unwrap();
        assert_eq!(answers.next().await.0, 200, "cut at {cut}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_came_before_rubbish_is_answered() {
    let node = TestNode::start().await;
    let (mut answers, mut to) = connect(&node).await;
    to.write_all(format!("{}rubbish\0\r\n\r\n", post(&node, "/news", "first")).as_bytes()).await.unwrap();
    assert_eq!(answers.next().await.0, 200);
    assert_eq!(answers.next().await.0, 400);
    assert_eq!(within("the end", answers.from.read(&mut [0])).await.unwrap(), 0);
}

/// Far more than what sockets of both sides hold.
const TOO_MUCH: usize = 64 * 1024 * 1024;

#[tokio::test(flavor = "multi_thread")]
async fn who_reads_no_answers_is_not_read_from_for_ever() {
    let node = TestNode::start().await;
    let (mut answers, mut to) = connect(&node).await;
    let request = format!("GET /docs/openapi.json HTTP/1.1\r\nhost: {}\r\n\r\n", node.running.listen);
    let many = request.repeat(1000);
    let (mut sent, mut whole) = (0, 0);
    // When nothing is taken for a second the node has had enough.
    while tokio::time::timeout(Duration::from_secs(1), async {
        while whole < many.len() {
            whole += to.write(&many.as_bytes()[whole..]).await.unwrap();
        }
    })
    .await
    .is_ok()
    {
        sent += std::mem::take(&mut whole);
        assert!(sent < TOO_MUCH, "the node takes requests without end");
    }
    // What was taken is answered all the same.
    for _ in 0..100 {
        assert_eq!(answers.next().await.0, 200);
    }
}

/// A runtime with one thread, as a process has that may use one core.
#[tokio::test]
async fn a_node_on_one_thread_does_all_the_same() {
    let node = TestNode::start().await;
    let mut socket = WsClient::connect(&node.url("/news")).await;
    let (mut answers, mut to) = connect(&node).await;
    let requests: String = (0..MANY).map(|number| post(&node, "/news", &number.to_string())).collect();
    to.write_all(requests.as_bytes()).await.unwrap();
    for number in 0..MANY {
        assert_eq!(answers.next().await.0, 200);
        assert_eq!(socket.text().await, number.to_string());
    }
    node.shutdown.cancel();
    assert_eq!(socket.closed().await.0, 1012);
    within("the end", node.running.wait()).await.unwrap();
}
