//! What the decoder makes of real profiles, of small written ones, and of hostile bytes.

use model::profile::{Owner, ProfileKind, Stacks};
use model::time::Stamp;
use prost::Message;

use super::wire::{RawFunction, RawLabel, RawLine, RawLocation, RawMapping, RawSample, RawValueType};
use super::{DecodeError, NAME_BYTES_MAX, decode, decode_file};
use crate::counts;

/// CPU profile of etcd 3.5 under puts, 5 s, as the endpoint answered it.
const ETCD_CPU: &[u8] = include_bytes!("../../testdata/etcd-3.5-cpu.pb.gz");
/// Heap profile of the same member.
const ETCD_HEAP: &[u8] = include_bytes!("../../testdata/etcd-3.5-heap.pb.gz");
/// Goroutines of the same member.
const ETCD_GOROUTINE: &[u8] = include_bytes!("../../testdata/etcd-3.5-goroutine.pb.gz");

#[derive(Clone, PartialEq, Message)]
struct Written {
    #[prost(message, repeated, tag = "1")]
    sample_type: Vec<RawValueType>,
    #[prost(message, repeated, tag = "2")]
    sample: Vec<RawSample>,
    #[prost(message, repeated, tag = "3")]
    mapping: Vec<RawMapping>,
    #[prost(message, repeated, tag = "4")]
    location: Vec<RawLocation>,
    #[prost(message, repeated, tag = "5")]
    function: Vec<RawFunction>,
    #[prost(string, repeated, tag = "6")]
    strings: Vec<String>,
    #[prost(int64, tag = "10")]
    duration: i64,
    #[prost(int64, tag = "12")]
    period: i64,
}

/// main calls work twice over; hot is inlined into work; the last location has no name.
fn written() -> Written {
    let strings = ["", "samples", "count", "cpu", "nanoseconds", "main", "work", "hot", "/bin/app"];
    let line = |function_id| RawLine { function_id, line: 7 };
    let location = |id, line| RawLocation { id, mapping_id: 1, address: 0x1000 + id, line };
    let sample = |location_id: &[u64], count| RawSample {
        location_id: location_id.to_vec(),
        value: vec![count, count * 10_000_000],
        label: Vec::new(),
    };
    Written {
        sample_type: vec![RawValueType { kind: 1, unit: 2 }, RawValueType { kind: 3, unit: 4 }],
        sample: vec![sample(&[2, 1], 3), sample(&[2, 2, 1], 2), sample(&[3, 1], 1)],
        mapping: vec![RawMapping {
            id: 1,
            start: 0x1000,
            limit: 0x2000,
            filename: 8,
            ..RawMapping::default()
        }],
        location: vec![
            location(1, vec![line(1)]),
            location(2, vec![line(3), line(2)]),
            location(3, Vec::new()),
        ],
        function: (1..=3)
            .map(|id| RawFunction { id, name: 4 + i64::try_from(id).unwrap(), ..RawFunction::default() })
            .collect(),
        strings: strings.map(String::from).to_vec(),
        duration: 1_000_000_000,
        period: 10_000_000,
    }
}

fn cpu(body: &[u8]) -> Result<Stacks, DecodeError> {
    decode(body, ProfileKind::Cpu, Stamp::default()).map(|(stacks, _)| stacks)
}

#[test]
fn inlined_frames_are_kept_and_recursion_counts_once() {
    let stacks = cpu(&written().encode_to_vec()).unwrap();
    let counts = counts::of(&stacks);
    let rows: Vec<_> =
        counts.functions.iter().map(|f| (f.name.as_str(), f.own, f.total, f.samples)).collect();
    let ms = 1_000_000;
    assert_eq!(
        rows,
        [
            ("[app+0x3]", 10 * ms, 10 * ms, 1),
            ("hot", 50 * ms, 50 * ms, 5),
            ("main", 0, 60 * ms, 6),
            ("work", 0, 50 * ms, 5),
        ]
    );
    assert_eq!((counts.total, counts.samples, counts.duration_ns), (60 * ms, 6, 1_000_000_000));
    // hot <- work in both stacks, work <- hot once (recursion), main calls work and the nameless one.
    assert_eq!(counts.edges, [(1, 3, 20 * ms), (2, 0, 10 * ms), (2, 3, 50 * ms), (3, 1, 50 * ms)]);
    let inlined: Vec<bool> = stacks.frames.iter().map(|frame| frame.inlined).collect();
    assert_eq!(inlined, [false, true, false, false]);
}

#[test]
fn a_real_cpu_profile_keeps_every_sample() {
    let (stacks, rejects) = decode(ETCD_CPU, ProfileKind::Cpu, Stamp::default()).unwrap();
    assert_eq!(rejects, super::Rejects::default());
    let counts = counts::of(&stacks);
    assert_eq!(counts.period, 10_000_000);
    assert_eq!(counts.total, counts.samples * counts.period);
    assert_eq!(counts.total, counts.functions.iter().map(|f| f.own).sum::<u64>());
    assert!(counts.samples > 100 && counts.functions.len() > 100);
    assert!(counts.functions.iter().any(|f| f.name.starts_with("go.etcd.io/etcd/server/v3/")));
    assert!(stacks.frames.iter().any(|frame| frame.inlined));
}

