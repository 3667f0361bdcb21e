//! A certificate and its key, from two PEM files, with errors that say what is wrong and what to do.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::{
    Error, InconsistentKeys,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    sign::CertifiedKey,
};
use sha2::{Digest as _, Sha256};

use super::{
    settings::Mistake,
    validity::{Validity, validity},
};

/// Where the two are.
#[derive(Debug, Clone)]
pub(super) struct Files {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

/// What is in them. No `Debug`: one of them is a secret.
pub(super) struct Contents {
    certificate: Vec<u8>,
    key: Vec<u8>,
}

/// Tells contents apart without keeping them.
pub(super) type Digest = [u8; 32];

/// A certificate with its chain and its key.
pub(super) struct Pair {
    pub certified: Arc<CertifiedKey>,
    pub validity: Validity,
}

impl Files {
    /// Reads both.
    pub(super) fn read(&self) -> Result<Contents, Mistake> {
        Ok(Contents {
            certificate: read("certificate", &self.certificate, "a PEM file with the certificate and its chain")?,
            key: read("key", &self.key, "a PEM file with the private key of the certificate")?,
        })
    }
}

fn read(key: &'static str, file: &Path, expected: &str) -> Result<Vec<u8>, Mistake> {
    fs::read(file).map_err(|error| {
        let remedy = match error.kind() {
            io::ErrorKind::NotFound => "give the path of a file that is there, as this process sees it",
            io::ErrorKind::PermissionDenied => "let the user that this process runs as read it",
            _ => "give the path of a file that can be read",
        };
        Mistake::of_file(key, file, format!("{expected} ({error})"), remedy)
    })
}

impl Contents {
    pub(super) fn digest(&self) -> Digest {
        let length = (self.certificate.len() as u64).to_be_bytes();
        Sha256::new().chain_update(length).chain_update(&self.certificate).chain_update(&self.key).finalize().into()
    }

    /// Makes them a pair, if they are one.
    pub(super) fn pair(&self, files: &Files) -> Result<Pair, Mistake> {
        let chain = self.chain(&files.certificate)?;
        let key = self.private_key(&files.key)?;
        let no_certificate = |error: &str| {
            let expected = format!("an X.509 certificate ({error})");
            Mistake::of_file("certificate", &files.certificate, expected, "have it issued again")
        };
        let validity = validity(&chain[0]).ok_or_else(|| no_certificate("its dates cannot be read"))?;
        let certified = CertifiedKey::from_der(chain, key, &aws_lc_rs::default_provider()).map_err(|error| match error {
            Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => Mistake::of_file(
                "key",
                &files.key,
                format!("the key of the first certificate in {}, and it is that of another", files.certificate.display()),
                "put the two together that were made together; the certificate of this node comes first in its file",
            ),
            Error::InvalidCertificate(_) => no_certificate(&error.to_string()),
            error => Mistake::of_file(
                "key",
                &files.key,
                format!("an RSA, ECDSA or Ed25519 key ({error})"),
                "make a key of one of these kinds, and a certificate for it",
            ),
        })?;
        Ok(Pair { certified: Arc::new(certified), validity })
    }

    fn chain(&self, file: &Path) -> Result<Vec<CertificateDer<'static>>, Mistake> {
        let expected = "a PEM file with at least one certificate";
        let remedy =
            "give the file that begins with -----BEGIN CERTIFICATE-----, often called fullchain.pem or tls.crt";
        let all = CertificateDer::pem_slice_iter(&self.certificate).collect::<Result<Vec<_>, _>>();
        let all =
            all.map_err(|error| Mistake::of_file("certificate", file, format!("{expected} ({error})"), remedy))?;
        if all.is_empty() {
            return Err(Mistake::of_file("certificate", file, format!("{expected}, and there is none in it"), remedy));
        }
        Ok(all)
    }

    fn private_key(&self, file: &Path) -> Result<PrivateKeyDer<'static>, Mistake> {
        PrivateKeyDer::from_pem_slice(&self.key).map_err(|_| {
            // The error's own text could quote the file.
            let locked = self.key.windows(LOCKED.len()).any(|window| window == LOCKED);
            let expected = "a PEM file with a private key";
            let (found, remedy) = if locked {
                ("this one is encrypted", "take its password off: openssl pkey -in key.pem -out plain.pem")
            } else {
                (
                    "there is none in it",
                    "give the file that begins with -----BEGIN PRIVATE KEY-----, often called privkey.pem or tls.key",
                )
            };
            Mistake::of_file("key", file, format!("{expected}, and {found}"), remedy)
        })
    }
}

/// How a key with a password begins.
const LOCKED: &[u8] = b"ENCRYPTED";

impl Pair {
    /// Why clients will not take it at this time.
    pub(super) fn doubt(&self, now: i64) -> Option<String> {
        if self.validity.ends < now {
            let days = (now - self.validity.ends) / 86_400;
            return Some(format!("the certificate of tls.certificate expired {days} days ago: clients will refuse it"));
        }
        (now < self.validity.begins)
            .then(|| "the certificate of tls.certificate is not valid yet: clients will refuse it".to_owned())
    }
}
