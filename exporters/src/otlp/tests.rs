//! The whole exporter against receivers that run in the test: good ones, slow ones, hostile ones.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io::Read;
use std::sync::Mutex;
use std::task::Context;

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::{Body, Frame, Incoming};
use hyper_util::rt::{TokioExecutor, TokioIo};
use model::finding::{Burn, Conclusion, Lane as BurnLane};
use model::log::{LogBatch, LogEvent, Meaning, Receipt, ReceiptState, Severity};
use model::member::MemberFact;
use model::origin::Origin;
use model::record::Fact;
use model::time::Stamp;
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use prost::Message;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use super::wire::Writer;
use super::*;

mod tls;

/// What a receiver does with one request; the last one of a script is repeated.
#[derive(Clone, Debug)]
enum Answer {
    Ok,
    Partial(u64),
    /// gRPC status and details.
    Status(u32, Vec<u8>),
    /// HTTP status and `retry-after`.
    Http(u16, &'static str),
    /// Takes requests of at most so many bytes.
    Limit(usize),
    Garbage,
    /// A body without end.
    Endless,
    /// Never.
    Hang,
}

#[derive(Clone, Debug)]
struct Seen {
    path: String,
    headers: reqwest::header::HeaderMap,
    body: Bytes,
    at: Instant,
}

#[derive(Debug, Default)]
struct Script {
    answers: Mutex<VecDeque<Answer>>,
    seen: Mutex<Vec<Seen>>,
}

/// A body with trailers, and perhaps without end.
struct Reply {
    data: Option<Bytes>,
    trailers: Option<reqwest::header::HeaderMap>,
    endless: bool,
}

impl Body for Reply {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.endless {
            return Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(&[0; 16_384])))));
        }
        if let Some(data) = self.data.take() {
            return Poll::Ready(Some(Ok(Frame::data(data))));
        }
        Poll::Ready(self.trailers.take().map(|trailers| Ok(Frame::trailers(trailers))))
    }
}

impl Script {
    /// Answers all requests of one connection.
    async fn converse<S>(self: Arc<Self>, stream: S, grpc: bool)
    where
        S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
    {
        let service = hyper::service::service_fn(move |request| {
            let script = self.clone();
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

    async fn answer(
        &self,
        request: hyper::Request<Incoming>,
        grpc: bool,
    ) -> Result<hyper::Response<Reply>, Infallible> {
        let (head, body) = request.into_parts();
        let body = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
        let len = body.len();
        let seen = Seen { path: head.uri.path().to_owned(), headers: head.headers, body, at: Instant::now() };
        self.seen.lock().unwrap().push(seen);
        let answer = {
            let mut answers = self.answers.lock().unwrap();
            if answers.len() > 1 { answers.pop_front() } else { answers.front().cloned() }
        };
        let answer = match answer.unwrap_or(Answer::Ok) {
            Answer::Limit(most) if len <= most => Answer::Ok,
            other => other,
        };
        Ok(reply(answer, grpc).await)
    }
}

async fn reply(answer: Answer, grpc: bool) -> hyper::Response<Reply> {
    let is_limit = matches!(answer, Answer::Limit(_));
    let mut response = hyper::Response::new(Reply { data: None, trailers: None, endless: false });
    let mut status = (0, Vec::new());
    let mut message = Vec::new();
    match answer {
        Answer::Ok => {}
        Answer::Partial(rejected) => {
            let mut writer = Writer::default();
            let mark = writer.open(1);
            writer.uint(1, rejected);
            writer.string(2, "too old");
            writer.close(mark);
            message = writer.into_bytes();
        }
        Answer::Status(code, details) => status = (code, details),
        Answer::Limit(_) if grpc => status = (8, Vec::new()),
        Answer::Limit(_) => {
            *response.status_mut() = hyper::StatusCode::PAYLOAD_TOO_LARGE;
            return response;
        }
        Answer::Http(code, after) => {
            *response.status_mut() = hyper::StatusCode::from_u16(code).unwrap();
            if !after.is_empty() {
                response.headers_mut().insert("retry-after", after.parse().unwrap());
            }
            return response;
        }
        Answer::Garbage => {
            response.body_mut().data = Some(Bytes::from_static(b"<html>\xff\xfe not what you expect"));
            return response;
        }
        Answer::Endless => {
            response.body_mut().endless = true;
            return response;
        }
        Answer::Hang => std::future::pending().await,
    }
    if grpc {
        let mut framed = vec![0];
        framed.extend_from_slice(&u32::try_from(message.len()).unwrap().to_be_bytes());
        framed.extend_from_slice(&message);
        response.body_mut().data = (status.0 == 0).then(|| Bytes::from(framed));
        let mut trailers = reqwest::header::HeaderMap::new();
        trailers.insert("grpc-status", status.0.into());
        if is_limit {
            trailers.insert("grpc-message", "grpc: received message larger than max".parse().unwrap());
        }
        if !status.1.is_empty() {
            let details = base64::Engine::encode(&base64::engine::general_purpose::STANDARD_NO_PAD, status.1);
            trailers.insert("grpc-status-details-bin", details.parse().unwrap());
        }
        response.body_mut().trailers = Some(trailers);
    } else {
        response.body_mut().data = Some(Bytes::from(message));
    }
    response
}

/// Serves one script on a free port until the test ends.
async fn serve(tasks: &mut JoinSet<()>, grpc: bool, answers: &[Answer]) -> (String, Arc<Script>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let script =
        Arc::new(Script { answers: Mutex::new(answers.iter().cloned().collect()), ..Script::default() });
    let shared = script.clone();
    tasks.spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            let script = shared.clone();
            connections.spawn(script.converse(stream, grpc));
        }
    });
    (url, script)
}

