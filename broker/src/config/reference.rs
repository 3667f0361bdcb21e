//! The reference of all settings, made from the structs that take them: their comments, types, defaults, variables and
//! flags. `docs/reference/` holds what this gives, and a test compares the two.

use std::{collections::BTreeMap, fmt::Write as _};

use schemars::{SchemaGenerator, generate::SchemaSettings};
use serde_json::{Value, json};
use toml::Table;

use super::{Config, Flags, keys};

/// The head of the page.
const INTRODUCTION: &str = "\
<!-- Made from the code by `clarion-broker config --reference`: what is to be said otherwise belongs into its comments. -->

# Configuration reference

Every setting: what it is, its type, its default, and its names outside of the file. How they are given and stand over
each other, and which of them you need, is told in [Configuration](../configuration.md). A *duration* is a number and its
unit (`500ms`, `25s`, `2m`), a *size* a number of bytes, mostly with a unit (`64KiB`, `1MiB`). A *list* is written with
commas in a variable. `clarion-broker config --schema` prints the same for editors, as a
[JSON Schema](configuration.schema.json).
";

/// The settings of one table: its name and what it is for.
const TABLES: [(&str, &str); 10] = [
    ("log", "What is logged, and how."),
    ("tls", "TLS towards clients: [Security](../security.md#tls)."),
    ("bus", "Which bus, and how it is reached."),
    ("auth", "Tokens, keys and origins: [Security](../security.md)."),
    (
        "namespaces",
        "Who may do what where, as many as you like, only in the file: [Security](../security.md#namespaces).",
    ),
    ("limits", "Bounds, and the times of a connection's life: [Limits](../limits.md)."),
    ("ingress", "The way to the bus."),
    ("members", "The cluster. The times must be the same on all nodes."),
    ("probe", "Whether the bus really delivers."),
    ("drain", "Leaving in order: [Operations](../operations.md)."),
];

/// The JSON Schema of the configuration file.
///
/// # Panics
/// Never: the structs have a schema.
#[must_use]
pub fn schema() -> Value {
    let generator = SchemaGenerator::new(SchemaSettings::draft2020_12());
    let mut schema = generator.into_root_schema_for::<Config>().to_value();
    schema["title"] = "Clarion's configuration".into();
    // serde reads durations as texts here, whatever the type's own schema is.
    schema["$defs"]["Duration"] = json!({
        "type": "string",
        "pattern": "^(\\d+ *(ns|nsec|us|usec|ms|msec|s|sec|secs|second|seconds|m|min|mins|minute|minutes|h|hr|hrs|hour|hours|d|day|days) *)+$",
        "examples": ["500ms", "25s", "2m"],
    });
    if let Some(node) = schema["properties"]["node"].as_object_mut() {
        // It is another one each time.
        node.remove("default");
    }
    schema
}

/// The reference as a page of Markdown.
///
/// # Panics
/// Never: defaults have a form in TOML.
#[must_use]
pub fn page() -> String {
    let mut reference = Reference::new();
    reference.text.push_str(INTRODUCTION);
    reference.text.push_str("\n## Top level\n");
    for key in keys::all().iter().filter(|key| !key.contains('.')) {
        reference.setting(key);
    }
    for (table, about) in TABLES {
        let shown = if table == "namespaces" { "[[namespaces]]".to_owned() } else { format!("[{table}]") };
        write!(reference.text, "\n## `{shown}`\n\n{about}\n").expect("a string takes everything");
        let prefix = format!("{table}.");
        for key in keys::all().iter().chain(&keys::of_namespaces()).filter(|key| key.starts_with(&prefix)) {
            reference.setting(key);
        }
    }
    reference.text
}

struct Reference {
    text: String,
    schema: Value,
    defaults: Table,
    /// Variables of each key, the short one first.
    variables: BTreeMap<String, Vec<String>>,
    flags: BTreeMap<&'static str, &'static str>,
}

impl Reference {
    fn new() -> Self {
        let mut variables: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (variable, key) in keys::variables() {
            variables.entry(key).or_default().insert(0, variable);
        }
        let flags = Flags::default();
        let flags = flags.all().map(|(flag, key, _)| (key, flag)).chain([("insecure", "--insecure")]).collect();
        Self {
            text: String::new(),
            schema: schema(),
            defaults: Table::try_from(Config::default()).expect("every default has a form in TOML"),
            flags,
            variables,
        }
    }

    fn setting(&mut self, key: &str) {
        let schema = self.find(key).clone();
        let mut facts = vec![self.kind(&schema)];
        facts.push(self.default(key, &schema));
        let name = |name: &String| format!("`{name}`");
        facts.extend(self.variables.get(key).map(|names| names.iter().map(name).collect::<Vec<_>>().join(" or ")));
        facts.extend(self.flags.get(key).map(|flag| format!("`{flag}`")));
        if keys::is_secret(key) {
            facts.push("never shown".to_owned());
        }
        let about = flowing(described(&schema));
        write!(self.text, "\n### `{key}`\n\n{about}\n\n{}\n", facts.join(" · ")).expect("a string takes everything");
        if let Some(example) = schema.pointer("/examples/0") {
            let field = key.rsplit('.').next().unwrap_or(key);
            write!(self.text, "\nFor example `{field} = {example}`.\n").expect("a string takes everything");
        }
        self.values(&schema);
    }

