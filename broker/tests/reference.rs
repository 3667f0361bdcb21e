//! The documents at `/docs` tell the truth: every route and status is in them, and nothing else is.

mod nodes;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use clarion_broker::docs::{OPENAPI, OPENRPC};
use clarion_testkit::{Reply, http};
use http::{Method, StatusCode};
use nodes::TestNode;
use serde_json::{Value, json};

/// Shipped code of these modules, where requests are answered.
const ANSWERING: [&str; 10] = ["server", "doors", "rpc", "inbox", "api", "relay", "docs", "answer", "admin", "auth"];

fn source() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

/// A module's files, tests apart.
fn shipped(module: &str) -> String {
    let (file, folder) = (source().join(format!("{module}.rs")), source().join(module));
    let below = fs::read_dir(folder).into_iter().flatten().map(|entry| entry.expect("an entry").path());
    let files = below.filter(|path| path.extension().is_some_and(|kind| kind == "rs") && !path.ends_with("tests.rs"));
    let read = |path: PathBuf| fs::read_to_string(path).expect("a source file can be read");
    let cut = |text: String| text.split("#[cfg(test)]").next().unwrap_or_default().to_owned();
    [file].into_iter().chain(files).map(read).map(cut).collect()
}

/// What stands in quotes right behind each occurrence of `before`, white space apart.
fn quoted_after<'a>(text: &'a str, before: &str) -> Vec<&'a str> {
    let behind = text.split(before).skip(1).map(str::trim_start);
    behind.filter_map(|rest| rest.strip_prefix('"')?.split('"').next()).collect()
}

fn operations() -> impl Iterator<Item = (&'static str, Method, &'static Value)> {
    let paths = OPENAPI["paths"].as_object().expect("there are paths");
    paths.iter().flat_map(|(path, item)| {
        let methods = [("get", Method::GET), ("post", Method::POST)];
        methods.into_iter().filter_map(move |(name, method)| Some((path.as_str(), method, item.get(name)?)))
    })
}

