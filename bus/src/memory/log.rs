//! The logs of a bus in memory: a deque for each channel, bounded in messages and in age.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use async_trait::async_trait;
use clarion_protocol::{
    Channel, CursorKey, Depth, Epoch, Interest, LogPolicy, Logs, Message, MessageId, Meta, Partition, Position, Uid,
    limits,
};
use tokio::time::Instant;

use super::Memory;
use crate::log::{Chunk, From, Log, LogError, Marks, Read, Store, Top};

/// No read brings more, whatever is asked for.
const READ_MESSAGES: usize = 1_000;

/// What a server keeps.
#[derive(Debug)]
pub(super) struct Kept {
    key: CursorKey,
    partitions: HashMap<Partition, Part>,
    marks: HashMap<Uid, Marks>,
}

/// One partition.
#[derive(Debug)]
struct Part {
    epoch: Epoch,
    top: u64,
    channels: BTreeMap<Channel, Line>,
    /// Channels by their last offset: the first are the first to expire.
    by_last: BTreeMap<u64, Channel>,
    /// Ids within the window, oldest first, and where their messages are.
    ids: HashMap<(Channel, MessageId), Position>,
    window: VecDeque<(Instant, Channel, MessageId)>,
    /// The last offset of all channels that were forgotten as a whole.
    forgotten: u64,
}

/// The messages of one channel.
#[derive(Debug, Default)]
struct Line {
    messages: VecDeque<(Instant, Message)>,
    last: u64,
    /// The last offset that is kept no more.
    cut: u64,
}

impl Kept {
    pub(super) fn new() -> Self {
        Self { key: CursorKey::new(rand::random()), partitions: HashMap::new(), marks: HashMap::new() }
    }

    /// Stores a message and gives it its place, or the place of the first with its id; `true` if it is new.
    pub(super) fn append(&mut self, logs: &Logs, channel: &Channel, message: &mut Message) -> Option<(Position, bool)> {
        let (_, policy) = logs.of(channel.as_str())?;
        let part = self.part(logs.partition(channel.as_str())?);
        Some(part.append(policy, channel, message))
    }

    fn part(&mut self, partition: Partition) -> &mut Part {
        self.partitions.entry(partition).or_insert_with(Part::new)
    }
}

impl Part {
    fn new() -> Self {
        let epoch = Epoch::parse(&format!("{:011x}", rand::random::<u64>() >> 20)).expect("hexadecimal digits");
        Self {
            epoch,
            top: 0,
            channels: BTreeMap::new(),
            by_last: BTreeMap::new(),
            ids: HashMap::new(),
            window: VecDeque::new(),
            forgotten: 0,
        }
    }

    fn append(&mut self, policy: LogPolicy, channel: &Channel, message: &mut Message) -> (Position, bool) {
        let now = Instant::now();
        self.expire(policy.age, now);
        let id = message.id.clone().map(|id| (channel.clone(), id));
        if let Some(first) = id.as_ref().and_then(|id| self.ids.get(id)) {
            return (first.clone(), false);
        }
        self.top += 1;
        let line = self.channels.entry(channel.clone()).or_default();
        self.by_last.remove(&line.last);
        let position = Position { offset: self.top, epoch: self.epoch.clone(), previous: Some(line.last) };
        let time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64;
        let known = message.meta.as_deref().cloned().unwrap_or_default();
        message.meta = Some(Meta { position: Some(position.clone()), time: known.time.or(Some(time)), ..known }.into());
        line.messages.push_back((now, message.clone()));
        line.last = self.top;
        while line.messages.len() > policy.size as usize {
            line.cut();
        }
        self.by_last.insert(self.top, channel.clone());
        if let Some(id) = id {
            self.window.push_back((now, id.0.clone(), id.1.clone()));
            self.ids.insert(id, position.clone());
        }
        (position, true)
    }

    /// Forgets what is too old: messages at the front of channels whose last one is, and ids.
    fn expire(&mut self, age: Duration, now: Instant) {
        while let Some((last, channel)) = self.by_last.first_key_value() {
            let line = &self.channels[channel];
            if line.messages.back().is_some_and(|(at, _)| now.duration_since(*at) <= age) {
                break;
            }
            let (last, channel) = (*last, channel.clone());
            self.by_last.remove(&last);
            self.channels.remove(&channel);
            self.forgotten = self.forgotten.max(last);
        }
        while self.window.front().is_some_and(|(at, ..)| now.duration_since(*at) > limits::REPEAT_WINDOW) {
            let (_, channel, id) = self.window.pop_front().expect("it has a front");
            self.ids.remove(&(channel, id));
        }
    }

