//! What a server is to its data: the master, or a copy of it.
//!
//! A replica takes `SUBSCRIBE` and `PUBLISH` as a master does, and what is published there reaches nobody else. `HELLO` tells
//! the role and needs no right (from Redis 7 on); servers before Redis 6 are asked `ROLE`. Who is not told takes the server
//! for good: then the probe has to show it.

use fred::types::Value;

use super::wire::Reply;

/// See the module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// What is published here reaches everybody.
    Master,
    /// A copy of a master.
    Replica,
    /// It does not say, or is something else: a Sentinel, a proxy, an active replica of KeyDB.
    Unknown,
}

impl Role {
    /// Reads what a link was answered.
    pub(crate) fn of_reply(reply: &Reply) -> Self {
        match reply {
            Reply::Array(words) | Reply::Map(words) => Self::of_words(words.iter().map(Reply::as_str)),
            Reply::Line(_) | Reply::Error(_) | Reply::Number(_) | Reply::Bytes(_) | Reply::Null => Self::Unknown,
        }
    }

    /// Reads what fred was answered.
    pub(crate) fn of_value(value: &Value) -> Self {
        match value {
            Value::Array(words) => {
                let words: Vec<_> = words.iter().map(Value::as_str).collect();
                Self::of_words(words.iter().map(Option::as_deref))
            }
            _ => Self::Unknown,
        }
    }

    /// The word after `role` in the pairs of `HELLO`, the first in the answer to `ROLE`.
    fn of_words<'a>(mut words: impl Iterator<Item = Option<&'a str>>) -> Self {
        let first = words.next().flatten();
        let word =
            if first == Some("role") { words.next() } else { words.skip_while(|word| *word != Some("role")).nth(1) };
        match word.flatten().or(first) {
            Some("master") => Self::Master,
            Some("replica" | "slave") => Self::Replica,
            _ => Self::Unknown,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_say_what_they_are() {
        for (words, role) in [
            ("server redis proto 3 mode standalone role master modules", Role::Master),
            ("server redis role replica mode standalone", Role::Replica),
            ("role replica server redis", Role::Replica),
            ("server redis mode sentinel", Role::Unknown),
            ("server redis role active-replica", Role::Unknown),
            ("master 3129659", Role::Master),
            ("slave 127.0.0.1 6379 connected 0", Role::Replica),
            ("sentinel mymaster", Role::Unknown),
            ("", Role::Unknown),
        ] {
            let words = || words.split_whitespace();
            assert_eq!(Role::of_words(words().map(Some)), role, "{:?}", words());
            let reply = Reply::Array(words().map(|word| Reply::Bytes(word.as_bytes().to_vec())).collect());
            assert_eq!(Role::of_reply(&reply), role);
            assert_eq!(Role::of_value(&Value::Array(words().map(Value::from).collect())), role);
        }
        assert_eq!(Role::of_reply(&Reply::Error("NOPERM".to_owned())), Role::Unknown);
    }
}
