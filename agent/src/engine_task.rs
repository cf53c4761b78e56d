//! The one state task: records in, effects out. Never blocked by a sink: what does not fit is dropped, counted and, where its source can read again, handed back.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use exporters::otlp::Item;
use model::board::Board;
use model::finding::{Conclusion, Finding, Outcome};
use model::inbox::Envelope;
use model::ledger::Ledger;
use model::origin::Origin;
use model::record::{Fact, Record};
use model::request::Request;
use model::time::{SECOND_NS, Stamp};
use model::verdict::{Decision, State as DecisionState};
use processors::Engine;
use tokio::sync::{mpsc, watch};
use tracing::{error, info, warn};

use crate::state::State;

/// State is written at least this often; before each change of a decision too.
const SAVE_EVERY_NS: u64 = 10 * SECOND_NS;

/// Decisions by target, as the rollback exporter and the admin server see them.
pub(crate) type Decisions = Arc<BTreeMap<String, Arc<Decision>>>;

/// What was applied and what it led to, for the recorder.
#[derive(Clone, Debug)]
pub(crate) struct Applied {
    /// The record.
    pub(crate) record: Arc<Record>,
    /// What followed.
    pub(crate) outcome: Arc<Outcome>,
}

/// Everything the engine feeds. All of it is `try_send` or a watch: no cycle can block.
#[derive(Debug)]
pub(crate) struct Outlets {
    /// To the OTLP exporter, where there is one.
    pub(crate) otlp: Option<mpsc::Sender<Item>>,
    /// To the recorder, where there is one.
    pub(crate) recorder: Option<mpsc::Sender<Applied>>,
    /// To the artefact writer.
    pub(crate) captures: mpsc::Sender<Arc<Record>>,
    /// Diffs to the rollback exporter.
    pub(crate) diffs: mpsc::Sender<Arc<Finding>>,
    /// To the profiler: one slot.
    pub(crate) requests: mpsc::Sender<Request>,
    /// Decisions by target.
    pub(crate) decisions: watch::Sender<Decisions>,
    /// What people are shown.
    pub(crate) board: watch::Sender<Arc<Board>>,
    /// The latest rollout marker, for baselines.
    pub(crate) marked: watch::Sender<Option<Stamp>>,
}

/// The engine with its outlets.
#[derive(Debug)]
pub(crate) struct EngineTask {
    engine: Engine,
    outlets: Outlets,
    state: Option<State>,
    ledger: Ledger,
    node: Arc<Origin>,
    saved_mono_ns: u64,
}

impl EngineTask {
    /// Joins an engine and its outlets; `state` is `None` where nothing is kept.
    pub(crate) fn new(
        engine: Engine,
        outlets: Outlets,
        state: Option<State>,
        node: Arc<Origin>,
        ledger: Ledger,
    ) -> EngineTask {
        EngineTask { engine, outlets, state, ledger, node, saved_mono_ns: 0 }
    }

    /// Applies records until the last source has gone and the inbox is empty.
    pub(crate) async fn run(mut self, mut inbox: mpsc::Receiver<Envelope>) {
        self.publish(&self.engine.decisions());
        let mut last = Stamp::default();
        while let Some(envelope) = inbox.recv().await {
            last = envelope.record.at;
            // A refused request is a record of its own and may lead to another; the slot bounds the chain.
            let mut next = VecDeque::from([envelope.record]);
            while let Some(record) = next.pop_front() {
                next.extend(self.step(record));
            }
        }
        self.save(last);
    }

    /// One record; gives the records that followed at once (refused requests).
    fn step(&mut self, record: Record) -> Vec<Record> {
        self.ledger.add("agent_records_total", record.fact.kind(), 1);
        let record = Arc::new(record);
        let outcome = Arc::new(self.engine.apply(&record));
        self.record(&record, &outcome);
        self.notice(&record);
        if !outcome.decisions.is_empty() {
            self.save(record.at);
            self.publish(&outcome.decisions);
        }
        let refused = self.request(&record, &outcome.requests);
        self.tell(&outcome.findings);
        self.ship(&record, &outcome.findings);
        if matches!(record.fact, Fact::Tick(_)) {
            self.tick(record.at);
        }
        refused
    }

    fn record(&mut self, record: &Arc<Record>, outcome: &Arc<Outcome>) {
        if let Some(recorder) = &self.outlets.recorder {
            let applied = Applied { record: Arc::clone(record), outcome: Arc::clone(outcome) };
            if recorder.try_send(applied).is_err() {
                self.ledger.add("agent_recording_missing_total", "recorder_full", 1);
            }
        }
    }

