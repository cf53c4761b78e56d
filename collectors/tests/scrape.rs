//! The scraper against servers that answer well, badly, slowly, or with malice.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "clippy sees only #[test] functions as tests, not what they share"
)]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use collectors::clock;
use collectors::host::{self, Host};
use collectors::scrape::{Config, Encoding, Scraper, StartError};
use collectors::target::{Identity, Target};
use collectors::tls::{self, TlsError, TlsFiles};
use model::inbox::Inbox;
use model::ledger::Ledger;
use model::origin::Origin;
use model::record::{Fact, Record};
use model::scrape::{PointShape, Scrape, ScrapeOutcome, is_stale};
use model::time::{Clock, Stamp};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_util::sync::CancellationToken;

const PAGE: &str = "# TYPE a_total counter\na_total 10\n# TYPE g gauge\ng 2\n";

/// Serves each connection with `answer`, on a thread that ends with the test; gives the requests it read.
fn serve(
    answer: impl Fn(&mut dyn ReadWrite) + Send + 'static,
    tls: Option<Arc<rustls::ServerConfig>>,
) -> (SocketAddr, mpsc::Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (tx, rx) = mpsc::channel();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let stream = stream.unwrap();
            stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
            match &tls {
                None => talk(stream, &answer, &tx),
                Some(config) => {
                    let connection = rustls::ServerConnection::new(Arc::clone(config)).unwrap();
                    talk(rustls::StreamOwned::new(connection, stream), &answer, &tx);
                }
            }
        }
    });
    (address, rx)
}

trait ReadWrite: Read + Write {}
impl<T: Read + Write> ReadWrite for T {}

fn talk(mut stream: impl ReadWrite, answer: &impl Fn(&mut dyn ReadWrite), tx: &mpsc::Sender<String>) {
    let mut request = Vec::new();
    let mut byte = [0];
    while !request.ends_with(b"\r\n\r\n") {
        match stream.read(&mut byte) {
            Ok(1) => request.push(byte[0]),
            _ => return,
        }
    }
    let _gone = tx.send(String::from_utf8(request).unwrap()).is_err();
    answer(&mut stream);
}

/// Says all of it; the scraper may hang up in the middle.
fn say(stream: &mut dyn ReadWrite, head: &str, body: &[u8]) {
    let head = format!("HTTP/1.1 {head}\r\nConnection: close\r\n\r\n");
    let _hung_up = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body)).is_err();
    let _hung_up = stream.flush().is_err();
}

/// With a length, as TLS needs it: a connection that just ends is an attack there.
fn say_whole(stream: &mut dyn ReadWrite) {
    say(stream, &format!("200 OK\r\nContent-Length: {}", PAGE.len()), PAGE.as_bytes());
}

fn gzip(body: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(body).unwrap();
    encoder.finish().unwrap()
}

fn target(url: &str, tls: TlsFiles) -> Target {
    Target {
        name: "m1".to_owned(),
        client_url: None,
        metrics_url: Some(url.to_owned()),
        pprof_url: None,
        tls,
        login: None,
        pid: None,
        data_dir: None,
        log_file: None,
        local: true,
        identity: Identity::new("node", "m1", url),
    }
}

fn config() -> Config {
    Config {
        interval: Duration::from_secs(10),
        timeout: Duration::from_secs(5),
        body_bytes_max: 1 << 20,
        ..Config::default()
    }
}

fn scraper(url: &str, config: Config, ledger: &Ledger) -> Scraper {
    Scraper::new(&target(url, TlsFiles::default()), config, clock::system(), ledger.clone()).unwrap()
}

fn page(record: Record) -> Scrape {
    match record.fact {
        Fact::Scrape(scrape) => scrape,
        other => panic!("{other:?}"),
    }
}

fn up(scrape: &Scrape) -> f64 {
    match scrape.layout.find("up", &[]).unwrap().shape {
        PointShape::Value { series } => scrape.value(series).unwrap(),
        ref other => panic!("{other:?}"),
    }
}

/// One scrape of a server that says `head` and `body` ends as `reason` (`ok` where the page came).
async fn check(head: &'static str, body: &[u8], config: Config, reason: &'static str) -> Scrape {
    let body = body.to_vec();
    let (address, _requests) = serve(move |stream| say(stream, head, &body), None);
    let ledger = Ledger::default();
    let mut scraper = scraper(&format!("http://{address}/metrics"), config, &ledger);
    let scrape = page(scraper.scrape().await);
    match &scrape.outcome {
        ScrapeOutcome::Up => assert_eq!(reason, "ok"),
        ScrapeOutcome::Down { reason: seen, detail } => assert_eq!(seen, reason, "{detail}"),
    }
    assert_eq!(ledger.get("agent_scrapes_total", reason), 1);
    assert_eq!(up(&scrape), if reason == "ok" { 1.0 } else { 0.0 });
    scrape
}

