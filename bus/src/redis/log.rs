//! The logs on Redis: a function library that appends, numbers, drops repeats and publishes in one atomic step.

use std::{collections::HashMap, sync::Arc};

use async_trait::async_trait;
use clarion_protocol::{
    Address, Channel, CursorKey, Depth, Epoch, Interest, LogPolicy, Logs, Message, MessageId, Partition, Position,
    Prefix, Publication, Uid, channel::RESERVED_PREFIX, envelope,
};
use fred::types::{ClusterHash, CustomCommand, Value};
use futures_util::future::join_all;
use parking_lot::Mutex;

use super::publish::{Failed, Publisher};
use crate::{
    PublishError, Receipt,
    log::{Chunk, From, Log, LogError, Marks, Numbering, RawName, Read, Store, Top},
};

/// The library's source. Its version is compared with the one that a server has.
const LIBRARY: &str = include_str!("log/functions.lua");
/// The version of [`LIBRARY`].
const VERSION: i64 = 1;
/// Messages of one partition that go into one call: at some 10 µs each Redis is busy for less than a millisecond.
const CALL_MESSAGES: usize = 50;
/// Channels that one reading call looks at.
const CALL_CHANNELS: usize = 50;
/// Names that one look into a partition's channels brings.
const NAMES: usize = 256;
/// Channels with news that a pattern is read of at once. Of more, its readers are told that messages are missing.
const MOST_CHANNELS: usize = 10_000;
/// No read brings more.
const READ_MESSAGES: usize = 200;

/// The logs of one Redis.
pub(super) struct RedisLog {
    publisher: Arc<Publisher>,
    logs: Logs,
    prefix: Prefix,
    max_payload: usize,
    /// For each partition the connection for which its server was seen to have the library.
    ready: Mutex<HashMap<Partition, u64>>,
}

/// Messages of one partition that go into one call.
struct Run {
    partition: Partition,
    /// Where they stand among all.
    places: Vec<usize>,
    words: Vec<Value>,
    ids: Vec<MessageId>,
}

impl RedisLog {
    pub(super) fn new(publisher: Arc<Publisher>, logs: Logs, prefix: Prefix, max_payload: usize) -> Self {
        Self { publisher, logs, prefix, max_payload, ready: Mutex::default() }
    }

    /// Whether messages of this address are stored.
    pub(super) fn keeps(&self, address: &Address) -> bool {
        matches!(address, Address::Channel(channel) if self.logs.of(channel.as_str()).is_some())
    }

    /// Stores and publishes messages of logged channels, in their order within each partition; a result for each.
    pub(super) async fn append_all(&self, publications: Vec<&mut Publication>) -> Vec<Result<Receipt, PublishError>> {
        let mut results: Vec<Option<Result<Receipt, PublishError>>> = publications.iter().map(|_| None).collect();
        let mut runs: Vec<Run> = Vec::new();
        for (at, publication) in publications.into_iter().enumerate() {
            let bytes = publication.message.payload.len();
            if bytes > self.max_payload {
                results[at] = Some(Err(PublishError::TooLarge { bytes, limit: self.max_payload }));
                continue;
            }
            let Address::Channel(channel) = &publication.address else { continue };
            let Some(partition) = self.logs.partition(channel.as_str()) else { continue };
            let subject = self.prefix.redis(&publication.address);
            let channel = Value::from(channel.as_str());
            let id = publication.identify();
            let words = [Value::from(subject), channel, Value::Bytes(envelope::seal(&publication.message))];
            // Calls for one partition leave in their order, as all that is sent on one connection does.
            let open = runs.iter_mut().rev().find(|run| run.partition == partition);
            match open.filter(|run| run.places.len() < CALL_MESSAGES) {
                Some(run) => {
                    run.places.push(at);
                    run.words.extend(words);
                    run.ids.push(id);
                }
                None => runs.push(Run { partition, places: vec![at], words: words.into(), ids: vec![id] }),
            }
        }
        let calls = runs.iter_mut().map(|run| {
            self.append_run(run.partition.clone(), std::mem::take(&mut run.words), std::mem::take(&mut run.ids))
        });
        let answers = join_all(calls).await;
        for (run, answers) in runs.into_iter().zip(answers) {
            for (place, answer) in run.places.into_iter().zip(answers) {
                results[place] = Some(answer);
            }
        }
        let lost = || Err(PublishError::Refused("its channel has no log".to_owned()));
        results.into_iter().map(|result| result.unwrap_or_else(lost)).collect()
    }

