//! The protobuf of pprof: messages as Rust structs, and a reader of the top level that counts before it keeps.
//!
//! Field numbers are those of `perftools.profiles.Profile` (google/pprof, `proto/profile.proto`).

use std::borrow::Cow;

use model::profile::Losses;
use prost::Message;

use super::{Bounds, DecodeError};

/// A sample with more than this is not a stack: 1,024 locations take at most 10 KiB.
const MESSAGE_BYTES_MAX: usize = 64 << 10;
/// Comments of one profile; we write two.
const COMMENTS_MAX: usize = 64;
/// Modules of one process.
const MAPPINGS_MAX: usize = 4_096;
/// Go writes two or four.
const SAMPLE_TYPES_MAX: usize = 32;

#[derive(Clone, PartialEq, Message)]
pub(super) struct RawValueType {
    #[prost(int64, tag = "1")]
    pub(super) kind: i64,
    #[prost(int64, tag = "2")]
    pub(super) unit: i64,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct RawSample {
    #[prost(uint64, repeated, tag = "1")]
    pub(super) location_id: Vec<u64>,
    #[prost(int64, repeated, tag = "2")]
    pub(super) value: Vec<i64>,
    #[prost(message, repeated, tag = "3")]
    pub(super) label: Vec<RawLabel>,
}

#[derive(Clone, Copy, PartialEq, Message)]
pub(super) struct RawLabel {
    #[prost(int64, tag = "1")]
    pub(super) key: i64,
    #[prost(int64, tag = "2")]
    pub(super) text: i64,
    #[prost(int64, tag = "3")]
    pub(super) number: i64,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct RawMapping {
    #[prost(uint64, tag = "1")]
    pub(super) id: u64,
    #[prost(uint64, tag = "2")]
    pub(super) start: u64,
    #[prost(uint64, tag = "3")]
    pub(super) limit: u64,
    #[prost(uint64, tag = "4")]
    pub(super) offset: u64,
    #[prost(int64, tag = "5")]
    pub(super) filename: i64,
    #[prost(int64, tag = "6")]
    pub(super) build_id: i64,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct RawLocation {
    #[prost(uint64, tag = "1")]
    pub(super) id: u64,
    #[prost(uint64, tag = "2")]
    pub(super) mapping_id: u64,
    #[prost(uint64, tag = "3")]
    pub(super) address: u64,
    #[prost(message, repeated, tag = "4")]
    pub(super) line: Vec<RawLine>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct RawLine {
    #[prost(uint64, tag = "1")]
    pub(super) function_id: u64,
    #[prost(int64, tag = "2")]
    pub(super) line: i64,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct RawFunction {
    #[prost(uint64, tag = "1")]
    pub(super) id: u64,
    #[prost(int64, tag = "2")]
    pub(super) name: i64,
    #[prost(int64, tag = "3")]
    pub(super) system_name: i64,
    #[prost(int64, tag = "4")]
    pub(super) filename: i64,
    #[prost(int64, tag = "5")]
    pub(super) start_line: i64,
}

/// The top level of a profile: slices of its messages, none of them decoded yet.
#[derive(Default)]
pub(super) struct Sections<'a> {
    pub(super) sample_types: Vec<&'a [u8]>,
    pub(super) samples: Vec<&'a [u8]>,
    pub(super) mappings: Vec<&'a [u8]>,
    pub(super) locations: Vec<&'a [u8]>,
    pub(super) functions: Vec<&'a [u8]>,
    pub(super) strings: Vec<&'a [u8]>,
    pub(super) time_ns: i64,
    pub(super) duration_ns: i64,
    pub(super) period: i64,
    pub(super) default_sample_type: i64,
    comments: Vec<i64>,
}

impl<'a> Sections<'a> {
    pub(super) fn read(plain: &'a [u8], bounds: Bounds) -> Result<Sections<'a>, DecodeError> {
        let mut sections = Sections::default();
        for field in Fields::new(plain) {
            let (tag, value) = field?;
            match (tag, value) {
                (1, Value::Bytes(raw)) => {
                    keep(&mut sections.sample_types, raw, SAMPLE_TYPES_MAX, "sample types")?;
                }
                (2, Value::Bytes(raw)) => keep(&mut sections.samples, raw, bounds.samples, "samples")?,
                (3, Value::Bytes(raw)) => keep(&mut sections.mappings, raw, MAPPINGS_MAX, "mappings")?,
                (4, Value::Bytes(raw)) => keep(&mut sections.locations, raw, bounds.entries, "locations")?,
                (5, Value::Bytes(raw)) => keep(&mut sections.functions, raw, bounds.entries, "functions")?,
                (6, Value::Bytes(raw)) => keep(&mut sections.strings, raw, bounds.entries, "strings")?,
                // Varints of the format are int64: the bits are the value.
                (9, Value::Varint(value)) => sections.time_ns = value.cast_signed(),
                (10, Value::Varint(value)) => sections.duration_ns = value.cast_signed(),
                (12, Value::Varint(value)) => sections.period = value.cast_signed(),
                (13, Value::Varint(value)) => sections.comment(value),
                (13, Value::Bytes(packed)) => {
                    let mut varints = Fields::new(packed);
                    std::iter::from_fn(|| varints.varint())
                        .take(COMMENTS_MAX)
                        .for_each(|at| sections.comment(at));
                }
                (14, Value::Varint(value)) => sections.default_sample_type = value.cast_signed(),
                _ => {}
            }
        }
        if sections.sample_types.is_empty() {
            return Err(DecodeError::NotPprof);
        }
        Ok(sections)
    }

    fn comment(&mut self, text: u64) {
        if self.comments.len() < COMMENTS_MAX {
            self.comments.push(text.cast_signed());
        }
    }

    /// What our own comments say is missing.
    pub(super) fn losses(&self) -> Losses {
        let mut losses = Losses::default();
        for comment in &self.comments {
            let text = self.text(*comment);
            let Some((what, n)) = text.split_once(": ") else { continue };
            let Ok(n) = n.parse() else { continue };
            match what {
                "lost samples" => losses.lost = n,
                "truncated stacks" => losses.truncated = n,
                _ => {}
            }
        }
        losses
    }

    /// A string of the table; bytes that are not UTF-8 are replaced, an index out of range is empty.
    pub(super) fn text(&self, index: i64) -> Cow<'a, str> {
        let raw = usize::try_from(index).ok().and_then(|at| self.strings.get(at)).copied();
        String::from_utf8_lossy(raw.unwrap_or_default())
    }
}

fn keep<'a>(
    list: &mut Vec<&'a [u8]>,
    raw: &'a [u8],
    max: usize,
    what: &'static str,
) -> Result<(), DecodeError> {
    if list.len() >= max {
        return Err(DecodeError::TooLarge(what));
    }
    if raw.len() > MESSAGE_BYTES_MAX {
        return Err(DecodeError::TooLarge("message bytes"));
    }
    list.push(raw);
    Ok(())
}

/// One field of a message.
pub(super) enum Value<'a> {
    Varint(u64),
    Bytes(&'a [u8]),
    /// Four or eight bytes; the format has none that we read.
    Fixed,
}

/// The fields of a message in order; ends after the first error.
pub(super) struct Fields<'a> {
    left: &'a [u8],
}

impl<'a> Fields<'a> {
    pub(super) fn new(message: &'a [u8]) -> Fields<'a> {
        Fields { left: message }
    }

    fn varint(&mut self) -> Option<u64> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let (byte, rest) = self.left.split_first()?;
            self.left = rest;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    fn bytes(&mut self, length: u64) -> Option<&'a [u8]> {
        let (bytes, rest) = self.left.split_at_checked(usize::try_from(length).ok()?)?;
        self.left = rest;
        Some(bytes)
    }

    fn field(&mut self) -> Option<(u64, Value<'a>)> {
        let key = self.varint()?;
        let value = match key & 7 {
            0 => Value::Varint(self.varint()?),
            1 => self.bytes(8).map(|_| Value::Fixed)?,
            2 => {
                let length = self.varint()?;
                Value::Bytes(self.bytes(length)?)
            }
            5 => self.bytes(4).map(|_| Value::Fixed)?,
            // Groups have not been written by anybody since 2008.
            _ => return None,
        };
        Some((key >> 3, value))
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u64, Value<'a>), DecodeError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.left.is_empty() {
            return None;
        }
        let field = self.field().ok_or(DecodeError::NotPprof);
        if field.is_err() {
            self.left = &[];
        }
        Some(field)
    }
}
