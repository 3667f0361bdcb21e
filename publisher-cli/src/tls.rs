//! TLS towards a broker: whom to trust, and who to be.

use std::path::Path;

use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};

use crate::{args::TlsFiles, failure::Failure};

/// The configuration for the files that were named, or for what the system trusts.
pub(crate) fn client(files: &TlsFiles) -> Result<ClientConfig, Failure> {
    let builder = ClientConfig::builder().with_root_certificates(roots(files)?);
    match (&files.cert_file, &files.key_file) {
        (Some(cert), Some(key)) => {
            let chain = certificates("--cert-file", cert)?;
            let key_der = PrivateKeyDer::from_pem_file(key)
                .map_err(|error| Failure::usage(format!("--key-file {}: {error}", key.display())))?;
            builder
                .with_client_auth_cert(chain, key_der)
                .map_err(|error| Failure::usage(format!("--cert-file and --key-file do not go together: {error}")))
        }
        _ => Ok(builder.with_no_client_auth()),
    }
}

fn roots(files: &TlsFiles) -> Result<RootCertStore, Failure> {
    let mut roots = RootCertStore::empty();
    let trusted = match &files.ca_file {
        Some(file) => certificates("--ca-file", file)?,
        None => rustls_native_certs::load_native_certs().certs,
    };
    // A system's store may hold certificates that nobody can read any more; those are left out.
    roots.add_parsable_certificates(trusted);
    if roots.is_empty() {
        return Err(Failure::usage("there is no certificate authority to trust")
            .remedy("name a PEM file with --ca-file, or install the system's certificates (Debian: ca-certificates)"));
    }
    Ok(roots)
}

fn certificates(flag: &str, file: &Path) -> Result<Vec<CertificateDer<'static>>, Failure> {
    let read = CertificateDer::pem_file_iter(file).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    match read {
        Ok(certificates) if !certificates.is_empty() => Ok(certificates),
        Ok(_) => Err(Failure::usage(format!("{flag} {}: there is no certificate in it", file.display()))),
        Err(error) => Err(Failure::usage(format!("{flag} {}: {error}", file.display()))),
    }
}
