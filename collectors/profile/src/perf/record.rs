//! What the kernel writes into a ring: one record's bytes to one value that borrows from them.
//!
//! Owns the layouts of include/uapi/linux/perf_event.h for the attributes we set. Refuses to allocate, and to trust: torn
//! or hostile bytes are `None`, never a panic and never a read past the record.

/// Longest build id the kernel reports.
const BUILD_ID_BYTES_MAX: usize = 20;
/// Bytes before a record's body: type, what it is about, size.
pub const HEADER_BYTES: usize = 8;
/// Bytes of the trailer of every record but samples: task, time, CPU, id.
const TRAILER_BYTES: usize = 32;
/// Where the time stands: in a sample after id, address and task; elsewhere so far before the end.
const SAMPLE_TIME_AT: usize = HEADER_BYTES + 24;
const TIME_BEFORE_END: usize = 24;

/// `PERF_RECORD_*`: the numbers of the records we ask for.
mod kind {
    pub(super) const MMAP: u32 = 1;
    pub(super) const LOST: u32 = 2;
    pub(super) const COMM: u32 = 3;
    pub(super) const EXIT: u32 = 4;
    pub(super) const THROTTLE: u32 = 5;
    pub(super) const UNTHROTTLE: u32 = 6;
    pub(super) const FORK: u32 = 7;
    pub(super) const SAMPLE: u32 = 9;
    pub(super) const MMAP2: u32 = 10;
    pub(super) const LOST_SAMPLES: u32 = 13;
    pub(super) const SWITCH: u32 = 14;
    pub(super) const SWITCH_CPU_WIDE: u32 = 15;
    pub(super) const KSYMBOL: u32 = 17;
    pub(super) const CGROUP: u32 = 19;
}

/// `PERF_RECORD_MISC_*`, the bits whose meaning depends on the kind.
mod misc {
    pub(super) const CPUMODE: u16 = 7;
    pub(super) const KERNEL: u16 = 1;
    pub(super) const COMM_EXEC: u16 = 1 << 13;
    pub(super) const SWITCH_OUT: u16 = 1 << 13;
    pub(super) const SWITCH_OUT_PREEMPT: u16 = 1 << 14;
    pub(super) const BUILD_ID: u16 = 1 << 14;
}

/// `PERF_CONTEXT_*`: marks in a call chain, as the addresses they are written as.
mod context {
    /// Anything from here up is a mark, not an address.
    pub(super) const FIRST: u64 = 4095_u64.wrapping_neg();
    pub(super) const KERNEL: u64 = 128_u64.wrapping_neg();
    pub(super) const USER: u64 = 512_u64.wrapping_neg();
}

/// What a sample of our attributes holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// How many user registers.
    pub registers: usize,
    /// Whether the cgroup stands at the end.
    pub has_cgroup: bool,
    /// What stands beside the stack.
    pub beside: Beside,
}

/// What a sample of waiting has beside its stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Beside {
    /// Nothing.
    Nothing,
    /// It is a tracepoint's: a count, and what it wrote.
    Tracepoint,
    /// A reading of the event's group.
    Stint,
}

/// A reading of what a watched thread has done on this CPU until now, since it was first watched.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stint {
    /// How often it left.
    pub switches: u64,
    /// How long it ran.
    pub ran_ns: u64,
}

/// Who, when and where: in every record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Meta {
    /// Process, in our pid namespace; `u32::MAX` when it has gone already.
    pub pid: u32,
    /// Thread.
    pub tid: u32,
    /// Monotonic clock.
    pub time_ns: u64,
    /// The CPU it happened on.
    pub cpu: u32,
    /// Which event.
    pub id: u64,
}

