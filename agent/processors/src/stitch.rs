//! Log events of one trace become one tree; etcd's slow lines become spans, under the client's call where one fits.
//!
//! Owns the open traces and the etcd lines that wait for their client. Each edge says how it was found and how sure it is.
//! An etcd number is never a trace id: a request that no client claims gets an id derived from its line, and says so.
//! Refuses to guess a parent across traces, and to publish more trees a tick than a backend can take.

mod assign;
mod calls;
mod fragment;
mod hash;
pub(crate) mod join;
mod piece;
mod tree;

use std::collections::{BTreeMap, BTreeSet};

use model::finding::{CallTree, Conclusion, FoundBy, Span};
use model::log::{LogBatch, LogEvent, Meaning};
use model::origin::Origin;
use model::record::{Fact, Record};
use model::time::SECOND_NS;
use serde::{Deserialize, Serialize};

use self::calls::{Call, Pieces};
use self::fragment::{FRAGMENTS_MAX, Fragment, Trace};
use self::join::Joined;

/// A trace whose root has ended closes after this long without a line: the tailer needs 0.2 s, a busy node more.
const QUIET_NS: u64 = 2 * SECOND_NS;
/// A trace without a root closes after this long; so does an etcd line that no client claimed.
const IDLE_NS: u64 = 10 * SECOND_NS;
/// No trace stays open longer: what comes later becomes a tree of the same trace id.
const AGE_MAX_NS: u64 = 60 * SECOND_NS;
/// Open traces; at 1,000 requests a second and three seconds each, three times what is needed.
const TRACES_MAX: usize = 10_000;
/// Memory of all open traces.
const BYTES_MAX: usize = 32 * 1024 * 1024;
/// Trees published in one tick. Those with etcd's spans, then failed ones, then long ones come first.
const TREES_MAX: usize = 50;
/// An etcd call that no client claims is a tree of its own from this length on: etcd's own limit.
const DERIVED_MIN_NS: u64 = 100_000_000;

/// Open traces and waiting etcd lines.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Stitch {
    traces: BTreeMap<u128, Trace>,
    /// Traces by when they were first seen.
    by_age: BTreeSet<(u64, u128)>,
    pieces: Pieces,
    bytes: usize,
    dropped: u64,
    missing: u64,
}

/// A tree that may be published.
struct Candidate {
    with_etcd: bool,
    failed: bool,
    length_ns: u64,
    tree: CallTree,
}

impl Stitch {
    /// Files log lines; closes traces on ticks.
    pub fn observe(&mut self, record: &Record) -> Vec<Conclusion> {
        match &record.fact {
            Fact::Logs(batch) => {
                self.file(batch, &record.origin, record.at.mono_ns);
                Vec::new()
            }
            Fact::Tick(_) => self.tick(record.at.mono_ns),
            _ => Vec::new(),
        }
    }

    /// Trees that were not published because a tick already had its share.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Fragments and etcd lines that were given up for want of room.
    #[must_use]
    pub fn missing(&self) -> u64 {
        self.missing
    }

    /// Traces that are open.
    #[must_use]
    pub fn open(&self) -> usize {
        self.traces.len()
    }

    fn file(&mut self, batch: &LogBatch, origin: &Origin, now_ns: u64) {
        for event in &batch.events {
            match (&event.meaning, event.trace_id) {
                (Meaning::Plain | Meaning::Work(_), None) => {}
                (Meaning::Plain | Meaning::Work(_), Some(id)) => {
                    self.add(u128::from_be_bytes(id), event, now_ns);
                }
                _ => self.missing += u64::from(self.pieces.add(event, origin, now_ns)),
            }
        }
    }