#[tokio::test]
async fn a_page_becomes_a_record_and_the_request_is_as_small_as_it_can_be() {
    let (address, requests) = serve(|stream| say(stream, "200 OK", PAGE.as_bytes()), None);
    let ledger = Ledger::default();
    let mut scraper = scraper(&format!("http://user:secret@{address}/metrics"), config(), &ledger);
    let record = scraper.scrape().await;
    assert_eq!(record.origin.member_name(), "m1");
    let scrape = page(record);
    assert_eq!(&*scrape.target, format!("http://{address}/metrics"));
    assert_eq!((scrape.samples, scrape.body_bytes), (2, PAGE.len() as u64));
    assert!(scrape.duration_ns > 0 && scrape.values.len() == 7 && !scrape.restarted);
    let request = requests.recv().unwrap().to_lowercase();
    assert!(request.starts_with("get /metrics http/1.1\r\n"), "{request}");
    assert!(request.contains("accept: text/plain;version=0.0.4\r\n"), "{request}");
    assert!(request.contains("accept-encoding: identity\r\n"), "loopback: {request}");
    assert!(request.contains("authorization: basic "), "{request}");
}

#[tokio::test]
async fn gzip_is_asked_for_where_configured_and_inflated() {
    let (address, requests) =
        serve(|stream| say(stream, "200 OK\r\nContent-Encoding: gzip", &gzip(PAGE.as_bytes())), None);
    let config = Config { encoding: Encoding::Gzip, ..config() };
    let scrape = page(scraper(&format!("http://{address}/"), config, &Ledger::default()).scrape().await);
    assert_eq!((scrape.samples, scrape.body_bytes), (2, PAGE.len() as u64));
    assert!(requests.recv().unwrap().to_lowercase().contains("accept-encoding: gzip\r\n"));
}

#[tokio::test]
async fn bad_answers_are_data_with_a_reason() {
    check("200 OK", PAGE.as_bytes(), config(), "ok").await;
    check("503 Busy", b"later", config(), "status").await;
    check("302 Found\r\nLocation: http://127.0.0.1:1/", b"", config(), "status").await;
    check("200 OK\r\nContent-Encoding: br", b"xx", config(), "encoding").await;
    check("200 OK\r\nContent-Length: 9999", PAGE.as_bytes(), config(), "broken").await;
    check("200 OK\r\nContent-Length: 99999999", b"", config(), "body_too_large").await;
    check("200 OK", &vec![b'#'; 2 << 20], config(), "body_too_large").await;
    check("200 OK", b"<html>\n<p>log in\n", config(), "not_exposition").await;
    check("200 OK\r\nContent-Encoding: gzip", b"not gzip at all", config(), "gzip").await;
    let torn = gzip(PAGE.repeat(50).as_bytes());
    check("200 OK\r\nContent-Encoding: gzip", &torn[..torn.len() - 9], config(), "gzip").await;
    let bomb = gzip(&vec![b'\n'; 64 << 20]);
    assert!(bomb.len() < 100_000);
    check("200 OK\r\nContent-Encoding: gzip", &bomb, config(), "body_too_large").await;
    let long = [PAGE.as_bytes(), &[b'x'; 1_000_000][..], b" 1\n"].concat();
    let scrape = check("200 OK", &long, Config { body_bytes_max: 4 << 20, ..config() }, "ok").await;
    assert_eq!(scrape.samples, 2);
}

#[tokio::test]
async fn a_closed_port_is_refused_and_a_silent_or_endless_server_runs_out_of_time() {
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let ledger = Ledger::default();
    let scrape = page(scraper(&format!("http://{closed}/metrics"), config(), &ledger).scrape().await);
    assert!(matches!(scrape.outcome, ScrapeOutcome::Down { ref reason, .. } if reason == "refused"));
    let short = Config { timeout: Duration::from_millis(100), ..config() };
    let (silent, _requests) = serve(|_| thread::sleep(Duration::from_secs(3)), None);
    let scrape = page(scraper(&format!("http://{silent}/metrics"), short.clone(), &ledger).scrape().await);
    assert!(matches!(scrape.outcome, ScrapeOutcome::Down { ref reason, .. } if reason == "timeout"));
    let drip = |stream: &mut dyn ReadWrite| {
        say(stream, "200 OK", b"");
        while stream.write_all(b"a 1\n").is_ok() {
            thread::sleep(Duration::from_millis(10));
        }
    };
    let (endless, _requests) = serve(drip, None);
    let scrape = page(scraper(&format!("http://{endless}/metrics"), short, &ledger).scrape().await);
    assert!(matches!(scrape.outcome, ScrapeOutcome::Down { ref reason, .. } if reason == "timeout"));
    assert_eq!(ledger.get("agent_scrapes_total", "timeout"), 2);
}