/// One record.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Record<'a> {
    /// A stack.
    Sample(Sample<'a>),
    /// Something executable has been mapped.
    Mmap(Mmap<'a>),
    /// A thread has a new name.
    Comm {
        /// Process.
        pid: u32,
        /// Thread.
        tid: u32,
        /// Because it runs another program now.
        is_exec: bool,
        /// At most 15 bytes.
        name: &'a [u8],
    },
    /// A thread or process begins.
    Fork(Birth),
    /// A thread or process ends.
    Exit(Birth),
    /// The ring was full.
    Lost {
        /// So many records.
        records: u64,
    },
    /// The hardware or the kernel dropped samples.
    LostSamples {
        /// So many.
        samples: u64,
    },
    /// The kernel found that sampling takes too much, or no longer.
    Throttle {
        /// True when sampling stopped for the rest of the tick.
        is_on: bool,
    },
    /// A cgroup was made.
    Cgroup {
        /// As in samples.
        id: u64,
        /// Below the root of the hierarchy.
        path: &'a [u8],
    },
    /// The kernel made or removed a function.
    Ksymbol {
        /// Where.
        address: u64,
        /// How long.
        bytes: u32,
        /// True when it went away.
        is_gone: bool,
        /// Its name.
        name: &'a [u8],
    },
    /// A task left the CPU or came to it.
    Switch {
        /// It left.
        is_out: bool,
        /// It left although it could have run on.
        is_preempted: bool,
        /// The other task, process and thread, where the event watches the CPU.
        other: Option<(u32, u32)>,
    },
    /// A kind that we do not ask for.
    Other(u32),
}

/// A birth or a death.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Birth {
    /// Process.
    pub pid: u32,
    /// Its parent; its own for a thread.
    pub parent_pid: u32,
    /// Thread.
    pub tid: u32,
    /// The thread that made it.
    pub parent_tid: u32,
}

/// What is known of a mapped file without looking at it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Identity {
    /// The linker's, read by the kernel. Length, then bytes padded with zeros.
    BuildId(u8, [u8; BUILD_ID_BYTES_MAX]),
    /// The file system's.
    Inode {
        /// Device.
        major: u32,
        /// Device.
        minor: u32,
        /// Number; 0 for what is no file.
        inode: u64,
    },
}

/// An executable range of a process.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Mmap<'a> {
    /// Process.
    pub pid: u32,
    /// First address.
    pub start: u64,
    /// Bytes.
    pub length: u64,
    /// Where in the file it begins.
    pub offset: u64,
    /// Which file.
    pub identity: Identity,
    /// As the process sees it.
    pub path: &'a [u8],
}

/// Numbers of eight bytes each, as they lie in the record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Words<'a>(&'a [u8]);

impl<'a> Words<'a> {
    /// Numbers from their bytes; what is left over is none.
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Words<'a> {
        Words(bytes)
    }

    /// How many.
    #[must_use]
    pub fn len(self) -> usize {
        self.0.len() / 8
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.0.len() < 8
    }

    /// One of them.
    #[must_use]
    pub fn get(self, at: usize) -> Option<u64> {
        self.0.get(at.checked_mul(8)?..)?.first_chunk().copied().map(u64::from_ne_bytes)
    }

    /// All of them.
    pub fn iter(self) -> impl ExactSizeIterator<Item = u64> + Clone + 'a {
        self.0.as_chunks::<8>().0.iter().copied().map(u64::from_ne_bytes)
    }

    fn slice(self, from: usize, to: usize) -> Words<'a> {
        Words(self.0.get(from * 8..to * 8).unwrap_or_default())
    }
}

/// A stack at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Sample<'a> {
    /// Where it was.
    pub address: u64,
    /// Whether that was in the kernel.
    pub is_in_kernel: bool,
    /// Return addresses in the kernel, leaf first.
    pub kernel: Words<'a>,
    /// Return addresses in user space by frame pointers, leaf first.
    pub user: Words<'a>,
    /// User registers in the order of [`super::attr::REGISTERS`]; none in a thread of the kernel.
    pub registers: Words<'a>,
    /// The user stack from the stack pointer up.
    pub stack: &'a [u8],
    /// Cgroup, 0 when not known.
    pub cgroup: u64,
    /// Of a tracepoint, what it counts: 1, or nanoseconds. Else 0.
    pub period: u64,
    /// Of a tracepoint, what it wrote, beginning with its number. Else empty.
    pub raw: &'a [u8],
    /// Of a thread that is timed.
    pub stint: Option<Stint>,
}