#[test]
fn every_route_is_in_the_document_and_no_other() {
    let routes = format!("{}{}", fs::read_to_string(source().join("server/routes.rs")).unwrap(), shipped("admin"));
    let mut routes: BTreeSet<&str> = quoted_after(&routes, ".route(").into_iter().collect();
    // What is no route is a channel, for which the document has three examples.
    routes.extend(["/{channel}", "/users/{uid}", "/broadcast"]);
    let told: BTreeSet<&str> = operations().map(|(path, ..)| path).collect();
    assert_eq!(told, routes);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_path_knows_exactly_the_methods_that_are_told() {
    let node = TestNode::start().await;
    let mut told: BTreeMap<&str, BTreeSet<Method>> = BTreeMap::new();
    for (path, method, _) in operations() {
        told.entry(path).or_default().insert(method);
    }
    // `broadcast` is a channel like others, and told of for publishing only.
    told.get_mut("/broadcast").unwrap().insert(Method::GET);
    for (path, methods) in told {
        let admin = OPENAPI["paths"][path].get("servers").is_some();
        let real = path.replace("{channel}", "news").replace("{uid}", "42").replace("{file}", "page.css");
        let url = if admin { format!("http://{}{real}", node.running.admin) } else { node.url(&real) };
        for method in [Method::GET, Method::POST, Method::PUT, Method::DELETE, Method::PATCH] {
            let reply = Reply::of(http().request(method.clone(), &url)).await;
            let known = reply.code() != 405;
            assert_eq!(known, methods.contains(&method), "{method} {path}: {}", reply.code());
        }
    }
}

#[test]
fn every_status_is_in_the_document_and_no_other() {
    let mut given = BTreeSet::from([200]);
    for module in ANSWERING.into_iter().chain(["admission"]) {
        for name in shipped(module).split("StatusCode::").skip(1) {
            let name: String = name.chars().take_while(|c| c.is_ascii_uppercase() || *c == '_').collect();
            given.extend(status(&name));
        }
    }
    // What another node or an issuer answers to this one is no answer of ours.
    given.remove(&304);
    let used = operations().flat_map(|(.., operation)| operation["responses"].as_object().unwrap().keys());
    // Those that any path may be answered with stand only here.
    let any = OPENAPI["components"]["responses"].as_object().unwrap().keys();
    let told: BTreeSet<u16> = used.chain(any).map(|status| status.parse().unwrap()).collect();
    assert_eq!(told, given);
}

/// The number of `NOT_FOUND`, which is its words in capitals; `None` for a function.
fn status(name: &str) -> Option<u16> {
    let all = (100..600).filter_map(|code| StatusCode::from_u16(code).ok());
    let words = |status: StatusCode| {
        status.canonical_reason().map(|reason| reason.to_ascii_uppercase().replace([' ', '-'], "_"))
    };
    let code = all.clone().find(|status| words(*status).as_deref() == Some(name)).map(|status| status.as_u16());
    assert!(code.is_some() || name.len() < 2, "a status that this test does not know: {name}");
    code
}

#[test]
fn every_word_of_an_error_is_in_the_document_and_no_other() {
    let mut given = BTreeSet::new();
    for module in ANSWERING {
        let text = shipped(module);
        let mut words = quoted_after(&text, "bad_request(");
        words.extend(quoted_after(&text, "overloaded("));
        let statuses = text.split("StatusCode::").skip(1).filter_map(|rest| rest.split_once(','));
        words.extend(statuses.filter_map(|(_, rest)| rest.trim_start().strip_prefix('"')?.split('"').next()));
        given.extend(
            words
                .into_iter()
                .filter(|word| word.contains('_') || ["full", "leaving", "multipart", "reserved"].contains(word))
                .map(str::to_owned),
        );
    }
    // Those of `AuthError` and `TooMany` stand in a function each.
    for (module, functions) in [("auth", 3), ("admission", 1)] {
        let text = shipped(module);
        let bodies: Vec<&str> =
            text.split("fn code(").skip(1).filter_map(|rest| rest.split("\n    }").next()).collect();
        assert_eq!(bodies.len(), functions, "{module}");
        given.extend(bodies.iter().flat_map(|body| quoted_after(body, "=>")).map(str::to_owned));
    }
    let told = OPENAPI["components"]["schemas"]["Error"]["properties"]["error"]["properties"]["code"]["enum"].clone();
    let told: BTreeSet<String> = serde_json::from_value(told).unwrap();
    assert_eq!(told, given);
    for word in &told {
        let responses = OPENAPI["components"]["responses"].as_object().unwrap().values();
        let named =
            responses.filter(|response| response["description"].as_str().unwrap().contains(&format!("`{word}`")));
        assert_eq!(named.count(), 1, "{word} belongs to one status");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_documents_are_served_also_where_keys_are_asked_for() {
    let node = TestNode::with(nodes::keyed).await;
    for (path, kind, expected) in [
        ("/docs/openapi.json", "application/json", Some(&*OPENAPI)),
        ("/docs/openrpc.json", "application/json", Some(&*OPENRPC)),
        ("/docs/configuration.schema.json", "application/schema+json", None),
    ] {
        let reply = Reply::get(&node.url(path)).await;
        assert_eq!((reply.code(), reply.header("content-type")), (200, Some(kind)), "{path}");
        assert!(expected.is_none_or(|expected| *expected == reply.json()), "{path}");
    }
    let page = Reply::get(&node.url("/docs")).await;
    assert!(page.header("content-security-policy").unwrap().starts_with("default-src 'none'"));
    assert!(page.text().contains("rpc.discover"));
    assert_eq!(OPENAPI["info"]["version"], env!("CARGO_PKG_VERSION"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_methods_are_those_that_are_told() {
    let inbox = json!([{ "prefix": "users", "inbox": true }]);
    let node =
        TestNode::with(|config| config.namespaces = serde_json::from_value(inbox.clone()).expect("an inbox")).await;
    let told: Vec<&str> =
        OPENRPC["methods"].as_array().unwrap().iter().map(|method| method["name"].as_str().unwrap()).collect();
    let unknown = node.rpc("nonsense", json!({})).await;
    let (_, known) = unknown["error"]["message"].as_str().unwrap().split_once("there are ").unwrap();
    assert_eq!(known.split(", ").collect::<BTreeSet<_>>(), told.iter().copied().collect::<BTreeSet<_>>());
    for method in OPENRPC["methods"].as_array().unwrap() {
        let name = method["name"].as_str().unwrap();
        let mut params = json!({});
        for param in method["examples"][0]["params"].as_array().into_iter().flatten() {
            params[param["name"].as_str().unwrap()] = param["value"].clone();
        }
        let answer = node.rpc(name, params).await;
        assert!(answer.get("result").is_some(), "{name}: {answer}");
        let expected: BTreeSet<_> =
            method["examples"][0]["result"]["value"].as_object().into_iter().flatten().map(|(key, _)| key).collect();
        let given: BTreeSet<_> = answer["result"].as_object().unwrap().keys().collect();
        assert!(expected.is_subset(&given), "{name}: {answer}");
        // Whatever is not told of is not taken.
        let answer = node.rpc(name, json!({ "nonsense": 1 })).await;
        let takes_none = method["params"].as_array().unwrap().is_empty();
        assert_eq!(answer["error"]["code"] == -32602, !takes_none, "{name}: {answer}");
    }
    assert_eq!(node.rpc("rpc.discover", json!({})).await["result"], *OPENRPC);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_errors_of_methods_are_those_of_the_code() {
    let text = shipped("rpc");
    let numbers =
        text.lines().filter_map(|line| line.strip_prefix("const ")?.split_once("i32 = ")?.1.strip_suffix(';'));
    let given: BTreeSet<i64> = numbers.map(|number| number.parse().unwrap()).collect();
    let errors = OPENRPC["components"]["errors"].as_object().unwrap().values();
    let told: BTreeSet<i64> = errors.map(|error| error["code"].as_i64().unwrap()).collect();
    assert_eq!(told, given);
}
