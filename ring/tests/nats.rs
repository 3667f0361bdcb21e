//! A NATS server's own `partition` mapping puts every key into the same slot as we do.

use clarion_ring::slot_of;
use clarion_testkit::{NatsServer, within};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
};

#[tokio::test]
async fn the_server_chooses_the_same_slots() {
    let mapping = "slot.{{partition(16384,1)}}.{{wildcard(1)}}";
    let server = NatsServer::builder().mapping("user.*", mapping).start().await;
    let names = ["alice", "a@b", "gr%C3%B6%C3%9Fe", "0191b8e2-7a3c-7000-8000-000000000001", "$x_"];
    let keys: Vec<String> = (0..500).map(|n| n.to_string()).chain(names.map(str::to_owned)).collect();
    let mut asked = "CONNECT {\"verbose\":false}\r\nSUB slot.> 1\r\n".to_owned();
    asked.extend(keys.iter().map(|key| format!("PUB user.{key} 0\r\n\r\n")));
    let answers = within("the server answers", ask(server.addr(), asked + "PING\r\n")).await.unwrap();
    // `MSG slot.1411.42 1 0`: the subject as the server mapped it.
    let subjects: Vec<&str> = answers.lines().filter_map(|line| line.strip_prefix("MSG ")?.split(' ').next()).collect();
    let expected: Vec<String> = keys.iter().map(|key| format!("slot.{}.{key}", slot_of(key))).collect();
    assert_eq!(subjects, expected);
}

/// Says everything at once, and returns all that comes until the server's PONG.
async fn ask(addr: std::net::SocketAddr, words: String) -> std::io::Result<String> {
    let mut stream = BufReader::new(TcpStream::connect(addr).await?);
    stream.write_all(words.as_bytes()).await?;
    let mut answers = String::new();
    while !answers.ends_with("PONG\r\n") {
        if stream.read_line(&mut answers).await? == 0 {
            break;
        }
    }
    Ok(answers)
}
