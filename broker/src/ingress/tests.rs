//! Interests that stand or are given back, and publications that are published or refused, whoever goes away meanwhile.

use std::sync::atomic::Ordering::SeqCst;

use bytes::Bytes;
use clarion_protocol::{Channel, InternalName};
use prometheus::Registry;

use super::{fake_bus::FakeBus, *};

struct Fixture {
    bus: Arc<FakeBus>,
    ingress: Arc<Ingress>,
    registry: Registry,
}

fn fixture() -> Fixture {
    let (bus, registry) = (Arc::new(FakeBus::new()), Registry::new());
    let metrics = Metrics::new(&registry).unwrap();
    let config = Config { max_payload: 100, ..Config::default() };
    let ingress = Ingress::new(bus.clone(), config, None, &metrics, &registry).unwrap();
    Fixture { bus, ingress, registry }
}

impl Fixture {
    /// A counter's or gauge's value, by name and, if it has some, one of its labels' values: the sum of those that have it.
    fn metric(&self, name: &str, label: &str) -> f64 {
        let families = self.registry.gather();
        let family = families.iter().find(|family| family.name() == name).unwrap();
        let metrics = family.get_metric().iter();
        let has = |metric: &&prometheus::proto::Metric| {
            metric.get_label().is_empty() || metric.get_label().iter().any(|pair| pair.value() == label)
        };
        metrics.filter(has).map(|metric| metric.get_counter().get_value() + metric.get_gauge().get_value()).sum()
    }
}

fn interests(names: &[&str]) -> Vec<Interest> {
    names.iter().map(|name| Interest::parse(name).unwrap()).collect()
}

fn to(channel: &str, payload: impl Into<Bytes>) -> Publication {
    Publication::raw(Channel::parse(channel).unwrap(), payload)
}

#[tokio::test(start_paused = true)]
async fn interests_are_held_in_their_order_until_they_are_dropped() {
    let fixture = fixture();
    let many: Vec<_> = (0..100).map(|n| format!("a/{n}")).collect();
    let many = interests(&many.iter().map(String::as_str).collect::<Vec<_>>());
    let held = fixture.ingress.acquire(&many).await.unwrap();
    assert!(held.iter().map(|lease| lease.id().0).eq(0..100));
    assert!(fixture.bus.given_back.lock().is_empty());
    drop(held);
    assert_eq!(fixture.bus.given_back.lock().len(), 100);
    assert_eq!(fixture.ingress.acquire(&[]).await.unwrap().len(), 0);
}

#[tokio::test(start_paused = true)]
async fn one_that_is_refused_gives_the_others_back() {
    let fixture = fixture();
    *fixture.bus.refuses.lock() = Some("b/**".to_owned());
    let error = fixture.ingress.acquire(&interests(&["a", "b/**"])).await.unwrap_err();
    assert!(matches!(&error, AcquireError::Refused(why) if why.contains("b/**")), "{error}");
    assert_eq!(fixture.bus.given_back.lock().len(), 1);
    assert_eq!(fixture.metric("clarion_acquires_total", "refused"), 1.0);
}

