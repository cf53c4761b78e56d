//! Stories of the ring: what is written is read again, damage is counted and nothing is made up, bounds hold for days.

use std::collections::BTreeMap;
use std::fs;
use std::hash::{BuildHasher, RandomState};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use model::profile::{
    Baseline, Frame, FrameKind, Function, Losses, Mapping, Owner, ProfileKind, StackSample, Stacks,
};
use model::time::{SECOND_NS, Stamp};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::account::Trouble;
use super::reader::{ReadError, Reader};
use super::selection::{Filter, GapKind, Range, Selection};
use super::writer::{OpenError, Writer};
use super::{Boot, Limits, Window};

const ALL: Range = Range::Windows { first: 0, last: u64::MAX };
const BOOT: Boot = Boot([7; 16]);
/// The wall when the monotonic clock began: some day in 2026.
const WALL_NS: u64 = 1_790_000_000 * SECOND_NS;

fn at(seconds: u64) -> Stamp {
    Stamp { mono_ns: 0, wall_ns: WALL_NS }.plus_ns(seconds * SECOND_NS)
}

/// A file system that is nearly full is not what these are about.
fn limits() -> Limits {
    Limits { free_percent: 0, free_bytes_min: 0, ..Limits::default() }
}

/// Each window is a block of its own.
fn singly() -> Limits {
    Limits { group: Duration::from_secs(10), ..limits() }
}

/// A frame with all that belongs to it, and an owner: what numbers stand for.
type Place = ((String, String, i64), Option<([String; 4], [u64; 3])>, u64, i64, bool, FrameKind);
type Content = BTreeMap<(Option<Owner>, Vec<Place>), (i64, i64)>;

fn get<T>(list: &[T], at: u32) -> Option<&T> {
    list.get(usize::try_from(at).unwrap())
}

/// What a profile says, whatever its numbers are. A reference to nothing is left out, as everywhere.
fn content(stacks: &Stacks, samples: &[(StackSample, i64, i64)]) -> Content {
    let cut = |text: &str| super::dictionary::cut(text).to_owned();
    let place = |at: &u32| {
        let frame = get(&stacks.frames, *at)?;
        let function = get(&stacks.functions, frame.function)?;
        let mapping = get(&stacks.mappings, frame.mapping).map(|mapping| {
            let numbers = [mapping.start, mapping.end, mapping.offset];
            let texts = [&mapping.path, &mapping.build_id, &mapping.go_build_id, &mapping.htlhash];
            (texts.map(String::clone), numbers)
        });
        let function = (cut(&function.name), cut(&function.file), function.start_line);
        Some((function, mapping, frame.address, frame.line, frame.inlined, frame.kind))
    };
    let mut content = Content::new();
    for (sample, value, count) in samples {
        let path = sample.frames.iter().filter_map(place).collect();
        let sum = content.entry((get(&stacks.owners, sample.owner).cloned(), path)).or_default();
        *sum = (sum.0.saturating_add(*value), sum.1.saturating_add(*count));
    }
    content
}

fn of_window(window: &Window) -> Content {
    let samples: Vec<_> =
        window.stacks.samples.iter().map(|sample| (sample.clone(), sample.value, sample.count)).collect();
    content(&window.stacks, &samples)
}

fn of_part(selection: &Selection, part: usize) -> Content {
    let shares = &selection.parts[part].shares;
    let sample = |share: &super::selection::Share| {
        (get(&selection.stacks.samples, share.sample).unwrap().clone(), share.value, share.count)
    };
    content(&selection.stacks, &shares.iter().map(sample).collect::<Vec<_>>())
}

fn function(name: &str) -> Function {
    Function { name: name.to_owned(), file: format!("{name}.go"), start_line: 7 }
}

fn owner(process: &str, pid: u32) -> Owner {
    Owner { pid, process: process.to_owned(), thread: process.to_owned(), ..Owner::default() }
}

