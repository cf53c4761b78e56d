//! The agent's own heap, by jemalloc's samples. Off unless configuration allows it; until then no allocation is looked at.
//!
//! Owns when samples are taken: from the moment on that it is allowed, so that what was allocated before is not in it.

use std::ffi::CString;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::fd::AsRawFd;
use std::sync::atomic::AtomicBool;

use exporters::files;
use model::profile::ProfileKind;
use model::time::Stamp;
use profile::binaries::Binaries;
use profile::names::{Names, Taken};
use rustix::fs::{MemfdFlags, memfd_create};
use tokio::task;

use super::{SelfProfileError, Slot, dump, sys};

/// jemalloc's text of an agent with ten members is 200 KiB.
const TEXT_BYTES_MAX: u64 = 32 << 20;

/// One at a time.
static BUSY: AtomicBool = AtomicBool::new(false);

/// Begins to take samples, or stops. False where jemalloc has no profiler: `MALLOC_CONF` of the environment may say so.
pub(crate) fn allow(is_allowed: bool) -> bool {
    sys::is_there() && sys::sample(is_allowed).is_ok()
}

/// What is in use now, as a gzipped pprof profile with names.
///
/// # Errors
/// [`SelfProfileError`]
pub(crate) async fn capture(at: Stamp) -> Result<Vec<u8>, SelfProfileError> {
    let slot = Slot::take(&BUSY).ok_or(SelfProfileError::Busy)?;
    // Names come from the agent's own debug information: off the runtime.
    let encoded = task::spawn_blocking(move || {
        let encoded = encode(at);
        drop(slot);
        encoded
    });
    encoded.await.map_err(SelfProfileError::Encode)?
}

fn encode(at: Stamp) -> Result<Vec<u8>, SelfProfileError> {
    if !sys::is_there() {
        return Err(SelfProfileError::NoProfiler);
    }
    let text = dumped()?;
    let dump = dump::parse(&text).ok_or(SelfProfileError::Dump)?;
    let taken = Taken {
        pid: std::process::id(),
        maps: dump.maps,
        kind: ProfileKind::Heap,
        at,
        period: dump.period,
        is_own: is_allocators,
    };
    let stacks = Names::new(Binaries::default()).name_returns(&taken, &dump.stacks);
    Ok(files::pprof::encode(&stacks))
}

/// jemalloc's text. It writes to files alone: this one is in memory, and has no name that others could open.
fn dumped() -> Result<Vec<u8>, SelfProfileError> {
    let memory = memfd_create("heap", MemfdFlags::CLOEXEC).map_err(std::io::Error::from)?;
    let mut file = File::from(memory);
    let path = CString::new(format!("/proc/self/fd/{}", file.as_raw_fd())).map_err(std::io::Error::from)?;
    sys::dump(&path).map_err(std::io::Error::from_raw_os_error)?;
    let mut text = Vec::new();
    file.seek(SeekFrom::Start(0))?;
    file.take(TEXT_BYTES_MAX).read_to_end(&mut text)?;
    Ok(text)
}

/// Rust's functions between jemalloc and who allocates, where they are inlined: those have no path.
const INLINED: [&str; 10] = [
    "alloc",
    "alloc_impl",
    "alloc_impl_runtime",
    "alloc_zeroed",
    "allocate",
    "allocate_zeroed",
    "realloc",
    "grow",
    "grow_impl",
    "grow_impl_runtime",
];

/// jemalloc's functions, and what of Rust's lies between them and who allocates.
fn is_allocators(name: &str) -> bool {
    if INLINED.contains(&name) {
        return true;
    }
    ["_rjem_", "je_", "prof_", "__rust", "__rdl_", "__rg_"].iter().any(|start| name.starts_with(start))
        || name.starts_with("alloc::alloc::")
        || name.contains("tikv_jemallocator")
}

#[cfg(test)]
mod tests {
    use std::hint::black_box;

    use profile::{counts, gopprof};

    use super::*;

    #[tokio::test]
    async fn what_is_held_is_seen_with_who_holds_it() {
        #[inline(never)]
        fn hold() -> Vec<u8> {
            black_box(vec![1; 24 << 20])
        }
        assert!(allow(true), "jemalloc has no profiler, or does not read our options");
        let held = hold();
        let body = capture(Stamp::default()).await.unwrap();
        drop(held);
        let (stacks, rejects) = gopprof::decode(&body, ProfileKind::Heap, Stamp::default()).unwrap();
        assert_eq!(rejects, gopprof::Rejects::default());
        let counts = counts::of(&stacks);
        let holder = counts.functions.iter().find(|function| function.name.ends_with("::hold")).unwrap();
        // One allocation of 24 MiB is sampled for sure, and is scaled by nothing.
        assert!((24 << 20..26 << 20).contains(&holder.total), "{holder:?}");
        assert!(allow(false));
    }
}
