//! Who may come in, and over what.

use std::{io::Write as _, path::PathBuf, time::Duration};

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use clarion_bus::{BusConfig, Link, Secret};
use clarion_testkit::{NatsServer, eventually, within};
use nkeys::KeyPair;
use serde_json::{Value, json};
use tempfile::NamedTempFile;

use crate::kit::{Node, config};

/// It comes in, and what it publishes comes back.
async fn works(config: &BusConfig) {
    let node = Node::up(config).await;
    node.subscribe("a").await;
    node.publish("a", "x").await;
    node.take(1).await;
}

/// It does not come in; returns why.
async fn fails(config: &BusConfig) -> String {
    Node::start(config).wait_down().await
}

fn file(text: &str) -> NamedTempFile {
    let mut file = NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file
}

#[tokio::test]
async fn a_token() {
    let server = NatsServer::builder().token("t0ken").start().await;
    works(&config(&server.url())).await;
    let plain = format!("nats://{}", server.addr());
    works(&BusConfig { password: Some(Secret::new("t0ken")), ..config(&plain) }).await;
    let reason = fails(&config(&plain)).await;
    assert!(reason.contains("Authorization Violation"), "{reason}");
    let reason = fails(&config(&format!("nats://wr0ng@{}", server.addr()))).await;
    assert!(reason.contains("Authorization Violation") && !reason.contains("wr0ng"), "{reason}");
}

#[tokio::test]
async fn a_user_with_a_password() {
    let server = NatsServer::builder().user("u", "p").start().await;
    works(&config(&server.url())).await;
    let reason = fails(&config(&server.url_as("u", "wr0ng"))).await;
    assert!(reason.contains("Authorization Violation") && !reason.contains("wr0ng"), "{reason}");
}

#[tokio::test]
async fn an_nkey() {
    let key = KeyPair::new_user();
    let server = NatsServer::builder().nkey(&key.public_key()).start().await;
    let seed = file(&key.seed().unwrap());
    let path = |file: &NamedTempFile| Some(file.path().to_owned());
    works(&BusConfig { nats_nkey_file: path(&seed), ..config(&server.url()) }).await;
    let other = file(&KeyPair::new_user().seed().unwrap());
    let reason = fails(&BusConfig { nats_nkey_file: path(&other), ..config(&server.url()) }).await;
    assert!(reason.contains("Authorization Violation"), "{reason}");
}

/// A claim in the form of NATS's own JWT library, signed by `issuer`.
fn jwt(issuer: &KeyPair, subject: &KeyPair, nats: &Value) -> String {
    let part = |value: &Value| BASE64_URL_SAFE_NO_PAD.encode(value.to_string());
    let header = part(&json!({"typ": "JWT", "alg": "ed25519-nkey"}));
    let claims = part(&json!({
        "jti": "test", "iat": 1_700_000_000, "iss": issuer.public_key(), "name": "test", "sub": subject.public_key(), "nats": nats,
    }));
    let signed = format!("{header}.{claims}");
    let signature = BASE64_URL_SAFE_NO_PAD.encode(issuer.sign(signed.as_bytes()).unwrap());
    format!("{signed}.{signature}")
}

#[tokio::test]
async fn a_credentials_file() {
    let (operator, account, user) = (KeyPair::new_operator(), KeyPair::new_account(), KeyPair::new_user());
    let operator_jwt = jwt(&operator, &operator, &json!({"type": "operator", "version": 2}));
    let limits = json!({
        "subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1, "wildcards": true, "conn": -1, "leaf": -1,
    });
    let account_jwt = jwt(&operator, &account, &json!({"type": "account", "version": 2, "limits": limits}));
    let user_claims =
        json!({"type": "user", "version": 2, "subs": -1, "data": -1, "payload": -1, "pub": {}, "sub": {}});
    let user_jwt = jwt(&account, &user, &user_claims);
    let lines = format!(
        "operator: \"{operator_jwt}\"\nresolver: MEMORY\nresolver_preload: {{ {}: \"{account_jwt}\" }}",
        account.public_key()
    );
    let server = NatsServer::builder().config(&lines).start().await;
    let creds = file(&format!(
        "-----BEGIN NATS USER JWT-----\n{user_jwt}\n------END NATS USER JWT------\n\n\
         ************************* IMPORTANT *************************\n\n\
         -----BEGIN USER NKEY SEED-----\n{}\n------END USER NKEY SEED------\n",
        user.seed().unwrap()
    ));
    let creds: PathBuf = creds.into_temp_path().keep().unwrap();
    works(&BusConfig { nats_creds_file: Some(creds.clone()), ..config(&server.url()) }).await;
    std::fs::remove_file(creds).unwrap();
    let reason = fails(&config(&server.url())).await;
    assert!(reason.contains("Authorization Violation"), "{reason}");
}