/// Two processes, three stacks; `second` in the counts, so that no two windows are equal.
fn window(second: u64) -> Window {
    let frame = |function, address| Frame { function, mapping: 0, address, line: 3, ..Frame::default() };
    let sample = |frames: &[u32], count: i64, owner| StackSample {
        frames: frames.to_vec(),
        value: count * 10_000_000,
        count,
        owner,
    };
    let grown = i64::try_from(second).unwrap();
    let container = "c".repeat(64);
    Window {
        stacks: Stacks {
            kind: ProfileKind::Cpu,
            at: at(second),
            duration_ns: 10 * SECOND_NS,
            period: 10_000_000,
            mappings: vec![Mapping { path: "/usr/bin/etcd".into(), end: 0x1000, ..Mapping::default() }],
            functions: vec![
                function("main.main"),
                function("main.put"),
                function(&format!("f{}", second % 50)),
            ],
            frames: vec![frame(0, 0x10), frame(1, 0x20), frame(2, 0x30)],
            owners: vec![owner("etcd", 10), Owner { container, ..owner("backup", 11) }],
            samples: vec![sample(&[1, 0], 1 + grown, 0), sample(&[2, 1, 0], 5, 0), sample(&[2], 2, 1)],
            losses: Losses::default(),
            pprof: Vec::new(),
        },
        lost: second % 3,
    }
}

fn write(path: &Path, limits: Limits, seconds: impl IntoIterator<Item = u64>) {
    let mut writer = Writer::open(path, limits, BOOT).unwrap();
    for second in seconds {
        writer.append(&window(second));
    }
    writer.flush();
    assert_eq!((writer.trouble(), writer.account().losses().iter().map(|(_, n)| n).sum::<u64>()), (None, 0));
}

fn segments(path: &Path) -> Vec<PathBuf> {
    let names = fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path());
    let mut names: Vec<PathBuf> =
        names.filter(|path| path.extension().is_some_and(|end| end == "ring")).collect();
    names.sort();
    names
}

/// Seconds at which the windows of a selection began.
fn seconds(selection: &Selection) -> Vec<u64> {
    selection.parts.iter().map(|part| part.window.at.mono_ns / SECOND_NS).collect()
}

// ---- what is written is read

fn texts() -> impl Strategy<Value = String> {
    prop_oneof![3 => "[a-c]{0,2}", 1 => ".{0,12}", 1 => Just("ž".repeat(3_000))]
}

prop_compose! {
    fn owners()(pid in 0..9_u32, texts in prop::array::uniform5("[a-c]{0,2}"), cpu in prop::option::of(0..3_u32)) -> Owner {
        let [process, thread, container, pod, namespace] = texts;
        Owner { pid, process, thread, container, pod, namespace, cpu }
    }
}

prop_compose! {
    fn frames()(function in 0..9_u32, mapping in prop_oneof![0..4_u32, Just(u32::MAX)], address in any::<u64>(), line in any::<i64>(), inlined in any::<bool>(), kind in prop_oneof![Just(FrameKind::Unknown), Just(FrameKind::Native), Just(FrameKind::Go), Just(FrameKind::Kernel)]) -> Frame {
        Frame { function, mapping, address, line, inlined, kind }
    }
}

prop_compose! {
    fn samples()(frames in prop::collection::vec(0..12_u32, 0..6), value in -(1_i64 << 57)..1 << 57, count in prop_oneof![0..100_i64, -(1_i64 << 57)..1 << 57], owner in prop_oneof![0..5_u32, Just(u32::MAX)]) -> StackSample {
        StackSample { frames, value, count, owner }
    }
}

prop_compose! {
    fn mappings()(path in "[a-c]{0,2}", build_id in "[0-9a-f]{0,4}", go_build_id in "[a-c]{0,2}", htlhash in "[0-9a-f]{0,3}", start in any::<u64>(), end in any::<u64>(), offset in any::<u64>()) -> Mapping {
        Mapping { path, build_id, go_build_id, htlhash, start, end, offset }
    }
}

prop_compose! {
    fn windows()(
        mappings in prop::collection::vec(mappings(), 0..4),
        functions in prop::collection::vec((texts(), texts(), any::<i64>()), 0..9),
        frames in prop::collection::vec(frames(), 0..12),
        owners in prop::collection::vec(owners(), 0..5),
        samples in prop::collection::vec(samples(), 0..20),
        period in any::<u64>(),
        lost in any::<u64>(),
    ) -> Window {
        let functions = functions.into_iter().map(|(name, file, start_line)| Function { name, file, start_line }).collect();
        let stacks = Stacks {
            kind: ProfileKind::Cpu, at: at(0), duration_ns: 10 * SECOND_NS, period,
            mappings, functions, frames, owners, samples, losses: Losses::default(), pprof: Vec::new(),
        };
        Window { stacks, lost }
    }
}

