//! The OpenTelemetry Collector as a process: what other people run behind the agent.
//!
//! Owns its configuration, its ports and its two accounts: the counters of its receiver and the file it writes, which is
//! read back by [`written`]. Knows nothing of the agent and judges nothing.

use std::{
    collections::BTreeMap,
    env,
    fs::{self, OpenOptions},
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};

use crate::{
    agent::Finished,
    etcd::{ports, tools},
    http,
    process::{Process, wait_until},
};

pub mod written;

/// It listens after a fraction of a second; a busy host takes its share.
const START_MAX: Duration = Duration::from_secs(30);

/// It ends what it has begun, then what is in its buffers goes to the file.
const STOP_MAX: Duration = Duration::from_secs(20);

/// Its pages answer from memory.
const PAGE_MAX: Duration = Duration::from_secs(5);

/// Profiles are still behind a gate; one story says so, for the day on which they no longer are.
const GATE: &str = "--feature-gates=service.profilesSupport";

/// What the receiver counts, by the words of its metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Metric points.
    MetricPoints,
    /// Log records.
    LogRecords,
    /// Spans.
    Spans,
    /// Samples, not profiles.
    ProfileSamples,
}

impl Kind {
    /// All.
    pub const ALL: [Kind; 4] = [Kind::MetricPoints, Kind::LogRecords, Kind::Spans, Kind::ProfileSamples];

    fn word(self) -> &'static str {
        match self {
            Kind::MetricPoints => "metric_points",
            Kind::LogRecords => "log_records",
            Kind::Spans => "spans",
            Kind::ProfileSamples => "profile_samples",
        }
    }
}

/// The receiver's counters since the process started.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Items it took, by kind and by transport (`grpc`, `http`).
    pub accepted: BTreeMap<(Kind, String), u64>,
    /// Items of any kind that it or the pipeline behind it did not take.
    pub refused: u64,
}

impl Counters {
    /// Items of one kind that it took, over all transports.
    pub fn accepted(&self, kind: Kind) -> u64 {
        self.accepted.iter().filter(|((counted, _), _)| *counted == kind).map(|(_, count)| count).sum()
    }
}

/// A Collector with an OTLP receiver, which writes all it takes to one file. Dropping it kills it.
#[derive(Debug)]
pub struct Collector {
    dir: PathBuf,
    grpc: SocketAddr,
    http: SocketAddr,
    page: SocketAddr,
    process: Mutex<Option<Process>>,
}

impl Collector {
    /// The binary: `$COLLECTOR`, else the one in `.tools`.
    pub fn binary() -> Result<PathBuf> {
        let set = env::var_os("COLLECTOR").filter(|path| !path.is_empty());
        let path = set.map_or_else(|| tools().join("bin/collector"), PathBuf::from);
        ensure!(path.is_file(), "no Collector at {}: run `make tools`, or set COLLECTOR", path.display());
        Ok(path)
    }

    /// Starts one with its files in `dir/collector`, on ports that it keeps over restarts.
    pub fn start(dir: &Path) -> Result<Collector> {
        let collector = Collector::laid_out(dir)?;
        collector.resume()?;
        Ok(collector)
    }

    fn laid_out(dir: &Path) -> Result<Collector> {
        let dir = dir.join("collector");
        fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
        let held = ports::hold(3)?.release();
        let on_loopback = |port: &u16| SocketAddr::from((Ipv4Addr::LOCALHOST, *port));
        let addresses: Vec<SocketAddr> = held.iter().map(on_loopback).collect();
        let &[grpc, http, page] = addresses.as_slice() else { bail!("no three ports") };
        let collector = Collector { dir, grpc, http, page, process: Mutex::new(None) };
        fs::write(collector.config(), collector.yaml()).context("write the Collector's configuration")?;
        Ok(collector)
    }

    /// What it says, and how it ends, without the gate.
    pub fn without_gate(dir: &Path) -> Result<Finished> {
        let (log, process) = Collector::laid_out(dir)?.spawn(&[])?;
        let status = process.wait(STOP_MAX)?;
        Ok(Finished { status, bytes: Vec::new(), stdout: String::new(), stderr: fs::read_to_string(log)? })
    }

    /// For `OTEL_EXPORTER_OTLP_PROTOCOL=grpc`.
    pub fn grpc_endpoint(&self) -> String {
        format!("http://{}", self.grpc)
    }

    /// For `http/protobuf`: the base.
    pub fn http_endpoint(&self) -> String {
        format!("http://{}", self.http)
    }

    /// SIGTERM: it ends what it has begun, writes what it holds, and its ports are closed.
    pub fn stop(&self) -> Result<()> {
        match self.running().take() {
            Some(process) => process.stop(STOP_MAX).map(drop),
            None => Ok(()),
        }
    }

