//! What a broker answers over HTTP, and what it means for whoever asked.

use std::time::Duration;

use serde::Deserialize;

use crate::failure::{Failure, Kind};

/// `{"error": {"code", "message"}}`.
#[derive(Debug, Deserialize)]
pub(crate) struct Problem {
    pub(crate) error: ProblemBody,
}

/// What is wrong, for programs and for people.
#[derive(Debug, Deserialize)]
pub(crate) struct ProblemBody {
    pub(crate) code: String,
    pub(crate) message: String,
}

/// The failure that an answer other than 200 means. `who` names the broker.
pub(crate) fn failure(who: &str, status: u16, body: &[u8]) -> Failure {
    let problem = serde_json::from_slice::<Problem>(body).ok().map(|problem| problem.error);
    let Some(problem) = problem else { return strange(who, status) };
    let failure = Failure::new(kind_of_status(status), format!("{} ({status} {})", problem.message, problem.code));
    match status {
        401 | 403 => failure.remedy("CLARION_API_KEY for a backend, CLARION_TOKEN for a user (`clarion token`)"),
        503 => failure.remedy("again in a moment; `clarion doctor` says what is wrong"),
        504 => failure.remedy("look whether it arrived before you publish it again"),
        _ => failure,
    }
}

/// The failure of one message of a batch.
pub(crate) fn item_failure(problem: &ProblemBody) -> Failure {
    Failure::new(kind_of_code(&problem.code), format!("{} ({})", problem.message, problem.code))
}

/// An answer that no broker of ours gives.
fn strange(who: &str, status: u16) -> Failure {
    let failure = match status {
        401 | 403 => Failure::refused(format!("{who} refuses: {status}")),
        300..=399 => Failure::usage(format!("{who} sends us elsewhere: {status}")),
        _ => Failure::unavailable(format!("{who} answers {status}, and not as a Clarion broker does")),
    };
    failure.remedy("name a broker with --via, or see what stands before it")
}

fn kind_of_status(status: u16) -> Kind {
    match status {
        401 | 403 => Kind::Refused,
        408 | 429 | 502..=504 => Kind::Unavailable,
        400..=499 => Kind::Usage,
        _ => Kind::Internal,
    }
}

/// Within a batch there is no status, only the code of the same problem.
fn kind_of_code(code: &str) -> Kind {
    match code {
        "token_required" | "invalid_token" | "token_expired" | "api_key_required" | "invalid_api_key" => Kind::Refused,
        "backend_only" | "not_granted" | "not_your_channel" | "bus_refused" => Kind::Refused,
        "bus_unavailable" | "bus_timeout" => Kind::Unavailable,
        _ => Kind::Usage,
    }
}

/// What `Retry-After` asks for, if it is in seconds; bounded, so that no broker can silence us for a day.
pub(crate) fn retry_after(value: Option<&str>) -> Option<Duration> {
    let seconds: u64 = value?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds.min(60)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_has_its_exit_code() {
        let body = br#"{"error":{"code":"some","message":"words"}}"#;
        for (status, exit) in
            [(400, 64), (404, 64), (413, 64), (401, 77), (403, 77), (429, 69), (503, 69), (504, 69), (500, 70)]
        {
            let failure = failure("x", status, body);
            assert_eq!(failure.exit_code(), exit, "{status}");
            assert!(failure.message.contains("words"));
        }
    }

    #[test]
    fn a_message_of_a_batch_has_its_kind() {
        for (code, kind) in
            [("backend_only", Kind::Refused), ("bus_timeout", Kind::Unavailable), ("too_large", Kind::Usage)]
        {
            let problem = ProblemBody { code: code.to_owned(), message: "words".to_owned() };
            assert_eq!(item_failure(&problem), Failure::new(kind, format!("words ({code})")));
        }
    }

    #[test]
    fn an_answer_of_somebody_else_is_told() {
        for (status, exit) in [(404, 69), (502, 69), (401, 77), (302, 64), (200, 69)] {
            let failure = failure("http://x", status, b"<html>");
            assert_eq!(failure.exit_code(), exit, "{status}");
            assert!(failure.message.contains("http://x"));
        }
    }

    #[test]
    fn retry_after_is_bounded() {
        assert_eq!(retry_after(Some("3")), Some(Duration::from_secs(3)));
        assert_eq!(retry_after(Some("86400")), Some(Duration::from_secs(60)));
        assert_eq!(retry_after(Some("Wed, 21 Oct 2026 07:28:00 GMT")), None);
    }
}
