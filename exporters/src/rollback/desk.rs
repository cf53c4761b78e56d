//! The desk: what a decision, a finding or the end of an attempt changes in the book, journalled before it counts.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use model::finding::{Conclusion, Finding, ProfileDiff};
use model::inbox::{NoPlace, WeakInbox};
use model::ledger::Ledger;
use model::origin::Origin;
use model::record::{Fact, Record};
use model::time::{Clock, SECOND_NS};
use model::verdict::{Decision, Delivery, SignalEvent, State};

use super::book::{Attempt, Book, EVIDENCE_MAX, Entry, Event, OPEN_MAX, Signal, dry_run_key};
use super::event::{self, Content};
use super::papers;
use super::scribe::Scribe;
use super::{Attempted, Leg, Receiver, StartError};

/// Evidence and `resolved` are worth an hour of trying: after that people have seen it themselves.
const FOLLOW_UP_NS: u64 = 3600 * SECOND_NS;

/// A diff that comes within this time of a signal is evidence for it: captures take seconds, later ones belong to something
/// else. A resolved signal stays open this long for it.
const LINGER_NS: u64 = 600 * SECOND_NS;

/// A signal that nobody resolves (its target was removed) is given up after a day.
const OPEN_NS_MAX: u64 = 24 * 3600 * SECOND_NS;

/// Stands for "no receiver", so that the engine hears of the end also when there is nobody to tell.
const NOBODY: &str = "nobody";

/// A `Done` record is a few short texts.
const DONE_BYTES: usize = 512;

/// Of an answer or an error text, this much is kept in the journal.
const SAW_BYTES_MAX: usize = 2048;

/// See the module.
#[derive(Debug)]
pub(crate) struct Desk {
    scribe: Scribe,
    book: Book,
    receivers: Vec<Receiver>,
    /// Signals that the decisions no longer ask for, while a receiver has not taken them yet.
    withdrawn: BTreeSet<String>,
    ledger: Ledger,
    pub(crate) clock: Clock,
    pub(crate) origin: Arc<Origin>,
}

impl Desk {
    /// Recovers the book.
    pub(crate) fn open(
        folder: &Path,
        receivers: Vec<Receiver>,
        clock: Clock,
        ledger: Ledger,
    ) -> Result<Desk, StartError> {
        let (scribe, mut recovered) = Scribe::open(folder, ledger.clone())?;
        recovered.book.distrust();
        ledger.add("agent_rollback_journal_errors_total", "rotten_line", recovered.rotten);
        for signal in recovered.book.open.values() {
            tracing::info!(
                signal = signal.id,
                target = signal.target,
                revision = signal.revision,
                "rollback signal is open from before"
            );
        }
        Ok(Desk {
            scribe,
            book: recovered.book,
            receivers,
            withdrawn: BTreeSet::new(),
            ledger,
            clock,
            origin: Arc::new(Origin::default()),
        })
    }

    /// Opens and resolves signals as the decisions say. Decisions that were seen before change nothing.
    pub(crate) async fn decided(&mut self, decisions: &BTreeMap<String, Arc<Decision>>) {
        let over = |signal: &&Signal| {
            decisions.get(&signal.target).is_some_and(|now| papers::takes_back(now, signal))
        };
        self.withdrawn = self.book.open.values().filter(over).map(|signal| signal.id.clone()).collect();
        for decision in decisions.values() {
            match decision.state {
                State::Rollback => {
                    // A later rollout of the same target is judged anew: the earlier signal is over.
                    self.resolve(decision, decision.epoch).await;
                    let id = event::signal_id(&decision.target, &decision.revision, decision.epoch);
                    let key = if decision.dry_run { dry_run_key(&id) } else { id.clone() };
                    if self.book.knows(&key) {
                        continue;
                    }
                    if decision.dry_run {
                        self.tell_dry(decision, id).await;
                    } else {
                        self.signal(decision, id).await;
                    }
                }
                State::Pass => self.resolve(decision, decision.epoch.saturating_add(1)).await,
                State::Unknown | State::Hold => {}
            }
        }
    }

