//! What needs no broker and no bus: tokens, completions, manual pages, and what is refused before anything runs.

mod support;

use std::{io::Write, process::Stdio};

use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use serde_json::Value;
use support::{clarion, run};

fn claims(token: &str, secret: &str) -> Result<Value, jsonwebtoken::errors::Error> {
    let key = DecodingKey::from_secret(secret.as_bytes());
    jsonwebtoken::decode(token.trim(), &key, &Validation::new(Algorithm::HS256)).map(|data| data.claims)
}

#[tokio::test]
async fn a_token_is_signed_for_development() {
    let ran = run(clarion(["token", "--user", "42", "--expires", "90m"])).await.expect(0);
    let claims = claims(&ran.stdout, "development").unwrap();
    assert_eq!(claims["sub"], "42");
    assert_eq!(claims["exp"].as_u64().unwrap() - claims["iat"].as_u64().unwrap(), 5_400);
    assert!(ran.stderr.contains("development secret"));
}

#[tokio::test]
async fn a_token_is_signed_with_the_secret_of_the_environment() {
    let mut command = clarion(["--json", "token", "--user", "a@b", "--channel", "orders/**", "--audience", "app"]);
    command.env("CLARION_JWT_SECRET", "a secret of at least some length");
    let ran = run(command).await.expect(0);
    assert_eq!(ran.stderr, "");
    let token = ran.json()["token"].as_str().unwrap().to_owned();
    assert!(claims(&token, "development").is_err());
    let mut validation = Validation::new(Algorithm::HS256);
    validation.set_audience(&["app"]);
    let key = DecodingKey::from_secret(b"a secret of at least some length");
    let claims = jsonwebtoken::decode::<Value>(&token, &key, &validation).unwrap().claims;
    assert_eq!((&claims["sub"], &claims["channels"][0]), (&"a@b".into(), &"orders/**".into()));
    assert_eq!(ran.json()["expires_at"], claims["exp"]);
}

#[tokio::test]
async fn completions_are_scripts_of_their_shell() {
    let ran = run(clarion(["completions", "bash"])).await.expect(0);
    assert!(ran.stdout.contains("complete -F _clarion") && ran.stdout.contains("--rate"));
    let mut bash = std::process::Command::new("bash").arg("-n").stdin(Stdio::piped()).spawn().unwrap();
    bash.stdin.take().unwrap().write_all(ran.stdout.as_bytes()).unwrap();
    assert!(bash.wait().unwrap().success());
    assert!(run(clarion(["completions", "zsh"])).await.expect(0).stdout.starts_with("#compdef clarion"));
    assert!(run(clarion(["completions", "tcsh"])).await.expect(64).stderr.contains("bash"));
}

#[tokio::test]
async fn manual_pages_name_everything() {
    let whole = run(clarion(["man"])).await.expect(0).stdout;
    assert!(whole.contains(".TH clarion 1"));
    for word in ["publish", "doctor", "CLARION_API_KEY", "redis\\-cluster"] {
        assert!(whole.contains(word), "{word}");
    }
    let one = run(clarion(["man", "tail"])).await.expect(0).stdout;
    assert!(one.contains(".TH clarion-tail 1") && one.contains("\\-\\-door"));
    assert!(run(clarion(["man", "sing"])).await.expect(64).stderr.contains("doctor"));
}

#[tokio::test]
async fn what_cannot_be_is_a_usage_error_with_a_remedy() {
    for (args, words) in [
        (&[][..], &["Usage"][..]),
        (&["sing"], &["sing"]),
        (&["publish", "a//b", "x"], &["CHANNEL", "empty segment"]),
        (&["publish", "health", "x"], &["CHANNEL", "reserved"]),
        (&["publish", "a", "x", "--rate", "5"], &["--rate", "`-`"]),
        (&["publish", "a", "@/no/such/file"], &["@/no/such/file", "@@"]),
        (&["push", "4/2", "x"], &["USER", "slash"]),
        (&["tail", "a", "b", "--door", "ws"], &["--door ws", "--door sse"]),
        (&["tail", "a", "--door", "ws", "--via", "redis://h"], &["--door", "--via http://"]),
        (&["token", "--user", "42", "--expires", "soon"], &["--expires", "1h"]),
        (&["nodes", "--via", "gopher://h"], &["--via gopher://h", "nats://"]),
        (&["nodes", "--via", "memory"], &["--via", "http://"]),
        (&["nodes", "--via", "https://h", "--ca-file", "/no/such.pem"], &["--ca-file /no/such.pem"]),
    ] {
        let ran = run(clarion(args)).await.expect(64);
        assert_eq!(ran.stdout, "", "{args:?}");
        for word in words {
            assert!(ran.stderr.contains(word), "{args:?} should name {word}: {}", ran.stderr);
        }
    }
}

#[tokio::test]
async fn a_password_never_comes_by_a_flag_and_is_never_shown() {
    for args in [["nodes", "--via", "redis://u:hidden@h"], ["doctor", "--bus", "nats://hidden@h"]] {
        let ran = run(clarion(args)).await.expect(64);
        assert!(ran.stderr.contains("CLARION_VIA") && !ran.stderr.contains("hidden"), "{ran:?}");
    }
    let mut command = clarion(["nodes", "--timeout", "200ms"]);
    // A port of loopback at which nobody listens.
    command.env("CLARION_VIA", "redis://u:hidden@127.0.0.1:1");
    let ran = run(command).await.expect(69);
    assert!(ran.stderr.contains("127.0.0.1:1") && !ran.stderr.contains("hidden"), "{ran:?}");
}

#[tokio::test]
async fn failures_are_json_where_machines_read() {
    let ran = run(clarion(["--json", "publish", "a", "@/no/such/file"])).await.expect(64);
    let error: Value = serde_json::from_str(&ran.stderr).unwrap();
    assert_eq!(error["error"]["code"], "usage");
    assert!(error["error"]["remedy"].as_str().unwrap().contains("@@"));
}

#[tokio::test]
async fn help_and_version_are_no_errors() {
    assert!(run(clarion(["--help"])).await.expect(0).stdout.contains("Exit codes"));
    assert!(run(clarion(["--version"])).await.expect(0).stdout.starts_with("clarion "));
}
