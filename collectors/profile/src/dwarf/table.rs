//! The unwinding table of one file: what it says of an instruction.
//!
//! Owns the ways to an entry: the sorted index that linkers make of `.eh_frame`, or one made here where there is none.
//! Entries are read one at a time, never a whole section. An entry is untrusted: it is bounded in bytes, evaluated once
//! from its beginning to its end, and where it makes no sense there is no rule. Refuses what needs other registers than
//! those in a sample.

mod entry;
mod index;

use crate::symbols::elf::{Elf, ElfError, Machine, Mapped};
use crate::symbols::file::{ReadAt, ReadError, Windows};

use super::rule::Rule;
pub(super) use entry::Evaluator;
use index::Index;

/// Bytes that one look-up reads: an entry, what it shares with others, and the way to both. Four windows are usual.
const LOOKUP_BYTES_MAX: u64 = 1 << 20;
/// What an entry costs beside reading it: an instruction of one byte may copy a row of the table.
const EVALUATION_COST: u64 = 16;
/// `mov $15, %rax; syscall`: what a signal handler returns to where the C library has no table for it (musl), by the
/// kernel's rule that the frame it made lies at the stack pointer.
const SIGNAL_RETURN: &[u8] = &[0x48, 0xc7, 0xc0, 0x0f, 0, 0, 0, 0x0f, 0x05];

/// Why a file has no table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TableError {
    /// No file to read headers of.
    #[error("{0}")]
    Elf(#[from] ElfError),
    /// It could not be read.
    #[error("{0}")]
    Read(#[from] ReadError),
    /// For another processor.
    #[error("code for another processor")]
    Foreign,
}

/// The table of one file.
#[derive(Debug)]
pub struct Table<R> {
    file: Windows<R>,
    elf: Elf,
    indexes: [Index; 2],
}

/// What a look-up took, in bytes of about equal weight.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Cost(pub(super) u64);

impl<R: ReadAt> Table<R> {
    /// Finds the table of a file whose headers have been read.
    ///
    /// # Errors
    /// See [`TableError`]. A file without a table is none: it knows no rule.
    pub fn new(mut file: Windows<R>, elf: Elf) -> Result<Table<R>, TableError> {
        let ours = if cfg!(target_arch = "x86_64") { Machine::X86_64 } else { Machine::Arm64 };
        if elf.machine != ours {
            return Err(TableError::Foreign);
        }
        let indexes = Index::find(&mut file, &elf)?;
        Ok(Table { file, elf, indexes })
    }

    /// As [`Table::new`], headers included.
    ///
    /// # Errors
    /// See [`TableError`].
    pub fn open(source: R) -> Result<Table<R>, TableError> {
        let mut file = Windows::new(source)?;
        let elf = Elf::read(&mut file)?;
        Table::new(file, elf)
    }

    /// Whether it knows anything at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.indexes.iter().all(|index| matches!(index, Index::None))
    }

    /// Bytes held.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.file.held() + self.indexes.iter().map(Index::bytes).sum::<usize>()
    }

    /// The first address of an entry, by its number: for tests and measurements, which ask all over a file.
    #[must_use]
    pub fn start(&mut self, number: u64) -> Option<u64> {
        self.file.allow(LOOKUP_BYTES_MAX);
        self.indexes.iter().find_map(|index| index.start(&mut self.file, number))
    }

    /// The rule for the instruction at an offset of the file, and what it cost to find.
    pub(super) fn rule(&mut self, offset: u64, evaluator: &mut Evaluator) -> (Rule, Cost) {
        self.file.allow(LOOKUP_BYTES_MAX);
        let rule = self.look_up(offset, evaluator);
        let read = LOOKUP_BYTES_MAX - self.file.left();
        (rule.unwrap_or_default(), Cost(read / 4 + evaluator.evaluated() * EVALUATION_COST))
    }

    fn look_up(&mut self, offset: u64, evaluator: &mut Evaluator) -> Option<Rule> {
        let address = self.elf.code_address(Mapped { start: 0, offset }, 0)?;
        for index in &self.indexes {
            if let Some(entry) = index.entry(&mut self.file, &self.elf, address)
                && let Some(rule) = evaluator.rule(&mut self.file, &entry, address)
            {
                return Some(rule);
            }
        }
        // What was looked for is the call before the instruction that is returned to; or, within the system call, the
        // end of the code.
        let length = u64::try_from(SIGNAL_RETURN.len()).ok()?;
        let mut is_at = |offset: Option<u64>| {
            let code = offset.and_then(|offset| self.file.bytes(offset, SIGNAL_RETURN.len()).ok());
            code == Some(SIGNAL_RETURN)
        };
        let is_return = is_at(offset.checked_add(1)) || is_at(offset.checked_sub(length));
        (self.elf.machine == Machine::X86_64 && is_return).then(entry::signal_return)
    }
}
