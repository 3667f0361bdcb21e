//! The order of leaving, told by a clock that only moves when everybody waits.

use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;

use super::*;

/// Notes what was called and when, and behaves as well or badly as it is told.
#[derive(Default)]
struct Recorder {
    began: Option<Instant>,
    notes: Mutex<Vec<(u64, String)>>,
    connections: AtomicUsize,
    /// Connections that never take what is pending for them.
    stuck: usize,
    /// Steps that never end.
    hanging: &'static [&'static str],
}

impl Recorder {
    fn new(connections: usize) -> Self {
        Self { began: Some(Instant::now()), connections: connections.into(), ..Self::default() }
    }

    fn note(&self, what: impl Into<String>) {
        let at = self.began.unwrap().elapsed().as_millis();
        self.notes.lock().push((u64::try_from(at).unwrap(), what.into()));
    }

    async fn step(&self, name: &'static str) {
        self.note(name);
        if self.hanging.contains(&name) {
            std::future::pending::<()>().await;
        }
    }

    /// The steps in order, batches of closing as one.
    fn order(&self) -> Vec<String> {
        let mut order: Vec<_> = self.notes.lock().iter().map(|(_, what)| what.clone()).collect();
        order.dedup_by(|one, two| one.starts_with("close ") && two.starts_with("close "));
        order
    }

    fn at(&self, what: &str) -> u64 {
        self.notes.lock().iter().find(|(_, noted)| noted.starts_with(what)).unwrap().0
    }

    fn batches(&self) -> Vec<(u64, usize)> {
        let notes = self.notes.lock();
        notes.iter().filter_map(|(at, what)| Some((*at, what.strip_prefix("close ")?.parse().ok()?))).collect()
    }
}

#[async_trait]
impl Steps for Recorder {
    fn unready(&self) {
        self.note("unready");
    }

    async fn leave_ring(&self) {
        self.step("ring").await;
    }

    async fn stop_accepting(&self) {
        self.step("accept").await;
    }

    fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    fn close_some(&self, count: usize) {
        if count == 0 {
            return;
        }
        self.note(format!("close {count}"));
        let left = self.connections().saturating_sub(count).max(self.stuck);
        self.connections.store(left, Ordering::Relaxed);
    }

    async fn flush(&self, until: Instant) {
        self.step("flush").await;
        time::sleep_until(until).await;
    }

    async fn close_bus(&self) {
        self.step("bus").await;
    }
}

async fn leave(config: &Config, recorder: &Recorder) -> Left {
    let metrics = Metrics::new(&Registry::new()).unwrap();
    run(config, recorder, &metrics, recorder.began.unwrap()).await
}

#[tokio::test(start_paused = true)]
async fn the_order_is_the_one_that_is_promised() {
    let recorder = Recorder::new(100);
    let left = leave(&Config::default(), &recorder).await;
    assert_eq!(recorder.order()[..3], ["unready", "ring", "accept"]);
    assert!(recorder.order()[3].starts_with("close "));
    assert_eq!(recorder.order()[4..], ["flush", "bus"]);
    assert_eq!(recorder.at("accept"), 5_000, "accepts until the load balancer knows");
    assert_eq!(left.cut, 0);
}

#[tokio::test(start_paused = true)]
async fn few_connections_need_no_long_time() {
    let recorder = Recorder::new(100);
    leave(&Config::default(), &recorder).await;
    assert_eq!(recorder.batches(), [0, 100, 200, 300, 400].map(|after| (5_000 + after, 20)));
}

#[tokio::test(start_paused = true)]
async fn many_connections_are_spread_evenly_over_the_time_there_is() {
    let recorder = Recorder::new(50_000);
    let left = leave(&Config::default(), &recorder).await;
    let batches = recorder.batches();
    let (smallest, largest) =
        (batches.iter().min_by_key(|b| b.1).unwrap().1, batches.iter().map(|b| b.1).max().unwrap());
    assert_eq!(batches.iter().map(|(_, count)| count).sum::<usize>(), 50_000);
    // 21 of 30 seconds: without the wait of 5, a second for each goodbye and two for the last flush.
    assert!((205..=215).contains(&batches.len()), "{}", batches.len());
    assert!(smallest >= 200 && largest <= 260, "{smallest} {largest}");
    assert!(left.took < Duration::from_secs(30), "{left:?}");
}

