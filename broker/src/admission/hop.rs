//! What a node that carries a connection says of its client, so that the home counts the client and not the node.
//!
//! Anybody can write a header, so this one is signed. Each process makes a key pair when it starts and tells the public
//! half in its heartbeats: whoever can say those is a member by definition, and no secret has to be set, shared or renewed.
//! What is signed names the home, the path and the time, so that what was overheard is good for nothing else and not for long.

use std::{
    net::IpAddr,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};
use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use clarion_protocol::NodeName;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri};

/// Marks a request that was sent on and names the node that did it. Such a request is answered here, whoever wrote it.
pub const HOP: HeaderName = HeaderName::from_static("x-clarion-hop");

/// `<milliseconds since 1970> <address> <signature>`.
const CLIENT: HeaderName = HeaderName::from_static("x-clarion-client");

/// What is signed begins with this, so that a signature is never good for anything else that nodes may sign one day.
const PURPOSE: &str = "clarion hop 1";

/// By how much the clocks of two nodes may differ, and how long a request may be on its way.
const FRESH: Duration = Duration::from_secs(30);

/// This node's word about those whom it carries.
pub struct Hops {
    node: NodeName,
    pair: Ed25519KeyPair,
}

/// The machine has no random numbers for a key.
#[derive(Debug, thiserror::Error)]
#[error("no key can be made for requests between nodes")]
pub struct NoKey;

/// Why a node's word about a client is not taken; its own address counts then.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Disbelief {
    /// It says nothing: its release is older, or it is no node.
    #[error("nothing was said about the client")]
    Unsigned,
    /// No member of this name is known, or it has told no key.
    #[error("no member of that name is known")]
    Stranger,
    /// It was said too long ago, or the clocks differ.
    #[error("it was said at another time; are the machines' clocks right?")]
    Stale,
    /// The member did not say this of this request.
    #[error("the signature is not good")]
    Forged,
}

impl Disbelief {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Unsigned, Self::Stranger, Self::Stale, Self::Forged];

    /// As metrics call it.
    pub fn label(self) -> &'static str {
        match self {
            Self::Unsigned => "unsigned",
            Self::Stranger => "stranger",
            Self::Stale => "stale",
            Self::Forged => "forged",
        }
    }
}

impl Hops {
    /// With a new key.
    ///
    /// # Errors
    /// [`NoKey`].
    pub fn new(node: NodeName) -> Result<Self, NoKey> {
        Ok(Self { node, pair: Ed25519KeyPair::generate().map_err(|_| NoKey)? })
    }

    /// What the others judge this node's words by.
    #[must_use]
    pub fn public_key(&self) -> String {
        BASE64_URL_SAFE_NO_PAD.encode(self.pair.public_key())
    }

    /// Writes into a request that goes to `home` whose it is. What the client may have written there goes.
    pub fn sign(&self, headers: &mut HeaderMap, home: &NodeName, client: IpAddr, method: &Method, target: &Uri) {
        let client = client.to_canonical().to_string();
        let time = millis(SystemTime::now()).to_string();
        let text = text(home.as_str(), self.node.as_str(), &time, &client, method, target);
        let signature = BASE64_URL_SAFE_NO_PAD.encode(self.pair.sign(text.as_bytes()));
        let value = HeaderValue::try_from(format!("{time} {client} {signature}")).expect("these are printable");
        let name = HeaderValue::try_from(self.node.as_str()).expect("names of nodes are printable");
        headers.insert(CLIENT, value);
        headers.insert(HOP, name);
    }

    /// The client's address in a request that a member has sent on to this node; `None` for one that came by itself.
    /// `key_of` gives the public key of a member.
    ///
    /// # Errors
    /// [`Disbelief`].
    pub fn client(
        &self,
        headers: &HeaderMap,
        method: &Method,
        target: &Uri,
        key_of: impl FnOnce(&str) -> Option<String>,
    ) -> Result<Option<IpAddr>, Disbelief> {
        let Some(from) = headers.get(HOP) else { return Ok(None) };
        let from = from.to_str().map_err(|_| Disbelief::Stranger)?;
        let said = headers.get(CLIENT).ok_or(Disbelief::Unsigned)?;
        let mut parts = said.to_str().unwrap_or_default().split(' ');
        let (Some(time), Some(client), Some(signature)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(Disbelief::Forged);
        };
        let key = key_of(from).and_then(|key| BASE64_URL_SAFE_NO_PAD.decode(key).ok()).ok_or(Disbelief::Stranger)?;
        if !is_fresh(time) {
            return Err(Disbelief::Stale);
        }
        let signature = BASE64_URL_SAFE_NO_PAD.decode(signature).map_err(|_| Disbelief::Forged)?;
        let text = text(self.node.as_str(), from, time, client, method, target);
        let key = UnparsedPublicKey::new(&ED25519, key);
        key.verify(text.as_bytes(), &signature).map_err(|_| Disbelief::Forged)?;
        client.parse().map(Some).map_err(|_| Disbelief::Forged)
    }
}

