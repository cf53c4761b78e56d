//! Comparisons with known answers, and what captures turn into.

use std::sync::Arc;

use model::finding::Conclusion;
use model::origin::Origin;
use model::profile::{
    Baseline, CaptureOutcome, CaptureResult, FunctionCount, FunctionCounts, ProfileKind, ProfileSet,
};
use model::record::{Fact, Record};
use model::request::{Ask, Request};
use model::time::{SECOND_NS, Stamp};

use super::{Diff, ROWS_MAX, compare};

const PERIOD_NS: u64 = 10_000_000;

/// A CPU profile of 10 s; `rows` are (name, samples that contain it).
fn cpu(samples: u64, rows: &[(&str, u64)]) -> FunctionCounts {
    let mut functions: Vec<FunctionCount> = rows
        .iter()
        .map(|(name, n)| FunctionCount {
            name: (*name).to_owned(),
            own: n * PERIOD_NS,
            total: n * PERIOD_NS,
            samples: *n,
        })
        .collect();
    functions.sort_by(|a, b| a.name.cmp(&b.name));
    FunctionCounts {
        kind: ProfileKind::Cpu,
        duration_ns: 10 * SECOND_NS,
        period: PERIOD_NS,
        total: samples * PERIOD_NS,
        samples,
        functions,
        edges: Vec::new(),
        other: 0,
        requests: None,
        windows: Vec::new(),
    }
}

/// Xorshift: a test must give the same answer tomorrow.
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % n
    }

    /// A profile of `samples` draws from functions whose weights are 1, 2, … `functions`.
    fn profile(&mut self, samples: u64, functions: u64) -> FunctionCounts {
        let names: Vec<String> = (0..functions).map(|n| format!("f{n:03}")).collect();
        let mut seen = vec![0_u64; names.len()];
        let weights = functions * (functions + 1) / 2;
        for _ in 0..samples {
            let mut at = self.below(weights);
            let mut name = 0;
            while at > name {
                at -= name + 1;
                name += 1;
            }
            seen[usize::try_from(name).unwrap()] += 1;
        }
        let rows: Vec<(&str, u64)> = names.iter().map(String::as_str).zip(seen).collect();
        cpu(samples, &rows)
    }
}

#[test]
fn a_profile_does_not_differ_from_itself() {
    let mut dice = Dice(7);
    for functions in 1..80 {
        let samples = 1 + dice.below(3_000);
        let profile = dice.profile(samples, functions);
        assert_eq!(compare(&profile, &profile), []);
    }
}

#[test]
fn two_draws_from_one_program_rarely_differ() {
    let mut dice = Dice(11);
    let pairs = 300;
    let differing = (0..pairs)
        .filter(|_| {
            let (samples, again) = (500 + dice.below(3_000), 500 + dice.below(3_000));
            let (before, after) = (dice.profile(samples, 40), dice.profile(again, 40));
            !compare(&before, &after).is_empty()
        })
        .count();
    // A false discovery rate of 5 %, where samples are few, allows 15 of 300 pairs; the correction and the floor leave fewer.
    assert!(differing <= 15, "{differing} of {pairs}");
}

#[test]
fn a_function_that_grew_is_found_with_its_figures() {
    let before = cpu(1_000, &[("idle", 950), ("range", 50)]);
    let after = cpu(2_000, &[("idle", 1_000), ("range", 1_000)]);
    let rows = compare(&before, &after);
    let names: Vec<&str> = rows.iter().map(|row| row.name.as_str()).collect();
    // The same change of share: what grew comes first.
    assert_eq!(names, ["range", "idle"]);
    let range = &rows[0];
    assert_eq!((range.before, range.after), (0.05, 0.5));
    assert!(range.low > 0.40 && range.low < 0.43 && range.high > 0.47 && range.high < 0.49);
    // 50 samples of 10 ms in 10 s, and 1,000 of them.
    assert_eq!((range.before_abs, range.after_abs), (0.05, 1.0));
    assert!(range.q < 1e-6);
}

#[test]
fn what_vanished_is_listed_and_what_is_new_too() {
    let rows = compare(&cpu(500, &[("old", 100), ("x", 400)]), &cpu(500, &[("new", 100), ("x", 400)]));
    let seen: Vec<(&str, f64, f64)> = rows.iter().map(|r| (r.name.as_str(), r.before, r.after)).collect();
    assert_eq!(seen, [("new", 0.0, 0.2), ("old", 0.2, 0.0)]);
}

