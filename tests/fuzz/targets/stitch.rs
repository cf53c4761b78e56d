//! Any log lines of any services, in any order: trees come out, and trees they are.
#![no_main]

use std::collections::{BTreeMap, BTreeSet};

use fuzz::records;
use libfuzzer_sys::fuzz_target;
use model::finding::{CallTree, Conclusion};
use model::record::{Fact, Record, Tick};
use model::time::SECOND_NS;
use processors::stitch::Stitch;

/// Each span ends at a root by its parents, and no id is used twice.
fn is_forest(tree: &CallTree) -> bool {
    let parents: BTreeMap<[u8; 8], Option<[u8; 8]>> =
        tree.spans.iter().map(|span| (span.span_id, span.parent)).collect();
    let ends = |mut id: [u8; 8]| {
        let mut seen = BTreeSet::new();
        while let Some(Some(parent)) = parents.get(&id) {
            if !seen.insert(id) {
                return false;
            }
            id = *parent;
        }
        true
    };
    parents.len() == tree.spans.len() && parents.keys().all(|id| ends(*id))
}

fuzz_target!(|data: &[u8]| {
    let mut stitch = Stitch::default();
    let mut records = records::logs(data);
    // An hour later all are closed.
    if let Some(last) = records.last().cloned() {
        for minute in 1..=60 {
            let at = last.at.plus_ns(minute * 60 * SECOND_NS);
            records.push(Record { at, fact: Fact::Tick(Tick::default()), ..last.clone() });
        }
    }
    for record in &records {
        for conclusion in stitch.observe(record) {
            let Conclusion::CallTree(tree) = conclusion else { panic!("not a tree: {conclusion:?}") };
            assert!(is_forest(&tree), "{tree:#?}");
            assert!(tree.spans.iter().all(|span| span.start_ns <= span.end_ns), "{tree:#?}");
        }
    }
    if records.last().is_some_and(|last| last.at.mono_ns < u64::MAX) {
        assert_eq!(stitch.open(), 0);
    }
});
