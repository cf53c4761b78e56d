//! The chain of buckets, and a moment at which it stood still.
//!
//! Owns the walk, what must be true of each bucket and of all of them, and which counts are those that Go itself would
//! report. The target runs on meanwhile, so everything is read twice, and only what was the same both times is believed.
//! Refuses to mend: a bucket that cannot be is the end of the reading.

use std::{ops::Range, time::Duration};

use super::{
    HeapError,
    layout::{COUNTS, FUTURES, HEADER_WORDS, Layout},
    memory::Memory,
};
use crate::symbols::file::{ReadAt, u64_at};

/// Buckets of one profile. An etcd has some hundreds, the largest programs some ten thousand.
const BUCKETS_MAX: usize = 65_536;
/// Go keeps at most so many return addresses of a stack, 128 unless told otherwise, 32 before Go 1.23.
const DEPTH_MAX: usize = 1_024;
/// Return addresses of all stacks: 8 MiB, sixteen for each of the most buckets.
const ADDRESSES_MAX: usize = 1 << 20;
/// Each begins when the one before was spoiled by a collection that ended meanwhile, which takes it far less than a pause.
const ATTEMPTS_MAX: u32 = 20;
const PAUSE: Duration = Duration::from_millis(5);
/// The number of a cycle begins anew here.
const CYCLES: u32 = FUTURES * (2 << 24);
/// No allocation is larger than what can be addressed.
const SIZE_MAX: u64 = 1 << 47;
const KIND_MEMORY: u64 = 1;

/// Sampled allocations of one size, made at one place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Bucket {
    /// Where it is: buckets stay where they are as long as the process lives.
    pub(super) address: u64,
    /// Of stack and size, by Go.
    pub(super) hash: u64,
    /// Bytes of each allocation.
    pub(super) size: u64,
    pub(super) allocs: u64,
    pub(super) frees: u64,
    stack: Range<usize>,
}

/// All buckets at one moment.
#[derive(Clone, Debug)]
pub(super) struct Snapshot {
    pub(super) buckets: Vec<Bucket>,
    addresses: Vec<u64>,
    /// How many cycles of garbage collection had ended.
    pub(super) cycle: u32,
    /// How often the chain was read for it, twice each.
    pub(super) attempts: u32,
}

impl Snapshot {
    /// Return addresses, the innermost first.
    pub(super) fn stack(&self, bucket: &Bucket) -> &[u64] {
        self.addresses.get(bucket.stack.clone()).unwrap_or_default()
    }
}

/// Where things are in the process, and how they are laid out.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) layout: Layout,
    pub(super) head: u64,
    pub(super) cycle: u64,
    /// Where Go code is.
    pub(super) code: Range<u64>,
}

/// Reads until nothing moves. `pause` is called with the time to wait.
pub(super) fn read<R: ReadAt>(
    memory: &mut Memory<R>,
    plan: &Plan,
    pause: impl Fn(Duration),
) -> Result<Snapshot, HeapError> {
    for attempt in 1..=ATTEMPTS_MAX {
        let cycle = cycle(memory, plan)?;
        let first = Chain::walk(memory, plan, None)?;
        let second = Chain::walk(memory, plan, Some(first.head))?;
        if cycle == self::cycle(memory, plan)?
            && let Some(buckets) = first.at_rest(&second, cycle)?
        {
            first.check(plan)?;
            return Ok(Snapshot { buckets, addresses: first.addresses, cycle, attempts: attempt });
        }
        pause(PAUSE);
    }
    Err(HeapError::Moving)
}

fn cycle<R: ReadAt>(memory: &mut Memory<R>, plan: &Plan) -> Result<u32, HeapError> {
    let cycle = memory.u32_now(plan.cycle)? >> plan.layout.cycle_shift;
    if cycle < CYCLES { Ok(cycle) } else { Err(HeapError::Damaged("the number of the cycle")) }
}

/// One of the four counts of a bucket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Count {
    allocs: u64,
    frees: u64,
    /// Bytes of both, where they are counted.
    bytes: Option<(u64, u64)>,
}

