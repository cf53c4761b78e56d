//! The agent's own log and spans: stderr always, OTLP when an endpoint is set, with the exporter's settings.
//!
//! Owns the process's one tracing subscriber, and a thread with a runtime of its own for the exporter: on the agent's
//! current-thread runtime the exporter's shutdown would wait ten seconds for a runtime that waits for it. Refuses to export
//! what the exporter itself says and does (h2, hyper, tonic, tower, reqwest): it would feed itself. It begins before and ends
//! after every run of the pipeline, so a reload does not move it.

mod grpc;
mod post;

use std::io::{self, IsTerminal};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use exporters::otlp::{Direct, Signal, StartError};
use model::ledger::Ledger;
use model::time::Clock;
use opentelemetry::KeyValue;
use opentelemetry::trace::TracerProvider;
use opentelemetry_appender_tracing::layer::OpenTelemetryTracingBridge;
use opentelemetry_otlp::{
    ExporterBuildError, LogExporter, Protocol, SpanExporter, WithExportConfig, WithHttpConfig,
};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::logs::SdkLoggerProvider;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tracing::Subscriber;
use tracing::level_filters::LevelFilter;
use tracing::subscriber::SetGlobalDefaultError;
use tracing_subscriber::filter::{EnvFilter, ParseError, Targets};
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::registry::{LookupSpan, Registry};

/// Crates under the exporter: never exported, and on stderr only from `warn` on unless the level names them.
const BENEATH: [&str; 8] =
    ["h2", "hyper", "hyper_util", "tonic", "tower", "reqwest", "opentelemetry", "opentelemetry_sdk"];

/// The last batch gets this long; a receiver that hangs must not hold up the agent's end.
const FLUSH_MAX: Duration = Duration::from_secs(2);

/// The crate wants a URL and never speaks to it: [`post`] knows the receiver.
const NOWHERE: &str = "http://otlp.invalid";

/// What is told, and where.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    /// `error`, `warn`, `info`, `debug` or `trace`, or directives such as `info,exporters=debug`.
    pub(crate) level: String,
    /// One JSON object a line instead of text.
    pub(crate) json: bool,
    /// Spans go where traces go, log lines where logs go.
    pub(crate) otlp: exporters::otlp::Config,
    /// `host.name`.
    pub(crate) node: String,
}