#[test]
fn what_is_written_is_what_is_read() {
    let mut runner = TestRunner::new(Config { cases: 200, failure_persistence: None, ..Config::default() });
    let strategy = (prop::collection::vec(windows(), 1..12), 1..7_u64, any::<bool>());
    let story = |(mut windows, group, is_flushed): (Vec<Window>, u64, bool)| {
        let dir = tempfile::tempdir().unwrap();
        let limits = Limits { group: Duration::from_secs(10 * group), ..limits() };
        let mut writer = Writer::open(dir.path(), limits, BOOT).unwrap();
        for (second, window) in (0..).step_by(10).zip(&mut windows) {
            window.stacks.at = at(second);
            writer.append(window);
        }
        // What is on disk, and what the same process has in memory besides, are the same to a reader.
        let unwritten = if is_flushed {
            writer.flush();
            Vec::new()
        } else {
            writer.unwritten()
        };
        let reader = Reader::open_with(dir.path(), unwritten).unwrap();
        let selection = reader.select(ALL, &Filter::default());
        prop_assert_eq!(selection.parts.len(), windows.len());
        prop_assert_eq!(selection.loss, super::selection::Loss::default());
        for (place, window) in windows.iter().enumerate() {
            let part = &selection.parts[place];
            prop_assert_eq!((part.period, part.lost, part.left_out), (window.stacks.period, window.lost, 0));
            prop_assert_eq!((part.window.at, part.window.duration_ns), (window.stacks.at, 10 * SECOND_NS));
            prop_assert_eq!(of_part(&selection, place), of_window(window));
        }
        Ok(())
    };
    runner.run(&strategy, story).unwrap();
}

#[test]
fn the_whole_is_the_sum_of_its_windows() {
    let dir = tempfile::tempdir().unwrap();
    // Two runs, so two segments with numbers of their own.
    write(dir.path(), limits(), (0..100).step_by(10));
    write(dir.path(), limits(), (100..200).step_by(10));
    let selection = Reader::open(dir.path()).unwrap().select(ALL, &Filter::default());
    assert_eq!((segments(dir.path()).len(), selection.parts.len()), (2, 20));
    let count: i64 = selection.stacks.samples.iter().map(|sample| sample.count).sum();
    let expected: i64 = (0..20).map(|at| 1 + 10 * at + 5 + 2).sum();
    assert_eq!(
        (count, selection.stacks.duration_ns, selection.stacks.period),
        (expected, 200 * SECOND_NS, 10_000_000)
    );
    // One stack of main.put for all; one with and one without it for each of the five third functions.
    assert_eq!((selection.stacks.samples.len(), selection.stacks.functions.len()), (11, 7));
    let counts = selection.counts();
    let whole = crate::counts::of(&selection.stacks);
    let own = |counts: &model::profile::FunctionCounts| {
        counts
            .functions
            .iter()
            .find(|function| function.name == "main.put")
            .map(|put| (put.own, put.total))
            .unwrap()
    };
    let sums = counts.iter().map(own).fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
    assert_eq!((counts.len(), sums), (20, own(&whole)));
    assert_eq!(
        (counts[3].samples, counts[3].duration_ns, counts[3].period),
        (38, 10 * SECOND_NS, 10_000_000)
    );
}

#[test]
fn a_filter_takes_one_process_or_container() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), limits(), (0..60).step_by(10));
    let reader = Reader::open(dir.path()).unwrap();
    let check = |filter: &Filter, expected: &[&str]| {
        let selection = reader.select(ALL, filter);
        let owners: Vec<&str> = selection.stacks.owners.iter().map(|owner| owner.process.as_str()).collect();
        assert_eq!(owners, expected, "{filter:?}");
        // Windows without its samples are windows all the same: zero is a share too.
        assert_eq!(selection.parts.len(), 6);
    };
    check(&Filter { process: Some("etcd".into()), ..Filter::default() }, &["etcd"]);
    check(&Filter { pids: vec![11], ..Filter::default() }, &["backup"]);
    check(&Filter { container: Some("c".repeat(12)), ..Filter::default() }, &["backup"]);
    check(&Filter { container: Some("c".repeat(11)), ..Filter::default() }, &[]);
    check(&Filter { process: Some("etcd".into()), pids: vec![11], ..Filter::default() }, &[]);
}

