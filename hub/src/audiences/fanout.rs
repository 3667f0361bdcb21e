//! The way from a delivery to its sockets. What is done here is done once per message or once per run of messages;
//! per recipient there is one write call and nothing else as long as the client keeps up.

use std::sync::Arc;

use super::Audiences;
use crate::{
    batch::{Batch, Delivered},
    clock::Time,
    framing::{Format, Formats},
    outbox::SlowPolicy,
    roster::{Given, Key, Lost, Roster},
    run::Run,
    seat::{Behind, Reached},
};

/// Messages are joined up to this many bytes: by then a call costs nothing beside the copying, and a client that is
/// behind keeps no more than this alive beyond its own bound.
const RUN_BYTES: usize = 64 * 1024;

/// What fan-out works with; its room is used again every turn.
#[derive(Default)]
pub(super) struct FanOut {
    work: Vec<Work>,
    /// What all members of an audience get.
    run: Run,
    /// What one member gets that does not get all of it.
    own: Run,
    lost: Vec<(Key, Lost)>,
    /// Seats that go on from the log.
    behind: Vec<(Key, u16, Vec<Reached>)>,
}

/// A message for an audience.
#[derive(Debug, Clone, Copy)]
struct Work {
    audience: u32,
    batch: u32,
    message: u32,
}

impl Audiences {
    /// Writes all deliveries of a turn, and leaves the list empty.
    pub(crate) fn fan_out(&mut self, batches: &mut Vec<Arc<Batch>>, roster: &mut Roster) {
        if batches.is_empty() {
            return;
        }
        let mut work = std::mem::take(&mut self.fan_out.work);
        for (batch_index, batch) in batches.iter().enumerate() {
            for (index, message) in batch.messages.iter().enumerate() {
                if message.shards & self.shard == 0 {
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
            self.serve(group[0].audience, group, message_of, roster);
        }
        work.clear();
        self.fan_out.work = work;
        let now = Time::now();
        for batch in &*batches {
            self.metrics.latency.observe(now.saturating_duration_since(batch.at).as_secs_f64());
        }
        batches.clear();
    }

    /// Writes messages to one audience, a run at a time, in each format in which somebody there hears.
    fn serve<'b>(
        &mut self,
        audience: u32,
        group: &[Work],
        message_of: impl Fn(&Work) -> &'b Delivered,
        roster: &mut Roster,
    ) {
        let formats = self.table.audience(audience).map_or(Formats::default(), |audience| audience.formats().0);
        for format in Format::each(formats) {
            let mut left = group.iter();
            while !left.as_slice().is_empty() {
                // An audience can lose members between two runs, and with the last one its place.
                if !self.table.audience(audience).is_some_and(|audience| audience.hears(format)) {
                    break;
                }
                self.fan_out.run.clear();
                while self.fan_out.run.bytes().len() < RUN_BYTES
                    && let Some(work) = left.next()
                {
                    let message = message_of(work);
                    let meta = message.message.meta.as_ref();
                    self.fan_out.run.push(&message.channel, meta, |out| message.encode(format, out));
                }
                self.write_run(audience, format, roster);
            }
        }
    }

    /// Hands the run to all members that hear in its format.
    fn write_run(&mut self, audience: u32, format: Format, roster: &mut Roster) {
        let Some(audience) = self.table.audience(audience) else { return };
        let FanOut { run, own, lost, behind, .. } = &mut self.fan_out;
        let (mut messages, mut bytes) = (0, 0);
        for member in audience.members().iter().filter(|member| member.format == format) {
            let run = match member.aside && roster.select(member.index, member.seat, run, own) {
                true if own.is_empty() => continue,
                true => &mut *own,
                false => &mut *run,
            };
            match roster.give(member.index, member.seat, run) {
                Given::All => {
                    messages += run.messages();
                    bytes += run.bytes().len();
                }
                Given::AllBut(dropped) => {
                    messages += run.messages().saturating_sub(dropped.all());
                    bytes += run.bytes().len();
                    self.metrics.slow(SlowPolicy::DropOldest).inc_by(dropped.oldest as u64);
                    self.metrics.slow(SlowPolicy::Latest).inc_by(dropped.latest as u64);
                }
                Given::Lost(key, how) => lost.push((key, how)),
                Given::Behind(key, from) => behind.push((key, member.seat, from)),
                Given::Nobody => {}
            }
        }
        self.metrics.batches.observe(run.messages() as f64);
        self.metrics.messages_out.inc_by(messages as u64);
        self.metrics.bytes_out.inc_by(bytes as u64);
        // After the last member was looked at: whoever is parted with leaves the list that was walked.
        while let Some((key, how)) = self.fan_out.lost.pop() {
            roster.part_with(key, how);
        }
        while let Some((key, seat, from)) = self.fan_out.behind.pop() {
            self.fall_behind(roster, key, seat, from);
        }
        self.tidy(roster);
    }

    /// From now on what comes for a seat waits until it was fed the log, which its owner is asked for.
    fn fall_behind(&mut self, roster: &mut Roster, key: Key, seat: u16, from: Vec<Reached>) {
        let Some((seat, spot)) = roster.fall_behind(key, seat, &from) else { return };
        self.set_aside(spot, true);
        let Some(audience) = self.table.audience(spot.audience) else { return };
        let (connection, interest, asked) = (roster.name_of(key), audience.id(), audience.interest());
        self.release.fell_behind(Behind { connection, seat, interest, asked, from });
    }
}
