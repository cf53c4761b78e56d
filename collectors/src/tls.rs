//! Client certificates as files, named once and read anew when they rotate. Owns the paths and the rustls configuration
//! made from them; never prints contents. Refuses every provider but ring and every way to skip verification.

use std::fs;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

/// A bundle of all public roots is 250 KB; a larger file is not a certificate.
const PEM_BYTES_MAX: u64 = 1 << 20;

/// PEM files for a TLS connection to etcd. All `None`: the system's roots, no client certificate.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsFiles {
    /// Certificate authority to trust instead of the system's.
    pub ca: Option<PathBuf>,
    /// Client certificate.
    pub cert: Option<PathBuf>,
    /// Its private key.
    pub key: Option<PathBuf>,
}

/// Why there is no TLS configuration. Names the file and the cause, never its contents.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The file cannot be read.
    #[error("read {path}: {cause}")]
    Read {
        /// Which file.
        path: PathBuf,
        /// What the kernel said.
        cause: std::io::Error,
    },
    /// The file is not what it should be.
    #[error("{path}: {cause}")]
    Pem {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        cause: String,
    },
    /// A certificate without a key or the other way round.
    #[error("client certificate {path} has no {missing}: both are needed")]
    Half {
        /// The one that is there.
        path: PathBuf,
        /// The one that is not: `key` or `certificate`.
        missing: &'static str,
    },
    /// No CA file is named and the system has no roots.
    #[error("no CA file is named and the system has no root certificates")]
    NoRoots,
    /// rustls refuses the combination, e.g. a key of another certificate.
    #[error("client certificate {path}: {cause}")]
    Refused {
        /// The certificate's file.
        path: PathBuf,
        /// What rustls said.
        cause: rustls::Error,
    },
    /// The ring provider does not offer the default protocol versions.
    #[error("tls versions: {0}")]
    Versions(rustls::Error),
}

/// A configuration that trusts `files.ca` (or the system's roots) and shows `files.cert`, on the ring provider.
///
/// # Errors
/// [`TlsError`], naming the file.
pub fn client_config(files: &TlsFiles) -> Result<ClientConfig, TlsError> {
    let roots = match &files.ca {
        Some(path) => roots_from(path)?,
        None => system_roots()?,
    };
    let builder = builder()?.with_root_certificates(roots);
    match (&files.cert, &files.key) {
        (None, None) => Ok(builder.with_no_client_auth()),
        (Some(path), None) => Err(TlsError::Half { path: path.clone(), missing: "key" }),
        (None, Some(path)) => Err(TlsError::Half { path: path.clone(), missing: "certificate" }),
        (Some(cert), Some(key)) => {
            let chain = certificates(cert)?;
            let key = private_key(key)?;
            builder
                .with_client_auth_cert(chain, key)
                .map_err(|cause| TlsError::Refused { path: cert.clone(), cause })
        }
    }
}

/// A configuration that trusts nobody: for clients of plain `http://` that must be given one.
///
/// # Errors
/// [`TlsError::Versions`] only.
pub fn trust_nobody() -> Result<ClientConfig, TlsError> {
    Ok(builder()?.with_root_certificates(RootCertStore::empty()).with_no_client_auth())
}

fn builder() -> Result<rustls::ConfigBuilder<ClientConfig, rustls::WantsVerifier>, TlsError> {
    ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(TlsError::Versions)
}

fn roots_from(path: &Path) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        roots
            .add(certificate)
            .map_err(|cause| TlsError::Pem { path: path.to_owned(), cause: cause.to_string() })?;
    }
    Ok(roots)
}

fn system_roots() -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    // A broken file among the system's roots is the system's business; the rest still counts.
    let (added, _ignored) = roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if added == 0 { Err(TlsError::NoRoots) } else { Ok(roots) }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let pem = read_bounded(path)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    let found = found.map_err(|cause| TlsError::Pem { path: path.to_owned(), cause: cause.to_string() })?;
    if found.is_empty() {
        return Err(TlsError::Pem { path: path.to_owned(), cause: "no certificate in it".to_owned() });
    }
    Ok(found)
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    let pem = read_bounded(path)?;
    PrivateKeyDer::from_pem_slice(&pem).map_err(|cause| {
        let cause = match cause {
            rustls::pki_types::pem::Error::NoItemsFound => "no private key in it".to_owned(),
            other => other.to_string(),
        };
        TlsError::Pem { path: path.to_owned(), cause }
    })
}

fn read_bounded(path: &Path) -> Result<Vec<u8>, TlsError> {
    let failed = |cause| TlsError::Read { path: path.to_owned(), cause };
    let file = fs::File::open(path).map_err(failed)?;
    let mut bytes = Vec::new();
    let read = file.take(PEM_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(failed)?;
    if u64::try_from(read).unwrap_or(u64::MAX) > PEM_BYTES_MAX {
        let cause = format!("larger than {PEM_BYTES_MAX} bytes");
        return Err(TlsError::Pem { path: path.to_owned(), cause });
    }
    Ok(bytes)
}

/// Which bytes the files held when they were looked at: changes when one of them rotates (also by a symlink swap).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fingerprint {
    // (mtime seconds, mtime nanoseconds, inode, length); `None` where the file is missing or unnamed.
    files: [Option<(i64, i64, u64, u64)>; 3],
}

impl TlsFiles {
    /// Three `stat` calls at most; contents are not read.
    #[must_use]
    pub fn fingerprint(&self) -> Fingerprint {
        let look = |path: &Option<PathBuf>| {
            let meta = fs::metadata(path.as_ref()?).ok()?;
            Some((meta.mtime(), meta.mtime_nsec(), meta.ino(), meta.len()))
        };
        Fingerprint { files: [look(&self.ca), look(&self.cert), look(&self.key)] }
    }
}
