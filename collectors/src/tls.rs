//! Client certificates as files, named once and read anew when they rotate. Owns the paths, never prints contents.

use std::path::PathBuf;

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
