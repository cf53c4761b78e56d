//! What the demo measured, as `target/demo/report.json` and as the table at the end.

use serde::Serialize;

/// The report. Times are seconds after `regression_at`; `null` where the step did not happen.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Report {
    /// Version of the members, as they report it.
    pub(crate) etcd_version: String,
    /// Start of the first v2 request, RFC 3339, by the service's own log.
    pub(crate) regression_at: String,
    /// First Regression finding.
    pub(crate) detected_s: Option<f64>,
    /// First Burn finding.
    pub(crate) page_s: Option<f64>,
    /// The rollback webhook's arrival at the deployer.
    pub(crate) signal_s: Option<f64>,
    /// First ProfileDiff of CPU time.
    pub(crate) profile_s: Option<f64>,
    /// First ProfileDiff of the heap.
    pub(crate) heap_s: Option<f64>,
    /// The deployer has put v1b back.
    pub(crate) put_back_s: Option<f64>,
    /// The `resolved` event's arrival at the deployer.
    pub(crate) resolved_s: Option<f64>,
    /// The decision is `pass` again.
    pub(crate) recovered_s: Option<f64>,
    /// When the shipped tiers alone would have paged after an hour of clean history.
    pub(crate) page_s_shipped: Option<f64>,
    /// What fired.
    pub(crate) lane: String,
    /// Rollback signals before v2: must be 0.
    pub(crate) quiet_signals: usize,
    /// By what CPU time was taken: `perf` or `go_pprof`.
    pub(crate) engine: String,
    /// Functions with their share before and after.
    pub(crate) diff_top: Vec<Changed>,
    /// Trees that lead from a v2 request to etcd's range.
    pub(crate) call_trees: usize,
    /// Files of all captures, below the artefact directory.
    pub(crate) artefacts: Vec<String>,
    /// What the OTLP receiver took, the agent's own telemetry not counted.
    pub(crate) otlp: Otlp,
    /// utime + stime of the agent over its life, as a share of one core.
    pub(crate) agent_cpu_percent_of_one_core: f64,
    /// VmHWM.
    pub(crate) agent_rss_peak_mib: f64,
}

/// One function of the diff.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Changed {
    /// Name.
    pub(crate) function: String,
    /// Share of CPU before, 0 to 1.
    pub(crate) before: f64,
    /// Share of CPU after.
    pub(crate) after: f64,
}

/// What arrived over OTLP.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Otlp {
    /// Data points.
    pub(crate) metric_points: u64,
    /// Spans.
    pub(crate) spans: u64,
    /// Log records.
    pub(crate) log_records: u64,
    /// Profiles.
    pub(crate) profiles: u64,
}

impl Report {
    /// What must have happened and did not; empty when the demo has shown what it is for.
    pub(crate) fn missing(&self) -> Vec<String> {
        let happened = [
            ("a regression was found", self.detected_s.is_some()),
            ("an SLO burned", self.page_s.is_some()),
            ("a signed rollback signal arrived", self.signal_s.is_some()),
            ("a CPU profile diff was drawn", self.profile_s.is_some()),
            ("a heap profile diff was drawn", self.heap_s.is_some()),
            ("the deployer put the old revision back", self.put_back_s.is_some()),
            ("the deployer was told that it is resolved", self.resolved_s.is_some()),
            ("a capture left its flame graph and its CPU and heap profiles", self.has_whole_capture()),
            ("the decision returned to pass", self.recovered_s.is_some()),
            ("the shipped tiers page after an hour of clean history", self.page_s_shipped.is_some()),
            ("no signal left before v2", self.quiet_signals == 0),
            ("call trees lead from v2 to etcd", self.call_trees > 0),
            ("metrics arrived", self.otlp.metric_points > 0),
            ("traces arrived", self.otlp.spans > 0),
            ("logs arrived", self.otlp.log_records > 0),
            ("profiles arrived", self.otlp.profiles > 0),
            ("the signal came within 30 s", self.signal_s.is_some_and(|after| after <= 30.0)),
            ("the agent stayed below 96 MiB", self.agent_rss_peak_mib <= 96.0),
        ];
        happened.iter().filter(|(_, true_)| !true_).map(|(what, _)| (*what).to_owned()).collect()
    }

    /// Whether one capture's folder holds all that people are promised.
    fn has_whole_capture(&self) -> bool {
        let pages = self.artefacts.iter().filter_map(|path| path.strip_suffix("flame.html"));
        pages.into_iter().any(|folder| {
            ["cpu.pb.gz", "heap.pb.gz"].iter().all(|name| self.artefacts.contains(&format!("{folder}{name}")))
        })
    }

    /// The table at the end.
    pub(crate) fn table(&self) -> String {
        let seconds = |after: Option<f64>| after.map_or("never".to_owned(), |after| format!("{after:.1} s"));
        let rows = [
            ("regression found", seconds(self.detected_s)),
            ("SLO burns", seconds(self.page_s)),
            ("rollback signal received", seconds(self.signal_s)),
            ("profile diff, CPU", seconds(self.profile_s)),
            ("profile diff, heap", seconds(self.heap_s)),
            ("old revision put back", seconds(self.put_back_s)),
            ("resolved event received", seconds(self.resolved_s)),
            ("recovered", seconds(self.recovered_s)),
            ("shipped tiers alone, after 1 h of clean history", seconds(self.page_s_shipped)),
            ("what fired", self.lane.clone()),
            ("profiles taken by", self.engine.clone()),
            ("signals while nothing was wrong", self.quiet_signals.to_string()),
            ("call trees from v2 to etcd", self.call_trees.to_string()),
            (
                "OTLP: points, spans, log records, profiles",
                format!(
                    "{}, {}, {}, {}",
                    self.otlp.metric_points, self.otlp.spans, self.otlp.log_records, self.otlp.profiles
                ),
            ),
            ("agent CPU, of one core", format!("{:.1} %", self.agent_cpu_percent_of_one_core)),
            ("agent memory, peak", format!("{:.1} MiB", self.agent_rss_peak_mib)),
        ];
        rows.iter().map(|(what, value)| format!("  {what:<48} {value}\n")).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::Report;

    #[test]
    fn a_capture_is_whole_when_one_folder_holds_all_of_it() {
        let check = |paths: &[&str], expected: bool| {
            let artefacts = paths.iter().map(|path| (*path).to_owned()).collect();
            assert_eq!(Report { artefacts, ..Report::default() }.has_whole_capture(), expected, "{paths:?}");
        };
        check(&["a/cpu.pb.gz", "a/flame.html", "a/heap.pb.gz"], true);
        check(&["a/cpu.pb.gz", "a/flame.html", "b/heap.pb.gz"], false);
        check(&["a/cpu.pb.gz", "a/heap.pb.gz"], false);
        check(&[], false);
    }
}