    /// Evidence on disk, intent on disk, and only then is there anything to send.
    async fn signal(&mut self, decision: &Decision, id: String) {
        if self.book.open.len() >= OPEN_MAX {
            if self.ledger.get("agent_rollback_signals_total", "too_many_open") == 0 {
                tracing::error!(
                    signal = id,
                    target = decision.target,
                    "too many rollback signals are open: this one waits"
                );
            }
            self.ledger.add("agent_rollback_signals_total", "too_many_open", 1);
            return;
        }
        let now = self.clock.now();
        let subject = papers::subject(decision, &id);
        let stored_at = self.evidence_path(&id);
        let body = event::body(subject, Content::Rollback(decision, &stored_at), &self.origin, now.wall_ns);
        let mut receivers = self.takers(&decision.target);
        if receivers.is_empty() || body.is_none() {
            tracing::error!(
                signal = id,
                target = decision.target,
                fits = body.is_some(),
                "rollback signal without a receiver"
            );
            receivers = vec![NOBODY.to_owned()];
        }
        let rollback = Event {
            id: id.clone(),
            kind: SignalEvent::Rollback,
            body: body.unwrap_or_default(),
            valid_until_ns: decision.valid_until_ns,
            legs: BTreeMap::new(),
        };
        let evidence = papers::evidence_file(subject, decision, &receivers, now.wall_ns);
        let signal = Signal {
            id: id.clone(),
            target: decision.target.clone(),
            revision: decision.revision.clone(),
            epoch: decision.epoch,
            opened_ns: now.wall_ns,
            receivers,
            events: vec![rollback],
        };
        if self.scribe.write_evidence(&id, evidence).await && self.append(Entry::Signal(signal), true).await {
            self.ledger.add("agent_rollback_signals_total", "opened", 1);
            tracing::info!(
                signal = id,
                target = decision.target,
                revision = decision.revision,
                evidence = stored_at,
                sentence = decision.evidence.sentence,
                "rollback signal"
            );
        }
    }

    async fn tell_dry(&mut self, decision: &Decision, id: String) {
        let now = self.clock.now();
        let receivers = self.takers(&decision.target);
        let evidence =
            papers::evidence_file(papers::subject(decision, &id), decision, &receivers, now.wall_ns);
        let entry = Entry::DryRun {
            signal: id.clone(),
            target: decision.target.clone(),
            revision: decision.revision.clone(),
            receivers: receivers.clone(),
            at_ns: now.wall_ns,
        };
        if self.scribe.write_evidence(&id, evidence).await && self.append(entry, true).await {
            self.ledger.add("agent_rollback_signals_total", "dry_run", 1);
            tracing::info!(
                signal = id,
                target = decision.target,
                revision = decision.revision,
                ?receivers,
                evidence = self.evidence_path(&id),
                sentence = decision.evidence.sentence,
                "dry run: this rollback signal would have left"
            );
        }
    }

    /// A `resolved` event for each open signal of the decision's target with an epoch below `below`.
    async fn resolve(&mut self, decision: &Decision, below: u64) {
        let over =
            |signal: &&Signal| signal.target == decision.target && signal.epoch < below && !signal.resolved();
        let signals: Vec<Signal> = self.book.open.values().filter(over).cloned().collect();
        for signal in signals {
            if self.follow_up(&signal, Content::Resolved(decision), "").await {
                self.ledger.add("agent_rollback_signals_total", "resolved", 1);
                tracing::info!(
                    signal = signal.id,
                    target = signal.target,
                    state = decision.state.name(),
                    "rollback signal resolved"
                );
            }
        }
    }

    /// A profile diff becomes evidence for the signals that are open and young, whichever member was captured: the request
    /// came of the same trouble.
    pub(crate) async fn found(&mut self, finding: &Finding) {
        let Conclusion::ProfileDiff(diff) = &finding.conclusion else { return };
        let now_ns = self.clock.now().wall_ns;
        let young = |signal: &&Signal| now_ns.saturating_sub(signal.opened_ns) < LINGER_NS;
        let signals: Vec<Signal> = self.book.open.values().filter(young).cloned().collect();
        for signal in signals {
            let sent = signal.events.iter().filter(|event| event.kind == SignalEvent::Evidence).count();
            if sent >= EVIDENCE_MAX {
                self.ledger.add("agent_rollback_evidence_dropped_total", "too_many", 1);
                continue;
            }
            self.keep_diff(&signal.id, diff).await;
            self.follow_up(&signal, Content::Evidence(diff), &event::diff_detail(diff)).await;
        }
    }

    async fn keep_diff(&mut self, signal: &str, diff: &ProfileDiff) {
        let read = self.scribe.read_evidence(signal).await;
        let value = papers::with_diff(read, signal, diff);
        self.scribe.write_evidence(signal, value).await;
    }

    async fn follow_up(&mut self, signal: &Signal, content: Content<'_>, detail: &str) -> bool {
        let id = event::event_id(&signal.id, content.kind(), detail);
        if signal.events.iter().any(|event| event.id == id) {
            return false;
        }
        let now_ns = self.clock.now().wall_ns;
        let subject = papers::subject_of(signal, now_ns);
        let Some(body) = event::body(subject, content, &self.origin, now_ns) else { return false };
        let valid_until_ns = now_ns.saturating_add(FOLLOW_UP_NS);
        let event = Event { id, kind: content.kind(), body, valid_until_ns, legs: BTreeMap::new() };
        self.append(Entry::Event { signal: signal.id.clone(), event }, true).await
    }

    /// Journals the end of one attempt; returns how many there were.
    pub(crate) async fn attempted(&mut self, leg: &Leg, attempted: Attempted) -> u32 {
        let (saw, reached, end) = papers::end_of(attempted);
        let end = end.or_else(|| self.too_late(leg).then_some(Delivery::Expired));
        self.end(leg, (saw, reached, end)).await;
        let event = self.find(leg).map(|(_, event)| event);
        event.and_then(|event| event.legs.get(&leg.receiver)).map_or(1, |leg| leg.attempts)
    }

