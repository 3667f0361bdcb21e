//! The way in over the bus itself, as any backend uses it.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use clarion_bus::{
    BusConfig, BusHandle, Delivery, InterestId, Link, PublishError, Receipt, Sink, SubscribeError, Topic,
};
use clarion_protocol::{Channel, Publication};
use tokio::{
    sync::{mpsc, watch},
    time::timeout,
};

use super::{BusTarget, Published};
use crate::{context::Context, failure::Failure};

/// Batches of deliveries that may wait; behind that the link reads nothing more.
const WAITING: usize = 16;

/// What comes from the bus.
#[derive(Debug)]
pub(crate) enum Event {
    /// What one read of the link brought.
    Deliveries(Vec<Delivery>),
    /// Something may be missing.
    Gap,
}

/// A connection to a bus.
pub(crate) struct Bus {
    handle: BusHandle,
    events: mpsc::Receiver<Event>,
    shown: String,
    timeout: Duration,
}

impl Bus {
    /// Connects, and waits until the connection stands.
    pub(crate) async fn connect(context: &Context, target: &BusTarget) -> Result<Self, Failure> {
        let (sender, events) = mpsc::channel(WAITING);
        let shown = target.shown.clone();
        let handle = clarion_bus::connect(&config(context, target), Arc::new(Forward(sender)))
            .map_err(|error| Failure::usage(format!("{}: {error}", flag_of(error.key))))?;
        let bus = Self { handle, events, shown, timeout: context.timeout };
        let mut link = bus.link();
        let up = timeout(bus.timeout, link.wait_for(|link| *link == Link::Up)).await.is_ok();
        if up { Ok(bus) } else { Err(bus.unreachable()) }
    }

    fn unreachable(&self) -> Failure {
        let why = match &*self.link().borrow() {
            Link::Down(Some(why)) => format!(": {why}"),
            Link::Down(None) | Link::Up => String::new(),
        };
        Failure::unavailable(format!("cannot reach the bus at {}{why}", self.shown))
            .remedy("see that its server runs and that --via names it; `clarion doctor` checks more")
    }

    pub(crate) fn link(&self) -> watch::Receiver<Link> {
        self.handle.link()
    }

    pub(crate) fn shown(&self) -> &str {
        &self.shown
    }

    /// The next thing that comes from the bus. Cancel safe.
    pub(crate) async fn event(&mut self) -> Option<Event> {
        self.events.recv().await
    }

    /// Returns when the server has acknowledged the subscription.
    pub(crate) async fn subscribe(&self, topic: impl Into<Topic>) -> Result<InterestId, Failure> {
        match timeout(self.timeout, self.handle.subscribe(&topic.into())).await {
            Ok(Ok(id)) => Ok(id),
            Ok(Err(SubscribeError::Refused(why))) => Err(Failure::refused(format!("the bus refuses: {why}"))),
            Ok(Err(SubscribeError::NotNow(why))) => {
                let what = format!("the bus does not take this subscription now: {why}");
                Err(Failure::unavailable(what).remedy("try again, or give its server more room"))
            }
            Ok(Err(SubscribeError::Closed)) => Err(Failure::internal("the bus is closed")),
            Err(_) => {
                let what = format!("{} does not acknowledge a subscription within {:?}", self.shown, self.timeout);
                Err(Failure::unavailable(what).remedy("a longer --timeout, or `clarion doctor`"))
            }
        }
    }

    pub(crate) async fn publish(&self, channel: &Channel, payload: Bytes) -> Published {
        published(self.handle.publish(Publication::raw(channel.clone(), payload)).await)
    }

    pub(crate) async fn publish_all(&self, channel: &Channel, payloads: Vec<Bytes>) -> Vec<Published> {
        let publications = payloads.into_iter().map(|payload| Publication::raw(channel.clone(), payload)).collect();
        self.handle.publish_all(publications).await.into_iter().map(published).collect()
    }

    /// The round trip of a message to ourselves.
    pub(crate) async fn probe(&self) -> Result<Duration, Failure> {
        self.handle.probe(self.timeout).await.map_err(|error| Failure::unavailable(error.to_string()))
    }

    pub(crate) async fn close(&self) {
        // Saying goodbye is a courtesy; nothing waits for it longer than for anything else.
        let _ = timeout(self.timeout, self.handle.close()).await;
    }
}

fn config(context: &Context, target: &BusTarget) -> BusConfig {
    let args = &context.bus;
    BusConfig {
        url: target.url.clone(),
        password: context.secrets.bus_password.as_deref().map(clarion_bus::Secret::new),
        pubsub: args.pubsub,
        ca_file: context.tls.ca_file.clone(),
        cert_file: context.tls.cert_file.clone(),
        key_file: context.tls.key_file.clone(),
        nats_creds_file: args.nats_creds_file.clone(),
        nats_nkey_file: args.nats_nkey_file.clone(),
        connect_timeout: context.timeout,
        command_timeout: context.timeout,
        max_payload: args.max_payload,
        prefix: args.prefix.clone(),
        client_name: format!("clarion-cli-{}", std::process::id()),
        ..BusConfig::default()
    }
}

/// The flag for a setting of the broker's table: `--ca-file` for `bus.ca_file`.
fn flag_of(key: &str) -> String {
    let name = key.strip_prefix("bus.").unwrap_or(key);
    if name == "url" { "--via".to_owned() } else { format!("--{}", name.replace('_', "-")) }
}

/// The id that travels with a message.
fn published(result: Result<Receipt, PublishError>) -> Published {
    result.map(|receipt| receipt.id.to_string()).map_err(|error| failure(&error))
}

/// What a refused message means for the exit code.
fn failure(error: &PublishError) -> Failure {
    let message = error.to_string();
    match error {
        PublishError::NotTaken(_) => Failure::unavailable(message).remedy("again; `clarion doctor` says what is wrong"),
        PublishError::Unknown(_) => {
            Failure::unavailable(message).remedy("look whether it arrived before you publish it again")
        }
        PublishError::Refused(_) => Failure::refused(message),
        PublishError::TooLarge { .. } => {
            Failure::usage(message).remedy("--max-payload, if the nodes were configured to pass more on")
        }
    }
}

/// Hands everything to whoever waits for it.
struct Forward(mpsc::Sender<Event>);

#[async_trait]
impl Sink for Forward {
    async fn deliver(&self, batch: &mut Vec<Delivery>) {
        // The payloads share the link's read buffer, which is fine for as long as it takes to write them out.
        let room = Vec::with_capacity(batch.capacity());
        let _ = self.0.send(Event::Deliveries(std::mem::replace(batch, room))).await;
    }

    fn gap(&self, _: &[InterestId]) {
        // Where this finds no room, so much waits that the gap is not what matters.
        let _ = self.0.try_send(Event::Gap);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_is_named_by_its_flag() {
        assert_eq!(["bus.url", "bus.nats_creds_file"].map(flag_of), ["--via", "--nats-creds-file"]);
    }

    #[test]
    fn what_the_bus_says_has_its_exit_code() {
        for (error, exit) in [
            (PublishError::NotTaken("x".into()), 69),
            (PublishError::Unknown("x".into()), 69),
            (PublishError::Refused("x".into()), 77),
            (PublishError::TooLarge { bytes: 2, limit: 1 }, 64),
        ] {
            assert_eq!(failure(&error).exit_code(), exit);
        }
    }
}
