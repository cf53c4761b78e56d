//! What the OTLP exporter must know, checked. Owns destinations, headers and limits; reading variables is [`super::env`].
//!
//! Nothing leaves the node until an endpoint is named: unlike an SDK, the agent does not try `localhost`.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use reqwest::Url;

/// The four signals.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Signal {
    /// Metric points.
    Metrics,
    /// Log records.
    Logs,
    /// Spans.
    Traces,
    /// Profiles.
    Profiles,
}

impl Signal {
    /// All, in the order of the senders.
    pub const ALL: [Signal; 4] = [Signal::Metrics, Signal::Logs, Signal::Traces, Signal::Profiles];

    /// The word in counters and logs.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Signal::Metrics => "metrics",
            Signal::Logs => "logs",
            Signal::Traces => "traces",
            Signal::Profiles => "profiles",
        }
    }

    /// What an HTTP base endpoint is followed by.
    #[must_use]
    pub fn http_path(self) -> &'static str {
        match self {
            Signal::Metrics => "v1/metrics",
            Signal::Logs => "v1/logs",
            Signal::Traces => "v1/traces",
            Signal::Profiles => "v1development/profiles",
        }
    }

    /// The gRPC method.
    #[must_use]
    pub fn grpc_path(self) -> &'static str {
        match self {
            Signal::Metrics => "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export",
            Signal::Logs => "/opentelemetry.proto.collector.logs.v1.LogsService/Export",
            Signal::Traces => "/opentelemetry.proto.collector.trace.v1.TraceService/Export",
            Signal::Profiles => {
                "/opentelemetry.proto.collector.profiles.v1development.ProfilesService/Export"
            }
        }
    }
}

/// Wire protocol.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Protocol {
    /// OTLP over gRPC.
    Grpc,
    /// Protobuf bodies over HTTP: the specification's default.
    #[default]
    HttpProtobuf,
}

impl Protocol {
    /// Reads the word of `OTEL_EXPORTER_OTLP_PROTOCOL`.
    ///
    /// # Errors
    /// A sentence for a person.
    pub fn parse(word: &str) -> Result<Protocol, String> {
        match word {
            "grpc" => Ok(Protocol::Grpc),
            "http/protobuf" => Ok(Protocol::HttpProtobuf),
            "http/json" => {
                Err("http/json is not supported: use http/protobuf on the same port, or grpc".to_owned())
            }
            other => Err(format!("unknown protocol {other:?}: use grpc or http/protobuf")),
        }
    }
}

/// Compression of request bodies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Compression {
    /// As encoded.
    None,
    /// Every receiver has to take it, hence the default; at the fastest level.
    #[default]
    Gzip,
    /// Much less CPU than gzip and smaller; only where the receiver is known to take it (the OpenTelemetry Collector does).
    Zstd,
}

impl Compression {
    /// Reads the word of `OTEL_EXPORTER_OTLP_COMPRESSION` (`gzip` and `none` are the specification's, `zstd` is ours).
    ///
    /// # Errors
    /// A sentence for a person.
    pub fn parse(word: &str) -> Result<Compression, String> {
        match word {
            "none" => Ok(Compression::None),
            "gzip" => Ok(Compression::Gzip),
            "zstd" => Ok(Compression::Zstd),
            other => Err(format!("unknown compression {other:?}: use gzip, zstd or none")),
        }
    }

    /// The word in `content-encoding` and `grpc-encoding`.
    #[must_use]
    pub fn encoding(self) -> Option<&'static str> {
        match self {
            Compression::None => None,
            Compression::Gzip => Some("gzip"),
            Compression::Zstd => Some("zstd"),
        }
    }
}

/// Request headers. Values are secrets: neither printed nor compared in a message.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Headers(pub Vec<(String, String)>);

impl fmt::Debug for Headers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|(name, _)| name)).finish()
    }
}

/// Where one signal goes.
#[derive(Clone, Default, PartialEq, Eq)]
pub enum Endpoint {
    /// Nowhere: the signal is not encoded.
    #[default]
    Nowhere,
    /// A base: HTTP appends the signal's path.
    Base(String),
    /// Used as it is.
    Exact(String),
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A URL may carry a password or a token.
        let shown = |given: &str| Url::parse(given).map_or_else(|_| "(not a URL)".to_owned(), bare);
        match self {
            Endpoint::Nowhere => f.write_str("Nowhere"),
            Endpoint::Base(given) => f.debug_tuple("Base").field(&shown(given)).finish(),
            Endpoint::Exact(given) => f.debug_tuple("Exact").field(&shown(given)).finish(),
        }
    }
}

/// Files of a TLS connection, all PEM, read when the exporter is made and again when they change.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tls {
    /// Trust these instead of the system's roots.
    pub ca: Option<PathBuf>,
    /// Client certificate; needs `client_key`.
    pub client_certificate: Option<PathBuf>,
    /// Client key.
    pub client_key: Option<PathBuf>,
    /// Plain text for a gRPC endpoint without a scheme. A scheme always wins.
    pub insecure: bool,
}