    /// Passes on what others need to know before the next tick.
    fn notice(&self, record: &Arc<Record>) {
        match &record.fact {
            Fact::Mark(mark) if mark.kind == model::mark::MarkKind::Rollout => {
                self.outlets.marked.send_replace(Some(record.at));
            }
            Fact::Capture(_) if self.outlets.captures.try_send(Arc::clone(record)).is_err() => {
                self.ledger.add("agent_artefacts_dropped_total", "writer_full", 1);
            }
            _ => {}
        }
    }

    fn publish(&self, changed: &[Arc<Decision>]) {
        self.outlets.decisions.send_modify(|decisions| {
            let mut map = BTreeMap::clone(decisions);
            for decision in changed {
                map.insert(decision.target.clone(), Arc::clone(decision));
            }
            *decisions = Arc::new(map);
        });
    }

    fn request(&self, record: &Record, requests: &[Request]) -> Vec<Record> {
        let mut refused = Vec::new();
        for request in requests {
            let reason = match self.outlets.requests.try_send(request.clone()) {
                Ok(()) => continue,
                Err(mpsc::error::TrySendError::Full(_)) => "slot_full",
                Err(mpsc::error::TrySendError::Closed(_)) => "no_profiler",
            };
            self.ledger.add("agent_captures_refused_total", reason, 1);
            refused.push(profile::capture::refused(request, Arc::clone(&record.origin), record.at, reason));
        }
        refused
    }

    /// Verdicts and regressions are what a person is woken for: they are the agent's own log too.
    fn tell(&self, findings: &[Finding]) {
        for finding in findings {
            self.ledger.add("agent_findings_total", finding.conclusion.kind(), 1);
            let member = finding.origin.member_name();
            match &finding.conclusion {
                Conclusion::Regression(regression) => info!(
                    member, metric = %regression.metric, open = regression.open, cause = regression.cause,
                    before = regression.before.value, after = regression.after.value, "regression"
                ),
                Conclusion::Burn(burn) => info!(
                    slo = %burn.slo, firing = burn.firing, votes = burn.votes, bad = burn.bad, total = burn.total,
                    burn = burn.burn_long, excused = burn.excused, "burn"
                ),
                Conclusion::Verdict(verdict) => tell_verdict(&verdict.decision),
                Conclusion::Alarm(alarm) => {
                    warn!(
                        raised = alarm.raised,
                        holds = alarm.holds,
                        ended = alarm.ended,
                        "{}",
                        alarm.sentence
                    );
                }
                Conclusion::CaptureFailed(failed) => {
                    warn!(target = %failed.target, reason = %failed.reason, detail = %failed.detail, "no profile");
                }
                _ => {}
            }
        }
    }

    fn ship(&self, record: &Arc<Record>, findings: &[Finding]) {
        for finding in findings {
            let finding = Arc::new(finding.clone());
            if matches!(finding.conclusion, Conclusion::ProfileDiff(_))
                && self.outlets.diffs.try_send(Arc::clone(&finding)).is_err()
            {
                self.ledger.add("agent_evidence_dropped_total", "rollback_full", 1);
            }
            self.offer(Item::Finding(finding));
        }
        match &record.fact {
            Fact::Tick(_) | Fact::Config(_) | Fact::Mark(_) | Fact::Done(_) => {}
            _ => self.offer(Item::Record(Arc::clone(record))),
        }
        // Without an exporter the line has gone as far as it ever will.
        if let (None, Fact::Logs(batch)) = (&self.outlets.otlp, &record.fact) {
            batch.receipt.take();
        }
    }

    fn offer(&self, item: Item) {
        let Some(otlp) = &self.outlets.otlp else { return };
        if let Err(error) = otlp.try_send(item) {
            self.ledger.add("agent_outbox_dropped_total", "otlp_full", 1);
            let (mpsc::error::TrySendError::Full(item) | mpsc::error::TrySendError::Closed(item)) = error;
            if let Item::Record(record) = item
                && let Fact::Logs(batch) = &record.fact
            {
                batch.receipt.lose();
            }
        }
    }

    fn tick(&mut self, at: Stamp) {
        let mut board = self.engine.board(at);
        for (reason, count) in self.engine.skipped() {
            self.ledger.set("agent_engine_skipped_total", reason, count);
        }
        let lines = self.ledger.lines().into_iter();
        board.losses = lines
            .filter(|(metric, reason, _)| is_loss(metric, reason))
            .map(|(metric, reason, count)| (metric.to_owned(), reason.to_owned(), count))
            .collect();
        self.outlets.board.send_replace(Arc::new(board));
        if at.mono_ns.saturating_sub(self.saved_mono_ns) >= SAVE_EVERY_NS {
            self.save(at);
        }
    }