    /// Starts it again: same ports, same file.
    pub fn resume(&self) -> Result<()> {
        let (log, process) = self.spawn(&[GATE])?;
        let up = wait_until("the Collector to be up", START_MAX, || {
            if let Some(status) = process.exit_status()? {
                return Ok(Some(Err(anyhow::anyhow!("it ended with {status}"))));
            }
            let listens = |address: &SocketAddr| std::net::TcpStream::connect(address).is_ok();
            Ok([self.grpc, self.http, self.page].iter().all(listens).then_some(Ok(())))
        });
        up.and_then(|up| up).with_context(|| {
            format!("the Collector wrote: {}", fs::read_to_string(log).unwrap_or_default())
        })?;
        *self.running() = Some(process);
        Ok(())
    }

    /// Its receiver's counters.
    pub fn counters(&self) -> Result<Counters> {
        let answer = http::get(self.page, "/metrics", PAGE_MAX)?;
        ensure!(answer.status == 200, "the Collector's page answers {}", answer.status);
        let mut counters = Counters::default();
        for line in answer.body.lines().filter(|line| !line.starts_with('#')) {
            counters.add(line);
        }
        Ok(counters)
    }

    /// What it wrote: one export request a line, as OTLP JSON.
    pub fn output(&self) -> PathBuf {
        self.dir.join("out.jsonl")
    }

    fn config(&self) -> PathBuf {
        self.dir.join("collector.yaml")
    }

    fn yaml(&self) -> String {
        let (grpc, http, page, output) = (self.grpc, self.http, self.page, self.output());
        let output = output.display();
        let pipelines: String = ["metrics", "logs", "traces", "profiles"]
            .iter()
            .map(|signal| format!("    {signal}: {{ receivers: [otlp], exporters: [file] }}\n"))
            .collect();
        format!(
            "receivers:
  otlp:
    protocols:
      grpc: {{ endpoint: \"{grpc}\" }}
      http: {{ endpoint: \"{http}\" }}
exporters:
  file: {{ path: \"{output}\", append: true, flush_interval: 50ms }}
service:
  telemetry: {{ listen: \"{page}\" }}
  pipelines:
{pipelines}"
        )
    }

    fn spawn(&self, args: &[&str]) -> Result<(PathBuf, Process)> {
        let log = self.dir.join("collector.log");
        let open = || OpenOptions::new().create(true).append(true).open(&log);
        let mut command = Command::new(Collector::binary()?);
        command
            .args(args)
            .arg(format!("--config=file:{}", self.config().display()))
            .stdin(Stdio::null())
            .stdout(open().with_context(|| format!("open {}", log.display()))?)
            .stderr(open()?);
        let process = Process::spawn("the Collector", command)?;
        Ok((log, process))
    }

    fn running(&self) -> std::sync::MutexGuard<'_, Option<Process>> {
        self.process.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Counters {
    /// One line of the page: `otelcol_receiver_OUTCOME_KIND…{…,transport="…"} VALUE`.
    fn add(&mut self, line: &str) {
        let Some((series, value)) = line.rsplit_once(' ') else { return };
        let Some(rest) = series.strip_prefix("otelcol_receiver_") else { return };
        let count = value.parse::<f64>().unwrap_or_default() as u64;
        for kind in Kind::ALL {
            if rest.starts_with(&format!("accepted_{}", kind.word())) {
                let transport = rest.split("transport=\"").nth(1).and_then(|rest| rest.split('"').next());
                *self.accepted.entry((kind, transport.unwrap_or_default().to_owned())).or_default() += count;
            }
            if ["refused", "failed"]
                .iter()
                .any(|outcome| rest.starts_with(&format!("{outcome}_{}", kind.word())))
            {
                self.refused += count;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Counters, Kind};

    #[test]
    fn a_page_is_counted_by_kind_and_transport() {
        let mut counters = Counters::default();
        let page = "otelcol_receiver_accepted_spans_total{receiver=\"otlp\",transport=\"grpc\"} 7
otelcol_receiver_accepted_spans_total{receiver=\"otlp\",transport=\"http\"} 2
otelcol_receiver_accepted_profile_samples_total{receiver=\"otlp\",transport=\"http\"} 1e+03
otelcol_receiver_refused_log_records_total{receiver=\"otlp\",transport=\"http\"} 4
otelcol_receiver_failed_spans_total{receiver=\"otlp\",transport=\"http\"} 1
otelcol_exporter_sent_spans_total{exporter=\"file\"} 9";
        page.lines().for_each(|line| counters.add(line));
        assert_eq!((counters.accepted(Kind::Spans), counters.accepted(Kind::ProfileSamples)), (9, 1000));
        assert_eq!(counters.accepted[&(Kind::Spans, "grpc".to_owned())], 7);
        assert_eq!(counters.refused, 5);
    }
}
