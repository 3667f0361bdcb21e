//! What the server answers, which belongs to the oldest command that waits for an answer.

use tokio::time::Instant;

use super::{Lost, Owed, Session};
use crate::{
    redis::wire::Reply,
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
            Reply::Number(_) | Reply::Bytes(_) | Reply::Null => Err(confused()),
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

    /// The oldest command was refused, all of it.
    fn refused(&mut self, text: String) -> Result<(), Lost> {
        let forbidden = text.starts_with("NOPERM");
        match self.owed.pop_front() {
            Some(Owed::Echo) if forbidden => Err(format!(
                "the server forbids the broker's own subjects: allow &{}* ({text})",
                self.shared.internal()
            )
            .into()),
            Some(Owed::Join { orders, done: 0 }) if forbidden => {
                self.joining -= orders.len();
                self.forbidden(orders, &text);
                Ok(())
            }
            Some(Owed::Join { orders, done: 0 }) if self.shared.sharded && is_about_slots(&text) => {
                self.joining -= orders.len();
                self.shared.interests.lock().misplaced(orders[0].ticket);
                self.shared.moved.notify_one();
                Ok(())
            }
            Some(Owed::Leave(_)) if self.shared.sharded && is_about_slots(&text) => Ok(()),
            // Who may not even ping has an answer all the same.
            Some(Owed::Pong) if forbidden => Ok(()),
            _ => Err(Lost::Because(text)),
        }
    }

    /// Redis refuses a whole command for one forbidden channel, without saying which: halve it until the others stand.
    ///
    /// What was given up since the command was written is not asked for once more: its UNSUBSCRIBE may be on its way already,
    /// and then nobody would ever take back what stands after it.
    fn forbidden(&mut self, mut orders: Vec<Order>, text: &str) {
        {
            let table = self.shared.interests.lock();
            orders.retain(|order| table.awaits(order.ticket));
        }
        if let [order] = orders.as_slice() {
            let stood = self.shared.interests.lock().refuse(order.ticket, text);
            if stood {
                tracing::error!(
                    reason = text,
                    "the bus forbids a subscription that stood before; asking again from time to time"
                );
            }
            return;
        }
        if orders.is_empty() {
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
