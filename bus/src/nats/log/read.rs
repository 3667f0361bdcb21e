//! Reading a stream: what an interest matches behind a sequence, by consumers that live for one read.

use std::time::Duration;

use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, PullConsumer, pull};
use clarion_protocol::{Address, Channel, Depth, Interest, LogPolicy, Message, Meta, Position, envelope};
use futures_util::StreamExt as _;

use super::{
    NatsLog,
    streams::{Known, epoch_of},
};
use crate::log::{Chunk, From, LogError, Read};

/// No read brings more.
const READ_MESSAGES: usize = 200;
/// How long the server keeps a consumer that nobody asks any more.
const CONSUMER_LIFE: Duration = Duration::from_secs(10);
/// How far back from the end the newest messages are looked for at first; four times as far each time.
const NEWEST_WINDOW: u64 = 1_000;

/// What one filter brought.
struct Found {
    messages: Vec<(u64, Channel, Message)>,
    /// How many there are in all behind the beginning.
    pending: u64,
    /// Where it was broken off.
    cut: Option<u64>,
}

fn away(error: impl std::fmt::Display) -> LogError {
    LogError::NotNow(error.to_string())
}

impl NatsLog {
    pub(super) async fn read_log(&self, read: &Read) -> Result<Chunk, LogError> {
        let (namespace, policy) = self.policy(&read.partition)?;
        let stream = self.stream(namespace, policy).await?;
        let state = &stream.cached_info().state;
        let (first, last) = (state.first_sequence, state.last_sequence);
        let up_to = read.up_to.unwrap_or(last).min(last);
        let most = read.messages.clamp(1, READ_MESSAGES);
        match read.from {
            From::After(after) => {
                let mut chunk = self.behind(&stream, read, policy, after, up_to, most).await?;
                // What was at the stream's front is gone, and nobody knows whose it was.
                chunk.lost |= after > 0 && after < up_to && after + 1 < first;
                Ok(chunk)
            }
            From::Newest(count) => {
                let count = count.clamp(1, most);
                let mut window = NEWEST_WINDOW;
                loop {
                    let after = up_to.saturating_sub(window);
                    let found = self.last_behind(&stream, read, after, up_to, count).await?;
                    if found.len() >= count || after == 0 || after < first {
                        let messages = found.into_iter().rev().take(count).rev();
                        let messages = messages.map(|(_, channel, message)| (channel, message)).collect();
                        let epoch = epoch_of(&stream);
                        return Ok(Chunk { epoch, messages, reached: up_to, end: true, lost: false });
                    }
                    window = window.saturating_mul(4);
                }
            }
        }
    }

    async fn behind(
        &self,
        stream: &Known,
        read: &Read,
        policy: LogPolicy,
        after: u64,
        up_to: u64,
        most: usize,
    ) -> Result<Chunk, LogError> {
        let epoch = epoch_of(stream);
        let mut chunk = Chunk { epoch, messages: Vec::new(), reached: up_to.max(after), end: true, lost: false };
        if after >= up_to {
            return Ok(chunk);
        }
        let (mut all, mut reached) = (Vec::new(), up_to);
        for filter in self.filters(&read.within) {
            let found = self.fetch(stream, read, &filter, after, up_to, most, read.bytes).await?;
            reached = reached.min(found.cut.unwrap_or(up_to));
            // Only where more came than a channel keeps can one have lost something.
            if found.pending > u64::from(policy.size) {
                chunk.lost |= self.was_cut(stream, &filter, policy, after).await?;
            }
            all.extend(found.messages);
        }
        all.retain(|(sequence, ..)| *sequence <= reached);
        all.sort_by_key(|(sequence, ..)| *sequence);
        if all.len() > most {
            all.truncate(most);
            reached = all.last().map_or(reached, |(sequence, ..)| *sequence);
        }
        chunk.messages = all.into_iter().map(|(_, channel, message)| (channel, message)).collect();
        (chunk.reached, chunk.end) = (reached, reached >= up_to);
        Ok(chunk)
    }

    /// The last messages behind a sequence, of all that lie there.
    async fn last_behind(
        &self,
        stream: &Known,
        read: &Read,
        mut after: u64,
        up_to: u64,
        count: usize,
    ) -> Result<Vec<(u64, Channel, Message)>, LogError> {
        let mut all = Vec::new();
        for filter in self.filters(&read.within) {
            let begin = after;
            loop {
                let found = self.fetch(stream, read, &filter, after, up_to, READ_MESSAGES, usize::MAX).await?;
                all.extend(found.messages);
                match found.cut {
                    Some(cut) => after = cut,
                    None => break,
                }
            }
            after = begin;
        }
        all.sort_by_key(|(sequence, ..)| *sequence);
        let surplus = all.len().saturating_sub(count);
        all.drain(..surplus);
        Ok(all)
    }

