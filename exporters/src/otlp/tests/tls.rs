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

/// Takes what comes with a client certificate.
fn receive(tasks: &mut JoinSet<()>, listener: TcpListener, grpc: bool) {
    let script = Arc::new(Script::default());
    let acceptor = acceptor(grpc);
    tasks.spawn(async move {
        let mut connections = JoinSet::new();
        loop {
            let Ok((stream, _)) = listener.accept().await else { return };
            let Ok(stream) = acceptor.accept(stream).await else { continue };
            let script = script.clone();
            connections.spawn(script.converse(stream, grpc));
        }
    });
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
    let mut tasks = JoinSet::new();
    receive(&mut tasks, listener, grpc);
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
            assert_eq!((sent, left(&ledger)), (0, 1), "{grpc} {files:?} {:?}", ledger.lines());
            assert!(ledger.get("agent_otlp_retries_total", "connection") > 0);
        }
    }
}

/// Waits until the ledger counts `reason` of reloads.
async fn reloaded(ledger: &Ledger, reason: &'static str) {
    while ledger.get("agent_tls_reloads_total", reason) == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn delivered(tx: &mpsc::Sender<Item>, ledger: &Ledger) {
    let before = sent(ledger);
    tx.send(lines(&["one"]).0).await.unwrap();
    while sent(ledger) == before {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn rotated_files_are_used_by_the_next_attempt_and_broken_ones_are_not() {
    for grpc in [true, false] {
        let folder = std::env::temp_dir().join(format!("backburn-otlp-rotate-{}-{grpc}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let [ca, certificate, key] = ["ca", "certificate", "key"].map(|name| folder.join(name));
        // A certificate, but not the one that signs the receiver's.
        std::fs::write(&ca, CERTIFICATE).unwrap();
        std::fs::write(&certificate, CERTIFICATE).unwrap();
        std::fs::write(&key, KEY).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut config = config(&format!("https://{}", listener.local_addr().unwrap()), grpc);
        config.logs.tls = Tls {
            ca: Some(ca.clone()),
            client_certificate: Some(certificate),
            client_key: Some(key.clone()),
            insecure: false,
        };
        let mut tasks = JoinSet::new();
        receive(&mut tasks, listener, grpc);
        let ledger = Ledger::default();
        let exporter = Exporter::new(&config, clock(), ledger.clone()).unwrap();
        let (tx, rx) = mpsc::channel(1);
        let rotate = async {
            tx.send(lines(&["one"]).0).await.unwrap();
            while ledger.get("agent_otlp_retries_total", "connection") == 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            std::fs::write(&ca, CA).unwrap();
            reloaded(&ledger, "ok").await;
            delivered(&tx, &ledger).await;
            std::fs::write(&key, "-----BEGIN PRIVATE KEY-----\nhalf a fi").unwrap();
            delivered(&tx, &ledger).await;
            delivered(&tx, &ledger).await;
            assert_eq!(ledger.get("agent_tls_reloads_total", "failed"), 1, "{:?}", ledger.lines());
            drop(tx);
        };
        let both = async { tokio::join!(exporter.run(rx, Duration::from_secs(2)), rotate) };
        tokio::time::timeout(Duration::from_secs(20), both).await.expect("the exporter ends");
        assert_eq!(left(&ledger), 0);
        std::fs::remove_dir_all(&folder).unwrap();
    }
}

#[test]
fn a_file_that_is_no_certificate_is_said_at_start() {
    let folder = std::env::temp_dir().join(format!("backburn-otlp-bad-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let write = |name: &str, text: &str| {
        let path = folder.join(name);
        std::fs::write(&path, text).unwrap();
        Some(path)
    };
    let (good, key, none) = (write("good", CERTIFICATE), write("key", KEY), write("none", "nothing"));
    let check = |ca: &Option<PathBuf>, certificate: &Option<PathBuf>, key: &Option<PathBuf>, part: &str| {
        let mut config = config("https://127.0.0.1:1", true);
        let (ca, client_certificate, client_key) = (ca.clone(), certificate.clone(), key.clone());
        config.logs.tls = Tls { ca, client_certificate, client_key, insecure: false };
        let error = Exporter::new(&config, clock(), Ledger::default()).unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    };
    check(&none, &None, &None, "none: no certificate in it");
    check(&None, &good, &none, "none: ");
    check(&None, &none, &key, "none: no certificate in it");
    std::fs::remove_dir_all(&folder).unwrap();
}