    /// The schema of `limits.payload` or `listen`.
    fn find(&self, key: &str) -> &Value {
        let mut schema = &self.schema;
        for field in key.split('.') {
            let table = self.resolved(schema);
            let table = table.get("items").map_or(table, |items| self.resolved(items));
            schema = &table["properties"][field];
        }
        schema
    }

    /// What a reference stands for.
    fn resolved<'a>(&'a self, schema: &'a Value) -> &'a Value {
        let target = schema.get("$ref").and_then(Value::as_str).and_then(|target| target.strip_prefix('#'));
        target.and_then(|target| self.schema.pointer(target)).unwrap_or(schema)
    }

    fn kind(&self, schema: &Value) -> String {
        match schema.get("$ref").and_then(Value::as_str) {
            Some("#/$defs/Duration") => return "duration".to_owned(),
            Some("#/$defs/ByteSize") => return "size".to_owned(),
            _ => {}
        }
        let whole = self.resolved(schema);
        if whole.get("oneOf").is_some() || whole.get("enum").is_some() {
            return "one of the values below".to_owned();
        }
        if let Some(any) = whole.get("anyOf").and_then(Value::as_array) {
            let kinds = any.iter().filter(|one| one["type"] != "null").map(|one| self.kind(one));
            return kinds.collect::<Vec<_>>().join(" or ");
        }
        let types = whole["type"].as_array().map_or(vec![&whole["type"]], |types| types.iter().collect());
        match types[0].as_str() {
            Some("string") => "text".to_owned(),
            Some("integer") => "whole number".to_owned(),
            Some("boolean") => "`true` or `false`".to_owned(),
            Some("array") => match self.kind(&whole["items"]).as_str() {
                "text" => "list of texts".to_owned(),
                other => format!("list, each a {other}"),
            },
            _ => {
                let fields = whole["properties"].as_object().into_iter().flat_map(|fields| fields.keys());
                format!("table of {}", fields.map(|field| format!("`{field}`")).collect::<Vec<_>>().join(" and "))
            }
        }
    }

    fn default(&self, key: &str, schema: &Value) -> String {
        if key == "node" {
            return "by default the host's name and a random part".to_owned();
        }
        if let Some(field) = key.strip_prefix("namespaces.") {
            return match schema.get("default") {
                Some(default) => format!("default `{default}`"),
                None => format!("`{field}` is required"),
            };
        }
        let value = key.split('.').fold(None, |found: Option<&toml::Value>, field| match found {
            None => self.defaults.get(field),
            Some(table) => table.get(field),
        });
        match value {
            Some(toml::Value::Table(_)) | None => "not set".to_owned(),
            Some(value) => format!("default `{value}`"),
        }
    }

    /// What an enumeration can be.
    fn values(&mut self, schema: &Value) {
        let Some(values) = self.resolved(schema).get("oneOf").and_then(Value::as_array) else { return };
        let mut list = String::new();
        for value in values {
            let word = value["const"].as_str().unwrap_or_default();
            writeln!(list, "- `{word}`: {}", flowing(described(value))).expect("a string takes everything");
        }
        write!(self.text, "\n{list}").expect("a string takes everything");
    }
}

fn described(schema: &Value) -> &str {
    schema["description"].as_str().unwrap_or_default()
}

/// The text of a comment without the line breaks it has in the code.
fn flowing(text: &str) -> String {
    text.split("\n\n").map(|paragraph| paragraph.replace('\n', " ")).collect::<Vec<_>>().join("\n\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_setting_is_described() {
        let page = page();
        for key in keys::all().iter().chain(&keys::of_namespaces()) {
            let (_, rest) = page.split_once(&format!("### `{key}`\n\n")).unwrap_or_else(|| panic!("{key} is missing"));
            let about = rest.lines().next().unwrap_or_default();
            assert!(about.ends_with('.') || about.ends_with(':'), "{key} has no comment that is a sentence: {about:?}");
            let facts = rest.lines().nth(2).unwrap_or_default();
            assert!(facts.contains(" · "), "{key}: {facts:?}");
        }
    }

    #[test]
    fn a_setting_has_its_names_type_and_default() {
        let page = page();
        for part in [
            "size · default `\"64KiB\"` · `CLARION_LIMITS_PAYLOAD`",
            "text · default `\"127.0.0.1:8000\"` · `CLARION_LISTEN` · `--listen`",
            "text · not set · `CLARION_JWT_SECRET` or `CLARION_AUTH_JWT_SECRET` · never shown",
            "duration · not set · `CLARION_DRAIN_CLOSE_OVER`",
            "one of the values below · default `\"disconnect\"`",
            "- `relay`: Its bytes are carried to its home.",
        ] {
            assert!(page.contains(part), "{part:?} is not in:\n{page}");
        }
    }
}
