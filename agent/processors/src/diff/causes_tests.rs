//! Why a row is there: stacks with known answers, and what must hold of any pair.

use std::collections::BTreeMap;

use model::finding::{Cause, FunctionDiff, Proof};
use model::profile::{FunctionCount, FunctionCounts, ProfileKind};
use model::time::SECOND_NS;

use super::compare;

const PERIOD_NS: u64 = 10_000_000;

/// One window of 10 s; stacks are "root;…;leaf" with samples.
fn window(stacks: &[(&str, u64)]) -> FunctionCounts {
    let mut rows: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
    let mut edges: BTreeMap<(&str, &str), u64> = BTreeMap::new();
    for (stack, count) in stacks {
        let path: Vec<&str> = stack.split(';').collect();
        for (depth, name) in path.iter().enumerate() {
            let row = rows.entry(name).or_default();
            row.0 += if depth + 1 == path.len() { *count } else { 0 };
            row.1 += count;
        }
        for pair in path.windows(2) {
            *edges.entry((pair[0], pair[1])).or_default() += count;
        }
    }
    let at: BTreeMap<&str, u32> = rows.keys().copied().zip(0..).collect();
    let samples = stacks.iter().map(|(_, count)| count).sum();
    FunctionCounts {
        kind: ProfileKind::Cpu,
        duration_ns: 10 * SECOND_NS,
        period: PERIOD_NS,
        total: samples * PERIOD_NS,
        samples,
        functions: rows
            .iter()
            .map(|(name, (own, total))| FunctionCount {
                name: (*name).to_owned(),
                own: own * PERIOD_NS,
                total: total * PERIOD_NS,
                samples: *total,
            })
            .collect(),
        edges: edges.iter().map(|((a, b), n)| (at[a], at[b], n * PERIOD_NS)).collect(),
        other: 0,
        requests: Some(1_000),
        windows: Vec::new(),
    }
}

/// Twelve windows that are all the same.
fn steady(stacks: &[(&str, u64)]) -> FunctionCounts {
    FunctionCounts::joined(&vec![window(stacks); 12]).unwrap()
}

/// (name, cause, through), by name.
fn causes(rows: &[FunctionDiff]) -> Vec<(&str, Cause, &str)> {
    let mut seen: Vec<_> =
        rows.iter().map(|row| (row.name.as_str(), row.cause, row.through.as_deref().unwrap_or(""))).collect();
    seen.sort_unstable();
    seen
}

const BASE: [(&str, u64); 6] = [
    ("main;serve;put;encode", 200),
    ("main;serve;put;store", 300),
    ("main;serve;get;lookup", 400),
    ("main;serve;get", 300),
    ("main;raft;tick", 500),
    ("main;raft", 300),
];

/// `BASE` with other counts or other stacks in some places.
fn with(changes: &[(&'static str, &'static str, u64)]) -> Vec<(&'static str, u64)> {
    let mut stacks = BASE.to_vec();
    for (old, new, count) in changes {
        match stacks.iter_mut().find(|(stack, _)| stack == old) {
            Some(stack) => *stack = (new, *count),
            None => stacks.push((new, *count)),
        }
    }
    stacks
}

#[test]
fn a_row_says_whether_the_change_begins_in_it() {
    let after = with(&[("main;serve;put;encode", "main;serve;put;encode", 400)]);
    let rows = compare(&steady(&BASE), &steady(&after));
    let seen = causes(&rows);
    assert!(seen.contains(&("encode", Cause::Itself, "")), "{seen:?}");
    assert!(seen.contains(&("put", Cause::Callee, "encode")), "{seen:?}");
    // Everything else lost share and costs what it did.
    assert!(
        seen.iter()
            .all(|(name, cause, _)| ["encode", "put", "serve"].contains(name) || *cause == Cause::Load)
    );
    assert_eq!(rows[0].name, "encode");
    assert_eq!(rows[0].before_per_request, Some(0.002));
    assert_eq!(rows[0].after_per_request, Some(0.004));
}

