//! Where a webhook may go. Refuses link-local and metadata addresses by literal, by name and after resolving.
//!
//! Webhook URLs come from configuration alone; this is the second fence, for a configuration that somebody templated.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use reqwest::Url;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};

/// Names of metadata services; they resolve to addresses that only the node itself may ask.
const METADATA_NAMES: [&str; 5] =
    ["metadata", "metadata.google.internal", "metadata.goog", "instance-data", "instance-data.ec2.internal"];

/// Metadata and platform services outside the link-local range.
const METADATA_V4: [Ipv4Addr; 2] = [Ipv4Addr::new(100, 100, 100, 200), Ipv4Addr::new(168, 63, 129, 16)];

/// EC2's metadata service over IPv6.
const METADATA_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254);

/// Addresses looked at for one name: the connector tries them in turn, within one time limit.
const ADDRESSES_MAX: usize = 16;

/// Why a URL is no receiver.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// Not a URL.
    #[error("not a URL")]
    Url,
    /// Neither `https` nor `http`.
    #[error("scheme {0} is not https or http")]
    Scheme(String),
    /// User name or password in the URL.
    #[error("a URL with credentials in it would be logged: use the signature")]
    Credentials,
    /// Plain `http` beyond this host, and not allowed.
    #[error("plain http leaves this host: use https, or allow_http: true")]
    Plain,
    /// Link-local, metadata, unspecified or multicast.
    #[error("{0} is a link-local, metadata, unspecified or multicast address")]
    Forbidden(String),
}

/// The URL of one receiver, checked as far as it can be before it is resolved.
///
/// # Errors
/// [`AddressError`]
pub(crate) fn check(text: &str, allow_http: bool) -> Result<Url, AddressError> {
    let url = Url::parse(text).map_err(|_| AddressError::Url)?;
    let host = url.host_str().ok_or(AddressError::Url)?.trim_matches(['[', ']']);
    let literal = host.parse::<IpAddr>().ok();
    let name = host.trim_end_matches('.').to_ascii_lowercase();
    if METADATA_NAMES.contains(&name.as_str()) || literal.is_some_and(forbidden) {
        return Err(AddressError::Forbidden(host.to_owned()));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(AddressError::Credentials);
    }
    let local = name == "localhost" || literal.is_some_and(|ip| canonical(ip).is_loopback());
    match url.scheme() {
        "https" => Ok(url),
        "http" if local || allow_http => Ok(url),
        "http" => Err(AddressError::Plain),
        other => Err(AddressError::Scheme(other.to_owned())),
    }
}

/// Whether nothing may be sent there.
pub(crate) fn forbidden(ip: IpAddr) -> bool {
    match canonical(ip) {
        IpAddr::V4(v4) => {
            v4.is_link_local()
                || v4.is_unspecified()
                || v4.is_multicast()
                || v4.is_broadcast()
                || METADATA_V4.contains(&v4)
        }
        IpAddr::V6(v6) => {
            v6.is_unicast_link_local() || v6.is_unspecified() || v6.is_multicast() || v6 == METADATA_V6
        }
    }
}

/// The IPv4 address inside a mapped (`::ffff:0:0/96`), compatible (`::/96`), 6to4 (`2002::/16`) or NAT64 (`64:ff9b::/96`) one.
fn canonical(ip: IpAddr) -> IpAddr {
    let IpAddr::V6(v6) = ip else { return ip };
    let embedded = |high: u16, low: u16| {
        let [a, b] = high.to_be_bytes();
        let [c, d] = low.to_be_bytes();
        IpAddr::V4(Ipv4Addr::new(a, b, c, d))
    };
    match v6.segments() {
        [0, 0, 0, 0, 0, 0, 0, 0 | 1] => ip,
        [0, 0, 0, 0, 0, 0 | 0xffff, high, low] | [0x64, 0xff9b, 0, 0, 0, 0, high, low] => embedded(high, low),
        [0x2002, high, low, ..] => embedded(high, low),
        _ => ip,
    }
}

/// Resolves through the system and drops forbidden addresses; what is left is what gets connected to, so that a second
/// answer cannot slip past the check.
#[derive(Debug)]
pub(crate) struct Guarded;

impl Resolve for Guarded {
    fn resolve(&self, name: Name) -> Resolving {
        Box::pin(async move {
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
            let kept: Vec<SocketAddr> =
                found.take(ADDRESSES_MAX).filter(|address| !forbidden(address.ip())).collect();
            if kept.is_empty() {
                return Err(Box::from(AddressError::Forbidden(name.as_str().to_owned())));
            }
            let addresses: Addrs = Box::new(kept.into_iter());
            Ok(addresses)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{AddressError, check};

    fn refused(url: &str) {
        let got = check(url, true);
        assert!(matches!(got, Err(AddressError::Forbidden(_) | AddressError::Url)), "{url}: {got:?}");
    }

    #[test]
    fn thirty_ways_to_write_a_metadata_address_are_refused() {
        for host in [
            "169.254.169.254",
            "169.254.169.254.",
            "169.254.0.1",
            "169.254.170.2",
            "0xA9FEA9FE",
            "0xa9.0xfe.0xa9.0xfe",
            "2852039166",
            "0251.0376.0251.0376",
            "169.254.43518",
            "169.16689662",
            "[::ffff:169.254.169.254]",
            "[::ffff:a9fe:a9fe]",
            "[0:0:0:0:0:ffff:a9fe:a9fe]",
            "[::169.254.169.254]",
            "[64:ff9b::169.254.169.254]",
            "[64:ff9b::a9fe:a9fe]",
            "[2002:a9fe:a9fe::1]",
            "[fe80::1]",
            "[fe80::a9fe:a9fe]",
            "[febf::1]",
            "[fd00:ec2::254]",
            "metadata.google.internal",
            "METADATA.google.internal.",
            "metadata",
            "instance-data",
            "metadata.goog",
            "100.100.100.200",
            "168.63.129.16",
            "0.0.0.0",
            "[::]",
            "0",
            "224.0.0.1",
            "[ff02::1]",
            "255.255.255.255",
            "１６９.254.169.254",
        ] {
            refused(&format!("https://{host}/hook"));
            refused(&format!("http://{host}:8080/hook"));
        }
    }

    #[test]
    fn plain_http_stays_on_this_host_unless_allowed() {
        for (url, allow, expected) in [
            ("https://deployer.example:8443/hook", false, Ok(())),
            ("http://127.0.0.1:9000/hook", false, Ok(())),
            ("http://[::1]:9000/hook", false, Ok(())),
            ("http://localhost:9000/hook", false, Ok(())),
            ("http://deployer.example/hook", false, Err(AddressError::Plain)),
            ("http://deployer.example/hook", true, Ok(())),
            ("ftp://deployer.example/hook", true, Err(AddressError::Scheme("ftp".to_owned()))),
            ("https://user:pw@deployer.example/", true, Err(AddressError::Credentials)),
            ("deployer.example", true, Err(AddressError::Url)),
            ("", true, Err(AddressError::Url)),
        ] {
            assert_eq!(check(url, allow).map(|_| ()), expected, "{url}");
        }
    }
}
