//! The ring on disk of what ran, window by window: a diff needs a "before" that is older than the trigger, and older than
//! the agent that asks.
//!
//! Owns the files, their bounds, and what of them a reader is given. Refuses to read a clock and to judge: windows come
//! with their time, and what changed is the processors' to say.
//!
//! # Files
//! One directory (0700) of segments (0600) `NNNNNNNNNN.ring`, numbers ascending, and `lock`, which the one writer holds by
//! flock. A segment belongs to one run of the writer and is closed after an hour, 2 MiB, or when its dictionaries are full.
//! The oldest are removed when all would exceed 64 MiB or the newest window of one is 24 hours old. All numbers in headers
//! are little endian.
//! ```text
//! segment  "BACKRING", version u16, 0 u16, boot id 16 bytes, run u64, first window's wall ns u64 and monotonic ns u64,
//!          0 u64, CRC-32 of that; then blocks
//! block    "WBLK", ordinal u32, windows u32, ordinal of its first window u32, dictionary {packed bytes, plain bytes} u32,
//!          samples {packed bytes, plain bytes} u32, CRC-32 of packed dictionary, of packed samples, of the header before
//!          (the segment's for the first), 0 u32; for each window wall ns, monotonic ns, length ns, place in the samples,
//!          u64 each; CRC-32 of that; then two zstd frames with checksums: dictionary and samples
//! ```
//! Inside are LEB128 numbers, signed ones zigzag, in columns; "Δ" is signed, from the one before in the same column of the
//! same block. The dictionary adds to those of all blocks before: count of texts, their lengths, their bytes; mappings
//! (path, the three build ids, start, end − start, offset); functions (Δ name), (Δ file), (start line); frames (Δ function),
//! (mapping + 1 or 0), (Δ address), (line), (inlined + 2 × kind); stack nodes (own number − parent), (Δ frame), where a parent is a node's
//! number + 1, or 0 at the root, and so is a stack; owners (Δ pid, process, thread, container, pod, namespace, CPU + 1).
//! A window is: period, lost samples, samples left out, count of samples, (Δ owner + 1), (Δ stack), (count), (value −
//! count × period).
//!
//! # Torn writes, other versions
//! A block is written by one call at a place the writer remembers, and is read only when all of it is there and its sums are
//! right; what is torn is written over, or ends the segment. A reader takes no lock. A block of which a bit has changed ends its
//! segment too, since what follows counts on its dictionary: counted, at most one segment of an hour. Version 1 is the only
//! one there is; a segment of another is left alone by readers, who say so, and removed in its turn by the writer.

use std::time::Duration;

use model::profile::Stacks;

pub mod account;
pub mod baseline;
mod block;
mod dictionary;
mod directory;
mod encode;
mod file;
#[cfg(fuzzing)]
pub mod fuzzing;
mod interner;
mod merge;
pub mod reader;
mod sample;
mod segment;
pub mod selection;
mod tables;
mod wire;
pub mod writer;

/// Grows when a byte changes its meaning; a version that is not known is refused, not guessed.
pub const VERSION: u16 = 1;

/// One window of on-CPU samples: ten seconds, all processes.
#[derive(Clone, Debug, PartialEq)]
pub struct Window {
    /// What ran; its kind is `Cpu`. Owners without a CPU cost a fraction of those with one.
    pub stacks: Stacks,
    /// Samples that the kernel had no room for.
    pub lost: u64,
}

/// A boot of the machine: monotonic times compare within one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Boot(pub [u8; 16]);

impl Boot {
    /// From the text of /proc/sys/kernel/random/boot_id: 32 hexadecimal digits, dashes anywhere.
    #[must_use]
    pub fn parse(text: &str) -> Option<Boot> {
        let digits: String = text.trim().chars().filter(|letter| *letter != '-').collect();
        (digits.len() == 32)
            .then(|| u128::from_str_radix(&digits, 16).ok())
            .flatten()
            .map(|id| Boot(id.to_be_bytes()))
    }
}

/// Bounds of the ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of all segments, blocks of the file system counted whole.
    pub bytes: u64,
    /// A segment goes when its newest window is as old as this.
    pub age: Duration,
    /// Windows are written together when they span this, ten seconds at least: the most that the end of the process loses.
    pub group: Duration,
    /// fsync this often, a minute at least. `None` leaves it to the kernel, which writes back within half a minute; what a
    /// fsync would save from a power cut is not worth a commit of the journal that etcd waits for.
    pub sync: Option<Duration>,
    /// Per cent of the file system that stay free, within the two bounds that follow.
    pub free_percent: u64,
    /// Bytes that stay free in any case.
    pub free_bytes_min: u64,
    /// More bytes are never asked to stay free: beside a large disk the ring is nothing, and five per cent of one are many
    /// gigabytes.
    pub free_bytes_max: u64,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            bytes: 64 << 20,
            age: Duration::from_hours(24),
            group: Duration::from_mins(1),
            sync: None,
            free_percent: 5,
            free_bytes_min: 256 << 20,
            free_bytes_max: 2 << 30,
        }
    }
}

#[cfg(test)]
mod tests;