fn clock() -> Clock {
    let began = Instant::now();
    Clock::new(move || {
        let mono_ns = u64::try_from(began.elapsed().as_nanos()).unwrap() + 1;
        Stamp { mono_ns, wall_ns: 1_700_000_000_000_000_000 + mono_ns }
    })
}

fn config(url: &str, grpc: bool) -> Config {
    let mut config = Config {
        flush_interval: Duration::from_millis(20),
        retry_initial: Duration::from_millis(20),
        retry_max: Duration::from_millis(200),
        ..Config::default()
    };
    config.each(|destination| {
        destination.endpoint = Endpoint::Base(url.to_owned());
        destination.protocol = if grpc { Protocol::Grpc } else { Protocol::HttpProtobuf };
        destination.timeout = Duration::from_millis(500);
        destination.headers = Headers(vec![("x-token".to_owned(), "s3cret".to_owned())]);
    });
    config
}

fn lines(messages: &[&str]) -> (Item, Receipt) {
    let receipt = Receipt::default();
    let event = |message: &&str| LogEvent {
        time_ns: 5,
        severity: Severity::Warn,
        service: "etcd".to_owned(),
        revision: None,
        message: (*message).to_owned(),
        trace_id: None,
        span_id: None,
        parent_span_id: None,
        meaning: Meaning::Plain,
        attributes: Vec::new(),
        ship: true,
    };
    let batch = LogBatch {
        file: Arc::from("/var/log/etcd"),
        events: messages.iter().map(event).collect(),
        lines: 1,
        rejects: Vec::new(),
        lost_bytes: 0,
        receipt: receipt.clone(),
    };
    let origin = Arc::new(Origin { node: "n1".to_owned(), ..Origin::default() });
    (Item::Record(Arc::new(Record { at: Stamp::default(), origin, fact: Fact::Logs(batch) })), receipt)
}

/// One story: what the receiver saw and what the ledger says after everything was sent or given up.
async fn story(
    grpc: bool,
    answers: &[Answer],
    change: impl Fn(&mut Config),
    items: &[Item],
) -> (Vec<Seen>, Ledger) {
    let mut tasks = JoinSet::new();
    let (url, script) = serve(&mut tasks, grpc, answers).await;
    let mut config = config(&url, grpc);
    change(&mut config);
    let ledger = Ledger::default();
    let exporter = Exporter::new(&config, clock(), ledger.clone()).unwrap();
    let (tx, rx) = mpsc::channel(16);
    let feed = async move {
        for item in items {
            tx.send(item.clone()).await.unwrap();
        }
        // Longer than a few back-offs, so that the story is not about draining.
        tokio::time::sleep(Duration::from_millis(300)).await;
    };
    let run = exporter.run(rx, Duration::from_secs(2));
    let both = async { tokio::join!(run, feed) };
    tokio::time::timeout(Duration::from_secs(20), both).await.expect("the exporter ends");
    let seen = script.seen.lock().unwrap().clone();
    (seen, ledger)
}

fn plain(config: &mut Config) {
    config.each(|destination| destination.compression = Compression::None);
}

