//! The rings that the kernel writes and we read, one a CPU, and the order in time across them.
//!
//! Owns positions, wrap-around and the merge. Refuses to decode, and to keep anything back for longer than it is told:
//! the merge ends at a moment in the past, by which every CPU has written what it had.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::record::time_at;

/// A record's length is a 16 bit number.
const RECORD_BYTES_MAX: usize = 1 << 16;

/// What a ring lies in: shared with the kernel, or a test's bytes.
pub trait Memory {
    /// Bytes written since the beginning of time.
    fn head(&self) -> u64;
    /// Gives back everything before `tail`.
    fn release(&self, tail: u64);
    /// Its size, a power of two.
    fn bytes(&self) -> usize;
    /// Copies from `at`; what would lie past the end is not copied.
    fn copy(&self, at: usize, into: &mut [u8]);
    /// Shows `length` bytes from `at`, which have been written and not been given back; none where they would lie past the
    /// end.
    fn show(&self, at: usize, length: usize, to: &mut dyn FnMut(&[u8]));
}

/// The next record of a ring.
#[derive(Clone, Copy, Debug)]
struct Next {
    size: usize,
    time_ns: u64,
}

/// One ring with the place up to which it has been read.
#[derive(Debug)]
pub struct Ring<M> {
    memory: M,
    tail: u64,
    head: u64,
    next: Option<Next>,
    torn: u64,
}

impl<M: Memory> Ring<M> {
    /// Begins where the kernel begins.
    pub fn new(memory: M) -> Ring<M> {
        Ring { memory, tail: 0, head: 0, next: None, torn: 0 }
    }

    /// Its size.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.memory.bytes()
    }

    /// How often its bytes made no sense, and all that was in it was given up.
    #[must_use]
    pub fn torn(&self) -> u64 {
        self.torn
    }

    /// Sees what has been written until now. What comes later is seen the next time, so one round always ends.
    fn look(&mut self) {
        self.head = self.memory.head();
        if self.unread() > self.memory.bytes() {
            self.give_up();
        }
        self.peek();
    }

    fn unread(&self) -> usize {
        usize::try_from(self.head.wrapping_sub(self.tail)).unwrap_or(usize::MAX)
    }

    /// Positions or sizes are impossible: nothing in the ring can be trusted, what comes next can.
    fn give_up(&mut self) {
        self.torn += 1;
        self.tail = self.head;
        self.next = None;
        self.memory.release(self.tail);
    }

    fn peek(&mut self) {
        self.next = None;
        if self.unread() == 0 {
            return;
        }
        let header = self.word(0);
        let size = usize::try_from(header >> 48).unwrap_or(0);
        let time_at = time_at(header, size).filter(|_| size % 8 == 0 && size <= self.unread());
        match time_at {
            Some(at) => self.next = Some(Next { size, time_ns: self.word(at) }),
            // A record without a time is none of ours.
            None => self.give_up(),
        }
    }

    fn word(&self, at: usize) -> u64 {
        let mut word = [0; 8];
        self.copy(at, &mut word);
        u64::from_ne_bytes(word)
    }

    /// Where in the memory so many bytes after the tail are, and how many follow up to its end.
    fn place(&self, at: usize) -> (usize, usize) {
        let size = self.memory.bytes();
        let mask = u64::try_from(size).unwrap_or(0).wrapping_sub(1);
        let from = self.tail.wrapping_add(u64::try_from(at).unwrap_or(0)) & mask;
        let from = usize::try_from(from).unwrap_or(0);
        (from, size - from)
    }

    /// Copies from `at` bytes after the tail, around the end of the ring where need be.
    fn copy(&self, at: usize, into: &mut [u8]) {
        let (from, until_end) = self.place(at);
        let (first, rest) = into.split_at_mut(into.len().min(until_end));
        self.memory.copy(from, first);
        self.memory.copy(0, rest);
    }

    /// Shows the next record, then gives its place back. Of a stack of 16 KiB a few words are looked at: it is copied only
    /// where it lies around the end.
    fn take(&mut self, next: Next, spare: &mut Vec<u8>, to: &mut dyn FnMut(&[u8])) {
        let (from, until_end) = self.place(0);
        if next.size <= until_end {
            self.memory.show(from, next.size, to);
        } else {
            spare.resize(next.size, 0);
            self.copy(0, spare);
            to(spare);
        }
        self.tail = self.tail.wrapping_add(u64::try_from(next.size).unwrap_or(0));
        self.memory.release(self.tail);
        self.peek();
    }
}