impl Count {
    /// `None` when the bytes are not those of so many objects: it was read in the middle of a change, or is none.
    fn checked(self, size: u64) -> Option<Count> {
        let (allocated, freed) = (self.allocs.checked_mul(size)?, self.frees.checked_mul(size)?);
        (self.bytes.is_none_or(|bytes| bytes == (allocated, freed))).then_some(self)
    }

    fn is_zero(self) -> bool {
        self.allocs == 0 && self.frees == 0 && matches!(self.bytes, None | Some((0, 0)))
    }
}

/// A bucket as it was read.
#[derive(Clone, Debug)]
struct Raw {
    bucket: Bucket,
    active: Count,
    futures: [Count; COUNTS - 1],
}

/// One pass over the chain.
#[derive(Debug)]
struct Chain {
    head: u64,
    raw: Vec<Raw>,
    addresses: Vec<u64>,
    /// One bucket behind its header.
    scratch: Vec<u8>,
}

impl Chain {
    /// From the newest bucket on, or from the one that was the newest.
    fn walk<R: ReadAt>(memory: &mut Memory<R>, plan: &Plan, head: Option<u64>) -> Result<Chain, HeapError> {
        memory.forget();
        let head = match head {
            Some(head) => head,
            None => memory.u64(plan.head)?,
        };
        if head == 0 {
            return Err(HeapError::Empty);
        }
        let mut chain = Chain { head, raw: Vec::new(), addresses: Vec::new(), scratch: Vec::new() };
        let (mut next, mut passed) = (head, 0);
        while next != 0 {
            if chain.raw.len() >= BUCKETS_MAX {
                return Err(HeapError::TooLarge("buckets"));
            }
            // A chain that leads in a circle comes by a bucket again that was remembered at a power of two.
            if next == passed {
                return Err(HeapError::Damaged("the chain"));
            }
            if chain.raw.len().is_power_of_two() {
                passed = next;
            }
            next = chain.add(memory, &plan.layout, next)?;
        }
        Ok(chain)
    }

    /// Reads a bucket and says which is the next.
    fn add<R: ReadAt>(
        &mut self,
        memory: &mut Memory<R>,
        layout: &Layout,
        address: u64,
    ) -> Result<u64, HeapError> {
        if !address.is_multiple_of(8) {
            return Err(HeapError::Damaged("the chain"));
        }
        let mut header = [0; HEADER_WORDS * 8];
        memory.fill(address, &mut header)?;
        let [_, next, kind, hash, size, depth] = words(&header);
        let depth = usize::try_from(depth).ok().filter(|depth| *depth <= DEPTH_MAX);
        let (KIND_MEMORY, Some(depth), 1..=SIZE_MAX) = (kind, depth, size) else {
            return Err(HeapError::Damaged("a bucket"));
        };
        if self.addresses.len() + depth > ADDRESSES_MAX {
            return Err(HeapError::TooLarge("stacks"));
        }
        self.scratch.resize(layout.bucket_bytes(depth) - header.len(), 0);
        memory.fill(address.checked_add(48).ok_or(HeapError::NotThere)?, &mut self.scratch)?;
        let (stack, counts) = self.scratch.split_at(depth * 8);
        let begin = self.addresses.len();
        self.addresses.extend(stack.chunks_exact(8).map(|raw| u64_at(raw, 0)));
        let stack = begin..self.addresses.len();
        let mut counts = counts.chunks_exact(layout.count_words * 8).map(count);
        let mut one = || counts.next().unwrap_or_default();
        let (active, futures) = (one(), [one(), one(), one()]);
        let bucket = Bucket { address, hash, size, allocs: 0, frees: 0, stack };
        self.raw.push(Raw { bucket, active, futures });
        Ok(next)
    }

