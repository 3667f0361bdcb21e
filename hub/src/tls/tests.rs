//! TLS against a real client, over a socket that gives and takes as a test wants it.

use std::{
    collections::VecDeque,
    io::{self, Read, Write},
    sync::Arc,
};

use clarion_testkit::Certificates;
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, ServerConfig, SupportedProtocolVersion,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    version,
};

use super::TlsState;

/// The server's end of a wire.
struct Wire {
    to_server: VecDeque<u8>,
    to_client: Vec<u8>,
    /// How much one read gives at most.
    gives: usize,
    /// How much it takes before it would block.
    takes: usize,
}

impl Default for Wire {
    fn default() -> Self {
        Self { to_server: VecDeque::new(), to_client: Vec::new(), gives: usize::MAX, takes: usize::MAX }
    }
}

impl Read for Wire {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let most = into.len().min(self.gives);
        match self.to_server.read(&mut into[..most])? {
            0 => Err(io::ErrorKind::WouldBlock.into()),
            length => Ok(length),
        }
    }
}

impl Write for Wire {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let length = bytes.len().min(self.takes);
        if length == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        self.takes -= length;
        self.to_client.extend_from_slice(&bytes[..length]);
        Ok(length)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct Both {
    client: ClientConnection,
    state: TlsState,
    wire: Wire,
    /// What the client got.
    got: Vec<u8>,
}

fn server(certificates: &Certificates) -> Arc<ServerConfig> {
    let chain = CertificateDer::pem_file_iter(certificates.server_cert()).unwrap().collect::<Result<_, _>>().unwrap();
    let key = PrivateKeyDer::from_pem_file(certificates.server_key()).unwrap();
    let builder = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()));
    let builder = builder.with_safe_default_protocol_versions().unwrap().with_no_client_auth();
    Arc::new(builder.with_single_cert(chain, key).unwrap())
}

fn client(certificates: &Certificates, versions: &[&'static SupportedProtocolVersion]) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(certificates.ca()).unwrap()).unwrap();
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_protocol_versions(versions).unwrap();
    Arc::new(builder.with_root_certificates(roots).with_no_client_auth())
}

impl Both {
    fn new(server: &Arc<ServerConfig>, client: &Arc<ClientConfig>) -> Self {
        let client = ClientConnection::new(Arc::clone(client), "localhost".try_into().unwrap()).unwrap();
        Self { client, state: TlsState::new(Arc::clone(server)).unwrap(), wire: Wire::default(), got: Vec::new() }
    }

    /// Carries what the client has to say to the wire, and what is on the wire to the client.
    fn carry(&mut self) {
        while self.client.wants_write() {
            self.client.write_tls(&mut self.wire.to_server).unwrap();
        }
        let bytes = std::mem::take(&mut self.wire.to_client);
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            self.client.read_tls(&mut rest).unwrap();
            self.client.process_new_packets().unwrap();
            match self.client.reader().read_to_end(&mut self.got) {
                Err(error) if error.kind() != io::ErrorKind::WouldBlock => panic!("{error}"),
                _ => {}
            }
        }
    }

    fn shake_hands(&mut self) {
        for _ in 0..1000 {
            self.carry();
            match self.state.shake_hands(&mut self.wire) {
                Ok(()) if !self.client.is_handshaking() => return self.carry(),
                Ok(()) => {}
                Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock, "{error}"),
            }
        }
        panic!("the handshake does not come to its end");
    }

    fn heard(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.got)
    }

    /// All that the session reads until there is no more.
    fn read(&mut self, buffer: &mut [u8]) -> Vec<u8> {
        let mut all = Vec::new();
        loop {
            match self.state.read(&mut self.wire, buffer) {
                Ok(0) => return all,
                Ok(length) => all.extend_from_slice(&buffer[..length]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return all,
                Err(error) => panic!("{error}"),
            }
        }
    }

    fn holds_nothing(&self) -> bool {
        let TlsState { incoming, outgoing, plain, .. } = &self.state;
        incoming.capacity() == 0 && outgoing.capacity() == 0 && plain.capacity() == 0
    }
}

const VERSIONS: [&SupportedProtocolVersion; 2] = [&version::TLS13, &version::TLS12];

fn bytes(random: &mut StdRng, most: usize) -> Vec<u8> {
    (0..random.random_range(1..=most)).map(|_| random.random()).collect()
}

