//! Certificates and keys of a destination: read whole, checked, watched for rotation.
//!
//! Owns the reading of PEM files and the memory of how they looked. Checks them before a client is made of them: the clients
//! take a torn file for an empty one and find out with the first connection, when the good one is gone.

use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

use super::StartError;
use super::config::Tls;

/// A PEM file that is larger is not one.
const PEM_BYTES_MAX: u64 = 1 << 20;

/// Files that could not be used are tried again after this long: a rotation writes several files, one after the other, and a
/// permission that is mended changes nothing that we look at.
const AGAIN_NS: u64 = 5_000_000_000;

/// PEM bytes of a destination.
#[derive(Default)]
pub(crate) struct Pem {
    pub(crate) ca: Option<Vec<u8>>,
    /// Certificate and key.
    pub(crate) identity: Option<(Vec<u8>, Vec<u8>)>,
}

impl Pem {
    /// Reads and checks the files: certificates are certificates, and the key is that of the certificate.
    pub(crate) fn read(tls: &Tls) -> Result<Pem, StartError> {
        let ca = tls.ca.as_deref().map(read_file).transpose()?;
        let mut roots = RootCertStore::empty();
        if let (Some(path), Some(pem)) = (&tls.ca, &ca) {
            for certificate in certificates(path, pem)? {
                roots.add(certificate).map_err(|error| bad(path, &error))?;
            }
        }
        let identity = match (&tls.client_certificate, &tls.client_key) {
            (Some(certificate), Some(key)) => {
                let pair = (read_file(certificate)?, read_file(key)?);
                let chain = certificates(certificate, &pair.0)?;
                let secret = PrivateKeyDer::from_pem_slice(&pair.1).map_err(|error| bad(key, &error))?;
                let provider = Arc::new(rustls::crypto::ring::default_provider());
                let builder =
                    ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
                let builder =
                    builder.map_err(|error| bad(certificate, &error))?.with_root_certificates(roots);
                builder.with_client_auth_cert(chain, secret).map_err(|error| bad(certificate, &error))?;
                Some(pair)
            }
            (None, None) => None,
            _ => return Err(StartError::HalfIdentity),
        };
        Ok(Pem { ca, identity })
    }
}

fn bad(path: &Path, error: &dyn std::error::Error) -> StartError {
    StartError::Pem { path: path.to_owned(), message: error.to_string() }
}

fn certificates(path: &Path, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, StartError> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let found = found.map_err(|error| bad(path, &error))?;
    if found.is_empty() {
        let message = "no certificate in it".to_owned();
        return Err(StartError::Pem { path: path.to_owned(), message });
    }
    Ok(found)
}

fn read_file(path: &Path) -> Result<Vec<u8>, StartError> {
    let failed = |error| StartError::File { path: path.to_owned(), error };
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(failed)?;
    file.take(PEM_BYTES_MAX).read_to_end(&mut bytes).map_err(failed)?;
    Ok(bytes)
}

/// Seconds and nanoseconds of the last change, inode and length; `None` where the file is missing.
type Look = Option<(i64, i64, u64, u64)>;

/// The files of a destination and how they looked when they were used last.
#[derive(Debug)]
pub(crate) struct Files {
    paths: Vec<PathBuf>,
    used: Vec<Look>,
    seen: Vec<Look>,
    refused_ns: Option<u64>,
}

impl Files {
    pub(crate) fn new(tls: &Tls) -> Files {
        let named = [&tls.ca, &tls.client_certificate, &tls.client_key];
        let paths: Vec<PathBuf> = named.into_iter().flatten().cloned().collect();
        let used = look(&paths);
        Files { paths, seen: used.clone(), used, refused_ns: None }
    }

    /// Whether the files should be read: they look other than those in use, and not as those that were refused just now.
    /// Three `stat` calls at most.
    pub(crate) fn is_changed(&mut self, now_ns: u64) -> bool {
        let found = look(&self.paths);
        if found == self.used {
            return false;
        }
        let again = self.refused_ns.is_none_or(|at| now_ns.saturating_sub(at) >= AGAIN_NS);
        let due = again || found != self.seen;
        self.seen = found;
        due
    }

    /// What was seen last is in use.
    pub(crate) fn used(&mut self) {
        self.used.clone_from(&self.seen);
        self.refused_ns = None;
    }

    /// What was seen last cannot be used.
    pub(crate) fn refused(&mut self, now_ns: u64) {
        self.refused_ns = Some(now_ns);
    }
}

fn look(paths: &[PathBuf]) -> Vec<Look> {
    let one = |path: &PathBuf| {
        let meta = std::fs::metadata(path).ok()?;
        // Also of a mode: a file that became readable is worth a look.
        Some((meta.ctime(), meta.ctime_nsec(), meta.ino(), meta.len()))
    };
    paths.iter().map(one).collect()
}