#[test]
fn who_came_later_used_nothing_before_only_for_want_of_being_there() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = Writer::open(dir.path(), limits(), BOOT).unwrap();
    for second in (0..60).step_by(10) {
        let mut window = window(second);
        // It runs in the third and the fifth window.
        if ![20, 40].contains(&second) {
            window.stacks.samples.retain(|sample| sample.owner != 1);
        }
        writer.append(&window);
    }
    writer.flush();
    let reader = Reader::open(dir.path()).unwrap();
    let seen = |pid| reader.select(ALL, &Filter { pids: vec![pid], ..Filter::default() }).while_seen();
    let backup = seen(11);
    assert_eq!(seconds(&backup), [20, 30, 40]);
    assert_eq!((backup.stacks.at, backup.stacks.duration_ns), (at(20), 30 * SECOND_NS));
    assert_eq!(backup.joined().unwrap().duration_ns, 30 * SECOND_NS);
    assert_eq!(seconds(&seen(10)).len(), 6);
    assert_eq!(seconds(&seen(12)).len(), 6, "nobody was seen: nothing says since when he was not there");
}

// ---- damage

/// Reads a file of which something was changed: what comes back was written, from the first window on, and what is missing
/// is told.
fn check_damaged(bytes: &[u8], written: &[Content], how: &str) {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("0000000001.ring"), bytes).unwrap();
    let reader = match Reader::open(dir.path()) {
        Ok(reader) => reader,
        Err(ReadError::Version { .. }) => return,
        Err(error) => panic!("{how}: {error}"),
    };
    let selection = reader.select(ALL, &Filter::default());
    for (place, (part, written)) in selection.parts.iter().zip(written).enumerate() {
        let number = u64::try_from(place).unwrap();
        assert_eq!((part.window.sequence & 0xffff, part.window.at), (number, at(number * 10)), "{how}");
        assert_eq!(of_part(&selection, place), *written, "{how}");
    }
    assert!(selection.parts.len() <= written.len(), "{how}");
    let loss = selection.loss;
    let listed = reader.windows().len();
    assert_eq!(u64::try_from(listed - selection.parts.len()).unwrap(), loss.lost_windows, "{how}");
    let is_told = loss.lost_windows + loss.torn_bytes + loss.unreadable_segments > 0;
    let is_whole = selection.parts.len() == written.len();
    // A file cut between two blocks is a shorter file.
    let is_cut = how.starts_with("cut");
    assert!(is_told || is_whole || is_cut, "{how}: {} of {}", selection.parts.len(), written.len());
}

#[test]
fn no_cut_and_no_flipped_bit_makes_anything_up() {
    let dir = tempfile::tempdir().unwrap();
    let times: Vec<u64> = (0..80).step_by(10).collect();
    write(dir.path(), singly(), times.clone());
    let written: Vec<Content> = times.iter().map(|second| of_window(&window(*second))).collect();
    let bytes = fs::read(dir.path().join("0000000001.ring")).unwrap();
    check_damaged(&bytes, &written, "whole");
    for at in 0..bytes.len() {
        check_damaged(&bytes[..at], &written, &format!("cut at {at}"));
        let mut flipped = bytes.clone();
        flipped[at] ^= 1 << (at % 8);
        check_damaged(&flipped, &written, &format!("flipped at {at}"));
    }
}

#[test]
fn a_block_of_another_segment_is_not_taken_for_ones_own() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    write(one.path(), singly(), [0, 10, 20]);
    write(two.path(), singly(), [0, 10, 20]);
    let read = |dir: &tempfile::TempDir| fs::read(dir.path().join("0000000001.ring")).unwrap();
    let (mut bytes, other) = (read(&one), read(&two));
    assert_eq!(bytes.len(), other.len());
    // The segment's header is another, the blocks fit in every other way.
    bytes[64..].copy_from_slice(&other[64..]);
    fs::write(one.path().join("0000000001.ring"), bytes).unwrap();
    let reader = Reader::open(one.path()).unwrap();
    assert!(reader.windows().is_empty() && reader.loss().torn_bytes > 0);
}

