//! Several servers, or one in several ways, in turns: A B A B, each started anew every time; one alone is repeated.

use clap::Parser;

use crate::{
    args::{Cli, Command, Compare, Scenario},
    failure::{Failure, Result},
    limits,
    output::Output,
    profile::Profile,
    report::{compare::Comparison, expect},
    scenario, server,
};

/// What has a turn in each round.
struct Turn {
    /// What it is called in the report.
    label: String,
    /// The place of the one that it is compared with.
    base: usize,
    /// The server, where it is one of several.
    server: Option<String>,
    scenario: Scenario,
}

/// Runs all rounds, and prints the ratios.
pub(crate) fn run(compare: &Compare) -> Result<()> {
    let turns = turns(compare)?;
    limits::raise_descriptors();
    for turn in &turns {
        turn.scenario.check()?;
        if let Some(name) = &turn.server {
            Profile::load(server::parse_name(name)?.0)?;
        }
        limits::make_room(&turn.scenario.needs(), turn.scenario.common().set_sysctls)?;
    }
    // Every compare has a turn at least.
    let common = turns[0].scenario.common();
    let output = Output::new(common);
    let mut comparison = Comparison {
        scenario: turns[0].scenario.name().to_owned(),
        servers: turns.iter().map(|turn| turn.label.clone()).collect(),
        bases: turns.iter().map(|turn| turn.base).collect(),
        rounds: Vec::new(),
    };
    for round in 0..compare.rounds.max(1) {
        let mut reports = Vec::new();
        for turn in &turns {
            let mut server = scenario::server(&turn.scenario, turn.server.as_deref())?;
            let mut report = scenario::run(&turn.scenario, &mut server, output.shows_progress())?;
            report.server.clone_from(&turn.label);
            output.turn(round, &report)?;
            reports.push(report);
        }
        comparison.rounds.push(reports);
    }
    output.comparison(&comparison)?;
    comparison.rounds.iter().flatten().try_for_each(|report| expect::judge(&common.expect, report))
}

/// Every server in every way. Servers are compared with the first one in the same way; where there is only one, ways are
/// compared with the first way.
fn turns(compare: &Compare) -> Result<Vec<Turn>> {
    let ways: Vec<&str> =
        if compare.vary.is_empty() { vec![""] } else { compare.vary.iter().map(String::as_str).collect() };
    let servers: Vec<Option<&str>> = if compare.servers.is_empty() {
        vec![None]
    } else {
        compare.servers.iter().map(|name| Some(name.as_str())).collect()
    };
    let mut turns = Vec::new();
    for way in ways {
        let first = turns.len();
        let scenario = parse(&compare.scenario, way)?;
        for server in &servers {
            let label = match (server, way) {
                (Some(server), "") => (*server).to_owned(),
                (Some(server), way) if servers.len() > 1 => format!("{server} {way}"),
                (None, "") => scenario.common().server.clone(),
                (_, way) => way.to_owned(),
            };
            let base = if servers.len() > 1 { first } else { 0 };
            turns.push(Turn { label, base, server: server.map(str::to_owned), scenario: scenario.clone() });
        }
    }
    Ok(turns)
}

/// A scenario as it would stand on the command line, with more words at its end.
fn parse(words: &[String], more: &str) -> Result<Scenario> {
    let line = ["clarion-loadtest"].into_iter().chain(words.iter().map(String::as_str)).chain(more.split_whitespace());
    match Cli::try_parse_from(line) {
        Ok(Cli { command: Command::Scenario(scenario) }) => Ok(*scenario),
        Ok(_) => {
            Err(Failure::usage("only a scenario can be compared").remedy("idle, connect, fanout, push, mixed or soak"))
        }
        Err(error) if !error.use_stderr() => Err(Failure::closed(error.to_string())),
        Err(error) => Err(Failure::usage(error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn turns_of(line: &str) -> Result<Vec<(String, usize, u32)>> {
        let Ok(Cli { command: Command::Compare(compare) }) = Cli::try_parse_from(line.split('|')) else {
            panic!("{line} is no comparison")
        };
        let turns = turns(&compare)?;
        Ok(turns.into_iter().map(|turn| (turn.label, turn.base, turn.scenario.common().connections)).collect())
    }

    #[test]
    fn servers_are_compared_with_the_first_one_in_the_same_way() {
        let turns = turns_of("x|compare|--servers|floor,ws|--vary|-c 10|--vary|-c 20|fanout|-c|5").unwrap();
        let expected = [("floor -c 10", 0, 10), ("ws -c 10", 0, 10), ("floor -c 20", 2, 20), ("ws -c 20", 2, 20)];
        assert_eq!(turns, expected.map(|(label, base, count)| (label.to_owned(), base, count)));
        let turns = turns_of("x|compare|--servers|floor,ws|fanout|-c|5").unwrap();
        assert_eq!(turns, [("floor".to_owned(), 0, 5), ("ws".to_owned(), 0, 5)]);
    }

    #[test]
    fn ways_of_one_server_are_compared_with_the_first() {
        let turns = turns_of("x|compare|--vary|-c 10|--vary|-c 20 --rate 5|push|--server|floor").unwrap();
        assert_eq!(turns, [("-c 10".to_owned(), 0, 10), ("-c 20 --rate 5".to_owned(), 0, 20)]);
    }

    #[test]
    fn one_alone_is_repeated() {
        let turns = turns_of("x|compare|fanout|-c|7").unwrap();
        assert_eq!(turns, [("clarion".to_owned(), 0, 7)]);
    }

    #[test]
    fn what_cannot_be_compared_is_refused() {
        for line in ["x|compare|--vary|-c 1|--vary|--nonsense|fanout", "x|compare|--servers|floor,ws|floor"] {
            assert_eq!(turns_of(line).unwrap_err().exit_code(), 64, "{line}");
        }
        assert_eq!(turns_of("x|compare|--servers|floor,ws|fanout|--help").unwrap_err().exit_code(), 0);
    }
}
