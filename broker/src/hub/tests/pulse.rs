//! Who is silent, on a shard whose turns and clock are the test's.

use std::{sync::Arc, time::Duration};

use clarion_protocol::{CloseCode, dialect::Dialect};
use prometheus::Registry;
use tokio::sync::oneshot;

use super::support::*;
use crate::{
    connection::Tick,
    hub::{
        Config, SlowPolicy,
        batch::Masks,
        handler::Clients,
        metrics::Metrics,
        shard::{Common, Settings, Shard},
    },
};

/// Both intervals, in ticks and as configured.
const INTERVAL: Tick = 3;
const SHORT: Duration = Duration::from_millis(300);

fn shard() -> Shard<Clients> {
    let config = Config { ping_interval: SHORT, pong_timeout: SHORT, ..config(1) };
    let common = Arc::new(Common {
        masks: Arc::new(Masks::new(1)),
        users: Arc::default(),
        metrics: Metrics::new(&Registry::new()).unwrap(),
        settings: Settings::from(&config),
    });
    Shard::new(0, common, Clients(Arc::<Received>::default()), 1 << 20, false).unwrap()
}

/// When a shard comes to look at the time, the answers of many clients may stand in their sockets, more than it has been told of.
#[tokio::test]
async fn an_answer_that_is_not_read_yet_is_one() {
    let (it, mut shard) = (Fixture::new(config(1)), shard());
    let (reply, mut answered) = oneshot::channel();
    shard.open(it.wish(Dialect::Plain, &["a"], SlowPolicy::Disconnect), reply);
    let ticket = answered.try_recv().unwrap();
    let (mut client, server) = it.pair(None);
    server.set_nonblocking(true).unwrap();
    let arrived = server.try_clone().unwrap();
    shard.attach(ticket.key, server, None, b"");
    let pass = |shard: &mut Shard<Clients>| {
        shard.now += INTERVAL;
        shard.watch();
    };

    pass(&mut shard);
    assert_eq!(client.frame(), Some(Frame(0x89, vec![])));
    client.send(0x8a, b"");
    eventually("the pong has arrived", || arrived.peek(&mut [0; 6]).is_ok_and(|length| length == 6)).await;
    pass(&mut shard);
    assert!(shard.record(ticket.key).unwrap().is_open());

    pass(&mut shard);
    assert_eq!(client.frame(), Some(Frame(0x89, vec![])));
    pass(&mut shard);
    assert_eq!(client.frame(), Some(close(CloseCode::NoPong)));
    it.stop().await;
}
