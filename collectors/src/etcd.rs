//! The connection to one member: one gRPC channel, certificates read anew when they rotate. Owns how a member is reached
//! and how a failed call is named; refuses to balance: the crate's balancer over several endpoints hides the single member.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use etcd_client::{Channel, Client};
use thiserror::Error;
use tokio::io::AsyncReadExt;
use tokio::time::Instant;
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint, Identity};

use crate::target::Target;
use crate::tls::TlsFiles;

pub(crate) mod outcome;
pub(crate) mod session;

use outcome::Admission;
use session::Session;

/// etcd closes connections that ping more often than every 5 s; half that rate leaves room for a server set stricter.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// A member that answers no ping for so long is gone; the channel then connects anew.
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(5);

/// A TCP and TLS handshake on a healthy node takes milliseconds; longer than this is a failed connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// Certificates rotate once in months: looking every ten seconds costs three `stat` calls and is soon enough.
const ROTATION_CHECK: Duration = Duration::from_secs(10);

/// A PEM bundle larger than this is not a certificate.
const PEM_BYTES_MAX: u64 = 1024 * 1024;

/// How etcd sees us in its `client` metrics and logs.
const USER_AGENT: &str = concat!("backburn-agent/", env!("CARGO_PKG_VERSION"));

/// Why there is no connection to try. The variant is the reason label.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub(crate) enum ConnectError {
    #[error("no client url")]
    NoUrl,
    #[error("not a url: {0}")]
    BadUrl(String),
    #[error("not permitted to read {0}")]
    NotPermitted(String),
    #[error("read {0}")]
    Unreadable(String),
    #[error("certificate or key not usable: {0}")]
    BadCertificate(String),
}

impl ConnectError {
    /// The variant as a fixed word.
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            ConnectError::NoUrl => "no_url",
            ConnectError::BadUrl(_) => "bad_url",
            ConnectError::NotPermitted(_) => "not_permitted",
            ConnectError::Unreadable(_) => "unreadable",
            ConnectError::BadCertificate(_) => "bad_certificate",
        }
    }
}

/// One member's connection, made when first asked for, made anew when its certificates change.
#[derive(Debug)]
pub(crate) struct Connection {
    url: Option<String>,
    tls: TlsFiles,
    held: Option<Held>,
    admission: Admission,
}

struct Held {
    client: Client,
    files: FilesSeen,
    checked: Instant,
}

impl std::fmt::Debug for Held {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Held").field("files", &self.files).finish_non_exhaustive()
    }
}

impl Connection {
    pub(crate) fn new(target: &Target) -> Connection {
        Connection {
            url: target.client_url.clone(),
            tls: target.tls.clone(),
            held: None,
            admission: Admission::of(Session::new(target.login.clone())),
        }
    }

    /// Its user: whoever holds the connection keeps it logged in.
    pub(crate) fn session(&self) -> Session {
        self.admission.session()
    }

    /// What names the outcomes of calls on this connection.
    pub(crate) fn admission(&self) -> Admission {
        self.admission.clone()
    }

    /// Whether there is anything to connect to.
    pub(crate) fn has_url(&self) -> bool {
        self.url.is_some()
    }

    /// A client on this connection. Clones share the connection; nothing is sent yet: the first call connects.
    ///
    /// Certificates that changed on disk and cannot be read (half a rotation) leave the old connection in use.
    pub(crate) async fn client(&mut self) -> Result<Client, ConnectError> {
        let now = Instant::now();
        if let Some(held) = &mut self.held {
            if now.duration_since(held.checked) < ROTATION_CHECK {
                return Ok(held.client.clone());
            }
            held.checked = now;
            let client = held.client.clone();
            if FilesSeen::look(&self.tls) == held.files {
                return Ok(client);
            }
            if let Err(error) = self.connect(now).await {
                tracing::warn!(%error, url = self.url, "certificates changed and are not usable; the old ones stay");
                return Ok(client);
            }
        } else {
            self.connect(now).await?;
        }
        self.held.as_ref().map(|held| held.client.clone()).ok_or(ConnectError::NoUrl)
    }

