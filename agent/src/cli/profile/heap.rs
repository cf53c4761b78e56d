//! The heap of a Go process, read from its memory: no endpoint, no cooperation. Only on request, because whoever may read that
//! memory may read every secret in it; nothing but the runtime's own profile is looked at.

use model::profile::Stacks;
use model::time::{Clock, Stamp};
use profile::goheap::{self, HeapError, Reading};
use tokio::task::spawn_blocking;

/// The reading at the window's beginning.
#[derive(Debug)]
pub(super) struct Heap {
    pid: u32,
    first: Result<Reading, HeapError>,
}

/// What two readings come to.
#[derive(Debug)]
pub(super) struct Heaps {
    /// In use at the end, as of the last garbage collection.
    pub(super) in_use: Stacks,
    /// Allocated in between; none where the first reading failed.
    pub(super) allocated: Option<Stacks>,
}

impl Heap {
    /// Reads the first time.
    pub(super) async fn begin(pid: u32, clock: &Clock) -> Heap {
        Heap { pid, first: read(pid, clock.now()).await }
    }

    /// Reads again.
    pub(super) async fn end(self, clock: &Clock) -> Result<Heaps, HeapError> {
        let last = read(self.pid, clock.now()).await?;
        let allocated = self.first.ok().and_then(|first| last.since(&first).ok());
        Ok(Heaps { in_use: last.stacks(), allocated })
    }
}

async fn read(pid: u32, at: Stamp) -> Result<Reading, HeapError> {
    spawn_blocking(move || goheap::read(pid, at)).await.unwrap_or(Err(HeapError::Gone))
}
