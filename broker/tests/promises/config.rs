//! Bad input at start: all mistakes are found, reported together, with the key and the remedy; secrets never show.

use std::process::Command;

use clarion_testkit::{Process, run};

use crate::{API_KEY, ConfigFile, SECRET, development, guarded};

#[tokio::test]
async fn all_mistakes_are_reported_together() {
    let file = ConfigFile::new(
        "trusted_proxies = [\"nowhere\"]\nlisten_adress = \"x\"\n[limits]\nping = \"25\"\npayload = \"64 bananas\"\n\
         [[namespaces]]\nprefix = \"a//b\"\nsubscribe = \"nobody\"\n[auth]\napi_keys = [\"k3y-that-must-not-show\"]\n",
    );
    let (code, words) = development().args(["--config", file.path(), "--pin", "nailed"]).start_and_end().await;
    assert_eq!(code, Some(64), "{words}");
    for word in ["nowhere", "listen_adress", "ping", "64 bananas", "a//b", "nobody", "nailed"] {
        assert!(words.contains(word), "{word} is not reported:\n{words}");
    }
    assert!(!words.contains("k3y-that-must-not-show"), "{words}");
}

#[tokio::test]
async fn what_cannot_work_is_found_at_start() {
    let needs_tokens =
        ConfigFile::new("[[namespaces]]\nprefix = \"rooms\"\nsubscribe = \"token\"\n[auth]\napi_keys = [\"k\"]\n");
    let taken = development().start().await;
    let busy = taken.addr().to_string();
    for (what, args, word) in [
        ("a rule that needs a token key", vec!["--config", needs_tokens.path()], "jwt"),
        ("a port in use", vec!["--listen", &busy], "in use"),
        ("a file that is not there", vec!["--config", "/nowhere/clarion.toml"], "/nowhere/clarion.toml"),
        ("an unknown bus", vec!["--bus", "kafka://localhost"], "kafka"),
        ("a password in a flag", vec!["--bus", "redis://:s3cret@localhost"], "CLARION_BUS"),
        ("a bad prefix", vec!["--prefix", "a.b"], "prefix"),
        ("an unknown flag", vec!["--lisen", "x"], "--listen"),
        ("development on all addresses", vec!["--listen", "[::]:0"], "--insecure"),
    ] {
        let (code, words) = development().args(args).start_and_end().await;
        assert_eq!(code, Some(64), "{what}: {words}");
        assert!(words.to_lowercase().contains(&word.to_lowercase()), "{what}: {words}");
        assert!(!words.contains("s3cret"), "{what}: {words}");
    }
}

#[tokio::test]
async fn flags_stand_over_variables_over_the_file() {
    let file = ConfigFile::new("prefix = \"file\"\nnode = \"file\"\npin = \"relay\"\n");
    let mut command = Command::new(env!("CARGO_BIN_EXE_clarion-broker"));
    command.args(["config", "--config", file.path(), "--prefix", "flag"]);
    command.env("CLARION_PREFIX", "variable").env("CLARION_NODE", "variable");
    command.env("CLARION_JWT_SECRET", SECRET).env("CLARION_API_KEYS", API_KEY);
    let printed = run(command).await.expect("it is good");
    for line in ["prefix = \"flag\"", "node = \"variable\"", "pin = \"relay\""] {
        assert!(printed.contains(line), "{line}:\n{printed}");
    }
    assert!(!printed.contains(SECRET) && !printed.contains(API_KEY), "{printed}");
}

#[tokio::test]
async fn check_only_judges() {
    for (text, good) in [("prefix = \"x\"\n", true), ("prefx = \"x\"\n", false)] {
        let file = ConfigFile::new(text);
        let mut command = Command::new(env!("CARGO_BIN_EXE_clarion-broker"));
        command.args(["config", "--check", "--config", file.path()]);
        assert_eq!(run(command).await.is_ok(), good, "{text}");
    }
}

#[tokio::test]
async fn strangers_among_the_variables_are_a_warning() {
    let node = guarded().env("CLARION_SERVICE_HOST", "10.0.0.1").env("CLARION_LISTN", "x").start_ready().await;
    let log = node.log().join("\n");
    assert!(log.contains("CLARION_LISTN") && log.contains("CLARION_LISTEN"), "the nearest known one is named: {log}");
}

#[tokio::test]
async fn the_start_message_names_addresses_and_things_to_try() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_clarion-broker"));
    command.args(["--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"]);
    let mut process = Process::spawn(command).expect("it starts");
    for word in ["http://127.0.0.1:", "Development mode", "curl -N", "curl -d", "/users/42"] {
        process.wait_for_line(word, |line| line.contains(word).then_some(())).await.expect("it is said");
    }
}