    async fn connect(&mut self, now: Instant) -> Result<(), ConnectError> {
        let url = self.url.as_deref().ok_or(ConnectError::NoUrl)?;
        // Looked at before reading: a file that changes in between is read again at the next check.
        let files = FilesSeen::look(&self.tls);
        let endpoint = endpoint(url, &self.tls).await?;
        let channel = Channel::Tonic(endpoint.connect_lazy());
        let client = Client::from_channel(channel, None)
            .await
            .map_err(|error| ConnectError::BadUrl(format!("{url}: {error}")))?;
        self.held = Some(Held { client, files, checked: now });
        self.admission.session().forget();
        Ok(())
    }
}

async fn endpoint(url: &str, tls: &TlsFiles) -> Result<Endpoint, ConnectError> {
    let bad = |error: tonic::transport::Error| ConnectError::BadUrl(format!("{url}: {error}"));
    let endpoint = Endpoint::from_shared(url.to_owned())
        .map_err(bad)?
        .user_agent(USER_AGENT)
        .map_err(bad)?
        .tcp_nodelay(true)
        .connect_timeout(CONNECT_TIMEOUT)
        .http2_keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
        .keep_alive_while_idle(true);
    if endpoint.uri().scheme_str() != Some("https") {
        return Ok(endpoint);
    }
    let mut config = ClientTlsConfig::new();
    config = match &tls.ca {
        Some(ca) => config.ca_certificate(Certificate::from_pem(read_pem(ca).await?)),
        None => config.with_native_roots(),
    };
    if let (Some(cert), Some(key)) = (&tls.cert, &tls.key) {
        config = config.identity(Identity::from_pem(read_pem(cert).await?, read_pem(key).await?));
    }
    endpoint.tls_config(config).map_err(|error| ConnectError::BadCertificate(outcome::chain(&error)))
}

async fn read_pem(path: &Path) -> Result<Vec<u8>, ConnectError> {
    let unreadable = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::PermissionDenied => ConnectError::NotPermitted(path.display().to_string()),
        _ => ConnectError::Unreadable(format!("{}: {error}", path.display())),
    };
    let file = tokio::fs::File::open(path).await.map_err(unreadable)?;
    let mut bytes = Vec::new();
    file.take(PEM_BYTES_MAX).read_to_end(&mut bytes).await.map_err(unreadable)?;
    // The library takes a file without any certificate for an empty list of authorities.
    if memchr::memmem::find(&bytes, b"-----BEGIN ").is_none() {
        return Err(ConnectError::BadCertificate(path.display().to_string()));
    }
    Ok(bytes)
}

/// What the three files looked like: inode, size, modification time. A rename or a swapped symlink changes the inode.
#[derive(Clone, Debug, PartialEq, Eq)]
struct FilesSeen([Option<(u64, u64, i64, i64)>; 3]);

impl FilesSeen {
    fn look(tls: &TlsFiles) -> FilesSeen {
        FilesSeen([&tls.ca, &tls.cert, &tls.key].map(|file| {
            let data = std::fs::metadata(file.as_ref()?).ok()?;
            Some((data.ino(), data.len(), data.mtime(), data.mtime_nsec()))
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tls(dir: &Path) -> TlsFiles {
        TlsFiles { ca: Some(dir.join("ca")), cert: None, key: None }
    }

    #[test]
    fn a_rotated_file_is_seen() {
        let dir = crate::discover::fixture::Tree::new("rotation");
        dir.file("ca", "one");
        let before = FilesSeen::look(&tls(dir.root()));
        assert_eq!(before, FilesSeen::look(&tls(dir.root())));
        dir.file("ca.new", "two");
        std::fs::rename(dir.root().join("ca.new"), dir.root().join("ca")).expect("rename");
        assert_ne!(before, FilesSeen::look(&tls(dir.root())));
    }

    #[tokio::test]
    async fn what_is_not_usable_has_a_reason() {
        let dir = crate::discover::fixture::Tree::new("unusable");
        dir.file("ca", "no certificate here");
        let missing = TlsFiles { ca: Some(dir.root().join("nothing")), ..TlsFiles::default() };
        for (url, files, reason) in [
            ("not a url", TlsFiles::default(), "bad_url"),
            ("https://127.0.0.1:1", missing, "unreadable"),
            ("https://127.0.0.1:1", tls(dir.root()), "bad_certificate"),
        ] {
            assert_eq!(endpoint(url, &files).await.expect_err(url).reason(), reason, "{url}");
        }
        assert!(endpoint("http://127.0.0.1:1", &TlsFiles::default()).await.is_ok());
    }
}