    fn read(&mut self, age: Duration, read: &Read) -> Chunk {
        let now = Instant::now();
        self.expire(age, now);
        let up_to = read.up_to.unwrap_or(self.top).min(self.top);
        let after = if let From::After(after) = read.from { after } else { 0 };
        let (mut found, mut cut) = (Vec::new(), self.forgotten);
        for (channel, line) in self.channels.range_mut(start(&read.within)..) {
            if !channel.as_str().starts_with(read.within.base()) {
                break;
            }
            if !read.within.matches(channel.as_str()) {
                continue;
            }
            while line.messages.front().is_some_and(|(at, _)| now.duration_since(*at) > age) {
                line.cut();
            }
            cut = cut.max(line.cut);
            let wanted = |message: &&(Instant, Message)| (after + 1..=up_to).contains(&offset(&message.1));
            found.extend(line.messages.iter().filter(wanted).map(|(_, message)| (channel.clone(), message.clone())));
        }
        found.sort_by_key(|(_, message)| offset(message));
        let most = read.messages.clamp(1, READ_MESSAGES);
        if let From::Newest(count) = read.from {
            found.drain(..found.len().saturating_sub(count.min(most)));
        }
        let mut bytes = 0;
        let fits = |(_, message): &(Channel, Message)| {
            bytes += message.payload.len();
            bytes <= read.bytes || bytes == message.payload.len()
        };
        let count = found
            .iter()
            .take(most)
            .take_while({
                let mut fits = fits;
                move |one| fits(one)
            })
            .count();
        let end = count == found.len();
        found.truncate(count);
        let reached = if end { up_to } else { found.last().map_or(up_to, |(_, message)| offset(message)) };
        let lost = matches!(read.from, From::After(after) if after < cut);
        Chunk { epoch: self.epoch.clone(), messages: found, reached: reached.max(after), end, lost }
    }
}

impl Line {
    /// Lets the oldest go.
    fn cut(&mut self) {
        if let Some((_, message)) = self.messages.pop_front() {
            self.cut = self.cut.max(offset(&message));
        }
    }
}

/// The first channel that an interest can match.
fn start(within: &Interest) -> Channel {
    Interest::new(&within.base_channel(), Depth::Exact).base_channel()
}

fn offset(message: &Message) -> u64 {
    message.meta.as_ref().and_then(|meta| meta.position.as_ref()).map_or(0, |position| position.offset)
}

#[async_trait]
impl Log for Memory {
    async fn tops(&self, partitions: &[Partition]) -> Result<Vec<Top>, LogError> {
        self.reach()?;
        let mut kept = self.server.0.kept.lock();
        let top = |partition: &Partition| {
            let part = kept.part(partition.clone());
            Top { epoch: part.epoch.clone(), offset: part.top }
        };
        Ok(partitions.iter().map(top).collect())
    }

    async fn read(&self, read: &Read) -> Result<Chunk, LogError> {
        self.reach()?;
        let policy = self.logs.logged().find(|(namespace, _)| **namespace == read.partition.namespace);
        let Some((_, policy)) = policy else {
            return Err(LogError::Refused(format!("`{}` is no logged namespace", read.partition.namespace)));
        };
        Ok(self.server.0.kept.lock().part(read.partition.clone()).read(policy.age, read))
    }

    async fn cursor_key(&self) -> Result<CursorKey, LogError> {
        self.reach()?;
        Ok(self.server.0.kept.lock().key)
    }
}

#[async_trait]
impl Store for Memory {
    async fn marks(&self, user: &Uid) -> Result<Marks, LogError> {
        self.reach()?;
        Ok(self.server.0.kept.lock().marks.get(user).cloned().unwrap_or_default())
    }

    async fn mark(&self, user: &Uid, read: &Marks) -> Result<Marks, LogError> {
        self.reach()?;
        let mut kept = self.server.0.kept.lock();
        let marks = kept.marks.entry(user.clone()).or_default();
        marks.merge(read);
        Ok(marks.clone())
    }
}

impl Memory {
    /// A node that is cut off reads nothing either.
    fn reach(&self) -> Result<(), LogError> {
        if self.node.is_cut() { Err(LogError::NotNow("the link is down".to_owned())) } else { Ok(()) }
    }
}
