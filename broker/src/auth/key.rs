//! Keys that tokens are verified with, and how they are read from PEM and from JSON Web Keys.

use jsonwebtoken::{
    Algorithm, AlgorithmFamily, DecodingKey, Header,
    jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyOperations, PublicKeyUse},
};
use serde::Deserialize;

/// More keys than any issuer has in use; each may have to be tried for a token that names none.
const MAX_KEYS: usize = 64;

/// One key and what it is good for.
#[derive(Clone)]
pub(super) struct Key {
    pub(super) decoding: DecodingKey,
    kid: Option<String>,
    algorithms: Vec<Algorithm>,
}

impl Key {
    /// A shared secret, good for HMAC only.
    pub(super) fn from_secret(secret: &str) -> Self {
        Self::of_family(DecodingKey::from_secret(secret.as_bytes()))
    }

    fn of_family(decoding: DecodingKey) -> Self {
        let algorithms = decoding.family().algorithms().to_vec();
        Self { decoding, kid: None, algorithms }
    }

    /// Whether a token with this header can have been signed with this key. The key decides about the algorithm,
    /// never the token alone.
    pub(super) fn fits(&self, header: &Header) -> bool {
        let named = match (&header.kid, &self.kid) {
            (Some(wanted), Some(kid)) => wanted == kid,
            // Issuers with a single key often name it on one side only.
            _ => true,
        };
        named && self.algorithms.contains(&header.alg)
    }
}

/// Why a text is no key.
#[derive(Debug, thiserror::Error)]
pub(super) enum KeyError {
    #[error("it cannot be read: {0}")]
    Unreadable(String),
    #[error("it is a private key, which must stay with the issuer")]
    Private,
    #[error("it is no PEM public key of RSA, EC (P-256 or P-384) or Ed25519")]
    NotPublic,
    #[error("it is no JSON Web Key Set: {0}")]
    NotJwks(String),
    #[error("none of its keys is for signatures that Clarion knows")]
    NoneUsable,
    #[error("it has more than {MAX_KEYS} keys")]
    TooMany,
}

/// Whether the text is PEM itself and not the path of a file.
pub(super) fn is_pem(text: &str) -> bool {
    text.contains("-----BEGIN")
}

/// Reads an entry of `public_keys`.
pub(super) fn from_config(source: &str) -> Result<Vec<Key>, KeyError> {
    if is_pem(source) {
        return from_pem(source);
    }
    from_pem(&std::fs::read_to_string(source).map_err(|error| KeyError::Unreadable(error.to_string()))?)
}

/// Reads all keys of a PEM text.
fn from_pem(text: &str) -> Result<Vec<Key>, KeyError> {
    let mut starts: Vec<usize> = text.match_indices("-----BEGIN").map(|(at, _)| at).collect();
    starts.push(text.len());
    let keys: Vec<Key> = starts.windows(2).map(|w| from_pem_block(&text[w[0]..w[1]])).collect::<Result<_, _>>()?;
    if keys.is_empty() { Err(KeyError::NotPublic) } else { Ok(keys) }
}

fn from_pem_block(block: &str) -> Result<Key, KeyError> {
    if block.lines().next().is_some_and(|line| line.contains("PRIVATE KEY")) {
        return Err(KeyError::Private);
    }
    let bytes = block.as_bytes();
    DecodingKey::from_rsa_pem(bytes)
        .or_else(|_| DecodingKey::from_ec_pem(bytes))
        .or_else(|_| DecodingKey::from_ed_pem(bytes))
        .map(Key::of_family)
        .map_err(|_| KeyError::NotPublic)
}

/// Reads a JSON Web Key Set, passing over what is no signature key of ours. Shared secrets count only in a file of
/// our own: what is published at an address is no secret.
pub(super) fn from_jwks(json: &[u8], secrets: bool) -> Result<Vec<Key>, KeyError> {
    #[derive(Deserialize)]
    struct Set {
        keys: Vec<serde_json::Value>,
    }
    let set: Set = serde_json::from_slice(json).map_err(|error| KeyError::NotJwks(error.to_string()))?;
    if set.keys.len() > MAX_KEYS {
        return Err(KeyError::TooMany);
    }
    // One by one: a key of a kind that is not known must not take the others with it.
    let known = set.keys.into_iter().filter_map(|key| serde_json::from_value::<Jwk>(key).ok());
    let keys: Vec<Key> = known.filter_map(|jwk| from_jwk(&jwk, secrets)).collect();
    if keys.is_empty() { Err(KeyError::NoneUsable) } else { Ok(keys) }
}

fn from_jwk(jwk: &Jwk, secrets: bool) -> Option<Key> {
    let common = &jwk.common;
    let signs = common.public_key_use.as_ref().is_none_or(|purpose| *purpose == PublicKeyUse::Signature)
        && common.key_operations.as_ref().is_none_or(|operations| operations.contains(&KeyOperations::Verify));
    let decoding = DecodingKey::from_jwk(jwk).ok().filter(|_| signs)?;
    let curve = match &jwk.algorithm {
        AlgorithmParameters::EllipticCurve(parameters) => Some(&parameters.curve),
        _ => None,
    };
    let mut algorithms = match (decoding.family(), curve) {
        (AlgorithmFamily::Ec, Some(EllipticCurve::P256)) => vec![Algorithm::ES256],
        (AlgorithmFamily::Ec, Some(EllipticCurve::P384)) => vec![Algorithm::ES384],
        (AlgorithmFamily::Ec, _) => return None,
        (AlgorithmFamily::Hmac, _) if !secrets => return None,
        (family, _) => family.algorithms().to_vec(),
    };
    if let Some(stated) = common.key_algorithm {
        let stated = Algorithm::try_from(stated).ok()?;
        algorithms.retain(|algorithm| *algorithm == stated);
    }
    (!algorithms.is_empty()).then(|| Key { decoding, kid: common.key_id.clone(), algorithms })
}
