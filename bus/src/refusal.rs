//! Every refusal of both kinds of server, in one table, and whether it passes by itself.
//!
//! It decides what a client is told: one that will be let in later must not be sent away for ever (an `EventSource` gives
//! up after any status but 200), and one that never will be must not come back every few seconds. An answer that is not
//! in the table passes: to be asked again costs little, never to be asked again is final. `docs/limits.md` has what follows.

use crate::SubscribeError;

/// What becomes of a refusal when nobody does anything about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outlook {
    /// It passes: the server has too much, is not ready yet, or is about to be replaced.
    Passes,
    /// It stays until somebody changes the server's rules or this node's settings.
    Stays,
}

use Outlook::{Passes, Stays};

/// How the answers of Redis and Valkey begin.
const REDIS: &[(&str, Outlook)] = &[
    // The ACL of this node's user.
    ("NOPERM", Stays),
    // No password, or a wrong one.
    ("NOAUTH", Stays),
    ("WRONGPASS", Stays),
    // Protected mode: the server takes nobody from another machine.
    ("DENIED", Stays),
    // Renamed away, or older than the command.
    ("ERR unknown command", Stays),
    // `maxclients`.
    ("ERR max number of clients", Passes),
    // Reading its data from disk.
    ("LOADING", Passes),
    // A script runs for too long.
    ("BUSY", Passes),
    // `maxmemory` without anything to evict.
    ("OOM", Passes),
    // Snapshots fail, so it takes no writes, and answers even PING with this.
    ("MISCONF", Passes),
    // A replica; without its master; a master without enough replicas.
    ("READONLY", Passes),
    ("MASTERDOWN", Passes),
    ("NOREPLICAS", Passes),
    // A Cluster whose slots are moving or have lost their master.
    ("CLUSTERDOWN", Passes),
    ("TRYAGAIN", Passes),
    ("MOVED", Passes),
    ("ASK", Passes),
    // The connection was taken down while a command waited.
    ("UNBLOCKED", Passes),
];

/// How the texts of a NATS server's `-ERR` begin, in any case: it has changed between releases.
const NATS: &[(&str, Outlook)] = &[
    // The user's permissions.
    ("permissions violation", Stays),
    // Who this node says that it is.
    ("authorization violation", Stays),
    ("user authentication revoked", Stays),
    // The credentials have run out; files are read anew for each connection, so renewed ones are found.
    ("user authentication expired", Passes),
    ("account authentication expired", Passes),
    ("authentication timeout", Passes),
    // `max_subscriptions`, or the account's limit: somebody leaves.
    ("maximum subscriptions exceeded", Passes),
    // `max_subscription_tokens`: this channel has too many segments for this server.
    ("subject has exceeded number of tokens limit", Stays),
    ("invalid subject", Stays),
    ("invalid publish subject", Stays),
    // `max_payload`, `max_control_line`: what is too large today is too large tomorrow.
    ("maximum payload violation", Stays),
    ("maximum control line exceeded", Stays),
    // `max_connections`, or the account's limit.
    ("maximum connections exceeded", Passes),
    ("maximum account active connections exceeded", Passes),
    // Cut off since it read too slowly, or did not answer; a new connection is taken.
    ("slow consumer", Passes),
    ("stale connection", Passes),
    ("server shutdown", Passes),
    // TLS where none was spoken, a message that is none: nothing that time mends.
    ("secure connection - tls required", Stays),
    ("unknown protocol operation", Stays),
    ("parser error", Stays),
];

/// What becomes of an error reply of Redis.
pub(crate) fn redis(text: &str) -> Outlook {
    REDIS.iter().find(|(begins, _)| text.starts_with(begins)).map_or(Passes, |(_, outlook)| *outlook)
}

/// What becomes of a NATS server's `-ERR`, without its quotes.
pub(crate) fn nats(text: &str) -> Outlook {
    let begins =
        |words: &str| text.split_at_checked(words.len()).is_some_and(|(head, _)| head.eq_ignore_ascii_case(words));
    NATS.iter().find(|(words, _)| begins(words)).map_or(Passes, |(_, outlook)| *outlook)
}

impl Outlook {
    /// What whoever wanted the subscription is told.
    pub(crate) fn of_subscription(self, reason: impl Into<String>) -> SubscribeError {
        match self {
            Passes => SubscribeError::NotNow(reason.into()),
            Stays => SubscribeError::Refused(reason.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_passes_and_what_stays() {
        for (text, outlook) in [
            ("NOPERM this user has no permissions to access one of the channels used as arguments", Stays),
            ("NOAUTH Authentication required.", Stays),
            ("OOM command not allowed when used memory > 'maxmemory'.", Passes),
            ("LOADING Redis is loading the dataset in memory", Passes),
            ("ERR max number of clients reached", Passes),
            ("ERR something new", Passes),
        ] {
            assert_eq!(redis(text), outlook, "{text}");
        }
        for (text, outlook) in [
            ("Permissions Violation for Subscription to \"a.>\"", Stays),
            ("permissions violation for publish to \"a\"", Stays),
            ("maximum subscriptions exceeded", Passes),
            ("Maximum Subscriptions Exceeded", Passes),
            ("User Authentication Expired", Passes),
            ("Maximum Payload Violation", Stays),
            ("something new", Passes),
            ("ö", Passes),
        ] {
            assert_eq!(nats(text), outlook, "{text}");
        }
    }

    /// A row that another hides would say nothing.
    #[test]
    fn each_row_is_reached() {
        assert!(REDIS.iter().all(|(begins, outlook)| redis(begins) == *outlook));
        assert!(NATS.iter().all(|(begins, outlook)| nats(&begins.to_uppercase()) == *outlook));
    }
}
