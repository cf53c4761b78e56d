//! An authority of our own with a server and a client certificate, for clusters that ask for both.
//!
//! Owns the files and what they say. Everything is made anew for each cluster and removed with it.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
};

/// PEM files, named as etcdctl's flags name them.
#[derive(Clone, Debug)]
pub struct Certs {
    /// Signs both sides.
    pub cacert: PathBuf,
    /// Of the members, for 127.0.0.1 and localhost.
    pub server_cert: PathBuf,
    /// Its key.
    pub server_key: PathBuf,
    /// Of clients; its common name is `harness`.
    pub cert: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

impl Certs {
    /// Writes the five files into `dir`.
    pub fn generate(dir: &Path) -> Result<Certs> {
        fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))?;
        let certs = Certs {
            cacert: dir.join("ca.crt"),
            server_cert: dir.join("server.crt"),
            server_key: dir.join("server.key"),
            cert: dir.join("client.crt"),
            key: dir.join("client.key"),
        };
        let mut authority = params("harness authority", None)?;
        authority.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate()?)?;
        fs::write(&certs.cacert, authority.pem())?;
        // The members' own gateway connects to them with the server's certificate, so it serves as a client's too.
        let mut server = params("harness server", Some(ExtendedKeyUsagePurpose::ServerAuth))?;
        server.extended_key_usages.push(ExtendedKeyUsagePurpose::ClientAuth);
        issue(&server, &authority, &certs.server_cert, &certs.server_key)?;
        let client = params("harness", Some(ExtendedKeyUsagePurpose::ClientAuth))?;
        issue(&client, &authority, &certs.cert, &certs.key)?;
        Ok(certs)
    }
}

fn params(name: &str, usage: Option<ExtendedKeyUsagePurpose>) -> Result<CertificateParams> {
    let mut params = CertificateParams::new(["localhost".to_owned(), "127.0.0.1".to_owned()])?;
    params.distinguished_name.push(DnType::CommonName, name);
    params.extended_key_usages.extend(usage);
    Ok(params)
}

fn issue(
    params: &CertificateParams,
    authority: &CertifiedIssuer<'_, KeyPair>,
    cert: &Path,
    key: &Path,
) -> Result<()> {
    let pair = KeyPair::generate()?;
    fs::write(cert, params.signed_by(&pair, authority)?.pem())?;
    fs::write(key, pair.serialize_pem())?;
    Ok(())
}