/// How one signal is sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Destination {
    /// Where to.
    pub endpoint: Endpoint,
    /// Wire protocol.
    pub protocol: Protocol,
    /// Sent with each request.
    pub headers: Headers,
    /// Of the body.
    pub compression: Compression,
    /// One attempt, connection included.
    pub timeout: Duration,
    /// Files and plain text.
    pub tls: Tls,
}

impl Default for Destination {
    fn default() -> Destination {
        Destination {
            endpoint: Endpoint::Nowhere,
            protocol: Protocol::default(),
            headers: Headers::default(),
            compression: Compression::default(),
            timeout: Duration::from_secs(10),
            tls: Tls::default(),
        }
    }
}

impl Destination {
    /// The URL of `signal`; `None` when it goes nowhere.
    ///
    /// # Errors
    /// A sentence for a person.
    pub fn url(&self, signal: Signal) -> Result<Option<Url>, String> {
        let (given, base) = match &self.endpoint {
            Endpoint::Nowhere => return Ok(None),
            Endpoint::Base(given) => (given, true),
            Endpoint::Exact(given) => (given, false),
        };
        let schemed = given.contains("://");
        let text = match self.protocol {
            Protocol::Grpc if !schemed && self.tls.insecure => format!("http://{given}"),
            Protocol::Grpc if !schemed => format!("https://{given}"),
            _ => given.clone(),
        };
        let mut url = Url::parse(&text).map_err(|error| format!("not a URL: {error}"))?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err("the scheme must be http or https".to_owned());
        }
        if url.host_str().is_none_or(str::is_empty) {
            return Err("the URL has no host".to_owned());
        }
        if base && self.protocol == Protocol::HttpProtobuf {
            let path = format!("{}/{}", url.path().trim_end_matches('/'), signal.http_path());
            url.set_path(&path);
        }
        Ok(Some(url))
    }

    fn describe(&self, signal: Signal) -> String {
        let url = match self.url(signal) {
            Ok(Some(url)) => bare(url),
            Ok(None) => return format!("otlp {}: not sent", signal.name()),
            Err(message) => return format!("otlp {}: {message}", signal.name()),
        };
        let protocol = match self.protocol {
            Protocol::Grpc => "grpc",
            Protocol::HttpProtobuf => "http/protobuf",
        };
        let compression = self.compression.encoding().unwrap_or("none");
        let headers: Vec<&str> = self.headers.0.iter().map(|(name, _)| name.as_str()).collect();
        let headers =
            if headers.is_empty() { String::new() } else { format!(", headers {}", headers.join(" ")) };
        format!("otlp {}: {url}, {protocol}, compression {compression}{headers}", signal.name())
    }

    /// Uncompressed bytes of one request: the receivers' default limits (4 MiB for gRPC, 20 MiB for HTTP) less room for frames.
    pub(crate) fn request_bytes_max(&self) -> usize {
        const ROOM: usize = 64 << 10;
        match self.protocol {
            Protocol::Grpc => (4 << 20) - ROOM,
            Protocol::HttpProtobuf => (20 << 20) - ROOM,
        }
    }
}

/// A URL without user, password and query.
fn bare(mut url: Url) -> String {
    url.set_query(None);
    // These fail only for URLs that cannot have a user, and those have none.
    url.set_username("").ok();
    url.set_password(None).ok();
    url.into()
}

/// Everything the exporter must know.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Metrics go here.
    pub metrics: Destination,
    /// Logs and findings go here.
    pub logs: Destination,
    /// Call trees go here.
    pub traces: Destination,
    /// Profiles go here.
    pub profiles: Destination,
    /// Extra attributes of every resource (`k8s.node.name`, `deployment.environment.name`). The exporter's own win.
    pub resource: Vec<(String, String)>,
    /// Extra attributes of the agent's own resource alone (`k8s.pod.name` of the agent is not etcd's).
    pub agent_resource: Vec<(String, String)>,
    /// What is not full is sent after this time; also the interval of the probe histograms.
    pub flush_interval: Duration,
    /// A request this big (uncompressed) is sent at once.
    pub batch_bytes: usize,
    /// Finished requests in memory; beyond it the oldest of the largest signal is dropped.
    pub queue_bytes_max: usize,
    /// A request that could not be delivered for so long is dropped.
    pub age_max: Duration,
    /// First back-off.
    pub retry_initial: Duration,
    /// Longest back-off, and the cap on what a receiver may ask for is ten times this.
    pub retry_max: Duration,
    /// Seed of the jitter; give each agent its own.
    pub seed: u64,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            metrics: Destination::default(),
            logs: Destination::default(),
            traces: Destination::default(),
            profiles: Destination::default(),
            resource: Vec::new(),
            agent_resource: Vec::new(),
            flush_interval: Duration::from_secs(5),
            batch_bytes: 1 << 20,
            queue_bytes_max: 32 << 20,
            age_max: Duration::from_secs(3600),
            retry_initial: Duration::from_secs(1),
            retry_max: Duration::from_secs(30),
            seed: 0,
        }
    }
}

