//! The agent's own log and spans: stderr always, OTLP over gRPC when an endpoint is set.
//!
//! Owns the process's one tracing subscriber, and a thread with a runtime of its own for the exporter: on the agent's
//! current-thread runtime the exporter's shutdown would wait ten seconds for a runtime that waits for it. Refuses to export
//! what the exporter itself says and does (h2, hyper, tonic, tower, reqwest): it would feed itself.

use std::io::{self, IsTerminal};
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry::trace::TracerProvider;
use opentelemetry_appender_tracing::layer::OpenTelemetryTracingBridge;
use opentelemetry_otlp::tonic_types::transport::ClientTlsConfig;
use opentelemetry_otlp::{ExporterBuildError, LogExporter, SpanExporter, WithExportConfig, WithTonicConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::logs::SdkLoggerProvider;
use opentelemetry_sdk::trace::SdkTracerProvider;
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

/// Of one export.
const EXPORT_MAX: Duration = Duration::from_secs(5);

/// What is told, and where.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    /// `error`, `warn`, `info`, `debug` or `trace`, or directives such as `info,exporters=debug`.
    pub(crate) level: String,
    /// One JSON object a line instead of text.
    pub(crate) json: bool,
    /// `http://HOST:PORT` or `https://HOST:PORT` of an OTLP receiver that speaks gRPC; `None`: nothing leaves.
    pub(crate) endpoint: Option<String>,
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
    /// The thread or its runtime.
    #[error("start the telemetry thread")]
    Thread(#[from] io::Error),
    /// The thread ended before it was ready.
    #[error("the telemetry thread ended early")]
    Ended,
    /// Somebody was quicker.
    #[error(transparent)]
    Twice(#[from] SetGlobalDefaultError),
}

/// The running log. [`Telemetry::shutdown`] sends what is left.
#[derive(Debug)]
pub(crate) struct Telemetry {
    export: Option<Export>,
}

#[derive(Debug)]
struct Export {
    spans: SdkTracerProvider,
    logs: SdkLoggerProvider,
    stop: oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

/// Begins the log of this process. Once a process, from `main`, before the runtime.
///
/// # Errors
/// [`TelemetryError`]; then nothing was begun.
pub(crate) fn init(config: &Config) -> Result<Telemetry, TelemetryError> {
    let export =
        config.endpoint.as_deref().map(|endpoint| Export::start(endpoint, &config.node)).transpose()?;
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
    let spans = export.map(|export| {
        let tracer = export.spans.tracer("backburn-agent");
        tracing_opentelemetry::layer()
            .with_tracer(tracer)
            .with_location(false)
            .with_threads(false)
            .with_tracked_inactivity(false)
            .with_filter(not_beneath())
    });
    let logs = export.map(|export| OpenTelemetryTracingBridge::new(&export.logs).with_filter(not_beneath()));
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
    /// Starts the thread and builds both providers inside its runtime, where gRPC's tasks then live.
    fn start(endpoint: &str, node: &str) -> Result<Export, TelemetryError> {
        let (ready, built) = mpsc::sync_channel(1);
        let (stop, stopped) = oneshot::channel();
        let (endpoint, node) = (endpoint.to_owned(), node.to_owned());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let thread = thread::Builder::new().name("telemetry".to_owned()).spawn(move || {
            runtime.block_on(async move {
                if ready.send(providers(&endpoint, &node)).is_ok() {
                    // A sender that was dropped means the same as one that spoke.
                    let _stopped = stopped.await;
                }
            });
        })?;
        let (spans, logs) = built.recv().map_err(|_| TelemetryError::Ended)??;
        Ok(Export { spans, logs, stop, thread })
    }

    fn end(self) {
        let Export { spans, logs, stop, thread } = self;
        // Stderr is still there, and whatever these say of themselves cannot be exported any more.
        thread::scope(|both| {
            both.spawn(|| {
                if let Err(error) = spans.shutdown_with_timeout(FLUSH_MAX) {
                    tracing::warn!(%error, "the agent's last spans were not sent");
                }
            });
            if let Err(error) = logs.shutdown_with_timeout(FLUSH_MAX) {
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

fn providers(
    endpoint: &str,
    node: &str,
) -> Result<(SdkTracerProvider, SdkLoggerProvider), ExporterBuildError> {
    let resource = Resource::builder()
        .with_service_name("backburn-agent")
        .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
        .with_attribute(KeyValue::new("service.instance.id", node.to_owned()))
        .with_attribute(KeyValue::new("host.name", node.to_owned()))
        .build();
    let mut spans = SpanExporter::builder().with_tonic().with_endpoint(endpoint).with_timeout(EXPORT_MAX);
    let mut logs = LogExporter::builder().with_tonic().with_endpoint(endpoint).with_timeout(EXPORT_MAX);
    if endpoint.starts_with("https://") {
        spans = spans.with_tls_config(ClientTlsConfig::new().with_enabled_roots());
        logs = logs.with_tls_config(ClientTlsConfig::new().with_enabled_roots());
    }
    let spans = SdkTracerProvider::builder()
        .with_batch_exporter(spans.build()?)
        .with_resource(resource.clone())
        .build();
    let logs =
        SdkLoggerProvider::builder().with_batch_exporter(logs.build()?).with_resource(resource).build();
    Ok((spans, logs))
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::net::{SocketAddr, TcpListener};
    use std::sync::{Arc, Mutex};
    use std::thread;
    use std::time::Duration;

    use super::{Config, Export, TelemetryError, subscriber};

    fn config(level: &str) -> Config {
        Config { level: level.to_owned(), json: true, endpoint: None, node: "n1".to_owned() }
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
        let (address, heard) = mute();
        let export = Export::start(&format!("http://{address}"), "node-7").unwrap();
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
        for word in ["backburn-agent", "node-7", "apply_a_record", "a line of ours"] {
            assert!(heard.contains(word), "{word} did not leave");
        }
        for word in ["a line of the exporter", "too fine to export"] {
            assert!(!heard.contains(word), "{word} left");
        }
    }

    #[test]
    fn a_receiver_that_is_not_there_delays_nobody() {
        let export = Export::start("http://127.0.0.1:1", "n1").unwrap();
        let (done, ended) = std::sync::mpsc::channel();
        thread::spawn(move || {
            export.end();
            done.send(()).unwrap();
        });
        ended.recv_timeout(Duration::from_secs(6)).unwrap();
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
        assert!(matches!(Export::start("not a url", "n1"), Err(TelemetryError::Exporter(_))));
    }
}
