//! `/metrics`: the ledger, the engine's conclusions and the process, in Prometheus' text format.
//!
//! Owns the agent's own figures alone; what is scraped from etcd leaves by OTLP. A ledger line whose name ends in `_total`
//! is a counter, any other a gauge; its reason is the one label.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::sync::Arc;

use model::board::Board;
use model::ledger::Ledger;
use model::time::{Clock, SECOND_NS};
use prometheus::core::{Collector, Desc};
use prometheus::proto::{Counter, Gauge, LabelPair, Metric, MetricFamily, MetricType};
use prometheus::{Registry, TextEncoder};
use tokio::sync::watch;

/// Ticks a second in `/proc/self/stat`: USER_HZ, 100 on every Linux that the agent runs on.
const USER_HZ: f64 = 100.0;

/// The registry behind the page.
pub(super) struct Metrics {
    registry: Registry,
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Metrics")
    }
}

impl Metrics {
    pub(super) fn new(
        ledger: Ledger,
        board: watch::Receiver<Arc<Board>>,
        clock: Clock,
    ) -> Result<Metrics, prometheus::Error> {
        let registry = Registry::new();
        registry.register(Box::new(Lines::new(Source::Ledger(ledger), "agent_ledger")?))?;
        registry.register(Box::new(Lines::new(Source::Board(board, clock), "agent_board")?))?;
        registry.register(Box::new(Lines::new(Source::Process, "agent_process")?))?;
        Ok(Metrics { registry })
    }

    pub(super) fn encode(&self) -> Result<String, prometheus::Error> {
        TextEncoder::new().encode_to_string(&self.registry.gather())
    }
}

enum Source {
    Ledger(Ledger),
    Board(watch::Receiver<Arc<Board>>, Clock),
    Process,
}

/// Families made anew for each scrape. The registry wants a description of each collector only to tell them apart.
struct Lines {
    source: Source,
    desc: Desc,
}

impl Lines {
    fn new(source: Source, name: &str) -> Result<Lines, prometheus::Error> {
        let help = "names this collector, not a series".to_owned();
        Ok(Lines { source, desc: Desc::new(name.to_owned(), help, Vec::new(), Default::default())? })
    }
}

impl Collector for Lines {
    fn desc(&self) -> Vec<&Desc> {
        vec![&self.desc]
    }

    fn collect(&self) -> Vec<MetricFamily> {
        match &self.source {
            Source::Ledger(ledger) => of_ledger(ledger),
            Source::Board(board, clock) => of_board(&board.borrow(), clock),
            Source::Process => of_process(),
        }
    }
}

/// Families by name, in the making.
#[derive(Default)]
struct Page {
    families: BTreeMap<String, (String, Vec<Metric>)>,
}

impl Page {
    fn put(&mut self, name: &str, help: &str, labels: &[(&str, &str)], value: f64) {
        let pair = |(name, value): &(&str, &str)| {
            let mut label = LabelPair::default();
            label.set_name((*name).to_owned());
            label.set_value((*value).to_owned());
            label
        };
        let mut metric = Metric::from_label(labels.iter().map(pair).collect());
        if is_counter(name) {
            let mut counter = Counter::default();
            counter.set_value(value);
            metric.set_counter(counter);
        } else {
            let mut gauge = Gauge::default();
            gauge.set_value(value);
            metric.set_gauge(gauge);
        }
        let (_, metrics) =
            self.families.entry(name.to_owned()).or_insert_with(|| (help.to_owned(), Vec::new()));
        metrics.push(metric);
    }

    fn finish(self) -> Vec<MetricFamily> {
        let family = |(name, (help, metrics)): (String, (String, Vec<Metric>))| {
            let mut family = MetricFamily::default();
            family.set_field_type(if is_counter(&name) { MetricType::COUNTER } else { MetricType::GAUGE });
            family.set_name(name);
            family.set_help(help);
            family.set_metric(metrics);
            family
        };
        self.families.into_iter().map(family).collect()
    }
}

fn is_counter(name: &str) -> bool {
    name.ends_with("_total")
}

#[expect(
    clippy::as_conversions,
    reason = "Prometheus values are doubles; a count beyond 2^53 may lose its last digits"
)]
fn double(count: u64) -> f64 {
    count as f64
}

fn of_ledger(ledger: &Ledger) -> Vec<MetricFamily> {
    let mut page = Page::default();
    for (name, reason, value) in ledger.lines() {
        let labels = [("reason", reason)];
        let labels: &[(&str, &str)] = if reason.is_empty() { &[] } else { &labels };
        let help = if is_counter(name) { "Counted by the agent, by reason." } else { "Set by the agent." };
        page.put(name, help, labels, double(value));
    }
    page.finish()
}

fn of_board(board: &Board, clock: &Clock) -> Vec<MetricFamily> {
    let mut page = Page::default();
    let version = [("version", env!("CARGO_PKG_VERSION"))];
    page.put("agent_build_info", "1, with the version as a label.", &version, 1.0);
    if board.at.wall_ns > 0 {
        let age_s = double(clock.now().since_ns(board.at)) / double(SECOND_NS);
        page.put("agent_engine_tick_age_seconds", "Since the engine's last tick.", &[], age_s);
    }
    for decision in &board.decisions {
        let labels = [("target", decision.target.as_str()), ("state", decision.state.name())];
        page.put("agent_decision", "1 for the state that a target has.", &labels, 1.0);
    }
    for slo in &board.slos {
        for (window, burn) in [("5m", slo.burn_5m), ("1h", slo.burn_1h)] {
            if let Some(burn) = burn {
                let labels = [("slo", slo.name.as_str()), ("window", window)];
                page.put(
                    "agent_slo_burn",
                    "Multiples of the budget rate; absent without traffic.",
                    &labels,
                    burn,
                );
            }
        }
    }
    page.finish()
}