#[test]
fn a_heap_has_fewer_observations_than_objects() {
    let (stacks, _) = decode(ETCD_HEAP, ProfileKind::Heap, Stamp::default()).unwrap();
    let counts = counts::of(&stacks);
    let objects: i64 = stacks.samples.iter().map(|sample| sample.count).sum();
    assert!(counts.samples > 0 && counts.samples < u64::try_from(objects).unwrap());
    assert_eq!(counts.total, counts.functions.iter().map(|f| f.own).sum::<u64>());
}

#[test]
fn goroutines_are_their_own_count() {
    let (stacks, _) = decode(ETCD_GOROUTINE, ProfileKind::Goroutine, Stamp::default()).unwrap();
    let counts = counts::of(&stacks);
    // As `go tool pprof -top` says of the file; one of them has no stack yet.
    assert_eq!((counts.total, counts.samples, counts.other), (52, 52, 1));
}

#[test]
fn a_profile_of_another_kind_is_refused() {
    assert_eq!(cpu(ETCD_HEAP), Err(DecodeError::NoSampleType));
    assert_eq!(cpu(b""), Err(DecodeError::NotPprof));
    assert_eq!(cpu(b"<html>404</html>"), Err(DecodeError::NotPprof));
    assert_eq!(cpu(&ETCD_CPU[..ETCD_CPU.len() / 2]), Err(DecodeError::Gzip));
}

/// The same samples under other names: (type, unit), (type, unit).
fn named(types: [&str; 4]) -> Vec<Stacks> {
    let mut profile = written();
    for (at, name) in types.iter().enumerate() {
        profile.strings[at + 1] = (*name).to_owned();
    }
    decode_file(&profile.encode_to_vec()).unwrap().into_iter().map(|(stacks, _)| stacks).collect()
}

#[test]
fn a_file_says_by_its_types_what_it_is() {
    let check = |types, kind, value, count, period| {
        let all = named(types);
        let [stacks] = all.as_slice() else { panic!("{all:?}") };
        let first = &stacks.samples[0];
        assert_eq!(
            (stacks.kind, first.value, first.count, stacks.period),
            (kind, value, count, period),
            "{types:?}"
        );
    };
    let (ms, period) = (1_000_000, 10_000_000);
    check(["samples", "count", "cpu", "nanoseconds"], ProfileKind::Cpu, 30 * ms, 3, period);
    check(["samples", "count", "cpu", "microseconds"], ProfileKind::Cpu, 30_000 * ms, 3, period);
    check(["waits", "count", "off_cpu", "nanoseconds"], ProfileKind::OffCpu, 30 * ms, 3, period);
    // Go's mutex profile; another language's wall clock.
    check(["contentions", "count", "delay", "nanoseconds"], ProfileKind::OffCpu, 30 * ms, 3, period);
    check(["x", "y", "wall", "nanoseconds"], ProfileKind::OffCpu, 30 * ms, 1, period);
    // perf's converter: what is counted are samples, each worth one.
    check(["cycles_sample", "count", "cycles_event", "count"], ProfileKind::Cpu, 3, 3, 1);
    check(["live", "count", "alloc_size", "bytes"], ProfileKind::Alloc, 30 * ms, 3, period);
    check(["inuse_objects", "count", "inuse_space", "bytes"], ProfileKind::Heap, 30 * ms, 3, period);
}

#[test]
fn a_real_heap_holds_what_was_allocated_too() {
    let all = decode_file(ETCD_HEAP).unwrap();
    let kinds: Vec<ProfileKind> = all.iter().map(|(stacks, _)| stacks.kind).collect();
    assert_eq!(kinds, [ProfileKind::Heap, ProfileKind::Alloc]);
    assert!(
        all.iter()
            .all(|(stacks, _)| stacks.at.wall_ns > 1_700_000_000_000_000_000 && stacks.pprof.is_empty())
    );
    let (alone, _) = decode(ETCD_HEAP, ProfileKind::Heap, Stamp::default()).unwrap();
    assert_eq!(all[0].0.samples, alone.samples);
}

