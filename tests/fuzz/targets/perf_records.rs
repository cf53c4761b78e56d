//! What the kernel writes into rings and into /proc, as if it had written these bytes: read, put in order, and told of
//! processes and stacks.
#![no_main]

use std::cell::Cell;

use libfuzzer_sys::fuzz_target;
use profile::perf::cgroup::Cgroup;
use profile::perf::maps;
use profile::perf::modules::MAPPINGS_MAX;
use profile::perf::processes::{PROCESSES_MAX, Processes};
use profile::perf::record::{Beside, Layout, Record, decode};
use profile::perf::ring::{Memory, Merge, Ring};
use profile::perf::session::Seen;
use profile::perf::stacks::Stacks;

/// Two rings share the input; a small one makes records lie around its end.
const RING_BYTES: usize = 1024;

struct Bytes {
    bytes: [u8; RING_BYTES],
    head: u64,
    tail: Cell<u64>,
}

impl Memory for Bytes {
    fn head(&self) -> u64 {
        self.head
    }
    fn release(&self, tail: u64) {
        assert!(
            tail <= self.head || self.head < self.tail.get(),
            "nothing is given back that was not written"
        );
        self.tail.set(tail);
    }
    fn bytes(&self) -> usize {
        RING_BYTES
    }
    fn copy(&self, at: usize, into: &mut [u8]) {
        into.copy_from_slice(&self.bytes[at..at + into.len()]);
    }
    fn show(&self, at: usize, length: usize, to: &mut dyn FnMut(&[u8])) {
        to(&self.bytes[at..at + length]);
    }
}

fn ring(data: &[u8]) -> Ring<Bytes> {
    let mut bytes = [0; RING_BYTES];
    let length = data.len().min(RING_BYTES);
    bytes[..length].copy_from_slice(&data[..length]);
    // Now and then the kernel's position makes no sense either.
    let head = if data.first() == Some(&255) { u64::MAX } else { u64::try_from(length).unwrap() };
    Ring::new(Bytes { bytes, head, tail: Cell::new(0) })
}

fn text(data: &[u8]) {
    for line in data.split(|byte| *byte == b'\n') {
        if let Some(mapping) = maps::mapping(1, line) {
            assert!(mapping.start.checked_add(mapping.length).is_some());
        }
    }
    if let Some(cgroup) = Cgroup::of_process(&String::from_utf8_lossy(data)) {
        assert!(cgroup.container.is_none_or(|container| container.id.len() == 64));
    }
}

fuzz_target!(|data: &[u8]| {
    let (first, second) = data.split_at(data.len().min(RING_BYTES));
    let mut rings = [ring(first), ring(second)];
    let beside = [Beside::Nothing, Beside::Tracepoint, Beside::Stint][data.len() % 3];
    let layout = Layout { registers: 3, has_cgroup: data.len() % 2 == 0, beside };
    let (mut processes, mut stacks) = (Processes::default(), Stacks::default());
    let (mut merge, mut newest_ns) = (Merge::default(), 0);
    for until_ns in [1 << 20, u64::MAX] {
        merge.drain(&mut rings, until_ns, |bytes| {
            let Some((meta, record)) = decode(bytes, &layout) else { return };
            newest_ns = newest_ns.max(meta.time_ns);
            processes.apply(&meta, &record);
            if let Record::Sample(sample) = record {
                assert!(8 * (sample.kernel.len() + sample.user.len()) + sample.stack.len() <= bytes.len());
                let process = processes.get(meta.pid);
                let cgroup = process.and_then(|process| process.cgroup.as_ref());
                stacks.add(&Seen { meta, sample, process, cgroup, is_truncated: false, wait: None });
            }
        });
    }
    assert!(processes.len() <= PROCESSES_MAX);
    let seen = stacks.iter().map(|stack| stack.count).sum::<u64>() + stacks.overflow();
    assert!(seen <= 2 * u64::try_from(RING_BYTES).unwrap());
    processes.expire(newest_ns);
    processes.end_unless(newest_ns, |_| false);
    processes.expire(u64::MAX);
    assert!(processes.is_empty() && processes.bytes() == 0 && MAPPINGS_MAX > 0);
    text(data);
});
