//! File, variables and flags laid over each other, and read so that every mistake is found, not only the first.
//!
//! serde stops at the first mistake. So whatever a mistake is found in is taken out and the rest is read again, until
//! nothing is wrong any more: what was taken out counts with its default.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use clarion_bus::{BusUrl, NatsAuth, RedisMode};
use serde_path_to_error::Segment;
use toml::{Table, Value};

use super::{Config, Flags, Problem, keys, places::Places};

/// What all variables begin with.
const PREFIX: &str = "CLARION_";
/// The variable that names the file.
const FILE: &str = "CLARION_CONFIG";

/// What came of reading: settings with defaults in place of what is wrong, and everything that is wrong.
pub(super) struct Read {
    pub(super) config: Config,
    pub(super) problems: Vec<Problem>,
    /// Where each key was set, other than in the file.
    pub(super) sources: BTreeMap<String, String>,
    /// Where each key stands in the file.
    pub(super) places: Places,
}

/// Reads everything.
pub(super) fn read(flags: &Flags, vars: impl IntoIterator<Item = (String, String)>) -> Read {
    let vars: BTreeMap<String, String> = vars.into_iter().filter(|(name, _)| name.starts_with(PREFIX)).collect();
    let mut layers = Layers::default();
    if let Some(path) = flags.config.clone().or_else(|| vars.get(FILE).map(PathBuf::from)) {
        layers.lay_file(&path);
    }
    layers.lay_variables(&vars);
    layers.lay_flags(flags);
    layers.finish()
}

#[derive(Default)]
struct Layers {
    tree: Table,
    places: Places,
    /// What stands over the file, by key.
    texts: BTreeMap<String, Text>,
    /// Which elements were taken out of which array, so that later ones are called by their place in the file.
    taken: BTreeMap<String, BTreeSet<usize>>,
    problems: Vec<Problem>,
    warnings: Vec<String>,
}

/// A value from a variable or flag. Which type is wanted only the struct knows: a text comes first, so that a password
/// of digits stays what it is, and the others are tried when that is no good.
struct Text {
    source: String,
    text: String,
    others: Vec<Value>,
    first_error: Option<String>,
}

impl Layers {
    fn lay_file(&mut self, path: &Path) {
        let read = std::fs::read_to_string(path).map_err(|error| format!("a readable file: {error}"));
        let parsed = read.and_then(|text| match text.parse::<Table>() {
            Ok(table) => Ok((table, Places::of(path, &text))),
            Err(error) => Err(syntax(&text, &error)),
        });
        match parsed {
            Ok((table, places)) => (self.tree, self.places) = (table, places),
            Err(expected) => self.problems.push(Problem {
                key: "the configuration file".to_owned(),
                value: Some(path.display().to_string()),
                source: None,
                expected,
                remedy: None,
            }),
        }
    }

    fn lay_variables(&mut self, vars: &BTreeMap<String, String>) {
        let known: BTreeMap<String, String> = keys::variables().into_iter().collect();
        for (name, text) in vars.iter().filter(|(name, _)| *name != FILE) {
            // Files that end with one become variables that do, as Kubernetes makes them of secrets. No value ends so.
            let text = text.trim_end_matches(['\r', '\n']);
            match known.get(name) {
                Some(key) => self.lay(key, format!("variable {name}"), text),
                None => self.warnings.push(stranger(name, known.keys())),
            }
        }
    }

    fn lay_flags(&mut self, flags: &Flags) {
        for (flag, key, text) in flags.given() {
            // Whoever gives a flag means it, also over both names of a variable.
            self.texts.remove(key);
            if key == "bus.url" && has_password(text) {
                self.problems.push(Problem {
                    key: flag.to_owned(),
                    value: None,
                    source: None,
                    expected: "a URL without a password: everybody on this machine can read command lines".to_owned(),
                    remedy: Some("set the variable CLARION_BUS, or `url` in the table [bus] of the file".to_owned()),
                });
                continue;
            }
            self.lay(key, format!("flag {flag}"), text);
        }
    }

    fn lay(&mut self, key: &str, source: String, text: &str) {
        if let Some(other) = self.texts.get(key) {
            self.problems.push(Problem {
                key: key.to_owned(),
                value: None,
                source: Some(format!("{} and {source}", other.source)),
                expected: "one of the two".to_owned(),
                remedy: Some("remove the other variable".to_owned()),
            });
            return;
        }
        if !set(&mut self.tree, key, Value::String(text.to_owned())) {
            // The file has something else in place of the table, which is found when it is read.
            return;
        }
        let text = Text { source, text: text.to_owned(), others: others(text), first_error: None };
        self.texts.insert(key.to_owned(), text);
    }

    fn finish(mut self) -> Read {
        let mut config = loop {
            let error = match serde_path_to_error::deserialize::<_, Config>(Value::Table(self.tree.clone())) {
                Ok(config) => break config,
                Err(error) => error,
            };
            let steps: Vec<Step> = error.path().iter().filter_map(Step::of).collect();
            let message = error.inner().message().to_owned();
            if !self.try_another(&path(&steps), &message) {
                self.record(&steps, &message);
            }
        };
        config.warnings = self.warnings;
        let sources = self.texts.into_iter().map(|(key, text)| (key, text.source)).collect();
        Read { config, problems: self.problems, sources, places: self.places }
    }