#[test]
fn a_change_below_the_floor_is_not_told_however_sure() {
    let big = 10_000_000;
    // 0.4 points; and 1 point, but only 2 % of what it was.
    assert_eq!(compare(&cpu(big, &[("f", 100_000)]), &cpu(big, &[("f", 140_000)])), []);
    assert_eq!(compare(&cpu(big, &[("f", 5_000_000)]), &cpu(big, &[("f", 5_100_000)])), []);
}

#[test]
fn a_large_change_on_few_samples_is_not_told() {
    assert_eq!(compare(&cpu(10, &[("f", 1)]), &cpu(10, &[("f", 4)])), []);
}

#[test]
fn nothing_is_compared_with_nothing() {
    let full = cpu(100, &[("f", 100)]);
    assert_eq!(compare(&cpu(0, &[]), &full), []);
    assert_eq!(compare(&full, &cpu(0, &[])), []);
    let heap = FunctionCounts { kind: ProfileKind::Heap, ..cpu(100, &[("g", 100)]) };
    assert_eq!(compare(&full, &heap), []);
}

#[test]
fn a_heap_is_judged_by_its_samples_not_its_bytes() {
    let heap = |samples, bytes, grown| FunctionCounts {
        kind: ProfileKind::Heap,
        duration_ns: 0,
        period: 0,
        samples,
        total: bytes,
        functions: vec![FunctionCount { name: "grow".to_owned(), own: grown, total: grown, samples: 1 }],
        edges: Vec::new(),
        other: 0,
        requests: None,
        windows: Vec::new(),
    };
    // Gigabytes, but eight observations: 12 % to 50 % is noise.
    assert_eq!(compare(&heap(8, 8 << 30, 1 << 30), &heap(8, 8 << 30, 4 << 30)), []);
    assert_eq!(compare(&heap(800, 8 << 30, 1 << 30), &heap(800, 8 << 30, 4 << 30)).len(), 1);
}

#[test]
fn rows_are_bounded_and_the_largest_come_first() {
    let quiet: Vec<String> = (0..120).map(|n| format!("quiet{n:03}")).collect();
    let names: Vec<String> = (0..80).map(|n| format!("f{n:02}")).collect();
    // Most functions cost what they did; eighty cost much more, each more than the one before it.
    let rows = |cost: fn(u64) -> u64| -> Vec<(&str, u64)> {
        let quiet = quiet.iter().map(|name| (name.as_str(), 500));
        quiet.chain(names.iter().zip(0..).map(|(name, n)| (name.as_str(), cost(n)))).collect()
    };
    let seen = compare(&cpu(68_000, &rows(|_| 100)), &cpu(188_400, &rows(|n| 1_000 + n * 16)));
    assert_eq!(seen.len(), ROWS_MAX);
    assert_eq!(seen[0].name, "f79");
    assert!(seen.is_sorted_by(|a, b| a.after - a.before >= b.after - b.before));
}

#[test]
fn wrappers_make_room_for_what_they_wrap() {
    // w00 calls w01 calls … w59 calls hot; a and b call each other; hot itself is the last by share.
    let names: Vec<String> = (0..60).map(|n| format!("w{n:02}")).collect();
    let mut rows: Vec<(&str, u64)> = names.iter().map(|name| (name.as_str(), 500)).collect();
    rows.extend([("a", 490), ("b", 490), ("hot", 480)]);
    let mut after = cpu(1_000, &rows);
    let at = |name: &str| {
        u32::try_from(after.functions.iter().position(|function| function.name == name).unwrap()).unwrap()
    };
    let mut edges: Vec<(u32, u32, u64)> =
        names.windows(2).map(|pair| (at(&pair[0]), at(&pair[1]), 500 * PERIOD_NS)).collect();
    edges.extend([(at("w59"), at("hot"), 480 * PERIOD_NS), (at("a"), at("b"), 490 * PERIOD_NS)]);
    edges.extend([(at("b"), at("a"), 490 * PERIOD_NS), (at("hot"), at("hot"), 480 * PERIOD_NS)]);
    after.edges = edges;
    let seen = compare(&cpu(1_000, &[]), &after);
    let names: Vec<&str> = seen.iter().map(|row| row.name.as_str()).collect();
    assert_eq!(names, ["a", "hot"]);
}