#[test]
fn what_goes_in_comes_out_however_the_wire_cuts_it() {
    let certificates = Certificates::generate();
    let server = server(&certificates);
    let mut random = StdRng::seed_from_u64(4);
    for version in VERSIONS {
        for gives in [1, 7, 1000, usize::MAX] {
            let mut both = Both::new(&server, &client(&certificates, &[version]));
            both.wire.gives = gives;
            both.shake_hands();
            for round in 0..20 {
                let (up, down) = (bytes(&mut random, 70_000), bytes(&mut random, 70_000));
                let mut buffer = vec![0; if round % 2 == 0 { 100 } else { 64 * 1024 }];
                let (mut given, mut got) = (0, Vec::new());
                while given < up.len() {
                    given += both.client.writer().write(&up[given..]).unwrap();
                    both.carry();
                    got.extend(both.read(&mut buffer));
                }
                assert!(got == up, "{version:?} {gives} {round}");
                let (mut sent, mut heard) = (0, Vec::new());
                while sent < down.len() || both.state.is_behind() {
                    both.wire.takes = random.random_range(0..20_000);
                    both.state.flush(&mut both.wire).unwrap();
                    sent += both.state.write(&mut both.wire, &down[sent..]).unwrap();
                    both.carry();
                    heard.extend(both.heard());
                }
                assert!(heard == down, "{version:?} {gives} {round}");
                both.wire.takes = usize::MAX;
                assert!(both.holds_nothing());
            }
        }
    }
}

#[test]
fn what_comes_with_the_end_of_the_handshake_waits_to_be_fetched() {
    let certificates = Certificates::generate();
    let mut both = Both::new(&server(&certificates), &client(&certificates, &[&version::TLS13]));
    // Said before the handshake is through, so it follows the client's last message at once.
    both.client.writer().write_all(b"early bird").unwrap();
    both.shake_hands();
    assert!(both.state.has_plaintext());
    let mut buffer = [0; 5];
    assert_eq!(both.state.read(&mut both.wire, &mut buffer).unwrap(), 5);
    assert_eq!((&buffer, both.read(&mut [0; 9])), (b"early", b" bird".to_vec()));
    assert!(both.holds_nothing());
}

#[test]
fn a_socket_that_takes_nothing_holds_one_record_back() {
    let certificates = Certificates::generate();
    let mut both = Both::new(&server(&certificates), &client(&certificates, &VERSIONS));
    both.shake_hands();
    both.wire.takes = 0;
    let text = vec![7; 100_000];
    let taken = both.state.write(&mut both.wire, &text).unwrap();
    assert!(both.state.is_behind() && taken <= 16 * 1024, "{taken}");
    assert_eq!(both.state.write(&mut both.wire, &text[taken..]).unwrap(), 0);
    assert!(both.state.outgoing.capacity() < 17 * 1024);
    both.wire.takes = 10;
    assert_eq!(both.state.flush(&mut both.wire).unwrap(), 10);
    assert!(both.state.is_behind());
    both.wire.takes = usize::MAX;
    assert_eq!(both.state.write(&mut both.wire, &text[taken..]).unwrap(), text.len() - taken);
    both.carry();
    assert_eq!(both.heard(), text);
}

#[test]
fn small_pieces_share_a_record() {
    let certificates = Certificates::generate();
    let mut both = Both::new(&server(&certificates), &client(&certificates, &[&version::TLS13]));
    both.shake_hands();
    let pieces = [&b""[..], b"a", &[b'b'; 20_000], b"c"];
    let pieces = pieces.map(io::IoSlice::new);
    assert_eq!(both.state.write_vectored(&mut both.wire, &pieces).unwrap(), 16 * 1024);
    // A record has a head of five bytes, and its type and a tag of 16 bytes are encrypted with it.
    assert_eq!(both.wire.to_client.len(), 16 * 1024 + 22);
    both.carry();
    assert_eq!(both.heard()[..3], *b"abb");
    assert_eq!(both.state.write_vectored(&mut both.wire, &[]).unwrap(), 0);
}

