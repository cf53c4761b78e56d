//! Captures as OTLP profiles, in the v1development layout of protocol 1.10 (sample values in field 4).
//!
//! One request a profile, with a dictionary of its own (`dictionary.rs`). A sample is a stack and a set of attributes: those
//! that have both in common are one. Owns that merging, and the profile id: a hash of whom, what and when, so that a
//! baseline sent twice is one profile. Captures are rare, so this goes through the generated types. Refuses to send pprof
//! bytes beside the decoded profile.

mod dictionary;

use std::collections::BTreeMap;

use model::profile::{CaptureOutcome, CaptureResult, Losses, ProfileKind, ProfileSet, StackSample, Stacks};
use model::record::Record;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::profiles::v1development::{Profile, Sample};
use prost::Message;
use sha2::{Digest, Sha256};

use super::pack::Pack;
use super::resource::Identity;
use super::wire::Writer;
use dictionary::Dictionary;

/// Halvings of a profile that does not fit into a request: 2^8 parts of 4 MiB are beyond what a capture can hold.
const SPLITS_MAX: u32 = 8;

/// Encodes the profiles of one capture.
pub(crate) fn capture(identity: &Identity, record: &Record, result: &CaptureResult, pack: &mut Pack) {
    let CaptureOutcome::Done { before, after, .. } = &result.outcome else { return };
    let resource = identity.member(&record.origin);
    let sets = before.iter().map(|set| ("before", set)).chain([("after", after)]);
    for (role, set) in sets {
        for stacks in set.stacks.iter() {
            let about = About { identity, resource: &resource, result, role, set };
            put(&about, stacks, &stacks.samples, SPLITS_MAX, pack);
        }
    }
}

/// What all parts of a profile share.
#[derive(Clone, Copy, Debug)]
struct About<'a> {
    identity: &'a Identity,
    resource: &'a [u8],
    result: &'a CaptureResult,
    role: &'static str,
    set: &'a ProfileSet,
}

fn put(about: &About<'_>, stacks: &Stacks, samples: &[StackSample], splits: u32, pack: &mut Pack) {
    if samples.is_empty() {
        return;
    }
    let bytes = encode(about, stacks, samples);
    let last = splits == 0 || samples.len() < 2;
    if bytes.len() <= if last { pack.bytes_max() } else { pack.wanted_max() } {
        pack.whole(bytes, 1);
    } else if last {
        pack.count_too_large(1);
    } else {
        let (left, right) = samples.split_at(samples.len() / 2);
        put(about, stacks, left, splits - 1, pack);
        put(about, stacks, right, splits - 1, pack);
    }
}

fn encode(about: &About<'_>, stacks: &Stacks, samples: &[StackSample]) -> Vec<u8> {
    let mut dictionary = Dictionary::new(stacks);
    let profile = profile(about, &mut dictionary, samples);
    let mut writer = Writer::default();
    let of_resource = writer.open(1);
    writer.raw(about.resource);
    let of_scope = writer.open(2);
    writer.raw(about.identity.scope());
    writer.bytes(2, &profile.encode_to_vec());
    writer.close(of_scope);
    writer.close(of_resource);
    writer.bytes(2, &dictionary.into_message().encode_to_vec());
    writer.into_bytes()
}

fn profile(about: &About<'_>, dictionary: &mut Dictionary<'_>, samples: &[StackSample]) -> Profile {
    let stacks = dictionary.stacks();
    let mut merged: BTreeMap<(i32, Vec<i32>), i64> = BTreeMap::new();
    for sample in samples {
        let identity = (dictionary.stack(&sample.frames), dictionary.owner(sample.owner));
        let value = merged.entry(identity).or_insert(0);
        *value = value.saturating_add(sample.value);
    }
    let (sample_type, period_type) = match stacks.kind {
        ProfileKind::Cpu => (("cpu", "nanoseconds"), ("cpu", "nanoseconds")),
        ProfileKind::Heap => (("inuse_space", "bytes"), ("space", "bytes")),
        ProfileKind::Goroutine => (("goroutine", "count"), ("goroutine", "count")),
        ProfileKind::OffCpu => (("off_cpu", "nanoseconds"), ("off_cpu", "nanoseconds")),
        ProfileKind::Alloc => (("alloc_space", "bytes"), ("space", "bytes")),
    };
    let attributes = [
        ("backburn.capture.role", about.role.to_owned()),
        ("backburn.capture.request", about.result.request.to_string()),
        ("backburn.capture.target", about.result.target.clone()),
        ("backburn.capture.engine", about.set.engine.clone()),
    ];
    let attributes = attributes.map(|(key, value)| (key, Value::StringValue(value)));
    let sample = |((stack_index, attribute_indices), value)| Sample {
        stack_index,
        attribute_indices,
        values: vec![value],
        ..Sample::default()
    };
    Profile {
        sample_type: Some(dictionary.value_type(sample_type)),
        samples: merged.into_iter().map(sample).collect(),
        time_unix_nano: stacks.at.wall_ns,
        duration_nano: stacks.duration_ns,
        period_type: Some(dictionary.value_type(period_type)),
        // Zero would be read as "no period", and some backends refuse that.
        period: i64::try_from(stacks.period).unwrap_or(i64::MAX).max(1),
        profile_id: profile_id(about, stacks, samples),
        attribute_indices: attributes
            .into_iter()
            .chain(losses(stacks.losses))
            .map(|(key, value)| dictionary.attribute(key, value))
            .collect(),
        ..Profile::default()
    }
}

/// Told where there are any: what is missing from a profile is part of it.
fn losses(losses: Losses) -> impl Iterator<Item = (&'static str, Value)> {
    let all = [
        ("backburn.capture.lost_samples", losses.lost),
        ("backburn.capture.truncated_stacks", losses.truncated),
    ];
    let told = all.into_iter().filter(|(_, n)| *n > 0);
    told.map(|(key, n)| (key, Value::IntValue(i64::try_from(n).unwrap_or(i64::MAX))))
}

/// The same profile has the same id whenever it is sent; a part of a split one has its own.
fn profile_id(about: &About<'_>, stacks: &Stacks, samples: &[StackSample]) -> Vec<u8> {
    let mut hash = Sha256::new();
    hash.update(about.resource);
    hash.update(about.result.target.as_bytes());
    hash.update([0, u8::try_from(stacks.kind as isize).unwrap_or(u8::MAX)]);
    hash.update(stacks.at.wall_ns.to_le_bytes());
    if samples.len() < stacks.samples.len() {
        for sample in samples {
            sample.frames.iter().for_each(|frame| hash.update(frame.to_le_bytes()));
            hash.update(sample.owner.to_le_bytes());
            hash.update(sample.value.to_le_bytes());
        }
    }
    hash.finalize().iter().take(16).copied().collect()
}

#[cfg(test)]
mod tests;
