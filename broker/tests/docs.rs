//! The docs say what the binary does: every setting, every metric and every close code is in them.

use std::{fs, path::Path, process::Command};

use clarion_protocol::CloseCode;
use clarion_testkit::{BrokerProcess, run};

const BROKER: &str = env!("CARGO_BIN_EXE_clarion-broker");

fn doc(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs").join(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[test]
fn every_close_code_is_in_the_table() {
    let table = doc("limits.md");
    for code in CloseCode::ALL {
        let row = table.lines().find(|line| line.starts_with(&format!("| {} |", code.code())));
        let row = row.unwrap_or_else(|| panic!("{code} is missing"));
        assert!(row.contains(code.reason()), "{code}: {row}");
        let comes_back = row.ends_with("| yes |");
        assert_eq!(comes_back, code.reconnect(), "{row}");
    }
}

/// What a command that makes a page prints.
async fn made(option: &str) -> String {
    let mut command = Command::new(BROKER);
    command.args(["config", option]);
    run(command).await.expect("it needs no configuration")
}

#[tokio::test]
async fn the_reference_of_settings_is_what_the_code_gives() {
    for (option, name) in
        [("--reference", "reference/configuration.md"), ("--schema", "reference/configuration.schema.json")]
    {
        let renew = format!("renew it: cargo run -p clarion-broker -- config {option} > docs/{name}");
        assert!(
            doc(name).trim_end() == made(option).await.trim_end(),
            "docs/{name} is not what the code gives; {renew}"
        );
    }
}

#[tokio::test]
async fn every_setting_is_explained() {
    let text = doc("reference/configuration.md");
    let mut command = Command::new(BROKER);
    command.arg("config");
    let printed = run(command).await.expect("the defaults are good");
    let mut table = String::new();
    for line in printed.lines().filter(|line| !line.is_empty()) {
        if let Some(name) = line.strip_prefix('[') {
            table = format!("{}.", name.trim_matches(['[', ']']));
        } else if let Some((key, _)) = line.split_once(" = ").filter(|(key, _)| *key != "namespaces") {
            assert!(text.contains(&format!("### `{table}{key}`")), "`{table}{key}` is missing");
        }
    }
}

#[tokio::test]
async fn every_metric_is_explained() {
    let text = doc("operations.md");
    let node = BrokerProcess::builder(BROKER).start_ready().await;
    let metrics = node.metrics().await;
    let names = metrics.series().keys().map(|series| series.split('{').next().unwrap_or_default());
    for name in names.filter(|name| name.starts_with("clarion_")) {
        let base = ["_bucket", "_sum", "_count"].iter().find_map(|suffix| name.strip_suffix(suffix)).unwrap_or(name);
        assert!(text.contains(&format!("`{base}")), "{base} is missing");
    }
}
