//! Requests read back by the generated types, and held against the rules of the format.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use model::origin::Origin;
use model::profile::{
    Baseline, CaptureOutcome, CaptureResult, Frame, FrameKind, Function, Losses, Mapping, Owner, ProfileKind,
    ProfileSet, StackSample, Stacks,
};
use model::record::{Fact, Record};
use model::time::Stamp;
use opentelemetry_proto::tonic::collector::profiles::v1development::ExportProfilesServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::profiles::v1development::{Profile, ProfilesDictionary, Sample};
use proptest::prelude::*;
use prost::Message;

use super::super::config::{Config, Signal};
use super::super::pack::Pack;
use super::super::resource::Identity;

fn stacks() -> Stacks {
    let function = |name: &str| Function { name: name.to_owned(), file: "a.go".to_owned(), start_line: 1 };
    let frame =
        |function, kind| Frame { function, address: 16 + u64::from(function), kind, ..Frame::default() };
    let owner = |pid, thread: &str, pod: &str, cpu| Owner {
        pid,
        process: "etcd".to_owned(),
        thread: thread.to_owned(),
        container: "c0ffee".repeat(10),
        pod: pod.to_owned(),
        namespace: "kube-system".to_owned(),
        cpu,
    };
    Stacks {
        kind: ProfileKind::Cpu,
        at: Stamp { mono_ns: 1, wall_ns: 2 },
        duration_ns: 10_000_000_000,
        period: 10_101_010,
        mappings: vec![Mapping {
            path: "/usr/bin/etcd".to_owned(),
            build_id: "0a1b".to_owned(),
            go_build_id: "a/b/c/d".to_owned(),
            htlhash: "44a7e1d2bd59d26f377a8dd07d0461ac".to_owned(),
            start: 1,
            end: 2,
            offset: 3,
        }],
        functions: vec![function("main.main"), function("cgo"), function("vfs_read"), function("[x+0x1]")],
        frames: vec![
            frame(0, FrameKind::Go),
            frame(1, FrameKind::Native),
            frame(2, FrameKind::Kernel),
            frame(3, FrameKind::Unknown),
        ],
        owners: vec![
            owner(7, "etcd", "etcd-0", Some(0)),
            owner(7, "raft", "0f2c9a3e-1b7d-4c55-9e21-6d8a7b3c4d5e", Some(1)),
            owner(7, "etcd", "etcd-0", Some(0)),
        ],
        samples: Vec::new(),
        losses: Losses::default(),
        pprof: Vec::new(),
    }
}

fn sample(frames: &[u32], value: i64, owner: u32) -> StackSample {
    StackSample { frames: frames.to_vec(), value, count: 1, owner }
}

fn request(stacks: Stacks) -> ExportProfilesServiceRequest {
    let set =
        ProfileSet { stacks: Arc::new(vec![stacks]), engine: "perf".to_owned(), ..ProfileSet::default() };
    let outcome = CaptureOutcome::Done { before: None, baseline: Baseline::Missing, after: Arc::new(set) };
    let result = CaptureResult { request: 1, target: "m1".to_owned(), outcome };
    let origin = Arc::new(Origin { cluster_id: None, node: "n1".to_owned(), member: None });
    let record = Record { at: Stamp::default(), origin, fact: Fact::Capture(result.clone()) };
    let mut pack = Pack::new(Signal::Profiles, 1 << 22);
    super::capture(&Identity::new(&Config::default()), &record, &result, &mut pack);
    let done = pack.take_done();
    assert_eq!(done.len(), 1);
    ExportProfilesServiceRequest::decode(done[0].bytes.as_slice()).unwrap()
}

fn at<T>(table: &[T], index: i32) -> &T {
    &table[usize::try_from(index).unwrap()]
}

fn profile(request: &ExportProfilesServiceRequest) -> &Profile {
    &request.resource_profiles[0].scope_profiles[0].profiles[0]
}

