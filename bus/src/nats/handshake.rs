//! What the two ends tell each other first: the server's `INFO`, and our `CONNECT` with what proves who we are.

use std::{
    fmt,
    path::{Path, PathBuf},
    time::Duration,
};

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use nkeys::KeyPair;
use serde::{Deserialize, Serialize};

use crate::{
    BusConfig, ConfigError, NatsAuth, NatsUrl,
    apart::{self, Apart},
};

/// What we read of a server's `INFO`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Info {
    /// The largest message that it takes, headers included.
    pub(crate) max_payload: usize,
    /// It speaks nothing but TLS.
    pub(crate) tls_required: bool,
    /// It speaks TLS with those who want it.
    pub(crate) tls_available: bool,
    /// It knows headers.
    pub(crate) headers: bool,
    /// What is to be signed.
    nonce: Option<String>,
    /// Other servers of its cluster, `host:port`.
    pub(crate) connect_urls: Vec<String>,
    /// It is about to leave ("lame duck").
    pub(crate) ldm: bool,
}

/// Our `CONNECT`.
#[derive(Serialize)]
struct Connect<'a> {
    verbose: bool,
    pedantic: bool,
    tls_required: bool,
    name: &'a str,
    lang: &'static str,
    version: &'static str,
    /// 1: we understand an `INFO` at any time.
    protocol: u8,
    echo: bool,
    headers: bool,
    no_responders: bool,
    #[serde(flatten)]
    proof: Proof<'a>,
}

/// What proves who we are.
#[derive(Default, Serialize)]
struct Proof<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    auth_token: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pass: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    jwt: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    nkey: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sig: Option<String>,
}

/// Who to be, as configured. Files are read anew for each connection, since credentials are renewed in place.
#[derive(Clone)]
pub(crate) enum Login {
    /// Nobody in particular.
    Nobody,
    /// The bearer of a token.
    Token(String),
    /// A user with a password.
    User(String, String),
    /// Whoever holds the seed in this file.
    Nkey(PathBuf),
    /// The user of this credentials file.
    Creds(PathBuf),
}

impl Login {
    /// Reads the settings; files are tried once, so that a mistake is found at start.
    ///
    /// # Errors
    /// Several ways to log in at once, or a file that holds none.
    pub(crate) fn new(url: &NatsUrl, config: &BusConfig) -> Result<Self, ConfigError> {
        let alone = |key, file: &PathBuf| match url.auth {
            NatsAuth::None => Ok(()),
            NatsAuth::Token(_) | NatsAuth::User(..) => {
                let expected = "nothing where bus.url says who to be".to_owned();
                Err(ConfigError { key, value: file.display().to_string(), expected })
            }
        };
        let (key, login) = match (&config.nats_creds_file, &config.nats_nkey_file) {
            (None, None) => return Ok(Self::from_url(url, config)),
            (Some(_), Some(file)) => {
                let expected = "nothing where bus.nats_creds_file is set".to_owned();
                return Err(ConfigError { key: "bus.nats_nkey_file", value: file.display().to_string(), expected });
            }
            (Some(file), None) => ("bus.nats_creds_file", Self::Creds(file.clone())),
            (None, Some(file)) => ("bus.nats_nkey_file", Self::Nkey(file.clone())),
        };
        if let Self::Creds(file) | Self::Nkey(file) = &login {
            alone(key, file)?;
            let path = file.clone();
            let text = apart::within(config.connect_timeout, move || read(&path)).unwrap_or_else(|| Err(hangs()));
            text.and_then(|text| login.proof("a", &text).map(drop)).map_err(|error| {
                let (value, expected) = (file.display().to_string(), error.to_string());
                ConfigError { key, value, expected }
            })?;
        }
        Ok(login)
    }

    fn from_url(url: &NatsUrl, config: &BusConfig) -> Self {
        let apart = config.password.as_ref();
        match &url.auth {
            NatsAuth::None => apart.map_or(Self::Nobody, |token| Self::Token(token.expose().to_owned())),
            NatsAuth::Token(token) => match apart {
                // A name in the URL and a password beside it are a user, not a token.
                Some(password) => Self::User(token.expose().to_owned(), password.expose().to_owned()),
                None => Self::Token(token.expose().to_owned()),
            },
            NatsAuth::User(user, password) => {
                let password = apart.or(password.as_ref()).map(|password| password.expose().to_owned());
                Self::User(user.clone(), password.unwrap_or_default())
            }
        }
    }

