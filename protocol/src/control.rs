//! What nodes say to each other over the bus, as JSON on internal subjects.
//!
//! `members` carries [`Heartbeat`]s, `control` what all nodes are asked, `node.<instance>` what one of them is.
//! Members that a later release adds are passed over, so nodes of different releases understand each other.

use serde::{Deserialize, Serialize};

use crate::{InternalName, NodeName};

/// The subject of heartbeats.
pub const MEMBERS: &str = "members";
/// The subject of [`Control`]s for all nodes. Each is a question of the bus.
pub const CONTROL: &str = "control";

/// Names one of the fixed internal subjects above.
#[must_use]
pub fn subject(name: &'static str) -> InternalName {
    InternalName::parse(name).expect("the fixed names are valid")
}

/// The subject on which one process is asked; `instance` is the one of its [`Heartbeat`].
#[must_use]
pub fn subject_of(instance: &str) -> Option<InternalName> {
    InternalName::parse(&format!("node.{instance}"))
}

/// Said once a second by every node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heartbeat {
    /// The node's name, unique among the members.
    pub node: NodeName,
    /// Names this process: a UUID. Two instances with one name are a mistake in somebody's configuration.
    pub instance: String,
    /// `host:port` at which other nodes reach this one's listener.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub advertise: Option<String>,
    /// The URL at which clients reach this node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub public_url: Option<String>,
    /// The public key of what it says to other nodes of clients whom it carries, in base64 for URLs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// Its share of the ring, 1 to 100.
    pub weight: u16,
    /// The identity of the ring that it sees, in hexadecimal.
    pub ring: String,
    /// Said last: it has left the ring and is not to be waited for.
    #[serde(default)]
    pub leaving: bool,
    /// The connections it holds, for `clarion nodes`.
    #[serde(default)]
    pub connections: u64,
    /// How many users this process has asked everybody to disconnect: a node that knows of fewer has missed some.
    #[serde(default)]
    pub disconnects: u64,
    /// Its release.
    #[serde(default)]
    pub version: String,
}

/// What nodes are to do and answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Control {
    /// Close all connections of a user, and say so.
    Disconnect {
        /// Whose.
        user: String,
        /// The instance that asks; it has done so itself.
        instance: String,
        /// Counts what this instance has asked everybody for, from 1.
        number: u64,
    },
    /// Say what this instance has asked everybody to close since, for a node that may have missed some.
    Disconnected {
        /// The number up to which nothing is missing.
        after: u64,
    },
    /// Say how many connections of some users are here.
    Online {
        /// Whose.
        users: Vec<String>,
        /// The instance that asks; it knows its own.
        instance: String,
    },
    /// Tell a user's connections what was read of the inbox. Nobody waits for an answer.
    Read {
        /// Whose.
        user: String,
        /// The instance that asks; it has done so itself.
        instance: String,
        /// What they are told: an object.
        read: serde_json::Value,
    },
}

/// An answer to the node that asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Answer {
    /// To [`Control::Disconnect`]: they are closed. To [`Control::Read`]: they are told.
    Done,
    /// To [`Control::Disconnected`].
    Disconnected {
        /// The first one's number; the others follow it. Without any, the number of the next there will be.
        first: u64,
        /// Whose connections were to be closed, oldest first, as many as go into an answer.
        users: Vec<String>,
    },
    /// To [`Control::Online`].
    Online {
        /// How many connections there are, in the order of the users.
        connections: Vec<u64>,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_heartbeat_of_a_later_release_is_understood() {
        let json = r#"{"node":"a-1","instance":"i","weight":1,"ring":"00","later":[1]}"#;
        let heartbeat: Heartbeat = serde_json::from_str(json).unwrap();
        assert!(!heartbeat.leaving && heartbeat.advertise.is_none());
    }

    #[test]
    fn subjects_are_valid() {
        assert_eq!(subject(MEMBERS).as_str(), "members");
        assert_eq!(subject(CONTROL).as_str(), "control");
        assert_eq!(subject_of("0191-ab").unwrap().as_str(), "node.0191-ab");
        assert!(subject_of("x y").is_none());
    }
}
