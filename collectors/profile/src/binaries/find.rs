//! The way to a module's file, and the proof that it is the one that is mapped.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::{Missing, State};
use crate::perf::maps;
use crate::perf::modules::{Kind, Module};
use crate::perf::record::Identity;
use crate::symbols::elf::Elf;
use crate::symbols::file::{self, Windows};
use crate::symbols::identity;

/// Of /proc/PID/maps, where a removed file is looked for. A JVM's is 1 MiB.
const MAPS_BYTES_MAX: u64 = 1 << 20;

/// How a file was come by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// As the process itself has it: by what it holds, or below its root.
    Held,
    /// As we see it.
    Named,
}

/// The build id proves it, else device and inode. Layered file systems number a device here and another one there, so where
/// we have the file as the process has it the inode is enough: as long as it is mapped nobody else gets its number.
pub(super) fn is_the_same(
    identity: &Identity,
    (device, inode): (u64, u64),
    id: Option<&[u8]>,
    way: Way,
) -> bool {
    match identity {
        Identity::BuildId(length, bytes) => {
            let told = bytes.get(..usize::from(*length)).unwrap_or_default();
            // The kernel reports at most 20 bytes of a longer one.
            id.is_some_and(|id| !told.is_empty() && id.starts_with(told))
        }
        Identity::Inode { major, minor, inode: told } => {
            let is_device = (libc::major(device), libc::minor(device)) == (*major, *minor);
            *told == inode && inode != 0 && (is_device || way == Way::Held)
        }
    }
}

/// A module's file, proven to be that.
pub(super) struct Found {
    pub(super) file: File,
    pub(super) was: State,
    pub(super) windows: Windows<File>,
    pub(super) elf: Elf,
    pub(super) build_id: Option<Vec<u8>>,
    /// See [`super::Binary`].
    pub(super) place: (PathBuf, PathBuf),
}

impl Found {
    fn read(file: File, module: &Module, (proc, way): (&Path, Way)) -> Result<Found, Missing> {
        let failed = |error: io::Error| Missing::of(&error);
        let (was, second) = (State::of(&file).map_err(failed)?, file.try_clone().map_err(failed)?);
        let mut windows = Windows::new(second).map_err(|_| Missing::Unreadable)?;
        let elf = Elf::read(&mut windows).map_err(|_| Missing::Unreadable)?;
        let build_id = identity::build_id(&mut windows, &elf).map_err(|_| Missing::Unreadable)?;
        if !is_the_same(&module.identity, (was.device, was.inode), build_id.as_deref(), way) {
            return Err(Missing::Replaced);
        }
        let place = (proc.join("root"), module.path.clone());
        Ok(Found { file, was, windows, elf, build_id, place })
    }
}

/// Opens it in one of the ways there are; what the first one says is what is told when none leads anywhere.
pub(super) fn find(module: &Module, pid: u32) -> Result<Found, Missing> {
    if matches!(module.kind, Kind::Anonymous | Kind::Vdso) {
        return Err(Missing::Memory);
    }
    let mut why = None;
    let mut tried = |proc: &Path, path: PathBuf, way: Way| {
        let opened = file::open(&path).map_err(|error| Missing::of(&error));
        opened.and_then(|file| Found::read(file, module, (proc, way))).map_err(|missing| {
            // That there was another file says more than that there was none.
            let worse = why.filter(|why| !matches!(why, Missing::Gone));
            why = Some(worse.unwrap_or(missing));
        })
    };
    let pids = if module.pid == pid { vec![pid] } else { vec![pid, module.pid] };
    for proc in pids.iter().map(|pid| PathBuf::from(format!("/proc/{pid}"))) {
        let is_its_program = fs::read_link(proc.join("exe")).is_ok_and(|path| is_or_was(&path, &module.path));
        if is_its_program && let Ok(found) = tried(&proc, proc.join("exe"), Way::Held) {
            return Ok(found);
        }
        if module.kind == Kind::File
            && let Ok(below) = module.path.strip_prefix("/")
            && let Ok(found) = tried(&proc, proc.join("root").join(below), Way::Held)
        {
            return Ok(found);
        }
        if let Some(range) = range_of(&proc, &module.path)
            && let Ok(found) = tried(&proc, proc.join("map_files").join(range), Way::Held)
        {
            return Ok(found);
        }
    }
    // Without the right to look into the process, which outside of containers sees what we see.
    if module.kind == Kind::File
        && let Ok(found) = tried(Path::new("/proc/self"), module.path.clone(), Way::Named)
    {
        return Ok(found);
    }
    Err(why.unwrap_or(Missing::Gone))
}

/// Whether the kernel's name of a program is this one, though its file may have been removed or replaced since.
fn is_or_was(link: &Path, path: &Path) -> bool {
    let (link, path) = (link.as_os_str().as_encoded_bytes(), path.as_os_str().as_encoded_bytes());
    link == path || link.strip_suffix(b" (deleted)") == Some(path)
}

/// What `/proc/PID/map_files` calls the first executable range of a file.
fn range_of(proc: &Path, path: &Path) -> Option<String> {
    let mut text = Vec::new();
    File::open(proc.join("maps")).ok()?.take(MAPS_BYTES_MAX).read_to_end(&mut text).ok()?;
    let lines = text.split(|byte| *byte == b'\n');
    let found = lines
        .filter_map(|line| maps::mapping(0, line))
        .find(|range| range.path == path.as_os_str().as_encoded_bytes())?;
    Some(format!("{:x}-{:x}", found.start, found.start.checked_add(found.length)?))
}
