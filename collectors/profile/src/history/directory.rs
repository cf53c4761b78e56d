//! The directory of the ring: its lock, its segments, and the room for more.
//!
//! Owns the order in which old segments go and the refusal to take the last of a file system. Never removes what it does
//! not know by its name.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::io;
use std::ops::RangeInclusive;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use model::time::Stamp;

use super::account::{Account, Trouble};
use super::block::{self, wide};
use super::file;
use super::segment::Open;
use super::{Boot, Limits};

/// Segments at a time: a writer that is started anew each minute leaves one each time.
const SEGMENTS_MAX: usize = 1_024;
/// Numbers a reader looks for, back from the newest: twice that, for those that are removed and made meanwhile.
const LISTED_MAX: u32 = 2_048;
/// Entries of the directory looked at: more than the ring leaves there, few enough not to stall.
const ENTRIES_MAX: usize = 65_536;
/// What a file system gives out at a time.
const FS_BLOCK_BYTES: u64 = 4_096;
/// The name of the lock.
const LOCK: &str = "lock";

/// A segment in the directory.
#[derive(Clone, Copy, Debug)]
struct Known {
    id: u32,
    bytes: u64,
    /// When its last window ended; `None` when it cannot be read.
    end: Option<(Boot, Stamp)>,
}

/// The directory, as the one writer sees it.
#[derive(Debug)]
pub(super) struct Directory {
    path: PathBuf,
    limits: Limits,
    /// Held as long as this lives.
    lock: Option<File>,
    /// Ascending.
    known: Vec<Known>,
    /// Monotonic time of the last fsync.
    synced_ns: u64,
}

impl Drop for Directory {
    fn drop(&mut self) {
        self.let_go();
    }
}

impl Directory {
    pub(super) fn new(path: &Path, limits: Limits) -> Directory {
        Directory { path: path.to_owned(), limits, lock: None, known: Vec::new(), synced_ns: 0 }
    }