/// What `/proc` says of this process; a file that cannot be read leaves its series out.
fn of_process() -> Vec<MetricFamily> {
    let mut page = Page::default();
    if let Ok(status) = fs::read_to_string("/proc/self/status") {
        for (field, name, help) in [
            ("VmRSS:", "process_resident_memory_bytes", "Resident memory."),
            ("VmHWM:", "process_resident_memory_peak_bytes", "Resident memory at its highest."),
            ("VmSize:", "process_virtual_memory_bytes", "Virtual memory."),
        ] {
            if let Some(kib) = field_of(&status, field) {
                page.put(name, help, &[], double(kib.saturating_mul(1024)));
            }
        }
        if let Some(threads) = field_of(&status, "Threads:") {
            page.put("process_threads", "Threads.", &[], double(threads));
        }
    }
    if let Some(stat) = fs::read_to_string("/proc/self/stat").ok().as_deref().and_then(after_name) {
        let field = |n: usize| stat.split_ascii_whitespace().nth(n).and_then(|text| text.parse::<u64>().ok());
        // Fields 14, 15 and 22 of proc(5); the text begins with field 3.
        if let (Some(user), Some(system)) = (field(11), field(12)) {
            let seconds = double(user.saturating_add(system)) / USER_HZ;
            page.put("process_cpu_seconds_total", "CPU time, user and system.", &[], seconds);
        }
        if let (Some(started), Some(booted)) = (field(19), booted_s()) {
            let at_s = double(booted) + double(started) / USER_HZ;
            page.put("process_start_time_seconds", "Start, in Unix seconds.", &[], at_s);
        }
    }
    if let Ok(files) = fs::read_dir("/proc/self/fd") {
        let open = u64::try_from(files.count()).unwrap_or(u64::MAX);
        page.put("process_open_fds", "Open file descriptors.", &[], double(open));
    }
    page.finish()
}

fn field_of(status: &str, field: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(field))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}

/// What follows the program's name, which may itself hold blanks and brackets.
fn after_name(stat: &str) -> Option<String> {
    stat.rsplit_once(") ").map(|(_, rest)| rest.to_owned())
}

fn booted_s() -> Option<u64> {
    field_of(&fs::read_to_string("/proc/stat").ok()?, "btime ")
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use model::board::{Board, BoardSlo};
    use model::ledger::Ledger;
    use model::time::{Clock, Stamp};
    use model::verdict::{Decision, Evidence, State};
    use tokio::sync::watch;

    use super::{Metrics, after_name, field_of};

    #[test]
    fn ledger_board_and_process_are_one_page() {
        let ledger = Ledger::default();
        ledger.add("agent_scrape_rejects_total", "bad_value", 3);
        ledger.add("agent_scrape_rejects_total", "torn", 1);
        ledger.set("agent_otlp_queue_bytes", "", 1024);
        let board = Board {
            at: Stamp { mono_ns: 1_000_000_000, wall_ns: 5 },
            slos: vec![BoardSlo { name: "write".to_owned(), burn_5m: Some(15.5), ..BoardSlo::default() }],
            decisions: vec![Arc::new(Decision {
                target: "a\"b\nc".to_owned(),
                epoch: 1,
                revision: String::new(),
                state: State::Hold,
                since: Stamp::default(),
                valid_until_ns: 0,
                dry_run: true,
                evidence: Evidence::assemble(String::new()),
            })],
            ..Board::default()
        };
        let (_board, watched) = watch::channel(Arc::new(board));
        let clock = Clock::new(|| Stamp { mono_ns: 3_500_000_000, wall_ns: 9 });
        let page = Metrics::new(ledger, watched, clock).unwrap().encode().unwrap();
        for line in [
            "# TYPE agent_scrape_rejects_total counter",
            "agent_scrape_rejects_total{reason=\"bad_value\"} 3",
            "agent_scrape_rejects_total{reason=\"torn\"} 1",
            "# TYPE agent_otlp_queue_bytes gauge",
            "agent_otlp_queue_bytes 1024",
            "agent_engine_tick_age_seconds 2.5",
            "agent_decision{target=\"a\\\"b\\nc\",state=\"hold\"} 1",
            "agent_slo_burn{slo=\"write\",window=\"5m\"} 15.5",
            concat!("agent_build_info{version=\"", env!("CARGO_PKG_VERSION"), "\"} 1"),
        ] {
            assert!(page.lines().any(|found| found == line), "{line} is not in\n{page}");
        }
        for name in [
            "process_resident_memory_bytes",
            "process_resident_memory_peak_bytes",
            "process_cpu_seconds_total",
            "process_start_time_seconds",
            "process_open_fds",
            "process_threads",
        ] {
            let value = page.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<f64>().ok());
            assert!(value.is_some_and(|value| value >= 0.0), "{name}: {value:?}");
        }
    }

    #[test]
    fn proc_files_of_any_shape_are_read_or_left_out() {
        assert_eq!(field_of("Name:\ta\nVmRSS:\t  123 kB\n", "VmRSS:"), Some(123));
        assert_eq!(field_of("VmRSS:\n", "VmRSS:"), None);
        assert_eq!(field_of("VmRSS: -1 kB", "VmRSS:"), None);
        assert_eq!(after_name("7 (a) b) S 1 2").as_deref(), Some("S 1 2"));
        assert_eq!(after_name("7 (torn"), None);
    }
}
