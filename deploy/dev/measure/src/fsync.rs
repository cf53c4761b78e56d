//! What etcd feels: its own histograms and CPU over interleaved blocks with the agent running and with it stopped.
//!
//! Every count is the difference of a histogram at the end of a block and at its beginning, summed over members and blocks.

use std::thread::sleep;
use std::time::Instant;

use anyhow::{Context, Result};
use harness::daemon::Daemon;
use serde::Serialize;

use crate::cost::percent;
use crate::page::{Histogram, Quantile};
use crate::plan::Plan;
use crate::stage::Stage;

/// WAL fsyncs.
const FSYNC: &str = "etcd_disk_wal_fsync_duration_seconds";

/// Commits of the backend.
const COMMIT: &str = "etcd_disk_backend_commit_duration_seconds";

/// The report of this part.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Fsync {
    /// Blocks with the agent stopped, together.
    pub(crate) without: Side,
    /// Blocks with it running, together.
    pub(crate) with: Side,
    /// With, as a multiple of without.
    pub(crate) ratio: Ratio,
    /// Each block, in order.
    pub(crate) blocks: Vec<BlockRow>,
}

/// With, as a multiple of without.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct Ratio {
    /// Of the fsync p99.
    pub(crate) fsync_p99: f64,
    /// Of the backend commit p99.
    pub(crate) commit_p99: f64,
    /// Of the workload's put p99.
    pub(crate) put_p99: f64,
    /// Of etcd's CPU time.
    pub(crate) etcd_cpu: f64,
}

/// All blocks of one kind.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Side {
    /// How long, together.
    pub(crate) seconds: f64,
    /// WAL fsyncs of all members.
    pub(crate) fsync_p99: Quantile,
    /// Their buckets: upper bound in microseconds with the cumulative count.
    pub(crate) fsync: Histogram,
    /// Backend commits of all members.
    pub(crate) commit_p99: Quantile,
    /// Their buckets.
    pub(crate) commit: Histogram,
    /// Puts of the workload, each timed by itself: no buckets.
    pub(crate) put: Timed,
    /// CPU of all members, of one core.
    pub(crate) etcd_cpu_percent_of_one_core: f64,
}

/// Exact percentiles of a sample.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Timed {
    /// Median, milliseconds.
    pub(crate) p50_ms: f64,
    /// 99th percentile, milliseconds.
    pub(crate) p99_ms: f64,
    /// How many.
    pub(crate) n: usize,
}

/// One block in short.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct BlockRow {
    /// Whether the agent ran.
    pub(crate) with_agent: bool,
    /// WAL fsyncs, interpolated p99.
    pub(crate) fsync_p99: Quantile,
    /// Puts of the workload.
    pub(crate) put: Timed,
    /// CPU of all members, of one core.
    pub(crate) etcd_cpu_percent_of_one_core: f64,
}

/// One block as measured.
#[derive(Clone, Debug, Default)]
struct Block {
    with_agent: bool,
    seconds: f64,
    fsync: Histogram,
    commit: Histogram,
    puts: Vec<u64>,
    etcd_cpu_s: f64,
}

/// Runs all blocks.
pub(crate) fn run(stage: &Stage, plan: &Plan) -> Result<Fsync> {
    let mut daemon: Option<Daemon> = None;
    let mut blocks = Vec::new();
    for (place, with_agent) in plan.blocks().into_iter().enumerate() {
        let changes = place == 0 || with_agent != daemon.is_some();
        match (with_agent, daemon.take()) {
            (true, None) => daemon = Some(stage.seat.start(&[])?),
            (false, Some(running)) => running.stop()?,
            (_, unchanged) => daemon = unchanged,
        }
        if changes {
            sleep(plan.settle());
        }
        let block = measure(stage, plan, with_agent)?;
        let row = block.row().with_context(|| format!("block {place} saw no fsync or no put"))?;
        stage.say(&format!(
            "block {} of {}, {} the agent: fsync p99 {:.2} ms (n = {}), put p99 {:.2} ms, etcd {:.1} % CPU",
            place + 1,
            plan.blocks().len(),
            if with_agent { "with" } else { "without" },
            row.fsync_p99.ms,
            row.fsync_p99.n,
            row.put.p99_ms,
            row.etcd_cpu_percent_of_one_core
        ));
        blocks.push(block);
    }
    if let Some(running) = daemon {
        running.stop()?;
    }
    conclude(&blocks).context("too few observations")
}

fn measure(stage: &Stage, plan: &Plan, with_agent: bool) -> Result<Block> {
    let before = stage.pages()?;
    let etcd_cpu_s = stage.etcd_cpu_s()?;
    let began = Instant::now();
    stage.workload.take_puts();
    sleep(plan.block());
    let puts = stage.workload.take_puts();
    let seconds = began.elapsed().as_secs_f64();
    let etcd_cpu_s = stage.etcd_cpu_s()? - etcd_cpu_s;
    let after = stage.pages()?;
    let delta = |family: &str| {
        let mut sum = Histogram::default();
        for (after, before) in after.iter().zip(&before) {
            sum.add(&Histogram::of(after, family).since(&Histogram::of(before, family)));
        }
        sum
    };
    Ok(Block { with_agent, seconds, fsync: delta(FSYNC), commit: delta(COMMIT), puts, etcd_cpu_s })
}

