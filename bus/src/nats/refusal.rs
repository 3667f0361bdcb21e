//! What a server's `-ERR` is about. NATS has no codes: the texts are those of nats-server 2.

/// What the server refuses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// Publishing to this subject.
    Publish(String),
    /// Subscribing to this subject.
    Subscribe(String),
    /// A subscription, and it does not say which: there are more than this user may have, or its subject is too deep.
    SomeSubscription,
    /// Anything else, after which the connection is of no more use.
    Other,
}

/// Reads the text of an `-ERR`, without its quotes.
pub(crate) fn read(text: &[u8]) -> Refusal {
    let Ok(text) = std::str::from_utf8(text) else { return Refusal::Other };
    if let Some(subject) = after(text, "Permissions Violation for Publish to ").and_then(quoted) {
        return Refusal::Publish(subject);
    }
    if let Some(subject) = after(text, "Permissions Violation for Subscription to ").and_then(quoted) {
        return Refusal::Subscribe(subject);
    }
    let unnamed = ["maximum subscriptions exceeded", "subject has exceeded number of tokens limit", "invalid subject"];
    if unnamed.iter().any(|words| after(text, words).is_some()) { Refusal::SomeSubscription } else { Refusal::Other }
}

/// What follows these words, whatever their case: it has changed between releases.
fn after<'a>(text: &'a str, words: &str) -> Option<&'a str> {
    let (head, rest) = text.split_at_checked(words.len())?;
    head.eq_ignore_ascii_case(words).then_some(rest)
}

/// The subject in double quotes, written as Go quotes a text.
fn quoted(text: &str) -> Option<String> {
    let mut subject = String::new();
    let mut chars = text.strip_prefix('"')?.chars();
    loop {
        match chars.next()? {
            '"' => return Some(subject),
            '\\' => subject.push(chars.next()?),
            c => subject.push(c),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_of_the_server() {
        for (text, refusal) in [
            (r#"Permissions Violation for Publish to "clarion.a""#, Refusal::Publish("clarion.a".to_owned())),
            (r#"Permissions Violation for Subscription to "a.>""#, Refusal::Subscribe("a.>".to_owned())),
            (r#"permissions violation for subscription to "a" using queue "q""#, Refusal::Subscribe("a".to_owned())),
            (r#"Permissions Violation for Publish to "a\"b\\c""#, Refusal::Publish("a\"b\\c".to_owned())),
            ("maximum subscriptions exceeded", Refusal::SomeSubscription),
            ("Maximum Subscriptions Exceeded", Refusal::SomeSubscription),
            ("subject has exceeded number of tokens limit", Refusal::SomeSubscription),
            ("Permissions Violation for Publish to \"a", Refusal::Other),
            ("Stale Connection", Refusal::Other),
            ("", Refusal::Other),
            ("ö", Refusal::Other),
        ] {
            assert_eq!(read(text.as_bytes()), refusal, "{text}");
        }
    }
}
