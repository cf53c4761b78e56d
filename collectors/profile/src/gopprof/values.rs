//! Which of a sample's values are read, and as what kind of profile.
//!
//! Owns the names that writers give their values: Go, perf's converter, other languages' profilers, and ourselves.

use std::borrow::Cow;

use model::profile::ProfileKind;
use prost::Message;

use super::DecodeError;
use super::wire::{RawValueType, Sections};

/// In this order they are told of a file that holds several.
const KINDS: [ProfileKind; 5] =
    [ProfileKind::Cpu, ProfileKind::OffCpu, ProfileKind::Heap, ProfileKind::Alloc, ProfileKind::Goroutine];

/// Which of a sample's values we read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted {
    pub(super) kind: ProfileKind,
    pub(super) period: u64,
    value: usize,
    /// How many of our unit one of the file's is: files may count milliseconds.
    scale: i64,
    /// Where the number of samples (objects, for a heap) stands.
    count: Option<usize>,
}

/// A file's value types by name and unit.
type Types<'a> = Vec<(Cow<'a, str>, Cow<'a, str>)>;

fn types<'a>(sections: &Sections<'a>) -> Result<Types<'a>, DecodeError> {
    let read = |raw: &&[u8]| {
        let value_type = RawValueType::decode(*raw).map_err(|_| DecodeError::NotPprof)?;
        Ok((sections.text(value_type.kind), sections.text(value_type.unit)))
    };
    sections.sample_types.iter().map(read).collect()
}

impl Wanted {
    /// The value of that kind.
    pub(super) fn find(sections: &Sections<'_>, kind: ProfileKind) -> Result<Wanted, DecodeError> {
        Wanted::among(&types(sections)?, sections, kind).ok_or(DecodeError::NoSampleType)
    }

    /// Every kind that a file holds; where it has none of the known names, its default value by its unit.
    pub(super) fn all(sections: &Sections<'_>) -> Result<Vec<Wanted>, DecodeError> {
        let types = types(sections)?;
        let known: Vec<Wanted> =
            KINDS.into_iter().filter_map(|kind| Wanted::among(&types, sections, kind)).collect();
        if known.is_empty() { Ok(vec![Wanted::by_unit(&types, sections)?]) } else { Ok(known) }
    }

    fn among(types: &Types<'_>, sections: &Sections<'_>, kind: ProfileKind) -> Option<Wanted> {
        let count = |names: &[&str]| types.iter().position(|(n, u)| names.contains(&&**n) && u == "count");
        let timed = |name: &str| {
            types
                .iter()
                .enumerate()
                .find_map(|(at, (n, unit))| Some((at, nanoseconds(unit).filter(|_| n == name)?)))
        };
        let sized = |name: &str| types.iter().position(|(n, u)| n == name && u == "bytes").map(|at| (at, 1));
        let ((value, scale), count) = match kind {
            ProfileKind::Cpu => (timed("cpu")?, count(&["samples"])),
            ProfileKind::OffCpu => (timed("off_cpu")?, count(&["waits"])),
            ProfileKind::Heap => (sized("inuse_space")?, count(&["inuse_objects"])),
            ProfileKind::Alloc => (sized("alloc_space")?, count(&["alloc_objects"])),
            ProfileKind::Goroutine => ((count(&["goroutine", "goroutines", "goroutineleak"])?, 1), None),
        };
        Some(Wanted { kind, period: period(sections), value, scale, count })
    }

    fn by_unit(types: &Types<'_>, sections: &Sections<'_>) -> Result<Wanted, DecodeError> {
        let samples =
            types.iter().position(|(n, u)| u == "count" && (n.ends_with("_sample") || n == "samples"));
        let default = sections.text(sections.default_sample_type);
        let default = types.iter().position(|(name, _)| !name.is_empty() && *name == default);
        let value = default.or(samples).unwrap_or(types.len().saturating_sub(1));
        let (name, unit) = types.get(value).ok_or(DecodeError::NoSampleType)?;
        let is_named = |part: &str| name.contains(part);
        let count = types.iter().position(|(_, unit)| unit == "count").filter(|at| *at != value);
        Ok(match nanoseconds(unit) {
            // Where Go's goroutines wait for each other, other languages' threads for anything.
            Some(scale) => {
                let waits = ["delay", "wait", "off", "block", "wall"].iter().any(|part| is_named(part));
                let kind = if waits { ProfileKind::OffCpu } else { ProfileKind::Cpu };
                Wanted { kind, period: period(sections), value, scale, count }
            }
            None if unit == "bytes" => {
                let kind = if is_named("alloc") { ProfileKind::Alloc } else { ProfileKind::Heap };
                Wanted { kind, period: period(sections), value, scale: 1, count }
            }
            None => Wanted { kind: ProfileKind::Cpu, period: 1, value, scale: 1, count: samples },
        })
    }

    /// In the unit of the kind.
    pub(super) fn value(&self, values: &[i64]) -> Option<i64> {
        values.get(self.value).map(|value| value.saturating_mul(self.scale))
    }

    /// How many observations; one, where neither the file nor its period tells.
    pub(super) fn count(&self, values: &[i64], value: i64) -> i64 {
        match (self.count, self.kind, i64::try_from(self.period)) {
            (Some(at), ..) => values.get(at).copied().unwrap_or(0),
            (None, ProfileKind::Goroutine, _) => value,
            (None, ProfileKind::Cpu, Ok(period)) if period > 0 => (value / period).max(value.signum()),
            (None, ..) => value.signum(),
        }
    }
}

fn period(sections: &Sections<'_>) -> u64 {
    u64::try_from(sections.period).unwrap_or(0)
}

/// How many a unit of time has.
fn nanoseconds(unit: &str) -> Option<i64> {
    match unit {
        "nanoseconds" | "nanosecond" | "ns" => Some(1),
        "microseconds" | "microsecond" | "us" => Some(1_000),
        "milliseconds" | "millisecond" | "ms" => Some(1_000_000),
        "seconds" | "second" | "s" => Some(1_000_000_000),
        _ => None,
    }
}