    async fn append_run(
        &self,
        partition: Partition,
        words: Vec<Value>,
        ids: Vec<MessageId>,
    ) -> Vec<Result<Receipt, PublishError>> {
        let Some(policy) = self.policy(&partition) else {
            return ids.iter().map(|_| Err(PublishError::Refused("its channel has no log".to_owned()))).collect();
        };
        let head = [Value::from(policy.size.to_string()), Value::from(policy.age.as_millis().to_string())];
        let args = head.into_iter().chain(words).collect();
        match self.call(&partition, "clarion_append", args).await {
            Ok(answer) => {
                let mut answers = list(answer).into_iter();
                let receipt = |id| match answers.next().and_then(position) {
                    Some(position) => Ok(Receipt { id, position: Some(position) }),
                    None => Err(PublishError::Unknown("the log's answer cannot be read".to_owned())),
                };
                ids.into_iter().map(receipt).collect()
            }
            Err(failed) => ids.iter().map(|_| Err(failed.clone().into())).collect(),
        }
    }

    fn policy(&self, partition: &Partition) -> Option<LogPolicy> {
        let mut logged = self.logs.logged();
        logged.find(|(namespace, _)| **namespace == partition.namespace).map(|(_, policy)| policy)
    }

    /// What a partition's keys begin with. All of it lies in one slot.
    fn key(&self, partition: &Partition) -> String {
        format!("{{{}:{partition}}}", self.prefix)
    }

    fn own(&self, name: &str) -> String {
        format!("{RESERVED_PREFIX}:{}:{name}", self.prefix)
    }

    /// Calls a function for a partition. The library is loaded where it is missing, and on each new connection looked at first.
    async fn call(&self, partition: &Partition, function: &'static str, args: Vec<Value>) -> Result<Value, Failed> {
        let epoch = self.publisher.epoch();
        let key = self.key(partition);
        if self.ready.lock().get(partition) != Some(&epoch) {
            self.prepare(&key).await?;
            self.ready.lock().insert(partition.clone(), epoch);
        }
        self.call_at(key, function, args).await
    }

    /// The same for any key.
    async fn call_at(&self, key: String, function: &'static str, args: Vec<Value>) -> Result<Value, Failed> {
        match self.publisher.call(function, key.clone(), args.clone()).await {
            // Flushed meanwhile, or another master.
            Err(Failed::NotSent(text) | Failed::Refused(text)) if is_missing(&text) => {
                self.load(&key).await?;
                self.publisher.call(function, key, args).await
            }
            result => result,
        }
    }

    /// Sees to it that the server of a key has the library in this version.
    async fn prepare(&self, key: &str) -> Result<(), Failed> {
        match self.publisher.call("clarion_version", key.to_owned(), Vec::new()).await {
            Ok(Value::Integer(version)) if version > VERSION => {
                return Err(Failed::Refused(format!(
                    "the function library `clarion` on this Redis is of version {version}, and this node knows {VERSION}: update the node"
                )));
            }
            Ok(Value::Integer(VERSION)) => {}
            Ok(_) => self.load(key).await?,
            Err(Failed::NotSent(text) | Failed::Refused(text)) if is_missing(&text) => self.load(key).await?,
            Err(failed) => return Err(failed),
        }
        self.write_policies().await;
        Ok(())
    }

    async fn load(&self, key: &str) -> Result<(), Failed> {
        let slot = redis_protocol::redis_keyslot(key.as_bytes());
        let command = CustomCommand::new_static("FUNCTION", ClusterHash::Custom(slot), false);
        let args = ["LOAD", "REPLACE", LIBRARY].map(Value::from_static_str).into();
        self.publisher.command(command, args).await.map(drop).map_err(|failed| match failed {
            Failed::Refused(text) if text.starts_with("ERR unknown command") => {
                Failed::Refused("logs need functions: Redis 7 or newer, or Valkey".to_owned())
            }
            failed => failed,
        })
    }

    /// Tells backends' `clarion_publish` which namespaces are logged. Without it they are told that theirs is not.
    async fn write_policies(&self) {
        let mut args = vec![Value::from(self.own("logs"))];
        for (namespace, policy) in self.logs.all() {
            args.push(Value::from(namespace.as_str()));
            args.push(Value::from(policy.map_or_else(
                || "-".to_owned(),
                |policy| format!("{} {} {}", policy.size, policy.age.as_millis(), policy.partitions),
            )));
        }
        let command = CustomCommand::new_static("HSET", ClusterHash::FirstKey, false);
        if let Err(failed) = self.publisher.command(command, args).await {
            tracing::warn!(
                ?failed,
                "backends cannot publish by clarion_publish: the namespaces could not be written down"
            );
        }
    }

