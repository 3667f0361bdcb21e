//! Settings that are each fine and do not go together, and those that work and are worth a word.

use std::{fmt::Display, net::SocketAddr, time::Duration};

use tracing_subscriber::EnvFilter;

use super::{Config, Pin, Problem};
use crate::auth::{Log, Namespace, Patterns, Publish, Secret, Subscribe};

/// Collects what is found.
pub(super) struct Judge<'a> {
    problems: &'a mut Vec<Problem>,
}

impl Judge<'_> {
    pub(super) fn found(&mut self, key: &str, value: impl Display, expected: &str, remedy: &str) {
        self.add(key, Some(value.to_string()), expected, Some(remedy));
    }

    fn add(&mut self, key: &str, value: Option<String>, expected: &str, remedy: Option<&str>) {
        // What could not even be read counts with its default, about which there is nothing to say.
        if self.problems.iter().any(|problem| problem.key == key) {
            return;
        }
        self.problems.push(Problem {
            key: key.to_owned(),
            value,
            source: None,
            expected: expected.to_owned(),
            remedy: remedy.map(str::to_owned),
        });
    }

    /// Whether something in this table could not be read, so that conclusions from it would be wrong.
    fn unsure_of(&self, table: &str) -> bool {
        self.problems.iter().any(|problem| problem.key.starts_with(table) || problem.key.starts_with("the "))
    }
}

/// Finds what does not go together.
pub(super) fn check(config: &Config, problems: &mut Vec<Problem>) {
    let mut judge = Judge { problems };
    addresses(config, &mut judge);
    development(config, &mut judge);
    pinning(config, &mut judge);
    namespaces(config, &mut judge);
    tables(config, &mut judge);
    config.limits.check(&mut judge);
    if let Err(error) = EnvFilter::try_new(&config.log.level) {
        let remedy = "write error, warn, info, debug or trace, or directives such as info,clarion_bus=debug";
        judge.found("log.level", &config.log.level, &error.to_string(), remedy);
    }
}

fn addresses(config: &Config, judge: &mut Judge<'_>) {
    let (a, b) = (config.listen, config.admin_listen);
    let same_host = a.ip() == b.ip() || a.ip().is_unspecified() || b.ip().is_unspecified();
    if a.port() != 0 && a.port() == b.port() && same_host {
        judge.found(
            "admin_listen",
            b,
            &format!("another port than that of listen ({a})"),
            "the usual two are 8000 and 8001",
        );
    }
    if let Some(advertise) = config.advertise.as_ref().filter(|advertise| !is_host_and_port(advertise)) {
        judge.found(
            "advertise",
            advertise,
            "a host and a port, such as 10.1.2.3:8000",
            "it is where other nodes reach this one's listener",
        );
    }
}

fn is_host_and_port(text: &str) -> bool {
    if let Ok(address) = text.parse::<SocketAddr>() {
        return address.port() != 0 && !address.ip().is_unspecified();
    }
    let Some((host, port)) = text.rsplit_once(':') else { return false };
    let good = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_');
    !host.is_empty() && host.bytes().all(good) && port.parse::<u16>().is_ok_and(|port| port != 0)
}

fn development(config: &Config, judge: &mut Judge<'_>) {
    if !config.is_development() || config.insecure || judge.unsure_of("auth") {
        return;
    }
    for (key, address) in [("listen", config.listen), ("admin_listen", config.admin_listen)] {
        if !address.ip().is_loopback() {
            judge.found(
                key,
                address,
                "a loopback address: without token keys and API keys everybody who reaches this may do everything",
                "set CLARION_JWT_SECRET or CLARION_JWKS_URL, and CLARION_API_KEYS; or say --insecure",
            );
        }
    }
}

fn pinning(config: &Config, judge: &mut Judge<'_>) {
    if config.pin == Pin::Relay && config.advertise.is_none() && config.listen.ip().is_unspecified() {
        judge.found(
            "pin",
            "relay",
            "advertise to be set, since listen names no address that others could reach",
            "set --advertise to this node's address and port",
        );
    }
    if config.pin == Pin::Relay && config.tls.is_on() {
        judge.found(
            "pin",
            "relay",
            "serve or redirect, since nodes reach each other's listeners by plain HTTP and tls is set",
            "set pin to one of these; or remove tls.certificate and tls.key, and end TLS at a proxy before the nodes",
        );
    }
    if config.pin == Pin::Redirect && config.public_url.is_none() {
        judge.found(
            "pin",
            "redirect",
            "public_url to be set, since clients are sent to it",
            "set --public-url to this node's own public address",
        );
    }
}

fn namespaces(config: &Config, judge: &mut Judge<'_>) {
    let no_tokens = !config.auth.has_token_keys() && !config.is_development() && !judge.unsure_of("auth");
    for (at, namespace) in config.namespaces.iter().enumerate() {
        let (key, prefix) = (|field: &str| format!("namespaces[{at}].{field}"), namespace.prefix.as_str());
        let first = config.namespaces.iter().position(|other| other.prefix == namespace.prefix);
        if first != Some(at) {
            judge.found(
                &key("prefix"),
                format!("{prefix:?}"),
                "a prefix that no other namespace has",
                "put the rules of one prefix into one table",
            );
        }
        if namespace.is_of_users() && namespace.subscribe != Subscribe::SignedIn {
            judge.found(
                &key("subscribe"),
                shown(namespace.subscribe),
                "nothing: what is below `users` is heard by its user alone",
                "remove it",
            );
        }
        if no_tokens {
            needs_tokens(namespace, &key, judge);
        }
        keeps(namespace, &key, judge);
    }
}