/// Reads several rings as one, in order of time.
#[derive(Debug)]
pub struct Merge {
    order: BinaryHeap<Reverse<(u64, usize)>>,
    spare: Vec<u8>,
    last_ns: u64,
    late: u64,
}

impl Default for Merge {
    fn default() -> Merge {
        // Room for the longest record from the start, so that reading allocates nothing.
        Merge { order: BinaryHeap::new(), spare: Vec::with_capacity(RECORD_BYTES_MAX), last_ns: 0, late: 0 }
    }
}

impl Merge {
    /// Records that came after a younger one had been given out: an interrupt between stamp and writing is enough for
    /// that. They are given out all the same.
    #[must_use]
    pub fn late(&self) -> u64 {
        self.late
    }

    /// Gives `each` the records that are not younger than `until_ns`, oldest first; the others stay in their rings.
    ///
    /// A CPU stamps a record a moment before it writes it: `until_ns` must lie far enough back for that moment.
    pub fn drain<'r, M: Memory + 'r>(
        &mut self,
        rings: impl IntoIterator<Item = &'r mut Ring<M>>,
        until_ns: u64,
        mut each: impl FnMut(&[u8]),
    ) {
        let mut rings: Vec<&mut Ring<M>> = rings.into_iter().collect();
        self.order.clear();
        for (at, ring) in rings.iter_mut().enumerate() {
            ring.look();
            self.order.extend(ring.next.map(|next| Reverse((next.time_ns, at))));
        }
        while let Some(Reverse((time_ns, at))) = self.order.pop() {
            if time_ns > until_ns {
                break;
            }
            let Some(ring) = rings.get_mut(at) else { continue };
            let Some(next) = ring.next else { continue };
            if time_ns < self.last_ns {
                self.late += 1;
            }
            self.last_ns = self.last_ns.max(time_ns);
            ring.take(next, &mut self.spare, &mut each);
            self.order.extend(ring.next.map(|next| Reverse((next.time_ns, at))));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};
    use std::rc::Rc;

    use super::super::record::tests::{LAYOUT, comm};
    use super::super::record::{HEADER_BYTES, Record, decode};
    use super::{Memory, Merge, Ring};

    /// A ring that the test writes.
    #[derive(Clone, Default)]
    struct Fake {
        bytes: Rc<RefCell<Vec<u8>>>,
        head: Rc<Cell<u64>>,
        tail: Rc<Cell<u64>>,
    }

    impl Fake {
        fn new(size: usize) -> Fake {
            Fake { bytes: Rc::new(RefCell::new(vec![0xee; size])), ..Fake::default() }
        }

        /// As the kernel does: nothing is overwritten that has not been given back.
        fn write(&self, record: &[u8]) -> bool {
            let size = self.bytes().try_into().unwrap();
            let length = u64::try_from(record.len()).unwrap();
            if self.head.get() + length - self.tail.get() > size {
                return false;
            }
            for (byte, at) in record.iter().zip(self.head.get()..) {
                self.bytes.borrow_mut()[usize::try_from(at % size).unwrap()] = *byte;
            }
            self.head.set(self.head.get() + length);
            true
        }
    }

    impl Memory for Fake {
        fn head(&self) -> u64 {
            self.head.get()
        }
        fn release(&self, tail: u64) {
            assert!(tail >= self.tail.get() && tail <= self.head.get());
            self.tail.set(tail);
        }
        fn bytes(&self) -> usize {
            self.bytes.borrow().len()
        }
        fn copy(&self, at: usize, into: &mut [u8]) {
            into.copy_from_slice(&self.bytes.borrow()[at..at + into.len()]);
        }
        fn show(&self, at: usize, length: usize, to: &mut dyn FnMut(&[u8])) {
            to(&self.bytes.borrow()[at..at + length]);
        }
    }

    fn drained(merge: &mut Merge, rings: &mut [Ring<Fake>], until_ns: u64) -> Vec<(u64, u32)> {
        let mut seen = Vec::new();
        merge.drain(rings, until_ns, |bytes| {
            let (meta, record) = decode(bytes, &LAYOUT).unwrap();
            assert!(matches!(record, Record::Comm { tid, .. } if tid == meta.tid));
            seen.push((meta.time_ns, meta.tid));
        });
        seen
    }

    #[test]
    fn records_come_in_order_of_time_across_rings() {
        let memories = [Fake::new(4096), Fake::new(4096), Fake::new(4096)];
        for (ring, times) in memories.iter().zip([&[1, 5, 9][..], &[2, 3, 10], &[]]) {
            assert!(times.iter().all(|time| ring.write(&comm(u32::try_from(*time).unwrap(), "x", *time))));
        }
        let mut rings: Vec<_> = memories.clone().into_iter().map(Ring::new).collect();
        let mut merge = Merge::default();
        assert_eq!(drained(&mut merge, &mut rings, 9), [(1, 1), (2, 2), (3, 3), (5, 5), (9, 9)]);
        // What was too young stays, and what comes late is given out and counted.
        assert!(memories[2].write(&comm(8, "x", 8)));
        assert_eq!(drained(&mut merge, &mut rings, u64::MAX), [(8, 8), (10, 10)]);
        assert_eq!(merge.late(), 1);
    }

    #[test]
    fn a_record_around_the_end_of_the_ring_is_whole() {
        let memory = Fake::new(256);
        let mut rings = [Ring::new(memory.clone())];
        let mut merge = Merge::default();
        // 56 bytes each do not divide 256: every place a record can straddle is passed.
        for time in 1..1000 {
            assert!(memory.write(&comm(u32::try_from(time).unwrap(), "padded", time)));
            assert_eq!(drained(&mut merge, &mut rings, u64::MAX).len(), 1);
        }
        assert_eq!((rings[0].torn(), merge.late()), (0, 0));
    }

    #[test]
    fn a_torn_ring_is_given_up_and_read_on() {
        let memory = Fake::new(256);
        let mut rings = [Ring::new(memory.clone())];
        let mut merge = Merge::default();
        for size in [0_u16, 7, 8, 12, 4000, u16::MAX] {
            let mut record = comm(1, "x", 1);
            record[6..HEADER_BYTES].copy_from_slice(&size.to_ne_bytes());
            assert!(memory.write(&record));
            assert_eq!(drained(&mut merge, &mut rings, u64::MAX), [], "{size}");
        }
        memory.head.set(memory.head.get() + 1_000_000);
        assert_eq!(drained(&mut merge, &mut rings, u64::MAX), []);
        assert_eq!(rings[0].torn(), 7);
        assert!(memory.write(&comm(2, "x", 2)));
        assert_eq!(drained(&mut merge, &mut rings, u64::MAX), [(2, 2)]);
    }

    #[test]
    fn what_has_been_read_makes_room() {
        let memory = Fake::new(256);
        let mut rings = [Ring::new(memory.clone())];
        let record = comm(1, "x", 1);
        let fits = 256 / record.len();
        assert_eq!((0..10).filter(|_| memory.write(&record)).count(), fits);
        assert_eq!(drained(&mut Merge::default(), &mut rings, u64::MAX).len(), fits);
        assert!(memory.write(&record));
    }
}