#[tokio::test]
async fn scrapes_run_on_their_interval_skip_a_full_inbox_and_stop_when_told() {
    let (address, requests) = serve(|stream| say(stream, "200 OK", PAGE.as_bytes()), None);
    let ledger = Ledger::default();
    let config = Config {
        interval: Duration::from_millis(250),
        timeout: Duration::from_millis(240),
        ..Config::default()
    };
    let scraper = scraper(&format!("http://{address}/metrics"), config, &ledger);
    let (inbox, mut rx) = Inbox::new(2, 1024);
    let cancel = CancellationToken::new();
    let engine = async {
        while ledger.get("agent_scrapes_skipped_total", "inbox_full") < 2 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert_eq!(requests.try_iter().count(), 2, "no place, no request");
        for _ in 0..4 {
            assert_eq!(page(rx.recv().await.unwrap().record).samples, 2);
        }
        cancel.cancel();
    };
    tokio::join!(scraper.run(inbox, cancel.clone()), engine);
}

#[test]
fn all_sources_can_be_spawned() {
    fn check(_: impl Future<Output = ()> + Send + 'static) {}
    let (inbox, _rx) = Inbox::new(1, 1);
    let (cancel, ledger) = (CancellationToken::new(), Ledger::default());
    let origin = Arc::new(Origin::default());
    let (_tx, watched) = tokio::sync::watch::channel(Vec::new());
    check(scraper("http://127.0.0.1:1/metrics", config(), &ledger).run(inbox.clone(), cancel.clone()));
    let host =
        Host::new(PathBuf::from("/"), host::Config::default(), watched, clock::system(), ledger.clone());
    check(host.run(Arc::clone(&origin), inbox.clone(), cancel.clone()));
    check(clock::run(clock::system(), origin, inbox, cancel, ledger));
}

#[tokio::test]
async fn a_target_that_dies_ends_its_series_once() {
    let (address, _requests) = serve(
        {
            let count = std::sync::atomic::AtomicU32::new(0);
            move |stream| {
                let up = count.fetch_add(1, std::sync::atomic::Ordering::Relaxed) == 0;
                say(stream, if up { "200 OK" } else { "500 Oops" }, PAGE.as_bytes());
            }
        },
        None,
    );
    let mut scraper = scraper(&format!("http://{address}/metrics"), config(), &Ledger::default());
    let first = page(scraper.scrape().await);
    let second = page(scraper.scrape().await);
    let third = page(scraper.scrape().await);
    assert!(Arc::ptr_eq(&first.layout, &third.layout));
    assert!(second.values[..2].iter().all(|value| is_stale(*value)));
    assert!(third.value(0).is_none() && !is_stale(third.values[0]));
    assert_eq!((up(&first), up(&second), up(&third)), (1.0, 0.0, 0.0));
}

#[test]
fn what_cannot_work_is_said_at_the_start_without_secrets() {
    let start = |url: &str, config: Config| {
        let target = target(url, TlsFiles::default());
        Scraper::new(&target, config, clock::system(), Ledger::default()).unwrap_err().to_string()
    };
    assert_eq!(
        start("ftp://u:secret@h/metrics", config()),
        "metrics url \"ftp://h/metrics\": scheme ftp is neither http nor https"
    );
    assert!(!start("http://u:secret@[/", config()).contains("secret"));
    let slow = Config { timeout: Duration::from_secs(10), ..config() };
    assert!(start("http://h/metrics", slow).contains("below the interval"));
}

fn file(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/tls").join(name)
}

fn files(ca: &str) -> TlsFiles {
    TlsFiles { ca: Some(file(ca)), cert: Some(file("client.pem")), key: Some(file("client.key")) }
}

/// A server that wants a certificate of the test CA.
fn mutual_tls() -> Arc<rustls::ServerConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(file("ca.pem")).unwrap()).unwrap();
    let verifier =
        rustls::server::WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
            .build()
            .unwrap();
    let chain = vec![CertificateDer::from_pem_file(file("server.pem")).unwrap()];
    let key = PrivateKeyDer::from_pem_file(file("server.key")).unwrap();
    let builder =
        rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    Arc::new(builder.with_client_cert_verifier(verifier).with_single_cert(chain, key).unwrap())
}

