//! Windows to write, and the check that what is read is one of them.

use std::time::Duration;

use model::profile::{Frame, Function, Losses, Owner, ProfileKind, StackSample, Stacks};
use model::time::{SECOND_NS, Stamp};
use profile::history::reader::Reader;
use profile::history::selection::{Filter, Range, Selection};
use profile::history::{Boot, Limits, Window};

pub(crate) const ALL: Range = Range::Windows { first: 0, last: u64::MAX };
pub(crate) const BOOT: Boot = Boot([1; 16]);
/// Nanoseconds a sample.
const PERIOD: i64 = 52_631_578;

/// Each window a block, and as much of the disk as there is.
pub(crate) fn limits() -> Limits {
    Limits { group: Duration::from_secs(10), free_percent: 0, free_bytes_min: 0, ..Limits::default() }
}

/// The window with this number: which stacks it has follows from that.
pub(crate) fn window(number: u64) -> Window {
    let small = u32::try_from(number % 97).unwrap();
    let name = |at: u32| format!("go.etcd.io/etcd/server/v3/mvcc.(*store).function{at}");
    let function =
        |at| Function { name: name(at), file: "server/mvcc/kvstore.go".into(), start_line: at.into() };
    let frame = |at| Frame {
        function: at,
        mapping: u32::MAX,
        address: 0x40_0000 + u64::from(at),
        ..Frame::default()
    };
    let sample = |at: u32| {
        let count = i64::from(at % 7 + small + 1);
        StackSample { frames: (at..at + 5).collect(), value: count * PERIOD, count, owner: at % 2 }
    };
    let owner = |pid| Owner { pid, process: "etcd".into(), thread: "etcd".into(), ..Owner::default() };
    Window {
        stacks: Stacks {
            kind: ProfileKind::Cpu,
            at: Stamp {
                mono_ns: number * 10 * SECOND_NS,
                wall_ns: (1_790_000_000 + number * 10) * SECOND_NS,
            },
            duration_ns: 10 * SECOND_NS,
            period: PERIOD.unsigned_abs(),
            mappings: Vec::new(),
            functions: (0..110).map(function).collect(),
            frames: (0..110).map(frame).collect(),
            owners: vec![owner(100), owner(101)],
            samples: (0..small + 3).map(sample).collect(),
            losses: Losses::default(),
            pprof: Vec::new(),
        },
        lost: number,
    }
}

/// Numbers of the windows that come back; each is checked to be the one that was written.
pub(crate) fn numbers(selection: &Selection) -> Vec<u64> {
    let number = |part: &profile::history::selection::Part| {
        let number = part.window.at.mono_ns / (10 * SECOND_NS);
        let written = window(number);
        let mut read: Vec<StackSample> = part.shares.iter().map(|share| read(selection, *share)).collect();
        let mut expected = written.stacks.samples;
        read.sort_by_key(|sample| (sample.frames.clone(), sample.owner));
        expected.sort_by_key(|sample| (sample.frames.clone(), sample.owner));
        assert_eq!((read, part.lost), (expected, number));
        number
    };
    selection.parts.iter().map(number).collect()
}

/// In the numbers of [`window`]: function and frame have the same, owners are told by their pid.
fn read(selection: &Selection, share: profile::history::selection::Share) -> StackSample {
    let at = |at: u32| usize::try_from(at).unwrap();
    let stacks = &selection.stacks;
    let sample = &stacks.samples[at(share.sample)];
    let number = |frame: &u32| {
        let name = &stacks.functions[at(stacks.frames[at(*frame)].function)].name;
        name.rsplit_once("function").unwrap().1.parse().unwrap()
    };
    let owner = stacks.owners[at(sample.owner)].pid - 100;
    StackSample {
        frames: sample.frames.iter().map(number).collect(),
        value: share.value,
        count: share.count,
        owner,
    }
}

pub(crate) fn all(reader: &Reader) -> Selection {
    reader.select(ALL, &Filter::default())
}
