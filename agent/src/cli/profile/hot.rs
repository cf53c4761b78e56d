//! Which part of etcd's CPU is spent in ranges, in compaction, in the garbage collector. Owns the functions' names over
//! etcd 3.4 to 3.7, whose import paths moved (`etcdserver`, `server/v3/etcdserver`, `server/v3/storage/mvcc`).

use model::profile::Stacks;
use model::profile::runtime::begins_collection;

use super::decide::Hot;

/// What a function tells of the stack that it is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Work {
    /// A read of keys.
    Range,
    /// Removal of old revisions.
    Compaction,
    /// Go's memory management.
    Garbage,
}

/// What a range is called from the handler down to the tree, by the last part of the name.
const RANGE: [&str; 12] = [
    "_KV_Range_Handler",
    "(*kvServer).Range",
    "(*EtcdServer).Range",
    "(*applierV3backend).Range",
    "(*applierV3backend).applyRange",
    "txn.Range",
    "txn.executeRange",
    "(*storeTxnRead).Range",
    "(*storeTxnRead).rangeKeys",
    "(*storeTxnCommon).Range",
    "(*storeTxnCommon).rangeKeys",
    "(*RangeResponse).Marshal",
];

impl Work {
    fn is(self, name: &str) -> bool {
        let etcd = name.starts_with("go.etcd.io/etcd/");
        match self {
            Work::Range => etcd && RANGE.iter().any(|range| name.ends_with(range)),
            // scheduleCompaction, (*treeIndex).Compact, (*keyIndex).compact; the compactor's timer is in another package.
            Work::Compaction => {
                etcd && name.contains("/mvcc.") && (name.contains("ompact") && !name.contains("Notify"))
            }
            Work::Garbage => begins_collection(name),
        }
    }
}

/// The share of all samples whose stack holds such a function, and the outermost of them that holds most.
pub(super) fn share(stacks: &Stacks, work: Work) -> Option<Hot> {
    let is: Vec<bool> = stacks.functions.iter().map(|function| work.is(&function.name)).collect();
    let mut below = vec![0_i64; is.len()];
    let (mut total, mut inside) = (0_i64, 0_i64);
    for sample in &stacks.samples {
        total = total.saturating_add(sample.value);
        // Frames are leaf first: the last is the outermost.
        let outermost = sample.frames.iter().rev().find_map(|frame| {
            let frame = stacks.frames.get(usize::try_from(*frame).ok()?)?;
            let function = usize::try_from(frame.function).ok()?;
            is.get(function).copied().unwrap_or(false).then_some(function)
        });
        if let Some(function) = outermost {
            inside = inside.saturating_add(sample.value);
            if let Some(below) = below.get_mut(function) {
                *below = below.saturating_add(sample.value);
            }
        }
    }
    let most = below.iter().enumerate().max_by_key(|(_, value)| **value);
    let function = most.filter(|(_, value)| **value > 0).and_then(|(at, _)| stacks.functions.get(at));
    let function = function.map_or_else(String::new, |function| short(&function.name).to_owned());
    (total > 0).then(|| Hot { share: inside as f64 / total as f64, function })
}

/// A name without its import path: `mvcc.(*storeTxnRead).rangeKeys`.
pub(in crate::cli) fn short(name: &str) -> &str {
    // Type arguments hold paths of their own.
    let plain = name.find('[').and_then(|bracket| name.get(..bracket)).unwrap_or(name);
    plain.rfind('/').and_then(|slash| name.get(slash + 1..)).unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(name: &str, expected: &[Work]) {
        let all = [Work::Range, Work::Compaction, Work::Garbage];
        let seen: Vec<Work> = all.into_iter().filter(|work| work.is(name)).collect();
        assert_eq!(seen, expected, "{name}");
    }

    #[test]
    fn functions_are_told_apart_in_all_versions() {
        check("go.etcd.io/etcd/etcdserver.(*EtcdServer).Range", &[Work::Range]);
        check("go.etcd.io/etcd/mvcc.(*storeTxnRead).rangeKeys", &[Work::Range]);
        check("go.etcd.io/etcd/server/v3/mvcc.(*storeTxnRead).Range", &[Work::Range]);
        check("go.etcd.io/etcd/api/v3/etcdserverpb._KV_Range_Handler", &[Work::Range]);
        check("go.etcd.io/etcd/server/v3/storage/mvcc.(*storeTxnCommon).rangeKeys", &[Work::Range]);
        check("go.etcd.io/etcd/server/v3/etcdserver/txn.executeRange", &[Work::Range]);
        check("go.etcd.io/etcd/server/v3/etcdserver.(*EtcdServer).Put", &[]);
        check("go.etcd.io/etcd/server/v3/storage/mvcc.(*store).scheduleCompaction", &[Work::Compaction]);
        check("go.etcd.io/etcd/mvcc.(*keyIndex).compact", &[Work::Compaction]);
        check("go.etcd.io/etcd/server/v3/etcdserver/api/v3compactor.(*Periodic).Run.func1", &[]);
        check("runtime.gcBgMarkWorker.func2", &[Work::Garbage]);
        check("runtime.gcAssistAlloc1", &[Work::Garbage]);
        check("runtime.mallocgc", &[]);
    }

    #[test]
    fn a_name_is_shown_without_its_path() {
        let shown = |name: &'static str, expected: &str| assert_eq!(short(name), expected);
        shown("go.etcd.io/etcd/server/v3/mvcc.(*treeIndex).visit", "mvcc.(*treeIndex).visit");
        shown("runtime.futex", "runtime.futex");
        shown("a.org/x/btree.(*BTree[go.etcd.io/etcd/y.z]).Get", "btree.(*BTree[go.etcd.io/etcd/y.z]).Get");
        shown("", "");
    }
}