    /// Has the directory, the lock and the list of what is there; tries again what failed before.
    pub(super) fn ready(&mut self) -> Result<(), Trouble> {
        if self.lock.is_some() {
            return Ok(());
        }
        DirBuilder::new().recursive(true).mode(0o700).create(&self.path)?;
        let mode = fs::metadata(&self.path)?.permissions().mode();
        if mode & 0o077 != 0 {
            fs::set_permissions(&self.path, Permissions::from_mode(0o700))?;
        }
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(false).mode(0o600).custom_flags(libc::O_NOFOLLOW);
        let lock = options.open(self.path.join(LOCK))?;
        lock.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => Trouble::Locked,
            TryLockError::Error(error) => error.into(),
        })?;
        self.known = list(&self.path)?.into_iter().flatten().filter_map(|id| known(&self.path, id)).collect();
        self.lock = Some(lock);
        Ok(())
    }

    /// Lets the directory go at once, whatever child just forked has the lock's file until it has become its program.
    fn let_go(&mut self) {
        // Where that fails it is let go with its last holder.
        let _unlocked = self.lock.take().map(|lock| lock.unlock());
    }

    /// Writes what waits of this segment, removing old ones where it must.
    pub(super) fn write(
        &mut self,
        segment: &mut Open,
        now: (Boot, Stamp),
        account: &mut Account,
    ) -> Result<(), Trouble> {
        if !segment.has_unwritten() {
            return Ok(());
        }
        if segment.is_removed() {
            // The lock may be gone with it, and another writer may come: begin again from the directory on.
            self.let_go();
            return Err(Trouble::Removed);
        }
        let more = wide(segment.unwritten().1.len());
        self.make_room(segment.id(), more, now, account)?;
        self.guard(more)?;
        if segment.file().is_none() {
            let (id, file) = self.create()?;
            segment.attach(id, file);
        }
        let (bytes, blocks) = segment.write()?;
        account.bytes += bytes;
        account.blocks += blocks;
        if let Some(known) = self.known.iter_mut().find(|known| Some(known.id) == segment.id()) {
            known.bytes = segment.written();
            known.end = Some((segment.header().boot, segment.end()));
        }
        self.sync(segment, now.1, account)
    }

    fn sync(&mut self, segment: &Open, now: Stamp, account: &mut Account) -> Result<(), Trouble> {
        let Some(every) = self.limits.sync else { return Ok(()) };
        let every_ns = u64::try_from(every.as_nanos()).unwrap_or(u64::MAX).max(SYNC_EVERY_MIN_NS);
        if now.mono_ns.saturating_sub(self.synced_ns) < every_ns {
            return Ok(());
        }
        self.synced_ns = now.mono_ns;
        if let Some(file) = segment.file() {
            file.sync_data()?;
            account.syncs += 1;
        }
        Ok(())
    }

    /// A new file, with a number above all others.
    fn create(&mut self) -> Result<(u32, File), Trouble> {
        let id = self.known.last().map_or(1, |known| known.id.saturating_add(1));
        let mut options = OpenOptions::new();
        let path = self.path.join(file::name(id));
        let file = options.read(true).write(true).create_new(true).mode(0o600).open(path)?;
        self.known.push(Known { id, bytes: 0, end: None });
        Ok((id, file))
    }

    /// Removes the oldest until `more` bytes fit into all bounds; never the one that is written.
    fn make_room(
        &mut self,
        current: Option<u32>,
        more: u64,
        now: (Boot, Stamp),
        account: &mut Account,
    ) -> Result<(), Trouble> {
        let age_max_ns = u64::try_from(self.limits.age.as_nanos()).unwrap_or(u64::MAX);
        while let Some(first) = self.known.first().copied().filter(|first| Some(first.id) != current) {
            let bytes: u64 = self.known.iter().map(|known| rounded(known.bytes)).sum();
            let is_old = first.end.is_some_and(|end| age_ns(end, now) >= age_max_ns);
            let is_too_much = bytes + rounded(more) + FS_BLOCK_BYTES > self.limits.bytes;
            if !is_old && !is_too_much && self.known.len() < SEGMENTS_MAX {
                break;
            }
            match fs::remove_file(self.path.join(file::name(first.id))) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
                _ => {}
            }
            self.known.remove(0);
            account.removed_age += u64::from(is_old);
            account.removed_bytes += u64::from(!is_old);
        }
        Ok(())
    }

    /// Others need the disk more than we do.
    fn guard(&self, more: u64) -> Result<(), Trouble> {
        let fs = rustix::fs::statvfs(&self.path).map_err(io::Error::from)?;
        let free = fs.f_bavail.saturating_mul(fs.f_frsize);
        let all = fs.f_blocks.saturating_mul(fs.f_frsize);
        let Limits { free_percent, free_bytes_min, free_bytes_max, .. } = self.limits;
        let kept = (all / 100).saturating_mul(free_percent).min(free_bytes_max).max(free_bytes_min);
        if free.saturating_sub(more) < kept { Err(Trouble::Guard) } else { Ok(()) }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

/// The least time between two fsyncs: etcd's own come tens of times a second, and one a minute is not seen among them.
const SYNC_EVERY_MIN_NS: u64 = 60 * model::time::SECOND_NS;

fn rounded(bytes: u64) -> u64 {
    bytes.next_multiple_of(FS_BLOCK_BYTES)
}

/// How old something is that ended then. Of another boot only the wall knows, and that it is older than this boot.
pub(super) fn age_ns((boot, end): (Boot, Stamp), (now_boot, now): (Boot, Stamp)) -> u64 {
    if boot == now_boot {
        return now.since_ns(end);
    }
    now.wall_ns.saturating_sub(end.wall_ns).max(now.mono_ns)
}

/// Numbers that segments in a directory may have, ascending; the newest, if there are more than anybody wrote.
///
/// A listing taken while files come may have a later one and not an earlier one. The writer leaves out no number, so
/// those in between are named too, and found or not when they are opened.
pub(super) fn list(path: &Path) -> io::Result<Option<RangeInclusive<u32>>> {
    let entries = fs::read_dir(path)?.take(ENTRIES_MAX).flatten();
    let mut ids: Vec<u32> = entries.filter_map(|entry| file::id(entry.file_name().to_str()?)).collect();
    ids.sort_unstable();
    let ends = ids.first().zip(ids.last());
    Ok(ends.map(|(first, last)| (*first).max(last.saturating_sub(LISTED_MAX))..=*last))
}

/// `None`: there is no such file.
fn known(path: &Path, id: u32) -> Option<Known> {
    let path = path.join(file::name(id));
    let bytes = fs::symlink_metadata(&path).ok()?.len();
    let end = file::Source::open(&path, None).ok().and_then(|source| {
        let index = source.index().ok()?;
        let last = index.blocks.last().and_then(|(_, block)| block.windows.last());
        let end = last.map_or(index.header.at, |last| last.at.plus_ns(last.duration_ns));
        Some((index.header.boot, end))
    });
    Some(Known { id, bytes, end })
}

/// A number to tell one run of the writer from the next.
pub(super) fn random() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(block::SEGMENT_BYTES)
}

#[cfg(test)]
mod tests {
    use super::{Directory, Limits};

    #[test]
    fn a_directory_that_is_closed_is_free_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let mut directory = Directory::new(folder.path(), Limits::default());
        directory.ready().unwrap();
        // What a child has between fork and exec: the same open file.
        let inherited = directory.lock.as_ref().unwrap().try_clone().unwrap();
        drop(directory);
        Directory::new(folder.path(), Limits::default()).ready().unwrap();
        drop(inherited);
    }
}