fn sent(ledger: &Ledger) -> u64 {
    ledger.get("agent_otlp_sent_items_total", "logs")
}

fn dropped(ledger: &Ledger, reason: &'static str) -> u64 {
    ledger.get("agent_otlp_dropped_items_total", reason)
}

fn left(ledger: &Ledger) -> u64 {
    ledger.get("agent_otlp_left_items_total", "logs")
}

fn retries(ledger: &Ledger) -> u64 {
    ledger.lines().iter().filter(|(metric, ..)| *metric == "agent_otlp_retries_total").map(|(.., n)| n).sum()
}

fn bodies(payload: &[u8]) -> Vec<String> {
    let request = ExportLogsServiceRequest::decode(payload).unwrap();
    let scopes = request.resource_logs.iter().flat_map(|of| &of.scope_logs);
    scopes.flat_map(|scope| &scope.log_records).map(|record| format!("{:?}", record.body)).collect()
}

#[tokio::test]
async fn grpc_requests_are_framed_compressed_and_carry_their_headers() {
    for (compression, word) in
        [(Compression::None, None), (Compression::Gzip, Some("gzip")), (Compression::Zstd, Some("zstd"))]
    {
        let (item, receipt) = lines(&["one", "two"]);
        let change = |config: &mut Config| config.each(|to| to.compression = compression);
        let (seen, ledger) = story(true, &[Answer::Ok], change, &[item]).await;
        assert_eq!(seen.len(), 1);
        assert_eq!(seen[0].path, Signal::Logs.grpc_path());
        assert_eq!(seen[0].headers.get("grpc-encoding").map(|value| value.to_str().unwrap()), word);
        assert_eq!(seen[0].headers["content-type"], "application/grpc");
        assert_eq!(seen[0].headers["x-token"], "s3cret");
        assert_eq!(seen[0].headers["grpc-timeout"], "500m");
        let (head, body) = seen[0].body.split_at(5);
        assert_eq!(head[0], u8::from(word.is_some()));
        assert_eq!(usize::try_from(u32::from_be_bytes(head[1..].try_into().unwrap())).unwrap(), body.len());
        assert_eq!(bodies(&unpacked(compression, body)).len(), 2);
        assert_eq!((sent(&ledger), receipt.state()), (2, ReceiptState::Taken));
    }
}

fn unpacked(compression: Compression, body: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    match compression {
        Compression::None => bytes.extend_from_slice(body),
        Compression::Gzip => drop(flate2::read::GzDecoder::new(body).read_to_end(&mut bytes).unwrap()),
        Compression::Zstd => bytes = zstd::decode_all(body).unwrap(),
    }
    bytes
}

#[tokio::test]
async fn http_requests_go_to_the_signals_path() {
    let (item, _) = lines(&["one"]);
    let (seen, ledger) = story(false, &[Answer::Ok], |_| {}, &[item]).await;
    assert_eq!((seen.len(), seen[0].path.as_str(), sent(&ledger)), (1, "/v1/logs", 1));
    assert_eq!(seen[0].headers["content-type"], "application/x-protobuf");
    assert_eq!(seen[0].headers["content-encoding"], "gzip");
    assert_eq!(seen[0].headers["x-token"], "s3cret");
    assert_eq!(bodies(&unpacked(Compression::Gzip, &seen[0].body)).len(), 1);
}

#[tokio::test]
async fn a_receiver_that_comes_back_gets_the_same_bytes_again() {
    for (grpc, busy) in [(true, Answer::Status(14, Vec::new())), (false, Answer::Http(503, ""))] {
        let (item, _) = lines(&["one"]);
        let (seen, ledger) = story(grpc, &[busy.clone(), busy, Answer::Ok], |_| {}, &[item]).await;
        assert_eq!(seen.len(), 3);
        assert!(seen.iter().all(|request| request.body == seen[0].body));
        assert_eq!((sent(&ledger), retries(&ledger), dropped(&ledger, "rejected")), (1, 2, 0));
    }
}

