//! The two headers of the ring's files: of a segment and of a block.
//!
//! Owns their layout and their checksums. Refuses what it does not know: another mark, another version, a length that no
//! writer of ours gives, a block that does not follow the one before it.

use flate2::Crc;
use model::time::Stamp;

use super::{Boot, VERSION};

/// Begins each segment.
const MAGIC: &[u8; 8] = b"BACKRING";
/// Begins each block.
const MARK: u32 = 0x4b4c_4257;
/// Bytes of a segment's header.
pub(super) const SEGMENT_BYTES: usize = 64;
/// Bytes of a block's header before its windows.
const HEAD_BYTES: usize = 48;
/// Bytes for each window in it.
const WINDOW_BYTES: usize = 32;
/// Bytes of the checksum after them.
const SUM_BYTES: usize = 4;
/// Windows in one block: more than ten minutes of them are never held back.
pub(super) const WINDOWS_MAX: usize = 64;
/// Bytes of the longest header.
pub(super) const HEADER_BYTES_MAX: usize = HEAD_BYTES + WINDOWS_MAX * WINDOW_BYTES + SUM_BYTES;
/// Bytes of one part of a block, packed or plain: what a writer puts into one is an eighth of it.
pub(super) const PART_BYTES_MAX: u32 = 8 << 20;

/// Why a file is no segment of the ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NotASegment {
    /// It is too short, or begins otherwise, or its checksum is another.
    Damaged,
    /// Written by another version.
    Version(u16),
}

/// What a segment says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Segment {
    pub(super) boot: Boot,
    /// A random number, the same in all segments of one run of the writer.
    pub(super) life: u64,
    /// When its first window began.
    pub(super) at: Stamp,
}

impl Segment {
    pub(super) fn write(&self) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&[0; 2]);
        out.extend_from_slice(&self.boot.0);
        for number in [self.life, self.at.wall_ns, self.at.mono_ns, 0] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        let sum = checksum(&out);
        out.extend_from_slice(&sum.to_le_bytes());
        out
    }

    pub(super) fn read(bytes: &[u8]) -> Result<Segment, NotASegment> {
        let damaged = NotASegment::Damaged;
        if bytes.get(..MAGIC.len()) != Some(MAGIC) {
            return Err(damaged);
        }
        // The version first: another one may have another layout.
        let version = bytes.get(8..10).and_then(|two| two.try_into().ok()).map(u16::from_le_bytes);
        match version {
            Some(VERSION) => {}
            Some(other) => return Err(NotASegment::Version(other)),
            None => return Err(damaged),
        }
        let summed = bytes.get(..SEGMENT_BYTES - SUM_BYTES).ok_or(damaged)?;
        if short(bytes, SEGMENT_BYTES - SUM_BYTES) != Some(checksum(summed)) {
            return Err(damaged);
        }
        let boot = bytes.get(12..28).and_then(|id| id.try_into().ok()).map(Boot).ok_or(damaged)?;
        let (life, wall, mono) = (long(bytes, 28), long(bytes, 36), long(bytes, 44));
        let (Some(life), Some(wall_ns), Some(mono_ns)) = (life, wall, mono) else { return Err(damaged) };
        Ok(Segment { boot, life, at: Stamp { mono_ns, wall_ns } })
    }
}

/// One window, as its block's header tells of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Listed {
    /// When it began.
    pub(super) at: Stamp,
    pub(super) duration_ns: u64,
    /// Where its samples begin in the block's plain samples.
    pub(super) offset: u32,
}

/// One part of a block as it lies in the file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Part {
    pub(super) packed: u32,
    pub(super) plain: u32,
    pub(super) sum: u32,
}

/// What a block says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Block {
    /// Its place in the segment.
    pub(super) ordinal: u32,
    /// The place of its first window in the segment.
    pub(super) first: u32,
    pub(super) dictionary: Part,
    pub(super) samples: Part,
    /// The checksum of the header before, the segment's for the first: blocks of two segments cannot be mixed up.
    pub(super) before: u32,
    pub(super) windows: Vec<Listed>,
}

impl Block {
    pub(super) fn write(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(HEADER_BYTES_MAX);
        let count = u32::try_from(self.windows.len()).unwrap_or(u32::MAX);
        let Block { ordinal, first, dictionary, samples, before, windows } = self;
        let head = [MARK, *ordinal, count, *first, dictionary.packed, dictionary.plain];
        let rest = [samples.packed, samples.plain, dictionary.sum, samples.sum, *before, 0];
        for number in head.into_iter().chain(rest) {
            out.extend_from_slice(&number.to_le_bytes());
        }
        for window in windows {
            for number in [window.at.wall_ns, window.at.mono_ns, window.duration_ns, window.offset.into()] {
                out.extend_from_slice(&number.to_le_bytes());
            }
        }
        let sum = checksum(&out);
        out.extend_from_slice(&sum.to_le_bytes());
        out
    }

    /// Reads a header at the beginning of `bytes`; `None` when there is none.
    pub(super) fn read(bytes: &[u8]) -> Option<Block> {
        let count = usize::try_from(short(bytes, 8)?).ok().filter(|count| *count <= WINDOWS_MAX)?;
        let summed = bytes.get(..HEAD_BYTES + count * WINDOW_BYTES)?;
        if short(bytes, 0)? != MARK || short(bytes, summed.len())? != checksum(summed) {
            return None;
        }
        let part = |at: usize, sum: usize| {
            let part =
                Part { packed: short(bytes, at)?, plain: short(bytes, at + 4)?, sum: short(bytes, sum)? };
            (part.packed <= PART_BYTES_MAX && part.plain <= PART_BYTES_MAX).then_some(part)
        };
        let window = |at: usize| {
            let at = HEAD_BYTES + at * WINDOW_BYTES;
            let stamp = Stamp { wall_ns: long(bytes, at)?, mono_ns: long(bytes, at + 8)? };
            let offset = u32::try_from(long(bytes, at + 24)?).ok()?;
            Some(Listed { at: stamp, duration_ns: long(bytes, at + 16)?, offset })
        };
        Some(Block {
            ordinal: short(bytes, 4)?,
            first: short(bytes, 12)?,
            dictionary: part(16, 32)?,
            samples: part(24, 36)?,
            before: short(bytes, 40)?,
            windows: (0..count).map(window).collect::<Option<_>>()?,
        })
    }

    /// Bytes of the header.
    pub(super) fn header_bytes(&self) -> u64 {
        wide(HEAD_BYTES + self.windows.len() * WINDOW_BYTES + SUM_BYTES)
    }

    /// Bytes of all of it.
    pub(super) fn bytes(&self) -> u64 {
        self.header_bytes() + u64::from(self.dictionary.packed) + u64::from(self.samples.packed)
    }
}

/// CRC-32: finds any burst of up to 32 bits, which is what disks and torn writes do.
pub(super) fn checksum(bytes: &[u8]) -> u32 {
    let mut crc = Crc::new();
    crc.update(bytes);
    crc.sum()
}

/// The checksum at the end of a header.
pub(super) fn last_sum(header: &[u8]) -> u32 {
    header.len().checked_sub(SUM_BYTES).and_then(|at| short(header, at)).unwrap_or(0)
}

pub(super) fn wide(size: usize) -> u64 {
    u64::try_from(size).unwrap_or(u64::MAX)
}

fn short(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at.checked_add(4)?)?.try_into().ok().map(u32::from_le_bytes)
}

fn long(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..at.checked_add(8)?)?.try_into().ok().map(u64::from_le_bytes)
}
