//! How to speak to a server that may not be Clarion, and how to start it: a small TOML file for each.

use std::{collections::BTreeMap, fs, path::Path};

use serde::Deserialize;

use crate::{
    control::{Batch, Door, Handshake, Via},
    failure::{Failure, Result},
};

/// The profiles that come along.
const SHIPPED: [(&str, &str); 11] = [
    ("bun", include_str!("../profiles/bun.toml")),
    ("centrifugo", include_str!("../profiles/centrifugo.toml")),
    ("clarion", include_str!("../profiles/clarion.toml")),
    ("floor", include_str!("../profiles/floor.toml")),
    ("floor-plain", include_str!("../profiles/floor-plain.toml")),
    ("mosquitto", include_str!("../profiles/mosquitto.toml")),
    ("nats", include_str!("../profiles/nats.toml")),
    ("nchan", include_str!("../profiles/nchan.toml")),
    ("socketio", include_str!("../profiles/socketio.toml")),
    ("tornado", include_str!("../profiles/tornado.toml")),
    ("ws", include_str!("../profiles/ws.toml")),
];

/// A server as it is spoken to.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Profile {
    pub(crate) name: String,
    pub(crate) websocket: Option<Handshake>,
    pub(crate) event_stream: Option<Handshake>,
    /// Where a signed-in user hears `users/N` and `broadcast`.
    pub(crate) me: Option<Handshake>,
    /// An event stream that hears several channels.
    pub(crate) events: Option<Handshake>,
    #[serde(default)]
    pub(crate) publish: Publish,
    pub(crate) start: Option<Start>,
}

/// The ways in for messages.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Publish {
    pub(crate) http: Option<Http>,
    pub(crate) redis: Option<Redis>,
    pub(crate) nats: Option<Nats>,
    pub(crate) mqtt: Option<Mqtt>,
}

/// A message is a POST.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Http {
    path: String,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    #[serde(default = "payload")]
    body: String,
    batch: Option<Batch>,
    #[serde(default)]
    port: Port,
}

fn payload() -> String {
    "{payload}".to_owned()
}

/// A message is a PUBLISH.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Redis {
    channel: String,
    #[serde(default = "bus")]
    port: Port,
}

/// A message is a PUB.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Nats {
    subject: String,
    #[serde(default = "bus")]
    port: Port,
}

/// A message is a PUBLISH of MQTT.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Mqtt {
    topic: String,
    #[serde(default)]
    port: Port,
}

fn bus() -> Port {
    Port::Bus
}

/// Which of a server's ports.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Port {
    /// Where clients connect.
    #[default]
    Clients,
    /// A second one of the server's own.
    Aux,
    /// That of the bus behind it.
    Bus,
}

/// How to start it.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Start {
    pub(crate) command: Vec<String>,
    pub(crate) config: Option<String>,
    /// What its file's name ends with.
    pub(crate) extension: Option<String>,
    /// A path on the admin port that answers 200 when the server is ready; otherwise it is when it accepts.
    pub(crate) ready: Option<String>,
    /// More arguments, by the bus that the server is behind.
    pub(crate) bus: BTreeMap<Bus, Vec<String>>,
    /// Files that must be there.
    #[serde(default)]
    pub(crate) needs: Vec<String>,
    /// Debian's packages of what it needs, to be named where something is missing.
    #[serde(default)]
    pub(crate) debian: Vec<String>,
    /// What is installed for it from PyPI and from npm, and the one program that is built from Go's modules.
    #[serde(default)]
    pub(crate) pip: Vec<String>,
    #[serde(default)]
    pub(crate) npm: Vec<String>,
    pub(crate) go: Option<String>,
}

/// What a server is behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Bus {
    None,
    Redis,
    Nats,
}

impl Start {
    /// Whether a word in braces occurs in it.
    pub(crate) fn knows(&self, word: &str) -> bool {
        self.command.iter().chain(&self.config).any(|text| text.contains(word))
    }
}

impl Profile {
    /// A shipped profile by its name, or the one in a file.
    pub(crate) fn load(name: &str) -> Result<Self> {
        if let Some((_, text)) = SHIPPED.iter().find(|(shipped, _)| *shipped == name) {
            return Self::parse(name, text);
        }
        if !Path::new(name).exists() {
            let names: Vec<_> = SHIPPED.iter().map(|(name, _)| *name).collect();
            return Err(Failure::usage(format!("there is no server `{name}`"))
                .remedy(format!("shipped: {}; or the path of a profile, see docs/benchmarks.md", names.join(", "))));
        }
        let text = fs::read_to_string(name).map_err(|error| Failure::usage(format!("{name}: {error}")))?;
        Self::parse(name, &text)
    }

    fn parse(name: &str, text: &str) -> Result<Self> {
        toml::from_str(text).map_err(|error| Failure::usage(format!("{name}: {error}")))
    }

    /// How to come in by a door.
    pub(crate) fn handshake(&self, door: Door) -> Result<&Handshake> {
        let handshake = match door {
            Door::WebSocket => &self.websocket,
            Door::EventStream => &self.event_stream,
        };
        handshake.as_ref().ok_or_else(|| Failure::usage(format!("the profile {} has no such door", self.name)))
    }

    /// How messages get in, and by which port: by the bus where there is one and it takes them, otherwise in whatever way
    /// the server has of its own.
    pub(crate) fn way_in(&self, bus: Bus) -> Result<(Via, Port)> {
        let http = self.publish.http.clone().map(|http| {
            (Via::Http { path: http.path, headers: http.headers, body: http.body, batch: http.batch }, http.port)
        });
        let redis = self.publish.redis.clone().map(|redis| (Via::Redis { channel: redis.channel }, redis.port));
        let nats = self.publish.nats.clone().map(|nats| (Via::Nats { subject: nats.subject }, nats.port));
        let mqtt = self.publish.mqtt.clone().map(|mqtt| (Via::Mqtt { topic: mqtt.topic }, mqtt.port));
        let own = |way: &Option<(Via, Port)>| way.clone().filter(|(_, port)| *port != Port::Bus);
        let way = match bus {
            Bus::Redis => redis.or_else(|| own(&http)),
            Bus::Nats => nats.or_else(|| own(&http)),
            Bus::None => own(&http).or_else(|| own(&redis)).or_else(|| own(&nats)).or_else(|| own(&mqtt)),
        };
        way.ok_or_else(|| Failure::usage(format!("the profile {} cannot publish that way", self.name)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shipped_profile_is_whole() {
        for (name, _) in SHIPPED {
            let profile = Profile::load(name).unwrap();
            assert_eq!(profile.name, name);
            assert!(profile.handshake(Door::WebSocket).unwrap().path.starts_with('/'));
            profile.way_in(Bus::None).unwrap();
            let start = profile.start.unwrap();
            assert!(start.bus.contains_key(&Bus::None) && !start.command.is_empty());
        }
    }

    #[test]
    fn a_profile_with_a_mistake_says_where() {
        let error = Profile::parse("mine", "name = \"x\"\n[websocket]\npaht = \"/\"\n").unwrap_err();
        assert!(error.message.contains("paht") && error.exit_code() == 64, "{error}");
        let error = Profile::load("no-such").unwrap_err();
        assert!(error.remedy.is_some_and(|remedy| remedy.contains("nchan")));
    }
}