#[tokio::test]
async fn a_refusal_is_final_and_counted() {
    let answers = [
        (true, Answer::Status(3, Vec::new())),
        (true, Answer::Status(13, Vec::new())),
        (true, Answer::Status(8, Vec::new())),
        (true, Answer::Http(404, "")),
        (true, Answer::Garbage),
        (true, Answer::Endless),
        (false, Answer::Http(400, "")),
        (false, Answer::Http(500, "1")),
        (false, Answer::Http(301, "")),
    ];
    for (grpc, answer) in answers {
        let (item, receipt) = lines(&["one", "two"]);
        let (seen, ledger) = story(grpc, std::slice::from_ref(&answer), |_| {}, &[item]).await;
        assert_eq!((seen.len(), retries(&ledger)), (1, 0), "{answer:?}");
        assert_eq!((sent(&ledger), dropped(&ledger, "rejected")), (0, 2), "{answer:?}");
        assert_eq!(receipt.state(), ReceiptState::Taken, "a refusal is not asked for again");
        assert_eq!(ledger.get("agent_otlp_dropped_items_by_signal_total", "logs"), 2);
    }
}

#[tokio::test]
async fn what_was_accepted_stays_accepted_whatever_the_body_says() {
    for answer in [Answer::Garbage, Answer::Endless] {
        let (item, _) = lines(&["one"]);
        let (seen, ledger) = story(false, std::slice::from_ref(&answer), |_| {}, &[item]).await;
        assert_eq!((seen.len(), sent(&ledger)), (1, 1), "{answer:?}");
    }
}

#[tokio::test]
async fn partial_success_is_counted_and_never_sent_again() {
    for grpc in [true, false] {
        let (item, _) = lines(&["one", "two", "three"]);
        let (seen, ledger) = story(grpc, &[Answer::Partial(2)], |_| {}, &[item]).await;
        assert_eq!((seen.len(), sent(&ledger), dropped(&ledger, "rejected")), (1, 1, 2));
        let (item, _) = lines(&["one"]);
        let (_, ledger) = story(grpc, &[Answer::Partial(99)], |_| {}, &[item]).await;
        assert_eq!((sent(&ledger), dropped(&ledger, "rejected")), (0, 1), "no more than there was");
    }
}

#[tokio::test]
async fn retry_info_and_retry_after_are_waited_for() {
    let mut details = Writer::default();
    let any = details.open(3);
    details.string(1, "type.googleapis.com/google.rpc.RetryInfo");
    let value = details.open(2);
    let delay = details.open(1);
    details.uint(2, 700_000_000);
    details.close(delay);
    details.close(value);
    details.close(any);
    let exhausted = Answer::Status(8, details.into_bytes());
    for (grpc, busy, wish) in [(true, exhausted, 700), (false, Answer::Http(429, "1"), 1000)] {
        let (item, _) = lines(&["one"]);
        let (seen, ledger) = story(grpc, &[busy, Answer::Ok], |_| {}, &[item]).await;
        assert_eq!((seen.len(), sent(&ledger)), (2, 1));
        let waited = seen[1].at - seen[0].at;
        assert!(waited >= Duration::from_millis(wish), "{waited:?}");
    }
}

#[tokio::test]
async fn a_receiver_that_hangs_is_given_up_and_tried_again() {
    let burn = Burn {
        slo: "write".to_owned(),
        lane: BurnLane::Tier { name: "page_fast".to_owned(), long_s: 3600, short_s: 300 },
        firing: true,
        votes: true,
        excused: None,
        burn_long: 20.0,
        burn_short: f64::NAN,
        bad: 5,
        total: 9,
        coverage: 1.0,
        p_value: 0.0,
        members: Vec::new(),
        since: Stamp::default(),
        server_side: false,
    };
    let finding = Finding {
        id: 7,
        at: Stamp::default(),
        origin: Arc::new(Origin::default()),
        conclusion: Conclusion::Burn(burn),
    };
    let items = [Item::Finding(Arc::new(finding))];
    for grpc in [true, false] {
        let (seen, ledger) = story(grpc, &[Answer::Hang, Answer::Ok], |_| {}, &items).await;
        assert_eq!((seen.len(), sent(&ledger)), (2, 1));
        assert_eq!(ledger.get("agent_otlp_retries_total", "timeout"), 1, "{grpc} {:?}", ledger.lines());
    }
}

