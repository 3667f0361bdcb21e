//! What workers and meters have to say, entered into the report.

use crate::{
    control::{Published, WorkerReport},
    latency::Latency,
    run::{Run, Spent},
};

/// A core's share from which the generator counts as busy all the time.
const BUSY: f64 = 0.9;
/// How late the publisher may be, at the 99th percentile, before latencies are its own.
const LATE_MS: f64 = 5.0;

impl Run<'_> {
    /// Enters what subscribers and the publisher have to say; how much was delivered.
    pub(super) fn account(&mut self, published: &Published, workers: &[WorkerReport]) -> u64 {
        let delivered = self.account_subscribers(workers);
        let report = &mut self.report;
        let mut acknowledged = Latency::default();
        acknowledged.add_sparse(&published.acknowledged);
        report.acknowledged = (acknowledged.count() > 0).then(|| acknowledged.summary());
        report.publish_errors.extend(published.errors.clone());
        report.figure("published", published.messages as f64);
        if published.stalls > 0 {
            report.warnings.push(format!("deliveries stood still for a second, {} times", published.stalls));
        }
        if published.messages == 0 {
            report.warnings.push("nothing was published".to_owned());
        }
        if !published.errors.is_empty() {
            let errors = crate::report::table::reasons(&published.errors);
            report.warnings.push(format!("not everything was published: {errors}"));
        }
        let mut lateness = Latency::default();
        lateness.add_sparse(&published.lateness);
        report.figure("publisher_late_p99_ms", lateness.percentile_ms(99.0));
        delivered
    }

    fn account_subscribers(&mut self, workers: &[WorkerReport]) -> u64 {
        let report = &mut self.report;
        let (mut latency, mut connect) = (Latency::default(), Latency::default());
        let (mut future, mut reads, mut bytes, mut left, mut broken, mut delivered) = (0, 0, 0, 0, 0, 0);
        for worker in workers {
            report.audit += worker.audit;
            delivered += worker.audit.delivered;
            latency.add_sparse(&worker.latency);
            connect.add_sparse(&worker.connect);
            future += worker.from_the_future;
            (reads, bytes) = (reads + worker.reads, bytes + worker.bytes);
            (left, broken) = (left + worker.left, broken + worker.broken);
            for (reason, count) in &worker.failed {
                *report.failed.entry(reason.clone()).or_default() += count;
            }
            for (reason, count) in &worker.closed {
                *report.closed.entry(reason.clone()).or_default() += count;
            }
        }
        if connect.count() > 0 {
            report.connect = Some(connect.summary());
        }
        report.latency = Some(latency.summary());
        report.histogram = latency.sparse();
        report.figure("delivered", delivered as f64);
        report.figure("messages_per_read", delivered as f64 / reads.max(1) as f64);
        report.figure("wire_bytes_per_delivery", bytes as f64 / delivered.max(1) as f64);
        for (name, count) in [("left", left), ("broken", broken)] {
            if count > 0 {
                report.figure(name, count as f64);
            }
        }
        if future > 0 {
            report.warnings.push(format!("{future} messages came before they were sent: clocks differ"));
        }
        delivered
    }

    pub(super) fn account_spent(&mut self, spent: Spent, delivered: u64, published: &Published, open_loop: bool) {
        let report = &mut self.report;
        let delivered = delivered.max(1) as f64;
        let messages = published.messages.max(1) as f64;
        report.figure("seconds", spent.seconds);
        report.figure("published_per_second", published.messages as f64 / spent.seconds);
        report.figure("deliveries_per_second", delivered / spent.seconds);
        let known = !self.server.pids.is_empty();
        if known {
            report.figure("cpu_us_per_delivery", spent.server * 1e6 / delivered);
            report.figure("cpu_us_per_message", spent.server * 1e6 / messages);
            report.figure("server_cores", spent.server / spent.seconds);
        }
        if !self.server.bus_pids.is_empty() {
            report.figure("bus_cpu_us_per_message", spent.bus * 1e6 / messages);
        }
        let generator = spent.generator / spent.seconds;
        if !self.fleet.pids().is_empty() {
            report.figure("generator_cores", generator);
        }
        let server = spent.server / spent.seconds;
        if known && generator > BUSY * self.fleet.len() as f64 && server < BUSY {
            let text = format!("the generator was the limit: it used {generator:.2} cores and the server {server:.2}");
            report.warnings.push(text);
        }
        let late = report.lookup("publisher_late_p99_ms").unwrap_or(0.0);
        if open_loop && late > LATE_MS {
            report.warnings.push(format!("the publisher was late (p99 {late:.1} ms): latencies are partly its own"));
        }
    }
}