fn captured(outcome: CaptureOutcome) -> Record {
    let capture = CaptureResult { request: 3, target: "m1".to_owned(), outcome };
    Record { at: Stamp::default(), origin: Arc::new(Origin::default()), fact: Fact::Capture(capture) }
}

fn asked() -> Diff {
    let mut diff = Diff::default();
    let ask = Ask::Capture { target: "m1".to_owned(), finding: 41, before_mono_ns: None };
    diff.asked(&Request { id: 3, ask });
    diff
}

fn set(at_s: u64, counts: Vec<FunctionCounts>) -> Arc<ProfileSet> {
    Arc::new(ProfileSet { at: Stamp::default().plus_ns(at_s * SECOND_NS), counts, ..ProfileSet::default() })
}

#[test]
fn a_capture_becomes_one_diff_a_kind() {
    let before = set(100, vec![cpu(1_000, &[("f", 100)])]);
    let after = set(700, vec![cpu(2_000, &[("f", 900)])]);
    let mut diff = asked();
    let done = CaptureOutcome::Done { before: Some(before), baseline: Baseline::BeforeMarker, after };
    let seen = diff.observe(&captured(done));
    let [Conclusion::ProfileDiff(seen)] = seen.as_slice() else { panic!("{seen:?}") };
    assert_eq!((seen.request, seen.finding, seen.baseline_age_s), (3, 41, 600));
    assert_eq!((seen.before_total, seen.after_total, seen.unit.as_str()), (1.0, 2.0, "{cpu}"));
    assert_eq!(seen.functions.len(), 1);
    assert!(!diff.running(3));
}

#[test]
fn a_heap_is_as_old_as_it_is_whatever_the_cpu_time_beside_it() {
    let both = |at_s, heap_s| {
        let heap = FunctionCounts { kind: ProfileKind::Heap, ..cpu(100, &[("g", 100)]) };
        let others_at = vec![(ProfileKind::Heap, Stamp::default().plus_ns(heap_s * SECOND_NS))];
        Arc::new(ProfileSet { others_at, ..ProfileSet::clone(&set(at_s, vec![cpu(100, &[("f", 1)]), heap])) })
    };
    let (before, baseline) = (Some(both(100, 40)), Baseline::Aged);
    let done = CaptureOutcome::Done { before, baseline, after: both(700, 730) };
    let ages: Vec<u64> = asked()
        .observe(&captured(done))
        .iter()
        .map(|seen| if let Conclusion::ProfileDiff(diff) = seen { diff.baseline_age_s } else { 0 })
        .collect();
    assert_eq!(ages, [600, 690]);
}

#[test]
fn a_capture_without_a_diff_says_why() {
    let check = |outcome, reason: &str, detail: &str| {
        let seen = asked().observe(&captured(outcome));
        let [Conclusion::CaptureFailed(seen)] = seen.as_slice() else { panic!("{seen:?}") };
        assert_eq!((seen.finding, seen.reason.as_str(), seen.detail.as_str()), (41, reason, detail));
    };
    check(CaptureOutcome::Refused { reason: "budget".to_owned() }, "budget", "");
    let after = set(9, vec![cpu(4, &[("f", 3), ("g", 1)])]);
    let done = CaptureOutcome::Done { before: None, baseline: Baseline::Missing, after: Arc::clone(&after) };
    check(done, "no_baseline", "now: f 75.0 %, g 25.0 %");
    let before = Some(set(1, Vec::new()));
    let done = CaptureOutcome::Done { before, baseline: Baseline::Aged, after };
    check(done, "no_kind_in_common", "now: f 75.0 %, g 25.0 %");
}

#[test]
fn requests_that_never_end_are_forgotten() {
    let mut diff = Diff::default();
    for id in 0..5_000 {
        let ask = Ask::Capture { target: String::new(), finding: id, before_mono_ns: None };
        diff.asked(&Request { id, ask });
    }
    assert!(diff.running(4_999) && !diff.running(0));
    assert_eq!(diff.asked.len(), super::ASKED_MAX);
}
