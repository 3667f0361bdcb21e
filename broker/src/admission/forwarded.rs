//! The address of a client behind proxies, as far as they are trusted.

use std::net::{IpAddr, SocketAddr};

use http::{HeaderMap, header};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// The header in which trusted proxies name their client. One is chosen: what a proxy does not write it passes on as
/// the client wrote it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ProxyHeader {
    /// `X-Forwarded-For`, which nearly all write.
    #[default]
    XForwardedFor,
    /// `Forwarded`, RFC 7239.
    Forwarded,
}

/// Walks from the peer towards the client, from the right of the header to the left, as long as the hops are trusted.
/// The first that is not, or whose address cannot be read, ends the walk: what stands left of it anybody can have written.
pub(super) fn client_address(trusted: &[IpNet], header: ProxyHeader, headers: &HeaderMap, peer: IpAddr) -> IpAddr {
    let is_trusted = |address: &IpAddr| trusted.iter().any(|network| network.contains(address));
    let mut client = peer.to_canonical();
    // Without proxies, which is usual, the headers are not even looked at.
    if !is_trusted(&client) {
        return client;
    }
    for hop in hops(header, headers).into_iter().rev() {
        let Some(address) = hop else { break };
        client = address;
        if !is_trusted(&client) {
            break;
        }
    }
    client
}

/// The hops in the order of the header; `None` for one whose address is not given or cannot be read.
fn hops(header: ProxyHeader, headers: &HeaderMap) -> Vec<Option<IpAddr>> {
    let name = match header {
        ProxyHeader::XForwardedFor => header::HeaderName::from_static("x-forwarded-for"),
        ProxyHeader::Forwarded => header::FORWARDED,
    };
    let lines = headers.get_all(name).into_iter().map(|line| line.to_str().unwrap_or_default());
    let elements = lines.flat_map(|line| line.split(',')).map(str::trim);
    elements
        .map(|element| match header {
            ProxyHeader::XForwardedFor => address(element),
            ProxyHeader::Forwarded => forwarded_for(element).and_then(address),
        })
        .collect()
}

/// The value of `for=` in one element of `Forwarded`.
fn forwarded_for(element: &str) -> Option<&str> {
    let mut pairs = element.split(';').filter_map(|pair| pair.trim().split_once('='));
    let (_, value) = pairs.find(|(name, _)| name.eq_ignore_ascii_case("for"))?;
    Some(value.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(value))
}

/// An address with or without port: some proxies write one.
fn address(text: &str) -> Option<IpAddr> {
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    let parsed = bare.parse().or_else(|_| text.parse::<SocketAddr>().map(|address| address.ip()));
    parsed.ok().map(|address: IpAddr| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(header: ProxyHeader, lines: &[&str], peer: &str) -> String {
        let trusted = ["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()];
        let mut headers = HeaderMap::new();
        let name = if header == ProxyHeader::Forwarded { "forwarded" } else { "x-forwarded-for" };
        for line in lines {
            headers.append(name, line.parse().unwrap());
        }
        client_address(&trusted, header, &headers, peer.parse().unwrap()).to_string()
    }

    #[test]
    fn only_trusted_proxies_are_believed() {
        let x = |lines: &[&str], peer| client(ProxyHeader::XForwardedFor, lines, peer);
        assert_eq!(x(&["1.2.3.4"], "5.6.7.8"), "5.6.7.8");
        assert_eq!(x(&["1.2.3.4"], "10.0.0.1"), "1.2.3.4");
        assert_eq!(x(&["1.2.3.4"], "::ffff:10.0.0.1"), "1.2.3.4");
        assert_eq!(x(&[], "10.0.0.1"), "10.0.0.1");
        // The client wrote the first entry itself.
        assert_eq!(x(&["9.9.9.9, 1.2.3.4, 10.0.0.2"], "10.0.0.1"), "1.2.3.4");
        assert_eq!(x(&["9.9.9.9", "1.2.3.4", "10.0.0.2"], "10.0.0.1"), "1.2.3.4");
        assert_eq!(x(&["10.0.0.3, 10.0.0.2"], "10.0.0.1"), "10.0.0.3");
        assert_eq!(x(&["1.2.3.4, nonsense, 10.0.0.2"], "10.0.0.1"), "10.0.0.2");
        assert_eq!(x(&["1.2.3.4:5678"], "10.0.0.1"), "1.2.3.4");
        assert_eq!(x(&["[2001:db8::1]:5678"], "10.0.0.1"), "2001:db8::1");
        assert_eq!(x(&["2001:db8::1, fd00::1"], "10.0.0.1"), "2001:db8::1");
        assert_eq!(x(&["::ffff:1.2.3.4"], "10.0.0.1"), "1.2.3.4");
    }

    #[test]
    fn the_standard_header_is_read_where_it_is_chosen() {
        let f = |lines: &[&str]| client(ProxyHeader::Forwarded, lines, "10.0.0.1");
        assert_eq!(f(&["for=1.2.3.4;proto=https, for=10.0.0.2"]), "1.2.3.4");
        assert_eq!(f(&[r#"proto=https; For="[2001:db8::1]:4711""#]), "2001:db8::1");
        assert_eq!(f(&["for=9.9.9.9, for=_hidden"]), "10.0.0.1");
        assert_eq!(f(&["by=1.2.3.4"]), "10.0.0.1");
    }
}
