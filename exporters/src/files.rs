//! Artefacts for people and their tools: pprof files, folded stacks, one self-contained flame graph page.
//!
//! Owns what a capture looks like on disk: names, permissions, the bound on all of it. Refuses to follow a symbolic link
//! and to leave half a file behind.

pub mod flame;
pub mod folded;
pub mod pprof;
mod tree;

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use model::profile::{ProfileKind, ProfileSet, Stacks};

/// Bytes of all captures of one artefact directory; a capture of etcd takes about 1 MiB.
pub const ARTEFACT_BYTES_MAX: u64 = 128 << 20;
/// Entries looked at in one directory: more than that were not put there by us.
const ENTRIES_MAX: usize = 10_000;

/// Why artefacts could not be written.
#[derive(Debug, thiserror::Error)]
pub enum FilesError {
    /// The directory is a symbolic link or no directory.
    #[error("{0} is not a directory of its own")]
    NotADirectory(PathBuf),
    /// A capture's name that is not a plain file name.
    #[error("not a file name: {0}")]
    BadName(String),
    /// The page's data could not be encoded.
    #[error("flame graph data: {0}")]
    Encode(#[from] serde_json::Error),
    /// The file system said no.
    #[error("{path}: {error}")]
    Io {
        /// Where.
        path: PathBuf,
        /// What it said.
        error: io::Error,
    },
}

impl FilesError {
    /// The label of counters.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            FilesError::NotADirectory(_) => "not_a_directory",
            FilesError::BadName(_) => "bad_name",
            FilesError::Encode(_) => "encode",
            FilesError::Io { .. } => "io",
        }
    }
}

/// One file of a capture, not yet written: for a directory, or for a tar stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Artefact {
    /// Plain file name, e.g. `cpu.pb.gz`.
    pub name: String,
    /// Contents.
    pub bytes: Vec<u8>,
}

/// All files of a capture: `{cpu,off_cpu,heap,alloc,goroutine}.pb.gz`, the same of the baseline as `*.before.pb.gz`,
/// `{cpu,off_cpu}.folded` and `flame.html`. A kind that was not captured has no file.
///
/// # Errors
/// [`FilesError::Encode`].
pub fn render(
    before: Option<&ProfileSet>,
    after: &ProfileSet,
    title: &str,
) -> Result<Vec<Artefact>, FilesError> {
    let mut files = Vec::new();
    let mut add = |name: String, bytes: Vec<u8>| files.push(Artefact { name, bytes });
    for stacks in after.stacks.iter() {
        add(format!("{}.pb.gz", word(stacks.kind)), pprof::encode(stacks));
    }
    for stacks in before.iter().flat_map(|set| set.stacks.iter()) {
        add(format!("{}.before.pb.gz", word(stacks.kind)), pprof::encode(stacks));
    }
    for kind in [ProfileKind::Cpu, ProfileKind::OffCpu] {
        if let Some(stacks) = find(after, kind) {
            add(format!("{}.folded", word(kind)), folded::encode(stacks).into_bytes());
        }
    }
    let pairs: Vec<(Option<&Stacks>, &Stacks)> =
        after.stacks.iter().map(|now| (before.and_then(|set| find(set, now.kind)), now)).collect();
    add("flame.html".to_owned(), flame::page(title, &pairs)?.into_bytes());
    Ok(files)
}

/// Writes a capture into `dir` (made with mode 0700 where missing), each file with mode 0600; returns their paths.
///
/// A file of the same name is replaced as a whole; a link of that name is replaced, not followed.
///
/// # Errors
/// [`FilesError`].
pub fn write_capture(
    dir: &Path,
    before: Option<&ProfileSet>,
    after: &ProfileSet,
    title: &str,
) -> Result<Vec<PathBuf>, FilesError> {
    let files = render(before, after, title)?;
    make_directory(dir)?;
    files.iter().map(|file| write_file(dir, file)).collect()
}

/// Writes one file with mode 0600, whole or not at all; a file or link of that name is replaced, its folder must be there.
///
/// # Errors
/// [`FilesError`].
pub fn write_one(path: &Path, bytes: Vec<u8>) -> Result<PathBuf, FilesError> {
    let name = path.file_name().and_then(|name| name.to_str());
    let name = name.ok_or_else(|| FilesError::BadName(path.display().to_string()))?;
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    write_file(dir, &Artefact { name: name.to_owned(), bytes })
}

