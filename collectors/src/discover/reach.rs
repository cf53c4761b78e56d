//! Tries addresses that may be a member's: one short connection each. Owns telling etcd from something else on its port;
//! sends a plain `GET` at most, never a gRPC call, so nothing reaches etcd's log but a refused handshake.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::url::Url;
use super::{Discovery, compose};
use crate::target::{Identity, Target};

/// One address on this node or a near one answers within a few milliseconds; a node without etcd starts no later for it.
const WAIT: Duration = Duration::from_millis(300);

/// A version page is 100 bytes; a metrics page names etcd within its first lines.
const REPLY_BYTES_MAX: usize = 16 * 1024;

/// What an address turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Seen {
    /// Nobody listens, or not within [`WAIT`].
    Nobody,
    /// etcd in plain text.
    Plain,
    /// Somebody who does not speak plain HTTP: TLS.
    Tls,
    /// Somebody else.
    Other,
    /// A host name: not resolved here.
    Name,
}

/// Tries the candidates; those that answer become targets, the others a line in `looked_at`.
pub async fn probe_reachable(mut discovery: Discovery) -> Discovery {
    for candidate in std::mem::take(&mut discovery.candidates) {
        if let Some(target) = reach(candidate, &mut discovery).await {
            compose::push(&mut discovery.targets, target);
        }
    }
    discovery
}

async fn reach(mut target: Target, discovery: &mut Discovery) -> Option<Target> {
    let client = Url::parse(target.client_url.as_deref()?)?;
    let seen = look(&client, "/version", "etcdserver").await;
    discovery.look(client.authority(), words(seen));
    let client = match seen {
        Seen::Plain => Some(Url { https: false, ..client.clone() }),
        Seen::Tls => Some(Url { https: true, ..client.clone() }),
        Seen::Name => Some(client.clone()),
        Seen::Nobody | Seen::Other => None,
    };
    let metrics = target.metrics_url.as_deref().and_then(Url::parse);
    let mut own_metrics = None;
    if let Some(metrics) = metrics.filter(|metrics| Some(metrics.port) != client.as_ref().map(|url| url.port))
    {
        let seen = look(&metrics, "/metrics", "etcd_").await;
        discovery.look(metrics.authority(), words(seen));
        own_metrics = (seen == Seen::Plain).then_some(metrics);
    }
    let without_certificate = client.as_ref().is_some_and(|url| url.https) && target.tls.cert.is_none();
    if without_certificate {
        discovery.notes.push(format!(
            "{} speaks TLS and no client certificate is readable: where it asks for one, it answers nothing",
            target.name
        ));
    }
    let endpoint = client.as_ref().or(own_metrics.as_ref())?.to_string();
    target.identity = Identity::new(&target.identity.origin().node, &target.name, &endpoint);
    let metrics = own_metrics.or_else(|| client.clone());
    target.metrics_url = metrics.map(|url| format!("{url}/metrics"));
    target.client_url = client.map(|url| url.to_string());
    Some(target)
}

fn words(seen: Seen) -> &'static str {
    match seen {
        Seen::Nobody => "nobody answers",
        Seen::Plain => "etcd, without TLS",
        Seen::Tls => "listens, with TLS",
        Seen::Other => "answers, but is not etcd",
        Seen::Name => "a name, taken as given",
    }
}

async fn look(url: &Url, path: &str, sign: &str) -> Seen {
    let Some(address) = url.address() else {
        return Seen::Name;
    };
    let Ok(Ok(mut stream)) = timeout(WAIT, TcpStream::connect(address)).await else {
        return Seen::Nobody;
    };
    let ask = format!("GET {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", url.authority());
    let mut reply = Vec::new();
    let talk = async {
        stream.write_all(ask.as_bytes()).await?;
        let mut piece = [0_u8; 2_048];
        while reply.len() < REPLY_BYTES_MAX && !contains(&reply, sign) {
            let n = stream.read(&mut piece).await?;
            if n == 0 {
                break;
            }
            reply.extend_from_slice(piece.get(..n).unwrap_or_default());
        }
        Ok::<(), std::io::Error>(())
    };
    // However it ends, what came tells.
    let ended = timeout(WAIT, talk).await;
    tracing::debug!(%url, ?ended, bytes = reply.len(), "looked");
    judge(&reply, sign)
}

fn judge(reply: &[u8], sign: &str) -> Seen {
    if contains(reply, sign) {
        Seen::Plain
    } else if !reply.starts_with(b"HTTP/") || contains(reply, "HTTPS server") {
        // A TLS listener closes, sends an alert, or (Go's) says in plain words that it wants HTTPS.
        Seen::Tls
    } else {
        Seen::Other
    }
}

