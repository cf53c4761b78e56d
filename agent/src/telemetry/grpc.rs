//! The agent's own spans and logs over gRPC: opentelemetry-otlp batches, encodes and sends, over the exporter's channel.
//!
//! Owns what the crate leaves to others: an export ends in time, also one whose answer never does; a panic in it is an error
//! of this one export (tonic panics on a `grpc-status-details-bin` that is not base64, and would take the batch thread
//! along); and certificates are looked at before each. Timers are those of the telemetry thread's runtime, which is entered
//! while the batch thread polls.

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::{Mutex, PoisonError};
use std::task::Poll;
use std::time::Duration;

use exporters::otlp::{Compression, Config, Dial, Signal, StartError};
use model::ledger::Ledger;
use model::time::Clock;
use opentelemetry_otlp::{ExporterBuildError, LogExporter, SpanExporter, WithExportConfig, WithTonicConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::{OTelSdkError, OTelSdkResult};
use opentelemetry_sdk::logs::LogBatch;
use opentelemetry_sdk::trace::SpanData;
use tokio::runtime::Handle;

/// The way of one signal.
#[derive(Debug)]
pub(super) struct Line {
    dial: Mutex<Dial>,
    timeout: Duration,
    runtime: Handle,
    ledger: Ledger,
}

/// An exporter of the crate on its line.
#[derive(Debug)]
pub(super) struct Guarded<E> {
    exporter: E,
    line: Line,
}

impl Line {
    /// `None` where the crate's client cannot send: see [`Dial::new`].
    pub(super) fn new(
        config: &Config,
        signal: Signal,
        (clock, ledger): (&Clock, &Ledger),
        runtime: &Handle,
    ) -> Result<Option<Line>, StartError> {
        let _within = runtime.enter();
        let dial = Dial::new(config, signal, clock, ledger)?;
        Ok(dial.map(|dial| Line {
            timeout: dial.timeout(),
            dial: Mutex::new(dial),
            runtime: runtime.clone(),
            ledger: ledger.clone(),
        }))
    }

    /// Sends spans.
    pub(super) fn spans(self) -> Result<Guarded<SpanExporter>, ExporterBuildError> {
        let exporter = self.settle(SpanExporter::builder().with_tonic()).build()?;
        Ok(Guarded { exporter, line: self })
    }

    /// Sends log records.
    pub(super) fn logs(self) -> Result<Guarded<LogExporter>, ExporterBuildError> {
        let exporter = self.settle(LogExporter::builder().with_tonic()).build()?;
        Ok(Guarded { exporter, line: self })
    }

    /// Everything that the crate would look for in the environment. The endpoint is that of the channel.
    fn settle<B: WithTonicConfig + WithExportConfig>(&self, builder: B) -> B {
        let dial = self.dial.lock().unwrap_or_else(PoisonError::into_inner);
        let builder = builder.with_channel(dial.channel()).with_interceptor(dial.interceptor());
        let builder = builder.with_timeout(self.timeout);
        match dial.compression() {
            Compression::None => builder,
            Compression::Gzip => builder.with_compression(opentelemetry_otlp::Compression::Gzip),
            Compression::Zstd => builder.with_compression(opentelemetry_otlp::Compression::Zstd),
        }
    }

    async fn guard(&self, export: impl Future<Output = OTelSdkResult> + Send) -> OTelSdkResult {
        self.dial.lock().unwrap_or_else(PoisonError::into_inner).refresh();
        let bounded = async {
            let ended = tokio::time::timeout(self.timeout, export).await;
            ended.unwrap_or(Err(OTelSdkError::Timeout(self.timeout)))
        };
        let mut bounded = pin!(bounded);
        let result = std::future::poll_fn(|cx| {
            let _within = self.runtime.enter();
            let polled = catch_unwind(AssertUnwindSafe(|| bounded.as_mut().poll(cx)));
            polled.unwrap_or_else(|_| {
                self.ledger.add("agent_own_telemetry_failures_total", "panicked", 1);
                Poll::Ready(Err(OTelSdkError::InternalFailure("the client panicked".to_owned())))
            })
        })
        .await;
        if result.is_err() {
            self.dial.lock().unwrap_or_else(PoisonError::into_inner).renew();
        }
        result
    }
}

impl opentelemetry_sdk::trace::SpanExporter for Guarded<SpanExporter> {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        self.line.guard(self.exporter.export(batch)).await
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}

impl opentelemetry_sdk::logs::LogExporter for Guarded<LogExporter> {
    async fn export(&self, batch: LogBatch<'_>) -> OTelSdkResult {
        self.line.guard(self.exporter.export(batch)).await
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}
