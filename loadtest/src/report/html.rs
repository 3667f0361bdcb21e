//! Reports as a page that holds all it needs, to be read by somebody who has to decide.

use std::fmt::Write as _;

use crate::{
    latency::Sparse,
    report::{
        Report,
        compare::{COMPARED, Compared, Comparison},
        plot::{Bar, Curve, bars, curves, percentiles},
        table::{number, ordered, title},
    },
};

const STYLE: &str = "
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1100px; margin: 2rem auto; padding: 0 1rem; color: #1a1a1a; background: #fff }
h1 { font-size: 1.6rem } h2 { font-size: 1.2rem; margin-top: 2rem }
table { border-collapse: collapse; margin: 1rem 0; font-variant-numeric: tabular-nums }
th, td { padding: .3rem .8rem; border-bottom: 1px solid #ddd; text-align: right; vertical-align: top }
th:first-child, td:first-child { text-align: left } small { color: #666 }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(480px, 1fr)); gap: 1rem }
svg { max-width: 100%; height: auto; border: 1px solid #eee } .warnings { background: #fff3cd; padding: .6rem 2rem; margin: 1rem 0; font-size: .9rem }
.first { background: #f4f6f8 } .wide { overflow-x: auto } small { white-space: nowrap } th { font-weight: 600; font-size: .85rem; max-width: 7rem }
@media print { .plots { grid-template-columns: 1fr 1fr } }
";

/// What the figures mean, for whoever was not there.
const HOW_TO_READ: &str = "<p><small style='white-space: normal'>CPU is that of the server's whole process tree, the kernel's work
for its sockets included; memory is its proportional set size. Latency counts from when a message should have been published
until a subscriber had it, for every delivery. <i>Messages per read</i> says how many messages came together: a server that joins
more of them in one write does less work for each, so CPU compares best where this is alike. Nothing was lost, doubled or out of
order unless a warning says so.</small></p>";

/// A page about one run.
pub(crate) fn report(report: &Report) -> String {
    let mut body = head(&report.scenario, &report.server, report);
    warnings(&report.warnings, &mut body);
    body.push_str("<h2>Figures</h2><table>");
    for (name, value) in ordered(report) {
        row(&[title(name), number(value)], &mut body);
    }
    body.push_str("</table>");
    if let Some(latency) = &report.latency {
        body.push_str(
            "<h2>Latency</h2><p>From when a message should have been published until a subscriber had it.</p><table>",
        );
        let names = ["p50", "p90", "p99", "p99.9", "max"];
        let values = [latency.p50_ms, latency.p90_ms, latency.p99_ms, latency.p999_ms, latency.max_ms];
        for (name, value) in names.into_iter().zip(values) {
            row(&[name.to_owned(), format!("{} ms", number(value))], &mut body);
        }
        body.push_str("</table>");
    }
    body.push_str("<h2>Plots</h2><div class=plots>");
    over_time(std::slice::from_ref(report), &mut body);
    if !report.histogram.0.is_empty() {
        body.push_str(&percentiles("Latency by percentile", &[(report.server.clone(), report.histogram.clone())]));
    }
    body.push_str("</div>");
    page(&format!("{} · {}", report.scenario, report.server), &body)
}

/// A page about several servers.
pub(crate) fn comparison(comparison: &Comparison) -> String {
    let Some(first) = comparison.rounds.first().and_then(|round| round.first()) else {
        return page("Nothing was measured", "<p>No round was finished.</p>");
    };
    let servers = comparison.servers.join(", ");
    let mut body = head(&comparison.scenario, &servers, first);
    let _ = write!(
        body,
        "<p>{} rounds; in each every one had its turn, in this order. A value is the median of its rounds, below it the
         lowest and the highest; a ratio is taken within each round, to the shaded line above it.</p>",
        comparison.rounds.len()
    );
    ranking(comparison, &mut body);
    warnings(&comparison.warnings(), &mut body);
    compared_table(comparison, &mut body);
    body.push_str(HOW_TO_READ);
    body.push_str("<h2>Plots</h2><div class=plots>");
    let figures = comparison.figures();
    let figures = COMPARED.iter().filter_map(|name| figures.get_key_value(name));
    for (name, values) in figures.filter(|(_, values)| !Comparison::is_level(values)) {
        let all = comparison.servers.iter().zip(values).filter_map(|(name, compared)| {
            let value = compared.as_ref()?.value;
            Some(Bar { name: name.clone(), value: value.median, low: value.min, high: value.max })
        });
        body.push_str(&bars(&format!("{}{}", title(name), better(name)), &all.collect::<Vec<_>>()));
    }
    if let Some(last) = comparison.rounds.last() {
        let histograms: Vec<(String, Sparse)> = last
            .iter()
            .filter(|report| !report.histogram.0.is_empty())
            .map(|report| (report.server.clone(), report.histogram.clone()))
            .collect();
        if !histograms.is_empty() {
            body.push_str(&percentiles("Latency by percentile, last round", &histograms));
        }
        over_time(last, &mut body);
    }
    body.push_str("</div>");
    page(&format!("{}: {servers}", comparison.scenario), &body)
}

/// The figure that matters most, and who is how far ahead.
fn ranking(comparison: &Comparison, body: &mut String) {
    let figures = comparison.figures();
    let Some((name, values)) = COMPARED.iter().find_map(|name| figures.get_key_value(name)) else { return };
    let mut all: Vec<_> = comparison.servers.iter().zip(values).filter_map(|(who, one)| Some((who, (*one)?))).collect();
    all.sort_by(|(_, one), (_, other)| one.value.median.total_cmp(&other.value.median));
    let shown = all.iter().map(|(who, one)| format!("{} <b>{}</b>", escape(who), number(one.value.median)));
    let _ = write!(body, "<p>{}, least first: {}</p>", escape(&title(name)), shown.collect::<Vec<_>>().join(" · "));
}

/// A line for each server, since there may be many; the ratio is what to read.
fn compared_table(comparison: &Comparison, body: &mut String) {
    let figures = comparison.figures();
    let figures: Vec<_> = COMPARED.iter().filter_map(|name| figures.get_key_value(name)).collect();
    body.push_str("<h2>Figures</h2><div class=wide><table><tr><th></th>");
    for (name, _) in &figures {
        let _ = write!(body, "<th>{}</th>", escape(&title(name)));
    }
    body.push_str("</tr>");
    for (server, name) in comparison.servers.iter().enumerate() {
        let compared = comparison.is_compared(server);
        let class = if compared { "" } else { " class=first" };
        let _ = write!(body, "<tr{class}><td><b>{}</b></td>", escape(name));
        for (_, values) in &figures {
            let Some(Compared { value, ratio }) = values[server] else {
                body.push_str("<td></td>");
                continue;
            };
            let _ = write!(body, "<td>{}", number(value.median));
            if let Some(ratio) = ratio.filter(|_| compared) {
                let _ = write!(body, "<br><b>× {}</b>", number(ratio.median));
            }
            let _ = write!(body, "<br><small>{} – {}</small></td>", number(value.min), number(value.max));
        }
        body.push_str("</tr>");
    }
    body.push_str("</table></div>");
}

/// Which way a figure is good, where there is such a way.
fn better(name: &str) -> &'static str {
    match name {
        "messages_per_read" => "",
        name if name.ends_with("_per_second") => " · more is better",
        _ => " · less is better",
    }
}

/// What went on during each of these runs.
fn over_time(reports: &[Report], body: &mut String) {
    let series = |pick: fn(&crate::watch::Sample) -> f64| -> Vec<Curve> {
        let curve = |report: &Report| Curve {
            name: report.server.clone(),
            points: report.series.iter().map(|sample| (sample.at, pick(sample))).collect(),
        };
        reports.iter().map(curve).collect()
    };
    body.push_str(&curves("Deliveries", "seconds", "a second", &series(|sample| sample.delivered_per_second)));
    body.push_str(&curves(
        "Latency, p99 of each half second",
        "seconds",
        "milliseconds",
        &series(|sample| sample.p99_ms),
    ));
    body.push_str(&curves("CPU of the server", "seconds", "cores", &series(|sample| sample.server_cores)));
    body.push_str(&curves("CPU of the generator", "seconds", "cores", &series(|sample| sample.generator_cores)));
    body.push_str(&curves("Memory of the server (PSS)", "seconds", "MiB", &series(|sample| sample.pss_mib)));
}

fn head(scenario: &str, server: &str, report: &Report) -> String {
    let machine = &report.machine;
    let mut text = format!(
        "<h1>{}: {}</h1><p>{} · {} · {} cores · {:.0} GiB · Linux {}</p><p>",
        escape(scenario),
        escape(server),
        escape(&report.at),
        escape(&machine.cpu),
        machine.cores,
        machine.memory_gib,
        escape(&machine.kernel)
    );
    let parameters =
        report.parameters.iter().map(|(name, value)| format!("{} <b>{}</b>", escape(&title(name)), escape(value)));
    text.push_str(&parameters.collect::<Vec<_>>().join(" · "));
    text.push_str("</p>");
    text
}

fn warnings(warnings: &[String], body: &mut String) {
    if warnings.is_empty() {
        return;
    }
    body.push_str("<ul class=warnings>");
    for warning in warnings {
        let _ = write!(body, "<li>{}</li>", escape(warning));
    }
    body.push_str("</ul>");
}

fn row(cells: &[String], body: &mut String) {
    body.push_str("<tr>");
    for cell in cells {
        let _ = write!(body, "<td>{}</td>", escape(cell));
    }
    body.push_str("</tr>");
}

fn page(title: &str, body: &str) -> String {
    let title = escape(title);
    format!(
        "<!doctype html><html lang=en><meta charset=utf-8><title>{title}</title><style>{STYLE}</style>{body}</html>\n"
    )
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_holds_all_it_needs() {
        let mut one = Report { scenario: "fan<out>".to_owned(), server: "clarion".to_owned(), ..Report::default() };
        one.figure("deliveries_per_second", 12_345.0);
        one.histogram = Sparse(vec![(1_000_000, 10)]);
        one.warnings.push("a & b".to_owned());
        let comparison = Comparison {
            scenario: "fan<out>".to_owned(),
            servers: vec!["floor".to_owned(), "clarion".to_owned()],
            bases: vec![0, 0],
            rounds: vec![vec![one.clone(), one.clone()]],
        };
        for page in [report(&one), super::comparison(&comparison)] {
            assert!(page.contains("12,345") && page.contains("a &amp; b") && page.contains("fan&lt;out&gt;"), "{page}");
            assert!(page.contains("<svg") && !page.contains("href=") && !page.contains("src="), "{page}");
        }
        assert!(super::comparison(&Comparison::default()).contains("Nothing was measured"));
    }
}
