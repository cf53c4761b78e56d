//! What was measured, as `report.json` and as a table to read. Parts that did not run are absent.

use anyhow::Result;
use serde::Serialize;

use crate::cost::Cost;
use crate::fsync::{Fsync, Side, Timed};
use crate::page::Quantile;
use crate::plan::Plan;
use crate::profilers::Profilers;
use crate::quiet::Quiet;
use crate::stage::{CPUS, Stage};

/// The report.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Report {
    /// RFC 3339.
    pub(crate) started_at: String,
    /// Version of the members, as they report it.
    pub(crate) etcd_version: String,
    /// CPUs for everything: members, workload, agent, receiver.
    pub(crate) cpus: usize,
    /// 30 in a whole run; shorter ones show that the measuring works.
    pub(crate) minutes: f64,
    /// The agent's own figures.
    pub(crate) cost: Option<Cost>,
    /// etcd with and without it.
    pub(crate) fsync: Option<Fsync>,
    /// What it said while nothing was wrong.
    pub(crate) quiet: Option<Quiet>,
    /// Its sampling beside other profilers.
    pub(crate) profilers: Option<Profilers>,
}

type Row = (String, String);

impl Report {
    /// Nothing measured yet.
    pub(crate) fn begin(stage: &Stage, plan: &Plan) -> Result<Report> {
        Ok(Report {
            started_at: format!("{:.0}", jiff::Timestamp::now()),
            etcd_version: stage.etcd_version()?,
            cpus: CPUS,
            minutes: plan.length.as_secs_f64() / 60.0,
            cost: None,
            fsync: None,
            quiet: None,
            profilers: None,
        })
    }

    /// What must hold and does not.
    pub(crate) fn failures(&self) -> Vec<String> {
        self.quiet.as_ref().map(Quiet::failures).unwrap_or_default()
    }

    /// To read.
    pub(crate) fn table(&self) -> String {
        let mut rows =
            vec![row("etcd", &self.etcd_version), row("CPUs for everything", &self.cpus.to_string())];
        rows.extend(self.cost.as_ref().map(of_cost).unwrap_or_default());
        rows.extend(self.fsync.as_ref().map(of_fsync).unwrap_or_default());
        rows.extend(self.quiet.as_ref().map(of_quiet).unwrap_or_default());
        let rows = rows.iter().map(|(what, value)| format!("  {what:<44} {value}\n"));
        rows.chain(self.profilers.as_ref().map(Profilers::told)).collect()
    }
}

fn row(what: &str, value: &str) -> Row {
    (what.to_owned(), value.to_owned())
}

fn of_cost(cost: &Cost) -> Vec<Row> {
    let records: u64 = cost.records.values().sum();
    let pages: Vec<String> =
        cost.pages.iter().map(|page| format!("{} ({} kB)", page.series, page.bytes / 1_000)).collect();
    let bytes: u64 = cost.shipped.values().map(|arrived| arrived.bytes).sum();
    let mut rows = vec![
        row(
            &format!("agent CPU over {:.0} s, of one core", cost.seconds),
            &format!(
                "{:.2} % (user {:.2}, system {:.2})",
                cost.cpu_percent_of_one_core, cost.cpu_user_percent, cost.cpu_system_percent
            ),
        ),
        row(
            "agent memory",
            &format!(
                "RSS {:.1} MiB, peak {:.1}; PSS {:.1} MiB, peak {:.1}",
                cost.rss_mib, cost.rss_peak_mib, cost.pss_mib, cost.pss_peak_mib
            ),
        ),
        row("agent threads, descriptors", &format!("{}, {}", cost.threads, cost.fds)),
        row("records", &format!("{records} ({:.1} a second)", records as f64 / cost.seconds)),
        row("series of each page", &pages.join(", ")),
        row("shipped", &format!("{bytes} bytes ({:.1} kB/s)", cost.shipped_bytes_per_s / 1_000.0)),
        row("etcd CPU meanwhile, of one core", &format!("{:.1} %", cost.etcd_cpu_percent_of_one_core)),
    ];
    if cost.losses.is_empty() {
        rows.push(row("lost", "nothing"));
    }
    for (metric, reason, count) in &cost.losses {
        rows.push(row("lost", &format!("{count} {metric} {reason}")));
    }
    rows
}

