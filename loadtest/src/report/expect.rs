//! `--expect p99_ms<=10`: what a run must have come to, for CI.

use std::str::FromStr;

use crate::{
    failure::{Failure, Result},
    report::Report,
};

/// One condition.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Expectation {
    name: String,
    relation: Relation,
    bound: f64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Relation {
    AtMost,
    AtLeast,
    Below,
    Above,
    Is,
}

const RELATIONS: [(&str, Relation); 5] = [
    ("<=", Relation::AtMost),
    (">=", Relation::AtLeast),
    ("==", Relation::Is),
    ("<", Relation::Below),
    (">", Relation::Above),
];

impl FromStr for Expectation {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = RELATIONS.iter().find_map(|(sign, relation)| Some((text.split_once(sign)?, *relation)));
        let ((name, bound), relation) =
            found.ok_or("a condition is NAME, one of <= >= == < >, and a number: p99_ms<=10")?;
        let bound = bound.trim().parse().map_err(|_| format!("`{}` is no number", bound.trim()))?;
        Ok(Self { name: name.trim().to_owned(), relation, bound })
    }
}

impl Expectation {
    fn judge(&self, report: &Report) -> Result<(), String> {
        let Self { name, relation, bound } = self;
        let Some(value) = report.lookup(name) else {
            let names: Vec<_> = report.figures.keys().map(String::as_str).collect();
            return Err(format!(
                "there is no figure `{name}`; there are {}, p50_ms to max_ms, lost, …",
                names.join(", ")
            ));
        };
        let (holds, sign) = match relation {
            Relation::AtMost => (value <= *bound, "<="),
            Relation::AtLeast => (value >= *bound, ">="),
            Relation::Below => (value < *bound, "<"),
            Relation::Above => (value > *bound, ">"),
            Relation::Is => ((value - bound).abs() < f64::EPSILON, "=="),
        };
        if holds { Ok(()) } else { Err(format!("expected {name}{sign}{bound}, and it is {value}")) }
    }
}

/// Judges a report by all of them.
pub(crate) fn judge(expectations: &[Expectation], report: &Report) -> Result<()> {
    let unmet: Vec<_> = expectations.iter().filter_map(|expectation| expectation.judge(report).err()).collect();
    if unmet.is_empty() { Ok(()) } else { Err(Failure::unmet(unmet.join("\n"))) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{audit::Audit, latency::Summary};

    #[test]
    fn conditions_are_judged() {
        let latency = Some(Summary { p99_ms: 10.0, ..Summary::default() });
        let mut report = Report { audit: Audit { lost: 1, ..Audit::default() }, latency, ..Report::default() };
        report.figure("cpu_us_per_delivery", 1.5);
        let judged = |text: &str| judge(&[text.parse().unwrap()], &report).is_ok();
        for holds in ["p99_ms<=10", "p99_ms >= 10", "lost==1", "lost>0", "cpu_us_per_delivery<1.6", "duplicates==0"] {
            assert!(judged(holds), "{holds}");
        }
        for fails in ["p99_ms<10", "lost==0", "cpu_us_per_delivery>1.5", "no_such>0", "connect.p99_ms<1"] {
            assert!(!judged(fails), "{fails}");
        }
        assert!("p99".parse::<Expectation>().is_err() && "p99<x".parse::<Expectation>().is_err());
    }
}