    /// What the subjects of an interest are: a pattern below a channel does not match the channel itself.
    fn filters(&self, within: &Interest) -> Vec<String> {
        let base = self.prefix.nats(&Address::Channel(within.base_channel()));
        match within.depth() {
            Depth::Exact => vec![base],
            Depth::Children => vec![format!("{base}.*")],
            Depth::Subtree => vec![format!("{base}.>"), base],
        }
    }

    #[expect(clippy::too_many_arguments, reason = "they are the read and its bounds")]
    async fn fetch(
        &self,
        stream: &Known,
        read: &Read,
        filter: &str,
        after: u64,
        up_to: u64,
        most: usize,
        bytes: usize,
    ) -> Result<Found, LogError> {
        let config = pull::Config {
            filter_subject: filter.to_owned(),
            deliver_policy: DeliverPolicy::ByStartSequence { start_sequence: after + 1 },
            ack_policy: AckPolicy::None,
            inactive_threshold: CONSUMER_LIFE,
            num_replicas: 1,
            memory_storage: true,
            ..pull::Config::default()
        };
        let mut consumer: PullConsumer = stream.create_consumer(config).await.map_err(away)?;
        let pending = consumer.info().await.map_err(away)?.num_pending;
        let mut found = Found { messages: Vec::new(), pending, cut: None };
        let wanted = pending.min(most as u64) as usize;
        if wanted > 0 {
            let messages = consumer.fetch().max_messages(wanted).expires(self.timeout).messages().await;
            let mut messages = messages.map_err(away)?;
            let (mut size, mut last) = (0, after);
            while let Some(message) = messages.next().await {
                let message = message.map_err(away)?;
                let sequence = message.info().map_err(away)?.stream_sequence;
                if sequence > up_to {
                    break;
                }
                size += message.payload.len();
                if size > bytes && !found.messages.is_empty() {
                    found.cut = Some(last);
                    break;
                }
                last = sequence;
                found.messages.extend(self.opened(stream, read, sequence, &message));
            }
            if found.cut.is_none() && pending > wanted as u64 && last < up_to {
                found.cut = Some(last);
            }
        }
        // It would go by itself in some seconds; storms of reads would hold many until then.
        let name = consumer.cached_info().name.clone();
        let _ = stream.delete_consumer(&name).await;
        Ok(found)
    }

    /// A message of the stream as one of the log; `None` for channels that are plain or in no form of ours.
    fn opened(
        &self,
        stream: &Known,
        read: &Read,
        sequence: u64,
        message: &async_nats::jetstream::Message,
    ) -> Option<(u64, Channel, Message)> {
        let Ok(Address::Channel(channel)) = self.prefix.from_nats(message.subject.as_str()) else { return None };
        let (namespace, _) = self.subjects.logs.of(channel.as_str())?;
        if *namespace != read.partition.namespace || !read.within.matches(channel.as_str()) {
            return None;
        }
        let pairs: Vec<(String, String)> = message
            .headers
            .iter()
            .flat_map(|headers| headers.iter())
            .flat_map(|(name, values)| values.iter().map(move |value| (name.to_string(), value.to_string())))
            .collect();
        let (id, meta) = envelope::from_headers(pairs.iter().map(|(name, value)| (name.as_str(), value.as_str())));
        let published = message.info().ok().map(|info| (info.published.unix_timestamp_nanos() / 1_000_000) as u64);
        let known = meta.map(std::sync::Arc::unwrap_or_clone).unwrap_or_default();
        let position = Position { offset: sequence, epoch: epoch_of(stream), previous: None };
        let meta = Meta { position: Some(position), time: known.time.or(published), ..known };
        Some((sequence, channel, Message { payload: message.payload.clone(), id, meta: Some(meta.into()) }))
    }

    /// Whether a channel has lost messages behind a sequence: it is full, and its first one lies behind it.
    async fn was_cut(&self, stream: &Known, filter: &str, policy: LogPolicy, after: u64) -> Result<bool, LogError> {
        let mut subjects = stream.info_with_subjects(filter).await.map_err(away)?;
        while let Some(subject) = subjects.next().await {
            let (subject, count) = subject.map_err(away)?;
            if count as u64 > u64::from(policy.size) {
                let first = stream.direct_get_first_for_subject(subject).await.map_err(away)?;
                if first.sequence > after {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }
}