fn of_fsync(fsync: &Fsync) -> Vec<Row> {
    let bucketed = |of: fn(&Side) -> Quantile, ratio: f64| {
        let told = |side: &Side| {
            let Quantile { ms, bucket_ms: (low, high), n } = of(side);
            format!("{ms:.2} ms (in {low}–{high} ms, n = {n})")
        };
        format!("{} -> {}, x {ratio:.2}", told(&fsync.without), told(&fsync.with))
    };
    let timed = |Timed { p50_ms, p99_ms, n }: Timed| format!("{p99_ms:.2} ms (p50 {p50_ms:.2}, n = {n})");
    let (without, with, ratio) = (&fsync.without, &fsync.with, fsync.ratio);
    let span = |with_agent: bool| {
        let of_kind = fsync.blocks.iter().filter(|block| block.with_agent == with_agent);
        let p99: Vec<f64> = of_kind.map(|block| block.fsync_p99.ms).collect();
        let (low, high) =
            p99.iter().fold((f64::MAX, 0.0_f64), |(low, high), ms| (low.min(*ms), high.max(*ms)));
        format!("{low:.2} to {high:.2} ms")
    };
    vec![
        row("blocks without, with the agent", &format!("{:.0} s, {:.0} s", without.seconds, with.seconds)),
        row("WAL fsync p99, without -> with", &bucketed(|side| side.fsync_p99, ratio.fsync_p99)),
        row("  of single blocks", &format!("{} -> {}", span(false), span(true))),
        row("backend commit p99", &bucketed(|side| side.commit_p99, ratio.commit_p99)),
        row(
            "the workload's put p99",
            &format!("{} -> {}, x {:.2}", timed(without.put), timed(with.put), ratio.put_p99),
        ),
        row(
            "etcd CPU, of one core",
            &format!(
                "{:.1} % -> {:.1} %, x {:.2}",
                without.etcd_cpu_percent_of_one_core, with.etcd_cpu_percent_of_one_core, ratio.etcd_cpu
            ),
        ),
    ]
}

fn of_quiet(quiet: &Quiet) -> Vec<Row> {
    let mut rows = vec![row("quiet run", &format!("{:.1} minutes", quiet.minutes))];
    for done in &quiet.events {
        let what = format!("{}, {:.2} s: {} Regressions followed", done.what, done.took_s, done.regressions);
        rows.push(row(&format!("  {}", done.at), &what));
    }
    for told in &quiet.regressions {
        let (before, after, unit) = &told.values;
        let cause = told.cause.as_ref().map_or("opened".to_owned(), |cause| format!("put down to {cause}"));
        let event = match (&told.event, told.onset_after_s) {
            (Some(event), Some(after_s)) => format!("{after_s:.1} s after {event}"),
            _ => "no event".to_owned(),
        };
        let values = format!("{} {before:.4} -> {after:.4} {unit}", told.metric);
        rows.push(row(
            &format!("  Regression {}", told.onset),
            &format!("{} {values}; {cause}; {event}", told.member),
        ));
    }
    for burn in &quiet.burns {
        let (bad, total) = burn.counts;
        let excused = burn.excused.as_deref().unwrap_or("not excused");
        rows.push(row(
            &format!("  Burn {}", burn.at),
            &format!("{}: {bad} of {total} bad, {excused}", burn.what),
        ));
    }
    for decided in &quiet.decisions {
        let what = format!("{} {}: {}", decided.target, decided.state, decided.sentence);
        rows.push(row(&format!("  Decision {}", decided.at), &what));
    }
    let states: Vec<String> =
        quiet.decisions_by_state.iter().map(|(state, count)| format!("{count} {state}")).collect();
    rows.extend([
        row("Regressions without an event", &quiet.regressions_without_event.to_string()),
        row("decisions by state", &states.join(", ")),
        row(
            "rollback decisions, signals sent",
            &format!("{}, {}", quiet.rollback_decisions, quiet.signals_sent),
        ),
        row("requests of the workload that failed", &quiet.workload_failed.to_string()),
    ]);
    rows
}