/// Twelve windows in which `lookup` has a half more or less, beside these stacks.
fn unsteady(stacks: &[(&'static str, u64)]) -> FunctionCounts {
    let parts: Vec<FunctionCounts> = (0..12)
        .map(|turn| {
            let mut stacks = stacks.to_vec();
            let lookup = stacks.iter_mut().find(|(stack, _)| stack.ends_with("lookup"));
            lookup.into_iter().for_each(|stack| stack.1 = [200, 600][turn % 2]);
            window(&stacks)
        })
        .collect();
    FunctionCounts::joined(&parts).unwrap()
}

#[test]
fn a_function_that_varies_is_told_by_the_part_of_it_that_grew() {
    let row = |after: &FunctionCounts| {
        let rows = compare(&unsteady(&BASE), after);
        rows.into_iter().find(|row| row.name == "get")
    };
    // The same work in other windows.
    assert_eq!(row(&unsteady(&with(&[("main;raft", "main;raft", 310)]))), None);
    let own = row(&unsteady(&with(&[("main;serve;get", "main;serve;get", 400)]))).unwrap();
    assert_eq!((own.cause, &own.through), (Cause::Itself, &None));
    let callee = row(&unsteady(&with(&[("", "main;serve;get;check", 100)]))).unwrap();
    assert_eq!((callee.cause, callee.through.as_deref()), (Cause::Callee, Some("check")));
    assert_eq!((own.proof, callee.proof), (Proof::OwnTime, Proof::Callee("check".to_owned())));
    // All of it varies by more than that: its interval says so.
    assert!(own.low < 0.0 && callee.low < 0.0);
    // As much as the floor, but in a part that hardly counts for it.
    assert_eq!(row(&unsteady(&with(&[("", "main;serve;get;check", 20)]))), None);
}

#[test]
fn work_under_another_name_has_moved() {
    let after = with(&[("main;serve;put;encode", "main;serve;put;encodeV2", 200)]);
    let seen = compare(&steady(&BASE), &steady(&after));
    assert_eq!(causes(&seen), [("encode", Cause::Moved, "encodeV2"), ("encodeV2", Cause::Moved, "encode")]);
}

#[test]
fn work_that_its_caller_does_now_has_moved() {
    let after = with(&[("main;serve;put;encode", "main;serve;put", 200)]);
    let seen = compare(&steady(&BASE), &steady(&after));
    assert_eq!(causes(&seen), [("encode", Cause::Moved, "put")]);
    let seen = compare(&steady(&after), &steady(&BASE));
    assert_eq!(causes(&seen), [("encode", Cause::Moved, "put")]);
}

/// What is done elsewhere costs a little more or less there, by chance: that makes no change of it.
#[test]
fn work_that_moved_within_a_function_is_no_change_of_it_whatever_chance_adds() {
    for by in 0..=12 {
        // Inlined into its caller, and called by another name.
        let inlined = with(&[("main;serve;put;encode", "main;serve;put", 194 + by)]);
        let renamed = with(&[("main;serve;put;encode", "main;serve;put;encodeV2", 194 + by)]);
        for after in [inlined, renamed] {
            let rows = compare(&steady(&BASE), &steady(&after));
            let told: Vec<_> = rows.iter().filter(|row| row.cause.is_change()).collect();
            assert!(told.is_empty(), "{told:?}");
            assert!(rows.iter().all(|row| row.name != "put"), "{:?}", causes(&rows));
        }
    }
}

#[test]
fn work_that_another_calls_has_moved_and_so_have_their_callers() {
    let after = with(&[("main;serve;put;encode", "main;raft;apply;encode", 200)]);
    let seen = compare(&steady(&BASE), &steady(&after));
    let seen = causes(&seen);
    for name in ["put", "raft", "serve", "apply"] {
        assert!(seen.contains(&(name, Cause::Moved, "encode")), "{name}: {seen:?}");
    }
    assert!(seen.iter().all(|(_, cause, _)| *cause == Cause::Moved), "{seen:?}");
}

#[test]
fn a_collector_that_works_more_is_no_regression() {
    let collect = "main;runtime.gcBgMarkWorker;runtime.scan";
    let assist = "main;serve;put;encode;runtime.gcAssistAlloc;runtime.scan";
    let before = with(&[("", collect, 100), ("", assist, 50)]);
    let after = with(&[("", collect, 400), ("", assist, 300)]);
    let rows = compare(&steady(&before), &steady(&after));
    let changes: Vec<_> = rows.iter().filter(|row| row.cause.is_change()).map(|row| &row.name).collect();
    assert!(changes.is_empty(), "{changes:?}");
    let seen = causes(&rows);
    assert!(
        seen.contains(&("encode", Cause::Runtime, "runtime.gcAssistAlloc"))
            || seen.contains(&("encode", Cause::Runtime, "runtime.scan")),
        "{seen:?}"
    );
}

#[test]
fn a_load_explains_what_stays_and_what_follows_it() {
    // Twice the requests: put and get follow, raft costs what it did.
    let double: Vec<(&str, u64)> = BASE
        .iter()
        .map(|(stack, n)| (*stack, if stack.starts_with("main;serve") { n * 2 } else { *n }))
        .collect();
    let mut after = steady(&double);
    after.requests = after.requests.map(|requests| requests * 2);
    let rows = compare(&steady(&BASE), &after);
    assert!(rows.len() > 4 && rows.iter().all(|row| row.cause == Cause::Load), "{:?}", causes(&rows));
    // Four times the encoding is not the load's doing.
    let dearer: Vec<(&str, u64)> = double
        .iter()
        .map(|(stack, n)| (*stack, if stack.ends_with("encode") { n * 2 } else { *n }))
        .collect();
    let mut after = steady(&dearer);
    after.requests = after.requests.map(|requests| requests * 2);
    let rows = compare(&steady(&BASE), &after);
    assert!(causes(&rows).contains(&("encode", Cause::Itself, "")), "{:?}", causes(&rows));
}

#[test]
fn a_change_that_is_over_says_so() {
    let high = with(&[("main;serve;put;encode", "main;serve;put;encode", 800)]);
    let went_away = |windows: &[&[(&str, u64)]]| {
        let parts: Vec<FunctionCounts> = windows.iter().map(|stacks| window(stacks)).collect();
        let rows = compare(&steady(&BASE), &FunctionCounts::joined(&parts).unwrap());
        rows.iter().find(|row| row.name == "encode").map(|row| row.went_away)
    };
    let (low, high) = (BASE.as_slice(), high.as_slice());
    assert_eq!(went_away(&[high; 12]), Some(false));
    assert_eq!(went_away(&[high, low, high, high, high, low, high, high, high, low, low, low]), Some(true));
    assert_eq!(went_away(&[low, low, high, low, high, high, high, low, high, high, high, high]), Some(false));
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

    fn stacks(&mut self) -> Vec<(String, u64)> {
        let count = 1 + self.below(30);
        (0..count)
            .map(|_| {
                let depth = 1 + self.below(5);
                let path: Vec<String> =
                    (0..depth).map(|level| format!("f{level}{}", self.below(4))).collect();
                (path.join(";"), self.below(400))
            })
            .collect()
    }

    fn profile(&mut self) -> FunctionCounts {
        let windows = 1 + self.below(20);
        let parts: Vec<FunctionCounts> = (0..windows)
            .map(|_| {
                let stacks = self.stacks();
                let stacks: Vec<(&str, u64)> = stacks.iter().map(|(stack, n)| (stack.as_str(), *n)).collect();
                window(&stacks)
            })
            .collect();
        FunctionCounts::joined(&parts).unwrap()
    }
}

#[test]
fn any_profile_is_itself_and_a_swap_only_turns_the_signs() {
    let mut dice = Dice(23);
    for _ in 0..300 {
        let (a, b) = (dice.profile(), dice.profile());
        assert_eq!(compare(&a, &a), []);
        let mirrored = |row: &FunctionDiff| FunctionDiff {
            before: row.after,
            after: row.before,
            low: -row.high,
            high: -row.low,
            before_abs: row.after_abs,
            after_abs: row.before_abs,
            own_before: row.own_after,
            own_after: row.own_before,
            before_per_request: row.after_per_request,
            after_per_request: row.before_per_request,
            went_away: false,
            ..row.clone()
        };
        let by_name = |mut rows: Vec<FunctionDiff>| {
            rows.sort_by(|a, b| a.name.cmp(&b.name));
            rows
        };
        let there = by_name(compare(&a, &b).iter().map(mirrored).collect());
        let back = by_name(compare(&b, &a));
        let key = |row: &FunctionDiff| {
            let rounded = |x: f64| (x * 1e9).round();
            (
                row.name.clone(),
                (row.cause, row.through.clone(), row.proof.clone()),
                rounded(row.q),
                rounded(row.before),
                rounded(row.after),
                rounded(row.low),
                rounded(row.high),
            )
        };
        assert_eq!(there.iter().map(key).collect::<Vec<_>>(), back.iter().map(key).collect::<Vec<_>>());
    }
}

#[test]
fn windows_put_together_say_the_same_of_the_whole() {
    // Samples that are independent: neighbours together must neither hide a change nor invent one.
    let mut dice = Dice(31);
    let mut part = |encode: u64| {
        let mut stacks = BASE.to_vec();
        for (stack, n) in &mut stacks {
            // A difference of two uniform numbers of about the spread that counting has.
            *n = *n + dice.below(30) - dice.below(30).min(*n);
            *n += if stack.ends_with("encode") { encode } else { 0 };
        }
        window(&stacks)
    };
    let before: Vec<FunctionCounts> = (0..24).map(|_| part(0)).collect();
    let after: Vec<FunctionCounts> = (0..24).map(|_| part(60)).collect();
    let together = |parts: &[FunctionCounts], each: usize| {
        let joined: Vec<FunctionCounts> = parts
            .chunks(each)
            .map(|parts| FunctionCounts { windows: Vec::new(), ..FunctionCounts::joined(parts).unwrap() })
            .collect();
        FunctionCounts::joined(&joined).unwrap()
    };
    let shown = |each: usize| {
        let rows = compare(&together(&before, each), &together(&after, each));
        rows.iter().map(|row| (row.name.clone(), row.cause, row.before, row.after)).collect::<Vec<_>>()
    };
    assert!(shown(1).iter().any(|(name, cause, ..)| name == "encode" && *cause == Cause::Itself));
    assert_eq!(shown(1), shown(2));
    assert_eq!(shown(1), shown(3));
}
