//! Several servers in turns: ratios to the first, since what a machine does to one run it does to its neighbour.

use std::collections::BTreeMap;

use comfy_table::{CellAlignment, Table, presets::UTF8_BORDERS_ONLY};
use serde::{Deserialize, Serialize};

use crate::{
    latency::Spread,
    report::{
        Report,
        table::{number, title},
    },
};

/// Figures that are worth a ratio, in the order in which people look for them.
pub(crate) const COMPARED: [&str; 23] = [
    "cpu_us_per_delivery",
    "messages_per_read",
    "cpu_us_per_message",
    "bus_cpu_us_per_message",
    "deliveries_per_second",
    "published_per_second",
    "p50_ms",
    "p99_ms",
    "p999_ms",
    "calm_p99_ms",
    "storm_p99_ms",
    "storm_over_calm_p99",
    "reading_p99_ms",
    "stalled_p99_ms",
    "stalled_over_reading_p99",
    "cpu_us_per_connection",
    "connections_per_second",
    "connect.p99_ms",
    "pss_bytes_per_connection",
    "server_cores_at_rest",
    "server_pss_mib",
    "stalled_peak_pss_mib",
    "pss_kib_per_stalled_reader",
];

/// Several servers, measured in turns.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Comparison {
    pub(crate) scenario: String,
    /// What each column is called.
    pub(crate) servers: Vec<String>,
    /// The column that each of them is compared with; itself where there is none.
    pub(crate) bases: Vec<usize>,
    /// One list for each round, in the order of the servers.
    pub(crate) rounds: Vec<Vec<Report>>,
}

/// A figure of one server.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Compared {
    pub(crate) value: Spread,
    /// To the one it is compared with, in the same round.
    pub(crate) ratio: Option<Spread>,
}

impl Comparison {
    /// Figures by name and, in the order of the servers, what they are.
    pub(crate) fn figures(&self) -> BTreeMap<&'static str, Vec<Option<Compared>>> {
        let figures =
            COMPARED.map(|name| (name, (0..self.servers.len()).map(|server| self.compared(name, server)).collect()));
        figures
            .into_iter()
            .filter(|(_, servers): &(_, Vec<Option<Compared>>)| servers.iter().any(Option::is_some))
            .collect()
    }

    fn compared(&self, name: &str, server: usize) -> Option<Compared> {
        let of = |round: &Vec<Report>, server: usize| round.get(server)?.lookup(name);
        let value = Spread::of(self.rounds.iter().filter_map(|round| of(round, server)))?;
        let base = self.bases.get(server).copied().unwrap_or(0);
        let ratios = self.rounds.iter().filter_map(|round| {
            let first = of(round, base).filter(|first| *first > 0.0)?;
            Some(of(round, server)? / first)
        });
        Some(Compared { value, ratio: Spread::of(ratios) })
    }

    /// Whether a column is compared with another one.
    pub(crate) fn is_compared(&self, server: usize) -> bool {
        self.bases.get(server).is_some_and(|base| *base != server)
    }

    /// What all have in common of what was asked for.
    pub(crate) fn parameters(&self) -> Vec<(&str, &str)> {
        let Some(round) = self.rounds.first() else { return Vec::new() };
        let Some((first, others)) = round.split_first() else { return Vec::new() };
        let common = first.parameters.iter().filter(|(name, value)| {
            // A machine's state is none.
            *name != "nearest_limit" && others.iter().all(|report| report.parameters.get(*name) == Some(value))
        });
        common.map(|(name, value)| (name.as_str(), value.as_str())).collect()
    }

    /// Every warning once, with those it is about. What differs from run to run stands in parentheses.
    pub(crate) fn warnings(&self) -> Vec<String> {
        let mut about: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for report in self.rounds.iter().flatten() {
            for warning in &report.warnings {
                let (text, detail) = without_parentheses(warning);
                let who = format!("{}{detail}", report.server);
                let servers = about.entry(text).or_default();
                if !servers.contains(&who) {
                    servers.push(who);
                }
            }
        }
        about.into_iter().map(|(text, servers)| format!("{text}: {}", servers.join(", "))).collect()
    }

    /// Whether all have the same, as far as anybody cares: then there is nothing to see in a plot.
    pub(crate) fn is_level(values: &[Option<Compared>]) -> bool {
        let medians = || values.iter().flatten().map(|compared| compared.value.median);
        let (least, most) = (medians().fold(f64::MAX, f64::min), medians().fold(0.0, f64::max));
        most - least <= LEVEL * most
    }

    /// The whole as a machine reads it.
    pub(crate) fn json(&self) -> serde_json::Value {
        let figures: BTreeMap<_, BTreeMap<_, _>> = self
            .figures()
            .into_iter()
            .map(|(name, servers)| (name, self.servers.iter().cloned().zip(servers).collect()))
            .collect();
        serde_json::json!({ "comparison": self, "figures": figures, "warnings": self.warnings() })
    }

    /// The whole as a table; many servers are lines of it.
    pub(crate) fn table(&self) -> String {
        let warnings: String = self.warnings().into_iter().map(|warning| format!("\nwarning: {warning}")).collect();
        let table = if self.servers.len() > COLUMNS { self.long() } else { self.wide() };
        format!("{table}{warnings}")
    }

    /// What was compared, and what all had in common.
    fn heading(&self, separator: &str) -> String {
        let parameters = self.parameters().into_iter().map(|(name, value)| format!("{} {value}", title(name)));
        let rounds = format!("{} · {} rounds", self.scenario, self.rounds.len());
        [rounds].into_iter().chain(parameters).collect::<Vec<_>>().join(separator)
    }

    /// A line for each server, with medians and their ratios.
    fn long(&self) -> Table {
        let figures = self.figures();
        let figures: Vec<_> = COMPARED.iter().filter_map(|name| figures.get_key_value(name)).collect();
        let mut table = Table::new();
        let names = figures.iter().map(|(name, _)| title(name).replace(' ', "\n"));
        table.load_style(UTF8_BORDERS_ONLY).set_header([self.heading("\n")].into_iter().chain(names));
        for (server, name) in self.servers.iter().enumerate() {
            let cells = figures.iter().map(|(_, values)| {
                let Some(compared) = &values[server] else { return String::new() };
                let ratio = compared.ratio.filter(|_| self.is_compared(server));
                let ratio = ratio.map(|ratio| format!("\n× {}", number(ratio.median))).unwrap_or_default();
                format!("{}{ratio}", number(compared.value.median))
            });
            table.add_row([name.clone()].into_iter().chain(cells));
        }
        to_the_right(&mut table, figures.len());
        table
    }

    /// A column for each server, with the spread of each figure.
    fn wide(&self) -> Table {
        let mut table = Table::new();
        let mut header = vec![self.heading("\n")];
        header.extend(self.servers.iter().cloned());
        table.load_style(UTF8_BORDERS_ONLY).set_header(header);
        let figures = self.figures();
        for (name, servers) in COMPARED.iter().filter_map(|name| figures.get_key_value(name)) {
            let mut row = vec![title(name)];
            row.extend(servers.iter().enumerate().map(|(server, compared)| match compared {
                None => String::new(),
                Some(compared) => cell(compared, self.is_compared(server)),
            }));
            table.add_row(row);
        }
        to_the_right(&mut table, self.servers.len());
        table
    }
}