    /// Reads the file that proves who we are, where there is one. It may hang, so it is read apart.
    ///
    /// # Errors
    /// One that cannot be read, or not in time.
    pub(crate) async fn read(&self, apart: &Apart, patience: Duration) -> Result<String, LoginError> {
        match self {
            Self::Nobody | Self::Token(_) | Self::User(..) => Ok(String::new()),
            Self::Nkey(file) | Self::Creds(file) => {
                let file = file.clone();
                apart.run(patience, move || read(&file)).await.unwrap_or_else(|| Err(hangs()))
            }
        }
    }

    /// What proves who we are; `text` is what was [read](Login::read).
    fn proof(&self, nonce: &str, text: &str) -> Result<Proof<'_>, LoginError> {
        match self {
            Self::Nobody => Ok(Proof::default()),
            Self::Token(token) => Ok(Proof { auth_token: Some(token), ..Proof::default() }),
            Self::User(user, pass) => Ok(Proof { user: Some(user), pass: Some(pass), ..Proof::default() }),
            Self::Nkey(_) => {
                let key = KeyPair::from_seed(text.trim()).map_err(|_| LoginError::Seed)?;
                Ok(Proof { nkey: Some(key.public_key()), sig: Some(sign(&key, nonce)?), ..Proof::default() })
            }
            Self::Creds(_) => {
                let mut sections = sections(text);
                let jwt = sections.next().ok_or(LoginError::Creds)?;
                let seed = sections.next().ok_or(LoginError::Creds)?;
                let key = KeyPair::from_seed(seed).map_err(|_| LoginError::Seed)?;
                Ok(Proof { jwt: Some(jwt.to_owned()), sig: Some(sign(&key, nonce)?), ..Proof::default() })
            }
        }
    }
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nobody => f.write_str("Nobody"),
            Self::Token(_) => f.write_str("Token(***)"),
            Self::User(..) => f.write_str("User(***)"),
            Self::Nkey(file) => f.debug_tuple("Nkey").field(file).finish(),
            Self::Creds(file) => f.debug_tuple("Creds").field(file).finish(),
        }
    }
}

/// The `CONNECT` line that answers this `INFO`.
///
/// # Errors
/// [`LoginError`] when a credentials file cannot be used any more.
pub(crate) fn connect_line(
    info: &Info,
    login: &Login,
    secret: &str,
    name: &str,
    tls: bool,
) -> Result<Vec<u8>, LoginError> {
    let connect = Connect {
        verbose: false,
        pedantic: false,
        tls_required: tls,
        name,
        lang: "rust",
        version: env!("CARGO_PKG_VERSION"),
        protocol: 1,
        echo: true,
        headers: true,
        no_responders: true,
        proof: login.proof(info.nonce.as_deref().unwrap_or_default(), secret)?,
    };
    let mut line = b"CONNECT ".to_vec();
    serde_json::to_writer(&mut line, &connect).expect("texts and booleans can be written");
    line.extend_from_slice(b"\r\n");
    Ok(line)
}

fn hangs() -> LoginError {
    LoginError::File("reading it takes too long".to_owned())
}

fn read(file: &Path) -> Result<String, LoginError> {
    std::fs::read_to_string(file).map_err(|error| LoginError::File(error.to_string()))
}

fn sign(key: &KeyPair, nonce: &str) -> Result<String, LoginError> {
    let signature = key.sign(nonce.as_bytes()).map_err(|_| LoginError::Seed)?;
    Ok(BASE64_URL_SAFE_NO_PAD.encode(signature))
}

/// The lines between `-----BEGIN …-----` and `------END …------`.
fn sections(text: &str) -> impl Iterator<Item = &str> {
    let mut lines = text.lines().map(str::trim);
    std::iter::from_fn(move || {
        lines.find(|line| line.starts_with("---") && line.contains("BEGIN"))?;
        lines.next().filter(|line| !line.is_empty() && !line.starts_with("---"))
    })
}

