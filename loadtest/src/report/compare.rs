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
pub(crate) const COMPARED: [&str; 13] = [
    "cpu_us_per_delivery",
    "cpu_us_per_message",
    "bus_cpu_us_per_message",
    "deliveries_per_second",
    "p50_ms",
    "p99_ms",
    "p999_ms",
    "cpu_us_per_connection",
    "connections_per_second",
    "connect.p99_ms",
    "pss_bytes_per_connection",
    "server_cores_at_rest",
    "server_pss_mib",
];

/// Several servers, measured in turns.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Comparison {
    pub(crate) scenario: String,
    /// The first is what the others are compared with.
    pub(crate) servers: Vec<String>,
    /// One list for each round, in the order of the servers.
    pub(crate) rounds: Vec<Vec<Report>>,
}

/// A figure of one server.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Compared {
    pub(crate) value: Spread,
    /// To the first server's in the same round.
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
        let ratios = self.rounds.iter().filter_map(|round| {
            let first = of(round, 0).filter(|first| *first > 0.0)?;
            Some(of(round, server)? / first)
        });
        Some(Compared { value, ratio: Spread::of(ratios) })
    }

    /// Every warning once, with the server it is about.
    pub(crate) fn warnings(&self) -> Vec<String> {
        let mut warnings: Vec<String> = Vec::new();
        for report in self.rounds.iter().flatten() {
            warnings.extend(report.warnings.iter().map(|warning| format!("{}: {warning}", report.server)));
        }
        warnings.sort();
        warnings.dedup();
        warnings
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

    /// The whole as a table.
    pub(crate) fn table(&self) -> String {
        let mut table = Table::new();
        let mut header = vec![format!("{} · {} rounds", self.scenario, self.rounds.len())];
        header.extend(self.servers.iter().cloned());
        table.load_style(UTF8_BORDERS_ONLY).set_header(header);
        let figures = self.figures();
        for (name, servers) in COMPARED.iter().filter_map(|name| figures.get_key_value(name)) {
            let mut row = vec![title(name)];
            row.extend(servers.iter().enumerate().map(|(server, compared)| match compared {
                None => String::new(),
                Some(compared) => cell(compared, server > 0),
            }));
            table.add_row(row);
        }
        for column in 1..=self.servers.len() {
            if let Some(column) = table.column_mut(column) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        let warnings: String = self.warnings().into_iter().map(|warning| format!("\nwarning: {warning}")).collect();
        format!("{table}{warnings}")
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
            report.warnings.push("slow".to_owned());
            report
        };
        // The machine gets slower from round to round; the ratio stays.
        let rounds = [1.0, 2.0, 3.0].map(|slow| vec![report("floor", slow), report("clarion", slow * 1.1)]);
        let servers = vec!["floor".to_owned(), "clarion".to_owned()];
        Comparison { scenario: "fanout".to_owned(), servers, rounds: rounds.to_vec() }
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
        assert_eq!(text.matches("warning: clarion: slow").count(), 1);
        assert!(comparison().json()["figures"]["cpu_us_per_delivery"]["clarion"]["ratio"]["median"].is_number());
    }
}
