//! One suite that every bus passes. Each test is a promise of `Bus`; each bus brings a [`Rig`] that starts a real server and
//! can do to it what happens to servers. `suite!` makes the tests.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    dead_code,
    unused_imports,
    reason = "one suite for buses of which each uses its part"
)]

mod faults;
mod load;
mod logs;
mod messages;
mod recorder;

use std::sync::Arc;

use async_trait::async_trait;
use clarion_bus::{BusConfig, BusHandle, InterestId, Link, PublishError, Sink, Topic};
use clarion_protocol::{Channel, Interest, Publication};
use clarion_testkit::{eventually, within};

pub(crate) use self::{faults::*, load::*, logs::*, messages::*, recorder::*};

/// A server for one test, and what can be done to it.
#[async_trait]
pub(crate) trait Rig: Send + Sync {
    /// How a node reaches it.
    fn config(&self) -> BusConfig;

    /// Starts a node's bus.
    fn connect(&self, config: BusConfig, sink: Arc<dyn Sink>) -> BusHandle {
        clarion_bus::connect(&config, sink).expect("the rig's configuration is good")
    }

    /// Publishes as a backend does that does not know Clarion.
    async fn backend(&self, channel: &str, payload: &[u8]);

    /// Kills the server and starts it again. False where there is none.
    async fn restart(&mut self) -> bool {
        false
    }

    /// Stops the server in order and starts it again with all that it kept. False where nothing is kept.
    async fn restart_with_data(&mut self) -> bool {
        false
    }

    /// Kills the server until [`Rig::restart`]. False where there is none.
    async fn stop(&mut self) -> bool {
        false
    }

    /// Freezes the server, whose connections stay open, or lets it go on. False where there is none.
    async fn freeze(&self, _frozen: bool) -> bool {
        false
    }

    /// Closes the nodes' subscriber connections at the server, or what comes nearest to it.
    async fn kill_connections(&self) -> bool {
        false
    }

    /// The configuration of a client that may use everything but the channel `forbidden` and what lies below it.
    async fn restricted(&self) -> Option<BusConfig> {
        None
    }

    /// How many subscriptions the server has of all its clients, where it says so.
    async fn subscriptions(&self) -> Option<u64> {
        None
    }

    /// Whether a message's copies for different subscriptions come together.
    fn copies_are_in_order(&self) -> bool {
        true
    }

    /// The server's memory in bytes.
    async fn server_memory(&self) -> Option<u64> {
        None
    }

    /// Whether patterns can be subscribed to.
    fn patterns(&self) -> bool {
        true
    }

    /// The most that may wait for a subscriber at the server, where the rig has set it low.
    fn slow_reader_is_cut(&self) -> bool {
        false
    }

    /// How many subscriber links a node has.
    fn links(&self) -> u64 {
        1
    }

    /// The address at which a server listens that accepts and never answers, written as this bus's URL.
    fn url_of(&self, _address: std::net::SocketAddr) -> Option<String> {
        None
    }
}

/// A node: its bus, and what it hears.
pub(crate) struct Node {
    pub(crate) bus: BusHandle,
    pub(crate) heard: Arc<Recorder>,
}

impl Node {
    /// A node that is connected.
    pub(crate) async fn up(rig: &dyn Rig) -> Self {
        Self::with(rig, rig.config()).await
    }

    pub(crate) async fn with(rig: &dyn Rig, config: BusConfig) -> Self {
        let node = Self::started(rig, config);
        node.link_up().await;
        node
    }

    /// A node that may not be connected yet.
    pub(crate) fn started(rig: &dyn Rig, config: BusConfig) -> Self {
        let heard = Arc::new(Recorder::default());
        Self { bus: rig.connect(config, heard.clone()), heard }
    }

    pub(crate) async fn link_up(&self) {
        let mut link = self.bus.link();
        within("the link is up", link.wait_for(|link| *link == Link::Up)).await.unwrap();
    }

