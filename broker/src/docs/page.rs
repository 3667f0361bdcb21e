//! The page for people: one answer that needs nothing else, neither a script nor another file.

use std::fmt::Write as _;

use base64::{Engine as _, prelude::BASE64_STANDARD};
use http::{HeaderMap, HeaderValue, header::HOST, uri::Authority};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::{OPENAPI, OPENRPC};

const PAGE: &str = include_str!("../../docs/page.html");
const STYLE: &str = include_str!("../../docs/page.css");

/// Nothing is loaded, and only this style is applied.
pub(super) fn policy() -> HeaderValue {
    let style = BASE64_STANDARD.encode(Sha256::digest(STYLE));
    let policy = format!(
        "default-src 'none'; style-src 'sha256-{style}'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    );
    policy.try_into().expect("base64 is good in a header")
}

/// What stands in the page for the address of the node.
const BASE: &str = "{{base}}";

/// How a client reaches this node, as its request shows: the examples of the book name the port that a node has by default.
pub(super) fn base(headers: &HeaderMap, tls: bool) -> String {
    let host = headers.get(HOST).and_then(|host| host.to_str().ok());
    // Whatever is no host and port would be no address in an example either.
    let host = host.filter(|host| !host.contains('@') && host.parse::<Authority>().is_ok());
    let behind_tls = headers.get("x-forwarded-proto").is_some_and(|scheme| scheme == "https");
    let scheme = if tls || behind_tls { "https" } else { "http" };
    format!("{scheme}://{}", host.unwrap_or("localhost:8000"))
}

/// The page for whoever came by this address.
pub(super) fn at(page: &str, base: &str) -> String {
    page.replace(BASE, &escaped(base))
}

/// The page, but for the address of the node.
pub(super) fn html() -> String {
    PAGE.replace("{{style}}", STYLE)
        .replace("{{version}}", env!("CARGO_PKG_VERSION"))
        .replace("{{http}}", &operations(&OPENAPI))
        .replace("{{rpc}}", &methods(&OPENRPC))
}

/// The operations of each tag, in the order of the tags.
fn operations(document: &Value) -> String {
    let mut html = String::new();
    for tag in list(&document["tags"]) {
        let rows: String = document["paths"]
            .as_object()
            .into_iter()
            .flatten()
            .flat_map(|(path, item)| ["get", "post"].map(|method| (method, path, &item[method])))
            .filter(|(.., operation)| operation["tags"][0] == tag["name"])
            .map(|(method, path, operation)| row(&format!("{} {path}", method.to_uppercase()), operation))
            .collect();
        let about = tag["description"].as_str().unwrap_or_default();
        section(&mut html, text(&tag["name"]), about, &rows);
    }
    html
}

fn row(name: &str, operation: &Value) -> String {
    let summary = inline(text(&operation["summary"]));
    let statuses: Vec<&str> =
        operation["responses"].as_object().into_iter().flatten().map(|(status, _)| status.as_str()).collect();
    format!("<tr><td><code>{}</code><td>{summary}<td class=\"quiet\">{}\n", escaped(name), statuses.join(" "))
}

fn methods(document: &Value) -> String {
    let mut rows = String::new();
    for method in list(&document["methods"]) {
        let name = |param: &Value| {
            let name = text(&param["$ref"]).rsplit('/').next().unwrap_or_default().to_owned();
            format!("<code>{}</code>", escaped(&name))
        };
        let params: Vec<String> = list(&method["params"]).map(name).collect();
        let summary = inline(text(&method["summary"]));
        let (method, params) = (escaped(text(&method["name"])), params.join(" "));
        writeln!(rows, "<tr><td><code>{method}</code><td>{summary}<td>{params}").expect("a string takes everything");
    }
    rows
}

fn section(html: &mut String, title: &str, about: &str, rows: &str) {
    let (title, about) = (escaped(title), inline(about));
    let about = if about.is_empty() { about } else { format!("<p class=\"quiet\">{about}</p>\n") };
    write!(html, "<h3>{title}</h3>\n{about}<div class=\"table\"><table>\n{rows}</table></div>\n")
        .expect("a string takes everything");
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// Text with `code` in it.
fn inline(text: &str) -> String {
    let parts = text.split('`').enumerate();
    parts
        .map(|(at, part)| if at % 2 == 1 { format!("<code>{}</code>", escaped(part)) } else { escaped(part) })
        .collect()
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_names_every_path_and_method_and_loads_nothing() {
        let page = html();
        for path in OPENAPI["paths"].as_object().unwrap().keys() {
            assert!(page.contains(&format!(" {path}</code>")), "{path}");
        }
        for method in list(&OPENRPC["methods"]) {
            assert!(page.contains(&format!("<code>{}</code>", text(&method["name"]))), "{method}");
        }
        let page = at(&page, "http://node:1");
        for foreign in ["<script", "src=", "{{", "@import", "<link rel=\"stylesheet\""] {
            assert!(!page.contains(foreign), "{foreign}");
        }
    }

    #[test]
    fn examples_name_the_address_by_which_the_page_was_asked_for() {
        let base = |lines: &[(&'static str, &str)], tls| {
            let mut headers = HeaderMap::new();
            lines.iter().for_each(|(name, value)| _ = headers.insert(*name, value.parse().unwrap()));
            base(&headers, tls)
        };
        assert_eq!(base(&[("host", "127.0.0.1:9000")], false), "http://127.0.0.1:9000");
        assert_eq!(base(&[("host", "[::1]:9000")], true), "https://[::1]:9000");
        let behind_a_proxy = [("host", "push.example.com"), ("x-forwarded-proto", "https")];
        assert_eq!(base(&behind_a_proxy, false), "https://push.example.com");
        for strange in ["<script>", "a b", "user@node", "\"", ""] {
            assert_eq!(base(&[("host", strange)], false), "http://localhost:8000", "{strange:?}");
        }
        let page = at(&html(), &base(&[("host", "node-1:9000")], false));
        assert!(page.contains("curl -d 'data=hello' http://node-1:9000/news"), "{page}");
        assert!(!page.contains(":8000"), "{page}");
    }

    #[test]
    fn text_is_text() {
        assert_eq!(inline("a `<b>` & \"c\""), "a <code>&lt;b&gt;</code> &amp; &quot;c&quot;");
    }
}
