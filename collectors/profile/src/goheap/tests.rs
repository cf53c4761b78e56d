//! Stories of memory that holds buckets, and of memory that only looks like it.

use std::{cell::Cell, collections::BTreeMap, fs, path::Path, process::Command};

use super::{
    buckets::{Plan, read},
    layout::Layout,
    memory::Memory,
    process::entry,
    *,
};
use crate::symbols::file::ReadAt;

const HEAD: u64 = 0x50_0000;
const CYCLE: u64 = 0x50_0010;
const CODE: u64 = 0x40_0000;
/// Where buckets are; two chunks, as two processors have.
const CHUNKS: [u64; 2] = [0x7f00_0000_0000, 0x7f00_0100_0f00];

fn hash(stack: &[u64], size: u64) -> u64 {
    let mut hash = 0_u64;
    for word in stack.iter().chain([&size]) {
        hash = hash.wrapping_add(*word);
        hash = hash.wrapping_add(hash << 10);
        hash ^= hash >> 6;
    }
    hash = hash.wrapping_add(hash << 3);
    hash ^ hash >> 11
}

/// A process's memory, word by word; what is not there cannot be read.
#[derive(Clone, Default)]
struct Image {
    words: BTreeMap<u64, u64>,
    /// After so many reads, these words are there instead.
    later: Vec<(usize, u64, u64)>,
    reads: Cell<usize>,
}

