//! What the runtime of a Go program is called in a profile.
//!
//! Owns the names, over Go 1.16 to 1.27, so that whoever tells a person how much went to the collector means the same by it.

/// Where the collector begins: marking, sweeping, giving memory back, helping it along, and write barriers.
const COLLECTOR: [&str; 12] = [
    "runtime.gcBgMarkWorker",
    "runtime.gcAssistAlloc",
    "runtime.gcStart",
    "runtime.gcMark",
    "runtime.gcDrain",
    "runtime.gcSweep",
    "runtime.gcWriteBarrier",
    "runtime.wbBufFlush",
    "runtime.bgsweep",
    "runtime.bgscavenge",
    "runtime.deductSweepCredit",
    "runtime.sweepone",
];

/// Whether a function is part of Go's runtime, which does what the program makes it do.
#[must_use]
pub fn is_runtime(name: &str) -> bool {
    ["runtime.", "runtime/", "internal/runtime/"].iter().any(|start| name.starts_with(start))
}

/// Whether the collector is at work in a function of this name and in all that it calls.
#[must_use]
pub fn begins_collection(name: &str) -> bool {
    COLLECTOR.iter().any(|start| name.starts_with(start))
}

#[cfg(test)]
mod tests {
    use super::{begins_collection, is_runtime};

    #[test]
    fn the_collector_is_told_from_the_allocator() {
        let check = |name: &str, expected| {
            assert_eq!((is_runtime(name), begins_collection(name)), expected, "{name}");
        };
        check("runtime.gcBgMarkWorker.func2", (true, true));
        check("runtime.gcAssistAlloc1", (true, true));
        check("runtime.wbBufFlush1", (true, true));
        check("runtime.mallocgc", (true, false));
        check("internal/runtime/maps.(*Map).getWithKey", (true, false));
        check("runtimeless.gcStart", (false, false));
        check("go.etcd.io/etcd/runtime.bgsweep", (false, false));
    }
}
