//! What a person may write, what he is told, and what comes of it.

use std::fs;

use clarion_testkit::Certificates;
use tempfile::NamedTempFile;

use super::*;

fn file(text: &str) -> NamedTempFile {
    let file = NamedTempFile::new().unwrap();
    fs::write(file.path(), text).unwrap();
    file
}

fn vars(vars: &[(&str, &str)]) -> Vec<(String, String)> {
    vars.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn load(text: &str, set: &[(&str, &str)], flags: Flags) -> Result<Config, Rejected> {
    let file = file(text);
    Config::load(&Flags { config: Some(file.path().to_owned()), ..flags }, vars(set))
}

fn good(text: &str, set: &[(&str, &str)]) -> Config {
    load(text, set, Flags::default()).unwrap_or_else(|rejected| panic!("{rejected}"))
}

fn rejected(text: &str, set: &[(&str, &str)]) -> Rejected {
    load(text, set, Flags::default()).expect_err("this has mistakes")
}

fn bad(text: &str, set: &[(&str, &str)]) -> Vec<Problem> {
    rejected(text, set).problems
}

/// The one mistake in it, as text.
fn mistake(text: &str, set: &[(&str, &str)]) -> String {
    let problems = bad(text, set);
    assert_eq!(problems.len(), 1, "{problems:#?}");
    problems[0].to_string()
}

#[test]
fn everything_has_a_default() {
    let config = Config::load(&Flags::default(), []).unwrap();
    assert_eq!(config.listen.to_string(), "127.0.0.1:8000");
    assert_eq!(config.admin_listen.to_string(), "127.0.0.1:8001");
    assert_eq!((config.pin, config.limits.payload.bytes()), (Pin::Serve, 65536));
    assert!(config.is_development() && config.warnings.is_empty());
}

#[test]
fn flags_stand_over_variables_over_the_file() {
    let text =
        "prefix = 'file'\nnode = 'file'\npublic_url = 'https://file'\n[limits]\nper_user = 1\n[log]\nlevel = 'warn'";
    let set =
        [("CLARION_NODE", "variable"), ("CLARION_PUBLIC_URL", "https://variable"), ("CLARION_LIMITS_PER_USER", "2")];
    let flags =
        Flags { public_url: Some("https://flag".to_owned()), log_level: Some("debug".to_owned()), ..Flags::default() };
    let config = load(text, &set, flags).unwrap();
    assert_eq!((config.prefix.as_str(), config.node.as_str()), ("file", "variable"));
    assert_eq!(config.public_url.unwrap().to_string(), "https://flag/");
    assert_eq!((config.limits.per_user, config.log.level.as_str()), (2, "debug"));
}

#[test]
fn variables_have_the_type_that_is_wanted() {
    let config = good(
        "",
        &[
            ("CLARION_JWT_SECRET", "0123456"),
            ("CLARION_API_KEYS", "one, 002,true"),
            ("CLARION_ORIGINS", "https://a.example"),
            ("CLARION_INSECURE", "true"),
            ("CLARION_LIMITS_PAYLOAD", "1024"),
            ("CLARION_LIMITS_OUTBOX", "2MiB"),
            ("CLARION_LIMITS_PING", "5s"),
            ("CLARION_MEMBERS_WEIGHT", "7"),
            ("CLARION_REQUIRE_BUS", "10s"),
            ("CLARION_TRUSTED_PROXIES", "10.0.0.0/8,fd00::/8"),
            ("CLARION_BUS_PASSWORD", "42"),
            ("CLARION_BUS", "redis://example.com"),
            ("PATH", "/bin"),
        ],
    );
    assert_eq!(config.auth.jwt_secret.as_ref().unwrap().expose(), "0123456");
    let keys: Vec<&str> = config.auth.api_keys.iter().map(|key| key.key().expose()).collect();
    assert_eq!(keys, ["one", "002", "true"]);
    assert_eq!((config.auth.origins.len(), config.trusted_proxies.len(), config.insecure), (1, 2, true));
    assert_eq!((config.limits.payload.bytes(), config.limits.outbox.bytes()), (1024, 2 << 20));
    assert_eq!((config.limits.ping, config.require_bus), (Duration::from_secs(5), Some(Duration::from_secs(10))));
    assert_eq!((config.members.weight, config.bus.url.kind()), (7, "redis"));
    assert_eq!(config.bus.password.unwrap().expose(), "42");
    assert_eq!((config.bus.max_payload, config.ingress.max_payload), (1024, 1024));
}

#[test]
fn what_is_wrong_is_told_with_key_value_expectation_and_remedy() {
    for (text, set, expected) in [
        ("lissen = 1", &[][..], vec!["lissen", "a key that is known", "`listen`"]),
        ("[limits]\npaylod = 1", &[], vec!["limits.paylod", "`limits.payload`"]),
        ("jwt_secret = 'x'", &[], vec!["jwt_secret", "did you mean `auth.jwt_secret`?"]),
        ("[limits]\nping = 5", &[], vec!["limits.ping is 5", "a duration", "10s"]),
        ("[limits]\nping = 'soon'", &[], vec![r#"limits.ping is "soon""#, "a number and its unit"]),
        ("[limits]\nping = '1ms'", &[], vec!["limits.ping is 1ms", "100ms to 1h"]),
        ("[limits]\npayload = '64 parsecs'", &[], vec![r#"limits.payload is "64 parsecs""#, "64KiB"]),
        ("[limits]\npayload = '2MiB'", &[], vec!["limits.outbox is 1MiB", "at least limits.payload (2MiB)"]),
        (
            "listen = 'localhost'",
            &[],
            vec![r#"listen is "localhost""#, "expected: an IP address and a port", "127.0.0.1:8000"],
        ),
        ("listen = '0.0.0.0:80'", &[], vec!["listen is 0.0.0.0:80", "a loopback address", "--insecure"]),
        ("listen = '127.0.0.1:8001'", &[], vec!["admin_listen is 127.0.0.1:8001", "another port"]),
        ("pin = 'stay'", &[], vec![r#"pin is "stay""#, "`serve`, `relay`"]),
        ("pin = 'redirect'", &[], vec!["pin is redirect", "public_url", "--public-url"]),
        ("advertise = 'there'", &[], vec!["advertise is there", "10.1.2.3:8000"]),
        ("node = 'a b'", &[], vec![r#"node is "a b""#, "64 ASCII letters"]),
        ("prefix = '_clarion'", &[], vec!["prefix is"]),
        ("bus = 'memory'", &[], vec!["bus (line 1 of ", "expected: a table, [bus]"]),
        ("[bus]\nurl = 'http://x'", &[], vec![r#"bus.url is "http://x""#, "redis://"]),
        ("[bus]\npubsub = 'sharded'", &[], vec!["bus.pubsub is sharded", "redis-cluster"]),
        ("[log]\nlevel = 'clarion=loud'", &[], vec!["log.level is clarion=loud", "info"]),
        ("[auth]\njwt_secret = 'development'", &[], vec!["auth.jwt_secret", "openssl rand"]),
        ("[auth]\nleeway = '1h'", &[], vec!["auth.leeway is 1h", "at most 5m"]),
        ("[auth]\npublic_keys = ['/nowhere.pem']", &[], vec!["auth.public_keys is /nowhere.pem", "No such file"]),
        ("[auth]\njwks_url = 'ftp://x'", &[], vec![r#"auth.jwks_url is "ftp://x""#, "https://"]),
        ("[auth]\norigins = ['https://a', 'b']", &[], vec![r#"auth.origins[1] is "b""#, "https://example.com"]),
        ("[[namespaces]]\nsubscribe = 'anyone'", &[], vec!["namespaces[0]", "missing field `prefix`"]),
        ("[[namespaces]]\nprefix = 'a/*'", &[], vec!["namespaces[0].prefix", "'*'"]),
        ("[[namespaces]]\nprefix = 'me'", &[], vec!["namespaces[0]", "reserved"]),
        (
            "[[namespaces]]\nprefix = 'users'\nsubscribe = 'anyone'",
            &[],
            vec!["namespaces[0].subscribe", "its user alone"],
        ),
        ("[drain]\nwait = '29s'", &[], vec!["drain.wait", "deadline"]),
        (
            "",
            &[("CLARION_LIMITS_PER_USER", "many")],
            vec![r#"limits.per_user is "many" (variable CLARION_LIMITS_PER_USER)"#, "u32"],
        ),
        ("", &[("CLARION_LIMITS_PER_USER", "-1")], vec![r#"limits.per_user is "-1""#, "u32"]),
        ("", &[("CLARION_JWT_SECRET", "")], vec!["auth.jwt_secret (variable CLARION_JWT_SECRET)", "empty"]),
        ("", &[("CLARION_API_KEYS", "a,,b")], vec!["auth.api_keys", "empty"]),
        (
            "",
            &[("CLARION_BUS", "memory"), ("CLARION_BUS_URL", "memory")],
            vec!["bus.url", "CLARION_BUS and variable CLARION_BUS_URL"],
        ),
        ("", &[("CLARION_LISTEN", "0.0.0.0:8000")], vec!["listen is 0.0.0.0:8000 (variable CLARION_LISTEN)"]),
        ("a = ", &[], vec!["the configuration file", "line 1"]),
    ] {
        let told = mistake(text, set);
        for part in expected {
            assert!(told.contains(part), "{text:?} {set:?} does not say {part:?} but:\n{told}");
        }
    }
}

#[test]
fn patterns_are_few_where_they_cost_a_bus_most() {
    for (bus, text, rule, limit) in [
        ("redis://x", "", Patterns::SignedIn, Some(100)),
        ("redis-cluster://x", "", Patterns::SignedIn, Some(100)),
        ("redis://x", "[limits]\npatterns = 0", Patterns::SignedIn, None),
        ("nats://x", "", Patterns::Anyone, None),
        ("nats://x", "[limits]\npatterns = 7", Patterns::Anyone, Some(7)),
        ("memory", "", Patterns::Anyone, None),
    ] {
        let config = good(text, &[("CLARION_BUS", bus)]);
        let of_node = config.admission().patterns.map(NonZeroU32::get);
        assert_eq!((config.auth.patterns, of_node), (rule, limit), "{bus} {text}");
    }
    let text = "[[namespaces]]\nprefix = 'a'\nsubscribe = 'anyone'\npatterns = 'token'";
    assert!(mistake(text, &[("CLARION_API_KEYS", "k")]).starts_with("namespaces[0].patterns is token (line 4 of "));
}

#[test]
fn a_mistake_names_its_file_and_line() {
    let text =
        "node = 'a'\n\n[limits]\nping = 5\noutbox = '1KiB'\n\n[[namespaces]]\nsubscribe = 'anyone'\n[nonsense]\n";
    let file = file(text);
    let at = |line: u32| format!("line {line} of {}", file.path().display());
    let flags = Flags { config: Some(file.path().to_owned()), ..Flags::default() };
    let rejected = Config::load(&flags, vars(&[("CLARION_LIMITS_PONG", "1ms"), ("CLARION_NODE", "a b")])).unwrap_err();
    let mut told: Vec<_> = rejected.problems.into_iter().map(|it| (it.key, it.source.unwrap_or_default())).collect();
    told.sort_unstable();
    let expected = [
        ("limits.outbox", at(5)),
        ("limits.ping", at(4)),
        ("limits.pong", "variable CLARION_LIMITS_PONG".to_owned()),
        ("namespaces[0]", at(7)),
        ("node", "variable CLARION_NODE".to_owned()),
        ("nonsense", at(9)),
    ];
    assert_eq!(told, expected.map(|(key, source)| (key.to_owned(), source)));
}

#[test]
fn the_newline_at_the_end_of_a_secret_is_not_part_of_it() {
    let config = good(
        "",
        &[
            ("CLARION_JWT_SECRET", "s\n"),
            ("CLARION_API_KEYS", "a,b\r\n"),
            ("CLARION_BUS_PASSWORD", "p\n"),
            ("CLARION_BUS", "redis://x\n"),
            ("CLARION_LISTEN", "127.0.0.1:9000\n"),
        ],
    );
    assert_eq!(config.auth.jwt_secret.as_ref().unwrap().expose(), "s");
    assert_eq!(config.bus.password.unwrap().expose(), "p");
    let keys: Vec<&str> = config.auth.api_keys.iter().map(|key| key.key().expose()).collect();
    assert_eq!((keys, config.listen.port()), (vec!["a", "b"], 9000));
    let config =
        good("[auth]\njwt_secret = \"\"\"\ns p \n\"\"\"\napi_keys = [\"k\\n\"]\n[bus]\npassword = \"p\\n\"", &[]);
    assert_eq!(config.bus.password.as_ref().unwrap().expose(), "p");
    assert_eq!(config.auth.jwt_secret.as_ref().unwrap().expose(), "s p ", "only the end of the line goes");
    assert_eq!(config.auth.api_keys[0].key().expose(), "k");
    assert!(mistake("", &[("CLARION_JWT_SECRET", "\n")]).contains("it is empty"));
}

#[test]
fn all_mistakes_are_told_at_once_and_by_their_place_in_the_file() {
    let text = r#"
        lissen = "x"
        pin = "stay"
        [limits]
        ping = 5
        pong = "?"
        [[namespaces]]
        subscribe = "anyone"
        [[namespaces]]
        prefix = "orders"
        publish = "all"
        [[namespaces]]
        prefix = "news//"
        [auth]
        origins = ["a", "https://a", "b"]
        [nonsense]
        x = 1
    "#;
    let mut keys: Vec<String> = bad(text, &[("CLARION_NODE", "a b")]).into_iter().map(|problem| problem.key).collect();
    keys.sort_unstable();
    assert_eq!(
        keys,
        [
            "auth.origins[0]",
            "auth.origins[2]",
            "limits.ping",
            "limits.pong",
            "lissen",
            "namespaces[0]",
            "namespaces[1].publish",
            "namespaces[2].prefix",
            "node",
            "nonsense",
            "pin"
        ]
    );
}

#[test]
fn a_mistake_never_shows_a_secret() {
    for (text, set) in [
        ("[auth]\njwt_secret = 123454321", &[][..]),
        ("[auth]\napi_keys = [123454321]", &[]),
        ("[auth]\napi_keys = [{ name = 'a', kee = '123454321' }]", &[]),
        ("[auth]\napi_keys = '123454321'", &[]),
        ("[auth]\njwt_secert = '123454321'", &[]),
        ("auth = '123454321'", &[]),
        ("bus = 'redis://u:123454321@x'", &[]),
        ("[bus]\nurl = 'redis://u:123454321@x:port'", &[]),
        ("[bus]\nurl = 'redisx://u:123454321@x'", &[]),
        ("[bus]\npassword = 123454321", &[]),
        ("[auth]\njwks_url = 'htp://u:123454321@x'", &[]),
        ("[auth]\njwks_url = 'htp://x?sig=123454321'", &[]),
        ("[auth]\njwt_secret = '123454321", &[]),
        ("", &[("CLARION_BUS", "redis://:123454321@x:y")]),
        ("", &[("CLARION_BUS", "123454321@x:y")]),
        ("pin = 'relay'\n[auth]\njwt_secret = '123454321'\nlisten = 5", &[]),
    ] {
        let told = rejected(text, set).to_string();
        assert!(!told.contains("123454321"), "{text:?} {set:?}:\n{told}");
    }
}

#[test]
fn a_password_in_a_flag_is_refused() {
    for (bus, refused) in [
        ("redis://:pw@x", true),
        ("redis://user:pw@x", true),
        ("redis-sentinel://x/m?sentinel_password=pw", true),
        ("nats://token@x", true),
        ("nats://u:pw@x", true),
        ("redisx://pw@x", true),
        ("redis://user@x", false),
        ("redis://x", false),
        ("nats://x,y", false),
        ("memory", false),
    ] {
        let flags = Flags { bus: Some(bus.to_owned()), ..Flags::default() };
        match load("", &[], flags) {
            Ok(_) => assert!(!refused, "{bus}"),
            Err(rejected) => {
                let told = rejected.to_string();
                assert!(refused && told.contains("CLARION_BUS") && !told.contains("pw@"), "{bus}: {told}");
            }
        }
    }
}

#[test]
fn strangers_among_the_variables_are_a_warning() {
    let config = good("", &[("CLARION_PORT", "tcp://10.0.0.1:80"), ("CLARION_LISTENN", "x"), ("CLARIONET", "x")]);
    assert_eq!(config.warnings.len(), 2);
    assert!(config.warnings[0].contains("CLARION_LISTENN") && config.warnings[0].ends_with("CLARION_LISTEN"));
    assert!(config.warnings[1].contains("CLARION_PORT"));
}

#[test]
fn strangers_are_told_of_beside_mistakes() {
    let told = rejected("pin = 'stay'", &[("CLARION_LISTENN", "x")]).to_string();
    assert!(told.contains("pin is") && told.contains("\n  warning: the variable CLARION_LISTENN"), "{told}");
    // What depends on values that could not be read is not guessed at.
    let told = rejected("pin = 'stay'", &[("CLARION_API_KEYS", "k")]).to_string();
    assert!(!told.contains("warning"), "{told}");
}

#[test]
fn rules_for_people_who_are_signed_in_need_a_token_key() {
    let text = "[[namespaces]]\nprefix = 'a'\nsubscribe = 'token'\npublish = 'signed_in'\n[[namespaces]]\nprefix = 'b'\nsubscribe = 'anyone'";
    let keys: Vec<String> = bad(text, &[("CLARION_API_KEYS", "k")]).into_iter().map(|problem| problem.key).collect();
    assert_eq!(keys, ["namespaces[0].subscribe", "namespaces[0].publish"]);
    good(text, &[("CLARION_API_KEYS", "k"), ("CLARION_JWT_SECRET", "s")]);
    // In development mode the well-known secret signs tokens.
    good(text, &[]);
}

#[test]
fn keys_open_other_addresses_and_insecure_does() {
    let config = good("listen = '0.0.0.0:8000'", &[("CLARION_API_KEYS", "k")]);
    assert!(config.warnings.iter().any(|warning| warning.contains("no namespaces")), "{:?}", config.warnings);
    let config = good("listen = '0.0.0.0:8000'\ninsecure = true", &[]);
    assert!(config.warnings[0].contains("--insecure"));
    // What cannot be read may have been a key: that it is not there is not held against the address.
    assert!(mistake("listen = '0.0.0.0:8000'\n[auth]\njwt_secret = 5", &[]).starts_with("auth.jwt_secret"));
    let relay = "listen = '0.0.0.0:8000'\npin = 'relay'";
    assert!(mistake(relay, &[("CLARION_API_KEYS", "k")]).contains("advertise"));
    good(relay, &[("CLARION_API_KEYS", "k"), ("CLARION_ADVERTISE", "node-1.clarion:8000")]);
    good("pin = 'relay'", &[]);
}

#[test]
fn the_effective_configuration_is_one_again_and_hides_its_secrets() {
    let text = r#"
        public_url = "https://node-1.example.com"
        trusted_proxies = ["10.0.0.0/8"]
        [bus]
        url = "rediss://user:password1@redis:6380"
        [auth]
        jwt_secret = "password2"
        api_keys = ["password3", { name = "billing", key = "password4" }]
        jwks_url = "https://u:password5@issuer/keys?sig=password6"
        origins = ["https://*.example.com", "null"]
        [[namespaces]]
        prefix = "orders"
        publish = "anyone"
        slow = "drop_oldest"
    "#;
    let printed = good(text, &[("CLARION_BUS_PASSWORD", "password7")]).to_toml();
    assert!(!printed.contains("password1") && !(2..8).any(|n| printed.contains(&format!("password{n}"))), "{printed}");
    for line in [
        "ping = \"25s\"",
        "payload = \"64KiB\"",
        "deadline = \"30s\"",
        "url = \"rediss://***@redis:6380\"",
        "name = \"billing\"",
    ] {
        assert!(printed.contains(line), "{line} is not in:\n{printed}");
    }
    let again = good(&printed, &[]);
    assert_eq!(again.to_toml(), printed);
}

#[test]
fn tls_needs_two_files_that_belong_together() {
    let certificates = Certificates::generate();
    let at = |name: &str| certificates.path(name).display().to_string();
    let (pem, key) = (at("server.pem"), at("server.key"));
    let both = |certificate: &str, key: &str| {
        [("CLARION_TLS_CERTIFICATE", certificate.to_owned()), ("CLARION_TLS_KEY", key.to_owned())]
    };
    let load = |set: &[(&str, String)]| {
        let set: Vec<_> = set.iter().map(|(name, value)| (*name, value.as_str())).collect();
        mistake("", &set)
    };
    let config = good("", &both(&pem, &key).each_ref().map(|(name, value)| (*name, value.as_str())));
    assert!(config.tls.is_on() && config.warnings.is_empty(), "{:?}", config.warnings);
    fs::write(at("locked.key"), "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n")
        .unwrap();
    fs::write(at("empty.pem"), "").unwrap();
    fs::write(at("broken.pem"), "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n").unwrap();
    for (set, told) in [
        (&both(&pem, &key)[..1], "tls.key\n    expected: a file, since tls.certificate is set"),
        (&both(&pem, &key)[1..], "tls.certificate\n    expected: a file, since tls.key is set"),
        (&both(&at("nowhere.pem"), &key), "No such file"),
        (&both(&at("empty.pem"), &key), "there is none in it"),
        (&both(&key, &pem), "there is none in it"),
        (&both(&at("broken.pem"), &key), "an X.509 certificate"),
        (&both(&pem, &at("empty.pem")), "there is none in it"),
        (&both(&pem, &at("locked.key")), "openssl pkey"),
        (&both(&pem, &at("client.key")), "it is that of another"),
    ] {
        let text = load(set);
        assert!(text.contains(told), "{told}: {text}");
        assert!(text.contains("remedy: ") && !text.contains("BEGIN PRIVATE KEY-----\nM"), "{text}");
    }
}

#[test]
fn tls_that_clients_will_not_like_is_a_warning() {
    let certificates = Certificates::generate();
    certificates.issue_server("old", 2010..=2015);
    certificates.issue_server("early", 3010..=3015);
    let warnings = |who: &str, more: &str| {
        let path = |end: &str| certificates.path(&format!("{who}.{end}")).display().to_string();
        good(&format!("{more}\n[tls]\ncertificate = {:?}\nkey = {:?}", path("pem"), path("key")), &[]).warnings
    };
    assert!(warnings("old", "")[0].contains("expired"));
    assert!(warnings("early", "")[0].contains("not valid yet"));
    assert!(warnings("server", "public_url = 'http://n1.example.org'")[0].contains("https://"));
    assert!(warnings("server", "advertise = '10.0.0.1:8000'")[0].contains("advertise"));
    let (pem, key) = (certificates.server_cert(), certificates.server_key());
    let relay = format!("advertise = '10.0.0.1:8000'\npin = 'relay'\n[tls]\ncertificate = {pem:?}\nkey = {key:?}");
    assert!(mistake(&relay, &[]).contains("serve or redirect"));
    assert!(mistake("[tls]\nreload = '1ms'", &[]).contains("100ms to 1h"));
}
