//! Offsets over a restart of the agent: one small JSON file, written beside and renamed. Owns its format; refuses a version it
//! does not know (files then begin as on a first start).
//!
//! It is not fsynced: it shares etcd's disk, and a checkpoint lost with the power costs lines that are sent twice, never lines
//! that are lost.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::logs::file::FileId;

const VERSION: u32 = 1;
/// Larger than any checkpoint of the files that may be open.
const BYTES_MAX: u64 = 4 * 1024 * 1024;

/// How far one file is safe.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Mark {
    /// Name it was opened under.
    pub path: PathBuf,
    /// Which file it was.
    pub id: FileId,
    /// Start of the first line that is not safe yet.
    pub offset: u64,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Saved {
    version: u32,
    files: Vec<Mark>,
}

/// What was saved; nothing where there is nothing, or nothing that can be read.
pub(super) fn load(path: &Path) -> Vec<Mark> {
    let fits = fs::metadata(path).is_ok_and(|meta| meta.is_file() && meta.len() <= BYTES_MAX);
    let saved = fits
        .then(|| fs::read(path).ok().and_then(|bytes| serde_json::from_slice::<Saved>(&bytes).ok()))
        .flatten()
        .unwrap_or_default();
    if saved.version == VERSION { saved.files } else { Vec::new() }
}

/// Replaces what was saved, as a whole; readable by its owner alone.
pub(super) fn save(path: &Path, files: Vec<Mark>) -> io::Result<()> {
    let bytes = serde_json::to_vec(&Saved { version: VERSION, files })?;
    let beside = path.with_extension("new");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
    file.write_all(&bytes)?;
    fs::rename(&beside, path)
}
