//! Reports as a page that holds all it needs, to be read by somebody who has to decide.

use std::fmt::Write as _;

use crate::{
    latency::Sparse,
    report::{
        Report,
        compare::{COMPARED, Comparison},
        plot::{Bar, Curve, bars, curves, percentiles},
        table::{number, title},
    },
};

const STYLE: &str = "
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1100px; margin: 2rem auto; padding: 0 1rem; color: #1a1a1a; background: #fff }
h1 { font-size: 1.6rem } h2 { font-size: 1.2rem; margin-top: 2rem }
table { border-collapse: collapse; margin: 1rem 0; font-variant-numeric: tabular-nums }
th, td { padding: .3rem .8rem; border-bottom: 1px solid #ddd; text-align: right; vertical-align: top }
th:first-child, td:first-child { text-align: left } small { color: #666 }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(480px, 1fr)); gap: 1rem }
svg { max-width: 100%; height: auto; border: 1px solid #eee } .warning { background: #fff3cd; padding: .4rem .8rem; margin: .3rem 0 }
@media print { .plots { grid-template-columns: 1fr 1fr } }
";

/// A page about one run.
pub(crate) fn report(report: &Report) -> String {
    let mut body = head(&report.scenario, &report.server, report);
    warnings(&report.warnings, &mut body);
    body.push_str("<h2>Figures</h2><table>");
    for (name, value) in &report.figures {
        row(&[title(name), number(*value)], &mut body);
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
        "<p>{} rounds; in each every server had its turn, in this order. A value is the median of its rounds, with the lowest
         and the highest; a ratio is taken within each round, to {}.</p>",
        comparison.rounds.len(),
        escape(&comparison.servers[0])
    );
    warnings(&comparison.warnings(), &mut body);
    compared_table(comparison, &mut body);
    body.push_str("<h2>Plots</h2><div class=plots>");
    let figures = comparison.figures();
    for (name, values) in COMPARED.iter().filter_map(|name| figures.get_key_value(name)) {
        let all = comparison.servers.iter().zip(values).filter_map(|(name, compared)| {
            let value = compared.as_ref()?.value;
            Some(Bar { name: name.clone(), value: value.median, low: value.min, high: value.max })
        });
        body.push_str(&bars(&title(name), &all.collect::<Vec<_>>()));
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

fn compared_table(comparison: &Comparison, body: &mut String) {
    body.push_str("<h2>Figures</h2><table><tr><th></th>");
    for server in &comparison.servers {
        let _ = write!(body, "<th>{}</th>", escape(server));
    }
    body.push_str("</tr>");
    let figures = comparison.figures();
    for (name, values) in COMPARED.iter().filter_map(|name| figures.get_key_value(name)) {
        let _ = write!(body, "<tr><td>{}</td>", escape(&title(name)));
        for (server, compared) in values.iter().enumerate() {
            let Some(compared) = compared else {
                body.push_str("<td></td>");
                continue;
            };
            let (value, ratio) = (compared.value, compared.ratio);
            let ratio = ratio.filter(|_| server > 0).map(|ratio| format!("<b>× {}</b> ", number(ratio.median)));
            let _ = write!(
                body,
                "<td>{}{}<br><small>{} – {}</small></td>",
                ratio.unwrap_or_default(),
                number(value.median),
                number(value.min),
                number(value.max)
            );
        }
        body.push_str("</tr>");
    }
    body.push_str("</table>");
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
    for warning in warnings {
        let _ = write!(body, "<p class=warning>{}</p>", escape(warning));
    }
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
            rounds: vec![vec![one.clone(), one.clone()]],
        };
        for page in [report(&one), super::comparison(&comparison)] {
            assert!(page.contains("12,345") && page.contains("a &amp; b") && page.contains("fan&lt;out&gt;"), "{page}");
            assert!(page.contains("<svg") && !page.contains("href=") && !page.contains("src="), "{page}");
        }
        assert!(super::comparison(&Comparison::default()).contains("Nothing was measured"));
    }
}
