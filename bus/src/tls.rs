//! TLS towards a bus's server, from the files that the configuration names.

use std::{path::Path, sync::Arc};

use rustls::{ClientConfig, RootCertStore, pki_types::CertificateDer};
use rustls_pki_types::{PrivateKeyDer, pem::PemObject as _};

use crate::{BusConfig, ConfigError};

/// What a client of this bus trusts, and who it is.
///
/// # Errors
/// A file that cannot be read or holds nothing of what it should, or a system without any certificate authority.
pub(crate) fn client_config(config: &BusConfig) -> Result<Arc<ClientConfig>, ConfigError> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("aws-lc-rs has the default versions")
        .with_root_certificates(roots(config)?);
    let client = match (&config.cert_file, &config.key_file) {
        (None, None) => builder.with_no_client_auth(),
        (Some(cert_file), Some(key_file)) => {
            let key = PrivateKeyDer::from_pem_file(key_file)
                .map_err(|error| mistake("bus.key_file", key_file, "a PEM file with a private key", &error))?;
            builder.with_client_auth_cert(certificates("bus.cert_file", cert_file)?, key).map_err(|error| {
                mistake("bus.cert_file", cert_file, "a certificate that belongs to bus.key_file", &error)
            })?
        }
        (Some(file), None) => return Err(ConfigError::alone("bus.cert_file", file, "bus.key_file")),
        (None, Some(file)) => return Err(ConfigError::alone("bus.key_file", file, "bus.cert_file")),
    };
    Ok(Arc::new(client))
}

fn roots(config: &BusConfig) -> Result<RootCertStore, ConfigError> {
    let mut roots = RootCertStore::empty();
    if let Some(file) = &config.ca_file {
        for certificate in certificates("bus.ca_file", file)? {
            roots
                .add(certificate)
                .map_err(|error| mistake("bus.ca_file", file, "a PEM file with certificates", &error))?;
        }
        return Ok(roots);
    }
    // One unreadable file in the system's store is no reason not to use the others.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() {
        let expected = "a PEM file: this system has no certificate authorities of its own".to_owned();
        return Err(ConfigError { key: "bus.ca_file", value: "nothing".to_owned(), expected });
    }
    Ok(roots)
}

fn certificates(key: &'static str, file: &Path) -> Result<Vec<CertificateDer<'static>>, ConfigError> {
    let expected = "a PEM file with at least one certificate";
    let all = CertificateDer::pem_file_iter(file)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| mistake(key, file, expected, &error))?;
    if all.is_empty() { Err(mistake(key, file, expected, &"there is none in it")) } else { Ok(all) }
}

fn mistake(key: &'static str, file: &Path, expected: &str, error: &dyn std::fmt::Display) -> ConfigError {
    ConfigError { key, value: file.display().to_string(), expected: format!("{expected} ({error})") }
}