/// Why there is no proof of who we are. Never holds what was read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum LoginError {
    #[error("a file that can be read ({0})")]
    File(String),
    #[error("a file with an nkey seed of a user, `SU…`")]
    Seed,
    #[error("a credentials file with a user JWT and an nkey seed")]
    Creds,
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use serde_json::Value;

    use super::*;

    const INFO: &str =
        r#"{"server_id":"x","max_payload":1048576,"headers":true,"nonce":"n0nce","connect_urls":["a:1"]}"#;

    fn connect(login: &Login) -> Value {
        let info: Info = serde_json::from_str(INFO).unwrap();
        let secret = match login {
            Login::Nkey(file) | Login::Creds(file) => read(file).unwrap(),
            Login::Nobody | Login::Token(_) | Login::User(..) => String::new(),
        };
        let line = connect_line(&info, login, &secret, "node-1", false).unwrap();
        serde_json::from_slice(line.strip_prefix(b"CONNECT ").unwrap().strip_suffix(b"\r\n").unwrap()).unwrap()
    }

    fn login(url: &str, change: impl FnOnce(&mut BusConfig)) -> Result<Login, ConfigError> {
        let crate::BusUrl::Nats(url) = url.parse().unwrap() else { panic!("not nats") };
        let mut config = BusConfig::default();
        change(&mut config);
        Login::new(&url, &config)
    }

    fn file(text: &str) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        file
    }

    fn checks(key: &KeyPair, sig: &Value) {
        let sig = BASE64_URL_SAFE_NO_PAD.decode(sig.as_str().unwrap()).unwrap();
        key.verify(b"n0nce", &sig).unwrap();
    }

    #[test]
    fn the_line_says_what_we_can() {
        let line = connect(&Login::Nobody);
        for (key, value) in [("verbose", false), ("pedantic", false), ("headers", true), ("no_responders", true)] {
            assert_eq!(line[key], value, "{key}");
        }
        assert_eq!(line["name"], "node-1");
        assert_eq!(line["protocol"], 1);
        for absent in ["user", "pass", "auth_token", "jwt", "sig", "nkey"] {
            assert!(line.get(absent).is_none(), "{absent}");
        }
    }

    #[test]
    fn users_and_tokens_come_from_the_url_or_beside_it() {
        let line = connect(&login("nats://u:p@a", |_| {}).unwrap());
        assert_eq!((&line["user"], &line["pass"]), (&"u".into(), &"p".into()));
        assert_eq!(connect(&login("nats://t0ken@a", |_| {}).unwrap())["auth_token"], "t0ken");
        let beside = |config: &mut BusConfig| config.password = Some(crate::Secret::new("s"));
        assert_eq!(connect(&login("nats://a", beside).unwrap())["auth_token"], "s");
        let line = connect(&login("nats://u@a", beside).unwrap());
        assert_eq!((&line["user"], &line["pass"]), (&"u".into(), &"s".into()));
    }

    #[test]
    fn an_nkey_signs_the_nonce() {
        let key = KeyPair::new_user();
        let file = file(&format!("{}\n", key.seed().unwrap()));
        let path = file.path().to_owned();
        let line = connect(&login("nats://a", |config| config.nats_nkey_file = Some(path)).unwrap());
        assert_eq!(line["nkey"], key.public_key());
        checks(&key, &line["sig"]);
    }

    #[test]
    fn a_credentials_file_gives_jwt_and_signature() {
        let key = KeyPair::new_user();
        let seed = key.seed().unwrap();
        let file = file(&format!(
            "-----BEGIN NATS USER JWT-----\r\neyJ0.eyJ.sig\r\n------END NATS USER JWT------\r\n\r\n*** IMPORTANT ***\r\n\r\n\
             -----BEGIN USER NKEY SEED-----\r\n{seed}\r\n------END USER NKEY SEED------\r\n"
        ));
        let path = file.path().to_owned();
        let login = login("nats://a", |config| config.nats_creds_file = Some(path)).unwrap();
        let line = connect(&login);
        assert_eq!(line["jwt"], "eyJ0.eyJ.sig");
        assert!(line.get("nkey").is_none());
        checks(&key, &line["sig"]);
        assert!(!format!("{login:?}").contains(&seed));
    }

    #[test]
    fn mistakes_are_named_and_secrets_are_not() {
        let seed = file("SUNOTASEED");
        let path = || Some(seed.path().to_owned());
        let error = login("nats://a", |config| config.nats_nkey_file = path()).unwrap_err();
        assert_eq!(error.key, "bus.nats_nkey_file");
        assert!(!error.to_string().contains("SUNOTASEED"), "{error}");
        let error = login("nats://a", |config| config.nats_creds_file = path()).unwrap_err();
        assert_eq!(error.key, "bus.nats_creds_file");
        let error = login("nats://a", |config| config.nats_creds_file = Some("/no/such".into())).unwrap_err();
        assert!(error.to_string().contains("/no/such"), "{error}");
        assert!(login("nats://u:p@a", |config| config.nats_nkey_file = path()).is_err());
        assert_eq!(format!("{:?}", login("nats://u:p4ss@a", |_| {}).unwrap()), "User(***)");
    }
}
