//! Tokens signed with every kind of key that Clarion takes, and the public halves of those keys.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, encode, jwk::Jwk};
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ED25519, PKCS_RSA_SHA256, RsaKeySize};
use serde_json::{Value, json};

/// A key that signs tokens.
#[derive(Clone)]
pub struct JwtKey {
    algorithm: Algorithm,
    signs: EncodingKey,
    public_pem: Option<String>,
    id: Option<String>,
}

impl JwtKey {
    /// HS256 with a shared secret.
    #[must_use]
    pub fn hs256(secret: &str) -> Self {
        Self::shared(Algorithm::HS256, secret)
    }

    /// HS384 with a shared secret.
    #[must_use]
    pub fn hs384(secret: &str) -> Self {
        Self::shared(Algorithm::HS384, secret)
    }

    /// HS512 with a shared secret.
    #[must_use]
    pub fn hs512(secret: &str) -> Self {
        Self::shared(Algorithm::HS512, secret)
    }

    fn shared(algorithm: Algorithm, secret: &str) -> Self {
        Self { algorithm, signs: EncodingKey::from_secret(secret.as_bytes()), public_pem: None, id: None }
    }

    /// RS256 with a new key.
    ///
    /// # Panics
    /// When no key can be made.
    #[must_use]
    pub fn rs256() -> Self {
        let pair = KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048).expect("a key can be made");
        let signs = EncodingKey::from_rsa_pem(pair.serialize_pem().as_bytes()).expect("an RSA key");
        Self { algorithm: Algorithm::RS256, signs, public_pem: Some(pair.public_key_pem()), id: None }
    }

    /// ES256 with a new key.
    ///
    /// # Panics
    /// When no key can be made.
    #[must_use]
    pub fn es256() -> Self {
        let pair = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).expect("a key can be made");
        let signs = EncodingKey::from_ec_pem(pair.serialize_pem().as_bytes()).expect("a P-256 key");
        Self { algorithm: Algorithm::ES256, signs, public_pem: Some(pair.public_key_pem()), id: None }
    }

    /// EdDSA (Ed25519) with a new key.
    ///
    /// # Panics
    /// When no key can be made.
    #[must_use]
    pub fn eddsa() -> Self {
        let pair = KeyPair::generate_for(&PKCS_ED25519).expect("a key can be made");
        let signs = EncodingKey::from_ed_pem(pair.serialize_pem().as_bytes()).expect("an Ed25519 key");
        Self { algorithm: Algorithm::EdDSA, signs, public_pem: Some(pair.public_key_pem()), id: None }
    }

    /// Puts a `kid` into the tokens and the JWK.
    #[must_use]
    pub fn id(mut self, id: &str) -> Self {
        self.id = Some(id.to_owned());
        self
    }

    /// Signs these claims as they are.
    ///
    /// # Panics
    /// When they cannot be signed.
    #[must_use]
    pub fn sign(&self, claims: &Value) -> String {
        let header = Header { kid: self.id.clone(), ..Header::new(self.algorithm) };
        encode(&header, claims, &self.signs).expect("claims can be signed")
    }

    /// A token for a user, good for an hour.
    #[must_use]
    pub fn token(&self, user: &str) -> String {
        self.sign(&json!({ "sub": user, "exp": in_seconds(3600) }))
    }

    /// The public key as PEM.
    ///
    /// # Panics
    /// For a shared secret, which has none.
    #[must_use]
    pub fn public_pem(&self) -> &str {
        self.public_pem.as_deref().expect("a shared secret has no public half")
    }

    /// The public key as a JWK.
    ///
    /// # Panics
    /// When it has none.
    #[must_use]
    pub fn jwk(&self) -> Value {
        let public = self.public_pem.as_deref().unwrap_or_default().as_bytes();
        let jwk = match self.algorithm {
            // The private half of an Ed25519 key gives a JWK only in one of the two forms in which it can be written.
            Algorithm::EdDSA => {
                DecodingKey::from_ed_pem(public).and_then(|key| Jwk::from_decoding_key(&key, Some(self.algorithm)))
            }
            _ => Jwk::from_encoding_key(&self.signs, self.algorithm),
        };
        let mut jwk = jwk.expect("a key has a JWK");
        jwk.common.key_id.clone_from(&self.id);
        serde_json::to_value(jwk).expect("a JWK is JSON")
    }
}

/// A time for `exp` or `nbf`: so many seconds from now, or before now.
///
/// # Panics
/// When the clock is before 1970.
#[must_use]
pub fn in_seconds(seconds: i64) -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).as_ref().map_or(0, Duration::as_secs);
    i64::try_from(now).expect("the clock is in this millennium") + seconds
}

impl std::fmt::Debug for JwtKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "JwtKey({:?})", self.algorithm)
    }
}

#[cfg(test)]
mod tests {
    use jsonwebtoken::{Validation, decode};

    use super::*;

    #[test]
    fn every_key_signs_what_its_jwk_verifies() {
        let all = [
            JwtKey::hs256("s"),
            JwtKey::hs384("s"),
            JwtKey::hs512("s"),
            JwtKey::rs256(),
            JwtKey::es256(),
            JwtKey::eddsa(),
        ];
        for key in all.map(|key| key.id("k1")) {
            let jwk: Jwk = serde_json::from_value(key.jwk()).unwrap();
            assert_eq!(jwk.common.key_id.as_deref(), Some("k1"));
            let decoding = DecodingKey::from_jwk(&jwk).unwrap();
            let claims = decode::<Value>(key.token("42"), &decoding, &Validation::new(key.algorithm)).unwrap().claims;
            assert_eq!(claims["sub"], "42", "{key:?}");
        }
    }

    #[test]
    fn public_keys_are_pem() {
        for key in [JwtKey::rs256(), JwtKey::es256(), JwtKey::eddsa()] {
            assert!(key.public_pem().starts_with("-----BEGIN PUBLIC KEY-----"), "{key:?}");
        }
    }
}