    fn add(&mut self, id: u128, event: &LogEvent, now_ns: u64) {
        if !self.traces.contains_key(&id) {
            self.by_age.insert((now_ns, id));
        }
        let trace =
            self.traces.entry(id).or_insert_with(|| Trace { first_seen_ns: now_ns, ..Trace::default() });
        let before = trace.missing;
        self.bytes += trace.add(id, event, now_ns);
        self.missing += trace.missing - before;
        while self.traces.len() > TRACES_MAX || self.bytes > BYTES_MAX {
            let Some((_, oldest)) = self.by_age.pop_first() else { break };
            if let Some(gone) = self.traces.remove(&oldest) {
                self.bytes = self.bytes.saturating_sub(gone.bytes());
                self.missing += u64::try_from(gone.fragments.len()).unwrap_or(0);
            }
        }
    }

    fn tick(&mut self, now_ns: u64) -> Vec<Conclusion> {
        let closing: Vec<u128> =
            self.traces.iter().filter(|(_, trace)| closes(trace, now_ns)).map(|(id, _)| *id).collect();
        let idle = |seen: u64| now_ns.saturating_sub(seen) >= IDLE_NS;
        let expired = self.pieces.oldest_ns().is_some_and(idle);
        let mut found = Vec::new();
        if self.pieces.is_empty() || (closing.is_empty() && !expired) {
            found.extend(closing.iter().filter_map(|id| self.close(*id, &[], &[])));
        } else {
            let calls = self.pieces.calls();
            let joined = self.join(&closing, &calls);
            found.extend(closing.iter().filter_map(|id| self.close(*id, &joined, &calls)));
            let taken: BTreeSet<usize> = joined.iter().map(|(_, _, joined)| joined.call).collect();
            let unclaimed = |(index, call): &(usize, &Call)| !taken.contains(index) && idle(call.seen_ns);
            let alone: Vec<&Call> =
                calls.iter().enumerate().filter(unclaimed).map(|(_, call)| call).collect();
            found.extend(alone.iter().filter_map(|call| self.derived(call)));
            let gone: Vec<&Call> = taken.iter().filter_map(|index| calls.get(*index)).chain(alone).collect();
            self.pieces.remove(&gone);
        }
        self.publish(found)
    }

    /// etcd calls under the client calls of the traces that close; client calls of open traces compete for them.
    fn join(&self, closing: &[u128], calls: &[Call]) -> Vec<(u128, usize, Joined)> {
        let mut places = Vec::new();
        let mut clients: Vec<&Fragment> = Vec::new();
        for (id, trace) in &self.traces {
            for (place, fragment) in
                trace.fragments.iter().enumerate().filter(|(_, f)| join::is_client_call(f))
            {
                places.push((*id, place));
                clients.push(fragment);
            }
        }
        join::join(&clients, calls, &self.pieces)
            .into_iter()
            .filter_map(|joined| places.get(joined.client).map(|(id, place)| (*id, *place, joined)))
            .filter(|(id, ..)| closing.binary_search(id).is_ok())
            .collect()
    }

    /// Closes one trace.
    fn close(&mut self, id: u128, joined: &[(u128, usize, Joined)], calls: &[Call]) -> Option<Candidate> {
        let trace = self.traces.remove(&id)?;
        self.by_age.remove(&(trace.first_seen_ns, id));
        self.bytes = self.bytes.saturating_sub(trace.bytes());
        let (mut spans, ids) = tree::build(id, &trace);
        let mut with_etcd = false;
        for (_, place, joined) in joined.iter().filter(|(of, ..)| *of == id) {
            let (Some(parent), Some(call)) = (ids.get(place), calls.get(joined.call)) else { continue };
            let mut below =
                self.pieces.spans(call, id, Some((parent, FoundBy::PeerAndTime, joined.confidence)));
            if let Some(top) = below.first_mut() {
                top.attributes
                    .push(("stitch.caller_confidence".to_owned(), joined.caller_confidence.to_string()));
            }
            let after =
                spans.iter().position(|span| span.span_id == *parent).map_or(spans.len(), |at| at + 1);
            spans.splice(after..after, below);
            with_etcd = true;
        }
        Some(Candidate::new(id, spans, with_etcd, trace.missing))
    }

