//! A service that uses etcd and logs what it did, as services do: JSON lines with trace ids, written when the work is done.
//!
//! Owns its log and its ids. It writes through the JSON gateway; how slow etcd is, is the story's affair.

use std::{
    fs::File,
    io::Write,
    path::{Path, PathBuf},
    process,
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context, Result};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::json;

use crate::etcd::Member;

/// A service with a log.
#[derive(Debug)]
pub struct Service {
    name: String,
    log: PathBuf,
}

impl Service {
    /// Logs to `<name>.log` below `dir`.
    pub fn new(dir: &Path, name: &str) -> Service {
        Service { name: name.to_owned(), log: dir.join(format!("{name}.log")) }
    }

    /// Its log.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// Puts a key through one member and logs the request and its call; gives the trace id.
    pub fn put(&self, revision: &str, member: &Member, key: &str, value: &str) -> Result<String> {
        let request = format!(r#"{{"key":"{}","value":"{}"}}"#, STANDARD.encode(key), STANDARD.encode(value));
        self.call(revision, member, ("put", key), &request)
    }

    /// Reads a key linearizably, logged in the same way.
    pub fn get(&self, revision: &str, member: &Member, key: &str) -> Result<String> {
        let request = format!(r#"{{"key":"{}"}}"#, STANDARD.encode(key));
        self.call(revision, member, ("range", key), &request)
    }

    fn call(
        &self,
        revision: &str,
        member: &Member,
        (operation, key): (&str, &str),
        request: &str,
    ) -> Result<String> {
        let started = now();
        let done = member.call(&format!("/v3/kv/{operation}"), request);
        let took = started.1.elapsed();
        let (trace, root, call) = (id(16), id(8), id(8));
        let (name, took_ms, failed) = (&self.name, took.as_secs_f64() * 1e3, done.is_err());
        let (time, peer) = (epoch_ns(started.0 + took), member.client_address().to_string());
        let inner = json!({
            "time": time, "level": "info", "service.name": name, "service.version": revision,
            "trace_id": trace, "span_id": call, "parent_span_id": root, "msg": format!("etcd {operation}"),
            "operation": operation, "key": key, "peer": peer, "duration_ms": took_ms, "failed": failed,
        });
        let outer = json!({
            "time": time, "level": "info", "service.name": name, "service.version": revision,
            "trace_id": trace, "span_id": root, "msg": "handle order", "duration_ms": took_ms, "failed": failed,
        });
        self.write(&format!("{inner}\n{outer}\n"))?;
        done.map(|_| trace)
    }

    /// Logs a line that did nothing; gives its trace id.
    pub fn say(&self, message: &str) -> Result<String> {
        let trace = id(16);
        let line = json!({
            "time": epoch_ns(now().0), "level": "info", "service.name": self.name, "trace_id": trace,
            "msg": message,
        });
        self.write(&format!("{line}\n"))?;
        Ok(trace)
    }

    fn write(&self, lines: &str) -> Result<()> {
        let mut log = File::options().create(true).append(true).open(&self.log).context("open the log")?;
        log.write_all(lines.as_bytes()).context("write the log")
    }
}

#[expect(clippy::disallowed_methods, reason = "when a real request began; nothing of the product reads this")]
fn now() -> (SystemTime, Instant) {
    (SystemTime::now(), Instant::now())
}

fn epoch_ns(at: SystemTime) -> u64 {
    let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

/// Unique within this process and, but for a repeated pid, beyond it.
fn id(bytes: usize) -> String {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let digits = bytes * 2 - 8;
    format!("{:08x}{number:0digits$x}", process::id())
}