#[test]
fn keys_change_while_the_session_stands() {
    let certificates = Certificates::generate();
    let mut both = Both::new(&server(&certificates), &client(&certificates, &[&version::TLS13]));
    both.shake_hands();
    for round in 0..5_u8 {
        both.client.refresh_traffic_keys().unwrap();
        both.client.writer().write_all(&[round; 3]).unwrap();
        both.carry();
        assert_eq!(both.read(&mut [0; 10]), [round; 3]);
        assert_eq!(both.state.write(&mut both.wire, &[round; 4]).unwrap(), 4);
        both.carry();
        assert_eq!(both.heard(), [round; 4]);
    }
}

#[test]
fn both_say_goodbye() {
    let certificates = Certificates::generate();
    for version in VERSIONS {
        let mut both = Both::new(&server(&certificates), &client(&certificates, &[version]));
        both.shake_hands();
        both.client.writer().write_all(b"last words").unwrap();
        both.client.send_close_notify();
        both.carry();
        let mut buffer = [0; 100];
        assert_eq!(both.state.read(&mut both.wire, &mut buffer).unwrap(), 10);
        assert_eq!(both.state.read(&mut both.wire, &mut buffer).unwrap(), 0);
        assert_eq!(both.state.write(&mut both.wire, b"mine").unwrap(), 4);
        both.state.end(&mut both.wire).unwrap();
        both.state.end(&mut both.wire).unwrap();
        both.carry();
        assert_eq!(both.heard(), b"mine");
        // An end without the goodbye would be an error.
        assert_eq!(both.client.read_tls(&mut io::empty()).unwrap(), 0);
        assert_eq!(both.client.reader().read(&mut buffer).unwrap(), 0);
    }
}

#[test]
fn a_broken_record_is_answered_with_an_alert_and_nothing_goes_on() {
    let certificates = Certificates::generate();
    let mut both = Both::new(&server(&certificates), &client(&certificates, &[&version::TLS13]));
    both.shake_hands();
    both.client.writer().write_all(b"good").unwrap();
    both.client.writer().write_all(b"bad").unwrap();
    while both.client.wants_write() {
        both.client.write_tls(&mut both.wire.to_server).unwrap();
    }
    *both.wire.to_server.back_mut().unwrap() ^= 1;
    let mut buffer = [0; 100];
    assert_eq!(both.state.read(&mut both.wire, &mut buffer).unwrap(), 4);
    let error = both.state.read(&mut both.wire, &mut buffer).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    assert!(both.state.write(&mut both.wire, b"x").is_err());
    let mut alert = both.wire.to_client.as_slice();
    both.client.read_tls(&mut alert).unwrap();
    let heard = both.client.process_new_packets().unwrap_err();
    assert_eq!(heard, rustls::Error::AlertReceived(rustls::AlertDescription::BadRecordMac));
}

#[test]
fn nothing_that_a_client_sends_makes_it_panic() {
    let certificates = Certificates::generate();
    let server = server(&certificates);
    let configs = VERSIONS.map(|version| client(&certificates, &[version]));
    let mut random = StdRng::seed_from_u64(7);
    let mut buffer = [0; 1000];
    for round in 0..600 {
        let mut both = Both::new(&server, &configs[round % 2]);
        both.wire.gives = random.random_range(1..400);
        if round % 3 == 0 {
            both.shake_hands();
            both.client.writer().write_all(&[1; 300]).unwrap();
        }
        // A step of what a client says, some of it turned over, cut off or said twice.
        for _ in 0..3 {
            let mut said = Vec::new();
            while both.client.wants_write() {
                both.client.write_tls(&mut said).unwrap();
            }
            for _ in 0..random.random_range(0..4) {
                let Some(last) = said.len().checked_sub(1) else { break };
                let at = random.random_range(0..=last);
                match random.random_range(0..4) {
                    0 => said.truncate(at),
                    1 => said.extend_from_within(at..),
                    2 => said[at] = random.random(),
                    _ => said[at] ^= 1 << random.random_range(0..8),
                }
            }
            both.wire.to_server.extend(said);
            let _ = both.state.shake_hands(&mut both.wire);
            while both.state.read(&mut both.wire, &mut buffer).is_ok_and(|length| length > 0) {}
            let _ = both.state.write(&mut both.wire, b"answer");
            let heard = std::mem::take(&mut both.wire.to_client);
            let _ = both.client.read_tls(&mut heard.as_slice());
            let _ = both.client.process_new_packets();
        }
    }
}
