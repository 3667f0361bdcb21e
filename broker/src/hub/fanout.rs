//! The way from a delivery to its sockets. What is done here is done once per message or once per run of messages;
//! per recipient there is one write call and nothing else as long as the client keeps up.

use clarion_protocol::{CloseCode, dialect::Dialect};

use super::{
    batch::Delivered,
    clock::Time,
    record::{Key, Record},
    shard::{Shard, bit},
    table::{DIALECTS, Member},
};
use crate::outbox::{Pushed, Run, SlowPolicy};

/// Messages are joined up to this many bytes: by then a call costs nothing beside the copying, and a client that is
/// behind keeps no more than this alive beyond its own bound.
const RUN_BYTES: usize = 64 * 1024;

/// What fan-out works with; its room is used again every turn.
#[derive(Default)]
pub(super) struct FanOut {
    work: Vec<Work>,
    /// What all members of an audience get.
    run: Run,
    /// What one member with overlapping subscriptions gets.
    own: Run,
    doomed: Vec<(Key, Doom)>,
}

/// A message for an audience.
#[derive(Debug, Clone, Copy)]
struct Work {
    audience: u32,
    batch: u32,
    message: u32,
}

/// Why a connection is not written to any more.
#[derive(Debug, Clone, Copy)]
enum Doom {
    Lost,
    Slow,
}

/// What a run did to one member.
enum Handed {
    Yes,
    Dropped(usize, SlowPolicy),
    Doomed(Doom),
}

impl<H: super::Handler> Shard<H> {
    /// Writes all deliveries of this turn.
    pub(super) fn fan_out(&mut self) {
        if self.batches.is_empty() {
            return;
        }
        let batches = std::mem::take(&mut self.batches);
        let mut work = std::mem::take(&mut self.fan.work);
        for (batch_index, batch) in batches.iter().enumerate() {
            for (index, message) in batch.messages.iter().enumerate() {
                if message.shards & bit(self.number.into()) == 0 {
                    continue;
                }
                let audiences = message.interests.iter().filter_map(|interest| self.table.find(*interest));
                work.extend(audiences.map(|audience| Work {
                    audience,
                    batch: batch_index as u32,
                    message: index as u32,
                }));
            }
        }
        // Stable, so each audience gets its messages in the order of the bus.
        work.sort_by_key(|work| work.audience);
        let message_of = |work: &Work| &batches[work.batch as usize].messages[work.message as usize];
        for group in work.chunk_by(|a, b| a.audience == b.audience) {
            self.serve(group[0].audience, group, message_of);
        }
        work.clear();
        self.fan.work = work;
        let now = Time::now();
        for batch in &batches {
            self.common.metrics.latency.observe(now.saturating_duration_since(batch.at).as_secs_f64());
        }
        self.batches = batches;
        self.batches.clear();
    }

    /// Writes messages to one audience, a run at a time, for each dialect that somebody there speaks.
    fn serve<'b>(&mut self, audience: u32, group: &[Work], message_of: impl Fn(&Work) -> &'b Delivered) {
        for dialect in DIALECTS {
            let mut left = group.iter();
            while !left.as_slice().is_empty() {
                // An audience can lose members between two runs, and with the last one its place.
                if !self.table.audience(audience).is_some_and(|audience| audience.speaks(dialect)) {
                    break;
                }
                self.fan.run.clear();
                while self.fan.run.bytes().len() < RUN_BYTES
                    && let Some(work) = left.next()
                {
                    let message = message_of(work);
                    self.fan.run.push(&message.channel, |out| message.encode(dialect, out));
                }
                self.write_run(audience, dialect);
            }
        }
    }

    /// Hands the run to all members that speak its dialect.
    fn write_run(&mut self, audience: u32, dialect: Dialect) {
        let Some(audience) = self.table.audience(audience) else { return };
        let metrics = &self.common.metrics;
        let FanOut { run, own, doomed, .. } = &mut self.fan;
        let bound = self.common.settings.outbox_bytes;
        let (mut messages, mut bytes) = (0, 0);
        for member in audience.members().iter().filter(|member| member.dialect == dialect) {
            let Some(record) = self.records.get_mut(member.index as usize) else { continue };
            let run = match member.overlaps && select(record, *member, run, own) {
                true if own.is_empty() => continue,
                true => &mut *own,
                false => &mut *run,
            };
            messages += run.messages();
            bytes += run.bytes().len();
            match hand(record, *member, run, bound) {
                Handed::Yes => {}
                Handed::Dropped(count, policy) => {
                    metrics.slow(policy).inc_by(count as u64);
                    messages = messages.saturating_sub(count);
                }
                Handed::Doomed(doom) => {
                    doomed.push((Key { index: member.index, serial: record.serial }, doom));
                    messages -= run.messages();
                    bytes -= run.bytes().len();
                }
            }
        }
        metrics.batches.observe(run.messages() as f64);
        metrics.messages_out.inc_by(messages as u64);
        metrics.bytes_out.inc_by(bytes as u64);
        self.end_doomed();
    }

    /// Parts with those whom the last run could not reach.
    fn end_doomed(&mut self) {
        while let Some((key, doom)) = self.fan.doomed.pop() {
            match doom {
                Doom::Lost => self.lose(key),
                Doom::Slow => {
                    self.common.metrics.slow(SlowPolicy::Disconnect).inc();
                    self.close(key, CloseCode::Slow);
                }
            }
        }
    }
}

/// Gives one member a run: straight to its socket, and to its outbox what the socket does not take.
fn hand(record: &mut Record, member: Member, run: &mut Run, bound: usize) -> Handed {
    let mut written = 0;
    if record.outbox.is_none() && record.transport.is_socket() {
        match record.write(run.bytes()) {
            Ok(taken) if taken == run.bytes().len() => return Handed::Yes,
            Ok(taken) => written = taken,
            Err(_) => return Handed::Doomed(Doom::Lost),
        }
    }
    let slow = record.cold.seats.all()[usize::from(member.subscription)].slow;
    match record.outbox.get_or_insert_default().push_run(run, written, slow, bound) {
        Pushed::Waits { dropped: 0 } => Handed::Yes,
        Pushed::Waits { dropped } => Handed::Dropped(dropped, slow),
        Pushed::Full => Handed::Doomed(Doom::Slow),
    }
}

/// Puts into `own` what none of the member's more specific subscriptions brings; `false` when that is the whole run.
fn select(record: &Record, member: Member, run: &Run, own: &mut Run) -> bool {
    let Some(rivals) = record.cold.seats.rivals() else { return false };
    let rivals = rivals.of(member.subscription);
    own.clear();
    for (channel, encoded) in run.iter() {
        if !rivals.iter().any(|rival| rival.matches(channel.as_str())) {
            own.push(channel, |out| out.extend_from_slice(encoded));
        }
    }
    own.messages() < run.messages()
}
