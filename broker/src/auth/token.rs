//! What is in a token, and whether it is good.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use clarion_protocol::{Interest, Uid};
use jsonwebtoken::{Algorithm, Header, Validation, errors::ErrorKind};
use serde::Deserialize;
use serde_json::Value;

use super::{
    config::{Config, DEVELOPMENT_SECRET},
    jwks::Jwks,
    key::{self, Key, KeyError},
};

/// Longer than any token that fits in the header of a request.
const MAX_BYTES: usize = 16 * 1024;

/// What a good token says.
pub(super) struct Token {
    pub(super) user: Uid,
    pub(super) expires: Option<SystemTime>,
    pub(super) channels: Vec<Interest>,
}

/// Why a token is not good. For logs and counters; clients hear less.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Failure {
    #[error("it cannot be read")]
    Malformed,
    #[error("no key of ours can have signed it")]
    UnknownKey,
    #[error("its signature is wrong")]
    Signature,
    #[error("it has expired")]
    Expired,
    #[error("its claim `{0}` is missing or wrong")]
    Claim(&'static str),
    #[error("the issuer's keys could not be loaded yet")]
    KeysUnavailable,
}

#[derive(Deserialize)]
struct Claims {
    sub: Option<Value>,
    exp: Option<Value>,
    #[serde(default)]
    channels: Option<Vec<String>>,
    #[serde(default)]
    subs: Option<serde_json::Map<String, Value>>,
}

/// Knows the keys and what a token must say.
pub(super) struct Verifier {
    keys: Vec<Key>,
    jwks: Option<Arc<Jwks>>,
    validation: Validation,
    leeway: Duration,
}

impl Verifier {
    pub(super) fn new(config: &Config, jwks: Option<Arc<Jwks>>) -> Result<Self, KeyError> {
        let mut keys = Vec::new();
        if config.is_development() {
            keys.push(Key::from_secret(DEVELOPMENT_SECRET));
        }
        keys.extend(config.jwt_secret.as_ref().map(|secret| Key::from_secret(secret.expose())));
        for source in &config.public_keys {
            keys.extend(key::from_config(source)?);
        }
        Ok(Self { keys, jwks, validation: validation(config), leeway: config.leeway })
    }

    /// Checks a token. May fetch the issuer's keys anew when it names one that is not known. Cancel safe.
    pub(super) async fn verify(&self, token: &str) -> Result<Token, Failure> {
        if token.len() > MAX_BYTES {
            return Err(Failure::Malformed);
        }
        let header = jsonwebtoken::decode_header(token).map_err(|_| Failure::Malformed)?;
        // What a critical extension means we do not know, so the token is not for us (RFC 7515, 4.1.11).
        if header.crit.is_some() {
            return Err(Failure::Malformed);
        }
        let failure = match self.try_keys(&self.keys, token, &header) {
            Err(failure @ (Failure::UnknownKey | Failure::Signature)) => failure,
            answer => return answer,
        };
        let jwks = self.jwks.as_ref().filter(|jwks| jwks.may_hold(header.alg)).ok_or(failure)?;
        let fits = |keys: &[Key]| keys.iter().any(|key| key.fits(&header));
        let keys = jwks.keys(fits).await.ok_or(Failure::KeysUnavailable)?;
        match self.try_keys(&keys, token, &header) {
            // Some issuers name no keys, or change one under its name: then only the signature shows that it is new.
            Err(Failure::Signature) => {
                let keys = jwks.keys(|_| false).await.ok_or(Failure::KeysUnavailable)?;
                self.try_keys(&keys, token, &header)
            }
            answer => answer,
        }
    }

    /// Tries the keys that can have signed it. The first good signature decides; its claims are good or not.
    fn try_keys(&self, keys: &[Key], token: &str, header: &Header) -> Result<Token, Failure> {
        let mut failure = Failure::UnknownKey;
        for key in keys.iter().filter(|key| key.fits(header)) {
            let mut validation = self.validation.clone();
            validation.algorithms = vec![header.alg];
            match jsonwebtoken::decode::<Claims>(token, &key.decoding, &validation) {
                Ok(data) => return self.read(data.claims),
                Err(error) => match reason(error.kind()) {
                    Failure::Signature => failure = Failure::Signature,
                    other => return Err(other),
                },
            }
        }
        Err(failure)
    }

    fn read(&self, claims: Claims) -> Result<Token, Failure> {
        let user = match claims.sub {
            Some(Value::String(sub)) => sub,
            Some(Value::Number(sub)) if !sub.is_f64() => sub.to_string(),
            _ => return Err(Failure::Claim("sub")),
        };
        let user = Uid::parse(&user).map_err(|_| Failure::Claim("sub"))?;
        // A token that is good until its leeway has passed must not open a connection that ends at once.
        let expires = claims
            .exp
            .as_ref()
            .and_then(seconds)
            .and_then(|exp| SystemTime::UNIX_EPOCH.checked_add(exp.saturating_add(self.leeway)));
        let named =
            claims.channels.into_iter().flatten().chain(claims.subs.into_iter().flatten().map(|(name, _)| name));
        // A name that is no channel grants nothing.
        let channels = named.filter_map(|name| Interest::parse(&name).ok()).collect();
        Ok(Token { user, expires, channels })
    }
}

fn validation(config: &Config) -> Validation {
    let mut validation = Validation::new(Algorithm::HS256);
    let mut required = Vec::new();
    validation.leeway = config.leeway.as_secs();
    validation.validate_nbf = true;
    // The crate lets a token without `aud` or `iss` pass unless the claim is required by name; and one *with* `aud`
    // fails where none is configured, unless it is told not to look.
    validation.validate_aud = !config.audience.is_empty();
    if !config.audience.is_empty() {
        validation.set_audience(&config.audience);
        required.push("aud");
    }
    if !config.issuer.is_empty() {
        validation.set_issuer(&config.issuer);
        required.push("iss");
    }
    if config.require_exp {
        required.push("exp");
    }
    validation.set_required_spec_claims(&required);
    validation
}

/// A NumericDate: seconds, perhaps with a fraction. What is later than time can tell is never.
fn seconds(value: &Value) -> Option<Duration> {
    match value.as_u64() {
        Some(seconds) => Some(Duration::from_secs(seconds)),
        None => value.as_f64().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()),
    }
}

fn reason(kind: &ErrorKind) -> Failure {
    match kind {
        ErrorKind::InvalidSignature
        | ErrorKind::InvalidAlgorithm
        | ErrorKind::InvalidEcdsaKey
        | ErrorKind::InvalidEddsaKey
        | ErrorKind::InvalidRsaKey(_)
        | ErrorKind::InvalidKeyFormat => Failure::Signature,
        ErrorKind::ExpiredSignature => Failure::Expired,
        ErrorKind::ImmatureSignature => Failure::Claim("nbf"),
        ErrorKind::InvalidAudience => Failure::Claim("aud"),
        ErrorKind::InvalidIssuer => Failure::Claim("iss"),
        ErrorKind::MissingRequiredClaim(claim) | ErrorKind::InvalidClaimFormat(claim) => Failure::Claim(name(claim)),
        _ => Failure::Malformed,
    }
}

fn name(claim: &str) -> &'static str {
    ["exp", "nbf", "aud", "iss"].into_iter().find(|known| *known == claim).unwrap_or("claims")
}
