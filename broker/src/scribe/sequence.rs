//! What was heard of one partition, by names that all who hear it agree on.

use std::{collections::VecDeque, time::Duration};

use clarion_bus::log::RawName;
use clarion_protocol::{Channel, Message};
use tokio::time::Instant;

/// What may wait of one partition. Past it the oldest go, and what they were is lost unless another node has it.
const MESSAGES: usize = 20_000;
const BYTES: usize = 32 * 1024 * 1024;

/// Raw messages in their order, and the markers among them.
#[derive(Default)]
pub(super) struct Sequence {
    segments: VecDeque<Segment>,
    messages: usize,
    bytes: usize,
    /// A place of the bus's that is not known here, and since when.
    stuck: Option<(RawName, Instant)>,
    /// It is known where in it the bus is.
    placed: bool,
}

/// Where the bus is, as seen from a sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// At a place that is here, or just behind what is.
    Known,
    /// Nobody here has heard of it.
    Unknown,
}

/// What the bus is asked for next.
pub(super) struct Call {
    /// Where it goes on from.
    pub(super) from: RawName,
    pub(super) messages: Vec<(Channel, Message)>,
    /// The marker behind them, if it is the next thing.
    pub(super) marker: Option<String>,
}

/// What followed one marker.
struct Segment {
    marker: String,
    /// How many of its messages are no longer here: they were numbered.
    gone: u64,
    /// How many are still to come here that somebody else has had numbered already.
    ahead: u64,
    messages: VecDeque<(Channel, Message, Instant)>,
    since: Instant,
}

impl Sequence {
    /// A raw message. Before the first marker it has no name, and whoever heard that marker numbers it.
    pub(super) fn raw(&mut self, channel: Channel, message: Message) {
        let Some(segment) = self.segments.back_mut() else { return };
        if segment.ahead > 0 {
            segment.ahead -= 1;
        } else {
            self.messages += 1;
            self.bytes += message.payload.len();
            segment.messages.push_back((channel, message, Instant::now()));
        }
    }

    pub(super) fn marker(&mut self, marker: &str) {
        let (marker, since) = (marker.to_owned(), Instant::now());
        self.segments.push_back(Segment { marker, gone: 0, ahead: 0, messages: VecDeque::new(), since });
    }

    /// Since when there is something to call for: a message, or a marker to go on to.
    pub(super) fn waits_since(&self) -> Option<Instant> {
        let first = self.segments.front()?;
        if !self.placed {
            return Some(first.since);
        }
        let message = first.messages.front().map(|(_, _, at)| *at);
        message.or_else(|| self.segments.get(1).map(|next| next.since))
    }

    /// What is called for next. Until it is known where the bus is, a call that does nothing finds out.
    pub(super) fn next(&self, most: usize) -> Option<Call> {
        let first = self.segments.front()?;
        let from = RawName { marker: first.marker.clone(), count: first.gone };
        if !self.placed {
            return Some(Call { from, messages: Vec::new(), marker: None });
        }
        let messages: Vec<_> = first.messages.iter().take(most).map(|(c, m, _)| (c.clone(), m.clone())).collect();
        let all = messages.len() == first.messages.len();
        let marker = self.segments.get(1).filter(|_| all).map(|next| next.marker.clone());
        (!messages.is_empty() || marker.is_some()).then_some(Call { from, messages, marker })
    }

    /// Forgets what lies before a place of the bus's.
    pub(super) fn move_to(&mut self, at: &RawName) -> Place {
        let Some(place) = self.segments.iter().position(|segment| segment.marker == at.marker) else {
            self.placed = false;
            return Place::Unknown;
        };
        (self.placed, self.stuck) = (true, None);
        for _ in 0..place {
            self.drop_first();
        }
        if let Some(first) = self.segments.front_mut() {
            while first.gone < at.count {
                let Some((_, message, _)) = first.messages.pop_front() else {
                    // Numbered by somebody who hears faster: when it comes here, it is done with.
                    first.ahead += at.count - first.gone;
                    first.gone = at.count;
                    break;
                };
                first.gone += 1;
                self.messages -= 1;
                self.bytes -= message.payload.len();
            }
        }
        Place::Known
    }

    fn drop_first(&mut self) -> usize {
        let Some(segment) = self.segments.pop_front() else { return 0 };
        segment.messages.iter().for_each(|(_, message, _)| self.bytes -= message.payload.len());
        self.messages -= segment.messages.len();
        segment.messages.len()
    }

    /// Whether the bus has stood at a place that is not known here for so long.
    pub(super) fn stuck(&mut self, at: &RawName, patience: Duration) -> bool {
        match &self.stuck {
            Some((place, since)) if place == at => since.elapsed() >= patience,
            _ => {
                self.stuck = Some((at.clone(), Instant::now()));
                false
            }
        }
    }

    pub(super) fn first_marker(&self) -> Option<String> {
        self.segments.front().map(|segment| segment.marker.clone())
    }

    /// Drops the oldest until no more waits than may; how many.
    pub(super) fn shed(&mut self) -> usize {
        let mut dropped = 0;
        while (self.messages > MESSAGES || self.bytes > BYTES) && self.segments.len() > 1 {
            dropped += self.drop_first();
            self.placed = false;
        }
        dropped
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(marker: &str, count: u64) -> RawName {
        RawName { marker: marker.to_owned(), count }
    }

    fn sequence(words: &[&str]) -> Sequence {
        let mut sequence = Sequence::default();
        for word in words {
            match word.strip_prefix('#') {
                Some(marker) => sequence.marker(marker),
                None => sequence.raw(Channel::parse("a").unwrap(), Message::raw((*word).to_owned())),
            }
        }
        sequence
    }

    /// A call as text: `marker count: messages > marker`.
    fn next(sequence: &Sequence) -> Option<String> {
        let Call { from, messages, marker } = sequence.next(2)?;
        let texts: Vec<_> = messages.iter().map(|(_, m)| String::from_utf8_lossy(&m.payload).into_owned()).collect();
        let marker = marker.map(|marker| format!(" > {marker}")).unwrap_or_default();
        Some(format!("{} {}: {}{marker}", from.marker, from.count, texts.join(" ")))
    }

    fn call(text: &str) -> Option<String> {
        Some(text.to_owned())
    }

    #[test]
    fn messages_are_named_by_the_marker_before_them() {
        let mut it = sequence(&["lost", "#m", "1", "2", "3", "#n", "4"]);
        assert_eq!(next(&it), call("m 0: "), "first it is asked where the bus is");
        assert_eq!(it.move_to(&name("m", 0)), Place::Known);
        assert_eq!(next(&it), call("m 0: 1 2"));
        it.move_to(&name("m", 2));
        assert_eq!(next(&it), call("m 2: 3 > n"));
        it.move_to(&name("n", 0));
        assert_eq!(next(&it), call("n 0: 4"));
        it.move_to(&name("n", 1));
        assert_eq!((next(&it), it.waits_since(), it.messages, it.bytes), (None, None, 0, 0));
    }

    #[test]
    fn what_another_node_had_numbered_is_done_with_also_before_it_comes() {
        let mut it = sequence(&["#m", "1"]);
        it.move_to(&name("m", 3));
        for word in ["2", "3", "4"] {
            it.raw(Channel::parse("a").unwrap(), Message::raw(word));
        }
        assert_eq!(next(&it), call("m 3: 4"));
        assert_eq!(it.move_to(&name("older", 7)), Place::Unknown);
        assert!(!it.stuck(&name("older", 7), Duration::ZERO) && it.stuck(&name("older", 7), Duration::ZERO));
    }
}