#[tokio::test]
async fn no_signal_waits_for_another() {
    let mut tasks = JoinSet::new();
    let (stuck, _) = serve(&mut tasks, true, &[Answer::Hang]).await;
    let (good, script) = serve(&mut tasks, true, &[Answer::Ok]).await;
    let mut config = config(&good, true);
    config.metrics.endpoint = Endpoint::Base(stuck);
    let ledger = Ledger::default();
    let exporter = Exporter::new(&config, clock(), ledger.clone()).unwrap();
    let (tx, rx) = mpsc::channel(4);
    let silent = MemberFact::Silent { reason: "refused".to_owned(), detail: String::new() };
    let fact = Fact::Member(silent);
    let record = Record { at: Stamp::default(), origin: Arc::new(Origin::default()), fact };
    for item in [Item::Record(Arc::new(record)), lines(&["one"]).0] {
        tx.send(item).await.unwrap();
    }
    drop(tx);
    exporter.run(rx, Duration::from_millis(800)).await;
    assert_eq!((sent(&ledger), script.seen.lock().unwrap().len()), (1, 1));
    assert_eq!(ledger.get("agent_otlp_sent_items_total", "metrics"), 0);
    assert_eq!(dropped(&ledger, "shutdown"), 1);
    assert_eq!(ledger.get("agent_otlp_queue_bytes", ""), 0);
}

#[tokio::test]
async fn nobody_there_ends_with_the_drain_and_is_counted() {
    let change = |config: &mut Config| {
        config.each(|destination| destination.endpoint = Endpoint::Base("http://127.0.0.1:1".to_owned()));
    };
    for grpc in [true, false] {
        let (item, receipt) = lines(&["one", "two"]);
        let began = Instant::now();
        let (_, ledger) = story(grpc, &[Answer::Ok], change, std::slice::from_ref(&item)).await;
        // Not dropped: whoever reads the file gets them again.
        assert_eq!((sent(&ledger), dropped(&ledger, "shutdown"), left(&ledger)), (0, 0, 2));
        assert!(ledger.get("agent_otlp_retries_total", "connection") > 1);
        assert!(began.elapsed() < Duration::from_secs(5));
        assert_eq!(receipt.state(), ReceiptState::Lost);
    }
}

#[tokio::test]
async fn a_port_that_speaks_something_else_harms_nobody() {
    for (grpc, speech) in [
        (true, &b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi"[..]),
        (false, b"SSH-2.0-x\r\n"),
        (true, b""),
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::io::AsyncWriteExt::write_all(&mut stream, speech).await.ok();
            }
        });
        let ledger = Ledger::default();
        let exporter = Exporter::new(&config(&url, grpc), clock(), ledger.clone()).unwrap();
        let (tx, rx) = mpsc::channel(1);
        tx.send(lines(&["one"]).0).await.unwrap();
        drop(tx);
        exporter.run(rx, Duration::from_millis(400)).await;
        assert_eq!((sent(&ledger), left(&ledger)), (0, 1), "{grpc} {:?}", ledger.lines());
        assert!(retries(&ledger) > 0, "{grpc} {:?}", ledger.lines());
    }
}

