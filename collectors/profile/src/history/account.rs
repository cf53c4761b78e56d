//! What became of the windows: written, held in memory, left out, lost, and why.
//!
//! Owns the words that counters are labelled with.

use std::collections::BTreeMap;
use std::io;

/// Why windows are held in memory instead of on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum Trouble {
    /// No space, or no more of a quota.
    #[error("no space left")]
    Full,
    /// Writing would take the last of the file system.
    #[error("too little free space to take more of it")]
    Guard,
    /// The file system is read-only.
    #[error("the file system is read-only")]
    ReadOnly,
    /// Permissions.
    #[error("permission denied")]
    Denied,
    /// Another writer has the lock.
    #[error("another agent writes this ring")]
    Locked,
    /// Somebody has removed the files.
    #[error("the files have been removed")]
    Removed,
    /// Anything else.
    #[error("input or output failed")]
    Other,
}

impl Trouble {
    /// The label of counters.
    #[must_use]
    pub fn reason(self) -> &'static str {
        match self {
            Trouble::Full => "no_space",
            Trouble::Guard => "free_space_guard",
            Trouble::ReadOnly => "read_only",
            Trouble::Denied => "permission",
            Trouble::Locked => "locked",
            Trouble::Removed => "removed",
            Trouble::Other => "io",
        }
    }
}

impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Trouble {
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Trouble::Full,
            io::ErrorKind::ReadOnlyFilesystem => Trouble::ReadOnly,
            io::ErrorKind::PermissionDenied => Trouble::Denied,
            _ => Trouble::Other,
        }
    }
}

/// Since the writer was opened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Account {
    /// Windows taken.
    pub windows: u64,
    /// Windows of another kind than on-CPU time.
    pub refused_windows: u64,
    /// Windows that never reached the disk and are no longer in memory.
    pub lost_windows: u64,
    /// Samples, by count, without room in their window or its dictionaries.
    pub left_out_samples: u64,
    /// Stacks cut at the root's end.
    pub cut_stacks: u64,
    /// Blocks on disk.
    pub blocks: u64,
    /// Bytes on disk.
    pub bytes: u64,
    /// Times that the disk was made to have them.
    pub syncs: u64,
    /// Segments removed because of their age.
    pub removed_age: u64,
    /// Segments removed because of their bytes or their number.
    pub removed_bytes: u64,
    /// Attempts to write that failed.
    pub troubles: BTreeMap<Trouble, u64>,
}

impl Account {
    /// What went wrong or was given up, by reason.
    #[must_use]
    pub fn losses(&self) -> Vec<(&'static str, u64)> {
        let own = [
            ("wrong_kind", self.refused_windows),
            ("lost_window", self.lost_windows),
            ("left_out_sample", self.left_out_samples),
            ("cut_stack", self.cut_stacks),
        ];
        own.into_iter()
            .chain(self.troubles.iter().map(|(trouble, times)| (trouble.reason(), *times)))
            .collect()
    }
}