    /// Puts the next reading of a variable's text in place, if there is one.
    fn try_another(&mut self, path: &str, message: &str) -> bool {
        let Some((key, text)) = self.texts.iter_mut().find(|(key, _)| is_in(path, key)) else { return false };
        // A number out of range says more than that a text is no number.
        if text.first_error.is_none() || message.starts_with("invalid value: integer") {
            text.first_error = Some(message.to_owned());
        }
        let next = (!text.others.is_empty()).then(|| text.others.remove(0));
        next.is_some_and(|value| set(&mut self.tree, key, value))
    }

    fn record(&mut self, steps: &[Step], message: &str) {
        let path = self.path_in_file(steps);
        let value = take(&mut self.tree, steps, &mut self.taken);
        if value.is_none() {
            // A mistake that belongs to nothing that is there: reading the same again would never end.
            self.tree.clear();
        }
        let key = self.texts.keys().find(|key| is_in(&path, key)).cloned();
        let text = key.and_then(|key| self.texts.remove_entry(&key));
        // What was taken out before is missing now, and that was told.
        if missing(message).is_some_and(|field| self.problems.iter().any(|told| told.key == format!("{path}.{field}")))
        {
            return;
        }
        self.problems.push(match text {
            Some((key, text)) => {
                // All of a list goes: it is one value of one variable.
                remove(&mut self.tree, &key);
                let message = text.first_error.as_deref().unwrap_or(message);
                wrong(key, Some(&Value::String(text.text)), Some(text.source), message)
            }
            None => match unknown(message) {
                Some(own) => stray(path, &own),
                None => wrong(path, value.as_ref(), None, message),
            },
        });
    }

    /// The path as whoever wrote the file would count.
    fn path_in_file(&self, steps: &[Step]) -> String {
        let mut corrected = Vec::with_capacity(steps.len());
        for step in steps {
            corrected.push(match step {
                Step::Key(key) => Step::Key(key.clone()),
                Step::Index(at) => {
                    Step::Index(self.taken.get(&path(&corrected)).map_or(*at, |taken| before(taken, *at)))
                }
            });
        }
        path(&corrected)
    }
}

/// One step of a path.
#[derive(Debug, Clone)]
enum Step {
    Key(String),
    Index(usize),
}

impl Step {
    fn of(segment: &Segment) -> Option<Self> {
        match segment {
            Segment::Map { key } => Some(Self::Key(key.clone())),
            Segment::Seq { index } => Some(Self::Index(*index)),
            Segment::Enum { .. } | Segment::Unknown => None,
        }
    }
}

fn path(steps: &[Step]) -> String {
    steps.iter().fold(String::new(), |path, step| match step {
        Step::Key(key) if path.is_empty() => key.clone(),
        Step::Key(key) => format!("{path}.{key}"),
        Step::Index(at) => format!("{path}[{at}]"),
    })
}

/// Whether the path is the key or something in its value.
fn is_in(path: &str, key: &str) -> bool {
    path.strip_prefix(key).is_some_and(|rest| rest.is_empty() || rest.starts_with(['[', '.']))
}

/// The place that an element had before those in `taken` were taken out.
fn before(taken: &BTreeSet<usize>, at: usize) -> usize {
    taken.iter().fold(at, |at, gone| if *gone <= at { at + 1 } else { at })
}

/// Sets `limits.payload` or `listen`; false when there is no table where one should be.
fn set(tree: &mut Table, key: &str, value: Value) -> bool {
    match key.split_once('.') {
        None => {
            tree.insert(key.to_owned(), value);
            true
        }
        Some((table, field)) => {
            let table = tree.entry(table).or_insert_with(|| Value::Table(Table::new()));
            table.as_table_mut().is_some_and(|table| set(table, field, value))
        }
    }
}

fn remove(tree: &mut Table, key: &str) {
    match key.split_once('.') {
        None => drop(tree.remove(key)),
        Some((table, field)) => {
            if let Some(table) = tree.get_mut(table).and_then(Value::as_table_mut) {
                remove(table, field);
            }
        }
    }
}

/// Takes out what the steps lead to, or the last thing on the way that there is.
fn take(tree: &mut Table, steps: &[Step], taken: &mut BTreeMap<String, BTreeSet<usize>>) -> Option<Value> {
    let Some((Step::Key(first), rest)) = steps.split_first() else { return None };
    let mut way = vec![Step::Key(first.clone())];
    let mut value = tree.get_mut(first)?;
    for step in rest.iter().take(rest.len().saturating_sub(1)) {
        value = match step {
            Step::Key(key) => value.get_mut(key)?,
            Step::Index(at) => value.get_mut(*at)?,
        };
        way.push(step.clone());
    }
    match (rest.last(), value) {
        (Some(Step::Key(key)), Value::Table(table)) => table.remove(key),
        (Some(Step::Index(at)), Value::Array(array)) if *at < array.len() => {
            let gone = taken.entry(path(&way)).or_default();
            let place = before(gone, *at);
            gone.insert(place);
            Some(array.remove(*at))
        }
        _ => tree.remove(first),
    }
}