    pub(crate) async fn link_down(&self) {
        let mut link = self.bus.link();
        within("the link is down", link.wait_for(|link| *link != Link::Up)).await.unwrap();
    }

    pub(crate) async fn subscribe(&self, interest: &str) -> InterestId {
        within(interest, self.bus.subscribe(&topic(interest))).await.unwrap()
    }

    pub(crate) async fn publish(&self, channel: &str, payload: &str) {
        eventually("the bus takes a message", || self.bus.publish(message(channel, payload))).await;
    }

    /// Publishes until this node hears it, which it does when its subscription is really back.
    pub(crate) async fn until_heard(&self, channel: &str, payload: &str) {
        eventually("a message comes through", async || {
            let taken = self.bus.publish(message(channel, payload)).await;
            let deadline = std::time::Duration::from_millis(300);
            let heard = tokio::time::timeout(
                deadline,
                self.heard.wait(|all| all.iter().any(|one| one.payload == payload.as_bytes())),
            );
            taken.is_ok() && heard.await.is_ok()
        })
        .await;
    }
}

pub(crate) fn topic(interest: &str) -> Topic {
    Interest::parse(interest).unwrap().into()
}

pub(crate) fn message(channel: &str, payload: &str) -> Publication {
    Publication::raw(Channel::parse(channel).unwrap(), payload.to_owned())
}

/// Whether an error says that the message was not published, or may not have been.
pub(crate) fn is_lost<T>(result: &Result<T, PublishError>) -> bool {
    matches!(result, Err(PublishError::NotTaken(_) | PublishError::Unknown(_)))
}

/// What a test comes to that did not fail.
pub(crate) type Ran = Result<(), Cannot>;

/// This bus, or what its rig can do to it, has no such thing.
#[derive(Debug)]
pub(crate) struct Cannot;

/// What cannot run where, and why. A test that finds that it cannot and is not here fails, and so does one that is here and can.
const CANNOT: &[(&str, &str, &str)] = &[
    ("memory logs", "a_log_outlives_a_restart_of_its_server", "what lies in memory ends with its process"),
    (
        "redis cluster logs",
        "a_log_outlives_a_restart_of_its_server",
        "its rig restarts without data; `redis logs` is the same log",
    ),
    (
        "redis sharded logs",
        "a_log_outlives_a_restart_of_its_server",
        "its rig restarts without data; `redis logs` is the same log",
    ),
    ("redis sentinel logs", "a_log_outlives_a_restart_of_its_server", "the Sentinels fail over"),
    ("memory", "too_large_from_a_backend_is_dropped", "its backends are nodes, which are refused"),
    ("memory", "names_of_others_are_not_heard", "one process is one deployment"),
    ("memory", "a_mute_server_hangs_nothing", "there is no server that could be mute"),
    ("memory", "a_frozen_server_is_noticed", "there is no server that could freeze"),
    ("memory", "a_forbidden_channel_is_refused_alone", "within a process everybody may do everything"),
    ("memory", "aborted_calls_leave_nothing_at_the_server", "within a process everybody may do everything"),
    ("nats", "make_before_break_loses_nothing", "a PONG does not fence the copies of another subscription"),
    ("nats", "aborted_calls_leave_nothing_at_the_server", "nothing here asks a NATS server how many it holds"),
    ("redis cluster", "a_frozen_server_is_noticed", "the other servers go on"),
    ("redis cluster", "aborted_calls_leave_nothing_at_the_server", "each server counts its own"),
    ("redis sharded", "a_frozen_server_is_noticed", "the other servers go on"),
    ("redis sharded", "aborted_calls_leave_nothing_at_the_server", "each server counts its own"),
    ("redis sharded", "overlaps_name_their_interests", "sharded pub/sub has no patterns"),
    ("redis sharded", "make_before_break_loses_nothing", "sharded pub/sub has no patterns"),
    ("redis sharded", "make_before_break_loses_next_to_nothing", "sharded pub/sub has no patterns"),
    ("redis sentinel", "comes_back_after_a_restart", "the Sentinels fail over; see `a_failover_is_followed`"),
    ("redis sentinel", "starts_without_a_server", "the Sentinels fail over"),
    ("redis sentinel", "nothing_is_kept_for_later", "the Sentinels fail over"),
    ("redis sentinel", "what_was_not_taken_is_never_heard", "the Sentinels fail over"),
    ("redis sentinel", "a_frozen_server_is_noticed", "the Sentinels fail over"),
    ("redis sentinel", "a_forbidden_channel_is_refused_alone", "its rig has no users; `redis` is the same link"),
    ("redis sentinel", "aborted_calls_leave_nothing_at_the_server", "its rig has no users; `redis` is the same link"),
    ("redis sentinel", "a_slow_reader_is_told_of_its_gap", "its rig sets no limits; `redis` is the same link"),
];