    /// The channels of a partition with news behind an offset that a pattern matches; `None` where there are too many.
    async fn channels(
        &self,
        partition: &Partition,
        within: &Interest,
        after: u64,
    ) -> Result<Option<Vec<Channel>>, Failed> {
        let (mut found, mut behind) = (Vec::new(), after);
        loop {
            let page = self.names(partition, &format!("({behind}"), "+inf", false).await?;
            let Some((_, last)) = page.last() else { return Ok(Some(found)) };
            behind = *last;
            let whole = page.len() == NAMES;
            found.extend(page.into_iter().map(|(channel, _)| channel).filter(|c| within.matches(c.as_str())));
            if found.len() > MOST_CHANNELS {
                return Ok(None);
            }
            if !whole {
                return Ok(Some(found));
            }
        }
    }

    /// The channels that the newest messages up to an offset lie in, and behind which offset all of those lie.
    async fn newest(
        &self,
        partition: &Partition,
        within: &Interest,
        up_to: u64,
        count: usize,
    ) -> Result<(Vec<Channel>, u64), Failed> {
        let (mut found, mut before, mut counted) = (Vec::new(), "+inf".to_owned(), 0);
        loop {
            let page = self.names(partition, "-inf", &before, true).await?;
            let Some((_, last)) = page.last() else { return Ok((found, 0)) };
            before = format!("({last}");
            let whole = page.len() == NAMES;
            for (channel, last) in page.into_iter().filter(|(channel, _)| within.matches(channel.as_str())) {
                found.push(channel);
                // Each channel has its last message, so the newest `count` lie behind the last one of the `count`th.
                counted += usize::from(last <= up_to);
                if counted == count {
                    return Ok((found, last - 1));
                }
            }
            if !whole || found.len() > MOST_CHANNELS {
                return Ok((found, 0));
            }
        }
    }

    /// A page of a partition's channels by their last offsets.
    async fn names(
        &self,
        partition: &Partition,
        low: &str,
        high: &str,
        descending: bool,
    ) -> Result<Vec<(Channel, u64)>, Failed> {
        let key = format!("{}:channels", self.key(partition));
        let (word, bounds) =
            if descending { ("ZREVRANGEBYSCORE", [high, low]) } else { ("ZRANGEBYSCORE", [low, high]) };
        let count = NAMES.to_string();
        let words = [bounds[0], bounds[1], "WITHSCORES", "LIMIT", "0", &count];
        let args = std::iter::once(Value::from(key)).chain(words.map(Value::from)).collect();
        let answer =
            self.publisher.command(CustomCommand::new_static(word, ClusterHash::FirstKey, false), args).await?;
        let flat = list(answer);
        let pair = |pair: &[Value]| Some((Channel::parse(&pair[0].as_string()?).ok()?, number(&pair[1])?));
        Ok(flat.chunks_exact(2).filter_map(pair).collect())
    }

    /// Reads channels between two offsets. What could not be read of one for want of room ends the whole there.
    async fn read_channels(
        &self,
        read: &Read,
        top: &Top,
        channels: &[Channel],
        window: Window,
    ) -> Result<Chunk, LogError> {
        let Window { after, up_to, newest, most } = window;
        let age = self.policy(&read.partition).map_or(0, |policy| policy.age.as_millis());
        // Each channel comes forward by a message at least, and so does the whole.
        let share = channels.len().max(1);
        let (each, bytes) = if newest { (most, read.bytes) } else { (most.div_ceil(share), read.bytes / share) };
        let calls = channels.chunks(CALL_CHANNELS).map(|channels| {
            let head = [
                after.to_string(),
                up_to.to_string(),
                if newest { "last" } else { "first" }.to_owned(),
                each.to_string(),
                bytes.to_string(),
                age.to_string(),
            ];
            let names = channels.iter().map(|channel| Value::from(channel.as_str()));
            self.call(&read.partition, "clarion_read", head.into_iter().map(Value::from).chain(names).collect())
        });
        let (mut messages, mut reached, mut lost) = (Vec::new(), up_to, false);
        for (channels, answer) in channels.chunks(CALL_CHANNELS).zip(join_all(calls).await) {
            for (channel, part) in channels.iter().zip(list(answer?)) {
                let mut part = list(part).into_iter();
                lost |= part.next().and_then(|lost| number(&lost)) == Some(1);
                reached = reached.min(part.next().and_then(|reached| number(&reached)).unwrap_or(after));
                let found = part.next().map(list).unwrap_or_default();
                let open = |message: Value| envelope::open(message.into_bytes()?).ok();
                messages.extend(found.into_iter().filter_map(open).map(|message| (channel.clone(), message)));
            }
        }
        messages.sort_by_key(|(_, message)| offset(message));
        let mut end = reached >= up_to;
        if newest {
            messages.drain(..messages.len().saturating_sub(most));
            (reached, end, lost) = (up_to, true, false);
        } else {
            messages.retain(|(_, message)| offset(message) <= reached);
            if messages.len() > most {
                messages.truncate(most);
                (reached, end) = (messages.last().map_or(reached, |(_, message)| offset(message)), false);
            }
        }
        Ok(Chunk { epoch: top.epoch.clone(), messages, reached, end, lost })
    }