/// More servers than this are lines rather than columns.
const COLUMNS: usize = 4;

/// Differences between servers that are none.
const LEVEL: f64 = 0.03;

/// Moves the parenthesis of a warning behind whom it is about.
fn without_parentheses(warning: &str) -> (String, String) {
    match warning.split_once(" (").and_then(|(before, rest)| Some((before, rest.split_once(')')?))) {
        Some((before, (detail, after))) => (format!("{before}{after}"), format!(" ({detail})")),
        None => (warning.to_owned(), String::new()),
    }
}

fn to_the_right(table: &mut Table, columns: usize) {
    for column in 1..=columns {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
}

/// A median and its spread, and where there is something to compare with the ratio and its own.
fn cell(compared: &Compared, ratio: bool) -> String {
    let Compared { value, ratio: to_first } = compared;
    let mut text = format!("{} ({} – {})", number(value.median), number(value.min), number(value.max));
    if let (true, Some(ratio)) = (ratio, to_first) {
        text.push_str(&format!("\n× {} ({} – {})", number(ratio.median), number(ratio.min), number(ratio.max)));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(crate) fn comparison() -> Comparison {
        let report = |server: &str, cpu: f64| {
            let mut report = Report { server: server.to_owned(), scenario: "fanout".to_owned(), ..Report::default() };
            report.figure("cpu_us_per_delivery", cpu);
            report.warnings.push("slow (p99 1 ms)".to_owned());
            report
        };
        // The machine gets slower from round to round; the ratio stays.
        let rounds = [1.0, 2.0, 3.0].map(|slow| vec![report("floor", slow), report("clarion", slow * 1.1)]);
        let servers = vec!["floor".to_owned(), "clarion".to_owned()];
        Comparison { scenario: "fanout".to_owned(), servers, bases: vec![0, 0], rounds: rounds.to_vec() }
    }

    #[test]
    fn many_servers_are_lines() {
        let mut many = comparison();
        many.servers = ["floor", "clarion", "a", "b", "c"].map(str::to_owned).to_vec();
        many.bases = vec![0; 5];
        let line = many.table().lines().find(|line| line.contains("clarion")).unwrap_or_default().to_owned();
        assert!(line.contains("2.20"), "{}", many.table());
        assert!(Comparison::is_level(&many.figures()["cpu_us_per_delivery"][..1]));
        assert!(!Comparison::is_level(&many.figures()["cpu_us_per_delivery"]));
    }

    #[test]
    fn ratios_are_taken_within_a_round() {
        let figures = comparison().figures();
        assert_eq!(figures.len(), 1);
        let compared = figures["cpu_us_per_delivery"][1].unwrap();
        assert!((compared.value.median - 2.2).abs() < 1e-9);
        let ratio = compared.ratio.unwrap();
        assert!((ratio.min - 1.1).abs() < 1e-9 && (ratio.max - 1.1).abs() < 1e-9);
    }

    #[test]
    fn the_table_has_the_ratio_and_each_warning_once() {
        let text = comparison().table();
        assert!(text.contains("× 1.10 (1.10 – 1.10)"), "{text}");
        assert_eq!(text.matches("warning: slow: floor (p99 1 ms), clarion (p99 1 ms)").count(), 1, "{text}");
        assert!(comparison().json()["figures"]["cpu_us_per_delivery"]["clarion"]["ratio"]["median"].is_number());
    }
}
