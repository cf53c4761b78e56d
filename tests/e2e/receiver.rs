//! OTLP receivers that are slow, refuse, answer garbage, take only little at once or are gone: the agent stays well, and what
//! is missing is counted. What the agent says of itself goes the same way as the rest.

use std::{collections::BTreeSet, thread, time::Duration};

use anyhow::{Context, Result, ensure};
use harness::{
    certs::{Certs, ClientAuth},
    daemon::{self, Daemon, Seat},
    etcd::{Cluster, Options, Version},
    process::wait_until,
    service::Service,
    sink::{Payload, Protocol, Reply, Sink, flat},
};

/// Back-off reaches seconds during an outage, and a busy host takes its share.
const SOON: Duration = Duration::from_secs(60);

/// What the demo allows the agent; a queue of its own is a small part of that.
const PEAK_KIB_MAX: u64 = 96 << 10;

/// How long a receiver stays gone.
const OUTAGE: Duration = Duration::from_secs(20);

struct Stage {
    // Kept alive: its pages are the volume.
    _cluster: Cluster,
    sink: Sink,
    seat: Seat,
    orders: Service,
    agent: Daemon,
    said: Vec<String>,
}

impl Stage {
    fn set(name: &str, protocol: Protocol) -> Result<Stage> {
        let cluster = Cluster::start(Version::V3_5, 1, &Options::default())?;
        let sink = Sink::start()?;
        let seat = Seat::new(name)?;
        let orders = Service::new(seat.folder().path(), "orders");
        let (endpoint, protocol) = match protocol {
            Protocol::Grpc => (sink.grpc_endpoint(), "grpc"),
            Protocol::Http => (sink.http_endpoint(), "http/protobuf"),
        };
        let log = orders.log().display();
        let rest = format!(
            "otlp: {{ endpoint: {endpoint}, protocol: {protocol}, flush: 300ms, queue: 1MiB }}
logs: {{ files: [\"{log}\"], start_at: beginning }}
"
        );
        seat.configure(&format!("{}{rest}", daemon::named(&cluster, false)))?;
        // A file has no key for it: the variable counts.
        let agent = seat.start(&[("OTEL_EXPORTER_OTLP_TIMEOUT", "1000")])?;
        Ok(Stage { _cluster: cluster, sink, seat, orders, agent, said: Vec::new() })
    }

    /// A line each tenth of a second, and the agent is asked how it is.
    fn say_for(&mut self, lasts: Duration) -> Result<()> {
        for _ in 0..lasts.as_millis() / 100 {
            self.said.push(self.orders.say("steady")?);
            for path in ["/healthz", "/readyz"] {
                let answer = self.agent.get(path)?;
                ensure!(answer.status == 200, "{path}: {} {}", answer.status, answer.body);
            }
            thread::sleep(Duration::from_millis(100));
        }
        let peak = self.agent.peak_kib()?;
        ensure!(peak < PEAK_KIB_MAX, "{peak} KiB");
        Ok(())
    }

    fn missing(&self) -> usize {
        let lines = flat::logs(&self.sink.received());
        let arrived: BTreeSet<&str> = lines.iter().map(|line| line.trace_id.as_str()).collect();
        self.said.iter().filter(|trace| !arrived.contains(trace.as_str())).count()
    }

    fn wait_for_all(&self) -> Result<()> {
        wait_until("every line", SOON, || {
            let missing = self.missing();
            ensure!(missing == 0, "{missing} of {} lines are missing", self.said.len());
            Ok(Some(()))
        })
        .with_context(|| format!("the agent wrote: {}", self.agent.agent.stderr()))
    }

    fn dropped(&self, reason: &str) -> Result<f64> {
        self.agent.metric("agent_otlp_dropped_items_total", reason)
    }

    /// After `reply` for a while nothing may be missing.
    fn endures(&mut self, reply: &Reply) -> Result<()> {
        self.sink.respond(reply.clone());
        self.say_for(Duration::from_secs(3))?;
        self.sink.respond(Reply::Accept);
        self.wait_for_all().with_context(|| format!("{reply:?}"))?;
        let dropped = self.dropped("")?;
        ensure!(dropped == 0.0, "{dropped} items dropped by {reply:?}");
        Ok(())
    }

    /// After `reply` for a while what was sent meanwhile may be gone; what comes then arrives.
    fn survives(&mut self, reply: &Reply) -> Result<()> {
        let refused = self.sink.refused();
        self.sink.respond(reply.clone());
        self.say_for(Duration::from_secs(3))?;
        ensure!(self.sink.refused() > refused, "nothing was sent during {reply:?}");
        self.sink.respond(Reply::Accept);
        self.said.clear();
        self.say_for(Duration::from_secs(1))?;
        self.wait_for_all().with_context(|| format!("after {reply:?}"))
    }
}

fn faults(protocol: Protocol, name: &str) -> Result<()> {
    let mut stage = Stage::set(name, protocol)?;
    stage.say_for(Duration::from_secs(1))?;
    stage.wait_for_all()?;
    stage.endures(&Reply::Unavailable { retry_after: Some(Duration::from_secs(1)) })?;
    stage.endures(&Reply::Slow(Duration::from_millis(700)))?;
    stage.endures(&Reply::Hang)?;
    ensure!(stage.agent.metric("agent_otlp_retries_total", "")? > 0.0, "no retry is counted");

    stage.survives(&Reply::Garbage)?;
    stage.survives(&Reply::Endless)?;
    let before = stage.dropped("rejected")?;
    stage.survives(&Reply::Refuse { grpc: tonic::Code::InvalidArgument, http: 400 })?;
    let after = stage.dropped("rejected")?;
    ensure!(after > before, "a refusal for good is counted as rejected: {before} then {after}");
    stage.agent.stop()
}

fn outage(protocol: Protocol, name: &str) -> Result<()> {
    let mut stage = Stage::set(name, protocol)?;
    stage.say_for(Duration::from_secs(1))?;
    stage.wait_for_all()?;
    stage.sink.down();
    stage.say_for(OUTAGE)?;
    ensure!(stage.missing() > 0, "the sink was not down");
    ensure!(stage.agent.metric("agent_otlp_queue_bytes", "")? > 0.0, "nothing waits");
    stage.sink.up()?;
    stage.wait_for_all()?;
    ensure!(stage.dropped("")? == 0.0, "items dropped in a short outage");

    // A flood during the next one: the queue's bound holds, and what is lost is counted to the line.
    stage.sink.down();
    let said = stage.said.len();
    let mut seed = 0x2545_f491_4f6c_dd1d_u64;
    for _ in 0..600 {
        stage.said.push(stage.orders.say(&noise(&mut seed))?);
    }
    stage.say_for(Duration::from_secs(5))?;
    let queued = stage.agent.metric("agent_otlp_queue_bytes", "")?;
    ensure!(queued <= f64::from(1 << 20), "{queued} bytes in a queue of 1 MiB");
    stage.sink.up()?;
    // While a request is tried again and the queue is full, what waits behind it is dropped; what comes afterwards is not.
    wait_until("the queue to empty", SOON, || {
        Ok((stage.agent.metric("agent_otlp_queue_bytes", "")? == 0.0).then_some(()))
    })?;
    stage.say_for(Duration::from_secs(1))?;
    wait_until("the drops to account for what is missing", SOON, || {
        let (missing, dropped) = (stage.missing(), stage.dropped_lines()?);
        ensure!(missing as f64 <= dropped, "{missing} lines missing, {dropped} counted as dropped");
        ensure!(stage.said.last().is_some_and(|last| stage.has_arrived(last)), "the last line is on its way");
        Ok(Some(()))
    })
    .with_context(|| stage.told())?;
    ensure!(stage.dropped("queue_full")? > 0.0, "a megabyte held {} lines", stage.said.len() - said);
    stage.agent.stop()?;
    drop(stage.seat);
    Ok(())
}

impl Stage {
    /// What the agent says of lines and requests.
    fn told(&self) -> String {
        let page = self.agent.get("/metrics").map(|answer| answer.body).unwrap_or_default();
        let about = |line: &&str| line.starts_with("agent_otlp") || line.starts_with("agent_logs");
        let counters: Vec<&str> = page.lines().filter(about).collect();
        format!("{}\n{}", self.agent.agent.stderr(), counters.join("\n"))
    }

    fn dropped_lines(&self) -> Result<f64> {
        self.agent.metric("agent_otlp_dropped_items_by_signal_total", "logs")
    }

    fn has_arrived(&self, trace: &str) -> bool {
        flat::logs(&self.sink.received()).iter().any(|line| line.trace_id == trace)
    }
}

/// Six kilobytes that no compression makes much smaller.
fn noise(seed: &mut u64) -> String {
    let mut next = || {
        *seed ^= *seed << 13;
        *seed ^= *seed >> 7;
        *seed ^= *seed << 17;
        format!("{seed:016x}")
    };
    (0..400).map(|_| next()).collect()
}

fn endpoint(sink: &Sink, protocol: Protocol) -> String {
    let (endpoint, protocol) = match protocol {
        Protocol::Grpc => (sink.grpc_endpoint(), "grpc"),
        Protocol::Http => (sink.http_endpoint(), "http/protobuf"),
    };
    format!("endpoint: {endpoint}, protocol: {protocol}, flush: 300ms")
}

/// A server's own limit: requests are halved until they fit, and one line that cannot is the only one missing.
fn limit(protocol: Protocol, name: &str) -> Result<()> {
    const LIMIT: usize = 4 << 10;
    let sink = Sink::start()?;
    sink.limit(LIMIT);
    let seat = Seat::new(name)?;
    let orders = Service::new(seat.folder().path(), "orders");
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    let mut said = Vec::new();
    for number in 0..60 {
        let long = noise(&mut seed);
        said.push(orders.say(long.split_at(if number == 30 { LIMIT + 1000 } else { 1000 }).0)?);
    }
    let log = orders.log().display();
    let otlp = format!("otlp: {{ {} }}", endpoint(&sink, protocol));
    seat.configure(&format!(
        "etcd: {{ discovery: false }}\n{otlp}\nlogs: {{ files: [\"{log}\"], start_at: beginning }}\n"
    ))?;
    let agent = seat.start(&[])?;
    let too_large = said.remove(30);
    let arrived = || -> BTreeSet<String> {
        flat::logs(&sink.received()).into_iter().map(|line| line.trace_id).collect()
    };
    wait_until("every line that fits", SOON, || {
        let arrived = arrived();
        let missing = said.iter().filter(|trace| !arrived.contains(*trace)).count();
        ensure!(missing == 0, "{missing} of {} lines are missing", said.len());
        Ok(Some(()))
    })
    .with_context(|| format!("the agent wrote: {}", agent.agent.stderr()))?;
    wait_until("the other one to be counted", SOON, || {
        Ok((agent.metric("agent_otlp_dropped_items_by_signal_total", "logs")? >= 1.0).then_some(()))
    })?;
    ensure!(!arrived().contains(&too_large), "the limit was not kept");
    let lines = agent.metric("agent_otlp_dropped_items_by_signal_total", "logs")?;
    let large = agent.metric("agent_otlp_dropped_items_total", "too_large")?;
    let rejected = agent.metric("agent_otlp_dropped_items_total", "rejected")?;
    ensure!(
        (lines, large, rejected) == (1.0, 1.0, 0.0),
        "dropped {lines}: {large} too large, {rejected} rejected"
    );
    ensure!(agent.metric("agent_otlp_splits_total", "logs")? > 0.0, "nothing was split");
    agent.stop()
}

/// The agent's own spans and log lines at a receiver that wants a certificate and a header.
fn own_telemetry(protocol: Protocol, compression: &str, name: &str) -> Result<()> {
    let seat = Seat::new(name)?;
    let certs = Certs::generate(&seat.folder().path().join("certs"))?;
    let sink = Sink::start_with_tls(&certs, ClientAuth::Required)?;
    let headers = seat.folder().write("headers", "x-token=s3cret\n")?;
    let (ca, cert, key) = (certs.cacert.display(), certs.cert.display(), certs.key.display());
    let files = format!("headers: {{ file: {} }}, ca: {ca}, cert: {cert}, key: {key}", headers.display());
    let otlp = format!("otlp: {{ {}, compression: {compression}, {files} }}", endpoint(&sink, protocol));
    seat.configure(&format!("etcd: {{ discovery: false }}\n{otlp}\n"))?;
    // The file counts; a library that reads these by itself would send them along.
    let agent = seat.start(&[
        ("OTEL_EXPORTER_OTLP_HEADERS", "x-token=another,x-stray=1"),
        ("OTEL_EXPORTER_OTLP_TRACES_HEADERS", "x-token=another,x-stray=1"),
        ("OTEL_EXPORTER_OTLP_LOGS_HEADERS", "x-token=another,x-stray=1"),
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip"),
    ])?;
    agent.stop()?;
    let received = sink.received();
    let spans = flat::spans(&received);
    ensure!(spans.iter().any(|span| span.span.name == "start"), "no span of the agent's start: {spans:?}");
    let lines = flat::logs(&received);
    ensure!(lines.iter().any(|line| line.body == "admin"), "no line of the agent's log: {lines:?}");
    for one in received.iter().filter(|one| matches!(one.payload, Payload::Traces(_) | Payload::Logs(_))) {
        ensure!(one.protocol == protocol, "{:?}", one.protocol);
        ensure!(one.headers.get("x-token").is_some_and(|token| token == "s3cret"), "{:?}", one.headers);
        ensure!(!one.headers.contains_key("x-stray"), "{:?}", one.headers);
        let encoding = if protocol == Protocol::Grpc { "grpc-encoding" } else { "content-encoding" };
        let word = one.headers.get(encoding).map_or(Ok("none"), |word| word.to_str())?;
        ensure!(word == compression, "{:?}", one.headers);
    }
    // Only the crate's own client says what it would take in return; what else are logs here comes from the exporter.
    let by_the_crate = |wanted: fn(&Payload) -> bool| {
        received.iter().any(|one| wanted(&one.payload) && one.headers.contains_key("grpc-accept-encoding"))
    };
    let expected = protocol == Protocol::Grpc && compression != "none";
    ensure!(by_the_crate(|payload| matches!(payload, Payload::Traces(_))) == expected, "{received:?}");
    ensure!(by_the_crate(|payload| matches!(payload, Payload::Logs(_))) == expected, "{received:?}");
    Ok(())
}

/// The agent starts with an authority that did not sign the receiver, and gets the right one before it ends.
#[test]
fn the_agents_own_lines_follow_rotated_certificates_over_grpc() -> Result<()> {
    let seat = Seat::new("own-telemetry-rotation")?;
    let [certs, others] = ["certs", "others"].map(|name| Certs::generate(&seat.folder().path().join(name)));
    let (certs, others) = (certs?, others?);
    let sink = Sink::start_with_tls(&certs, ClientAuth::Required)?;
    let (ca, cert, key) = (others.cacert.display(), certs.cert.display(), certs.key.display());
    let files = format!("ca: {ca}, cert: {cert}, key: {key}");
    let otlp = format!("otlp: {{ {}, {files} }}", endpoint(&sink, Protocol::Grpc));
    seat.configure(&format!("etcd: {{ discovery: false }}\n{otlp}\n"))?;
    let agent = seat.start(&[])?;
    ensure!(sink.received().is_empty(), "taken without trust");
    std::fs::copy(&certs.cacert, &others.cacert)?;
    agent.stop()?;
    let received = sink.received();
    let own = received.iter().filter(|one| one.headers.contains_key("grpc-accept-encoding"));
    ensure!(own.count() > 0, "nothing of the agent's own: {received:?}");
    Ok(())
}

#[test]
fn a_receiver_with_a_small_limit_gets_all_that_fits_over_grpc() {
    limit(Protocol::Grpc, "receiver-limit-grpc").unwrap();
}

#[test]
fn a_receiver_with_a_small_limit_gets_all_that_fits_over_http() {
    limit(Protocol::Http, "receiver-limit-http").unwrap();
}

#[test]
fn the_agents_own_spans_and_lines_take_the_configured_way_over_grpc() {
    own_telemetry(Protocol::Grpc, "zstd", "own-telemetry-grpc").unwrap();
}

#[test]
fn the_agents_own_spans_and_lines_take_the_configured_way_over_http() {
    own_telemetry(Protocol::Http, "zstd", "own-telemetry-http").unwrap();
}

#[test]
fn the_agents_own_spans_and_lines_are_uncompressed_where_the_file_says_so() {
    own_telemetry(Protocol::Grpc, "none", "own-telemetry-plain").unwrap();
}

#[test]
fn a_slow_refusing_or_garbled_receiver_costs_counted_items_and_nothing_else_over_grpc() {
    faults(Protocol::Grpc, "receiver-faults-grpc").unwrap();
}

#[test]
fn a_slow_refusing_or_garbled_receiver_costs_counted_items_and_nothing_else_over_http() {
    faults(Protocol::Http, "receiver-faults-http").unwrap();
}

#[test]
fn a_receiver_that_was_gone_for_twenty_seconds_has_every_line_and_a_flood_is_bounded_over_grpc() {
    outage(Protocol::Grpc, "receiver-outage-grpc").unwrap();
}

#[test]
fn a_receiver_that_was_gone_for_twenty_seconds_has_every_line_and_a_flood_is_bounded_over_http() {
    outage(Protocol::Http, "receiver-outage-http").unwrap();
}