#[test]
fn labels_of_ours_name_the_owner_and_others_do_not() {
    let mut profile = written();
    let mut string = |text: &str| {
        profile.strings.push(text.to_owned());
        i64::try_from(profile.strings.len() - 1).unwrap()
    };
    let (pid, cpu, process, thread, etcd, colour) =
        (string("pid"), string("cpu"), string("process"), string("thread"), string("etcd"), string("colour"));
    let text = |key, text| RawLabel { key, text, number: 0 };
    let number = |key, number| RawLabel { key, text: 0, number };
    profile.sample[0].label = vec![number(pid, 7), text(process, etcd), text(thread, etcd), number(cpu, 0)];
    // A label of the program's own, and a thread without a process: nobody's.
    profile.sample[1].label = vec![text(colour, etcd), text(thread, etcd)];
    profile.sample[2].label = vec![number(pid, -1), number(cpu, i64::MAX), text(process, 9_999)];
    let stacks = cpu_of(&profile);
    let owner = Owner {
        pid: 7,
        process: "etcd".to_owned(),
        thread: "etcd".to_owned(),
        cpu: Some(0),
        ..Owner::default()
    };
    assert_eq!(stacks.owners, [owner]);
    assert_eq!(stacks.samples.iter().map(|sample| sample.owner).collect::<Vec<_>>(), [0, u32::MAX, u32::MAX]);

    let sample = profile.sample[0].clone();
    profile.sample = (1..6_000)
        .map(|pid_of| {
            let mut one = sample.clone();
            one.label[0] = number(pid, pid_of);
            one
        })
        .collect();
    assert_eq!(cpu_of(&profile).owners.len(), 4_096, "those beyond the bound are not told apart");
}

fn cpu_of(profile: &Written) -> Stacks {
    cpu(&profile.encode_to_vec()).unwrap()
}

#[test]
fn references_to_nothing_are_counted() {
    let mut profile = written();
    profile.sample.push(RawSample { location_id: vec![99], value: vec![1, 1], label: Vec::new() });
    profile.sample.push(RawSample { location_id: vec![1], value: vec![1], label: Vec::new() });
    profile.sample.push(RawSample { location_id: Vec::new(), value: vec![1, 1], label: Vec::new() });
    profile.sample.push(RawSample { location_id: vec![1], value: vec![-1, -1], label: Vec::new() });
    profile.location.push(RawLocation {
        id: 9,
        line: vec![RawLine { function_id: 77, line: -1 }],
        ..RawLocation::default()
    });
    profile.function.push(RawFunction { id: 9, name: -5, filename: i64::MAX, ..RawFunction::default() });
    let (stacks, rejects) = decode(&profile.encode_to_vec(), ProfileKind::Cpu, Stamp::default()).unwrap();
    assert_eq!((rejects.bad_samples, rejects.negative), (2, 1));
    assert_eq!(stacks.samples.len(), 4);
    // The one without a stack is in the total, and in no function.
    let counts = counts::of(&stacks);
    assert_eq!((counts.total, counts.other), (60_000_001, 1));
}

#[test]
fn bounds_end_in_an_error() {
    let mut deep = written();
    deep.sample.push(RawSample { location_id: vec![2; 5_000], value: vec![1, 1], label: Vec::new() });
    let (stacks, rejects) = decode(&deep.encode_to_vec(), ProfileKind::Cpu, Stamp::default()).unwrap();
    assert_eq!((stacks.samples[3].frames.len(), rejects.cut_stacks), (super::DEPTH_MAX, 1));

    let mut wide = written();
    wide.sample = vec![RawSample { location_id: vec![2; 600], value: vec![1, 1], label: Vec::new() }; 2_000];
    assert_eq!(cpu(&wide.encode_to_vec()), Err(DecodeError::TooLarge("frame references")));

    let mut many = Vec::new();
    many.extend([0x12, 0x00].repeat(300_000));
    assert_eq!(cpu(&many), Err(DecodeError::TooLarge("samples")));

    let mut named = written();
    named.strings[5] = "ü".repeat(20_000);
    named.function = (0..100_000).map(|id| RawFunction { id, name: 5, ..RawFunction::default() }).collect();
    assert_eq!(cpu(&named.encode_to_vec()), Err(DecodeError::TooLarge("names")));
    named.function.truncate(4);
    assert_eq!(cpu(&named.encode_to_vec()).unwrap().functions[0].name.len(), NAME_BYTES_MAX);
}

#[test]
fn a_gzip_bomb_ends_early() {
    use std::io::Write;
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    for _ in 0..64 {
        gzip.write_all(&vec![0; 1 << 20]).unwrap();
    }
    assert_eq!(cpu(&gzip.finish().unwrap()), Err(DecodeError::TooLarge("bytes")));
}

#[test]
fn damaged_profiles_never_panic() {
    let plain = written().encode_to_vec();
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state % 65_536).unwrap()
    };
    for _ in 0..20_000 {
        let mut bytes = plain.clone();
        for _ in 0..1 + next() % 4 {
            let at = next() % bytes.len();
            bytes[at] = u8::try_from(next() % 256).unwrap();
        }
        bytes.truncate(1 + next() % bytes.len());
        for kind in [ProfileKind::Cpu, ProfileKind::Heap, ProfileKind::Goroutine] {
            if let Ok((stacks, _)) = decode(&bytes, kind, Stamp::default()) {
                let counts = counts::of(&stacks);
                assert!(counts.functions.is_sorted_by(|a, b| a.name < b.name));
            }
        }
        decode_file(&bytes).ok();
    }
}
