//! The agent's own figures: CPU, memory, what it read and shipped, and what it lost.

use std::collections::BTreeMap;
use std::time::Instant;

use anyhow::{Context, Result};
use harness::daemon::Daemon;
use serde::Serialize;

use crate::page::{by_reason, series};
use crate::receiver::Arrived;
use crate::stage::{Stage, board};
use crate::usage::Usage;

/// The figures of one window.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Cost {
    /// Length of the window.
    pub(crate) seconds: f64,
    /// User and system, of one core.
    pub(crate) cpu_percent_of_one_core: f64,
    /// Of which user.
    pub(crate) cpu_user_percent: f64,
    /// Of which system.
    pub(crate) cpu_system_percent: f64,
    /// All members together, of one core.
    pub(crate) etcd_cpu_percent_of_one_core: f64,
    /// Most resident memory since its start.
    pub(crate) rss_peak_mib: f64,
    /// Resident memory at the end.
    pub(crate) rss_mib: f64,
    /// Highest proportional share among the readings, one a minute.
    pub(crate) pss_peak_mib: f64,
    /// Proportional share at the end.
    pub(crate) pss_mib: f64,
    /// Threads at the end.
    pub(crate) threads: u64,
    /// Open descriptors at the end.
    pub(crate) fds: u64,
    /// Records that the engine applied, by kind.
    pub(crate) records: BTreeMap<String, u64>,
    /// Series and bytes of each member's page at the end.
    pub(crate) pages: Vec<Page>,
    /// What arrived over OTLP, by path; bytes as sent, compressed.
    pub(crate) shipped: BTreeMap<String, Arrived>,
    /// Bytes shipped a second, over all paths.
    pub(crate) shipped_bytes_per_s: f64,
    /// Items that the agent counts as sent, by signal.
    pub(crate) sent_items: BTreeMap<String, u64>,
    /// What was dropped, skipped, retried or refused, by metric and reason. Empty: nothing.
    pub(crate) losses: Vec<(String, String, u64)>,
}

/// One page.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Page {
    /// Series.
    pub(crate) series: usize,
    /// Bytes, not compressed.
    pub(crate) bytes: usize,
}

/// The beginning of a window.
#[derive(Debug)]
pub(crate) struct Opening {
    at: Instant,
    usage: Usage,
    etcd_cpu_s: f64,
    page: String,
    shipped: BTreeMap<String, Arrived>,
    losses: Vec<(String, String, u64)>,
    pss_peak_mib: f64,
}

impl Opening {
    /// Now.
    pub(crate) fn take(stage: &Stage, daemon: &Daemon) -> Result<Opening> {
        let usage = Usage::of(daemon.agent.pid())?;
        Ok(Opening {
            at: Instant::now(),
            usage,
            etcd_cpu_s: stage.etcd_cpu_s()?,
            page: daemon.get("/metrics")?.body,
            shipped: stage.receiver.exports(),
            losses: board(daemon)?.losses,
            pss_peak_mib: usage.pss_mib,
        })
    }

    /// A reading in between; gives CPU in percent of one core so far.
    pub(crate) fn look(&mut self, usage: &Usage) -> f64 {
        self.pss_peak_mib = self.pss_peak_mib.max(usage.pss_mib);
        percent(usage.cpu_s() - self.usage.cpu_s(), self.at.elapsed().as_secs_f64())
    }

    /// The window ends now.
    pub(crate) fn close(&self, stage: &Stage, daemon: &Daemon) -> Result<Cost> {
        let usage = Usage::of(daemon.agent.pid())?;
        let seconds = self.at.elapsed().as_secs_f64();
        let etcd_cpu_s = stage.etcd_cpu_s()? - self.etcd_cpu_s;
        let page = daemon.get("/metrics").context("the agent's page")?.body;
        let counted = |name: &str| since(&by_reason(&page, name), &by_reason(&self.page, name));
        let shipped = shipped_since(&stage.receiver.exports(), &self.shipped);
        let bytes: u64 = shipped.values().map(|arrived| arrived.bytes).sum();
        let pages = stage.pages()?;
        Ok(Cost {
            seconds,
            cpu_percent_of_one_core: percent(usage.cpu_s() - self.usage.cpu_s(), seconds),
            cpu_user_percent: percent(usage.user_s - self.usage.user_s, seconds),
            cpu_system_percent: percent(usage.system_s - self.usage.system_s, seconds),
            etcd_cpu_percent_of_one_core: percent(etcd_cpu_s, seconds),
            rss_peak_mib: usage.rss_peak_mib,
            rss_mib: usage.rss_mib,
            pss_peak_mib: self.pss_peak_mib.max(usage.pss_mib),
            pss_mib: usage.pss_mib,
            threads: usage.threads,
            fds: usage.fds,
            records: counted("agent_records_total"),
            pages: pages
                .iter()
                .map(|page| Page { series: series(page).count(), bytes: page.len() })
                .collect(),
            shipped,
            shipped_bytes_per_s: bytes as f64 / seconds,
            sent_items: counted("agent_otlp_sent_items_total"),
            losses: losses_since(board(daemon)?.losses, &self.losses),
        })
    }
}

/// Of one core.
pub(crate) fn percent(cpu_s: f64, seconds: f64) -> f64 {
    cpu_s / seconds * 100.0
}

fn since(now: &BTreeMap<String, u64>, before: &BTreeMap<String, u64>) -> BTreeMap<String, u64> {
    let delta = |(key, count): (&String, &u64)| {
        (key.clone(), count.saturating_sub(before.get(key).copied().unwrap_or(0)))
    };
    now.iter().map(delta).collect()
}

fn shipped_since(
    now: &BTreeMap<String, Arrived>,
    before: &BTreeMap<String, Arrived>,
) -> BTreeMap<String, Arrived> {
    let delta = |(path, now): (&String, &Arrived)| {
        let before = before.get(path).copied().unwrap_or_default();
        let (requests, bytes) = (now.requests - before.requests, now.bytes - before.bytes);
        (path.clone(), Arrived { requests, bytes })
    };
    now.iter().map(delta).collect()
}

fn losses_since(
    mut now: Vec<(String, String, u64)>,
    before: &[(String, String, u64)],
) -> Vec<(String, String, u64)> {
    for (metric, reason, count) in &mut now {
        let known = before.iter().find(|(of, why, _)| of == metric && why == reason);
        *count = count.saturating_sub(known.map_or(0, |(_, _, count)| *count));
    }
    now.retain(|(_, _, count)| *count > 0);
    now
}

#[cfg(test)]
mod tests {
    use super::losses_since;

    #[test]
    fn only_losses_of_the_window_count() {
        let loss = |metric: &str, reason: &str, count| (metric.to_owned(), reason.to_owned(), count);
        let before = [loss("a", "x", 2), loss("a", "y", 3)];
        let now = vec![loss("a", "x", 2), loss("a", "y", 5), loss("b", "x", 1)];
        assert_eq!(losses_since(now, &before), [loss("a", "y", 2), loss("b", "x", 1)]);
    }
}
