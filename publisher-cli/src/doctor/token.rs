//! The token in the environment: whether it is one, and whether its time is over. Its signature is the broker's to judge.

use std::time::{SystemTime, UNIX_EPOCH};

use super::Finding;
use crate::{context::Context, failure::Failure, token::Claims};

const CHECK: &str = "token";

/// Looks at `CLARION_TOKEN`.
pub(super) fn check(context: &Context) -> Finding {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    match &context.secrets.token {
        None => Finding::skip(CHECK, "CLARION_TOKEN is not set"),
        Some(token) => judge(token, now),
    }
}

fn judge(token: &str, now: u64) -> Finding {
    let renew = "CLARION_TOKEN=$(clarion token --user …)";
    let Some(claims) = Claims::of(token) else {
        return Finding::fail(CHECK, Failure::usage("CLARION_TOKEN is no JSON Web Token").remedy(renew));
    };
    match claims.exp {
        Some(exp) if exp <= now => {
            let ago = humantime::format_duration(std::time::Duration::from_secs(now - exp));
            Finding::fail(CHECK, Failure::refused(format!("CLARION_TOKEN expired {ago} ago")).remedy(renew))
        }
        Some(exp) => {
            let left = humantime::format_duration(std::time::Duration::from_secs(exp - now));
            Finding::ok(CHECK, format!("CLARION_TOKEN is good for {left}"))
        }
        None => Finding::warn(CHECK, "CLARION_TOKEN never expires").remedy(renew),
    }
}

#[cfg(test)]
mod tests {
    use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};

    use super::*;
    use crate::doctor::Status;

    #[test]
    fn a_token_is_judged_by_its_time() {
        let token = |claims: &str| format!("h.{}.s", BASE64_URL_SAFE_NO_PAD.encode(claims));
        for (token, status) in [
            (token(r#"{"exp":101}"#), Status::Ok),
            (token(r#"{"exp":100}"#), Status::Fail),
            (token(r#"{"sub":"42"}"#), Status::Warn),
            (token("x"), Status::Fail),
            ("secret".to_owned(), Status::Fail),
        ] {
            let finding = judge(&token, 100);
            assert_eq!(finding.status, status, "{finding:?}");
            assert!(!format!("{finding:?}").contains("secret"));
        }
    }
}
