//! `doctor`: looks at everything between here and the sockets, and says what to do.

mod broker;
mod bus;
mod config;
mod token;

use serde_json::{Value, json};

use crate::{
    args::DoctorArgs,
    context::Context,
    failure::{Failure, Kind},
    via::{BusTarget, Via},
};

/// How something was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Status {
    /// As it should be.
    Ok,
    /// It works, but somebody should look.
    Warn,
    /// It does not work.
    Fail,
    /// It was not looked at.
    Skip,
}

/// What one look found.
#[derive(Debug)]
struct Finding {
    /// What was looked at.
    check: &'static str,
    status: Status,
    detail: String,
    remedy: Option<String>,
    /// What the exit code is to be, where it failed.
    kind: Kind,
}

impl Finding {
    fn new(check: &'static str, status: Status, detail: impl Into<String>) -> Self {
        Self { check, status, detail: detail.into(), remedy: None, kind: Kind::Unavailable }
    }

    fn ok(check: &'static str, detail: impl Into<String>) -> Self {
        Self::new(check, Status::Ok, detail)
    }

    fn skip(check: &'static str, detail: impl Into<String>) -> Self {
        Self::new(check, Status::Skip, detail)
    }

    fn warn(check: &'static str, detail: impl Into<String>) -> Self {
        Self::new(check, Status::Warn, detail)
    }

    fn fail(check: &'static str, failure: Failure) -> Self {
        let Failure { kind, message, remedy } = failure;
        Self { check, status: Status::Fail, detail: message, remedy, kind }
    }

    fn remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = Some(remedy.into());
        self
    }

    fn text(&self) -> String {
        let status = match self.status {
            Status::Ok => "ok",
            Status::Warn => "warn",
            Status::Fail => "FAIL",
            Status::Skip => "skip",
        };
        let remedy = self.remedy.as_ref().map(|remedy| format!("\n              try: {remedy}")).unwrap_or_default();
        format!("{status:<5} {:<7} {}{remedy}", self.check, self.detail)
    }

    fn value(&self) -> Value {
        let status = match self.status {
            Status::Ok => "ok",
            Status::Warn => "warn",
            Status::Fail => "fail",
            Status::Skip => "skip",
        };
        json!({ "check": self.check, "status": status, "detail": self.detail, "remedy": self.remedy })
    }
}

/// Looks at everything, and fails with the first thing that does not work.
pub(crate) async fn run(context: &Context, args: &DoctorArgs) -> Result<(), Failure> {
    let mut findings = vec![config::check(context, args).await, token::check(context)];
    if let Via::Http(url) = &context.via {
        findings.extend(broker::check(context, url, args.admin.as_ref()).await);
    }
    findings.extend(match bus_target(context, args)? {
        Some(target) => bus::check(context, &target).await,
        None => vec![Finding::skip("bus", "name it with --bus to look at it from here")],
    });
    if matches!(context.via, Via::Bus(_)) {
        findings.push(Finding::skip("clock", "a bus does not tell the time; ask a broker with --via http://…"));
    }
    report(context, &findings)
}

/// The bus to look at: the way in, or the one that is named beside it.
fn bus_target(context: &Context, args: &DoctorArgs) -> Result<Option<BusTarget>, Failure> {
    let origin = if args.bus_is_flag { "--bus" } else { "CLARION_BUS" };
    match (&context.via, args.bus.as_deref()) {
        (Via::Bus(target), _) => Ok(Some(target.clone())),
        (Via::Http(_), None | Some("memory")) => Ok(None),
        (Via::Http(_), Some(bus)) => BusTarget::parse(bus, origin).map(Some),
    }
}

fn report(context: &Context, findings: &[Finding]) -> Result<(), Failure> {
    let failed: Vec<&Finding> = findings.iter().filter(|finding| finding.status == Status::Fail).collect();
    let text: Vec<String> = findings.iter().map(Finding::text).collect();
    let values: Vec<Value> = findings.iter().map(Finding::value).collect();
    context.output.result(text.join("\n"), &json!({ "ok": failed.is_empty(), "checks": values }))?;
    match &*failed {
        [] => Ok(()),
        [first, ..] => Err(Failure::new(first.kind, format!("{} of {} checks failed", failed.len(), findings.len()))),
    }
}