#[test]
fn another_version_is_refused_and_named() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), limits(), [0]);
    let path = dir.path().join("0000000001.ring");
    let mut bytes = fs::read(&path).unwrap();
    bytes[8] = 2;
    fs::write(&path, bytes).unwrap();
    let error = Reader::open(dir.path()).unwrap_err();
    let text = error.to_string();
    assert!(text.contains("has format 2, this agent reads 1"), "{text}");
    // Beside segments that can be read it is counted.
    write(dir.path(), limits(), [100]);
    let reader = Reader::open(dir.path()).unwrap();
    assert_eq!((reader.windows().len(), reader.loss().other_versions), (1, 1));
}

#[test]
fn a_directory_that_is_not_there_has_no_windows() {
    let dir = tempfile::tempdir().unwrap();
    let reader = Reader::open(&dir.path().join("missing")).unwrap();
    assert_eq!((reader.windows().len(), reader.last(1)), (0, None));
    assert_eq!(reader.choose_baseline(at(0), BOOT, None).label, Baseline::Missing);
}

// ---- writer and files

#[test]
fn files_are_for_their_owner_only() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state/history");
    write(&path, limits(), [0]);
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&path), mode(&path.join("lock")), mode(&segments(&path)[0])), (0o700, 0o600, 0o600));
    // Somebody opens it; the next start closes it.
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    write(&path, limits(), [10]);
    assert_eq!(mode(&path), 0o700);
}

#[test]
fn a_second_writer_is_told_of_the_first() {
    let dir = tempfile::tempdir().unwrap();
    let first = Writer::open(dir.path(), limits(), BOOT).unwrap();
    let refused = Writer::open(dir.path(), limits(), BOOT).unwrap_err();
    assert_eq!(refused, OpenError::Locked);
    assert!(refused.to_string().contains("another agent"));
    drop(first);
    Writer::open(dir.path(), limits(), BOOT).unwrap();
}

#[test]
fn windows_are_written_in_groups() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = Writer::open(dir.path(), limits(), BOOT).unwrap();
    let mut blocks = Vec::new();
    for second in (0..180).step_by(10) {
        writer.append(&window(second));
        blocks.push(writer.account().blocks);
    }
    assert_eq!(blocks, [[0; 5].as_slice(), &[1; 6], &[2; 6], &[3]].concat());
    // Faster than every ten seconds it does not go.
    drop(writer);
    let hasty = Limits { group: Duration::ZERO, sync: Some(Duration::ZERO), ..limits() };
    let mut writer = Writer::open(dir.path(), hasty, BOOT).unwrap();
    for second in 200..320 {
        let mut window = window(second);
        window.stacks.duration_ns = SECOND_NS;
        writer.append(&window);
    }
    assert_eq!((writer.account().blocks, writer.account().syncs), (12, 2));
}

#[test]
fn windows_of_another_kind_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = Writer::open(dir.path(), limits(), BOOT).unwrap();
    let mut heap = window(0);
    heap.stacks.kind = ProfileKind::Heap;
    writer.append(&heap);
    assert_eq!((writer.account().windows, writer.account().losses()[0]), (0, ("wrong_kind", 1)));
}

#[test]
fn a_window_that_is_too_large_keeps_its_heaviest_stacks() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = Writer::open(dir.path(), limits(), BOOT).unwrap();
    let mut large = window(0);
    large.stacks.functions = (0..60_000).map(|at| function(&format!("function_number_{at:05}"))).collect();
    large.stacks.frames =
        (0..60_000).map(|function| Frame { function, mapping: u32::MAX, ..Frame::default() }).collect();
    let sample = |at: u32| StackSample { frames: vec![at], value: 1, count: i64::from(at), owner: 0 };
    large.stacks.samples = (0..60_000).map(sample).collect();
    writer.append(&large);
    assert!(writer.memory_bytes() < 2 << 20, "{}", writer.memory_bytes());
    writer.append(&window(10));
    writer.flush();
    let selection = Reader::open(dir.path()).unwrap().select(ALL, &Filter::default());
    let kept = &selection.parts[0];
    let least = kept.shares.iter().map(|share| share.count).min().unwrap();
    assert!(kept.shares.len() > 1_000 && least >= 60_000 - i64::try_from(kept.shares.len()).unwrap());
    let total =
        kept.left_out + u64::try_from(kept.shares.iter().map(|share| share.count).sum::<i64>()).unwrap();
    assert_eq!((total, writer.account().left_out_samples), ((0..60_000).sum(), kept.left_out));
    // The one after it finds an empty dictionary, in a segment of its own.
    assert_eq!((of_part(&selection, 1), segments(dir.path()).len()), (of_window(&window(10)), 2));
}

