//! A certificate authority of its own, and certificates for servers and clients on this machine.

use std::{
    fs,
    path::{Path, PathBuf},
};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair};

/// PEM files in a directory of their own that goes with the value: an authority, a server's certificate for
/// `localhost`, `127.0.0.1` and `::1`, and a client's.
#[derive(Debug)]
pub struct Certificates {
    directory: tempfile::TempDir,
}

impl Certificates {
    /// Makes them.
    ///
    /// # Panics
    /// When the files cannot be written.
    #[must_use]
    pub fn generate() -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory can be made");
        let certificates = Self { directory };
        let mut params = CertificateParams::new(Vec::new()).expect("no name is a valid list of names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "Clarion test authority");
        let key = KeyPair::generate().expect("a key can be made");
        let authority = CertifiedIssuer::self_signed(params, key).expect("an authority can sign itself");
        certificates.write("ca.pem", &authority.pem());
        let names = ["localhost", "127.0.0.1", "::1"].map(str::to_owned).to_vec();
        certificates.sign(&authority, "server", names, ExtendedKeyUsagePurpose::ServerAuth);
        certificates.sign(&authority, "client", vec!["client".to_owned()], ExtendedKeyUsagePurpose::ClientAuth);
        certificates
    }

    fn sign(
        &self,
        authority: &CertifiedIssuer<'_, KeyPair>,
        who: &str,
        names: Vec<String>,
        usage: ExtendedKeyUsagePurpose,
    ) {
        let mut params = CertificateParams::new(names).expect("the names are valid");
        params.distinguished_name.push(DnType::CommonName, format!("Clarion test {who}"));
        params.extended_key_usages.push(usage);
        let key = KeyPair::generate().expect("a key can be made");
        let certificate = params.signed_by(&key, authority).expect("the authority can sign");
        self.write(&format!("{who}.pem"), &certificate.pem());
        self.write(&format!("{who}.key"), &key.serialize_pem());
    }

    fn write(&self, name: &str, pem: &str) {
        fs::write(self.path(name), pem).expect("a temporary file can be written");
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The directory that holds them all.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// The authority, for clients to trust.
    #[must_use]
    pub fn ca(&self) -> PathBuf {
        self.path("ca.pem")
    }

    /// The server's certificate.
    #[must_use]
    pub fn server_cert(&self) -> PathBuf {
        self.path("server.pem")
    }

    /// The key of the server's certificate.
    #[must_use]
    pub fn server_key(&self) -> PathBuf {
        self.path("server.key")
    }

    /// A client's certificate, for servers that ask for one.
    #[must_use]
    pub fn client_cert(&self) -> PathBuf {
        self.path("client.pem")
    }

    /// The key of the client's certificate.
    #[must_use]
    pub fn client_key(&self) -> PathBuf {
        self.path("client.key")
    }
}
