//! The heap profile of a running Go program that offers none: read from its memory, where the runtime keeps it.
//!
//! Owns the way from a process id to stacks, and what must be true for them to be believed. The program is read, never
//! written and never stopped, and it need not know: no endpoint, no symbol table, no restart. What is kept of another's
//! memory is counts and return addresses, and nothing else is ever looked at but what shares a page with them. Refuses to
//! guess: a check that fails is a [`HeapError`], not a number.

mod buckets;
mod layout;
mod memory;
mod names;
mod places;
mod process;
#[cfg(test)]
mod tests;

use std::{
    collections::HashMap,
    io,
    sync::{
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    thread,
    time::Duration,
};

use model::{
    profile::{Losses, ProfileKind, StackSample, Stacks},
    time::Stamp,
};

use self::{
    buckets::{Bucket, Snapshot},
    names::Names,
    process::Process,
};
use crate::{perf::sys, symbols::gopclntab::GoError};

/// A reading takes some tens of milliseconds, with the pauses between all attempts a tenth of a second more. A page of
/// another process may be one that its owner never lets anybody have: then this is how long we wait.
const DEADLINE: Duration = Duration::from_secs(5);
/// Readings at once, those included for which nobody waits any more: a thread each.
const READINGS_MAX: usize = 8;
static READINGS: AtomicUsize = AtomicUsize::new(0);

/// Why there is no profile.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeapError {
    /// There is no such process, or not any more.
    #[error("the process is gone")]
    Gone,
    /// Another user's process, or one that is protected.
    #[error(
        "its memory may not be read: CAP_SYS_PTRACE is needed, for one's own processes too unless \
         kernel.yama.ptrace_scope is 0"
    )]
    Denied,
    /// The system refused.
    #[error("read: {0}")]
    Io(io::ErrorKind),
    /// Its file has no tables of Go 1.16 or newer, or damaged ones.
    #[error("{0}")]
    Go(#[from] GoError),
    /// A version of Go whose layout nobody knows; empty when the file names none.
    #[error("the memory profile of Go {0:?} is not known")]
    Version(String),
    /// The runtime's code does not say where something is.
    #[error("nothing says where {0} is")]
    NoPlace(&'static str),
    /// The program keeps no profile: it set `runtime.MemProfileRate` to 0, or never refers to profiles, so the linker did.
    #[error("the program keeps no memory profile")]
    Off,
    /// Nothing was sampled yet, so that nothing can be checked.
    #[error("no allocation was sampled yet")]
    Empty,
    /// Memory that should be there is not.
    #[error("its memory is not where it should be")]
    NotThere,
    /// A check failed.
    #[error("{0} cannot be")]
    Damaged(&'static str),
    /// It changed while it was read, each time.
    #[error("the profile changed each time it was read")]
    Moving,
    /// More than a bound of this module allows.
    #[error("larger than the bound on {0}")]
    TooLarge(&'static str),
    /// The system did not come back with a page in time.
    #[error("its memory could not be read in time")]
    Stalled,
    /// Too many readings are under way.
    #[error("too many heaps are being read")]
    Busy,
    /// Two readings are not of one process, or not in this order.
    #[error("the other reading is not an earlier one of the same process")]
    OtherProcess,
}

impl HeapError {
    /// The label of counters.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            HeapError::Gone => "gone",
            HeapError::Denied => "denied",
            HeapError::Io(_) => "io",
            HeapError::Go(_) => "no_go_tables",
            HeapError::Version(_) => "go_version",
            HeapError::NoPlace(_) => "not_found",
            HeapError::Off => "off",
            HeapError::Empty => "empty",
            HeapError::NotThere => "not_there",
            HeapError::Damaged(_) => "check_failed",
            HeapError::Moving => "moving",
            HeapError::TooLarge(_) => "too_large",
            HeapError::Stalled => "stalled",
            HeapError::Busy => "busy",
            HeapError::OtherProcess => "other_process",
        }
    }

    fn of(error: &io::Error) -> HeapError {
        match error.kind() {
            io::ErrorKind::NotFound => HeapError::Gone,
            io::ErrorKind::PermissionDenied => HeapError::Denied,
            // The process ended between the opening of a file and the reading of it.
            _ if error.raw_os_error() == Some(libc::ESRCH) => HeapError::Gone,
            kind => HeapError::Io(kind),
        }
    }

    /// The kernel has one word for each address that is not there.
    fn of_memory(error: &io::Error) -> HeapError {
        match error.raw_os_error() {
            Some(libc::EIO | libc::EFAULT | libc::EINVAL) => HeapError::NotThere,
            _ => HeapError::of(error),
        }
    }
}

/// How many bytes lie, on average, between one sampled allocation and the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rate {
    /// As the program has it.
    Read(u64),
    /// Go's default, since the program's own was not to be found.
    Assumed(u64),
}