    fn save(&mut self, at: Stamp) {
        self.saved_mono_ns = at.mono_ns;
        if let Some(state) = &self.state
            && let Err(error) = state.save(&self.engine, at)
        {
            self.ledger.add("agent_state_failures_total", "write", 1);
            error!(%error, node = %self.node.node, "state not saved: a restart would begin without it");
        }
    }
}

fn tell_verdict(decision: &Decision) {
    let (target, state, sentence) = (&decision.target, decision.state.name(), &decision.evidence.sentence);
    if decision.state >= DecisionState::Hold {
        warn!(%target, state, dry_run = decision.dry_run, "{sentence}");
    } else {
        info!(%target, state, "{sentence}");
    }
}

/// Words in the names of counters of things that went missing, not of things that went well.
const LOSSES: [&str; 15] = [
    "broken", "delayed", "dropped", "drops", "errors", "failures", "folded", "ignored", "lost", "missing",
    "refused", "reject", "retries", "skipped", "skips",
];

fn is_loss(metric: &str, reason: &str) -> bool {
    // The same items once more, by signal.
    let is_told_already = metric == "agent_otlp_dropped_items_by_signal_total";
    let named = LOSSES.iter().any(|word| metric.contains(word));
    metric.ends_with("_total") && reason != "ok" && named && !is_told_already
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_of_what_went_missing_are_losses() {
        let losses = [
            "agent_admin_connections_broken_total",
            "agent_admin_connections_refused_total",
            "agent_artefacts_dropped_total",
            "agent_captures_refused_total",
            "agent_engine_skipped_total",
            "agent_etcd_connect_errors_total",
            "agent_evidence_dropped_total",
            "agent_host_readings_skipped_total",
            "agent_logs_checkpoint_errors_total",
            "agent_logs_files_skipped_total",
            "agent_logs_lost_bytes_total",
            "agent_logs_lost_files_total",
            "agent_logs_read_errors_total",
            "agent_logs_rejects_total",
            "agent_mark_drops_total",
            "agent_mark_skips_total",
            "agent_member_hash_errors_total",
            "agent_member_list_errors_total",
            "agent_member_skips_total",
            "agent_otlp_dropped_items_total",
            "agent_otlp_folded_edges_total",
            "agent_otlp_folded_probes_total",
            "agent_otlp_retries_total",
            "agent_otlp_skipped_points_total",
            "agent_outbox_dropped_total",
            "agent_own_telemetry_failures_total",
            "agent_probe_rejects_total",
            "agent_probe_skips_total",
            "agent_probe_watch_errors_total",
            "agent_profile_rejects_total",
            "agent_recording_missing_total",
            "agent_rollback_done_delayed_total",
            "agent_rollback_evidence_dropped_total",
            "agent_rollback_journal_errors_total",
            "agent_scrape_ignored_total",
            "agent_scrape_rejects_total",
            "agent_scrapes_skipped_total",
            "agent_shutdown_lost_total",
            "agent_state_failures_total",
            "agent_ticks_skipped_total",
        ];
        for metric in losses {
            assert!(is_loss(metric, "any"), "{metric}");
        }
    }

    #[test]
    fn counters_of_work_are_no_losses() {
        // Work that was done, and outcomes that are findings of their own: a member that is silent is what we came to see.
        let others = [
            "agent_admin_requests_total",
            "agent_findings_total",
            "agent_host_readings_total",
            "agent_logs_lines_total",
            "agent_logs_read_again_total",
            "agent_logs_waits_total",
            "agent_marks_total",
            "agent_member_silent_total",
            "agent_otlp_dropped_items_by_signal_total",
            "agent_otlp_left_items_total",
            "agent_otlp_queue_bytes",
            "agent_otlp_sent_items_total",
            "agent_otlp_splits_total",
            "agent_probe_watch_foreign_total",
            "agent_probes_total",
            "agent_profile_baselines_total",
            "agent_profile_captures_total",
            "agent_records_total",
            "agent_rollback_attempts_total",
            "agent_rollback_open_signals",
            "agent_rollback_signals_total",
            "agent_scrape_layouts_total",
            "agent_scrape_restarts_total",
            "agent_scrapes_total",
            "agent_tls_reloads_total",
        ];
        for metric in others {
            assert!(!is_loss(metric, "any"), "{metric}");
        }
    }
}
