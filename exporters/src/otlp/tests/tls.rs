//! TLS and client certificates, over both protocols, against a receiver that demands them.
//!
//! The certificates are constants: an authority of this test, valid until 2120, and one certificate for 127.0.0.1.

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio_rustls::TlsAcceptor;

use super::*;

const CA: &str = "-----BEGIN CERTIFICATE-----
MIIBaDCCAQ+gAwIBAgIBATAKBggqhkjOPQQDAjAbMRkwFwYDVQQDDBBiYWNrYnVy
biB0ZXN0IGNhMCAXDTIwMDEwMTAwMDAwMFoYDzIxMjAwMTAxMDAwMDAwWjAbMRkw
FwYDVQQDDBBiYWNrYnVybiB0ZXN0IGNhMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcD
QgAE4F+DWFUonAyfwyoAK8XNC7guGdj3c07KapBG2vklvbwOoZ5lcKPy8gs8MnQW
rbXSSJq7K0tvalY68xqlKWvynqNCMEAwDwYDVR0TAQH/BAUwAwEB/zAOBgNVHQ8B
Af8EBAMCAQYwHQYDVR0OBBYEFP9+P5IDwl9uIlUUeI+zBIko51WmMAoGCCqGSM49
BAMCA0cAMEQCIBDkARVhhfO+d3qZ919q4RmSK7UwVZgHvMJk8sdpn+JxAiBJEnaX
XddSPq39Hn411bmkJwAsZ5A8RvqumM9HVBmJBQ==
-----END CERTIFICATE-----\n";

const CERTIFICATE: &str = "-----BEGIN CERTIFICATE-----
MIIBrDCCAVOgAwIBAgIBAjAKBggqhkjOPQQDAjAbMRkwFwYDVQQDDBBiYWNrYnVy
biB0ZXN0IGNhMCAXDTIwMDEwMTAwMDAwMFoYDzIxMjAwMTAxMDAwMDAwWjAUMRIw
EAYDVQQDDAlsb2NhbGhvc3QwWTATBgcqhkjOPQIBBggqhkjOPQMBBwNCAAT92H1P
q6rrb6rKF4m6yWLPv5KML2gkG5LBAy6Fs0JYbTJoTqJIWP3sTrZsISro0qBXmsbW
C0niglAJXcpNJJC8o4GMMIGJMAwGA1UdEwEB/wQCMAAwGgYDVR0RBBMwEYcEfwAA
AYIJbG9jYWxob3N0MB0GA1UdJQQWMBQGCCsGAQUFBwMBBggrBgEFBQcDAjAdBgNV
HQ4EFgQUvdeQq60bfE6hRIPIzzVWIK4zzDgwHwYDVR0jBBgwFoAU/34/kgPCX24i
VRR4j7MEiSjnVaYwCgYIKoZIzj0EAwIDRwAwRAIgBSJ6I4b9Y5HqnxBGJhvbE9j6
RyMe5UI/JVvL2HalmGMCIB4tv/qDz7Y/7AWew4Dy5/lcko4IVUysE8N5b3y32mWK
-----END CERTIFICATE-----\n";

/// Guards nothing: made for this test.
const KEY: &str = "-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgqvORINuUh1Vk2bKZ
NgIQtuXmA5jCnN4IdWOiLuuEULGhRANCAAT92H1Pq6rrb6rKF4m6yWLPv5KML2gk
G5LBAy6Fs0JYbTJoTqJIWP3sTrZsISro0qBXmsbWC0niglAJXcpNJJC8
-----END PRIVATE KEY-----\n";

fn acceptor(grpc: bool) -> TlsAcceptor {
    rustls::crypto::ring::default_provider().install_default().ok();
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(CA.as_bytes()).unwrap()).unwrap();
    let verifier = WebPkiClientVerifier::builder(Arc::new(roots)).build().unwrap();
    let chain = vec![CertificateDer::from_pem_slice(CERTIFICATE.as_bytes()).unwrap()];
    let key = PrivateKeyDer::from_pem_slice(KEY.as_bytes()).unwrap();
    let mut config =
        ServerConfig::builder().with_client_cert_verifier(verifier).with_single_cert(chain, key).unwrap();
    config.alpn_protocols = vec![if grpc { b"h2".to_vec() } else { b"http/1.1".to_vec() }];
    TlsAcceptor::from(Arc::new(config))
}

/// What is sent with these files to a receiver that wants a client certificate.
async fn check(grpc: bool, files: &[&str], drain: Duration) -> (u64, Ledger) {
    let folder =
        std::env::temp_dir().join(format!("backburn-otlp-tls-{}-{grpc}-{}", std::process::id(), files.len()));
    std::fs::create_dir_all(&folder).unwrap();
    let write = |name: &str, text: &str| {
        let path = folder.join(name);
        std::fs::write(&path, text).unwrap();
        files.contains(&name).then_some(path)
    };
    let tls = Tls {
        ca: write("ca", CA),
        client_certificate: write("certificate", CERTIFICATE),
        client_key: write("key", KEY),
        insecure: true,
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut config = config(&format!("https://{}", listener.local_addr().unwrap()), grpc);
    config.each(|destination| destination.tls = tls.clone());
    let script = Arc::new(Script::default());
    let mut tasks = JoinSet::new();
    let acceptor = acceptor(grpc);
    tasks.spawn(async move {
        loop {
            let Ok((stream, _)) = listener.accept().await else { return };
            let Ok(stream) = acceptor.accept(stream).await else { continue };
            let script = script.clone();
            let service = hyper::service::service_fn(move |request| {
                let script = script.clone();
                async move { script.answer(request, grpc).await }
            });
            let io = TokioIo::new(stream);
            if grpc {
                let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                server.serve_connection(io, service).await.ok();
            } else {
                hyper::server::conn::http1::Builder::new().serve_connection(io, service).await.ok();
            }
        }
    });
    let ledger = Ledger::default();
    let exporter = Exporter::new(&config, clock(), ledger.clone()).unwrap();
    std::fs::remove_dir_all(&folder).unwrap();
    let (tx, rx) = mpsc::channel(1);
    tx.send(lines(&["one"]).0).await.unwrap();
    drop(tx);
    exporter.run(rx, drain).await;
    (sent(&ledger), ledger)
}

#[tokio::test]
async fn a_client_certificate_opens_a_receiver_that_demands_one() {
    for grpc in [true, false] {
        let (sent, ledger) = check(grpc, &["ca", "certificate", "key"], Duration::from_secs(5)).await;
        assert_eq!(sent, 1, "{grpc} {:?}", ledger.lines());
    }
}

#[tokio::test]
async fn without_certificate_or_trust_nothing_is_sent() {
    for grpc in [true, false] {
        for files in [&["ca"][..], &["certificate", "key"][..]] {
            let (sent, ledger) = check(grpc, files, Duration::from_millis(600)).await;
            assert_eq!((sent, dropped(&ledger, "shutdown")), (0, 1), "{grpc} {files:?} {:?}", ledger.lines());
            assert!(ledger.get("agent_otlp_retries_total", "connection") > 0);
        }
    }
}
