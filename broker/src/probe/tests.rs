//! Readiness over a bus that is late, gone, cut, and back.

use std::sync::{Arc, atomic::Ordering::SeqCst};

use async_trait::async_trait;
use clarion_bus::{BusConfig, Delivery, InterestId, Sink, memory::Server};
use clarion_testkit::RedisServer;

use super::*;
use crate::ingress::fake_bus::FakeBus;

/// Probes are not deliveries, so nothing is to be taken here.
struct Nobody;

#[async_trait]
impl Sink for Nobody {
    async fn deliver(&self, batch: &mut Vec<Delivery>) {
        batch.clear();
    }

    fn gap(&self, _: &[InterestId]) {}
}

struct Probed {
    ready: Ready,
    registry: Registry,
    _task: tokio::task::JoinSet<()>,
}

fn start(bus: BusHandle) -> Probed {
    let (ready, registry) = (Ready::new(), Registry::new());
    let metrics = Metrics::new(&registry).unwrap();
    let mut task = tokio::task::JoinSet::new();
    task.spawn(run(bus, Config::default(), ready.clone(), None, metrics));
    Probed { ready, registry, _task: task }
}

impl Probed {
    /// Waits until the bus's reason holds this text, or until there is none.
    async fn until(&self, reason: Option<&str>) {
        let mut reasons = self.ready.watch();
        let fits = |reasons: &Reasons| match (reasons.get(BUS), reason) {
            (Some(is), Some(text)) => is.contains(text),
            (is, text) => is.is_none() && text.is_none(),
        };
        time::timeout(Duration::from_secs(60), reasons.wait_for(fits)).await.expect("in time").unwrap();
    }

    fn counter(&self, name: &str) -> f64 {
        let families = self.registry.gather();
        let family = families.iter().find(|family| family.name() == name).unwrap();
        family.get_metric()[0].get_counter().get_value()
    }
}

#[tokio::test(start_paused = true)]
async fn not_ready_before_the_first_probe_is_back() {
    let bus = Arc::new(FakeBus::new());
    bus.probes.lock().push_back(Ok(Duration::from_secs(2)));
    let (began, probed) = (Instant::now(), start(bus));
    probed.until(Some("not answered yet")).await;
    probed.until(None).await;
    assert_eq!(began.elapsed().as_secs(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_late_probe_rebuilds_and_only_one_that_came_back_is_green() {
    let bus = Arc::new(FakeBus::new());
    bus.probes.lock().extend([Ok(Duration::from_millis(1)), Err(ProbeError::Late), Err(ProbeError::Late)]);
    let probed = start(bus.clone());
    probed.until(Some("not answered")).await;
    probed.until(None).await;
    let began = Instant::now();
    probed.until(Some("does not deliver")).await;
    assert_eq!(began.elapsed().as_secs(), 4, "the next probe after a second, late after three");
    probed.until(None).await;
    assert_eq!(began.elapsed().as_secs(), 9, "the second late one kept it red");
    assert_eq!(probed.counter("clarion_probes_late_total"), 2.0);
    assert_eq!(bus.rebuilt.load(SeqCst), 1, "the second came before the rebuilt link had its time");
}

#[tokio::test(start_paused = true)]
async fn a_bus_that_stays_silent_is_rebuilt_again_but_not_all_the_time() {
    let bus = Arc::new(FakeBus::new());
    bus.probes.lock().extend([Err(ProbeError::Late); 10]);
    let probed = start(bus.clone());
    probed.until(None).await;
    // Late at 3, 7, 11, … 39 seconds; built anew at 3, 15 and 35.
    assert_eq!(bus.rebuilt.load(SeqCst), 3);
}

#[test]
fn links_that_deliver_other_messages_are_left_alone_for_a_while() {
    let mut rebuilds = Rebuilds::default();
    let mut late = |heard| rebuilds.are_due(Err(ProbeError::Late), heard);
    assert_eq!([true; 5].map(&mut late), [false, false, false, false, true], "one subscription may be dead among many");
    assert!(!late(false), "the links have some time to come back");
    assert!(!rebuilds.are_due(Ok(Duration::ZERO), true));
    assert!(!rebuilds.are_due(Err(ProbeError::Late), true), "counted anew after one that came back");
    assert!(rebuilds.are_due(Err(ProbeError::Late), false), "and nothing at all is heard now");
}

#[tokio::test(start_paused = true)]
async fn a_lost_link_is_red_at_once_with_its_reason_and_is_not_rebuilt() {
    let bus = Arc::new(FakeBus::new());
    let probed = start(bus.clone());
    probed.until(Some("not answered")).await;
    probed.until(None).await;
    let began = Instant::now();
    bus.probes.lock().push_back(Err(ProbeError::Down));
    bus.link.send_replace(Link::Down(Some("connection refused".to_owned())));
    probed.until(Some("connection refused")).await;
    assert!(began.elapsed() < Duration::from_millis(10));
    bus.link.send_replace(Link::Up);
    tokio::task::yield_now().await;
    assert!(probed.ready.ready().is_err(), "a link that is up has delivered nothing yet");
    probed.until(None).await;
    assert_eq!(probed.counter("clarion_probes_down_total"), 1.0);
    assert_eq!(bus.rebuilt.load(SeqCst), 0);
}

/// Every node begins without a link, which is nothing to warn of; only what went wrong is.
#[tokio::test(start_paused = true)]
async fn connecting_for_the_first_time_changes_nothing() {
    let bus = Arc::new(FakeBus::new());
    bus.link.send_replace(Link::Down(None));
    bus.probes.lock().extend([Err(ProbeError::Down), Err(ProbeError::Down)]);
    let probed = start(bus.clone());
    let mut reasons = probed.ready.watch();
    time::sleep(Duration::from_millis(1_500)).await;
    assert_eq!(probed.counter("clarion_probes_down_total"), 2.0);
    assert!(!reasons.has_changed().unwrap(), "{reasons:?}");
    bus.link.send_replace(Link::Up);
    reasons.changed().await.unwrap();
    assert_eq!(probed.ready.ready(), Ok(()));
    bus.link.send_replace(Link::Down(None));
    probed.until(Some("the bus is not connected")).await;
}

#[tokio::test(start_paused = true)]
async fn a_link_that_is_cut_and_heals() {
    let bus = Arc::new(Server::new().attach(&BusConfig::default(), Arc::new(Nobody)));
    let probed = start(bus.clone());
    probed.until(None).await;
    bus.cut();
    probed.until(Some("the link was cut")).await;
    time::sleep(Duration::from_secs(10)).await;
    assert!(probed.ready.ready().is_err());
    bus.heal();
    probed.until(None).await;
}

/// The server's sockets stay open while it says nothing: only a probe shows that.
#[tokio::test]
async fn a_redis_that_stands_still_is_noticed_and_taken_back() {
    let redis = RedisServer::start().await;
    let config = BusConfig { url: redis.url().parse().unwrap(), ..BusConfig::default() };
    let probed = start(clarion_bus::connect(&config, Arc::new(Nobody)).unwrap());
    probed.until(None).await;
    redis.pause();
    let began = Instant::now();
    probed.until(Some("the bus")).await;
    assert!(began.elapsed() < Duration::from_secs(30), "{:?}", began.elapsed());
    assert!(probed.counter("clarion_probes_late_total") >= 1.0);
    redis.resume();
    probed.until(None).await;
    let families = probed.registry.gather();
    let round_trips = families.iter().find(|family| family.name() == "clarion_probe_round_trip_seconds").unwrap();
    assert!(round_trips.get_metric()[0].get_histogram().get_sample_count() >= 2);
}