/// Writes a capture into `root/name` and then removes the oldest captures of `root` until all of them together take at
/// most `bytes_max` bytes; the new one stays whatever its size.
///
/// # Errors
/// [`FilesError`].
pub fn store_capture(
    root: &Path,
    name: &str,
    (before, after): (Option<&ProfileSet>, &ProfileSet),
    title: &str,
    bytes_max: u64,
) -> Result<Vec<PathBuf>, FilesError> {
    if name.is_empty() || name.starts_with('.') || name.contains(['/', '\0']) {
        return Err(FilesError::BadName(name.to_owned()));
    }
    make_directory(root)?;
    let paths = write_capture(&root.join(name), before, after, title)?;
    prune(root, name, bytes_max)?;
    Ok(paths)
}

/// What the files of a kind are called.
#[must_use]
pub fn word(kind: ProfileKind) -> &'static str {
    match kind {
        ProfileKind::Cpu => "cpu",
        ProfileKind::Heap => "heap",
        ProfileKind::Goroutine => "goroutine",
        ProfileKind::OffCpu => "off_cpu",
        ProfileKind::Alloc => "alloc",
    }
}

fn find(set: &ProfileSet, kind: ProfileKind) -> Option<&Stacks> {
    set.stacks.iter().find(|stacks| stacks.kind == kind)
}

fn io_at<T>(path: &Path, result: io::Result<T>) -> Result<T, FilesError> {
    result.map_err(|error| FilesError::Io { path: path.to_owned(), error })
}

fn make_directory(dir: &Path) -> Result<(), FilesError> {
    io_at(dir, DirBuilder::new().recursive(true).mode(0o700).create(dir))?;
    let found = io_at(dir, fs::symlink_metadata(dir))?;
    if found.is_dir() { Ok(()) } else { Err(FilesError::NotADirectory(dir.to_owned())) }
}

/// A new file under a temporary name (`O_EXCL` follows no link), then a rename, which replaces a link instead of following.
fn write_file(dir: &Path, file: &Artefact) -> Result<PathBuf, FilesError> {
    let path = dir.join(&file.name);
    let temporary = dir.join(format!(".{}.{}", file.name, std::process::id()));
    // What an earlier process of the same id left behind.
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(FilesError::Io { path: temporary, error });
        }
        _ => {}
    }
    let written = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&temporary)
        .and_then(|mut open| open.write_all(&file.bytes))
        .and_then(|()| fs::rename(&temporary, &path));
    if written.is_err() {
        // The error that counts is the first one.
        drop(fs::remove_file(&temporary));
    }
    io_at(&path, written)?;
    Ok(path)
}

/// Removes captures, oldest first, but never `keep`.
fn prune(root: &Path, keep: &str, bytes_max: u64) -> Result<(), FilesError> {
    let mut captures = Vec::new();
    let mut total = 0_u64;
    for entry in io_at(root, fs::read_dir(root))?.take(ENTRIES_MAX) {
        let path = io_at(root, entry)?.path();
        let found = io_at(&path, fs::symlink_metadata(&path))?;
        if found.is_dir() {
            let bytes = directory_bytes(&path)?;
            total = total.saturating_add(bytes);
            captures.push((io_at(&path, found.modified())?, path, bytes));
        }
    }
    captures.sort();
    for (_, path, bytes) in captures {
        if total <= bytes_max {
            break;
        }
        if path.file_name().is_some_and(|name| name != keep) {
            // remove_dir_all follows no links.
            io_at(&path, fs::remove_dir_all(&path))?;
            total = total.saturating_sub(bytes);
        }
    }
    Ok(())
}

fn directory_bytes(dir: &Path) -> Result<u64, FilesError> {
    let mut bytes = 0_u64;
    for entry in io_at(dir, fs::read_dir(dir))?.take(ENTRIES_MAX) {
        let path = io_at(dir, entry)?.path();
        bytes = bytes.saturating_add(io_at(&path, fs::symlink_metadata(&path))?.len());
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests;