/// Why the log cannot begin.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TelemetryError {
    /// The level.
    #[error("log level")]
    Level(#[from] ParseError),
    /// The exporter.
    #[error("set up the agent's own telemetry")]
    Exporter(#[from] ExporterBuildError),
    /// The receiver, or the files that open it.
    #[error("set up OTLP")]
    Receiver(#[from] StartError),
    /// The thread or its runtime.
    #[error("start the telemetry thread")]
    Thread(#[from] io::Error),
    /// Somebody was quicker.
    #[error(transparent)]
    Twice(#[from] SetGlobalDefaultError),
}

/// The running log. [`Telemetry::shutdown`] sends what is left.
#[derive(Debug)]
pub(crate) struct Telemetry {
    export: Option<Export>,
}

/// Who sends: the crate itself, or the exporter's client below it.
enum Way {
    Grpc(Box<grpc::Line>),
    Post(post::Post),
}

#[derive(Debug)]
struct Export {
    spans: Option<SdkTracerProvider>,
    logs: Option<SdkLoggerProvider>,
    stop: oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

/// Begins the log of this process. Once a process, from `main`, before the runtime.
///
/// # Errors
/// [`TelemetryError`]; then nothing was begun.
pub(crate) fn init(config: &Config, clock: &Clock, ledger: &Ledger) -> Result<Telemetry, TelemetryError> {
    let export = Export::start(config, clock, ledger)?;
    let subscriber = subscriber(config, export.as_ref())?;
    tracing::subscriber::set_global_default(subscriber)?;
    Ok(Telemetry { export })
}

impl Telemetry {
    /// Sends what is left, for at most some seconds. From `main`, after the pipeline and its runtime have ended.
    pub(crate) fn shutdown(self) {
        if let Some(export) = self.export {
            export.end();
        }
    }
}

fn subscriber(
    config: &Config,
    export: Option<&Export>,
) -> Result<impl Subscriber + Send + Sync + 'static, TelemetryError> {
    let spans = export.and_then(|export| export.spans.as_ref()).map(|spans| {
        let tracer = spans.tracer("backburn-agent");
        tracing_opentelemetry::layer()
            .with_tracer(tracer)
            .with_location(false)
            .with_threads(false)
            .with_tracked_inactivity(false)
            .with_filter(not_beneath())
    });
    let logs = export.and_then(|export| export.logs.as_ref());
    let logs = logs.map(|logs| OpenTelemetryTracingBridge::new(logs).with_filter(not_beneath()));
    Ok(Registry::default().with(spans).with(logs).with(stderr(config)?))
}

/// What is exported: `info` and above, and nothing of the exporter's own.
fn not_beneath() -> Targets {
    let all = Targets::new().with_default(LevelFilter::INFO);
    BENEATH.into_iter().fold(all, |targets, name| targets.with_target(name, LevelFilter::OFF))
}

fn stderr<S>(config: &Config) -> Result<Box<dyn Layer<S> + Send + Sync>, TelemetryError>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    // Ours first: a directive of the same name in the configured level replaces it.
    let quiet: String = BENEATH.iter().map(|name| format!("{name}=warn,")).collect();
    let filter = EnvFilter::builder().parse(format!("{quiet}{}", config.level))?;
    let no_colour = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let colour = !no_colour && io::stderr().is_terminal();
    let layer = tracing_subscriber::fmt::layer().with_writer(io::stderr);
    Ok(if config.json {
        // Not flattened: our events have a field `target`, and so has every line.
        layer.json().with_ansi(false).with_filter(filter).boxed()
    } else {
        layer.with_ansi(colour).with_filter(filter).boxed()
    })
}

impl Export {
    /// Starts the thread with both clients and builds the providers; `None` where neither signal goes anywhere.
    fn start(config: &Config, clock: &Clock, ledger: &Ledger) -> Result<Option<Export>, TelemetryError> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let way = |signal| way(&config.otlp, signal, (clock, ledger), runtime.handle());
        let ((for_spans, span_road), (for_logs, log_road)) = (way(Signal::Traces)?, way(Signal::Logs)?);
        if for_spans.is_none() && for_logs.is_none() {
            return Ok(None);
        }
        let timeout = |signal| config.otlp.destination(signal).timeout;
        let resource = resource(config);
        let spans = for_spans.map(|way| spans(way, timeout(Signal::Traces), &resource)).transpose()?;
        let logs = for_logs.map(|way| logs(way, timeout(Signal::Logs), &resource)).transpose()?;
        let (stop, stopped) = oneshot::channel();
        let thread = thread::Builder::new().name("telemetry".to_owned()).spawn(move || {
            runtime.block_on(async move {
                tokio::select! {
                    // A sender that was dropped means the same as one that spoke.
                    _stopped = stopped => {}
                    () = travel(span_road, log_road) => {}
                }
            });
            // Waits for nobody: a name that does not resolve keeps a thread busy for half a minute.
            runtime.shutdown_background();
        })?;
        Ok(Some(Export { spans, logs, stop, thread }))
    }

    fn end(self) {
        let Export { spans, logs, stop, thread } = self;
        // Stderr is still there, and whatever these say of themselves cannot be exported any more.
        thread::scope(|both| {
            both.spawn(|| {
                if let Some(Err(error)) = spans.map(|spans| spans.shutdown_with_timeout(FLUSH_MAX)) {
                    tracing::warn!(%error, "the agent's last spans were not sent");
                }
            });
            if let Some(Err(error)) = logs.map(|logs| logs.shutdown_with_timeout(FLUSH_MAX)) {
                tracing::warn!(%error, "the agent's last log lines were not sent");
            }
        });
        // The thread may have ended by itself; joining says so.
        let _ended = stop.send(());
        if thread.join().is_err() {
            tracing::warn!("the telemetry thread panicked");
        }
    }
}

/// Serves the roads there are. Never ends: channels of gRPC live on the same runtime.
async fn travel(spans: Option<post::Road>, logs: Option<post::Road>) {
    let run = async |road: Option<post::Road>| {
        if let Some(road) = road {
            road.run().await;
        }
    };
    tokio::join!(run(spans), run(logs));
    std::future::pending::<()>().await;
}

/// Who sends a signal; a road where that is the exporter's client.
fn way(
    config: &exporters::otlp::Config,
    signal: Signal,
    tools: (&Clock, &Ledger),
    runtime: &Handle,
) -> Result<(Option<Way>, Option<post::Road>), StartError> {
    if let Some(line) = grpc::Line::new(config, signal, tools, runtime)? {
        return Ok((Some(Way::Grpc(Box::new(line))), None));
    }
    let (post, road) = Direct::new(config, signal, tools.0, tools.1)?.map(post::road).unzip();
    Ok((post.map(Way::Post), road))
}

/// The node's and the pod's attributes, as everything else that is exported has them; ours win.
fn resource(config: &Config) -> Resource {
    let given = config.otlp.resource.iter().chain(&config.otlp.agent_resource);
    let node = || config.node.clone();
    Resource::builder()
        .with_attributes(given.map(|(key, value)| KeyValue::new(key.clone(), value.clone())))
        .with_service_name("backburn-agent")
        .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
        .with_attribute(KeyValue::new("service.instance.id", node()))
        .with_attribute(KeyValue::new("host.name", node()))
        .build()
}

fn spans(way: Way, timeout: Duration, resource: &Resource) -> Result<SdkTracerProvider, ExporterBuildError> {
    let provider = SdkTracerProvider::builder().with_resource(resource.clone());
    let post = match way {
        Way::Grpc(line) => return Ok(provider.with_batch_exporter(line.spans()?).build()),
        Way::Post(post) => post,
    };
    let exporter = SpanExporter::builder().with_http().with_http_client(post).with_endpoint(NOWHERE);
    let exporter = exporter.with_protocol(Protocol::HttpBinary).with_timeout(timeout).build()?;
    Ok(provider.with_batch_exporter(exporter).build())
}

fn logs(way: Way, timeout: Duration, resource: &Resource) -> Result<SdkLoggerProvider, ExporterBuildError> {
    let provider = SdkLoggerProvider::builder().with_resource(resource.clone());
    let post = match way {
        Way::Grpc(line) => return Ok(provider.with_batch_exporter(line.logs()?).build()),
        Way::Post(post) => post,
    };
    let exporter = LogExporter::builder().with_http().with_http_client(post).with_endpoint(NOWHERE);
    let exporter = exporter.with_protocol(Protocol::HttpBinary).with_timeout(timeout).build()?;
    Ok(provider.with_batch_exporter(exporter).build())
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{SocketAddr, TcpListener, TcpStream};
    use std::sync::{Arc, Mutex};
    use std::thread;
    use std::time::Duration;

    use exporters::otlp::{Compression, Endpoint, Protocol};
    use model::ledger::Ledger;
    use model::time::{Clock, Stamp};
    use opentelemetry::trace::{Span, Tracer, TracerProvider};

    use super::{Config, Export, TelemetryError, subscriber};

    /// What the crate's own client sends.
    const GZIPPED: (Protocol, Compression) = (Protocol::Grpc, Compression::Gzip);

    /// Longer than anybody here waits.
    const LONG: Duration = Duration::from_secs(60);

    fn config(level: &str) -> Config {
        let otlp = exporters::otlp::Config::default();
        Config { level: level.to_owned(), json: true, otlp, node: "node-7".to_owned() }
    }

    /// Uncompressed, so that what leaves can be read on the wire.
    fn start(endpoint: &str, protocol: Protocol) -> Result<Option<Export>, TelemetryError> {
        start_counted(endpoint, (protocol, Compression::None), LONG, &Ledger::default())
    }

    fn start_counted(
        endpoint: &str,
        (protocol, compression): (Protocol, Compression),
        timeout: Duration,
        ledger: &Ledger,
    ) -> Result<Option<Export>, TelemetryError> {
        let mut config = config("error");
        let given = |key: &str, value: &str| vec![(key.to_owned(), value.to_owned())];
        config.otlp.resource = given("k8s.node.name", "cp-7");
        config.otlp.agent_resource = given("k8s.pod.name", "pod-7");
        config.otlp.each(|to| {
            to.endpoint = Endpoint::Base(endpoint.to_owned());
            to.protocol = protocol;
            to.compression = compression;
            to.timeout = timeout;
        });
        Export::start(&config, &Clock::new(Stamp::default), ledger)
    }

    /// A receiver that reads everything and never answers: the worst one.
    fn mute() -> (SocketAddr, Arc<Mutex<Vec<u8>>>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let heard = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&heard);
        thread::spawn(move || {
            for stream in listener.incoming().take(2) {
                let (mut stream, log) = (stream.unwrap(), Arc::clone(&log));
                thread::spawn(move || {
                    let mut bytes = [0; 4096];
                    while let Ok(n) = stream.read(&mut bytes) {
                        if n == 0 {
                            return;
                        }
                        log.lock().unwrap().extend_from_slice(&bytes[..n]);
                    }
                });
            }
        });
        (address, heard)
    }

    #[test]
    fn spans_and_logs_leave_but_not_those_of_the_exporter_and_the_end_is_bounded() {
        for protocol in [Protocol::Grpc, Protocol::HttpProtobuf] {
            leaves(protocol);
        }
    }

    fn leaves(protocol: Protocol) {
        let (address, heard) = mute();
        let export = start(&format!("http://{address}"), protocol).unwrap().unwrap();
        let subscriber = subscriber(&config("error"), Some(&export)).unwrap();
        tracing::subscriber::with_default(subscriber, || {
            tracing::info_span!("apply_a_record").in_scope(|| tracing::info!(answer = 42, "a line of ours"));
            tracing::info!(target: "h2::client", "a line of the exporter");
            tracing::debug!("too fine to export");
        });
        let (done, ended) = std::sync::mpsc::channel();
        thread::spawn(move || {
            export.end();
            done.send(()).unwrap();
        });
        ended.recv_timeout(Duration::from_secs(6)).expect("shutdown hangs on a mute receiver");
        let heard = String::from_utf8_lossy(&heard.lock().unwrap()).into_owned();
        for word in ["backburn-agent", "node-7", "cp-7", "pod-7", "apply_a_record", "a line of ours"] {
            assert!(heard.contains(word), "{word} did not leave");
        }
        for word in ["a line of the exporter", "too fine to export"] {
            assert!(!heard.contains(word), "{word} left");
        }
    }

    #[test]
    fn a_receiver_that_is_not_there_delays_nobody() {
        let export = start("http://127.0.0.1:1", Protocol::Grpc).unwrap().unwrap();
        let (done, ended) = std::sync::mpsc::channel();
        thread::spawn(move || {
            export.end();
            done.send(()).unwrap();
        });
        ended.recv_timeout(Duration::from_secs(6)).unwrap();
    }

    #[test]
    fn the_crates_own_client_is_bounded_by_the_end_too() {
        for address in ["127.0.0.1:1".to_owned(), mute().0.to_string()] {
            let url = format!("http://{address}");
            let export = start_counted(&url, GZIPPED, LONG, &Ledger::default());
            let export = export.unwrap().unwrap();
            tell(&export);
            let (done, ended) = std::sync::mpsc::channel();
            thread::spawn(move || {
                export.end();
                done.send(()).unwrap();
            });
            // Two seconds, and the rest for a busy machine.
            ended.recv_timeout(Duration::from_secs(6)).expect("shutdown hangs");
        }
    }

    fn tell(export: &Export) {
        let subscriber = subscriber(&config("off"), Some(export)).unwrap();
        tracing::subscriber::with_default(subscriber, || {
            tracing::info_span!("apply_a_record").in_scope(|| tracing::info!("a line"));
        });
    }

    fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
        let [_, high, middle, low] = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&[high, middle, low, kind, flags, 0, 0, 0, stream], payload].concat()
    }

    /// A header block of literals after `:status 200`, or after nothing in trailers.
    fn block(head: &[u8], headers: &[(&str, &str)]) -> Vec<u8> {
        headers.iter().fold(head.to_vec(), |mut block, (name, value)| {
            for text in [name, value] {
                block.extend(if text == name { &[0_u8][..] } else { &[] });
                block.push(u8::try_from(text.len()).unwrap());
                block.extend_from_slice(text.as_bytes());
            }
            block
        })
    }

    /// Reads HTTP/2 frames up to the end of the first request.
    fn request(stream: &mut TcpStream) {
        let mut preface = [0; 24];
        stream.read_exact(&mut preface).unwrap();
        stream.write_all(&frame(4, 0, 0, &[])).unwrap();
        loop {
            let mut head = [0; 9];
            stream.read_exact(&mut head).unwrap();
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
            let mut payload = vec![0; usize::try_from(length).unwrap()];
            stream.read_exact(&mut payload).unwrap();
            if head[3] == 0 && head[4] & 1 == 1 {
                return;
            }
        }
    }

    const GRPC: (&str, &str) = ("content-type", "application/grpc");

    #[test]
    fn details_that_are_not_base64_cost_one_batch_and_are_counted() {
        let headers = [GRPC, ("grpc-status", "3"), ("grpc-status-details-bin", "!")];
        costs_one_batch(frame(1, 5, 1, &block(&[0x88], &headers)), LONG, 1);
    }

    #[test]
    fn an_answer_that_never_ends_costs_one_batch() {
        // Tonic's own timeout covers the headers alone.
        costs_one_batch(frame(1, 4, 1, &block(&[0x88], &[GRPC])), Duration::from_secs(1), 0);
    }

    fn costs_one_batch(bad: Vec<u8>, timeout: Duration, panicked: u64) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let good = [
            frame(1, 4, 1, &block(&[0x88], &[GRPC])),
            frame(0, 0, 1, &[0; 5]),
            frame(1, 5, 1, &block(&[], &[("grpc-status", "0")])),
        ];
        let receiver = thread::spawn(move || {
            // A connection each: the one that failed is not used again.
            [bad, good.concat()].map(|answer| {
                let (mut stream, _) = listener.accept().unwrap();
                request(&mut stream);
                stream.write_all(&answer).unwrap();
                stream
            })
        });
        let ledger = Ledger::default();
        let export = start_counted(&url, GZIPPED, timeout, &ledger).unwrap().unwrap();
        // Spans alone, so that the answers come in their order.
        let spans = export.spans.clone().unwrap();
        for accepted in [false, true] {
            spans.tracer("test").start("a span").end();
            assert_eq!(spans.force_flush().is_ok(), accepted);
            assert_eq!(ledger.get("agent_own_telemetry_failures_total", "panicked"), panicked);
        }
        receiver.join().unwrap();
    }

    #[test]
    fn a_level_is_a_word_or_directives() {
        for level in ["info", "DEBUG", "info,exporters=debug", "off", "h2=trace,info"] {
            assert!(subscriber(&config(level), None).is_ok(), "{level}");
        }
        for level in ["info,,=x=", "exporters=loud"] {
            assert!(
                matches!(subscriber(&config(level), None).err(), Some(TelemetryError::Level(_))),
                "{level}"
            );
        }
        assert!(matches!(start("not a url", Protocol::HttpProtobuf), Err(TelemetryError::Receiver(_))));
        let nowhere = Export::start(&config("info"), &Clock::new(Stamp::default), &Ledger::default());
        assert!(nowhere.unwrap().is_none(), "without an endpoint nothing is started");
    }
}