#[tokio::test]
async fn tls_is_spoken_and_certificates_are_checked() {
    let server = NatsServer::builder().tls().user("u", "p").start().await;
    let trusting = BusConfig { ca_file: Some(server.ca()), ..config(&server.url()) };
    works(&trusting).await;
    // The server insists, also where the URL does not.
    let plain = server.url().replace("tls://", "nats://");
    works(&BusConfig { url: plain.parse().unwrap(), ..trusting.clone() }).await;
    // The certificate is for `localhost` and 127.0.0.1, and another authority's is not believed.
    let stranger = NatsServer::builder().tls().start().await;
    let reason = fails(&BusConfig { ca_file: Some(stranger.ca()), ..trusting }).await;
    assert!(reason.contains("TLS"), "{reason}");
}

#[tokio::test]
async fn a_server_without_tls_is_not_spoken_to_in_the_clear() {
    let server = NatsServer::start().await;
    let reason = fails(&config(&server.url().replace("nats://", "tls://"))).await;
    assert!(reason.contains("does not offer it"), "{reason}");
}

#[tokio::test]
async fn a_client_certificate_is_shown() {
    let server = NatsServer::builder().tls_verify().start().await;
    let certificates = server.certificates();
    let without = BusConfig { ca_file: Some(server.ca()), ..config(&server.url()) };
    works(&BusConfig {
        cert_file: Some(certificates.client_cert()),
        key_file: Some(certificates.client_key()),
        ..without.clone()
    })
    .await;
    fails(&without).await;
}

/// A file may hang, on a mount that is gone for example. The thread of the links is a shard's, whose sockets go on; and when the
/// file is there again, so is the bus.
#[tokio::test]
async fn a_file_that_hangs_keeps_no_thread_of_the_links() {
    let key = KeyPair::new_user();
    let mut server = NatsServer::builder().nkey(&key.public_key()).start().await;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("seed");
    std::fs::write(&path, key.seed().unwrap()).unwrap();
    let (handle, shard) = thread_of_links();
    let config = BusConfig {
        nats_nkey_file: Some(path.clone()),
        links: Some(handle.clone()),
        connect_timeout: Duration::from_millis(200),
        ..config(&server.url())
    };
    let node = Node::up(&config).await;
    // Nobody writes into this pipe, so whoever opens it waits.
    std::fs::remove_file(&path).unwrap();
    assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
    server.restart().await;
    let mut link = node.bus.link();
    let told = link.wait_for(|link| matches!(link, Link::Down(Some(why)) if why.contains("takes too long")));
    within("it is said", told).await.unwrap();
    within("the thread does other things", handle.spawn(async {})).await.unwrap();
    // The mount comes back: whoever hangs goes on, and finds nothing, and the next finds the file.
    let pipe = directory.path().join("pipe");
    std::fs::rename(&path, &pipe).unwrap();
    std::fs::write(&path, key.seed().unwrap()).unwrap();
    eventually("the link is up", async || {
        // Opened for both nothing waits, and closed it ends what others read.
        drop(std::fs::File::options().read(true).write(true).open(&pipe));
        *node.bus.link().borrow() == Link::Up
    })
    .await;
    drop(shard);
}

/// A runtime with one thread, as a shard's is, and what ends it.
fn thread_of_links() -> (tokio::runtime::Handle, tokio::sync::oneshot::Sender<()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let handle = runtime.handle().clone();
    let (end, ended) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || runtime.block_on(ended).is_ok());
    (handle, end)
}

#[test]
fn a_file_that_hangs_at_start_is_a_mistake() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("seed");
    assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
    let config = BusConfig {
        nats_nkey_file: Some(path),
        connect_timeout: Duration::from_millis(100),
        ..config("nats://127.0.0.1:1")
    };
    let error = clarion_bus::connect(&config, crate::kit::recorder()).err().unwrap();
    assert_eq!(error.key, "bus.nats_nkey_file");
    assert!(error.expected.contains("takes too long"), "{error}");
}
