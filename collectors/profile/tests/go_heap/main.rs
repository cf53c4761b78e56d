//! What is read of a heap from outside, held against what the program itself says of it, to the digit.
//!
//! A pair counts when no collection ended between the beginning of Go's answer before the reading and that of the one
//! after it: both then speak of one moment. `GO_HEAP_VERSIONS="1.16.15 1.27.3"` adds versions of Go, which the go command
//! fetches: the whole matrix. Use `--release` for the CPU times, and `--nocapture` for the table.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "clippy sees only #[test] functions as tests, not what they share"
)]

mod pairs;
mod program;
mod told;
#[path = "../shared/toolchain.rs"]
mod toolchain;

use std::{env, os::unix::fs::FileExt, thread, time::Duration};

use model::{profile::ProfileKind, time::Stamp};
use profile::goheap::{self, HeapError, Rate};

use pairs::{Pairs, agree};
use program::{Build, Etcd, Program};

/// Pairs that have to be equal, of each program.
const WANTED: u32 = 20;

/// All ways of linking, of the Go at hand and of those asked for.
fn builds() -> Vec<Build> {
    let asked = env::var("GO_HEAP_VERSIONS").unwrap_or_default();
    let versions = asked.split_whitespace().map(|version| Some(version.to_owned()));
    let mut builds = Vec::new();
    for version in std::iter::once(None).chain(versions) {
        for (is_pie, has_c) in [(false, false), (true, false), (false, true), (true, true)] {
            builds.push(Build { version: version.clone(), is_pie, has_c });
        }
    }
    builds
}

#[test]
fn each_reading_is_what_the_program_says_itself() {
    println!("{}", Pairs::HEAD);
    for build in builds() {
        let program = Program::start(&build, &[("HEAP_WORKERS", "4")]);
        let pairs = agree(program.pid(), program.port, "/debug/pprof/heap", WANTED);
        println!("{:24} {pairs}", build.to_string());
        pairs.check(&build.to_string());
    }
}

#[test]
fn each_etcd_says_what_is_read_of_it() {
    println!("{}", Pairs::HEAD);
    for version in ["3.4", "3.5", "3.6", "3.7"] {
        let etcd = Etcd::start(version);
        let pairs = agree(etcd.pid(), etcd.port, "/debug/pprof/heap", WANTED);
        println!("{:24} {pairs}", format!("etcd {version}"));
        pairs.check(version);
    }
}

#[test]
fn before_the_first_collection_everything_is_reported() {
    for build in builds().into_iter().filter(|build| !build.is_pie && !build.has_c) {
        let program = Program::start(&build, &[("GOGC", "off"), ("HEAP_RATE", "512"), ("HEAP_WORKERS", "1")]);
        thread::sleep(Duration::from_millis(200));
        let reading = goheap::read(program.pid(), Stamp::default()).unwrap();
        assert_eq!((reading.cycle, reading.rate), (0, Rate::Read(512)));
        let totals = reading.totals();
        assert!(totals.alloc_objects > 100 && totals.inuse_objects == totals.alloc_objects, "{totals:?}");
    }
}

#[test]
fn what_was_allocated_in_between_is_a_difference() {
    let build = Build { version: None, is_pie: false, has_c: false };
    let program = Program::start(&build, &[("HEAP_WORKERS", "4")]);
    let at = |mono_ns| Stamp { mono_ns, wall_ns: 0 };
    let settle = || thread::sleep(Duration::from_secs(2));
    settle();
    let before = goheap::read(program.pid(), at(5)).unwrap();
    settle();
    let after = goheap::read(program.pid(), at(9)).unwrap();
    let more = after.since(&before).unwrap();
    assert_eq!((more.kind, more.at, more.duration_ns), (ProfileKind::Alloc, at(5), 4));
    assert!(after.cycle > before.cycle, "there was no collection");
    let sum: i64 = more.samples.iter().map(|sample| sample.value).sum();
    let sampled = after.totals().alloc_bytes - before.totals().alloc_bytes;
    assert!(sampled > 0 && u64::try_from(sum).unwrap() >= sampled, "{sum} {sampled}");
    assert_eq!(after.since(&after).unwrap().samples, []);
    assert_eq!(before.since(&after).unwrap_err(), HeapError::OtherProcess);
    let other = Program::start(&build, &[("HEAP_WORKERS", "4")]);
    settle();
    let other = goheap::read(other.pid(), at(9)).unwrap();
    assert_eq!(other.since(&before).unwrap_err(), HeapError::OtherProcess);
}

#[test]
fn what_has_no_profile_says_why() {
    assert_eq!(goheap::read(u32::MAX, Stamp::default()).unwrap_err(), HeapError::Gone);
    // This test is no Go program.
    assert!(matches!(goheap::read(std::process::id(), Stamp::default()), Err(HeapError::Go(_))));
    let build = Build { version: None, is_pie: false, has_c: false };
    let program = Program::start(&build, &[("HEAP_RATE", "0"), ("HEAP_WORKERS", "4")]);
    thread::sleep(Duration::from_millis(100));
    assert_eq!(goheap::read(program.pid(), Stamp::default()).unwrap_err(), HeapError::Off);
}

#[test]
fn a_profile_that_was_tampered_with_is_none() {
    let build = Build { version: None, is_pie: false, has_c: false };
    let program = Program::start(&build, &[("HEAP_WORKERS", "1")]);
    thread::sleep(Duration::from_secs(1));
    let reading = goheap::read(program.pid(), Stamp::default()).unwrap();
    let stack: Vec<u64> = reading.sites().map(|site| site.stack.to_vec()).max_by_key(Vec::len).unwrap();
    // A bucket is found by its stack with the number of its words before it: the words alone also stand where the
    // runtime takes stacks.
    let memory =
        std::fs::File::options().read(true).write(true).open(format!("/proc/{}/mem", program.pid())).unwrap();
    let maps = std::fs::read_to_string(format!("/proc/{}/maps", program.pid())).unwrap();
    let depth = u64::try_from(stack.len()).unwrap();
    let wanted: Vec<u8> = std::iter::once(&depth).chain(&stack).flat_map(|word| word.to_le_bytes()).collect();
    let mut found = None;
    for line in maps.lines().filter(|line| line.contains("rw-p")) {
        let (start, rest) = line.split_once('-').unwrap();
        let end = rest.split(' ').next().unwrap();
        let (start, end) = (u64::from_str_radix(start, 16).unwrap(), u64::from_str_radix(end, 16).unwrap());
        let mut bytes = vec![0; usize::try_from(end - start).unwrap()];
        let Ok(read) = memory.read_at(&mut bytes, start) else { continue };
        let at = bytes[..read].windows(wanted.len()).position(|window| window == wanted);
        if let Some(at) = at.filter(|_| found.is_none()) {
            found = Some(start + u64::try_from(at + size_of_val(&depth)).unwrap());
        }
    }
    let place = found.expect("the bucket is somewhere");
    memory.write_at(&(stack[0] + 1).to_le_bytes(), place).unwrap();
    assert_eq!(goheap::read(program.pid(), Stamp::default()).unwrap_err(), HeapError::Damaged("a hash"));
    memory.write_at(&stack[0].to_le_bytes(), place).unwrap();
    assert!(goheap::read(program.pid(), Stamp::default()).is_ok());
}
