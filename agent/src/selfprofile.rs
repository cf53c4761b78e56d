//! The agent's own profiles: CPU through the pprof crate, and next door its heap through jemalloc. Off unless configuration
//! allows them.
//!
//! Refuses a second profile of the same kind at the same time: the timer signal is one a process, and a heap is enough once.

mod dump;
pub(crate) mod heap;
mod sys;

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use pprof::protos::Message;
use pprof::{ProfilerGuard, ProfilerGuardBuilder};
use tikv_jemallocator::Jemalloc;
use tokio::task::{self, JoinError};
use tokio::time;

/// The one that knows who holds what. It takes no stack until it is told to.
#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

/// Samples a second: prime to the agent's own one-second rhythm.
const FREQUENCY_HZ: i32 = 99;

/// The timer and its signal handler belong to the process: one profile at a time.
static BUSY: AtomicBool = AtomicBool::new(false);

/// Why there is no profile.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SelfProfileError {
    /// Another one is being taken.
    #[error("another profile of the agent is being taken")]
    Busy,
    /// The profiler.
    #[error("profile the agent")]
    Profiler(#[from] pprof::Error),
    /// The report.
    #[error("encode the profile")]
    Encode(#[source] JoinError),
    /// The environment's `MALLOC_CONF` says so, or the build.
    #[error("the allocator has no profiler")]
    NoProfiler,
    /// The allocator, or the memory that it writes to.
    #[error("take the heap profile")]
    Heap(#[from] io::Error),
    /// Not what jemalloc writes.
    #[error("the allocator's profile cannot be read")]
    Dump,
}

/// Gives the place back however the capture ends, also when its connection is dropped.
struct Slot(&'static AtomicBool);

impl Slot {
    fn take(busy: &'static AtomicBool) -> Option<Slot> {
        busy.compare_exchange(false, true, Ordering::AcqRel, Ordering::Acquire).is_ok().then_some(Slot(busy))
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

/// Samples all threads for `length` and gives a profile in pprof's protobuf format (not compressed; `go tool pprof` reads it).
///
/// # Errors
/// [`SelfProfileError`]
pub(crate) async fn capture(length: Duration) -> Result<Vec<u8>, SelfProfileError> {
    let slot = Slot::take(&BUSY).ok_or(SelfProfileError::Busy)?;
    let guard = ProfilerGuardBuilder::default()
        .frequency(FREQUENCY_HZ)
        // The signal may land in the middle of these; walking frames through them is what hangs or crashes profilers.
        .blocklist(&["libc", "libgcc", "pthread", "vdso"])
        .build()?;
    time::sleep(length).await;
    // Resolving symbols reads the agent's own debug information: seconds of CPU, off the runtime.
    let encoded = task::spawn_blocking(move || {
        let encoded = encode(&guard);
        drop(guard);
        drop(slot);
        encoded
    });
    encoded.await.map_err(SelfProfileError::Encode)?
}

fn encode(guard: &ProfilerGuard<'_>) -> Result<Vec<u8>, SelfProfileError> {
    Ok(guard.report().build()?.pprof()?.encode_to_vec())
}

#[cfg(test)]
mod tests {
    use std::hint::black_box;
    use std::time::Duration;

    use super::{SelfProfileError, capture};

    #[tokio::test]
    async fn a_busy_thread_is_seen_and_a_second_profile_is_refused() {
        let work =
            tokio::task::spawn_blocking(|| (0..400_000_000_u64).fold(0_u64, |sum, n| black_box(sum ^ n)));
        let (first, second) = tokio::join!(capture(Duration::from_millis(700)), async {
            tokio::time::sleep(Duration::from_millis(100)).await;
            capture(Duration::from_millis(100)).await
        });
        let profile = first.unwrap();
        assert!(profile.len() > 100, "{} bytes", profile.len());
        assert!(matches!(second, Err(SelfProfileError::Busy)));
        assert!(capture(Duration::from_millis(50)).await.is_ok());
        work.await.unwrap();
    }
}
