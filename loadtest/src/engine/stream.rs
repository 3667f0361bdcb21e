//! A subscriber's socket, plain or with TLS on it.

use std::{
    io::{self, Read, Write},
    net::SocketAddr,
    sync::Arc,
};

use mio::net::TcpStream;
use rustls::{
    ClientConfig, ClientConnection, RootCertStore,
    client::Resumption,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, ServerName, pem::PemObject as _},
};

/// Where a subscriber's bytes come from.
#[derive(Debug)]
pub(super) enum Stream {
    Plain(TcpStream),
    Tls(Box<Tls>),
}

#[derive(Debug)]
pub(super) struct Tls {
    socket: TcpStream,
    session: ClientConnection,
}

/// How all subscribers speak TLS: they trust the authorities in this PEM text, and every handshake is a whole one.
pub(crate) fn trusting(authorities: &str) -> Result<Arc<ClientConfig>, String> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(authorities.as_bytes()) {
        let added = certificate.map_err(|error| error.to_string()).map(|certificate| roots.add(certificate));
        added?.map_err(|error| error.to_string())?;
    }
    if roots.is_empty() {
        return Err("there is no certificate in it".to_owned());
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()));
    let builder = builder.with_safe_default_protocol_versions().expect("aws-lc-rs has the default versions");
    let mut config = builder.with_root_certificates(roots).with_no_client_auth();
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

impl Stream {
    /// A socket that has begun to connect.
    pub(super) fn new(socket: TcpStream, target: SocketAddr, tls: Option<&Arc<ClientConfig>>) -> io::Result<Self> {
        let Some(config) = tls else { return Ok(Self::Plain(socket)) };
        let name = ServerName::from(target.ip());
        let session = ClientConnection::new(Arc::clone(config), name).map_err(io::Error::other)?;
        Ok(Self::Tls(Box::new(Tls { socket, session })))
    }

    pub(super) fn socket(&mut self) -> &mut TcpStream {
        match self {
            Self::Plain(socket) => socket,
            Self::Tls(tls) => &mut tls.socket,
        }
    }

    /// Whether a short read says nothing about what is left.
    pub(super) fn is_tls(&self) -> bool {
        matches!(self, Self::Tls(_))
    }

    /// Sends all or nothing: what a client has to say fits any empty send buffer.
    pub(super) fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        let socket = match self {
            Self::Plain(socket) => socket,
            Self::Tls(tls) => return tls.send(bytes),
        };
        match socket.write(bytes) {
            Ok(length) if length == bytes.len() => Ok(()),
            Ok(_) => Err(io::Error::new(io::ErrorKind::WriteZero, "the server does not read")),
            Err(error) => Err(error),
        }
    }
}

impl Read for Stream {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(socket) => socket.read(into),
            Self::Tls(tls) => tls.read(into),
        }
    }
}

impl Tls {
    fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        // The hello goes first: a socket that is not yet connected says so before anything is taken.
        self.flush()?;
        self.session.writer().write_all(bytes)?;
        self.flush()
    }

    fn flush(&mut self) -> io::Result<()> {
        while self.session.wants_write() {
            self.session.write_tls(&mut self.socket)?;
        }
        Ok(())
    }

    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.session.reader().read(into) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                // Without the goodbye of TLS it is an end all the same.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(0),
                result => return result,
            }
            self.session.read_tls(&mut self.socket)?;
            let judged = self.session.process_new_packets();
            // The next step of the handshake, or the alert that says why there is none.
            let flushed = self.flush();
            judged.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
            flushed?;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::trusting;

    #[test]
    fn a_file_without_certificates_is_none() {
        assert!(trusting("").unwrap_err().contains("no certificate"));
        assert!(trusting("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n").is_err());
    }
}
