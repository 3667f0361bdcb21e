//! Where in its file each key stands, so that a mistake can be found without searching.

use std::{collections::BTreeMap, path::Path};

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

/// The lines of all keys and elements of a file.
#[derive(Default)]
pub(super) struct Places {
    file: String,
    lines: BTreeMap<String, usize>,
}

impl Places {
    /// Of a file that was read already; what is no TOML has no keys.
    pub(super) fn of(path: &Path, text: &str) -> Self {
        let mut places = Self { file: path.display().to_string(), lines: BTreeMap::new() };
        if let Ok(table) = DeTable::parse(text) {
            let line_starts = text.match_indices('\n').map(|(at, _)| at + 1).collect::<Vec<_>>();
            places.add_table("", table.get_ref(), &|at| line_starts.partition_point(|start| *start <= at) + 1);
        }
        places
    }

    /// Where a key is set, in words. What is missing in an element of an array is missing where that begins.
    pub(super) fn place(&self, key: &str) -> Option<String> {
        let element = || key.rfind(']').map(|end| &key[..=end]);
        let line = self.lines.get(key).or_else(|| self.lines.get(element()?))?;
        Some(format!("line {line} of {}", self.file))
    }

    fn add_table(&mut self, path: &str, table: &DeTable<'_>, line: &impl Fn(usize) -> usize) {
        for (key, value) in table {
            let name = key.get_ref();
            let path = if path.is_empty() { name.to_string() } else { format!("{path}.{name}") };
            self.lines.insert(path.clone(), line(key.span().start));
            self.add_value(&path, value, line);
        }
    }

    fn add_value(&mut self, path: &str, value: &Spanned<DeValue<'_>>, line: &impl Fn(usize) -> usize) {
        match value.get_ref() {
            DeValue::Table(table) => self.add_table(path, table, line),
            DeValue::Array(array) => {
                for (at, element) in array.iter().enumerate() {
                    let path = format!("{path}[{at}]");
                    self.lines.insert(path.clone(), line(element.span().start));
                    self.add_value(&path, element, line);
                }
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_and_element_has_its_line() {
        let text = "listen = 'x'\n\n[auth]\norigins = [\n  'a',\n  'b',\n]\nleeway = '1s'\n[[namespaces]]\nprefix = 'a'\n\n[[namespaces]]\npublish = 'all'\n";
        let places = Places::of(Path::new("/etc/clarion.toml"), text);
        for (key, line) in [
            ("listen", 1),
            ("auth", 3),
            ("auth.origins", 4),
            ("auth.origins[1]", 6),
            ("auth.leeway", 8),
            ("namespaces[0]", 9),
            ("namespaces[0].prefix", 10),
            ("namespaces[0].subscribe", 9),
            ("namespaces[1].publish", 13),
            ("namespaces[1]", 12),
        ] {
            assert_eq!(places.place(key).as_deref(), Some(&*format!("line {line} of /etc/clarion.toml")), "{key}");
        }
        assert_eq!(places.place("limits.payload"), None);
        assert_eq!(Places::of(Path::new("x"), "a = ").place("a"), None);
    }
}