#[tokio::test(start_paused = true)]
async fn closing_can_be_made_faster() {
    let recorder = Recorder::new(50_000);
    let config = Config { wait: Some(Duration::ZERO), close_over: Some(Duration::from_secs(2)), ..Config::default() };
    leave(&config, &recorder).await;
    assert!((18..=22).contains(&recorder.batches().len()), "{:?}", recorder.batches());
}

#[tokio::test(start_paused = true)]
async fn whatever_hangs_it_ends_before_the_deadline() {
    let hanging = ["ring", "accept", "flush", "bus"];
    for (count, stuck) in [(0, 0), (30_000, 7)] {
        for hanging in [&hanging[..], &hanging[2..], &hanging[3..], &[]] {
            let recorder = Recorder { stuck, hanging: hanging.to_vec().leak(), ..Recorder::new(count) };
            let left = leave(&Config::default(), &recorder).await;
            assert!(left.took <= Duration::from_secs(30), "{left:?} {hanging:?}");
            assert_eq!(left.cut, stuck);
            let order = recorder.order();
            let last: Vec<_> = order.iter().filter(|what| !what.starts_with("close ")).collect();
            assert_eq!(last, ["unready", "ring", "accept", "flush", "bus"]);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn steps_that_took_long_leave_less_time_for_closing() {
    let recorder = Recorder { hanging: &["ring", "accept"], ..Recorder::new(30_000) };
    let left = leave(&Config::default(), &recorder).await;
    assert_eq!(recorder.at("accept"), 6_000);
    assert!(recorder.at("flush") <= 27_000, "{}", recorder.at("flush"));
    assert_eq!(left.cut, 0);
}

#[tokio::test(start_paused = true)]
async fn with_no_time_for_closing_all_go_at_once() {
    let recorder = Recorder::new(1_000);
    let config = Config { wait: Some(Duration::from_secs(26)), ..Config::default() };
    let left = leave(&config, &recorder).await;
    assert_eq!(recorder.batches(), [(26_000, 1_000)]);
    assert_eq!(left.cut, 0);
}

#[tokio::test(start_paused = true)]
async fn slow_clients_get_a_last_moment() {
    let recorder = Recorder { stuck: 3, ..Recorder::new(3) };
    let left = leave(&Config { wait: Some(Duration::ZERO), ..Config::default() }, &recorder).await;
    assert_eq!(left.cut, 3);
    assert!((8_000..9_000).contains(&recorder.at("flush")), "{}", recorder.at("flush"));
}

#[test]
fn what_does_not_fit_is_said() {
    let seconds = Duration::from_secs;
    assert_eq!(Config::default().problems(), []);
    let late = Config { wait: Some(seconds(30)), ..Config::default() };
    assert_eq!(late.problems()[0].0, "wait");
    assert_eq!(late.problems()[0].1, "30s and 4s for goodbyes do not fit the deadline of 30s");
    let long = Config { close_over: Some(seconds(22)), ..Config::default() };
    assert_eq!(
        long.problems()[0],
        ("close_over", "must be at most 21s, what wait and goodbyes leave of 30s".to_owned())
    );
    assert_eq!(Config { close_over: Some(seconds(21)), ..Config::default() }.problems(), []);
}

#[test]
fn a_table_reads_what_it_writes() {
    let written = toml::to_string(&Config::default()).unwrap();
    assert_eq!(written, "deadline = \"30s\"\n");
    let read: Config = toml::from_str("close_over = \"2s\"").unwrap();
    assert_eq!((read.close_over, read.wait), (Some(Duration::from_secs(2)), Config::default().wait));
    assert!(toml::from_str::<Config>("close = \"2s\"").is_err());
}
