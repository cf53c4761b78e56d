//! The one writer of a ring.
//!
//! Owns the segment being filled, when windows are written, and the memory that stands in for a disk that cannot be
//! written: at most 4 MiB in all. Refuses to fail: a window is on disk, in memory or counted.

use std::path::Path;

use model::profile::ProfileKind;
use model::time::{SECOND_NS, Stamp};

use super::account::{Account, Trouble};
use super::block::{self, Listed, WINDOWS_MAX};
use super::dictionary::Dictionary;
use super::directory::{self, Directory};
use super::encode::{DICTIONARY_BYTES_MAX, Encoder};
use super::segment::Open;
use super::{Boot, Limits, Window};

/// Length of a segment in time: what a changed bit can cost.
const SEGMENT_NS: u64 = 3_600 * SECOND_NS;
/// And in bytes: a thirty-second of the ring, so that making room takes little at a time.
const SEGMENT_BYTES_MAX: u64 = 2 << 20;
/// Windows of a segment, ten seconds each, are 360; whoever gives shorter ones gets more segments.
const SEGMENT_WINDOWS_MAX: u32 = 4_096;
/// With so much in the dictionaries a new segment begins, so that each window finds room for at least as much again.
const DICTIONARY_BYTES_FULL: usize = DICTIONARY_BYTES_MAX / 2;
/// Plain samples of a block: with more they are written although their time has not come.
const PLAIN_BYTES_MAX: usize = 256 << 10;
/// Bytes that wait for a disk, for each of two segments. A minute takes 5 to 50 KiB.
const WAITING_BYTES_MAX: usize = 384 << 10;
/// The least time between two writes.
const GROUP_MIN_NS: u64 = 10 * SECOND_NS;

/// Why a ring could not be opened for writing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// Its lock is held.
    #[error("another agent writes this ring; stop it, or give this one a state directory of its own")]
    Locked,
}

/// What a reader in the same process is given beside the files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unwritten {
    pub(super) id: Option<u32>,
    pub(super) at: u64,
    pub(super) bytes: Vec<u8>,
}

/// Appends windows.
#[derive(Debug)]
pub struct Writer {
    directory: Directory,
    boot: Boot,
    life: u64,
    group_ns: u64,
    bytes_max: u64,
    dictionary: Dictionary,
    segment: Option<Open>,
    /// A full segment that could not be written; the next one that is full takes its place.
    stalled: Option<Open>,
    /// Windows since the last block, and their bytes.
    listed: Vec<Listed>,
    plain: Vec<u8>,
    trouble: Option<Trouble>,
    account: Account,
}

impl Writer {
    /// Takes the directory, made if it is missing. What the disk refuses is counted and tried again with each group of
    /// windows; until then they are held in memory.
    ///
    /// # Errors
    /// Another writer has it.
    pub fn open(path: &Path, limits: Limits, boot: Boot) -> Result<Writer, OpenError> {
        let mut writer = Writer {
            directory: Directory::new(path, limits),
            boot,
            life: directory::random(),
            group_ns: u64::try_from(limits.group.as_nanos()).unwrap_or(u64::MAX).max(GROUP_MIN_NS),
            bytes_max: SEGMENT_BYTES_MAX.min(limits.bytes / 32),
            dictionary: Dictionary::default(),
            segment: None,
            stalled: None,
            listed: Vec::new(),
            plain: Vec::new(),
            trouble: None,
            account: Account::default(),
        };
        match writer.directory.ready() {
            Ok(()) => {}
            Err(Trouble::Locked) => return Err(OpenError::Locked),
            Err(trouble) => writer.failed(trouble),
        }
        Ok(writer)
    }

    /// Adds one window, later than the one before.
    pub fn append(&mut self, window: &Window) {
        let stacks = &window.stacks;
        if stacks.kind != ProfileKind::Cpu {
            self.account.refused_windows += 1;
            return;
        }
        if self.is_full(stacks.at) {
            self.flush();
            self.close();
        }
        let offset = u32::try_from(self.plain.len()).unwrap_or(u32::MAX);
        let (mut samples, cut) = Encoder::new(&mut self.dictionary, stacks).encode(window);
        samples.write(&mut self.plain);
        self.listed.push(Listed { at: stacks.at, duration_ns: stacks.duration_ns, offset });
        self.account.windows += 1;
        self.account.left_out_samples = self.account.left_out_samples.saturating_add(samples.left_out);
        self.account.cut_stacks += cut;
        let end = stacks.at.plus_ns(stacks.duration_ns);
        let spanned = self.listed.first().map_or(0, |first| end.since_ns(first.at));
        if spanned >= self.group_ns || self.listed.len() >= WINDOWS_MAX || self.plain.len() >= PLAIN_BYTES_MAX
        {
            self.flush();
        }
    }