impl Rate {
    /// The number, found or not.
    #[must_use]
    pub fn bytes(self) -> u64 {
        match self {
            Rate::Read(bytes) | Rate::Assumed(bytes) => bytes,
        }
    }
}

/// Sums of what was sampled, not scaled: the first line of `/debug/pprof/heap?debug=1`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Sampled objects in use.
    pub inuse_objects: u64,
    /// Their bytes.
    pub inuse_bytes: u64,
    /// Objects sampled since the program began.
    pub alloc_objects: u64,
    /// Their bytes.
    pub alloc_bytes: u64,
}

/// Allocations of one stack, not scaled: another line of `/debug/pprof/heap?debug=1`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Site<'a> {
    /// Return addresses, as in the process, the innermost first.
    pub stack: &'a [u64],
    /// What was sampled of it.
    pub counts: Totals,
}

/// What a reading took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// Bytes of the process's memory.
    pub bytes: u64,
    /// Until nothing moved: 1 when the first was good.
    pub attempts: u32,
    /// CPU time, all of it: to find the places, to read, to name.
    pub cpu_ns: u64,
}

/// A heap profile as of the last collection of garbage.
#[derive(Clone, Debug)]
pub struct Reading {
    /// When it was taken.
    pub at: Stamp,
    /// How many cycles of garbage collection had ended.
    pub cycle: u32,
    /// To scale by.
    pub rate: Rate,
    /// The version of Go.
    pub version: String,
    /// What it took.
    pub cost: Cost,
    /// Process id and start time: what makes a process this one.
    process: (u32, String),
    snapshot: Snapshot,
    /// For each bucket its frames, the innermost first.
    stacks: Vec<Vec<u32>>,
    names: Names,
}

/// Reads the heap profile of a process. Blocks, for at most a few seconds: on a thread where that is no harm.
///
/// # Errors
/// See [`HeapError`].
pub fn read(pid: u32, at: Stamp) -> Result<Reading, HeapError> {
    within(DEADLINE, move || {
        let began = sys::thread_cpu_ns();
        let mut reading = Process::open(pid)?.read(at)?;
        reading.cost.cpu_ns = sys::thread_cpu_ns().saturating_sub(began);
        Ok(reading)
    })
}

/// Reads buckets in an image as if it were a process's memory: what [`read`] does between the places and the names.
///
/// # Errors
/// See [`HeapError`].
#[cfg(fuzzing)]
pub fn read_image<R: crate::symbols::file::ReadAt>(
    image: R,
    (head, cycle): (u64, u64),
    code: std::ops::Range<u64>,
    version: &str,
) -> Result<Vec<(Vec<u64>, u64, u64)>, HeapError> {
    let layout = layout::Layout::of(version).ok_or_else(|| HeapError::Version(version.to_owned()))?;
    let plan = buckets::Plan { layout, head, cycle, code };
    let found = buckets::read(&mut memory::Memory::new(image), &plan, |_| ())?;
    let site = |bucket: &Bucket| (found.stack(bucket).to_vec(), bucket.allocs, bucket.frees);
    Ok(found.buckets.iter().map(site).collect())
}

/// Runs the work on a thread of its own and waits for so long. Who does not come back keeps the place.
fn within<T: Send + 'static>(
    deadline: Duration,
    work: impl FnOnce() -> Result<T, HeapError> + Send + 'static,
) -> Result<T, HeapError> {
    if READINGS.fetch_add(1, Ordering::Relaxed) >= READINGS_MAX {
        READINGS.fetch_sub(1, Ordering::Relaxed);
        return Err(HeapError::Busy);
    }
    let (sender, receiver) = mpsc::sync_channel(1);
    let spawned = thread::Builder::new().name("heap-reading".to_owned()).spawn(move || {
        let outcome = work();
        READINGS.fetch_sub(1, Ordering::Relaxed);
        // Nobody waits for it any more when the deadline has passed.
        drop(sender.send(outcome));
    });
    if let Err(error) = spawned {
        READINGS.fetch_sub(1, Ordering::Relaxed);
        return Err(HeapError::Io(error.kind()));
    }
    receiver.recv_timeout(deadline).unwrap_or(Err(HeapError::Stalled))
}

