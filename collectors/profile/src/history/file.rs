//! A segment as a reader finds it: its name, its bytes, the headers in it.
//!
//! Owns where a segment ends: after its last whole block. Refuses to follow links and to open what is no file, and never
//! holds more of one than a block.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use super::block::{self, Block, HEADER_BYTES_MAX, NotASegment, Part, SEGMENT_BYTES, wide};

/// Blocks of one segment: an hour has 60, or 360 when each window is a block of its own.
const BLOCKS_MAX: u32 = 8_192;
/// Digits of a name.
const DIGITS: usize = 10;

/// The name of a segment.
pub(super) fn name(id: u32) -> String {
    format!("{id:010}.ring")
}

/// The number in a name, if it is one that we give.
pub(super) fn id(name: &str) -> Option<u32> {
    let digits = name.strip_suffix(".ring").filter(|digits| digits.len() == DIGITS)?;
    digits.bytes().all(|digit| digit.is_ascii_digit()).then(|| digits.parse().ok()).flatten()
}

/// Bytes of a segment: in a file, in memory, or the first in one and the last in the other.
#[derive(Debug)]
pub(super) struct Source {
    file: Option<File>,
    length: u64,
    /// From where on, and the bytes.
    tail: Option<(u64, Vec<u8>)>,
}

/// The headers of one segment.
#[derive(Clone, Debug)]
pub(super) struct Index {
    pub(super) header: block::Segment,
    /// Where each begins.
    pub(super) blocks: Vec<(u64, Block)>,
    /// Bytes after the last whole block.
    pub(super) torn: u64,
}

impl Source {
    /// Opens a file, with what is not in it yet.
    pub(super) fn open(path: &Path, tail: Option<(u64, Vec<u8>)>) -> io::Result<Source> {
        let mut options = OpenOptions::new();
        // A pipe of that name would wait for its writer.
        let file = options.read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path)?;
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(io::ErrorKind::InvalidData.into());
        }
        Ok(Source { file: Some(file), length: metadata.len(), tail })
    }

    /// All in memory.
    pub(super) fn memory(bytes: Vec<u8>) -> Source {
        Source { file: None, length: 0, tail: Some((0, bytes)) }
    }

    /// Made, and nothing is in it yet.
    pub(super) fn is_empty(&self) -> bool {
        self.length() == 0
    }

    fn length(&self) -> u64 {
        self.tail.as_ref().map_or(self.length, |(from, bytes)| from.saturating_add(wide(bytes.len())))
    }

    /// At most so many bytes from there on; fewer at the end.
    fn read(&self, at: u64, length: usize) -> Option<Vec<u8>> {
        if let Some((from, bytes)) = &self.tail
            && at >= *from
        {
            let at = usize::try_from(at - from).ok()?;
            let end = at.saturating_add(length).min(bytes.len());
            return bytes.get(at..end).map(<[u8]>::to_vec);
        }
        let end = self.tail.as_ref().map_or(self.length, |(from, _)| *from);
        let length = length.min(usize::try_from(end.saturating_sub(at)).ok()?);
        let mut bytes = vec![0; length];
        self.file.as_ref()?.read_exact_at(&mut bytes, at).ok()?;
        Some(bytes)
    }

    /// Reads all headers.
    pub(super) fn index(&self) -> Result<Index, NotASegment> {
        let first = self.read(0, SEGMENT_BYTES).ok_or(NotASegment::Damaged)?;
        let header = block::Segment::read(&first)?;
        let mut before = block::last_sum(&first);
        let mut at = wide(SEGMENT_BYTES);
        let (mut blocks, mut windows) = (Vec::new(), 0_u32);
        for ordinal in 0..BLOCKS_MAX {
            let Some(bytes) = self.read(at, HEADER_BYTES_MAX) else { break };
            let Some(block) = Block::read(&bytes) else { break };
            let end = at.saturating_add(block.bytes());
            let follows = (block.ordinal, block.first, block.before) == (ordinal, windows, before);
            if !follows || end > self.length() {
                break;
            }
            let header_bytes = usize::try_from(block.header_bytes()).unwrap_or(0);
            before = block::last_sum(bytes.get(..header_bytes).unwrap_or_default());
            windows = windows.saturating_add(u32::try_from(block.windows.len()).unwrap_or(0));
            blocks.push((at, block));
            at = end;
        }
        Ok(Index { header, blocks, torn: self.length().saturating_sub(at) })
    }

    /// The plain dictionary of a block; `None` when it is not what was written.
    pub(super) fn dictionary(&self, at: u64, block: &Block) -> Option<Vec<u8>> {
        self.part(at + block.header_bytes(), block.dictionary)
    }

    /// The plain samples of a block.
    pub(super) fn samples(&self, at: u64, block: &Block) -> Option<Vec<u8>> {
        self.part(at + block.header_bytes() + u64::from(block.dictionary.packed), block.samples)
    }

    fn part(&self, at: u64, part: Part) -> Option<Vec<u8>> {
        let packed = self.read(at, usize::try_from(part.packed).ok()?)?;
        if packed.len() != usize::try_from(part.packed).ok()? || block::checksum(&packed) != part.sum {
            return None;
        }
        let length = usize::try_from(part.plain).ok()?;
        let plain = zstd::bulk::decompress(&packed, length).ok()?;
        (plain.len() == length).then_some(plain)
    }
}
