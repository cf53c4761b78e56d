//! What only libc tells: file system sizes and the kernel's units.
#![expect(unsafe_code, reason = "statvfs and sysconf have no safe form in the standard library")]

use std::ffi::CString;
use std::mem::MaybeUninit;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Size and what is free for non-root, bytes. `None` when the path cannot be looked at.
pub(super) fn filesystem(path: &Path) -> Option<(u64, u64)> {
    let path = CString::new(path.as_os_str().as_bytes()).ok()?;
    let mut buffer = MaybeUninit::<libc::statvfs>::uninit();
    // SAFETY: `path` ends in NUL and lives through the call; `buffer` has the size of a statvfs and is only read when
    // the call says that it has filled it.
    let stat = unsafe {
        if libc::statvfs(path.as_ptr(), buffer.as_mut_ptr()) != 0 {
            return None;
        }
        buffer.assume_init()
    };
    let unit = stat.f_frsize;
    Some((unit.saturating_mul(stat.f_blocks), unit.saturating_mul(stat.f_bavail)))
}

/// Clock ticks of /proc in a second; 100 on every Linux in use.
pub(super) fn ticks_per_second() -> u64 {
    sysconf(libc::_SC_CLK_TCK).unwrap_or(100)
}

/// Bytes of a page, the unit of a process' resident set.
pub(super) fn page_bytes() -> u64 {
    sysconf(libc::_SC_PAGESIZE).unwrap_or(4096)
}

fn sysconf(name: libc::c_int) -> Option<u64> {
    // SAFETY: takes and returns integers; an unknown name gives -1.
    let value = unsafe { libc::sysconf(name) };
    u64::try_from(value).ok().filter(|value| *value > 0)
}