fn contains(reply: &[u8], sign: &str) -> bool {
    memchr::memmem::find(reply, sign.as_bytes()).is_some()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use tokio::net::TcpListener;

    use super::super::fixture::Tree;
    use super::super::{Environment, find};
    use super::*;

    #[test]
    fn a_reply_tells_who_speaks() {
        let check = |reply: &[u8], expected| assert_eq!(judge(reply, "etcdserver"), expected, "{reply:?}");
        check(b"HTTP/1.1 200 OK\r\n\r\n{\"etcdserver\":\"3.5.33\"}", Seen::Plain);
        check(
            b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n",
            Seen::Tls,
        );
        check(&[0x15, 0x03, 0x01, 0x00, 0x02, 0x02, 0x46], Seen::Tls);
        check(b"", Seen::Tls);
        check(b"HTTP/1.1 404 Not Found\r\n\r\n", Seen::Other);
    }

    async fn listener(reply: &'static [u8]) -> (String, impl Future<Output = ()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let address = listener.local_addr().expect("an address").to_string();
        let serve = async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut ask = [0_u8; 256];
                if stream.read(&mut ask).await.is_ok() {
                    stream.write_all(reply).await.ok();
                }
            }
        };
        (address, serve)
    }

    async fn reached(tree: &str, reply: &'static [u8]) -> Discovery {
        let (address, serve) = listener(reply).await;
        let tree = Tree::new(tree);
        tree.process(1, &["init"], &[], 1);
        let vars = BTreeMap::from([("ETCDCTL_ENDPOINTS".to_owned(), address)]);
        let environment = Environment { root: tree.root().to_owned(), vars, node: "node-1".to_owned() };
        tokio::select! {
            () = serve => unreachable!("the listener goes on"),
            discovery = probe_reachable(find(&environment)) => discovery,
        }
    }

    #[tokio::test]
    async fn who_answers_like_etcd_becomes_a_target() {
        let found = reached("reach-etcd", b"HTTP/1.1 200 OK\r\n\r\n{\"etcdserver\":\"3.5.33\"}").await;
        assert_eq!(found.targets.len(), 1, "{:?}", found.describe());
        let target = &found.targets[0];
        assert!(target.client_url.as_ref().is_some_and(|url| url.starts_with("http://127.0.0.1:")));
        assert!(target.metrics_url.as_ref().is_some_and(|url| url.ends_with("/metrics")));
    }

    #[tokio::test]
    async fn a_member_found_by_its_address_is_not_knocked_at_again() {
        // A TLS server writes a line to its log for each of these requests.
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let address = listener.local_addr().expect("an address").to_string();
        let tree = Tree::new("reach-once");
        tree.process(1, &["init"], &[], 1);
        let vars = BTreeMap::from([("ETCDCTL_ENDPOINTS".to_owned(), address)]);
        let environment = Environment { root: tree.root().to_owned(), vars, node: "node-1".to_owned() };
        let mut knocks = 0;
        let serve = async {
            loop {
                let (mut stream, _) = listener.accept().await.expect("accept");
                knocks += 1;
                stream.write_all(&[0x15, 0x03, 0x01, 0x00, 0x02, 0x02, 0x46]).await.expect("an alert");
            }
        };
        let look = async {
            let first = probe_reachable(find(&environment)).await;
            let again = probe_reachable(find(&environment).remember(&first.targets)).await;
            (first.targets, again.targets)
        };
        let (first, again) = tokio::select! {
            () = serve => unreachable!("the listener goes on"),
            found = look => found,
        };
        assert!(first[0].client_url.as_ref().is_some_and(|url| url.starts_with("https://")), "{first:?}");
        assert_eq!(again[0].client_url, first[0].client_url);
        // The client port, and its metrics page where it has one of its own.
        assert_eq!(knocks, 1);
    }

    #[tokio::test]
    async fn another_server_on_the_port_is_left_alone() {
        let found = reached("reach-other", b"HTTP/1.1 200 OK\r\n\r\nhello").await;
        assert!(found.targets.is_empty(), "{:?}", found.describe());
        assert!(found.describe().join("\n").contains("is not etcd"));
    }

    #[tokio::test]
    async fn a_silent_server_does_not_hold_up_the_start() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let url =
            Url::parse(&format!("http://{}", listener.local_addr().expect("an address"))).expect("a url");
        let started = tokio::time::Instant::now();
        assert_eq!(look(&url, "/version", "etcdserver").await, Seen::Tls);
        assert!(started.elapsed() < WAIT * 3);
        drop(listener);
        assert_eq!(look(&url, "/version", "etcdserver").await, Seen::Nobody);
    }
}