impl Reading {
    /// Sums over all stacks.
    #[must_use]
    pub fn totals(&self) -> Totals {
        self.sites().fold(Totals::default(), |sum, site| Totals {
            inuse_objects: sum.inuse_objects.saturating_add(site.counts.inuse_objects),
            inuse_bytes: sum.inuse_bytes.saturating_add(site.counts.inuse_bytes),
            alloc_objects: sum.alloc_objects.saturating_add(site.counts.alloc_objects),
            alloc_bytes: sum.alloc_bytes.saturating_add(site.counts.alloc_bytes),
        })
    }

    /// What was sampled, stack by stack: one stack has a site for each size.
    pub fn sites(&self) -> impl Iterator<Item = Site<'_>> {
        self.snapshot.buckets.iter().map(|bucket| {
            let inuse_objects = bucket.allocs.saturating_sub(bucket.frees);
            let counts = Totals {
                inuse_objects,
                inuse_bytes: inuse_objects.saturating_mul(bucket.size),
                alloc_objects: bucket.allocs,
                alloc_bytes: bucket.allocs.saturating_mul(bucket.size),
            };
            Site { stack: self.snapshot.stack(bucket), counts }
        })
    }

    /// What is in use, scaled as Go scales it: bytes x objects sampled became x / (1 − exp(−size / rate)).
    #[must_use]
    pub fn stacks(&self) -> Stacks {
        let inuse = |bucket: &Bucket| bucket.allocs.saturating_sub(bucket.frees);
        self.scaled(ProfileKind::Heap, inuse)
    }

    /// What was allocated since another reading, scaled in the same way, as of the collections before both.
    ///
    /// # Errors
    /// [`HeapError::OtherProcess`], when there is no such difference.
    pub fn since(&self, earlier: &Reading) -> Result<Stacks, HeapError> {
        if self.process != earlier.process {
            return Err(HeapError::OtherProcess);
        }
        let before: HashMap<u64, &Bucket> =
            earlier.snapshot.buckets.iter().map(|bucket| (bucket.address, bucket)).collect();
        let mut more = HashMap::with_capacity(self.snapshot.buckets.len());
        for bucket in &self.snapshot.buckets {
            let earlier = before.get(&bucket.address);
            if earlier.is_some_and(|earlier| (earlier.hash, earlier.size) != (bucket.hash, bucket.size)) {
                return Err(HeapError::OtherProcess);
            }
            let before = earlier.map_or(0, |earlier| earlier.allocs);
            more.insert(bucket.address, bucket.allocs.checked_sub(before).ok_or(HeapError::OtherProcess)?);
        }
        let mut stacks =
            self.scaled(ProfileKind::Alloc, |bucket| more.get(&bucket.address).copied().unwrap_or(0));
        stacks.at = earlier.at;
        stacks.duration_ns = self.at.since_ns(earlier.at);
        Ok(stacks)
    }

    fn scaled(&self, kind: ProfileKind, objects: impl Fn(&Bucket) -> u64) -> Stacks {
        let mut samples = Vec::new();
        for (bucket, frames) in self.snapshot.buckets.iter().zip(&self.stacks) {
            let (count, value) = scale(objects(bucket), bucket.size, self.rate.bytes());
            if value > 0 {
                samples.push(StackSample { frames: frames.clone(), value, count, owner: 0 });
            }
        }
        Stacks {
            kind,
            at: self.at,
            duration_ns: 0,
            period: self.rate.bytes(),
            mappings: vec![self.names.mapping.clone()],
            functions: self.names.functions.clone(),
            frames: self.names.frames.clone(),
            owners: Vec::new(),
            samples,
            losses: Losses::default(),
            pprof: Vec::new(),
        }
    }
}

/// Objects and bytes that so many sampled objects of a size stand for: each is sampled with the probability
/// 1 − exp(−size / rate).
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    reason = "Go's own arithmetic, to the digit: below 2^53 exact, and rounded towards zero"
)]
fn scale(objects: u64, size: u64, rate: u64) -> (i64, i64) {
    let (objects, bytes) = (objects as f64, objects.saturating_mul(size) as f64);
    if objects == 0.0 {
        return (0, 0);
    }
    if rate <= 1 {
        return (objects as i64, bytes as i64);
    }
    let scale = 1.0 / (1.0 - (-(bytes / objects) / rate as f64).exp());
    ((objects * scale) as i64, (bytes * scale) as i64)
}
