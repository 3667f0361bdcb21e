//! What is taken and what is refused.

use clap::CommandFactory;

use super::*;
use crate::failure::{Failure, Result};

fn scenario(line: &str) -> Result<Scenario> {
    let cli = Cli::try_parse_from(line.split(' ')).map_err(|error| Failure::usage(error.to_string()))?;
    let Command::Scenario(scenario) = cli.command else { panic!("{line} is no scenario") };
    scenario.check()?;
    scenario.common().targets()?;
    Ok(*scenario)
}

#[test]
fn the_command_line_is_sound() {
    Cli::command().debug_assert();
    assert!(scenario("x fanout --rate 20 -c 5000").is_ok());
    assert!(scenario("x rolling --target 127.0.0.1:1 --restart true").is_ok());
}

#[test]
fn what_cannot_be_is_a_usage_error() {
    for line in [
        "x fanout --payload 10",
        "x fanout --rate 0",
        "x fanout --rate 5 --window 3",
        "x idle -c 0",
        "x idle -c 100001",
        "x soak -d 2h",
        "x rolling --nodes 1",
        "x rolling --target 127.0.0.1:1",
        "x fanout --target 192.0.2.1:80",
        "x fanout --target nonsense",
        "x fanout --server clarion --target 127.0.0.1:80",
        "x no-such",
    ] {
        assert_eq!(scenario(line).unwrap_err().exit_code(), 64, "{line}");
    }
    assert!(scenario("x fanout --target 192.0.2.1:80 --i-own-this-target").is_ok());
    assert!(scenario("x idle -c 100001 --unbounded").is_ok());
}