/// The time of a record, so that records of several rings can be put in order before they are decoded.
#[must_use]
pub fn time_at(kind_and_misc: u64, size: usize) -> Option<usize> {
    let kind = u32::try_from(kind_and_misc & 0xffff_ffff).ok()?;
    let at = if kind == kind::SAMPLE { SAMPLE_TIME_AT } else { size.checked_sub(TIME_BEFORE_END)? };
    (at >= HEADER_BYTES && at + 8 <= size).then_some(at)
}

/// One record, header included.
#[must_use]
pub fn decode<'a>(bytes: &'a [u8], layout: &Layout) -> Option<(Meta, Record<'a>)> {
    let mut reader = Reader(bytes);
    let (kind, misc, size) = (reader.u32()?, reader.u16()?, reader.u16()?);
    let body = bytes.get(HEADER_BYTES..usize::from(size))?;
    if kind == kind::SAMPLE {
        return sample(Reader(body), misc, layout);
    }
    let (body, trailer) = body.split_at_checked(body.len().checked_sub(TRAILER_BYTES)?)?;
    let mut trailer = Reader(trailer);
    let (pid, tid, time_ns) = (trailer.u32()?, trailer.u32()?, trailer.u64()?);
    let (cpu, _, id) = (trailer.u32()?, trailer.u32()?, trailer.u64()?);
    let meta = Meta { pid, tid, time_ns, cpu, id };
    Some((meta, other(kind, misc, Reader(body))?))
}

fn sample<'a>(mut reader: Reader<'a>, misc: u16, layout: &Layout) -> Option<(Meta, Record<'a>)> {
    let (id, address) = (reader.u64()?, reader.u64()?);
    let (pid, tid, time_ns) = (reader.u32()?, reader.u32()?, reader.u64()?);
    let (cpu, _) = (reader.u32()?, reader.u32()?);
    let period = if layout.beside == Beside::Tracepoint { reader.u64()? } else { 0 };
    let stint = if layout.beside == Beside::Stint { Some(stint(&mut reader)?) } else { None };
    let depth = reader.u64()?;
    let chain = reader.words(depth)?;
    let raw = if layout.beside == Beside::Tracepoint { reader.sized()? } else { &[] };
    let abi = reader.u64()?;
    // No ABI, no registers: a thread of the kernel has none of user space.
    let registers = reader.words(if abi == 0 { 0 } else { u64::try_from(layout.registers).ok()? })?;
    let reserved = reader.u64()?;
    let mut stack: &[u8] = &[];
    if reserved > 0 {
        let copied = reader.bytes(usize::try_from(reserved).ok()?)?;
        // What was really there; the rest of the room is left as it was.
        stack = copied.get(..usize::try_from(reader.u64()?).ok()?)?;
    }
    let cgroup = if layout.has_cgroup { reader.u64()? } else { 0 };
    let (kernel, user) = split(chain);
    let is_in_kernel = misc & misc::CPUMODE == misc::KERNEL;
    let meta = Meta { pid, tid, time_ns, cpu, id };
    let sample = Sample { address, is_in_kernel, kernel, user, registers, stack, cgroup, period, raw, stint };
    Some((meta, Record::Sample(sample)))
}

/// A group's reading: how many members, then of each its count, id and losses. The event of switches leads, its clock is the
/// only other member.
fn stint(reader: &mut Reader<'_>) -> Option<Stint> {
    let members = reader.u64()?;
    let counts = reader.words(members.checked_mul(3)?)?;
    Some(Stint { switches: counts.get(0)?, ran_ns: counts.get(3)? })
}

/// The kernel's part of a chain and the program's. Parts of a guest or of anything else are in neither.
fn split(chain: Words<'_>) -> (Words<'_>, Words<'_>) {
    let part = |mark: u64| {
        let from = chain.iter().position(|word| word == mark).map_or(chain.len(), |at| at + 1);
        let length = chain.iter().skip(from).take_while(|word| *word < context::FIRST).count();
        chain.slice(from, from + length)
    };
    (part(context::KERNEL), part(context::USER))
}