impl Block {
    fn add(&mut self, other: &Block) {
        self.seconds += other.seconds;
        self.fsync.add(&other.fsync);
        self.commit.add(&other.commit);
        self.puts.extend(&other.puts);
        self.etcd_cpu_s += other.etcd_cpu_s;
    }

    fn row(&self) -> Option<BlockRow> {
        Some(BlockRow {
            with_agent: self.with_agent,
            fsync_p99: self.fsync.quantile(0.99)?,
            put: timed(&self.puts)?,
            etcd_cpu_percent_of_one_core: percent(self.etcd_cpu_s, self.seconds),
        })
    }

    fn side(&self) -> Option<Side> {
        Some(Side {
            seconds: self.seconds,
            fsync_p99: self.fsync.quantile(0.99)?,
            fsync: self.fsync.clone(),
            commit_p99: self.commit.quantile(0.99)?,
            commit: self.commit.clone(),
            put: timed(&self.puts)?,
            etcd_cpu_percent_of_one_core: percent(self.etcd_cpu_s, self.seconds),
        })
    }
}

fn conclude(blocks: &[Block]) -> Option<Fsync> {
    let side = |with_agent: bool| {
        let mut sum = Block::default();
        blocks.iter().filter(|block| block.with_agent == with_agent).for_each(|block| sum.add(block));
        sum.side()
    };
    let (without, with) = (side(false)?, side(true)?);
    let ratio = Ratio {
        fsync_p99: with.fsync_p99.ms / without.fsync_p99.ms,
        commit_p99: with.commit_p99.ms / without.commit_p99.ms,
        put_p99: with.put.p99_ms / without.put.p99_ms,
        etcd_cpu: with.etcd_cpu_percent_of_one_core / without.etcd_cpu_percent_of_one_core,
    };
    Some(Fsync { without, with, ratio, blocks: blocks.iter().filter_map(Block::row).collect() })
}

/// Nearest rank; `None` of nothing.
pub(crate) fn timed(latencies_ns: &[u64]) -> Option<Timed> {
    let mut sorted = latencies_ns.to_vec();
    sorted.sort_unstable();
    let n = sorted.len();
    let at = |percent: usize| {
        let rank = (n * percent).div_ceil(100).max(1);
        sorted.get(rank - 1).map(|ns| *ns as f64 / 1e6)
    };
    Some(Timed { p50_ms: at(50)?, p99_ms: at(99)?, n })
}

#[cfg(test)]
mod tests {
    use super::{Block, FSYNC, Timed, conclude, timed};
    use crate::page::Histogram;

    #[test]
    fn percentiles_are_observations() {
        let hundred: Vec<u64> = (1..=100).rev().map(|ms| ms * 1_000_000).collect();
        assert_eq!(timed(&hundred), Some(Timed { p50_ms: 50.0, p99_ms: 99.0, n: 100 }));
        assert_eq!(timed(&[3_000_000]), Some(Timed { p50_ms: 3.0, p99_ms: 3.0, n: 1 }));
        assert_eq!(timed(&[]), None);
    }

    fn block(with_agent: bool, fast: u64, slow: u64, put_ms: u64) -> Block {
        let page = format!(
            "{FSYNC}_bucket{{le=\"0.001\"}} {fast}\n{FSYNC}_bucket{{le=\"0.002\"}} {}\n{FSYNC}_bucket{{le=\"+Inf\"}} {}\n",
            fast + slow,
            fast + slow
        );
        let fsync = Histogram::of(&page, FSYNC);
        Block {
            with_agent,
            seconds: 10.0,
            commit: fsync.clone(),
            fsync,
            puts: vec![put_ms * 1_000_000; 10],
            etcd_cpu_s: if with_agent { 3.0 } else { 2.0 },
        }
    }

    #[test]
    fn sides_are_sums_over_their_blocks() {
        let blocks =
            [block(false, 99, 1, 2), block(true, 90, 10, 3), block(true, 90, 10, 3), block(false, 99, 1, 2)];
        let fsync = conclude(&blocks).unwrap();
        assert_eq!((fsync.without.fsync_p99.n, fsync.without.fsync_p99.ms), (200, 1.0));
        assert_eq!((fsync.with.fsync_p99.n, fsync.with.fsync_p99.ms), (200, 1.9));
        assert_eq!((fsync.ratio.put_p99, fsync.ratio.etcd_cpu), (1.5, 1.5));
        assert_eq!(fsync.with.etcd_cpu_percent_of_one_core, 30.0);
        assert_eq!(fsync.blocks.len(), 4);
        assert!(conclude(&[block(true, 1, 1, 1)]).is_none());
    }
}