#[test]
fn removed_files_are_noticed_and_the_ring_begins_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("history");
    let mut writer = Writer::open(&path, singly(), BOOT).unwrap();
    writer.append(&window(0));
    fs::remove_dir_all(&path).unwrap();
    writer.append(&window(10));
    assert_eq!((writer.trouble(), writer.account().lost_windows), (Some(Trouble::Removed), 1));
    writer.append(&window(20));
    assert_eq!(writer.trouble(), None);
    let selection = Reader::open(&path).unwrap().select(ALL, &Filter::default());
    assert_eq!(seconds(&selection), [20]);
    assert_eq!(of_part(&selection, 0), of_window(&window(20)));
}

// ---- bounds

#[test]
fn the_oldest_segments_go_when_there_are_too_many_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let small = Limits { bytes: 1 << 20, ..limits() };
    let mut writer = Writer::open(dir.path(), small, BOOT).unwrap();
    for second in (0..86_400).step_by(10) {
        let mut window = window(second);
        // Names that do not repeat, or it would all fit.
        let noise = (0..40_u64).map(|at| RandomState::new().hash_one(at));
        window.stacks.functions[2].name = noise.map(|word| format!("{word:016x}")).collect();
        writer.append(&window);
        let bytes: u64 = segments(dir.path()).iter().map(|path| fs::metadata(path).unwrap().len()).sum();
        assert!(bytes <= 1 << 20, "{bytes} at {second}");
    }
    let account = writer.account();
    assert!(account.removed_bytes > 0 && account.removed_age == 0, "{account:?}");
    let reader = Reader::open(dir.path()).unwrap();
    let first = reader.windows()[0].at.mono_ns / SECOND_NS;
    assert!(first > 0 && reader.windows().windows(2).all(|pair| pair[0].sequence < pair[1].sequence));
    assert_eq!(reader.windows().len(), usize::try_from((86_400 - first) / 10).unwrap());
}

#[test]
fn a_day_is_kept_and_what_is_older_goes() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), limits(), (0..108_000).step_by(10));
    let reader = Reader::open(dir.path()).unwrap();
    let (first, last) = (reader.windows()[0].at, reader.windows().last().unwrap().end());
    let hours = last.since_ns(first) / SECOND_NS / 3_600;
    assert!((24..=25).contains(&hours), "{hours}");
    // The next start, days later, throws all of it out, although the monotonic clock begins anew.
    let mut writer = Writer::open(dir.path(), singly(), Boot([8; 16])).unwrap();
    let mut late = window(10);
    late.stacks.at.wall_ns += 3 * 86_400 * SECOND_NS;
    writer.append(&late);
    assert_eq!(Reader::open(dir.path()).unwrap().windows().len(), 1);
}

// ---- time

#[test]
fn a_clock_set_back_changes_neither_order_nor_baseline() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = Writer::open(dir.path(), singly(), BOOT).unwrap();
    for second in (0..1_200).step_by(10) {
        let mut window = window(second);
        if second >= 600 {
            window.stacks.at.wall_ns -= 3_600 * SECOND_NS;
        }
        writer.append(&window);
    }
    let reader = Reader::open(dir.path()).unwrap();
    let monotonic: Vec<u64> = reader.windows().iter().map(|window| window.at.mono_ns / SECOND_NS).collect();
    assert_eq!(monotonic, (0..1_200).step_by(10).collect::<Vec<_>>());
    assert_eq!(reader.gaps(), []);
    let trigger = Stamp { mono_ns: 1_200 * SECOND_NS, wall_ns: WALL_NS - 2_400 * SECOND_NS };
    let before = reader.choose_baseline(trigger, BOOT, None);
    let selection = reader.select(before.range.unwrap(), &Filter::default());
    assert_eq!((before.label, seconds(&selection)), (Baseline::Aged, (600..900).step_by(10).collect()));
    // By the wall: what the clock showed, whenever that was.
    let range = Range::Wall { from_ns: at(590).wall_ns, to_ns: at(620).wall_ns };
    assert_eq!(seconds(&reader.select(range, &Filter::default())), [590]);
    // The last five minutes are those before the end, on either clock.
    let last = reader.select(reader.last(300 * SECOND_NS).unwrap(), &Filter::default());
    assert_eq!(seconds(&last), (900..1_200).step_by(10).collect::<Vec<_>>());
}