/// What is signed. None of the parts but the last can hold a line's end.
fn text(home: &str, from: &str, time: &str, client: &str, method: &Method, target: &Uri) -> String {
    let path = target.path_and_query().map_or("/", |path| path.as_str());
    format!("{PURPOSE}\n{home}\n{from}\n{time}\n{client}\n{method}\n{path}")
}

fn is_fresh(time: &str) -> bool {
    let Ok(time) = time.parse::<u64>() else { return false };
    millis(SystemTime::now()).abs_diff(time) <= millis(UNIX_EPOCH + FRESH)
}

fn millis(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hops(name: &str) -> Hops {
        Hops::new(NodeName::parse(name).unwrap()).unwrap()
    }

    fn uri(text: &str) -> Uri {
        text.parse().unwrap()
    }

    /// A request from `a` to `b` for this client.
    fn signed(a: &Hops, b: &Hops, client: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(CLIENT, HeaderValue::from_static("what a client wrote"));
        a.sign(&mut headers, &b.node, client.parse().unwrap(), &Method::GET, &uri("/me?token=x"));
        headers
    }

    fn asked(b: &Hops, headers: &HeaderMap, target: &str, key: Option<String>) -> Result<Option<IpAddr>, Disbelief> {
        b.client(headers, &Method::GET, &uri(target), |from| key.filter(|_| from == "a"))
    }

    #[test]
    fn a_members_word_is_taken() {
        let (a, b) = (hops("a"), hops("b"));
        for (client, expected) in
            [("203.0.113.9", "203.0.113.9"), ("::ffff:10.0.0.1", "10.0.0.1"), ("2001:db8::1", "2001:db8::1")]
        {
            let headers = signed(&a, &b, client);
            assert_eq!(headers[HOP], "a");
            let told = asked(&b, &headers, "/me?token=x", Some(a.public_key()));
            assert_eq!(told, Ok(Some(expected.parse().unwrap())));
        }
        assert_eq!(asked(&b, &HeaderMap::new(), "/me", None), Ok(None));
    }

    #[test]
    fn nobody_elses_word_is() {
        let (a, b, c) = (hops("a"), hops("b"), hops("c"));
        let good = signed(&a, &b, "203.0.113.9");
        let key = || Some(a.public_key());
        let changed = |change: &dyn Fn(&str) -> String| {
            let mut headers = good.clone();
            let value = change(headers[CLIENT].to_str().unwrap());
            headers.insert(CLIENT, HeaderValue::try_from(value).unwrap());
            headers
        };
        let mut mute = good.clone();
        mute.remove(CLIENT);
        let mut renamed = good.clone();
        renamed.insert(HOP, HeaderValue::from_static("c"));
        let later = |text: &str| {
            let (time, rest) = text.split_once(' ').unwrap();
            format!("{} {rest}", time.parse::<u64>().unwrap() + 1)
        };
        for (what, headers, target, key, expected) in [
            ("no word", mute, "/me?token=x", key(), Disbelief::Unsigned),
            ("no member", good.clone(), "/me?token=x", None, Disbelief::Stranger),
            ("another member", good.clone(), "/me?token=x", Some(c.public_key()), Disbelief::Forged),
            ("another name", renamed, "/me?token=x", key(), Disbelief::Stranger),
            ("another path", good.clone(), "/me?token=y", key(), Disbelief::Forged),
            ("another client", changed(&|text| text.replace("203", "198")), "/me?token=x", key(), Disbelief::Forged),
            ("another moment", changed(&later), "/me?token=x", key(), Disbelief::Forged),
            ("another day", changed(&|text| format!("1{}", &text[2..])), "/me?token=x", key(), Disbelief::Stale),
            ("rubbish", changed(&|_| "x".to_owned()), "/me?token=x", key(), Disbelief::Forged),
            ("no address", changed(&|text| text.replace("203.0.113.9", "x")), "/me?token=x", key(), Disbelief::Forged),
        ] {
            assert_eq!(asked(&b, &headers, target, key), Err(expected), "{what}");
        }
        let told = asked(&c, &good, "/me?token=x", key());
        assert_eq!(told, Err(Disbelief::Forged), "what was said to one home is good at no other");
    }
}
