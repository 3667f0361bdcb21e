//! Data runs one way: a module of the broker uses what stands below it, never what stands above.
//!
//! What has to go up is a value that is handed in at wiring. This test reads `crate::…` and `super::…` in all files.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// The modules, from the top down. A new one gets its place here, in `ARCHITECTURE.md` and in `lib.rs`.
const LAYERS: [&str; 22] = [
    "main",
    "greeting",
    "logging",
    "server",
    "doors",
    "rpc",
    "inbox",
    "api",
    "relay",
    "docs",
    "node",
    "answer",
    "admin",
    "config",
    "admission",
    "auth",
    "drain",
    "probe",
    "scribe",
    "members",
    "ingress",
    "tls",
];

#[test]
fn no_module_uses_one_above_it() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut upward = Vec::new();
    for file in rust_files(&source) {
        let path = module_path(file.strip_prefix(&source).expect("it is below"));
        let text = fs::read_to_string(&file).expect("a source file can be read");
        upward.extend(upward_uses(&path, &text).into_iter().map(|used| format!("{} uses {used}", file.display())));
    }
    assert!(upward.is_empty(), "upward uses, against the order of LAYERS:\n{}", upward.join("\n"));
}

#[test]
fn every_module_has_its_place() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let here: BTreeSet<String> = rust_files(&source)
        .iter()
        .filter_map(|file| module_path(file.strip_prefix(&source).ok()?).into_iter().next())
        .collect();
    let known: BTreeSet<String> = LAYERS.map(str::to_owned).into();
    let strangers: Vec<_> = here.difference(&known).collect();
    assert!(strangers.is_empty(), "modules without a place in LAYERS: {strangers:?}");
    let gone: Vec<_> = known.difference(&here).collect();
    assert!(gone.is_empty(), "places in LAYERS without a module: {gone:?}");
}

#[test]
fn an_upward_use_is_seen_in_every_form() {
    let drain = ["drain".to_owned()];
    let node = ["drain".to_owned(), "node".to_owned()];
    for (path, text, expected) in [
        (&drain[..], "use crate::auth::Auth;", vec!["auth"]),
        (&drain[..], "use crate::{ingress, admission::{Permit, Admission}, tls::Server};", vec!["admission"]),
        (&drain[..], "fn f(server: &crate::server::Running) {}", vec!["server"]),
        (&drain[..], "use super::config;", vec!["config"]),
        (&node[..], "use super::super::auth;", vec!["auth"]),
        (&node[..], "use super::config;", vec![]),
        (&drain[..], "// as crate::server says\nuse crate::drain::node;", vec![]),
        (&drain[..], "use crate::tls;\n#[cfg(test)]\nmod tests {\n    use crate::server;\n}\n", vec![]),
    ] {
        assert_eq!(upward_uses(path, text), expected, "{text}");
    }
}

/// The modules above the one at `path` that its text names, tests apart.
fn upward_uses(path: &[String], text: &str) -> Vec<&'static str> {
    let Some(place) = path.first().and_then(|top| LAYERS.iter().position(|layer| layer == top)) else {
        // `lib.rs` names all modules, and so may it.
        return Vec::new();
    };
    let shipped = text.split_once("#[cfg(test)]\nmod tests").map_or(text, |(shipped, _)| shipped);
    let lines = shipped.lines().map(|line| line.split_once("//").map_or(line, |(code, _)| code));
    let code = lines.collect::<Vec<_>>().join("\n");
    let mut used = BTreeSet::new();
    for (start, _) in code.match_indices("crate::").chain(code.match_indices("super::")) {
        let from_root = code[start..].starts_with("crate::") || is_root(path, &code, start);
        if from_root {
            first_names(&code[start + "crate::".len()..], &mut used);
        }
    }
    LAYERS[..place].iter().copied().filter(|layer| used.contains(*layer)).collect()
}

/// Whether the `super::` at `start` leads to the crate's root: as many of them, one after the other, as the path has segments.
fn is_root(path: &[String], code: &str, start: usize) -> bool {
    let mut depth = 1;
    let mut before = &code[..start];
    while let Some(rest) = before.strip_suffix("super::") {
        depth += 1;
        before = rest;
    }
    depth == path.len()
}

/// The first names of a path, or of each path in a group: `a` of `a::b`, `a` and `c` of `{a::{b}, c}`.
fn first_names(rest: &str, names: &mut BTreeSet<String>) {
    let Some(group) = rest.strip_prefix('{') else {
        names.insert(identifier(rest));
        return;
    };
    let mut depth = 0;
    let mut expects_name = true;
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => return,
            '}' => depth -= 1,
            ',' if depth == 0 => expects_name = true,
            c if c.is_whitespace() => {}
            _ if depth == 0 && expects_name => {
                names.insert(identifier(&group[at..]));
                expects_name = false;
            }
            _ => {}
        }
    }
}

fn identifier(text: &str) -> String {
    text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}

/// `hub/shard.rs` is `[hub, shard]`; `lib.rs` is the root.
fn module_path(file: &Path) -> Vec<String> {
    let file = file.with_extension("");
    let names = file.iter().map(|name| name.to_string_lossy().into_owned());
    names.filter(|name| name != "lib" && name != "mod").collect()
}

fn rust_files(directory: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory).expect("a directory can be read") {
        let path = entry.expect("an entry can be read").path();
        if path.is_dir() {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files
}