    /// The counts Go would report, if nothing happened to them between this pass and the next one.
    ///
    /// What a collection leaves to publish, it publishes soon after: until then it is in the cycle's own counts, and while
    /// it happens in both, for a moment. So those must be empty. What is published was then the same in all buckets at the
    /// moment between the passes. A program that has not yet collected has published nothing: Go then reports all it has.
    fn at_rest(&self, again: &Chain, cycle: u32) -> Result<Option<Vec<Bucket>>, HeapError> {
        let index = |cycle: u32| usize::try_from(cycle % FUTURES).unwrap_or(0);
        let (this, filling) = (index(cycle), index(cycle + 2));
        let is_same = self.raw.len() == again.raw.len()
            && self.addresses == again.addresses
            && self
                .raw
                .iter()
                .zip(&again.raw)
                .all(|(one, other)| one.bucket == other.bucket && one.active == other.active);
        let is_settled = |raw: &Raw| {
            let is_empty = raw.futures.get(this).is_some_and(|count| count.is_zero());
            // Nothing is freed in the cycle in which it was allocated.
            let is_filling = raw.futures.get(filling).is_some_and(|count| count.frees == 0);
            is_empty && is_filling && raw.active.checked(raw.bucket.size).is_some()
        };
        if !is_same || !self.raw.iter().chain(&again.raw).all(is_settled) {
            return Ok(None);
        }
        let has_published = self.raw.iter().any(|raw| !raw.active.is_zero());
        let mut buckets = Vec::with_capacity(self.raw.len());
        for raw in &again.raw {
            let mut bucket = raw.bucket.clone();
            (bucket.allocs, bucket.frees) = (raw.active.allocs, raw.active.frees);
            if !has_published {
                for future in raw.futures {
                    let Some(future) = future.checked(bucket.size) else { return Ok(None) };
                    bucket.allocs = bucket.allocs.saturating_add(future.allocs);
                    bucket.frees = bucket.frees.saturating_add(future.frees);
                }
            }
            if bucket.frees > bucket.allocs {
                return Err(HeapError::Damaged("a count"));
            }
            buckets.push(bucket);
        }
        Ok(Some(buckets))
    }

    /// What must be true of every profile.
    fn check(&self, plan: &Plan) -> Result<(), HeapError> {
        for raw in &self.raw {
            let stack = self.addresses.get(raw.bucket.stack.clone()).unwrap_or_default();
            if hash(stack, raw.bucket.size) != raw.bucket.hash {
                return Err(HeapError::Damaged("a hash"));
            }
            // Who called the allocator is Go; further out there may be C.
            if stack.first().is_some_and(|leaf| !plan.code.contains(&leaf.wrapping_sub(1))) {
                return Err(HeapError::Damaged("a stack"));
            }
        }
        self.check_spacing(plan)
    }

    /// Buckets lie side by side where nothing else was allocated in between, and never one in another: that is what says
    /// how large a bucket is where the layout is only supposed to be the one of older versions.
    fn check_spacing(&self, plan: &Plan) -> Result<(), HeapError> {
        let end = |raw: &Raw| {
            let bytes = u64::try_from(plan.layout.bucket_bytes(raw.bucket.stack.len())).unwrap_or(u64::MAX);
            raw.bucket.address.saturating_add(bytes)
        };
        let mut spans: Vec<(u64, u64)> = self.raw.iter().map(|raw| (raw.bucket.address, end(raw))).collect();
        spans.sort_unstable();
        let pairs = || spans.iter().zip(spans.iter().skip(1));
        if pairs().any(|((_, end), (begin, _))| end > begin) {
            return Err(HeapError::Damaged("the spacing of buckets"));
        }
        let adjacent = pairs().filter(|((_, end), (begin, _))| end == begin).count();
        if !plan.layout.is_known && adjacent * 2 < spans.len() {
            return Err(HeapError::Damaged("the spacing of buckets"));
        }
        Ok(())
    }
}

fn words<const N: usize>(bytes: &[u8]) -> [u64; N] {
    let mut words = [0; N];
    words.iter_mut().zip(bytes.chunks_exact(8)).for_each(|(word, raw)| *word = u64_at(raw, 0));
    words
}

fn count(bytes: &[u8]) -> Count {
    let [allocs, frees, allocated, freed] = words(bytes);
    Count { allocs, frees, bytes: (bytes.len() == 32).then_some((allocated, freed)) }
}

/// What Go files a bucket under.
fn hash(stack: &[u64], size: u64) -> u64 {
    let mix = |hash: u64, word: u64| {
        let hash = hash.wrapping_add(word);
        let hash = hash.wrapping_add(hash << 10);
        hash ^ hash >> 6
    };
    let hash = mix(stack.iter().fold(0, |hash, word| mix(hash, *word)), size);
    let hash = hash.wrapping_add(hash << 3);
    hash ^ hash >> 11
}