    async fn end(&mut self, leg: &Leg, ended: (String, bool, Option<Delivery>)) {
        let (mut saw, reached, end) = ended;
        saw.truncate(saw.floor_char_boundary(SAW_BYTES_MAX));
        self.ledger.add("agent_rollback_attempts_total", papers::tell_end(leg, &saw, end.as_ref()), 1);
        let durable = end.is_some();
        let attempt = Attempt {
            signal: leg.signal.clone(),
            event: leg.event.clone(),
            receiver: leg.receiver.clone(),
            at_ns: self.clock.now().wall_ns,
            saw,
            reached,
            end,
        };
        let entry = Entry::Attempt(attempt);
        if !self.append(entry.clone(), durable).await {
            // It happened, journalled or not: in this run it is not sent again. After a restart it would be, with its id.
            self.book.apply(&entry);
        }
    }

    /// Past its validity, or a rollback that is no longer asked for.
    fn too_late(&self, leg: &Leg) -> bool {
        let Some((signal, event)) = self.find(leg) else { return true };
        let withdrawn =
            event.kind == SignalEvent::Rollback && (signal.resolved() || self.withdrawn.contains(&signal.id));
        withdrawn || self.clock.now().wall_ns >= event.valid_until_ns
    }

    /// Ends what is too late or has nobody to go to, and closes what is over. `busy` legs have an attempt under way.
    pub(crate) async fn keep_house(&mut self, busy: &BTreeSet<Leg>) {
        for leg in self.due() {
            if busy.contains(&leg) {
                continue;
            }
            if self.receivers.iter().all(|receiver| receiver.name() != leg.receiver) {
                let why = "no receiver of this name is configured".to_owned();
                self.end(&leg, (why.clone(), false, Some(Delivery::Refused(why)))).await;
            } else if self.too_late(&leg) {
                self.end(&leg, ("too late".to_owned(), false, Some(Delivery::Expired))).await;
            }
        }
        let now_ns = self.clock.now().wall_ns;
        let over = |signal: &&Signal| {
            let age_ns = now_ns.saturating_sub(signal.opened_ns);
            signal.settled() && (signal.resolved() && age_ns >= LINGER_NS || age_ns >= OPEN_NS_MAX)
        };
        let closing: Vec<String> =
            self.book.open.values().filter(over).map(|signal| signal.id.clone()).collect();
        for signal in closing {
            self.append(Entry::Closed { signal }, false).await;
        }
        self.ledger.set(
            "agent_rollback_open_signals",
            "",
            u64::try_from(self.book.open.len()).unwrap_or(u64::MAX),
        );
        if self.scribe.is_large() {
            self.scribe.rotate(self.book.clone()).await;
        }
    }

    /// Tells the engine of ends that it does not know; what finds no place is told at the next turn.
    pub(crate) async fn tell(&mut self, inbox: &WeakInbox) {
        for (signal, event, done) in self.book.untold() {
            let Some(inbox) = inbox.upgrade() else { return };
            let receiver = done.receiver.clone();
            match inbox.reserve(DONE_BYTES) {
                Ok(place) => {
                    let (at, origin) = (self.clock.now(), Arc::clone(&self.origin));
                    place.send(Record { at, origin, fact: Fact::Done(done) });
                }
                Err(NoPlace::Full) => {
                    self.ledger.add("agent_rollback_done_delayed_total", "inbox_full", 1);
                    return;
                }
                Err(NoPlace::Closed) => return,
            }
            let entry = Entry::Told { event, signal, receiver };
            if !self.append(entry.clone(), false).await {
                self.book.apply(&entry);
            }
        }
    }

    /// All legs that could be sent now, rollbacks first.
    pub(crate) fn due(&self) -> BTreeSet<Leg> {
        papers::due(&self.book)
    }

    /// Body and end of validity (wall ns) of a leg.
    pub(crate) fn parcel(&self, leg: &Leg) -> Option<(String, u64)> {
        self.find(leg).map(|(_, event)| (event.body.clone(), event.valid_until_ns))
    }

    fn find(&self, leg: &Leg) -> Option<(&Signal, &Event)> {
        let signal = self.book.open.get(&leg.signal)?;
        let event = signal.events.iter().find(|event| event.id == leg.event)?;
        Some((signal, event))
    }

    fn takers(&self, target: &str) -> Vec<String> {
        self.receivers
            .iter()
            .filter(|receiver| receiver.takes(target))
            .map(|one| one.name().to_owned())
            .collect()
    }

    fn evidence_path(&self, id: &str) -> String {
        self.scribe.evidence_path(id).display().to_string()
    }

    /// Journals, then folds in. False when it could not be journalled: then nothing changed.
    async fn append(&mut self, entry: Entry, durable: bool) -> bool {
        let written = self.scribe.append(entry.clone(), durable).await;
        if written {
            self.book.apply(&entry);
        }
        written
    }
}