/// What else a text can mean.
fn others(text: &str) -> Vec<Value> {
    let number = text.parse().ok().map(Value::Integer);
    let truth = text.parse().ok().map(Value::Boolean);
    let list = text.split(',').map(|item| Value::String(item.trim().to_owned())).collect();
    number.into_iter().chain(truth).chain([Value::Array(list)]).collect()
}

fn wrong(key: String, value: Option<&Value>, source: Option<String>, message: &str) -> Problem {
    let hidden = keys::is_secret(&key);
    let address = matches!(key.as_str(), "listen" | "admin_listen");
    let expected = match message.rsplit_once("expected ") {
        Some((_, table)) if table.starts_with("struct ") => format!("a table, [{key}]"),
        // What serde says of a value may quote it.
        _ if key.starts_with("auth.api_keys") => "a list of texts, or of tables with `name` and `key`".to_owned(),
        _ if hidden => "a text".to_owned(),
        _ if address => "an IP address and a port (ip:port)".to_owned(),
        Some((_, expected)) => expected.to_owned(),
        None => message.to_owned(),
    };
    let duration = expected.contains("duration") || message.contains("duration");
    let remedy = match () {
        () if duration => Some("write a number and its unit: 500ms, 10s, 2m".to_owned()),
        () if address => Some("write an IP address and a port: 127.0.0.1:8000, 0.0.0.0:8000 or [::]:8000".to_owned()),
        () => None,
    };
    Problem { value: value.filter(|_| !hidden).and_then(shown), key, source, expected, remedy }
}

/// The value as it was written, without what may be a password in it.
fn shown(value: &Value) -> Option<String> {
    let text = match value {
        Value::Table(_) => return None,
        Value::String(text) => format!("{:?}", without_secrets(text)),
        Value::Array(_) if value.to_string().contains('@') => return None,
        other => other.to_string(),
    };
    Some(if text.chars().count() > 100 { text.chars().take(100).chain(['…']).collect() } else { text })
}

fn without_secrets(text: &str) -> String {
    let (text, query) = text.split_once('?').map_or((text, ""), |(text, _)| (text, "?***"));
    match (text.split_once("://"), text.rsplit_once('@')) {
        (Some((scheme, _)), Some((_, host))) => format!("{scheme}://***@{host}{query}"),
        (None, Some((_, host))) => format!("***@{host}{query}"),
        _ => format!("{text}{query}"),
    }
}

fn missing(message: &str) -> Option<&str> {
    message.strip_prefix("missing field `")?.strip_suffix('`')
}

/// The keys that would have been known, when the message is about one that is not.
fn unknown(message: &str) -> Option<Vec<String>> {
    let known = message.strip_prefix("unknown field `")?.split_once('`')?.1;
    Some(known.split('`').skip(1).step_by(2).map(str::to_owned).collect())
}

fn stray(path: String, own: &[String]) -> Problem {
    let (table, leaf) = path.rsplit_once('.').map_or(("", path.as_str()), |(table, leaf)| (table, leaf));
    let all = keys::all();
    let elsewhere = all.iter().filter(|key| key.rsplit('.').next() == Some(leaf)).map(String::as_str).next();
    let near = keys::nearest(leaf, own.iter().map(String::as_str));
    let remedy = match (elsewhere, near) {
        (Some(key), _) => Some(format!("did you mean `{key}`?")),
        (None, Some((name, _))) if table.is_empty() => Some(format!("the nearest known key is `{name}`")),
        (None, Some((name, _))) => Some(format!("the nearest known key is `{table}.{name}`")),
        (None, None) => None,
    };
    Problem { key: path, value: None, source: None, expected: "a key that is known".to_owned(), remedy }
}

fn stranger<'a>(name: &str, known: impl Iterator<Item = &'a String>) -> String {
    let nearest = keys::nearest(name, known.map(String::as_str)).map_or("none", |(near, _)| near);
    format!("the variable {name} means nothing to Clarion; the nearest known one is {nearest}")
}

fn syntax(text: &str, error: &toml::de::Error) -> String {
    // The error's own text quotes the line, in which a secret may stand.
    let at = error.span().map_or(0, |span| span.start).min(text.len());
    let before = text.get(..at).unwrap_or_default();
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    format!("TOML, and line {line} is none at column {column}: {}", error.message())
}

/// Whether a bus's URL holds a password or token. What cannot be read is suspected when it has any credentials.
fn has_password(text: &str) -> bool {
    match text.parse::<BusUrl>() {
        Ok(BusUrl::Memory) => false,
        Ok(BusUrl::Redis(redis)) => {
            let sentinel = matches!(redis.mode, RedisMode::Sentinel { password: Some(_), .. });
            redis.password.is_some() || sentinel
        }
        Ok(BusUrl::Nats(nats)) => matches!(nats.auth, NatsAuth::Token(_) | NatsAuth::User(_, Some(_))),
        Err(_) => text.contains('@'),
    }
}