#[test]
fn gaps_say_what_they_are() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), singly(), [0, 10, 40]);
    write(dir.path(), singly(), [100, 110]);
    let mut writer = Writer::open(dir.path(), singly(), Boot([8; 16])).unwrap();
    let mut booted = window(5);
    booted.stacks.at.wall_ns += 1_000 * SECOND_NS;
    writer.append(&booted);
    let gaps: Vec<(GapKind, u64)> =
        Reader::open(dir.path()).unwrap().gaps().iter().map(|gap| (gap.kind, gap.ns / SECOND_NS)).collect();
    assert_eq!(gaps, [(GapKind::Pause, 20), (GapKind::Restart, 50), (GapKind::Reboot, 885)]);
}

fn check_before(
    reader: &Reader,
    trigger_s: u64,
    mark_s: Option<u64>,
    expected: (Baseline, Option<(u64, u64)>),
) {
    let before = reader.choose_baseline(at(trigger_s), BOOT, mark_s.map(|second| second * SECOND_NS));
    let ends = before.range.map(|range| {
        let selection = reader.select(range, &Filter::default());
        assert_eq!(before.covered_ns, selection.stacks.duration_ns);
        let first = selection.parts[0].window.at;
        (first.mono_ns / SECOND_NS, selection.parts.last().unwrap().window.end().mono_ns / SECOND_NS)
    });
    assert_eq!((before.label, ends), expected, "trigger {trigger_s} mark {mark_s:?}");
}

#[test]
fn the_before_is_chosen_by_marker_then_age() {
    let dir = tempfile::tempdir().unwrap();
    // Down from 1,000 to 2,000.
    write(dir.path(), singly(), (0..1_000).step_by(10));
    write(dir.path(), singly(), (2_000..3_000).step_by(10));
    let reader = Reader::open(dir.path()).unwrap();
    check_before(&reader, 900, None, (Baseline::Aged, Some((300, 600))));
    check_before(&reader, 905, None, (Baseline::Aged, Some((300, 600))));
    check_before(&reader, 900, Some(805), (Baseline::BeforeMarker, Some((500, 800))));
    check_before(&reader, 350, None, (Baseline::Aged, Some((0, 50))));
    check_before(&reader, 200, None, (Baseline::Young, Some((0, 200))));
    check_before(&reader, 5, None, (Baseline::Missing, None));
    check_before(&reader, 900, Some(5), (Baseline::Missing, None));
    // Right after the gap the last from before it is old enough.
    check_before(&reader, 2_100, None, (Baseline::Aged, Some((700, 1_000))));
    check_before(&reader, 2_450, None, (Baseline::Aged, Some((2_000, 2_150))));
    check_before(&reader, 2_900, Some(2_050), (Baseline::BeforeMarker, Some((2_000, 2_050))));
    // The daemon is down when the trigger comes.
    check_before(&reader, 9_000, None, (Baseline::Aged, Some((2_700, 3_000))));
}

#[test]
fn a_baseline_from_before_a_reboot_is_aged_by_the_wall() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), singly(), (0..1_000).step_by(10));
    let reader = Reader::open(dir.path()).unwrap();
    let choose = |trigger: Stamp| reader.choose_baseline(trigger, Boot([8; 16]), None);
    let before = choose(Stamp { mono_ns: 100 * SECOND_NS, wall_ns: at(1_400).wall_ns });
    assert_eq!((before.label, before.age_ns / SECOND_NS), (Baseline::Aged, 400));
    // One that seems to lie in the future is as old as this boot at least.
    let before = choose(Stamp { mono_ns: 400 * SECOND_NS, wall_ns: 0 });
    assert_eq!((before.label, before.age_ns / SECOND_NS), (Baseline::Aged, 400));
    assert_eq!(choose(Stamp { mono_ns: SECOND_NS, wall_ns: 0 }).label, Baseline::Young);
}

#[test]
fn the_boot_is_read_as_the_kernel_writes_it() {
    let text = "3f2c8b1e-0d4a-4c55-9b77-0123456789ab\n";
    let boot = Boot::parse(text).unwrap();
    assert_eq!((boot.0[0], boot.0[15]), (0x3f, 0xab));
    assert_eq!(Boot::parse("3f2c8b1e"), None);
}
