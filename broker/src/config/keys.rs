//! Which keys there are, read from the very structs that take them, and how variables call them.

use clarion_bus::BusConfig;
use serde::{
    Deserialize, Deserializer,
    de::{self, value::Error},
    forward_to_deserialize_any,
};

use super::{Config, Limits, Log};
use crate::{
    auth::{self, Namespace},
    drain, ingress, members, probe, tls,
};

/// Short names of variables, fixed for good beside the regular ones.
const SHORT: [(&str, &str); 5] = [
    ("CLARION_BUS", "bus.url"),
    ("CLARION_JWT_SECRET", "auth.jwt_secret"),
    ("CLARION_JWKS_URL", "auth.jwks_url"),
    ("CLARION_API_KEYS", "auth.api_keys"),
    ("CLARION_ORIGINS", "auth.origins"),
];

/// Keys whose values are never shown.
const SECRET: [&str; 3] = ["auth.jwt_secret", "auth.api_keys", "bus.password"];

/// All keys that a variable can set: `listen`, `limits.payload`.
pub(super) fn all() -> Vec<String> {
    let tables = [
        ("log", fields::<Log>()),
        ("tls", fields::<tls::Config>()),
        ("bus", fields::<BusConfig>()),
        ("auth", fields::<auth::Config>()),
        ("limits", fields::<Limits>()),
        ("ingress", fields::<ingress::Config>()),
        ("members", fields::<members::Config>()),
        ("probe", fields::<probe::Config>()),
        ("drain", fields::<drain::Config>()),
    ];
    let is_table = |key: &str| key == "namespaces" || tables.iter().any(|(table, _)| *table == key);
    let top = fields::<Config>().iter().filter(|key| !is_table(key)).map(|key| (*key).to_owned());
    let below = tables.iter().flat_map(|(table, fields)| fields.iter().map(move |field| format!("{table}.{field}")));
    top.chain(below).collect()
}

/// The keys of each of the `namespaces`, which no variable can set.
pub(super) fn of_namespaces() -> Vec<String> {
    fields::<Namespace>().iter().map(|field| format!("namespaces.{field}")).collect()
}

/// All variables, each with its key.
pub(super) fn variables() -> Vec<(String, String)> {
    let regular = all().into_iter().map(|key| (format!("CLARION_{}", key.replace('.', "_").to_ascii_uppercase()), key));
    regular.chain(SHORT.map(|(variable, key)| (variable.to_owned(), key.to_owned()))).collect()
}

/// Whether the value at this path, or one below it, is a secret.
pub(super) fn is_secret(path: &str) -> bool {
    SECRET.iter().any(|secret| {
        path.strip_prefix(secret).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
            || secret.strip_prefix(path).is_some_and(|rest| rest.starts_with('.'))
    })
}

/// The candidate that is most like the word.
pub(super) fn nearest<'a>(word: &str, candidates: impl Iterator<Item = &'a str>) -> Option<(&'a str, f64)> {
    let scored = candidates.map(|candidate| (candidate, strsim::jaro_winkler(word, candidate)));
    scored.max_by(|(_, a), (_, b)| a.total_cmp(b))
}

/// The names of a struct's fields, as its derived `Deserialize` asks for them.
fn fields<'de, T: Deserialize<'de>>() -> &'static [&'static str] {
    let mut names: &'static [&'static str] = &[];
    // Always an error: the names are all that is wanted.
    let _ = T::deserialize(Names(&mut names));
    names
}

struct Names<'a>(&'a mut &'static [&'static str]);

impl<'de> Deserializer<'de> for Names<'_> {
    type Error = Error;

    fn deserialize_struct<V: de::Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        _: V,
    ) -> Result<V::Value, Error> {
        *self.0 = fields;
        self.deserialize_any(de::IgnoredAny).and_then(|_| Err(de::Error::custom("")))
    }

    fn deserialize_any<V: de::Visitor<'de>>(self, _: V) -> Result<V::Value, Error> {
        Err(de::Error::custom("only the names of fields are wanted"))
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
        newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_come_from_the_structs() {
        let keys = all();
        for key in ["listen", "require_bus", "bus.url", "auth.jwt_secret", "limits.per_user", "drain.deadline"] {
            assert!(keys.iter().any(|known| known == key), "{key} is not in {keys:?}");
        }
        assert!(!keys.iter().any(|key| matches!(key.as_str(), "bus" | "namespaces" | "warnings" | "bus.prefix")));
    }

    #[test]
    fn no_two_keys_have_the_same_variable() {
        let mut names: Vec<String> = variables().into_iter().map(|(name, _)| name).collect();
        names.sort_unstable();
        let all = names.len();
        names.dedup();
        assert_eq!(names.len(), all);
    }

    #[test]
    fn secrets_are_known_from_above_and_below() {
        for secret in ["auth.jwt_secret", "auth.api_keys[1]", "auth.api_keys[0].key", "auth", "bus", "bus.password"] {
            assert!(is_secret(secret), "{secret}");
        }
        for open in ["auth.jwt_secrets", "bus.url", "listen", "auth.origins[0]"] {
            assert!(!is_secret(open), "{open}");
        }
    }
}
