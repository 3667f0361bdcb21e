//! `token`: signs a token for a user, for development and for scripts that hold the shared secret. And what a token says.

use std::time::{SystemTime, UNIX_EPOCH};

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use clarion_protocol::{Interest, Uid};
use jsonwebtoken::{EncodingKey, Header};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{args::TokenArgs, context::Context, failure::Failure};

/// What a broker in development mode takes, and nobody else.
const DEVELOPMENT_SECRET: &str = "development";

/// What a token says, read without a look at its signature, which is the broker's to judge.
#[derive(Debug, Deserialize)]
pub(crate) struct Claims {
    pub(crate) exp: Option<u64>,
    sub: Option<Value>,
}

impl Claims {
    /// The claims of a JSON Web Token; `None` where it is none.
    pub(crate) fn of(token: &str) -> Option<Self> {
        let mut parts = token.split('.');
        let (_, claims, _) = (parts.next()?, parts.next()?, parts.next()?);
        serde_json::from_slice(&BASE64_URL_SAFE_NO_PAD.decode(claims).ok()?).ok()
    }

    /// Whose token it is. Some issuers write numbers, and brokers take them.
    pub(crate) fn user(&self) -> Option<Uid> {
        match self.sub.as_ref()? {
            Value::String(sub) => sub.parse().ok(),
            Value::Number(sub) if !sub.is_f64() => sub.to_string().parse().ok(),
            _ => None,
        }
    }
}

/// Signs and writes a token.
pub(crate) fn run(context: &Context, args: &TokenArgs) -> Result<(), Failure> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let claims = claims(args, now);
    let secret = context.secrets.jwt_secret.as_deref();
    let key = EncodingKey::from_secret(secret.unwrap_or(DEVELOPMENT_SECRET).as_bytes());
    let token = jsonwebtoken::encode(&Header::default(), &claims, &key)
        .map_err(|error| Failure::internal(format!("the token cannot be signed: {error}")))?;
    if secret.is_none() {
        context.output.note("signed with the development secret, which is good for a broker in development mode only");
    }
    let value = json!({ "token": token, "user": args.user.as_str(), "expires_at": claims["exp"] });
    context.output.result(token, &value)
}

fn claims(args: &TokenArgs, now: u64) -> Value {
    // At least a second, since the claim counts in whole ones.
    let expires = now.saturating_add(args.expires.as_secs().max(1));
    let mut claims = json!({ "sub": args.user.as_str(), "iat": now, "exp": expires });
    if !args.channels.is_empty() {
        claims["channels"] = args.channels.iter().map(Interest::to_string).collect();
    }
    if let Some(audience) = &args.audience {
        claims["aud"] = json!(audience);
    }
    if let Some(issuer) = &args.issuer {
        claims["iss"] = json!(issuer);
    }
    claims
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn claims_say_what_was_asked_for() {
        let args = TokenArgs {
            user: "42".parse().unwrap(),
            expires: Duration::from_secs(3600),
            channels: vec!["a/**".parse().unwrap(), "b".parse().unwrap()],
            audience: Some("app".to_owned()),
            issuer: None,
        };
        let expected = json!({ "sub": "42", "iat": 7, "exp": 3607, "channels": ["a/**", "b"], "aud": "app" });
        assert_eq!(claims(&args, 7), expected);
        let bare = TokenArgs { expires: Duration::from_millis(5), channels: vec![], audience: None, ..args };
        assert_eq!(claims(&bare, 7), json!({ "sub": "42", "iat": 7, "exp": 8 }));
    }

    #[test]
    fn a_token_names_its_user() {
        let user = |claims: &str| {
            let token = format!("h.{}.s", BASE64_URL_SAFE_NO_PAD.encode(claims));
            Claims::of(&token).and_then(|claims| claims.user()).map(|user| user.to_string())
        };
        assert_eq!(user(r#"{"sub":"a b","exp":1}"#).as_deref(), Some("a b"));
        assert_eq!(user(r#"{"sub":42}"#).as_deref(), Some("42"));
        for claims in [r#"{"sub":4.5}"#, r#"{"sub":"a/b"}"#, r#"{"sub":""}"#, "{}", "x"] {
            assert_eq!(user(claims), None, "{claims}");
        }
        assert!(Claims::of("t.t.t").is_none());
    }
}