impl Config {
    /// The destination of a signal.
    #[must_use]
    pub fn destination(&self, signal: Signal) -> &Destination {
        match signal {
            Signal::Metrics => &self.metrics,
            Signal::Logs => &self.logs,
            Signal::Traces => &self.traces,
            Signal::Profiles => &self.profiles,
        }
    }

    /// The same, to change it.
    pub fn destination_mut(&mut self, signal: Signal) -> &mut Destination {
        match signal {
            Signal::Metrics => &mut self.metrics,
            Signal::Logs => &mut self.logs,
            Signal::Traces => &mut self.traces,
            Signal::Profiles => &mut self.profiles,
        }
    }

    /// Changes all four destinations alike.
    pub fn each(&mut self, change: impl Fn(&mut Destination)) {
        for signal in Signal::ALL {
            change(self.destination_mut(signal));
        }
    }

    /// What leaves the node and where to, one line a signal: no secret, neither in a header nor in a URL.
    #[must_use]
    pub fn describe(&self) -> Vec<String> {
        if !self.sends() {
            return vec!["otlp: no endpoint, nothing leaves the node".to_owned()];
        }
        Signal::ALL.iter().map(|signal| self.destination(*signal).describe(*signal)).collect()
    }

    /// Whether anything leaves the node.
    #[must_use]
    pub fn sends(&self) -> bool {
        Signal::ALL.iter().any(|signal| self.destination(*signal).endpoint != Endpoint::Nowhere)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(protocol: Protocol, endpoint: Endpoint, insecure: bool, expected: Result<&str, &str>) {
        let tls = Tls { insecure, ..Tls::default() };
        let destination = Destination { endpoint, protocol, tls, ..Destination::default() };
        let url = destination.url(Signal::Profiles).map(|url| url.map(String::from).unwrap_or_default());
        match expected {
            Ok(expected) => assert_eq!(url.as_deref(), Ok(expected)),
            Err(part) => assert!(url.as_ref().is_err_and(|error| error.contains(part)), "{url:?}"),
        }
    }

    #[test]
    fn a_base_is_followed_by_the_path_and_an_exact_url_is_not() {
        let http = Protocol::HttpProtobuf;
        let base = |url: &str| Endpoint::Base(url.to_owned());
        let exact = |url: &str| Endpoint::Exact(url.to_owned());
        check(http, base("http://h:4318"), false, Ok("http://h:4318/v1development/profiles"));
        check(http, base("http://h:4318/"), false, Ok("http://h:4318/v1development/profiles"));
        check(http, base("https://h/otlp"), false, Ok("https://h/otlp/v1development/profiles"));
        check(http, base("https://h/otlp/"), false, Ok("https://h/otlp/v1development/profiles"));
        check(http, exact("https://h:1/mine"), false, Ok("https://h:1/mine"));
        check(http, exact("https://h:1"), false, Ok("https://h:1/"));
        check(http, Endpoint::Nowhere, false, Ok(""));
        check(http, base("h:4318"), true, Err("scheme"));
        check(http, base(""), true, Err("not a URL"));
        check(http, base("ftp://h"), true, Err("scheme"));
    }

    #[test]
    fn a_scheme_wins_over_insecure() {
        let base = |url: &str| Endpoint::Base(url.to_owned());
        check(Protocol::Grpc, base("https://h:4317"), true, Ok("https://h:4317/"));
        check(Protocol::Grpc, base("http://h:4317"), false, Ok("http://h:4317/"));
        check(Protocol::Grpc, base("h:4317"), false, Ok("https://h:4317/"));
        check(Protocol::Grpc, base("h:4317"), true, Ok("http://h:4317/"));
    }

    #[test]
    fn the_description_says_what_leaves_and_keeps_secrets() {
        let mut config = Config::default();
        assert_eq!(config.describe(), ["otlp: no endpoint, nothing leaves the node"]);
        config.logs.endpoint = Endpoint::Base("https://me:s3cret@h/x?key=s3cret".to_owned());
        config.logs.headers = Headers(vec![("authorization".to_owned(), "s3cret".to_owned())]);
        let line = "otlp logs: https://h/x/v1/logs, http/protobuf, compression gzip, headers authorization";
        assert_eq!(
            config.describe(),
            ["otlp metrics: not sent", line, "otlp traces: not sent", "otlp profiles: not sent"]
        );
        assert!(!format!("{config:?}").contains("s3cret"), "{config:?}");
    }

    #[test]
    fn header_values_are_never_printed() {
        let headers = Headers(vec![("authorization".to_owned(), "Bearer s3cret".to_owned())]);
        let text = format!("{:?}", Destination { headers, ..Destination::default() });
        assert!(text.contains("authorization") && !text.contains("s3cret"), "{text}");
    }
}