fn other<'a>(kind: u32, misc: u16, mut reader: Reader<'a>) -> Option<Record<'a>> {
    Some(match kind {
        kind::MMAP2 => Record::Mmap(mmap2(reader, misc)?),
        kind::MMAP => {
            let (pid, _tid, start) = (reader.u32()?, reader.u32()?, reader.u64()?);
            let (length, offset) = (reader.u64()?, reader.u64()?);
            let identity = Identity::Inode { major: 0, minor: 0, inode: 0 };
            Record::Mmap(Mmap { pid, start, length, offset, identity, path: reader.text() })
        }
        kind::COMM => {
            let (pid, tid) = (reader.u32()?, reader.u32()?);
            Record::Comm { pid, tid, is_exec: misc & misc::COMM_EXEC != 0, name: reader.text() }
        }
        kind::FORK => Record::Fork(birth(reader)?),
        kind::EXIT => Record::Exit(birth(reader)?),
        kind::LOST => {
            let _id = reader.u64()?;
            Record::Lost { records: reader.u64()? }
        }
        kind::LOST_SAMPLES => Record::LostSamples { samples: reader.u64()? },
        kind::THROTTLE | kind::UNTHROTTLE => Record::Throttle { is_on: kind == kind::THROTTLE },
        kind::CGROUP => Record::Cgroup { id: reader.u64()?, path: reader.text() },
        kind::KSYMBOL => {
            let (address, bytes) = (reader.u64()?, reader.u32()?);
            let (_kind, flags) = (reader.u16()?, reader.u16()?);
            Record::Ksymbol { address, bytes, is_gone: flags & 1 != 0, name: reader.text() }
        }
        kind::SWITCH => switch(misc, None),
        kind::SWITCH_CPU_WIDE => switch(misc, Some((reader.u32()?, reader.u32()?))),
        unknown => Record::Other(unknown),
    })
}

fn switch<'a>(misc: u16, other: Option<(u32, u32)>) -> Record<'a> {
    let is_out = misc & misc::SWITCH_OUT != 0;
    Record::Switch { is_out, is_preempted: is_out && misc & misc::SWITCH_OUT_PREEMPT != 0, other }
}

fn birth(mut reader: Reader<'_>) -> Option<Birth> {
    let (pid, parent_pid) = (reader.u32()?, reader.u32()?);
    Some(Birth { pid, parent_pid, tid: reader.u32()?, parent_tid: reader.u32()? })
}

fn mmap2<'a>(mut reader: Reader<'a>, misc: u16) -> Option<Mmap<'a>> {
    let (pid, _tid, start) = (reader.u32()?, reader.u32()?, reader.u64()?);
    let (length, offset) = (reader.u64()?, reader.u64()?);
    let mut file = Reader(reader.bytes(24)?);
    let identity = if misc & misc::BUILD_ID != 0 {
        let length = *file.bytes(4)?.first()?;
        let id: [u8; BUILD_ID_BYTES_MAX] = *file.0.first_chunk()?;
        (usize::from(length) <= BUILD_ID_BYTES_MAX).then_some(Identity::BuildId(length, id))?
    } else {
        Identity::Inode { major: file.u32()?, minor: file.u32()?, inode: file.u64()? }
    };
    let (_protection, _flags) = (reader.u32()?, reader.u32()?);
    Some(Mmap { pid, start, length, offset, identity, path: reader.text() })
}

/// Takes from the front; `None` past the end.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn bytes(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    /// A length of four bytes, and so many.
    fn sized(&mut self) -> Option<&'a [u8]> {
        let length = usize::try_from(self.u32()?).ok()?;
        self.bytes(length)
    }

    fn words(&mut self, count: u64) -> Option<Words<'a>> {
        self.bytes(usize::try_from(count).ok()?.checked_mul(8)?).map(Words)
    }

    fn u64(&mut self) -> Option<u64> {
        self.bytes(8)?.first_chunk().copied().map(u64::from_ne_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.bytes(4)?.first_chunk().copied().map(u32::from_ne_bytes)
    }

    fn u16(&mut self) -> Option<u16> {
        self.bytes(2)?.first_chunk().copied().map(u16::from_ne_bytes)
    }

    /// What is left up to the first zero: the kernel pads texts to eight bytes.
    fn text(&mut self) -> &'a [u8] {
        let length = self.0.iter().position(|byte| *byte == 0).unwrap_or(self.0.len());
        self.bytes(length).unwrap_or_default()
    }
}

#[cfg(test)]
pub(super) mod tests;
