//! An authority of our own with a server and a client certificate, for clusters that ask for both.
//!
//! Owns the files and what they say. Everything is made anew for each cluster and removed with it.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context, Result};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
};
use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::WebPkiClientVerifier,
};

/// Whether a server asks its clients who they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientAuth {
    /// Anybody may come.
    None,
    /// Only with a certificate of the authority.
    Required,
}

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

    /// For a client that trusts the authority and shows the client certificate where asked.
    pub(crate) fn client_config(&self) -> Result<Arc<ClientConfig>> {
        let config = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()?
            .with_root_certificates(self.roots()?)
            .with_client_auth_cert(chain(&self.cert)?, PrivateKeyDer::from_pem_file(&self.key)?)?;
        Ok(Arc::new(config))
    }

    /// For a server of HTTP/1.1 and HTTP/2.
    pub(crate) fn server_config(&self, auth: ClientAuth) -> Result<Arc<ServerConfig>> {
        let builder =
            ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions()?;
        let builder = match auth {
            ClientAuth::None => builder.with_no_client_auth(),
            ClientAuth::Required => builder.with_client_cert_verifier(
                WebPkiClientVerifier::builder_with_provider(Arc::new(self.roots()?), provider()).build()?,
            ),
        };
        let key = PrivateKeyDer::from_pem_file(&self.server_key)?;
        let mut config = builder.with_single_cert(chain(&self.server_cert)?, key)?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Arc::new(config))
    }

    fn roots(&self) -> Result<RootCertStore> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(&self.cacert)?)?;
        Ok(roots)
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

fn chain(cert: &Path) -> Result<Vec<CertificateDer<'static>>> {
    Ok(vec![CertificateDer::from_pem_file(cert)?])
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