impl ReadAt for Image {
    fn length(&self) -> io::Result<u64> {
        Ok(u64::MAX)
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<usize> {
        self.reads.set(self.reads.get() + 1);
        let page = offset & !0xfff;
        if self.words.range(page..page + 0x1000).next().is_none() {
            return Err(io::Error::from_raw_os_error(libc::EIO));
        }
        into.fill(0);
        let end = offset + u64::try_from(into.len()).unwrap();
        for (place, word) in self.words.range(offset..end) {
            let now = |change: &&(usize, u64, u64)| change.0 <= self.reads.get() && change.1 == *place;
            let word = self.later.iter().rev().find(now).map_or(*word, |change| change.2);
            let at = usize::try_from(place - offset).unwrap();
            let length = (into.len() - at).min(8);
            into[at..at + length].copy_from_slice(&word.to_le_bytes()[..length]);
        }
        Ok(into.len())
    }
}

/// `[published, cycle C, C + 1, C + 2]`, each allocations and frees.
type Counts = [(u64, u64); 4];

fn plan(count_words: usize) -> Plan {
    let layout = Layout { count_words, cycle_shift: 1, is_known: true };
    Plan { layout, head: HEAD, cycle: CYCLE, code: CODE..CODE + 0x10_0000 }
}

/// So many buckets, in cycle 7, of stacks of 1 to 40 addresses.
fn image(buckets: u64, count_words: usize, counts: impl Fn(u64) -> Counts) -> Image {
    let (cycle, mut image, mut newest, mut ends) = (7, Image::default(), 0, CHUNKS);
    for at in 0..buckets {
        let stack: Vec<u64> = (0..=at % 40).map(|depth| CODE + 1 + at * 64 + depth).collect();
        let size = 16 * (at + 1);
        let address = ends[usize::from(at % 5 == 0)];
        let header = [0, newest, 1, hash(&stack, size), size, u64::try_from(stack.len()).unwrap()];
        let mut of = counts(at);
        // The ring begins with cycles that are multiples of three.
        of[1..].rotate_right(usize::try_from(cycle % 3).unwrap());
        let of = of.into_iter().flat_map(|(allocs, frees)| [allocs, frees, allocs * size, frees * size]);
        let of = of.enumerate().filter(|(word, _)| word % 4 < count_words).map(|(_, word)| word);
        let words: Vec<u64> = header.into_iter().chain(stack).chain(of).collect();
        let mut place = address;
        for word in words {
            image.words.insert(place, word);
            place += 8;
        }
        ends[usize::from(at % 5 == 0)] = place;
        newest = address;
    }
    image.words.insert(HEAD, newest);
    image.words.insert(CYCLE, cycle << 1 | 1);
    image
}

/// At rest: nothing in this cycle.
fn rest(at: u64) -> Counts {
    [(at + 3, at % 3), (0, 0), (2, 1), (at % 2, 0)]
}

fn reading(image: &Image, count_words: usize) -> Result<Snapshot, HeapError> {
    read(&mut Memory::new(image.clone()), &plan(count_words), |_| ())
}

fn sums(snapshot: &Snapshot) -> (u64, u64, u64) {
    let buckets = snapshot.buckets.iter();
    buckets.fold((0, 0, 0), |(allocs, frees, bytes), bucket| {
        (allocs + bucket.allocs, frees + bucket.frees, bytes + bucket.allocs * bucket.size)
    })
}

#[test]
fn what_is_published_is_what_is_reported() {
    for count_words in [2, 4] {
        let found = reading(&image(100, count_words, rest), count_words).unwrap();
        let bytes = (0..100).map(|at| (at + 3) * 16 * (at + 1)).sum();
        assert_eq!(sums(&found), (99 * 50 + 300, 99, bytes));
        assert_eq!((found.buckets.len(), found.cycle, found.attempts), (100, 7, 1));
        // Newest first.
        assert_eq!(found.stack(&found.buckets[99]), [CODE + 1]);
        assert_eq!(found.stack(&found.buckets[0]).len(), 20);
    }
}

#[test]
fn before_anything_is_published_all_there_is_counts() {
    let found = reading(&image(10, 2, |_| [(0, 0), (0, 0), (2, 1), (5, 0)]), 2).unwrap();
    let (allocs, frees, _) = sums(&found);
    assert_eq!((allocs, frees), (70, 10));
}

#[test]
fn a_cycle_that_is_being_published_is_waited_for() {
    let mut image = image(10, 4, |at| [(5, 1), (u64::from(at == 9), 0), (0, 0), (0, 0)]);
    assert_eq!(reading(&image, 4).unwrap_err(), HeapError::Moving);
    // The newest bucket's, in the first place of the ring behind what is published: 7 is the second of three.
    let newest = image.words[&HEAD];
    let depth = image.words[&(newest + 40)];
    let active = newest + 48 + depth * 8;
    let (ring, size) = (active + 32 + 32, image.words[&(newest + 32)]);
    assert_eq!((image.words[&ring], image.words[&(ring + 16)]), (1, size));
    let reads = 30;
    for (place, word) in [(active, 6), (active + 16, 6 * size), (ring, 0), (ring + 16, 0)] {
        image.later.push((reads, place, word));
    }
    let found = reading(&image, 4).unwrap();
    assert!(found.attempts > 1);
    assert_eq!(sums(&found).0, 51);
    // In the middle of it, some words are new and some are old: that is nothing to report.
    for torn in 1..4 {
        let mut image = image.clone();
        image.later.truncate(torn);
        assert_eq!(reading(&image, 4).unwrap_err(), HeapError::Moving, "{torn}");
    }
}

#[test]
fn what_is_published_while_it_is_read_is_reported_as_a_whole_or_not_at_all() {
    let old = image(100, 4, rest);
    let new = image(100, 4, |at| [(at + 5, at % 3 + 1), (0, 0), (0, 0), (at % 2, 0)]);
    let [before, after] = [&old, &new].map(|image| sums(&reading(image, 4).unwrap()));
    let mut attempts = 0;
    for reads in 1..40 {
        let mut image = old.clone();
        let changed = new.words.iter().filter(|(place, word)| old.words[place] != **word);
        image.later.extend(changed.map(|(place, word)| (reads, *place, *word)));
        let found = reading(&image, 4).unwrap();
        assert!([before, after].contains(&sums(&found)), "{reads}");
        attempts += found.attempts;
    }
    assert!(attempts > 40, "it was never read in the middle of it");
}

#[test]
fn a_collection_that_ends_meanwhile_begins_it_anew() {
    let mut image = image(100, 4, rest);
    // The number of the cycle is read first and last; the rest is read in between.
    image.later.push((2, CYCLE, 10 << 1));
    let found = reading(&image, 4).unwrap();
    assert_eq!((found.attempts, found.cycle), (2, 10));
}

#[test]
fn what_cannot_be_is_not_reported() {
    let good = image(100, 4, rest);
    let newest = good.words[&HEAD];
    let check = |place: u64, word: u64, expected: HeapError| {
        let mut bad = good.clone();
        bad.words.insert(place, word);
        assert_eq!(reading(&bad, 4).unwrap_err(), expected, "{place:x} {word:x}");
    };
    check(HEAD, 0, HeapError::Empty);
    check(HEAD, newest + 4, HeapError::Damaged("the chain"));
    check(HEAD, 0x1234_5678, HeapError::NotThere);
    check(CYCLE, u64::from(u32::MAX), HeapError::Damaged("the number of the cycle"));
    // Another cycle's counts are not empty.
    check(CYCLE, 8 << 1 | 1, HeapError::Moving);
    check(newest + 8, newest, HeapError::Damaged("the chain"));
    check(newest + 16, 2, HeapError::Damaged("a bucket"));
    check(newest + 24, 1, HeapError::Damaged("a hash"));
    check(newest + 40, 1 << 40, HeapError::Damaged("a bucket"));
    check(newest + 48, CODE - 5, HeapError::Damaged("a hash"));
    // The wrong layout of the right memory.
    assert!(reading(&good, 2).is_err());
    assert!(reading(&image(100, 2, rest), 4).is_err());
}

#[test]
fn a_supposed_layout_is_held_against_the_spacing() {
    let supposed = |count_words| {
        let mut plan = plan(count_words);
        plan.layout.is_known = false;
        plan
    };
    let good = image(100, 2, rest);
    assert!(read(&mut Memory::new(good), &supposed(2), |_| ()).is_ok());
    // Four words whose second pair looks like counts that are yet to come.
    let wide = image(100, 4, |at| [(at + 2, 0), (0, 0), (0, 0), (0, 0)]);
    assert!(read(&mut Memory::new(wide), &supposed(2), |_| ()).is_err());
}

/// Any bit of it wrong: the same answer, where it is of no concern, or none. Never another, but where the count itself is
/// what is wrong and has no other to be held against.
#[test]
fn one_wrong_bit_is_noticed() {
    let good = image(12, 4, rest);
    let expected = sums(&reading(&good, 4).unwrap());
    let mut refused = 0;
    for place in good.words.keys() {
        for bit in (0..64).step_by(3) {
            let mut bad = good.clone();
            *bad.words.get_mut(place).unwrap() ^= 1 << bit;
            match reading(&bad, 4) {
                Ok(found) if *place != HEAD => assert_eq!(sums(&found), expected, "{place:x} {bit}"),
                Ok(found) => assert!(found.buckets.len() < 12),
                Err(_) => refused += 1,
            }
        }
    }
    assert!(refused > 3_000, "{refused}");
}

#[test]
fn whatever_is_there_is_read_within_bounds() {
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = |below: u64| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed % below
    };
    let good = image(30, 4, rest);
    let places: Vec<u64> = good.words.keys().copied().collect();
    for _ in 0..500 {
        let mut bad = good.clone();
        for _ in 0..=random(4) {
            let place = places[usize::try_from(random(u64::try_from(places.len()).unwrap())).unwrap()];
            let word = match random(3) {
                0 => places[usize::try_from(random(u64::try_from(places.len()).unwrap())).unwrap()],
                1 => random(1_030),
                _ => random(u64::MAX),
            };
            bad.words.insert(place, word);
        }
        for count_words in [2, 4] {
            let mut memory = Memory::new(bad.clone());
            let mut plan = plan(count_words);
            plan.layout.is_known = false;
            if let Ok(found) = read(&mut memory, &plan, |_| ()) {
                assert!(found.buckets.iter().all(|bucket| bucket.frees <= bucket.allocs));
            }
            assert!(memory.bytes_read() <= 129 << 20);
        }
    }
}

