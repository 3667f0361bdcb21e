//! What the server answers, which belongs to the oldest command that waits for an answer.

use tokio::time::Instant;

use super::{Lost, Owed, Session};
use crate::{
    redis::{dial::DialError, role::Role, wire::Reply},
    refusal,
    table::{Order, Reach},
};

impl Session {
    /// An answer, which belongs to the oldest command that waits for one.
    pub(super) fn answered(&mut self, reply: Reply) -> Result<(), Lost> {
        self.owes_since = Instant::now();
        match reply {
            Reply::Error(text) => self.refused(text),
            Reply::Line(_) => self.pong(),
            Reply::Array(words) => match words.first().and_then(Reply::as_str) {
                Some("subscribe" | "psubscribe" | "ssubscribe") => self.joined(name(&words)),
                Some("unsubscribe" | "punsubscribe") => self.left(),
                Some("sunsubscribe") => self.left_shard(name(&words)),
                Some("pong") => self.pong(),
                _ => Err(confused()),
            },
            Reply::Map(_) => self.told_role(Role::of_reply(&reply)),
            Reply::Number(_) | Reply::Bytes(_) | Reply::Null => Err(confused()),
        }
    }

    /// The server has said what it is.
    fn told_role(&mut self, role: Role) -> Result<(), Lost> {
        let Some(Owed::Role) = self.owed.front() else { return Err(confused()) };
        self.owed.pop_front();
        match role {
            Role::Replica => Err(Lost::Because(DialError::Replica(self.server.clone()).to_string())),
            Role::Master | Role::Unknown => Ok(()),
        }
    }

    fn joined(&mut self, subject: &[u8]) -> Result<(), Lost> {
        match self.owed.front_mut() {
            Some(Owed::Echo) => {
                self.echo_stands = true;
                self.owed.pop_front();
            }
            Some(Owed::Join { orders, done }) if self.shared.subject(&orders[*done]).as_bytes() == subject => {
                let ticket = orders[*done].ticket;
                *done += 1;
                if *done == orders.len() {
                    self.owed.pop_front();
                }
                self.joining -= 1;
                self.missed |= self.shared.interests.lock().stood(ticket);
            }
            _ => return Err(confused()),
        }
        Ok(())
    }

    fn left(&mut self) -> Result<(), Lost> {
        let Some(Owed::Leave(count)) = self.owed.front_mut() else { return Err(confused()) };
        *count -= 1;
        if *count == 0 {
            self.owed.pop_front();
        }
        Ok(())
    }

    fn pong(&mut self) -> Result<(), Lost> {
        let Some(Owed::Pong) = self.owed.front() else { return Err(confused()) };
        self.owed.pop_front();
        Ok(())
    }

    /// Either our own, or the server's word that this channel's slot has moved away.
    fn left_shard(&mut self, subject: &[u8]) -> Result<(), Lost> {
        if let Ok(address) = self.shared.prefix.from_redis(subject)
            && self.shared.interests.lock().dropped(&address, self.lane)
        {
            self.shared.moved.notify_one();
            return Ok(());
        }
        if subject == self.echo.subject().as_bytes() {
            self.shared.moved.notify_one();
            return Err(Lost::Because("the slot of the probe has moved".to_owned()));
        }
        if matches!(self.owed.front(), Some(Owed::Leave(_))) { self.left() } else { Ok(()) }
    }

    /// The oldest command was refused, all of it. Whoever refuses is alive: the link goes on without what it does not need.
    fn refused(&mut self, text: String) -> Result<(), Lost> {
        match self.owed.pop_front() {
            // Without it nobody would know whether the link brings anything.
            Some(Owed::Echo) if text.starts_with("NOPERM") => Err(format!(
                "the server forbids the broker's own subjects: allow &{}* ({text})",
                self.shared.internal()
            )
            .into()),
            Some(Owed::Echo) | None => Err(Lost::Because(text)),
            Some(Owed::Join { orders, done: 0 }) if self.shared.sharded && is_about_slots(&text) => {
                self.joining -= orders.len();
                self.shared.interests.lock().misplaced(orders[0].ticket);
                self.shared.moved.notify_one();
                Ok(())
            }
            Some(Owed::Join { orders, done: 0 }) => {
                self.joining -= orders.len();
                self.declined(orders, &text);
                Ok(())
            }
            // A command is refused as a whole, before any of it is acknowledged.
            Some(Owed::Join { .. }) => Err(confused()),
            Some(Owed::Leave(_)) => {
                if !(self.shared.sharded && is_about_slots(&text)) {
                    tracing::warn!(
                        reason = text,
                        "the bus does not take back a subscription; what comes for it is dropped"
                    );
                }
                Ok(())
            }
            Some(Owed::Pong | Owed::Role) => Ok(()),
        }
    }

    /// An ACL's pattern allows the channels that it matches, but of patterns only the one that reads as it does.
    fn with_remedy(&self, orders: &[Order], text: &str) -> String {
        match orders {
            [order] if order.reach == Reach::Below && text.starts_with("NOPERM") => {
                let pattern = self.shared.subject(order);
                format!("{text} (a pattern must be in the ACL letter for letter: &{pattern})")
            }
            _ => text.to_owned(),
        }
    }

    /// Redis refuses a whole command for one forbidden channel, without saying which: halve it until the others stand.
    ///
    /// What was given up since the command was written is not asked for once more: its UNSUBSCRIBE may be on its way already,
    /// and then nobody would ever take back what stands after it. What is not about a channel is the same for each.
    fn declined(&mut self, mut orders: Vec<Order>, text: &str) {
        {
            let table = self.shared.interests.lock();
            orders.retain(|order| table.awaits(order.ticket));
        }
        if orders.len() < 2 || !text.starts_with("NOPERM") {
            let error = refusal::redis(text).of_subscription(self.with_remedy(&orders, text));
            let mut interests = self.shared.interests.lock();
            let stood = orders.iter().filter(|order| interests.refuse(order.ticket, &error)).count();
            if stood > 0 {
                tracing::error!(
                    reason = text,
                    stood,
                    "the bus refuses subscriptions that stood before; asking again from time to time"
                );
            }
            return;
        }
        let half = orders.split_off(orders.len() / 2);
        let word = if orders[0].reach == Reach::Below { "PSUBSCRIBE" } else { self.words().0 };
        self.join(word, orders);
        self.join(word, half);
    }
}

/// The channel or pattern that an answer is about.
fn name(words: &[Reply]) -> &[u8] {
    words.get(1).and_then(Reply::as_bytes).unwrap_or_default()
}

/// Whether a shard says that it is not, or not yet, the one to ask.
fn is_about_slots(text: &str) -> bool {
    ["MOVED", "ASK", "TRYAGAIN", "CLUSTERDOWN"].iter().any(|word| text.starts_with(word))
}

fn confused() -> Lost {
    Lost::Because("the server's answers do not fit what it was asked".to_owned())
}
