//! Reports as tables for a terminal.

use std::{collections::BTreeMap, fmt::Display};

use comfy_table::{CellAlignment, Table, presets::UTF8_BORDERS_ONLY};

use crate::{
    latency::Summary,
    report::{Report, compare::COMPARED},
};

/// A number with as many digits as mean something.
pub(crate) fn number(value: f64) -> String {
    match value.abs() {
        size if size < 1000.0 && value.fract() == 0.0 => format!("{value:.0}"),
        size if size >= 1000.0 => grouped(value.round()),
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        size if size >= 0.01 => format!("{value:.2}"),
        _ => format!("{value:.4}"),
    }
}

fn grouped(value: f64) -> String {
    let digits = format!("{:.0}", value.abs());
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    if value < 0.0 { format!("-{text}") } else { text }
}

/// A name for people: `cpu_us_per_delivery` is `CPU µs per delivery`.
pub(crate) fn title(name: &str) -> String {
    let words = name.split('_').map(|word| match word {
        "us" => "µs",
        "p999" => "p99.9",
        "cpu" => "CPU",
        "pss" => "PSS",
        "rss" => "RSS",
        "tcp" => "TCP",
        "mib" => "MiB",
        "kib" => "KiB",
        "gib" => "GiB",
        word => word,
    });
    words.collect::<Vec<_>>().join(" ")
}

/// Figures in the order in which people look for them: those that are compared first.
pub(crate) fn ordered(report: &Report) -> Vec<(&str, f64)> {
    let place = |name: &str| COMPARED.iter().position(|compared| *compared == name).unwrap_or(COMPARED.len());
    let mut figures: Vec<_> = report.figures.iter().map(|(name, value)| (name.as_str(), *value)).collect();
    figures.sort_by_key(|(name, _)| place(name));
    figures
}

/// A report as text.
pub(crate) fn report(report: &Report) -> String {
    let mut table = Table::new();
    table
        .load_style(UTF8_BORDERS_ONLY)
        .set_header(vec![format!("{} · {}", report.scenario, report.server), String::new()]);
    for (name, value) in &report.parameters {
        table.add_row(vec![title(name), value.clone()]);
    }
    for (name, value) in ordered(report) {
        table.add_row(vec![title(name), number(value)]);
    }
    for (name, summary) in
        [("latency", &report.latency), ("connect", &report.connect), ("acknowledged", &report.acknowledged)]
    {
        if let Some(summary) = summary {
            table.add_row(vec![name.to_owned(), percentiles(summary)]);
        }
    }
    if report.audit.delivered > 0 {
        table.add_row(vec!["audit".to_owned(), audit(report)]);
    }
    for (name, reasons) in [
        ("failed", reasons(&report.failed)),
        ("closed", reasons(&report.closed)),
        ("publish errors", reasons(&report.publish_errors)),
    ] {
        if !reasons.is_empty() {
            table.add_row(vec![name.to_owned(), reasons]);
        }
    }
    if let Some(column) = table.column_mut(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    let mut text = table.to_string();
    for warning in &report.warnings {
        text.push_str(&format!("\nwarning: {warning}"));
    }
    text
}

fn percentiles(summary: &Summary) -> String {
    let Summary { p50_ms, p90_ms, p99_ms, p999_ms, max_ms, .. } = *summary;
    let [p50, p90, p99, p999, max] = [p50_ms, p90_ms, p99_ms, p999_ms, max_ms].map(number);
    format!("p50 {p50} · p90 {p90} · p99 {p99} · p99.9 {p999} · max {max} ms")
}

fn audit(report: &Report) -> String {
    let audit = &report.audit;
    let mut text = format!("{} delivered", number(audit.delivered as f64));
    for (count, name) in [
        (audit.lost, "lost"),
        (audit.duplicates, "duplicates"),
        (audit.out_of_order, "out of order"),
        (audit.strays, "strays"),
        (audit.missed_away, "missed while away"),
    ] {
        if count > 0 || name == "lost" {
            text.push_str(&format!(" · {count} {name}"));
        }
    }
    text
}

pub(crate) fn reasons(counts: &BTreeMap<impl Display, u64>) -> String {
    counts.iter().map(|(reason, count)| format!("{count} × {reason}")).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_the_digits_that_mean_something() {
        let shown = [0.0, 7.0, 0.001_23, 1.234, 12.34, 123.4, 1234.4, 1_234_567.0, -4321.0].map(number);
        assert_eq!(shown, ["0", "7", "0.0012", "1.23", "12.3", "123", "1,234", "1,234,567", "-4,321"]);
        assert_eq!(title("cpu_us_per_delivery"), "CPU µs per delivery");
    }

    #[test]
    fn a_report_shows_all_it_has() {
        let mut one = Report { scenario: "fanout".to_owned(), server: "clarion".to_owned(), ..Report::default() };
        one.figure("deliveries_per_second", 12_345.0);
        one.audit.delivered = 7;
        one.warnings.push("the generator was the limit".to_owned());
        let text = report(&one);
        for part in ["fanout · clarion", "12,345", "7 delivered · 0 lost", "warning: the generator"] {
            assert!(text.contains(part), "{text}");
        }
    }
}