/// Compares what a test came to with the list.
pub(crate) fn judge(bus: &str, test: &str, ran: &Ran) {
    let listed = CANNOT.iter().any(|(on, name, _)| (*on, *name) == (bus, test));
    assert_eq!(ran.is_err(), listed, "{test} on {bus}: whether it cannot run, and whether the list says so");
}

/// Whether the list names only tests that there are.
pub(crate) fn list_is_of(bus: &str, tests: &[&str]) {
    for (_, test, why) in CANNOT.iter().filter(|(on, ..)| *on == bus) {
        assert!(tests.contains(test) && !why.is_empty(), "{test} on {bus}");
    }
}

/// Writes a test for each promise of logged namespaces, as [`suite`] does.
#[macro_export]
macro_rules! log_suite {
    ($bus:literal, $rig:expr) => {
        $crate::suite!($bus, $rig;
            a_logged_message_is_numbered_and_relayed,
            a_repeated_id_is_dropped,
            a_log_is_read_in_parts,
            what_was_cut_is_told,
            what_is_too_old_is_told,
            what_is_not_logged_is_as_it_was,
            many_publishers_leave_no_hole_and_no_repeat,
            partitions_have_epochs_and_nodes_share_a_key,
            marks_are_merged,
            a_log_outlives_a_restart_of_its_server,
        );
    };
}

/// Writes a test for each promise. The arguments are the bus's name in [`CANNOT`], and what makes a fresh rig.
#[macro_export]
macro_rules! suite {
    ($bus:literal, $rig:expr) => {
        $crate::suite!($bus, $rig;
            exact_and_pattern_interests,
            internal_subjects_are_apart,
            references_are_counted,
            what_left_is_not_heard,
            order_is_kept,
            order_is_kept_in_batches,
            payloads_are_opaque,
            large_payloads_pass_and_larger_do_not,
            too_large_from_a_backend_is_dropped,
            overlaps_name_their_interests,
            names_full_of_glob_characters,
            envelopes_carry_tags,
            an_id_travels_with_each_message,
            questions_are_answered,
            names_of_others_are_not_heard,
            make_before_break_loses_nothing,
            make_before_break_loses_next_to_nothing,
            coming_and_going_ends_right,
            a_dropped_subscribe_leaves_nothing,
            comes_back_after_a_restart,
            comes_back_after_its_connection_was_killed,
            starts_without_a_server,
            a_mute_server_hangs_nothing,
            a_frozen_server_is_noticed,
            nothing_is_kept_for_later,
            what_was_not_taken_is_never_heard,
            a_forbidden_channel_is_refused_alone,
            aborted_calls_leave_nothing_at_the_server,
            a_slow_reader_is_told_of_its_gap,
            the_probe_goes_round,
            rebuilding_is_a_gap,
            closing_ends_everything,
            a_hundred_thousand_interests,
        );
    };
    ($bus:literal, $rig:expr; $($name:ident),* $(,)?) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                let mut rig = $rig;
                let ran = conformance::$name(&mut rig).await;
                conformance::judge($bus, stringify!($name), &ran);
            }
        )*

        #[test]
        fn what_cannot_run_is_a_test() {
            conformance::list_is_of($bus, &[$(stringify!($name)),*]);
        }
    };
}