    async fn top(&self, partition: &Partition) -> Result<(Top, Leap), LogError> {
        let answer = list(self.call(partition, "clarion_top", Vec::new()).await?);
        let unreadable = || LogError::NotNow("the log's answer cannot be read".to_owned());
        let [epoch, last, leap] = &answer[..] else { return Err(unreadable()) };
        let epoch = epoch.as_string().and_then(|epoch| Epoch::parse(&epoch).ok()).ok_or_else(unreadable)?;
        let offset = number(last).ok_or_else(unreadable)?;
        let leap = leap.as_string().unwrap_or_default();
        let leap =
            leap.split_once(' ').and_then(|(from, to)| Some(Leap { from: from.parse().ok()?, to: to.parse().ok()? }));
        Ok((Top { epoch, offset }, leap.unwrap_or_default()))
    }
}

/// The offsets between which nothing was given, when another server went on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Leap {
    from: u64,
    to: u64,
}

impl Leap {
    /// Whether somebody who has come this far has heard messages that the server which went on never got.
    fn lost_behind(self, after: u64) -> bool {
        self.from < after && after < self.to
    }
}

/// What of a channel is read.
struct Window {
    after: u64,
    up_to: u64,
    newest: bool,
    /// At most so many messages.
    most: usize,
}

#[async_trait]
impl Log for RedisLog {
    async fn tops(&self, partitions: &[Partition]) -> Result<Vec<Top>, LogError> {
        let tops = join_all(partitions.iter().map(|partition| self.top(partition))).await;
        tops.into_iter().map(|top| top.map(|(top, _)| top)).collect()
    }

    async fn read(&self, read: &Read) -> Result<Chunk, LogError> {
        let (top, leap) = self.top(&read.partition).await?;
        let up_to = read.up_to.unwrap_or(top.offset).min(top.offset);
        let most = read.messages.clamp(1, READ_MESSAGES);
        let (after, newest, most) = match read.from {
            From::After(after) => (after, false, most),
            From::Newest(count) => (0, true, count.clamp(1, most)),
        };
        let empty =
            Chunk { epoch: top.epoch.clone(), messages: Vec::new(), reached: after.max(up_to), end: true, lost: false };
        let lost = !newest && leap.lost_behind(after);
        if after >= up_to && !newest {
            return Ok(Chunk { lost, ..empty });
        }
        let exact = read.within.depth() == Depth::Exact;
        let (channels, floor) = match read.from {
            _ if exact => (Some(vec![read.within.base_channel()]), after),
            From::After(after) => (self.channels(&read.partition, &read.within, after).await?, after),
            From::Newest(_) => {
                let (channels, floor) = self.newest(&read.partition, &read.within, up_to, most).await?;
                (Some(channels), floor)
            }
        };
        let Some(channels) = channels else { return Ok(Chunk { lost: true, ..empty }) };
        let mut chunk = self.read_channels(read, &top, &channels, Window { after: floor, up_to, newest, most }).await?;
        // Of a channel that has expired as a whole no name is left, so a pattern's readers are judged by the time alone.
        chunk.lost |= lost || (!newest && !exact && self.is_too_old(&read.partition, after, &top));
        Ok(chunk)
    }

    async fn cursor_key(&self) -> Result<CursorKey, LogError> {
        let key = self.own("cursor-key");
        let new: String = (0..16).map(|_| format!("{:02x}", rand::random::<u8>())).collect();
        let args = [key.as_str(), &new, "NX"].map(Value::from).into();
        self.publisher.command(CustomCommand::new_static("SET", ClusterHash::FirstKey, false), args).await?;
        let get = CustomCommand::new_static("GET", ClusterHash::FirstKey, false);
        let found = self.publisher.command(get, vec![Value::from(key)]).await?;
        let unreadable =
            || LogError::Refused(format!("`{}` on this Redis is no key of cursors: delete it", self.own("cursor-key")));
        let text = found.as_string().filter(|text| text.len() == 32).ok_or_else(unreadable)?;
        let mut bytes = [0; 16];
        for (byte, at) in bytes.iter_mut().zip((0..32).step_by(2)) {
            *byte = text.get(at..at + 2).and_then(|pair| u8::from_str_radix(pair, 16).ok()).ok_or_else(unreadable)?;
        }
        Ok(CursorKey::new(bytes))
    }
}