#[tokio::test(start_paused = true)]
async fn one_that_does_not_stand_in_time_gives_the_others_back() {
    let fixture = fixture();
    *fixture.bus.never.lock() = Some("b".to_owned());
    let began = tokio::time::Instant::now();
    let error = fixture.ingress.acquire(&interests(&["a", "b", "c"])).await.unwrap_err();
    assert_eq!(error, AcquireError::Unavailable);
    assert_eq!(began.elapsed(), Duration::from_secs(5));
    assert_eq!(fixture.bus.given_back.lock().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_goes_while_it_waits_leaves_nothing() {
    let fixture = fixture();
    *fixture.bus.never.lock() = Some("b".to_owned());
    let names = interests(&["a", "b"]);
    let waiting = fixture.ingress.acquire(&names);
    assert!(tokio::time::timeout(Duration::from_secs(1), waiting).await.is_err());
    assert_eq!(fixture.bus.given_back.lock().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_publisher_that_goes_away_loses_nothing() {
    let fixture = fixture();
    fixture.bus.gate.forget_permits(usize::MAX);
    assert!(
        tokio::time::timeout(Duration::from_secs(1), fixture.ingress.publish(Via::Http, to("a", "1"))).await.is_err()
    );
    let batch = vec![to("a", "2"), to("a", "3")];
    assert!(
        tokio::time::timeout(Duration::from_secs(1), fixture.ingress.publish_all(Via::Batch, batch)).await.is_err()
    );
    assert!(fixture.bus.published.lock().is_empty());
    let closing = tokio::spawn({
        let ingress = fixture.ingress.clone();
        async move { ingress.close().await }
    });
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(fixture.bus.closed.load(SeqCst), 0, "closing waits for what is on its way");
    fixture.bus.gate.add_permits(10);
    closing.await.unwrap();
    assert_eq!(fixture.bus.published.lock().len(), 3);
    assert_eq!(fixture.bus.closed.load(SeqCst), 1);
    assert_eq!(fixture.metric("clarion_publishes_total", "taken"), 3.0);
    let ways = ["http", "batch", "rpc"].map(|way| fixture.metric("clarion_publishes_total", way));
    assert_eq!(ways, [1.0, 2.0, 0.0]);
}

#[tokio::test(start_paused = true)]
async fn what_breaks_a_rule_never_reaches_the_bus() {
    let fixture = fixture();
    let large = fixture.ingress.publish(Via::Http, to("a", vec![0; 101])).await;
    assert_eq!(large, Err(PublishError::TooLarge { bytes: 101, limit: 100 }));
    let internal = Publication::raw(InternalName::parse("members").unwrap(), "");
    assert!(matches!(fixture.ingress.publish(Via::Http, internal.clone()).await, Err(PublishError::Refused(_))));
    let answers = fixture.ingress.publish_all(Via::Batch, vec![internal, to("a", vec![0; 101])]).await;
    assert!(matches!(answers[..], [Err(PublishError::Refused(_)), Err(PublishError::TooLarge { .. })]));
    assert!(fixture.bus.published.lock().is_empty());
    assert_eq!(fixture.metric("clarion_publishes_total", "too_large"), 2.0);
    assert_eq!(fixture.metric("clarion_publishes_total", "refused"), 2.0);
}

#[tokio::test(start_paused = true)]
async fn in_a_batch_each_has_its_own_result() {
    let fixture = fixture();
    let batch = vec![to("a", "1"), to("b", vec![0; 101]), to("c", vec![0; 100])];
    let answers = fixture.ingress.publish_all(Via::Batch, batch).await;
    assert!(
        matches!(answers[..], [Ok(_), Err(PublishError::TooLarge { bytes: 101, limit: 100 }), Ok(_)]),
        "{answers:?}"
    );
    let published: Vec<_> = fixture.bus.published.lock().iter().map(|one| one.address.clone()).collect();
    assert_eq!(published, [to("a", "").address, to("c", "").address]);
    fixture.bus.link.send_replace(Link::Down(None));
    let answers = fixture.ingress.publish_all(Via::Batch, vec![to("b", vec![0; 101]), to("a", "1")]).await;
    assert!(matches!(answers[..], [Err(PublishError::TooLarge { .. }), Err(PublishError::NotTaken(_))]), "{answers:?}");
    assert_eq!(fixture.metric("clarion_publishes_total", "not_taken"), 1.0);
}

#[tokio::test(start_paused = true)]
async fn the_bus_counters_are_read_with_each_scrape() {
    let fixture = fixture();
    for total in [1.0, 2.0] {
        fixture.ingress.publish(Via::Http, to("a", "1")).await.unwrap();
        assert_eq!(fixture.metric("clarion_bus_messages_total", ""), total);
        assert_eq!(fixture.metric("clarion_bus_messages_total", ""), total, "once counted");
    }
    assert_eq!(fixture.metric("clarion_bus_interests", ""), 7.0);
}

#[test]
fn what_is_wrong_with_a_table() {
    assert_eq!(Config::default().problems(), []);
    let zero = Config { subscribe_timeout: Duration::ZERO, ..Config::default() };
    assert_eq!(zero.problems()[0].0, "subscribe_timeout");
}