fn attributes(dictionary: &ProfilesDictionary, indices: &[i32]) -> BTreeMap<String, String> {
    let pair = |index: &i32| {
        let attribute = at(&dictionary.attribute_table, *index);
        let value = match attribute.value.as_ref().unwrap().value.as_ref().unwrap() {
            Value::StringValue(text) => format!("{text:?}"),
            Value::IntValue(number) => number.to_string(),
            other => panic!("{other:?}"),
        };
        (at(&dictionary.string_table, attribute.key_strindex).clone(), value)
    };
    indices.iter().map(pair).collect()
}

fn pairs(expected: &[(&str, &str)]) -> BTreeMap<String, String> {
    expected.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

#[test]
fn a_sample_is_a_stack_and_whose_it_is() {
    let mut all = stacks();
    all.samples = vec![
        sample(&[0], 5, 0),
        sample(&[0], 7, 2),
        sample(&[0], 11, 1),
        sample(&[1, 0], 13, 0),
        sample(&[0], 17, 99),
    ];
    let request = request(all);
    let dictionary = request.dictionary.as_ref().unwrap();
    rules(&request);
    let of_value = |value: i64| {
        let sample = profile(&request).samples.iter().find(|sample| sample.values == [value]).unwrap();
        attributes(dictionary, &sample.attribute_indices)
    };
    let container = format!("{:?}", "c0ffee".repeat(10));
    // 5 and 7 are the same stack of equal owners: one sample.
    let of_main = pairs(&[
        ("process.pid", "7"),
        ("process.executable.name", "\"etcd\""),
        ("thread.name", "\"etcd\""),
        ("container.id", &container),
        ("k8s.pod.name", "\"etcd-0\""),
        ("k8s.namespace.name", "\"kube-system\""),
        ("cpu.logical_number", "0"),
    ]);
    assert_eq!(of_value(12), of_main);
    assert_eq!(of_value(13), of_main);
    let of_raft = of_value(11);
    assert_eq!(of_raft["k8s.pod.uid"], "\"0f2c9a3e-1b7d-4c55-9e21-6d8a7b3c4d5e\"");
    assert_eq!((of_raft["thread.name"].as_str(), of_raft["cpu.logical_number"].as_str()), ("\"raft\"", "1"));
    assert!(!of_raft.contains_key("k8s.pod.name"));
    assert!(of_value(17).is_empty(), "nobody's");
    assert_eq!(profile(&request).samples.len(), 4);
}

#[test]
fn modules_frames_and_losses_are_told() {
    let mut all = stacks();
    all.losses = Losses { lost: 3, truncated: 4 };
    all.samples = vec![sample(&[2, 1, 0, 3], 1, 0)];
    let request = request(all);
    rules(&request);
    let dictionary = request.dictionary.as_ref().unwrap();
    assert_eq!(dictionary.mapping_table.len(), 2);
    let expected = pairs(&[
        ("process.executable.build_id.gnu", "\"0a1b\""),
        ("process.executable.build_id.go", "\"a/b/c/d\""),
        ("process.executable.build_id.htlhash", "\"44a7e1d2bd59d26f377a8dd07d0461ac\""),
    ]);
    assert_eq!(attributes(dictionary, &dictionary.mapping_table[1].attribute_indices), expected);
    let stack = at(&dictionary.stack_table, profile(&request).samples[0].stack_index);
    let kinds: Vec<_> = stack
        .location_indices
        .iter()
        .map(|location| attributes(dictionary, &at(&dictionary.location_table, *location).attribute_indices))
        .collect();
    let kind = |kind: &str| pairs(&[("profile.frame.type", kind)]);
    assert_eq!(kinds, [kind("\"kernel\""), kind("\"native\""), kind("\"go\""), BTreeMap::new()]);
    let of_profile = attributes(dictionary, &profile(&request).attribute_indices);
    assert_eq!(of_profile["backburn.capture.lost_samples"], "3");
    assert_eq!(of_profile["backburn.capture.truncated_stacks"], "4");
    assert_eq!(profile(&request).period, 10_101_010);
    let period = profile(&request).period_type.unwrap();
    assert_eq!(at(&dictionary.string_table, period.type_strindex), "cpu");
}

/// No entry twice, the zero element first.
fn table<T: Message + Default + PartialEq + std::fmt::Debug>(items: &[T]) -> usize {
    assert_eq!(items[0], T::default());
    let different: BTreeSet<Vec<u8>> = items.iter().map(Message::encode_to_vec).collect();
    assert_eq!(different.len(), items.len(), "{items:?}");
    items.len()
}

/// What the format demands of every request, whatever is in it.
fn rules(request: &ExportProfilesServiceRequest) {
    let dictionary = request.dictionary.as_ref().unwrap();
    let strings: BTreeSet<_> = dictionary.string_table.iter().collect();
    assert_eq!((strings.len(), dictionary.string_table[0].as_str()), (dictionary.string_table.len(), ""));
    let within =
        |index: i32, length: usize| assert!(usize::try_from(index).unwrap() < length, "{index} of {length}");
    let within_strings = |index: i32| within(index, dictionary.string_table.len());
    let attributes = table(&dictionary.attribute_table);
    let (mappings, functions) = (table(&dictionary.mapping_table), table(&dictionary.function_table));
    let (locations, stacks) = (table(&dictionary.location_table), table(&dictionary.stack_table));
    dictionary.attribute_table.iter().for_each(|attribute| within_strings(attribute.key_strindex));
    for mapping in &dictionary.mapping_table {
        within_strings(mapping.filename_strindex);
        mapping.attribute_indices.iter().for_each(|index| within(*index, attributes));
    }
    for function in &dictionary.function_table {
        within_strings(function.name_strindex);
        within_strings(function.filename_strindex);
    }
    for location in &dictionary.location_table {
        within(location.mapping_index, mappings);
        location.lines.iter().for_each(|line| within(line.function_index, functions));
        location.attribute_indices.iter().for_each(|index| within(*index, attributes));
    }
    for stack in &dictionary.stack_table {
        stack.location_indices.iter().for_each(|index| within(*index, locations));
    }
    let profile = profile(request);
    assert!(profile.period > 0 && profile.period_type.is_some() && profile.sample_type.is_some());
    let mut identities = BTreeSet::new();
    for Sample { stack_index, attribute_indices, values, timestamps_unix_nano, .. } in &profile.samples {
        within(*stack_index, stacks);
        attribute_indices.iter().for_each(|index| within(*index, attributes));
        let set: BTreeSet<i32> = attribute_indices.iter().copied().collect();
        assert_eq!(set.len(), attribute_indices.len());
        assert!(identities.insert((*stack_index, set)), "two samples with one identity");
        assert!(values.len() == 1 && timestamps_unix_nano.is_empty(), "values alone");
    }
}

proptest! {
    #[test]
    fn every_request_keeps_the_rules_and_the_total(
        samples in prop::collection::vec((prop::collection::vec(0_u32..6, 0..6), 1_i64..1_000, 0_u32..4), 1..40),
        inlined in prop::collection::vec(any::<bool>(), 4),
    ) {
        let mut all = stacks();
        all.functions.push(all.functions[0].clone());
        all.frames.push(Frame { function: 4, ..all.frames[0] });
        all.frames.iter_mut().zip(inlined).for_each(|(frame, inlined)| frame.inlined = inlined);
        all.samples = samples.iter().map(|(frames, value, owner)| sample(frames, *value, *owner)).collect();
        let total: i64 = samples.iter().map(|(_, value, _)| value).sum();
        let request = request(all);
        rules(&request);
        let sent: i64 = profile(&request).samples.iter().flat_map(|sample| &sample.values).sum();
        prop_assert_eq!(sent, total);
    }
}