#[tokio::test]
async fn https_needs_the_right_ca_and_shows_the_client_certificate() {
    let (address, _requests) = serve(say_whole, Some(mutual_tls()));
    let url = format!("https://localhost:{}/metrics", address.port());
    let scrape = |files: TlsFiles| {
        Scraper::new(&target(&url, files), config(), clock::system(), Ledger::default()).unwrap()
    };
    assert_eq!(page(scrape(files("ca.pem")).scrape().await).outcome, ScrapeOutcome::Up);
    for wrong in [files("other-ca.pem"), TlsFiles { cert: None, key: None, ..files("ca.pem") }] {
        let seen = page(scrape(wrong.clone()).scrape().await);
        let ScrapeOutcome::Down { reason, detail } = seen.outcome else { panic!("{wrong:?} was let in") };
        assert_eq!(reason, "tls", "{detail}");
    }
}

#[tokio::test]
async fn a_rotated_certificate_is_used_at_the_next_scrape_and_a_broken_one_is_not() {
    let (address, _requests) = serve(say_whole, Some(mutual_tls()));
    let url = format!("https://127.0.0.1:{}/metrics", address.port());
    let dir = std::env::temp_dir().join(format!("backburn-rotate-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let ca = dir.join("ca.pem");
    std::fs::copy(file("other-ca.pem"), &ca).unwrap();
    let ledger = Ledger::default();
    let rotating = TlsFiles { ca: Some(ca.clone()), ..files("ca.pem") };
    let mut scraper =
        Scraper::new(&target(&url, rotating), config(), clock::system(), ledger.clone()).unwrap();
    assert_ne!(page(scraper.scrape().await).outcome, ScrapeOutcome::Up);
    std::fs::copy(file("ca.pem"), &ca).unwrap();
    assert_eq!(page(scraper.scrape().await).outcome, ScrapeOutcome::Up);
    std::fs::write(&ca, "half a file").unwrap();
    assert_eq!(page(scraper.scrape().await).outcome, ScrapeOutcome::Up, "the old one goes on");
    assert_eq!(ledger.get("agent_tls_reloads_total", "ok"), 1);
    assert_eq!(ledger.get("agent_tls_reloads_total", "failed"), 1);
    std::fs::remove_dir_all(&dir).unwrap();
}

#[tokio::test]
async fn a_reload_never_gives_a_generation_again() {
    let (address, _requests) = serve(say_whole, None);
    let url = format!("http://{address}/metrics");
    let plain = target(&url, TlsFiles::default());
    let mut last = 0;
    // What stands behind a reload or a restart is a clock that goes on, or one that begins anew with lost state.
    for mono_ns in [5_000, 5_000, 9_000_000_000, 0, 7] {
        let clock = Clock::new(move || Stamp { mono_ns, wall_ns: 1_700_000_000_000_000_000 });
        let mut scraper = Scraper::new(&plain, config(), clock, Ledger::default()).unwrap();
        let generation = page(scraper.scrape().await).generation;
        assert!(generation > last.max(mono_ns), "{generation} after {last} at {mono_ns}");
        assert_eq!(page(scraper.scrape().await).generation, generation, "the page is the same");
        last = generation;
    }
}

#[test]
fn a_tls_error_names_the_file_and_the_cause() {
    let check = |files: TlsFiles, words: &[&str]| {
        let text = tls::client_config(&files).unwrap_err().to_string();
        assert!(words.iter().all(|word| text.contains(word)), "{text}");
    };
    let good = files("ca.pem");
    check(TlsFiles { ca: Some(file("none.pem")), ..good.clone() }, &["none.pem", "No such file"]);
    check(TlsFiles { ca: Some(file("client.key")), ..good.clone() }, &["client.key", "no certificate in it"]);
    check(TlsFiles { key: Some(file("ca.pem")), ..good.clone() }, &["ca.pem", "no private key in it"]);
    check(TlsFiles { key: Some(file("server.key")), ..good.clone() }, &["client.pem"]);
    check(TlsFiles { key: None, ..good.clone() }, &["client.pem", "has no key"]);
    let start = Scraper::new(
        &target("https://h/metrics", TlsFiles { key: None, ..good }),
        config(),
        clock::system(),
        Ledger::default(),
    );
    assert!(matches!(start, Err(StartError::Tls(TlsError::Half { .. }))));
}