    /// Writes what waits, at a shutdown for example.
    pub fn flush(&mut self) {
        self.seal();
        match self.store() {
            Ok(()) => self.trouble = None,
            Err(trouble) => self.failed(trouble),
        }
        if self.segment.as_ref().is_some_and(|segment| segment.unwritten().1.len() > WAITING_BYTES_MAX) {
            self.close();
        }
    }

    /// What a reader in this process needs to see the windows that are not on disk.
    pub fn unwritten(&mut self) -> Vec<Unwritten> {
        self.seal();
        let waiting = self.stalled.iter().chain(&self.segment).filter(|segment| segment.has_unwritten());
        waiting
            .map(|segment| {
                let (at, bytes) = segment.unwritten();
                Unwritten { id: segment.id(), at, bytes: bytes.to_vec() }
            })
            .collect()
    }

    /// What became of the windows.
    #[must_use]
    pub fn account(&self) -> &Account {
        &self.account
    }

    /// Why windows are in memory only, at this time; `None` when they reach the disk.
    #[must_use]
    pub fn trouble(&self) -> Option<Trouble> {
        self.trouble
    }

    /// The run of this writer, as in [`super::reader::Placed::life`].
    #[must_use]
    pub fn life(&self) -> u64 {
        self.life
    }

    /// The directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Bytes in use between two windows; with room to grow at most twice that is allocated.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        let waiting = self.stalled.iter().chain(&self.segment).map(|segment| segment.unwritten().1.len());
        self.dictionary.bytes() + self.plain.capacity() + waiting.sum::<usize>()
    }

    fn is_full(&self, at: Stamp) -> bool {
        self.segment.as_ref().is_some_and(|segment| {
            at.since_ns(segment.header().at) >= SEGMENT_NS
                || segment.bytes() >= self.bytes_max
                || segment.windows() >= SEGMENT_WINDOWS_MAX
        }) || self.dictionary.bytes() >= DICTIONARY_BYTES_FULL
    }

    /// Makes a block of the windows since the last.
    fn seal(&mut self) {
        let Some(first) = self.listed.first() else { return };
        let header = block::Segment { boot: self.boot, life: self.life, at: first.at };
        let segment = self.segment.get_or_insert_with(|| Open::new(header));
        let mut dictionary = Vec::new();
        self.dictionary.write(&mut dictionary);
        let windows = std::mem::take(&mut self.listed);
        let count = block::wide(windows.len());
        if segment.push(&dictionary, &self.plain, windows).is_err() {
            // zstd found no memory. What would follow counts on this block's dictionary, so a new segment begins.
            self.account.lost_windows += count;
            self.failed(Trouble::Other);
            self.close();
        }
        self.plain.clear();
    }

    fn store(&mut self) -> Result<(), Trouble> {
        self.directory.ready()?;
        let Some(end) = self.segment.as_ref().or(self.stalled.as_ref()).map(Open::end) else { return Ok(()) };
        let now = (self.boot, end);
        if let Some(stalled) = &mut self.stalled {
            match self.directory.write(stalled, now, &mut self.account) {
                Ok(()) => {}
                Err(Trouble::Removed) => self.account.lost_windows += stalled.unwritten_windows(),
                Err(trouble) => return Err(trouble),
            }
            self.stalled = None;
            self.directory.ready()?;
        }
        let Some(segment) = &mut self.segment else { return Ok(()) };
        let outcome = self.directory.write(segment, now, &mut self.account);
        if outcome == Err(Trouble::Removed) {
            // What waits counts on a dictionary that is gone.
            self.account.lost_windows += segment.unwritten_windows();
            self.segment = None;
            self.dictionary = Dictionary::default();
        }
        outcome
    }

    /// Ends the segment; what of it is not written waits, and what waited before is lost.
    fn close(&mut self) {
        self.dictionary = Dictionary::default();
        let Some(full) = self.segment.take().filter(Open::has_unwritten) else { return };
        if let Some(lost) = self.stalled.replace(full) {
            self.account.lost_windows += lost.unwritten_windows();
        }
    }

    fn failed(&mut self, trouble: Trouble) {
        *self.account.troubles.entry(trouble).or_default() += 1;
        self.trouble = Some(trouble);
    }
}