#[tokio::test]
async fn a_receipt_waits_for_the_receiver() {
    let mut tasks = JoinSet::new();
    let busy = Answer::Http(503, "");
    let (url, script) = serve(&mut tasks, false, &[busy]).await;
    let exporter = Exporter::new(&config(&url, false), clock(), Ledger::default()).unwrap();
    let (tx, rx) = mpsc::channel(16);
    let (item, receipt) = lines(&["one"]);
    let watch = async {
        tx.send(item).await.unwrap();
        while script.seen.lock().unwrap().len() < 3 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(receipt.state(), ReceiptState::Pending, "sent three times and never taken");
        *script.answers.lock().unwrap() = VecDeque::from([Answer::Ok]);
        while receipt.state() == ReceiptState::Pending {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(receipt.state(), ReceiptState::Taken);
        drop(tx);
    };
    let both = async { tokio::join!(exporter.run(rx, Duration::from_secs(2)), watch) };
    tokio::time::timeout(Duration::from_secs(20), both).await.expect("the exporter ends");
}

#[tokio::test]
async fn a_request_that_is_too_large_is_sent_in_halves_down_to_the_item_that_does_not_fit() {
    // Words of a Go server; the real limit of a real server is a story of its own.
    for (grpc, answer) in [(true, Answer::Limit(3000)), (false, Answer::Limit(3000))] {
        let long = "x".repeat(4000);
        let texts: Vec<String> = (0..12).map(|number| format!("{number} {}", "y".repeat(500))).collect();
        let mut all: Vec<&str> = texts.iter().map(String::as_str).collect();
        all.insert(7, &long);
        let (item, receipt) = lines(&all);
        let (seen, ledger) = story(grpc, &[answer], plain, &[item]).await;
        assert_eq!((sent(&ledger), dropped(&ledger, "too_large")), (12, 1), "{grpc} {:?}", ledger.lines());
        assert_eq!((retries(&ledger), dropped(&ledger, "rejected")), (0, 0));
        assert_eq!(receipt.state(), ReceiptState::Taken, "all of it has an end");
        let frame = if grpc { 5 } else { 0 };
        let taken = seen.iter().filter(|request| request.body.len() <= 3000);
        let arrived: Vec<String> = taken.flat_map(|request| bodies(&request.body[frame..])).collect();
        assert_eq!(arrived.len(), 12);
        assert!(
            arrived.iter().zip(&texts).all(|(arrived, text)| arrived.contains(text.as_str())),
            "in their order"
        );
    }
}

#[tokio::test]
async fn what_is_too_old_expires() {
    let (item, _) = lines(&["one"]);
    let change = |config: &mut Config| config.age_max = Duration::from_millis(60);
    let (seen, ledger) = story(true, &[Answer::Status(14, Vec::new())], change, &[item]).await;
    assert!(seen.len() > 1);
    assert_eq!((sent(&ledger), dropped(&ledger, "expired")), (0, 1));
}

#[tokio::test]
async fn a_full_queue_drops_the_oldest_and_nobody_reads_a_hopeless_batch_again() {
    let long = "x".repeat(3000);
    let (items, receipts): (Vec<_>, Vec<_>) = (0..8).map(|_| lines(&[&long])).unzip();
    let small = |config: &mut Config| {
        plain(config);
        config.batch_bytes = 1000;
        config.queue_bytes_max = 12_000;
    };
    let (_, ledger) = story(true, &[Answer::Hang], small, &items).await;
    assert_eq!(dropped(&ledger, "queue_full"), 5, "three fit");
    assert_eq!((dropped(&ledger, "shutdown"), left(&ledger)), (0, 3));
    let taken = receipts.iter().filter(|receipt| receipt.state() == ReceiptState::Taken).count();
    assert_eq!(taken, 5, "a counted drop is over, what was left is not");
    let hopeless = |config: &mut Config| {
        small(config);
        config.queue_bytes_max = 2000;
    };
    let (item, receipt) = lines(&[&long]);
    let (_, ledger) = story(true, &[Answer::Ok], hopeless, &[item]).await;
    assert_eq!((dropped(&ledger, "queue_full"), receipt.state()), (1, ReceiptState::Taken));
}

#[tokio::test]
async fn one_signal_keeps_its_order() {
    let items: Vec<_> = (0..5).map(|number| lines(&[&format!("line {number}")]).0).collect();
    let change = |config: &mut Config| {
        plain(config);
        config.batch_bytes = 1;
    };
    let busy = Answer::Http(503, "");
    let (seen, _) = story(false, &[busy.clone(), Answer::Ok, busy, Answer::Ok], change, &items).await;
    let mut order: Vec<_> = seen.iter().flat_map(|request| bodies(&request.body)).collect();
    order.dedup();
    assert_eq!(order.len(), 5);
    assert!(
        order.iter().enumerate().all(|(number, body)| body.contains(&format!("line {number}"))),
        "{order:?}"
    );
}

#[tokio::test]
async fn without_an_endpoint_nothing_is_encoded_and_nobody_waits() {
    let (item, receipt) = lines(&["one"]);
    let nowhere = |config: &mut Config| config.each(|destination| destination.endpoint = Endpoint::Nowhere);
    let (seen, ledger) = story(true, &[Answer::Ok], nowhere, &[item]).await;
    assert_eq!((seen.len(), receipt.state()), (0, ReceiptState::Taken));
    assert!(ledger.lines().iter().all(|(.., value)| *value == 0));
}

#[test]
fn a_bad_start_says_what_is_wrong() {
    let check = |change: &dyn Fn(&mut Destination), part: &str| {
        let mut config = config("http://127.0.0.1:1", true);
        change(&mut config.logs);
        let error = Exporter::new(&config, clock(), Ledger::default()).unwrap_err().to_string();
        assert!(error.contains(part) && !error.contains("s3cret"), "{error}");
    };
    check(&|to| to.endpoint = Endpoint::Exact("ftp://h".to_owned()), "otlp endpoint of logs");
    check(&|to| to.headers = Headers(vec![("x".to_owned(), "s3cret\n".to_owned())]), "otlp headers of logs");
    check(&|to| to.tls.client_key = Some("/k.pem".into()), "belong together");
    check(&|to| to.tls.ca = Some("/does/not/exist.pem".into()), "/does/not/exist.pem");
}