    /// A call that no client claimed, as a tree of its own.
    fn derived(&self, call: &Call) -> Option<Candidate> {
        let outer = self.pieces.outer(call)?;
        if outer.end_ns.saturating_sub(outer.start_ns) < DERIVED_MIN_NS {
            return None;
        }
        let id = self.pieces.trace_id(call);
        let mut candidate = Candidate::new(id, self.pieces.spans(call, id, None), false, 0);
        candidate.tree.derived = true;
        Some(candidate)
    }

    fn publish(&mut self, mut found: Vec<Candidate>) -> Vec<Conclusion> {
        found.sort_by_key(|c| (!c.with_etcd, !c.failed, u64::MAX - c.length_ns, c.tree.trace_id));
        let over = found.len().saturating_sub(TREES_MAX);
        self.dropped += u64::try_from(over).unwrap_or(0);
        found.truncate(TREES_MAX);
        found.into_iter().map(|candidate| Conclusion::CallTree(candidate.tree)).collect()
    }
}

impl Candidate {
    fn new(id: u128, spans: Vec<Span>, with_etcd: bool, missing: u64) -> Candidate {
        Candidate {
            with_etcd,
            failed: spans.iter().any(|span| span.failed),
            length_ns: spans.first().map_or(0, |root| root.end_ns.saturating_sub(root.start_ns)),
            tree: CallTree { trace_id: id.to_be_bytes(), derived: false, spans, missing },
        }
    }
}

/// One name for an operation of etcd in all spellings; others keep theirs.
#[must_use]
pub(crate) fn operation(name: &str) -> String {
    let bare = name.strip_prefix("trace ").or_else(|| name.strip_prefix("apply ")).unwrap_or(name);
    piece::class(bare).map_or_else(|| name.to_owned(), str::to_owned)
}