impl RedisLog {
    /// Whether something behind this offset may have expired with its channel: offsets are times.
    fn is_too_old(&self, partition: &Partition, after: u64, top: &Top) -> bool {
        let age = self.policy(partition).map_or(0, |policy| policy.age.as_micros() as u64);
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        after > 0 && after < top.offset && after < (now.as_micros() as u64).saturating_sub(age)
    }
}

#[async_trait]
impl Numbering for RedisLog {
    async fn number(
        &self,
        partition: &Partition,
        from: &RawName,
        messages: &[(Channel, Message)],
        marker: Option<&str>,
    ) -> Result<RawName, LogError> {
        let policy = self.policy(partition).ok_or_else(|| LogError::Refused("it has no log".to_owned()))?;
        let from = if from.marker.is_empty() { String::new() } else { format!("{} {}", from.marker, from.count) };
        let head =
            [policy.size.to_string(), policy.age.as_millis().to_string(), from, marker.unwrap_or_default().to_owned()];
        let words = messages.iter().flat_map(|(channel, message)| {
            let subject = self.prefix.redis(&Address::Channel(channel.clone()));
            [Value::from(subject), Value::from(channel.as_str()), Value::Bytes(envelope::seal(message))]
        });
        let args = head.into_iter().map(Value::from).chain(words).collect();
        let answer = self.call(partition, "clarion_number", args).await?.as_string().unwrap_or_default();
        let (marker, count) = answer.split_once(' ').unwrap_or_default();
        Ok(RawName { marker: marker.to_owned(), count: count.parse().unwrap_or_default() })
    }
}

#[async_trait]
impl Store for RedisLog {
    async fn marks(&self, user: &Uid) -> Result<Marks, LogError> {
        let args = [self.own(&format!("read:{user}")).as_str(), "epoch", "up_to", "also"].map(Value::from).into();
        let command = CustomCommand::new_static("HMGET", ClusterHash::FirstKey, false);
        Ok(marks(&list(self.publisher.command(command, args).await?)))
    }

    async fn mark(&self, user: &Uid, read: &Marks) -> Result<Marks, LogError> {
        let Some(epoch) = &read.epoch else { return self.marks(user).await };
        let head = [epoch.to_string(), read.up_to.to_string(), Marks::MOST.to_string()];
        let args = head.into_iter().chain(read.also.iter().map(ToString::to_string)).map(Value::from).collect();
        let answer = self.call_at(self.own(&format!("read:{user}")), "clarion_mark", args).await?;
        Ok(marks(&list(answer)))
    }
}

fn marks(answer: &[Value]) -> Marks {
    let text = |at: usize| answer.get(at).and_then(Value::as_string).unwrap_or_default();
    Marks {
        epoch: Epoch::parse(&text(0)).ok(),
        up_to: text(1).parse().unwrap_or_default(),
        also: text(2).split(' ').filter_map(|offset| offset.parse().ok()).collect(),
    }
}

impl std::convert::From<Failed> for LogError {
    fn from(failed: Failed) -> Self {
        match failed {
            Failed::NotSent(text) | Failed::Unknown(text) => Self::NotNow(text),
            Failed::Refused(text) => Self::Refused(text),
        }
    }
}

/// Whether a server says that it does not have the library.
fn is_missing(text: &str) -> bool {
    text.contains("Function not found")
}

fn list(value: Value) -> Vec<Value> {
    if let Value::Array(values) = value { values } else { Vec::new() }
}

fn number(value: &Value) -> Option<u64> {
    value.as_string()?.parse().ok()
}

/// `epoch, offset, previous, repeat` as a position.
fn position(answer: Value) -> Option<Position> {
    let answer = list(answer);
    let epoch = Epoch::parse(&answer.first()?.as_string()?).ok()?;
    Some(Position { epoch, offset: number(answer.get(1)?)?, previous: number(answer.get(2)?) })
}

fn offset(message: &Message) -> u64 {
    message.meta.as_ref().and_then(|meta| meta.position.as_ref()).map_or(0, |position| position.offset)
}
