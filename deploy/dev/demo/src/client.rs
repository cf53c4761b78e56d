//! The service "orders": a steady workload on etcd with structured logs. v1 and v1b read one order at a time; v2 has the bug.
//!
//! v2 reads the whole prefix for each request, with eight workers and no pause. That is all: nothing is slowed down on purpose.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use etcd_client::{Client, GetOptions};
use tokio::task::JoinSet;

use crate::ids::Ids;

/// Orders in the store; the prefix of all of them stays below the client's 4 MiB.
pub(crate) const ORDERS: usize = 30_000;
/// Where they lie.
pub(crate) const PREFIX: &str = "/orders/";
/// v1: a request each 50 ms and worker, two workers: 40 requests a second in all.
const STEADY_PAUSE: Duration = Duration::from_millis(50);
const STEADY_WORKERS: usize = 2;
/// v2: as fast as the answers come.
const EAGER_WORKERS: usize = 8;
/// A steady request in so many is logged; all of v2's are, they are slow.
const LOG_EVERY: usize = 20;

/// Arguments of the client.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Client URLs, one a member.
    #[arg(long, value_delimiter = ',')]
    pub(crate) endpoints: Vec<String>,
    /// v1, v1b or v2.
    #[arg(long)]
    pub(crate) revision: String,
    /// JSON lines are appended here.
    #[arg(long)]
    pub(crate) log: PathBuf,
}

/// The key of one order: 20 bytes.
pub(crate) fn key(order: usize) -> String {
    format!("{PREFIX}{order:012}")
}

/// The value of one order: 72 bytes.
pub(crate) fn value(order: usize) -> String {
    format!("{order:072}")
}

/// Works until it is killed.
pub(crate) async fn run(arguments: Arguments) -> Result<()> {
    let log = OpenOptions::new().create(true).append(true).open(&arguments.log).context("open the log")?;
    let log = Log { file: Arc::new(Mutex::new(log)), revision: arguments.revision.clone() };
    let eager = arguments.revision == "v2";
    let workers = if eager { EAGER_WORKERS } else { STEADY_WORKERS };
    let mut running = JoinSet::new();
    for worker in 0..workers {
        let endpoint = arguments.endpoints.iter().cycle().nth(worker).cloned().context("no endpoint")?;
        let worker = Worker { endpoint, log: log.clone(), worker };
        running.spawn(async move { if eager { worker.eager().await } else { worker.steady().await } });
    }
    while let Some(ended) = running.join_next().await {
        ended.context("worker")??;
    }
    Ok(())
}

struct Worker {
    endpoint: String,
    log: Log,
    worker: usize,
}

impl Worker {
    /// One order at a time: a read, and every fourth time a write.
    async fn steady(self) -> Result<()> {
        let mut client = self.connect().await?;
        let mut ids = Ids::new();
        for turn in 0_usize.. {
            let order = (turn * 7_919 + self.worker * 104_729) % ORDERS;
            let started = Instant::now();
            let (operation, done) = if turn % 4 == 3 {
                ("put", client.put(key(order), value(order), None).await.map(|_| ()))
            } else {
                ("range", client.get(key(order), None).await.map(|_| ()))
            };
            let took = started.elapsed();
            if turn % LOG_EVERY == 0 || done.is_err() {
                let request = Request { message: "get order", operation, took, failed: done.is_err() };
                self.log.request(&mut ids, &self.endpoint, &request)?;
            }
            tokio::time::sleep(STEADY_PAUSE).await;
        }
        Ok(())
    }

    /// The bug: every request lists all orders.
    async fn eager(self) -> Result<()> {
        let mut client = self.connect().await?;
        let mut ids = Ids::new();
        loop {
            let started = Instant::now();
            let all = client.get(PREFIX, Some(GetOptions::new().with_prefix())).await;
            let request = Request {
                message: "list orders",
                operation: "range",
                took: started.elapsed(),
                failed: all.is_err(),
            };
            self.log.request(&mut ids, &self.endpoint, &request)?;
            if all.is_err() {
                tokio::time::sleep(STEADY_PAUSE).await;
            }
        }
    }

    async fn connect(&self) -> Result<Client> {
        Client::connect([&self.endpoint], None).await.context("connect")
    }
}

struct Request {
    message: &'static str,
    operation: &'static str,
    took: Duration,
    failed: bool,
}

#[derive(Clone)]
struct Log {
    file: Arc<Mutex<File>>,
    revision: String,
}

impl Log {
    /// Two lines, as a service writes them when the work is done: the call to etcd, and the request it was made for.
    fn request(&self, ids: &mut Ids, endpoint: &str, request: &Request) -> Result<()> {
        let (trace, root, call) = (ids.trace(), ids.span(), ids.span());
        let peer = endpoint.trim_start_matches("http://");
        let now = jiff::Timestamp::now();
        let took_ms = request.took.as_secs_f64() * 1_000.0;
        let base = serde_json::json!({
            "time": format!("{now:.6}"), "level": if request.failed { "error" } else { "info" },
            "service.name": "orders", "service.version": self.revision, "trace_id": trace,
            "duration_ms": took_ms, "failed": request.failed,
        });
        let lines = [
            merge(
                &base,
                &serde_json::json!({
                    "span_id": call, "parent_span_id": root, "msg": format!("etcd {}", request.operation),
                    "operation": request.operation, "peer": peer,
                }),
            ),
            merge(&base, &serde_json::json!({ "span_id": root, "msg": request.message })),
        ];
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        for line in lines {
            writeln!(file, "{line}").context("write the log")?;
        }
        Ok(())
    }
}

fn merge(base: &serde_json::Value, more: &serde_json::Value) -> serde_json::Value {
    let mut merged = base.as_object().cloned().unwrap_or_default();
    merged.extend(more.as_object().cloned().unwrap_or_default());
    merged.into()
}