/// What is wrong with a namespace's log or inbox.
fn keeps(namespace: &Namespace, key: &impl Fn(&str) -> String, judge: &mut Judge<'_>) {
    if namespace.inbox && !namespace.is_of_users() {
        let expected = "false: only what is below `users` has one user who reads it";
        judge.found(&key("inbox"), true, expected, "give the namespace a `log` instead, or use the prefix `users`");
    }
    let Some(log) = namespace.log else { return };
    if log.size.get() > Log::MAX_SIZE {
        let expected = format!("at most {} messages of each channel", Log::MAX_SIZE);
        judge.found(&key("log.size"), log.size, &expected, "a client that missed more is told that it did");
    }
    if log.age < Duration::from_secs(1) {
        let age = humantime::format_duration(log.age);
        judge.found(&key("log.age"), age, "at least 1s", "say how long a client may be away, such as 1h");
    }
    if log.partitions.get() > Log::MAX_PARTITIONS {
        let expected = format!("at most {}", Log::MAX_PARTITIONS);
        judge.found(&key("log.partitions"), log.partitions, &expected, "a cursor has a place for each of them");
    }
}

fn needs_tokens(namespace: &Namespace, key: &impl Fn(&str) -> String, judge: &mut Judge<'_>) {
    let remedy = "set CLARION_JWT_SECRET, CLARION_JWKS_URL or auth.public_keys; or let it be for `anyone`";
    if namespace.subscribe != Subscribe::Anyone {
        let expected = "a token key: without one nobody can be signed in, so nobody could subscribe";
        judge.found(&key("subscribe"), shown(namespace.subscribe), expected, remedy);
    }
    if let Some(patterns @ (Patterns::SignedIn | Patterns::Token)) = namespace.patterns {
        let shown = if patterns == Patterns::Token { "token" } else { "signed_in" };
        let expected = "a token key: without one nobody can be signed in";
        let remedy =
            "set CLARION_JWT_SECRET, CLARION_JWKS_URL or auth.public_keys; or let it be for `backend` or `anyone`";
        judge.found(&key("patterns"), shown, expected, remedy);
    }
    if namespace.publish == Publish::SignedIn {
        judge.found(&key("publish"), "signed_in", "a token key: without one nobody can be signed in", remedy);
    }
}

fn shown(rule: Subscribe) -> &'static str {
    match rule {
        Subscribe::Anyone => "anyone",
        Subscribe::SignedIn => "signed_in",
        Subscribe::Token => "token",
    }
}

fn tables(config: &Config, judge: &mut Judge<'_>) {
    for mistake in config.auth.mistakes() {
        judge.add(&format!("auth.{}", mistake.key), mistake.value, &mistake.expected, Some(&mistake.remedy));
    }
    for mistake in config.tls.mistakes() {
        judge.add(&format!("tls.{}", mistake.key), mistake.value, &mistake.expected, Some(&mistake.remedy));
    }
    if let Err(error) = clarion_bus::check(&config.bus) {
        judge.add(error.key, Some(error.value), &error.expected, None);
    }
    let own = [
        ("ingress", config.ingress.problems()),
        ("members", config.members.problems()),
        ("probe", config.probe.problems()),
        ("drain", config.drain.problems()),
    ];
    for (table, problems) in own {
        for (key, expected) in problems {
            judge.add(&format!("{table}.{key}"), None, &expected, None);
        }
    }
}

/// Says what works and may not be meant.
pub(super) fn warn(config: &mut Config) {
    warn_of_tls(config);
    let mut say = |text: &str| config.warnings.push(text.to_owned());
    if config.auth.is_development() && config.insecure {
        say("--insecure in development mode: everybody who reaches this node may hear and publish everything");
    }
    if !config.auth.is_development() && config.namespaces.is_empty() {
        say("no namespaces are configured, so everybody may subscribe to every channel but those of users");
    }
    if config.auth.jwt_secret.as_ref().map(Secret::expose).is_some_and(|secret| secret.len() < 32) {
        say(
            "auth.jwt_secret is shorter than 32 bytes and can be guessed from any token; make one with `openssl rand -base64 32`",
        );
    }
    let jwks = config.auth.jwks_url.as_ref().map(|url| url.expose());
    if jwks.is_some_and(|url| {
        url.scheme() == "http" && !matches!(url.host_str(), Some("localhost" | "127.0.0.1" | "[::1]"))
    }) {
        say("auth.jwks_url is not https: whoever sits on the way to it can make tokens");
    }
}

fn warn_of_tls(config: &mut Config) {
    if !config.tls.is_on() {
        return;
    }
    config.warnings.extend(config.tls.warnings());
    if config.public_url.as_ref().is_some_and(|url| url.expose().scheme() == "http") {
        let text =
            "public_url begins with http:// and tls is set: clients that are sent there are refused; say https://";
        config.warnings.push(text.to_owned());
    }
    if config.advertise.is_some() {
        let text = "advertise is not passed on while tls is set: other nodes serve this node's users themselves";
        config.warnings.push(text.to_owned());
    }
}