fn closes(trace: &Trace, now_ns: u64) -> bool {
    let quiet = now_ns.saturating_sub(trace.last_seen_ns);
    let age = now_ns.saturating_sub(trace.first_seen_ns);
    quiet >= IDLE_NS
        || age >= AGE_MAX_NS
        || trace.fragments.len() >= FRAGMENTS_MAX
        || (quiet >= QUIET_NS && trace.has_root(tree::ENCLOSING_SLACK_NS))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use model::log::{Receipt, Severity, Step, Work};
    use model::origin::MemberRef;
    use model::record::Tick;
    use model::time::Stamp;
    use proptest::prelude::{Just, Strategy, proptest};

    use super::*;

    const MS: u64 = 1_000_000;
    /// Wall time of the stories' beginning.
    const T0: u64 = 1_795_231_463 * SECOND_NS;
    const ENDPOINT: &str = "http://127.0.0.1:23790";
    const PEER: &str = "127.0.0.1:23790";

    fn event(service: &str, meaning: Meaning) -> LogEvent {
        LogEvent {
            time_ns: T0,
            severity: Severity::Info,
            service: service.into(),
            revision: None,
            message: String::new(),
            trace_id: None,
            span_id: None,
            parent_span_id: None,
            meaning,
            attributes: Vec::new(),
            ship: true,
        }
    }

    fn work(operation: &str, start_ms: u64, duration_ms: u64) -> Work {
        Work {
            operation: operation.into(),
            start_ns: T0 + start_ms * MS,
            duration_ns: duration_ms * MS,
            peer: None,
            failed: false,
            key: None,
        }
    }

    /// A service's line: (trace, span, parent).
    fn line(ids: (u8, u8, u8), service: &str, work: Work) -> LogEvent {
        let id = |n: u8| (n > 0).then_some([n; 8]);
        let time_ns = work.start_ns + work.duration_ns;
        let attributes = work.peer.iter().map(|peer| ("peer".to_owned(), peer.clone())).collect();
        LogEvent {
            time_ns,
            revision: Some("v2".into()),
            trace_id: Some([ids.0; 16]),
            span_id: id(ids.1),
            parent_span_id: id(ids.2),
            attributes,
            ..event(service, Meaning::Work(work))
        }
    }

    fn client_call(ids: (u8, u8, u8), start_ms: u64, duration_ms: u64) -> LogEvent {
        line(ids, "orders", Work { peer: Some(PEER.into()), ..work("range", start_ms, duration_ms) })
    }

    /// The three lines of one range, as etcd writes them.
    fn etcd_range(number: u32, start_ms: u64, duration_ms: u64) -> Vec<LogEvent> {
        let key = Some("<5 B #01>..<5 B #02>".to_owned());
        let inner = Work { key: key.clone(), ..work("range", start_ms + 1, duration_ms - 2) };
        let steps = vec![
            Step {
                name: "agreement among raft nodes before linearized reading".into(),
                duration_ns: 20 * MS,
            },
            Step { name: "range keys from bolt db".into(), duration_ns: (duration_ms - 60) * MS },
        ];
        let request = Work { key, ..work("/etcdserverpb.KV/Range", start_ms, duration_ms) };
        vec![
            event("etcd", Meaning::EtcdTrace { number, work: inner.clone(), steps }),
            event("etcd", Meaning::EtcdSlowApply { work: inner, expected_ns: 100 * MS }),
            event(
                "etcd",
                Meaning::EtcdRequest {
                    work: request,
                    remote: "127.0.0.1:50608".into(),
                    response_count: 30_000,
                    response_bytes: 6_784_832,
                },
            ),
        ]
    }

    fn at(ms: u64) -> Stamp {
        Stamp { mono_ns: 1_000 * SECOND_NS + ms * MS, wall_ns: T0 + ms * MS }
    }

    fn logs(ms: u64, events: Vec<LogEvent>) -> Record {
        let member = MemberRef { id: Some(1), name: "m1".into(), endpoint: ENDPOINT.into() };
        let origin = Origin { cluster_id: Some(7), node: "n".into(), member: Some(member) };
        let batch = LogBatch {
            file: "m1.log".into(),
            lines: 1,
            events,
            rejects: Vec::new(),
            lost_bytes: 0,
            receipt: Receipt::default(),
        };
        Record { at: at(ms), origin: Arc::new(origin), fact: Fact::Logs(batch) }
    }

    fn tick(ms: u64) -> Record {
        Record { at: at(ms), origin: Arc::new(Origin::default()), fact: Fact::Tick(Tick::default()) }
    }

    fn trees(found: Vec<Conclusion>) -> Vec<CallTree> {
        let tree = |conclusion| match conclusion {
            Conclusion::CallTree(tree) => tree,
            other => panic!("{other:?}"),
        };
        found.into_iter().map(tree).collect()
    }

    /// Trees of these events, with every second's tick up to 20 s.
    fn stitch(events: Vec<LogEvent>) -> Vec<CallTree> {
        let mut stitch = Stitch::default();
        let mut all = Vec::new();
        stitch.observe(&logs(1_000, events));
        for second in 1..20 {
            all.extend(trees(stitch.observe(&tick(1_000 + second * 1_000))));
        }
        assert_eq!(stitch.open(), 0);
        assert_eq!(stitch.bytes, 0);
        all
    }

    /// `depth service name found_by confidence` of each span.
    fn outline(tree: &CallTree) -> Vec<String> {
        let mut depth = BTreeMap::new();
        let text = |span: &Span| {
            let own =
                span.parent.and_then(|parent| depth.get(&parent).copied()).map_or(0, |up: usize| up + 1);
            depth.insert(span.span_id, own);
            format!("{own} {} {} {:?} {}", span.service, span.name, span.found_by, span.confidence)
        };
        tree.spans.iter().map(text).collect()
    }

    fn incident() -> Vec<LogEvent> {
        let mut events = etcd_range(77, 105, 700);
        events.push(line((9, 1, 0), "orders", work("list orders", 100, 812)));
        events.push(client_call((9, 2, 1), 104, 800));
        events
    }

    #[test]
    fn a_slow_request_leads_to_the_etcd_range_and_its_steps() {
        let found = stitch(incident());
        assert_eq!(found.len(), 1);
        assert!(!found[0].derived);
        assert_eq!(
            outline(&found[0]),
            [
                "0 orders list orders Root 100",
                "1 orders range ParentId 100",
                "2 etcd /etcdserverpb.KV/Range PeerAndTime 85",
                "3 etcd trace range SameRequest 98",
                "4 etcd agreement among raft nodes before linearized reading Step 100",
                "4 etcd range keys from bolt db Step 100",
                "4 etcd apply range SameRequest 98",
            ]
        );
        let spans = &found[0].spans;
        assert_eq!(spans[0].revision.as_deref(), Some("v2"));
        assert_eq!(spans[5].start_ns, spans[4].end_ns);
        assert_eq!(spans[5].slack_ns, 38 * MS, "hidden steps leave the place open");
    }

    proptest! {
        #[test]
        fn lines_in_any_order_give_one_tree(
            events in Just(incident()).prop_shuffle(),
            cut in 0usize..6,
        ) {
            let mut stitch = Stitch::default();
            let (early, late) = events.split_at(cut.min(events.len()));
            stitch.observe(&logs(1_000, early.to_vec()));
            stitch.observe(&logs(1_900, late.to_vec()));
            let mut all = Vec::new();
            for second in 0..5 {
                all.extend(trees(stitch.observe(&tick(2_000 + second * 1_000))));
            }
            assert_eq!(all, super::tests::stitch(incident()));
        }

        #[test]
        fn any_ids_and_times_give_a_forest_without_cycles(
            given in proptest::collection::vec((0u8..6, 0u8..6, 0u64..50, 0u64..50, 0u8..3), 1..24),
        ) {
            let services = ["a", "b", "c"];
            let events: Vec<LogEvent> = given
                .iter()
                .map(|&(span, parent, start, length, service)| {
                    line((9, span, parent), services[usize::from(service)], work("op", start, length))
                })
                .collect();
            let found = stitch(events.clone());
            assert_eq!(found.len(), 1);
            let mut seen = BTreeSet::new();
            for span in &found[0].spans {
                let outside = !found[0].spans.iter().any(|other| Some(other.span_id) == span.parent);
                assert!(outside || seen.contains(&span.parent.unwrap()), "parents come first");
                assert!(seen.insert(span.span_id), "ids are unique");
            }
            let mut reversed = events;
            reversed.reverse();
            assert_eq!(stitch(reversed), found);
        }
    }

    #[test]
    fn a_line_that_was_read_twice_counts_once() {
        let mut twice = incident();
        twice.extend(incident());
        assert_eq!(stitch(twice), stitch(incident()));
    }

    #[test]
    fn of_two_intervals_for_one_span_the_longer_stands_in_any_order() {
        let began = line((9, 1, 0), "a", work("begin", 0, 1));
        let ended = line((9, 1, 0), "a", work("whole", 0, 90));
        let found = stitch(vec![began.clone(), ended.clone()]);
        assert_eq!(outline(&found[0]), ["0 a whole Root 100"]);
        assert_eq!(stitch(vec![ended, began]), found);
    }

    #[test]
    fn an_unclaimed_etcd_call_becomes_a_tree_of_its_own() {
        let found = stitch(etcd_range(77, 0, 700));
        assert_eq!(found.len(), 1);
        assert!(found[0].derived);
        assert_eq!(outline(&found[0])[0], "0 etcd /etcdserverpb.KV/Range Root 100");
        assert!(
            stitch(vec![event("etcd", Meaning::EtcdSlowApply { work: work("put", 0, 99), expected_ns: 1 })])
                .is_empty()
        );
    }

    #[test]
    fn another_member_or_operation_or_key_is_not_joined() {
        let check = |change: fn(&mut Work), joined: bool| {
            let mut call = work("range", 104, 800);
            call.peer = Some(PEER.into());
            change(&mut call);
            let mut events = etcd_range(77, 105, 700);
            events.push(line((9, 1, 0), "orders", call));
            let found = stitch(events);
            assert_eq!(found.len(), if joined { 1 } else { 2 });
        };
        check(|_| {}, true);
        check(|call| call.key = Some("<5 B #01>..<5 B #02>".into()), true);
        check(|call| call.peer = Some("http://localhost:23790/".into()), true);
        check(|call| call.peer = Some("127.0.0.1:1,127.0.0.1:23790".into()), true);
        check(|call| call.peer = Some("127.0.0.1:23791".into()), false);
        check(|call| call.peer = None, false);
        check(|call| call.operation = "put".into(), false);
        check(|call| call.key = Some("<9 B #01>".into()), false);
        check(|call| call.duration_ns = 500 * MS, false);
    }

    #[test]
    fn workers_that_do_the_same_at_once_get_one_call_each() {
        let mut events = Vec::new();
        for worker in 0..8_u8 {
            let start = 100 + u64::from(worker) * 7;
            events.push(line((worker + 1, 1, 0), "orders", work("list orders", start, 912)));
            events.push(client_call((worker + 1, 2, 1), start + 1, 900));
            events.extend(etcd_range(u32::from(worker), start + 2, 850));
        }
        let found = stitch(events);
        assert_eq!(found.len(), 8);
        for tree in &found {
            let etcd = tree.spans.iter().find(|span| span.found_by == FoundBy::PeerAndTime).unwrap();
            assert_eq!(etcd.start_ns, tree.spans[1].start_ns + MS, "each has its own");
            assert!(etcd.confidence < 85, "but not surely: {}", etcd.confidence);
            let caller = ("stitch.caller_confidence".to_owned(), "85".to_owned());
            assert!(etcd.attributes.contains(&caller), "the service is sure: {:?}", etcd.attributes);
        }
    }

    #[test]
    fn a_parent_is_told_or_the_tightest_interval_around() {
        let found = stitch(vec![
            line((9, 1, 0), "web", work("request", 0, 100)),
            line((9, 2, 0), "web", work("handler", 10, 80)),
            line((9, 3, 0), "db", work("query", 20, 30)),
            line((9, 4, 1), "web", work("render", 30, 5)),
            line((9, 5, 0), "log", work("later", 300, 5)),
        ]);
        assert_eq!(
            outline(&found[0]),
            [
                "0 web request Root 100",
                "1 web handler Enclosing 75",
                "2 db query Enclosing 75",
                "1 web render ParentId 100",
                "1 log later Sibling 40",
            ]
        );
    }

    #[test]
    fn a_trace_without_its_root_keeps_the_parent_it_told() {
        let found = stitch(vec![line((9, 2, 1), "web", work("handler", 10, 80))]);
        assert_eq!(found[0].spans[0].parent, Some([1; 8]));
        assert_eq!(found[0].spans[0].found_by, FoundBy::ParentId);
    }

    #[test]
    fn lines_that_claim_each_other_as_parent_end_in_a_tree() {
        let found =
            stitch(vec![line((9, 1, 2), "a", work("x", 0, 10)), line((9, 2, 1), "b", work("y", 0, 10))]);
        assert_eq!(found[0].spans.len(), 2);
    }

    #[test]
    fn steps_that_claim_centuries_end_in_a_tree() {
        let step = |duration_ns| Step { name: "range keys".into(), duration_ns };
        let meaning = Meaning::EtcdTrace {
            number: 7,
            work: work("range", 0, 200),
            steps: vec![step(u64::MAX), step(u64::MAX)],
        };
        let trees = stitch(vec![event("etcd", meaning)]);
        let [tree] = trees.as_slice() else { panic!("{trees:?}") };
        assert!(tree.spans.iter().all(|span| span.start_ns <= span.end_ns), "{tree:?}");
    }

    #[test]
    fn a_trace_closes_two_seconds_after_its_root_or_ten_without_one() {
        let closes_after = |events: Vec<LogEvent>| {
            let mut stitch = Stitch::default();
            stitch.observe(&logs(0, events));
            (1..100).find(|second| !stitch.observe(&tick(second * 1_000)).is_empty())
        };
        assert_eq!(closes_after(vec![line((9, 1, 0), "a", work("x", 0, 10))]), Some(2));
        let headless = vec![line((9, 1, 0), "a", work("x", 0, 10)), line((9, 2, 0), "a", work("x", 500, 10))];
        assert_eq!(closes_after(headless), Some(10));
    }

    #[test]
    fn traces_are_bounded_and_the_oldest_goes() {
        let mut stitch = Stitch::default();
        for n in 0..TRACES_MAX + 5 {
            let mut one = line((9, 1, 0), "a", work("x", 0, 10));
            one.trace_id = Some(u128::try_from(n + 1).unwrap().to_be_bytes());
            stitch.observe(&logs(u64::try_from(n / 1000).unwrap(), vec![one]));
        }
        assert_eq!(stitch.open(), TRACES_MAX);
        assert_eq!(stitch.missing(), 5);
        let first = stitch.observe(&tick(5_000));
        assert_eq!(first.len(), TREES_MAX);
        assert_eq!(stitch.dropped(), u64::try_from(TRACES_MAX - TREES_MAX).unwrap());
    }

    #[test]
    fn state_survives_a_restart() {
        let mut stitch = Stitch::default();
        stitch.observe(&logs(1_000, incident()));
        let text = serde_json::to_string(&stitch).unwrap();
        let mut restored: Stitch = serde_json::from_str(&text).unwrap();
        assert_eq!(restored, stitch);
        assert_eq!(restored.observe(&tick(4_000)), stitch.observe(&tick(4_000)));
    }

    /// Closed loops of eight workers against one member, as a small deterministic simulation: how often the assignment is
    /// right, against what it claims.
    #[test]
    fn published_confidence_is_not_above_what_a_simulation_reaches() {
        let mut seed = 42_u64;
        let mut random = move |below: u64| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) % below
        };
        // How far apart the workers start, how long a request waits for a core, how long an answer takes to decode.
        for (spread, wait_max, decode_max) in [(300, 40, 60), (5, 200, 60), (300, 200, 60), (5, 10, 300)] {
            let (mut right, mut claimed, mut n) = (0_u32, 0_u32, 0_u32);
            for _ in 0..10 {
                let (mut events, mut truth) = (Vec::new(), BTreeMap::new());
                for worker in 0..8_u8 {
                    let mut start = random(spread);
                    for turn in 0..3_u8 {
                        let (wait, length, decode) =
                            (random(wait_max), 200 + random(400), 5 + random(decode_max));
                        let id = worker * 3 + turn + 1;
                        events.push(client_call((id, 2, 0), start, wait + length + decode));
                        events.extend(etcd_range(u32::from(id), start + wait, length));
                        truth.insert([id; 16], T0 + (start + wait) * MS);
                        start += wait + length + decode + random(20);
                    }
                }
                for tree in stitch(events) {
                    let etcd = tree.spans.iter().find(|span| span.found_by == FoundBy::PeerAndTime);
                    let (Some(etcd), Some(start)) = (etcd, truth.get(&tree.trace_id)) else { continue };
                    n += 1;
                    right += u32::from(etcd.start_ns == *start);
                    claimed += u32::from(etcd.confidence);
                }
            }
            let percent = |part: u32| f64::from(part) / f64::from(n);
            println!("joined {n}, right {:.1} %, claimed {:.1} %", percent(right * 100), percent(claimed));
            assert!(n > 200, "{n}");
            assert!(right * 100 >= claimed, "right {right} of {n}, claimed {claimed} %");
        }
    }
}