#[test]
fn values_are_scaled_as_go_scales_them() {
    // By Go: scaleHeapSample(count, count * size, rate).
    assert_eq!(scale(1, 16, 524_288), (32_768, 524_296));
    assert_eq!(scale(3, 600_000, 524_288), (4, 2_640_891));
    assert_eq!(scale(7, 100, 1), (7, 700));
    assert_eq!(scale(0, 100, 524_288), (0, 0));
}

#[test]
fn a_page_that_never_comes_is_not_waited_for() {
    let (sender, receiver) = mpsc::channel::<()>();
    let stuck = within(Duration::from_millis(50), move || Ok(receiver.recv().is_ok()));
    assert_eq!(stuck, Err(HeapError::Stalled));
    assert_eq!(within(Duration::from_secs(5), || Ok(5)), Ok(5));
    drop(sender);
}

#[test]
fn the_kernel_says_where_the_program_begins() {
    let auxiliary: Vec<u8> =
        [6_u64, 4_096, 9, 0x40_1000, 0, 0].into_iter().flat_map(u64::to_le_bytes).collect();
    assert_eq!(entry(&auxiliary), Some(0x40_1000));
    assert_eq!(entry(&auxiliary[..31]), None);
}

/// `go tool nm` of a program that still has its symbols.
fn symbols_of(program: &Path) -> HashMap<String, u64> {
    let output = go().args(["tool", "nm"]).arg(program).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let mut symbols = HashMap::new();
    for line in text.lines() {
        let mut fields = line.split_whitespace();
        if let (Some(address), Some(_), Some(name)) = (fields.next(), fields.next(), fields.next()) {
            symbols.insert(name.to_owned(), u64::from_str_radix(address, 16).unwrap_or(0));
        }
    }
    symbols
}

fn go() -> Command {
    let ours = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.tools/go/bin/go");
    let mut command = Command::new(if ours.exists() { ours.as_os_str() } else { "go".as_ref() });
    command.env("GOTOOLCHAIN", "local").env("GOENV", "off").env("GOWORK", "off").env_remove("GOFLAGS");
    command
}

#[test]
fn each_processors_code_says_where_things_are() {
    for processor in ["amd64", "arm64"] {
        let program = std::env::temp_dir().join(format!("heap-{processor}-{}", std::process::id()));
        let status = go()
            .args(["build", "-o"])
            .arg(&program)
            .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/heap"))
            .envs([("GOARCH", processor), ("CGO_ENABLED", "0")])
            .status();
        assert!(status.expect("no Go: `make tools` brings one where there is none").success());
        let known = symbols_of(&program);
        let found = places::find(&mut crate::symbols::gopclntab::open(&program).unwrap());
        fs::remove_file(&program).unwrap();
        let expected = places::Places {
            head: known["runtime.mbuckets"],
            cycle: known["runtime.mProfCycle"],
            rate: Some(known["runtime.MemProfileRate"]),
        };
        assert_eq!(found, Ok(expected), "{processor}");
    }
}
