//! A certificate authority of its own, and certificates for servers and clients on this machine.

use std::{
    fmt, fs, io,
    net::SocketAddr,
    ops::RangeInclusive,
    path::{Path, PathBuf},
    sync::Arc,
};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair, date_time_ymd,
};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName, pem::PemObject as _},
};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::wait::within;

/// In which years a server's certificate is good unless a test says otherwise.
const SERVER_YEARS: RangeInclusive<i32> = 2020..=4000;

fn params_of(who: &str, names: &[&str], usage: ExtendedKeyUsagePurpose) -> CertificateParams {
    let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut params = CertificateParams::new(names).expect("the names are valid");
    params.distinguished_name.push(DnType::CommonName, format!("Clarion test {who}"));
    params.extended_key_usages.push(usage);
    params
}

/// PEM files in a directory of their own that goes with the value: an authority, a server's certificate for
/// `localhost`, `127.0.0.1` and `::1`, and a client's.
pub struct Certificates {
    directory: tempfile::TempDir,
    authority: CertifiedIssuer<'static, KeyPair>,
}

impl fmt::Debug for Certificates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificates").field("directory", &self.directory).finish_non_exhaustive()
    }
}

impl Certificates {
    /// Makes them.
    ///
    /// # Panics
    /// When the files cannot be written.
    #[must_use]
    pub fn generate() -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory can be made");
        let mut params = CertificateParams::new(Vec::new()).expect("no name is a valid list of names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "Clarion test authority");
        let key = KeyPair::generate().expect("a key can be made");
        let authority = CertifiedIssuer::self_signed(params, key).expect("an authority can sign itself");
        let certificates = Self { directory, authority };
        certificates.write("ca.pem", &certificates.authority.pem());
        certificates.issue_server("server", SERVER_YEARS);
        certificates.sign("client", &params_of("client", &["client"], ExtendedKeyUsagePurpose::ClientAuth));
        certificates
    }

    /// Makes another certificate and key for a server of this machine, good in these years, as `<who>.pem` and
    /// `<who>.key` in the directory; those that are there are replaced.
    ///
    /// # Panics
    /// When the files cannot be written.
    pub fn issue_server(&self, who: &str, years: RangeInclusive<i32>) {
        let mut params = params_of(who, &["localhost", "127.0.0.1", "::1"], ExtendedKeyUsagePurpose::ServerAuth);
        params.not_before = date_time_ymd(*years.start(), 1, 1);
        params.not_after = date_time_ymd(*years.end(), 12, 31);
        self.sign(who, &params);
    }

    fn sign(&self, who: &str, params: &CertificateParams) {
        let key = KeyPair::generate().expect("a key can be made");
        let certificate = params.signed_by(&key, &self.authority).expect("the authority can sign");
        self.write(&format!("{who}.pem"), &certificate.pem());
        self.write(&format!("{who}.key"), &key.serialize_pem());
    }

    fn write(&self, name: &str, pem: &str) {
        fs::write(self.path(name), pem).expect("a temporary file can be written");
    }

    /// A file in the directory.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
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

/// How a client speaks TLS that takes certificates of the authority in this file.
///
/// # Panics
/// When there is none in it.
#[must_use]
pub fn trusting(ca: &Path) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    let authority = CertificateDer::from_pem_file(ca).expect("the file holds a certificate");
    roots.add(authority).expect("an authority's certificate can be trusted");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    Arc::new(builder.expect("aws-lc-rs has them").with_root_certificates(roots).with_no_client_auth())
}

/// A connection with TLS on it, bytes in and bytes out.
///
/// # Errors
/// What the handshake says.
pub async fn tls(address: SocketAddr, config: Arc<ClientConfig>) -> io::Result<TlsStream<TcpStream>> {
    let name = ServerName::from(address.ip());
    let connect = async { TlsConnector::from(config).connect(name, TcpStream::connect(address).await?).await };
    within("a TLS handshake", connect).await
}
