//! The few things about a URL that discovery must know. Owns choosing an address we can reach; refuses to resolve names.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};

/// Longer than any address etcd listens on.
const URL_MAX: usize = 512;

/// An HTTP or HTTPS base URL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Url {
    pub(crate) https: bool,
    pub(crate) host: String,
    pub(crate) port: u16,
}

impl Url {
    /// Parses `http[s]://host[:port][/…]`; `None` for anything else (unix sockets, nonsense).
    pub(crate) fn parse(text: &str) -> Option<Url> {
        let text = text.trim();
        if text.len() > URL_MAX {
            return None;
        }
        let (https, rest) = match text.split_once("://")? {
            ("https", rest) => (true, rest),
            ("http", rest) => (false, rest),
            _ => return None,
        };
        let authority = rest.split(['/', '?', '#']).next().unwrap_or("");
        let (host, port) = match authority.strip_prefix('[') {
            Some(v6) => {
                let (host, rest) = v6.split_once(']')?;
                host.parse::<IpAddr>().ok()?;
                (host, rest.strip_prefix(':'))
            }
            None => match authority.rsplit_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (authority, None),
            },
        };
        let named = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
        if host.is_empty() || !(host.bytes().all(named) || host.parse::<IpAddr>().is_ok()) {
            return None;
        }
        let port = match port {
            Some(port) => port.parse().ok()?,
            None => 2379,
        };
        Some(Url { https, host: host.to_owned(), port })
    }

    /// The list of a flag: `url,url`; what is not a URL is left out.
    pub(crate) fn list(text: &str) -> Vec<Url> {
        text.split(',').filter_map(Url::parse).collect()
    }

    /// The one to use from this node: loopback (or "any", which loopback reaches) before all others, plain before TLS.
    pub(crate) fn best(urls: &[Url]) -> Option<Url> {
        urls.iter().map(Url::reachable).min_by_key(|url| (!url.is_loopback(), url.https))
    }

    fn reachable(&self) -> Url {
        let any = self.host.parse::<IpAddr>().is_ok_and(|ip| ip.is_unspecified());
        let host = if any || self.host == "localhost" { "127.0.0.1".to_owned() } else { self.host.clone() };
        Url { host, ..self.clone() }
    }

    fn is_loopback(&self) -> bool {
        self.host == "localhost" || self.host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
    }

    /// Whether the address is one of this node's. The kernel binds a socket to such addresses only; nothing is sent.
    pub(crate) fn is_local(&self, node: &str) -> bool {
        self.is_loopback()
            || self.host == node
            || self.host.parse::<IpAddr>().is_ok_and(|ip| UdpSocket::bind((ip, 0)).is_ok())
    }

    /// The socket address; names other than `localhost` have none, as nothing is resolved here.
    pub(crate) fn address(&self) -> Option<SocketAddr> {
        let ip = if self.host == "localhost" {
            Some(IpAddr::V4(Ipv4Addr::LOCALHOST))
        } else {
            self.host.parse().ok()
        };
        ip.map(|ip| SocketAddr::new(ip, self.port))
    }

    /// `host:port`, an IPv6 host in brackets.
    pub(crate) fn authority(&self) -> String {
        let Url { host, port, .. } = self;
        if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
    }
}

impl std::fmt::Display for Url {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}://{}", if self.https { "https" } else { "http" }, self.authority())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_read_and_written() {
        let check = |text: &str, expected: Option<&str>| {
            assert_eq!(Url::parse(text).map(|url| url.to_string()).as_deref(), expected, "{text}");
        };
        check("http://127.0.0.1:2379", Some("http://127.0.0.1:2379"));
        check(" https://etcd-0.etcd.svc:2379/path?x ", Some("https://etcd-0.etcd.svc:2379"));
        check("https://[fd00::1]:2379", Some("https://[fd00::1]:2379"));
        check("http://host", Some("http://host:2379"));
        check("unix:///run/etcd.sock", None);
        check("http://", None);
        check("http://h:99999", None);
        check("http://[::1", None);
        check("http://h o:1", None);
        check("http://user@host:1", None);
        check("2379", None);
    }

    #[test]
    fn the_nearest_address_is_chosen() {
        let check = |list: &str, expected: Option<&str>| {
            assert_eq!(Url::best(&Url::list(list)).map(|url| url.to_string()).as_deref(), expected, "{list}");
        };
        check("https://10.0.0.5:2379,https://127.0.0.1:2379", Some("https://127.0.0.1:2379"));
        check("http://0.0.0.0:2379", Some("http://127.0.0.1:2379"));
        check("https://[::]:2379", Some("https://127.0.0.1:2379"));
        check("http://10.0.0.5:2379", Some("http://10.0.0.5:2379"));
        check("unix:///x", None);
    }

    #[test]
    fn an_address_of_elsewhere_is_not_local() {
        let local = |text: &str| Url::parse(text).expect("a url").is_local("node-1");
        assert!(local("http://127.0.0.1:1") && local("http://localhost:1") && local("http://node-1:1"));
        assert!(!local("http://203.0.113.9:1") && !local("http://elsewhere:1"));
    }
}
